//! What the operator knows of the cluster without asking: slim views fed by watches.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use halo_crds::{HaloSubstrate, HaloTenant};
use k8s_openapi::ByteString;
use tokio::sync::watch;

use super::kinds::ChildKind;
pub use super::records::{ChildRecord, ContentKey, DeploymentView, NodeInfo, PodView};
use super::store::{ObjectKey, Store, key};
pub use super::touched::{InvalidObject, OwnerKind, Touched};

/// What a child's record and, of ours, the fingerprint after our last write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) record: Arc<ChildRecord>,
    pub(super) settled: Option<u64>,
}

/// One deployment's record is kept among the children, its figures here.
pub(super) type Deployments = Store<DeploymentView>;

/// What the operator knows of the cluster without asking. Nothing here holds managedFields or the data of a Secret.
pub struct Caches {
    pub(super) tenants: RwLock<Store<Arc<HaloTenant>>>,
    pub(super) substrates: RwLock<Store<Arc<HaloSubstrate>>>,
    pub(super) invalid: RwLock<BTreeMap<(OwnerKind, ObjectKey), InvalidObject>>,
    pub(super) children: BTreeMap<ChildKind, RwLock<Store<Child>>>,
    pub(super) deployments: RwLock<Deployments>,
    pub(super) pods: RwLock<Store<Arc<PodView>>>,
    pub(super) nodes: RwLock<Store<Arc<NodeInfo>>>,
    pub(super) content: ContentKey,
    unsynced: AtomicUsize,
    synced: watch::Sender<bool>,
}

/// A read lock. A panic while one was held leaves a store that is whole: every change is one call.
pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Caches {
    /// Empty caches, fed by so many watches.
    pub fn new(content: ContentKey, watches: usize) -> Self {
        Self {
            tenants: RwLock::default(),
            substrates: RwLock::default(),
            invalid: RwLock::default(),
            children: ChildKind::ALL
                .into_iter()
                .map(|kind| (kind, RwLock::default()))
                .collect(),
            deployments: RwLock::default(),
            pods: RwLock::default(),
            nodes: RwLock::default(),
            content,
            unsynced: AtomicUsize::new(watches),
            synced: watch::Sender::new(watches == 0),
        }
    }

    /// Whether every watch has delivered its first list.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until every watch has delivered its first list.
    pub async fn synced(&self) {
        // The sender lives as long as `self`, so that this cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// One watch has delivered its first list.
    pub(super) fn one_synced(&self) {
        if self.unsynced.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.synced.send_replace(true);
        }
    }

    /// All tenants that parse.
    pub fn tenants(&self) -> Vec<Arc<HaloTenant>> {
        read(&self.tenants).values().cloned().collect()
    }

    /// A tenant.
    pub fn tenant(&self, name: &str) -> Option<Arc<HaloTenant>> {
        read(&self.tenants).get(&key(None, name)).cloned()
    }

    /// All substrates that parse.
    pub fn substrates(&self) -> Vec<Arc<HaloSubstrate>> {
        read(&self.substrates).values().cloned().collect()
    }

    /// A substrate.
    pub fn substrate(&self, namespace: &str, name: &str) -> Option<Arc<HaloSubstrate>> {
        read(&self.substrates)
            .get(&key(Some(namespace), name))
            .cloned()
    }

    /// The substrate of a uid.
    pub fn substrate_with_uid(&self, uid: &str) -> Option<Arc<HaloSubstrate>> {
        read(&self.substrates).with_uid(uid).cloned()
    }

    /// Whether a substrate of this uid exists, also one that does not parse: what belongs to it is no orphan.
    pub fn substrate_exists(&self, uid: &str) -> bool {
        self.substrate_with_uid(uid).is_some()
            || read(&self.invalid)
                .iter()
                .any(|((kind, _), object)| *kind == OwnerKind::Substrate && object.uid == uid)
    }

    /// Substrates whose spec names the tenant.
    pub fn substrates_of(&self, tenant: &str) -> Vec<Arc<HaloSubstrate>> {
        read(&self.substrates)
            .values()
            .filter(|substrate| substrate.spec.tenant == tenant)
            .cloned()
            .collect()
    }

    /// Why an object does not parse, if it is there and does not.
    pub fn invalid(&self, kind: OwnerKind, namespace: &str, name: &str) -> Option<InvalidObject> {
        let key = (kind, key(Some(namespace), name));
        read(&self.invalid).get(&key).cloned()
    }

    /// All objects that do not parse: kind, namespace (empty for tenants), name.
    pub fn all_invalid(&self) -> Vec<(OwnerKind, String, String)> {
        read(&self.invalid)
            .keys()
            .map(|(kind, (namespace, name))| (*kind, namespace.clone(), name.clone()))
            .collect()
    }

    /// A namespace that carries the tenant label.
    pub fn namespace(&self, name: &str) -> Option<Arc<ChildRecord>> {
        self.child(ChildKind::Namespace, "", name)
    }

    /// A child; the namespace is empty for kinds without.
    pub fn child(&self, kind: ChildKind, namespace: &str, name: &str) -> Option<Arc<ChildRecord>> {
        let store = read(self.children.get(&kind)?);
        let child = store.get(&key(Some(namespace), name))?;
        Some(child.record.clone())
    }

    /// Names of the children of a kind in a namespace that carry a label of this value.
    pub fn children_with(
        &self,
        kind: ChildKind,
        namespace: &str,
        label: &str,
        value: &str,
    ) -> Vec<String> {
        let Some(store) = self.children.get(&kind) else {
            return Vec::new();
        };
        read(store)
            .keys_in(namespace)
            .filter(|(_, child)| child.record.labels.get(label).map(String::as_str) == Some(value))
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    /// The keyed hash that [`ChildRecord::content_hash`] has when a Secret holds this data.
    pub fn content_hash(&self, data: &BTreeMap<String, ByteString>) -> String {
        self.content.hash(data)
    }

    /// A Deployment's figures.
    pub fn deployment(&self, namespace: &str, name: &str) -> Option<DeploymentView> {
        read(&self.deployments)
            .get(&key(Some(namespace), name))
            .cloned()
    }

    /// The pods of a substrate.
    pub fn pods_of(&self, namespace: &str, substrate: &str) -> Vec<Arc<PodView>> {
        read(&self.pods)
            .in_namespace(namespace)
            .filter(|pod| pod.substrate == substrate)
            .cloned()
            .collect()
    }

    /// All nodes.
    pub fn nodes(&self) -> Vec<Arc<NodeInfo>> {
        read(&self.nodes).values().cloned().collect()
    }

    /// A node.
    pub fn node(&self, name: &str) -> Option<Arc<NodeInfo>> {
        read(&self.nodes).get(&key(None, name)).cloned()
    }

    /// How many objects of each kind are kept.
    pub fn counts(&self) -> Vec<(&'static str, usize)> {
        let mut counts = vec![
            ("HaloTenant", read(&self.tenants).len()),
            ("HaloSubstrate", read(&self.substrates).len()),
            ("Pod", read(&self.pods).len()),
            ("Node", read(&self.nodes).len()),
        ];
        let children = self.children.iter();
        counts.extend(children.map(|(kind, store)| (kind.name(), read(store).len())));
        counts
    }
}

#[cfg(test)]
#[path = "caches_tests.rs"]
mod tests;
