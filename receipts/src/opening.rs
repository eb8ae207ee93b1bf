//! Opening a session or an epoch over HTTP (protocol section 8): the documents and their signature.

use serde::{Deserialize, Serialize};

use crate::hex;
use crate::ids::{DeviceId, Epoch, Hash, SessionId, TenantId};
use crate::keys::SigningKey;
use crate::payload::ContentPolicy;
use crate::time::Timestamp;

/// `POST` here opens a session.
pub const SESSIONS_PATH: &str = "/v1/halo/sessions";
/// The WebSocket's path; its query is written by [`stream_path`] and [`substrate_path`].
pub const STREAM_PATH: &str = "/v1/halo/stream";
/// The header that carries the signature.
pub const SIGNATURE_HEADER: &str = "halo-signature";
/// How far a device's clock may be off, in seconds.
pub const CLOCK_TOLERANCE_S: u64 = 120;

/// `POST` here opens a new epoch of a session.
pub fn epochs_path(session: &SessionId) -> String {
    format!("{SESSIONS_PATH}/{session}/epochs")
}

/// Path and query of the device's WebSocket.
pub fn stream_path(session: &SessionId, epoch: Epoch) -> String {
    format!("{STREAM_PATH}?session={session}&epoch={epoch}")
}

/// Path and query of the `link`-th WebSocket that a gateway opens to a pod within one epoch.
pub fn substrate_path(tenant: &TenantId, session: &SessionId, epoch: Epoch, link: u32) -> String {
    format!("{STREAM_PATH}?tenant={tenant}&session={session}&epoch={epoch}&link={link}")
}

/// The body of both `POST`s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenRequest {
    /// The tenant.
    pub tenant_id: TenantId,
    /// The device.
    pub device_id: DeviceId,
    /// Which of the device's keys signs, counted from 1.
    pub device_generation: u32,
    /// The device's clock.
    pub timestamp: Timestamp,
    /// Random, never used twice by this device.
    pub nonce: Nonce,
}

/// 16 random bytes, 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; 16]);

impl std::fmt::Display for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl std::str::FromStr for Nonce {
    type Err = crate::ids::IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex::decode(text.as_bytes())
            .map(Self)
            .ok_or(crate::ids::IdError::Hash)
    }
}
crate::ids::string_serde!(Nonce);

/// The answer. It holds keys: it has no `Debug`, and is written to nothing but the TLS connection.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenAnswer {
    /// The session.
    pub session_id: SessionId,
    /// The epoch that this connection owns.
    pub session_epoch: Epoch,
    /// Which root secret the keys come from.
    pub root_generation: u32,
    /// Whether that is a demo root.
    pub demo_root: bool,
    /// What the tenant wants done with private content.
    pub content: ContentPolicy,
    /// The keys of tiers 0 and 1, hex.
    pub tier_keys: DeviceTierKeys,
    /// Path and query of the WebSocket.
    pub stream: String,
}

/// TIER_KEY\[0\] and TIER_KEY\[1\], 64 hexadecimal digits each.
#[derive(Serialize, Deserialize, zeroize::ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct DeviceTierKeys {
    /// TIER_KEY\[0\].
    #[serde(rename = "0")]
    pub sensor: String,
    /// TIER_KEY\[1\].
    #[serde(rename = "1")]
    pub orchestrator: String,
}

/// The value of the `Halo-Signature` header for a request. `path` includes the query; a `GET` has an empty body.
pub fn signature(key: &SigningKey, method: &str, path: &str, body: &[u8]) -> String {
    let hash = Hash::of(body).to_string();
    let tag = key.sign(&signed_parts(method, path, &hash));
    format!("v1={}", hex::encode(&tag))
}

/// Whether `header` is the signature of this request under `key`; the comparison takes constant time.
pub fn signature_is_valid(
    key: &SigningKey,
    method: &str,
    path: &str,
    body: &[u8],
    header: &[u8],
) -> bool {
    let hash = Hash::of(body).to_string();
    let tag = header.strip_prefix(b"v1=").and_then(hex::decode::<32>);
    // A malformed header costs the same MAC as a wrong one.
    let matches = key.verify(&signed_parts(method, path, &hash), &tag.unwrap_or_default());
    matches && tag.is_some()
}

fn signed_parts<'a>(method: &'a str, path: &'a str, hash: &'a str) -> [&'a [u8]; 5] {
    let parts = [method, "\n", path, "\n", hash];
    parts.map(str::as_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_covers_method_path_and_body() {
        let key = SigningKey::from_bytes([4; 32]);
        let header = signature(&key, "POST", SESSIONS_PATH, b"{}");
        let valid = |key: &SigningKey, method, path, body: &[u8], header: &str| {
            signature_is_valid(key, method, path, body, header.as_bytes())
        };
        assert!(valid(&key, "POST", SESSIONS_PATH, b"{}", &header));
        assert!(!valid(&key, "GET", SESSIONS_PATH, b"{}", &header));
        assert!(!valid(&key, "POST", "/v1/halo/sessions?", b"{}", &header));
        assert!(!valid(&key, "POST", SESSIONS_PATH, b"{ }", &header));
        assert!(!valid(
            &SigningKey::from_bytes([5; 32]),
            "POST",
            SESSIONS_PATH,
            b"{}",
            &header
        ));
        for bad in [
            "",
            "v1=",
            "v2=00",
            &header.to_uppercase(),
            &header[..header.len() - 1],
        ] {
            assert!(!valid(&key, "POST", SESSIONS_PATH, b"{}", bad), "{bad}");
        }
    }

    #[test]
    fn bodies_are_read_strictly() {
        let body = r#"{"tenant_id":"acme","device_id":"phone-1","device_generation":1,"timestamp":"2026-01-01T00:00:00.000000Z","nonce":"000102030405060708090a0b0c0d0e0f"}"#;
        assert!(serde_json::from_str::<OpenRequest>(body).is_ok());
        for (from, to) in [
            ("\"acme\"", "\"Acme\""),
            ("\"device_generation\":1", "\"device_generation\":1.0"),
            (
                "\"device_generation\":1",
                "\"device_generation\":1,\"device_generation\":1",
            ),
            ("\"nonce\"", "\"once\""),
            ("0e0f", "0e"),
        ] {
            assert!(serde_json::from_str::<OpenRequest>(&body.replace(from, to)).is_err());
        }
    }
}
