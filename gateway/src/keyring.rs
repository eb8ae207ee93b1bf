//! The tier keys of one session, by epoch: derived when first needed, wiped with the session.

use std::collections::HashMap;
use std::sync::Arc;

use halo_receipts::ids::{Epoch, SessionId, TenantId, Tier};
use halo_receipts::keys::{RootInfo, TenantKeys, TierKey};

/// Derives and keeps the three tier keys of each epoch of one session.
pub struct Keyring {
    keys: Arc<dyn TenantKeys>,
    tenant: TenantId,
    session: SessionId,
    epochs: HashMap<Epoch, [Arc<TierKey>; 3]>,
}

impl Keyring {
    /// The keys of one session of one tenant.
    pub fn new(keys: Arc<dyn TenantKeys>, tenant: TenantId, session: SessionId) -> Self {
        Self {
            keys,
            tenant,
            session,
            epochs: HashMap::new(),
        }
    }

    /// TIER_KEY of `tier` in `epoch`; `None` if this gateway does not hold the tenant's key of that month.
    pub fn tier_key(&mut self, epoch: Epoch, tier: Tier) -> Option<Arc<TierKey>> {
        if !self.epochs.contains_key(&epoch) {
            let session_key = self.keys.session_key(&self.tenant, &self.session, epoch)?;
            let keys = Tier::ALL.map(|tier| Arc::new(session_key.tier_key(tier)));
            self.epochs.insert(epoch, keys);
        }
        let [sensor, orchestrator, substrate] = self.epochs.get(&epoch)?;
        Some(Arc::clone(match tier {
            Tier::Sensor => sensor,
            Tier::Orchestrator => orchestrator,
            Tier::Substrate => substrate,
        }))
    }

    /// The tenant of the session.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The root behind the keys.
    pub fn root(&self) -> RootInfo {
        self.keys.root()
    }

    /// The session.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Another ring for the same session, with nothing derived yet.
    pub fn fresh(&self) -> Keyring {
        Keyring::new(Arc::clone(&self.keys), self.tenant.clone(), self.session)
    }
}
