//! States of instances over time, and what they set off.

use halo_aws_emulator::world::Effect;
use halo_aws_emulator::{Rules, Timings};

use crate::account::Account;

fn named(id: &str) -> [(&str, &str); 1] {
    [("InstanceId.1", id)]
}

#[test]
fn a_new_instance_is_unknown_for_a_while() {
    let mut account = Account::new();
    let id = account.launched(&[]);
    for action in [
        "DescribeInstances",
        "DescribeInstanceStatus",
        "StartInstances",
        "StopInstances",
        "TerminateInstances",
    ] {
        let unknown = account.call(action, &named(&id));
        assert_eq!(
            unknown.unwrap_err(),
            "InvalidInstanceID.NotFound",
            "{action}"
        );
    }
    let all = account.call("DescribeInstances", &[]).unwrap();
    assert!(all.all("instanceId").is_empty());
    account.pass(299);
    account.call("DescribeInstances", &named(&id)).unwrap_err();
    account.pass(1);
    let known = account.call("DescribeInstances", &named(&id)).unwrap();
    assert_eq!(known.one("instanceState/name"), "pending");
}

#[test]
fn states_take_their_time() {
    let mut account = Account::under(Rules {
        timings: Timings {
            visible_after_ms: 0,
            stale_ms: 0,
            pending_ms: 10,
            stopping_ms: 20,
            shutting_down_ms: 30,
            terminated_visible_ms: 40,
            volume_ms: 0,
        },
        ..Rules::default()
    });
    let id = account.launched(&[]);
    account.pass(9);
    assert_eq!(account.state_of(&id), "pending");
    account.pass(1);
    assert_eq!(account.state_of(&id), "running");
    account.call("StopInstances", &named(&id)).unwrap();
    account.pass(19);
    assert_eq!(account.state_of(&id), "stopping");
    account.pass(1);
    assert_eq!(account.state_of(&id), "stopped");
    account.call("StartInstances", &named(&id)).unwrap();
    assert_eq!(account.state_of(&id), "pending");
    account.pass(10);
    assert_eq!(account.state_of(&id), "running");
    account.call("TerminateInstances", &named(&id)).unwrap();
    account.pass(29);
    assert_eq!(account.state_of(&id), "shutting-down");
    account.pass(1);
    assert_eq!(account.state_of(&id), "terminated");
    account.pass(39);
    account.call("DescribeInstances", &named(&id)).unwrap();
    account.pass(1);
    let gone = account.call("DescribeInstances", &named(&id));
    assert_eq!(gone.unwrap_err(), "InvalidInstanceID.NotFound");
}

#[test]
fn what_each_state_allows() {
    // The state after the call, or the error.
    let wrong = Err("IncorrectInstanceState");
    let table: &[(&str, [Result<&str, &str>; 3])] = &[
        ("pending", [Ok("pending"), wrong, Ok("shutting-down")]),
        (
            "running",
            [Ok("running"), Ok("stopping"), Ok("shutting-down")],
        ),
        ("stopping", [wrong, Ok("stopping"), Ok("shutting-down")]),
        (
            "stopped",
            [Ok("pending"), Ok("stopped"), Ok("shutting-down")],
        ),
        ("shutting-down", [wrong, wrong, Ok("shutting-down")]),
        ("terminated", [wrong, wrong, Ok("terminated")]),
    ];
    for (state, outcomes) in table {
        for (action, outcome) in ["StartInstances", "StopInstances", "TerminateInstances"]
            .into_iter()
            .zip(outcomes)
        {
            let (mut account, id) = in_state(state);
            let answer = account.call(action, &named(&id));
            match outcome {
                Ok(after) => {
                    let answer = answer.unwrap();
                    assert_eq!(answer.one("previousState/name"), *state, "{action}");
                    assert_eq!(answer.one("currentState/name"), *after, "{action} {state}");
                }
                Err(code) => assert_eq!(answer.unwrap_err(), *code, "{action} {state}"),
            }
        }
    }
}

fn in_state(state: &str) -> (Account, String) {
    let mut account = Account::new();
    let id = account.launched(&[]);
    account.pass(400);
    if state != "pending" {
        account.pass(200);
    }
    match state {
        "stopping" | "stopped" => drop(account.call("StopInstances", &named(&id)).unwrap()),
        "shutting-down" | "terminated" => {
            drop(account.call("TerminateInstances", &named(&id)).unwrap());
        }
        _ => {}
    }
    if matches!(state, "stopped" | "terminated") {
        account.pass(600);
    }
    assert_eq!(account.state_of(&id), state);
    (account, id)
}

#[test]
fn all_or_nothing() {
    let mut account = Account::new();
    let running = account.running(&[]);
    let ended = account.running(&[]);
    account.call("TerminateInstances", &named(&ended)).unwrap();
    account.pass(1_000);
    let both = [("InstanceId.1", running.as_str()), ("InstanceId.2", &ended)];
    let refused = account.call("StopInstances", &both);
    assert_eq!(refused.unwrap_err(), "IncorrectInstanceState");
    assert_eq!(account.state_of(&running), "running");
    let unknown = [
        ("InstanceId.1", running.as_str()),
        ("InstanceId.2", "i-0123456789abcdef0"),
    ];
    let refused = account.call("TerminateInstances", &unknown);
    assert_eq!(refused.unwrap_err(), "InvalidInstanceID.NotFound");
    assert_eq!(account.state_of(&running), "running");
    let missing = account.call("StopInstances", &[]);
    assert_eq!(missing.unwrap_err(), "MissingParameter");
}

#[test]
fn a_protected_instance_is_not_terminated() {
    let mut account = Account::new();
    let id = account.running(&[("DisableApiTermination", "true")]);
    let refused = account.call("TerminateInstances", &named(&id));
    assert_eq!(refused.unwrap_err(), "OperationNotPermitted");
    assert_eq!(account.state_of(&id), "running");
}

#[test]
fn boots_and_halts_come_once_each_and_in_order() {
    let mut account = Account::new();
    let id = account.running(&[
        ("UserData", "aGVsbG8="),
        ("TagSpecification.1.ResourceType", "instance"),
        ("TagSpecification.1.Tag.1.Key", "slot"),
        ("TagSpecification.1.Tag.1.Value", "3"),
    ]);
    for action in ["StopInstances", "StopInstances"] {
        account.call(action, &named(&id)).unwrap();
    }
    account.pass(1_000);
    account.call("StartInstances", &named(&id)).unwrap();
    account.pass(1_000);
    for action in ["TerminateInstances", "TerminateInstances"] {
        account.call(action, &named(&id)).unwrap();
    }
    account.pass(1_000);
    let seen: Vec<(bool, u32)> = account
        .effects
        .iter()
        .map(|effect| match effect {
            Effect::Boot(started) => {
                assert_eq!(started.user_data, b"hello");
                assert_eq!(started.tags["slot"], "3");
                assert_eq!(started.private_ip, "10.0.16.4");
                assert_eq!(started.zone, "us-east-2a");
                (true, started.boot)
            }
            Effect::Halt(stopped) => (false, u32::from(stopped.terminated)),
        })
        .collect();
    assert_eq!(seen, [(true, 1), (false, 0), (true, 2), (false, 1)]);
}

#[test]
fn an_instance_that_never_ran_is_not_halted() {
    let mut account = Account::new();
    let id = account.launched(&[]);
    account.pass(400);
    account.call("TerminateInstances", &named(&id)).unwrap();
    account.pass(10_000);
    assert_eq!(account.state_of(&id), "terminated");
    assert_eq!(account.effects, []);
}

#[test]
fn out_of_band_ends_say_why() {
    let mut account = Account::new();
    let id = account.running(&[]);
    let mut random = account.random.clone();
    let mut step = halo_aws_emulator::world::Step::at(account.now, &mut random);
    let reason = Some(("Server.InternalError", "the hardware failed"));
    assert!(account.world.terminate_out_of_band(&id, reason, &mut step));
    assert!(
        !account
            .world
            .terminate_out_of_band("i-0123456789abcdef0", None, &mut step)
    );
    assert!(!account.world.stop_out_of_band(&id, &mut step));
    assert_eq!(step.effects.len(), 1);
    account.pass(1_000);
    let described = account.call("DescribeInstances", &named(&id)).unwrap();
    assert_eq!(described.one("instanceState/name"), "terminated");
    assert_eq!(described.one("stateReason/code"), "Server.InternalError");
    assert!(described.all("privateIpAddress").is_empty());
}

#[test]
fn a_stop_reads_as_the_users_doing() {
    let mut account = Account::new();
    let id = account.running(&[]);
    account.call("StopInstances", &named(&id)).unwrap();
    let described = account.call("DescribeInstances", &named(&id)).unwrap();
    assert_eq!(
        described.one("reason"),
        "User initiated (2026-11-21 12:00:05 GMT)"
    );
    assert_eq!(
        described.one("stateReason/code"),
        "Client.UserInitiatedShutdown"
    );
}

#[test]
fn without_its_key_an_encrypted_instance_ends_before_it_runs() {
    let encrypted = [
        ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
        ("BlockDeviceMapping.1.Ebs.Encrypted", "true"),
    ];
    let mut account = Account::new();
    let ran_before = account.running(&encrypted);
    account.call("StopInstances", &named(&ran_before)).unwrap();
    account.pass(5_000);
    account.world.set_denied(vec!["kms:CreateGrant".to_owned()]);
    let new = account.launched(&encrypted);
    let plain = account.launched(&[]);
    account.call("StartInstances", &named(&ran_before)).unwrap();
    account.effects.clear();
    account.pass(5_000);
    assert_eq!(account.state_of(&new), "terminated");
    assert_eq!(account.state_of(&ran_before), "stopped");
    assert_eq!(account.state_of(&plain), "running");
    assert_eq!(account.effects.len(), 1, "only the plain one is booted");
    let described = account.call("DescribeInstances", &named(&new)).unwrap();
    assert_eq!(described.one("stateReason/code"), "Client.InternalError");
}
