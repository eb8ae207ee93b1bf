//! Kinds that the operator reads and writes, and what it is called to change one.

/// A kind that the operator makes for a tenant or a substrate, and watches by label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChildKind {
    /// Namespace.
    Namespace,
    /// ResourceQuota.
    ResourceQuota,
    /// LimitRange.
    LimitRange,
    /// NetworkPolicy.
    NetworkPolicy,
    /// ServiceAccount.
    ServiceAccount,
    /// Secret.
    Secret,
    /// Deployment.
    Deployment,
    /// Service.
    Service,
    /// PodDisruptionBudget.
    PodDisruptionBudget,
    /// PersistentVolume.
    PersistentVolume,
    /// PersistentVolumeClaim.
    PersistentVolumeClaim,
}

impl ChildKind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Namespace,
        Self::ResourceQuota,
        Self::LimitRange,
        Self::NetworkPolicy,
        Self::ServiceAccount,
        Self::Secret,
        Self::Deployment,
        Self::Service,
        Self::PodDisruptionBudget,
        Self::PersistentVolume,
        Self::PersistentVolumeClaim,
    ];

    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::ResourceQuota => "ResourceQuota",
            Self::LimitRange => "LimitRange",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ServiceAccount => "ServiceAccount",
            Self::Secret => "Secret",
            Self::Deployment => "Deployment",
            Self::Service => "Service",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::PersistentVolume => "PersistentVolume",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
        }
    }

    /// The child kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Read.
    Get,
    /// Read many.
    List,
    /// Made; an error if it is there.
    Create,
    /// Applied or patched.
    Patch,
    /// The status applied.
    PatchStatus,
    /// Deleted.
    Delete,
    /// A pod evicted.
    Evict,
}

impl Verb {
    /// The HTTP method, for metrics.
    pub fn method(self) -> &'static str {
        match self {
            Self::Get | Self::List => "GET",
            Self::Create | Self::Evict => "POST",
            Self::Patch | Self::PatchStatus => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// Whether something is changed.
    pub fn changes(self) -> bool {
        !matches!(self, Self::Get | Self::List)
    }
}

macro_rules! actions {
    ($verb:expr, $kind:expr; $($name:literal),+) => {
        match ($verb, $kind) {
            $(
                (Verb::Get, $name) => concat!("get ", $name),
                (Verb::List, $name) => concat!("list ", $name),
                (Verb::Create, $name) => concat!("create ", $name),
                (Verb::Patch, $name) => concat!("patch ", $name),
                (Verb::PatchStatus, $name) => concat!("patch status of ", $name),
                (Verb::Delete, $name) => concat!("delete ", $name),
                (Verb::Evict, $name) => concat!("evict ", $name),
            )+
            (Verb::Get, _) => "get another kind",
            (Verb::List, _) => "list another kind",
            (Verb::Create, _) => "create another kind",
            (Verb::Patch, _) => "patch another kind",
            (Verb::PatchStatus, _) => "patch status of another kind",
            (Verb::Delete, _) => "delete another kind",
            (Verb::Evict, _) => "evict another kind",
        }
    };
}

/// A verb and a kind, such as `patch Deployment`: the action of an effect, and of an error.
pub fn action(verb: Verb, kind: &str) -> &'static str {
    actions!(verb, kind;
        "HaloTenant", "HaloSubstrate", "Namespace", "ResourceQuota", "LimitRange", "NetworkPolicy", "ServiceAccount", "Secret",
        "Deployment", "Service", "PodDisruptionBudget", "PersistentVolume", "PersistentVolumeClaim", "Pod", "Node", "Lease",
        "CustomResourceDefinition", "Event")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_child_kind_has_actions_of_its_own() {
        for kind in ChildKind::ALL {
            assert_eq!(ChildKind::named(kind.name()), Some(kind));
            assert_eq!(
                action(Verb::Patch, kind.name()),
                format!("patch {}", kind.name())
            );
        }
        assert_eq!(ChildKind::named("Pod"), None);
    }
}
