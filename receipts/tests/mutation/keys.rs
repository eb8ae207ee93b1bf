//! Keys that are missing or wrong, which is never taken for tampering, and tampering that tries to look like it.

use halo_receipts::evidence::{Header, Record as _};
use halo_receipts::ids::Tier;
use halo_receipts::keys::{KeyCheckValue, RootKeys, RootSecret, SessionKey};
use halo_receipts::payload::to_canonical;
use halo_receipts::verdict::{Code, Integrity, Keys, SessionKeys};

use crate::golden::{FIRST_EPOCH, SECOND_EPOCH};
use crate::{codes, has, judge, judge_with, session, stored};

fn other_root(generation: u32) -> RootKeys {
    RootKeys::new(RootSecret::new(vec![7; 32]).unwrap(), generation, false)
}

#[test]
fn another_root_is_unverifiable_and_not_tampering() {
    let builder = session();
    for generation in [1, 2] {
        let verdict = judge_with(
            builder.session_id,
            &builder.evidence,
            &other_root(generation),
        );
        assert_eq!(codes(&verdict), ["root.checkValue.mismatch"]);
        assert_eq!((verdict.exit_code, verdict.integrity), (5, Integrity::Ok));
        assert_eq!(
            (verdict.keys, verdict.receipts.signed),
            (Keys::Unavailable, 0)
        );
        assert!(verdict.summary().starts_with("UNVERIFIABLE"));
    }
}

#[test]
fn the_right_root_under_another_number_is_the_right_root() {
    let builder = session();
    let root = RootKeys::new(
        RootSecret::new(crate::golden::root_bytes()).unwrap(),
        9,
        false,
    );
    assert_eq!(
        judge_with(builder.session_id, &builder.evidence, &root).exit_code,
        0
    );
}

#[test]
fn what_structure_shows_is_tampering_whatever_the_root() {
    let builder = session();
    let mut evidence = builder.evidence;
    stored(&mut evidence)[3].2.payload.as_mut().unwrap()[10] ^= 1;
    let verdict = judge_with(builder.session_id, &evidence, &other_root(1));
    assert_eq!(verdict.exit_code, 1);
    assert!(has(&verdict, Code::PayloadHash));
}

/// Whoever changes the check value in the header wants the root to be taken for another one.
#[test]
fn a_changed_check_value_is_tampering_when_the_root_signs_the_rest() {
    let mut builder = session();
    let header = builder.evidence.header.as_mut().unwrap();
    let mut forged: Header = header.parse().unwrap();
    forged.key_check_value = KeyCheckValue([1; 8]);
    header.body = to_canonical(&forged).unwrap();
    let verdict = judge(builder.session_id, &builder.evidence);
    assert_eq!(
        (verdict.exit_code, codes(&verdict)),
        (1, vec!["header.mac.mismatch".to_owned()])
    );
}

#[test]
fn with_the_right_check_value_broken_signatures_are_tampering() {
    let builder = session();
    let mut evidence = builder.evidence;
    for (.., stored) in stored(&mut evidence) {
        // Two digits of each signature, which no search for one byte finds.
        for at in [120, 130] {
            stored.bytes[at] = if stored.bytes[at] == b'0' { b'1' } else { b'0' };
        }
    }
    let verdict = judge(builder.session_id, &evidence);
    assert_eq!(verdict.exit_code, 1);
    let count = verdict
        .findings
        .iter()
        .filter(|finding| finding.code == Code::ReceiptHmac)
        .count();
    assert_eq!(count, 19);
}

#[test]
fn a_missing_or_wrong_session_key_is_unverifiable() {
    let builder = session();
    let mut keys = SessionKeys::new();
    keys.insert(FIRST_EPOCH, builder.session_key(FIRST_EPOCH));
    let verdict = judge_with(builder.session_id, &builder.evidence, &keys);
    assert_eq!(
        (verdict.exit_code, codes(&verdict)),
        (5, vec!["key.unavailable".to_owned()])
    );
    assert!(verdict.receipts.signed > 0);

    keys.insert(SECOND_EPOCH, SessionKey::from_bytes([9; 32]));
    let verdict = judge_with(builder.session_id, &builder.evidence, &keys);
    assert_eq!(
        (verdict.exit_code, codes(&verdict)),
        (5, vec!["key.mismatch".to_owned()])
    );

    let verdict = judge_with(builder.session_id, &builder.evidence, &SessionKeys::new());
    assert_eq!(
        (verdict.exit_code, codes(&verdict)),
        (5, vec!["key.unavailable".to_owned()])
    );
}

#[test]
fn a_session_key_still_finds_tampering_in_its_epoch() {
    let builder = session();
    let mut keys = SessionKeys::new();
    keys.insert(FIRST_EPOCH, builder.session_key(FIRST_EPOCH));
    let mut evidence = builder.evidence;
    evidence.attributes.clear();
    stored(&mut evidence)[1].2.bytes[560] ^= 1;
    let verdict = judge_with(builder.session_id, &evidence, &keys);
    assert_eq!(verdict.exit_code, 1);
    assert_eq!(
        codes(&verdict),
        ["receipt.hmac.mismatch", "key.unavailable"]
    );
}

#[test]
fn a_demo_root_is_said_loudly() {
    let mut builder = session();
    let key = {
        builder.epoch = FIRST_EPOCH;
        builder.tier_key(Tier::Orchestrator)
    };
    let mut header: Header = builder.evidence.header.as_ref().unwrap().parse().unwrap();
    header.demo_root = true;
    builder.evidence.header = Some(header.sign(&key).unwrap());
    let verdict = judge(builder.session_id, &builder.evidence);
    assert_eq!(verdict.exit_code, 0);
    assert!(verdict.demo_root() && has(&verdict, Code::RootDemo));
}
