//! Watches: each feeds one cache, from its first list on, and begins again by itself when it breaks.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use halo_crds::{HaloSubstrate, HaloTenant, SUBSTRATE_LABEL, TENANT_LABEL};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{
    LimitRange, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota,
    Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::caches::{Caches, OwnerKind, Touched};
use super::feed::{How, Watched};
use super::kinds::ChildKind;
use super::metrics::Metrics;
use super::records::MANAGED_BY;
use super::store::{ObjectKey, key};

/// How many watches there are: both kinds, each child kind, pods and nodes.
pub const WATCHES: usize = 2 + ChildKind::ALL.len() + 2;

/// Objects of one page of a list.
const PAGE: u32 = 250;

/// What hears of changes.
pub type Route = Arc<dyn Fn(Touched) + Send + Sync>;

/// One watch that runs.
pub type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Who has to hear of an object that was taken, and its key if it does not parse.
type Taken = (Option<Touched>, Option<ObjectKey>);

/// What all watches share.
#[derive(Clone)]
struct Shared {
    client: Client,
    caches: Arc<Caches>,
    metrics: Arc<Metrics>,
    route: Route,
    timeout: u32,
}

/// All watches; each runs until it is dropped.
pub fn all(
    client: Client,
    caches: Arc<Caches>,
    metrics: Arc<Metrics>,
    route: Route,
    timeout: Duration,
) -> Vec<Running> {
    let shared = Shared {
        client,
        caches,
        metrics,
        route,
        // The API server takes whole seconds; kube takes none above 294.
        timeout: u32::try_from(timeout.as_secs())
            .unwrap_or(294)
            .clamp(1, 294),
    };
    let mut running: Vec<Running> = vec![
        Box::pin(shared.clone().run::<DeserializeGuard<HaloTenant>>(
            Watched::Owner(OwnerKind::Tenant),
            None,
            |caches, object, how| {
                let invalid = invalid_key(object);
                (caches.take_tenant(object.clone(), how), invalid)
            },
            |caches, object| caches.lose_owner(OwnerKind::Tenant, object.meta()),
        )),
        Box::pin(shared.clone().run::<DeserializeGuard<HaloSubstrate>>(
            Watched::Owner(OwnerKind::Substrate),
            None,
            |caches, object, how| {
                let invalid = invalid_key(object);
                (caches.take_substrate(object.clone(), how), invalid)
            },
            |caches, object| caches.lose_owner(OwnerKind::Substrate, object.meta()),
        )),
        Box::pin(shared.clone().run::<Secret>(
            Watched::Child(ChildKind::Secret),
            Some(ours()),
            |caches, secret, how| (caches.take_secret(secret, how), None),
            |caches, secret| caches.lose_child(ChildKind::Secret, &secret.metadata),
        )),
        Box::pin(shared.clone().run::<Deployment>(
            Watched::Child(ChildKind::Deployment),
            Some(ours()),
            |caches, deployment, how| (caches.take_deployment(deployment, how), None),
            |caches, deployment| caches.lose_child(ChildKind::Deployment, &deployment.metadata),
        )),
        Box::pin(shared.clone().run::<Pod>(
            Watched::Pods,
            Some(SUBSTRATE_LABEL.to_owned()),
            |caches, pod, how| (caches.take_pod(pod, how), None),
            |caches, pod| caches.lose_pod(pod),
        )),
        Box::pin(shared.clone().run::<Node>(
            Watched::Nodes,
            None,
            |caches, node, how| (caches.take_node(node, how), None),
            |caches, node| caches.lose_node(node),
        )),
        shared.metadata::<Namespace>(ChildKind::Namespace, TENANT_LABEL.to_owned()),
    ];
    running.extend([
        shared.metadata::<ResourceQuota>(ChildKind::ResourceQuota, ours()),
        shared.metadata::<LimitRange>(ChildKind::LimitRange, ours()),
        shared.metadata::<NetworkPolicy>(ChildKind::NetworkPolicy, ours()),
        shared.metadata::<ServiceAccount>(ChildKind::ServiceAccount, ours()),
        shared.metadata::<Service>(ChildKind::Service, ours()),
        shared.metadata::<PodDisruptionBudget>(ChildKind::PodDisruptionBudget, ours()),
        shared.metadata::<PersistentVolume>(ChildKind::PersistentVolume, ours()),
        shared.metadata::<PersistentVolumeClaim>(ChildKind::PersistentVolumeClaim, ours()),
    ]);
    running
}

/// The selector of children.
fn ours() -> String {
    format!("{}={}", MANAGED_BY.0, MANAGED_BY.1)
}

/// Namespace and name of an object that does not parse.
fn invalid_key<K: Resource>(DeserializeGuard(object): &DeserializeGuard<K>) -> Option<ObjectKey> {
    let meta = &object.as_ref().err()?.metadata;
    Some(key(
        meta.namespace.as_deref(),
        meta.name.as_deref().unwrap_or_default(),
    ))
}

impl Shared {
    /// A watch of metadata alone.
    fn metadata<K>(&self, kind: ChildKind, selector: String) -> Running
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    {
        Box::pin(self.clone().run::<PartialObjectMeta<K>>(
            Watched::Child(kind),
            Some(selector),
            move |caches, object, how| (caches.take_child(kind, &object.metadata, how), None),
            move |caches, object| caches.lose_child(kind, &object.metadata),
        ))
    }

    async fn run<K>(
        self,
        watched: Watched,
        selector: Option<String>,
        take: impl Fn(&Caches, &K, How) -> Taken + Send,
        lose: impl Fn(&Caches, &K) -> Touched + Send,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let kind = K::kind(&()).into_owned();
        // Lists, not streaming lists: the oldest server that is supported has those switched off.
        let config = watcher::Config {
            label_selector: selector,
            ..watcher::Config::default()
                .page_size(PAGE)
                .timeout(self.timeout)
        };
        let api: Api<K> = Api::all(self.client.clone());
        let stream = watcher(api, config).default_backoff();
        let mut stream = std::pin::pin!(stream);
        let mut first = true;
        let mut invalid = Vec::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) => {
                    invalid.clear();
                    self.caches.begin(watched);
                }
                Ok(Event::InitApply(object)) => {
                    let (touched, bad) = take(&self.caches, &object, How::Listed);
                    invalid.extend(bad);
                    touched.into_iter().for_each(&*self.route);
                }
                Ok(Event::InitDone) => {
                    let gone = self.caches.complete(watched, &invalid);
                    gone.into_iter().for_each(&*self.route);
                    if first {
                        first = false;
                        self.caches.one_synced();
                        tracing::debug!(kind, "the first list is complete");
                    }
                }
                Ok(Event::Apply(object)) => {
                    let (touched, _) = take(&self.caches, &object, How::Watched);
                    touched.into_iter().for_each(&*self.route);
                }
                Ok(Event::Delete(object)) => (self.route)(lose(&self.caches, &object)),
                Err(error) => {
                    self.metrics.watch_failed(&kind);
                    tracing::warn!(kind, error = %super::controller::causes(&error), "a watch broke; it begins again");
                }
            }
        }
    }
}
