//! How a block of receipts is stored: one codec, version 2, for every backend. Whatever bytes the receipts and payloads are,
//! they come back as they were.
//!
//! # The block
//! Beside a block stands its index, [`ids`]: the 16 bytes of each receipt's id, in order. The block itself is
//!
//! | bytes | field |
//! | --- | --- |
//! | 1 | version, 2 |
//! | 1 | number of receipts, 1 to 64 |
//! | 8 | the first 8 bytes of SHA-256 over the ids beside the block |
//! | varint | length of the frame's content, at most [`COLUMNS_MAX`] |
//! | varint | length of the tail |
//! | n | the frame: exactly one zstd frame (RFC 8878), with [`DICTIONARY`] as raw content dictionary |
//! | n | the tail |
//! | 8 | the first 8 bytes of SHA-256 over every byte before them |
//!
//! A *varint* is a number of seven bits a byte, the lowest first, with the top bit set in every byte but the last. A *signed* one is
//! zigzag: 0, -1, 1, -2, … stand as 0, 1, 2, 3, …
//!
//! The checksums tell damage (a flipped bit, a cut or an appended byte) from a block that was written so. They are no
//! protection: whoever can write the ledger can compute them. What stands in a block is proved by the receipts' own MACs.
//!
//! # The columns
//! The frame's content is five varints, the lengths of the first five columns; then these columns; then the packed column, unless
//! the tail is the packed column: then the frame's content ends before it. An empty tail is none. All columns are read to
//! their ends, receipt by receipt:
//!
//! | column | holds |
//! | --- | --- |
//! | forms | flags of each receipt; behind them, unless the receipt is verbatim, its kind and its parent, a byte each |
//! | times | signed varint: microseconds since 1970 less those of the receipt before that is not verbatim; of the first, less 0 |
//! | values | numbers in texts, see below |
//! | ones | the number of ones in each word of a bitmap, a byte each |
//! | text | tenants and texts, see below |
//! | packed | what does not compress |
//!
//! Flags: 1 there is a payload; 2 the receipt is verbatim; 4 session, epoch and tenant are given, else they are those given last; 8 the
//! id is given, else it is the one beside the block; 16 event_payload_hash is given, else it is SHA-256 of the payload. Others are 0.
//! Kind: 5 x tier + 0 halo_sensor_capture, 1 halo_tier_routing, 2 halo_expert_load, 3 halo_token_emit, 4 halo_tier_response.
//! Parent: 0 none; 255 given; else the receipt so many places before in the block: its id beside the block, and SHA-256 of its bytes.
//!
//! A receipt takes from the packed column, in this order: hmac_signature (32 bytes); if given, session_id (16), session_epoch (4,
//! big-endian), receipt_id (16), parent_receipt_hash (32) and parent_receipt_id (16), event_payload_hash (32). It takes from the text
//! column, if given, tenant_id and a byte FF; then its payload. Its bytes are the canonical JSON of these eleven
//! fields. A receipt that canonical JSON of its fields does not spell byte for byte is verbatim: a text, and its payload another.
//!
//! # Texts
//! A text is bytes of the text column up to FF. Bytes from F9 on stand for
//!
//! | byte | stands for | values | packed |
//! | --- | --- | --- | --- |
//! | FF | nothing: the text is over | | |
//! | FE | a whole number in decimal digits | the number | |
//! | FD | a string of lower-case hexadecimal digits, in its quotes | the number of bytes | the bytes |
//! | FC | a string in base64url without padding, in its quotes | the number of bytes | the bytes |
//! | FB | a UUID in lower case with hyphens, in its quotes | | 16 bytes |
//! | FA | a list of strings of hexadecimal digits, all of one length: `["…","…"]` | the number of strings; the bytes of each | their words |
//! | F9 | only as a text's first byte: the text is the following bytes of this column, and has no FF | the number of bytes | |
//!
//! A value is a signed varint: the value less the one that stood at the same place among the values of the last text of the same kind
//! that had such a place; less 0 for the first one, and at every place from the 65th on. Differences are taken modulo 2^32, from -2^31 to
//! 2^31 - 1. Kinds are those of receipts; a verbatim receipt and its payload are of a kind of their own.
//!
//! # Words
//! Each bitmap is cut into words of 16 bytes and a shorter last one, read as little-endian numbers of n bits. A word with k ones at
//! places p1 < … < pk stands as its rank, C(p1, 1) + … + C(pk, k), in as many bits as C(n, k) - 1 has, if k is at most 15 and these are
//! fewer than n; else as itself, in n bits. The bits of a list follow each other, the lowest first, from the lowest bit of
//! each byte on; zeros fill its last byte.

mod columns;
mod frame;
mod ranks;
mod rows;
#[cfg(test)]
mod tests;
mod text;

use halo_receipts::evidence::{BLOCK_MAX, StoredReceipt};
use halo_receipts::ids::{Hash, ReceiptId};

use columns::{Cursor, Reader, push_varint};
pub use frame::DICTIONARY;

/// The only version.
pub const VERSION: u8 = 2;
/// The most bytes of all receipts and payloads of a block, so that a small block cannot unpack into large ones.
pub const BODY_MAX: usize = 1 << 20;
/// The most bytes of a block's columns: what they take more than the receipts and payloads is less than 64 bytes a receipt.
pub const COLUMNS_MAX: usize = BODY_MAX + 64 * BLOCK_MAX;
/// The longest encoded block: with its ids and keys it fits an item of DynamoDB, which is at most 400 KiB.
pub const ENCODED_MAX: usize = 384 << 10;

const HEAD: usize = 10;
const CHECK: usize = 8;
/// The longest packed column that stands in the frame, where what it repeats is found; a longer one is the tail.
const PACKED_IN_FRAME: usize = 1 << 10;

/// Why a block could not be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// No receipt, or more than [`BLOCK_MAX`].
    #[error("a block holds 1 to {BLOCK_MAX} receipts, not {0}")]
    Count(usize),
    /// Ids that are not 16 bytes for each receipt.
    #[error("{0} receipts have {1} bytes of ids beside them, and not 16 each")]
    Ids(usize, usize),
    /// Receipts and payloads longer than [`BODY_MAX`].
    #[error(
        "the receipts and payloads of a block take {0} bytes, and at most {BODY_MAX} are allowed: cut the block smaller"
    )]
    Body(usize),
    /// An encoded block longer than [`ENCODED_MAX`].
    #[error(
        "the compressed block takes {0} bytes, and at most {ENCODED_MAX} are allowed: cut the block smaller"
    )]
    Encoded(usize),
    /// A block of a version that is not known here.
    #[error(
        "the block has version {0}, and this program knows version {VERSION}; use a program that knows that version"
    )]
    Version(u8),
    /// Bytes that are not what was written.
    #[error("the block is damaged: {0}")]
    Damaged(&'static str),
    /// The compressor refused to work.
    #[error("the block could not be compressed: {0}")]
    Compress(String),
}

/// The bytes of the receipts and payloads of a block, to cut blocks under [`BODY_MAX`].
pub fn body_len<'a>(receipts: impl IntoIterator<Item = &'a StoredReceipt>) -> usize {
    let len = |receipt: &StoredReceipt| {
        receipt.bytes.len() + receipt.payload.as_ref().map_or(0, Vec::len)
    };
    receipts.into_iter().map(len).sum()
}

/// Writes a block that stands beside these [`ids`]. The receipts are taken as bytes: whatever they are, they are read back so.
/// An id in a receipt that is another one than that beside the block is kept in the block.
pub fn encode(receipts: &[StoredReceipt], ids: &[u8]) -> Result<Vec<u8>, BlockError> {
    let count = u8::try_from(receipts.len()).map_err(|_| BlockError::Count(receipts.len()))?;
    if count == 0 || usize::from(count) > BLOCK_MAX {
        return Err(BlockError::Count(receipts.len()));
    }
    let (each, rest) = ids.as_chunks();
    if each.len() != receipts.len() || !rest.is_empty() {
        return Err(BlockError::Ids(receipts.len(), ids.len()));
    }
    let len = body_len(receipts);
    if len > BODY_MAX {
        return Err(BlockError::Body(len));
    }
    let columns = rows::write(receipts, each);
    let tail = match columns.packed.len() {
        ..=PACKED_IN_FRAME => 0,
        len => len,
    };
    let mut body = columns.join();
    let packed = body.split_off(body.len() - tail);
    let frame = frame::compress(&body)?;
    let mut out = Vec::with_capacity(HEAD + 10 + frame.len() + tail + CHECK);
    out.extend_from_slice(&[VERSION, count]);
    out.extend_from_slice(&check(ids));
    push_varint(&mut out, body.len() as u64);
    push_varint(&mut out, tail as u64);
    out.extend_from_slice(&frame);
    out.extend_from_slice(&packed);
    let checksum = check(&out);
    out.extend_from_slice(&checksum);
    if out.len() > ENCODED_MAX {
        return Err(BlockError::Encoded(out.len()));
    }
    Ok(out)
}

/// Reads a block back with the [`ids`] beside it. Any bytes are taken: what [`encode`] did not write is an error, never a
/// panic, and allocates no more than [`COLUMNS_MAX`] for the columns and [`BODY_MAX`] for the receipts.
pub fn decode(bytes: &[u8], ids: &[u8]) -> Result<Vec<StoredReceipt>, BlockError> {
    let damaged = BlockError::Damaged;
    let version = *bytes.first().ok_or(damaged("it is empty"))?;
    // A block of another version may end in another checksum, so the version is judged first.
    if version != VERSION {
        return Err(BlockError::Version(version));
    }
    if bytes.len() > ENCODED_MAX {
        return Err(damaged("it is too long"));
    }
    let (before, found) = bytes.split_last_chunk().ok_or(damaged("it is too short"))?;
    if check(before) != *found {
        return Err(damaged("its checksum differs"));
    }
    let mut head = Cursor(before);
    let short = || damaged("its head is cut off");
    let [_, count] = head.array().ok_or_else(short)?;
    let count = usize::from(count);
    if !(1..=BLOCK_MAX).contains(&count) {
        return Err(BlockError::Count(count));
    }
    let beside: [u8; CHECK] = head.array().ok_or_else(short)?;
    let (each, rest) = ids.as_chunks();
    if each.len() != count || !rest.is_empty() || check(ids) != beside {
        return Err(damaged(
            "the ids beside it are not those that it was written with",
        ));
    }
    let len = head.varint().ok_or_else(short)?;
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > COLUMNS_MAX {
        return Err(damaged("its columns are too long"));
    }
    let tail = head.varint().ok_or_else(short)?;
    let tail = usize::try_from(tail).unwrap_or(usize::MAX);
    let frame = head.0.len().checked_sub(tail);
    let (frame, packed) = head.0.split_at(frame.ok_or_else(short)?);
    let body = frame::decompress(frame, len).map_err(damaged)?;
    let packed = Some(packed).filter(|packed| !packed.is_empty());
    let unfit = || damaged("its columns do not make its receipts exactly");
    let mut columns = Reader::split(&body, packed).ok_or_else(unfit)?;
    let receipts = rows::read(&mut columns, each, BODY_MAX).ok_or_else(unfit)?;
    columns.is_empty().then_some(receipts).ok_or_else(unfit)
}

/// The first bytes of SHA-256.
fn check(bytes: &[u8]) -> [u8; CHECK] {
    let Hash(hash) = Hash::of(bytes);
    let mut short = [0; CHECK];
    short.copy_from_slice(&hash[..CHECK]);
    short
}

/// The index of a block: 16 bytes for each id, in the order of the receipts.
pub fn ids(ids: &[ReceiptId]) -> Vec<u8> {
    ids.iter().flat_map(|id| *id.as_bytes()).collect()
}

/// Reads an index. 16 bytes that are no UUID v4, and a last piece that is shorter, stand as an id that no receipt of the
/// block has, so that damage is seen and the places of the others stay right.
pub fn read_ids(bytes: &[u8]) -> Vec<ReceiptId> {
    let read = |piece: &[u8]| {
        let mut id = [0; 16];
        id[..piece.len()].copy_from_slice(piece);
        ReceiptId::from_bytes(id).unwrap_or_else(|_| ReceiptId::from_random(id.map(|byte| !byte)))
    };
    bytes.chunks(16).map(read).collect()
}
