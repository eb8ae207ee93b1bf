//! Where watches bring what they see, and everybody else finds what follows from it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::index::{Index, Outcome, View};
use super::objects::{DemandEntry, Key, Kind, Parsed};
use crate::metrics::Metrics;

/// What is known of the cluster, behind locks that are held for as long as one object takes.
pub struct Hub {
    index: Mutex<Index>,
    view: RwLock<Arc<View>>,
    changes: watch::Sender<()>,
    heard: Mutex<[Option<Duration>; Kind::ALL.len()]>,
    metrics: Metrics,
    started: Instant,
}

impl Hub {
    /// Nothing is known yet. See [`Index::new`].
    pub fn new(settle: Duration, metrics: Metrics) -> Self {
        metrics.directory_synced.set(0);
        Self {
            index: Mutex::new(Index::new(settle)),
            view: RwLock::default(),
            changes: watch::Sender::new(()),
            heard: Mutex::default(),
            metrics,
            started: Instant::now(),
        }
    }

    /// The steady time.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// What follows for each tenant, now.
    pub fn view(&self) -> Arc<View> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&view)
    }

    /// Marked as changed with each new view.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// What gateways have for a substrate, as the API server last said.
    pub fn demand(&self, key: &Key) -> Vec<DemandEntry> {
        self.index().demand(key).to_vec()
    }

    /// The substrates that a gateway has an entry in.
    pub fn demand_of(&self, gateway: &str) -> Vec<(Key, DemandEntry)> {
        self.index().demand_of(gateway)
    }

    /// Seconds since the kind that least was heard of was heard of.
    pub fn age(&self) -> Duration {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = heard.iter().map(|at| at.unwrap_or_default()).min();
        self.now().saturating_sub(oldest.unwrap_or_default())
    }

    /// The API server answers for this kind.
    pub(super) fn listening(&self, kind: Kind) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = heard.get_mut(kind as usize) {
            *at = Some(self.now());
        }
    }

    /// A list or a watch of this kind broke.
    pub(super) fn failed(&self, kind: Kind) {
        self.metrics.watch_failed(kind.name());
    }

    /// Takes an object that is new or has changed.
    pub(super) fn put(&self, kind: Kind, parsed: Parsed) {
        self.act(kind, |index, now| index.put(parsed, now));
    }

    /// Takes that an object is gone.
    pub(super) fn remove(&self, kind: Kind, key: &Key) {
        self.act(kind, |index, _| index.remove(kind, key));
    }

    /// Takes all objects of a kind.
    pub(super) fn replace(&self, kind: Kind, all: Vec<Parsed>) {
        self.act(kind, |index, now| index.replace(kind, all, now));
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act(&self, kind: Kind, act: impl FnOnce(&mut Index, Duration) -> Outcome) {
        self.listening(kind);
        let now = self.now();
        let mut index = self.index();
        let Outcome { view, unusable } = act(&mut index, now);
        if let Some(view) = view {
            let synced = view.synced;
            let mut current = self.view.write().unwrap_or_else(PoisonError::into_inner);
            let before = std::mem::replace(&mut *current, view);
            drop(current);
            // Still under the lock of the index, so that views take their places in order.
            drop(index);
            if synced && !before.synced {
                self.metrics.directory_synced.set(1);
            }
            self.changes.send_replace(());
        }
        for (object, error) in unusable {
            tracing::warn!(kind = kind.name(), %object, %error, "an object is not used; what was known of it still counts");
        }
    }
}
