//! Volumes that keep model weights across sleeps.

use crate::instance::{InstanceId, Tags};

/// The cloud's name of a volume, such as `vol-0123456789abcdef0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId(pub String);

impl std::fmt::Display for VolumeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An encrypted gp3 volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Makes the volume once; at most 64 ASCII characters.
    pub client_token: String,
    /// The zone it lives in.
    pub zone: String,
    /// Size in GiB.
    pub size_gib: u32,
    /// The snapshot it begins as.
    pub snapshot: Option<String>,
    /// Operations a second, if more than gp3's 3,000.
    pub iops: Option<u32>,
    /// MiB a second, if more than gp3's 125.
    pub throughput: Option<u32>,
    /// A KMS key of one's own; otherwise the account's EBS key.
    pub kms_key: Option<String>,
    /// Tags.
    pub tags: Tags,
}

/// Where a volume is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeState {
    /// Being made.
    Creating,
    /// Attached to nothing.
    Available,
    /// Attached to an instance, or about to be.
    InUse(InstanceId),
    /// Being deleted.
    Deleting,
    /// The cloud failed to make it.
    Error,
}

/// What the cloud says of one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub id: VolumeId,
    /// Its zone.
    pub zone: String,
    /// Its state.
    pub state: VolumeState,
    /// When it was made, seconds since 1970.
    pub created_at: u64,
    /// Its tags.
    pub tags: Tags,
}
