//! What every ledger must do, as a suite that takes any backend.
//!
//! Behind the feature `conformance`. A test implements [`Backend`] and calls [`run`]; a check that fails panics, as
//! assertions do.

mod cases;
mod races;
mod sample;

use std::sync::Arc;

use async_trait::async_trait;
use halo_receipts::chain::{Chain, Event};
use halo_receipts::evidence::{Evidence, Header};
use halo_receipts::receipt::Receipt;

use crate::{Ledger, LedgerError};
pub use sample::{Failure, ROOT, Sample};

/// Opens ledgers for the suite.
#[async_trait]
pub trait Backend: Sync {
    /// A new handle to the ledger of this name, as another process would have one. A name that was not used before is an
    /// empty ledger.
    async fn open(&self, name: &str) -> Result<Arc<dyn Ledger>, LedgerError>;
}

/// Runs every check.
///
/// # Panics
/// If the backend does not do what a ledger must do.
pub async fn run(backend: &dyn Backend) -> Result<(), Failure> {
    cases::opening(backend).await?;
    cases::claims(backend).await?;
    cases::appending(backend).await?;
    cases::repeating(backend).await?;
    cases::refusing(backend).await?;
    cases::reading(backend).await?;
    cases::listing(backend).await?;
    cases::reopening(backend).await?;
    races::one_claim_wins(backend).await?;
    races::one_block_wins(backend).await?;
    races::epochs_only_rise(backend).await?;
    races::cuts_do_not_mix(backend).await?;
    races::many_writers(backend).await?;
    races::a_live_reader(backend).await
}

/// Checks what a reader may see of a session at any moment: nothing unreadable, no gap, ids that are those of the
/// receipts, and a chain that holds. Returns the next numbers of both streams.
///
/// # Panics
/// If one of these does not hold.
pub fn assert_whole(evidence: &Evidence) -> Result<[u32; 2], Failure> {
    let header: Header = evidence.header.as_ref().ok_or("no header")?.parse()?;
    let mut next = [0; 2];
    for block in &evidence.blocks {
        let content = block.content.as_ref().map_err(|reason| reason.clone())?;
        let next = &mut next[block.stream as usize];
        assert_eq!(block.first, *next, "a gap in stream {}", block.stream);
        *next += u32::try_from(content.len())?;
        let ids: Vec<_> = content
            .iter()
            .map(|stored| Receipt::parse(&stored.bytes).map(|receipt| receipt.body.receipt_id))
            .collect::<Result<_, _>>()?;
        assert_eq!(
            block.ids, ids,
            "the ids beside a block are not those of its receipts"
        );
    }
    let mut chain = Chain::new(header.session_id, header.tenant_id);
    for (_, _, stored) in evidence.in_causal_order() {
        let receipt = Receipt::parse(&stored.bytes)?;
        let event = Event::read(&receipt.body, stored.payload.as_deref())?;
        chain.accept(&receipt, &event)?;
    }
    Ok(next)
}
