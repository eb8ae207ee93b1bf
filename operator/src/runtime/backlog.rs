//! A work queue's state, without a clock of its own.
//!
//! The semantics are client-go's: a key that waits is there once; a key that is being worked on is not given out again, but waits for
//! its end if it is added meanwhile; a key can be added for later, where the earliest time counts.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// How long a key that failed waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// At most.
    pub most: Duration,
}

impl Backoff {
    /// The wait after so many failures in a row before this one. `unit` is random in 0..1: the wait lies between four fifths and six
    /// fifths of what it doubles to, so that keys that failed together do not come back together.
    pub fn wait(self, failures: u32, unit: f64) -> Duration {
        let doubled = self
            .first
            .checked_mul(2u32.saturating_pow(failures.min(31)))
            .unwrap_or(self.most);
        doubled
            .min(self.most)
            .mul_f64(0.8 + 0.4 * unit.clamp(0.0, 1.0))
            .min(self.most)
    }
}

/// A work queue's state.
#[derive(Debug)]
pub struct Backlog<K> {
    /// Keys that may be given out, in their order.
    order: VecDeque<K>,
    /// Keys that have to be looked at, and since when.
    dirty: HashMap<K, Instant>,
    /// Keys that are given out, and since when.
    taken: HashMap<K, Instant>,
    /// Keys for later; the number tells those of one moment apart.
    later: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    count: u64,
    failures: HashMap<K, u32>,
    backoff: Backoff,
    closed: bool,
}

/// A key that is given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given<K> {
    /// The key.
    pub key: K,
    /// How long it waited.
    pub waited: Duration,
}

impl<K: Clone + Eq + Hash> Backlog<K> {
    /// An empty one.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            order: VecDeque::new(),
            dirty: HashMap::new(),
            taken: HashMap::new(),
            later: BTreeMap::new(),
            due: HashMap::new(),
            count: 0,
            failures: HashMap::new(),
            backoff,
            closed: false,
        }
    }

    /// Adds a key. Whether it is new.
    pub fn add(&mut self, key: K, now: Instant) -> bool {
        if self.closed || self.dirty.contains_key(&key) {
            return false;
        }
        self.dirty.insert(key.clone(), now);
        if !self.taken.contains_key(&key) {
            self.order.push_back(key);
        }
        true
    }

    /// Adds a key at a time; if it was to be added earlier, it still is.
    pub fn add_at(&mut self, key: K, at: Instant) {
        if self.closed {
            return;
        }
        if let Some(known) = self.due.get(&key) {
            if known.0 <= at {
                return;
            }
            self.later.remove(known);
        }
        self.count += 1;
        self.due.insert(key.clone(), (at, self.count));
        self.later.insert((at, self.count), key);
    }

    /// Adds a key that failed, after its wait, which is returned.
    pub fn add_failed(&mut self, key: K, now: Instant, unit: f64) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = self.backoff.wait(*failures, unit);
        *failures = failures.saturating_add(1);
        self.add_at(key, now + wait);
        wait
    }

    /// A key succeeded: its next failure is its first.
    pub fn forget(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// How often a key failed in a row.
    pub fn failures(&self, key: &K) -> u32 {
        self.failures.get(key).copied().unwrap_or_default()
    }

    /// Adds keys whose time has come. How many were new.
    pub fn ripen(&mut self, now: Instant) -> usize {
        let mut new = 0;
        while let Some(first) = self.later.first_entry() {
            let (at, _) = *first.key();
            if at > now {
                break;
            }
            let key = first.remove();
            self.due.remove(&key);
            new += usize::from(self.add(key, at));
        }
        new
    }

    /// When the next key's time comes.
    pub fn next_due(&self) -> Option<Instant> {
        self.later.first_key_value().map(|((at, _), _)| *at)
    }

    /// Gives out the first key. What was to come for it later is dropped: looking at it now decides anew.
    pub fn take(&mut self, now: Instant) -> Option<Given<K>> {
        if self.closed {
            return None;
        }
        let key = self.order.pop_front()?;
        let since = self.dirty.remove(&key).unwrap_or(now);
        if let Some(due) = self.due.remove(&key) {
            self.later.remove(&due);
        }
        self.taken.insert(key.clone(), now);
        Some(Given {
            key,
            waited: now.saturating_duration_since(since),
        })
    }

    /// A key that was given out is back. How long it was out.
    pub fn done(&mut self, key: &K, now: Instant) -> Duration {
        let since = self.taken.remove(key).unwrap_or(now);
        if self.dirty.contains_key(key) {
            self.order.push_back(key.clone());
        }
        now.saturating_duration_since(since)
    }

    /// Nothing is added or given out any more.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Keys that wait.
    pub fn depth(&self) -> usize {
        self.order.len()
    }

    /// How long the keys that are given out are out: in sum, and the longest.
    pub fn unfinished(&self, now: Instant) -> (Duration, Duration) {
        let out = |since: &Instant| now.saturating_duration_since(*since);
        (
            self.taken.values().map(out).sum(),
            self.taken.values().map(out).max().unwrap_or_default(),
        )
    }

    /// Keys that wait, are given out or come later: all that are known.
    pub fn known(&self) -> HashSet<K> {
        self.dirty
            .keys()
            .chain(self.taken.keys())
            .chain(self.due.keys())
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BACKOFF: Backoff = Backoff {
        first: Duration::from_millis(500),
        most: Duration::from_secs(300),
    };

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn take(backlog: &mut Backlog<&'static str>, now: Instant) -> Option<&'static str> {
        backlog.take(now).map(|given| given.key)
    }

    #[test]
    fn a_key_waits_once_and_is_out_once() {
        let now = Instant::now();
        let mut backlog = Backlog::new(BACKOFF);
        assert!(backlog.add("a", now));
        assert!(!backlog.add("a", now));
        assert!(backlog.add("b", now));
        assert_eq!(backlog.depth(), 2);
        assert_eq!(take(&mut backlog, now + secs(1)), Some("a"));
        assert!(backlog.add("a", now));
        assert_eq!(take(&mut backlog, now), Some("b"));
        assert_eq!(take(&mut backlog, now), None, "a is still out");
        assert_eq!(backlog.unfinished(now + secs(3)), (secs(5), secs(3)));
        assert_eq!(backlog.done(&"a", now + secs(4)), secs(3));
        assert_eq!(take(&mut backlog, now), Some("a"));
        backlog.done(&"a", now);
        backlog.done(&"b", now);
        assert_eq!(take(&mut backlog, now), None);
        assert!(backlog.known().is_empty());
    }

    #[test]
    fn the_earliest_time_counts() {
        let now = Instant::now();
        let mut backlog = Backlog::new(BACKOFF);
        backlog.add_at("a", now + secs(10));
        backlog.add_at("a", now + secs(20));
        assert_eq!(backlog.next_due(), Some(now + secs(10)));
        backlog.add_at("a", now + secs(5));
        assert_eq!(backlog.next_due(), Some(now + secs(5)));
        assert_eq!(backlog.ripen(now + secs(4)), 0);
        assert_eq!(backlog.ripen(now + secs(5)), 1);
        assert_eq!(backlog.next_due(), None);
        let given = backlog.take(now + secs(7)).unwrap();
        assert_eq!((given.key, given.waited), ("a", secs(2)));
    }

    #[test]
    fn looking_now_drops_what_was_to_come_later() {
        let now = Instant::now();
        let mut backlog = Backlog::new(BACKOFF);
        backlog.add_at("a", now + secs(10));
        backlog.add("a", now);
        assert_eq!(take(&mut backlog, now), Some("a"));
        assert_eq!(backlog.next_due(), None);
        // What the look itself asks for is kept.
        backlog.add_at("a", now + secs(30));
        backlog.done(&"a", now);
        assert_eq!(backlog.next_due(), Some(now + secs(30)));
    }

    #[test]
    fn failures_double_the_wait_until_success() {
        let now = Instant::now();
        let mut backlog = Backlog::new(BACKOFF);
        let waits: Vec<_> = (0..12)
            .map(|_| backlog.add_failed("a", now, 0.5).as_millis())
            .collect();
        assert_eq!(
            waits,
            [
                500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000,
                300_000
            ]
        );
        assert_eq!(backlog.failures(&"a"), 12);
        backlog.forget(&"a");
        assert_eq!(backlog.add_failed("a", now, 0.0).as_millis(), 400);
        assert_eq!(backlog.add_failed("b", now, 1.0).as_millis(), 600);
        assert_eq!(BACKOFF.wait(u32::MAX, 1.0), BACKOFF.most);
    }

    #[test]
    fn a_closed_one_gives_nothing() {
        let now = Instant::now();
        let mut backlog = Backlog::new(BACKOFF);
        backlog.add("a", now);
        backlog.close();
        assert!(!backlog.add("b", now));
        backlog.add_at("c", now);
        assert_eq!(backlog.ripen(now), 0);
        assert_eq!(backlog.take(now), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add(u8),
        AddAt(u8, u64),
        Fail(u8),
        Take,
        Done,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..4).prop_map(Step::Add),
            (0u8..4, 0u64..20).prop_map(|(key, at)| Step::AddAt(key, at)),
            (0u8..4).prop_map(Step::Fail),
            Just(Step::Take),
            Just(Step::Done),
        ]
    }

    proptest! {
        // No key is lost and none is out twice, whatever the order of events.
        #[test]
        fn nothing_is_lost(steps in prop::collection::vec(step(), 0..80)) {
            let start = Instant::now();
            let mut backlog = Backlog::new(BACKOFF);
            let mut out: Vec<u8> = Vec::new();
            let mut owed: HashSet<u8> = HashSet::new();
            for (second, step) in (0u64..).zip(steps) {
                let now = start + secs(second);
                backlog.ripen(now);
                match step {
                    Step::Add(key) => { backlog.add(key, now); owed.insert(key); }
                    Step::AddAt(key, after) => { backlog.add_at(key, now + secs(after)); owed.insert(key); }
                    Step::Fail(key) => { backlog.add_failed(key, now, 0.5); owed.insert(key); }
                    Step::Take => if let Some(given) = backlog.take(now) {
                        prop_assert!(!out.contains(&given.key));
                        owed.remove(&given.key);
                        out.push(given.key);
                    },
                    Step::Done => if let Some(key) = out.pop() { backlog.done(&key, now); },
                }
            }
            let end = start + secs(10_000);
            for key in out { backlog.done(&key, end); }
            backlog.ripen(end);
            while let Some(given) = backlog.take(end) { owed.remove(&given.key); }
            prop_assert!(owed.is_empty(), "{:?}", owed);
        }
    }
}
