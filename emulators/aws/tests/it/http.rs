//! Raw requests over HTTP: both protocols, signatures, faults on the wire, the admin endpoint.

use halo_aws_emulator::{Config, Emulator, Fault, FaultAction, Outcome, When};
use serde_json::{Value, json};

use crate::account::LAUNCH;
use crate::wire::{self, Leaves, authorization, exchange};

fn start() -> Emulator {
    Emulator::start(Config::instant()).unwrap()
}

fn launch(emulator: &Emulator, token: &str) -> Option<(u16, String)> {
    let mut pairs = LAUNCH.to_vec();
    pairs.push(("ClientToken", token));
    wire::ec2(emulator.address(), "RunInstances", &pairs)
}

fn admin(emulator: &Emulator, method: &str, verb: &str, body: &Value) -> (u16, Value) {
    let path = format!("/_halo/{verb}");
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let (status, body) = exchange(emulator.address(), method, &path, "", &body).unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

#[test]
fn ec2_speaks_xml() {
    let emulator = start();
    let (status, body) = launch(&emulator, "one").unwrap();
    assert_eq!(status, 200);
    assert!(body.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<RunInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">"));
    let leaves = Leaves::read(&body);
    assert_eq!(leaves.one("requestId").len(), 36);
    let (status, body) = wire::ec2(
        emulator.address(),
        "DescribeInstances",
        &[("InstanceId.1", "i-0123456789abcdef0")],
    )
    .unwrap();
    assert_eq!(status, 400);
    let leaves = Leaves::read(&body);
    assert_eq!(
        leaves.one("Response/Errors/Error/Code"),
        "InvalidInstanceID.NotFound"
    );
    assert_eq!(
        leaves.one("Response/Errors/Error/Message"),
        "The instance ID 'i-0123456789abcdef0' does not exist"
    );
    assert_eq!(leaves.one("Response/RequestID").len(), 36);
}

#[test]
fn ec2_answers_get_as_well() {
    let emulator = start();
    let path = "/?Action=DescribeSubnets&Version=2016-11-15";
    let (status, body) =
        exchange(emulator.address(), "GET", path, &authorization("ec2"), "").unwrap();
    assert_eq!(status, 200);
    assert_eq!(Leaves::read(&body).all("subnetId").len(), 3);
}

#[test]
fn ssm_speaks_json() {
    let emulator = start();
    let body = json!({ "Name": "/halo/root", "Value": "secret", "Type": "SecureString" });
    let (status, answer) = wire::ssm(emulator.address(), "PutParameter", &body).unwrap();
    assert_eq!(
        (status, answer.as_str()),
        (200, r#"{"Tier":"Standard","Version":1}"#)
    );
    let (status, answer) = wire::ssm(
        emulator.address(),
        "GetParameter",
        &json!({ "Name": "/none" }),
    )
    .unwrap();
    assert_eq!(
        (status, answer.as_str()),
        (400, r#"{"__type":"ParameterNotFound"}"#)
    );
    let calls = emulator.calls_of("PutParameter");
    assert_eq!(calls[0].parameter("Value"), "<6 bytes>");
    assert_eq!(calls[0].outcome, Outcome::Done);
}

#[test]
fn what_is_not_signed_is_refused() {
    let emulator = start();
    let body = "Action=DescribeSubnets&Version=2016-11-15";
    for (headers, status, code) in [
        (String::new(), 403, "MissingAuthenticationToken"),
        ("Authorization: Bearer x\r\n".to_owned(), 401, "AuthFailure"),
        (authorization("ssm"), 401, "AuthFailure"),
        (
            authorization("ec2").replace("us-east-2", "eu-west-1"),
            401,
            "AuthFailure",
        ),
        (
            authorization("ec2").replace("host;", ""),
            401,
            "AuthFailure",
        ),
        (
            authorization("ec2").replace("0a0a", "0a"),
            401,
            "AuthFailure",
        ),
        (
            authorization("ec2").replace("X-Amz-Date: 2026", "X-Amz-Date: 2025"),
            401,
            "AuthFailure",
        ),
    ] {
        let (refused, answer) = exchange(emulator.address(), "POST", "/", &headers, body).unwrap();
        assert_eq!(refused, status, "{headers}");
        assert_eq!(Leaves::read(&answer).one("Code"), code, "{headers}");
    }
    let headers = "X-Amz-Target: AmazonSSM.GetParameter\r\n";
    let (status, answer) = exchange(emulator.address(), "POST", "/", headers, "{}").unwrap();
    assert_eq!(status, 403);
    assert!(answer.contains("MissingAuthenticationToken"), "{answer}");
}

#[test]
fn bad_bodies_are_answered() {
    let emulator = start();
    for body in [
        "Action=%",
        "Action=%ff",
        "",
        "Action=DescribeSubnets",
        "Version=2016-11-15",
    ] {
        let (status, answer) =
            exchange(emulator.address(), "POST", "/", &authorization("ec2"), body).unwrap();
        assert_eq!(status, 400, "{body}");
        assert!(!Leaves::read(&answer).one("Code").is_empty());
    }
    for body in ["", "{", "[]", "\u{fffd}"] {
        let headers = format!(
            "{}X-Amz-Target: AmazonSSM.GetParameter\r\n",
            authorization("ssm")
        );
        let (status, answer) = exchange(emulator.address(), "POST", "/", &headers, body).unwrap();
        assert_eq!(status, 400, "{body}");
        assert!(
            answer.contains("SerializationException"),
            "{body}: {answer}"
        );
    }
    let large = "x".repeat(2 << 20);
    let answer = exchange(
        emulator.address(),
        "POST",
        "/",
        &authorization("ec2"),
        &large,
    );
    // The refusal may arrive, or the connection be gone already while the rest is sent.
    assert!(answer.is_none_or(|(status, _)| status == 400));
}

#[test]
fn a_connection_is_cut_before_or_after_the_effect() {
    for (when, instances) in [(When::Before, 0), (When::After, 1)] {
        let emulator = start();
        emulator.add_fault(Fault::cut("RunInstances", when));
        assert_eq!(launch(&emulator, "one"), None);
        assert_eq!(emulator.state().instances.len(), instances);
        let done = when == When::After;
        assert_eq!(
            emulator.calls()[0].outcome,
            Outcome::Lost { done, fault: "cut" }
        );
        // Repeated with its token, it is launched exactly once.
        assert_eq!(launch(&emulator, "one").unwrap().0, 200);
        assert_eq!(emulator.state().instances.len(), 1);
    }
}

#[test]
fn errors_replace_answers() {
    for (when, instances) in [(When::Before, 0), (When::After, 1)] {
        let emulator = start();
        emulator.add_fault(Fault::next(
            "RunInstances",
            FaultAction::Error {
                code: "RequestLimitExceeded".to_owned(),
                message: "slower".to_owned(),
                status: None,
                when,
            },
        ));
        let (status, body) = launch(&emulator, "one").unwrap();
        assert_eq!(status, 503);
        assert_eq!(Leaves::read(&body).one("Code"), "RequestLimitExceeded");
        assert_eq!(emulator.state().instances.len(), instances);
    }
    let emulator = start();
    emulator.add_fault(Fault::error("GetParameter", "InternalServerError"));
    let (status, body) =
        wire::ssm(emulator.address(), "GetParameter", &json!({ "Name": "/a" })).unwrap();
    assert_eq!(status, 500);
    assert!(body.contains("InternalServerError"));
}

#[test]
fn garbage_hangs_and_delays() {
    let emulator = start();
    emulator.add_fault(Fault::next(
        "RunInstances",
        FaultAction::Garbage { when: When::After },
    ));
    let (status, body) = launch(&emulator, "one").unwrap();
    assert_eq!(status, 500);
    assert!(body.starts_with("<html>"));
    assert_eq!(emulator.state().instances.len(), 1);
    emulator.add_fault(Fault::next(
        "RunInstances",
        FaultAction::Hang {
            ms: 20,
            when: When::Before,
        },
    ));
    assert_eq!(launch(&emulator, "two"), None);
    assert_eq!(emulator.state().instances.len(), 1);
    emulator.add_fault(Fault::next(
        "RunInstances",
        FaultAction::Delay {
            ms: 20,
            when: When::Before,
        },
    ));
    assert_eq!(launch(&emulator, "two").unwrap().0, 200);
    let last = emulator.calls_of("RunInstances").pop().unwrap();
    assert_eq!(last.outcome, Outcome::Done);
    assert!(last.decided_at_us.unwrap() >= last.at_us + 20_000);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_undo_its_call() {
    let emulator = start();
    emulator.add_fault(Fault::next(
        "RunInstances",
        FaultAction::Delay {
            ms: 50,
            when: When::Before,
        },
    ));
    let body = halo_aws_emulator::form::Form::of(
        [("Action", "RunInstances"), ("Version", "2016-11-15")]
            .iter()
            .chain(LAUNCH)
            .copied(),
    )
    .encode();
    let mut stream = std::net::TcpStream::connect(emulator.address()).unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{}\r\n",
        body.len(),
        authorization("ec2")
    );
    std::io::Write::write_all(&mut stream, format!("{head}{body}").as_bytes()).unwrap();
    let within = std::time::Duration::from_secs(20);
    emulator
        .wait_until(within, |view| view.count("RunInstances") == 1)
        .await
        .unwrap();
    drop(stream);
    emulator
        .wait_until(within, |view| view.state.instances.len() == 1)
        .await
        .unwrap();
}

#[test]
fn the_admin_endpoint_has_every_verb() {
    let emulator = start();
    let ok = |answer: (u16, Value)| assert_eq!(answer.0, 200, "{}", answer.1);
    let none = Value::Null;
    ok(admin(&emulator, "GET", "health", &none));
    ok(admin(
        &emulator,
        "POST",
        "capacity",
        &json!({ "instance_type": "r7iz.4xlarge", "zone": "us-east-2a", "slots": 0 }),
    ));
    assert_eq!(launch(&emulator, "one").unwrap().0, 500);
    ok(admin(
        &emulator,
        "POST",
        "capacity",
        &json!({ "instance_type": "r7iz.4xlarge", "zone": "us-east-2a" }),
    ));
    ok(admin(
        &emulator,
        "POST",
        "deny",
        &json!({ "actions": ["ec2:RunInstances"] }),
    ));
    assert_eq!(launch(&emulator, "one").unwrap().0, 403);
    ok(admin(&emulator, "POST", "deny", &json!({ "actions": [] })));
    ok(admin(
        &emulator,
        "POST",
        "faults",
        &json!({ "action": "RunInstances", "do": { "kind": "cut" } }),
    ));
    ok(admin(
        &emulator,
        "POST",
        "faults",
        &json!({ "faults": [{ "action": "X", "do": { "kind": "cut" } }] }),
    ));
    assert_eq!(
        admin(&emulator, "GET", "faults", &none).1["faults"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(launch(&emulator, "one"), None);
    ok(admin(&emulator, "DELETE", "faults", &none));
    assert_eq!(launch(&emulator, "one").unwrap().0, 200);
    let state = admin(&emulator, "GET", "state", &none).1;
    let id = state["instances"]
        .as_object()
        .unwrap()
        .keys()
        .next()
        .unwrap()
        .clone();
    assert_eq!(state["instances"][&id]["state"], "running");
    ok(admin(
        &emulator,
        "POST",
        &format!("tags/{id}"),
        &json!({ "a": "b" }),
    ));
    ok(admin(
        &emulator,
        "POST",
        &format!("instances/{id}/stop"),
        &none,
    ));
    ok(admin(
        &emulator,
        "POST",
        &format!("instances/{id}/terminate"),
        &json!({ "code": "Server.InternalError" }),
    ));
    assert_eq!(
        admin(&emulator, "POST", "instances/i-1/terminate", &none).0,
        404
    );
    let version = admin(
        &emulator,
        "POST",
        "parameters",
        &json!({ "name": "/halo/root", "value": "hidden" }),
    );
    assert_eq!(version.1["version"], 1);
    let state = admin(&emulator, "GET", "state", &none).1;
    assert_eq!(state["instances"][&id]["state"], "terminated");
    assert_eq!(state["instances"][&id]["tags"]["a"], "b");
    assert!(!state.to_string().contains("hidden"));
    ok(admin(
        &emulator,
        "DELETE",
        "parameters",
        &json!({ "name": "/halo/root" }),
    ));
    assert_eq!(
        admin(
            &emulator,
            "DELETE",
            "parameters",
            &json!({ "name": "/halo/root" })
        )
        .0,
        404
    );
    ok(admin(
        &emulator,
        "POST",
        "timings",
        &json!({ "pending_ms": 1 }),
    ));
    ok(admin(
        &emulator,
        "POST",
        "limits",
        &json!({ "instances": 0 }),
    ));
    assert_eq!(launch(&emulator, "two").unwrap().0, 400);
    ok(admin(
        &emulator,
        "POST",
        "rate-limits",
        &json!([{ "actions": ["*"], "burst": 0.0, "per_second": 0.0 }]),
    ));
    assert_eq!(launch(&emulator, "two").unwrap().0, 503);
    let calls = admin(&emulator, "GET", "calls", &none).1;
    let calls = calls["calls"].as_array().unwrap();
    assert_eq!(calls.len(), 6);
    let outcomes: Vec<&str> = calls
        .iter()
        .map(|call| call["outcome"]["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        outcomes,
        ["refused", "refused", "lost", "done", "refused", "refused"]
    );
    assert_eq!(calls[0]["outcome"]["code"], "InsufficientInstanceCapacity");
    let after = admin(&emulator, "GET", "calls?after=4", &none).1;
    assert_eq!(after["calls"].as_array().unwrap().len(), 2);
    ok(admin(&emulator, "POST", "reset", &none));
    assert_eq!(
        admin(&emulator, "GET", "state", &none).1["instances"],
        json!({})
    );
    assert_eq!(admin(&emulator, "GET", "nonsense", &none).0, 404);
    for (verb, body) in [
        ("deny", json!({})),
        ("capacity", json!({ "typ": "x" })),
        ("faults", json!({ "action": "X" })),
    ] {
        let (status, answer) = admin(&emulator, "POST", verb, &body);
        assert_eq!(status, 400, "{verb}");
        assert!(
            answer["error"]
                .as_str()
                .unwrap()
                .contains("the body is not what this verb takes")
        );
    }
}
