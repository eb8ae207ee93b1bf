//! Throttling, lost answers, refusals and silence, without a spill.

use std::time::Duration;

use halo_ledger::conformance::Sample;
use halo_ledger::dynamodb::{DynamoLedger, Options};
use halo_ledger::{Appended, Ledger as _, LedgerError};
use halo_receipts::evidence::{ClaimKind, Stream};

use super::proxy::{Mode, Proxy};
use super::{begin, counted, hasty, metric, table};

/// A throttled writer is slowed and gets there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throttled_writes_are_tried_again() {
    let proxy = Proxy::start().await;
    let (options, maker) = counted(Options {
        requests: 2,
        patience: Duration::from_secs(60),
        ..Options::default()
    });
    let environment = proxy.environment().await;
    let ledger = DynamoLedger::open_on(&environment, &table().await, options)
        .await
        .unwrap();
    let samples: Vec<_> = (0..8).map(|seed| Sample::new(seed, 20).unwrap()).collect();
    for sample in &samples {
        begin(&ledger, sample).await;
    }
    let errors = [
        "ThrottlingException",
        "ProvisionedThroughputExceededException",
    ];
    for (round, error) in errors.into_iter().enumerate() {
        proxy.next(12, Mode::Refuse(error));
        let block = |sample: &Sample| sample.block(Stream::Substrate, round * 8, 8);
        let appends = samples.iter().map(|sample| {
            let (ledger, block) = (&ledger, block(sample));
            async move { ledger.append(&sample.session, &block).await }
        });
        for appended in futures_util::future::join_all(appends).await {
            assert_eq!(appended, Ok(Appended::Written));
        }
    }
    assert_eq!(
        metric(&maker, "halo_ledger_throttles_total{operation=\"put\"}"),
        24.0
    );
    assert_eq!(metric(&maker, "halo_ledger_queue"), 0.0);
}

/// What was done although its answer was lost is known as one's own when it is tried again.
#[tokio::test]
async fn lost_answers_are_no_conflicts() {
    let proxy = Proxy::start().await;
    let environment = proxy.environment().await;
    let ledger = DynamoLedger::open_on(&environment, &table().await, Options::default())
        .await
        .unwrap();
    let sample = Sample::new(1, 20).unwrap();
    let lose = || proxy.next(1, Mode::LoseAnswer);
    lose();
    begin(&ledger, &sample).await;
    lose();
    let block = sample.block(Stream::Substrate, 0, 8);
    assert_eq!(
        ledger.append(&sample.session, &block).await,
        Ok(Appended::Written)
    );
    lose();
    let connection = sample.claim(ClaimKind::Connection, 0, 0).unwrap();
    ledger.claim(&connection).await.unwrap();
    assert_eq!(ledger.claim(&connection).await, Err(LedgerError::Taken));
    let evidence = ledger.snapshot(&sample.session).await.unwrap().unwrap();
    assert_eq!((evidence.claims.len(), evidence.blocks.len()), (2, 1));
    assert_eq!(
        ledger.append(&sample.session, &block).await,
        Ok(Appended::AlreadyThere),
        "a block that is offered again is a retry"
    );
}

#[tokio::test]
async fn whoever_is_refused_or_not_answered_is_told_why() {
    let (proxy, name) = (Proxy::start().await, table().await);
    let environment = proxy.environment().await;
    let (options, _) = counted(Options {
        patience: Duration::from_millis(300),
        attempt: Duration::from_millis(100),
        ..hasty()
    });
    let ledger = DynamoLedger::open_on(&environment, &name, options)
        .await
        .unwrap();
    let sample = Sample::new(1, 20).unwrap();
    begin(&ledger, &sample).await;
    let block = sample.block(Stream::Substrate, 0, 8);
    for (mode, kind, words) in [
        (
            Mode::Refuse("AccessDeniedException"),
            "denied",
            "PutItem, GetItem and Query",
        ),
        (
            Mode::Refuse("UnrecognizedClientException"),
            "denied",
            "credentials",
        ),
        (
            Mode::Refuse("ResourceNotFoundException"),
            "missing",
            "halo ledger create",
        ),
        (
            Mode::Refuse("ValidationException"),
            "storage",
            "ValidationException",
        ),
        (
            Mode::Refuse("ThrottlingException"),
            "unavailable",
            "ThrottlingException",
        ),
        (Mode::Cut, "unavailable", "attempts"),
        (Mode::Hang, "unavailable", "no answer in time"),
    ] {
        proxy.set(mode);
        let results = [
            ledger.append(&sample.session, &block).await.map(|_| ()),
            ledger.snapshot(&sample.session).await.map(|_| ()),
            ledger.check().await,
        ];
        for result in results {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), kind, "{mode:?}: {error}");
            let text = error.to_string();
            assert!(
                text.contains(words) && text.contains(&format!("dynamodb:{name}@us-east-2")),
                "{mode:?}: {text}"
            );
        }
    }
    proxy.set(Mode::Pass);
    assert_eq!(
        ledger.append(&sample.session, &block).await,
        Ok(Appended::Written)
    );
    ledger.check().await.unwrap();
}
