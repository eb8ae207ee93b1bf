//! The values of the chart `halo`. Doc comments become the comments of values.yaml, the descriptions of its schema and the README.

mod aws;
mod common;
mod gateway;
mod monitoring;
mod operator;
mod workload;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::aws::{Aws, Cluster, Endpoints, Ledger};
pub use self::common::{
    Amount, CaKey, Count, Free, Global, Image, NetworkPolicies, PullPolicy, Tests,
};
pub use self::gateway::{
    CertManager, ClusterOptions, Content, Gateway, GatewayConfig, IssuerRef, Service, ServiceType,
    Spill, Tls, TrafficPolicy,
};
pub use self::monitoring::{Dashboards, Monitoring, Monitors, RenderMode, Rules};
pub use self::operator::{Operator, Substrate};
pub use self::workload::{DisruptionBudget, LogFormat, Resources, ServiceAccount, Spread};

/// Every value of the chart `halo`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Values {
    /// What holds for every image and object.
    pub global: Global,
    /// The account: region, cluster, endpoints, ledger.
    pub aws: Aws,
    /// The operator, which turns HaloTenants and HaloSubstrates into running tenants.
    pub operator: Operator,
    /// The gateway, the devices' front door.
    pub gateway: Gateway,
    /// Network policies of operator and gateway.
    pub network_policy: NetworkPolicies,
    /// Prometheus, Grafana and traces.
    pub monitoring: Monitoring,
    /// `helm test`: opens a session through the gateway and verifies its receipts in the ledger.
    pub tests: Tests,
}
