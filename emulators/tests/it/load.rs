//! Devices under load against the fake gateway behind TLS.

use std::time::Duration;

use halo_emulators::edge::secret_file::Credential;
use halo_emulators::tier1::client::Gateway;
use halo_emulators::tier1::load::{self, Command, Plan, Totals};
use halo_receipts::documents::{EndCode, EndStatus};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::edges::{LIMIT, Server, now};
use crate::fake::{FakeGateway, device, tenant};

fn plan(server: &Server, questions: u32) -> Plan {
    Plan {
        gateway: Gateway::new(&server.url, &server.ca).unwrap(),
        questions,
        every: None,
        pause: Duration::ZERO,
        ramp: Duration::ZERO,
        prompt: "What is sovereign inference?".to_owned(),
        max_tokens: 8,
        attempts: 20,
        time_limit: LIMIT,
        hold_open: false,
        clock_offset: 0,
    }
}

fn credential(server: &Server) -> Credential {
    Credential {
        tenant: tenant(),
        device: device(),
        generation: 1,
        key: server.fake.lock().unwrap().device_key(),
    }
}

fn commands() -> (UnboundedSender<Command>, UnboundedReceiver<Command>) {
    unbounded_channel()
}

async fn run(server: &Server, plan: Plan) -> (Vec<Value>, Totals) {
    let (_commands, told) = commands();
    let mut lines = Vec::new();
    let devices = vec![credential(server)];
    let ran = load::load(plan, devices, told, |line| lines.push(line));
    let totals = tokio::time::timeout(LIMIT, ran).await.expect("it ends");
    (lines, totals)
}

fn all<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    let found = lines.iter().filter(|line| line["event"] == event);
    found.collect()
}

#[tokio::test]
async fn questions_are_answered_one_after_the_other_in_one_session() {
    let server = Server::start(FakeGateway::new(now())).await;
    let (lines, totals) = run(&server, plan(&server, 3)).await;
    assert!(totals.all_told(), "{lines:?}");
    let questions = all(&lines, "question");
    assert_eq!(questions.len(), 3);
    for (place, question) in (1..).zip(&questions) {
        assert_eq!(question["question"], place);
        assert_eq!(question["outcome"], "answered");
        assert_eq!(question["reported"], true);
        assert_eq!(question["text"], "Your model and keys stay yours.");
        assert_eq!(question["tokens"], 7);
        assert_eq!(question["device_id"], "phone-1");
        let at = |name: &str| question[name].as_u64().unwrap();
        assert!(at("asked_ms") <= at("first_token_ms"));
        assert!(at("first_token_ms") <= at("end_ms") && at("end_ms") <= at("sealed_ms"));
        assert_eq!(
            question["session_id"],
            all(&lines, "session")[0]["session_id"]
        );
    }
    let done = lines.last().unwrap();
    assert_eq!(
        (&done["answered"], &done["questions"]),
        (&3.into(), &3.into())
    );
    let fake = server.fake.lock().unwrap();
    let (kinds, sealed) = fake.audit(&fake.order[0]);
    assert_eq!(kinds, ["capture", "escalate", "sealed"].repeat(3));
    assert!(sealed);
}

#[tokio::test]
async fn an_answer_goes_on_at_the_gateway_that_comes_after_a_drained_one() {
    let mut fake = FakeGateway::new(now());
    (fake.faults.cut_after, fake.faults.close_with) = (Some(3), Some(1012));
    let server = Server::start(fake).await;
    let (lines, totals) = run(&server, plan(&server, 2)).await;
    assert!(totals.all_told(), "{lines:?}");
    let questions = all(&lines, "question");
    assert_eq!(questions[0]["outcome"], "answered");
    assert_eq!(questions[0]["text"], "Your model and keys stay yours.");
    assert_eq!(
        (&questions[0]["resumed"], &questions[0]["retries"]),
        (&1.into(), &1.into())
    );
    assert_eq!(questions[1]["resumed"], 0);
    let cause = all(&lines, "retry")[0]["cause"].as_str().unwrap();
    assert!(cause.contains("1012"), "{cause}");
    assert_eq!(all(&lines, "session").len(), 1, "the session goes on");
    let open: Vec<_> = all(&lines, "connection")
        .iter()
        .map(|line| line["open"].clone())
        .collect();
    assert_eq!(open, [true, false, true].map(Value::from));
}

#[tokio::test]
async fn refusals_are_told_with_their_codes() {
    let mut fake = FakeGateway::new(now());
    fake.faults.refuse = vec![
        (EndStatus::Refused, EndCode::RateLimited, Some(10)),
        (EndStatus::Refused, EndCode::WakeDeadline, Some(10)),
    ];
    let server = Server::start(fake).await;
    let impatient = Plan {
        attempts: 1,
        ..plan(&server, 2)
    };
    let (lines, totals) = run(&server, impatient).await;
    assert!(totals.all_told(), "{lines:?}");
    let questions = all(&lines, "question");
    let first = questions[0];
    assert_eq!(first["outcome"], "refused");
    assert_eq!(
        (&first["code"], &first["retry_after_ms"]),
        (&"wake_deadline".into(), &10.into())
    );
    assert_eq!(first["put_off"], serde_json::json!(["rate_limited"]));
    assert_eq!(questions[1]["outcome"], "answered");
}

#[tokio::test]
async fn an_open_socket_is_asked_through_when_told_to() {
    let server = Server::start(FakeGateway::new(now())).await;
    let plan = Plan {
        hold_open: true,
        ..plan(&server, 0)
    };
    let (tell, told) = commands();
    let mut lines = Vec::new();
    let say = |line: Value| {
        // Asked once the socket stands, ended once the answer is sealed.
        match line["event"].as_str().unwrap() {
            "connection" if line["open"] == true => {
                tell.send(Command::Ask(Some("nobody".to_owned()))).unwrap();
                tell.send(Command::Ask(Some("phone-1".to_owned()))).unwrap();
            }
            "question" => tell.send(Command::End).unwrap(),
            _ => {}
        }
        lines.push(line);
    };
    let ran = load::load(plan, vec![credential(&server)], told, say);
    let totals = tokio::time::timeout(LIMIT, ran).await.expect("it ends");
    assert!(totals.all_told());
    assert_eq!(lines.last().unwrap()["answered"], 1);
    assert_eq!(
        server.fake.lock().unwrap().requests.len(),
        2,
        "a question and its seal"
    );
}

#[tokio::test]
async fn a_device_that_nobody_knows_fails_and_says_so() {
    let server = Server::start(FakeGateway::new(now())).await;
    let other = Credential {
        device: "phone-2".parse().unwrap(),
        key: halo_receipts::keys::DeviceKey::from_bytes([1; 32]),
        ..credential(&server)
    };
    let (_commands, told) = commands();
    let mut lines = Vec::new();
    let devices = vec![credential(&server), other];
    // One after the other: the fake has one connection.
    let plan = Plan {
        ramp: Duration::from_millis(10),
        ..plan(&server, 1)
    };
    let ran = load::load(plan, devices, told, |line| lines.push(line));
    let totals = tokio::time::timeout(LIMIT, ran).await.expect("it ends");
    assert!(!totals.all_told());
    let done = lines.last().unwrap();
    assert_eq!((&done["answered"], &done["failed"]), (&1.into(), &1.into()));
    let stopped = all(&lines, "stopped");
    assert_eq!(stopped[0]["device_id"], "phone-2");
    assert!(stopped[0]["cause"].as_str().unwrap().contains("401"));
}
