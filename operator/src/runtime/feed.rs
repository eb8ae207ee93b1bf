//! What feeds the caches: watches, lists and the answers to own writes.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use halo_crds::{HaloSubstrate, HaloTenant, SUBSTRATE_LABEL, TENANT_LABEL};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::DeserializeGuard;

use super::caches::{Caches, Child, read, write};
use super::kinds::ChildKind;
use super::records::{ChildRecord, DeploymentView, MANAGED_BY, NodeInfo, PodView};
use super::store::{Change, ObjectKey, Store, key, version};
use super::touched::{InvalidObject, OwnerKind, Touched};

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
