//! An operator on a control plane of its own, with a cloud that has nothing and a parameter store in memory.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use halo_cloud::{
    Cloud, CloudError, Image, Instance, InstanceId, LaunchRequest, NewVolume, Parameter,
    SecretError, Secrets, Tags, Volume, VolumeId,
};
use halo_e2e_cluster::{ControlPlane, Options, eventually};
use halo_operator::clock::SystemClock;
use halo_operator::effect::Log;
use halo_operator::runtime::metrics::Metrics;
use halo_operator::runtime::operator::{Handle, Operator, Parts};
use halo_operator::settings::{ClusterJoin, LeaseSettings, Pace, PodDefaults, Settings};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// A cloud that has nothing; nothing here asks it for more.
struct NoCloud;

fn none<T>() -> Result<T, CloudError> {
    panic!("a tenant asks the cloud for nothing")
}

#[async_trait]
impl Cloud for NoCloud {
    async fn launch(&self, _: &LaunchRequest) -> Result<Instance, CloudError> {
        none()
    }
    async fn instances(&self, _: &Tags) -> Result<Vec<Instance>, CloudError> {
        Ok(Vec::new())
    }
    async fn instance_by_token(&self, _: &str) -> Result<Option<Instance>, CloudError> {
        none()
    }
    async fn start(&self, _: &InstanceId) -> Result<(), CloudError> {
        none()
    }
    async fn stop(&self, _: &InstanceId) -> Result<(), CloudError> {
        none()
    }
    async fn terminate(&self, _: &InstanceId) -> Result<(), CloudError> {
        none()
    }
    async fn create_volume(&self, _: &NewVolume) -> Result<Volume, CloudError> {
        none()
    }
    async fn volumes(&self, _: &Tags) -> Result<Vec<Volume>, CloudError> {
        Ok(Vec::new())
    }
    async fn attach_volume(&self, _: &VolumeId, _: &InstanceId, _: &str) -> Result<(), CloudError> {
        none()
    }
    async fn delete_volume(&self, _: &VolumeId) -> Result<(), CloudError> {
        none()
    }
    async fn resolve_image(&self, _: &Image) -> Result<String, CloudError> {
        none()
    }
    async fn missing_permissions(
        &self,
        _: &LaunchRequest,
        _: Option<&InstanceId>,
    ) -> Result<Vec<String>, CloudError> {
        none()
    }
}

/// A parameter store with one root for each version.
#[derive(Default)]
pub struct Store {
    broken: AtomicBool,
    calls: AtomicUsize,
}

impl Store {
    /// Whether it answers.
    pub fn fail(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// How often it was asked.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Secrets for Store {
    async fn parameter(&self, _: &str, version: Option<u32>) -> Result<Parameter, SecretError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.broken.load(Ordering::SeqCst) {
            return Err(SecretError::Unavailable {
                code: "InternalServerError".to_owned(),
                message: "try again".to_owned(),
            });
        }
        let version = version.unwrap();
        Ok(Parameter {
            value: Zeroizing::new(vec![u8::try_from(version).unwrap(); 32]),
            version,
        })
    }
}

/// An operator that leads, and the control plane under it.
pub struct Bench {
    /// A client of the test's own.
    pub client: Client,
    /// The parameter store.
    pub secrets: Arc<Store>,
    _operator: Handle,
    _plane: ControlPlane,
}

impl Bench {
    /// Starts both and waits until the operator leads.
    pub async fn start() -> Self {
        let options = Options {
            crds: halo_crds::all(),
            ..Options::default()
        };
        let plane = ControlPlane::start(options).await.unwrap();
        let client = plane.client().await.unwrap();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let system = named("halo-system", &BTreeMap::new());
        namespaces
            .create(&PostParams::default(), &system)
            .await
            .unwrap();
        let secrets = Arc::new(Store::default());
        let operator = Operator::start(Parts {
            kube: plane.config().await.unwrap(),
            settings: settings(),
            http: "127.0.0.1:0".parse().unwrap(),
            cloud: Arc::new(NoCloud),
            secrets: secrets.clone(),
            clock: Arc::new(SystemClock),
            witness: Arc::new(Log),
            metrics: Arc::new(Metrics::new().unwrap()),
        });
        let operator = operator.await.unwrap();
        assert!(operator.leads().await);
        Self {
            client,
            secrets,
            _operator: operator,
            _plane: plane,
        }
    }

    /// Makes a namespace.
    pub async fn namespace(&self, name: &str, labels: &BTreeMap<String, String>) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = named(name, labels);
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
    }

    /// Waits until there is no such object.
    pub async fn gone<K: Clone + DeserializeOwned + Debug>(&self, api: &Api<K>, name: &str) {
        eventually(Duration::from_secs(30), || async {
            match api.get_opt(name).await {
                Ok(None) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

fn named(name: &str, labels: &BTreeMap<String, String>) -> Namespace {
    Namespace {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.clone()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}

fn settings() -> Settings {
    Settings {
        cluster: "test".to_owned(),
        join: ClusterJoin::default(),
        region: "us-east-2".to_owned(),
        namespace: "halo-system".to_owned(),
        identity: "operator-0".to_owned(),
        substrate_image: "halo/substrate:1".to_owned(),
        substrate_pods: PodDefaults::default(),
        metrics_namespaces: Vec::new(),
        gateway_pod_labels: BTreeMap::from([("app".to_owned(), "halo-gateway".to_owned())]),
        gateway_namespace: "halo-system".to_owned(),
        concurrency: 4,
        prices: BTreeMap::new(),
        lease: LeaseSettings::default(),
        pace: Pace::default(),
    }
}
