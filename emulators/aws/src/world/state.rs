//! What exists: instances, volumes, parameters, client tokens, and what a person has forbidden or used up.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Tags by key.
pub type Tags = BTreeMap<String, String>;

/// Microseconds since 1970.
pub type Moment = u64;

/// Everything that API calls and the admin endpoint change; what the state file holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// By id. Terminated ones stay for a while.
    pub instances: BTreeMap<String, Instance>,
    /// By id.
    pub volumes: BTreeMap<String, Volume>,
    /// By name.
    pub parameters: BTreeMap<String, Vec<ParameterVersion>>,
    /// Client tokens of launches, by token and zone.
    pub launch_tokens: BTreeMap<String, TokenUse>,
    /// Client tokens of new volumes.
    pub volume_tokens: BTreeMap<String, TokenUse>,
    /// Tags of what the catalogue holds, by resource id.
    pub other_tags: BTreeMap<String, Tags>,
    /// Where capacity ends.
    pub capacity: Vec<CapacityRule>,
    /// Denied IAM actions, such as `ec2:RunInstances`, `ssm:GetParameter` or `kms:Decrypt`; `ec2:*` and `*` match by prefix.
    pub denied: Vec<String>,
    /// The next host number of each subnet.
    pub next_host: BTreeMap<String, u32>,
}

/// A client token that was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// A digest of all other parameters.
    pub fingerprint: String,
    /// What it made; empty if there was no capacity for it.
    pub made: Vec<String>,
}

/// Where an instance is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// Starting.
    Pending,
    /// Running.
    Running,
    /// On its way to stopped.
    Stopping,
    /// Stopped.
    Stopped,
    /// On its way to terminated.
    ShuttingDown,
    /// Ended for good.
    Terminated,
}

impl InstanceState {
    /// The API's number.
    pub fn code(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Running => 16,
            Self::ShuttingDown => 32,
            Self::Terminated => 48,
            Self::Stopping => 64,
            Self::Stopped => 80,
        }
    }

    /// The API's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    /// Whether it has ended or is about to.
    pub fn is_ending(self) -> bool {
        matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Such as `i-0123456789abcdef0`.
    pub id: String,
    /// The launch that it belongs to.
    pub reservation: String,
    /// Its place in that launch, from 0.
    pub launch_index: u32,
    /// Where it is in its life.
    pub state: InstanceState,
    /// Where it was before.
    pub was: InstanceState,
    /// Since when.
    pub since: Moment,
    /// When it goes on to the next state by itself.
    pub due: Option<Moment>,
    /// From when other calls know it.
    pub visible_at: Moment,
    /// When it was launched.
    pub created_at: Moment,
    /// When it was launched or last started.
    pub launched_at: Moment,
    /// Its type.
    pub instance_type: String,
    /// Its image.
    pub image: String,
    /// Its subnet.
    pub subnet: String,
    /// Its VPC.
    pub vpc: String,
    /// Its zone.
    pub zone: String,
    /// `default` or `dedicated`.
    pub tenancy: String,
    /// Its address; none once it is terminated.
    pub private_ip: Option<Ipv4Addr>,
    /// Its name; empty once it is terminated.
    pub private_dns: String,
    /// The client token of its launch.
    pub client_token: String,
    /// Security group ids.
    pub security_groups: Vec<String>,
    /// Name of its key pair.
    pub key_name: Option<String>,
    /// Name of its instance profile.
    pub profile: Option<String>,
    /// User data as it was sent, in base64.
    pub user_data: String,
    /// Metadata service.
    pub metadata: Metadata,
    /// Whether it is optimised for EBS.
    pub ebs_optimized: bool,
    /// Whether detailed monitoring is on.
    pub monitoring: bool,
    /// Whether `TerminateInstances` is refused.
    pub protected: bool,
    /// The device name of its root.
    pub root_device: String,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// Why it changed state; empty if nobody asked.
    pub reason: String,
    /// Code and message of the last change of state.
    pub state_reason: Option<(String, String)>,
    /// Tags.
    pub tags: Tags,
    /// How often it has come to `running`.
    pub boots: u32,
}

impl Instance {
    /// Whether it takes up hardware: it is pending, running or on its way out of that. What was stopped ends without any.
    pub fn uses_capacity(&self) -> bool {
        match self.state {
            InstanceState::Stopped | InstanceState::Terminated => false,
            InstanceState::ShuttingDown => self.was != InstanceState::Stopped,
            InstanceState::Pending | InstanceState::Running | InstanceState::Stopping => true,
        }
    }

    /// Comes to another state; `due` is when it goes on by itself.
    pub(super) fn turn(&mut self, state: InstanceState, at: Moment, due: Option<Moment>) {
        self.was = self.state;
        self.state = state;
        self.since = at;
        self.due = due;
    }
}

/// How an instance may ask for its own metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// `required` (version 2 only) or `optional`.
    pub tokens: String,
    /// Network hops that an answer may travel.
    pub hop_limit: u32,
    /// `enabled` or `disabled`.
    pub endpoint: String,
    /// Whether tags are there too: `enabled` or `disabled`.
    pub tags: String,
}

/// Where a volume is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    /// Being made.
    Creating,
    /// Attached to nothing.
    Available,
    /// Attached, or about to be.
    InUse,
    /// Being deleted.
    Deleting,
}

impl VolumeState {
    /// The API's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Available => "available",
            Self::InUse => "in-use",
            Self::Deleting => "deleting",
        }
    }
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Such as `vol-0123456789abcdef0`.
    pub id: String,
    /// Where it is in its life.
    pub state: VolumeState,
    /// When it goes on by itself.
    pub due: Option<Moment>,
    /// From when other calls know it.
    pub visible_at: Moment,
    /// When it was made.
    pub created_at: Moment,
    /// Its zone.
    pub zone: String,
    /// GiB.
    pub size: u32,
    /// Such as `gp3`.
    pub kind: String,
    /// Operations a second.
    pub iops: Option<u32>,
    /// MiB a second.
    pub throughput: Option<u32>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// With which key.
    pub kms_key: Option<String>,
    /// The snapshot it began as.
    pub snapshot: Option<String>,
    /// Tags.
    pub tags: Tags,
    /// What it is attached to.
    pub attachment: Option<Attachment>,
}

/// A volume on an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The instance.
    pub instance: String,
    /// Such as `/dev/sdf`.
    pub device: String,
    /// `attaching`, `attached` or `detaching`.
    pub state: AttachmentState,
    /// Since when.
    pub since: Moment,
    /// When it goes on by itself.
    pub due: Option<Moment>,
    /// Whether the volume ends with the instance.
    pub delete_on_termination: bool,
}

/// Where an attachment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentState {
    /// On its way.
    Attaching,
    /// There.
    Attached,
    /// On its way off.
    Detaching,
}

impl AttachmentState {
    /// The API's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Detaching => "detaching",
        }
    }
}

/// What sort of parameter it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ParameterKind {
    /// Plain.
    String,
    /// Plain, with commas.
    StringList,
    /// Encrypted.
    SecureString,
}

impl ParameterKind {
    /// The API's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "String",
            Self::StringList => "StringList",
            Self::SecureString => "SecureString",
        }
    }
}

/// One version of a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterVersion {
    /// From 1.
    pub version: u64,
    /// What sort.
    pub kind: ParameterKind,
    /// The value.
    pub value: StoredValue,
    /// The KMS key of a `SecureString`.
    pub key: Option<String>,
    /// When it was put.
    pub modified_at: Moment,
}

/// A parameter's value. The state file holds it; nothing prints it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoredValue(pub String);

impl std::fmt::Debug for StoredValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

/// Where capacity ends: at most this many instances that match may take up hardware. Every rule that matches counts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CapacityRule {
    /// A type, or any.
    pub instance_type: Option<String>,
    /// A zone, or any.
    pub zone: Option<String>,
    /// A tenancy, or any.
    pub tenancy: Option<String>,
    /// How many; `null` takes the rule away.
    pub slots: Option<u32>,
}

impl CapacityRule {
    /// A rule for one type in one zone, unlimited until [`CapacityRule::slots`].
    pub fn of(instance_type: &str, zone: &str) -> Self {
        Self {
            instance_type: Some(instance_type.to_owned()),
            zone: Some(zone.to_owned()),
            ..Self::default()
        }
    }

    /// Only instances of this tenancy count.
    pub fn tenancy(mut self, tenancy: &str) -> Self {
        self.tenancy = Some(tenancy.to_owned());
        self
    }

    /// At most this many.
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = Some(slots);
        self
    }

    /// Whether the rule is about such an instance.
    pub fn matches(&self, instance_type: &str, zone: &str, tenancy: &str) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        fits(&self.instance_type, instance_type)
            && fits(&self.zone, zone)
            && fits(&self.tenancy, tenancy)
    }

    /// Whether both rules are about the same instances.
    pub fn same_place(&self, other: &Self) -> bool {
        self.instance_type == other.instance_type
            && self.zone == other.zone
            && self.tenancy == other.tenancy
    }
}

impl State {
    /// The volumes of an instance, in the order of their devices.
    pub fn volumes_of(&self, instance: &str) -> Vec<&Volume> {
        let mut found: Vec<&Volume> = self
            .volumes
            .values()
            .filter(|volume| {
                volume
                    .attachment
                    .as_ref()
                    .is_some_and(|on| on.instance == instance)
            })
            .collect();
        found.sort_by(|a, b| device(a).cmp(device(b)));
        found
    }

    /// Instances that have neither ended nor are about to.
    pub fn living(&self) -> impl Iterator<Item = &Instance> {
        self.instances
            .values()
            .filter(|instance| !instance.state.is_ending())
    }
}

fn device(volume: &Volume) -> &str {
    volume.attachment.as_ref().map_or("", |on| &on.device)
}
