//! The tables of a SQLite ledger, and how a file is opened.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::fault;
use crate::LedgerError;

/// The newest version of the schema, in `PRAGMA user_version`.
pub const VERSION: i64 = 1;
/// `HALO` in ASCII, in `PRAGMA application_id`.
const APPLICATION_ID: i64 = 0x4841_4C4F;

/// How long to sleep before the lock of another process is tried again. Short, because a writer that commits without a
/// pause leaves the lock free for tens of microseconds only.
const RETRY: Duration = Duration::from_millis(1);

/// Version 1. WITHOUT ROWID leaves no second name under which a row could be replaced, and keeps a session's blocks beside
/// each other. REPLACE fires no DELETE trigger, so each table refuses an INSERT whose key is taken, too; for blocks the rule
/// that numbers have no gaps says that as well.
const SCHEMA: &str = "
CREATE TABLE session (
    session_id TEXT NOT NULL PRIMARY KEY,
    tenant_id  TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    opened_at  TEXT NOT NULL,
    body       BLOB NOT NULL,
    mac        BLOB NOT NULL CHECK (length(mac) = 32)
) STRICT, WITHOUT ROWID;
CREATE INDEX session_by_tenant ON session (tenant_id, opened_at);
CREATE INDEX session_by_time ON session (opened_at);

CREATE TABLE claim (
    session_id TEXT NOT NULL,
    epoch      INTEGER NOT NULL CHECK (epoch BETWEEN 0 AND 4294967295),
    kind       TEXT NOT NULL CHECK (kind IN ('epoch', 'connection', 'substrate_link')),
    link       INTEGER NOT NULL CHECK (link BETWEEN 0 AND 4294967295),
    body       BLOB NOT NULL,
    mac        BLOB NOT NULL CHECK (length(mac) = 32),
    PRIMARY KEY (session_id, epoch, kind, link)
) STRICT, WITHOUT ROWID;

CREATE TABLE block (
    session_id TEXT NOT NULL,
    stream     TEXT NOT NULL CHECK (stream IN ('d', 's')),
    first      INTEGER NOT NULL CHECK (first BETWEEN 0 AND 4294967294),
    count      INTEGER NOT NULL CHECK (count BETWEEN 1 AND 64),
    ids        BLOB NOT NULL CHECK (length(ids) = 16 * count),
    content    BLOB NOT NULL,
    PRIMARY KEY (session_id, stream, first)
) STRICT, WITHOUT ROWID;

CREATE TABLE receipt (
    stream               TEXT NOT NULL CHECK (stream IN ('d', 's')),
    number               INTEGER NOT NULL CHECK (number BETWEEN 0 AND 4294967294),
    event_payload_hash   TEXT NOT NULL,
    hmac_signature       TEXT NOT NULL,
    parent_receipt_hash  TEXT,
    parent_receipt_id    TEXT,
    receipt_id           TEXT NOT NULL,
    receipt_kind         TEXT NOT NULL,
    session_epoch        TEXT NOT NULL,
    session_id           TEXT NOT NULL,
    tenant_id            TEXT NOT NULL,
    tier                 TEXT NOT NULL,
    timestamp_utc        TEXT NOT NULL,
    PRIMARY KEY (session_id, stream, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX receipt_by_id ON receipt (receipt_id);
CREATE INDEX receipt_by_tenant ON receipt (tenant_id, timestamp_utc);

CREATE TRIGGER session_no_update BEFORE UPDATE ON session
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a session is never changed'); END;
CREATE TRIGGER session_no_delete BEFORE DELETE ON session
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a session is never deleted'); END;
CREATE TRIGGER session_no_replace BEFORE INSERT ON session
WHEN EXISTS (SELECT 1 FROM session WHERE session_id = NEW.session_id)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: the session is already there'); END;

CREATE TRIGGER claim_no_update BEFORE UPDATE ON claim
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a claim is never changed'); END;
CREATE TRIGGER claim_no_delete BEFORE DELETE ON claim
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a claim is never deleted'); END;
CREATE TRIGGER claim_no_replace BEFORE INSERT ON claim
WHEN EXISTS (SELECT 1 FROM claim WHERE session_id = NEW.session_id AND epoch = NEW.epoch
    AND kind = NEW.kind AND link = NEW.link)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: the claim is already taken'); END;

CREATE TRIGGER block_no_update BEFORE UPDATE ON block
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a block is never changed'); END;
CREATE TRIGGER block_no_delete BEFORE DELETE ON block
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a block is never deleted'); END;
CREATE TRIGGER block_next_number BEFORE INSERT ON block
WHEN NEW.first IS NOT coalesce((SELECT first + count FROM block
    WHERE session_id = NEW.session_id AND stream = NEW.stream ORDER BY first DESC LIMIT 1), 0)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a block begins at the next number of its stream'); END;

CREATE TRIGGER receipt_no_update BEFORE UPDATE ON receipt
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a receipt is never changed'); END;
CREATE TRIGGER receipt_no_delete BEFORE DELETE ON receipt
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a receipt is never deleted'); END;
CREATE TRIGGER receipt_no_replace BEFORE INSERT ON receipt
WHEN EXISTS (SELECT 1 FROM receipt WHERE session_id = NEW.session_id AND stream = NEW.stream
    AND number = NEW.number)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: the receipt is already there'); END;
";

/// Runs `attempt` again while another process holds the lock, until `patience` is over.
pub fn patiently<T>(
    patience: Duration,
    mut attempt: impl FnMut() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(error) if fault::is_busy(&error) && start.elapsed() < patience => {
                std::thread::sleep(RETRY);
            }
            result => return result,
        }
    }
}

/// Opens the file for writing; creates it and its tables if it is missing or empty.
pub fn open(path: &Path, patience: Duration) -> Result<Connection, LedgerError> {
    let fault = |error| fault::storage(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = connect(path, flags)?;
    // SQLite's own waiting sleeps up to 100 ms between two attempts, and would starve beside a busy writer.
    db.busy_timeout(Duration::ZERO).map_err(fault)?;
    let version = patiently(patience, || read_version(&db)).map_err(fault)?;
    check_version(path, version)?;
    // Durable when a commit returns, also through a power cut, and readable while it is written.
    patiently(patience, || db.pragma_update(None, "journal_mode", "wal")).map_err(fault)?;
    db.pragma_update(None, "synchronous", "full")
        .map_err(fault)?;
    if version == Version::Empty {
        patiently(patience, || create(&mut db)).map_err(fault)?;
    }
    let version = patiently(patience, || read_version(&db)).map_err(fault)?;
    check_version(path, version)?;
    Ok(db)
}

/// Opens a file that is there, for reading.
pub fn open_read_only(path: &Path, patience: Duration) -> Result<Connection, LedgerError> {
    // SQLite's own message for a missing file names neither the file nor the reason.
    if !path.try_exists().unwrap_or(true) {
        return Err(LedgerError::Missing(path.display().to_string()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = connect(path, flags)?;
    // Waits for a recovery after a crash; readers and writers do not wait for each other.
    db.busy_timeout(patience)
        .map_err(|error| fault::storage(path, &error))?;
    let version = read_version(&db).map_err(|error| fault::storage(path, &error))?;
    if version == Version::Empty {
        return Err(LedgerError::Storage(format!(
            "{} is empty; check the path, or start the program that writes it",
            path.display()
        )));
    }
    check_version(path, version)?;
    Ok(db)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, LedgerError> {
    if path.as_os_str().as_encoded_bytes().starts_with(b":") {
        // SQLite takes ":memory:" for a ledger that forgets.
        return Err(LedgerError::Url(path.display().to_string()));
    }
    Connection::open_with_flags(path, flags).map_err(|error| fault::storage(path, &error))
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// No table yet.
    Empty,
    /// A database of another program.
    Foreign,
    /// A ledger.
    Ledger(i64),
}

/// Reads it as of one moment: a program that creates the tables between two reads would make a new ledger look like
/// a database of another program.
fn read_version(db: &Connection) -> rusqlite::Result<Version> {
    let moment = db.unchecked_transaction()?;
    let version = version_in(&moment)?;
    moment.commit()?;
    Ok(version)
}

/// What the file is, inside a transaction.
fn version_in(db: &Connection) -> rusqlite::Result<Version> {
    let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if pragma("application_id")? == APPLICATION_ID {
        return Ok(Version::Ledger(pragma("user_version")?));
    }
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(if tables == 0 {
        Version::Empty
    } else {
        Version::Foreign
    })
}

fn check_version(path: &Path, version: Version) -> Result<(), LedgerError> {
    match version {
        Version::Ledger(found) if found > VERSION => Err(LedgerError::Newer {
            path: path.display().to_string(),
            found,
            known: VERSION,
        }),
        Version::Foreign => Err(LedgerError::Storage(format!(
            "{} is a database of another program; check the path",
            path.display()
        ))),
        Version::Empty | Version::Ledger(_) => Ok(()),
    }
}

/// All tables or none: two processes may come here at once, and the second finds the first one's.
fn create(db: &mut Connection) -> rusqlite::Result<()> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if version_in(&transaction)? == Version::Empty {
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}
