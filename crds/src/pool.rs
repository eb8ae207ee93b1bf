//! Node pools: instances that the operator launches on EC2, or nodes that are there already.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Period;

/// Where pods run: exactly one of `ec2` and `existing`.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.ec2) != has(self.existing)").message("say where pods run by exactly one of nodePool.ec2 and nodePool.existing"))]
pub struct NodePool {
    /// Instances that are launched on demand and end with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ec2: Option<Ec2Pool>,

    /// Nodes that are there already; sleeping then means no pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<ExistingPool>,
}

/// Nodes that are there already.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExistingPool {
    /// Labels of the nodes.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16))]
    pub node_selector: BTreeMap<String, String>,

    /// Keys of taints that pods tolerate, whatever their value and effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerated_taints: Vec<String>,
}

/// Instances that are launched on demand. Nobody can log in to them by SSH: they carry no key; the SSM agent lets an operator in.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ec2Pool {
    /// Instance types in the order in which they are tried.
    #[serde(default = "default_instance_types")]
    #[schemars(length(min = 1, max = 10), inner(length(max = 32)))]
    #[x_kube(
        validation = Rule::new("self.all(t, t.matches('^[a-z0-9-]+[.][a-z0-9-]+$'))").message("an instance type looks like r7iz.4xlarge"),
        validation = Rule::new("self.all(t, self.exists_one(u, u == t))").message("each instance type stands once in the order of preference"),
    )]
    pub instance_types: Vec<String>,

    /// One subnet for each zone, in the order in which they are tried.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(validation = Rule::new("self.all(s, self.exists_one(t, t.zone == s.zone))").message("each zone has one subnet: remove the second"))]
    pub subnets: Vec<ZoneSubnet>,

    /// Whose hardware instances run on.
    #[serde(default)]
    pub tenancy: PoolTenancy,

    /// The machine image.
    pub image: PoolImage,

    /// Ids of security groups.
    #[schemars(length(min = 1, max = 5), inner(length(max = 32)))]
    #[x_kube(validation = Rule::new("self.all(g, g.matches('^sg-[0-9a-f]{8,17}$'))").message("a security group id looks like sg-0123456789abcdef0"))]
    pub security_groups: Vec<String>,

    /// Name of the instance profile, which lets a node join the cluster.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9+=,.@_-]+$')").message("give the instance profile's name, not its ARN"))]
    pub instance_profile: String,

    /// The encrypted gp3 root volume.
    #[serde(default)]
    pub root_volume: PoolRootVolume,

    /// An encrypted gp3 volume for weights, made once for each slot and zone and kept across sleeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_volume: Option<DataVolume>,

    /// How an instance becomes a node.
    #[serde(default)]
    pub user_data: UserData,

    /// What becomes of an instance that is not needed.
    #[serde(default)]
    pub idle_policy: IdlePolicy,

    /// Tags of instances and volumes besides the operator's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 30))]
    #[x_kube(validation = Rule::new("self.all(k, size(k) <= 128 && !k.startsWith('aws:') && !k.startsWith('halo.howdify.io/') && !k.startsWith('kubernetes.io/'))").message("tags under aws:, halo.howdify.io/ and kubernetes.io/ are not yours to set: use another prefix"))]
    pub tags: BTreeMap<String, String>,

    /// The most instances at once.
    #[serde(default = "default_max_nodes")]
    #[schemars(range(min = 1, max = 100))]
    pub max_nodes: u32,

    /// How long an instance may take to register as a node before another is tried.
    #[serde(default = "default_registration_deadline")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10s') && duration(self) <= duration('1h')").message("registrationDeadline is between 10s and 1h"))]
    pub registration_deadline: Period,

    /// USD an hour by instance type, such as "1.488"; over those that the operator knows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = price_schema()))]
    pub prices: BTreeMap<String, String>,
}

/// A subnet and its zone.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ZoneSubnet {
    /// The availability zone.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]{2,}(-[a-z0-9]+)*-[0-9][a-z]$')").message("a zone looks like us-east-2a"))]
    pub zone: String,

    /// The subnet's id.
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^subnet-[0-9a-f]{8,17}$')").message("a subnet id looks like subnet-0123456789abcdef0"))]
    pub id: String,
}

/// Whose hardware instances run on.
#[derive(
    Serialize, Deserialize, schemars::JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq,
)]
#[serde(rename_all = "lowercase")]
pub enum PoolTenancy {
    /// Shared hardware.
    #[default]
    Default,
    /// Hardware that runs this account's instances only.
    Dedicated,
}

/// The machine image: exactly one of `ssmParameter` and `id`.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.ssmParameter) != has(self.id)").message("name the image by exactly one of image.ssmParameter and image.id"))]
pub struct PoolImage {
    /// An SSM parameter whose value is an image id, such as
    /// `/aws/service/eks/optimized-ami/1.35/amazon-linux-2023/x86_64/standard/recommended/image_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1011))]
    #[x_kube(validation = Rule::new("self.startsWith('/')").message("name the parameter by its full path, beginning with a slash"))]
    pub ssm_parameter: Option<String>,

    /// An image id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^ami-[0-9a-f]{8,17}$')").message("an image id looks like ami-0123456789abcdef0"))]
    pub id: Option<String>,

    /// The device name of the image's root volume.
    #[serde(default = "default_root_device")]
    #[schemars(length(min = 5, max = 32))]
    pub root_device: String,
}

/// The encrypted gp3 root volume, which ends with its instance.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolRootVolume {
    /// Size in GiB.
    #[serde(default = "default_root_size")]
    #[schemars(range(min = 8, max = 16_384))]
    pub size_gib: u32,

    /// A KMS key of one's own; otherwise the account's EBS key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub kms_key: Option<String>,
}

impl Default for PoolRootVolume {
    fn default() -> Self {
        Self {
            size_gib: default_root_size(),
            kms_key: None,
        }
    }
}

/// An encrypted gp3 volume for weights.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataVolume {
    /// Size in GiB.
    #[schemars(range(min = 1, max = 16_384))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a data volume cannot be resized here: create another HaloSubstrate"))]
    pub size_gib: u32,

    /// The snapshot it begins as; empty and unformatted if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^snap-[0-9a-f]{8,17}$')").message("a snapshot id looks like snap-0123456789abcdef0"))]
    pub snapshot: Option<String>,

    /// Operations a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 3000, max = 80_000))]
    pub iops: Option<u32>,

    /// MiB a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 125, max = 2000))]
    pub throughput: Option<u32>,

    /// A KMS key of one's own; otherwise the account's EBS key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub kms_key: Option<String>,

    /// The device name it is attached as.
    #[serde(default = "default_data_device")]
    #[schemars(length(min = 5, max = 32))]
    pub device: String,

    /// Where the preset's user data mounts it.
    #[serde(default = "default_mount_path")]
    #[schemars(length(min = 2, max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^(/[A-Za-z0-9._-]+)+$')").message("the mount path is absolute, such as /mnt/halo"))]
    pub mount_path: String,

    /// What becomes of the volumes when the substrate is deleted. Cannot change: each volume carries it.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("deletionPolicy cannot change, as each volume carries it: create another HaloSubstrate"))]
    pub deletion_policy: VolumeDeletionPolicy,
}

/// What becomes of volumes when their substrate is deleted.
#[derive(
    Serialize, Deserialize, schemars::JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq,
)]
pub enum VolumeDeletionPolicy {
    /// They are deleted.
    #[default]
    Delete,
    /// They are kept, and cost, until a person deletes them.
    Retain,
}

/// How an instance becomes a node: at most one of `preset` and `template`; the preset `EksAl2023` if neither is given.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!(has(self.preset) && has(self.template))").message("give at most one of userData.preset and userData.template"))]
pub struct UserData {
    /// User data that the operator writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<UserDataPreset>,

    /// User data of one's own. `{{clusterName}}`, `{{apiServerEndpoint}}`, `{{certificateAuthority}}`, `{{serviceCidr}}`,
    /// `{{nodeLabels}}`, `{{nodeTaints}}`, `{{dataDevice}}` and `{{dataMountPath}}` are filled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 12_000))]
    pub template: Option<String>,
}

/// User data that the operator writes.
#[derive(Serialize, Deserialize, schemars::JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserDataPreset {
    /// nodeadm's NodeConfig, for the Amazon Linux 2023 images of EKS.
    EksAl2023,
}

/// What becomes of an instance that is not needed.
#[derive(
    Serialize, Deserialize, schemars::JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq,
)]
pub enum IdlePolicy {
    /// It ends; its root volume goes with it.
    #[default]
    Terminate,
    /// It is stopped: it wakes faster, and its root volume costs meanwhile.
    Stop,
}

/// A price. The rule stands at the value, whose length is bounded, or the API server would refuse it for its estimated cost.
fn price_schema() -> serde_json::Value {
    serde_json::json!({
        "type": "string",
        "maxLength": 12,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^[0-9]{1,4}([.][0-9]{1,6})?$')",
            "message": "a price is USD an hour as text, such as \"1.488\"",
        }],
    })
}

fn default_instance_types() -> Vec<String> {
    ["r7iz.4xlarge", "r8i.8xlarge"].map(str::to_owned).to_vec()
}

fn default_root_device() -> String {
    "/dev/xvda".to_owned()
}

fn default_root_size() -> u32 {
    40
}

fn default_data_device() -> String {
    "/dev/xvdb".to_owned()
}

fn default_mount_path() -> String {
    "/mnt/halo".to_owned()
}

fn default_max_nodes() -> u32 {
    1
}

fn default_registration_deadline() -> Period {
    Period::from_minutes(10)
}
