//! The gateway's values: its configuration file, TLS, Service, and its pods.

use std::collections::BTreeMap;

use halo_gateway::config::{ClusterTable, Limits};
use k8s_openapi::api::core::v1::{Affinity, EnvVar, Toleration, TopologySpreadConstraint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{Free, Image};
use super::workload::{
    DisruptionBudget, LogFormat, Resources, ServiceAccount, Spread, node_selector, workload,
};

/// What of the gateway's configuration file can be chosen; the chart writes the rest of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Bounds. Times in milliseconds unless the name says otherwise.
    pub limits: Limits,
    /// A gateway in a cluster: who is served under which keys is said by HaloTenants and the Secrets that the operator publishes.
    pub cluster: ClusterOptions,
}

/// What of the gateway's `[cluster]` table can be chosen: all but the namespace, which is the pod's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterOptions {
    /// What is kept of private content in new sessions of all tenants.
    pub content: Content,
    /// For which new sessions stay under a root that is being replaced, in milliseconds, so that pods have the next one by then: a kubelet
    /// brings a changed Secret within about 90 seconds.
    pub keys_settle_ms: u64,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            content: Content::Sealed,
            keys_settle_ms: ClusterTable::default().keys_settle_ms,
        }
    }
}

/// What is kept of private content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// All, sealed under the tenant's keys.
    Sealed,
    /// Nothing but its hash.
    Omit,
}

/// The certificate that devices see. One of `secretName`, `certManager` and `insecurePlaintext` is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tls {
    /// A Secret of type kubernetes.io/tls. With cert-manager: the name of the Secret that it writes, `halo-gateway-tls` if empty.
    pub secret_name: String,
    /// A Certificate of cert-manager.
    pub cert_manager: CertManager,
    /// No TLS: something in front of the gateway terminates it, and nothing between the two can be listened to.
    pub insecure_plaintext: bool,
}

/// A Certificate of cert-manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CertManager {
    /// Whether the chart makes one.
    pub enabled: bool,
    /// Who signs it.
    pub issuer_ref: IssuerRef,
    /// The names that devices call.
    pub dns_names: Vec<String>,
    /// Whether the Service's own names are added, which `helm test` calls. A public authority such as Let's Encrypt signs no certificate
    /// with them: set false for one, and `tests.gateway` to a URL with one of `dnsNames`.
    pub service_names: bool,
    /// How long a certificate is valid.
    #[schemars(regex(pattern = r"^([0-9]+(h|m|s))+$"))]
    pub duration: String,
    /// How long before its end it is replaced.
    #[schemars(regex(pattern = r"^([0-9]+(h|m|s))+$"))]
    pub renew_before: String,
}

impl Default for CertManager {
    fn default() -> Self {
        Self {
            enabled: false,
            issuer_ref: IssuerRef::default(),
            dns_names: Vec::new(),
            service_names: true,
            duration: "2160h".to_owned(),
            renew_before: "720h".to_owned(),
        }
    }
}

/// An issuer of cert-manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IssuerRef {
    /// Its name.
    pub name: String,
    /// Its kind, such as `Issuer`.
    pub kind: String,
    /// The API group of its kind.
    pub group: String,
}

impl Default for IssuerRef {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: "ClusterIssuer".to_owned(),
            group: "cert-manager.io".to_owned(),
        }
    }
}

/// How devices reach the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Service {
    /// `ClusterIP`, `NodePort` or `LoadBalancer`.
    #[serde(rename = "type")]
    pub kind: ServiceType,
    /// The port that devices connect to.
    pub port: u16,
    /// The port of each node, for the types that have one; 0 lets Kubernetes choose.
    pub node_port: u16,
    /// Annotations, such as those of the AWS Load Balancer Controller.
    pub annotations: BTreeMap<String, String>,
    /// Which controller makes the load balancer, such as `service.k8s.aws/nlb`. Empty: the cluster's default.
    pub load_balancer_class: String,
    /// Networks that the load balancer serves. Empty: all.
    pub load_balancer_source_ranges: Vec<String>,
    /// `Local` shows devices' own addresses to the gateway, which bars those that fail too often.
    pub external_traffic_policy: TrafficPolicy,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            kind: ServiceType::ClusterIP,
            port: 443,
            node_port: 0,
            annotations: BTreeMap::new(),
            load_balancer_class: String::new(),
            load_balancer_source_ranges: Vec::new(),
            external_traffic_policy: TrafficPolicy::Local,
        }
    }
}

/// The type of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Inside the cluster.
    ClusterIP,
    /// On a port of each node.
    NodePort,
    /// Behind a load balancer.
    LoadBalancer,
}

/// Which nodes pass on what comes from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrafficPolicy {
    /// Those that a gateway runs on.
    Local,
    /// All, under their own address.
    Cluster,
}

/// Where receipts wait while DynamoDB is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Spill {
    /// How much a pod may keep, on its node's disk. It outlives the container, not the pod.
    pub size_limit: String,
}

impl Default for Spill {
    fn default() -> Self {
        Self {
            size_limit: "1Gi".to_owned(),
        }
    }
}

workload! {
    /// The gateway, the devices' front door. There is no HorizontalPodAutoscaler: devices keep their sockets open, so that a new pod takes
    /// over nobody and one that goes breaks thousands; choose replicas for the sockets (`config.limits.sockets` each).
    pub struct Gateway {
        /// What of the gateway's configuration file can be chosen; the chart writes the rest of the file.
        pub config: GatewayConfig = GatewayConfig::default(),
        /// The certificate that devices see. One of `secretName`, `certManager` and `insecurePlaintext` is needed.
        pub tls: Tls = Tls::default(),
        /// How devices reach the gateway.
        pub service: Service = Service::default(),
        /// Where receipts wait while DynamoDB is away.
        pub spill: Spill = Spill::default(),
        /// How long a pod serves on after it was taken from the Service, so that load balancers learn of it before it drains.
        pub pre_stop_seconds: u32 = 5,
        /// How long a pod may take to end. 0: as long as its drain can take.
        pub termination_grace_period_seconds: u32 = 0,
        /// How long a new pod must be ready before an old one goes.
        pub min_ready_seconds: u32 = 5,
    }
    image: "halo/gateway", resources: Resources::of("250m", "256Mi", "1Gi"),
}

#[cfg(test)]
mod tests {
    use schemars::schema_for;
    use serde_json::Value;

    use super::*;

    /// Property by property, without the namespace.
    fn properties(schema: schemars::Schema) -> Vec<(String, String)> {
        let schema = Value::from(schema);
        let properties = schema["properties"].as_object().unwrap().iter();
        properties
            .filter(|(key, _)| *key != "namespace")
            .map(|(key, about)| (key.clone(), about["type"].to_string()))
            .collect()
    }

    #[test]
    fn the_cluster_table_is_the_gateways() {
        let theirs = properties(schema_for!(ClusterTable));
        let ours = properties(schema_for!(ClusterOptions));
        let keys =
            |list: &[(String, String)]| list.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&ours), keys(&theirs));
        for content in [Content::Sealed, Content::Omit] {
            let word = serde_json::to_value(content).unwrap();
            let toml = format!("content = {word}");
            let table: ClusterTable = toml::from_str(&toml).unwrap();
            assert_eq!(serde_json::to_value(table.content).unwrap(), word);
        }
        assert_eq!(
            serde_json::to_value(ClusterTable::default().content).unwrap(),
            serde_json::to_value(ClusterOptions::default().content).unwrap()
        );
    }
}
