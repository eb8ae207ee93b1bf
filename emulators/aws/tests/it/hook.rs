//! Boot hooks that are real processes, in this process's emulator and in the program.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use halo_aws_emulator::{Boot, Config, Emulator};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::account::LAUNCH;
use crate::wire::{self, Leaves};

/// Writes down its environment and two process ids, then waits; the second process ignores SIGTERM.
const SCRIPT: &str = r#"
trap 'echo ended >> "$OUT/log"; exit 0' TERM
sh -c 'trap "" TERM; while :; do sleep 1; done' &
{
    echo "$INSTANCE_ID|$INSTANCE_TYPE|$ZONE|$PRIVATE_IP|$PRIVATE_DNS_NAME|$(cat "$USER_DATA")|$TAGS|$ATTEMPT"
} >> "$OUT/log"
echo "$$ $!" > "$OUT/pids.new" && mv "$OUT/pids.new" "$OUT/pids-$ATTEMPT"
while :; do sleep 0.05; done
"#;

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn pids(folder: &Path, boot: u32) -> Vec<Pid> {
    let text = until("the hook starts", || {
        std::fs::read_to_string(folder.join(format!("pids-{boot}"))).ok()
    });
    text.split_whitespace()
        .map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap())
        .collect()
}

fn gone(pids: &[Pid]) {
    for pid in pids {
        until("the process group ends", || is_gone(*pid).then_some(()));
    }
}

/// Ended: not there, or a zombie that nobody has waited for yet.
fn is_gone(pid: Pid) -> bool {
    if test_kill_process(pid).is_err() {
        return true;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    status.is_err() || status.is_ok_and(|status| status.contains(") Z "))
}

fn launch(address: SocketAddr) -> String {
    let mut pairs = LAUNCH.to_vec();
    pairs.extend([
        ("UserData", "dGhlIHVzZXIgZGF0YQ=="),
        ("TagSpecification.1.ResourceType", "instance"),
        ("TagSpecification.1.Tag.1.Key", "slot"),
        ("TagSpecification.1.Tag.1.Value", "0"),
    ]);
    let (status, body) = wire::ec2(address, "RunInstances", &pairs).unwrap();
    assert_eq!(status, 200, "{body}");
    Leaves::read(&body).one("instanceId")
}

fn call(address: SocketAddr, action: &str, id: &str) {
    until(action, || {
        let (status, _) = wire::ec2(address, action, &[("InstanceId.1", id)]).unwrap();
        (status == 200).then_some(())
    });
}

fn hooked(folder: &Path) -> Config {
    let script = format!("OUT={}; export OUT; {SCRIPT}", folder.display());
    Config {
        boot: Boot::Command {
            argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
            folder: folder.join("instances"),
            grace: Duration::from_millis(300),
        },
        ..Config::instant()
    }
}

#[test]
fn a_hook_lives_as_long_as_its_instance() {
    let folder = tempfile::tempdir().unwrap();
    let emulator = Emulator::start(hooked(folder.path())).unwrap();
    let address = emulator.address();
    let id = launch(address);
    let first = pids(folder.path(), 1);
    let log = || std::fs::read_to_string(folder.path().join("log")).unwrap();
    let environment = format!(
        "{id}|r7iz.4xlarge|us-east-2a|10.0.16.4|ip-10-0-16-4.us-east-2.compute.internal|the user data|{{\"slot\":\"0\"}}|1\n"
    );
    assert_eq!(log(), environment);
    assert!(first.iter().all(|pid| !is_gone(*pid)));
    call(address, "StopInstances", &id);
    gone(&first);
    assert!(log().ends_with("ended\n"), "it was asked first");
    call(address, "StartInstances", &id);
    let second = pids(folder.path(), 2);
    assert_ne!(first, second);
    call(address, "TerminateInstances", &id);
    gone(&second);
    let output = folder.path().join("instances").join(&id).join("boot-2.log");
    assert!(output.exists());
}

#[test]
fn dropping_the_emulator_ends_every_hook() {
    let folder = tempfile::tempdir().unwrap();
    let emulator = Emulator::start(hooked(folder.path())).unwrap();
    launch(emulator.address());
    let running = pids(folder.path(), 1);
    drop(emulator);
    gone(&running);
}

#[tokio::test]
async fn stopping_the_emulator_asks_every_hook_first() {
    let folder = tempfile::tempdir().unwrap();
    let emulator = Emulator::start(hooked(folder.path())).unwrap();
    launch(emulator.address());
    let running = pids(folder.path(), 1);
    emulator.stop().await;
    assert!(is_gone(running[0]), "ended before the stop returned");
    // What ignored SIGTERM was sent SIGKILL, which takes a moment.
    gone(&running);
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.ends_with("ended\n"), "{log}");
}

#[tokio::test]
async fn a_hook_that_cannot_start_leaves_the_instance_running() {
    let folder = tempfile::tempdir().unwrap();
    let emulator = Emulator::start(Config {
        boot: Boot::Command {
            argv: vec!["/no/such/program".into()],
            folder: folder.path().to_owned(),
            grace: Duration::ZERO,
        },
        ..Config::instant()
    })
    .unwrap();
    let id = launch(emulator.address());
    emulator
        .wait_until(Duration::from_secs(20), |view| {
            view.state.instances[&id].boots == 1
        })
        .await
        .unwrap();
    call(emulator.address(), "TerminateInstances", &id);
    emulator.stop().await;
}

/// Processes that nothing else would end if a test fails.
struct Left(Vec<Pid>);

impl Drop for Left {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill_process(*pid, Signal::KILL);
        }
    }
}

/// The program, ended with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_program_listens_boots_and_ends_what_it_booted() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.json");
    std::fs::write(
        &rules,
        r#"{"timings":{"visible_after_ms":0,"pending_ms":0}}"#,
    )
    .unwrap();
    let faults = folder.path().join("faults.json");
    std::fs::write(
        &faults,
        r#"{"faults":[{"action":"DescribeSubnets","do":{"kind":"cut"}}]}"#,
    )
    .unwrap();
    let mut program = Program(
        Command::new(env!("CARGO_BIN_EXE_halo-aws-emulator"))
            .args(["--boot-grace-ms", "300", "--boot", SCRIPT])
            .arg("--rules")
            .arg(&rules)
            .arg("--faults")
            .arg(&faults)
            .arg("--state")
            .arg(folder.path().join("state.json"))
            .env("OUT", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    BufReader::new(program.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event["event"], "listening");
    let address: SocketAddr = event["addr"].as_str().unwrap().parse().unwrap();
    assert_eq!(event["admin"], format!("http://{address}/_halo"));
    assert_eq!(
        wire::ec2(address, "DescribeSubnets", &[]),
        None,
        "the schedule cuts it"
    );
    assert_eq!(wire::ec2(address, "DescribeSubnets", &[]).unwrap().0, 200);
    launch(address);
    let running = pids(folder.path(), 1);
    let pid = Pid::from_raw(i32::try_from(program.0.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(program.0.wait().unwrap().success());
    gone(&running);
}

#[test]
fn the_program_says_what_is_wrong() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_halo-aws-emulator"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let code = output.status.code().unwrap();
        (
            code,
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, _, said) = run(&["--listen", "0.0.0.0:0"]);
    assert_eq!(code, 1);
    assert!(said.contains("--not-only-loopback"), "{said}");
    let (code, _, said) = run(&["--rules", "/no/such/file"]);
    assert_eq!(code, 1);
    assert!(said.contains("/no/such/file"), "{said}");
    assert_eq!(run(&["--nonsense"]).0, 2);
    let (code, rules, _) = run(&["--print-rules"]);
    assert_eq!(code, 0);
    let rules: halo_aws_emulator::Rules = serde_json::from_str(&rules).unwrap();
    assert_eq!(rules, halo_aws_emulator::Rules::default());
}

#[test]
fn what_a_killed_program_left_running_is_ended_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.json");
    std::fs::write(
        &rules,
        r#"{"timings":{"visible_after_ms":0,"pending_ms":0}}"#,
    )
    .unwrap();
    let start = || {
        let mut program = Program(
            Command::new(env!("CARGO_BIN_EXE_halo-aws-emulator"))
                .args(["--boot-grace-ms", "0", "--boot", SCRIPT])
                .arg("--rules")
                .arg(&rules)
                .arg("--boot-folder")
                .arg(folder.path().join("instances"))
                .arg("--state")
                .arg(folder.path().join("state.json"))
                .env("OUT", folder.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let mut line = String::new();
        BufReader::new(program.0.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address: SocketAddr = event["addr"].as_str().unwrap().parse().unwrap();
        (program, address)
    };
    let (first, address) = start();
    let id = launch(address);
    let left = pids(folder.path(), 1);
    let guard = Left(left.clone());
    // Drop kills it: it has no chance to end what it booted.
    drop(first);
    assert!(left.iter().all(|pid| !is_gone(*pid)));
    let (second, address) = start();
    gone(&left);
    // Their numbers may be others' from now on.
    std::mem::forget(guard);
    let again = pids(folder.path(), 2);
    call(address, "TerminateInstances", &id);
    gone(&again);
    drop(second);
}
