//! What stands in items, written and read: pure.
//!
//! Every value is a string or bytes. DynamoDB's number type would turn `1.50` into `1.5` and `007` into `7`; what a receipt says
//! is therefore never kept as a number. What is verified is the bytes in `content`, which is read with `ids`, in `body` and in `mac`;
//! everything else is a copy for searching, returned as it stands, so that damage in it is for the verifier to name.

use std::collections::HashMap;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use halo_receipts::evidence::{
    Attributes, Claim, ClaimKind, Header, SignedRecord, StoredBlock, Stream,
};
use halo_receipts::ids::SessionId;

use super::keys::{self, PK, SK};
use crate::block;
use crate::record::{FIELDS, Prepared};

/// An item as the SDK has it.
pub type Item = HashMap<String, AttributeValue>;

/// The tenant. The name is the one under which existing tools look.
pub const TENANT: &str = "org_id";
/// The device of a header.
pub const DEVICE: &str = "device_id";
/// When a session was opened, and its id: the sort key of both indexes.
pub const OPENED: &str = "opened";
/// The partition key of the index of all sessions, [`LISTED`] in every header.
pub const LISTING: &str = "listing";
/// The value of [`LISTING`].
pub const LISTED: &str = "sessions";
/// A record's canonical JSON.
pub const BODY: &str = "body";
/// A record's MAC.
pub const MAC: &str = "mac";
/// The first epoch's claim, which stands in the header's item so that both are written or neither.
pub const CLAIM_BODY: &str = "claim_body";
/// Its MAC.
pub const CLAIM_MAC: &str = "claim_mac";
/// The epoch that an item claims, in ten digits.
pub const EPOCH: &str = "epoch";
/// The number of receipts in a block.
pub const COUNT: &str = "receipt_count";
/// The ids of a block's receipts, 16 bytes each.
pub const IDS: &str = "ids";
/// The block, as [`crate::block`] writes it.
pub const CONTENT: &str = "content";
/// The searchable copies of a block's receipts.
pub const RECEIPTS: &str = "receipts";
/// The number of a searchable copy's receipt.
pub const NUMBER: &str = "number";
/// 16 random bytes of whoever wrote the item: by them a writer knows its own write when the answer to it was lost.
pub const WRITE: &str = "write";

/// The largest item that DynamoDB takes, names included.
pub const ITEM_MAX: usize = 400 << 10;

/// Where a block stands that names no position: behind all others, so that it is seen and hides none.
const NOWHERE: (Stream, u32) = (Stream::Substrate, u32::MAX);

/// A write's 16 bytes.
pub type WriteId = [u8; 16];

fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn bytes(bytes: impl Into<Vec<u8>>) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes.into()))
}

fn item<const N: usize>(
    session: &SessionId,
    sk: String,
    write: &WriteId,
    more: [(&str, AttributeValue); N],
) -> Item {
    let always = [
        (PK, text(keys::session(session))),
        (SK, text(sk)),
        (WRITE, bytes(*write)),
    ];
    let all = always.into_iter().chain(more);
    all.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// An item with nothing but its key.
pub fn key(pk: &str, sk: &str) -> Item {
    let key = [(PK, text(pk)), (SK, text(sk))];
    key.map(|(name, value)| (name.to_owned(), value)).into()
}

/// A session's header and the claim of its first epoch.
pub fn header(
    header: &Header,
    record: &SignedRecord,
    epoch: &SignedRecord,
    write: &WriteId,
) -> Item {
    let opened = format!("{}#{}", header.opened_at, header.session_id);
    let more = [
        (TENANT, text(header.tenant_id.as_str())),
        (DEVICE, text(header.device_id.as_str())),
        (OPENED, text(opened)),
        (LISTING, text(LISTED)),
        (EPOCH, text(keys::number(header.session_epoch.0))),
        (BODY, bytes(record.body.clone())),
        (MAC, bytes(record.mac)),
        (CLAIM_BODY, bytes(epoch.body.clone())),
        (CLAIM_MAC, bytes(epoch.mac)),
    ];
    item(&header.session_id, keys::HEADER.to_owned(), write, more)
}

/// A claim under this sort key.
pub fn claim(claim: &Claim, record: &SignedRecord, sk: String, write: &WriteId) -> Item {
    let more = [
        (EPOCH, text(keys::number(claim.session_epoch.0))),
        (BODY, bytes(record.body.clone())),
        (MAC, bytes(record.mac)),
    ];
    item(&claim.session_id, sk, write, more)
}

/// A block.
pub fn block(session: &SessionId, block: &Prepared, write: &WriteId) -> Item {
    let more = [
        (TENANT, text(block.tenant.as_str())),
        (COUNT, text(block.ids.len().to_string())),
        (IDS, bytes(crate::block::ids(&block.ids))),
        (CONTENT, bytes(block.encoded.clone())),
    ];
    let sk = keys::block(block.stream, block.first);
    let mut item = item(session, sk, write, more);
    if !block.attributes.is_empty() {
        let copies = block.attributes.iter().map(copy).collect();
        item.insert(RECEIPTS.to_owned(), AttributeValue::L(copies));
    }
    item
}

/// The copy of a receipt's fields; a null is left out.
fn copy(attributes: &Attributes) -> AttributeValue {
    let (_, number) = attributes.position;
    let number = (NUMBER.to_owned(), text(number.to_string()));
    let fields = attributes.fields.iter();
    let fields = fields.filter_map(|(name, value)| Some((name.clone(), text(value.as_ref()?))));
    AttributeValue::M(fields.chain([number]).collect())
}

/// What an item counts towards [`ITEM_MAX`] and towards units: the lengths of names and values, three bytes for a list or a map
/// and one for each element of them (DynamoDB developer guide, "Item sizes and formats").
pub fn size(item: &Item) -> usize {
    fn value(attribute: &AttributeValue) -> usize {
        match attribute {
            AttributeValue::S(text) => text.len(),
            AttributeValue::B(bytes) => bytes.as_ref().len(),
            AttributeValue::L(list) => 3 + list.iter().map(|each| 1 + value(each)).sum::<usize>(),
            AttributeValue::M(map) => {
                let each = map.iter().map(|(name, each)| 1 + name.len() + value(each));
                3 + each.sum::<usize>()
            }
            // Nothing else is written here.
            _ => 1,
        }
    }
    item.iter()
        .map(|(name, each)| name.len() + value(each))
        .sum()
}

/// An attribute's bytes, whatever type it has; none if it is missing.
pub fn read_bytes(item: &Item, name: &str) -> Vec<u8> {
    match item.get(name) {
        Some(AttributeValue::B(bytes)) => bytes.as_ref().to_vec(),
        Some(AttributeValue::S(text) | AttributeValue::N(text)) => text.clone().into_bytes(),
        _ => Vec::new(),
    }
}

/// An attribute's text, with a replacement character for what is not UTF-8; `None` if it is missing or null.
pub fn read_text(item: &Item, name: &str) -> Option<String> {
    match item.get(name)? {
        AttributeValue::S(text) | AttributeValue::N(text) => Some(text.clone()),
        AttributeValue::B(bytes) => Some(String::from_utf8_lossy(bytes.as_ref()).into_owned()),
        AttributeValue::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// The sort key.
pub fn sort_key(item: &Item) -> String {
    read_text(item, SK).unwrap_or_default()
}

/// Whether the item is the one that this write would have made.
pub fn is_own(item: &Item, write: &WriteId) -> bool {
    read_bytes(item, WRITE) == write
}

/// A record; a MAC of another length than 32 stands as zeros, which no key makes.
fn record(item: &Item, body: &str, mac: &str) -> SignedRecord {
    SignedRecord {
        body: read_bytes(item, body),
        mac: read_bytes(item, mac).try_into().unwrap_or_default(),
    }
}

/// The header in its item.
pub fn read_header(item: &Item) -> SignedRecord {
    record(item, BODY, MAC)
}

/// The epoch that an item claims, as its copy says; by its own words if the copy is damaged.
pub fn read_epoch(item: &Item) -> Option<u32> {
    let copy = read_text(item, EPOCH).and_then(|digits| keys::read_number(&digits));
    let epoch = |claim: Claim| claim.session_epoch.0;
    let first = |header: Header| header.session_epoch.0;
    copy.or_else(|| record(item, BODY, MAC).parse().ok().map(epoch))
        .or_else(|| read_header(item).parse().ok().map(first))
}

/// The claims in the items of a session's records, in the order of epoch, kind and link.
pub fn read_claims(items: &[Item]) -> Vec<SignedRecord> {
    let mut claims = Vec::new();
    for item in items {
        let sk = sort_key(item);
        let order = |epoch: Option<u32>, kind, link| (epoch.unwrap_or(u32::MAX), kind, link);
        if sk == keys::HEADER {
            if item.contains_key(CLAIM_BODY) || item.contains_key(CLAIM_MAC) {
                let claim = record(item, CLAIM_BODY, CLAIM_MAC);
                claims.push((order(read_epoch(item), 0, 0), claim));
            }
            continue;
        }
        let at = match keys::read_claim(&sk) {
            Some((epoch, ClaimKind::Connection, link)) => (epoch, 1, link),
            Some((epoch, _, link)) => (epoch, 2, link),
            None => order(read_epoch(item), 0, 0),
        };
        claims.push((at, record(item, BODY, MAC)));
    }
    claims.sort_by_key(|(at, _)| *at);
    claims.into_iter().map(|(_, claim)| claim).collect()
}

/// The stream of a block's item, its first number, and the number behind its last receipt.
pub fn read_range(item: &Item) -> Option<(Stream, u32, u32)> {
    let (stream, first) = keys::read_block(&sort_key(item))?;
    let count = read_text(item, COUNT).and_then(|count| count.parse().ok());
    let count = count.unwrap_or_else(|| read_bytes(item, IDS).len().div_ceil(16) as u32);
    Some((stream, first, first.saturating_add(count)))
}

/// A block and the searchable copies beside it.
pub fn read_block(item: &Item) -> (StoredBlock, Vec<Attributes>) {
    let position = keys::read_block(&sort_key(item));
    let ids = read_bytes(item, IDS);
    let content = match position {
        Some(_) => {
            block::decode(&read_bytes(item, CONTENT), &ids).map_err(|error| error.to_string())
        }
        None => Err("the block names no stream and number".to_owned()),
    };
    let (stream, first) = position.unwrap_or(NOWHERE);
    let ids = block::read_ids(&ids);
    let copies = match item.get(RECEIPTS) {
        Some(AttributeValue::L(copies)) => copies.as_slice(),
        _ => &[],
    };
    let attributes = copies.iter().map(|copy| read_copy(copy, stream)).collect();
    let block = StoredBlock {
        stream,
        first,
        ids,
        content,
    };
    (block, attributes)
}

fn read_copy(copy: &AttributeValue, stream: Stream) -> Attributes {
    let nothing = Item::new();
    let copy = copy.as_m().unwrap_or(&nothing);
    let number = read_text(copy, NUMBER).and_then(|number| number.parse().ok());
    let position = number.map_or(NOWHERE, |number| (stream, number));
    let fields = FIELDS.map(|name| (name.to_owned(), read_text(copy, name)));
    Attributes {
        position,
        fields: fields.to_vec(),
    }
}
