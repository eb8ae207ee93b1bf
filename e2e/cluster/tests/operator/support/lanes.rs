//! Many crashes for the price of one: a witness that stops what an operator does for each tenant at a point of the tenant's own.
//!
//! What was stopped for a tenant waits for ever, as does all that would follow for it; for the others the operator goes on. When every
//! tenant has come to its point the operator is crashed, and each tenant is left as a crash at its point leaves it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use halo_aws_emulator::Emulator;
use halo_crds::TENANT_LABEL;
use halo_operator::effect::{Effect, Witness};
use tokio::sync::watch;

use super::{Names, SYSTEM, Seen, World};

/// Where it stops for a tenant: at an action, and at which time of it, from 0. Counted so, because what is done at the same time comes in
/// any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Before it.
    Before(&'static str, usize),
    /// After it; the operator does not learn what came of it.
    After(&'static str, usize),
    /// After the first effect, whatever it is.
    AfterOne,
}

/// What is known of each tenant's effects. One operator has one.
pub struct Lanes {
    emulator: Arc<Emulator>,
    nodes: Names,
    /// Tenants of what is or was in the cloud.
    known: Mutex<BTreeMap<String, String>>,
    state: Mutex<BTreeMap<String, Lane>>,
    stopped: watch::Sender<BTreeSet<String>>,
}

#[derive(Default)]
struct Lane {
    point: Option<Point>,
    seen: Vec<Seen>,
    stopped: bool,
}

impl Lane {
    /// How often this action was begun before the effect of this index.
    fn times(&self, action: &str, index: usize) -> usize {
        let before = self.seen.iter().take(index);
        before.filter(|seen| seen.effect.action == action).count()
    }
}

impl Lanes {
    /// Stops at these points, by tenant.
    pub fn new(world: &World, points: impl IntoIterator<Item = (String, Point)>) -> Arc<Self> {
        let lane = |point| Lane {
            point: Some(point),
            ..Lane::default()
        };
        let points = points
            .into_iter()
            .map(|(tenant, point)| (tenant, lane(point)));
        Arc::new(Self {
            emulator: world.emulator.clone(),
            nodes: world.machines.names(),
            known: Mutex::default(),
            state: Mutex::new(points.collect()),
            stopped: watch::Sender::default(),
        })
    }

    /// A tenant's effects so far, by when they began.
    pub fn seen(&self, tenant: &str) -> Vec<Seen> {
        let state = self.lock();
        state
            .get(tenant)
            .map(|lane| lane.seen.clone())
            .unwrap_or_default()
    }

    /// A tenant's effects as `action object` lines, with those that failed marked.
    pub fn lines(&self, tenant: &str) -> Vec<String> {
        let line = |seen: &Seen| {
            let failed = match seen.outcome {
                Some(false) => " (failed)",
                _ => "",
            };
            format!("{} {}{failed}", seen.effect.action, seen.effect.object)
        };
        self.seen(tenant).iter().map(line).collect()
    }

    /// All effects of all tenants so far.
    pub fn count(&self) -> usize {
        self.lock().values().map(|lane| lane.seen.len()).sum()
    }

    /// Whether it stopped for this tenant.
    pub fn is_stopped(&self, tenant: &str) -> bool {
        self.stopped.borrow().contains(tenant)
    }

    /// Waits until it stopped for this tenant.
    pub async fn stopped(&self, tenant: &str) {
        let mut stopped = self.stopped.subscribe();
        // The sender lives as long as this borrow.
        let _ = stopped.wait_for(|stopped| stopped.contains(tenant)).await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Lane>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tenant that an effect is for. Tenants' namespaces are `halo-` and their name.
    fn tenant_of(&self, effect: &Effect) -> String {
        let object = effect.object.as_str();
        let tagged = |id: &str| {
            self.emulator.look(|view| {
                let instance = view.state.instances.get(id).map(|one| &one.tags);
                let volume = view.state.volumes.get(id).map(|one| &one.tags);
                let tags = instance.or(volume)?;
                tags.get(TENANT_LABEL).cloned()
            })
        };
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let tenant = known.get(object).cloned().or_else(|| tagged(object));
            if let Some(tenant) = tenant {
                known.insert(object.to_owned(), tenant.clone());
                return tenant;
            }
        }
        if let Some((namespace, name)) = object.split_once('/') {
            let tenant = match namespace {
                SYSTEM => name.strip_prefix("halo-keys-"),
                namespace => namespace.strip_prefix("halo-"),
            };
            return tenant.unwrap_or(object).to_owned();
        }
        let holder = {
            let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
            let mut all = nodes.iter();
            let found = all.find(|(_, node)| node.as_str() == object);
            found.map(|(instance, _)| instance.clone())
        };
        if let Some(tenant) = holder.and_then(|instance| tagged(&instance)) {
            return tenant;
        }
        object.strip_prefix("halo-").unwrap_or(object).to_owned()
    }

    async fn stop(&self, tenant: String) {
        self.stopped.send_modify(|stopped| {
            stopped.insert(tenant);
        });
        std::future::pending().await
    }
}

#[async_trait]
impl Witness for Lanes {
    async fn before(&self, effect: &Effect) {
        let tenant = self.tenant_of(effect);
        let stops = {
            let mut state = self.lock();
            let lane = state.entry(tenant.clone()).or_default();
            let times = lane.times(effect.action, lane.seen.len());
            lane.stopped |= lane.point == Some(Point::Before(effect.action, times));
            if !lane.stopped {
                lane.seen.push(Seen {
                    effect: effect.clone(),
                    outcome: None,
                });
            }
            lane.stopped
        };
        if stops {
            self.stop(tenant).await;
        }
    }

    async fn after(&self, effect: &Effect, succeeded: bool) {
        let tenant = self.tenant_of(effect);
        let stops = {
            let mut state = self.lock();
            let lane = state.entry(tenant.clone()).or_default();
            let under_way = |seen: &Seen| seen.outcome.is_none() && seen.effect == *effect;
            if let Some(index) = lane.seen.iter().position(under_way) {
                lane.seen[index].outcome = Some(succeeded);
                let times = lane.times(effect.action, index);
                let after = Point::After(effect.action, times);
                lane.stopped |= lane.point == Some(after) || lane.point == Some(Point::AfterOne);
            }
            lane.stopped
        };
        if stops {
            self.stop(tenant).await;
        }
    }
}
