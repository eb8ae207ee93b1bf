//! The threads that compute: order, places in line, pace, cancelling.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use halo_substrate::generate::{FinishReason, Params};
use halo_substrate::metrics::Metrics;
use halo_substrate::sampling::Sampling;
use halo_substrate::session::Job;
use halo_substrate::worker::{Report, Ticket, Workers};

use super::engine::{Gate, Scripted, tokenizer};

fn job() -> Job {
    Job {
        tokens: vec![65, 66],
        params: Params {
            max_tokens: 200,
            sampling: Sampling::greedy(),
            stop_tokens: Vec::new(),
        },
    }
}

fn workers(engine: Scripted, max_active: usize, queue_max: usize) -> (Workers, Metrics) {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Metrics::new().unwrap();
    let tokenizer = tokenizer(folder.path());
    let workers = Workers::start(
        Arc::new(engine),
        tokenizer,
        max_active,
        queue_max,
        metrics.clone(),
    );
    (workers.unwrap(), metrics)
}

/// The next report, but within a time that says "it hangs".
async fn next(ticket: &mut Ticket) -> Option<Report> {
    let report = tokio::time::timeout(Duration::from_secs(30), ticket.reports.recv());
    report.await.expect("no report")
}

async fn position(ticket: &mut Ticket) -> u32 {
    match next(ticket).await {
        Some(Report::Queued { position, .. }) => position,
        other => panic!("{other:?}"),
    }
}

async fn started(ticket: &mut Ticket) {
    let report = next(ticket).await;
    assert!(matches!(report, Some(Report::Started)), "{report:?}");
}

/// The text of an answer whose start was seen, and why it ended.
async fn rest(ticket: &mut Ticket) -> (String, Option<FinishReason>) {
    let (mut text, mut finished) = (String::new(), None);
    while let Some(report) = next(ticket).await {
        match report {
            Report::Step(step) => {
                text.push_str(&step.text);
                finished = step.finished;
            }
            other => panic!("{other:?}"),
        }
    }
    (text, finished)
}

#[tokio::test]
async fn first_come_first_served_and_no_more_than_the_line_holds() {
    let gate = Gate::with(0);
    let (workers, metrics) = workers(Scripted::saying("yes", gate.clone()), 1, 2);
    let mut first = workers.submit(job()).unwrap();
    started(&mut first).await;
    let mut second = workers.submit(job()).unwrap();
    assert_eq!(position(&mut second).await, 1);
    let mut third = workers.submit(job()).unwrap();
    assert_eq!(position(&mut third).await, 2);
    assert!(workers.submit(job()).err().unwrap().retry_after_ms >= 1000);
    assert_eq!((metrics.queue_depth.get(), metrics.active.get()), (2, 1));
    gate.allow(4);
    assert_eq!(
        rest(&mut first).await,
        ("yes".into(), Some(FinishReason::Stop))
    );
    assert_eq!(position(&mut third).await, 1);
    started(&mut second).await;
    gate.allow(8);
    assert_eq!(
        rest(&mut second).await,
        ("yes".into(), Some(FinishReason::Stop))
    );
    started(&mut third).await;
    assert_eq!(
        rest(&mut third).await,
        ("yes".into(), Some(FinishReason::Stop))
    );
    assert_eq!(metrics.tokens.get(), 12);
    assert_eq!(
        (metrics.prompt_tokens.get(), metrics.queue_depth.get()),
        (6, 0)
    );
    assert_eq!(metrics.expert_loads.get(), 12);
}

#[tokio::test]
async fn several_answers_are_computed_at_once() {
    let gate = Gate::with(0);
    let (workers, _) = workers(Scripted::saying("yes", gate.clone()), 2, 1);
    let mut both = [
        workers.submit(job()).unwrap(),
        workers.submit(job()).unwrap(),
    ];
    for ticket in &mut both {
        started(ticket).await;
    }
    let mut third = workers.submit(job()).unwrap();
    assert_eq!(position(&mut third).await, 1);
    gate.allow(100);
    for ticket in both.iter_mut() {
        assert_eq!(rest(ticket).await.0, "yes");
    }
    started(&mut third).await;
    assert_eq!(rest(&mut third).await.0, "yes");
}

#[tokio::test]
async fn who_leaves_the_line_makes_room() {
    let gate = Gate::with(0);
    let engine = Scripted::saying("yes", gate.clone());
    let calls = engine.calls.clone();
    let (workers, _) = workers(engine, 1, 2);
    let mut first = workers.submit(job()).unwrap();
    started(&mut first).await;
    let second = workers.submit(job()).unwrap();
    let mut third = workers.submit(job()).unwrap();
    assert_eq!(position(&mut third).await, 2);
    drop(second);
    assert_eq!(position(&mut third).await, 1);
    // The running one leaves too: it computes what it has begun and no more.
    drop(first);
    gate.allow(100);
    started(&mut third).await;
    assert_eq!(rest(&mut third).await.0, "yes");
    assert!(calls.load(Ordering::SeqCst) <= 1 + 4);
}

#[tokio::test]
async fn whoever_takes_the_steps_sets_the_pace() {
    let engine = Scripted::saying(&"x".repeat(100), Gate::open());
    let calls = engine.calls.clone();
    let (workers, _) = workers(engine, 1, 0);
    let mut ticket = workers.submit(job()).unwrap();
    started(&mut ticket).await;
    let mut taken = 0;
    while let Some(Report::Step(_)) = next(&mut ticket).await {
        taken += 1;
        assert!(
            calls.load(Ordering::SeqCst) <= taken + 5,
            "steps are made ahead"
        );
    }
    assert_eq!(taken, 101);
}

#[tokio::test]
async fn an_engine_that_fails_or_panics_ends_one_answer_only() {
    for panics in [false, true] {
        let mut engine = Scripted::saying("yes", Gate::open());
        engine.fails_at = Some(2);
        engine.panics = panics;
        let (workers, _) = workers(engine, 1, 0);
        for _ in 0..2 {
            // The thread that failed before may still be on its way back to the line.
            let mut ticket = loop {
                match workers.submit(job()) {
                    Ok(ticket) => break ticket,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            started(&mut ticket).await;
            for _ in 0..2 {
                assert!(matches!(next(&mut ticket).await, Some(Report::Step(_))));
            }
            assert!(matches!(next(&mut ticket).await, Some(Report::Failed(_))));
            assert!(next(&mut ticket).await.is_none());
        }
    }
}
