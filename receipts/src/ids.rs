//! The names that everything else is keyed by: tenants, devices, sessions, receipts, epochs, tiers, hashes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::hex;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
    #[error(
        "a tenant id has 1 to 63 characters of a-z, 0-9 and '-', and neither begins nor ends with '-'"
    )]
    Tenant,
    /// Not 1 to 64 bytes of `[A-Za-z0-9._-]`.
    #[error("a device id has 1 to 64 characters of A-Z, a-z, 0-9, '.', '_' and '-'")]
    Device,
    /// Not a UUID v4 in lower case with hyphens.
    #[error("expected a UUID v4 in lower case with hyphens")]
    Uuid,
    /// Not 64 lower-case hexadecimal digits.
    #[error("expected 64 lower-case hexadecimal digits")]
    Hash,
    /// A tier other than 0, 1 and 2.
    #[error("a tier is 0, 1 or 2")]
    Tier,
}

/// Serialises through `Display` and parses through `FromStr`, so that JSON is as strict as the parser.
macro_rules! string_serde {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text =
                    <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use string_serde;

/// A tenant: a DNS label, so that it can also name a Kubernetes namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(String);

impl TenantId {
    /// The text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        match (bytes.first(), bytes.last()) {
            (Some(&first), Some(&last))
                if bytes.len() <= 63
                    && edge(first)
                    && edge(last)
                    && bytes.iter().all(|&b| edge(b) || b == b'-') =>
            {
                Ok(Self(text.to_owned()))
            }
            _ => Err(IdError::Tenant),
        }
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
string_serde!(TenantId);

/// A device as its tenant enrolled it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(String);

impl DeviceId {
    /// The text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::Device)
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
string_serde!(DeviceId);

/// Declares a UUID v4 that is written in lower case with hyphens and accepted in no other spelling.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// A new id from 16 random bytes, of which the version and variant bits are overwritten.
            pub fn from_random(random: [u8; 16]) -> Self {
                Self(uuid::Builder::from_random_bytes(random).into_uuid().into_bytes())
            }

            /// The id with exactly these bytes, as a compact form on the wire carries them.
            pub fn from_bytes(bytes: [u8; 16]) -> Result<Self, IdError> {
                let uuid = Uuid::from_bytes(bytes);
                let v4 = uuid.get_version_num() == 4 && uuid.get_variant() == uuid::Variant::RFC4122;
                if v4 { Ok(Self(bytes)) } else { Err(IdError::Uuid) }
            }

            /// The 16 bytes of the id.
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// Writes the 36 characters of the id.
            pub fn encode(&self) -> [u8; 36] {
                let mut text = [0; 36];
                Uuid::from_bytes(self.0).hyphenated().encode_lower(&mut text);
                text
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let id = Uuid::try_parse(text).map_err(|_| IdError::Uuid)?;
                let id = Self::from_bytes(id.into_bytes())?;
                if id.encode() == text.as_bytes() { Ok(id) } else { Err(IdError::Uuid) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&Uuid::from_bytes(self.0).hyphenated(), f)
            }
        }
        string_serde!($name);
    };
}

uuid_id! {
    /// One conversation of one device.
    SessionId
}
uuid_id! {
    /// One receipt.
    ReceiptId
}
uuid_id! {
    /// One request of a device to its substrate.
    RequestId
}

impl SessionId {
    /// The session tag that every frame carries: the first four bytes of the id.
    pub fn tag(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }
}

/// Unix seconds at which a session was opened or re-keyed; belongs to one connection (protocol section 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch that follows `previous` when the clock says `now_seconds`; `None` once 32 bits are used up.
    pub fn next(previous: Option<Epoch>, now_seconds: u64) -> Option<Epoch> {
        let floor = match previous {
            Some(Epoch(previous)) => u64::from(previous) + 1,
            None => 0,
        };
        u32::try_from(now_seconds.max(floor)).ok().map(Epoch)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who signs: sensor, orchestrator or substrate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Tier 0, the sensor (glasses).
    Sensor,
    /// Tier 1, the orchestrator (phone).
    Orchestrator,
    /// Tier 2, the sovereign substrate (pod).
    Substrate,
}

impl Tier {
    /// The three tiers in order.
    pub const ALL: [Tier; 3] = [Tier::Sensor, Tier::Orchestrator, Tier::Substrate];

    /// 0, 1 or 2.
    pub const fn number(self) -> u8 {
        match self {
            Tier::Sensor => 0,
            Tier::Orchestrator => 1,
            Tier::Substrate => 2,
        }
    }
}

impl TryFrom<u8> for Tier {
    type Error = IdError;

    fn try_from(number: u8) -> Result<Self, IdError> {
        match number {
            0 => Ok(Tier::Sensor),
            1 => Ok(Tier::Orchestrator),
            2 => Ok(Tier::Substrate),
            _ => Err(IdError::Tier),
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

impl Serialize for Tier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.number())
    }
}

impl<'de> Deserialize<'de> for Tier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Tier::try_from(u8::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A SHA-256 digest, 32 bytes, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl FromStr for Hash {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        hex::decode(text.as_bytes()).map(Self).ok_or(IdError::Hash)
    }
}
string_serde!(Hash);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_ids() {
        let longest = "a".repeat(63);
        for good in ["a", "7", "acme-west-2", longest.as_str()] {
            assert_eq!(good.parse::<TenantId>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(64);
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a_b",
            "a.b",
            "ä",
            "a b",
            too_long.as_str(),
        ] {
            assert_eq!(bad.parse::<TenantId>(), Err(IdError::Tenant), "{bad}");
        }
    }

    #[test]
    fn device_ids() {
        for good in ["x", "Glasses-7.b_2"] {
            assert_eq!(good.parse::<DeviceId>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(65);
        for bad in ["", "a b", "a/b", "ä", too_long.as_str()] {
            assert_eq!(bad.parse::<DeviceId>(), Err(IdError::Device), "{bad}");
        }
    }

    #[test]
    fn uuids_have_one_spelling() {
        let id = SessionId::from_random([0xab; 16]);
        assert_eq!(id.to_string().parse::<SessionId>(), Ok(id));
        for bad in [
            id.to_string().to_uppercase(),
            id.to_string().replace('-', ""),
            format!("{{{id}}}"),
            "00000000-0000-0000-0000-000000000000".to_owned(),
            "6ba7b810-9dad-11d1-80b4-00c04fd430c8".to_owned(),
        ] {
            assert_eq!(bad.parse::<SessionId>(), Err(IdError::Uuid), "{bad}");
        }
    }

    #[test]
    fn epochs_only_rise() {
        assert_eq!(Epoch::next(None, 100), Some(Epoch(100)));
        assert_eq!(Epoch::next(Some(Epoch(100)), 90), Some(Epoch(101)));
        assert_eq!(Epoch::next(Some(Epoch(100)), 200), Some(Epoch(200)));
        assert_eq!(Epoch::next(Some(Epoch(u32::MAX)), 5), None);
        assert_eq!(Epoch::next(None, u64::MAX), None);
    }
}
