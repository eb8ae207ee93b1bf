//! The keys that a verifier may have, derived once for each epoch.

use std::collections::BTreeMap;

use crate::ids::{Epoch, SessionId, TenantId, Tier};
use crate::keys::{KeyCheckValue, RootKeys, SessionKey, TenantKeys as _, TierKey};

use super::reading::Streams;
use super::records::Records;

/// Where a verifier's keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// It asked for a verdict without keys.
    None,
    /// A root secret, whose check value tells whether it is the right one.
    Root {
        /// Of the root that the session is verified under.
        check_value: KeyCheckValue,
        /// Of the roots that are held too, and were not chosen for the session.
        others: Vec<KeyCheckValue>,
    },
    /// Keys of single epochs, as an auditor is given them.
    Session,
}

impl KeySource {
    /// The word for it in JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            KeySource::None => "none",
            KeySource::Root { .. } => "root",
            KeySource::Session => "session",
        }
    }
}

/// The keys of a verifier. A sealed root in memory, one session's keys, or none.
pub trait VerifyKeys {
    /// Where they come from.
    fn source(&self) -> KeySource;

    /// SESSION_KEY of one epoch; `None` if it is not at hand.
    fn session_key(
        &self,
        tenant: &TenantId,
        session: &SessionId,
        epoch: Epoch,
    ) -> Option<SessionKey>;
}

impl VerifyKeys for RootKeys {
    fn source(&self) -> KeySource {
        KeySource::Root {
            check_value: self.root().check_value,
            others: Vec::new(),
        }
    }

    fn session_key(
        &self,
        tenant: &TenantId,
        session: &SessionId,
        epoch: Epoch,
    ) -> Option<SessionKey> {
        crate::keys::TenantKeys::session_key(self, tenant, session, epoch)
    }
}

/// No keys, because the verifier asked for none: structure, hashes and seals only.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoKeys;

impl VerifyKeys for NoKeys {
    fn source(&self) -> KeySource {
        KeySource::None
    }

    fn session_key(&self, _: &TenantId, _: &SessionId, _: Epoch) -> Option<SessionKey> {
        None
    }
}

/// The SESSION_KEYs of some epochs of one session.
#[derive(Default)]
pub struct SessionKeys(BTreeMap<Epoch, SessionKey>);

impl SessionKeys {
    /// No key yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the key of an epoch.
    pub fn insert(&mut self, epoch: Epoch, key: SessionKey) {
        self.0.insert(epoch, key);
    }

    /// The keys by epoch, rising.
    pub fn iter(&self) -> impl Iterator<Item = (Epoch, &SessionKey)> {
        self.0.iter().map(|(epoch, key)| (*epoch, key))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl VerifyKeys for SessionKeys {
    fn source(&self) -> KeySource {
        KeySource::Session
    }

    fn session_key(&self, _: &TenantId, _: &SessionId, epoch: Epoch) -> Option<SessionKey> {
        let key = self.0.get(&epoch)?;
        Some(SessionKey::from_bytes(*key.expose()))
    }
}

/// The tier keys of the epochs seen so far.
pub(super) struct Ring<'k> {
    keys: &'k dyn VerifyKeys,
    session_id: SessionId,
    tenant_id: TenantId,
    epochs: Vec<(Epoch, Option<[TierKey; 3]>)>,
}

/// More epochs than any device opens in one session; beyond it keys are not derived, so that no input costs without bound.
const EPOCHS_MAX: usize = 65_536;

impl<'k> Ring<'k> {
    /// The keys of every epoch that receipts, header and claims name.
    pub(super) fn of_session(
        keys: &'k dyn VerifyKeys,
        session_id: SessionId,
        tenant_id: &TenantId,
        streams: &Streams<'_>,
        records: &Records<'_>,
    ) -> Self {
        let mut ring = Self {
            keys,
            session_id,
            tenant_id: tenant_id.clone(),
            epochs: Vec::new(),
        };
        for epoch in streams.epochs().into_iter().chain(records.epochs_used()) {
            ring.learn(epoch);
        }
        ring
    }

    /// Derives the keys of an epoch, if they are not there yet.
    fn learn(&mut self, epoch: Epoch) {
        let Err(at) = self
            .epochs
            .binary_search_by_key(&epoch, |(epoch, _)| *epoch)
        else {
            return;
        };
        if self.epochs.len() >= EPOCHS_MAX {
            return;
        }
        let key = self
            .keys
            .session_key(&self.tenant_id, &self.session_id, epoch);
        let keys = key.map(|key| Tier::ALL.map(|tier| key.tier_key(tier)));
        self.epochs.insert(at, (epoch, keys));
    }

    /// The key of an epoch that was learnt.
    pub(super) fn get(&self, epoch: Epoch, tier: Tier) -> Option<&TierKey> {
        let at = self
            .epochs
            .binary_search_by_key(&epoch, |(epoch, _)| *epoch)
            .ok()?;
        let keys = self.epochs[at].1.as_ref()?;
        keys.get(usize::from(tier.number()))
    }

    /// Forgets the keys of an epoch, which turned out to be others.
    pub(super) fn distrust(&mut self, epoch: Epoch) {
        let known = self.epochs.iter_mut().find(|(known, _)| *known == epoch);
        if let Some((_, keys)) = known {
            *keys = None;
        }
    }
}
