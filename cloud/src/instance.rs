//! Instances: what is asked for and what is reported.

use std::collections::BTreeMap;

/// Tags by key.
pub type Tags = BTreeMap<String, String>;

/// The cloud's name of an instance, such as `i-0123456789abcdef0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(pub String);

impl std::fmt::Display for InstanceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose hardware an instance runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tenancy {
    /// Shared hardware.
    Default,
    /// Hardware that runs this account's instances only.
    Dedicated,
}

/// Where an image id comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Image {
    /// An image id, such as `ami-0123456789abcdef0`.
    Id(String),
    /// The name of an SSM parameter whose value is an image id.
    Parameter(String),
}

/// The encrypted gp3 root volume, which ends with its instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootVolume {
    /// The device name of the image's root, such as `/dev/xvda`.
    pub device: String,
    /// Size in GiB.
    pub size_gib: u32,
    /// A KMS key of one's own; otherwise the account's EBS key.
    pub kms_key: Option<String>,
}

/// How an instance may ask for its own metadata. Version 2 only; the hop limit keeps pods out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataOptions {
    /// Network hops that an answer may travel.
    pub hop_limit: u8,
}

/// One instance to be launched. The same token with anything else changed is [`super::Failure::TokenMismatch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchRequest {
    /// Makes the launch happen once; at most 64 ASCII characters.
    pub client_token: String,
    /// An image id, resolved.
    pub image_id: String,
    /// Such as `r7iz.4xlarge`.
    pub instance_type: String,
    /// The subnet, which decides the zone.
    pub subnet_id: String,
    /// Whose hardware.
    pub tenancy: Tenancy,
    /// Security group ids.
    pub security_groups: Vec<String>,
    /// Name of the instance profile.
    pub instance_profile: Option<String>,
    /// The root volume.
    pub root_volume: RootVolume,
    /// Metadata service, version 2 only.
    pub metadata: MetadataOptions,
    /// User data as plain text; encoded on the way.
    pub user_data: String,
    /// Tags of the instance and its root volume.
    pub tags: Tags,
}

/// Where an instance is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InstanceState {
    /// Starting.
    Pending,
    /// Running, and paid for.
    Running,
    /// On its way to stopped.
    Stopping,
    /// Stopped; only its volumes cost.
    Stopped,
    /// On its way to terminated.
    ShuttingDown,
    /// Ended for good.
    Terminated,
}

impl InstanceState {
    /// Whether the instance has ended or is about to, for good.
    pub fn is_ending(self) -> bool {
        matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}

/// What the cloud says of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its name.
    pub id: InstanceId,
    /// Its state.
    pub state: InstanceState,
    /// Its type.
    pub instance_type: String,
    /// Its availability zone.
    pub zone: String,
    /// Its private DNS name, by which a node often registers; empty while unknown.
    pub private_dns_name: String,
    /// The client token it was launched with; empty if none.
    pub client_token: String,
    /// When it was launched, seconds since 1970.
    pub launched_at: u64,
    /// Why it changed state, in the cloud's words; empty if it did not say.
    pub reason: String,
    /// Its tags.
    pub tags: Tags,
}
