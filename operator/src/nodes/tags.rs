//! The tags that everything in the cloud carries, and how they are read back.

use halo_cloud::Tags;
use halo_crds::pool::VolumeDeletionPolicy;

/// The cluster's name: what a listing asks for.
pub const CLUSTER: &str = "halo.howdify.io/cluster";
/// The substrate's uid.
pub const SUBSTRATE_UID: &str = "halo.howdify.io/substrate-uid";
/// `namespace.name` of the substrate, for people.
pub const SUBSTRATE: &str = "halo.howdify.io/substrate";
/// The tenant's name, so that bills can be split by it.
pub const TENANT: &str = "halo.howdify.io/tenant";
/// Which slot.
pub const SLOT: &str = "halo.howdify.io/slot";
/// Which launch.
pub const ATTEMPT: &str = "halo.howdify.io/attempt";
/// The generation of the spec that an instance was launched from.
pub const GENERATION: &str = "halo.howdify.io/generation";
/// The hash of what an instance was launched with.
pub const TEMPLATE: &str = "halo.howdify.io/template";
/// The zone of a volume.
pub const ZONE: &str = "halo.howdify.io/zone";
/// What becomes of a volume whose substrate is gone: `Delete` or `Retain`.
pub const DELETION_POLICY: &str = "halo.howdify.io/deletion-policy";

/// A tag's text.
pub fn text<'a>(tags: &'a Tags, key: &str) -> Option<&'a str> {
    tags.get(key).map(String::as_str)
}

/// A tag's number; `None` if it is missing or is not one.
pub fn number<T: std::str::FromStr>(tags: &Tags, key: &str) -> Option<T> {
    text(tags, key)?.parse().ok()
}

/// A deletion policy as its tag spells it.
pub fn policy_text(policy: VolumeDeletionPolicy) -> &'static str {
    match policy {
        VolumeDeletionPolicy::Delete => "Delete",
        VolumeDeletionPolicy::Retain => "Retain",
    }
}

/// Whether a volume may be deleted by its tag. One without a readable tag is kept: weights can be lost once only.
pub fn may_delete(tags: &Tags) -> bool {
    text(tags, DELETION_POLICY) == Some(policy_text(VolumeDeletionPolicy::Delete))
}
