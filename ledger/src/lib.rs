//! Where receipts live: one trait, and the backends behind it.

pub mod block;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod dynamodb;
mod error;
mod measured;
mod metrics;
pub mod record;
pub mod sqlite;
mod url;

use async_trait::async_trait;
use halo_receipts::evidence::{Block, Evidence, SignedRecord};
use halo_receipts::ids::{DeviceId, Epoch, SessionId, TenantId};
use halo_receipts::time::Timestamp;

pub use error::LedgerError;
pub use metrics::LedgerMetrics;
pub use sqlite::SqliteLedger;
pub use url::{LedgerUrl, OpenOptions, open, open_read_only};

/// What became of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It was written, and is durable.
    Written,
    /// The same bytes were already there: a retry of a write that had succeeded.
    AlreadyThere,
    /// It is durable in the local spill of this program, because the ledger itself does not answer, and goes into the ledger
    /// when that is back.
    Spilled,
}

/// Where a session stands.
#[derive(Debug, Clone)]
pub struct SessionState {
    /// The header as it is stored.
    pub header: SignedRecord,
    /// The highest epoch that was claimed.
    pub last_epoch: Epoch,
    /// The number that comes next in stream `d`.
    pub next_device: u32,
    /// The number that comes next in stream `s`.
    pub next_substrate: u32,
}

/// Which sessions to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct SessionQuery {
    /// Only this tenant's.
    pub tenant: Option<TenantId>,
    /// Only those opened at this time or later.
    pub since: Option<Timestamp>,
    /// Only those opened before this time.
    pub until: Option<Timestamp>,
    /// At most this many; all of them if none is given.
    pub limit: Option<u32>,
}

/// A session in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSummary {
    /// The session.
    pub session_id: SessionId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// The device that opened it.
    pub device_id: DeviceId,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// The number of receipts in both streams.
    pub receipts: u32,
}

/// An append-only store of sessions. Nothing that was acknowledged is ever rewritten.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Writes a session's header and the claim of its first epoch, both or neither. Errors: `SessionExists`.
    async fn open_session(
        &self,
        header: &SignedRecord,
        epoch: &SignedRecord,
    ) -> Result<(), LedgerError>;

    /// Writes a claim, if nobody holds the same kind, epoch and link in its session. Errors: `Taken`, `UnknownSession`;
    /// an epoch that is not above every earlier one is `Taken` too, and so is a claim with the bytes of the one that stands:
    /// two claimants of one name and one microsecond are two. `Invalid` if it is for an epoch that nobody has claimed.
    async fn claim(&self, claim: &SignedRecord) -> Result<(), LedgerError>;

    /// Appends a block of 1 to 64 receipts, if its first number is the next one of its stream; durable on return.
    /// Repeating receipts with the same bytes succeeds, however they are cut into blocks. Errors: `Fork`, which names the
    /// first number that differs; `Gap`, also for a block that begins with what is there and goes on; `UnknownSession`;
    /// `Invalid` for a receipt of another session or stream, and for bytes that are no receipt.
    ///
    /// After any other error, and if the caller goes away, the block may or may not stand: repeat it.
    async fn append(&self, session: &SessionId, block: &Block) -> Result<Appended, LedgerError>;

    /// Header, last epoch and next numbers of a session; `None` if it is not there.
    async fn session(&self, session: &SessionId) -> Result<Option<SessionState>, LedgerError>;

    /// All of a session as of one moment; `None` if nothing of it is there.
    async fn snapshot(&self, session: &SessionId) -> Result<Option<Evidence>, LedgerError>;

    /// Sessions by tenant and time, newest first.
    async fn sessions(&self, query: &SessionQuery) -> Result<Vec<SessionSummary>, LedgerError>;

    /// Whether receipts can be written right now, by a write that changes nothing that was recorded.
    async fn check(&self) -> Result<(), LedgerError>;

    /// Waits until every block that was acknowledged from a local spill stands in the ledger itself; at once if there is no
    /// spill. For whoever ends a program: what is left in the spill goes on its way when the program starts again with it.
    async fn settle(&self) -> Result<(), LedgerError> {
        Ok(())
    }
}
