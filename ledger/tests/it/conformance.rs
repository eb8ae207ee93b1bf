//! The suite of every backend, on SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use halo_ledger::conformance::{self, Backend};
use halo_ledger::{Ledger, LedgerError, SqliteLedger};

struct Folder(tempfile::TempDir);

#[async_trait]
impl Backend for Folder {
    async fn open(&self, name: &str) -> Result<Arc<dyn Ledger>, LedgerError> {
        Ok(Arc::new(SqliteLedger::open(self.0.path().join(name))?))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_is_a_ledger() {
    let folder = Folder(tempfile::tempdir().unwrap());
    conformance::run(&folder).await.unwrap();
}
