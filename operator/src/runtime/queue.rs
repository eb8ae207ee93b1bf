//! A work queue: [`Backlog`] behind a lock, with a clock and figures.

use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::backlog::Backlog;
pub use super::backlog::Backoff;
use super::metrics::QueueMetrics;

/// A work queue. Cheap to clone; clones are the same queue.
pub struct Queue<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

struct Inner<K> {
    backlog: Mutex<Backlog<K>>,
    changed: Notify,
    metrics: QueueMetrics,
}

/// A key that is being worked on, until this is dropped.
pub struct Taken<K: Clone + Eq + Hash> {
    queue: Queue<K>,
    key: K,
}

impl<K: Clone + Eq + Hash> Taken<K> {
    /// The key.
    pub fn key(&self) -> &K {
        &self.key
    }
}

impl<K: Clone + Eq + Hash> Drop for Taken<K> {
    fn drop(&mut self) {
        self.queue.done(&self.key);
    }
}

/// Random in 0..1; a half if the system has no randomness.
fn unit() -> f64 {
    getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX))
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// An empty queue.
    pub fn new(backoff: Backoff, metrics: QueueMetrics) -> Self {
        Self {
            inner: Arc::new(Inner {
                backlog: Mutex::new(Backlog::new(backoff)),
                changed: Notify::new(),
                metrics,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Backlog<K>> {
        // Every change of a backlog is one call that does not panic in between.
        self.inner
            .backlog
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a key.
    pub fn add(&self, key: K) {
        let mut backlog = self.lock();
        if backlog.add(key, Instant::now()) {
            self.inner.metrics.adds.inc();
            self.depth(&backlog);
            drop(backlog);
            self.inner.changed.notify_one();
        }
    }

    /// Adds a key later; the earliest time counts.
    pub fn add_after(&self, key: K, after: Duration) {
        if after.is_zero() {
            self.add(key);
        } else {
            self.lock().add_at(key, Instant::now() + after);
            self.inner.changed.notify_one();
        }
    }

    /// Adds a key that failed, after its wait, which is returned.
    pub fn add_rate_limited(&self, key: K) -> Duration {
        let wait = self.lock().add_failed(key, Instant::now(), unit());
        self.inner.metrics.retries.inc();
        self.inner.changed.notify_one();
        wait
    }

    /// A key succeeded: its next failure is its first.
    pub fn forget(&self, key: &K) {
        self.lock().forget(key);
    }

    /// How often a key failed in a row.
    pub fn failures(&self, key: &K) -> u32 {
        self.lock().failures(key)
    }

    /// The next key, once there is one; `None` after [`Queue::shutdown`].
    pub async fn get(&self) -> Option<Taken<K>> {
        loop {
            let due = {
                let now = Instant::now();
                let mut backlog = self.lock();
                if backlog.is_closed() {
                    drop(backlog);
                    // One permit wakes one worker; each wakes the next.
                    self.inner.changed.notify_one();
                    return None;
                }
                let new = backlog.ripen(now);
                self.inner
                    .metrics
                    .adds
                    .inc_by(u64::try_from(new).unwrap_or_default());
                let given = backlog.take(now);
                self.depth(&backlog);
                let more = backlog.depth() > 0;
                let due = backlog.next_due();
                drop(backlog);
                if let Some(given) = given {
                    if more || due.is_some() {
                        self.inner.changed.notify_one();
                    }
                    self.inner
                        .metrics
                        .waited
                        .observe(given.waited.as_secs_f64());
                    return Some(Taken {
                        queue: self.clone(),
                        key: given.key,
                    });
                }
                due
            };
            match due {
                Some(due) => {
                    tokio::select! {
                        () = self.inner.changed.notified() => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
                None => self.inner.changed.notified().await,
            }
        }
    }

    fn done(&self, key: &K) {
        let mut backlog = self.lock();
        let worked = backlog.done(key, Instant::now());
        self.inner.metrics.worked.observe(worked.as_secs_f64());
        self.depth(&backlog);
        let more = backlog.depth() > 0;
        drop(backlog);
        if more {
            self.inner.changed.notify_one();
        }
    }

    /// Gives out nothing more; what is out may finish.
    pub fn shutdown(&self) {
        self.lock().close();
        self.inner.changed.notify_one();
    }

    /// Keys that wait.
    pub fn len(&self) -> usize {
        self.lock().depth()
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Brings those figures up to date that change by themselves.
    pub fn observe(&self) {
        let (sum, longest) = self.lock().unfinished(Instant::now());
        self.inner.metrics.unfinished.set(sum.as_secs_f64());
        self.inner.metrics.longest.set(longest.as_secs_f64());
    }

    fn depth(&self, backlog: &Backlog<K>) {
        let depth = i64::try_from(backlog.depth()).unwrap_or(i64::MAX);
        self.inner.metrics.depth.set(depth);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::metrics::Metrics;

    fn queue() -> Queue<&'static str> {
        let backoff = Backoff {
            first: Duration::from_secs(1),
            most: Duration::from_secs(60),
        };
        Queue::new(backoff, Metrics::new().unwrap().queue("test"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_key_comes_when_its_time_has_come() {
        let queue = queue();
        let begun = Instant::now();
        queue.add_after("late", Duration::from_secs(9));
        queue.add_after("soon", Duration::from_secs(2));
        assert_eq!(*queue.get().await.unwrap().key(), "soon");
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        assert_eq!(*queue.get().await.unwrap().key(), "late");
        assert_eq!(begun.elapsed(), Duration::from_secs(9));
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_time_wakes_who_waits_for_a_later_one() {
        let queue = queue();
        queue.add_after("a", Duration::from_secs(100));
        let waiter = tokio::spawn({
            let queue = queue.clone();
            async move { *queue.get().await.unwrap().key() }
        });
        tokio::task::yield_now().await;
        let begun = Instant::now();
        queue.add_after("b", Duration::from_secs(1));
        assert_eq!(waiter.await.unwrap(), "b");
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn many_workers_take_all_keys_and_end_at_shutdown() {
        const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
        let queue = queue();
        let (send, mut taken) = tokio::sync::mpsc::unbounded_channel();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (queue, send) = (queue.clone(), send.clone());
                tokio::spawn(async move {
                    while let Some(key) = queue.get().await {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        send.send(*key.key()).unwrap();
                    }
                })
            })
            .collect();
        for (after, key) in (0..).zip(KEYS) {
            queue.add_after(key, Duration::from_secs(after % 2));
        }
        let mut got = Vec::new();
        for _ in KEYS {
            got.push(taken.recv().await.unwrap());
        }
        got.sort_unstable();
        assert_eq!(got, KEYS);
        queue.shutdown();
        for worker in workers {
            worker.await.unwrap();
        }
        assert!(queue.get().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn figures_follow() {
        let metrics = Metrics::new().unwrap();
        let backoff = Backoff {
            first: Duration::from_secs(1),
            most: Duration::from_secs(60),
        };
        let queue = Queue::new(backoff, metrics.queue("test"));
        queue.add("a");
        queue.add("a");
        queue.add("b");
        let taken = queue.get().await.unwrap();
        tokio::time::advance(Duration::from_secs(5)).await;
        queue.observe();
        queue.add_rate_limited("b");
        let text = metrics.text().unwrap();
        for line in [
            r#"workqueue_depth{name="test"} 1"#,
            r#"workqueue_adds_total{name="test"} 2"#,
            r#"workqueue_retries_total{name="test"} 1"#,
            r#"workqueue_queue_duration_seconds_count{name="test"} 1"#,
            r#"workqueue_unfinished_work_seconds{name="test"} 5"#,
            r#"workqueue_longest_running_processor_seconds{name="test"} 5"#,
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
        drop(taken);
        assert!(
            metrics
                .text()
                .unwrap()
                .contains(r#"workqueue_work_duration_seconds_count{name="test"} 1"#)
        );
    }
}
