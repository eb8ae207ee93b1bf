//! `halo-bundle/1`: all of a session's evidence in one JSON document, to be verified where no ledger is.
//!
//! One JSON object in UTF-8, with exactly these members (unknown and repeated ones are refused):
//!
//! | member | value |
//! | --- | --- |
//! | `format` | the string `halo-bundle/1` |
//! | `session_id` | the session |
//! | `header` | the header record, or null if the ledger has none |
//! | `claims` | the claim records, in the order of epoch, kind and link |
//! | `blocks` | the stored blocks, stream `d` before stream `s`, each by number |
//! | `attributes` | the searchable copies, may be empty |
//! | `session_keys` | left out, or a map from epoch (decimal) to SESSION_KEY (64 hexadecimal digits) |
//!
//! A **record** is `{"body":bytes,"mac":hex}`. A **block** is `{"stream":"d"|"s","first":number,"ids":[receipt_id...],
//! "receipts":[{"receipt":bytes,"payload":bytes|null}...]}`; a block that could not be read has `"damaged":"why"` in the
//! place of `receipts`. **Attributes** are `{"stream":"d"|"s","number":number,"fields":[[name,text|null]...]}`.
//!
//! **Bytes** are a JSON string whose UTF-8 encoding is exactly the stored bytes; bytes that are not UTF-8, as damage may
//! leave them, are `{"hex":"..."}`. A verifier hashes those bytes and never a JSON value that it has parsed and written
//! again. The document itself is not signed and need not be: everything in it that matters is. One that carries
//! `session_keys` must be handled as a secret, since whoever holds them can read the session and sign for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::evidence::{Attributes, Evidence, SignedRecord, StoredBlock, StoredReceipt, Stream};
use crate::hex;
use crate::ids::{Epoch, ReceiptId, SessionId};
use crate::keys::SessionKey;
use crate::verdict::SessionKeys;

/// The value of `format`.
pub const FORMAT: &str = "halo-bundle/1";

/// Why a bundle was refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Not the JSON that a bundle is.
    #[error("not a bundle: {0}")]
    Form(#[from] serde_json::Error),
    /// A bundle of another version.
    #[error("the bundle has the format {0:?}, and this program reads {FORMAT:?}")]
    Version(String),
    /// A block with both receipts and damage, or with neither.
    #[error("a block of the bundle has either receipts or the reason why there are none")]
    Block,
    /// A key that is not one.
    #[error("the bundle's session_keys are not epochs with 64 hexadecimal digits each")]
    Key,
}

/// A session's evidence, and the keys that were put beside it.
pub struct Bundle {
    /// The session.
    pub session_id: SessionId,
    /// All that the ledger held of it.
    pub evidence: Evidence,
    /// The keys of its epochs, if they were asked for.
    pub keys: SessionKeys,
}

/// Bytes as JSON holds them.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Bytes {
    Text(String),
    Hex(HexBytes),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HexBytes {
    #[serde(serialize_with = "hex_out", deserialize_with = "hex_in")]
    hex: Vec<u8>,
}

fn hex_out<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(bytes))
}

fn hex_in<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    hex::decode_vec(text.as_bytes())
        .ok_or_else(|| serde::de::Error::custom("expected lower-case hexadecimal digits"))
}

impl Bytes {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Bytes::Text(text.to_owned()),
            Err(_) => Bytes::Hex(HexBytes {
                hex: bytes.to_vec(),
            }),
        }
    }

    fn into_vec(self) -> Vec<u8> {
        match self {
            Bytes::Text(text) => text.into_bytes(),
            Bytes::Hex(bytes) => bytes.hex,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordRow {
    body: Bytes,
    #[serde(serialize_with = "mac_out", deserialize_with = "mac_in")]
    mac: [u8; 32],
}

fn mac_out<S: serde::Serializer>(mac: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(mac))
}

fn mac_in<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
    let text = String::deserialize(deserializer)?;
    hex::decode(text.as_bytes())
        .ok_or_else(|| serde::de::Error::custom("expected 64 lower-case hexadecimal digits"))
}

impl RecordRow {
    fn of(record: &SignedRecord) -> Self {
        Self {
            body: Bytes::of(&record.body),
            mac: record.mac,
        }
    }

    fn into_record(self) -> SignedRecord {
        SignedRecord {
            body: self.body.into_vec(),
            mac: self.mac,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReceiptRow {
    receipt: Bytes,
    payload: Option<Bytes>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockRow {
    stream: Stream,
    first: u32,
    ids: Vec<ReceiptId>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    receipts: Option<Vec<ReceiptRow>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    damaged: Option<String>,
}

impl BlockRow {
    fn of(block: &StoredBlock) -> Self {
        let row = |stored: &StoredReceipt| ReceiptRow {
            receipt: Bytes::of(&stored.bytes),
            payload: stored.payload.as_deref().map(Bytes::of),
        };
        let content = block.content.as_ref();
        Self {
            stream: block.stream,
            first: block.first,
            ids: block.ids.clone(),
            receipts: content
                .ok()
                .map(|receipts| receipts.iter().map(row).collect()),
            damaged: content.err().cloned(),
        }
    }

    fn into_block(self) -> Result<StoredBlock, BundleError> {
        let receipt = |row: ReceiptRow| StoredReceipt {
            bytes: row.receipt.into_vec(),
            payload: row.payload.map(Bytes::into_vec),
        };
        let content = match (self.receipts, self.damaged) {
            (Some(rows), None) => Ok(rows.into_iter().map(receipt).collect()),
            (None, Some(why)) => Err(why),
            _ => return Err(BundleError::Block),
        };
        Ok(StoredBlock {
            stream: self.stream,
            first: self.first,
            ids: self.ids,
            content,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AttributesRow {
    stream: Stream,
    number: u32,
    fields: Vec<(String, Option<String>)>,
}

/// A key's hexadecimal digits, wiped when dropped.
struct KeyText(Zeroizing<String>);

impl Serialize for KeyText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    session_id: SessionId,
    header: Option<RecordRow>,
    claims: Vec<RecordRow>,
    blocks: Vec<BlockRow>,
    attributes: Vec<AttributesRow>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    session_keys: Option<BTreeMap<String, KeyText>>,
}

impl Bundle {
    /// Writes the bundle, with line breaks and indentation, so that it can be read by eye.
    pub fn to_json(&self) -> Result<Zeroizing<Vec<u8>>, BundleError> {
        let evidence = &self.evidence;
        let attributes = evidence.attributes.iter().map(|row| AttributesRow {
            stream: row.position.0,
            number: row.position.1,
            fields: row.fields.clone(),
        });
        let keys = self.keys.iter();
        let keys: BTreeMap<_, _> = keys
            .map(|(epoch, key)| (epoch.to_string(), KeyText(key.to_hex())))
            .collect();
        let document = Document {
            format: FORMAT.to_owned(),
            session_id: self.session_id,
            header: evidence.header.as_ref().map(RecordRow::of),
            claims: evidence.claims.iter().map(RecordRow::of).collect(),
            blocks: evidence.blocks.iter().map(BlockRow::of).collect(),
            attributes: attributes.collect(),
            session_keys: (!keys.is_empty()).then_some(keys),
        };
        let mut json = Zeroizing::new(serde_json::to_vec_pretty(&document)?);
        json.push(b'\n');
        Ok(json)
    }

    /// Reads a bundle.
    pub fn parse(json: &[u8]) -> Result<Self, BundleError> {
        /// Enough to name the version of a bundle that this program cannot read.
        #[derive(Deserialize)]
        struct Version {
            format: String,
        }
        let version: Version = serde_json::from_slice(json)?;
        if version.format != FORMAT {
            return Err(BundleError::Version(version.format));
        }
        let document: Document = serde_json::from_slice(json)?;
        let mut keys = SessionKeys::new();
        for (epoch, key) in document.session_keys.into_iter().flatten() {
            let number: u32 = epoch.parse().map_err(|_| BundleError::Key)?;
            let key = SessionKey::from_hex(&key.0).map_err(|_| BundleError::Key)?;
            keys.insert(Epoch(number), key);
        }
        let blocks = document.blocks.into_iter().map(BlockRow::into_block);
        let attributes = document.attributes.into_iter().map(|row| Attributes {
            position: (row.stream, row.number),
            fields: row.fields,
        });
        let evidence = Evidence {
            header: document.header.map(RecordRow::into_record),
            claims: document
                .claims
                .into_iter()
                .map(RecordRow::into_record)
                .collect(),
            blocks: blocks.collect::<Result<_, _>>()?,
            attributes: attributes.collect(),
        };
        Ok(Self {
            session_id: document.session_id,
            evidence,
            keys,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn evidence() -> impl Strategy<Value = Evidence> {
        let bytes = || {
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                "[ -~\\n\"\\\\äß😀]{0,20}".prop_map(String::into_bytes),
            ]
        };
        let record =
            (bytes(), any::<[u8; 32]>()).prop_map(|(body, mac)| SignedRecord { body, mac });
        let receipt = (bytes(), proptest::option::of(bytes()))
            .prop_map(|(bytes, payload)| StoredReceipt { bytes, payload });
        let content = prop_oneof![
            proptest::collection::vec(receipt, 0..3).prop_map(Ok),
            ".{0,10}".prop_map(Err)
        ];
        let stream = proptest::sample::select(&Stream::ALL[..]);
        let ids =
            proptest::collection::vec(any::<[u8; 16]>().prop_map(ReceiptId::from_random), 0..3);
        let block = (stream.clone(), any::<u32>(), ids, content).prop_map(
            |(stream, first, ids, content)| StoredBlock {
                stream,
                first,
                ids,
                content,
            },
        );
        let fields = proptest::collection::vec((".{0,8}", proptest::option::of(".{0,8}")), 0..3);
        let attributes = ((stream, any::<u32>()), fields)
            .prop_map(|(position, fields)| Attributes { position, fields });
        (
            proptest::option::of(record.clone()),
            proptest::collection::vec(record, 0..3),
            proptest::collection::vec(block, 0..3),
            proptest::collection::vec(attributes, 0..3),
        )
            .prop_map(|(header, claims, blocks, attributes)| Evidence {
                header,
                claims,
                blocks,
                attributes,
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn written_bundles_read_back(evidence in evidence(), key in proptest::option::of(any::<[u8; 32]>())) {
            let session_id = SessionId::from_random([7; 16]);
            let mut keys = SessionKeys::new();
            if let Some(key) = key {
                keys.insert(Epoch(9), SessionKey::from_bytes(key));
            }
            let bundle = Bundle { session_id, evidence, keys };
            let read = Bundle::parse(&bundle.to_json().unwrap()).unwrap();
            prop_assert_eq!(&read.evidence, &bundle.evidence);
            prop_assert_eq!(read.session_id, session_id);
            let exposed = |bundle: &Bundle| bundle.keys.iter().map(|(e, k)| (e, *k.expose())).collect::<Vec<_>>();
            prop_assert_eq!(exposed(&read), exposed(&bundle));
        }
    }

    #[test]
    fn other_documents_are_refused_by_name() {
        for (json, expected) in [
            ("", "not a bundle"),
            ("[]", "not a bundle"),
            (r#"{"format":"halo-bundle/2"}"#, "halo-bundle/2"),
            (r#"{"format":"halo-bundle/1"}"#, "missing field"),
        ] {
            let error = Bundle::parse(json.as_bytes())
                .err()
                .map(|error| error.to_string());
            assert!(
                error.is_some_and(|error| error.contains(expected)),
                "{json}"
            );
        }
    }
}
