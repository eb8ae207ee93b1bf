//! A busy file and a full disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use halo_ledger::conformance::{Sample, assert_whole};
use halo_ledger::sqlite::Options;
use halo_ledger::{Appended, Ledger, LedgerError, SqliteLedger};
use halo_receipts::evidence::{ClaimKind, Stream};
use rusqlite::Connection;

#[tokio::test]
async fn a_busy_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let options = Options {
        busy_timeout: Duration::from_millis(20),
        ..Options::default()
    };
    let ledger = SqliteLedger::open_with(&path, options).unwrap();
    let sample = Sample::new(1, 3).unwrap();
    ledger
        .open_session(&sample.header().unwrap(), &sample.first_claim().unwrap())
        .await
        .unwrap();
    let block = sample.block(Stream::Device, 0, 1);

    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let refused = [
        ledger.append(&sample.session, &block).await.map(|_| ()),
        ledger
            .claim(&sample.claim(ClaimKind::Connection, 0, 0).unwrap())
            .await,
        ledger.check().await,
    ];
    for refused in refused {
        let Err(LedgerError::Busy(text)) = refused else {
            panic!("{refused:?}")
        };
        assert!(text.contains(&*path.display().to_string()), "{text}");
    }
    // Readers do not wait for a writer, and see that nothing was written.
    let state = ledger.session(&sample.session).await.unwrap().unwrap();
    assert_eq!(state.next_device, 0);
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(
        ledger.append(&sample.session, &block).await,
        Ok(Appended::Written)
    );
    ledger.check().await.unwrap();
}

#[tokio::test]
async fn a_writer_waits_for_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    // Far longer than the test takes: only the release of the lock ends the wait.
    let options = Options {
        busy_timeout: Duration::from_secs(600),
        ..Options::default()
    };
    let ledger = SqliteLedger::open_with(&path, options).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut check = Box::pin(ledger.check());
    let early = tokio::time::timeout(Duration::from_millis(20), &mut check).await;
    assert!(early.is_err(), "a write passed a lock");
    other.execute_batch("ROLLBACK").unwrap();
    check.await.unwrap();
}

/// A disk that fills up, by a limit on the file's pages: nothing half written, nothing lost, and it goes on after space was
/// freed.
#[tokio::test]
async fn a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let options = Options {
        max_bytes: Some(256 << 10),
        ..Options::default()
    };
    let ledger = SqliteLedger::open_with(&path, options).unwrap();
    let sample = Sample::new(1, 2000).unwrap();
    ledger
        .open_session(&sample.header().unwrap(), &sample.first_claim().unwrap())
        .await
        .unwrap();
    ledger
        .append(&sample.session, &sample.block(Stream::Device, 0, 2))
        .await
        .unwrap();
    let blocks = sample.blocks(Stream::Substrate, 64);
    let mut written = 0;
    let error = loop {
        match ledger.append(&sample.session, &blocks[written]).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, LedgerError::Full(path.display().to_string()));
    assert!(error.to_string().contains("free space"));
    assert!(written > 0, "the limit is too low for the test");
    for stream in [Stream::Device, Stream::Substrate] {
        let state = ledger.session(&sample.session).await.unwrap().unwrap();
        assert_eq!(
            (state.next_device, state.next_substrate),
            (2, written as u32 * 64),
            "{stream}"
        );
    }
    let evidence = ledger.snapshot(&sample.session).await.unwrap().unwrap();
    assert_eq!(assert_whole(&evidence).unwrap(), [2, written as u32 * 64]);
    // Still full, and still readable and whole.
    let again = ledger.append(&sample.session, &blocks[written]).await;
    assert!(matches!(again, Err(LedgerError::Full(_))), "{again:?}");
    drop(ledger);

    let ledger = SqliteLedger::open(&path).unwrap();
    for block in &blocks[written..] {
        assert_eq!(
            ledger.append(&sample.session, block).await,
            Ok(Appended::Written)
        );
    }
    let evidence = ledger.snapshot(&sample.session).await.unwrap().unwrap();
    assert_eq!(assert_whole(&evidence).unwrap(), [2, 4001]);
}

/// Writers that are made to wait by a short queue all get their turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_queue() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        queue: 1,
        ..Options::default()
    };
    let ledger = SqliteLedger::open_with(folder.path().join("ledger.db"), options).unwrap();
    let ledger = Arc::new(ledger);
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..16 {
        let ledger = ledger.clone();
        tasks.spawn(async move { crate::write(&ledger, &Sample::new(seed, 40).unwrap()).await });
    }
    tasks.join_all().await;
    let sessions = ledger.sessions(&Default::default()).await.unwrap();
    assert_eq!(
        sessions
            .iter()
            .map(|session| session.receipts)
            .collect::<Vec<_>>(),
        [84; 16]
    );
}

/// Two handles write without a pause, as a gateway and a pod do; a lock that is tried too rarely would never be free for one
/// of them, and it would give up as busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_neighbour_starves_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let [noisy, quiet] = [(); 2].map(|()| Arc::new(SqliteLedger::open(&path).unwrap()));
    let done = Arc::new(AtomicBool::new(false));
    let mut neighbours = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (noisy, done) = (Arc::clone(&noisy), Arc::clone(&done));
        neighbours.spawn(async move {
            while !done.load(Ordering::Acquire) {
                noisy.check().await.unwrap();
            }
        });
    }
    let sample = Sample::new(1, 40).unwrap();
    crate::write(&quiet, &sample).await;
    for round in 0..20 {
        quiet
            .claim(&sample.claim(ClaimKind::SubstrateLink, 0, round).unwrap())
            .await
            .unwrap();
    }
    done.store(true, Ordering::Release);
    neighbours.join_all().await;
}
