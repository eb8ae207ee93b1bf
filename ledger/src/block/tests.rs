use super::*;
use crate::conformance::Sample;
use halo_receipts::evidence::Stream;
use proptest::prelude::*;

fn receipts() -> impl Strategy<Value = Vec<StoredReceipt>> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..700);
    let payload = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
    let receipt = (bytes, payload).prop_map(|(bytes, payload)| StoredReceipt { bytes, payload });
    proptest::collection::vec(receipt, 1..=BLOCK_MAX)
}

/// Texts of what texts are made of, which need not be JSON.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        "[0-9]{1,12}",
        "\"[0-9a-f]{0,80}\"",
        "\"[A-Za-z0-9_-]{40,90}\"",
        "\"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\"",
        "\\[(\"[0-9a-f]{4}\",){0,3}\"[0-9a-f]{4}\"\\]",
        "\\[(\"[0-9a-f]{34}\",){0,3}\"[0-9a-f]{33,34}\"",
        "[\"\\\\\\[\\],{}:a0\u{7f}é]{0,6}",
    ];
    proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat().into_bytes())
}

fn ids_of(count: usize) -> Vec<u8> {
    (0..16 * count).map(|at| (at * at % 251) as u8).collect()
}

/// The bytes with a checksum that fits them, to reach the checks behind it.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend_from_slice(&check(&bytes));
    bytes
}

/// A block without a tail.
fn block(count: u8, len: usize, frame: &[u8]) -> Vec<u8> {
    let mut bytes = vec![VERSION, count];
    bytes.extend_from_slice(&check(&ids_of(usize::from(count))));
    push_varint(&mut bytes, len as u64);
    bytes.push(0);
    bytes.extend_from_slice(frame);
    sealed(bytes)
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

/// Written and read; the columns are not longer than the decoder takes.
fn turned(receipts: &[StoredReceipt], ids: &[u8]) -> Result<Vec<StoredReceipt>, BlockError> {
    let columns = rows::write(receipts, ids.as_chunks().0);
    assert!(columns.join().len() <= body_len(receipts) + 64 * receipts.len());
    decode(&encode(receipts, ids)?, ids)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn written_blocks_read_back(receipts in receipts()) {
        prop_assert_eq!(turned(&receipts, &ids_of(receipts.len())), Ok(receipts));
    }

    #[test]
    fn texts_read_back(texts in proptest::collection::vec((pieces(), proptest::option::of(pieces())), 1..8)) {
        let receipts: Vec<_> = texts.into_iter().map(|(bytes, payload)| receipt(bytes, payload)).collect();
        prop_assert_eq!(turned(&receipts, &ids_of(receipts.len())), Ok(receipts));
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(decode(&bytes, &ids_of(1)).is_err());
        // The same behind a right head and checksum.
        let _ = decode(&block(1, bytes.len(), &bytes), &ids_of(1));
        let mut bytes = bytes;
        bytes.insert(0, VERSION);
        let _ = decode(&sealed(bytes), &ids_of(1));
    }

    #[test]
    fn any_columns_are_read_without_a_panic(
        columns in proptest::array::uniform6(proptest::collection::vec(any::<u8>(), 0..100)),
        marks in proptest::collection::vec((0usize..100, 0xF8u8..), 0..20),
        flags in proptest::collection::vec((0u8..32, 0u8..16, 0u8..4), 0..4),
        count in 1usize..4,
    ) {
        let [times, values, ones, mut text, packed, rest] = columns;
        for (at, mark) in marks {
            text.insert(at % (text.len() + 1), mark);
        }
        let forms = flags.into_iter().flat_map(|(flags, kind, parent)| [flags, kind, parent]).chain(rest);
        let columns = columns::Columns { forms: forms.collect(), times, values, ones, text, packed, ..Default::default() };
        let body = columns.join();
        let limit = 10_000;
        let from = Reader::split(&body, None);
        let read = from.and_then(|mut from| rows::read(&mut from, ids_of(count).as_chunks().0, limit));
        prop_assert!(read.is_none_or(|receipts| body_len(&receipts) <= limit));
        let _ = decode(&block(count as u8, body.len(), &frame::compress(&body).unwrap()), &ids_of(count));
    }

    /// Columns that a writer wrote, with bytes changed, under a checksum that fits them.
    #[test]
    fn changed_columns_are_read_without_a_panic(
        first in 0usize..160,
        count in 1usize..=BLOCK_MAX,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let sample = Sample::from_model(1, 80, 3, 200).unwrap();
        let receipts = sample.block(Stream::Substrate, first, count).receipts;
        let ids = ids_of(receipts.len());
        let mut body = rows::write(&receipts, ids.as_chunks().0).join();
        for (at, new) in changes {
            let at = at.index(body.len());
            body[at] = new;
        }
        let frame = frame::compress(&body).unwrap();
        if let Ok(receipts) = decode(&block(receipts.len() as u8, body.len(), &frame), &ids) {
            prop_assert!(body_len(&receipts) <= BODY_MAX);
        }
    }

    #[test]
    fn damage_is_detected(
        receipts in receipts(),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        tail in proptest::collection::vec(any::<u8>(), 1..20),
    ) {
        let ids = ids_of(receipts.len());
        let good = encode(&receipts, &ids).unwrap();
        let cut = at.index(good.len());
        prop_assert!(decode(&good[..cut], &ids).is_err());
        let mut flipped = good.clone();
        flipped[cut] ^= 1 << bit;
        prop_assert!(decode(&flipped, &ids).is_err());
        let mut beside = ids.clone();
        beside[at.index(ids.len())] ^= 1 << bit;
        let named = |found: Result<_, BlockError>| found.unwrap_err().to_string().contains("the ids beside it");
        prop_assert!(named(decode(&good, &beside)));
        prop_assert!(named(decode(&good, &ids[..at.index(ids.len())])));
        prop_assert!(named(decode(&good, &[&ids[..], &tail].concat())));
        prop_assert!(decode(&[good, tail].concat(), &ids).is_err());
    }

    #[test]
    fn indexes_read_back(random in proptest::collection::vec(any::<[u8; 16]>(), 0..70)) {
        let list: Vec<_> = random.into_iter().map(ReceiptId::from_random).collect();
        prop_assert_eq!(read_ids(&ids(&list)), list);
    }
}

#[test]
fn what_no_writer_writes_is_refused_behind_a_right_checksum() {
    let one = [receipt(vec![b'{'], None)];
    let body = rows::write(&one, &[[0; 16]]).join();
    let frame = frame::compress(&body).unwrap();
    let len = body.len();
    assert_eq!(decode(&block(1, len, &frame), &ids_of(1)), Ok(one.to_vec()));

    let skippable = [
        &0x184D_2A50u32.to_le_bytes()[..],
        &3u32.to_le_bytes(),
        b"abc",
    ]
    .concat();
    let empty = zstd::bulk::compress(&[], 1).unwrap();
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let mut tail = block(1, len, &frame);
    tail.truncate(tail.len() - CHECK);
    let tail_at = tail.iter().rposition(|byte| *byte == 0x28).unwrap() - 1;
    assert_eq!(tail[tail_at], 0);
    tail[tail_at] = 200;
    for (what, count, bytes) in [
        ("no receipts", 0, block(0, len, &frame)),
        ("too many receipts", 65, block(65, len, &frame)),
        ("fewer receipts than it says", 2, block(2, len, &frame)),
        ("shorter columns than it says", 1, block(1, len + 1, &frame)),
        ("longer columns than it says", 1, block(1, len - 1, &frame)),
        (
            "columns over the limit",
            1,
            block(1, COLUMNS_MAX + 1, &frame),
        ),
        (
            "a second frame",
            1,
            block(1, len, &[&frame[..], &empty].concat()),
        ),
        (
            "a skippable frame behind",
            1,
            block(1, len, &[&frame[..], &skippable].concat()),
        ),
        (
            "a skippable frame before",
            1,
            block(1, len, &[&skippable[..], &frame].concat()),
        ),
        (
            "a byte behind the frame",
            1,
            block(1, len, &[&frame[..], &[0]].concat()),
        ),
        ("no frame", 1, block(1, 0, &[])),
        ("a bomb that owns up", 1, block(1, 64 << 20, &bomb)),
        ("a bomb that does not", 1, block(1, COLUMNS_MAX, &bomb)),
        ("a tail longer than the block", 1, sealed(tail)),
    ] {
        assert!(decode(&bytes, &ids_of(count)).is_err(), "{what}");
    }
    for other in [1, 3] {
        let block = sealed([&[other, 1][..], &frame].concat());
        assert_eq!(decode(&block, &ids_of(1)), Err(BlockError::Version(other)));
    }
}

/// A few bytes of runs do not unpack into more than a block may hold.
#[test]
fn runs_keep_to_the_limit() {
    let mut columns = columns::Columns::default();
    columns.forms.push(rows::VERBATIM);
    columns.text.extend_from_slice(&[text::BITMAPS, text::END]);
    let (count, width) = (BODY_MAX as u32 / 500, 250);
    let mut place = 0;
    columns.value(columns::KINDS - 1, &mut place, count);
    columns.value(columns::KINDS - 1, &mut place, width);
    columns.ones = vec![0; count as usize * (width as usize).div_ceil(16)];
    let body = columns.join();
    let bytes = block(1, body.len(), &frame::compress(&body).unwrap());
    assert!(bytes.len() < 100, "{}", bytes.len());
    assert!(matches!(
        decode(&bytes, &ids_of(1)),
        Err(BlockError::Damaged(_))
    ));
}

#[test]
fn limits() {
    let one = receipt(vec![b'x'; 571], Some(vec![b'y'; 100]));
    assert_eq!(encode(&[], &[]), Err(BlockError::Count(0)));
    for count in [65, 300] {
        let many = vec![one.clone(); count];
        assert_eq!(encode(&many, &ids_of(count)), Err(BlockError::Count(count)));
    }
    for len in [0, 15, 17, 32] {
        let ids = vec![0; len];
        assert_eq!(
            encode(std::slice::from_ref(&one), &ids),
            Err(BlockError::Ids(1, len))
        );
    }
    // The longest, of bytes that runs are made of or that no text has.
    for byte in [0, b'1', b'"', 0xFF] {
        let full = receipt(Vec::new(), Some(vec![byte; BODY_MAX]));
        assert_eq!(
            turned(std::slice::from_ref(&full), &ids_of(1)),
            Ok(vec![full.clone()])
        );
        let over = [full, one.clone()];
        assert_eq!(
            encode(&over, &ids_of(2)),
            Err(BlockError::Body(BODY_MAX + 671))
        );
    }
    let numbers = receipt(Vec::new(), Some(b"1,".repeat(BODY_MAX / 2)));
    assert_eq!(
        turned(std::slice::from_ref(&numbers), &ids_of(1)),
        Ok(vec![numbers])
    );
    let dense = receipt(Vec::new(), Some(noise(ENCODED_MAX)));
    let encoded = encode(&[dense], &ids_of(1));
    assert!(matches!(encoded, Err(BlockError::Encoded(len)) if len > ENCODED_MAX));
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
