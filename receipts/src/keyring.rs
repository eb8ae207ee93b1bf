//! The keyring of one tenant (spec section 3.1): the keys that the operator publishes, as a document of canonical JSON.
//!
//! Who holds a keyring signs and verifies for one tenant in the months that it names, and cannot derive any other key.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use zeroize::{Zeroize as _, Zeroizing};

use crate::hex;
use crate::ids::{DeviceId, Epoch, SessionId, TenantId};
use crate::keys::{
    DeviceKey, EnrollKey, KeyCheckValue, KeyStore, RootInfo, RootSecret, SessionKey, TenantKey,
    TenantKeys,
};
use crate::time::KeyMonth;

/// The name of the file, and of the key in a Kubernetes Secret, that holds a keyring.
pub const FILE_NAME: &str = "keyring.json";

/// The longest document that is read, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;

/// The most generations of roots that one keyring holds.
pub const MAX_ROOTS: usize = 8;

/// Why a keyring was refused. Never says what a key was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// The document is longer than [`MAX_BYTES`].
    #[error("a keyring has at most {MAX_BYTES} bytes, this one has {0}")]
    Long(usize),
    /// It is not the JSON of a keyring. Says where, as the words of a parser could quote a key.
    #[error("not a keyring: the JSON is wrong at line {line}, column {column}")]
    Malformed {
        /// Line, from 1.
        line: usize,
        /// Column, from 1; 0 at the end of the text.
        column: usize,
    },
    /// The document's version is another than 1.
    #[error("a keyring of version {0}; this program reads version 1")]
    Version(u32),
    /// A field that does not have its form.
    #[error("a keyring's {0} does not have its form")]
    Field(&'static str),
    /// Another spelling than the canonical one, or a repeated or unordered part.
    #[error("the keyring is not canonical JSON in ascending order of generations")]
    NotCanonical,
    /// No root, too many, or a current generation that is none of them.
    #[error(
        "a keyring holds 1 to {MAX_ROOTS} generations, each once and from 1, and the current one is among them"
    )]
    Generations,
}

/// What is published of one generation's root.
struct Published {
    check_value: KeyCheckValue,
    enroll_key: Option<EnrollKey>,
    tenant_keys: BTreeMap<KeyMonth, TenantKey>,
}

/// The published keys of one tenant: some months of TENANT_KEY of one or two roots, and, for gateways, their ENROLL_KEYs.
///
/// Keys are wiped when it is dropped. It has no `Debug`, `Clone` or `Serialize`.
pub struct KeyRing {
    tenant: TenantId,
    /// The generation that new sessions are keyed from; always one of `roots`.
    current: RootInfo,
    roots: BTreeMap<u32, Published>,
}

impl KeyRing {
    /// Derives the keys of `tenant` for `months` from each root; the highest generation is the current one. ENROLL_KEYs
    /// are for gateways only.
    ///
    /// # Errors
    /// [`KeyRingError::Generations`].
    pub fn derive(
        tenant: &TenantId,
        roots: &[(u32, &RootSecret)],
        months: &[KeyMonth],
        with_enroll: bool,
    ) -> Result<Self, KeyRingError> {
        let current = roots.iter().map(|(generation, _)| *generation).max();
        let count = roots.len();
        let publish = |&(generation, root): &(u32, &RootSecret)| {
            let keys = months
                .iter()
                .map(|month| (*month, root.tenant_key(tenant, *month)));
            let published = Published {
                check_value: root.check_value(),
                enroll_key: with_enroll.then(|| root.enroll_key(tenant, generation)),
                tenant_keys: keys.collect(),
            };
            (generation, published)
        };
        let roots: BTreeMap<u32, Published> = roots.iter().map(publish).collect();
        if roots.len() != count {
            return Err(KeyRingError::Generations);
        }
        Self::new(tenant.clone(), current.unwrap_or(0), roots)
    }

    fn new(
        tenant: TenantId,
        current: u32,
        roots: BTreeMap<u32, Published>,
    ) -> Result<Self, KeyRingError> {
        if roots.len() > MAX_ROOTS || roots.contains_key(&0) {
            return Err(KeyRingError::Generations);
        }
        let root = roots.get(&current).ok_or(KeyRingError::Generations)?;
        let current = RootInfo {
            generation: current,
            check_value: root.check_value,
            demo: false,
        };
        Ok(Self {
            tenant,
            current,
            roots,
        })
    }

    /// The tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The generations held and their check values, ascending.
    pub fn generations(&self) -> impl Iterator<Item = (u32, KeyCheckValue)> + '_ {
        self.roots
            .iter()
            .map(|(generation, root)| (*generation, root.check_value))
    }

    /// The months of the current generation, oldest first.
    pub fn months(&self) -> impl Iterator<Item = KeyMonth> + '_ {
        let current = self.roots.get(&self.current.generation);
        current
            .into_iter()
            .flat_map(|root| root.tenant_keys.keys().copied())
    }

    /// SESSION_KEY of a session that was keyed from this generation; `None` if the tenant, the generation or the month is not
    /// held.
    pub fn session_key_under(
        &self,
        generation: u32,
        tenant: &TenantId,
        session: &SessionId,
        epoch: Epoch,
    ) -> Option<SessionKey> {
        let root = self.root_of(tenant, generation)?;
        let tenant_key = root.tenant_keys.get(&KeyMonth::of(epoch))?;
        Some(tenant_key.session_key(session, epoch))
    }

    /// DEVICE_KEY under this generation's ENROLL_KEY; `None` if the tenant, the generation or its ENROLL_KEY is not held.
    pub fn device_key_under(
        &self,
        root_generation: u32,
        tenant: &TenantId,
        device: &DeviceId,
        generation: u32,
    ) -> Option<DeviceKey> {
        let root = self.root_of(tenant, root_generation)?;
        Some(root.enroll_key.as_ref()?.device_key(device, generation))
    }

    fn root_of(&self, tenant: &TenantId, generation: u32) -> Option<&Published> {
        (*tenant == self.tenant)
            .then(|| self.roots.get(&generation))
            .flatten()
    }

    /// The document: canonical JSON (RFC 8785), wiped when it is dropped.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let size = |root: &Published| 256 + 80 * root.tenant_keys.len();
        let room = 192 + self.roots.values().map(size).sum::<usize>();
        // Reserved at once: a vector that grows would leave copies behind.
        let mut out = Zeroizing::new(Vec::with_capacity(room));
        // No value needs an escape: all are numbers, hexadecimal digits, months and a tenant id.
        let mut put = |part: &[u8]| out.extend_from_slice(part);
        put(b"{\"current\":");
        put(self.current.generation.to_string().as_bytes());
        put(b",\"roots\":[");
        for (at, (generation, root)) in self.roots.iter().enumerate() {
            put(if at == 0 { b"{" } else { b",{" });
            put(b"\"check_value\":\"");
            put(hex::encode(&root.check_value.0).as_bytes());
            if let Some(key) = &root.enroll_key {
                put(b"\",\"enroll_key\":\"");
                put(key.to_hex().as_bytes());
            }
            put(b"\",\"generation\":");
            put(generation.to_string().as_bytes());
            put(b",\"tenant_keys\":{");
            for (at, (month, key)) in root.tenant_keys.iter().enumerate() {
                put(if at == 0 { b"\"" } else { b",\"" });
                put(month.as_bytes());
                put(b"\":\"");
                put(key.to_hex().as_bytes());
                put(b"\"");
            }
            put(b"}}");
        }
        put(b"],\"tenant_id\":\"");
        put(self.tenant.as_str().as_bytes());
        put(b"\",\"v\":1}");
        out
    }

    /// Reads a document strictly: another spelling than [`KeyRing::encode`]'s is an error.
    ///
    /// # Errors
    /// What is wrong with the document, without a byte of it.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeyRingError> {
        if bytes.len() > MAX_BYTES {
            return Err(KeyRingError::Long(bytes.len()));
        }
        let document: Document<'_> =
            serde_json::from_slice(bytes).map_err(|error| KeyRingError::Malformed {
                line: error.line(),
                column: error.column(),
            })?;
        if document.v != 1 {
            return Err(KeyRingError::Version(document.v));
        }
        let field = |name| move |_| KeyRingError::Field(name);
        let tenant = document
            .tenant_id
            .parse()
            .map_err(|_| KeyRingError::Field("tenant_id"))?;
        let mut roots = BTreeMap::new();
        for root in document.roots {
            let mut tenant_keys = BTreeMap::new();
            for (month, key) in root.tenant_keys {
                let month = month.parse().map_err(|_| KeyRingError::Field("month"))?;
                let key = TenantKey::from_hex(key).map_err(field("tenant_keys"))?;
                tenant_keys.insert(month, key);
            }
            let enroll_key = root.enroll_key.map(EnrollKey::from_hex).transpose();
            let published = Published {
                check_value: root.check_value.parse().map_err(field("check_value"))?,
                enroll_key: enroll_key.map_err(field("enroll_key"))?,
                tenant_keys,
            };
            roots.insert(root.generation, published);
        }
        let ring = Self::new(tenant, document.current, roots)?;
        // Repeated, unordered and differently spelt parts show when it is written again.
        if ring.encode().as_slice() == bytes {
            Ok(ring)
        } else {
            Err(KeyRingError::NotCanonical)
        }
    }

    /// As [`KeyRing::decode`], and wipes what was read.
    ///
    /// # Errors
    /// As [`KeyRing::decode`].
    pub fn decode_and_wipe(bytes: &mut Vec<u8>) -> Result<Self, KeyRingError> {
        let ring = Self::decode(bytes);
        bytes.zeroize();
        ring
    }
}

/// The document as the parser sees it: every text is borrowed, so that no key is copied on the way.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    current: u32,
    #[serde(borrow)]
    roots: Vec<DocumentRoot<'a>>,
    tenant_id: &'a str,
    v: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentRoot<'a> {
    check_value: &'a str,
    #[serde(default)]
    enroll_key: Option<&'a str>,
    generation: u32,
    #[serde(borrow)]
    tenant_keys: BTreeMap<&'a str, &'a str>,
}

impl TenantKeys for KeyRing {
    fn root(&self) -> RootInfo {
        self.current
    }

    fn session_key(
        &self,
        tenant: &TenantId,
        session: &SessionId,
        epoch: Epoch,
    ) -> Option<SessionKey> {
        self.session_key_under(self.current.generation, tenant, session, epoch)
    }

    fn device_key(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
        generation: u32,
    ) -> Option<DeviceKey> {
        self.device_key_under(self.current.generation, tenant, device, generation)
    }
}

/// One generation of a ring.
struct Generation {
    ring: Arc<KeyRing>,
    root: RootInfo,
}

impl TenantKeys for Generation {
    fn root(&self) -> RootInfo {
        self.root
    }

    fn session_key(
        &self,
        tenant: &TenantId,
        session: &SessionId,
        epoch: Epoch,
    ) -> Option<SessionKey> {
        let generation = self.root.generation;
        self.ring
            .session_key_under(generation, tenant, session, epoch)
    }

    fn device_key(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
        generation: u32,
    ) -> Option<DeviceKey> {
        let root = self.root.generation;
        self.ring.device_key_under(root, tenant, device, generation)
    }
}

impl KeyRing {
    /// The keys of one generation alone; `None` if it is not held.
    pub fn generation(self: &Arc<Self>, generation: u32) -> Option<Arc<dyn TenantKeys>> {
        let root = RootInfo {
            generation,
            check_value: self.roots.get(&generation)?.check_value,
            demo: false,
        };
        Some(Arc::new(Generation {
            ring: Arc::clone(self),
            root,
        }))
    }
}

impl KeyStore for Arc<KeyRing> {
    fn current(&self, tenant: &TenantId) -> Option<Arc<dyn TenantKeys>> {
        (*tenant == self.tenant)
            .then(|| self.generation(self.current.generation))
            .flatten()
    }

    fn held(&self, tenant: &TenantId) -> Vec<Arc<dyn TenantKeys>> {
        if *tenant != self.tenant {
            return Vec::new();
        }
        let current = self.current.generation;
        let others = self.roots.keys().rev().filter(|&&other| other != current);
        std::iter::once(&current)
            .chain(others)
            .filter_map(|&generation| self.generation(generation))
            .collect()
    }
}

#[cfg(test)]
mod tests;
