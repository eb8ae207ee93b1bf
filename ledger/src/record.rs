//! What every backend checks and prepares before it writes: headers, claims and blocks as they come from a writer.
//!
//! A ledger has no keys, so MACs are not its concern; what it checks is that a thing is stored under the right name.

use halo_receipts::evidence::{
    Attributes, Block, Claim, ClaimKind, Header, SignedRecord, StoredBlock, StoredReceipt, Stream,
};
use halo_receipts::ids::{ReceiptId, SessionId, TenantId, Tier};
use halo_receipts::receipt::{Receipt, ReceiptKind};

use crate::block;
use crate::{Appended, LedgerError};

fn invalid(what: &str, cause: impl std::fmt::Display) -> LedgerError {
    LedgerError::Invalid(format!("{what}: {cause}"))
}

/// Reads the header and the first claim of a session that is to be opened.
pub fn opening(
    header: &SignedRecord,
    epoch: &SignedRecord,
) -> Result<(Header, Claim), LedgerError> {
    let header: Header = header
        .parse()
        .map_err(|e| invalid("the session's header", e))?;
    let claim = claim(epoch)?;
    let first = claim.kind == ClaimKind::Epoch
        && claim.session_id == header.session_id
        && claim.session_epoch == header.session_epoch;
    if first {
        Ok((header, claim))
    } else {
        let cause = "it must claim the epoch that the header names, in the same session";
        Err(invalid("the session's first claim", cause))
    }
}

/// Reads a claim.
pub fn claim(record: &SignedRecord) -> Result<Claim, LedgerError> {
    let claim: Claim = record.parse().map_err(|e| invalid("the claim", e))?;
    if claim.link != 0 && claim.kind != ClaimKind::SubstrateLink {
        return Err(invalid(
            "the claim",
            "only a substrate_link has a link number other than 0",
        ));
    }
    Ok(claim)
}

/// The name of a claim's kind as its JSON spells it.
pub fn kind_name(kind: ClaimKind) -> &'static str {
    match kind {
        ClaimKind::Epoch => "epoch",
        ClaimKind::Connection => "connection",
        ClaimKind::SubstrateLink => "substrate_link",
    }
}

/// A block that was checked, in the form in which backends store it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The tenant that the first receipt names, for searching.
    pub tenant: TenantId,
    /// The stream.
    pub stream: Stream,
    /// The number of the first receipt.
    pub first: u32,
    /// The receipts as they came, to compare with what may already be stored.
    pub receipts: Vec<StoredReceipt>,
    /// The receipts' ids.
    pub ids: Vec<ReceiptId>,
    /// The encoded block.
    pub encoded: Vec<u8>,
    /// The searchable copies of those receipts that have one.
    pub attributes: Vec<Attributes>,
}

/// Checks a block that is to be appended to a session, and encodes it.
pub fn prepare(session: &SessionId, block: &Block) -> Result<Prepared, LedgerError> {
    let mut ids = Vec::with_capacity(block.receipts.len());
    let mut tenant = None;
    let mut attributes = Vec::new();
    for (at, stored) in block.receipts.iter().enumerate() {
        let what = || format!("receipt {at} of the block");
        let number = u32::try_from(at)
            .ok()
            .and_then(|at| block.first.checked_add(at));
        // The number after the last one must exist too: it is what the stream continues at.
        let Some(number) = number.filter(|number| *number < u32::MAX) else {
            return Err(invalid(&what(), "its number does not fit 32 bits"));
        };
        let receipt = Receipt::parse(&stored.bytes).map_err(|e| invalid(&what(), e))?;
        if receipt.body.session_id != *session {
            return Err(invalid(&what(), "it belongs to another session"));
        }
        let stream = match receipt.body.tier {
            Tier::Sensor | Tier::Orchestrator => Stream::Device,
            Tier::Substrate => Stream::Substrate,
        };
        if stream != block.stream {
            let cause = format!("tier {} is written to stream {stream}", receipt.body.tier);
            return Err(invalid(&what(), cause));
        }
        ids.push(receipt.body.receipt_id);
        tenant.get_or_insert_with(|| receipt.body.tenant_id.clone());
        if is_searchable(&receipt) {
            let position = (stream, number);
            let fields = fields(&receipt);
            attributes.push(Attributes { position, fields });
        }
    }
    let encoded = block::encode(&block.receipts, &block::ids(&ids));
    let encoded = encoded.map_err(|e| invalid("the block", e))?;
    let tenant = tenant.ok_or_else(|| invalid("the block", block::BlockError::Count(0)))?;
    Ok(Prepared {
        tenant,
        stream: block.stream,
        first: block.first,
        receipts: block.receipts.clone(),
        ids,
        encoded,
        attributes,
    })
}

impl Prepared {
    /// The number behind the last receipt.
    pub fn end(&self) -> u32 {
        let count = u32::try_from(self.receipts.len()).unwrap_or(u32::MAX);
        self.first.saturating_add(count)
    }

    /// The error for a block that does not begin where its stream goes on.
    pub fn gap(&self, expected: u32) -> LedgerError {
        LedgerError::Gap {
            stream: self.stream,
            expected,
            found: self.first,
        }
    }

    /// The error for a block of which another receipt stands at `number`.
    pub fn fork(&self, number: u32) -> LedgerError {
        LedgerError::Fork {
            stream: self.stream,
            number,
        }
    }
}

/// Compares a block whose first number is taken with what stands there: a retry, or a fork. Receipts are compared, not encoded
/// blocks, because another version of the compressor may write the same receipts in other bytes.
pub struct Repeated<'a> {
    block: &'a Prepared,
    session: &'a SessionId,
    /// Where the stream ends.
    next: u32,
    compared: usize,
}

impl<'a> Repeated<'a> {
    /// Begins to compare a block of a stream that ends before `next`.
    pub fn new(block: &'a Prepared, session: &'a SessionId, next: u32) -> Self {
        Self {
            block,
            session,
            next,
            compared: 0,
        }
    }

    /// The number that is to be compared next, or what has come out.
    pub fn step(&self) -> Result<u32, Result<Appended, LedgerError>> {
        let number = u32::try_from(self.compared).unwrap_or(u32::MAX);
        let number = self.block.first.saturating_add(number);
        if self.compared >= self.block.receipts.len() {
            Err(Ok(Appended::AlreadyThere))
        } else if number < self.next {
            Ok(number)
        } else {
            Err(Err(self.block.gap(self.next)))
        }
    }

    /// Compares with the stored block that stands at or before the number of [`Repeated::step`].
    pub fn compare(
        &mut self,
        number: u32,
        stored: Option<&StoredBlock>,
    ) -> Result<(), LedgerError> {
        let stored = stored.ok_or_else(|| self.damaged(number, "it is missing"))?;
        let content = stored.content.as_ref();
        let content = content.map_err(|reason| self.damaged(number, reason))?;
        let rest = number
            .checked_sub(stored.first)
            .and_then(|skipped| content.get(skipped as usize..))
            .filter(|rest| !rest.is_empty())
            .ok_or_else(|| self.damaged(number, "it is missing"))?;
        let incoming = self.block.receipts.iter().skip(self.compared);
        let same = rest
            .iter()
            .zip(incoming)
            .take_while(|(stored, incoming)| stored == incoming);
        let same = same.count();
        self.compared += same;
        let left = self.block.receipts.len().saturating_sub(self.compared);
        if same < rest.len() && left > 0 {
            let at = u32::try_from(same).unwrap_or(u32::MAX);
            return Err(self.block.fork(number.saturating_add(at)));
        }
        Ok(())
    }

    fn damaged(&self, number: u32, reason: &str) -> LedgerError {
        LedgerError::Storage(format!(
            "receipt {number} of stream {} of session {} cannot be compared with a repeated one: {reason}",
            self.block.stream, self.session
        ))
    }
}

/// Whether a copy of the receipt's fields is kept: tiers 0 and 1, and every answer. The receipts of single steps are many,
/// and are found through the ids beside their block.
fn is_searchable(receipt: &Receipt) -> bool {
    receipt.body.tier != Tier::Substrate || receipt.body.receipt_kind == ReceiptKind::TierResponse
}

/// The names of a receipt's eleven fields, in the order of its canonical JSON.
pub const FIELDS: [&str; 11] = [
    "event_payload_hash",
    "hmac_signature",
    "parent_receipt_hash",
    "parent_receipt_id",
    "receipt_id",
    "receipt_kind",
    "session_epoch",
    "session_id",
    "tenant_id",
    "tier",
    "timestamp_utc",
];

/// Name and text of each field, in the order of [`FIELDS`].
pub fn fields(receipt: &Receipt) -> Vec<(String, Option<String>)> {
    let body = &receipt.body;
    let texts = [
        Some(body.event_payload_hash.to_string()),
        Some(halo_receipts::hex::encode(&receipt.hmac_signature)),
        body.parent.map(|parent| parent.hash.to_string()),
        body.parent.map(|parent| parent.id.to_string()),
        Some(body.receipt_id.to_string()),
        Some(body.receipt_kind.to_string()),
        Some(body.session_epoch.to_string()),
        Some(body.session_id.to_string()),
        Some(body.tenant_id.to_string()),
        Some(body.tier.to_string()),
        Some(body.timestamp_utc.to_string()),
    ];
    FIELDS.into_iter().map(str::to_owned).zip(texts).collect()
}
