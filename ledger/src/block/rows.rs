//! Receipts, taken apart into columns and put together again.

use halo_receipts::evidence::{BLOCK_MAX, StoredReceipt};
use halo_receipts::ids::{Epoch, Hash, ReceiptId, SessionId, TenantId, Tier};
use halo_receipts::receipt::{Parent, Receipt, ReceiptKind, Unsigned};
use halo_receipts::time::Timestamp;

use super::columns::{Columns, KINDS, Reader, push_varint, unzigzag, zigzag};
use super::text::{self, END};

/// There is a payload.
pub const PAYLOAD: u8 = 1;
/// The receipt stands as a text.
pub const VERBATIM: u8 = 2;
/// Session, epoch and tenant are given.
pub const SCOPE: u8 = 4;
/// The receipt's id is given.
pub const ID: u8 = 8;
/// The payload's hash is given.
pub const HASH: u8 = 16;
const FLAGS: u8 = PAYLOAD | VERBATIM | SCOPE | ID | HASH;

/// The parent's byte of a receipt that has none.
const NO_PARENT: u8 = 0;
/// The parent's byte of a receipt whose parent is given.
const GIVEN_PARENT: u8 = 255;
/// The kind of what belongs to a receipt that is stored verbatim.
const VERBATIM_KIND: usize = KINDS - 1;

/// Session, epoch and tenant.
type Scope = (SessionId, Epoch, TenantId);

/// Tier and kind as one number.
fn kind(tier: Tier, kind: ReceiptKind) -> usize {
    let at = ReceiptKind::ALL.iter().position(|known| *known == kind);
    usize::from(tier.number()) * ReceiptKind::ALL.len() + at.unwrap_or_default()
}

fn read_kind(number: u8) -> Option<(Tier, ReceiptKind)> {
    let (tier, kind) = (
        usize::from(number) / ReceiptKind::ALL.len(),
        usize::from(number) % ReceiptKind::ALL.len(),
    );
    Some((*Tier::ALL.get(tier)?, ReceiptKind::ALL[kind]))
}

/// Full receipts' hashes, each computed once when it is asked for.
struct Hashes([Option<Hash>; BLOCK_MAX]);

impl Hashes {
    fn new() -> Self {
        Self([None; BLOCK_MAX])
    }

    fn of(&mut self, at: usize, receipt: &StoredReceipt) -> Hash {
        match self.0.get_mut(at) {
            Some(known) => *known.get_or_insert_with(|| Hash::of(&receipt.bytes)),
            None => Hash::of(&receipt.bytes),
        }
    }
}

/// Takes receipts apart. `ids` are those beside the block, one for each.
pub fn write(receipts: &[StoredReceipt], ids: &[[u8; 16]]) -> Columns {
    let mut out = Columns::default();
    let mut hashes = Hashes::new();
    let mut scope: Option<Scope> = None;
    let mut time = 0;
    for (at, stored) in receipts.iter().enumerate() {
        let payload = stored.payload.as_deref();
        let mut flags = if payload.is_some() { PAYLOAD } else { 0 };
        // What does not come out of its fields as it went in stands as it is.
        let receipt = Receipt::parse(&stored.bytes).ok();
        let receipt = receipt.filter(|receipt| receipt.to_bytes() == stored.bytes);
        let Some(Receipt {
            body,
            hmac_signature,
        }) = receipt
        else {
            out.forms.push(flags | VERBATIM);
            text::pack(&stored.bytes, VERBATIM_KIND, &mut out);
            if let Some(payload) = payload {
                text::pack(payload, VERBATIM_KIND, &mut out);
            }
            continue;
        };
        out.packed.extend_from_slice(&hmac_signature);
        let own = (body.session_id, body.session_epoch, body.tenant_id);
        if scope.as_ref() != Some(&own) {
            flags |= SCOPE;
            out.packed.extend_from_slice(own.0.as_bytes());
            out.packed.extend_from_slice(&own.1.0.to_be_bytes());
            out.text.extend_from_slice(own.2.as_str().as_bytes());
            out.text.push(END);
            scope = Some(own);
        }
        if *body.receipt_id.as_bytes() != ids[at] {
            flags |= ID;
            out.packed.extend_from_slice(body.receipt_id.as_bytes());
        }
        let parent = match &body.parent {
            None => NO_PARENT,
            Some(parent) => {
                let earlier = ids[..at].iter().rposition(|id| id == parent.id.as_bytes());
                let earlier = earlier.filter(|&at| hashes.of(at, &receipts[at]) == parent.hash);
                match earlier.and_then(|earlier| u8::try_from(at - earlier).ok()) {
                    Some(back) => back,
                    None => {
                        out.packed.extend_from_slice(&parent.hash.0);
                        out.packed.extend_from_slice(parent.id.as_bytes());
                        GIVEN_PARENT
                    }
                }
            }
        };
        if payload.map(Hash::of) != Some(body.event_payload_hash) {
            flags |= HASH;
            out.packed.extend_from_slice(&body.event_payload_hash.0);
        }
        let kind = kind(body.tier, body.receipt_kind);
        out.forms.extend_from_slice(&[flags, kind as u8, parent]);
        let micros = body.timestamp_utc.micros() as i64;
        push_varint(&mut out.times, zigzag(micros - time));
        time = micros;
        if let Some(payload) = payload {
            text::pack(payload, kind, &mut out);
        }
    }
    out
}

/// Puts receipts together again, of at most `limit` bytes with their payloads.
pub fn read(
    from: &mut Reader<'_>,
    ids: &[[u8; 16]],
    mut limit: usize,
) -> Option<Vec<StoredReceipt>> {
    let mut receipts: Vec<StoredReceipt> = Vec::with_capacity(ids.len());
    let mut hashes = Hashes::new();
    let mut scope: Option<Scope> = None;
    let mut time = 0i64;
    for (at, id) in ids.iter().enumerate() {
        let flags = from.forms.byte().filter(|flags| flags & !FLAGS == 0)?;
        let mut text = |kind, from: &mut Reader<'_>| {
            let text = text::unpack(kind, limit, from)?;
            limit -= text.len();
            Some(text)
        };
        if flags & VERBATIM != 0 {
            let bytes = text(VERBATIM_KIND, from)?;
            let payload = match flags & PAYLOAD {
                0 => None,
                _ => Some(text(VERBATIM_KIND, from)?),
            };
            receipts.push(StoredReceipt { bytes, payload });
            continue;
        }
        let [number, parent] = from.forms.array()?;
        let (tier, receipt_kind) = read_kind(number)?;
        let hmac_signature = from.packed.array()?;
        if flags & SCOPE != 0 {
            let session = SessionId::from_bytes(from.packed.array()?).ok()?;
            let epoch = Epoch(u32::from_be_bytes(from.packed.array()?));
            let len = from.text.0.iter().position(|byte| *byte == END)?;
            let tenant = std::str::from_utf8(from.text.take(len)?).ok()?;
            from.text.byte()?;
            scope = Some((session, epoch, tenant.parse().ok()?));
        }
        let id = match flags & ID {
            0 => *id,
            _ => from.packed.array()?,
        };
        let parent = match parent {
            NO_PARENT => None,
            GIVEN_PARENT => Some(Parent {
                hash: Hash(from.packed.array()?),
                id: ReceiptId::from_bytes(from.packed.array()?).ok()?,
            }),
            back => {
                let at = at.checked_sub(usize::from(back))?;
                Some(Parent {
                    hash: hashes.of(at, &receipts[at]),
                    id: ReceiptId::from_bytes(ids[at]).ok()?,
                })
            }
        };
        let given = match flags & HASH {
            0 => None,
            _ => Some(Hash(from.packed.array()?)),
        };
        let payload = match flags & PAYLOAD {
            0 => None,
            _ => Some(text(usize::from(number), from)?),
        };
        let event_payload_hash = match given {
            Some(hash) => hash,
            None => Hash::of(payload.as_ref()?),
        };
        time = time.checked_add(unzigzag(from.times.varint()?))?;
        let timestamp_utc = Timestamp::from_micros(u64::try_from(time).ok()?)?;
        let (session_id, session_epoch, tenant_id) = scope.clone()?;
        let body = Unsigned {
            event_payload_hash,
            parent,
            receipt_id: ReceiptId::from_bytes(id).ok()?,
            receipt_kind,
            session_epoch,
            session_id,
            tenant_id,
            tier,
            timestamp_utc,
        };
        let bytes = Receipt {
            body,
            hmac_signature,
        }
        .to_bytes();
        limit = limit.checked_sub(bytes.len())?;
        receipts.push(StoredReceipt { bytes, payload });
    }
    Some(receipts)
}
