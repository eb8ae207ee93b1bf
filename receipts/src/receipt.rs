//! Receipts (protocol section 4): eleven fields, one canonical spelling, one HMAC.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::hex;
use crate::ids::{Epoch, Hash, ReceiptId, SessionId, TenantId, Tier, string_serde};
use crate::keys::TierKey;
use crate::time::Timestamp;

/// The offset in a full receipt at which `,"hmac_signature":"…"` stands: the field before it has a fixed width.
pub const SIGNATURE_AT: usize = 88;
/// The bytes of `,"hmac_signature":"` and its closing quote around 64 digits.
pub const SIGNATURE_LEN: usize = SIGNATURE_KEY.len() + 64 + 1;
const SIGNATURE_KEY: &[u8] = b",\"hmac_signature\":\"";

/// Why bytes are no receipt in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a receipt: expected {expected} at byte {at}")]
pub struct ReceiptError {
    /// The offset of the first byte that does not fit.
    pub at: usize,
    /// What should stand there.
    pub expected: &'static str,
}

/// A receipt kind that the protocol does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown receipt kind")]
pub struct UnknownKind;

/// What a receipt is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReceiptKind {
    /// Tier 0: something was captured.
    SensorCapture,
    /// Tier 1: what to do with it.
    TierRouting,
    /// Tier 2: the experts of one decode step.
    ExpertLoad,
    /// Tier 2: the token of one decode step.
    TokenEmit,
    /// Tier 1 or 2: an answer, and the seal over what came before it.
    TierResponse,
}

impl ReceiptKind {
    /// Every kind.
    pub const ALL: [ReceiptKind; 5] = [
        ReceiptKind::SensorCapture,
        ReceiptKind::TierRouting,
        ReceiptKind::ExpertLoad,
        ReceiptKind::TokenEmit,
        ReceiptKind::TierResponse,
    ];

    /// The kind's name in a receipt.
    pub const fn name(self) -> &'static str {
        match self {
            ReceiptKind::SensorCapture => "halo_sensor_capture",
            ReceiptKind::TierRouting => "halo_tier_routing",
            ReceiptKind::ExpertLoad => "halo_expert_load",
            ReceiptKind::TokenEmit => "halo_token_emit",
            ReceiptKind::TierResponse => "halo_tier_response",
        }
    }
}

impl fmt::Display for ReceiptKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ReceiptKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let mut kinds = Self::ALL.into_iter();
        kinds.find(|kind| kind.name() == text).ok_or(UnknownKind)
    }
}
string_serde!(ReceiptKind);

/// The receipt that another one commits to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Parent {
    /// Its id.
    pub id: ReceiptId,
    /// SHA-256 of all its eleven fields.
    pub hash: Hash,
}

/// A receipt before it is signed: ten fields, of which the parent's two are there together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsigned {
    /// SHA-256 of the event payload, or of a capture's bytes.
    pub event_payload_hash: Hash,
    /// The receipt before this one; none for the first of a session.
    pub parent: Option<Parent>,
    /// This receipt's id.
    pub receipt_id: ReceiptId,
    /// What it is about.
    pub receipt_kind: ReceiptKind,
    /// The epoch whose keys sign it.
    pub session_epoch: Epoch,
    /// The session.
    pub session_id: SessionId,
    /// The tenant.
    pub tenant_id: TenantId,
    /// Who signs it.
    pub tier: Tier,
    /// When.
    pub timestamp_utc: Timestamp,
}

impl Unsigned {
    /// The canonical body: RFC 8785 JSON of the ten fields. Keys are ASCII and already sorted, values need no escapes,
    /// so it is written directly.
    pub fn canonical(&self) -> Vec<u8> {
        self.write(None)
    }

    /// Signs the receipt with the key of its tier and epoch.
    pub fn sign(self, key: &TierKey) -> Receipt {
        let hmac_signature = key.sign(&[&self.canonical()]);
        Receipt {
            body: self,
            hmac_signature,
        }
    }

    fn write(&self, signature: Option<&[u8; 32]>) -> Vec<u8> {
        let mut out = Vec::with_capacity(640);
        out.extend_from_slice(b"{\"event_payload_hash\":\"");
        hex::push(&mut out, &self.event_payload_hash.0);
        out.push(b'"');
        if let Some(signature) = signature {
            out.extend_from_slice(SIGNATURE_KEY);
            hex::push(&mut out, signature);
            out.push(b'"');
        }
        match &self.parent {
            Some(parent) => {
                out.extend_from_slice(b",\"parent_receipt_hash\":\"");
                hex::push(&mut out, &parent.hash.0);
                out.extend_from_slice(b"\",\"parent_receipt_id\":\"");
                out.extend_from_slice(&parent.id.encode());
                out.push(b'"');
            }
            None => {
                out.extend_from_slice(b",\"parent_receipt_hash\":null,\"parent_receipt_id\":null")
            }
        }
        out.extend_from_slice(b",\"receipt_id\":\"");
        out.extend_from_slice(&self.receipt_id.encode());
        out.extend_from_slice(b"\",\"receipt_kind\":\"");
        out.extend_from_slice(self.receipt_kind.name().as_bytes());
        out.extend_from_slice(b"\",\"session_epoch\":");
        push_decimal(&mut out, self.session_epoch.0);
        out.extend_from_slice(b",\"session_id\":\"");
        out.extend_from_slice(&self.session_id.encode());
        out.extend_from_slice(b"\",\"tenant_id\":\"");
        out.extend_from_slice(self.tenant_id.as_str().as_bytes());
        out.extend_from_slice(b"\",\"tier\":");
        out.push(b'0' + self.tier.number());
        out.extend_from_slice(b",\"timestamp_utc\":\"");
        out.extend_from_slice(&self.timestamp_utc.encode());
        out.extend_from_slice(b"\"}");
        out
    }
}

fn push_decimal(out: &mut Vec<u8>, mut value: u32) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A signed receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The ten signed fields.
    pub body: Unsigned,
    /// HMAC-SHA256 of the canonical body under the tier's key.
    pub hmac_signature: [u8; 32],
}

impl Receipt {
    /// RFC 8785 JSON of all eleven fields: what is stored, and what a child's parent_receipt_hash covers.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.body.write(Some(&self.hmac_signature))
    }

    /// SHA-256 of [`Receipt::to_bytes`].
    pub fn hash(&self) -> Hash {
        Hash::of(&self.to_bytes())
    }

    /// What a child of this receipt commits to.
    pub fn as_parent(&self) -> Parent {
        Parent {
            id: self.body.receipt_id,
            hash: self.hash(),
        }
    }

    /// Whether `key` signed the receipt; takes constant time for a given length.
    pub fn verify(&self, key: &TierKey) -> bool {
        key.verify(&[&self.body.canonical()], &self.hmac_signature)
    }

    /// Reads a full receipt. Only its one canonical spelling is taken, so unknown, missing, repeated or reordered fields,
    /// floats, upper-case digits and white space are all errors.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        let mut cursor = Cursor { bytes, at: 0 };
        cursor.literal(b"{\"event_payload_hash\":\"", "event_payload_hash")?;
        let event_payload_hash = Hash(cursor.hex()?);
        cursor.literal(b"\"", "event_payload_hash")?;
        cursor.literal(SIGNATURE_KEY, "hmac_signature")?;
        let hmac_signature = cursor.hex()?;
        cursor.literal(b"\",\"parent_receipt_hash\":", "parent_receipt_hash")?;
        let parent_hash = cursor.optional(|cursor| cursor.hex().map(Hash))?;
        cursor.literal(b",\"parent_receipt_id\":", "parent_receipt_id")?;
        let parent_id = cursor.optional(Cursor::uuid)?;
        let parent = match (parent_id, parent_hash) {
            (Some(id), Some(hash)) => Some(Parent { id, hash }),
            (None, None) => None,
            _ => {
                return Err(
                    cursor.error("parent_receipt_id and parent_receipt_hash both, or both null")
                );
            }
        };
        cursor.literal(b",\"receipt_id\":\"", "receipt_id")?;
        let receipt_id = cursor.uuid()?;
        cursor.literal(b"\",\"receipt_kind\":\"", "receipt_kind")?;
        let receipt_kind = cursor.until_quote("a receipt kind")?;
        cursor.literal(b"\",\"session_epoch\":", "session_epoch")?;
        let session_epoch = Epoch(cursor.decimal()?);
        cursor.literal(b",\"session_id\":\"", "session_id")?;
        let session_id = cursor.uuid()?;
        cursor.literal(b"\",\"tenant_id\":\"", "tenant_id")?;
        let tenant_id = cursor.until_quote("a tenant id")?;
        cursor.literal(b"\",\"tier\":", "tier")?;
        let tier = cursor.tier()?;
        cursor.literal(b",\"timestamp_utc\":\"", "timestamp_utc")?;
        let timestamp_utc = cursor.until_quote("a time with six digits of fraction")?;
        cursor.literal(b"\"}", "the end of the receipt")?;
        if cursor.at != bytes.len() {
            return Err(cursor.error("nothing after the receipt"));
        }
        Ok(Receipt {
            body: Unsigned {
                event_payload_hash,
                parent,
                receipt_id,
                receipt_kind,
                session_epoch,
                session_id,
                tenant_id,
                tier,
                timestamp_utc,
            },
            hmac_signature,
        })
    }
}

/// Reads the canonical form from front to back.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn error(&self, expected: &'static str) -> ReceiptError {
        ReceiptError {
            at: self.at,
            expected,
        }
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn literal(&mut self, text: &[u8], expected: &'static str) -> Result<(), ReceiptError> {
        if self.rest().starts_with(text) {
            self.at += text.len();
            Ok(())
        } else {
            // The offset of the first byte that differs is what a reader wants to see.
            self.at += self
                .rest()
                .iter()
                .zip(text)
                .take_while(|(a, b)| a == b)
                .count();
            Err(self.error(expected))
        }
    }

    fn hex<const N: usize>(&mut self) -> Result<[u8; N], ReceiptError> {
        let digits = self.rest().get(..2 * N).unwrap_or_default();
        let value = hex::decode(digits).ok_or(self.error("lower-case hexadecimal digits"))?;
        self.at += 2 * N;
        Ok(value)
    }

    fn text(&mut self, len: usize, expected: &'static str) -> Result<&'a str, ReceiptError> {
        let bytes = self.rest().get(..len).ok_or(self.error(expected))?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.error(expected))?;
        self.at += len;
        Ok(text)
    }

    fn uuid<T: FromStr>(&mut self) -> Result<T, ReceiptError> {
        const EXPECTED: &str = "a UUID v4 in lower case with hyphens";
        let start = self.at;
        self.text(36, EXPECTED)?.parse().map_err(|_| ReceiptError {
            at: start,
            expected: EXPECTED,
        })
    }

    fn until_quote<T: FromStr>(&mut self, expected: &'static str) -> Result<T, ReceiptError> {
        let start = self.at;
        let len = self.rest().iter().take(64).position(|&b| b == b'"');
        let text = self.text(len.ok_or(self.error(expected))?, expected)?;
        text.parse().map_err(|_| ReceiptError {
            at: start,
            expected,
        })
    }

    fn decimal(&mut self) -> Result<u32, ReceiptError> {
        let digits = self
            .rest()
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count();
        let error = self.error("a whole number below 2^32 without leading zeros");
        let text = self.text(digits.min(11), "a whole number")?;
        let value: u32 = text.parse().map_err(|_| error.clone())?;
        if text.len() > 1 && text.starts_with('0') {
            return Err(error);
        }
        Ok(value)
    }

    fn tier(&mut self) -> Result<Tier, ReceiptError> {
        let error = self.error("tier 0, 1 or 2");
        let tier = match self.rest().first() {
            Some(b'0') => Tier::Sensor,
            Some(b'1') => Tier::Orchestrator,
            Some(b'2') => Tier::Substrate,
            _ => return Err(error),
        };
        self.at += 1;
        Ok(tier)
    }

    /// `null`, or a value in quotes.
    fn optional<T>(
        &mut self,
        value: impl FnOnce(&mut Self) -> Result<T, ReceiptError>,
    ) -> Result<Option<T>, ReceiptError> {
        if self.rest().starts_with(b"null") {
            self.at += 4;
            return Ok(None);
        }
        self.literal(b"\"", "null or a value in quotes")?;
        let value = value(self)?;
        self.literal(b"\"", "a closing quote")?;
        Ok(Some(value))
    }
}

/// The signed part of a full receipt's bytes, as two slices around the signature, and the signature's 64 digits.
/// `None` if the bytes do not have a receipt's outer form; the fields are not looked at.
pub fn split_signature(full: &[u8]) -> Option<([&[u8]; 2], &[u8; 64])> {
    let (before, rest) = full.split_at_checked(SIGNATURE_AT)?;
    let (field, after) = rest.split_at_checked(SIGNATURE_LEN)?;
    let digits = field.strip_prefix(SIGNATURE_KEY)?.strip_suffix(b"\"")?;
    Some(([before, after], digits.try_into().ok()?))
}

/// Serialises as the receipt's own JSON, verbatim.
impl Serialize for Receipt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = String::from_utf8(self.to_bytes()).map_err(serde::ser::Error::custom)?;
        RawValue::from_string(text)
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

/// Takes the canonical spelling only, as [`Receipt::parse`] does, wherever in a JSON document it stands.
impl<'de> Deserialize<'de> for Receipt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Receipt::parse(raw.get().as_bytes()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parent() -> impl Strategy<Value = Option<Parent>> {
        proptest::option::of(
            (any::<[u8; 16]>(), any::<[u8; 32]>()).prop_map(|(id, hash)| Parent {
                id: ReceiptId::from_random(id),
                hash: Hash(hash),
            }),
        )
    }

    prop_compose! {
        fn receipt()(
            ids in any::<([u8; 16], [u8; 16])>(),
            hashes in any::<([u8; 32], [u8; 32])>(),
            parent in parent(),
            kind in proptest::sample::select(&ReceiptKind::ALL[..]),
            tier in proptest::sample::select(&Tier::ALL[..]),
            epoch in any::<u32>(),
            tenant in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
            micros in 0u64..253_402_300_800_000_000,
        ) -> Receipt {
            Receipt {
                body: Unsigned {
                    event_payload_hash: Hash(hashes.0),
                    parent,
                    receipt_id: ReceiptId::from_random(ids.0),
                    receipt_kind: kind,
                    session_epoch: Epoch(epoch),
                    session_id: SessionId::from_random(ids.1),
                    tenant_id: tenant.parse().unwrap(),
                    tier,
                    timestamp_utc: Timestamp::from_micros(micros).unwrap(),
                },
                hmac_signature: hashes.1,
            }
        }
    }

    /// The same receipt through a general JSON value and an RFC 8785 library.
    fn oracle(receipt: &Receipt, signed: bool) -> Vec<u8> {
        let body = &receipt.body;
        let mut value = serde_json::json!({
            "receipt_id": body.receipt_id, "session_id": body.session_id, "session_epoch": body.session_epoch,
            "tier": body.tier.number(), "tenant_id": body.tenant_id, "receipt_kind": body.receipt_kind,
            "event_payload_hash": body.event_payload_hash, "timestamp_utc": body.timestamp_utc,
            "parent_receipt_id": body.parent.map(|p| p.id), "parent_receipt_hash": body.parent.map(|p| p.hash),
        });
        if signed {
            value["hmac_signature"] = hex::encode(&receipt.hmac_signature).into();
        }
        serde_json_canonicalizer::to_vec(&value).unwrap()
    }

    proptest! {
        #[test]
        fn the_hand_writer_is_rfc_8785(receipt in receipt()) {
            prop_assert_eq!(receipt.body.canonical(), oracle(&receipt, false));
            prop_assert_eq!(receipt.to_bytes(), oracle(&receipt, true));
        }

        #[test]
        fn written_receipts_read_back(receipt in receipt()) {
            let bytes = receipt.to_bytes();
            prop_assert_eq!(Receipt::parse(&bytes), Ok(receipt.clone()));
            let (body, digits) = split_signature(&bytes).unwrap();
            prop_assert_eq!(body.concat(), receipt.body.canonical());
            prop_assert_eq!(hex::decode(digits), Some(receipt.hmac_signature));
            let document = serde_json::to_vec(&[&receipt]).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Vec<Receipt>>(&document).unwrap(), vec![receipt]);
        }

        #[test]
        fn what_parses_is_canonical(receipt in receipt(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = receipt.to_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(parsed) = Receipt::parse(&bytes) {
                prop_assert_eq!(parsed.to_bytes(), bytes);
            }
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            prop_assert!(Receipt::parse(&bytes).is_err());
        }
    }

    #[test]
    fn refused_spellings() {
        let receipt = Unsigned {
            event_payload_hash: Hash([0xab; 32]),
            parent: None,
            receipt_id: ReceiptId::from_random([1; 16]),
            receipt_kind: ReceiptKind::TokenEmit,
            session_epoch: Epoch(1_700_000_000),
            session_id: SessionId::from_random([2; 16]),
            tenant_id: "acme".parse().unwrap(),
            tier: Tier::Substrate,
            timestamp_utc: Timestamp::from_micros(1_700_000_000_000_000).unwrap(),
        }
        .sign(&TierKey::from_bytes([1; 32]));
        let good = String::from_utf8(receipt.to_bytes()).unwrap();
        assert!(Receipt::parse(good.as_bytes()).is_ok());
        for (from, to) in [
            ("\"tier\":2", "\"tier\":2.0"),
            ("\"tier\":2", "\"tier\":3"),
            ("\"tier\":2", "\"tier\":2,\"tier\":2"),
            ("\"tier\":2", "\"tier\": 2"),
            ("\"tier\":2", "\"extra\":1,\"tier\":2"),
            ("\"tier\":2,", ""),
            ("1700000000", "01700000000"),
            ("1700000000", "4294967296"),
            ("1700000000", "1.7e9"),
            ("1700000000", "-1"),
            ("abab", "ABAB"),
            ("acme", "Acme"),
            ("acme", "ac\\u006de"),
            ("halo_token_emit", "halo_token"),
            (".000000Z", "Z"),
            ("\"parent_receipt_id\":null", "\"parent_receipt_id\":\"\""),
            ("}", "}\n"),
            ("{", " {"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good);
            assert!(Receipt::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
