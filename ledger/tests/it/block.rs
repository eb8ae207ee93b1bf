//! Blocks of real sessions: what is stored is small, and what comes back is what went in.

use halo_ledger::block::{self, BlockError};
use halo_ledger::conformance::Sample;
use halo_receipts::evidence::{BLOCK_MAX, StoredReceipt, Stream};
use halo_receipts::ids::ReceiptId;
use halo_receipts::receipt::Receipt;
use proptest::prelude::*;

fn ids(receipts: &[StoredReceipt]) -> Vec<u8> {
    let id = |stored: &StoredReceipt| Receipt::parse(&stored.bytes).unwrap().body.receipt_id;
    block::ids(&receipts.iter().map(id).collect::<Vec<ReceiptId>>())
}

/// Every receipt of a session, in blocks as they are written.
fn blocks(sample: &Sample, count: usize) -> Vec<Vec<StoredReceipt>> {
    let blocks = Stream::ALL.map(|stream| sample.blocks(stream, count));
    blocks
        .into_iter()
        .flatten()
        .map(|block| block.receipts)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sessions_read_back(seed in any::<u32>(), steps in 0u32..80, layers in 0usize..6, experts in 1usize..300, count in 1..=BLOCK_MAX) {
        let sample = Sample::from_model(seed.into(), steps, layers, experts).unwrap();
        for receipts in blocks(&sample, count) {
            let ids = ids(&receipts);
            let encoded = block::encode(&receipts, &ids).unwrap();
            prop_assert_eq!(block::decode(&encoded, &ids), Ok(receipts));
        }
    }

    /// Any single byte of any receipt or payload changed, cut out or put in.
    #[test]
    fn sessions_that_somebody_changed_read_back(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<bool>(), any::<prop::sample::Index>(), any::<u8>(), 0u8..4),
            1..4,
        ),
    ) {
        let sample = Sample::new(1, 40).unwrap();
        let blocks = blocks(&sample, BLOCK_MAX);
        let mut receipts = blocks[which.index(blocks.len())].clone();
        let ids = ids(&receipts);
        for (which, payload, at, new, how) in changes {
            let which = which.index(receipts.len());
            let stored = &mut receipts[which];
            let bytes = match &mut stored.payload {
                Some(bytes) if payload => bytes,
                _ => &mut stored.bytes,
            };
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = new,
                // A digit that looks as right as the one before.
                1 => bytes[at] = b"0123456789abcdef"[usize::from(new % 16)],
                2 => drop(bytes.remove(at)),
                _ => bytes.insert(at, new),
            }
        }
        let encoded = block::encode(&receipts, &ids).unwrap();
        prop_assert_eq!(block::decode(&encoded, &ids), Ok(receipts));
    }
}

/// What follows from the rest is not stored: of a token there are two MACs, two times, the sealed text and the experts, and a
/// little more.
#[test]
fn what_follows_from_the_rest_takes_no_room() {
    for (layers, experts, packed) in [(4, 32, 12), (48, 128, 246)] {
        let sample = Sample::from_model(1, 96, layers, experts).unwrap();
        let receipts = sample.block(Stream::Substrate, 64, 64).receipts;
        let sealed = receipts.iter().skip(1).step_by(2).map(|stored| {
            let payload = stored.payload.as_ref().unwrap();
            let digits = payload.len() - br#"{"sealed":"","step":32,"v":1}"#.len();
            digits * 3 / 4
        });
        let floor = 64 * (32 + 3) + sealed.sum::<usize>() + 32 * packed;
        let stored = block::encode(&receipts, &ids(&receipts)).unwrap().len();
        assert!(stored < floor + 256, "{stored} {floor}");
        // The first parent stands in an earlier block: its hash and its id are given.
        assert!(stored > floor + 48, "{stored} {floor}");
    }
}

/// Whoever changes an id in a receipt, and writes the block again, is seen at the place where it was changed.
#[test]
fn ids_that_differ_from_those_beside_are_kept() {
    let sample = Sample::new(1, 40).unwrap();
    let mut receipts = sample.block(Stream::Substrate, 0, 64).receipts;
    let beside = ids(&receipts);
    let mut changed = Receipt::parse(&receipts[7].bytes).unwrap();
    changed.body.receipt_id = ReceiptId::from_random([9; 16]);
    receipts[7].bytes = changed.to_bytes();
    let encoded = block::encode(&receipts, &beside).unwrap();
    assert_eq!(block::decode(&encoded, &beside), Ok(receipts.clone()));
    // Ids beside it that somebody changed alone are the damage, not all that follows from them.
    let damaged = block::decode(&encoded, &ids(&receipts));
    assert!(
        matches!(damaged, Err(BlockError::Damaged(text)) if text.contains("the ids beside it"))
    );
}
