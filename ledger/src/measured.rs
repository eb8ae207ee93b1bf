//! Any ledger, with its operations counted.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use halo_receipts::evidence::{Block, Evidence, SignedRecord};
use halo_receipts::ids::SessionId;

use crate::{
    Appended, Ledger, LedgerError, LedgerMetrics, SessionQuery, SessionState, SessionSummary,
};

/// Counts what a ledger is asked and what becomes of it.
pub(crate) struct Measured {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) metrics: LedgerMetrics,
}

impl Measured {
    fn count<T>(&self, operation: &str, result: Result<T, LedgerError>) -> Result<T, LedgerError> {
        if let Err(error) = &result {
            let labels = [operation, error.kind()];
            self.metrics.errors.with_label_values(&labels).inc();
        }
        result
    }
}

#[async_trait]
impl Ledger for Measured {
    async fn open_session(
        &self,
        header: &SignedRecord,
        epoch: &SignedRecord,
    ) -> Result<(), LedgerError> {
        let result = self.ledger.open_session(header, epoch).await;
        self.count("open_session", result)
    }

    async fn claim(&self, claim: &SignedRecord) -> Result<(), LedgerError> {
        let result = self.ledger.claim(claim).await;
        self.count("claim", result)
    }

    async fn append(&self, session: &SessionId, block: &Block) -> Result<Appended, LedgerError> {
        let begun = Instant::now();
        let result = self.ledger.append(session, block).await;
        let outcome = match &result {
            Ok(Appended::Written) => "written",
            Ok(Appended::AlreadyThere) => "repeated",
            Ok(Appended::Spilled) => "spilled",
            Err(_) => "failed",
        };
        let seconds = begun.elapsed().as_secs_f64();
        let append = self.metrics.append.with_label_values(&[outcome]);
        append.observe(seconds);
        if let Err(LedgerError::Fork { stream, number }) = &result {
            self.metrics.forks.with_label_values(&["append"]).inc();
            tracing::error!(%session, %stream, number, "a fork: the ledger holds other receipts at this number");
        }
        self.count("append", result)
    }

    async fn session(&self, session: &SessionId) -> Result<Option<SessionState>, LedgerError> {
        let result = self.ledger.session(session).await;
        self.count("session", result)
    }

    async fn snapshot(&self, session: &SessionId) -> Result<Option<Evidence>, LedgerError> {
        let result = self.ledger.snapshot(session).await;
        self.count("snapshot", result)
    }

    async fn sessions(&self, query: &SessionQuery) -> Result<Vec<SessionSummary>, LedgerError> {
        let result = self.ledger.sessions(query).await;
        self.count("sessions", result)
    }

    async fn check(&self) -> Result<(), LedgerError> {
        let result = self.ledger.check().await;
        self.count("check", result)
    }

    async fn settle(&self) -> Result<(), LedgerError> {
        let result = self.ledger.settle().await;
        self.count("settle", result)
    }
}
