//! The spill's file: SQLite, WAL, synchronous=FULL, one thread that writes all that waits in one transaction.
//!
//! | column of `block` | meaning |
//! | --- | --- |
//! | `position` | the order in which blocks came |
//! | `session_id`, `stream`, `first` | which block |
//! | `write` | the 16 bytes of its put |
//! | `since` | when it came, in microseconds since 1970 |
//! | `ids` | the ids beside the block, 16 bytes each |
//! | `content` | the block, as [`crate::block`] says |
//! | `kept` | why it cannot go into the ledger; null while it waits |

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use halo_receipts::evidence::{Block, Stream};
use halo_receipts::ids::SessionId;
use rusqlite::{Connection, Row, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use crate::dynamodb::item::WriteId;
use crate::record::{self, Prepared};
use crate::sqlite::fault;
use crate::{LedgerError, block};

/// `HALS` in ASCII, in `PRAGMA application_id`.
const APPLICATION_ID: i64 = 0x4841_4C53;
/// The version of the table, in `PRAGMA user_version`.
const VERSION: i64 = 2;
/// The most writes in one transaction.
const BATCH: usize = 128;
/// The most writes that wait for the thread; whoever comes then waits, too.
const QUEUE: usize = 1024;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS block (
    position   INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL,
    stream     TEXT NOT NULL CHECK (stream IN ('d', 's')),
    first      INTEGER NOT NULL CHECK (first BETWEEN 0 AND 4294967294),
    write      BLOB NOT NULL CHECK (length(write) = 16),
    since      INTEGER NOT NULL,
    ids        BLOB NOT NULL,
    content    BLOB NOT NULL,
    kept       TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS block_by_session ON block (session_id);
";

/// A block as it is stored.
pub struct Stored {
    /// Its place in the order.
    pub position: i64,
    /// Its session.
    pub session: SessionId,
    /// The 16 bytes of its put.
    pub write: WriteId,
    /// When it came.
    pub since: u64,
    /// Why it is kept.
    pub kept: Option<String>,
    /// The block itself.
    pub block: Prepared,
}

/// What is to be written.
pub enum Task {
    /// A block.
    Insert {
        /// Its session.
        session: SessionId,
        /// The block.
        block: Box<Prepared>,
        /// The 16 bytes of its put.
        write: WriteId,
        /// When it came.
        since: u64,
    },
    /// The block stands in the ledger.
    Remove(i64),
    /// The blocks cannot go into the ledger.
    Keep(Vec<i64>, String),
    /// Nothing, durably.
    Check,
}

struct Job {
    task: Task,
    answer: oneshot::Sender<Result<i64, LedgerError>>,
}

/// The file.
pub struct Store {
    path: PathBuf,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    reader: Arc<Mutex<Connection>>,
    /// Held for as long as the file is in use.
    _lock: File,
}

impl Store {
    /// Opens the file, and creates it and its folder if they are missing. Only one program may have it open.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let path = match path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            true => path.join("spill.db"),
            false => path.to_owned(),
        };
        let cannot = |error: std::io::Error| {
            LedgerError::Storage(format!("the spill {}: {error}", path.display()))
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(cannot)?;
        }
        let lock = File::create(path.with_extension("lock")).map_err(cannot)?;
        lock.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => LedgerError::Busy(format!(
                "the spill {} is used by another program; each program needs one of its own",
                path.display()
            )),
            std::fs::TryLockError::Error(error) => cannot(error),
        })?;
        let fault = |error: rusqlite::Error| fault::storage(&path, &error);
        let db = Connection::open(&path).map_err(fault)?;
        prepare(&db, &path)?;
        let reader = Connection::open(&path).map_err(fault)?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = Writer {
            db,
            path: path.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("ledger-spill".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(cannot)?;
        Ok(Self {
            path,
            jobs: Some(jobs),
            thread: Some(thread),
            reader: Arc::new(Mutex::new(reader)),
            _lock: lock,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes durably. Returns the position of a block that was inserted.
    pub async fn write(&self, task: Task) -> Result<i64, LedgerError> {
        let stopped = || {
            let path = self.path.display();
            LedgerError::Storage(format!(
                "the spill {path}: its writer has stopped; restart the program"
            ))
        };
        let (answer, result) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(Job { task, answer })
            .await
            .map_err(|_| stopped())?;
        result.await.map_err(|_| stopped())?
    }

    /// The blocks that a condition names, in the order in which they came.
    pub async fn read(
        &self,
        condition: &'static str,
        value: String,
    ) -> Result<Vec<Result<Stored, Unreadable>>, LedgerError> {
        let (reader, path) = (Arc::clone(&self.reader), self.path.clone());
        let read = move || {
            let reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            rows(&reader, condition, &value).map_err(|error| fault::storage(&path, &error))
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|error| LedgerError::Storage(format!("{}: {error}", self.path.display())))?
    }
}

impl Drop for Store {
    /// Waits until what is queued is written.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn prepare(db: &Connection, path: &Path) -> Result<(), LedgerError> {
    let made = || -> rusqlite::Result<(i64, i64)> {
        db.pragma_update(None, "journal_mode", "wal")?;
        db.pragma_update(None, "synchronous", "full")?;
        let number = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let tables: i64 =
            db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables == 0 {
            db.execute_batch(SCHEMA)?;
            db.pragma_update(None, "application_id", APPLICATION_ID)?;
            db.pragma_update(None, "user_version", VERSION)?;
        }
        Ok((number("application_id")?, number("user_version")?))
    };
    match made().map_err(|error| fault::storage(path, &error))? {
        (APPLICATION_ID, VERSION) => Ok(()),
        (APPLICATION_ID, found) if found > VERSION => Err(LedgerError::Newer {
            path: path.display().to_string(),
            found,
            known: VERSION,
        }),
        (APPLICATION_ID, found) => Err(LedgerError::Storage(format!(
            "the spill {} has version {found}, and this program knows version {VERSION}; let the program that wrote it \
             drain it, or name another file",
            path.display()
        ))),
        _ => Err(LedgerError::Storage(format!(
            "{} is a database of another program; check the path of the spill",
            path.display()
        ))),
    }
}

/// A row that cannot be read.
pub struct Unreadable {
    /// Its place in the order.
    pub position: i64,
    /// Its session and stream, if they can be told.
    pub stream: Option<(SessionId, Stream)>,
    /// Why.
    pub reason: String,
}

fn rows(
    db: &Connection,
    condition: &str,
    value: &str,
) -> rusqlite::Result<Vec<Result<Stored, Unreadable>>> {
    let sql = format!(
        "SELECT position, session_id, stream, first, write, since, ids, content, kept FROM block WHERE {condition} ORDER BY position"
    );
    let mut statement = db.prepare_cached(&sql)?;
    statement.query_map([value], row)?.collect()
}

fn row(row: &Row<'_>) -> rusqlite::Result<Result<Stored, Unreadable>> {
    let position = row.get(0)?;
    let (session, letter): (String, String) = (row.get(1)?, row.get(2)?);
    let session: Option<SessionId> = session.parse().ok();
    let streams = Stream::ALL.into_iter();
    let stream = { streams }.find(|stream| stream.letter().to_string() == letter);
    let Some((session, stream)) = session.zip(stream) else {
        return Ok(Err(Unreadable {
            position,
            stream: None,
            reason: "it names no session".to_owned(),
        }));
    };
    let (first, since): (u32, i64) = (row.get(3)?, row.get(5)?);
    let (ids, content): (Vec<u8>, Vec<u8>) = (row.get(6)?, row.get(7)?);
    let (write, kept) = (row.get(4)?, row.get(8)?);
    let unreadable = |reason: String| Unreadable {
        position,
        stream: Some((session, stream)),
        reason,
    };
    let read = || {
        let receipts =
            block::decode(&content, &ids).map_err(|error| unreadable(error.to_string()))?;
        let block = Block {
            stream,
            first,
            receipts,
        };
        let block = record::prepare(&session, &block).map_err(|e| unreadable(e.to_string()))?;
        Ok(Stored {
            position,
            session,
            write,
            since: u64::try_from(since).unwrap_or_default(),
            kept,
            block,
        })
    };
    Ok(read())
}

struct Writer {
    db: Connection,
    path: PathBuf,
}

impl Writer {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH);
        while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
            let (tasks, answers): (Vec<_>, Vec<_>) =
                batch.drain(..).map(|job| (job.task, job.answer)).unzip();
            let results = match self.write(&tasks) {
                Ok(positions) => positions.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(fault::storage(&self.path, &error)); answers.len()],
            };
            for (answer, result) in answers.into_iter().zip(results) {
                // Whoever asked may have gone; what was written stays written.
                let _ = answer.send(result);
            }
        }
    }

    fn write(&mut self, tasks: &[Task]) -> rusqlite::Result<Vec<i64>> {
        let immediate = TransactionBehavior::Immediate;
        let transaction = self.db.transaction_with_behavior(immediate)?;
        let positions = tasks.iter().map(|task| write_task(&transaction, task));
        let positions = positions.collect::<rusqlite::Result<_>>()?;
        transaction.commit()?;
        Ok(positions)
    }
}

fn write_task(db: &Connection, task: &Task) -> rusqlite::Result<i64> {
    match task {
        Task::Insert {
            session,
            block,
            write,
            since,
        } => insert(db, session, block, write, *since),
        Task::Remove(position) => {
            db.prepare_cached("DELETE FROM block WHERE position = ?1")?
                .execute([position])?;
            Ok(*position)
        }
        Task::Keep(positions, reason) => {
            for position in positions {
                db.prepare_cached("UPDATE block SET kept = ?2 WHERE position = ?1")?
                    .execute(params![position, reason])?;
            }
            Ok(0)
        }
        Task::Check => {
            db.pragma_update(None, "user_version", VERSION)?;
            Ok(0)
        }
    }
}

fn insert(
    db: &Connection,
    session: &SessionId,
    block: &Prepared,
    write: &WriteId,
    since: u64,
) -> rusqlite::Result<i64> {
    let (session, stream) = (session.to_string(), block.stream.letter().to_string());
    let since = i64::try_from(since).unwrap_or(i64::MAX);
    db.prepare_cached(
        "INSERT INTO block (session_id, stream, first, write, since, ids, content) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        session,
        stream,
        block.first,
        write,
        since,
        block::ids(&block.ids),
        block.encoded,
    ])?;
    Ok(db.last_insert_rowid())
}
