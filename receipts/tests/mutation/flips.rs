//! Bytes that were changed where they are stored.

use std::sync::atomic::{AtomicUsize, Ordering};

use halo_receipts::attribution::field_of;
use halo_receipts::evidence::Evidence;
use halo_receipts::ids::SessionId;
use halo_receipts::receipt::Receipt;
use halo_receipts::verdict::{Code, NoKeys, Verdict};

use crate::{codes, has, judge, judge_with, session, stored};

/// Runs `test` on every item in as many threads as there are cores.
fn on_all<T: Sync>(items: &[T], test: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    test(item);
                }
            });
        }
    });
}

/// The verdict names this byte of this receipt, and nothing else.
fn assert_named(verdict: &Verdict, right: &Receipt, at: usize, old: u8, new: u8) {
    let place = format!(
        "byte {at} of {} from {old:02x} to {new:02x}",
        right.body.receipt_id
    );
    assert_eq!(verdict.exit_code, 1, "{place}");
    assert_eq!(codes(verdict), ["receipt.hmac.mismatch"], "{place}");
    let finding = &verdict.findings[0];
    let subject = finding.subject.unwrap();
    assert_eq!(subject.id, Some(right.body.receipt_id), "{place}");
    assert_eq!(subject.kind, Some(right.body.receipt_kind), "{place}");
    let damage = finding.damage.as_ref().expect(&place);
    assert_eq!(damage.offset, at, "{place}");
    assert_eq!(damage.field, field_of(right, at), "{place}");
    assert_eq!((damage.old, damage.new), (Some(old), Some(new)), "{place}");
    assert_eq!(damage.differing, 1, "{place}");
}

#[test]
fn every_byte_of_every_receipt_flipped_in_eight_ways_is_named() {
    let builder = session();
    let mut evidence = builder.evidence;
    // No searchable copies: what is known must come from the chain itself, and from the search.
    evidence.attributes.clear();
    let receipts = stored(&mut evidence).len();
    let places: Vec<usize> = (0..receipts).collect();
    on_all(&places, |&place| {
        let mut evidence = evidence.clone();
        let bytes = stored(&mut evidence)[place].2.bytes.clone();
        let right = Receipt::parse(&bytes).unwrap();
        for (at, &old) in bytes.iter().enumerate() {
            for bit in 0..8 {
                let new = old ^ (1 << bit);
                stored(&mut evidence)[place].2.bytes[at] = new;
                let verdict = judge(builder.session_id, &evidence);
                assert_named(&verdict, &right, at, old, new);
            }
            stored(&mut evidence)[place].2.bytes[at] = old;
        }
    });
}

#[test]
fn with_searchable_copies_the_byte_is_named_too() {
    let builder = session();
    let mut evidence = builder.evidence;
    for place in 0..stored(&mut evidence).len() {
        let bytes = stored(&mut evidence)[place].2.bytes.clone();
        let right = Receipt::parse(&bytes).unwrap();
        for at in (place % 7..bytes.len()).step_by(7) {
            let new = bytes[at] ^ 2;
            stored(&mut evidence)[place].2.bytes[at] = new;
            let verdict = judge(builder.session_id, &evidence);
            assert_named(&verdict, &right, at, bytes[at], new);
            stored(&mut evidence)[place].2.bytes[at] = bytes[at];
        }
    }
}

/// With no key a receipt that has a child is still named to the byte, by the hash that the child holds of it.
#[test]
fn without_keys_a_changed_parent_is_named_by_its_child() {
    let builder = session();
    let mut evidence = builder.evidence;
    evidence.attributes.clear();
    let parents: Vec<_> = stored(&mut evidence)
        .iter()
        .filter_map(|(.., stored)| Receipt::parse(&stored.bytes).unwrap().body.parent)
        .map(|parent| parent.id)
        .collect();
    let last = stored(&mut evidence)[10].2.bytes.clone();
    let last = Receipt::parse(&last).unwrap().body.receipt_id;
    let mut named = 0;
    for place in 0..stored(&mut evidence).len() {
        let bytes = stored(&mut evidence)[place].2.bytes.clone();
        let right = Receipt::parse(&bytes).unwrap();
        for at in (place % 23..bytes.len()).step_by(23) {
            let new = bytes[at] ^ 1;
            stored(&mut evidence)[place].2.bytes[at] = new;
            let verdict = judge_with(builder.session_id, &evidence, &NoKeys);
            // Nothing but its own signature commits to the last receipt of a session.
            let last = right.body.receipt_id == last;
            assert!(
                verdict.exit_code != 0 || last,
                "byte {at} of receipt {place}"
            );
            if parents.contains(&right.body.receipt_id) {
                let finding = &verdict.findings[0];
                let damage = finding.damage.as_ref();
                let damage =
                    damage.unwrap_or_else(|| panic!("byte {at} of receipt {place}: {finding:?}"));
                assert_eq!(finding.subject.unwrap().id, Some(right.body.receipt_id));
                assert_eq!((damage.offset, damage.old), (at, Some(bytes[at])));
                named += 1;
            }
            stored(&mut evidence)[place].2.bytes[at] = bytes[at];
        }
    }
    assert!(named > 200, "{named}");
}

#[test]
fn a_changed_payload_is_named_with_its_receipt_and_byte() {
    let builder = session();
    let mut evidence = builder.evidence;
    for place in 0..stored(&mut evidence).len() {
        let Some(payload) = stored(&mut evidence)[place].2.payload.clone() else {
            continue;
        };
        let right = Receipt::parse(&stored(&mut evidence)[place].2.bytes).unwrap();
        for at in (place % 61..payload.len()).step_by(61) {
            let new = payload[at] ^ 4;
            stored(&mut evidence)[place].2.payload.as_mut().unwrap()[at] = new;
            let verdict = judge(builder.session_id, &evidence);
            let place = format!("byte {at} of the payload of {}", right.body.receipt_id);
            assert_eq!(
                (verdict.exit_code, codes(&verdict)),
                (1, vec!["payload.hash.mismatch".to_owned()]),
                "{place}"
            );
            let finding = &verdict.findings[0];
            assert_eq!(
                finding.subject.unwrap().id,
                Some(right.body.receipt_id),
                "{place}"
            );
            let damage = finding.damage.as_ref().expect(&place);
            assert_eq!(
                (damage.offset, damage.old, damage.new),
                (at, Some(payload[at]), Some(new)),
                "{place}"
            );
            stored_payload(&mut evidence, at, payload[at], &right);
        }
    }
}

fn stored_payload(evidence: &mut Evidence, at: usize, byte: u8, receipt: &Receipt) {
    let bytes = receipt.to_bytes();
    for (.., stored) in stored(evidence) {
        if stored.bytes == bytes {
            stored.payload.as_mut().unwrap()[at] = byte;
        }
    }
}

#[test]
fn a_payload_that_is_gone_or_was_added_is_a_failure() {
    let builder = session();
    let count = stored(&mut builder.evidence.clone()).len();
    for place in 0..count {
        let mut evidence = builder.evidence.clone();
        let payload = &mut stored(&mut evidence)[place].2.payload;
        *payload = match payload {
            Some(_) => None,
            None => Some(b"{}".to_vec()),
        };
        let verdict = judge(builder.session_id, &evidence);
        assert_eq!(verdict.exit_code, 1);
        assert_eq!(codes(&verdict)[0], "payload.hash.mismatch");
    }
}

#[test]
fn a_payload_too_broken_to_repair_is_one_finding_and_spoils_no_other_check() {
    let builder = session();
    let count = stored(&mut builder.evidence.clone()).len();
    for place in 0..count {
        let mut evidence = builder.evidence.clone();
        let Some(payload) = &mut stored(&mut evidence)[place].2.payload else {
            continue;
        };
        payload.reverse();
        let verdict = judge(builder.session_id, &evidence);
        assert_eq!(verdict.exit_code, 1);
        let failures: Vec<_> = codes(&verdict)
            .into_iter()
            .filter(|code| !code.starts_with("seal.missing"))
            .collect();
        assert_eq!(failures, ["payload.hash.mismatch"], "receipt {place}");
    }
}

#[test]
fn bytes_after_a_receipt_are_named() {
    let builder = session();
    let count = stored(&mut builder.evidence.clone()).len();
    for place in 0..count {
        for tail in [&b"\n"[..], b"}", b"{\"more\":1}"] {
            let mut evidence = builder.evidence.clone();
            evidence.attributes.clear();
            let bytes = &mut stored(&mut evidence)[place].2.bytes;
            let at = bytes.len();
            bytes.extend_from_slice(tail);
            let verdict = judge(builder.session_id, &evidence);
            assert_eq!(
                (verdict.exit_code, codes(&verdict)),
                (1, vec!["receipt.hmac.mismatch".to_owned()])
            );
            let damage = verdict.findings[0].damage.clone().unwrap();
            assert_eq!(
                (damage.offset, damage.old, damage.new),
                (at, None, Some(tail[0]))
            );
        }
    }
}

#[test]
fn a_receipt_cut_short_is_a_failure() {
    let builder = session();
    for cut in [0, 1, 87, 88, 171, 300, usize::MAX] {
        let mut evidence = builder.evidence.clone();
        evidence.attributes.clear();
        let bytes = &mut stored(&mut evidence)[12].2.bytes;
        bytes.truncate(cut.min(bytes.len() - 1));
        let verdict = judge(builder.session_id, &evidence);
        assert_eq!(verdict.exit_code, 1);
        assert!(
            has(&verdict, Code::ReceiptForm),
            "{cut}: {:?}",
            codes(&verdict)
        );
    }
}

/// Picks a record's body and MAC.
type Pick = fn(&mut Evidence) -> (&mut Vec<u8>, &mut [u8; 32]);

/// Changes bytes of a record; each one is named, and one of its MAC is seen.
fn flip_record(pick: Pick, codes_of: [Code; 2]) {
    let builder = session();
    let mut evidence = builder.evidence;
    let len = pick(&mut evidence).0.len();
    let check = |session: SessionId, evidence: &Evidence, at: usize| {
        let verdict = judge(session, evidence);
        assert_eq!(verdict.exit_code, 1, "byte {at}");
        let found = verdict
            .findings
            .iter()
            .find(|finding| codes_of.contains(&finding.code));
        let found = found.unwrap_or_else(|| panic!("byte {at}: {:?}", codes(&verdict)));
        found.damage.clone()
    };
    for at in (0..len).step_by(5) {
        let flip = |evidence: &mut Evidence| pick(evidence).0[at] ^= 1;
        flip(&mut evidence);
        let damage = check(builder.session_id, &evidence, at).unwrap();
        assert_eq!(damage.offset, at);
        flip(&mut evidence);
    }
    for at in (0..32).step_by(5) {
        let flip = |evidence: &mut Evidence| pick(evidence).1[at] ^= 0x80;
        flip(&mut evidence);
        check(builder.session_id, &evidence, at);
        flip(&mut evidence);
    }
}

#[test]
fn changed_header_bytes_never_pass() {
    flip_record(header_of, [Code::HeaderForm, Code::HeaderMac]);
}

fn header_of(evidence: &mut Evidence) -> (&mut Vec<u8>, &mut [u8; 32]) {
    let header = evidence.header.as_mut().unwrap();
    (&mut header.body, &mut header.mac)
}

#[test]
fn changed_claim_bytes_never_pass() {
    fn claim_of(evidence: &mut Evidence) -> (&mut Vec<u8>, &mut [u8; 32]) {
        let claim = &mut evidence.claims[3];
        (&mut claim.body, &mut claim.mac)
    }
    flip_record(claim_of, [Code::ClaimForm, Code::ClaimMac]);
}

#[test]
fn a_changed_copy_names_its_field() {
    let builder = session();
    for row in [0, 2, 5] {
        for field in 0..11 {
            let mut evidence = builder.evidence.clone();
            let (name, value) = &mut evidence.attributes[row].fields[field];
            let name = name.clone();
            *value = match value {
                Some(_) => None,
                None => Some("x".to_owned()),
            };
            let verdict = judge(builder.session_id, &evidence);
            assert_eq!(verdict.exit_code, 1);
            assert_eq!(
                codes(&verdict),
                [format!("receipt.attribute.mismatch:{name}")]
            );
        }
    }
}

#[test]
fn a_changed_id_beside_a_block_is_named() {
    let builder = session();
    for block in 0..builder.evidence.blocks.len() {
        let mut evidence = builder.evidence.clone();
        let other = halo_receipts::ids::ReceiptId::from_random([3; 16]);
        evidence.blocks[block].ids[0] = other;
        let verdict = judge(builder.session_id, &evidence);
        assert_eq!(
            (verdict.exit_code, codes(&verdict)),
            (1, vec!["block.ids.mismatch".to_owned()])
        );
    }
}

#[test]
fn a_block_that_cannot_be_read_is_named_once() {
    let builder = session();
    for block in 0..builder.evidence.blocks.len() {
        let mut evidence = builder.evidence.clone();
        evidence.attributes.clear();
        evidence.blocks[block].content = Err("the checksum differs".to_owned());
        let stream = evidence.blocks[block].stream;
        let verdict = judge(builder.session_id, &evidence);
        assert_eq!(verdict.exit_code, 1);
        let failures: Vec<_> = codes(&verdict)
            .into_iter()
            .filter(|code| !["seal.missing", "chain.leaf.unsealed"].contains(&code.as_str()))
            .collect();
        assert_eq!(failures, ["block.damaged"], "block {block} of {stream:?}");
        assert_eq!(verdict.findings[0].subject.unwrap().stream, stream);
    }
}
