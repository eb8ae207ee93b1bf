//! A world for gateways: an API server, objects as the operator and the EndpointSlice controller write them, and gateways.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use halo_crds::HaloSubstrate;
use halo_e2e_cluster::{ControlPlane, Options, eventually};
use halo_gateway::cluster::demand::Pace;
use halo_gateway::cluster::{Cluster, Settings};
use halo_gateway::config::Limits;
use halo_gateway::directory::{Directory as _, Stage, Substrate};
use halo_gateway::gateway::{Gateway, Parts};
use halo_gateway::metrics::Metrics;
use halo_gateway::server;
use halo_ledger::SqliteLedger;
use halo_receipts::ids::TenantId;
use halo_receipts::keyring::KeyRing;
use halo_receipts::keys::RootSecret;
use halo_receipts::payload::ContentPolicy;
use halo_telemetry::registry::Maker;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// What is waited for does not take longer than this on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The gateways' own namespace.
pub const SYSTEM: &str = "halo-system";

/// Who gateways are at the API server.
pub const USER: &str = "system:serviceaccount:halo-system:halo-gateway";

/// An API server and an administrator's client.
pub struct World {
    pub client: Client,
    pub plane: Arc<ControlPlane>,
}

impl World {
    /// A world of one's own.
    pub async fn alone(options: Options) -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // Another test of this process may have been first.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            let _ = tracing_subscriber::fmt()
                .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
                .with_test_writer()
                .try_init();
        });
        let plane = Arc::new(ControlPlane::start(options).await.unwrap());
        let world = Self::of(plane).await;
        world.apply(&[namespace(SYSTEM)]).await;
        let rights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../gateway/rbac.yaml");
        let rights = rights.display().to_string();
        let output = world
            .plane
            .kubectl(&["apply", "-f", &rights])
            .await
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        world
    }

    /// The world that tests share, whose tenants have names of their own.
    pub async fn shared() -> Self {
        static PLANE: OnceCell<Arc<ControlPlane>> = OnceCell::const_new();
        let start = || async { Self::alone(options()).await.plane };
        let plane = PLANE.get_or_init(start).await;
        Self::of(Arc::clone(plane)).await
    }

    async fn of(plane: Arc<ControlPlane>) -> Self {
        Self {
            client: plane.client().await.unwrap(),
            plane,
        }
    }

    /// Applies objects, as a person would with `kubectl apply --server-side`.
    pub async fn apply(&self, objects: &[Value]) {
        for object in objects {
            let params = PatchParams::apply("person").force();
            let api = self.api_of(object);
            let name = object["metadata"]["name"].as_str().unwrap();
            let applied = api.patch(name, &params, &Patch::Apply(object)).await;
            applied.unwrap_or_else(|error| panic!("{error}: {object}"));
        }
    }

    /// Deletes an object.
    pub async fn delete(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let (api, params) = (self.api_of(object), DeleteParams::default());
        api.delete(name, &params).await.unwrap();
    }

    fn api_of(&self, object: &Value) -> Api<DynamicObject> {
        let version = object["apiVersion"].as_str().unwrap();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = object["kind"].as_str().unwrap();
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// HaloSubstrates of a tenant's namespace.
    pub fn substrates(&self, tenant: &str) -> Api<HaloSubstrate> {
        Api::namespaced(self.client.clone(), &format!("halo-{tenant}"))
    }

    /// A tenant with its namespace, its keys under the first root, and the substrate `qwen`.
    pub async fn tenant(&self, name: &str) {
        self.apply(&[
            namespace(&format!("halo-{name}")),
            tenant(name),
            substrate(name, "qwen"),
            secret(name, &[1]),
        ])
        .await;
    }

    /// A gateway, which knows all tenants.
    pub async fn gateway(&self, name: &str, change: impl FnOnce(&mut Settings)) -> Instance {
        let gateway = self.gateway_unsynced(name, change).await;
        eventually(DEADLINE, || async {
            match gateway.cluster.is_synced() {
                true => Ok(()),
                false => Err("not everything was listed"),
            }
        })
        .await;
        gateway
    }

    /// A gateway that has just been started.
    pub async fn gateway_unsynced(
        &self,
        name: &str,
        change: impl FnOnce(&mut Settings),
    ) -> Instance {
        let groups = [
            "system:serviceaccounts",
            "system:serviceaccounts:halo-system",
        ];
        let config = self.plane.config_as(USER, &groups).await.unwrap();
        let mut settings = Settings {
            namespace: SYSTEM.to_owned(),
            name: name.to_owned(),
            content: ContentPolicy::Sealed,
            keys_settle: Duration::ZERO,
            pace: Pace::default(),
        };
        change(&mut settings);
        let metrics = Metrics::new(&Maker::new()).unwrap();
        let cluster = Cluster::start(config, settings, &metrics).unwrap();
        Instance {
            name: name.to_owned(),
            cluster,
            metrics,
        }
    }
}

/// An API server without controllers: nothing is written that a test does not write.
pub fn options() -> Options {
    Options {
        crds: halo_crds::all(),
        ..Options::default()
    }
}

/// A gateway's cluster side. Dropping it ends it at once, as a crash would.
pub struct Instance {
    pub name: String,
    pub cluster: Arc<Cluster>,
    pub metrics: Metrics,
}

impl Instance {
    /// A tenant's substrate as this gateway sees it.
    pub fn substrate(&self, tenant: &str) -> Option<Arc<Substrate>> {
        self.cluster.substrate(&id(tenant))
    }

    /// Waits until a tenant's substrate is at this stage with these pods.
    #[track_caller]
    pub fn sees(
        &self,
        tenant: &'static str,
        stage: Stage,
        pods: &'static [&'static str],
    ) -> impl Future<Output = ()> {
        eventually(DEADLINE, move || async move {
            let found = self.substrate(tenant);
            let is = found.as_ref().is_some_and(|found| {
                found.stage == stage
                    && found
                        .pods
                        .iter()
                        .map(|pod| pod.0.as_str())
                        .eq(pods.iter().copied())
            });
            match is {
                true => Ok(()),
                false => Err(format!("{found:?}")),
            }
        })
    }

    /// A metric's value; the name with its labels as the exposition writes it. 0 if it is not there yet.
    pub fn metric(&self, name: &str) -> f64 {
        let text = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Serves devices in plain text, with a ledger in a folder of its own.
    pub async fn serve(&self) -> Served {
        let folder = tempfile::tempdir().unwrap();
        let ledger = SqliteLedger::open(folder.path().join("ledger.db")).unwrap();
        let gateway = Gateway::new(Parts {
            name: self.name.clone(),
            ledger: Arc::new(ledger),
            keys: self.cluster.clone(),
            directory: self.cluster.clone(),
            limits: Limits {
                penalty_failures: 0,
                ..Limits::default()
            },
            metrics: self.metrics.clone(),
        })
        .unwrap();
        let devices = server::listen("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let admin = server::listen("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let served = Served {
            address: devices.local_addr().unwrap(),
            admin: admin.local_addr().unwrap(),
            _folder: folder,
        };
        tokio::spawn(server::serve_devices(Arc::clone(&gateway), devices, None));
        tokio::spawn(server::serve_admin(gateway, admin, Default::default()));
        served
    }
}

/// A gateway that listens.
pub struct Served {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    _folder: tempfile::TempDir,
}

/// A tenant's id.
pub fn id(tenant: &str) -> TenantId {
    tenant.parse().unwrap()
}

/// A root secret; another number is another root.
pub fn root(number: u8) -> RootSecret {
    RootSecret::new(vec![number; 32]).unwrap()
}

/// Months around now.
fn months() -> Vec<halo_receipts::time::KeyMonth> {
    let now = jiff::Timestamp::now();
    let days = [-31, 0, 31].map(|days| now + jiff::SignedDuration::from_hours(days * 24));
    days.iter()
        .map(|day| day.strftime("%Y-%m").to_string().parse().unwrap())
        .collect()
}

/// A tenant's keyring under roots of these numbers, which are their generations.
pub fn keyring(tenant: &str, generations: &[u8]) -> KeyRing {
    let roots: Vec<(u32, RootSecret)> = generations
        .iter()
        .map(|generation| (u32::from(*generation), root(*generation)))
        .collect();
    let roots: Vec<(u32, &RootSecret)> = roots.iter().map(|(g, root)| (*g, root)).collect();
    KeyRing::derive(&id(tenant), &roots, &months(), true).unwrap()
}

/// The Secret that the operator publishes for gateways.
pub fn secret(tenant: &str, generations: &[u8]) -> Value {
    let ring = keyring(tenant, generations);
    secret_with(tenant, BASE64.encode(ring.encode().as_slice()))
}

/// The same with other data.
pub fn secret_with(tenant: &str, data: String) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": format!("halo-keys-{tenant}"),
            "namespace": SYSTEM,
            "labels": {
                "app.kubernetes.io/managed-by": "halo-operator",
                "halo.howdify.io/tenant": tenant,
                "halo.howdify.io/root-generation": "1",
            },
        },
        "data": {"keyring.json": data},
    })
}

pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub fn tenant(name: &str) -> Value {
    json!({
        "apiVersion": "halo.howdify.io/v1alpha1",
        "kind": "HaloTenant",
        "metadata": {"name": name},
        "spec": {"keys": {"rootParameter": "/halo/root"}},
    })
}

pub fn substrate(tenant: &str, name: &str) -> Value {
    json!({
        "apiVersion": "halo.howdify.io/v1alpha1",
        "kind": "HaloSubstrate",
        "metadata": {"name": name, "namespace": format!("halo-{tenant}")},
        "spec": {
            "tenant": tenant,
            "model": {"name": "demo-model", "image": {"path": "/models/demo"}},
            "scaling": {"idleAfter": "15m", "wakeDeadline": "10m"},
            "nodePool": {"existing": {"nodeSelector": {"role": "substrate"}}},
        },
    })
}

/// An EndpointSlice as the controller makes it of the Service of the substrate `qwen`: addresses, and whether each is ready.
pub fn slice(tenant: &str, name: &str, endpoints: &[(&str, bool)]) -> Value {
    let endpoint = |(address, ready): &(&str, bool)| {
        json!({
            "addresses": [address],
            "conditions": {"ready": ready, "serving": ready, "terminating": false},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": format!("halo-{tenant}"),
            "labels": {
                "kubernetes.io/service-name": "qwen",
                "halo.howdify.io/substrate": "qwen",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": "IPv4",
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "stream", "port": 8090, "protocol": "TCP"}],
    })
}
