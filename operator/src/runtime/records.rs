//! What is kept of an object: slim, without managedFields, without the data of a Secret.

use std::collections::BTreeMap;

use halo_cloud::InstanceId;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest as _, Sha256};

use super::ownership;
use crate::nodes::plan::{NodeView, PodPlace};

/// The annotation of a child that carries a hash of what was applied.
pub const SPEC_HASH: &str = "halo.howdify.io/spec-hash";

/// The label that every child carries, and its value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "halo-operator");

/// What is kept of a child.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChildRecord {
    /// Its uid.
    pub uid: String,
    /// The hash of what the operator applied last; `None` if the operator did not make it.
    pub spec_hash: Option<String>,
    /// Whether someone else changed what the operator decides, since the operator last wrote it.
    pub changed_by_others: bool,
    /// Of a Secret: a keyed hash of its data ([`ContentKey::hash`]).
    pub content_hash: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// A fingerprint of who owns which fields.
    pub(super) fields: u64,
}

impl ChildRecord {
    /// What is kept of metadata.
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        let managed = meta.managed_fields.as_deref().unwrap_or_default();
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            spec_hash: meta
                .annotations
                .as_ref()
                .and_then(|all| all.get(SPEC_HASH).cloned()),
            changed_by_others: ownership::changed_by_others(managed),
            content_hash: None,
            deleting: meta.deletion_timestamp.is_some(),
            labels: meta.labels.clone().unwrap_or_default(),
            fields: ownership::fingerprint(managed),
        }
    }
}

/// What is kept of a Deployment besides its [`ChildRecord`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeploymentView {
    /// Pods that should run.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// Pods that exist.
    pub current: i32,
    /// Whether its controller has seen the latest spec.
    pub observed: bool,
    /// Why pods cannot be made, in the API server's words: reason and message of its ReplicaFailure condition.
    pub failure: Option<(String, String)>,
}

impl DeploymentView {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let status = deployment.status.as_ref();
        let failure = status
            .and_then(|status| status.conditions.as_ref())
            .into_iter()
            .flatten()
            .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")
            .map(|condition| {
                (
                    condition.reason.clone().unwrap_or_default(),
                    condition.message.clone().unwrap_or_default(),
                )
            });
        let count = |of: fn(&k8s_openapi::api::apps::v1::DeploymentStatus) -> Option<i32>| {
            status.and_then(of).unwrap_or_default()
        };
        Self {
            replicas: deployment
                .spec
                .as_ref()
                .and_then(|spec| spec.replicas)
                .unwrap_or(1),
            ready: count(|status| status.ready_replicas),
            current: count(|status| status.replicas),
            observed: status.and_then(|status| status.observed_generation)
                >= deployment.metadata.generation,
            failure,
        }
    }
}

/// What is kept of a pod of a substrate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// Where it is.
    pub place: PodPlace,
    /// Whether it has ended, as one that was evicted: it stays to be read, until somebody removes it, and holds nothing.
    pub over: bool,
    /// Its uid.
    pub uid: String,
    /// The name of its substrate, by its label.
    pub substrate: String,
    /// What keeps it from starting: a reason, such as `Unschedulable` or `ImagePullBackOff`, and a message.
    pub trouble: Option<(String, String)>,
    /// Since when it is ready.
    pub ready_since: Option<Timestamp>,
    /// Since when it is scheduled.
    pub scheduled_since: Option<Timestamp>,
    /// Since when its container runs.
    pub started_at: Option<Timestamp>,
}

impl PodView {
    pub(super) fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let condition = |kind: &str| {
            status
                .and_then(|status| status.conditions.as_ref())
                .into_iter()
                .flatten()
                .find(|condition| condition.type_ == kind)
        };
        let since = |kind: &str| {
            condition(kind)
                .filter(|condition| condition.status == "True")
                .and_then(|condition| condition.last_transition_time.as_ref())
                .map(|time| time.0)
        };
        let ready = condition("Ready").is_some_and(|condition| condition.status == "True");
        let started_at = status
            .and_then(|status| status.container_statuses.as_ref())
            .into_iter()
            .flatten()
            .find_map(|container| {
                container
                    .state
                    .as_ref()?
                    .running
                    .as_ref()?
                    .started_at
                    .clone()
            })
            .map(|time| time.0);
        let label = |key: &str| {
            pod.metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(key).cloned())
                .unwrap_or_default()
        };
        Self {
            place: PodPlace {
                name: pod.metadata.name.clone().unwrap_or_default(),
                node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
                ready,
                ending: pod.metadata.deletion_timestamp.is_some(),
            },
            over: matches!(phase, Some("Succeeded" | "Failed")),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            substrate: label(halo_crds::SUBSTRATE_LABEL),
            trouble: trouble(pod),
            ready_since: if ready { since("Ready") } else { None },
            scheduled_since: since("PodScheduled"),
            started_at,
        }
    }
}

/// Reasons of waiting containers that are a stage and no trouble.
const STAGES: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// What keeps a pod from starting.
fn trouble(pod: &Pod) -> Option<(String, String)> {
    let status = pod.status.as_ref()?;
    let unschedulable = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unschedulable {
        return Some((
            condition.reason.clone().unwrap_or_default(),
            condition.message.clone().unwrap_or_default(),
        ));
    }
    let containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    for container in containers {
        let waiting = container
            .state
            .as_ref()
            .and_then(|state| state.waiting.as_ref());
        if let Some(waiting) = waiting {
            let reason = waiting.reason.clone().unwrap_or_default();
            if !reason.is_empty() && !STAGES.contains(&reason.as_str()) {
                let last = container
                    .last_state
                    .as_ref()
                    .and_then(|state| state.terminated.as_ref());
                let message = match (&waiting.message, last) {
                    (Some(message), Some(last)) => {
                        format!("{message} (it ended with code {})", last.exit_code)
                    }
                    (Some(message), None) => message.clone(),
                    (None, _) => String::new(),
                };
                return Some((reason, message));
            }
        }
    }
    (status.phase.as_deref() == Some("Failed")).then(|| {
        (
            status.reason.clone().unwrap_or_else(|| "Failed".to_owned()),
            status.message.clone().unwrap_or_default(),
        )
    })
}

/// What is kept of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// What a pool's plan looks at.
    pub view: NodeView,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl NodeInfo {
    pub(super) fn of(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let ready = node
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref())
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        Self {
            view: NodeView {
                name: node.metadata.name.clone().unwrap_or_default(),
                instance: spec
                    .and_then(|spec| spec.provider_id.as_deref())
                    .and_then(instance_of),
                ready,
                unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
                deleting: node.metadata.deletion_timestamp.is_some(),
            },
            labels: node.metadata.labels.clone().unwrap_or_default(),
        }
    }
}

/// The instance that a provider id such as `aws:///us-east-2a/i-0123456789abcdef0` names.
fn instance_of(provider_id: &str) -> Option<InstanceId> {
    let rest = provider_id.strip_prefix("aws://")?;
    let id = rest.rsplit('/').next()?;
    id.starts_with("i-").then(|| InstanceId(id.to_owned()))
}

/// A key of this process alone, under which the data of Secrets is hashed: a hash in memory or in a dump says nothing of the data.
pub struct ContentKey([u8; 32]);

impl ContentKey {
    /// A new key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self(key))
    }

    /// The hash of a Secret's data.
    pub fn hash(&self, data: &BTreeMap<String, ByteString>) -> String {
        let mut hash = Sha256::new();
        hash.update(self.0);
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        for (name, ByteString(value)) in data {
            part(name.as_bytes());
            part(value);
        }
        hex(&hash.finalize())
    }
}

impl Drop for ContentKey {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
