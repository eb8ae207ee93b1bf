//! DynamoDB away: blocks wait in the local spill, and go into the ledger in their order.

use std::path::Path;
use std::time::Duration;

use halo_ledger::conformance::{Sample, assert_whole};
use halo_ledger::dynamodb::{DynamoLedger, Options};
use halo_ledger::{Appended, Ledger as _, LedgerError};
use halo_receipts::evidence::{ClaimKind, Stream};
use halo_telemetry::registry::Maker;
use rusqlite::Connection;

use super::proxy::{Mode, Proxy};
use super::{ask, begin, counted, hasty, metric, open, table, until};

use Stream::{Device, Substrate};

pub struct Spilling {
    pub proxy: Proxy,
    pub table: String,
    pub folder: tempfile::TempDir,
    pub ledger: DynamoLedger,
    pub maker: Maker,
}

pub async fn spilling(options: Options) -> Spilling {
    let (proxy, table) = (Proxy::start().await, table().await);
    let folder = tempfile::tempdir().unwrap();
    let (ledger, maker) = reopen(&proxy, &table, folder.path(), options).await;
    Spilling {
        proxy,
        table,
        folder,
        ledger,
        maker,
    }
}

async fn reopen(
    proxy: &Proxy,
    table: &str,
    folder: &Path,
    options: Options,
) -> (DynamoLedger, Maker) {
    let (options, maker) = counted(Options {
        spill: Some(folder.to_owned()),
        ..options
    });
    let environment = proxy.environment().await;
    let mut opened = None;
    // The task of a handle that was dropped lets go of the file a moment later.
    until("the spill stays locked", async || {
        match DynamoLedger::open_on(&environment, table, options.clone()).await {
            Ok(ledger) => opened = Some(ledger),
            Err(error) => assert!(matches!(error, LedgerError::Busy(_)), "{error}"),
        }
        opened.is_some()
    })
    .await;
    (opened.unwrap(), maker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_wait_and_are_drained_in_order() {
    let Spilling {
        proxy,
        table,
        ledger,
        maker,
        folder: _folder,
    } = spilling(hasty()).await;
    let sample = Sample::new(1, 100).unwrap();
    begin(&ledger, &sample).await;
    let id = &sample.session;
    assert_eq!(
        ledger.append(id, &sample.block(Device, 0, 2)).await,
        Ok(Appended::Written)
    );
    assert_eq!(
        ledger.append(id, &sample.block(Substrate, 0, 8)).await,
        Ok(Appended::Written)
    );

    proxy.set(Mode::Cut);
    let mut first = 8;
    while first < 96 {
        let block = sample.block(Substrate, first, 8);
        assert_eq!(
            ledger.append(id, &block).await,
            Ok(Appended::Spilled),
            "{first}"
        );
        first += 8;
    }
    // What waits is known: a retry, a fork, a gap; what stands in the ledger alone is not.
    let again = ledger.append(id, &sample.block(Substrate, 20, 30)).await;
    assert_eq!(again, Ok(Appended::AlreadyThere));
    let other = Sample::telling("acme", 1, 100, "What else?").unwrap();
    let fork = ledger.append(id, &other.block(Substrate, 24, 8)).await;
    assert_eq!(
        fork,
        Err(LedgerError::Fork {
            stream: Substrate,
            number: 24
        })
    );
    let gap = ledger.append(id, &sample.block(Substrate, 104, 8)).await;
    assert_eq!(
        gap,
        Err(LedgerError::Gap {
            stream: Substrate,
            expected: 96,
            found: 104
        })
    );
    for unknown in [sample.block(Substrate, 0, 8), sample.block(Device, 1, 1)] {
        let refused = ledger.append(id, &unknown).await;
        assert!(
            matches!(refused, Err(LedgerError::Unavailable(_))),
            "{refused:?}"
        );
    }
    // Openings and claims are never spilled.
    let next = Sample::new(2, 1).unwrap();
    let opened = ledger
        .open_session(&next.header().unwrap(), &next.first_claim().unwrap())
        .await;
    assert!(
        matches!(opened, Err(LedgerError::Unavailable(_))),
        "{opened:?}"
    );
    let claimed = ledger
        .claim(&sample.claim(ClaimKind::Connection, 0, 0).unwrap())
        .await;
    assert!(
        matches!(claimed, Err(LedgerError::Unavailable(_))),
        "{claimed:?}"
    );
    // Receipts can be written, and that is what is asked.
    ledger.check().await.unwrap();
    assert_eq!(
        metric(&maker, "halo_ledger_spill_blocks{state=\"waiting\"}"),
        11.0
    );
    assert_eq!(metric(&maker, "halo_ledger_spilled_blocks_total"), 11.0);
    assert!(metric(&maker, "halo_ledger_spill_bytes") > 0.0);
    assert!(metric(&maker, "halo_ledger_spill_oldest_seconds") > 0.0);

    // Slow at first: what waits is seen through this handle, whatever part of it stands in the table already.
    proxy.set(Mode::Pass);
    let mut next = 8;
    until("the spill is not drained", async || {
        let Ok(Some(evidence)) = ledger.snapshot(id).await else {
            return false;
        };
        assert_eq!(assert_whole(&evidence).unwrap(), [2, 96]);
        let state = ledger.session(id).await.unwrap().unwrap();
        assert_eq!((state.next_device, state.next_substrate), (2, 96));
        let beside = open(&table, Options::default())
            .await
            .snapshot(id)
            .await
            .unwrap()
            .unwrap();
        let [_, seen] = assert_whole(&beside).unwrap();
        assert!(seen >= next, "a receipt that was seen went away");
        next = seen;
        seen == 96
    })
    .await;
    ledger.settle().await.unwrap();
    assert_eq!(metric(&maker, "halo_ledger_drained_blocks_total"), 11.0);
    assert_eq!(
        metric(&maker, "halo_ledger_spill_blocks{state=\"waiting\"}"),
        0.0
    );
    assert_eq!(metric(&maker, "halo_ledger_spill_bytes"), 0.0);
    // And straight on.
    let block = sample.block(Substrate, 96, 64);
    assert_eq!(ledger.append(id, &block).await, Ok(Appended::Written));
    assert_eq!(
        ledger.append(id, &sample.block(Device, 2, 1)).await,
        Ok(Appended::Written)
    );
}

/// Many streams at once, an answer that is lost at the worst moment, and throttling beyond patience.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_written_twice() {
    let Spilling {
        proxy,
        ledger,
        folder: _folder,
        ..
    } = spilling(hasty()).await;
    let samples: Vec<_> = (0..12).map(|seed| Sample::new(seed, 40).unwrap()).collect();
    for sample in &samples {
        ask(&ledger, sample).await;
    }
    for (round, mode) in [
        Mode::LoseAnswer,
        Mode::Hang,
        Mode::Pass,
        Mode::Refuse("ThrottlingException"),
        Mode::Cut,
    ]
    .into_iter()
    .enumerate()
    {
        proxy.set(mode);
        let appends = samples.iter().map(|sample| {
            let (ledger, block) = (&ledger, sample.block(Substrate, round * 16, 16));
            async move { ledger.append(&sample.session, &block).await }
        });
        for appended in futures_util::future::join_all(appends).await {
            assert!(
                matches!(appended, Ok(Appended::Written | Appended::Spilled)),
                "{mode:?}: {appended:?}"
            );
        }
    }
    proxy.set(Mode::Pass);
    ledger.settle().await.unwrap();
    for sample in &samples {
        let evidence = ledger.snapshot(&sample.session).await.unwrap().unwrap();
        assert_eq!(assert_whole(&evidence).unwrap(), [2, 80]);
        let found = evidence.receipts(Substrate).map(|(_, stored)| stored);
        assert!(found.eq(&sample.substrate_receipts[..80]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spill_makes_writers_wait() {
    let options = Options {
        spill_max_bytes: 8 << 10,
        ..hasty()
    };
    let Spilling {
        proxy,
        ledger,
        folder: _folder,
        ..
    } = spilling(options).await;
    let sample = Sample::new(1, 200).unwrap();
    ask(&ledger, &sample).await;
    proxy.set(Mode::Cut);
    let mut first = 0;
    let error = loop {
        match ledger
            .append(&sample.session, &sample.block(Substrate, first, 8))
            .await
        {
            Ok(appended) => assert_eq!(appended, Appended::Spilled),
            Err(error) => break error,
        }
        first += 8;
    };
    assert!(first > 0 && first < 200, "{first}");
    assert!(
        matches!(&error, LedgerError::Unavailable(text) if text.contains("is full")),
        "{error}"
    );
    // Nothing more is acknowledged, and health says so as soon as not even a small block fits.
    let before = first;
    let waiting = ledger
        .append(&sample.session, &sample.block(Substrate, first, 8))
        .await;
    assert!(
        matches!(waiting, Err(LedgerError::Unavailable(_))),
        "{waiting:?}"
    );
    proxy.set(Mode::Pass);
    ledger.settle().await.unwrap();
    while first < 400 {
        let appended = ledger
            .append(&sample.session, &sample.block(Substrate, first, 8))
            .await;
        assert!(
            matches!(appended, Ok(Appended::Written | Appended::Spilled)),
            "{appended:?}"
        );
        first += 8;
    }
    ledger.settle().await.unwrap();
    let evidence = ledger.snapshot(&sample.session).await.unwrap().unwrap();
    assert_eq!(assert_whole(&evidence).unwrap(), [2, 400]);
    assert!(before < 400);
}

/// Another writer writes where a spilled block belongs: an alarm, and the block stays as evidence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_that_is_found_while_draining() {
    let Spilling {
        proxy,
        table,
        folder,
        ledger,
        maker,
    } = spilling(hasty()).await;
    let sample = Sample::new(1, 40).unwrap();
    let other = Sample::telling("acme", 1, 40, "What else?").unwrap();
    let beside = open(&table, Options::default()).await;
    begin(&ledger, &sample).await;
    let id = &sample.session;
    ledger
        .append(id, &sample.block(Device, 0, 2))
        .await
        .unwrap();
    proxy.set(Mode::Cut);
    for first in [0, 8] {
        let block = sample.block(Substrate, first, 8);
        assert_eq!(ledger.append(id, &block).await, Ok(Appended::Spilled));
    }
    assert_eq!(
        beside.append(id, &other.block(Substrate, 0, 8)).await,
        Ok(Appended::Written)
    );
    proxy.set(Mode::Pass);
    ledger.settle().await.unwrap();
    let fork = LedgerError::Fork {
        stream: Substrate,
        number: 0,
    };
    assert_eq!(
        metric(&maker, "halo_ledger_forks_total{found=\"drain\"}"),
        1.0
    );
    assert_eq!(
        metric(&maker, "halo_ledger_spill_blocks{state=\"kept\"}"),
        2.0
    );
    assert_eq!(
        ledger.append(id, &sample.block(Substrate, 16, 8)).await,
        Err(fork)
    );
    // The ledger holds the other writer's, this handle reads what the ledger holds, and the other stream goes on.
    for reader in [&ledger, &beside] {
        let evidence = reader.snapshot(id).await.unwrap().unwrap();
        assert_eq!(evidence.blocks.len(), 2);
        assert_eq!(
            evidence.blocks[1].content,
            Ok(other.block(Substrate, 0, 8).receipts)
        );
    }
    assert_eq!(
        ledger.append(id, &sample.block(Device, 2, 1)).await,
        Ok(Appended::Written)
    );
    // The file tells why, also after a restart.
    drop(ledger);
    let (ledger, maker) = reopen(&proxy, &table, folder.path(), hasty()).await;
    assert_eq!(
        metric(&maker, "halo_ledger_spill_blocks{state=\"kept\"}"),
        2.0
    );
    let refused = ledger.append(id, &sample.block(Substrate, 16, 8)).await;
    assert!(
        matches!(&refused, Err(LedgerError::Storage(text)) if text.contains("other receipts at number 0")),
        "{refused:?}"
    );
    let db = Connection::open(folder.path().join("spill.db")).unwrap();
    let kept: i64 = db
        .query_row(
            "SELECT count(*) FROM block WHERE kept LIKE '%number 0%'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(kept, 2);
}

/// Missing rights are no outage: nothing is acknowledged that may never get there.
#[tokio::test]
async fn what_is_refused_is_not_spilled() {
    let Spilling {
        proxy,
        folder,
        ledger,
        table,
        ..
    } = spilling(hasty()).await;
    let sample = Sample::new(1, 40).unwrap();
    begin(&ledger, &sample).await;
    proxy.set(Mode::Refuse("AccessDeniedException"));
    let refused = ledger
        .append(&sample.session, &sample.block(Substrate, 0, 8))
        .await;
    assert!(
        matches!(refused, Err(LedgerError::Denied(_))),
        "{refused:?}"
    );
    assert!(matches!(ledger.check().await, Err(LedgerError::Denied(_))));
    // One file is one program's.
    let options = Options {
        spill: Some(folder.path().to_owned()),
        ..hasty()
    };
    let second = DynamoLedger::open_on(&proxy.environment().await, &table, options).await;
    assert!(matches!(second.err(), Some(LedgerError::Busy(_))));
    drop(ledger);
    // And no other program's database.
    let foreign = tempfile::tempdir().unwrap();
    let path = foreign.path().join("other.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE x (y)")
        .unwrap();
    let options = Options {
        spill: Some(path),
        patience: Duration::from_secs(1),
        ..hasty()
    };
    let refused = DynamoLedger::open_on(&proxy.environment().await, &table, options).await;
    let text = refused.err().unwrap().to_string();
    assert!(text.contains("another program"), "{text}");
    // And no file whose blocks this program does not read.
    for (version, advice) in [
        (1, "let the program that wrote it drain it"),
        (3, "use a newer program"),
    ] {
        let path = foreign.path().join(format!("{version}.db"));
        Connection::open(&path)
            .unwrap()
            .execute_batch(&format!("CREATE TABLE block (x); PRAGMA application_id = 0x48414C53; PRAGMA user_version = {version}"))
            .unwrap();
        let options = Options {
            spill: Some(path),
            ..hasty()
        };
        let refused = DynamoLedger::open_on(&proxy.environment().await, &table, options).await;
        let text = refused.err().unwrap().to_string();
        assert!(text.contains(advice), "{text}");
    }
}
