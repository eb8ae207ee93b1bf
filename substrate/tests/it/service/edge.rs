//! A pod as its gateway sees it: real sockets, a real ledger file, an engine that says what it is told to.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::SinkExt as _;
use halo_ledger::{Ledger as _, LedgerError};
use halo_receipts::documents::{EndCode, EndStatus, Progress};
use halo_receipts::evidence::Stream;
use halo_receipts::ids::{Epoch, Tier};
use halo_receipts::opening::{SIGNATURE_HEADER, signature, substrate_path};
use halo_receipts::payload::AnswerStatus;
use halo_substrate::pod::Phase;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::device::{Device, PROMPT};
use super::engine::{CONTEXT, Gate, Scripted};
use super::forgeries::forgeries;
use super::server::{Incoming, Server, soon};
use super::verify::verify;

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered_and_every_receipt_is_durable_before_the_end() {
    let server = Server::loading().await;
    let said = "Your question is answered by your own machine, and nobody else heard it.";
    let calls = server.scripted(Scripted::saying(said, Gate::open()), 2, 4);
    let mut device = Device::new(50);
    server.open(&device).await;
    let mut link = server.connect(&device, 0).await.unwrap();
    for asked in 1..=2 {
        let ask = device.ask(PROMPT, 100);
        server.record(&device, &ask.stored).await;
        link.send(&ask.document()).await;
        let (tokens, end) = link.answer().await;
        assert_eq!((end.status, end.code), (EndStatus::Ok, EndCode::Ok));
        let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(text, said);
        // Read at once: what the end promises is there already.
        let evidence = server.evidence(&device).await;
        let mut told = verify(&device, &evidence);
        assert_eq!(told.len(), asked);
        let told = told.pop().unwrap();
        told.assert_streamed(&tokens);
        assert_eq!(end.receipts, [told.response_receipt]);
        assert_eq!(told.response.prompt_tokens as usize, PROMPT.len());
        assert_eq!(told.response.finish, "stop");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2 * (said.len() + 1));
    let metrics = server.get("/metrics").await.1;
    let receipts = 2 * (2 * (said.len() + 1) + 1);
    for line in [
        format!("halo_substrate_tokens_total {}", 2 * (said.len() + 1)),
        format!("halo_substrate_receipts_total {receipts}"),
        "halo_substrate_answers_total{status=\"ok\"} 2".to_owned(),
        "halo_substrate_time_to_first_token_seconds_count 2".to_owned(),
        format!(
            "halo_substrate_inter_token_seconds_count {}",
            2 * said.len()
        ),
        "halo_substrate_queue_depth 0".to_owned(),
        "halo_substrate_active 0".to_owned(),
        "halo_substrate_links 1".to_owned(),
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} in\n{metrics}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_request_is_refused_with_nothing_computed_and_nothing_written() {
    let server = Server::loading().await;
    let calls = server.scripted(Scripted::saying("no", Gate::open()), 1, 4);
    for (mut device, forgery) in forgeries(|seed| Device::new(60 + seed)) {
        server.open(&device).await;
        server.record(&device, &forgery.recorded).await;
        let mut link = server.connect(&device, 0).await.unwrap();
        link.send(&forgery.document).await;
        let end = link.end().await;
        let expected = (EndStatus::Refused, EndCode::BundleInvalid);
        assert_eq!((end.status, end.code), expected, "{}", forgery.name);
        let evidence = server.settled(&device).await;
        assert_eq!(
            evidence.next_number(Stream::Substrate),
            0,
            "{}",
            forgery.name
        );
        // The link is as good as before.
        if device.chain.device_receipts() == evidence.next_number(Stream::Device) {
            let ask = device.ask(PROMPT, 0);
            link.send(&ask.document()).await;
            assert_eq!(
                link.end().await.request_id,
                ask.request.request_id,
                "{}",
                forgery.name
            );
        }
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    assert_eq!(server.ledger.appends.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_goes_ends_the_answer_within_one_step_and_leaves_it_sealed() {
    let server = Server::loading().await;
    let gate = Gate::with(3);
    let calls = server.scripted(Scripted::saying("a long story", gate.clone()), 1, 4);
    let (device, mut link) = server.asked(51, 100).await;
    let tokens = [link.token().await, link.token().await, link.token().await];
    // A fourth step may be under way, and is not let through before the seal stands.
    drop(link);
    let told = verify(&device, &server.settled(&device).await)
        .pop()
        .unwrap();
    told.assert_streamed(&tokens);
    assert_eq!(told.response.status, AnswerStatus::Interrupted);
    assert_eq!(told.response.finish, "cancelled");
    gate.allow(1000);
    soon(async {
        while server.pod.metrics.active.get() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(calls.load(Ordering::SeqCst) <= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_answer_at_a_time_in_a_session_whatever_the_link() {
    let server = Server::loading().await;
    let gate = Gate::with(1);
    server.scripted(Scripted::saying("yes", gate.clone()), 2, 4);
    let (mut device, mut link) = server.asked(52, 100).await;
    link.token().await;
    let second = device.ask(PROMPT, 100);
    server.record(&device, &second.stored).await;
    link.send(&second.document()).await;
    let busy = link.end().await;
    assert_eq!(
        (busy.request_id, busy.code),
        (second.request.request_id, EndCode::Busy)
    );
    let mut other = server.connect(&device, 1).await.unwrap();
    other.send(&second.document()).await;
    let busy = other.end().await;
    assert_eq!(
        (busy.status, busy.code),
        (EndStatus::Refused, EndCode::Busy)
    );
    assert!(busy.retry_after_ms.is_some());
    gate.allow(100);
    assert_eq!(link.answer().await.1.status, EndStatus::Ok);
    // The second link may go on where the first one stopped.
    other.send(&second.document()).await;
    assert_eq!(other.answer().await.1.status, EndStatus::Ok);
    assert_eq!(verify(&device, &server.evidence(&device).await).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_in_line_and_are_told_so() {
    let server = Server::loading().await;
    let gate = Gate::with(1);
    server.scripted(Scripted::saying("yes", gate.clone()), 1, 1);
    let (_, mut first) = server.asked(53, 100).await;
    first.token().await;
    let (_, mut second) = server.asked(54, 100).await;
    match second.next().await {
        Incoming::Notice(notice) => {
            assert_eq!((notice.state, notice.position), (Progress::Queued, 1))
        }
        other => panic!("{other:?}"),
    }
    let (_, mut third) = server.asked(55, 100).await;
    let full = third.end().await;
    assert_eq!(
        (full.status, full.code),
        (EndStatus::Refused, EndCode::RateLimited)
    );
    assert!(full.retry_after_ms.unwrap() >= 1000);
    gate.allow(100);
    assert_eq!(first.answer().await.1.status, EndStatus::Ok);
    match second.next().await {
        Incoming::Notice(notice) => assert_eq!(notice.state, Progress::Ready),
        other => panic!("{other:?}"),
    }
    assert_eq!(second.answer().await.0.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_that_is_too_small_is_said_before_computing() {
    let server = Server::loading().await;
    let calls = server.scripted(Scripted::saying("yes", Gate::open()), 1, 1);
    let (_, mut link) = server.asked(56, (CONTEXT - PROMPT.len() + 1) as u32).await;
    assert_eq!(link.end().await.code, EndCode::ContextExceeded);
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_pod_finishes_what_it_has_and_takes_nothing_new() {
    let server = Server::loading().await;
    let gate = Gate::with(1);
    server.scripted(Scripted::saying("yes", gate.clone()), 1, 4);
    let (device, mut running) = server.asked(57, 100).await;
    running.token().await;
    let (_, mut waiting) = server.asked(58, 100).await;
    assert!(matches!(waiting.next().await, Incoming::Notice(_)));
    let idle_device = Device::new(59);
    server.open(&idle_device).await;
    let mut idle = server.connect(&idle_device, 0).await.unwrap();

    server.pod.enter(Phase::Draining);
    server.pod.links.close();
    assert!(matches!(idle.next().await, Incoming::Closed(Some(1012))));
    let refused = waiting.end().await;
    assert_eq!(
        (refused.status, refused.code),
        (EndStatus::Refused, EndCode::Draining)
    );
    assert!(matches!(waiting.next().await, Incoming::Closed(Some(1012))));
    assert_eq!(server.get("/readyz").await, (503, "draining\n".into()));
    assert_eq!(server.get("/healthz").await.0, 200);
    assert_eq!(server.connect(&idle_device, 1).await.err(), Some(503));
    gate.allow(100);
    assert_eq!(running.answer().await.1.status, EndStatus::Ok);
    assert!(matches!(running.next().await, Incoming::Closed(Some(1012))));
    soon(server.pod.links.wait()).await;
    verify(&device, &server.evidence(&device).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_finish_in_time_is_broken_off_and_sealed() {
    let server = Server::loading().await;
    let gate = Gate::with(2);
    server.scripted(Scripted::saying("a long story", gate.clone()), 1, 4);
    let (device, mut link) = server.asked(41, 100).await;
    let tokens = [link.token().await, link.token().await];
    server.pod.enter(Phase::Interrupting);
    server.pod.links.close();
    let end = link.end().await;
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Failed, EndCode::Draining)
    );
    assert!(matches!(link.next().await, Incoming::Closed(Some(1012))));
    soon(server.pod.links.wait()).await;
    let told = verify(&device, &server.evidence(&device).await)
        .pop()
        .unwrap();
    told.assert_streamed(&tokens);
    assert_eq!(told.response.finish, "draining");
    assert_eq!(end.receipts, [told.response_receipt]);
    gate.allow(100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_fails_stops_the_answer_and_one_that_stumbles_does_not() {
    let server = Server::loading().await;
    server.scripted(Scripted::saying(&"word ".repeat(30), Gate::open()), 1, 4);
    server
        .ledger
        .fail(&[LedgerError::Invalid("a fault".into())]);
    let (device, mut link) = server.asked(42, 200).await;
    let (tokens, end) = link.answer().await;
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Failed, EndCode::LedgerUnavailable)
    );
    assert!(!tokens.is_empty() && end.receipts.is_empty());
    let evidence = server.settled(&device).await;
    assert_eq!(evidence.next_number(Stream::Substrate), 0);

    server.ledger.fail(&[
        LedgerError::Busy("a fault".into()),
        LedgerError::Full("/".into()),
    ]);
    let (device, mut link) = server.asked(43, 200).await;
    let (tokens, end) = link.answer().await;
    assert_eq!(end.status, EndStatus::Ok);
    verify(&device, &server.evidence(&device).await)
        .pop()
        .unwrap()
        .assert_streamed(&tokens);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_fails_is_said_and_sealed() {
    let server = Server::loading().await;
    let mut engine = Scripted::saying("yes", Gate::open());
    engine.fails_at = Some(2);
    server.scripted(engine, 1, 4);
    let (device, mut link) = server.asked(44, 200).await;
    let (tokens, end) = link.answer().await;
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Failed, EndCode::EngineFailed)
    );
    let told = verify(&device, &server.evidence(&device).await)
        .pop()
        .unwrap();
    told.assert_streamed(&tokens);
    assert_eq!((told.response.finish.as_str(), tokens.len()), ("lost", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_open_a_link() {
    let server = Server::loading().await;
    let mut device = Device::new(45);
    server.open(&device).await;
    assert_eq!(
        server.connect(&device, 0).await.err(),
        Some(503),
        "the model is not loaded"
    );
    server.scripted(Scripted::saying("yes", Gate::open()), 1, 4);

    let link = server.connect(&device, 0).await.unwrap();
    assert_eq!(
        server.connect(&device, 0).await.err(),
        Some(409),
        "the number is taken"
    );
    drop(link);
    assert_eq!(
        server.connect(&device, 0).await.err(),
        Some(409),
        "and stays taken"
    );
    assert!(server.connect(&device, 1).await.is_ok());

    let path = substrate_path(&device.tenant, &device.session, device.epoch, 2);
    let signed = |path: &str, tier| signature(&device.key(tier), "GET", path, b"");
    let good = signed(&path, Tier::Substrate);
    let other_tenant = path.replace("acme", "evil");
    let no_link = path.replace("&link=2", "");
    let twice = format!("{path}&link=2");
    let extra = format!("{path}&x=1");
    let capital = path.replace("tenant=acme", "tenant=Acme");
    let unsigned = "v1=".to_owned() + &"0".repeat(64);
    let post = signature(&device.key(Tier::Substrate), "POST", &path, b"");
    type Headers = Vec<(&'static str, String)>;
    let table: [(&str, u16, &str, Headers); 12] = [
        ("no signature", 401, &path, vec![]),
        (
            "a wrong signature",
            401,
            &path,
            vec![(SIGNATURE_HEADER, unsigned)],
        ),
        (
            "the device's own key",
            401,
            &path,
            vec![(SIGNATURE_HEADER, signed(&path, Tier::Orchestrator))],
        ),
        (
            "a signature for another method",
            401,
            &path,
            vec![(SIGNATURE_HEADER, post)],
        ),
        (
            "a signature for another link",
            401,
            &path.replace("link=2", "link=3"),
            vec![(SIGNATURE_HEADER, good.clone())],
        ),
        (
            "two signatures",
            401,
            &path,
            vec![
                (SIGNATURE_HEADER, good.clone()),
                (SIGNATURE_HEADER, good.clone()),
            ],
        ),
        (
            "another tenant",
            401,
            &other_tenant,
            vec![(SIGNATURE_HEADER, signed(&other_tenant, Tier::Substrate))],
        ),
        (
            "a browser",
            403,
            &path,
            vec![
                (SIGNATURE_HEADER, good.clone()),
                ("origin", "https://example.com".into()),
            ],
        ),
        (
            "a body",
            400,
            &path,
            vec![
                (SIGNATURE_HEADER, good.clone()),
                ("content-length", "5".into()),
            ],
        ),
        (
            "a body of unknown length",
            400,
            &path,
            vec![
                (SIGNATURE_HEADER, good.clone()),
                ("transfer-encoding", "chunked".into()),
            ],
        ),
        (
            "no link number",
            400,
            &no_link,
            vec![(SIGNATURE_HEADER, signed(&no_link, Tier::Substrate))],
        ),
        (
            "a tenant that is none",
            400,
            &capital,
            vec![(SIGNATURE_HEADER, signed(&capital, Tier::Substrate))],
        ),
    ];
    for (name, status, path, headers) in &table {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        assert_eq!(
            server.connect_to(&device, path, &headers).await.err(),
            Some(*status),
            "{name}"
        );
    }
    for odd in [&twice, &extra] {
        let header = signed(odd, Tier::Substrate);
        let refused = server
            .connect_to(&device, odd, &[(SIGNATURE_HEADER, &header)])
            .await;
        assert_eq!(refused.err(), Some(400), "{odd}");
    }
    // None of these took the number.
    assert!(server.connect(&device, 2).await.is_ok());

    assert_eq!(
        server.connect(&Device::new(46), 0).await.err(),
        Some(404),
        "an unknown session"
    );
    let before = device.epoch;
    device.epoch = Epoch(before.0 + 9);
    assert_eq!(
        server.connect(&device, 0).await.err(),
        Some(404),
        "an epoch that nobody claimed"
    );
    server
        .ledger
        .claim(&device.claim_of(device.epoch))
        .await
        .unwrap();
    assert!(server.connect(&device, 0).await.is_ok());
    device.epoch = before;
    assert_eq!(
        server.connect(&device, 3).await.err(),
        Some(404),
        "an epoch that is over"
    );
    let metrics = server.get("/metrics").await.1;
    assert!(
        metrics.contains("halo_substrate_refusals_total{reason=\"signature\"} 7"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_messages_close_the_link_and_nothing_else() {
    let server = Server::loading().await;
    let calls = server.scripted(Scripted::saying("yes", Gate::open()), 1, 4);
    let device = Device::new(47);
    server.open(&device).await;
    let mut link = server.connect(&device, 0).await.unwrap();
    for count in 0..16 {
        let message = if count % 2 == 0 {
            Message::Text("{}".into())
        } else {
            Message::Binary(vec![0; 100].into())
        };
        link.socket.send(message).await.unwrap();
    }
    assert!(matches!(link.next().await, Incoming::Closed(Some(1008))));
    let mut link = server.connect(&device, 1).await.unwrap();
    link.socket
        .send(Message::Binary(vec![0; 4096].into()))
        .await
        .unwrap();
    assert!(matches!(link.next().await, Incoming::Closed(_)));
    soon(async {
        while server.pod.metrics.links.get() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_tell_loading_from_ready_from_broken() {
    let server = Server::loading().await;
    assert_eq!(server.get("/healthz").await, (200, "ok\n".into()));
    assert_eq!(server.get("/readyz").await, (503, "loading\n".into()));
    server.ledger.check_fails.store(1, Ordering::SeqCst);
    server.scripted(Scripted::saying("yes", Gate::open()), 1, 4);
    assert_eq!(
        server.get("/readyz").await,
        (503, "the ledger does not answer\n".into())
    );
    server.ledger.check_fails.store(0, Ordering::SeqCst);
    soon(async {
        while server.get("/readyz").await != (200, "ready\n".into()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(server.get("/v1/halo/stream").await.0, 400);
    assert_eq!(server.get("/").await.0, 404);
    let long = "x".repeat(9000);
    let (status, _) = server.get(&format!("/{long}")).await;
    assert!((400..500).contains(&status), "{status}");
}
