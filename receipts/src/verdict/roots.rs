//! Several root secrets at once: each session is verified under the one that it was keyed from.

use crate::evidence::{Evidence, Header};
use crate::ids::{Epoch, SessionId, TenantId, Tier};
use crate::keys::{KeyCheckValue, RootSecret, SessionKey};
use crate::time::KeyMonth;

use super::keys::{KeySource, Ring, VerifyKeys};
use super::reading::{Mac, Report, Streams};
use super::records::Records;

/// The root secrets that a verifier holds: at least one, each once. A session is verified under one of them, see
/// [`Roots::of_session`].
pub struct Roots {
    first: Root,
    more: Vec<Root>,
}

struct Root {
    check_value: KeyCheckValue,
    secret: RootSecret,
}

impl Root {
    fn new(secret: RootSecret) -> Self {
        let check_value = secret.check_value();
        Self {
            check_value,
            secret,
        }
    }

    fn session_key(&self, tenant: &TenantId, session: &SessionId, epoch: Epoch) -> SessionKey {
        let tenant_key = self.secret.tenant_key(tenant, KeyMonth::of(epoch));
        tenant_key.session_key(session, epoch)
    }
}

impl Roots {
    /// A single root.
    pub fn new(secret: RootSecret) -> Self {
        Self {
            first: Root::new(secret),
            more: Vec::new(),
        }
    }

    /// Adds another root.
    ///
    /// # Errors
    /// The place, counted from 0, of the same root, which is held already.
    pub fn add(&mut self, secret: RootSecret) -> Result<(), usize> {
        let root = Root::new(secret);
        let same = |held: &Root| held.check_value == root.check_value;
        if let Some(at) = self.all().position(same) {
            return Err(at);
        }
        self.more.push(root);
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &Root> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// The root that a session is verified under.
    ///
    /// It is the one that the header names by its check value, if that one signed the header. Whoever holds the ledger and
    /// no root can write another name there, and cannot sign it: without such a header it is the root under which most
    /// records and receipts verify, and where none do under any, the named one if it is held, else the first. The verdict
    /// is the one that this root gives alone.
    pub fn of_session(&self, session: &SessionId, evidence: &Evidence) -> SessionRoot<'_> {
        let root = match self.more.is_empty() {
            true => &self.first,
            false => self.choose(session, evidence),
        };
        SessionRoot { roots: self, root }
    }

    fn choose(&self, session: &SessionId, evidence: &Evidence) -> &Root {
        let record = evidence.header.as_ref();
        let header = record.and_then(|record| record.parse::<Header>().ok());
        let named = header.as_ref().and_then(|header| {
            let mut held = self.all();
            held.find(|root| root.check_value == header.key_check_value)
        });
        if let (Some(root), Some(header), Some(record)) = (named, &header, record) {
            let key = root.session_key(&header.tenant_id, session, header.session_epoch);
            if record.verify::<Header>(&key.tier_key(Tier::Orchestrator)) {
                return root;
            }
        }
        let otherwise = named.unwrap_or(&self.first);
        let mut streams = Streams::read(evidence, &mut Report::default());
        let mut records = Records::read(evidence);
        let tenant = streams
            .tenant()
            .or_else(|| header.map(|header| header.tenant_id));
        let Some(tenant) = tenant else {
            return otherwise;
        };
        let (mut best, mut most) = (otherwise, 0);
        for root in std::iter::once(otherwise).chain(self.all()) {
            let keys = SessionRoot { roots: self, root };
            let ring = Ring::of_session(&keys, *session, &tenant, &streams, &records);
            let results = records.check_macs(&ring);
            streams.items_mut().for_each(|item| item.check_mac(&ring));
            let verified = results.iter().filter(|(_, good)| *good).count()
                + streams.items().filter(|item| item.mac == Mac::Good).count();
            if verified > most {
                (best, most) = (root, verified);
            }
        }
        best
    }
}

/// One of the [`Roots`], chosen for one session.
pub struct SessionRoot<'r> {
    roots: &'r Roots,
    root: &'r Root,
}

impl VerifyKeys for SessionRoot<'_> {
    fn source(&self) -> KeySource {
        let check_value = self.root.check_value;
        let all = self.roots.all().map(|root| root.check_value);
        KeySource::Root {
            check_value,
            others: all.filter(|other| *other != check_value).collect(),
        }
    }

    fn session_key(
        &self,
        tenant: &TenantId,
        session: &SessionId,
        epoch: Epoch,
    ) -> Option<SessionKey> {
        Some(self.root.session_key(tenant, session, epoch))
    }
}
