//! What both Deployments have.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{Amount, Count};

/// How logs are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// How replicas are kept on different nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// Different nodes and zones where that is possible; also runs on a cluster of one node.
    #[default]
    Preferred,
    /// Different nodes, or not at all; zones as even as they can be. For production.
    Required,
}

/// The identity of pods, in the cluster and in AWS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServiceAccount {
    /// Whether the chart makes it.
    pub create: bool,
    /// Its name. Empty: the component's own.
    pub name: String,
    /// The ARN of the IAM role that it takes on (IRSA). Leave it empty with EKS Pod Identity: an association of the role with this service
    /// account, outside the chart, is all that is needed.
    pub role_arn: String,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Default for ServiceAccount {
    fn default() -> Self {
        Self {
            create: true,
            name: String::new(),
            role_arn: String::new(),
            annotations: BTreeMap::new(),
        }
    }
}

/// How many replicas may be away at once when nodes are drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DisruptionBudget {
    /// Whether there is a budget.
    pub enabled: bool,
    /// How many may be away. Empty if `minAvailable` is given.
    pub max_unavailable: Count,
    /// How many must be there. Empty if `maxUnavailable` is given.
    pub min_available: Count,
}

impl Default for DisruptionBudget {
    fn default() -> Self {
        Self {
            enabled: true,
            max_unavailable: Count::Number(1),
            min_available: Count::default(),
        }
    }
}

/// What a container asks for and may use at most.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// What is set aside for it.
    pub requests: BTreeMap<String, Amount>,
    /// What it may use at most. No limit of CPU: a wake should not wait for its turn.
    pub limits: BTreeMap<String, Amount>,
}

impl Resources {
    /// CPU and memory asked for, and the most memory.
    pub fn of(cpu: &str, memory: &str, most: &str) -> Self {
        let pair = |key: &str, value: &str| (key.to_owned(), Amount::Text(value.to_owned()));
        Self {
            requests: [pair("cpu", cpu), pair("memory", memory)].into(),
            limits: [pair("memory", most)].into(),
        }
    }
}

/// Where pods run unless told otherwise: what the images are built for.
pub(super) fn node_selector() -> BTreeMap<String, String> {
    [
        ("kubernetes.io/arch", "amd64"),
        ("kubernetes.io/os", "linux"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// A component: its own values, and then what both have.
macro_rules! workload {
    (
        $(#[$meta:meta])*
        pub struct $name:ident { $($(#[$own_meta:meta])* pub $own:ident: $own_type:ty = $own_default:expr,)* }
        image: $image:literal, resources: $resources:expr,
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        pub struct $name {
            /// How many pods.
            pub replicas: u32,
            /// Its image.
            pub image: Image,
            $($(#[$own_meta])* pub $own: $own_type,)*
            /// How logs are written, to standard error.
            pub log_format: LogFormat,
            /// What is logged, as RUST_LOG takes it: `info`, `debug`, or `info,halo_gateway=debug`.
            pub log_level: String,
            /// Further flags.
            pub extra_args: Vec<String>,
            /// Further environment variables, as Kubernetes writes them.
            pub extra_env: Vec<EnvVar>,
            /// Further volumes, as Kubernetes writes them.
            pub extra_volumes: Vec<Free>,
            /// Further mounts of them, as Kubernetes writes them.
            pub extra_volume_mounts: Vec<Free>,
            /// The identity of its pods, in the cluster and in AWS.
            pub service_account: ServiceAccount,
            /// What a pod asks for and may use at most.
            pub resources: Resources,
            /// Annotations of its pods.
            pub pod_annotations: BTreeMap<String, String>,
            /// Labels of its pods.
            pub pod_labels: BTreeMap<String, String>,
            /// The priority of its pods: what wakes others should not be pushed out by them. Empty: the cluster's default.
            pub priority_class_name: String,
            /// Labels of the nodes that it may run on. The images are built for amd64.
            pub node_selector: BTreeMap<String, String>,
            /// Taints of nodes that it bears.
            pub tolerations: Vec<Toleration>,
            /// Affinity, instead of what `spread` makes. Whatever it says, no pod runs on a node that HALO manages.
            pub affinity: Affinity,
            /// How replicas are kept on different nodes.
            pub spread: Spread,
            /// Topology spread constraints, instead of what `spread` makes.
            pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
            /// How many replicas may be away at once when nodes are drained.
            pub pod_disruption_budget: DisruptionBudget,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    replicas: 2,
                    image: Image::named($image),
                    $($own: $own_default,)*
                    log_format: LogFormat::Json,
                    log_level: "info".to_owned(),
                    extra_args: Vec::new(),
                    extra_env: Vec::new(),
                    extra_volumes: Vec::new(),
                    extra_volume_mounts: Vec::new(),
                    service_account: ServiceAccount::default(),
                    resources: $resources,
                    pod_annotations: BTreeMap::new(),
                    pod_labels: BTreeMap::new(),
                    priority_class_name: "system-cluster-critical".to_owned(),
                    node_selector: node_selector(),
                    tolerations: Vec::new(),
                    affinity: Affinity::default(),
                    spread: Spread::Preferred,
                    topology_spread_constraints: Vec::new(),
                    pod_disruption_budget: DisruptionBudget::default(),
                }
            }
        }
    };
}

pub(super) use workload;
