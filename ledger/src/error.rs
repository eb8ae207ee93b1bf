//! What can go wrong with a ledger.

use halo_receipts::evidence::Stream;

/// Why a ledger did not do what it was asked. Texts name the ledger and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The session is already there.
    #[error("the session is already in the ledger")]
    SessionExists,
    /// The session is not there.
    #[error("the session is not in the ledger")]
    UnknownSession,
    /// Another writer holds the claim.
    #[error("the claim is already taken")]
    Taken,
    /// Other receipts already stand under the block's numbers: two writers, or a writer that forgot.
    #[error("stream {stream} already holds other receipts at number {number}")]
    Fork {
        /// The stream.
        stream: Stream,
        /// The number at which the receipts differ.
        number: u32,
    },
    /// The block would leave a gap before it, or begins with receipts that are already there and goes on with new ones.
    #[error("stream {stream} continues at number {expected}, not at {found}")]
    Gap {
        /// The stream.
        stream: Stream,
        /// The number that comes next.
        expected: u32,
        /// The number of the block.
        found: u32,
    },
    /// A record or a block that is not what it must be.
    #[error("not written: {0}")]
    Invalid(String),
    /// The storage is full; nothing was written.
    #[error("the ledger's disk is full; free space at {0}")]
    Full(String),
    /// The storage is held by another process for longer than the time-out; nothing was written.
    #[error("the ledger is busy: {0}")]
    Busy(String),
    /// The file was written by a newer version.
    #[error(
        "the ledger {path} has schema version {found}, and this program knows versions up to {known}; use a newer program"
    )]
    Newer {
        /// The ledger.
        path: String,
        /// The file's version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// There is no ledger where one was to be read.
    #[error("there is no ledger at {0}; check the path, or start the program that writes it")]
    Missing(String),
    /// A ledger that was opened for reading was asked to write.
    #[error("the ledger {0} was opened for reading only")]
    ReadOnly(String),
    /// A ledger's name that cannot be read.
    #[error(
        "{0:?} names no ledger; write sqlite:PATH or dynamodb:TABLE@REGION, for example sqlite:/var/lib/halo/ledger.db or \
         dynamodb:howdify-receipts@us-east-2"
    )]
    Url(String),
    /// The ledger cannot be reached, or is too busy, for longer than is waited for. What was asked for may have been done
    /// all the same: an append can be repeated.
    #[error("the ledger does not answer: {0}")]
    Unavailable(String),
    /// The ledger refuses this program: no credentials, or not the rights that are needed.
    #[error("the ledger refuses access: {0}")]
    Denied(String),
    /// Anything else that the storage reports.
    #[error("the ledger cannot be used: {0}")]
    Storage(String),
}

impl LedgerError {
    /// The error's kind as a word, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            LedgerError::SessionExists => "session_exists",
            LedgerError::UnknownSession => "unknown_session",
            LedgerError::Taken => "taken",
            LedgerError::Fork { .. } => "fork",
            LedgerError::Gap { .. } => "gap",
            LedgerError::Invalid(_) => "invalid",
            LedgerError::Full(_) => "full",
            LedgerError::Busy(_) => "busy",
            LedgerError::Newer { .. } => "newer",
            LedgerError::Missing(_) => "missing",
            LedgerError::ReadOnly(_) => "read_only",
            LedgerError::Url(_) => "url",
            LedgerError::Unavailable(_) => "unavailable",
            LedgerError::Denied(_) => "denied",
            LedgerError::Storage(_) => "storage",
        }
    }
}
