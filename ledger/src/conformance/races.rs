//! Several handles at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use halo_receipts::evidence::{ClaimKind, Stream};
use tokio::task::JoinSet;

use super::cases::open;
use super::{Backend, Failure, Sample, assert_whole};
use crate::{Appended, LedgerError};

use Stream::{Device, Substrate};

const ROUNDS: u32 = 12;

pub(super) async fn one_claim_wins(backend: &dyn Backend) -> Result<(), Failure> {
    let handles = [
        backend.open("claim race").await?,
        backend.open("claim race").await?,
    ];
    for seed in 0..u64::from(ROUNDS) {
        let sample = Arc::new(Sample::new(seed, 0)?);
        // The session itself is a race, then its connection.
        let mut opened = JoinSet::new();
        for ledger in handles.clone() {
            let (header, epoch) = (sample.header()?, sample.first_claim()?);
            opened.spawn(async move { ledger.open_session(&header, &epoch).await });
        }
        let mut results = opened.join_all().await;
        results.sort_by_key(Result::is_err);
        assert_eq!(results, [Ok(()), Err(LedgerError::SessionExists)]);
        let mut claimed = JoinSet::new();
        for (ledger, name) in handles.clone().into_iter().zip(["gateway-1", "gateway-2"]) {
            let claim = sample.claim_by(name, ClaimKind::Connection, 0, 0)?;
            claimed.spawn(async move { ledger.claim(&claim).await });
        }
        let mut results = claimed.join_all().await;
        results.sort_by_key(Result::is_err);
        assert_eq!(results, [Ok(()), Err(LedgerError::Taken)]);
    }
    Ok(())
}

pub(super) async fn one_block_wins(backend: &dyn Backend) -> Result<(), Failure> {
    let handles = [
        backend.open("block race").await?,
        backend.open("block race").await?,
    ];
    let sample = Sample::new(1, 40)?;
    let other = Sample::telling("acme", 1, 40, "What else?")?;
    open(&*handles[0], &sample).await?;
    let id = sample.session;
    let mut number = 0;
    while number < 72 {
        let blocks = [
            sample.block(Substrate, number, 6),
            other.block(Substrate, number, 6),
        ];
        let mut tasks = JoinSet::new();
        for (ledger, block) in handles.clone().into_iter().zip(blocks) {
            tasks.spawn(async move { ledger.append(&id, &block).await });
        }
        let mut results = tasks.join_all().await;
        results.sort_by_key(Result::is_err);
        let fork = LedgerError::Fork {
            stream: Substrate,
            number: u32::try_from(number)?,
        };
        assert_eq!(results, [Ok(Appended::Written), Err(fork)]);
        number += 6;
    }
    // The same block through both handles is one write and one retry.
    let block = sample.block(Device, 0, 2);
    let mut tasks = JoinSet::new();
    for ledger in handles.clone() {
        let block = block.clone();
        tasks.spawn(async move { ledger.append(&id, &block).await });
    }
    let mut results = tasks.join_all().await;
    results.sort_by_key(|result| *result != Ok(Appended::Written));
    assert_eq!(results, [Ok(Appended::Written), Ok(Appended::AlreadyThere)]);
    for ledger in handles {
        let evidence = ledger.snapshot(&id).await?.ok_or("no session")?;
        assert_eq!(evidence.next_number(Substrate), 72);
        assert_eq!(evidence.next_number(Device), 2);
    }
    Ok(())
}

/// Different epochs claimed at once: the higher one always stands, the lower one only if it came first.
pub(super) async fn epochs_only_rise(backend: &dyn Backend) -> Result<(), Failure> {
    let handles = [
        backend.open("epoch race").await?,
        backend.open("epoch race").await?,
    ];
    let sample = Sample::new(1, 0)?;
    open(&*handles[0], &sample).await?;
    let mut claimed = 1;
    for round in 0..ROUNDS {
        let claims = [round * 2 + 2, round * 2 + 1];
        let mut results = Vec::new();
        let mut tasks = JoinSet::new();
        for (at, (ledger, later)) in handles.clone().into_iter().zip(claims).enumerate() {
            let claim = sample.claim(ClaimKind::Epoch, later, 0)?;
            tasks.spawn(async move { (at, ledger.claim(&claim).await) });
        }
        results.extend(tasks.join_all().await);
        results.sort_by_key(|(at, _)| *at);
        assert_eq!(results[0].1, Ok(()), "the higher epoch is refused");
        assert!(
            matches!(results[1].1, Ok(()) | Err(LedgerError::Taken)),
            "{results:?}"
        );
        claimed += 1 + usize::from(results[1].1.is_ok());
    }
    let evidence = handles[1].snapshot(&sample.session).await?;
    assert_eq!(evidence.ok_or("no session")?.claims.len(), claimed);
    Ok(())
}

/// Writers of the same receipts with cuts of their own, each from where it believes that the stream ends.
pub(super) async fn cuts_do_not_mix(backend: &dyn Backend) -> Result<(), Failure> {
    let sample = Arc::new(Sample::new(1, 60)?);
    let all = sample.substrate_receipts.len();
    let mut tasks = JoinSet::new();
    for cut in [3, 5, 8] {
        let ledger = backend.open("cuts").await?;
        // The first one opens; the others find the session there.
        let _ = open(&*ledger, &sample).await;
        let sample = Arc::clone(&sample);
        tasks.spawn(async move {
            let mut next = 0;
            while next < all {
                let block = sample.block(Substrate, next, cut);
                match ledger.append(&sample.session, &block).await {
                    Ok(_) => next += block.receipts.len(),
                    Err(LedgerError::Gap { expected, .. }) => next = expected as usize,
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
    }
    for result in tasks.join_all().await {
        result?;
    }
    let evidence = backend
        .open("cuts")
        .await?
        .snapshot(&sample.session)
        .await?;
    let evidence = evidence.ok_or("no session")?;
    let mut end = 0;
    for block in &evidence.blocks {
        assert_eq!(block.first, end, "two cuts stand beside each other");
        end += u32::try_from(block.ids.len())?;
    }
    let found = evidence.receipts(Substrate).map(|(_, stored)| stored);
    assert!(found.eq(&sample.substrate_receipts));
    Ok(())
}

pub(super) async fn many_writers(backend: &dyn Backend) -> Result<(), Failure> {
    let handles = [
        backend.open("many writers").await?,
        backend.open("many writers").await?,
    ];
    let mut tasks = JoinSet::new();
    for seed in 0..24u64 {
        let ledger = handles[usize::from(seed % 2 == 1)].clone();
        tasks.spawn(async move {
            let sample = Sample::new(seed, 20)?;
            open(&*ledger, &sample).await?;
            for block in [sample.block(Device, 0, 2)]
                .into_iter()
                .chain(sample.blocks(Substrate, 8))
            {
                assert_eq!(
                    ledger.append(&sample.session, &block).await?,
                    Appended::Written
                );
            }
            ledger
                .append(&sample.session, &sample.block(Device, 2, 1))
                .await?;
            Ok::<_, Failure>(sample.session)
        });
    }
    for session in tasks.join_all().await {
        let evidence = handles[0].snapshot(&session?).await?.ok_or("no session")?;
        assert_eq!(assert_whole(&evidence)?, [3, 41]);
    }
    Ok(())
}

/// While one handle writes, another one reads: whole blocks, no gap, a chain that holds, and nothing that goes away again.
pub(super) async fn a_live_reader(backend: &dyn Backend) -> Result<(), Failure> {
    let (writer, reader) = (backend.open("live").await?, backend.open("live").await?);
    let sample = Arc::new(Sample::new(1, 300)?);
    open(&*writer, &sample).await?;
    let done = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (sample, done) = (Arc::clone(&sample), Arc::clone(&done));
        async move {
            let mut result = Ok(Appended::Written);
            for block in [sample.block(Device, 0, 2)]
                .into_iter()
                .chain(sample.blocks(Substrate, 5))
            {
                result = writer.append(&sample.session, &block).await;
                if result.is_err() {
                    break;
                }
            }
            done.store(true, Ordering::Release);
            result
        }
    });
    let mut seen = [0, 0];
    loop {
        let last = done.load(Ordering::Acquire);
        let evidence = reader
            .snapshot(&sample.session)
            .await?
            .ok_or("no session")?;
        let next = assert_whole(&evidence)?;
        assert!(
            next[0] >= seen[0] && next[1] >= seen[1],
            "a receipt that was seen went away"
        );
        assert!(
            next[0] == 2 || next[1] == 0,
            "the streams are not of one moment"
        );
        seen = next;
        if last {
            break;
        }
    }
    assert_eq!(writing.await??, Appended::Written);
    assert_eq!(seen, [2, 601], "what was acknowledged is seen");
    Ok(())
}
