//! HaloSubstrate: one model of one tenant, the pods that run it and the nodes that they need.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::duration::Period;
use crate::pool::NodePool;
use crate::status::HaloSubstrateStatus;

/// A model of a tenant: it sleeps until there is demand, wakes with nodes of its own, and sleeps again.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "halo.howdify.io",
    version = "v1alpha1",
    kind = "HaloSubstrate",
    plural = "halosubstrates",
    shortname = "hs",
    category = "halo",
    namespaced,
    status = "HaloSubstrateStatus",
    derive = "PartialEq",
    doc = "A model of a HALO tenant: it sleeps until there is demand, wakes with nodes of its own, and sleeps again.",
    selectable = ".spec.tenant",
    printcolumn(name = "Tenant", type_ = "string", json_path = ".spec.tenant"),
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.model.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodeCount"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Idle", type_ = "date", json_path = ".status.idleSince"),
    printcolumn(name = "Why", type_ = "string", json_path = ".status.why"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 45 && self.metadata.name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')").message("the name also names the Deployment and its Service: use at most 45 lower-case letters, digits and hyphens, beginning with a letter"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.nodePool.ec2) || self.scaling.max <= self.nodePool.ec2.maxNodes").message("each pod has a node of its own: raise nodePool.ec2.maxNodes to at least scaling.max, or lower scaling.max"),
    validation = Rule::new("has(self.nodePool.ec2) == has(oldSelf.nodePool.ec2)").message("a pool's kind cannot change, as its nodes would be left behind: create another HaloSubstrate"),
    validation = Rule::new("!has(self.model.node) || !has(self.nodePool.ec2) || has(self.nodePool.ec2.dataVolume) || has(self.nodePool.ec2.userData.template)").message("model.node needs a disk with the weights: set nodePool.ec2.dataVolume, or bring them by nodePool.ec2.userData.template"),
)]
pub struct HaloSubstrateSpec {
    /// Name of the HaloTenant whose namespace this is. Cannot change.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.tenant cannot change, as keys and receipts carry it: create another HaloSubstrate"))]
    pub tenant: String,

    /// Which model, and where its weights are.
    pub model: Model,

    /// How it is run.
    #[serde(default)]
    pub engine: EngineSpec,

    /// Where its pods run.
    pub node_pool: NodePool,

    /// When it wakes, grows and sleeps.
    #[serde(default)]
    pub scaling: Scaling,

    /// What is different in its pods.
    #[serde(default)]
    pub pod: PodOverrides,

    /// While true, nothing of this substrate is changed; what runs goes on.
    #[serde(default)]
    pub paused: bool,
}

/// Which model, and where its weights are: exactly one of `image`, `node` and `claim`.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("[has(self.image), has(self.node), has(self.claim)].filter(x, x).size() == 1").message("say where the weights are by exactly one of model.image, model.node and model.claim"))]
pub struct Model {
    /// The model's name, as receipts carry it.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$')").message("a model name has letters, digits, dots, underscores, slashes and hyphens, such as Qwen/Qwen3-30B-A3B"))]
    pub name: String,

    /// A path in the container image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ModelPath>,

    /// A path on each node of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ModelPath>,

    /// A path in a volume that is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ModelClaim>,

    /// The model's digest, as receipts carry it; a pod whose weights have another does not become ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    #[x_kube(validation = Rule::new("self.matches('^sha256:[0-9a-f]{64}$')").message("a digest is sha256: and 64 lower-case hexadecimal digits"))]
    pub digest: Option<String>,
}

/// Where weights lie.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelPath {
    /// An absolute path: a Hugging Face folder, or a GGUF file.
    #[schemars(length(min = 2, max = 1024))]
    #[x_kube(validation = Rule::new("self.startsWith('/') && !self.contains('/../') && !self.endsWith('/..')").message("the path is absolute and has no .. in it, such as /mnt/halo/models/qwen3-30b-a3b"))]
    pub path: String,
}

/// A PersistentVolumeClaim with weights.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelClaim {
    /// Name of the claim in the substrate's namespace; it is mounted read-only.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,

    /// A path in the volume.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.contains('..')").message("the path is relative to the volume and has no .. in it"))]
    pub path: String,
}

/// How a model is run.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EngineSpec {
    /// Which quantisation of the weights: the GGUF file of the model's folder that carries it in its name, such as Q8_0; the one that
    /// is there if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Z0-9]+(_[A-Z0-9]+)*$')").message("name the quantisation as the file does, such as Q8_0, Q4_K_M or BF16"))]
    pub quantisation: Option<String>,

    /// Threads, and whole cores of the pod.
    #[serde(default = "default_threads")]
    #[schemars(range(min = 1, max = 448))]
    pub threads: u32,

    /// Memory of the pod: weights, key-value cache and 2Gi besides.
    #[serde(default = "default_memory")]
    #[schemars(extend("nullable" = false))]
    #[x_kube(validation = Rule::new("isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('64Mi')) >= 0").message("memory is a quantity of at least 64Mi, such as 96Gi"))]
    pub memory: Quantity,

    /// Tokens that a prompt and its answer may have together; the model's own limit if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 256, max = 1_048_576))]
    pub context: Option<u32>,
}

impl Default for EngineSpec {
    fn default() -> Self {
        Self {
            quantisation: None,
            threads: default_threads(),
            memory: default_memory(),
            context: None,
        }
    }
}

/// When a substrate wakes, grows and sleeps.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scaling {
    /// The most pods at once.
    #[serde(default = "default_max")]
    #[schemars(range(min = 1, max = 100))]
    pub max: u32,

    /// How long nothing is asked before it sleeps.
    #[serde(default = "default_idle_after")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10s') && duration(self) <= duration('168h')").message("idleAfter is between 10s and 168h"))]
    pub idle_after: Period,

    /// How long a wake may take before it counts as failed.
    #[serde(default = "default_wake_deadline")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10s') && duration(self) <= duration('2h')").message("wakeDeadline is between 10s and 2h"))]
    pub wake_deadline: Period,

    /// Requests that one pod answers at once; more demand brings another pod, up to `max`.
    #[serde(default = "default_sessions_per_pod")]
    #[schemars(range(min = 1, max = 1000))]
    pub sessions_per_pod: u32,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            max: default_max(),
            idle_after: default_idle_after(),
            wake_deadline: default_wake_deadline(),
            sessions_per_pod: default_sessions_per_pod(),
        }
    }
}

/// What is different in a substrate's pods.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodOverrides {
    /// The container image; the operator's default if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// When the image is pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self in ['Always', 'IfNotPresent', 'Never']").message("imagePullPolicy is Always, IfNotPresent or Never"))]
    pub image_pull_policy: Option<String>,

    /// Labels of the pods besides those of the operator.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('halo.howdify.io/') && !k.startsWith('app.kubernetes.io/'))").message("labels under halo.howdify.io/ and app.kubernetes.io/ are the operator's: use another prefix"))]
    pub labels: BTreeMap<String, String>,

    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,

    /// Annotations of the pods' service account, such as an IAM role.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub service_account_annotations: BTreeMap<String, String>,

    /// Environment of the container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub env: BTreeMap<String, String>,

    /// Arguments of the container after those of the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub extra_args: Vec<String>,

    /// The pods' priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,

    /// How long running answers may go on when a pod is asked to end.
    #[serde(default = "default_drain")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message("drain is between 1s and 1h"))]
    pub drain: Period,
}

impl Default for PodOverrides {
    fn default() -> Self {
        Self {
            image: None,
            image_pull_policy: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            service_account_annotations: BTreeMap::new(),
            env: BTreeMap::new(),
            extra_args: Vec::new(),
            priority_class_name: None,
            drain: default_drain(),
        }
    }
}

fn default_threads() -> u32 {
    14
}

fn default_memory() -> Quantity {
    Quantity("96Gi".to_owned())
}

fn default_max() -> u32 {
    1
}

fn default_idle_after() -> Period {
    Period::from_minutes(15)
}

fn default_wake_deadline() -> Period {
    Period::from_minutes(15)
}

fn default_sessions_per_pod() -> u32 {
    8
}

fn default_drain() -> Period {
    Period::from_minutes(2)
}
