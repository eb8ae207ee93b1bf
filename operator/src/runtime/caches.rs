//! What the operator knows of the cluster without asking: slim views fed by watches.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use halo_crds::{HaloSubstrate, HaloTenant, SUBSTRATE_LABEL, TENANT_LABEL};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::DeserializeGuard;
use tokio::sync::watch;

use super::kinds::ChildKind;
use super::records::MANAGED_BY;
pub use super::records::{ChildRecord, ContentKey, DeploymentView, NodeInfo, PodView};
use super::store::{Change, ObjectKey, Store, key, version};

/// Which of the two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnerKind {
    /// HaloTenant.
    Tenant,
    /// HaloSubstrate.
    Substrate,
}

/// An object that did not parse.
#[derive(Debug, Clone, PartialEq)]
pub struct InvalidObject {
    /// What does not parse, for a person.
    pub message: String,
    /// Its uid.
    pub uid: String,
    /// Its generation.
    pub generation: Option<i64>,
    /// For events about it.
    pub reference: ObjectReference,
}

/// Something in a cache changed, and these may have to look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// A HaloTenant.
    Tenant(String),
    /// A HaloSubstrate: namespace and name.
    Substrate(String, String),
    /// A child.
    Child {
        /// Its kind.
        kind: ChildKind,
        /// Its namespace; empty if it has none.
        namespace: String,
        /// Its name.
        name: String,
        /// The tenant that its label names.
        tenant: Option<String>,
        /// The substrate that its label names.
        substrate: Option<String>,
    },
    /// A pod of a substrate.
    Pod {
        /// Its namespace.
        namespace: String,
        /// The substrate that its label names.
        substrate: String,
    },
    /// A node, as it was and as it is.
    Node {
        /// Before; empty if it is new.
        before: Option<Arc<NodeInfo>>,
        /// Now; empty if it is gone.
        after: Option<Arc<NodeInfo>>,
    },
}

/// What a child's record and, of ours, the fingerprint after our last write.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Child {
    record: Arc<ChildRecord>,
    settled: Option<u64>,
}

/// One deployment's record is kept among the children, its figures here.
type Deployments = Store<DeploymentView>;

/// What the operator knows of the cluster without asking. Nothing here holds managedFields or the data of a Secret.
pub struct Caches {
    tenants: RwLock<Store<Arc<HaloTenant>>>,
    substrates: RwLock<Store<Arc<HaloSubstrate>>>,
    invalid: RwLock<BTreeMap<(OwnerKind, ObjectKey), InvalidObject>>,
    children: BTreeMap<ChildKind, RwLock<Store<Child>>>,
    deployments: RwLock<Deployments>,
    pods: RwLock<Store<Arc<PodView>>>,
    nodes: RwLock<Store<Arc<NodeInfo>>>,
    content: ContentKey,
    unsynced: AtomicUsize,
    synced: watch::Sender<bool>,
}

/// A read lock. A panic while one was held leaves a store that is whole: every change is one call.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Namespace and name of an object.
fn key_of(meta: &ObjectMeta) -> ObjectKey {
    key(
        meta.namespace.as_deref(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

fn uid_of(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

fn version_of(meta: &ObjectMeta) -> u64 {
    version(meta.resource_version.as_deref())
}

/// How an object came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Watched,
    Listed,
    Wrote,
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

    /// Remembers what an own write returned, so that the next look sees it and its echo is no news.
    pub(super) fn wrote<K: Resource<DynamicType = ()> + Any>(&self, object: &K) {
        let any = object as &dyn Any;
        if let Some(tenant) = any.downcast_ref::<HaloTenant>() {
            self.take_tenant(DeserializeGuard(Ok(tenant.clone())), How::Wrote);
        } else if let Some(substrate) = any.downcast_ref::<HaloSubstrate>() {
            self.take_substrate(DeserializeGuard(Ok(substrate.clone())), How::Wrote);
        } else if let Some(secret) = any.downcast_ref::<Secret>() {
            self.take_secret(secret, How::Wrote);
        } else if let Some(deployment) = any.downcast_ref::<Deployment>() {
            self.take_deployment(deployment, How::Wrote);
        } else if let Some(node) = any.downcast_ref::<Node>() {
            self.take_node(node, How::Wrote);
        } else if let Some(kind) = ChildKind::named(&K::kind(&())) {
            self.take_child(kind, object.meta(), How::Wrote);
        }
    }

    /// Remembers that an object is gone at once.
    pub(super) fn deleted(&self, kind: &str, namespace: Option<&str>, name: &str, uid: &str) {
        let key = key(namespace, name);
        if let Some(store) = ChildKind::named(kind).and_then(|kind| self.children.get(&kind)) {
            write(store).gone(&key, uid);
        }
        match kind {
            "Deployment" => {
                write(&self.deployments).gone(&key, uid);
            }
            "Node" => {
                write(&self.nodes).gone(&key, uid);
            }
            _ => {}
        }
    }

    pub(super) fn take_tenant(
        &self,
        object: DeserializeGuard<HaloTenant>,
        how: How,
    ) -> Option<Touched> {
        let changed = self.take_owner(OwnerKind::Tenant, &self.tenants, object, how)?;
        Some(Touched::Tenant(changed.1))
    }

    pub(super) fn take_substrate(
        &self,
        object: DeserializeGuard<HaloSubstrate>,
        how: How,
    ) -> Option<Touched> {
        let changed = self.take_owner(OwnerKind::Substrate, &self.substrates, object, how)?;
        Some(Touched::Substrate(changed.0, changed.1))
    }

    fn take_owner<K>(
        &self,
        kind: OwnerKind,
        store: &RwLock<Store<Arc<K>>>,
        DeserializeGuard(object): DeserializeGuard<K>,
        how: How,
    ) -> Option<ObjectKey>
    where
        K: Resource<DynamicType = ()> + PartialEq,
    {
        match object {
            Ok(mut object) => {
                object.meta_mut().managed_fields = None;
                let meta = object.meta().clone();
                let key = key_of(&meta);
                let was_invalid = write(&self.invalid).remove(&(kind, key.clone())).is_some();
                let change = put(store, &meta, how, |_| Arc::new(object));
                (was_invalid || change != Change::Same).then_some(key)
            }
            Err(bad) => {
                let key = key_of(&bad.metadata);
                let uid = uid_of(&bad.metadata).to_owned();
                write(store).gone(&key, &uid);
                let object = InvalidObject {
                    message: bad.error,
                    generation: bad.metadata.generation,
                    reference: ObjectReference {
                        api_version: Some(K::api_version(&()).into_owned()),
                        kind: Some(K::kind(&()).into_owned()),
                        name: bad.metadata.name,
                        namespace: bad.metadata.namespace,
                        uid: Some(uid.clone()),
                        ..ObjectReference::default()
                    },
                    uid,
                };
                let before = write(&self.invalid).insert((kind, key.clone()), object.clone());
                (how == How::Listed || before.as_ref() != Some(&object)).then_some(key)
            }
        }
    }

    pub(super) fn lose_owner(&self, kind: OwnerKind, meta: &ObjectMeta) -> Touched {
        let key = key_of(meta);
        match kind {
            OwnerKind::Tenant => write(&self.tenants).gone(&key, uid_of(meta)),
            OwnerKind::Substrate => write(&self.substrates).gone(&key, uid_of(meta)),
        };
        let mut invalid = write(&self.invalid);
        if invalid
            .get(&(kind, key.clone()))
            .is_some_and(|object| object.uid == uid_of(meta))
        {
            invalid.remove(&(kind, key.clone()));
        }
        touched_owner(kind, key)
    }

    pub(super) fn take_secret(&self, secret: &Secret, how: How) -> Option<Touched> {
        let empty = BTreeMap::new();
        let content = self.content.hash(secret.data.as_ref().unwrap_or(&empty));
        self.put_child(ChildKind::Secret, &secret.metadata, Some(content), how)
    }

    pub(super) fn take_deployment(&self, deployment: &Deployment, how: How) -> Option<Touched> {
        let meta = &deployment.metadata;
        let figures = put(&self.deployments, meta, how, |_| {
            DeploymentView::of(deployment)
        });
        let record = self.put_child(ChildKind::Deployment, meta, None, how);
        record.or_else(|| {
            (figures != Change::Same).then(|| touched_child(ChildKind::Deployment, meta))
        })
    }

    pub(super) fn take_child(
        &self,
        kind: ChildKind,
        meta: &ObjectMeta,
        how: How,
    ) -> Option<Touched> {
        self.put_child(kind, meta, None, how)
    }

    fn put_child(
        &self,
        kind: ChildKind,
        meta: &ObjectMeta,
        content: Option<String>,
        how: How,
    ) -> Option<Touched> {
        if how == How::Wrote && !is_watched(kind, meta) {
            return None;
        }
        let store = self.children.get(&kind)?;
        let change = put(store, meta, how, |known: Option<&Child>| {
            let mut record = ChildRecord::of(meta);
            record.content_hash = content;
            let settled = match how {
                How::Wrote => Some(record.fields),
                How::Watched | How::Listed => known.and_then(|known| known.settled),
            };
            if let Some(settled) = settled {
                record.changed_by_others = record.fields != settled;
            }
            Child {
                record: Arc::new(record),
                settled,
            }
        });
        (change != Change::Same).then(|| touched_child(kind, meta))
    }

    pub(super) fn lose_child(&self, kind: ChildKind, meta: &ObjectMeta) -> Touched {
        if let Some(store) = self.children.get(&kind) {
            write(store).gone(&key_of(meta), uid_of(meta));
        }
        if kind == ChildKind::Deployment {
            write(&self.deployments).gone(&key_of(meta), uid_of(meta));
        }
        touched_child(kind, meta)
    }

    pub(super) fn take_pod(&self, pod: &Pod, how: How) -> Option<Touched> {
        let view = Arc::new(PodView::of(pod));
        let touched = touched_pod(&view, &pod.metadata);
        let change = put(&self.pods, &pod.metadata, how, |_| view);
        (change != Change::Same).then_some(touched)
    }

    pub(super) fn lose_pod(&self, pod: &Pod) -> Touched {
        write(&self.pods).gone(&key_of(&pod.metadata), uid_of(&pod.metadata));
        touched_pod(&PodView::of(pod), &pod.metadata)
    }

    pub(super) fn take_node(&self, node: &Node, how: How) -> Option<Touched> {
        let view = Arc::new(NodeInfo::of(node));
        let before = read(&self.nodes).get(&key_of(&node.metadata)).cloned();
        let after = Some(view.clone());
        let change = put(&self.nodes, &node.metadata, how, |_| view);
        (change != Change::Same).then_some(Touched::Node { before, after })
    }

    pub(super) fn lose_node(&self, node: &Node) -> Touched {
        write(&self.nodes).gone(&key_of(&node.metadata), uid_of(&node.metadata));
        Touched::Node {
            before: Some(Arc::new(NodeInfo::of(node))),
            after: None,
        }
    }

    /// A list of a kind begins.
    pub(super) fn begin(&self, watched: Watched) {
        match watched {
            Watched::Owner(OwnerKind::Tenant) => write(&self.tenants).begin(),
            Watched::Owner(OwnerKind::Substrate) => write(&self.substrates).begin(),
            Watched::Child(kind) => {
                if let Some(store) = self.children.get(&kind) {
                    write(store).begin();
                }
                if kind == ChildKind::Deployment {
                    write(&self.deployments).begin();
                }
            }
            Watched::Pods => write(&self.pods).begin(),
            Watched::Nodes => write(&self.nodes).begin(),
        }
    }

    /// A list of a kind is complete: what it did not name is gone. `invalid` are the objects of it that did not parse.
    pub(super) fn complete(&self, watched: Watched, invalid: &[ObjectKey]) -> Vec<Touched> {
        match watched {
            Watched::Owner(kind) => {
                let mut gone: Vec<ObjectKey> = match kind {
                    OwnerKind::Tenant => keys(write(&self.tenants).complete()),
                    OwnerKind::Substrate => keys(write(&self.substrates).complete()),
                };
                write(&self.invalid).retain(|(at, key), _| {
                    let keep = *at != kind || invalid.contains(key);
                    if !keep {
                        gone.push(key.clone());
                    }
                    keep
                });
                gone.into_iter()
                    .map(|key| touched_owner(kind, key))
                    .collect()
            }
            Watched::Child(kind) => {
                if kind == ChildKind::Deployment {
                    write(&self.deployments).complete();
                }
                let Some(store) = self.children.get(&kind) else {
                    return Vec::new();
                };
                let gone = write(store).complete();
                gone.into_iter()
                    .map(|((namespace, name), child)| Touched::Child {
                        kind,
                        namespace,
                        name,
                        tenant: child.record.labels.get(TENANT_LABEL).cloned(),
                        substrate: child.record.labels.get(SUBSTRATE_LABEL).cloned(),
                    })
                    .collect()
            }
            Watched::Pods => write(&self.pods)
                .complete()
                .into_iter()
                .map(|((namespace, _), pod)| Touched::Pod {
                    namespace,
                    substrate: pod.substrate.clone(),
                })
                .collect(),
            Watched::Nodes => write(&self.nodes)
                .complete()
                .into_iter()
                .map(|(_, node)| Touched::Node {
                    before: Some(node),
                    after: None,
                })
                .collect(),
        }
    }
}

/// One watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watched {
    Owner(OwnerKind),
    Child(ChildKind),
    Pods,
    Nodes,
}

fn keys<V>(gone: Vec<(ObjectKey, V)>) -> Vec<ObjectKey> {
    gone.into_iter().map(|(key, _)| key).collect()
}

fn put<V: PartialEq>(
    store: &RwLock<Store<V>>,
    meta: &ObjectMeta,
    how: How,
    value: impl FnOnce(Option<&V>) -> V,
) -> Change {
    let (key, uid, version) = (key_of(meta), uid_of(meta), version_of(meta));
    let mut store = write(store);
    match how {
        How::Watched => store.watched(key, uid, version, value),
        How::Listed => {
            store.listed(key, uid, version, value);
            Change::Changed
        }
        How::Wrote => {
            store.wrote(key, uid, version, value);
            Change::Same
        }
    }
}

/// Whether the watch of a child kind would show this object.
fn is_watched(kind: ChildKind, meta: &ObjectMeta) -> bool {
    let Some(labels) = &meta.labels else {
        return false;
    };
    if kind == ChildKind::Namespace {
        labels.contains_key(TENANT_LABEL)
    } else {
        labels.get(MANAGED_BY.0).map(String::as_str) == Some(MANAGED_BY.1)
    }
}

fn touched_owner(kind: OwnerKind, (namespace, name): ObjectKey) -> Touched {
    match kind {
        OwnerKind::Tenant => Touched::Tenant(name),
        OwnerKind::Substrate => Touched::Substrate(namespace, name),
    }
}

fn touched_child(kind: ChildKind, meta: &ObjectMeta) -> Touched {
    let (namespace, name) = key_of(meta);
    let label = |key: &str| meta.labels.as_ref()?.get(key).cloned();
    Touched::Child {
        kind,
        namespace,
        name,
        tenant: label(TENANT_LABEL),
        substrate: label(SUBSTRATE_LABEL),
    }
}

fn touched_pod(view: &PodView, meta: &ObjectMeta) -> Touched {
    Touched::Pod {
        namespace: meta.namespace.clone().unwrap_or_default(),
        substrate: view.substrate.clone(),
    }
}

#[cfg(test)]
#[path = "caches_tests.rs"]
mod tests;
