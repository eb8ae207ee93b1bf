//! The key hierarchy (protocol section 2): HKDF-SHA256 from one root secret down to the key that signs.
//!
//! Every type here is wiped when it is dropped and has no `Debug`, `Clone` or `Serialize`.

use std::sync::Arc;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

use crate::hex;
use crate::ids::{DeviceId, Epoch, ReceiptId, SessionId, TenantId, Tier};
use crate::time::KeyMonth;

/// The fewest bytes that a root secret may have.
pub const ROOT_SECRET_MIN: usize = 32;

/// Why a secret was refused. Never says what the secret was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The root secret is too short to be one.
    #[error("the root secret has {0} bytes, and at least {ROOT_SECRET_MIN} are needed")]
    ShortRoot(usize),
    /// Text that should be 64 lower-case hexadecimal digits.
    #[error("a key is written as 64 lower-case hexadecimal digits")]
    NotHex,
    /// Sealed content that this key did not seal, or that was changed.
    #[error("the sealed content does not open under this key")]
    Unsealed,
}

/// HKDF-SHA256, extract and expand, to 32 bytes. The parts of `info` are joined; the last one has a fixed width.
fn derive(ikm: &[u8], salt: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    // 32 bytes are one hash length, far under the 255 that HKDF can expand to.
    let _ = Hkdf::<Sha256>::new(Some(salt), ikm).expand_multi_info(info, key.as_mut_slice());
    key
}

/// Declares a 32-byte key that is wiped on drop.
macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The key with these bytes.
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The key that 64 lower-case hexadecimal digits spell.
            pub fn from_hex(text: &str) -> Result<Self, KeyError> {
                hex::decode(text.as_bytes()).map(Self).ok_or(KeyError::NotHex)
            }

            /// The key as 64 hexadecimal digits, for a channel that may carry it.
            pub fn to_hex(&self) -> Zeroizing<String> {
                Zeroizing::new(hex::encode(&self.0))
            }

            /// The key's bytes, for a channel that may carry them.
            pub fn expose(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl From<Zeroizing<[u8; 32]>> for $name {
            fn from(bytes: Zeroizing<[u8; 32]>) -> Self {
                Self(*bytes)
            }
        }
    };
}

/// The secret that everything is derived from: the exact bytes of its source, never trimmed.
#[derive(ZeroizeOnDrop)]
pub struct RootSecret(Vec<u8>);

impl RootSecret {
    /// Takes the bytes as they are; fewer than [`ROOT_SECRET_MIN`] are refused.
    pub fn new(mut bytes: Vec<u8>) -> Result<Self, KeyError> {
        let len = bytes.len();
        if len < ROOT_SECRET_MIN {
            bytes.zeroize();
            return Err(KeyError::ShortRoot(len));
        }
        Ok(Self(bytes))
    }

    /// TENANT_KEY of one tenant and month.
    pub fn tenant_key(&self, tenant: &TenantId, month: KeyMonth) -> TenantKey {
        let info: [&[u8]; 2] = [tenant.as_str().as_bytes(), month.as_bytes()];
        derive(&self.0, b"halo-tenant-v1", &info).into()
    }

    /// ENROLL_KEY of one tenant and key generation.
    pub fn enroll_key(&self, tenant: &TenantId, generation: u32) -> EnrollKey {
        let info: [&[u8]; 2] = [tenant.as_str().as_bytes(), &generation.to_be_bytes()];
        derive(&self.0, b"halo-enroll-v1", &info).into()
    }

    /// The first eight bytes, in hex, of a value that names this root without giving it away.
    pub fn check_value(&self) -> KeyCheckValue {
        let [a, b, c, d, e, f, g, h, ..] = *derive(&self.0, b"halo-kcv-v1", &[]);
        KeyCheckValue([a, b, c, d, e, f, g, h])
    }
}

/// Tells one root secret from another without giving it away; 8 bytes, 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyCheckValue(pub [u8; 8]);

impl std::fmt::Display for KeyCheckValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl std::str::FromStr for KeyCheckValue {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        hex::decode(text.as_bytes())
            .map(Self)
            .ok_or(KeyError::NotHex)
    }
}
crate::ids::string_serde!(KeyCheckValue);

key! {
    /// TENANT_KEY: one tenant, one month.
    TenantKey
}
key! {
    /// SESSION_KEY: one session, one epoch. What an auditor may be given.
    SessionKey
}
key! {
    /// ENROLL_KEY: derives the keys of a tenant's devices.
    EnrollKey
}
key! {
    /// PAIRING_KEY: shared by one pair of glasses and one phone.
    PairingKey
}
key! {
    /// PAYLOAD_KEY of one tier: seals what a person said, was shown or was answered.
    PayloadKey
}

impl TenantKey {
    /// SESSION_KEY of one session and epoch.
    pub fn session_key(&self, session: &SessionId, epoch: Epoch) -> SessionKey {
        let info: [&[u8]; 2] = [&session.encode(), &epoch.0.to_be_bytes()];
        derive(&self.0, b"halo-session-v1", &info).into()
    }
}

impl SessionKey {
    /// TIER_KEY of one tier.
    pub fn tier_key(&self, tier: Tier) -> TierKey {
        let info: &[u8] = match tier {
            Tier::Sensor => b"tier-0",
            Tier::Orchestrator => b"tier-1",
            Tier::Substrate => b"tier-2",
        };
        TierKey::from_bytes(*derive(&self.0, b"halo-tier-v1", &[info]))
    }
}

impl EnrollKey {
    /// DEVICE_KEY of one device and generation.
    pub fn device_key(&self, device: &DeviceId, generation: u32) -> DeviceKey {
        let info: [&[u8]; 2] = [device.as_str().as_bytes(), &generation.to_be_bytes()];
        DeviceKey::from_bytes(*derive(&self.0, b"halo-device-v1", &info))
    }
}

impl PairingKey {
    /// The key that seals and signs one SESSION_RESET.
    pub fn reset_key(&self, session: &SessionId, epoch: Epoch) -> SigningKey {
        let info: [&[u8]; 2] = [&session.encode(), &epoch.0.to_be_bytes()];
        SigningKey::from_bytes(*derive(&self.0, b"halo-pair-v1", &info))
    }
}

impl PayloadKey {
    /// Seals `plaintext` for the receipt `id`: ChaCha20-Poly1305 with the first 12 bytes of the id as nonce and all 16
    /// as associated data. One receipt seals once, so no nonce is used twice.
    pub fn seal(&self, id: &ReceiptId, plaintext: &[u8]) -> Vec<u8> {
        aead_seal(&self.0, receipt_nonce(id), id.as_bytes(), plaintext)
    }

    /// Opens what [`PayloadKey::seal`] made.
    pub fn open(&self, id: &ReceiptId, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        aead_open(&self.0, receipt_nonce(id), id.as_bytes(), sealed)
    }

    /// HMAC-SHA256 of `plaintext`: what stands in a payload whose tenant keeps no text.
    pub fn commit(&self, plaintext: &[u8]) -> [u8; 32] {
        SigningKey::from_bytes(self.0).sign(&[plaintext])
    }
}

fn receipt_nonce(id: &ReceiptId) -> [u8; 12] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *id.as_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

/// ChaCha20-Poly1305 (RFC 8439). Inputs here are far below its limit of 256 GiB, its only error.
pub(crate) fn aead_seal(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], msg: &[u8]) -> Vec<u8> {
    ChaCha20Poly1305::new(&Key::from(*key))
        .encrypt(&Nonce::from(nonce), Payload { msg, aad })
        .unwrap_or_default()
}

/// The inverse of [`aead_seal`].
pub(crate) fn aead_open(
    key: &[u8; 32],
    nonce: [u8; 12],
    aad: &[u8],
    msg: &[u8],
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    ChaCha20Poly1305::new(&Key::from(*key))
        .decrypt(&Nonce::from(nonce), Payload { msg, aad })
        .map(Zeroizing::new)
        .map_err(|_| KeyError::Unsealed)
}

/// A key ready to compute HMAC-SHA256: the bytes and the hash state after the key's own block.
pub struct SigningKey {
    bytes: Zeroizing<[u8; 32]>,
    /// Cached so that a MAC costs two compressions less; wiped on drop by the `zeroize` feature of hmac and sha2.
    state: Hmac<Sha256>,
}

/// TIER_KEY of one tier: signs its receipts and the frames of its link.
pub type TierKey = SigningKey;

/// DEVICE_KEY: signs a device's request to open a session.
pub type DeviceKey = SigningKey;

impl SigningKey {
    /// The key with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let bytes = Zeroizing::new(bytes);
        // `new` takes a whole block (64 bytes), which RFC 2104 makes from a shorter key by appending zeros.
        let mut block = Zeroizing::new([0u8; 64]);
        block[..32].copy_from_slice(bytes.as_slice());
        let state = Hmac::<Sha256>::new((&*block).into());
        Self { bytes, state }
    }

    /// The key that 64 lower-case hexadecimal digits spell.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let bytes = Zeroizing::new(hex::decode(text.as_bytes()).ok_or(KeyError::NotHex)?);
        Ok(Self::from_bytes(*bytes))
    }

    /// The key as 64 hexadecimal digits, for a channel that may carry it.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.bytes.as_slice()))
    }

    /// The key's bytes, for a channel that may carry them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// HMAC-SHA256 over the joined parts.
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.state.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }

    /// Whether `tag` is the HMAC-SHA256 over the joined parts; the comparison takes constant time.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8; 32]) -> bool {
        let mut mac = self.state.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.verify(tag.into()).is_ok()
    }

    /// The MAC's state before the first byte, for a search that tries many messages.
    pub(crate) fn mac_state(&self) -> Hmac<Sha256> {
        self.state.clone()
    }

    /// PAYLOAD_KEY of the same tier.
    pub fn payload_key(&self) -> PayloadKey {
        derive(self.bytes.as_slice(), b"halo-payload-v1", &[b"payload"]).into()
    }
}

/// Where the keys of sessions and devices come from: a root on one machine, published tenant keys in a cluster.
pub trait TenantKeys: Send + Sync {
    /// The generation of the root behind the keys, and its check value; new sessions are stamped with both.
    fn root(&self) -> RootInfo;

    /// SESSION_KEY of one session; `None` if the tenant or the month is not held here.
    fn session_key(
        &self,
        tenant: &TenantId,
        session: &SessionId,
        epoch: Epoch,
    ) -> Option<SessionKey>;

    /// DEVICE_KEY of one device; `None` if the tenant is not held here.
    fn device_key(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
        generation: u32,
    ) -> Option<DeviceKey>;
}

/// The keys of every tenant that is served here, under every root that they are held for: while a root is being replaced, sessions and
/// devices of the one before go on.
pub trait KeyStore: Send + Sync {
    /// The keys that new sessions of the tenant are opened under; `None` if the tenant is not held here.
    fn current(&self, tenant: &TenantId) -> Option<Arc<dyn TenantKeys>>;

    /// All keys of the tenant, those of the current root first: a device's credential may be from any of them.
    fn held(&self, tenant: &TenantId) -> Vec<Arc<dyn TenantKeys>>;

    /// The keys under the root that a session's header names; `None` if that root is not held here.
    fn under(
        &self,
        tenant: &TenantId,
        generation: u32,
        check_value: &KeyCheckValue,
    ) -> Option<Arc<dyn TenantKeys>> {
        self.held(tenant).into_iter().find(|keys| {
            let root = keys.root();
            root.generation == generation && root.check_value == *check_value
        })
    }
}

/// One root for all tenants.
#[derive(Clone)]
pub struct OneRoot(Arc<dyn TenantKeys>);

impl OneRoot {
    /// Everything under these keys.
    pub fn new(keys: impl TenantKeys + 'static) -> Self {
        Self(Arc::new(keys))
    }
}

impl KeyStore for OneRoot {
    fn current(&self, _tenant: &TenantId) -> Option<Arc<dyn TenantKeys>> {
        Some(Arc::clone(&self.0))
    }

    fn held(&self, _tenant: &TenantId) -> Vec<Arc<dyn TenantKeys>> {
        vec![Arc::clone(&self.0)]
    }
}

/// What a session header says of the root it was keyed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootInfo {
    /// Which root secret, counted from 1.
    pub generation: u32,
    /// Its check value.
    pub check_value: KeyCheckValue,
    /// Whether it is a demo root, which proves nothing to anyone.
    pub demo: bool,
}

/// Every key, derived from a root held in memory: one machine, the operator, or an auditor.
pub struct RootKeys {
    root: RootSecret,
    info: RootInfo,
}

impl RootKeys {
    /// Keys under `root`, which is the root of this generation.
    pub fn new(root: RootSecret, generation: u32, demo: bool) -> Self {
        let info = RootInfo {
            generation,
            check_value: root.check_value(),
            demo,
        };
        Self { root, info }
    }
}

impl TenantKeys for RootKeys {
    fn root(&self) -> RootInfo {
        self.info
    }

    fn session_key(
        &self,
        tenant: &TenantId,
        session: &SessionId,
        epoch: Epoch,
    ) -> Option<SessionKey> {
        let tenant_key = self.root.tenant_key(tenant, KeyMonth::of(epoch));
        Some(tenant_key.session_key(session, epoch))
    }

    fn device_key(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
        generation: u32,
    ) -> Option<DeviceKey> {
        let enroll_key = self.root.enroll_key(tenant, self.info.generation);
        Some(enroll_key.device_key(device, generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> RootSecret {
        RootSecret::new((0..48).collect()).unwrap()
    }

    #[test]
    fn a_short_root_is_refused_with_its_length() {
        assert_eq!(
            RootSecret::new(vec![1; 31]).err(),
            Some(KeyError::ShortRoot(31))
        );
    }

    #[test]
    fn a_root_is_never_trimmed() {
        let with = RootSecret::new([vec![b'a'; 32], vec![b'\n']].concat()).unwrap();
        let without = RootSecret::new(vec![b'a'; 32]).unwrap();
        assert_ne!(with.check_value(), without.check_value());
    }

    #[test]
    fn neighbouring_inputs_do_not_share_keys() {
        let month: KeyMonth = "2026-01".parse().unwrap();
        let key = |tenant: &str| *root().tenant_key(&tenant.parse().unwrap(), month).expose();
        assert_ne!(key("acme"), key("acme2"));
        let device = |id: &str, generation| {
            let keys = RootKeys::new(root(), 1, false);
            let tenant = "acme".parse().unwrap();
            *keys
                .device_key(&tenant, &id.parse().unwrap(), generation)
                .unwrap()
                .expose()
        };
        assert_ne!(device("a1", 2), device("a", 12));
        assert_ne!(device("a", 1), device("a", 2));
    }

    #[test]
    fn sealed_content_opens_for_its_receipt_only() {
        let key = SigningKey::from_bytes([3; 32]).payload_key();
        let (id, other) = (
            ReceiptId::from_random([1; 16]),
            ReceiptId::from_random([2; 16]),
        );
        let sealed = key.seal(&id, b"the prompt");
        assert_eq!(key.open(&id, &sealed).unwrap().as_slice(), b"the prompt");
        assert_eq!(key.open(&other, &sealed).err(), Some(KeyError::Unsealed));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open(&id, &changed).err(), Some(KeyError::Unsealed));
        }
    }

    #[test]
    fn hex_keys_are_strict() {
        let key = SigningKey::from_bytes([0xab; 32]);
        assert_eq!(
            SigningKey::from_hex(&key.to_hex()).unwrap().expose(),
            key.expose()
        );
        assert!(SigningKey::from_hex(&key.to_hex().to_uppercase()).is_err());
        assert!(SessionKey::from_hex("00").is_err());
    }
}
