//! Blocks that are larger than an item may be.

use halo_ledger::conformance::Sample;
use halo_ledger::{Appended, Ledger as _, LedgerError};
use halo_receipts::evidence::Stream::Device;
use halo_receipts::evidence::{Block, StoredReceipt};
use halo_receipts::ids::{Hash, ReceiptId, Tier};
use halo_receipts::receipt::{ReceiptKind, Unsigned};

use super::proxy::Mode;
use super::spill::{Spilling, spilling};
use super::{begin, hasty};

/// An item that DynamoDB would refuse is neither sent nor spilled: it could never be drained.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_over_400_kib_is_refused_before_it_is_sent() {
    let Spilling {
        proxy,
        ledger,
        folder: _folder,
        ..
    } = spilling(hasty()).await;
    let sample = Sample::new(1, 1).unwrap();
    begin(&ledger, &sample).await;
    // Not compressible, and each with its searchable copy beside it.
    let receipts = (0..64)
        .map(|number| routing(&sample, number, 6_000))
        .collect();
    let mut block = Block {
        stream: Device,
        first: 0,
        receipts,
    };
    let before = proxy.done();
    for mode in [Mode::Pass, Mode::Cut] {
        proxy.set(mode);
        let refused = ledger.append(&sample.session, &block).await;
        let Err(LedgerError::Invalid(text)) = refused else {
            panic!("{refused:?}")
        };
        assert!(
            text.contains("at most 409600 are allowed: cut the block smaller"),
            "{text}"
        );
    }
    assert_eq!(proxy.done(), before);
    proxy.set(Mode::Pass);
    block.receipts.truncate(32);
    let appended = ledger.append(&sample.session, &block).await;
    assert_eq!(appended, Ok(Appended::Written));
    let evidence = ledger.snapshot(&sample.session).await.unwrap().unwrap();
    assert_eq!(evidence.blocks[0].content, Ok(block.receipts));
}

/// A receipt of the orchestrator with a payload of noise.
fn routing(sample: &Sample, number: u8, len: usize) -> StoredReceipt {
    let hashes = (0u32..).flat_map(|at| Hash::of(&[&[number][..], &at.to_be_bytes()].concat()).0);
    let payload: Vec<u8> = hashes.take(len).collect();
    let body = Unsigned {
        event_payload_hash: Hash::of(&payload),
        parent: None,
        receipt_id: ReceiptId::from_random([number; 16]),
        receipt_kind: ReceiptKind::TierRouting,
        session_epoch: sample.epoch,
        session_id: sample.session,
        tenant_id: sample.tenant.clone(),
        tier: Tier::Orchestrator,
        timestamp_utc: sample.opened_at,
    };
    StoredReceipt {
        bytes: body.sign(&sample.tier_key(Tier::Orchestrator)).to_bytes(),
        payload: Some(payload),
    }
}
