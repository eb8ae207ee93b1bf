//! How a block of receipts is stored: one codec, version 1, for every backend.
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | number of receipts, 1 to 64 |
//! | 2 | 4 | length of the body in bytes, u32 big-endian, at most [`BODY_MAX`] |
//! | 6 | n | the body, compressed: exactly one zstd frame (RFC 8878) |
//! | last 16 | 16 | the first 16 bytes of SHA-256 over every byte before them |
//!
//! The body is, for each receipt, in order: the length of the full receipt (u16 big-endian), its bytes verbatim, the length
//! of its event payload plus one (u32 big-endian; 0 if it has none), the payload's bytes verbatim.
//!
//! The checksum tells damage (a flipped bit, a cut or an appended byte) from a block that was written so. It is no
//! protection: whoever can write the ledger can compute it. What stands in a block is proved by the receipts' own MACs.
//!
//! Beside a block stands its index, [`ids`]: the 16 bytes of each receipt's id, in order.

use halo_receipts::evidence::{BLOCK_MAX, StoredReceipt};
use halo_receipts::ids::{Hash, ReceiptId};

/// The only version so far.
pub const VERSION: u8 = 1;
/// The longest body, so that a small block cannot unpack into a large one.
pub const BODY_MAX: usize = 1 << 20;
/// The longest encoded block: with its ids and keys it fits an item of DynamoDB, which is at most 400 KiB.
pub const ENCODED_MAX: usize = 384 << 10;

const HEAD: usize = 6;
const CHECKSUM: usize = 16;
/// The fastest of zstd's usual levels. Hashes, MACs and bitmaps of experts are noise to a compressor: level 3 saves 1.5 % of the
/// bytes and takes a third more time.
const LEVEL: i32 = 1;

/// Why a block could not be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// No receipt, or more than [`BLOCK_MAX`].
    #[error("a block holds 1 to {BLOCK_MAX} receipts, not {0}")]
    Count(usize),
    /// A receipt longer than 65,535 bytes.
    #[error("a receipt of {0} bytes is longer than 65535")]
    Receipt(usize),
    /// A body longer than [`BODY_MAX`].
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
        "the block has version {0}, and this program knows version {VERSION}; use a newer program"
    )]
    Version(u8),
    /// Bytes that are not what was written.
    #[error("the block is damaged: {0}")]
    Damaged(&'static str),
    /// The compressor refused to work.
    #[error("the block could not be compressed: {0}")]
    Compress(String),
}

/// The bytes that the receipts take in a block before they are compressed, to cut blocks under [`BODY_MAX`].
pub fn body_len<'a>(receipts: impl IntoIterator<Item = &'a StoredReceipt>) -> usize {
    let len = |receipt: &StoredReceipt| {
        2 + receipt.bytes.len() + 4 + receipt.payload.as_ref().map_or(0, Vec::len)
    };
    receipts.into_iter().map(len).sum()
}

/// Writes a block. The receipts are taken as bytes; what they say is not looked at.
pub fn encode(receipts: &[StoredReceipt]) -> Result<Vec<u8>, BlockError> {
    let count = u8::try_from(receipts.len()).map_err(|_| BlockError::Count(receipts.len()))?;
    if count == 0 || usize::from(count) > BLOCK_MAX {
        return Err(BlockError::Count(receipts.len()));
    }
    let len = body_len(receipts);
    let too_long = || BlockError::Body(len);
    if len > BODY_MAX {
        return Err(too_long());
    }
    let mut body = Vec::with_capacity(len);
    for receipt in receipts {
        let bytes = &receipt.bytes;
        let short = u16::try_from(bytes.len()).map_err(|_| BlockError::Receipt(bytes.len()))?;
        body.extend_from_slice(&short.to_be_bytes());
        body.extend_from_slice(bytes);
        let payload = receipt.payload.as_deref();
        let plus_one = payload.map_or(0, |payload| payload.len() + 1);
        let plus_one = u32::try_from(plus_one).map_err(|_| too_long())?;
        body.extend_from_slice(&plus_one.to_be_bytes());
        body.extend_from_slice(payload.unwrap_or_default());
    }
    let compressed =
        zstd::bulk::compress(&body, LEVEL).map_err(|e| BlockError::Compress(e.to_string()))?;
    let mut out = Vec::with_capacity(HEAD + compressed.len() + CHECKSUM);
    out.push(VERSION);
    out.push(count);
    let len = u32::try_from(len).map_err(|_| too_long())?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&compressed);
    let checksum = checksum(&out);
    out.extend_from_slice(&checksum);
    if out.len() > ENCODED_MAX {
        return Err(BlockError::Encoded(out.len()));
    }
    Ok(out)
}

/// Reads a block back. Any bytes are taken: what [`encode`] did not write is an error, never a panic, and never allocates
/// more than [`BODY_MAX`].
pub fn decode(bytes: &[u8]) -> Result<Vec<StoredReceipt>, BlockError> {
    let damaged = BlockError::Damaged;
    let Some((&[version, count, a, b, c, d], rest)) = bytes.split_first_chunk::<HEAD>() else {
        return Err(damaged("it is too short"));
    };
    // A block of a later version may end in another checksum, so the version is judged first.
    if version != VERSION {
        return Err(BlockError::Version(version));
    }
    if bytes.len() > ENCODED_MAX {
        return Err(damaged("it is too long"));
    }
    let Some((frame, found)) = rest.split_last_chunk::<CHECKSUM>() else {
        return Err(damaged("it is too short"));
    };
    if checksum(&bytes[..bytes.len() - CHECKSUM]) != *found {
        return Err(damaged("its checksum differs"));
    }
    let count = usize::from(count);
    if !(1..=BLOCK_MAX).contains(&count) {
        return Err(BlockError::Count(count));
    }
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if len > BODY_MAX {
        return Err(BlockError::Body(len));
    }
    // One frame and nothing behind it: more frames would be unpacked too, and skippable ones would hide bytes.
    if zstd::zstd_safe::find_frame_compressed_size(frame) != Ok(frame.len()) {
        return Err(damaged("it is not exactly one zstd frame"));
    }
    let body = zstd::bulk::decompress(frame, len)
        .map_err(|_| damaged("it does not unpack into the length that it names"))?;
    if body.len() != len {
        return Err(damaged("it does not unpack into the length that it names"));
    }
    split(&body, count).ok_or(damaged("its receipts do not fill it exactly"))
}

/// The body's receipts, if there are exactly `count` and nothing behind them.
fn split(mut body: &[u8], count: usize) -> Option<Vec<StoredReceipt>> {
    let mut receipts = Vec::with_capacity(count);
    for _ in 0..count {
        let (len, rest) = body.split_first_chunk::<2>()?;
        let (bytes, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        let (plus_one, rest) = rest.split_first_chunk::<4>()?;
        let (payload, rest) = match u32::from_be_bytes(*plus_one).checked_sub(1) {
            Some(len) => {
                let (payload, rest) = rest.split_at_checked(len as usize)?;
                (Some(payload.to_vec()), rest)
            }
            None => (None, rest),
        };
        receipts.push(StoredReceipt {
            bytes: bytes.to_vec(),
            payload,
        });
        body = rest;
    }
    body.is_empty().then_some(receipts)
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let Hash(hash) = Hash::of(bytes);
    let mut short = [0; CHECKSUM];
    short.copy_from_slice(&hash[..CHECKSUM]);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn receipts() -> impl Strategy<Value = Vec<StoredReceipt>> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..700);
        let payload = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
        let receipt =
            (bytes, payload).prop_map(|(bytes, payload)| StoredReceipt { bytes, payload });
        proptest::collection::vec(receipt, 1..=BLOCK_MAX)
    }

    /// The bytes with a checksum that fits them, to reach the checks behind it.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.extend_from_slice(&checksum(&bytes));
        bytes
    }

    fn block(count: u8, len: u32, frame: &[u8]) -> Vec<u8> {
        sealed([&[VERSION, count], &len.to_be_bytes()[..], frame].concat())
    }

    fn receipt(bytes: Vec<u8>, payload: Option<Vec<u8>>) -> StoredReceipt {
        StoredReceipt { bytes, payload }
    }

    /// Bytes that do not compress.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn written_blocks_read_back(receipts in receipts()) {
            let bytes = encode(&receipts).unwrap();
            prop_assert_eq!(decode(&bytes), Ok(receipts));
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&bytes).is_err());
            // The same behind a right head and checksum.
            let _ = decode(&block(1, bytes.len() as u32, &bytes));
            let mut sealed = sealed(bytes);
            sealed[0] = VERSION;
            let _ = decode(&sealed);
        }

        #[test]
        fn any_body_splits_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..300), count in 0usize..70) {
            if let Some(receipts) = split(&body, count) {
                prop_assert_eq!(body_len(&receipts), body.len());
            }
        }

        #[test]
        fn damage_is_detected(
            receipts in receipts(),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
            tail in proptest::collection::vec(any::<u8>(), 1..20),
        ) {
            let good = encode(&receipts).unwrap();
            let at = at.index(good.len());
            prop_assert!(decode(&good[..at]).is_err());
            let mut flipped = good.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(decode(&flipped).is_err());
            prop_assert!(decode(&[good, tail].concat()).is_err());
        }

        #[test]
        fn indexes_read_back(random in proptest::collection::vec(any::<[u8; 16]>(), 0..70)) {
            let list: Vec<_> = random.into_iter().map(ReceiptId::from_random).collect();
            prop_assert_eq!(read_ids(&ids(&list)), list);
        }
    }

    #[test]
    fn what_no_writer_writes_is_refused_behind_a_right_checksum() {
        let body = [&[0, 1, b'{'][..], &0u32.to_be_bytes()].concat();
        let frame = zstd::bulk::compress(&body, LEVEL).unwrap();
        let len = body.len() as u32;
        assert_eq!(
            decode(&block(1, len, &frame)),
            Ok(vec![receipt(vec![b'{'], None)])
        );

        let skippable = [
            &0x184D_2A50u32.to_le_bytes()[..],
            &3u32.to_le_bytes(),
            b"abc",
        ]
        .concat();
        let empty = zstd::bulk::compress(&[], LEVEL).unwrap();
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], LEVEL).unwrap();
        for (what, bytes) in [
            ("no receipts", block(0, len, &frame)),
            ("too many receipts", block(65, len, &frame)),
            ("fewer receipts than it says", block(2, len, &frame)),
            (
                "a body that is shorter than it says",
                block(1, len + 1, &frame),
            ),
            (
                "a body that is longer than it says",
                block(1, len - 1, &frame),
            ),
            (
                "a body over the limit",
                block(1, BODY_MAX as u32 + 1, &frame),
            ),
            (
                "a second frame",
                block(1, len, &[&frame[..], &empty].concat()),
            ),
            (
                "a skippable frame behind",
                block(1, len, &[&frame[..], &skippable].concat()),
            ),
            (
                "a skippable frame before",
                block(1, len, &[&skippable[..], &frame].concat()),
            ),
            (
                "a byte behind the frame",
                block(1, len, &[&frame[..], &[0]].concat()),
            ),
            ("no frame", block(1, 0, &[])),
            ("a bomb that owns up", block(1, 64 << 20, &bomb)),
            ("a bomb that does not", block(1, BODY_MAX as u32, &bomb)),
        ] {
            assert!(decode(&bytes).is_err(), "{what}");
        }
        let newer = sealed([&[2, 1][..], &len.to_be_bytes(), &frame].concat());
        assert_eq!(decode(&newer), Err(BlockError::Version(2)));
    }

    #[test]
    fn limits() {
        let one = receipt(vec![b'x'; 571], Some(vec![b'y'; 100]));
        assert_eq!(encode(&[]), Err(BlockError::Count(0)));
        assert_eq!(encode(&vec![one.clone(); 65]), Err(BlockError::Count(65)));
        assert_eq!(encode(&vec![one.clone(); 300]), Err(BlockError::Count(300)));
        let long = receipt(vec![b'x'; 65_536], None);
        assert_eq!(encode(&[long]), Err(BlockError::Receipt(65_536)));
        let full = receipt(Vec::new(), Some(vec![0; BODY_MAX - 6]));
        assert_eq!(body_len([&full]), BODY_MAX);
        assert_eq!(
            decode(&encode(std::slice::from_ref(&full)).unwrap()),
            Ok(vec![full.clone()])
        );
        assert_eq!(encode(&[full, one]), Err(BlockError::Body(BODY_MAX + 677)));
        let dense = receipt(Vec::new(), Some(noise(ENCODED_MAX)));
        assert!(matches!(encode(&[dense]), Err(BlockError::Encoded(len)) if len > ENCODED_MAX));
    }

    #[test]
    fn damaged_indexes_keep_their_places() {
        let id = ReceiptId::from_random([7; 16]);
        let mut bytes = ids(&[id, id]);
        // The version's bits alone: to set them right again would hide the damage.
        bytes[6] ^= 0x10;
        let read = read_ids(&bytes);
        assert_eq!(read.len(), 2);
        assert_ne!(read[0], id);
        assert_eq!(read[1], id);
        assert_eq!(read_ids(&bytes[..17]).len(), 2);
    }
}
