//! HaloTenant: who is served, under which keys, within which limits.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::duration::Period;
use crate::status::HaloTenantStatus;

/// A tenant: a namespace of its own, keys derived from a root secret, and what its devices may do.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "halo.howdify.io",
    version = "v1alpha1",
    kind = "HaloTenant",
    plural = "halotenants",
    shortname = "ht",
    category = "halo",
    status = "HaloTenantStatus",
    derive = "PartialEq",
    doc = "A tenant of HALO: a namespace of its own, keys derived from a root secret, and what its devices may do.",
    printcolumn(name = "Namespace", type_ = "string", json_path = ".status.namespace"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Generation", type_ = "integer", json_path = ".spec.keys.generation", description = "Generation of the root secret"),
    printcolumn(name = "Why", type_ = "string", json_path = ".status.why"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("has(self.spec.tenantId) || self.metadata.name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')").message("the name is also the tenant id: use lower-case letters, digits and hyphens, or set spec.tenantId"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("the name is also a label of everything that the tenant has: use at most 63 characters"),
    validation = Rule::new("has(self.spec.__namespace__) || size(has(self.spec.tenantId) ? self.spec.tenantId : self.metadata.name) <= 58").message("a tenant id longer than 58 characters makes no namespace name: set spec.namespace"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.tenantId) == has(oldSelf.tenantId) && (!has(self.tenantId) || self.tenantId == oldSelf.tenantId)").message("spec.tenantId cannot change, as keys and receipts carry it: create another HaloTenant"),
    validation = Rule::new("has(self.__namespace__) == has(oldSelf.__namespace__) && (!has(self.__namespace__) || self.__namespace__ == oldSelf.__namespace__)").message("spec.namespace cannot change: create another HaloTenant and move the devices"),
)]
pub struct HaloTenantSpec {
    /// The tenant's id in keys and receipts; the object's name if it is not given. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')").message("a tenant id has lower-case letters, digits and inner hyphens only, such as acme-pharmacy"))]
    pub tenant_id: Option<String>,

    /// The tenant's namespace; `halo-` and the tenant id if it is not given. It is created, or adopted if it carries the label
    /// `halo.howdify.io/tenant` with this object's name. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')").message("a namespace has lower-case letters, digits and inner hyphens only"),
        validation = Rule::new("!self.startsWith('kube-') && self != 'default'").message("the namespace belongs to the tenant alone: use another than default and kube-*"),
    )]
    pub namespace: Option<String>,

    /// Where the tenant's keys come from.
    pub keys: KeyPolicy,

    /// Which devices are served.
    #[serde(default)]
    pub devices: DevicePolicy,

    /// What the tenant may use at once.
    #[serde(default)]
    pub limits: TenantLimits,

    /// What keeps the tenant's pods apart from everything else.
    #[serde(default)]
    pub isolation: Isolation,

    /// Where the tenant's receipts go.
    #[serde(default)]
    pub ledger: LedgerSpec,

    /// While true, nothing of this tenant or its substrates is changed; what runs goes on.
    #[serde(default)]
    pub paused: bool,
}

/// The root secret, and how long an earlier one is still accepted.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyPolicy {
    /// Name of the SSM parameter (SecureString, at least 32 bytes) that holds the root secret.
    #[schemars(length(min = 2, max = 1011))]
    #[x_kube(validation = Rule::new("self.matches('^/[A-Za-z0-9_./-]*[A-Za-z0-9_-]$')").message("name the parameter by its full path, such as /halo/root"))]
    pub root_parameter: String,

    /// Which root secret: the version of the parameter. Raise it to change the root.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("a root generation only rises: an earlier root may be known to others"))]
    pub generation: u32,

    /// How long the keys of the generation before are still published after a change.
    #[serde(default = "default_overlap")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10m') && duration(self) <= duration('720h')").message("overlap is between 10m and 720h: shorter would cut off devices before they learn of the change"))]
    pub overlap: Period,
}

/// Which devices are served.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DevicePolicy {
    /// The oldest generation of device keys that is accepted.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub minimum_generation: u32,

    /// Ids of devices that are not served any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10_000), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub revoked: Vec<String>,
}

impl Default for DevicePolicy {
    fn default() -> Self {
        Self {
            minimum_generation: 1,
            revoked: Vec::new(),
        }
    }
}

/// What a tenant may use at once.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TenantLimits {
    /// Devices that may be connected at once.
    #[serde(default = "default_devices")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub devices: u32,

    /// Requests for an answer in any minute.
    #[serde(default = "default_requests_per_minute")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_minute: u32,

    /// Requests that may be with a substrate at once.
    #[serde(default = "default_concurrent_escalations")]
    #[schemars(range(min = 1, max = 100_000))]
    pub concurrent_escalations: u32,

    /// Requests that may wait for a substrate to wake.
    #[serde(default = "default_held_requests")]
    #[schemars(range(min = 0, max = 100_000))]
    pub held_requests: u32,

    /// Seconds that a request may wait for a substrate to wake.
    #[serde(default = "default_held_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub held_seconds: u32,
}

impl Default for TenantLimits {
    fn default() -> Self {
        Self {
            devices: default_devices(),
            requests_per_minute: default_requests_per_minute(),
            concurrent_escalations: default_concurrent_escalations(),
            held_requests: default_held_requests(),
            held_seconds: default_held_seconds(),
        }
    }
}

/// What keeps a tenant's pods apart from everything else.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Isolation {
    /// Hard limits of the namespace's ResourceQuota, such as `limits.cpu`; none if empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = amount_schema()))]
    pub quota: BTreeMap<String, Quantity>,

    /// Container defaults and maxima of the namespace's LimitRange; none if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_range: Option<ContainerLimits>,

    /// Where pods may connect to besides DNS and the ledger's endpoint; nowhere if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allowed_egress: Vec<Egress>,
}

/// Limits of one container.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerLimits {
    /// What a container gets that asks for nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = amount_schema()))]
    pub default: BTreeMap<String, Quantity>,
    /// The most that a container may have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = amount_schema()))]
    pub max: BTreeMap<String, Quantity>,
}

/// One destination that pods may connect to.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Egress {
    /// Addresses, such as 10.0.12.0/24.
    #[schemars(length(max = 43))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,3}\\\\.){3}[0-9]{1,3}/[0-9]{1,2}$') || self.matches('^[0-9a-fA-F:]+/[0-9]{1,3}$')").message("cidr is an address and a prefix length, such as 10.0.12.0/24"),
        validation = Rule::new("!self.startsWith('169.254.') && self != '0.0.0.0/0' && self != '::/0'").message("pods may not reach the metadata service or everything: name the addresses that they need"),
    )]
    pub cidr: String,

    /// TCP ports; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 1, max = 65_535)))]
    pub ports: Vec<u16>,
}

/// Where receipts go.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LedgerSpec {
    /// The DynamoDB table.
    #[serde(default = "default_table")]
    #[schemars(length(min = 3, max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_.-]+$')").message("a table name has letters, digits, underscores, dots and hyphens only"))]
    pub table: String,

    /// The table's region; the operator's own if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]{2,}(-[a-z]+)+-[0-9]$')").message("a region looks like us-east-2"))]
    pub region: Option<String>,
}

impl Default for LedgerSpec {
    fn default() -> Self {
        Self {
            table: default_table(),
            region: None,
        }
    }
}

impl HaloTenant {
    /// The tenant's id in keys and receipts.
    pub fn tenant_id(&self) -> &str {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        self.spec.tenant_id.as_deref().unwrap_or(name)
    }

    /// The tenant's namespace.
    pub fn namespace_name(&self) -> String {
        match &self.spec.namespace {
            Some(namespace) => namespace.clone(),
            None => format!("halo-{}", self.tenant_id()),
        }
    }
}

/// A Kubernetes quantity. A pattern and no rule: the API server does not bound the cost of rules on values that may be numbers.
fn amount_schema() -> serde_json::Value {
    serde_json::json!({
        "x-kubernetes-int-or-string": true,
        "maxLength": 32,
        "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$",
    })
}

fn one() -> u32 {
    1
}

fn default_overlap() -> Period {
    Period::from_secs(24 * 3600)
}

fn default_devices() -> u32 {
    100
}

fn default_requests_per_minute() -> u32 {
    120
}

fn default_concurrent_escalations() -> u32 {
    16
}

fn default_held_requests() -> u32 {
    32
}

fn default_held_seconds() -> u32 {
    600
}

fn default_table() -> String {
    "howdify-receipts".to_owned()
}
