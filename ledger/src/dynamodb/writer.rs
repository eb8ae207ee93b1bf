//! What is written: each thing one conditional put of one item.
//!
//! # Why two writers of a stream can never both succeed
//! A put sees only what stands under its own key. That suffices, because a block is put at number `n` only by a writer that knows
//! that `n` is 0 or that a block ends before `n`, and blocks never change. So every block but the first begins where another one
//! ends; only one can begin at each number; and so the blocks of a stream are one chain from 0, whatever the writers' cuts. A
//! writer with other cuts meets a taken number or asks for one at which nothing ends, which is a fork or a gap.

use std::time::Duration;

use halo_receipts::evidence::{Claim, ClaimKind, Header, SignedRecord};
use halo_receipts::ids::SessionId;

use super::client::Put;
use super::item::{self, ITEM_MAX, WriteId};
use super::{Shared, keys};
use crate::record::{Prepared, Repeated};
use crate::{Appended, LedgerError};

/// How often a claim of an epoch is tried again after another writer took the next place. Each time that writer's epoch is read,
/// and a lower one of this writer is refused.
const PLACES: u32 = 32;

/// 16 bytes that no other write has.
pub fn write_id() -> Result<WriteId, LedgerError> {
    let mut id = WriteId::default();
    getrandom::fill(&mut id).map_err(|error| {
        LedgerError::Storage(format!("the system gives no randomness: {error}"))
    })?;
    Ok(id)
}

/// A session's header and first epoch, in one item: both or neither.
pub async fn open(
    shared: &Shared,
    header: &Header,
    record: &SignedRecord,
    epoch: &SignedRecord,
) -> Result<(), LedgerError> {
    let write = write_id()?;
    let item = item::header(header, record, epoch, &write);
    let put = shared.client.put(item, shared.patience).await?;
    let known = &shared.known;
    known.exists(&header.session_id);
    match put {
        Put::Stands(stands) if !item::is_own(&stands, &write) => Err(LedgerError::SessionExists),
        Put::Written | Put::Stands(_) => {
            known.claimed(&header.session_id, header.session_epoch.0);
            Ok(())
        }
    }
}

/// A claim.
pub async fn claim(
    shared: &Shared,
    claim: &Claim,
    record: &SignedRecord,
) -> Result<(), LedgerError> {
    match claim.kind {
        ClaimKind::Epoch => claim_epoch(shared, claim, record).await,
        ClaimKind::Connection | ClaimKind::SubstrateLink => claim_link(shared, claim, record).await,
    }
}

async fn claim_epoch(
    shared: &Shared,
    claim: &Claim,
    record: &SignedRecord,
) -> Result<(), LedgerError> {
    let (client, patience) = (&shared.client, shared.patience);
    let session = &claim.session_id;
    let header = client.header(session, patience).await?;
    let first = header.ok_or(LedgerError::UnknownSession)?;
    let first = item::read_epoch(&first);
    for _ in 0..PLACES {
        let last = client.last_epoch(session, patience).await?;
        let (place, highest) = match last {
            Some((place, epoch)) => (place, epoch.max(first)),
            None => (0, first),
        };
        if highest.is_some_and(|highest| claim.session_epoch.0 <= highest) {
            return Err(LedgerError::Taken);
        }
        let place = place.checked_add(1).ok_or(LedgerError::Taken)?;
        let write = write_id()?;
        let item = item::claim(claim, record, keys::epoch(place), &write);
        match client.put(item, patience).await? {
            Put::Stands(stands) if !item::is_own(&stands, &write) => {}
            Put::Written | Put::Stands(_) => {
                shared.known.claimed(session, claim.session_epoch.0);
                return Ok(());
            }
        }
    }
    Err(LedgerError::Busy(format!(
        "others claim epochs of session {session} without a pause"
    )))
}

async fn claim_link(
    shared: &Shared,
    claim: &Claim,
    record: &SignedRecord,
) -> Result<(), LedgerError> {
    let (client, patience) = (&shared.client, shared.patience);
    let (session, epoch) = (&claim.session_id, claim.session_epoch);
    let known = shared.known.of(session).and_then(|facts| facts.epoch);
    if known != Some(epoch.0) {
        let claimed = client.is_claimed(session, epoch.0, patience).await?;
        if !claimed.ok_or(LedgerError::UnknownSession)? {
            let cause = format!("nobody has claimed epoch {epoch}");
            return Err(LedgerError::Invalid(cause));
        }
        shared.known.claimed(session, epoch.0);
    }
    let write = write_id()?;
    let sk = keys::claim(epoch, claim.kind, claim.link);
    let item = item::claim(claim, record, sk, &write);
    match client.put(item, patience).await? {
        Put::Stands(stands) if !item::is_own(&stands, &write) => Err(LedgerError::Taken),
        Put::Written | Put::Stands(_) => Ok(()),
    }
}

/// Refuses a block that makes an item which DynamoDB does not take, before it is sent, and before it is acknowledged from a
/// spill that could never be drained.
pub fn fits(session: &SessionId, block: &Prepared, write: &WriteId) -> Result<(), LedgerError> {
    match item::size(&item::block(session, block, write)) {
        ..=ITEM_MAX => Ok(()),
        size => Err(LedgerError::Invalid(format!(
            "the block: it makes an item of {size} bytes, and at most {ITEM_MAX} are allowed: cut the block smaller"
        ))),
    }
}

/// A block, straight into the table. `write` is the same in every attempt to write this block.
pub async fn append(
    shared: &Shared,
    session: &SessionId,
    block: &Prepared,
    write: &WriteId,
    patience: Duration,
) -> Result<Appended, LedgerError> {
    let (client, known) = (&shared.client, &shared.known);
    let start = known
        .of(session)
        .map(|facts| facts.starts[block.stream as usize]);
    if start != Some(block.first) {
        let next = next_number(shared, session, block, patience).await?;
        if block.first > next {
            return Err(block.gap(next));
        }
        if block.first < next {
            return repeated(shared, session, block, next, patience).await;
        }
    }
    let item = item::block(session, block, write);
    let put = client.put(item, patience).await?;
    match put {
        Put::Stands(stands) if !item::is_own(&stands, write) => {
            let next = next_number(shared, session, block, patience).await?;
            repeated(shared, session, block, next, patience).await
        }
        Put::Written | Put::Stands(_) => {
            known.ends(session, block.stream, block.end());
            Ok(Appended::Written)
        }
    }
}

/// Where the stream of a block ends now.
async fn next_number(
    shared: &Shared,
    session: &SessionId,
    block: &Prepared,
    patience: Duration,
) -> Result<u32, LedgerError> {
    let (client, known) = (&shared.client, &shared.known);
    if known.of(session).is_none() {
        let header = client.header(session, patience).await?;
        header.ok_or(LedgerError::UnknownSession)?;
        known.exists(session);
    }
    let last = client.last_block(session, block.stream, patience).await?;
    let next = last.map_or(0, |(_, end)| end);
    known.ends(session, block.stream, next);
    Ok(next)
}

/// A block whose first number is taken: a retry, or a fork.
async fn repeated(
    shared: &Shared,
    session: &SessionId,
    block: &Prepared,
    next: u32,
    patience: Duration,
) -> Result<Appended, LedgerError> {
    let mut repeated = Repeated::new(block, session, next);
    loop {
        let number = match repeated.step() {
            Ok(number) => number,
            Err(outcome) => return outcome,
        };
        let at = shared
            .client
            .block_at(session, block.stream, number, patience);
        repeated.compare(number, at.await?.as_ref())?;
    }
}
