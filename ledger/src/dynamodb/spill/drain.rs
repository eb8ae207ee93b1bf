//! From the spill into the ledger.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;

use super::Inner;
use super::index::{Entry, Key};
use super::store::{Stored, Task, Unreadable};
use crate::LedgerError;
use crate::dynamodb::{backoff, writer};

/// Streams that are drained at once.
const DRAINED: usize = 16;
/// How long a drained block is tried before others get their turn.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);
/// The shortest wait between two looks at a ledger that is away.
const LOOK: Duration = Duration::from_millis(100);

impl Inner {
    /// Takes blocks into the ledger for as long as the spill is open.
    pub(super) async fn drain(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            let mut streams = {
                let index = self.index();
                self.tell(&index);
                index.streams()
            };
            if streams.is_empty() {
                self.arrived.notified().await;
                continue;
            }
            if self.shared.client.is_away() {
                // One asks; the others come when it was answered.
                streams.truncate(1);
            }
            let drained = futures_util::stream::iter(streams)
                .map(|key| self.drain_stream(key))
                .buffer_unordered(DRAINED)
                .fold(0, async |sum, drained| sum + drained)
                .await;
            failures = match drained {
                0 => failures + 1,
                _ => 0,
            };
            if failures > 0 {
                tokio::time::sleep(LOOK + backoff::wait(failures, backoff::random())).await;
            } else if self.index().waiting == 0 {
                tracing::info!("the local spill is empty again");
            }
        }
    }

    /// Takes the blocks of one stream into the ledger, until one does not go. Returns how many did not have to be tried again.
    async fn drain_stream(&self, key: Key) -> usize {
        let mut done = 0;
        loop {
            let Some(head) = self.index().head(&key) else {
                return done;
            };
            let result = match self.row(head.position).await {
                Ok(row) => {
                    let (shared, block) = (&self.shared, &row.block);
                    writer::append(shared, &key.0, block, &row.write, DRAIN_PATIENCE).await
                }
                Err(error) => Err(error),
            };
            match result {
                Ok(_) => {
                    let _turn = self.turn(&key).lock().await;
                    if let Err(error) = self.store.write(Task::Remove(head.position)).await {
                        // It is found in the ledger when it is drained again.
                        tracing::error!(%error, "a drained block stays in the spill");
                        return done;
                    }
                    if let Some(metrics) = &self.metrics {
                        metrics.drained.inc();
                    }
                    let mut index = self.index();
                    index.remove(&key, head.position);
                    self.tell(&index);
                    done += 1;
                }
                Err(error @ (LedgerError::Unavailable(_) | LedgerError::Busy(_))) => {
                    tracing::debug!(session = %key.0, %error, "a spilled block waits on");
                    return done;
                }
                // An error that a person mends, such as missing rights: the blocks wait for it.
                Err(
                    error @ (LedgerError::Denied(_)
                    | LedgerError::Missing(_)
                    | LedgerError::Full(_)),
                ) => {
                    tracing::error!(session = %key.0, %error, "spilled blocks cannot be taken into the ledger yet");
                    return done;
                }
                Err(error) => {
                    self.keep(&key, head, error).await;
                    return done + 1;
                }
            }
        }
    }

    /// The row of a block that waits.
    async fn row(&self, position: i64) -> Result<Stored, LedgerError> {
        let mut rows = self
            .store
            .read("position = ?1", position.to_string())
            .await?;
        match rows.pop() {
            Some(Ok(row)) => Ok(row),
            Some(Err(Unreadable { reason, .. })) => Err(LedgerError::Storage(reason)),
            None => Err(LedgerError::Storage(format!(
                "row {position} of the spill is gone"
            ))),
        }
    }

    /// The ledger holds something else where a block belongs. It and those behind it are evidence, and stay.
    async fn keep(&self, key: &Key, head: Entry, error: LedgerError) {
        let (session, stream) = key;
        tracing::error!(
            %session, %stream, first = head.first, %error, spill = %self.store.path().display(),
            "a spilled block cannot go into the ledger; it is kept in the spill as evidence"
        );
        if let (LedgerError::Fork { .. }, Some(metrics)) = (&error, &self.metrics) {
            metrics.forks.with_label_values(&["drain"]).inc();
        }
        let _turn = self.turn(key).lock().await;
        // First in the file: whoever waits for the spill may end the program as soon as it is told.
        let rows = self.index().rows(key);
        let noted = self.store.write(Task::Keep(rows, error.to_string())).await;
        if let Err(error) = noted {
            tracing::error!(%error, "the spill could not note which blocks are kept");
        }
        let mut index = self.index();
        index.keep(key, error);
        self.tell(&index);
    }
}
