//! The operator's values: its flags, and its pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, EnvVar, Toleration, TopologySpreadConstraint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{Free, Image};
use super::workload::{
    DisruptionBudget, LogFormat, Resources, ServiceAccount, Spread, node_selector, workload,
};

/// What the operator gives to every substrate pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Substrate {
    /// The image of pods whose HaloSubstrate names none. Its pull policy holds for those that name one, too, unless they give a policy.
    pub image: Image,
    /// Environment variables of all pods. Region and endpoints are set already; what a HaloSubstrate says wins.
    pub env: BTreeMap<String, String>,
}

impl Default for Substrate {
    fn default() -> Self {
        Self {
            image: Image::named("halo/substrate"),
            env: BTreeMap::new(),
        }
    }
}

workload! {
    /// The operator, which turns HaloTenants and HaloSubstrates into running tenants. One replica leads, the others stand by.
    pub struct Operator {
        /// What the operator gives to every substrate pod.
        pub substrate: Substrate = Substrate::default(),
        /// Reconciles at once, for each kind.
        pub concurrency: u16 = 16,
        /// RunInstances calls that may be made at once; EC2 gives an account five unless it was raised.
        pub launch_burst: f64 = 5.0,
        /// RunInstances calls a second after those; EC2 gives an account two unless it was raised.
        pub launch_rate: f64 = 2.0,
        /// USD an hour by instance type, for the cost that metrics show, such as `r7iz.4xlarge: 1.488`.
        pub prices: BTreeMap<String, f64> = BTreeMap::new(),
        /// How long a lease lasts that is not renewed: after a crash another replica leads within it and a little.
        pub lease_duration: String = "15s".to_owned(),
        /// How often the lease is renewed; at most a quarter of its duration.
        pub lease_renew: String = "3s".to_owned(),
    }
    image: "halo/operator", resources: Resources::of("100m", "128Mi", "512Mi"),
}
