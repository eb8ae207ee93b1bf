//! A world for the operator: a real control plane, the AWS emulator, machines that become nodes, gateways, and operators that can be
//! started, stopped and crashed.

#![allow(
    dead_code,
    unused_imports,
    reason = "not every scenario needs every tool"
)]

mod clock;
mod gateway;
pub mod lanes;
mod look;
mod machines;
pub mod objects;
mod process;
mod witness;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use halo_aws_emulator::{Config, Emulator, Fault, ParameterKind, Timings};
use halo_e2e_cluster::{ControlPlane, FakeNodes, Options};
use halo_operator::settings::{LeaseSettings, Pace, Settings};
use kube::Client;

pub use clock::ShiftedClock;
pub use gateway::Gateway;
pub use look::{a_while, assert_words};
pub use machines::{Machines, Names};
pub use process::{Launch, Process};
pub use witness::{Halt, Recorder, Seen};

/// What is waited for does not take longer than this on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The operator's namespace, where its lease and the gateways' Secrets are.
pub const SYSTEM: &str = "halo-system";

/// Who the operator is at the API server.
pub const OPERATOR: &str = "system:serviceaccount:halo-system:halo-operator";

/// The cluster's name: a tag of everything in the cloud.
pub const CLUSTER: &str = "test-cluster";

/// The parameter with the root secret in it.
pub const ROOT_PARAMETER: &str = "/halo/root";

/// Its value: 64 characters, of no other use.
pub const ROOT: &str = "6f1d0c5b9a3e48d7c2b1a09f8e7d6c5b4a3928170f1e2d3c4b5a69788796a5b4";

/// What a world is made with.
#[derive(Clone)]
pub struct Setup {
    /// The control plane.
    pub options: Options,
    /// The emulator; the ids of `docs/examples/tenant.yaml` are added to its catalogue.
    pub cloud: Config,
    /// What operators are told unless their [`Launch`] says otherwise.
    pub pace: Pace,
    /// Leader election of all operators.
    pub lease: LeaseSettings,
    /// Whether [`ROOT_PARAMETER`] is there from the beginning.
    pub root: bool,
}

impl Default for Setup {
    /// Controllers, scheduler, audit log, an emulator that is quick, a pace for tests.
    fn default() -> Self {
        Self {
            options: Options {
                crds: halo_crds::all(),
                // A claim that is seen before its volume waits for the next round, by default 15 s later.
                controller_flags: vec!["--pvclaimbinder-sync-period=1s".to_owned()],
                ..Options::full()
            },
            cloud: cloud(),
            pace: pace(),
            lease: LeaseSettings::default(),
            root: true,
        }
    }
}

impl Setup {
    /// Without controllers and scheduler: a namespace that is deleted stays, and a Deployment has no pods.
    pub fn bare() -> Self {
        Self {
            options: Options {
                crds: halo_crds::all(),
                ..Options::default()
            },
            ..Self::default()
        }
    }
}

/// An emulator whose delays are there and short.
fn cloud() -> Config {
    let mut config = Config::default();
    config.rules.timings = Timings {
        visible_after_ms: 60,
        pending_ms: 60,
        stopping_ms: 60,
        shutting_down_ms: 60,
        volume_ms: 40,
        ..Timings::default()
    };
    objects::add_example_ids(&mut config.rules.catalogue);
    config
}

/// A pace that makes tests quick.
pub fn pace() -> Pace {
    Pace {
        fleet_busy: Duration::from_millis(160),
        fleet_steady: Duration::from_millis(400),
        fleet_empty: Duration::from_millis(800),
        orphan_grace: Duration::from_secs(2),
        capacity_memory: Duration::from_secs(2),
        launch_backoff: Duration::from_millis(200),
        launch_backoff_max: Duration::from_secs(2),
        drain_deadline: Duration::from_secs(600),
        retry: Duration::from_millis(50),
        retry_max: Duration::from_secs(2),
        root_refresh: Duration::from_secs(2),
        publish_ahead: Duration::from_secs(72 * 3600),
        api_timeout: Duration::from_secs(10),
        watch_timeout: Duration::from_secs(200),
    }
}

/// A control plane, a cloud, machines, and what operators are started with.
pub struct World {
    /// An administrator's client.
    pub client: Client,
    /// The cloud.
    pub emulator: Arc<Emulator>,
    /// Instances that run are nodes.
    pub machines: Machines,
    /// The clock of operators and gateways.
    pub clock: Arc<ShiftedClock>,
    /// What operators are told unless their [`Launch`] says otherwise.
    pub settings: Settings,
    /// The control plane; dropped last.
    pub plane: ControlPlane,
}

impl World {
    /// A world with everything.
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// A world made as `setup` says.
    pub async fn with(setup: Setup) -> Self {
        prepare_process();
        let plane = ControlPlane::start(setup.options).await.unwrap();
        let client = plane.client().await.unwrap();
        let nodes = FakeNodes::start(&plane).await.unwrap();
        let (machines, boot) = Machines::start(nodes, client.clone());
        let emulator = Emulator::start(Config {
            boot,
            ..setup.cloud
        })
        .unwrap();
        let world = Self {
            settings: settings(&plane, setup.pace, setup.lease),
            clock: Arc::default(),
            emulator: Arc::new(emulator),
            client,
            machines,
            plane,
        };
        world.install_rights().await;
        if setup.root {
            world.put_root(ROOT);
        }
        world
    }

    /// Starts an operator and waits until it leads.
    pub async fn operator(&self) -> Process {
        let operator = self.launch(Launch::default()).await.unwrap();
        assert!(operator.leads().await, "the operator ended before it led");
        operator
    }

    /// Starts an operator as told, and waits for nothing.
    pub async fn launch(
        &self,
        launch: Launch,
    ) -> Result<Process, halo_operator::runtime::operator::StartError> {
        Process::start(self, launch).await
    }

    /// A gateway of this name.
    pub fn gateway(&self, name: &str) -> Gateway {
        Gateway::new(name, self.client.clone(), self.clock.clone())
    }

    /// Puts another version of the root secret; returns it.
    pub fn put_root(&self, value: &str) -> u64 {
        self.emulator
            .put_parameter(ROOT_PARAMETER, value, ParameterKind::SecureString)
    }

    /// EC2 breaks every connection, until [`Emulator::clear_faults`].
    pub fn ec2_goes_down(&self) {
        for action in [
            "Describe*",
            "Run*",
            "Start*",
            "Stop*",
            "Terminate*",
            "Create*",
            "Attach*",
            "Detach*",
            "Delete*",
        ] {
            let fault = Fault::cut(action, halo_aws_emulator::faults::When::Before);
            self.emulator.add_fault(fault.times(None));
        }
    }

    /// The parameter store breaks every connection, until [`Emulator::clear_faults`].
    pub fn ssm_goes_down(&self) {
        let fault = Fault::cut("GetParameter", halo_aws_emulator::faults::When::Before);
        self.emulator.add_fault(fault.times(None));
    }

    /// The rights of the operator as it is deployed, and its namespace.
    async fn install_rights(&self) {
        let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {SYSTEM}}}\n");
        self.kubectl_with(&["apply", "-f", "-"], &namespace).await;
        let rights = repository().join("operator/rbac.yaml");
        self.kubectl(&["apply", "-f", &rights.display().to_string()])
            .await;
    }
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Logs by RUST_LOG, and the TLS provider of this process.
fn prepare_process() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Another test of this process may have been first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
    });
}

fn settings(plane: &ControlPlane, pace: Pace, lease: LeaseSettings) -> Settings {
    let labels = BTreeMap::from([(
        "app.kubernetes.io/name".to_owned(),
        "halo-gateway".to_owned(),
    )]);
    Settings {
        cluster: CLUSTER.to_owned(),
        join: halo_operator::settings::ClusterJoin {
            endpoint: plane.url(),
            certificate_authority: "Y2VydGlmaWNhdGU=".to_owned(),
            service_cidr: "10.96.0.0/16".to_owned(),
        },
        region: "us-east-2".to_owned(),
        namespace: SYSTEM.to_owned(),
        identity: "operator-0".to_owned(),
        substrate_image: "halo/substrate:test".to_owned(),
        substrate_pods: halo_operator::settings::PodDefaults::default(),
        metrics_namespaces: Vec::new(),
        gateway_pod_labels: labels,
        gateway_namespace: "halo-gateways".to_owned(),
        concurrency: 4,
        prices: BTreeMap::from([("r7iz.4xlarge".to_owned(), 1.488)]),
        lease,
        pace,
    }
}
