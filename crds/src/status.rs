//! What the operator and the gateways report.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator reports of a tenant.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HaloTenantStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready, KeysReady, NamespaceReady, IsolationReady.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// In a few words, why the tenant is as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,

    /// The tenant's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,

    /// What is published of the keys; never a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<PublishedKeys>,
}

/// What is published of a tenant's keys; never a key.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PublishedKeys {
    /// The generation of the root that new sessions are keyed from.
    pub generation: u32,

    /// The root's check value, as session headers carry it.
    pub check_value: String,

    /// Months whose TENANT_KEY is published, such as 2026-11, oldest first.
    pub months: Vec<String>,

    /// The generation before, while its keys are still published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_generation: Option<u32>,

    /// Until when the generation before is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_until: Option<Time>,
}

/// What the operator and the gateways report of a substrate.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HaloSubstrateStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Where it is between asleep and awake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// In a few words, why it is as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,

    /// Ready, Awake, NodesReady, PodsReady, Blocked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// What each gateway has for this substrate. Written by the gateways, each its own entry under its own field manager.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["gateway".into()]))]
    pub demand: Vec<Demand>,

    /// Slots that have or are about to have a node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["slot".into()]))]
    pub nodes: Vec<NodeSlot>,

    /// Ready nodes and those that are wanted, such as `1/1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_count: Option<String>,

    /// Pods that should run.
    #[serde(default)]
    pub replicas: i32,

    /// Pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Launches so far, counted up for each: the next launch is told from all before by it.
    #[serde(default)]
    pub attempts: u32,

    /// When the current wake began; empty unless waking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waking_since: Option<Time>,

    /// Since when nothing is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_since: Option<Time>,

    /// Since when fewer pods would do; empty unless awake with more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surplus_since: Option<Time>,

    /// When the operator tries again what the cloud refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Time>,

    /// What its nodes have used so far, counted when a node ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// Where a substrate is between asleep and awake.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No demand: no pod, and no node that costs.
    #[default]
    Asleep,
    /// There is demand, and no pod is ready yet.
    Waking,
    /// A pod is ready.
    Awake,
    /// Demand has ended: pods finish what they do, then nodes go.
    Draining,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// What one gateway has for a substrate. A gateway removes its entry when it is idle.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Demand {
    /// The gateway's name.
    #[schemars(length(min = 1, max = 253))]
    pub gateway: String,

    /// Verified requests that it holds or that are being answered.
    #[schemars(range(min = 0))]
    pub in_flight: i64,

    /// Since when it has any; empty if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,

    /// When it last had any.
    pub last_active: Time,
}

/// One slot and its node.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeSlot {
    /// Which slot, from 0.
    pub slot: u32,

    /// Which launch this is; see `attempts` of the status.
    pub attempt: u32,

    /// The generation of the spec that it is launched from.
    pub generation: i64,

    /// A hash of everything that an instance is launched with; another one means that the node is out of date.
    pub template: String,

    /// Where it is.
    pub state: NodeState,

    /// Since when.
    pub since: Time,

    /// The instance type that is tried or that it has.
    pub instance_type: String,

    /// The zone that is tried or that it is in.
    pub zone: String,

    /// The instance's id, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,

    /// The data volume's id, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,

    /// Since when that volume is recorded: a listing from soon after may not show it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_since: Option<Time>,

    /// The node's name, once it has registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,

    /// Since when the instance runs and costs; empty while it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_since: Option<Time>,
}

/// Where a slot's node is in its life.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// The launch is decided and recorded; the cloud has not answered yet.
    Launching,
    /// The instance exists and has not registered as a node.
    Pending,
    /// The node has registered and is not ready.
    Registered,
    /// The node is ready.
    Ready,
    /// Pods are leaving the node.
    Draining,
    /// The instance is on its way to stopped.
    Stopping,
    /// The instance is stopped; its volumes cost.
    Stopped,
    /// The stopped instance is on its way to running.
    Starting,
    /// The instance is on its way out for good.
    Terminating,
}

/// What nodes have used.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Seconds that instances ran, summed over them, those that have ended or stopped.
    pub node_seconds: i64,

    /// What they cost by the prices known, in USD, such as `12.40`.
    pub estimated_cost_usd: String,
}
