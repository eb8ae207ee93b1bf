//! What an instance is launched with, and the tokens that make launches happen once.

use halo_cloud::{Image, LaunchRequest, MetadataOptions, NewVolume, RootVolume, Tags, Tenancy};
use halo_crds::pool::{DataVolume, Ec2Pool, PoolTenancy};
use halo_crds::status::NodeSlot;
use sha2::{Digest as _, Sha256};

use super::tags;
use super::user_data::{self, UserDataError};
use crate::settings::Settings;

/// Network hops of metadata answers: the instance itself, and no pod on it.
const METADATA_HOPS: u8 = 1;

/// Which substrate nodes are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The HaloSubstrate's uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Name of its HaloTenant.
    pub tenant: String,
}

/// Why a pool's instances cannot be described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The user data cannot be written.
    #[error(transparent)]
    UserData(#[from] UserDataError),
    /// The image is named by neither a parameter nor an id.
    #[error("nodePool.ec2.image names neither ssmParameter nor id")]
    NoImage,
    /// A slot names a zone that the pool has no subnet in.
    #[error("nodePool.ec2.subnets has none in {0}")]
    NoSubnet(String),
    /// A volume is asked for by a pool that has none.
    #[error("nodePool.ec2.dataVolume is not set")]
    NoVolume,
}

/// Everything that an instance of a pool is launched with, but its slot, type, zone and the image's id of the day.
#[derive(Debug, Clone)]
pub struct Template {
    identity: Identity,
    cluster: String,
    spec: Ec2Pool,
    image: Image,
    user_data: String,
    hash: String,
}

impl Template {
    /// The template of a pool.
    ///
    /// # Errors
    /// The user data has a placeholder that does not exist or is too long, or no image is named.
    pub fn new(
        identity: &Identity,
        spec: &Ec2Pool,
        settings: &Settings,
    ) -> Result<Self, LaunchError> {
        let image = match (&spec.image.id, &spec.image.ssm_parameter) {
            (Some(id), _) => Image::Id(id.clone()),
            (None, Some(parameter)) => Image::Parameter(parameter.clone()),
            (None, None) => return Err(LaunchError::NoImage),
        };
        let user_data = user_data::render(identity, spec, settings)?;
        let hash = hash_of(spec, &image, &user_data);
        Ok(Self {
            identity: identity.clone(),
            cluster: settings.cluster.clone(),
            spec: spec.clone(),
            image,
            user_data,
            hash,
        })
    }

    /// A hash of what an instance is launched with: 32 hexadecimal digits. Not in it: the choice of types and zones, which the plan
    /// compares itself, and the id behind an image parameter, so that a new image alone replaces no node.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Which substrate it is for.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The image to be resolved ([`halo_cloud::Cloud::resolve_image`]).
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The device name that data volumes are attached as.
    pub fn data_device(&self) -> Option<&str> {
        self.spec.data_volume.as_ref().map(|v| v.device.as_str())
    }

    /// The client token of a slot's launch, by its record.
    pub fn client_token(&self, slot: &NodeSlot) -> String {
        client_token(&self.identity.uid, slot)
    }

    /// The request that launches what a slot records.
    ///
    /// # Errors
    /// The slot's zone has no subnet.
    pub fn launch(&self, slot: &NodeSlot, image_id: &str) -> Result<LaunchRequest, LaunchError> {
        let spec = &self.spec;
        let subnet = spec.subnets.iter().find(|s| s.zone == slot.zone);
        let subnet = subnet.ok_or_else(|| LaunchError::NoSubnet(slot.zone.clone()))?;
        let mut all = self.tags(slot);
        all.insert(tags::ATTEMPT.to_owned(), slot.attempt.to_string());
        all.insert(tags::GENERATION.to_owned(), slot.generation.to_string());
        all.insert(tags::TEMPLATE.to_owned(), slot.template.clone());
        // Without it the cloud controller manager of EKS does not know the instance as one of its cluster.
        let eks = format!("kubernetes.io/cluster/{}", self.cluster);
        all.insert(eks, "owned".to_owned());
        Ok(LaunchRequest {
            client_token: self.client_token(slot),
            image_id: image_id.to_owned(),
            instance_type: slot.instance_type.clone(),
            subnet_id: subnet.id.clone(),
            tenancy: match spec.tenancy {
                PoolTenancy::Default => Tenancy::Default,
                PoolTenancy::Dedicated => Tenancy::Dedicated,
            },
            security_groups: spec.security_groups.clone(),
            instance_profile: Some(spec.instance_profile.clone()),
            root_volume: RootVolume {
                device: spec.image.root_device.clone(),
                size_gib: spec.root_volume.size_gib,
                kms_key: spec.root_volume.kms_key.clone(),
            },
            metadata: MetadataOptions {
                hop_limit: METADATA_HOPS,
            },
            user_data: self.user_data.clone(),
            tags: all,
        })
    }

    /// The request that makes a slot's data volume in the zone that the slot records.
    ///
    /// # Errors
    /// The pool has no data volume.
    pub fn volume(&self, slot: &NodeSlot) -> Result<NewVolume, LaunchError> {
        let volume = self.spec.data_volume.as_ref();
        let volume: &DataVolume = volume.ok_or(LaunchError::NoVolume)?;
        let mut all = self.tags(slot);
        all.insert(tags::ZONE.to_owned(), slot.zone.clone());
        let policy = tags::policy_text(volume.deletion_policy);
        all.insert(tags::DELETION_POLICY.to_owned(), policy.to_owned());
        Ok(NewVolume {
            client_token: volume_token(&self.identity.uid, slot),
            zone: slot.zone.clone(),
            size_gib: volume.size_gib,
            snapshot: volume.snapshot.clone(),
            iops: volume.iops,
            throughput: volume.throughput,
            kms_key: volume.kms_key.clone(),
            tags: all,
        })
    }

    /// A request to ask about permissions with: the first type in the first zone.
    ///
    /// # Errors
    /// The pool has no subnet.
    pub fn probe(&self, slot: &NodeSlot, image_id: &str) -> Result<LaunchRequest, LaunchError> {
        let mut request = self.launch(slot, image_id)?;
        request.client_token = token(&["probe", &self.identity.uid, &self.hash]);
        Ok(request)
    }

    /// The first type and zone of the pool as a slot, for [`Template::probe`].
    pub fn first_place(&self) -> (String, String) {
        let instance_type = self.spec.instance_types.first().cloned();
        let zone = self.spec.subnets.first().map(|s| s.zone.clone());
        (instance_type.unwrap_or_default(), zone.unwrap_or_default())
    }

    fn tags(&self, slot: &NodeSlot) -> Tags {
        let Identity {
            uid,
            namespace,
            name,
            tenant,
        } = &self.identity;
        let mut all = self.spec.tags.clone();
        let own = [
            (tags::CLUSTER, self.cluster.clone()),
            (tags::SUBSTRATE_UID, uid.clone()),
            (tags::SUBSTRATE, format!("{namespace}.{name}")),
            (tags::TENANT, tenant.clone()),
            (tags::SLOT, slot.slot.to_string()),
        ];
        all.extend(own.map(|(key, value)| (key.to_owned(), value)));
        // What consoles show; a name of the user's own stays.
        all.entry("Name".to_owned())
            .or_insert_with(|| format!("halo {namespace}/{name} {}", slot.slot));
        all
    }
}

fn hash_of(spec: &Ec2Pool, image: &Image, user_data: &str) -> String {
    let image = match image {
        Image::Id(id) => format!("id {id}"),
        Image::Parameter(name) => format!("parameter {name}"),
    };
    let root = &spec.root_volume;
    let mut parts = vec![
        "template".to_owned(),
        image,
        spec.image.root_device.clone(),
        format!("{:?}", spec.tenancy),
        spec.instance_profile.clone(),
        root.size_gib.to_string(),
        root.kms_key.clone().unwrap_or_default(),
        user_data.to_owned(),
        spec.security_groups.len().to_string(),
    ];
    parts.extend(spec.security_groups.iter().cloned());
    for (key, value) in &spec.tags {
        parts.extend([key.clone(), value.clone()]);
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    digest(&parts)[..32].to_owned()
}

/// The client token of the launch that a slot records: the same for every repetition of it, another for anything else. 60 characters.
pub fn client_token(uid: &str, slot: &NodeSlot) -> String {
    token(&[
        "instance",
        uid,
        &slot.generation.to_string(),
        &slot.slot.to_string(),
        &slot.attempt.to_string(),
        &slot.instance_type,
        &slot.zone,
    ])
}

/// The client token of the data volume of a slot in its zone. If the slot records a volume, that one is lost, and the token is that of
/// its successor.
pub fn volume_token(uid: &str, slot: &NodeSlot) -> String {
    token(&[
        "volume",
        uid,
        &slot.slot.to_string(),
        &slot.zone,
        slot.volume.as_deref().unwrap_or_default(),
    ])
}

fn token(parts: &[&str]) -> String {
    format!("halo{}", &digest(parts)[..56])
}

/// SHA-256 over parts, each preceded by its length, so that no two lists of parts have the same text.
fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "launch_tests.rs"]
mod tests;
