//! Several pods: which one a request goes to, and what becomes of it when that one is lost.

use std::sync::atomic::Ordering;
use std::time::Duration;

use halo_gateway::bundle::Book;
use halo_gateway::directory::{PodAddress, Stage};
use halo_ledger::LedgerError;
use halo_receipts::documents::{EndCode, EndStatus};
use halo_receipts::evidence::{Block, Claim, ClaimKind, Stream};
use halo_receipts::receipt::Parent;

use crate::author::{Author, Written, request_id, resume};
use crate::device::{Device, text};
use crate::pod::{Manner, Pod, WORDS};
use crate::shifting::{Shifting, demand_is, patient, pod, policy, shifting};
use crate::world::{World, until};

/// A device that has asked, and the one pod that there is, which was asked.
async fn asked(
    world: &World,
    directory: &Shifting,
    permits: usize,
) -> (Pod, PodAddress, Device, Parent) {
    let (only, address) = pod(world, Manner::Whole, permits).await;
    directory.pods(&[&address]);
    let mut device = Device::new(world).await;
    let question = device.question(1);
    device.send(&question).await;
    until("the request", || only.requests.load(Ordering::SeqCst) == 1).await;
    let routing = question.receipts[1].as_parent();
    (only, address, device, routing)
}

/// Another author of the device's session: a pod, wherever it is.
fn elsewhere(device: &Device) -> Author {
    let mut author = Author::new(device.session(), device.author.epoch);
    author.counter = 7_000_000;
    author
}

/// The first block of stream `s`.
fn block(written: &[Written]) -> Block {
    Block {
        stream: Stream::Substrate,
        first: 0,
        receipts: written.iter().map(Written::stored).collect(),
    }
}

#[tokio::test]
async fn a_pod_that_dies_before_the_first_token_is_not_noticed() {
    let (world, directory) = shifting(policy(), patient()).await;
    let (first, one, mut device, _) = asked(&world, &directory, 0).await;
    let (second, other) = pod(&world, Manner::Whole, 100).await;
    directory.pods(&[&one, &other]);
    first.kill();
    let (tokens, end) = device.answer().await;
    assert_eq!((text(&tokens), end.status), (WORDS.concat(), EndStatus::Ok));
    device.seals(&tokens, &end).await;
    assert_eq!(second.requests.load(Ordering::SeqCst), 1);
    let lost = "halo_gateway_moved_requests_total{reason=\"lost\"}";
    assert_eq!(world.metric(lost), 1.0);
    assert_eq!(world.metric("halo_gateway_closed_for_pod_total"), 0.0);
    // Each pod has claimed a link of its own, and the chain is one.
    let session = device.session();
    let evidence = world.ledger.snapshot(&session).await.unwrap().unwrap();
    let claims = evidence
        .claims
        .iter()
        .map(|claim| claim.parse::<Claim>().unwrap());
    let links = claims.filter(|claim| claim.kind == ClaimKind::SubstrateLink);
    assert_eq!(links.map(|claim| claim.link).collect::<Vec<_>>(), [0, 1]);
    Book::read(&evidence, session, &device.author.tenant).unwrap();
    // The first one is listed still and does not listen: the session stays with the one that answers.
    let question = device.question(2);
    device.send(&question).await;
    assert_eq!(device.answer().await.1.status, EndStatus::Ok);
    assert_eq!(second.requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_request_whose_only_pod_dies_waits_for_another() {
    let (world, directory) = shifting(policy(), patient()).await;
    let (first, _, mut device, _) = asked(&world, &directory, 0).await;
    directory.stage(Stage::Asleep);
    first.kill();
    demand_is(&directory, 1, 0).await;
    let (_second, other) = pod(&world, Manner::Whole, 100).await;
    directory.pods(&[&other]);
    let (tokens, end) = device.answer().await;
    assert_eq!(end.status, EndStatus::Ok);
    device.seals(&tokens, &end).await;
}

#[tokio::test]
async fn a_pod_that_dies_after_the_first_token_leaves_an_interrupted_answer() {
    let (world, directory) = shifting(policy(), patient()).await;
    let (first, one, mut device, _) = asked(&world, &directory, 2).await;
    let (second, other) = pod(&world, Manner::Whole, 100).await;
    let tokens = vec![device.token().await, device.token().await];
    directory.pods(&[&one, &other]);
    first.kill();
    let (rest, end) = device.answer().await;
    assert!(rest.is_empty());
    assert_eq!((end.status, end.code), (EndStatus::Failed, EndCode::Lost));
    device.seals(&tokens, &end).await;
    assert_eq!(second.upgrades.load(Ordering::SeqCst), 0);
    demand_is(&directory, 0, 0).await;
}

#[tokio::test]
async fn a_pod_that_wrote_before_it_died_is_not_followed_by_another() {
    let (world, directory) = shifting(policy(), patient()).await;
    let (first, one, mut device, routing) = asked(&world, &directory, 0).await;
    let (second, other) = pod(&world, Manner::Whole, 100).await;
    // Its first step is durable and on its way to the gateway when the pod dies.
    let mut author = elsewhere(&device);
    let (step, token) = author.step(0, routing, "Bay ");
    let session = device.session();
    world.ledger.append(&session, &block(&step)).await.unwrap();
    directory.pods(&[&one, &other]);
    first.kill();
    let (tokens, end) = device.answer().await;
    assert!(tokens.is_empty());
    assert_eq!((end.status, end.code), (EndStatus::Failed, EndCode::Lost));
    assert_eq!(second.upgrades.load(Ordering::SeqCst), 0);
    device.send(&resume(request_id(1), None)).await;
    let (tokens, end) = device.answer().await;
    assert_eq!(tokens, [token]);
    device.seals(&tokens, &end).await;
}

/// The pod may still write when the device has heard that nothing came of its request.
#[tokio::test]
async fn a_request_that_lost_its_pod_and_finds_no_other_is_closed() {
    let (world, directory) = shifting(policy(), patient()).await;
    let (first, _, mut device, routing) = asked(&world, &directory, 0).await;
    directory.stage(Stage::Asleep);
    directory.wake_deadline(Duration::from_millis(50));
    first.kill();
    let (tokens, end) = device.answer().await;
    assert!(tokens.is_empty());
    assert_eq!((end.status, end.code), (EndStatus::Failed, EndCode::Lost));
    device.seals(&tokens, &end).await;
    let mut author = elsewhere(&device);
    let (step, _) = author.step(0, routing, "Bay ");
    let late = world.ledger.append(&device.session(), &block(&step)).await;
    assert!(matches!(late, Err(LedgerError::Fork { .. })), "{late:?}");
}

#[tokio::test]
async fn a_request_that_lost_its_pod_and_is_refused_by_another_is_closed() {
    let (world, directory) = shifting(policy(), patient()).await;
    let (first, one, mut device, _) = asked(&world, &directory, 0).await;
    let refuses = Manner::Refuses(EndCode::LedgerUnavailable);
    let (second, other) = pod(&world, refuses, 0).await;
    directory.pods(&[&one, &other]);
    first.kill();
    let (tokens, end) = device.answer().await;
    assert_eq!(second.requests.load(Ordering::SeqCst), 1);
    assert_eq!((end.status, end.code), (EndStatus::Failed, EndCode::Lost));
    device.seals(&tokens, &end).await;
}

#[tokio::test]
async fn a_request_that_is_answered_elsewhere_is_served_with_that_answer() {
    let (world, directory) = shifting(policy(), patient()).await;
    let (busy, address) = pod(&world, Manner::Refuses(EndCode::Busy), 0).await;
    directory.pods(&[&address]);
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    let routing = question.receipts[1].as_parent();
    device.send(&question).await;
    // As long as the ledger knows of no answer, the request waits for its turn.
    until("a second try", || busy.requests.load(Ordering::SeqCst) == 2).await;
    let mut author = elsewhere(&device);
    let (step, token) = author.step(0, routing, "Bay ");
    let last = step[1].receipt.as_parent();
    let answer = author.answer(request_id(1), last, 0, &step, "Bay ");
    let session = device.session();
    let [load, emit] = step;
    let block = block(&[load, emit, answer]);
    world.ledger.append(&session, &block).await.unwrap();
    let (tokens, end) = device.answer().await;
    assert_eq!((tokens, end.status), (vec![token.clone()], EndStatus::Ok));
    device.seals(&[token], &end).await;
    demand_is(&directory, 0, 0).await;
}

#[tokio::test]
async fn two_pods_share_and_sessions_stay_with_theirs() {
    let (world, directory) = shifting(policy(), patient()).await;
    let (first, one) = pod(&world, Manner::Whole, 0).await;
    let (second, other) = pod(&world, Manner::Whole, 0).await;
    directory.pods(&[&one, &other]);
    let mut devices = Vec::new();
    for number in 1..=2 {
        let mut device = Device::new(&world).await;
        let question = device.question(number);
        device.send(&question).await;
        demand_is(&directory, 0, usize::from(number)).await;
        devices.push(device);
    }
    until("one each", || {
        first.requests.load(Ordering::SeqCst) == 1 && second.requests.load(Ordering::SeqCst) == 1
    })
    .await;
    first.tokens.add_permits(100);
    second.tokens.add_permits(WORDS.len() + 1);
    for device in &mut devices {
        let (tokens, end) = device.answer().await;
        device.seals(&tokens, &end).await;
    }
    // The session that the second pod has goes there again, and stays there while that pod is on its way out.
    let at_second = usize::from(second.asked.lock().unwrap()[0] == request_id(2));
    let device = &mut devices[at_second];
    let question = device.question(3);
    device.send(&question).await;
    let mut tokens = vec![device.token().await];
    assert_eq!(*second.asked.lock().unwrap().last().unwrap(), request_id(3));
    directory.pods(&[&one]);
    second.tokens.add_permits(100);
    let (rest, end) = device.answer().await;
    tokens.extend(rest);
    assert_eq!((text(&tokens), end.status), (WORDS.concat(), EndStatus::Ok));
    device.seals(&tokens, &end).await;
    let question = device.question(4);
    device.send(&question).await;
    assert_eq!(device.answer().await.1.status, EndStatus::Ok);
    assert_eq!(*first.asked.lock().unwrap().last().unwrap(), request_id(4));
}
