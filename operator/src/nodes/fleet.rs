//! What the cloud has with this cluster's tag: one listing of all instances and volumes, looked at by every reconcile.
//!
//! One listing serves all substrates, so that their number does not matter to the cloud. While something moves it is renewed every few
//! seconds, otherwise seldom. When a listing fails the last one stays, and says how old it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use halo_cloud::{Cloud, CloudError, Instance, Tags, Volume};
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::tags;
use crate::clock::Clock;
use crate::settings::Pace;

/// What the cloud has of one substrate.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FleetView {
    /// Instances with its tag, terminated ones that the cloud still lists included; sorted by id.
    pub instances: Vec<Instance>,
    /// Volumes with its tag, sorted by id.
    pub volumes: Vec<Volume>,
    /// When this listing was asked for; `None` before the first.
    pub listed_at: Option<Timestamp>,
}

/// A cloud that cannot be listed.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetTrouble {
    /// The last failure.
    pub error: CloudError,
    /// Since when every listing fails.
    pub since: Timestamp,
}

#[derive(Default)]
struct State {
    by_uid: BTreeMap<String, FleetView>,
    listed_at: Option<Timestamp>,
    trouble: Option<FleetTrouble>,
    busy: BTreeSet<String>,
    asked: bool,
}

/// The listing and its loop.
pub struct Fleet {
    cloud: Arc<dyn Cloud>,
    clock: Arc<dyn Clock>,
    pace: Pace,
    wanted: Tags,
    state: Mutex<State>,
    poke: Notify,
    changes: mpsc::UnboundedSender<String>,
}

impl Fleet {
    /// A fleet that has not looked yet, and the channel that names the uid of each substrate whose view has changed.
    pub fn new(
        cloud: Arc<dyn Cloud>,
        clock: Arc<dyn Clock>,
        cluster: &str,
        pace: &Pace,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<String>) {
        let (changes, receiver) = mpsc::unbounded_channel();
        let fleet = Self {
            cloud,
            clock,
            pace: pace.clone(),
            wanted: Tags::from([(tags::CLUSTER.to_owned(), cluster.to_owned())]),
            state: Mutex::default(),
            poke: Notify::new(),
            changes,
        };
        (Arc::new(fleet), receiver)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the cloud has of one substrate.
    pub fn view(&self, uid: &str) -> FleetView {
        let state = self.lock();
        FleetView {
            listed_at: state.listed_at,
            ..state.by_uid.get(uid).cloned().unwrap_or_default()
        }
    }

    /// The uid of every substrate that something in the cloud is tagged with, and what that is.
    pub fn holdings(&self) -> Vec<(String, FleetView)> {
        let state = self.lock();
        let listed_at = state.listed_at;
        state
            .by_uid
            .iter()
            .map(|(uid, view)| {
                let view = FleetView {
                    listed_at,
                    ..view.clone()
                };
                (uid.clone(), view)
            })
            .collect()
    }

    /// When the last listing that succeeded was asked for.
    pub fn listed_at(&self) -> Option<Timestamp> {
        self.lock().listed_at
    }

    /// Why the cloud cannot be listed, if it cannot.
    pub fn trouble(&self) -> Option<FleetTrouble> {
        self.lock().trouble.clone()
    }

    /// Says whether something of a substrate moves, which asks for listings at a quick pace.
    pub fn busy(&self, uid: &str, busy: bool) {
        let mut state = self.lock();
        let changed = if busy {
            state.busy.insert(uid.to_owned())
        } else {
            state.busy.remove(uid)
        };
        drop(state);
        if changed {
            self.poke.notify_one();
        }
    }

    /// Asks for a fresh listing soon.
    pub fn look(&self) {
        self.lock().asked = true;
        self.poke.notify_one();
    }

    fn interval(&self) -> Duration {
        let state = self.lock();
        let busy = self.pace.fleet_busy;
        if state.asked {
            // Many reconciles may ask within one moment.
            busy / 8
        } else if !state.busy.is_empty() || state.trouble.is_some() || state.listed_at.is_none() {
            busy
        } else if state.by_uid.values().any(|view| !view.instances.is_empty()) {
            self.pace.fleet_steady
        } else {
            self.pace.fleet_empty
        }
    }

    /// Looks at the cloud until it is stopped.
    pub async fn run(&self, stop: CancellationToken) {
        loop {
            let began = Instant::now();
            tokio::select! {
                () = self.refresh() => {}
                () = stop.cancelled() => return,
            }
            loop {
                let poked = self.poke.notified();
                tokio::select! {
                    () = tokio::time::sleep_until(began + self.interval()) => break,
                    () = poked => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    }

    /// Looks once.
    pub async fn refresh(&self) {
        self.lock().asked = false;
        let asked_at = self.clock.now();
        let listing = futures_util::future::try_join(
            self.cloud.instances(&self.wanted),
            self.cloud.volumes(&self.wanted),
        )
        .await;
        let changed = match listing {
            Ok((instances, volumes)) => self.take(instances, volumes, asked_at),
            Err(error) => self.fail(error, asked_at),
        };
        for uid in changed {
            // Without a receiver the operator is on its way out.
            let _ = self.changes.send(uid);
        }
    }

    fn take(
        &self,
        instances: Vec<Instance>,
        volumes: Vec<Volume>,
        asked_at: Timestamp,
    ) -> BTreeSet<String> {
        let mut by_uid: BTreeMap<String, FleetView> = BTreeMap::new();
        for instance in instances {
            if let Some(uid) = tags::text(&instance.tags, tags::SUBSTRATE_UID) {
                by_uid
                    .entry(uid.to_owned())
                    .or_default()
                    .instances
                    .push(instance);
            }
        }
        // Root volumes carry the tags of their instance; only data volumes carry a zone.
        let data = volumes
            .into_iter()
            .filter(|volume| tags::text(&volume.tags, tags::ZONE).is_some());
        for volume in data {
            if let Some(uid) = tags::text(&volume.tags, tags::SUBSTRATE_UID) {
                by_uid
                    .entry(uid.to_owned())
                    .or_default()
                    .volumes
                    .push(volume);
            }
        }
        for view in by_uid.values_mut() {
            view.instances.sort_by(|a, b| a.id.cmp(&b.id));
            view.volumes.sort_by(|a, b| a.id.cmp(&b.id));
        }
        let mut state = self.lock();
        let first = state.listed_at.is_none();
        let mut changed: BTreeSet<String> = by_uid
            .iter()
            .filter(|(uid, view)| state.by_uid.get(*uid) != Some(view))
            .map(|(uid, _)| uid.clone())
            .collect();
        changed.extend(
            state
                .by_uid
                .keys()
                .filter(|uid| !by_uid.contains_key(*uid))
                .cloned(),
        );
        if first || state.trouble.take().is_some() {
            changed.extend(state.busy.iter().cloned());
        }
        state.by_uid = by_uid;
        state.listed_at = Some(asked_at);
        changed
    }

    fn fail(&self, error: CloudError, now: Timestamp) -> BTreeSet<String> {
        let mut state = self.lock();
        if let Some(trouble) = &mut state.trouble {
            trouble.error = error;
            return BTreeSet::new();
        }
        tracing::warn!(%error, "the cloud cannot be listed");
        state.trouble = Some(FleetTrouble { error, since: now });
        state.busy.clone()
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
