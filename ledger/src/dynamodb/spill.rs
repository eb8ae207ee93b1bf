//! The local spill: where blocks of open sessions wait, durably, while DynamoDB does not answer.
//!
//! A block that is spilled is acknowledged. It goes into the ledger when that is back, each stream's blocks in their order, also
//! after the program was killed and started again with the same file. Whatever comes for a stream of which blocks wait is spilled
//! behind them, and reads through the same handle see them.
//!
//! Only what cannot contradict another writer unseen is spilled: a block that goes on where this program knows its stream to end.
//! If another writer wrote there meanwhile, that is a fork, found when the spill is drained: it is counted and logged as an error,
//! and the block is kept in the file as evidence. Openings and claims are never spilled: their meaning is that nobody else has
//! them, and that can only be known from the ledger itself.

mod drain;
mod index;
mod store;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use halo_receipts::evidence::{Evidence, StoredBlock, Stream};
use halo_receipts::ids::SessionId;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::item::WriteId;
use super::{Options, Shared};
use crate::record::{Prepared, Repeated};
use crate::{Appended, LedgerError, LedgerMetrics};
use index::{Entry, Index, Key};
use store::{Store, Task, Unreadable};

/// What a row takes beside its content, so that many small blocks count, too.
const ROW: u64 = 256;

/// A spill and the task that drains it.
pub struct Spill {
    inner: Arc<Inner>,
    drain: JoinHandle<()>,
}

struct Inner {
    store: Store,
    shared: Arc<Shared>,
    index: Mutex<Index>,
    /// One writer at a time for each stream, or a few streams.
    turns: Vec<tokio::sync::Mutex<()>>,
    /// How many blocks wait: told whenever it changes.
    waiting: watch::Sender<usize>,
    arrived: Notify,
    max_bytes: u64,
    metrics: Option<LedgerMetrics>,
}

fn now() -> u64 {
    let now = UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

fn bytes(block: &Prepared) -> u64 {
    ROW.saturating_add((16 * block.ids.len() + block.encoded.len()) as u64)
}

impl Spill {
    /// Opens the file and begins to drain what is in it.
    pub async fn open(
        path: &Path,
        options: &Options,
        shared: Arc<Shared>,
    ) -> Result<Self, LedgerError> {
        let inner = Arc::new(Inner {
            store: Store::open(path)?,
            shared,
            index: Mutex::default(),
            turns: (0..64).map(|_| tokio::sync::Mutex::default()).collect(),
            waiting: watch::Sender::new(0),
            arrived: Notify::new(),
            max_bytes: options.spill_max_bytes,
            metrics: options.metrics.clone(),
        });
        inner.load().await?;
        let drain = tokio::spawn(Arc::clone(&inner).drain());
        Ok(Self { inner, drain })
    }

    /// Whether a block has to go here without being tried in the table first: because blocks of its stream wait here, or because
    /// the table is known to be away. An error if nothing of its stream can go into the ledger any more.
    pub fn goes_first(&self, session: &SessionId, block: &Prepared) -> Result<bool, LedgerError> {
        let key = (*session, block.stream);
        let index = self.inner.index();
        if let Some(reason) = index.kept(&key) {
            return Err(reason.clone());
        }
        let shared = &self.inner.shared;
        Ok(index.range(&key).is_some()
            || shared.client.is_away() && self.inner.is_next(&key, block))
    }

    /// Makes a block durable here. It goes on if the caller goes away, so that file and index agree.
    pub async fn append(
        &self,
        session: &SessionId,
        block: &Prepared,
        write: &WriteId,
    ) -> Result<Appended, LedgerError> {
        let inner = Arc::clone(&self.inner);
        let (session, block, write) = (*session, block.clone(), *write);
        let appending = tokio::spawn(async move { inner.append(session, block, write).await });
        appending
            .await
            .map_err(|error| LedgerError::Storage(format!("the spill gave a block up: {error}")))?
    }

    /// Behind which numbers the waiting blocks of a session end: streams `d` and `s`; 0 where none waits.
    pub fn ends(&self, session: &SessionId) -> [u32; 2] {
        let index = self.inner.index();
        Stream::ALL.map(|stream| index.range(&(*session, stream)).map_or(0, |(_, end)| end))
    }

    /// The waiting blocks of a session in their order.
    pub async fn blocks(&self, session: &SessionId) -> Result<Vec<Prepared>, LedgerError> {
        if self.ends(session) == [0, 0] {
            return Ok(Vec::new());
        }
        self.inner.blocks(session).await
    }

    /// Whether blocks can be written here.
    pub async fn check(&self) -> Result<(), LedgerError> {
        let full = self.inner.index().bytes >= self.inner.max_bytes;
        if full {
            return Err(self.inner.full());
        }
        self.inner.store.write(Task::Check).await.map(|_| ())
    }

    /// Waits until no block waits.
    pub async fn settle(&self) -> Result<(), LedgerError> {
        let mut waiting = self.inner.waiting.subscribe();
        let settled = waiting.wait_for(|waiting| *waiting == 0).await;
        settled.map(|_| ()).map_err(|_| self.inner.full())
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        self.drain.abort();
    }
}

/// What a session's evidence is together with its waiting blocks. Those that stand in it already are passed over.
pub fn with(mut evidence: Evidence, session: &SessionId, waiting: &[Prepared]) -> Evidence {
    for block in waiting {
        if evidence.next_number(block.stream) != block.first {
            tracing::debug!(%session, first = block.first, "a spilled block stands in the ledger already");
            continue;
        }
        evidence.blocks.push(stored(block));
        evidence.attributes.extend(block.attributes.iter().cloned());
    }
    evidence
        .blocks
        .sort_by_key(|block| (block.stream, block.first));
    evidence
        .attributes
        .sort_by_key(|attributes| attributes.position);
    evidence
}

fn stored(block: &Prepared) -> StoredBlock {
    StoredBlock {
        stream: block.stream,
        first: block.first,
        ids: block.ids.clone(),
        content: Ok(block.receipts.clone()),
    }
}

fn measure(metrics: &LedgerMetrics, index: &Index) {
    let gauge = |state, blocks: usize| {
        let blocks = i64::try_from(blocks).unwrap_or(i64::MAX);
        metrics.spill_blocks.with_label_values(&[state]).set(blocks);
    };
    gauge("waiting", index.waiting);
    gauge("kept", index.kept);
    let bytes = i64::try_from(index.bytes).unwrap_or(i64::MAX);
    metrics.spill_bytes.set(bytes);
    let age = index
        .oldest()
        .map_or(0, |since| now().saturating_sub(since));
    metrics.spill_oldest.set(age as f64 / 1e6);
}

impl Inner {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full(&self) -> LedgerError {
        let path = self.store.path().display();
        LedgerError::Unavailable(format!(
            "DynamoDB does not answer, and the spill {path} is full"
        ))
    }

    fn turn(&self, key: &Key) -> &tokio::sync::Mutex<()> {
        let (session, stream) = key;
        let at = usize::from(session.as_bytes()[15]) * 2 + *stream as usize;
        &self.turns[at % self.turns.len()]
    }

    /// Whether a block begins where this program knows its stream to end.
    fn is_next(&self, (session, stream): &Key, block: &Prepared) -> bool {
        let facts = self.shared.known.of(session);
        facts.is_some_and(|facts| facts.starts[*stream as usize] == block.first)
    }

    /// Reads what an earlier run left.
    async fn load(&self) -> Result<(), LedgerError> {
        let rows = self.store.read("position >= ?1", "0".to_owned()).await?;
        let mut index = self.index();
        for row in rows {
            let row = match row {
                Ok(row) => row,
                Err(Unreadable {
                    position,
                    stream,
                    reason,
                }) => {
                    tracing::error!(
                        position,
                        reason,
                        "a spilled block cannot be read; it is kept"
                    );
                    if let Some(key) = stream {
                        index.keep(&key, LedgerError::Storage(reason));
                    }
                    index.kept += 1;
                    continue;
                }
            };
            let key = (row.session, row.block.stream);
            let entry = Entry {
                position: row.position,
                first: row.block.first,
                end: row.block.end(),
                bytes: bytes(&row.block),
                since: row.since,
            };
            if let Some(reason) = row.kept {
                tracing::error!(session = %row.session, first = entry.first, reason, "a spilled block is kept");
                index.keep(&key, LedgerError::Storage(reason));
            }
            // What exceeds the limit was acknowledged under a higher one.
            index.reserve(entry.bytes, u64::MAX);
            index.push(key, entry);
        }
        if index.waiting > 0 {
            tracing::info!(
                blocks = index.waiting,
                "blocks in the spill wait for DynamoDB"
            );
        }
        self.tell(&index);
        Ok(())
    }

    /// Tells the metrics, and whoever waits.
    fn tell(&self, index: &Index) {
        if let Some(metrics) = &self.metrics {
            measure(metrics, index);
        }
        self.waiting.send_replace(index.waiting);
    }

    async fn append(
        &self,
        session: SessionId,
        block: Prepared,
        write: WriteId,
    ) -> Result<Appended, LedgerError> {
        let key = (session, block.stream);
        let _turn = self.turn(&key).lock().await;
        let range = {
            let index = self.index();
            match index.kept(&key) {
                Some(reason) => return Err(reason.clone()),
                None => index.range(&key),
            }
        };
        match range {
            Some((_, end)) if block.first == end => {}
            Some((_, end)) if block.first > end => return Err(block.gap(end)),
            Some((from, end)) if block.first >= from => {
                return self.repeated(&session, &block, end).await;
            }
            None if self.is_next(&key, &block) => {}
            _ => {
                let name = &self.shared.client.name;
                return Err(LedgerError::Unavailable(format!(
                    "{name} does not answer, and only it knows what stands at number {} of stream {} of session {session}",
                    block.first, block.stream
                )));
            }
        }
        self.take_room(bytes(&block)).await?;
        let mut entry = Entry {
            position: 0,
            first: block.first,
            end: block.end(),
            bytes: bytes(&block),
            since: now(),
        };
        let task = Task::Insert {
            session,
            block: Box::new(block),
            write,
            since: entry.since,
        };
        match self.store.write(task).await {
            Ok(position) => entry.position = position,
            Err(error) => {
                self.index().release(entry.bytes);
                return Err(error);
            }
        }
        let mut index = self.index();
        if index.waiting == 0 {
            tracing::warn!(
                cause = "DynamoDB does not answer",
                "receipts go into the local spill"
            );
        }
        index.push(key, entry);
        self.tell(&index);
        drop(index);
        if let Some(metrics) = &self.metrics {
            metrics.spilled.inc();
        }
        self.arrived.notify_one();
        Ok(Appended::Spilled)
    }

    /// Waits until the spill has room, for as long as an operation may take.
    async fn take_room(&self, bytes: u64) -> Result<(), LedgerError> {
        let deadline = Instant::now() + self.shared.patience;
        let mut waiting = self.waiting.subscribe();
        loop {
            if self.index().reserve(bytes, self.max_bytes) {
                return Ok(());
            }
            match timeout_at(deadline, waiting.changed()).await {
                Ok(Ok(())) => {}
                _ => return Err(self.full()),
            }
        }
    }

    /// A block of which a part waits here already: a retry, or a fork.
    async fn repeated(
        &self,
        session: &SessionId,
        block: &Prepared,
        end: u32,
    ) -> Result<Appended, LedgerError> {
        let waiting = self.blocks(session).await?;
        let mut repeated = Repeated::new(block, session, end);
        loop {
            let number = match repeated.step() {
                Ok(number) => number,
                Err(outcome) => return outcome,
            };
            let mut same = waiting.iter().filter(|other| other.stream == block.stream);
            let at = same.find(|other| (other.first..other.end()).contains(&number));
            repeated.compare(number, at.map(stored).as_ref())?;
        }
    }

    async fn blocks(&self, session: &SessionId) -> Result<Vec<Prepared>, LedgerError> {
        let condition = "session_id = ?1 AND kept IS NULL";
        let rows = self.store.read(condition, session.to_string()).await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| Some(row.ok()?.block))
            .collect())
    }
}
