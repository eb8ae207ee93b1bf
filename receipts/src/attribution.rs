//! Which byte was changed. A MAC cannot name a field, so three things that can are tried in turn:
//!
//! 1. the searchable attributes beside the receipt: if the receipt that they spell has the MAC, they are right;
//! 2. structure: the fixed keys, the session's constants, the parent's id and hash, the payload's hash and the ids beside
//!    the block say what nearly every byte must be;
//! 3. a search for the single byte that makes the stored MAC right, or else the hash that the receipt's child holds of it,
//!    which covers the signature too and needs no key.
//!
//! A receipt is only called repaired when a digest proves it: the MAC under the key of its epoch and tier, or its child's
//! parent_receipt_hash.

mod search;
mod template;

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use crate::evidence::{Attributes, Stream};
use crate::hex;
use crate::ids::{Epoch, Hash, ReceiptId, SessionId, TenantId, Tier};
use crate::keys::TierKey;
use crate::receipt::{Parent, Receipt, SIGNATURE_AT, SIGNATURE_LEN, Unsigned, split_signature};

use search::Search;
pub(crate) use template::FIELDS;
use template::{Template, distance, templates};

/// What a damaged receipt is compared with.
pub struct Context<'a> {
    /// The session.
    pub session_id: SessionId,
    /// Its tenant.
    pub tenant_id: &'a TenantId,
    /// The epochs that can have signed it.
    pub epochs: &'a [Epoch],
    /// The stream that it stands in.
    pub stream: Stream,
    /// The id that stands beside its block.
    pub id: Option<ReceiptId>,
    /// Its payload.
    pub payload: Option<&'a [u8]>,
    /// The searchable copy of its fields.
    pub attributes: Option<&'a Attributes>,
    /// The ids and hashes of the receipts that are known to be right.
    pub receipts: &'a HashMap<ReceiptId, Hash>,
    /// What a receipt that is known to be right says its hash must be.
    pub child: Option<Hash>,
}

/// What showed which bytes are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shown {
    /// The searchable attributes.
    Attributes,
    /// What is known of the session and of the receipts around it.
    Structure,
    /// The search for a single byte.
    Search,
}

impl Shown {
    /// The word for it in JSON and in text.
    pub const fn name(self) -> &'static str {
        match self {
            Shown::Attributes => "attributes",
            Shown::Structure => "structure",
            Shown::Search => "search",
        }
    }
}

/// Where bytes were changed. Offsets count from the first byte of the receipt, payload or record, and where several
/// bytes differ the first one is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The field that the byte belongs to.
    pub field: String,
    /// The offset of the byte.
    pub offset: usize,
    /// The byte that was signed; none if nothing stood there.
    pub old: Option<u8>,
    /// The byte that stands there now; none if it is gone.
    pub new: Option<u8>,
    /// How many bytes differ.
    pub differing: usize,
    /// What showed it.
    pub shown: Shown,
}

/// A receipt as it was signed, and what was changed in it.
pub struct Repaired {
    /// The receipt that its signer wrote.
    pub receipt: Receipt,
    /// What was changed.
    pub damage: Damage,
}

/// Looks up the key of an epoch and tier.
pub type Keys<'k> = dyn Fn(Epoch, Tier) -> Option<&'k TierKey> + 'k;

/// Finds out what was changed in a receipt whose bytes do not verify. Without `search` only what is known from elsewhere
/// is tried, which takes microseconds; the search takes up to about 50 ms.
pub fn receipt(
    found: &[u8],
    context: &Context<'_>,
    keys: &Keys<'_>,
    search: bool,
) -> Option<Repaired> {
    if let Some(repaired) = by_attributes(found, context, keys) {
        return Some(repaired);
    }
    let templates = templates(found, context);
    let structure = templates
        .iter()
        .find_map(|template| by_structure(found, template, context, keys));
    if structure.is_some() {
        return structure;
    }
    if let Some(repaired) = without_tail(found, context, keys) {
        return Some(repaired);
    }
    if !search {
        return None;
    }
    templates
        .iter()
        .take(4)
        .find_map(|template| by_search(found, template, context, keys))
        .or_else(|| by_full_search(found, templates.first(), context, keys))
}

/// Whether the bytes are a receipt that its key, or a child, vouches for.
fn vouched(bytes: &[u8], context: &Context<'_>, keys: &Keys<'_>) -> Option<Receipt> {
    let receipt = Receipt::parse(bytes).ok()?;
    let body = &receipt.body;
    let signed = || keys(body.session_epoch, body.tier).is_some_and(|key| receipt.verify(key));
    let here = body.session_id == context.session_id && body.tenant_id == *context.tenant_id;
    let known = || context.child == Some(Hash::of(bytes));
    (here && (known() || signed())).then_some(receipt)
}

fn repaired(
    found: &[u8],
    right: &[u8],
    context: &Context<'_>,
    keys: &Keys<'_>,
    shown: Shown,
) -> Option<Repaired> {
    let receipt = vouched(right, context, keys)?;
    let offset = found.iter().zip(right).take_while(|(a, b)| a == b).count();
    let damage = Damage {
        field: field_of(&receipt, offset).to_owned(),
        offset,
        old: right.get(offset).copied(),
        new: found.get(offset).copied(),
        differing: distance(found, right),
        shown,
    };
    Some(Repaired { receipt, damage })
}

/// The name of the field that a byte of a receipt belongs to; a field begins at the comma before its name.
pub fn field_of(receipt: &Receipt, offset: usize) -> &'static str {
    let bytes = receipt.to_bytes();
    let begins = |field: &str| {
        let name = [b",\"", field.as_bytes(), b"\":"].concat();
        bytes.windows(name.len()).position(|part| part == name)
    };
    let mut fields = FIELDS.iter().skip(1).rev();
    let field = fields.find(|field| begins(field).is_some_and(|at| at <= offset));
    field.unwrap_or(&FIELDS[0])
}

fn by_attributes(found: &[u8], context: &Context<'_>, keys: &Keys<'_>) -> Option<Repaired> {
    let attributes = context.attributes?;
    let value = |name: &str| {
        let mut fields = attributes.fields.iter();
        fields
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_deref())
    };
    let parent = match (value("parent_receipt_id")?, value("parent_receipt_hash")?) {
        (Some(id), Some(hash)) => Some(Parent {
            id: id.parse().ok()?,
            hash: hash.parse().ok()?,
        }),
        _ => None,
    };
    let body = Unsigned {
        event_payload_hash: value("event_payload_hash")??.parse().ok()?,
        parent,
        receipt_id: value("receipt_id")??.parse().ok()?,
        receipt_kind: value("receipt_kind")??.parse().ok()?,
        session_epoch: Epoch(value("session_epoch")??.parse().ok()?),
        session_id: value("session_id")??.parse().ok()?,
        tenant_id: value("tenant_id")??.parse().ok()?,
        tier: Tier::try_from(value("tier")??.parse::<u8>().ok()?).ok()?,
        timestamp_utc: value("timestamp_utc")??.parse().ok()?,
    };
    // The signature may be damaged too, or not be kept as an attribute.
    let kept = value("hmac_signature").flatten().map(str::as_bytes);
    let stands = split_signature(found).map(|(_, digits)| digits.as_slice());
    [kept, stands].into_iter().flatten().find_map(|digits| {
        let hmac_signature = hex::decode(digits)?;
        let right = Receipt {
            body: body.clone(),
            hmac_signature,
        };
        repaired(found, &right.to_bytes(), context, keys, Shown::Attributes)
    })
}

fn by_structure(
    found: &[u8],
    template: &Template,
    context: &Context<'_>,
    keys: &Keys<'_>,
) -> Option<Repaired> {
    let with = |bytes: &[u8]| repaired(found, bytes, context, keys, Shown::Structure);
    if let Some(repaired) = with(&template.bytes) {
        return Some(repaired);
    }
    // The body may be right and the signature wrong: then the right one is what the key makes of the body. That proves
    // something only if it is what the child knows, or all but what stands there.
    let key = keys(template.epoch, template.tier)?;
    let signature = hex::encode(&key.sign(&[&template.body()]));
    let mut signed = template.bytes.clone();
    signed
        .get_mut(Template::digits())?
        .copy_from_slice(signature.as_bytes());
    let near = distance(&signed, &template.bytes) <= 8;
    (near || context.child == Some(Hash::of(&signed)))
        .then(|| with(&signed))
        .flatten()
}

/// Bytes that were appended to a whole receipt.
fn without_tail(found: &[u8], context: &Context<'_>, keys: &Keys<'_>) -> Option<Repaired> {
    let end = found.iter().position(|&byte| byte == b'}')? + 1;
    let (right, tail) = found.split_at(end);
    (!tail.is_empty())
        .then(|| repaired(found, right, context, keys, Shown::Structure))
        .flatten()
}

/// Searches the bytes that the template leaves open, with the characters that can stand there.
fn by_search(
    found: &[u8],
    template: &Template,
    context: &Context<'_>,
    keys: &Keys<'_>,
) -> Option<Repaired> {
    let mut by_mac = mac_search(&template.bytes, template, keys);
    let mut by_hash = hash_search(&template.bytes, context);
    for open in &template.open {
        for at in open.at..open.at + open.len {
            let bytes = || open.alphabet.iter().copied();
            let right = match &mut by_mac {
                Some(search) => body_offset(at).and_then(|at| search.try_at(at, bytes())),
                None => by_hash
                    .as_mut()
                    .and_then(|search| search.try_at(at, bytes())),
            };
            if let Some(byte) = right {
                return with_byte(found, &template.bytes, at, byte, context, keys);
            }
        }
    }
    None
}

/// Searches every byte of what was found, and all values.
fn by_full_search(
    found: &[u8],
    template: Option<&Template>,
    context: &Context<'_>,
    keys: &Keys<'_>,
) -> Option<Repaired> {
    let mut by_mac = template.and_then(|template| mac_search(found, template, keys));
    let mut by_hash = hash_search(found, context);
    (0..found.len()).find_map(|at| {
        // The MAC tells every byte but its own, and the child's hash tells those too.
        let byte = match (&mut by_mac, body_offset(at)) {
            (Some(search), Some(at)) => search.try_at(at, 0..=255),
            _ => by_hash.as_mut()?.try_at(at, 0..=255),
        }?;
        with_byte(found, found, at, byte, context, keys)
    })
}

fn with_byte(
    found: &[u8],
    base: &[u8],
    at: usize,
    byte: u8,
    context: &Context<'_>,
    keys: &Keys<'_>,
) -> Option<Repaired> {
    let mut right = base.to_vec();
    *right.get_mut(at)? = byte;
    repaired(found, &right, context, keys, Shown::Search)
}

fn mac_search(
    bytes: &[u8],
    template: &Template,
    keys: &Keys<'_>,
) -> Option<Search<hmac::Hmac<Sha256>>> {
    let key = keys(template.epoch, template.tier)?;
    let target = template.signature()?;
    let mut body = bytes.to_vec();
    body.drain(SIGNATURE_AT..(SIGNATURE_AT + SIGNATURE_LEN).min(bytes.len()));
    Some(Search::new(key.mac_state(), body, target))
}

fn hash_search(bytes: &[u8], context: &Context<'_>) -> Option<Search<Sha256>> {
    Some(Search::new(Sha256::new(), bytes.to_vec(), context.child?.0))
}

/// Where a byte of the full receipt stands in the signed body; none for the signature's own.
fn body_offset(at: usize) -> Option<usize> {
    if at < SIGNATURE_AT {
        Some(at)
    } else {
        at.checked_sub(SIGNATURE_LEN)
            .filter(|&at| at >= SIGNATURE_AT)
    }
}

/// Characters in the order in which a changed byte of canonical JSON is likeliest to have been one of them.
const LIKELY: [&[u8]; 3] = [
    b"0123456789abcdef",
    b"ghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_",
    b"\"{}[]:,. /+()'!?",
];

/// Searches `found` for the one byte that makes its SHA-256 `hash`. `budget` bounds the work in SHA-256 compressions, of
/// which one core makes about twenty million a second; likely characters are tried first.
pub fn payload(found: &[u8], hash: &Hash, budget: u64) -> Option<Damage> {
    bytes(
        Search::new(Sha256::new(), found.to_vec(), hash.0),
        found,
        budget,
    )
}

/// The same for a header or a claim and its MAC.
pub(crate) fn record(
    domain: &[u8],
    found: &[u8],
    mac: &[u8; 32],
    key: &TierKey,
    budget: u64,
) -> Option<Damage> {
    let mut state = key.mac_state();
    search::State::feed(&mut state, domain);
    bytes(Search::new(state, found.to_vec(), *mac), found, budget)
}

fn bytes<S: search::State>(mut search: Search<S>, found: &[u8], mut budget: u64) -> Option<Damage> {
    let all: Vec<u8> = (0..=255).collect();
    let rest: Vec<u8> = {
        let likely = LIKELY.concat();
        all.into_iter()
            .filter(|byte| !likely.contains(byte))
            .collect()
    };
    for alphabet in LIKELY.into_iter().chain([rest.as_slice()]) {
        for at in 0..found.len() {
            budget = budget.checked_sub(search.cost(at) * alphabet.len() as u64)?;
            if let Some(old) = search.try_at(at, alphabet.iter().copied()) {
                let mut right = found.to_vec();
                right[at] = old;
                return Some(Damage {
                    field: json_field(&right, at),
                    offset: at,
                    old: Some(old),
                    new: found.get(at).copied(),
                    differing: 1,
                    shown: Shown::Search,
                });
            }
        }
    }
    None
}

/// The name of the field of canonical JSON that the byte at `offset` belongs to: the last one that begins before it.
fn json_field(json: &[u8], offset: usize) -> String {
    let mut name = None;
    let mut at = 0;
    while at < json.len() && at <= offset {
        if json[at] != b'"' {
            at += 1;
            continue;
        }
        let begin = at + 1;
        let mut end = begin;
        while end < json.len() && json[end] != b'"' {
            end += if json[end] == b'\\' { 2 } else { 1 };
        }
        if json.get(end + 1) == Some(&b':') {
            name = json.get(begin..end);
        }
        at = end + 1;
    }
    name.map_or_else(
        || "payload".to_owned(),
        |name| String::from_utf8_lossy(name).into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_byte_is_found_with_its_field() {
        let right = br#"{"reason":"rule:\"stock\"","step":7,"v":1}"#;
        let hash = Hash::of(right);
        for (at, field) in [
            (2, "reason"),
            (14, "reason"),
            (20, "reason"),
            (34, "step"),
            (40, "v"),
        ] {
            let mut found = right.to_vec();
            found[at] ^= 0x20;
            let damage = payload(&found, &hash, 10_000_000).unwrap();
            assert_eq!((damage.offset, damage.field.as_str()), (at, field));
            assert_eq!((damage.old, damage.new), (Some(right[at]), Some(found[at])));
        }
    }

    #[test]
    fn a_search_stops_at_its_budget() {
        let found = vec![b'x'; 4096];
        assert_eq!(payload(&found, &Hash::of(b"other"), 1000), None);
    }
}
