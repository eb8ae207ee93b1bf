//! Condition types, and the reasons under them. A reason is a stable name: alerts and scripts match it.
//!
//! Besides these, a reason may be the name of a cloud failure (`halo_cloud::Failure::name`) or of a secret that cannot be read
//! (`halo_cloud::SecretError::name`).

/// Condition types.
pub mod kinds {
    /// Everything is as the spec asks. A substrate that sleeps is ready.
    pub const READY: &str = "Ready";
    /// A tenant's keys are published.
    pub const KEYS_READY: &str = "KeysReady";
    /// A tenant's namespace is there and is its own.
    pub const NAMESPACE_READY: &str = "NamespaceReady";
    /// A tenant's quota, limits and network policies are in place.
    pub const ISOLATION_READY: &str = "IsolationReady";
    /// A substrate answers.
    pub const AWAKE: &str = "Awake";
    /// The nodes that are wanted are ready.
    pub const NODES_READY: &str = "NodesReady";
    /// The pods that are wanted are ready.
    pub const PODS_READY: &str = "PodsReady";
    /// Something outside keeps the operator from going on; the message says what, and when it tries again.
    pub const BLOCKED: &str = "Blocked";
}

/// Everything is as asked.
pub const READY: &str = "Ready";
/// The first pass is not done.
pub const PENDING: &str = "Pending";
/// `spec.paused` is set, on the object or on its tenant.
pub const PAUSED: &str = "Paused";
/// The object is being deleted.
pub const DELETING: &str = "Deleting";
/// What the object says cannot be read or cannot be.
pub const INVALID: &str = "Invalid";
/// The API server refused or failed.
pub const API_SERVER: &str = "ApiServerRefused";
/// Nothing stands in the way.
pub const NOT_BLOCKED: &str = "NotBlocked";

/// Keys are published.
pub const KEYS_PUBLISHED: &str = "KeysPublished";
/// Keys are published, and the root could not be read again since.
pub const KEYS_STALE: &str = "KeysStale";
/// The root secret has fewer than 32 bytes.
pub const ROOT_TOO_SHORT: &str = "RootTooShort";
/// Another root secret stands under a generation whose keys are published.
pub const ROOT_CHANGED: &str = "RootChanged";
/// A Secret with keys was changed or deleted by someone, and is as it was again.
pub const SECRET_RESTORED: &str = "SecretRestored";
/// The keys wait for the namespace.
pub const NAMESPACE_PENDING: &str = "NamespacePending";

/// The namespace belongs to the tenant.
pub const NAMESPACE_OWNED: &str = "NamespaceOwned";
/// The namespace exists and does not carry the tenant's label.
pub const NAMESPACE_FOREIGN: &str = "NamespaceForeign";
/// The namespace is being deleted.
pub const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";
/// Another HaloTenant has the same tenant id or namespace.
pub const TENANT_CONFLICT: &str = "TenantConflict";
/// Quota, limits and policies are applied.
pub const ISOLATED: &str = "Isolated";
/// Substrates of the tenant are still being deleted.
pub const SUBSTRATES_REMAIN: &str = "SubstratesRemain";

/// No HaloTenant of the name.
pub const TENANT_MISSING: &str = "TenantMissing";
/// The substrate is not in its tenant's namespace.
pub const WRONG_NAMESPACE: &str = "WrongNamespace";
/// The tenant is not ready.
pub const TENANT_NOT_READY: &str = "TenantNotReady";

/// No demand.
pub const ASLEEP: &str = "Asleep";
/// Demand, and no pod ready yet.
pub const WAKING: &str = "Waking";
/// A pod answers.
pub const AWAKE: &str = "Awake";
/// Demand has ended and pods finish.
pub const DRAINING: &str = "Draining";
/// The wake takes longer than `wakeDeadline`.
pub const WAKE_DEADLINE: &str = "WakeDeadlineExceeded";
/// Nodes are on their way.
pub const NODES_PENDING: &str = "NodesPending";
/// No node of an existing pool matches.
pub const NO_MATCHING_NODES: &str = "NoMatchingNodes";
/// An instance did not register as a node in time.
pub const REGISTRATION_DEADLINE: &str = "RegistrationDeadlineExceeded";
/// An instance ended that the operator did not end.
pub const INSTANCE_LOST: &str = "InstanceLost";
/// Pods are on their way.
pub const PODS_PENDING: &str = "PodsPending";
/// Pods cannot be created, as the namespace's quota is used up.
pub const QUOTA_EXCEEDED: &str = "QuotaExceeded";
/// Pods cannot be created for another reason.
pub const PODS_REFUSED: &str = "PodsRefused";
/// A pod cannot be scheduled.
pub const UNSCHEDULABLE: &str = "Unschedulable";
/// A container cannot start, such as for want of its image.
pub const POD_FAILING: &str = "PodFailing";
/// Pods that a disruption budget protects keep a node from draining.
pub const DRAIN_BLOCKED: &str = "DrainBlocked";
