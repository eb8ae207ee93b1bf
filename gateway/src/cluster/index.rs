//! What is known of the cluster, and what follows for each tenant. Pure: objects and the time in, an immutable view out.
//!
//! Of several HaloTenants with one tenant id the oldest counts, as it does for the operator; of several HaloSubstrates of one tenant the
//! oldest that is not being deleted, and by name among those of one second. A substrate is its tenant's only in the tenant's own
//! namespace, and an EndpointSlice is a substrate's only in the substrate's: no namespace can take another's devices.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use halo_crds::status::Phase;
use halo_receipts::ids::TenantId;

use super::endpoints::{self, Slice};
use super::keys::Held;
use super::objects::{
    DemandEntry, Key, Kind, Object, Parsed, SubstrateObject, TenantObject, Unusable,
};
use crate::directory::{Stage, Substrate, Tenant};

/// What is known of the cluster.
pub struct Index {
    settle: Duration,
    keys: BTreeMap<Key, Held>,
    tenants: BTreeMap<Key, TenantObject>,
    substrates: BTreeMap<Key, SubstrateObject>,
    slices: BTreeMap<Key, Slice>,
    demand: BTreeMap<Key, Vec<DemandEntry>>,
    listed: [bool; Kind::ALL.len()],
    view: Arc<View>,
}

/// What follows for each tenant. Never changes; another one takes its place.
#[derive(Default)]
pub struct View {
    /// Whether objects of every kind were listed once.
    pub synced: bool,
    tenants: HashMap<TenantId, Served>,
    keys: HashMap<TenantId, Held>,
}

/// A tenant that is served.
#[derive(Clone)]
pub struct Served {
    /// What it allows.
    pub tenant: Arc<Tenant>,
    /// Its substrate, if it has one.
    pub substrate: Option<Place>,
}

/// A tenant's substrate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its namespace and name.
    pub key: Key,
    /// Its pods.
    pub substrate: Arc<Substrate>,
    /// How long nothing is asked before it sleeps.
    pub idle_after: Duration,
}

/// What came of a change.
#[derive(Default)]
pub struct Outcome {
    /// The new view, if it says anything else than before.
    pub view: Option<Arc<View>>,
    /// Objects that are not used, and why. What was known of them before still counts.
    pub unusable: Vec<(Key, Unusable)>,
}

impl View {
    /// A tenant that is served.
    pub fn tenant(&self, id: &TenantId) -> Option<&Served> {
        self.tenants.get(id)
    }

    /// A tenant's keys.
    pub fn keys(&self, id: &TenantId) -> Option<&Held> {
        self.keys.get(id)
    }

    /// All tenants and their substrates.
    pub fn tenants(&self) -> impl Iterator<Item = (&TenantId, &Served)> {
        self.tenants.iter()
    }
}

impl Index {
    /// Nothing is known yet. New roots are used for new sessions `settle` after they were first seen beside others.
    pub fn new(settle: Duration) -> Self {
        Self {
            settle,
            keys: BTreeMap::new(),
            tenants: BTreeMap::new(),
            substrates: BTreeMap::new(),
            slices: BTreeMap::new(),
            demand: BTreeMap::new(),
            listed: [false; Kind::ALL.len()],
            view: Arc::default(),
        }
    }

    /// The view as it is.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    /// What gateways have for a substrate, as the API server last said.
    pub fn demand(&self, key: &Key) -> &[DemandEntry] {
        self.demand.get(key).map_or(&[], Vec::as_slice)
    }

    /// The substrates that a gateway has an entry in, and that entry's time.
    pub fn demand_of(&self, gateway: &str) -> Vec<(Key, DemandEntry)> {
        let entries = self.demand.iter().flat_map(|(key, entries)| {
            entries
                .iter()
                .filter(|entry| entry.gateway == gateway)
                .map(|entry| (key.clone(), entry.clone()))
        });
        entries.collect()
    }

    /// Takes an object that is new or has changed.
    pub fn put(&mut self, parsed: Parsed, now: Duration) -> Outcome {
        let mut outcome = Outcome::default();
        if self.take(parsed, now, &mut outcome) {
            outcome.view = self.refresh();
        }
        outcome
    }

    /// Takes that an object is gone.
    pub fn remove(&mut self, kind: Kind, key: &Key) -> Outcome {
        let changed = self.forget(kind, key);
        Outcome {
            view: changed.then(|| self.refresh()).flatten(),
            unusable: Vec::new(),
        }
    }

    /// Takes all objects of a kind: others of it are gone.
    pub fn replace(&mut self, kind: Kind, all: Vec<Parsed>, now: Duration) -> Outcome {
        let mut outcome = Outcome::default();
        let listed: BTreeSet<&Key> = all.iter().map(|parsed| &parsed.key).collect();
        for key in self.known(kind) {
            if !listed.contains(&key) {
                self.forget(kind, &key);
            }
        }
        for parsed in all {
            self.take(parsed, now, &mut outcome);
        }
        if let Some(listed) = self.listed.get_mut(kind as usize) {
            *listed = true;
        }
        outcome.view = self.refresh();
        outcome
    }

    /// Whether anything changed that the view is made from.
    fn take(&mut self, parsed: Parsed, now: Duration, outcome: &mut Outcome) -> bool {
        let Parsed { key, object, .. } = parsed;
        match object {
            Ok(Object::Keys(ring)) => {
                let known = self.keys.get(&key);
                if known.is_some_and(|known| known.is_same(&ring)) {
                    return false;
                }
                let held = Held::next(known, ring, now, self.settle);
                self.keys.insert(key, held);
                true
            }
            Ok(Object::Tenant(mut tenant)) => {
                let known = self.tenants.get(&key);
                if known == Some(&tenant) {
                    return false;
                }
                // The same allowance stays the same object, so that views compare at once.
                if let Some(known) = known.filter(|known| known.tenant == tenant.tenant) {
                    tenant.tenant = Arc::clone(&known.tenant);
                }
                self.tenants.insert(key, tenant);
                true
            }
            Ok(Object::Substrate(substrate, demand)) => {
                self.demand.insert(key.clone(), demand);
                put(&mut self.substrates, key, substrate)
            }
            Ok(Object::Slice(slice)) => put(&mut self.slices, key, slice),
            Err(error) => {
                outcome.unusable.push((key, error));
                false
            }
        }
    }

    fn forget(&mut self, kind: Kind, key: &Key) -> bool {
        match kind {
            Kind::Secret => self.keys.remove(key).is_some(),
            Kind::Tenant => self.tenants.remove(key).is_some(),
            Kind::Substrate => {
                self.demand.remove(key);
                self.substrates.remove(key).is_some()
            }
            Kind::Slice => self.slices.remove(key).is_some(),
        }
    }

    fn known(&self, kind: Kind) -> Vec<Key> {
        match kind {
            Kind::Secret => self.keys.keys().cloned().collect(),
            Kind::Tenant => self.tenants.keys().cloned().collect(),
            Kind::Substrate => self.substrates.keys().cloned().collect(),
            Kind::Slice => self.slices.keys().cloned().collect(),
        }
    }

    /// The new view, if it says anything else.
    fn refresh(&mut self) -> Option<Arc<View>> {
        let next = self.build();
        if next.says_the_same(&self.view) {
            return None;
        }
        self.view = Arc::new(next);
        Some(self.view())
    }

    fn build(&self) -> View {
        let mut slices: HashMap<(&str, &str), Vec<&Slice>> = HashMap::new();
        for (key, slice) in &self.slices {
            let place = (key.namespace.as_str(), slice.substrate.as_str());
            slices.entry(place).or_default().push(slice);
        }
        let mut substrates: HashMap<(&str, &str), (&Key, &SubstrateObject)> = HashMap::new();
        for (key, substrate) in self.substrates.iter().filter(|(_, one)| !one.deleting) {
            let place = (key.namespace.as_str(), substrate.tenant.as_str());
            let best = substrates.entry(place).or_insert((key, substrate));
            // Keys are visited in order, so that of two of one age the first name stays.
            if substrate.created < best.1.created {
                *best = (key, substrate);
            }
        }
        let mut tenants: HashMap<&TenantId, (&Key, &TenantObject)> = HashMap::new();
        for (key, tenant) in &self.tenants {
            let best = tenants.entry(&tenant.id).or_insert((key, tenant));
            if tenant.created < best.1.created {
                *best = (key, tenant);
            }
        }
        let tenants = tenants.into_iter().filter(|(_, (_, one))| !one.deleting);
        let tenants = tenants.map(|(id, (key, tenant))| {
            let place = (tenant.namespace.as_str(), key.name.as_str());
            let substrate = substrates.get(&place).map(|(key, object)| {
                let pods = slices.get(&(key.namespace.as_str(), key.name.as_str()));
                self.place(id, key, object, pods.map_or(&[], Vec::as_slice))
            });
            let served = Served {
                tenant: Arc::clone(&tenant.tenant),
                substrate,
            };
            (id.clone(), served)
        });
        View {
            synced: self.listed.iter().all(|listed| *listed),
            tenants: tenants.collect(),
            keys: self
                .keys
                .values()
                .map(|held| (held.tenant().clone(), held.clone()))
                .collect(),
        }
    }

    fn place(
        &self,
        tenant: &TenantId,
        key: &Key,
        object: &SubstrateObject,
        slices: &[&Slice],
    ) -> Place {
        let pods = endpoints::pods(slices.iter().copied());
        let loading = slices.iter().any(|slice| slice.loading);
        let substrate = Substrate {
            stage: stage(!pods.is_empty(), loading, object.phase),
            pods,
            wake_deadline: Some(object.wake_deadline),
        };
        let place = Place {
            key: key.clone(),
            substrate: Arc::new(substrate),
            idle_after: object.idle_after,
        };
        // What says the same stays the same object.
        let known = self.view.tenant(tenant);
        match known.and_then(|known| known.substrate.as_ref()) {
            Some(known) if *known == place => known.clone(),
            _ => place,
        }
    }
}

impl View {
    fn says_the_same(&self, other: &Self) -> bool {
        let same_tenant = |(id, served): (&TenantId, &Served)| {
            other.tenant(id).is_some_and(|known| {
                Arc::ptr_eq(&known.tenant, &served.tenant) && known.substrate == served.substrate
            })
        };
        let same_keys = |(id, held): (&TenantId, &Held)| {
            other.keys(id).is_some_and(|known| known.is_this(held))
        };
        self.synced == other.synced
            && self.tenants.len() == other.tenants.len()
            && self.keys.len() == other.keys.len()
            && self.tenants().all(same_tenant)
            && self.keys.iter().all(same_keys)
    }
}

fn put<T: PartialEq>(map: &mut BTreeMap<Key, T>, key: Key, value: T) -> bool {
    if map.get(&key) == Some(&value) {
        return false;
    }
    map.insert(key, value);
    true
}

/// How far a substrate is: what its pods say counts more than what the operator last wrote.
fn stage(ready: bool, loading: bool, phase: Phase) -> Stage {
    match (ready, loading, phase) {
        (true, _, _) => Stage::Ready,
        (false, true, _) => Stage::Loading,
        // Awake without a ready pod: one is being replaced.
        (false, false, Phase::Waking | Phase::Awake) => Stage::Starting,
        (false, false, Phase::Asleep | Phase::Draining) => Stage::Asleep,
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
