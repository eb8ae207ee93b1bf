//! Devices whose connection breaks: what they hear when they come back, and what becomes of their answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use halo_receipts::documents::{EndCode, EndStatus};
use halo_receipts::payload::ContentPolicy;

use crate::author::{Author, request_id, resume};
use crate::device::{Device, steps, text};
use crate::pod::{Manner, WORDS};
use crate::world::{World, quick, until, with_pod, with_pod_and};

/// The connection breaks without a word.
fn lose(device: Device) -> Author {
    let Device { author, socket, .. } = device;
    drop(socket);
    author
}

#[tokio::test]
async fn a_broken_connection_misses_no_step_and_hears_none_twice() {
    for policy in [ContentPolicy::Sealed, ContentPolicy::Omit] {
        let (world, pod) = with_pod_and(Manner::Whole, 2, quick(), policy).await;
        let mut device = Device::new(&world).await;
        let question = device.question(1);
        device.send(&question).await;
        let mut tokens = vec![device.token().await, device.token().await];
        let author = lose(device);
        let broken = "halo_gateway_closed_connections_total{reason=\"broken\"}";
        until("the break", || world.metric(broken) == 1.0).await;
        // The answer goes on without its device.
        pod.tokens.add_permits(2);
        until("two more tokens", || {
            world.metric("halo_gateway_tokens_total") == 4.0
        })
        .await;
        let mut device = Device::again(&world, author).await;
        device.send(&resume(request_id(1), Some(1))).await;
        tokens.extend([device.token().await, device.token().await]);
        pod.tokens.add_permits(10);
        let (rest, end) = device.answer().await;
        tokens.extend(rest);
        assert_eq!(steps(&tokens), [0, 1, 2, 3, 4]);
        assert_eq!(text(&tokens), WORDS.concat());
        assert_eq!((end.status, end.code), (EndStatus::Ok, EndCode::Ok));
        device.seals(&tokens, &end).await;
        assert_eq!(pod.requests.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn a_device_that_closes_its_connection_asks_no_longer() {
    let (world, pod) = with_pod(Manner::Whole, 2).await;
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    device.send(&question).await;
    let first = device.token().await;
    device.token().await;
    device.socket.close(None).await.unwrap();
    until("the cancellation", || {
        pod.cancelled.load(Ordering::SeqCst) == 1
    })
    .await;
    let author = lose(device);
    let mut device = Device::again(&world, author).await;
    // It has kept the first token only.
    device.send(&resume(request_id(1), Some(0))).await;
    let (rest, end) = device.answer().await;
    assert_eq!(steps(&rest), [1]);
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Cancelled, EndCode::Cancelled)
    );
    let tokens = [vec![first], rest].concat();
    device.seals(&tokens, &end).await;
}

#[tokio::test]
async fn an_answer_whose_device_never_comes_back_is_stopped() {
    let limits = halo_gateway::config::Limits {
        resume_ms: 50,
        ..quick()
    };
    let (world, pod) = with_pod_and(Manner::Whole, 1, limits, ContentPolicy::Sealed).await;
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    device.send(&question).await;
    device.token().await;
    let author = lose(device);
    until("the cancellation", || {
        pod.cancelled.load(Ordering::SeqCst) == 1
    })
    .await;
    until("the end", || world.gateway.answers.is_empty()).await;
    let mut device = Device::again(&world, author).await;
    device.send(&resume(request_id(1), None)).await;
    let (tokens, end) = device.answer().await;
    assert_eq!(steps(&tokens), [0]);
    assert_eq!(end.status, EndStatus::Cancelled);
    device.seals(&tokens, &end).await;
}

/// A device whose gateway went away before it was heard, and which another one told that it knows nothing, asks anew; meanwhile the
/// first gateway had a pod answer.
#[tokio::test]
async fn a_question_that_has_an_answer_is_served_with_it() {
    let (world, pod) = with_pod(Manner::Whole, 10).await;
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    device.send(&question).await;
    let (tokens, end) = device.answer().await;
    let mut again = Device::again(&world, lose(device)).await;
    again.send(&question).await;
    let (same_tokens, same) = again.answer().await;
    assert_eq!(same_tokens, tokens);
    assert_eq!(
        (same.status, &same.receipts),
        (EndStatus::Ok, &end.receipts)
    );
    again.seals(&tokens, &end).await;
    assert_eq!(pod.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_finished_answer_can_be_had_again_from_the_ledger() {
    let (world, _pod) = with_pod(Manner::Whole, 10).await;
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    device.send(&question).await;
    let (tokens, end) = device.answer().await;
    for last in [None, Some(0), Some(3), Some(4)] {
        let mut again = Device::again(&world, lose(device)).await;
        again.send(&resume(request_id(1), last)).await;
        let (rest, same) = again.answer().await;
        let from = last.map_or(0, |last| last as usize + 1);
        assert_eq!(rest, tokens[from..]);
        assert_eq!(same.receipts, end.receipts);
        assert_eq!(same.status, EndStatus::Ok);
        device = again;
    }
    // Neither a stranger's request nor one that was never asked.
    device.send(&resume(request_id(9), None)).await;
    let (none, end) = device.answer().await;
    assert!(none.is_empty());
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Refused, EndCode::UnknownRequest)
    );
}

#[tokio::test]
async fn another_gateway_reads_on_from_the_ledger() {
    let (first, pod) = with_pod(Manner::Whole, 2).await;
    let folder = tempfile::tempdir().unwrap();
    let ledger = Arc::clone(&first.ledger);
    // Patient enough not to take a slow test machine for a lost pod.
    let limits = halo_gateway::config::Limits {
        pod_close_ms: 10_000,
        ..quick()
    };
    let second = World::on(ledger, folder, None, limits, ContentPolicy::Sealed).await;
    let mut device = Device::new(&first).await;
    let question = device.question(1);
    device.send(&question).await;
    let mut tokens = vec![device.token().await, device.token().await];
    let mut device = Device::again(&second, lose(device)).await;
    device.send(&resume(request_id(1), Some(1))).await;
    pod.tokens.add_permits(10);
    let (rest, end) = device.answer().await;
    tokens.extend(rest);
    assert_eq!(text(&tokens), WORDS.concat());
    assert_eq!(end.status, EndStatus::Ok);
    device.seals(&tokens, &end).await;
}

#[tokio::test]
async fn a_pod_that_is_lost_while_the_device_is_away() {
    let (world, pod) = with_pod(Manner::Dies(3), 1).await;
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    device.send(&question).await;
    let first = device.token().await;
    let author = lose(device);
    pod.tokens.add_permits(10);
    let closed = "halo_gateway_closed_for_pod_total";
    until("the gateway's closing", || world.metric(closed) == 1.0).await;
    let mut device = Device::again(&world, author).await;
    device.send(&resume(request_id(1), Some(0))).await;
    let (rest, end) = device.answer().await;
    assert_eq!(steps(&rest), [1, 2]);
    assert_eq!((end.status, end.code), (EndStatus::Failed, EndCode::Lost));
    let tokens = [vec![first], rest].concat();
    device.seals(&tokens, &end).await;
}
