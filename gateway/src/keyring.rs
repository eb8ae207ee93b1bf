//! The tier keys of one session, by epoch: derived when first needed, wiped with the session.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use halo_receipts::ids::{Epoch, SessionId, TenantId, Tier};
use halo_receipts::keyring::{FILE_NAME, KeyRing, KeyRingError};
use halo_receipts::keys::{RootInfo, TenantKeys, TierKey};
use serde::Deserialize;
use zeroize::Zeroizing;

/// The longest file that is looked at for a keyring: the most that a Secret can be.
pub const FILE_MAX: usize = 2 * 1024 * 1024;

/// Why a file holds no keyring.
#[derive(Debug, thiserror::Error)]
pub enum PublishedError {
    /// A Secret without a keyring in it.
    #[error("this Secret has no {FILE_NAME}")]
    Missing,
    /// The keyring is refused.
    #[error(transparent)]
    KeyRing(#[from] KeyRingError),
}

/// The keyring in a Secret as `kubectl get secret -o json` writes it, or the keyring itself.
///
/// # Errors
/// What is wrong, without a byte of it.
pub fn published(bytes: &[u8]) -> Result<KeyRing, PublishedError> {
    #[derive(Deserialize)]
    struct Secret<'a> {
        #[serde(borrow)]
        data: HashMap<&'a str, &'a str>,
    }
    let Ok(Secret { data }) = serde_json::from_slice(bytes) else {
        return Ok(KeyRing::decode(bytes)?);
    };
    let text = data.get(FILE_NAME).ok_or(PublishedError::Missing)?;
    // Room for all of it at once: a vector that grows would leave copies behind.
    let mut document = Zeroizing::new(Vec::with_capacity(text.len()));
    let decoded = BASE64.decode_vec(text, &mut document);
    decoded.map_err(|_| PublishedError::Missing)?;
    Ok(KeyRing::decode(&document)?)
}

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
