//! The one thread that writes. It takes all that waits, writes it in one transaction, and answers when that is durable.

use std::path::PathBuf;
use std::time::Duration;

use halo_receipts::evidence::{Claim, ClaimKind, Header, SignedRecord};
use halo_receipts::ids::SessionId;
use rusqlite::{Connection, TransactionBehavior, params, params_from_iter};
use tokio::sync::{mpsc, oneshot};

use super::{fault, reader, schema};
use crate::record::{FIELDS, Prepared, Repeated, kind_name};
use crate::{Appended, LedgerError};

/// The most jobs in one transaction: at 64 receipts each a commit of a few megabytes at most.
const BATCH: usize = 128;

/// What is to be written.
pub enum Task {
    /// A session's header and first claim.
    Open {
        /// The header's content.
        header: Box<Header>,
        /// The header as it is stored.
        record: SignedRecord,
        /// The claim's content.
        claim: Box<Claim>,
        /// The claim as it is stored.
        epoch: SignedRecord,
    },
    /// A claim.
    Claim {
        /// The claim's content.
        claim: Box<Claim>,
        /// The claim as it is stored.
        record: SignedRecord,
    },
    /// A block.
    Append {
        /// The session.
        session: SessionId,
        /// The block.
        block: Box<Prepared>,
    },
    /// Nothing, durably.
    Check,
}

/// A task and whom to tell.
pub struct Job {
    /// What to write.
    pub task: Task,
    /// Where the answer goes. [`Appended::Written`] for everything but a repeated block.
    pub answer: oneshot::Sender<Result<Appended, LedgerError>>,
}

/// The writer's state.
pub struct Writer {
    /// The one connection that writes.
    pub db: Connection,
    /// The file, for messages.
    pub path: PathBuf,
    /// How long to wait for another process.
    pub patience: Duration,
}

/// Why a job was not written.
enum JobError {
    /// The job's own fault; the rest of the transaction stands.
    Refused(LedgerError),
    /// The storage's fault; the transaction is lost.
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for JobError {
    fn from(error: rusqlite::Error) -> Self {
        JobError::Sql(error)
    }
}

fn refuse<T>(error: LedgerError) -> Result<T, JobError> {
    Err(JobError::Refused(error))
}

impl Writer {
    /// Writes until every sender is gone.
    pub fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH);
        while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
            let (tasks, answers): (Vec<_>, Vec<_>) =
                batch.drain(..).map(|job| (job.task, job.answer)).unzip();
            let results = match self.write(&tasks) {
                Ok(results) => results,
                Err(error) => {
                    let error = fault::storage(&self.path, &error);
                    vec![Err(error); answers.len()]
                }
            };
            for (answer, result) in answers.into_iter().zip(results) {
                // Whoever asked may have gone; what was written stays written, and a retry finds it.
                let _ = answer.send(result);
            }
        }
    }

    /// One transaction. On an error nothing of it is written.
    fn write(&mut self, tasks: &[Task]) -> rusqlite::Result<Vec<Result<Appended, LedgerError>>> {
        let immediate = TransactionBehavior::Immediate;
        let db = &self.db;
        let transaction = schema::patiently(self.patience, || {
            rusqlite::Transaction::new_unchecked(db, immediate)
        })?;
        let mut results = Vec::with_capacity(tasks.len());
        for task in tasks {
            results.push(match write_task(&transaction, task) {
                Ok(appended) => Ok(appended),
                Err(JobError::Refused(error)) => Err(error),
                Err(JobError::Sql(error)) => return Err(error),
            });
        }
        transaction.commit()?;
        Ok(results)
    }
}

/// Writes one task, or refuses it before anything of it is written.
fn write_task(db: &Connection, task: &Task) -> Result<Appended, JobError> {
    match task {
        Task::Open {
            header,
            record,
            claim,
            epoch,
        } => open(db, header, record, claim, epoch)?,
        Task::Claim { claim, record } => take(db, claim, record)?,
        Task::Append { session, block } => return append(db, session, block),
        // Rewrites the version that is there: a page that goes the way of every other write.
        Task::Check => db.pragma_update(None, "user_version", schema::VERSION)?,
    }
    Ok(Appended::Written)
}

fn open(
    db: &Connection,
    header: &Header,
    record: &SignedRecord,
    claim: &Claim,
    epoch: &SignedRecord,
) -> Result<(), JobError> {
    let session = header.session_id.to_string();
    if reader::exists(db, &session)? {
        return refuse(LedgerError::SessionExists);
    }
    db.prepare_cached(
        "INSERT INTO session (session_id, tenant_id, device_id, opened_at, body, mac) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        session,
        header.tenant_id.as_str(),
        header.device_id.as_str(),
        header.opened_at.to_string(),
        record.body,
        record.mac,
    ])?;
    insert_claim(db, &session, claim, epoch)
}

fn take(db: &Connection, claim: &Claim, record: &SignedRecord) -> Result<(), JobError> {
    let session = claim.session_id.to_string();
    if !reader::exists(db, &session)? {
        return refuse(LedgerError::UnknownSession);
    }
    match claim.kind {
        ClaimKind::Epoch => {
            let last = reader::last_epoch(db, &session)?;
            if last.is_some_and(|last| claim.session_epoch.0 <= last) {
                return refuse(LedgerError::Taken);
            }
        }
        ClaimKind::Connection | ClaimKind::SubstrateLink => {
            if !claimed(db, &session, ClaimKind::Epoch, claim.session_epoch.0, 0)? {
                let cause = format!("nobody has claimed epoch {}", claim.session_epoch);
                return refuse(LedgerError::Invalid(cause));
            }
            if claimed(db, &session, claim.kind, claim.session_epoch.0, claim.link)? {
                return refuse(LedgerError::Taken);
            }
        }
    }
    insert_claim(db, &session, claim, record)
}

fn claimed(
    db: &Connection,
    session: &str,
    kind: ClaimKind,
    epoch: u32,
    link: u32,
) -> rusqlite::Result<bool> {
    db.prepare_cached(
        "SELECT 1 FROM claim WHERE session_id = ?1 AND epoch = ?2 AND kind = ?3 AND link = ?4",
    )?
    .exists(params![session, epoch, kind_name(kind), link])
}

fn insert_claim(
    db: &Connection,
    session: &str,
    claim: &Claim,
    record: &SignedRecord,
) -> Result<(), JobError> {
    db.prepare_cached(
        "INSERT INTO claim (session_id, epoch, kind, link, body, mac) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        session,
        claim.session_epoch.0,
        kind_name(claim.kind),
        claim.link,
        record.body,
        record.mac,
    ])?;
    Ok(())
}

fn append(db: &Connection, session_id: &SessionId, block: &Prepared) -> Result<Appended, JobError> {
    let session = session_id.to_string();
    if !reader::exists(db, &session)? {
        return refuse(LedgerError::UnknownSession);
    }
    let next = reader::next_number(db, &session, block.stream)?;
    if block.first < next {
        return repeated(db, session_id, block, next);
    }
    if block.first > next {
        return refuse(block.gap(next));
    }
    let stream = block.stream.letter().to_string();
    db.prepare_cached(
        "INSERT INTO block (session_id, stream, first, count, ids, content) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        session,
        stream,
        block.first,
        block.ids.len() as i64,
        crate::block::ids(&block.ids),
        block.encoded,
    ])?;
    for attributes in &block.attributes {
        let (_, number) = attributes.position;
        let columns = FIELDS.join(", ");
        let sql = format!(
            "INSERT INTO receipt (stream, number, {columns}) VALUES (?, ?{})",
            ", ?".repeat(FIELDS.len())
        );
        let texts = attributes.fields.iter().map(|(_, text)| text.clone());
        let values = [Some(stream.clone()), Some(number.to_string())]
            .into_iter()
            .chain(texts);
        db.prepare_cached(&sql)?.execute(params_from_iter(values))?;
    }
    Ok(Appended::Written)
}

/// A block whose first number is taken: a retry, or a fork.
fn repeated(
    db: &Connection,
    session_id: &SessionId,
    block: &Prepared,
    next: u32,
) -> Result<Appended, JobError> {
    let session = session_id.to_string();
    let mut repeated = Repeated::new(block, session_id, next);
    loop {
        let number = match repeated.step() {
            Ok(number) => number,
            Err(outcome) => return outcome.map_err(JobError::Refused),
        };
        let stored = reader::block_at(db, &session, block.stream, number)?;
        let compared = repeated.compare(number, stored.as_ref());
        compared.map_err(JobError::Refused)?;
    }
}
