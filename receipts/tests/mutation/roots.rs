//! Several roots at once. Whoever holds the ledger may write what they like into it, and must not be able to use the
//! choice of the root: the verdict is the one that the session's own root gives alone.

use halo_receipts::evidence::{Evidence, Header, Record as _};
use halo_receipts::ids::{SessionId, Tier};
use halo_receipts::keys::{KeyCheckValue, RootKeys, RootSecret, TenantKeys as _};
use halo_receipts::payload::to_canonical;
use halo_receipts::verdict::{Code, Integrity, Keys, Options, Roots, Verdict, verify};

use crate::golden::{self, Builder, FIRST_EPOCH};
use crate::{codes, has, stored};

/// A root that signed nothing.
const STRANGER: [u8; 40] = [7; 40];

fn roots(secrets: &[&[u8]]) -> Roots {
    let secret = |bytes: &&[u8]| RootSecret::new(bytes.to_vec()).unwrap();
    let mut roots = Roots::new(secret(&secrets[0]));
    for bytes in &secrets[1..] {
        roots.add(secret(bytes)).unwrap();
    }
    roots
}

/// The verdict with these roots, without the search for changed bytes.
fn judge(session: SessionId, evidence: &Evidence, secrets: &[&[u8]]) -> Verdict {
    let options = Options {
        searches: 0,
        ..Options::default()
    };
    let roots = roots(secrets);
    verify(
        session,
        evidence,
        &roots.of_session(&session, evidence),
        &options,
    )
}

/// The same session under the first root and under the next one.
fn twins() -> [(Builder, Vec<u8>); 2] {
    let twin = |keys| golden::session_under(keys, 1, &["One", "."], &["Yes"]);
    [
        (twin(golden::root_keys()), golden::root_bytes()),
        (twin(golden::next_root_keys()), golden::next_root_bytes()),
    ]
}

/// Every order in which the two roots and a stranger's can be given.
fn orders() -> [[Vec<u8>; 3]; 6] {
    let (a, b, c) = (
        golden::root_bytes(),
        golden::next_root_bytes(),
        STRANGER.to_vec(),
    );
    [
        [&a, &b, &c],
        [&a, &c, &b],
        [&b, &a, &c],
        [&b, &c, &a],
        [&c, &a, &b],
        [&c, &b, &a],
    ]
    .map(|order| order.map(Clone::clone))
}

/// The verdict in every order of the roots, which is the same.
fn judge_all(session: SessionId, evidence: &Evidence) -> Verdict {
    let verdicts = orders().map(|order| {
        let order: Vec<&[u8]> = order.iter().map(Vec::as_slice).collect();
        judge(session, evidence, &order)
    });
    for verdict in &verdicts {
        assert_eq!(codes(verdict), codes(&verdicts[0]));
        assert_eq!(verdict.receipts, verdicts[0].receipts);
        assert_eq!(verdict.keys, verdicts[0].keys);
    }
    let [verdict, ..] = verdicts;
    verdict
}

/// Asserts that many roots say what the session's own says alone.
fn same_as_alone(builder: &Builder, evidence: &Evidence, root: &[u8], what: &str) -> Verdict {
    let alone = judge(builder.session_id, evidence, &[root]);
    let verdict = judge_all(builder.session_id, evidence);
    assert_eq!(codes(&verdict), codes(&alone), "{what}");
    assert_eq!(
        (verdict.exit_code, verdict.keys, verdict.receipts),
        (alone.exit_code, alone.keys, alone.receipts),
        "{what}"
    );
    verdict
}

fn header(evidence: &Evidence) -> Header {
    evidence.header.as_ref().unwrap().parse().unwrap()
}

/// Writes over the header as somebody does who has no key.
fn forge(evidence: &mut Evidence, change: impl FnOnce(&mut Header)) {
    let mut header = header(evidence);
    change(&mut header);
    evidence.header.as_mut().unwrap().body = to_canonical(&header).unwrap();
}

/// Spoils every MAC by two digits, which no search for one byte finds.
fn spoil(evidence: &mut Evidence) {
    for (.., stored) in stored(evidence) {
        for at in [120, 130] {
            stored.bytes[at] = if stored.bytes[at] == b'0' { b'1' } else { b'0' };
        }
    }
    let claims = evidence.claims.iter_mut();
    for record in claims.chain(&mut evidence.header) {
        record.mac[3] ^= 0x11;
        record.mac[9] ^= 0x11;
    }
}

fn check_value(keys: &RootKeys) -> KeyCheckValue {
    keys.root().check_value
}

#[test]
fn each_session_passes_under_its_own_root() {
    for (builder, root) in twins() {
        let verdict = same_as_alone(&builder, &builder.evidence, &root, "untouched");
        assert_eq!(verdict.exit_code, 0);
        assert_eq!(verdict.receipts.signed, verdict.receipts.total);
    }
}

#[test]
fn the_same_root_is_held_once() {
    let mut roots = roots(&[&golden::root_bytes(), &STRANGER]);
    let again = |bytes: &[u8]| RootSecret::new(bytes.to_vec()).unwrap();
    assert_eq!(roots.add(again(&STRANGER)), Err(1));
    assert_eq!(roots.add(again(&golden::root_bytes())), Err(0));
    assert_eq!(roots.add(again(&golden::next_root_bytes())), Ok(()));
}

/// Every byte of the header, and of its MAC.
#[test]
fn a_changed_header_is_what_it_is_under_its_root() {
    for (builder, root) in twins() {
        let length = builder.evidence.header.as_ref().unwrap().body.len();
        for at in 0..length + 32 {
            let mut evidence = builder.evidence.clone();
            let record = evidence.header.as_mut().unwrap();
            match at.checked_sub(length) {
                None => record.body[at] ^= 1,
                Some(at) => record.mac[at] ^= 1,
            }
            let verdict = same_as_alone(&builder, &evidence, &root, &format!("byte {at}"));
            assert_eq!(
                (verdict.exit_code, verdict.integrity),
                (1, Integrity::Failed)
            );
        }
    }
}

#[test]
fn a_header_that_names_another_root_is_a_changed_header() {
    let named = [
        (
            1,
            check_value(&golden::root_keys()),
            golden::root_bytes(),
            "the first",
        ),
        (
            2,
            check_value(&golden::next_root_keys()),
            golden::next_root_bytes(),
            "the next",
        ),
        (
            3,
            RootSecret::new(STRANGER.to_vec()).unwrap().check_value(),
            STRANGER.to_vec(),
            "a stranger's",
        ),
        (4, KeyCheckValue([1; 8]), vec![], "none that is held"),
    ];
    for (builder, root) in twins() {
        for (generation, check_value, named, what) in &named {
            if *named == root {
                continue;
            }
            let mut evidence = builder.evidence.clone();
            forge(&mut evidence, |header| {
                header.root_generation = *generation;
                header.key_check_value = *check_value;
            });
            let verdict = same_as_alone(&builder, &evidence, &root, what);
            assert_eq!(
                (verdict.exit_code, codes(&verdict)),
                (1, vec!["header.mac.mismatch".to_owned()])
            );
        }
    }
}

/// A session whose root is not at hand is unverifiable; if its header names one that is, nothing excuses it.
#[test]
fn a_header_that_names_a_root_that_signed_nothing_fails() {
    let keys = RootKeys::new(RootSecret::new(vec![9; 32]).unwrap(), 3, false);
    let builder = golden::session_under(keys, 1, &["One", "."], &["Yes"]);
    let verdict = judge_all(builder.session_id, &builder.evidence);
    assert_eq!(
        (verdict.exit_code, codes(&verdict)),
        (5, vec!["root.checkValue.mismatch".to_owned()])
    );
    for named in [golden::root_keys(), golden::next_root_keys()] {
        let mut evidence = builder.evidence.clone();
        forge(&mut evidence, |header| {
            header.key_check_value = check_value(&named);
        });
        let verdict = judge_all(builder.session_id, &evidence);
        assert_eq!((verdict.exit_code, verdict.keys), (1, Keys::Ok));
        assert!(!has(&verdict, Code::RootMismatch));
    }
}

#[test]
fn without_a_header_the_root_is_the_one_that_signed() {
    for (builder, root) in twins() {
        let mut evidence = builder.evidence.clone();
        evidence.header = None;
        let verdict = same_as_alone(&builder, &evidence, &root, "no header");
        assert_eq!(
            (verdict.exit_code, codes(&verdict)),
            (1, vec!["header.missing".to_owned()])
        );
        assert_eq!(verdict.receipts.signed, verdict.receipts.total);
        spoil(&mut evidence);
        let verdict = judge_all(builder.session_id, &evidence);
        assert!(has(&verdict, Code::RootMismatch) && verdict.exit_code == 1);
    }
}

#[test]
fn what_is_changed_in_receipts_is_found_under_the_right_root() {
    for (builder, root) in twins() {
        let count = stored(&mut builder.evidence.clone()).len();
        for at in 0..count {
            let mut evidence = builder.evidence.clone();
            let bytes = &mut stored(&mut evidence)[at].2.bytes;
            let near_end = bytes.len() - 16;
            bytes[near_end] ^= 1;
            let verdict = same_as_alone(&builder, &evidence, &root, &format!("receipt {at}"));
            assert_eq!(verdict.exit_code, 1, "receipt {at}");
        }
        let mut evidence = builder.evidence.clone();
        spoil(&mut evidence);
        let verdict = same_as_alone(&builder, &evidence, &root, "every MAC");
        assert_eq!((verdict.exit_code, verdict.keys), (1, Keys::Ok));
    }
}

/// Whoever holds one root can write what it signs into a session of another one.
#[test]
fn nothing_of_one_root_passes_in_a_session_of_another() {
    let [(first, _), (next, _)] = twins();
    for (builder, other) in [(&first, &next), (&next, &first)] {
        let mut mixed = Vec::new();
        let mut evidence = builder.evidence.clone();
        evidence.header.clone_from(&other.evidence.header);
        mixed.push(evidence);
        for at in 0..builder.evidence.claims.len() {
            let mut evidence = builder.evidence.clone();
            evidence.claims[at] = other.evidence.claims[at].clone();
            mixed.push(evidence);
        }
        let mut theirs = other.evidence.clone();
        for (at, (.., theirs)) in stored(&mut theirs).into_iter().enumerate() {
            let mut evidence = builder.evidence.clone();
            *stored(&mut evidence)[at].2 = theirs.clone();
            mixed.push(evidence);
        }
        // The header's MAC and the root that it names are those of whoever forged it.
        let mut evidence = builder.evidence.clone();
        let mut forged = header(&evidence);
        forged.key_check_value = check_value(&other.keys);
        let key = other.session_key(FIRST_EPOCH).tier_key(Tier::Orchestrator);
        evidence.header = Some(forged.sign(&key).unwrap());
        mixed.push(evidence);
        for (at, evidence) in mixed.iter().enumerate() {
            let verdict = judge_all(builder.session_id, evidence);
            assert_eq!(
                (verdict.exit_code, verdict.keys),
                (1, Keys::Ok),
                "mixture {at}"
            );
        }
    }
}

#[test]
fn a_root_that_is_not_given_is_named_beside_those_that_are() {
    let [_, (next, root)] = twins();
    let given: [&[u8]; 2] = [&golden::root_bytes(), &STRANGER];
    let verdict = judge(next.session_id, &next.evidence, &given);
    assert_eq!((verdict.exit_code, verdict.integrity), (5, Integrity::Ok));
    assert_eq!(
        (verdict.keys, verdict.receipts.signed),
        (Keys::Unavailable, 0)
    );
    let found = &verdict.findings[0];
    assert_eq!(found.code, Code::RootMismatch);
    let value = |bytes: &[u8]| RootSecret::new(bytes.to_vec()).unwrap().check_value();
    for words in [
        format!("generation 2 with check value {}", value(&root)),
        format!("{}, {}", value(given[0]), value(given[1])),
        "give the root of generation 2".to_owned(),
    ] {
        assert!(found.detail.contains(&words), "{words} in {}", found.detail);
    }
}
