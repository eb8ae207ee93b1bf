//! The emulator in this process.

use std::time::Duration;

use halo_aws_emulator::{
    Boot, Config, Emulator, InstanceEvent, InstanceState, StartError, Timings,
};

use crate::account::LAUNCH;
use crate::wire::{self, Leaves};

const WITHIN: Duration = Duration::from_secs(20);

fn launch(emulator: &Emulator) -> String {
    let (status, body) = wire::ec2(emulator.address(), "RunInstances", LAUNCH).unwrap();
    assert_eq!(status, 200, "{body}");
    Leaves::read(&body).one("instanceId")
}

#[tokio::test]
async fn states_change_and_boot_without_any_further_call() {
    let (boot, mut events) = Boot::channel();
    let emulator = Emulator::start(Config {
        boot,
        ..Config::default()
    })
    .unwrap();
    let id = launch(&emulator);
    let Some(InstanceEvent::Started(started)) = events.recv().await else {
        panic!("no boot");
    };
    assert_eq!(started.instance_id, id);
    assert_eq!(
        emulator.instance(&id).unwrap().state,
        InstanceState::Running
    );
    assert_eq!(emulator.calls().len(), 1);
    assert!(emulator.terminate(&id, None));
    let Some(InstanceEvent::Stopped(stopped)) = events.recv().await else {
        panic!("no halt");
    };
    assert_eq!(stopped.private_dns_name, started.private_dns_name);
    assert!(stopped.terminated);
    emulator
        .wait_until(WITHIN, |view| {
            view.state.instances[&id].state == InstanceState::Terminated
        })
        .await
        .unwrap();
    assert!(emulator.living().is_empty());
}

#[tokio::test]
async fn waiting_in_vain_says_what_there_is() {
    let emulator = Emulator::start(Config::instant()).unwrap();
    let id = launch(&emulator);
    let timed_out = emulator
        .wait_until(Duration::from_millis(50), |view| {
            view.count("StopInstances") > 0
        })
        .await
        .unwrap_err();
    let said = timed_out.to_string();
    assert!(
        said.contains(&id) && said.contains("RunInstances Done"),
        "{said}"
    );
}

#[test]
fn a_taken_address_is_named() {
    let emulator = Emulator::start(Config::default()).unwrap();
    let second = Emulator::start(Config {
        listen: emulator.address(),
        ..Config::default()
    });
    match second {
        Err(StartError::Listen { address, .. }) => assert_eq!(address, emulator.address()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_seed_gives_the_same_ids() {
    let ids = |seed| {
        let emulator = Emulator::start(Config {
            seed: Some(seed),
            ..Config::instant()
        })
        .unwrap();
        [launch(&emulator), launch(&emulator)]
    };
    assert_eq!(ids(1), ids(1));
    assert_ne!(ids(1), ids(2));
}

#[tokio::test]
async fn a_reset_ends_what_runs() {
    let (boot, mut events) = Boot::channel();
    let emulator = Emulator::start(Config {
        boot,
        ..Config::instant()
    })
    .unwrap();
    launch(&emulator);
    assert!(matches!(
        events.recv().await,
        Some(InstanceEvent::Started(_))
    ));
    emulator.set_timings(Timings::instant());
    emulator.reset();
    assert!(matches!(
        events.recv().await,
        Some(InstanceEvent::Stopped(_))
    ));
    assert!(emulator.state().instances.is_empty());
    assert!(emulator.calls().is_empty());
}
