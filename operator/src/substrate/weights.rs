//! Where a pod finds its weights.
//!
//! Pod Security `restricted` forbids host paths. Weights on a node are therefore a local PersistentVolume that every node of the pool
//! has, with a claim bound to it. Both are named by what they point to, as neither can be changed once it is made.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    LocalVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource, PersistentVolumeSpec, Volume, VolumeMount,
    VolumeNodeAffinity, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ObjectMeta;
use sha2::{Digest as _, Sha256};

use super::validate::{Place, Valid, Weights};
use super::workload::Labels;

/// Where a volume of weights is mounted.
const MOUNT: &str = "/var/lib/halo/weights";

/// The name of the volume in the pod.
const VOLUME: &str = "weights";

/// What a pod needs for its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Mounted {
    /// The path that the container is given.
    pub path: String,
    /// The pod's volume and the container's mount, unless the image has the weights.
    pub volume: Option<(Volume, VolumeMount)>,
    /// What has to exist for it.
    pub storage: Option<Storage>,
}

/// A volume on each node and its claim.
#[derive(Debug, Clone, PartialEq)]
pub struct Storage {
    /// The cluster-scoped volume, which no owner reference can end.
    pub volume: PersistentVolume,
    /// Its claim.
    pub claim: PersistentVolumeClaim,
}

/// The name that every PersistentVolume of a substrate begins with.
pub fn volume_prefix(uid: &str) -> String {
    format!("halo-{uid}-")
}

/// What a pod needs for its weights.
pub fn mounted(valid: &Valid<'_>, labels: &Labels) -> Mounted {
    match valid.weights {
        Weights::Image(path) => Mounted {
            path: path.to_owned(),
            volume: None,
            storage: None,
        },
        Weights::Claim { name, path } => Mounted {
            path: under(path),
            volume: Some(of_claim(name)),
            storage: None,
        },
        Weights::Node(path) => {
            let (folder, rest) = split(valid.place, path);
            let storage = storage(valid, folder, labels);
            let claim = storage.claim.metadata.name.as_deref().unwrap_or_default();
            Mounted {
                path: under(rest),
                volume: Some(of_claim(claim)),
                storage: Some(storage),
            }
        }
    }
}

fn under(path: &str) -> String {
    match path.trim_matches('/') {
        "" => MOUNT.to_owned(),
        path => format!("{MOUNT}/{path}"),
    }
}

/// The folder that is mounted and the rest of the path: the data volume's mount if the path lies in it, so that a change of the model
/// needs no other volume; else the folder that holds a file, or the path itself.
fn split<'a>(place: Place<'a>, path: &'a str) -> (&'a str, &'a str) {
    if let Place::Ec2(pool) = place
        && let Some(data) = &pool.data_volume
        && let Some(rest) = path.strip_prefix(data.mount_path.as_str())
        && (rest.is_empty() || rest.starts_with('/'))
    {
        return (&data.mount_path, rest);
    }
    let path = path.trim_end_matches('/');
    match path.rsplit_once('/') {
        Some((folder, file)) if !folder.is_empty() && is_file(file) => (folder, file),
        _ => (path, ""),
    }
}

fn is_file(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
}

fn of_claim(claim: &str) -> (Volume, VolumeMount) {
    let volume = Volume {
        name: VOLUME.to_owned(),
        // Read-only here as well: the kubelet would otherwise change the owner of every file.
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            read_only: Some(true),
        }),
        ..Volume::default()
    };
    let mount = VolumeMount {
        name: VOLUME.to_owned(),
        mount_path: MOUNT.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    (volume, mount)
}

fn storage(valid: &Valid<'_>, folder: &str, labels: &Labels) -> Storage {
    let nodes = nodes(valid);
    let mut hasher = Sha256::new();
    for part in [folder].into_iter().chain(
        nodes
            .iter()
            .flat_map(|(key, value)| [key.as_str(), value.as_str()]),
    ) {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    let hash: String = hasher.finalize()[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let volume_name = format!("{}{hash}", volume_prefix(valid.uid));
    let claim_name = format!("{}-weights-{hash}", valid.name);
    // Nothing is measured by it: the scheduler compares claim and volume only.
    let size = BTreeMap::from([("storage".to_owned(), Quantity("1Gi".to_owned()))]);
    let modes = Some(vec!["ReadOnlyMany".to_owned()]);
    let requirements = nodes
        .into_iter()
        .map(|(key, value)| NodeSelectorRequirement {
            key,
            operator: "In".to_owned(),
            values: Some(vec![value]),
        })
        .collect();
    let volume = PersistentVolume {
        metadata: ObjectMeta {
            name: Some(volume_name.clone()),
            labels: Some(labels.all()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: modes.clone(),
            capacity: Some(size.clone()),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                namespace: Some(valid.namespace.to_owned()),
                name: Some(claim_name.clone()),
                ..ObjectReference::default()
            }),
            local: Some(LocalVolumeSource {
                path: folder.to_owned(),
                fs_type: None,
            }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector {
                    node_selector_terms: vec![NodeSelectorTerm {
                        match_expressions: Some(requirements),
                        match_fields: None,
                    }],
                }),
            }),
            persistent_volume_reclaim_policy: Some("Retain".to_owned()),
            storage_class_name: Some(String::new()),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    };
    let claim = PersistentVolumeClaim {
        metadata: labels.owned(claim_name),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: modes,
            resources: Some(VolumeResourceRequirements {
                requests: Some(size),
                limits: None,
            }),
            // Empty, not absent: the default class would make another volume.
            storage_class_name: Some(String::new()),
            volume_mode: Some("Filesystem".to_owned()),
            volume_name: Some(volume_name),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    };
    Storage { volume, claim }
}

/// The labels of the nodes that pods may run on.
pub fn nodes(valid: &Valid<'_>) -> BTreeMap<String, String> {
    match valid.place {
        Place::Ec2(_) => BTreeMap::from([(halo_crds::POOL_LABEL.to_owned(), valid.uid.to_owned())]),
        Place::Existing(pool) => pool.node_selector.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::substrate::testing;
    use crate::substrate::validate::validate;
    use halo_crds::HaloSubstrate;
    use halo_crds::substrate::{ModelClaim, ModelPath};

    fn of(substrate: &HaloSubstrate) -> Mounted {
        let valid = validate(substrate).unwrap();
        mounted(&valid, &Labels::of(&valid))
    }

    fn local(mounted: &Mounted) -> &str {
        let storage = mounted.storage.as_ref().unwrap();
        &storage
            .volume
            .spec
            .as_ref()
            .unwrap()
            .local
            .as_ref()
            .unwrap()
            .path
    }

    #[test]
    fn weights_of_a_data_volume_are_found_in_its_mount() {
        let mut substrate = testing::ec2();
        let first = of(&substrate);
        assert_eq!(local(&first), "/mnt/halo");
        assert_eq!(first.path, "/var/lib/halo/weights/models/qwen3");
        substrate.spec.model.node = Some(ModelPath {
            path: "/mnt/halo/other.gguf".to_owned(),
        });
        let second = of(&substrate);
        assert_eq!(
            first.storage, second.storage,
            "another model, the same volume"
        );
        assert_eq!(second.path, "/var/lib/halo/weights/other.gguf");
    }

    #[test]
    fn elsewhere_a_folder_is_mounted_itself_and_a_file_by_its_folder() {
        let mut substrate = testing::existing();
        substrate.spec.model.image = None;
        for (path, folder, inside) in [
            (
                "/mnt/halo2/qwen",
                "/mnt/halo2/qwen",
                "/var/lib/halo/weights",
            ),
            ("/srv/qwen/", "/srv/qwen", "/var/lib/halo/weights"),
            ("/srv/q/Q8.GGUF", "/srv/q", "/var/lib/halo/weights/Q8.GGUF"),
        ] {
            substrate.spec.model.node = Some(ModelPath {
                path: path.to_owned(),
            });
            let mounted = of(&substrate);
            assert_eq!((local(&mounted), mounted.path.as_str()), (folder, inside));
        }
    }

    #[test]
    fn the_claim_and_the_volume_name_each_other() {
        let Storage { volume, claim } = of(&testing::ec2()).storage.unwrap();
        let (volume_spec, claim_spec) = (volume.spec.unwrap(), claim.spec.unwrap());
        assert_eq!(claim_spec.volume_name, volume.metadata.name);
        assert_eq!(volume_spec.claim_ref.unwrap().name, claim.metadata.name);
        assert_eq!(claim_spec.storage_class_name.as_deref(), Some(""));
        let uid = testing::ec2().metadata.uid.unwrap();
        assert!(
            volume
                .metadata
                .name
                .unwrap()
                .starts_with(&volume_prefix(&uid))
        );
        assert_eq!(volume.metadata.owner_references, None);
        let required = volume_spec.node_affinity.unwrap().required.unwrap();
        let expression = &required.node_selector_terms[0]
            .match_expressions
            .as_ref()
            .unwrap()[0];
        assert_eq!(expression.key, halo_crds::POOL_LABEL);
        assert_eq!(expression.values, Some(vec![uid]));
    }

    #[test]
    fn a_claim_of_ones_own_is_mounted_and_nothing_is_made() {
        let mut substrate = testing::existing();
        substrate.spec.model.image = None;
        substrate.spec.model.claim = Some(ModelClaim {
            claim_name: "weights".to_owned(),
            path: "qwen/q8".to_owned(),
        });
        let mounted = of(&substrate);
        assert_eq!(mounted.path, "/var/lib/halo/weights/qwen/q8");
        assert_eq!(mounted.storage, None);
        let (volume, mount) = mounted.volume.unwrap();
        assert_eq!(
            volume.persistent_volume_claim.unwrap().read_only,
            Some(true)
        );
        assert_eq!(mount.read_only, Some(true));
    }
}
