//! The running server: the whole way of a question, and what it does with everything that is not one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{SinkExt as _, StreamExt as _};
use halo_gateway::bundle::Book;
use halo_gateway::config::Limits;
use halo_receipts::documents::{EndCode, EndStatus, Progress};
use halo_receipts::evidence::{Claim, ClaimKind, Stream};
use halo_receipts::frame::{FrameType, encode};
use halo_receipts::ids::Tier;
use halo_receipts::opening::{SESSIONS_PATH, epochs_path};
use halo_receipts::payload::ContentPolicy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::author::{record, request_id};
use crate::device::{Device, Heard, exchange, open, open_request, post, text, tls, upgrade};
use crate::pod::{Manner, Pod, WORDS};
use crate::shutdown::admin;
use crate::world::{World, listener, quick, until, with_pod, with_pod_and};

#[tokio::test]
async fn a_question_is_answered_sealed_and_stands_in_the_ledger() {
    let (world, pod) = with_pod(Manner::Whole, 100).await;
    let mut device = Device::new(&world).await;
    for number in 1..=2 {
        let question = device.question(number);
        device.send(&question).await;
        let (tokens, end) = device.answer().await;
        assert_eq!(text(&tokens), WORDS.concat());
        assert_eq!((end.status, end.code), (EndStatus::Ok, EndCode::Ok));
        device.seals(&tokens, &end).await;
    }
    let session = device.session();
    let evidence = world.ledger.snapshot(&session).await.unwrap().unwrap();
    // Reading it back applies every chain rule.
    let book = Book::read(&evidence, session, &device.author.tenant).unwrap();
    assert_eq!(book.next_device(), 6);
    assert_eq!(evidence.next_number(Stream::Substrate), 22);
    let claims: Vec<Claim> = evidence
        .claims
        .iter()
        .map(|claim| claim.parse().unwrap())
        .collect();
    let kinds: Vec<(ClaimKind, u32)> = claims
        .iter()
        .map(|claim| (claim.kind, claim.link))
        .collect();
    // One link for each question.
    assert_eq!(
        kinds,
        [
            (ClaimKind::Epoch, 0),
            (ClaimKind::Connection, 0),
            (ClaimKind::SubstrateLink, 0),
            (ClaimKind::SubstrateLink, 1)
        ]
    );
    let key = device.author.key(Tier::Orchestrator);
    assert!(
        evidence
            .claims
            .iter()
            .all(|claim| claim.verify::<Claim>(&key))
    );
    assert_eq!(pod.requests.load(Ordering::SeqCst), 2);
    assert_eq!(world.metric("halo_gateway_tokens_total"), 10.0);
    assert_eq!(world.metric("halo_gateway_receipts_total"), 6.0);
    let infer = "halo_gateway_requests_total{code=\"ok\",op=\"infer\",status=\"ok\"}";
    assert_eq!(world.metric(infer), 2.0);
}

#[tokio::test]
async fn an_epoch_has_one_connection_and_a_newer_one_ends_the_older() {
    let world = World::alone().await;
    let mut device = Device::new(&world).await;
    let key = device.author.key(Tier::Orchestrator);
    assert_eq!(
        upgrade(&world, &device.stream, &key, &[]).await.err(),
        Some(409)
    );
    // The first connection is not disturbed.
    let capture = device.author.capture();
    device.send(&record(request_id(1), &[&capture])).await;
    assert_eq!(device.answer().await.1.status, EndStatus::Recorded);
    let old_stream = device.stream.clone();
    let mut author = crate::author::Author::new(device.session(), device.author.epoch);
    author.d = device.author.d.clone();
    author.captures = device.author.captures;
    let mut newer = Device::again(&world, author).await;
    assert_eq!(device.closed().await, Some(CloseCode::Normal));
    assert_eq!(
        upgrade(&world, &old_stream, &key, &[]).await.err(),
        Some(401)
    );
    let capture = newer.author.capture();
    newer.send(&record(request_id(2), &[&capture])).await;
    assert_eq!(newer.answer().await.1.status, EndStatus::Recorded);
}

#[tokio::test]
async fn refusals_look_alike() {
    let world = World::alone().await;
    let now = open_request().timestamp.micros();
    let used = open_request();
    assert!(
        open(&world, SESSIONS_PATH, &used, "")
            .await
            .starts_with("HTTP/1.1 201")
    );
    let at = |micros| halo_receipts::time::Timestamp::from_micros(micros).unwrap();
    let mut requests = vec![used];
    for change in 0..5 {
        let mut request = open_request();
        match change {
            0 => request.timestamp = at(now + 300_000_000),
            1 => request.timestamp = at(now - 300_000_000),
            2 => request.device_id = "lost-phone".parse().unwrap(),
            3 => request.device_generation = 0,
            _ => request.tenant_id = "other".parse().unwrap(),
        }
        requests.push(request);
    }
    let mut answers = Vec::new();
    for request in &requests {
        answers.push(open(&world, SESSIONS_PATH, request, "").await);
    }
    // Another device's session, and one that is not there.
    let device = Device::new(&world).await;
    let mut other = open_request();
    other.device_id = "phone-2".parse().unwrap();
    answers.push(open(&world, &epochs_path(&device.session()), &other, "").await);
    let nowhere = halo_receipts::ids::SessionId::from_random([1; 16]);
    answers.push(open(&world, &epochs_path(&nowhere), &open_request(), "").await);
    answers.push(exchange(&world, &post(SESSIONS_PATH, b"{}", "")).await);
    let twice = "halo-signature: v1=00\r\n";
    answers.push(open(&world, SESSIONS_PATH, &open_request(), twice).await);
    for answer in &answers {
        let dateless: Vec<&str> = answer.lines().filter(|l| !l.starts_with("date:")).collect();
        assert_eq!(
            dateless,
            [
                "HTTP/1.1 401 Unauthorized",
                "connection: close",
                "content-length: 0",
                ""
            ]
        );
    }
    for reason in [
        "replay",
        "clock",
        "revoked",
        "generation",
        "tenant",
        "foreign_session",
        "session",
        "malformed",
    ] {
        let name = format!("halo_gateway_refused_openings_total{{reason=\"{reason}\"}}");
        assert!(world.metric(&name) >= 1.0, "{reason}");
    }
}

#[tokio::test]
async fn what_is_no_upgrade_is_refused_before_a_socket_exists() {
    let world = World::alone().await;
    let device = Device::new(&world).await;
    let path = device.stream.clone();
    let key = device.author.key(Tier::Orchestrator);
    let wrong = device.author.key(Tier::Sensor);
    assert_eq!(upgrade(&world, &path, &wrong, &[]).await.err(), Some(401));
    assert_eq!(
        upgrade(&world, &format!("{path}&x"), &key, &[]).await.err(),
        Some(401)
    );
    let origin = [("origin", "https://example.com")];
    assert_eq!(upgrade(&world, &path, &key, &origin).await.err(), Some(403));
    let browser = open(&world, SESSIONS_PATH, &open_request(), "origin: null\r\n").await;
    assert!(browser.starts_with("HTTP/1.1 403"));
    assert_eq!(
        upgrade(&world, &path, &key, &[("content-length", "3")])
            .await
            .err(),
        Some(400)
    );
    assert_eq!(
        upgrade(&world, &path, &key, &[("transfer-encoding", "chunked")])
            .await
            .err(),
        Some(400)
    );
    let plain = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert!(
        exchange(&world, plain.as_bytes())
            .await
            .starts_with("HTTP/1.1 400")
    );
    let nowhere = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert!(
        exchange(&world, nowhere.as_bytes())
            .await
            .starts_with("HTTP/1.1 404")
    );
    // Compression is offered and not taken.
    let offered = [("sec-websocket-extensions", "permessage-deflate")];
    let mut other = crate::author::Author::new(device.session(), device.author.epoch);
    other.captures = None;
    let again = Device::again(&world, other).await;
    drop(again);
    assert_eq!(
        upgrade(&world, &path, &key, &offered).await.err(),
        Some(401)
    );
}

#[tokio::test]
async fn slow_and_huge_requests() {
    let limits = Limits {
        request_ms: 200,
        handshake_ms: 200,
        ..quick()
    };
    let world = World::with(None, limits, ContentPolicy::Sealed).await;
    // A head and a body that never end, a handshake that never begins.
    assert_eq!(
        exchange(&world, b"POST /v1/halo/sessions HTTP/1.1\r\nhost: ").await,
        ""
    );
    let slow = "POST /v1/halo/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{";
    assert!(
        exchange(&world, slow.as_bytes())
            .await
            .starts_with("HTTP/1.1 401")
    );
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    assert_eq!(silent.read(&mut [0; 16]).await.unwrap_or(0), 0);
    let timeout = "halo_gateway_turned_away_sockets_total{reason=\"tls_timeout\"}";
    until("the count", || world.metric(timeout) == 1.0).await;

    let huge = post(
        SESSIONS_PATH,
        b"{}",
        &format!("x: {}\r\n", "y".repeat(64 * 1024)),
    );
    let answer = exchange(&world, &huge).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = post(SESSIONS_PATH, b"{}", &"x: y\r\n".repeat(100));
    let answer = exchange(&world, &many).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let long = vec![b' '; 64 * 1024];
    assert!(
        exchange(&world, &post(SESSIONS_PATH, &long, ""))
            .await
            .starts_with("HTTP/1.1 401")
    );
    until("no socket is left", || {
        world.gateway.metrics.sockets.get() == 0
    })
    .await;
}

#[tokio::test]
async fn forged_frames_reach_no_pod_and_end_the_connection() {
    let (world, pod) = with_pod(Manner::Whole, 100).await;
    let mut device = Device::new(&world).await;
    let session = device.session();
    let wrong = device.author.key(Tier::Sensor);
    for sequence in 0..16 {
        let frame = encode(
            &wrong,
            &session,
            FrameType::EscalateRequest,
            sequence,
            b"\0\0\0\x01{}",
        );
        device.raw(frame.unwrap()).await;
    }
    assert_eq!(device.closed().await, Some(CloseCode::Policy));
    let mut device = Device::new(&world).await;
    let mut question = device.question(1);
    question.receipts[1].hmac_signature[0] ^= 1;
    device.send(&question).await;
    let (_, end) = device.answer().await;
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Refused, EndCode::BundleInvalid)
    );
    let state = world
        .ledger
        .session(&device.session())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(state.next_device, 0);
    assert_eq!(pod.upgrades.load(Ordering::SeqCst), 0);
    assert_eq!(world.metric("halo_gateway_receipts_total"), 0.0);
}

#[tokio::test]
async fn messages_that_are_no_frames() {
    let world = World::alone().await;
    let mut device = Device::new(&world).await;
    device
        .socket
        .send(Message::Text("hello".into()))
        .await
        .unwrap();
    assert_eq!(device.closed().await, Some(CloseCode::Unsupported));
    let mut device = Device::new(&world).await;
    device.raw(vec![1; 257]).await;
    assert_eq!(device.closed().await, Some(CloseCode::Size));
    // A length that only claims to be long, an unmasked frame, reserved bits, a fragment, a length in the long form.
    let table: [(&[u8], CloseCode); 4] = [
        (
            &[
                0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
            ],
            CloseCode::Size,
        ),
        (&[0x82, 0x01, 0x00], CloseCode::Protocol),
        (&[0xc2, 0x81, 0, 0, 0, 0, 0], CloseCode::Protocol),
        (&[0x02, 0x81, 0, 0, 0, 0, 0], CloseCode::Unsupported),
    ];
    for (bytes, code) in table {
        let mut device = Device::new(&world).await;
        device.socket.get_mut().write_all(bytes).await.unwrap();
        device.socket.get_mut().flush().await.unwrap();
        assert_eq!(device.closed().await, Some(code), "{bytes:x?}");
    }
    // Pings faster than one a second are counted like refused frames.
    let mut device = Device::new(&world).await;
    for _ in 0..18 {
        if device
            .socket
            .send(Message::Ping(vec![].into()))
            .await
            .is_err()
        {
            break;
        }
    }
    assert_eq!(device.closed().await, Some(CloseCode::Policy));
}

#[tokio::test]
async fn a_device_without_a_sign_of_life_is_cut_off_and_a_living_one_is_not() {
    let limits = Limits {
        first_frame_ms: 300,
        ping_ms: 300,
        ..quick()
    };
    let world = World::with(None, limits, ContentPolicy::Sealed).await;
    let mut living = Device::new(&world).await;
    let silent = Device::new(&world).await;
    // Only what is read is answered, pings included.
    let reason = "halo_gateway_closed_connections_total{reason=\"silent\"}";
    let listening = tokio::spawn(async move {
        let capture = living.author.capture();
        let hears = tokio::time::timeout(std::time::Duration::from_secs(2), living.socket.next());
        // A ping ends the first wait at once; what matters is that the stream stays open while it is read.
        let _ = hears.await;
        living.send(&record(request_id(1), &[&capture])).await;
        living.answer().await.1.status
    });
    until("the silent one", || world.metric(reason) >= 1.0).await;
    assert_eq!(listening.await.unwrap(), EndStatus::Recorded);
    drop(silent);
}

#[tokio::test]
async fn a_request_is_held_until_its_pod_is_there() {
    let port = listener().await;
    let address = port.local_addr().unwrap();
    drop(port);
    let limits = Limits {
        hold_ms: 20_000,
        ..quick()
    };
    let world = World::with(Some(address), limits, ContentPolicy::Sealed).await;
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    device.send(&question).await;
    assert!(
        matches!(device.hear().await, Heard::Notice(notice) if notice.state == Progress::Waking)
    );
    // The tenant may hold one request: the next is refused with a time, and nothing of the first is lost.
    let mut second = Device::new(&world).await;
    let other = second.question(2);
    second.send(&other).await;
    let (_, end) = second.answer().await;
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Refused, EndCode::Unavailable)
    );
    assert!(end.retry_after_ms.is_some());
    assert_eq!(world.gateway.metrics.held.get(), 1);
    let port = tokio::net::TcpListener::bind(address).await.unwrap();
    let _pod = Pod::start(
        port,
        Manner::Whole,
        Arc::clone(&world.ledger),
        ContentPolicy::Sealed,
        10,
    );
    let (tokens, end) = device.answer().await;
    assert_eq!(end.status, EndStatus::Ok);
    device.seals(&tokens, &end).await;
    assert_eq!(world.gateway.metrics.held.get(), 0);
    // What was refused was recorded, and is asked again with the same receipts.
    second.send(&other).await;
    let (tokens, end) = second.answer().await;
    assert_eq!(end.status, EndStatus::Ok);
    second.seals(&tokens, &end).await;
}

#[tokio::test]
async fn a_pod_that_never_comes_and_a_tenant_without_one() {
    let port = listener().await;
    let address = port.local_addr().unwrap();
    drop(port);
    let world = World::with(Some(address), quick(), ContentPolicy::Sealed).await;
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    device.send(&question).await;
    let (_, end) = device.answer().await;
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Refused, EndCode::WakeDeadline)
    );
    assert!(end.retry_after_ms.is_some());
    let world = World::alone().await;
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    device.send(&question).await;
    let (_, end) = device.answer().await;
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Refused, EndCode::Unavailable)
    );
    assert_eq!(end.retry_after_ms, None);
}

#[tokio::test]
async fn wrong_pods() {
    let (world, _pod) = with_pod(Manner::Stranger, 10).await;
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    device.send(&question).await;
    let (_, end) = device.answer().await;
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Refused, EndCode::Unavailable)
    );

    // One that signs with another key: nothing that it says reaches the device.
    let (world, _pod) = with_pod(Manner::Impostor, 10).await;
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    device.send(&question).await;
    let (tokens, end) = device.answer().await;
    assert!(tokens.is_empty());
    assert_eq!((end.status, end.code), (EndStatus::Failed, EndCode::Lost));
    assert_eq!(
        world.metric("halo_gateway_pod_links_total{outcome=\"hmac\"}"),
        1.0
    );
}

#[tokio::test]
async fn a_pod_that_is_lost_is_closed_for() {
    for after in [0, 1, 3] {
        let (world, _pod) = with_pod(Manner::Dies(after), 10).await;
        let mut device = Device::new(&world).await;
        let question = device.question(1);
        device.send(&question).await;
        let (tokens, end) = device.answer().await;
        assert_eq!(tokens.len(), after as usize);
        assert_eq!((end.status, end.code), (EndStatus::Failed, EndCode::Lost));
        // The seal covers exactly what stands there, and the session goes on.
        device.seals(&tokens, &end).await;
        assert_eq!(world.metric("halo_gateway_closed_for_pod_total"), 1.0);
    }
}

#[tokio::test]
async fn a_device_that_does_not_read_is_cut_off_and_its_answer_stopped() {
    let limits = Limits {
        send_ms: 300,
        resume_ms: 50,
        answer_tokens: 100_000,
        ..quick()
    };
    let (world, pod) = with_pod_and(Manner::Flood, 0, limits, ContentPolicy::Sealed).await;
    let mut device = Device::new(&world).await;
    let mut question = device.question(1);
    // 24 MB: more than the buffers of two sockets hold.
    question.max_tokens = 100_000;
    device.send(&question).await;
    let slow = "halo_gateway_closed_connections_total{reason=\"slow\"}";
    until("the cut", || world.metric(slow) == 1.0).await;
    assert!(world.metric("halo_gateway_tokens_total") < 100_000.0);
    until("the stop", || pod.cancelled.load(Ordering::SeqCst) == 1).await;
    until("the end", || world.gateway.answers.is_empty()).await;
}

#[tokio::test]
async fn an_address_with_many_failures_is_turned_away() {
    let limits = Limits {
        penalty_failures: 3,
        ..quick()
    };
    let world = World::with(None, limits, ContentPolicy::Sealed).await;
    for _ in 0..3 {
        let answer = exchange(&world, &post(SESSIONS_PATH, b"{}", "")).await;
        assert!(answer.starts_with("HTTP/1.1 401"));
    }
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
    let barred = "halo_gateway_turned_away_sockets_total{reason=\"barred\"}";
    until("the count", || world.metric(barred) >= 1.0).await;
}

#[tokio::test]
async fn only_tls_is_spoken_and_one_panic_of_a_peer_harms_nobody() {
    let world = World::alone().await;
    let mut plain = TcpStream::connect(world.address).await.unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    // A handshake that is dropped half way.
    drop(tls(&world).await);
    let answer = open(&world, SESSIONS_PATH, &open_request(), "").await;
    assert!(answer.starts_with("HTTP/1.1 201"));
    assert!(answer.contains("cache-control: no-store"));
    let metrics = admin(&world, "/metrics").await;
    assert!(metrics.contains("halo_gateway_opened_total{kind=\"session\"} 1"));
}
