//! Requests that are held: their order and bounds, what their devices and the directory are told, and where they go.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::SinkExt as _;
use halo_gateway::config::Limits;
use halo_gateway::directory::{Demand, Stage, Tenant};
use halo_receipts::documents::{EndCode, EndStatus, Progress};
use halo_receipts::evidence::{Claim, ClaimKind};
use halo_receipts::frame::{FrameType, encode};
use halo_receipts::ids::{Epoch, SessionId, Tier};
use tokio_tungstenite::tungstenite::Message;

use crate::author::{Author, infer, request_id, resume};
use crate::device::{Device, Heard, text};
use crate::pod::{Manner, WORDS};
use crate::shifting::{Shifting, demand_is, patient, pod, policy, shifting};
use crate::world::{World, until};

const NONE: Demand = Demand {
    waiting: 0,
    answering: 0,
};

/// Devices that each have asked and are held, in order.
async fn asking(world: &World, directory: &Shifting, count: u8) -> Vec<Device> {
    let mut devices = Vec::new();
    for number in 1..=count {
        let mut device = Device::new(world).await;
        let question = device.question(number);
        device.send(&question).await;
        demand_is(directory, usize::from(number), 0).await;
        devices.push(device);
    }
    devices
}

async fn heard(device: &mut Device) -> (Progress, u32) {
    match device.hear().await {
        Heard::Notice(notice) => (notice.state, notice.position),
        other => panic!("{other:?}"),
    }
}

fn holds(world: &World, outcome: &str) -> f64 {
    world.metric(&format!(
        "halo_gateway_holds_total{{outcome=\"{outcome}\",tenant=\"acme\"}}"
    ))
}

#[tokio::test]
async fn held_requests_go_in_the_order_in_which_they_came() {
    let tenant = Tenant {
        held_requests: 30,
        concurrent_escalations: 1,
        ..policy()
    };
    let (world, directory) = shifting(tenant, patient()).await;
    let mut devices = asking(&world, &directory, 30).await;
    assert_eq!(world.gateway.metrics.held.get(), 30);
    // One more than may wait.
    let mut late = Device::new(&world).await;
    let question = late.question(31);
    late.send(&question).await;
    let (_, end) = late.answer().await;
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Refused, EndCode::Unavailable)
    );
    assert_eq!(end.retry_after_ms, Some(5_000));
    let (pod, address) = pod(&world, Manner::Whole, 30 * WORDS.len()).await;
    directory.pods(&[&address]);
    for device in &mut devices {
        let (tokens, end) = device.answer().await;
        assert_eq!((text(&tokens), end.status), (WORDS.concat(), EndStatus::Ok));
    }
    let order: Vec<_> = (1..=30).map(request_id).collect();
    assert_eq!(*pod.asked.lock().unwrap(), order);
    demand_is(&directory, 0, 0).await;
    // Never more at once than the tenant may, and each change was told.
    let demands = directory.demands();
    assert!(demands.iter().all(|demand| demand.answering <= 1));
    assert!(demands.windows(2).all(|pair| pair[0] != pair[1]));
    assert_eq!(
        (holds(&world, "dispatched"), holds(&world, "full")),
        (30.0, 1.0)
    );
    assert_eq!(world.gateway.metrics.held.get(), 0);
    assert_eq!(world.gateway.metrics.held_bytes.get(), 0);
}

#[tokio::test]
async fn bytes_are_bounded_too() {
    let mut author = Author::new(SessionId::from_random([1; 16]), Epoch(1_900_000_000));
    let capture = author.capture();
    let routing = author.routing(request_id(1), "Question 1?");
    let request = infer(request_id(1), &[&capture, &routing], "Question 1?");
    let one = request.to_json().unwrap().len();
    let limits = Limits {
        hold_bytes: one * 3 / 2,
        ..patient()
    };
    let (world, directory) = shifting(policy(), limits).await;
    let _first = asking(&world, &directory, 1).await;
    let mut second = Device::new(&world).await;
    let question = second.question(2);
    second.send(&question).await;
    let (_, end) = second.answer().await;
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Refused, EndCode::Unavailable)
    );
    assert!(end.retry_after_ms.is_some());
}

#[tokio::test]
async fn a_wake_that_takes_too_long_is_told_with_a_time() {
    let tenant = Tenant {
        held_seconds: Some(3_600),
        ..policy()
    };
    let (world, directory) = shifting(tenant, patient()).await;
    directory.wake_deadline(Duration::from_millis(50));
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    device.send(&question).await;
    let (_, end) = device.answer().await;
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Refused, EndCode::WakeDeadline)
    );
    assert_eq!(end.retry_after_ms, Some(5_000));
    assert_eq!(holds(&world, "deadline"), 1.0);
    demand_is(&directory, 0, 0).await;
}

#[tokio::test]
async fn a_device_hears_how_its_wake_goes_and_the_next_one_how_long_it_takes() {
    let (world, directory) = shifting(policy(), patient()).await;
    let (pod, address) = pod(&world, Manner::Whole, WORDS.len()).await;
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    device.send(&question).await;
    assert_eq!(heard(&mut device).await, (Progress::Waking, 0));
    // The same state again is not told at once, a new one is.
    directory.stage(Stage::Starting);
    directory.stage(Stage::Loading);
    assert_eq!(heard(&mut device).await, (Progress::Loading, 0));
    directory.pods(&[&address]);
    assert_eq!(heard(&mut device).await, (Progress::Ready, 0));
    let (tokens, end) = device.answer().await;
    assert_eq!(end.status, EndStatus::Ok);
    device.seals(&tokens, &end).await;
    let stages = "halo_gateway_wake_stage_seconds_count{stage=\"loading\"}";
    assert_eq!(world.metric(stages), 1.0);
    assert_eq!(
        world.metric("halo_gateway_ready_to_link_seconds_count"),
        1.0
    );
    assert_eq!(pod.requests.load(Ordering::SeqCst), 1);
    // It sleeps again. What is known of the first wake is told to the next who waits.
    directory.stage(Stage::Asleep);
    let question = device.question(2);
    device.send(&question).await;
    let Heard::Notice(notice) = device.hear().await else {
        panic!();
    };
    assert_eq!(notice.state, Progress::Waking);
    assert!(notice.eta_ms > 0, "{notice:?}");
}

#[tokio::test]
async fn who_goes_away_is_cancelled_at_once_wherever_the_request_is() {
    let (world, directory) = shifting(policy(), patient()).await;
    let mut held = asking(&world, &directory, 1).await.remove(0);
    held.socket.close(None).await.unwrap();
    demand_is(&directory, 0, 0).await;
    until("the count", || holds(&world, "cancelled") == 1.0).await;
    // Nothing of it is left for a pod.
    let (pod, address) = pod(&world, Manner::Whole, 0).await;
    directory.pods(&[&address]);
    let mut device = Device::new(&world).await;
    let question = device.question(2);
    device.send(&question).await;
    demand_is(&directory, 0, 1).await;
    until("the request", || pod.requests.load(Ordering::SeqCst) == 1).await;
    assert_eq!(*pod.asked.lock().unwrap(), [request_id(2)]);
    // Before the first token the pod hears of it too.
    device.socket.close(None).await.unwrap();
    until("the cancellation", || {
        pod.cancelled.load(Ordering::SeqCst) == 1
    })
    .await;
    demand_is(&directory, 0, 0).await;
    until("the end", || world.gateway.answers.is_empty()).await;
}

#[tokio::test]
async fn a_device_that_comes_back_while_it_waits_waits_on() {
    let (world, directory) = shifting(policy(), patient()).await;
    let device = asking(&world, &directory, 1).await.remove(0);
    let Device { author, socket, .. } = device;
    drop(socket);
    let mut device = Device::again(&world, author).await;
    device.send(&resume(request_id(1), None)).await;
    assert_eq!(heard(&mut device).await, (Progress::Waking, 0));
    let (_pod, address) = pod(&world, Manner::Whole, 100).await;
    directory.pods(&[&address]);
    let (tokens, end) = device.answer().await;
    assert_eq!((text(&tokens), end.status), (WORDS.concat(), EndStatus::Ok));
    device.seals(&tokens, &end).await;
    // A pod takes links of the session's last epoch only.
    let session = device.session();
    let evidence = world.ledger.snapshot(&session).await.unwrap().unwrap();
    let claims = evidence.claims.iter();
    let claims = claims.map(|claim| claim.parse::<Claim>().unwrap());
    let mut links = claims.filter(|claim| claim.kind == ClaimKind::SubstrateLink);
    let link = links.next().unwrap();
    assert_eq!((link.session_epoch, link.link), (device.author.epoch, 0));
    assert!(links.next().is_none());
}

#[tokio::test]
async fn a_wake_that_ends_while_its_device_comes_back_is_not_lost() {
    let (world, directory) = shifting(policy(), patient()).await;
    let device = asking(&world, &directory, 1).await.remove(0);
    let Device { author, socket, .. } = device;
    drop(socket);
    let left = author.epoch;
    let mut device = Device::again(&world, author).await;
    // It has not asked for the rest yet, and the pod knows its new epoch.
    let (pod, address) = pod(&world, Manner::Whole, 100).await;
    pod.left.store(left.0, Ordering::SeqCst);
    directory.pods(&[&address]);
    until("the request", || pod.requests.load(Ordering::SeqCst) == 1).await;
    device.send(&resume(request_id(1), None)).await;
    let (tokens, end) = device.answer().await;
    assert_eq!((text(&tokens), end.status), (WORDS.concat(), EndStatus::Ok));
    device.seals(&tokens, &end).await;
}

#[tokio::test]
async fn a_pod_without_room_is_asked_again_and_nobody_is_overtaken() {
    let tenant = Tenant {
        concurrent_escalations: 2,
        ..policy()
    };
    let (world, directory) = shifting(tenant, patient()).await;
    let (pod, address) = pod(&world, Manner::Whole, 100).await;
    pod.full.store(true, Ordering::SeqCst);
    directory.pods(&[&address]);
    let mut devices = asking(&world, &directory, 4).await;
    let asked = pod.upgrades.load(Ordering::SeqCst);
    until("another try", || {
        pod.upgrades.load(Ordering::SeqCst) > asked + 1
    })
    .await;
    assert!(
        matches!(devices[0].hear().await, Heard::Notice(notice) if notice.state == Progress::Loading)
    );
    pod.full.store(false, Ordering::SeqCst);
    for device in &mut devices {
        assert_eq!(device.answer().await.1.status, EndStatus::Ok);
    }
    let mut asked = pod.asked.lock().unwrap().clone();
    // Two may be on their way at once.
    assert_eq!(asked[0], request_id(1));
    asked.sort_by_key(|id| id.to_string());
    assert_eq!(asked.len(), 4);
    demand_is(&directory, 0, 0).await;
}

#[tokio::test]
async fn a_shutdown_sends_those_who_wait_to_another_gateway() {
    let (world, directory) = shifting(policy(), patient()).await;
    let mut device = asking(&world, &directory, 1).await.remove(0);
    let gateway = std::sync::Arc::clone(&world.gateway);
    let drained = tokio::spawn(async move { halo_gateway::server::drain(&gateway).await });
    let (_, end) = device.answer().await;
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Refused, EndCode::Draining)
    );
    assert!(end.retry_after_ms.is_some());
    assert!(drained.await.unwrap());
    assert_eq!(holds(&world, "draining"), 1.0);
    assert_eq!(directory.demand_now(), NONE);
}

#[tokio::test]
async fn a_device_that_reads_slowly_slows_its_answer_and_misses_nothing() {
    const TOKENS: u32 = 60_000;
    let limits = Limits {
        answer_tokens: TOKENS,
        send_ms: 60_000,
        ..patient()
    };
    let (world, directory) = shifting(policy(), limits).await;
    let (_pod, address) = pod(&world, Manner::Flood, 0).await;
    directory.pods(&[&address]);
    let mut device = Device::new(&world).await;
    let mut question = device.question(1);
    question.max_tokens = TOKENS;
    device.send(&question).await;
    let slowed = "halo_gateway_backpressure_total{kind=\"pod\"}";
    until("the pause", || world.metric(slowed) >= 1.0).await;
    // What the gateway has taken and not handed on is less than two hundred tokens.
    let (taken, relayed) = (
        world.metric("halo_gateway_tokens_total"),
        world.metric("halo_gateway_relayed_tokens_total"),
    );
    assert!(
        taken - relayed < 200.0 && taken < f64::from(TOKENS),
        "{taken} {relayed}"
    );
    for step in 0..TOKENS {
        assert_eq!(device.token().await.step, step);
    }
}

#[tokio::test]
async fn what_the_gateway_no_longer_keeps_comes_from_the_ledger() {
    const TOKENS: usize = 200;
    let (world, directory) = shifting(policy(), patient()).await;
    let (pod, address) = pod(&world, Manner::Long(TOKENS), TOKENS - 1).await;
    directory.pods(&[&address]);
    let mut device = Device::new(&world).await;
    let mut question = device.question(1);
    question.max_tokens = 1_000;
    device.send(&question).await;
    let mut first = Vec::new();
    while first.len() < TOKENS - 1 {
        first.push(device.token().await);
    }
    let Device { author, socket, .. } = device;
    drop(socket);
    let mut device = Device::again(&world, author).await;
    device.send(&resume(request_id(1), None)).await;
    pod.tokens.add_permits(1);
    let (tokens, end) = device.answer().await;
    assert_eq!((tokens.len(), end.status), (TOKENS, EndStatus::Ok));
    assert_eq!(tokens[..TOKENS - 1], first);
    device.seals(&tokens, &end).await;
    assert_eq!(pod.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn only_a_verified_request_wakes() {
    let limits = Limits {
        refused_messages: 100,
        ..patient()
    };
    let (world, directory) = shifting(policy(), limits).await;
    let mut device = Device::new(&world).await;
    device
        .socket
        .send(Message::Ping(vec![].into()))
        .await
        .unwrap();
    let wrong = device.author.key(Tier::Sensor);
    for _ in 0..50 {
        let session = device.session();
        let frame = encode(
            &wrong,
            &session,
            FrameType::EscalateRequest,
            0,
            b"\0\0\0\x01{}",
        );
        device.raw(frame.unwrap()).await;
    }
    let mut forged = device.question(1);
    forged.receipts[1].hmac_signature[0] ^= 1;
    device.send(&forged).await;
    assert_eq!(device.answer().await.1.code, EndCode::BundleInvalid);
    let integrity = "halo_gateway_integrity_failures_total{reason=\"bundle\"}";
    assert_eq!(world.metric(integrity), 1.0);
    assert_eq!(
        world.metric("halo_gateway_refused_messages_total{reason=\"hmac\"}"),
        50.0
    );
    assert!(directory.demands().iter().all(|demand| *demand == NONE));
    // And a verified one does, at once.
    let mut device = Device::new(&world).await;
    let question = device.question(2);
    device.send(&question).await;
    demand_is(&directory, 1, 0).await;
}
