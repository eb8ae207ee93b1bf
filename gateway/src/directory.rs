//! Which tenants are served, and where their substrates are. A config file here; anything that implements [`Directory`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

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
    /// Seconds that a request may wait for a pod; the gateway's own limit if it is not given.
    pub held_seconds: Option<u32>,
    /// Requests that may be with a substrate at once.
    pub concurrent_escalations: usize,
    /// Devices that may be connected at once.
    pub devices: usize,
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            content: ContentPolicy::default(),
            min_device_generation: 0,
            revoked: HashSet::new(),
            requests_per_minute: 600,
            held_requests: 32,
            held_seconds: None,
            concurrent_escalations: 16,
            devices: 10_000,
        }
    }
}

/// Where a pod listens: `host:port`, reached over plain WebSocket inside the cluster; its frames are signed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodAddress(pub String);

impl std::fmt::Display for PodAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How far a substrate without a ready pod is, as far as it is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// No pod, and none on its way.
    #[default]
    Asleep,
    /// A node or a pod is being started.
    Starting,
    /// A pod runs and is not ready yet: it loads its model.
    Loading,
    /// A pod is ready.
    Ready,
}

/// A tenant's substrate now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Substrate {
    /// The pods that are ready, in a stable order.
    pub pods: Vec<PodAddress>,
    /// How far it is while there is none.
    pub stage: Stage,
    /// How long a wake may take before a request that waits for it is refused; the gateway's own limit if it is not known.
    pub wake_deadline: Option<Duration>,
}

/// What a gateway has for a tenant's substrate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// Verified requests that wait for a pod.
    pub waiting: usize,
    /// Verified requests that a pod answers.
    pub answering: usize,
}

/// Tenants and their substrates. Asked again at every step, so that a change takes effect without a restart.
pub trait Directory: Send + Sync {
    /// A tenant that is served here.
    fn tenant(&self, tenant: &TenantId) -> Option<Arc<Tenant>>;

    /// The tenant's substrate now; `None` if it has none at all. A pod that does not listen yet is dialled again until the
    /// request's time is up.
    fn substrate(&self, tenant: &TenantId) -> Option<Arc<Substrate>>;

    /// Marked as changed whenever an answer of [`Directory::substrate`] may be another than before. A directory that never changes
    /// gives a receiver that never is.
    fn changes(&self) -> watch::Receiver<()>;

    /// Whether it is known who is served; until then nobody can be told that they are not.
    fn is_synced(&self) -> bool {
        true
    }

    /// Told each time that what this gateway has for the tenant's substrate changes; returns at once. Only verified requests are
    /// ever counted.
    fn demand(&self, tenant: &TenantId, demand: Demand);
}

/// A directory that does not change.
#[derive(Debug)]
pub struct StaticDirectory {
    entries: HashMap<TenantId, (Arc<Tenant>, Option<Arc<Substrate>>)>,
    changes: watch::Sender<()>,
}

impl Default for StaticDirectory {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            changes: watch::Sender::new(()),
        }
    }
}

impl StaticDirectory {
    /// Adds a tenant; returns whether it was new.
    pub fn insert(&mut self, id: TenantId, tenant: Tenant, substrate: Option<PodAddress>) -> bool {
        let substrate = substrate.map(|pod| {
            Arc::new(Substrate {
                pods: vec![pod],
                stage: Stage::Ready,
                wake_deadline: None,
            })
        });
        let entry = (Arc::new(tenant), substrate);
        self.entries.insert(id, entry).is_none()
    }
}

impl Directory for StaticDirectory {
    fn tenant(&self, tenant: &TenantId) -> Option<Arc<Tenant>> {
        let (tenant, _) = self.entries.get(tenant)?;
        Some(Arc::clone(tenant))
    }

    fn substrate(&self, tenant: &TenantId) -> Option<Arc<Substrate>> {
        self.entries.get(tenant)?.1.clone()
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn demand(&self, _tenant: &TenantId, _demand: Demand) {}
}
