//! The state file: what one emulator left is what the next one finds.

use halo_aws_emulator::{
    Boot, Config, Emulator, InstanceEvent, InstanceState, ParameterKind, StartError,
};

use crate::account::LAUNCH;
use crate::wire::{self, Leaves};

fn launch(emulator: &Emulator, token: &str) -> String {
    let mut pairs = LAUNCH.to_vec();
    pairs.push(("ClientToken", token));
    let (status, body) = wire::ec2(emulator.address(), "RunInstances", &pairs).unwrap();
    assert_eq!(status, 200, "{body}");
    Leaves::read(&body).one("instanceId")
}

#[test]
fn everything_survives_and_tokens_still_count() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.json");
    let config = || Config {
        state_file: Some(file.clone()),
        ..Config::instant()
    };
    let first = Emulator::start(config()).unwrap();
    let id = launch(&first, "one");
    first.put_parameter("/halo/root", "value", ParameterKind::SecureString);
    first.deny(["ec2:StopInstances"]);
    // The next look makes it run.
    wire::ec2(first.address(), "DescribeInstances", &[]).unwrap();
    let before = first.state();
    // As abrupt as a crash: nothing is written at the end.
    drop(first);
    let second = Emulator::start(config()).unwrap();
    let mut after = second.state();
    assert_eq!(after.instances[&id].boots, 2, "the restart booted it again");
    after.instances.get_mut(&id).unwrap().boots = 1;
    assert_eq!(after, before);
    assert_eq!(launch(&second, "one"), id);
    assert_ne!(launch(&second, "two"), id);
}

#[test]
fn the_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.json");
    let emulator = Emulator::start(Config {
        state_file: Some(file.clone()),
        ..Config::instant()
    })
    .unwrap();
    emulator.put_parameter("/halo/root", "value", ParameterKind::SecureString);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file stays behind");
}

#[tokio::test]
async fn what_ran_is_booted_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.json");
    let start = || {
        let (boot, events) = Boot::channel();
        let emulator = Emulator::start(Config {
            state_file: Some(file.clone()),
            boot,
            ..Config::instant()
        });
        (emulator.unwrap(), events)
    };
    let (first, mut events) = start();
    let id = launch(&first, "one");
    let ended = launch(&first, "two");
    let stopped = launch(&first, "three");
    for _ in 0..3 {
        assert!(matches!(
            events.recv().await,
            Some(InstanceEvent::Started(_))
        ));
    }
    first.terminate(&ended, None);
    first.stop_instance(&stopped);
    let within = std::time::Duration::from_secs(20);
    let settled = |view: &halo_aws_emulator::View<'_>| {
        view.state.instances[&ended].state == InstanceState::Terminated
            && view.state.instances[&stopped].state == InstanceState::Stopped
    };
    first.wait_until(within, settled).await.unwrap();
    first.stop().await;
    let (second, mut events) = start();
    match events.recv().await {
        Some(InstanceEvent::Started(started)) => {
            assert_eq!((started.instance_id, started.boot), (id, 2));
        }
        other => panic!("{other:?}"),
    }
    second.stop().await;
    assert_eq!(events.recv().await, None, "the others are not booted");
}

#[test]
fn a_file_that_is_not_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.json");
    for (text, says) in [
        ("{", "is not one"),
        (r#"{"format":9,"state":{}}"#, "delete it to begin anew"),
    ] {
        std::fs::write(&file, text).unwrap();
        let refused = Emulator::start(Config {
            state_file: Some(file.clone()),
            ..Config::default()
        });
        match refused {
            Err(StartError::State(error)) => assert!(error.to_string().contains(says), "{error}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            text,
            "it is left as it was"
        );
    }
}
