//! What waits in a spill, without its content: pure.

use std::collections::{HashMap, VecDeque};

use halo_receipts::evidence::Stream;
use halo_receipts::ids::SessionId;

use crate::LedgerError;

/// A stream of a session.
pub type Key = (SessionId, Stream);

/// A block that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its row.
    pub position: i64,
    /// The number of its first receipt.
    pub first: u32,
    /// The number behind its last receipt.
    pub end: u32,
    /// What it takes of the spill's limit.
    pub bytes: u64,
    /// When it came, in microseconds since 1970.
    pub since: u64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Entry>,
    /// Why nothing of this stream can go into the ledger any more.
    kept: Option<LedgerError>,
}

/// All that is in a spill.
#[derive(Default)]
pub struct Index {
    queues: HashMap<Key, Queue>,
    /// Blocks that wait.
    pub waiting: usize,
    /// Blocks that are kept.
    pub kept: usize,
    /// Bytes of both.
    pub bytes: u64,
}

impl Index {
    /// Adds a block behind the others of its stream. Its bytes are not counted: see [`Index::reserve`].
    pub fn push(&mut self, key: Key, entry: Entry) {
        let queue = self.queues.entry(key).or_default();
        if queue.kept.is_some() {
            self.kept += 1;
        } else {
            queue.waiting.push_back(entry);
            self.waiting += 1;
        }
    }

    /// Takes bytes of the limit, if they are left.
    pub fn reserve(&mut self, bytes: u64, limit: u64) -> bool {
        let fits = self.bytes.saturating_add(bytes) <= limit;
        if fits {
            self.bytes += bytes;
        }
        fits
    }

    /// Gives bytes back.
    pub fn release(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// The first block of a stream that waits.
    pub fn head(&self, key: &Key) -> Option<Entry> {
        self.queues.get(key)?.waiting.front().copied()
    }

    /// Where the waiting blocks of a stream begin and end.
    pub fn range(&self, key: &Key) -> Option<(u32, u32)> {
        let waiting = &self.queues.get(key)?.waiting;
        Some((waiting.front()?.first, waiting.back()?.end))
    }

    /// Why nothing of a stream can go into the ledger.
    pub fn kept(&self, key: &Key) -> Option<&LedgerError> {
        self.queues.get(key)?.kept.as_ref()
    }

    /// The block stands in the ledger.
    pub fn remove(&mut self, key: &Key, position: i64) {
        let Some(queue) = self.queues.get_mut(key) else {
            return;
        };
        if let Some(at) = queue
            .waiting
            .iter()
            .position(|entry| entry.position == position)
        {
            let entry = queue.waiting.remove(at);
            self.waiting -= 1;
            self.release(entry.map_or(0, |entry| entry.bytes));
        }
        let queue = self.queues.get(key);
        if queue.is_some_and(|queue| queue.waiting.is_empty() && queue.kept.is_none()) {
            self.queues.remove(key);
        }
    }

    /// The rows of a stream's waiting blocks.
    pub fn rows(&self, key: &Key) -> Vec<i64> {
        let waiting = self.queues.get(key).map(|queue| queue.waiting.iter());
        waiting
            .into_iter()
            .flatten()
            .map(|entry| entry.position)
            .collect()
    }

    /// The first block of a stream cannot go into the ledger, nor can any behind it.
    pub fn keep(&mut self, key: &Key, reason: LedgerError) {
        let queue = self.queues.entry(*key).or_default();
        let blocks = queue.waiting.len();
        queue.waiting.clear();
        queue.kept = Some(reason);
        self.waiting -= blocks;
        self.kept += blocks;
    }

    /// Streams with waiting blocks, the one that waits longest first.
    pub fn streams(&self) -> Vec<Key> {
        let heads = self.queues.iter();
        let mut heads: Vec<_> = heads
            .filter_map(|(key, queue)| Some((queue.waiting.front()?.position, *key)))
            .collect();
        heads.sort_unstable_by_key(|(position, _)| *position);
        heads.into_iter().map(|(_, key)| key).collect()
    }

    /// When the oldest block came.
    pub fn oldest(&self) -> Option<u64> {
        let heads = self.queues.values();
        heads
            .filter_map(|queue| Some(queue.waiting.front()?.since))
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(position: i64, first: u32) -> Entry {
        Entry {
            position,
            first,
            end: first + 8,
            bytes: 100,
            since: position as u64,
        }
    }

    #[test]
    fn blocks_wait_in_order_and_are_counted() {
        let id = SessionId::from_random([1; 16]);
        let (device, substrate) = ((id, Stream::Device), (id, Stream::Substrate));
        let mut index = Index::default();
        for (key, position, first) in [(substrate, 1, 64), (device, 2, 0), (substrate, 3, 72)] {
            assert!(index.reserve(100, 350));
            index.push(key, entry(position, first));
        }
        assert!(!index.reserve(100, 350), "the limit");
        assert_eq!(index.streams(), [substrate, device]);
        assert_eq!(index.range(&substrate), Some((64, 80)));
        assert_eq!(index.oldest(), Some(1));
        index.remove(&substrate, 1);
        assert_eq!(index.head(&substrate), Some(entry(3, 72)));
        assert_eq!((index.waiting, index.bytes), (2, 200));
        assert_eq!(index.streams(), [device, substrate]);

        let fork = LedgerError::Fork {
            stream: Stream::Substrate,
            number: 72,
        };
        assert_eq!(index.rows(&substrate), [3]);
        index.keep(&substrate, fork.clone());
        assert_eq!(index.kept(&substrate), Some(&fork));
        assert_eq!((index.waiting, index.kept, index.bytes), (1, 1, 200));
        index.remove(&device, 2);
        assert_eq!(index.streams(), []);
        assert_eq!(
            (index.waiting, index.oldest(), index.range(&device)),
            (0, None, None)
        );
        assert_eq!(
            index.queues.len(),
            1,
            "what is empty is forgotten, what is kept is not"
        );
    }
}
