//! What a ledger holds of one session: the header, the claims, and two numbered streams of receipts.

use serde::{Deserialize, Serialize};

use crate::ids::{DeviceId, Epoch, ReceiptId, SessionId, TenantId};
use crate::keys::{KeyCheckValue, TierKey};
use crate::payload::{
    ContentPolicy, OrchestratorResponse, PayloadError, V1, from_canonical, to_canonical,
};
use crate::time::Timestamp;

/// One of the two streams of a session, each numbered from 0 without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stream {
    /// `d`: tiers 0 and 1, written by the gateway.
    #[serde(rename = "d")]
    Device,
    /// `s`: tier 2, written by the substrate pod.
    #[serde(rename = "s")]
    Substrate,
}

impl Stream {
    /// The two streams in ledger order.
    pub const ALL: [Stream; 2] = [Stream::Device, Stream::Substrate];

    /// `d` or `s`.
    pub const fn letter(self) -> char {
        match self {
            Stream::Device => 'd',
            Stream::Substrate => 's',
        }
    }
}

impl std::fmt::Display for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Write::write_char(f, self.letter())
    }
}

/// What a session began with. Written once, when it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The version of the protocol.
    pub v: V1,
    /// The session.
    pub session_id: SessionId,
    /// The first epoch.
    pub session_epoch: Epoch,
    /// The tenant.
    pub tenant_id: TenantId,
    /// The device that opened it.
    pub device_id: DeviceId,
    /// Which root secret its keys come from.
    pub root_generation: u32,
    /// The check value of that root.
    pub key_check_value: KeyCheckValue,
    /// Whether that is a demo root, under which a receipt proves nothing.
    pub demo_root: bool,
    /// What is kept of private content.
    pub content: ContentPolicy,
    /// When the session was opened.
    pub opened_at: Timestamp,
}

/// What a claim takes for its owner alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimKind {
    /// The epoch's number, when a session is opened or re-keyed.
    Epoch,
    /// The epoch's one connection between device and gateway.
    Connection,
    /// A connection from gateway to pod; `link` counts them within the epoch.
    SubstrateLink,
}

/// A record that only one writer can write: the same kind, epoch and link exist once in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The version of the protocol.
    pub v: V1,
    /// What is claimed.
    pub kind: ClaimKind,
    /// The session.
    pub session_id: SessionId,
    /// The epoch.
    pub session_epoch: Epoch,
    /// Which connection to a pod, from 0; 0 for the other kinds.
    pub link: u32,
    /// The gateway or pod that claims, as it names itself.
    pub claimed_by: String,
    /// When.
    pub claimed_at: Timestamp,
}

/// A header or a claim as it is stored: canonical JSON, and HMAC-SHA256 under TIER_KEY\[1\] of its epoch over
/// `halo-header-v1` or `halo-claim-v1`, a line feed, and the JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRecord {
    /// The canonical JSON.
    pub body: Vec<u8>,
    /// The MAC.
    pub mac: [u8; 32],
}

/// A record that is stored with a MAC of its own.
pub trait Record: Serialize + for<'de> Deserialize<'de> {
    /// What stands before the JSON under the MAC, so that no record passes for another kind.
    const DOMAIN: &'static [u8];

    /// Writes and signs the record with TIER_KEY\[1\] of its epoch.
    fn sign(&self, key: &TierKey) -> Result<SignedRecord, PayloadError> {
        let body = to_canonical(self)?;
        let mac = key.sign(&[Self::DOMAIN, &body]);
        Ok(SignedRecord { body, mac })
    }
}

impl Record for Header {
    const DOMAIN: &'static [u8] = b"halo-header-v1\n";
}

impl Record for Claim {
    const DOMAIN: &'static [u8] = b"halo-claim-v1\n";
}

impl SignedRecord {
    /// Reads the record strictly, without checking its MAC.
    pub fn parse<R: Record>(&self) -> Result<R, PayloadError> {
        from_canonical(&self.body)
    }

    /// Whether `key` signed it as this kind of record.
    pub fn verify<R: Record>(&self, key: &TierKey) -> bool {
        key.verify(&[R::DOMAIN, &self.body], &self.mac)
    }
}

/// A receipt as it is stored: the bytes of its canonical JSON, all eleven fields, and the bytes of its event payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReceipt {
    /// The full receipt, about 571 bytes; the canonical body is these bytes without the signature's field.
    pub bytes: Vec<u8>,
    /// The event payload; none for a sensor capture.
    pub payload: Option<Vec<u8>>,
}

/// Consecutive receipts of one stream, written at once. A writer cuts blocks at 64 receipts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The stream.
    pub stream: Stream,
    /// The number of the first receipt.
    pub first: u32,
    /// At least one receipt.
    pub receipts: Vec<StoredReceipt>,
}

/// The most receipts in a block.
pub const BLOCK_MAX: usize = 64;

/// A block as it was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlock {
    /// The stream.
    pub stream: Stream,
    /// The number of the first receipt.
    pub first: u32,
    /// The ids of the block's receipts as they stand beside it, for searching.
    pub ids: Vec<ReceiptId>,
    /// The receipts, or why they could not be read.
    pub content: Result<Vec<StoredReceipt>, String>,
}

/// The typed copy of a receipt's fields that some backends keep for searching. Text as the ledger holds it, so that
/// damage in the copy is seen and named instead of failing to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// The receipt's stream and number.
    pub position: (Stream, u32),
    /// Name and text of each field of the receipt; `None` for null.
    pub fields: Vec<(String, Option<String>)>,
}

/// All that a ledger holds of one session, as of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Evidence {
    /// The header; none if it is missing.
    pub header: Option<SignedRecord>,
    /// The claims, in the order of epoch, kind and link.
    pub claims: Vec<SignedRecord>,
    /// The blocks, by stream and number.
    pub blocks: Vec<StoredBlock>,
    /// Searchable copies of some receipts' fields.
    pub attributes: Vec<Attributes>,
}

impl Evidence {
    /// The receipts of one stream that could be read, with their numbers.
    pub fn receipts(&self, stream: Stream) -> impl Iterator<Item = (u32, &StoredReceipt)> + '_ {
        let blocks = self
            .blocks
            .iter()
            .filter(move |block| block.stream == stream);
        blocks.flat_map(|block| {
            let receipts = block.content.as_deref().unwrap_or_default();
            (block.first..).zip(receipts)
        })
    }

    /// The number that follows the last receipt of a stream.
    pub fn next_number(&self, stream: Stream) -> u32 {
        let blocks = self.blocks.iter().filter(|block| block.stream == stream);
        let ends = blocks.map(|block| {
            let count = match &block.content {
                Ok(receipts) => receipts.len(),
                Err(_) => block.ids.len(),
            };
            block.first.saturating_add(count as u32)
        });
        ends.max().unwrap_or(0)
    }

    /// The readable receipts of both streams in an order in which every parent comes before its children: stream `d` by
    /// number, and before each Tier 1 response the receipts of stream `s` that it seals; the rest of `s` at the end.
    pub fn in_causal_order(&self) -> Vec<(Stream, u32, &StoredReceipt)> {
        let mut ordered = Vec::new();
        let mut substrate = self.receipts(Stream::Substrate).peekable();
        for (number, stored) in self.receipts(Stream::Device) {
            if let Some(sealed) = stored.sealed_substrate_receipts() {
                while let Some((number, stored)) = substrate.next_if(|(number, _)| *number < sealed)
                {
                    ordered.push((Stream::Substrate, number, stored));
                }
            }
            ordered.push((Stream::Device, number, stored));
        }
        ordered.extend(substrate.map(|(number, stored)| (Stream::Substrate, number, stored)));
        ordered
    }
}

impl StoredReceipt {
    /// If this is a Tier 1 response: how many receipts of stream `s` it seals.
    fn sealed_substrate_receipts(&self) -> Option<u32> {
        // A payload of another kind does not have this type's fields, and the parser refuses it.
        let payload: OrchestratorResponse = from_canonical(self.payload.as_deref()?).ok()?;
        Some(payload.substrate_receipts)
    }
}
