//! The embedded ledger: one SQLite file that several processes write and read at once.
//!
//! WAL and synchronous=FULL: what was acknowledged survives the kill of the process and the loss of power, and readers see
//! one moment of a ledger that is being written. The file must stand on a local disk of one host; WAL does not work on a
//! network file system.
//!
//! # Layout, for whoever reads it with `sqlite3`
//! | table | key | columns |
//! | --- | --- | --- |
//! | `session` | `session_id` | `tenant_id`, `device_id`, `opened_at` (copies for searching); `body`, `mac`: the header as it was signed |
//! | `claim` | `session_id`, `epoch`, `kind`, `link` | `body`, `mac`: the claim as it was signed; `kind` is `epoch`, `connection` or `substrate_link` |
//! | `block` | `session_id`, `stream`, `first` | `count`: receipts in the block; `ids`: 16 bytes for each; `content`: the receipts, as [`crate::block`] says |
//! | `receipt` | `session_id`, `stream`, `number` | the eleven fields of the receipts of tiers 0 and 1 and of every answer, as text: copies for searching |
//!
//! `stream` is `d` or `s`. `PRAGMA application_id` is 0x48414C4F (`HALO`), `PRAGMA user_version` is the version of the
//! schema, 1. Triggers named `<table>_no_update`, `<table>_no_delete` and `<table>_no_replace` refuse every change of what
//! was written, and `block_next_number` every block that is not the next one of its stream. They keep honest programs from
//! accidents; whoever may write the file may drop them, and what that person changes is found by the verifier, not here.
//!
//! A program that damages a copy on purpose, to show that this is found, does what such a person would do: `DROP TRIGGER
//! block_no_update`, read `ids` and `content`, [`crate::block::decode`] them, change a byte of a receipt or a payload,
//! [`crate::block::encode`] it with the same ids, and `UPDATE block SET content = ?` at the same key.
//!
//! To copy a ledger that is in use: `sqlite3 ledger.db "VACUUM INTO 'copy.db'"`.

pub(crate) mod fault;
mod reader;
mod schema;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use halo_receipts::evidence::{Block, Evidence, SignedRecord};
use halo_receipts::ids::SessionId;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::{Appended, Ledger, LedgerError, SessionQuery, SessionState, SessionSummary, record};
use reader::ReadError;
use writer::{Job, Task, Writer};

/// The newest version of the schema that this program reads and writes.
pub const SCHEMA_VERSION: i64 = schema::VERSION;

/// What can be chosen when a ledger is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long to wait for a lock that another process holds before [`LedgerError::Busy`]. 5 s unless told.
    pub busy_timeout: Duration,
    /// How many writes may wait before whoever asks for another one is made to wait, too. 1024 unless told.
    pub queue: usize,
    /// The most bytes that the file may take before [`LedgerError::Full`]. None unless told.
    pub max_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            busy_timeout: Duration::from_secs(5),
            queue: 1024,
            max_bytes: None,
        }
    }
}

/// A ledger in a SQLite file. Its methods must be called within a tokio runtime. A write whose caller goes away may still
/// be written; repeating it is safe.
pub struct SqliteLedger {
    path: PathBuf,
    readers: Arc<Readers>,
    /// None for a ledger that was opened for reading.
    writer: Option<WriterHandle>,
}

struct WriterHandle {
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
}

/// Connections that wait to be used again.
struct Readers {
    path: PathBuf,
    patience: Duration,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    /// Idle connections that are kept; a burst of readers opens more and closes them again.
    const KEPT: usize = 8;

    fn new(path: &Path, options: &Options) -> Arc<Self> {
        let idle = Mutex::default();
        Arc::new(Self {
            path: path.to_owned(),
            patience: options.busy_timeout,
            idle,
        })
    }

    fn with<T>(
        &self,
        read: impl FnOnce(&mut Connection) -> Result<T, ReadError>,
    ) -> Result<T, LedgerError> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut db = match idle {
            Some(db) => db,
            None => schema::open_read_only(&self.path, self.patience)?,
        };
        let value = read(&mut db).map_err(|error| match error {
            ReadError::Sql(error) => fault::storage(&self.path, &error),
            ReadError::Row(row) => LedgerError::Storage(format!("{}: {row}", self.path.display())),
        })?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < Self::KEPT {
            idle.push(db);
        }
        Ok(value)
    }
}

impl SqliteLedger {
    /// Opens a ledger for reading and writing, and creates it if it is missing. Its folder must be there.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LedgerError> {
        Self::open_with(path, Options::default())
    }

    /// The same with other options.
    pub fn open_with(path: impl AsRef<Path>, options: Options) -> Result<Self, LedgerError> {
        let path = path.as_ref();
        let db = schema::open(path, options.busy_timeout)?;
        if let Some(max_bytes) = options.max_bytes {
            limit(&db, max_bytes).map_err(|error| fault::storage(path, &error))?;
        }
        let (jobs, queue) = mpsc::channel(options.queue.max(1));
        let writer = Writer {
            db,
            path: path.to_owned(),
            patience: options.busy_timeout,
        };
        let thread = std::thread::Builder::new()
            .name("ledger-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| {
                LedgerError::Storage(format!("the writer's thread does not start: {error}"))
            })?;
        let writer = Some(WriterHandle { jobs, thread });
        let readers = Readers::new(path, &options);
        Ok(Self {
            path: path.to_owned(),
            readers,
            writer,
        })
    }

    /// Opens a ledger that exists, for reading; other programs may go on writing it.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self, LedgerError> {
        Self::open_read_only_with(path, Options::default())
    }

    /// The same with other options, of which only `busy_timeout` counts.
    pub fn open_read_only_with(
        path: impl AsRef<Path>,
        options: Options,
    ) -> Result<Self, LedgerError> {
        let path = path.as_ref();
        let readers = Readers::new(path, &options);
        // A wrong path is to be told now, not when the first session is asked for.
        readers.with(|_| Ok(()))?;
        Ok(Self {
            path: path.to_owned(),
            readers,
            writer: None,
        })
    }

    async fn write(&self, task: Task) -> Result<Appended, LedgerError> {
        let Some(writer) = &self.writer else {
            return Err(LedgerError::ReadOnly(self.path.display().to_string()));
        };
        let stopped = || {
            LedgerError::Storage(format!(
                "{}: its writer has stopped; restart the program",
                self.path.display()
            ))
        };
        let (answer, result) = oneshot::channel();
        writer
            .jobs
            .send(Job { task, answer })
            .await
            .map_err(|_| stopped())?;
        result.await.map_err(|_| stopped())?
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Connection) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let readers = Arc::clone(&self.readers);
        tokio::task::spawn_blocking(move || readers.with(read))
            .await
            .map_err(|error| {
                LedgerError::Storage(format!(
                    "{}: the read was given up: {error}",
                    self.path.display()
                ))
            })?
    }
}

/// Lets the file grow to `max_bytes` and no further.
fn limit(db: &Connection, max_bytes: u64) -> rusqlite::Result<()> {
    let page: i64 = db.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let pages = max_bytes / u64::try_from(page).unwrap_or(1).max(1);
    // SQLite keeps its old limit if it is told 0; the limit that counts comes back as a row.
    let pages = i64::try_from(pages).unwrap_or(i64::MAX).max(1);
    db.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
}

impl Drop for SqliteLedger {
    /// Waits until what is queued is written, so that the file is whole and closed. The writer's connection is the last
    /// to close, because only one that may write moves the log into the file: a copy of the file alone then has it all.
    fn drop(&mut self) {
        let idle = &self.readers.idle;
        idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if let Some(WriterHandle { jobs, thread }) = self.writer.take() {
            drop(jobs);
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn open_session(
        &self,
        header: &SignedRecord,
        epoch: &SignedRecord,
    ) -> Result<(), LedgerError> {
        let (content, claim) = record::opening(header, epoch)?;
        let task = Task::Open {
            header: Box::new(content),
            record: header.clone(),
            claim: Box::new(claim),
            epoch: epoch.clone(),
        };
        self.write(task).await.map(|_| ())
    }

    async fn claim(&self, claim: &SignedRecord) -> Result<(), LedgerError> {
        let content = Box::new(record::claim(claim)?);
        let task = Task::Claim {
            claim: content,
            record: claim.clone(),
        };
        self.write(task).await.map(|_| ())
    }

    async fn append(&self, session: &SessionId, block: &Block) -> Result<Appended, LedgerError> {
        let block = Box::new(record::prepare(session, block)?);
        self.write(Task::Append {
            session: *session,
            block,
        })
        .await
    }

    async fn session(&self, session: &SessionId) -> Result<Option<SessionState>, LedgerError> {
        let session = *session;
        self.read(move |db| reader::state(db, &session)).await
    }

    async fn snapshot(&self, session: &SessionId) -> Result<Option<Evidence>, LedgerError> {
        let session = *session;
        self.read(move |db| Ok(reader::snapshot(db, &session)?))
            .await
    }

    async fn sessions(&self, query: &SessionQuery) -> Result<Vec<SessionSummary>, LedgerError> {
        let query = query.clone();
        self.read(move |db| reader::sessions(db, &query)).await
    }

    async fn check(&self) -> Result<(), LedgerError> {
        self.write(Task::Check).await.map(|_| ())
    }
}
