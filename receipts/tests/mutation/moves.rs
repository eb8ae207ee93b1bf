//! Receipts that were repeated, moved, brought from elsewhere, or signed by someone who has the keys.

use halo_receipts::evidence::{StoredBlock, StoredReceipt, Stream};
use halo_receipts::ids::{Epoch, Hash, ReceiptId, Tier};
use halo_receipts::keys::TierKey;
use halo_receipts::payload::{
    AnswerStatus, Answerer, BlockRoot, Decision, SubstrateResponse, to_canonical,
};
use halo_receipts::receipt::{Receipt, ReceiptKind};
use halo_receipts::time::KeyMonth;
use halo_receipts::verdict::Code;

use crate::golden::{self, Builder, Content, Draft, FIRST_EPOCH, SECOND_EPOCH};
use crate::{codes, has, judge, session, stored};

/// Changes a stored receipt and signs it again, as a holder of the key can.
fn resign(stored: &mut StoredReceipt, key: &TierKey, change: impl FnOnce(&mut Receipt)) {
    let mut receipt = Receipt::parse(&stored.bytes).unwrap();
    change(&mut receipt);
    stored.bytes = receipt.body.sign(key).to_bytes();
}

#[test]
fn a_repeated_receipt_is_named() {
    let builder = session();
    let blocks = builder.evidence.blocks.len();
    for block in 0..blocks {
        let mut evidence = builder.evidence.clone();
        evidence.attributes.clear();
        let copied = &mut evidence.blocks[block];
        let (stream, first) = (copied.stream, copied.first);
        let receipts = copied.content.as_mut().unwrap();
        receipts.push(receipts[0].clone());
        copied.ids.push(copied.ids[0]);
        for later in evidence.blocks.iter_mut() {
            if later.stream == stream && later.first > first {
                later.first += 1;
            }
        }
        let verdict = judge(builder.session_id, &evidence);
        assert_eq!(verdict.exit_code, 1);
        assert!(
            has(&verdict, Code::ReceiptDuplicate),
            "{:?}",
            codes(&verdict)
        );
    }
}

#[test]
fn no_two_neighbours_can_change_places() {
    let builder = session();
    for stream in Stream::ALL {
        for number in 1..builder.evidence.next_number(stream) {
            let mut evidence = builder.evidence.clone();
            evidence.attributes.clear();
            let mut pair: Vec<_> = stored(&mut evidence)
                .into_iter()
                .filter(|(found, at, _)| *found == stream && (*at == number || *at + 1 == number))
                .map(|(.., stored)| stored)
                .collect();
            let [a, b] = &mut pair[..] else {
                panic!("two neighbours")
            };
            std::mem::swap(*a, *b);
            renew_ids(&mut evidence.blocks);
            let verdict = judge(builder.session_id, &evidence);
            assert_eq!(
                verdict.exit_code,
                1,
                "{stream} {number}: {:?}",
                codes(&verdict)
            );
        }
    }
}

/// Writes the ids beside the blocks again, as whoever rewrites the ledger would.
fn renew_ids(blocks: &mut [StoredBlock]) {
    for block in blocks {
        let receipts = block.content.as_ref().unwrap().iter();
        block.ids = receipts
            .map(|stored| Receipt::parse(&stored.bytes).unwrap().body.receipt_id)
            .collect();
    }
}

#[test]
fn a_receipt_of_another_session_does_not_fit() {
    let builder = session();
    let mut other = golden::session(2, &["One", "."], &["Yes"]).evidence;
    let others: Vec<_> = stored(&mut other)
        .into_iter()
        .map(|(.., stored)| stored.clone())
        .collect();
    for (place, foreign) in others.into_iter().enumerate() {
        let mut evidence = builder.evidence.clone();
        evidence.attributes.clear();
        *stored(&mut evidence)[place].2 = foreign;
        renew_ids(&mut evidence.blocks);
        let verdict = judge(builder.session_id, &evidence);
        assert_eq!(verdict.exit_code, 1);
        assert!(has(&verdict, Code::SessionBinding), "{:?}", codes(&verdict));
        assert!(!has(&verdict, Code::ReceiptHmac), "{:?}", codes(&verdict));
    }
}

#[test]
fn an_epoch_written_over_another_is_named() {
    let builder = session();
    let count = stored(&mut builder.evidence.clone()).len();
    for place in 0..count {
        let mut evidence = builder.evidence.clone();
        evidence.attributes.clear();
        let bytes = &mut stored(&mut evidence)[place].2.bytes;
        let text = String::from_utf8(bytes.clone()).unwrap();
        let (first, second) = (FIRST_EPOCH.to_string(), SECOND_EPOCH.to_string());
        let swapped = if text.contains(&first) {
            text.replace(&first, &second)
        } else {
            text.replace(&second, &first)
        };
        *bytes = swapped.into_bytes();
        let verdict = judge(builder.session_id, &evidence);
        assert_eq!(codes(&verdict), ["receipt.hmac.mismatch"]);
        let damage = verdict.findings[0].damage.as_ref().unwrap();
        assert_eq!(
            (damage.field.as_str(), damage.differing),
            ("session_epoch", 3)
        );
    }
}

#[test]
fn a_receipt_signed_again_in_another_epoch_breaks_the_chain() {
    let mut builder = session();
    builder.epoch = SECOND_EPOCH;
    let key = builder.tier_key(Tier::Sensor);
    let mut evidence = builder.evidence;
    evidence.attributes.clear();
    resign(stored(&mut evidence)[0].2, &key, |receipt| {
        receipt.body.session_epoch = SECOND_EPOCH
    });
    let verdict = judge(builder.session_id, &evidence);
    assert_eq!(verdict.exit_code, 1);
    for code in [Code::SessionBinding, Code::SealRoot] {
        assert!(has(&verdict, code), "{:?}", codes(&verdict));
    }
}

#[test]
fn the_key_of_another_month_is_another_key() {
    let builder = session();
    let root = halo_receipts::keys::RootSecret::new(golden::root_bytes()).unwrap();
    let february = root.tenant_key(&builder.tenant_id, KeyMonth::of(SECOND_EPOCH));
    let key = february
        .session_key(&builder.session_id, FIRST_EPOCH)
        .tier_key(Tier::Sensor);
    let mut evidence = builder.evidence;
    evidence.attributes.clear();
    resign(stored(&mut evidence)[0].2, &key, |_| {});
    let verdict = judge(builder.session_id, &evidence);
    assert_eq!(verdict.exit_code, 1);
    assert_eq!(codes(&verdict)[0], "receipt.hmac.mismatch");
    // The signature is the only field that changed, and the child's hash of the receipt shows it.
    assert_eq!(
        verdict.findings[0].damage.as_ref().unwrap().field,
        "hmac_signature"
    );
}

#[test]
fn two_receipts_under_one_number_are_a_fork() {
    let builder = session();
    for block in 0..builder.evidence.blocks.len() {
        let mut evidence = builder.evidence.clone();
        let again = evidence.blocks[block].clone();
        evidence.blocks.push(again);
        let verdict = judge(builder.session_id, &evidence);
        assert_eq!(verdict.exit_code, 1);
        assert!(has(&verdict, Code::ChainFork), "{:?}", codes(&verdict));
    }
}

#[test]
fn a_second_successor_is_a_fork_even_when_it_is_signed() {
    let mut builder = Builder::open(4);
    builder.capture(b"capture");
    let (routing, request) = builder.route(Decision::Escalate, "prompt");
    let written = builder.steps(&routing, &["a", "b"], 64);
    let load = &written[0][0];
    let again = Draft {
        tier: Tier::Substrate,
        kind: ReceiptKind::TokenEmit,
        parent: Some(load.as_parent()),
        content: Content::Payload(br#"{"commitment":"00","step":0,"v":1}"#.to_vec()),
    };
    let mut stored_token = builder
        .evidence
        .receipts(Stream::Substrate)
        .nth(1)
        .unwrap()
        .1
        .clone();
    let id = ReceiptId::from_random(builder.random());
    let (mut receipt, _) = builder.sign(id, &again);
    receipt.body.event_payload_hash = Hash::of(stored_token.payload.as_ref().unwrap());
    stored_token.bytes = receipt
        .body
        .sign(&builder.tier_key(Tier::Substrate))
        .to_bytes();
    builder.store(Stream::Substrate, vec![stored_token]);
    let verdict = judge(builder.session_id, &builder.evidence);
    assert_eq!(verdict.exit_code, 1);
    assert!(has(&verdict, Code::ChainFork), "{:?}", codes(&verdict));
    let _ = request;
}

#[test]
fn a_receipt_in_the_wrong_stream_is_named() {
    let builder = session();
    let mut evidence = builder.evidence.clone();
    evidence.attributes.clear();
    let moved = stored(&mut evidence).pop().unwrap().2.clone();
    let block = StoredBlock {
        stream: Stream::Device,
        first: evidence.next_number(Stream::Device),
        ids: vec![Receipt::parse(&moved.bytes).unwrap().body.receipt_id],
        content: Ok(vec![moved]),
    };
    evidence.blocks.push(block);
    let verdict = judge(builder.session_id, &evidence);
    assert_eq!(verdict.exit_code, 1);
    assert!(has(&verdict, Code::ReceiptTier), "{:?}", codes(&verdict));
}

/// Rewrites the payload of tier 2's seal and signs it, in a session that ends there.
fn with_answer_seal(change: impl FnOnce(&mut SubstrateResponse)) -> Vec<String> {
    let mut builder = Builder::open(4);
    builder.capture(b"capture");
    let (routing, request) = builder.route(Decision::Escalate, "prompt");
    let tokens = ["a", "b", "c"];
    builder.answer(&routing, request, &tokens, 2, AnswerStatus::Ok);
    let key = builder.tier_key(Tier::Substrate);
    let mut evidence = builder.evidence;
    let mut all = stored(&mut evidence);
    let last = &mut all.last_mut().unwrap().2;
    let mut response: SubstrateResponse =
        halo_receipts::payload::from_canonical(last.payload.as_ref().unwrap()).unwrap();
    change(&mut response);
    let payload = to_canonical(&response).unwrap();
    resign(last, &key, |receipt| {
        receipt.body.event_payload_hash = Hash::of(&payload)
    });
    last.payload = Some(payload);
    let verdict = judge(builder.session_id, &evidence);
    let failed = codes(&verdict)
        .into_iter()
        .filter(|code| !code.starts_with("seal.missing"));
    failed.collect()
}

#[test]
fn a_seal_that_does_not_hold_is_named_even_when_it_is_signed() {
    assert_eq!(with_answer_seal(|_| {}), Vec::<String>::new());
    assert_eq!(
        with_answer_seal(|seal| seal.root = Hash([1; 32])),
        ["seal.root.mismatch"]
    );
    assert_eq!(
        with_answer_seal(|seal| seal.blocks[1].root = Hash([1; 32])),
        ["seal.root.mismatch:block 1"]
    );
    assert_eq!(
        with_answer_seal(|seal| seal.receipts = 4),
        ["seal.count.mismatch"]
    );
    assert_eq!(
        with_answer_seal(|seal| seal.first = 1),
        ["seal.count.mismatch"]
    );
    assert_eq!(
        with_answer_seal(|seal| {
            seal.blocks.pop();
        }),
        ["seal.count.mismatch"]
    );
    assert_eq!(
        with_answer_seal(|seal| seal.blocks.push(BlockRoot {
            first: 6,
            count: u32::MAX,
            root: Hash([0; 32])
        })),
        ["seal.root.mismatch:block 3", "seal.count.mismatch"]
    );
    assert_eq!(
        with_answer_seal(|seal| seal.last_receipt_id = seal.first_receipt_id),
        ["seal.ids.mismatch"]
    );
    assert_eq!(
        with_answer_seal(
            |seal| seal.request_id = halo_receipts::ids::RequestId::from_random([5; 16])
        ),
        ["session.binding.mismatch"]
    );
}

#[test]
fn a_claim_that_stands_twice_is_named() {
    let builder = session();
    let mut evidence = builder.evidence;
    let again = evidence.claims[1].clone();
    evidence.claims.push(again);
    let verdict = judge(builder.session_id, &evidence);
    assert_eq!(
        (verdict.exit_code, codes(&verdict)),
        (1, vec!["claim.duplicate".to_owned()])
    );
}

#[test]
fn a_receipt_of_an_epoch_that_nobody_claimed() {
    let mut builder = Builder::open(4);
    builder.capture(b"capture");
    builder.epoch = Epoch(FIRST_EPOCH.0 + 5);
    let (routing, _) = builder.route(Decision::Local, "prompt");
    builder.seal(&routing, AnswerStatus::Ok, Answerer::Local, "answer");
    let verdict = judge(builder.session_id, &builder.evidence);
    assert_eq!(verdict.exit_code, 1);
    assert!(has(&verdict, Code::EpochUnclaimed), "{:?}", codes(&verdict));
}
