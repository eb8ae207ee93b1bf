//! Which tenants are served, and where their substrates are. A config file here; anything that implements [`Directory`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use halo_receipts::ids::{DeviceId, TenantId};
use halo_receipts::payload::ContentPolicy;

/// What a tenant allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// What is kept of private content in new sessions.
    pub content: ContentPolicy,
    /// The oldest generation of device keys that is accepted.
    pub min_device_generation: u32,
    /// Devices that are not accepted any more.
    pub revoked: HashSet<DeviceId>,
    /// Requests for an answer in any minute.
    pub requests_per_minute: u32,
    /// Requests that may wait for a pod at once.
    pub held_requests: usize,
}

/// Where a pod listens: `host:port`, reached over plain WebSocket inside the cluster; its frames are signed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodAddress(pub String);

impl std::fmt::Display for PodAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tenants and their substrates. Asked again at every step, so that a change takes effect without a restart.
pub trait Directory: Send + Sync {
    /// A tenant that is served here.
    fn tenant(&self, tenant: &TenantId) -> Option<Arc<Tenant>>;

    /// Where to reach the tenant's substrate now; `None` if it has none at all. A pod that does not listen yet is dialled
    /// again until the request's time is up.
    fn substrate(&self, tenant: &TenantId) -> Option<PodAddress>;
}

/// A directory that does not change.
#[derive(Debug, Default)]
pub struct StaticDirectory {
    entries: HashMap<TenantId, (Arc<Tenant>, Option<PodAddress>)>,
}

impl StaticDirectory {
    /// Adds a tenant; returns whether it was new.
    pub fn insert(&mut self, id: TenantId, tenant: Tenant, substrate: Option<PodAddress>) -> bool {
        let entry = (Arc::new(tenant), substrate);
        self.entries.insert(id, entry).is_none()
    }
}

impl Directory for StaticDirectory {
    fn tenant(&self, tenant: &TenantId) -> Option<Arc<Tenant>> {
        let (tenant, _) = self.entries.get(tenant)?;
        Some(Arc::clone(tenant))
    }

    fn substrate(&self, tenant: &TenantId) -> Option<PodAddress> {
        self.entries.get(tenant)?.1.clone()
    }
}
