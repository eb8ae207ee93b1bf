//! A ledger that is slower than the model, or gone: tokens wait for it, no receipt is lost, and nothing stands still for ever.

use std::sync::atomic::Ordering;
use std::time::Duration;

use halo_receipts::documents::{EndCode, EndStatus};
use halo_receipts::evidence::Stream;
use halo_receipts::payload::AnswerStatus;

use super::device::PROMPT;
use super::engine::{Gate, Scripted};
use super::server::{Server, soon};
use super::verify::verify;

/// Longer than what may be under way before the ledger has acknowledged something: four blocks of 32 tokens, and a few steps.
const LONG: usize = 200;

async fn lagging() -> (Server, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let server = Server::loading().await;
    let calls = server.scripted(Scripted::saying(&"x".repeat(LONG), Gate::open()), 1, 4);
    server.ledger.flows.send_replace(false);
    (server, calls)
}

async fn held_back(server: &Server) {
    soon(async {
        while server.pod.metrics.ledger_waiting.get() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_ledger_slows_the_tokens_and_loses_none() {
    let (server, calls) = lagging().await;
    let (device, mut link) = server.asked(61, 220).await;
    held_back(&server).await;
    assert_eq!(
        server.ledger.appends.load(Ordering::SeqCst),
        1,
        "one block at a time"
    );
    // Four blocks of at most 32 tokens, the steps that lie between thread and link, and the one that waits to be handed over.
    let computed = calls.load(Ordering::SeqCst);
    assert!(
        computed <= 4 * 32 + 4 + 2,
        "{computed} steps without a receipt that is durable"
    );

    server.ledger.flows.send_replace(true);
    let (tokens, end) = link.answer().await;
    assert_eq!((end.status, tokens.len()), (EndStatus::Ok, LONG + 1));
    let evidence = server.settled(&device).await;
    let told = verify(&device, &evidence).pop().unwrap();
    told.assert_streamed(&tokens);
    assert_eq!(told.response.status, AnswerStatus::Ok);
    assert_eq!(server.pod.metrics.ledger_waiting.get(), 0);
    assert!(server.pod.metrics.ledger_wait.get_sample_count() > 0);
    assert_eq!(
        server.ledger.snapshots.load(Ordering::SeqCst),
        2,
        "the request's read, and this test's"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ledger_an_answer_is_broken_off_and_the_pod_goes_on() {
    let (server, _) = lagging().await;
    let (mut device, mut link) = server.asked(62, 220).await;
    // Nobody acknowledges anything: the answer ends by itself, in the time that an append may take.
    let (tokens, end) = link.answer().await;
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Failed, EndCode::LedgerUnavailable)
    );
    assert!(end.retry_after_ms.is_some() && end.receipts.is_empty());
    assert!(!tokens.is_empty() && tokens.len() < LONG);
    assert_eq!(server.pod.metrics.ledger_waiting.get(), 0);

    server.ledger.flows.send_replace(true);
    // What stands of the answer is a whole beginning of it, without a seal: broken off, not tampered with.
    let evidence = server.settled(&device).await;
    let stands = evidence.next_number(Stream::Substrate);
    assert!(stands.is_multiple_of(2) && stands <= 2 * tokens.len() as u32);
    // The pod answers the same device in its next session, and everybody else.
    for seed in [63, 64] {
        let (other, mut link) = server.asked(seed, 220).await;
        let (tokens, end) = link.answer().await;
        assert_eq!((end.status, tokens.len()), (EndStatus::Ok, LONG + 1));
        let evidence = server.settled(&other).await;
        verify(&other, &evidence)
            .pop()
            .unwrap()
            .assert_streamed(&tokens);
    }
    // Over the same link, too: it was not closed.
    let ask = device.ask(PROMPT, 8);
    link.send(&ask.document()).await;
    let (_, end) = link.answer().await;
    assert_ne!(end.code, EndCode::Busy);
}
