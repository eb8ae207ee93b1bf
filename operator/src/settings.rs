//! What an operator is told at its start.

use std::collections::BTreeMap;
use std::time::Duration;

/// What an operator is told at its start; flags and environment in `main`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster's name: the tag of everything that is made in the cloud, and the EKS cluster that nodes join.
    pub cluster: String,
    /// How nodes reach the cluster, for user data.
    pub join: ClusterJoin,
    /// The region of the cloud.
    pub region: String,
    /// The operator's own namespace: the Lease and the gateways' Secrets live here.
    pub namespace: String,
    /// This process among its replicas: the pod's name.
    pub identity: String,
    /// The image of substrate pods whose HaloSubstrate names none.
    pub substrate_image: String,
    /// What every substrate's pods get besides what their HaloSubstrate says.
    pub substrate_pods: PodDefaults,
    /// Namespaces whose pods may read the metrics of substrate pods.
    pub metrics_namespaces: Vec<String>,
    /// Labels of the gateway's pods and of its namespace, which network policies let in.
    pub gateway_pod_labels: BTreeMap<String, String>,
    /// The gateway's namespace; the operator's own unless told otherwise.
    pub gateway_namespace: String,
    /// Reconciles at once, for each kind.
    pub concurrency: usize,
    /// USD an hour by instance type.
    pub prices: BTreeMap<String, f64>,
    /// Leader election.
    pub lease: LeaseSettings,
    /// Time spans that tests shorten.
    pub pace: Pace,
}

/// What every substrate's pods get besides what their HaloSubstrate says; where both say something, the HaloSubstrate does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodDefaults {
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// When images are pulled; what Kubernetes does by itself if it is not given.
    pub image_pull_policy: Option<String>,
    /// Secrets with credentials of registries. They are in the pods' own namespace or the nodes have credentials: the operator copies
    /// none.
    pub image_pull_secrets: Vec<String>,
}

/// How a node joins the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterJoin {
    /// URL of the API server as nodes see it.
    pub endpoint: String,
    /// The certificate authority, PEM in base64, one line.
    pub certificate_authority: String,
    /// The service network, such as 10.100.0.0/16.
    pub service_cidr: String,
}

/// Leader election.
#[derive(Debug, Clone)]
pub struct LeaseSettings {
    /// Name of the Lease.
    pub name: String,
    /// How long a lease lasts that is not renewed.
    pub duration: Duration,
    /// How often it is renewed; a leader that could not renew for two thirds of the duration ends.
    pub renew_every: Duration,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self {
            name: "halo-operator".to_owned(),
            duration: Duration::from_secs(15),
            renew_every: Duration::from_secs(3),
        }
    }
}

/// How long things are waited for and how often they are looked at.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Between looks at the cloud while something moves there.
    pub fleet_busy: Duration,
    /// Between looks while instances exist and nothing moves.
    pub fleet_steady: Duration,
    /// Between looks while there is nothing.
    pub fleet_empty: Duration,
    /// How long an instance that no object knows is left alone before it is ended, and how long one may be missing after its launch.
    pub orphan_grace: Duration,
    /// How long a type in a zone that had no capacity is not tried.
    pub capacity_memory: Duration,
    /// The first wait of a pool after a failed launch, doubled for each further one.
    pub launch_backoff: Duration,
    /// The longest wait of a pool.
    pub launch_backoff_max: Duration,
    /// How long a node that should go may keep pods that refuse eviction, before it goes anyway.
    pub drain_deadline: Duration,
    /// The first wait of an object whose reconcile failed, doubled for each further one.
    pub retry: Duration,
    /// The longest wait of an object whose reconcile failed.
    pub retry_max: Duration,
    /// Between two reads of the root secret, with a jitter of a tenth.
    pub root_refresh: Duration,
    /// How long before a month begins its keys are published.
    pub publish_ahead: Duration,
    /// For one call of the API server.
    pub api_timeout: Duration,
    /// Of a watch, under the idle limits of load balancers; whole seconds below 295.
    pub watch_timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            fleet_busy: Duration::from_secs(2),
            fleet_steady: Duration::from_secs(60),
            fleet_empty: Duration::from_secs(120),
            orphan_grace: Duration::from_secs(60),
            capacity_memory: Duration::from_secs(180),
            launch_backoff: Duration::from_secs(1),
            launch_backoff_max: Duration::from_secs(60),
            drain_deadline: Duration::from_secs(600),
            retry: Duration::from_millis(500),
            retry_max: Duration::from_secs(300),
            root_refresh: Duration::from_secs(3600),
            publish_ahead: Duration::from_secs(72 * 3600),
            api_timeout: Duration::from_secs(10),
            watch_timeout: Duration::from_secs(200),
        }
    }
}
