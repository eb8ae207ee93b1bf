//! Field managers: one for each controller and subresource, so that server-side apply can tell their fields apart.

/// Who owns fields that the operator applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Manager {
    /// Children of a tenant.
    Tenant,
    /// The status of a HaloTenant.
    TenantStatus,
    /// Published keys.
    Keys,
    /// Children of a substrate.
    Substrate,
    /// The status of a HaloSubstrate.
    SubstrateStatus,
    /// Finalizers of both kinds.
    Finalizer,
    /// Nodes: cordon and uncordon.
    Nodes,
    /// The Lease.
    Lease,
    /// The condition of a HaloTenant that does not parse.
    TenantInvalid,
    /// The condition of a HaloSubstrate that does not parse.
    SubstrateInvalid,
}

impl Manager {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Tenant,
        Self::TenantStatus,
        Self::Keys,
        Self::Substrate,
        Self::SubstrateStatus,
        Self::Finalizer,
        Self::Nodes,
        Self::Lease,
        Self::TenantInvalid,
        Self::SubstrateInvalid,
    ];

    /// What every name begins with.
    pub const PREFIX: &'static str = "halo-operator/";

    /// As managedFields spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tenant => "halo-operator/tenant",
            Self::TenantStatus => "halo-operator/tenant-status",
            Self::Keys => "halo-operator/keys",
            Self::Substrate => "halo-operator/substrate",
            Self::SubstrateStatus => "halo-operator/substrate-status",
            Self::Finalizer => "halo-operator/finalizer",
            Self::Nodes => "halo-operator/nodes",
            Self::Lease => "halo-operator/lease",
            Self::TenantInvalid => "halo-operator/tenant-invalid",
            Self::SubstrateInvalid => "halo-operator/substrate-invalid",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Manager::ALL.iter().map(|manager| manager.name()).collect();
        assert_eq!(names.len(), Manager::ALL.len());
        for name in names {
            assert!(name.starts_with(Manager::PREFIX));
            // The API server takes no longer one.
            assert!(name.len() <= 128);
        }
    }
}
