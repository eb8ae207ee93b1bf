//! Sessions to which nothing was done.

use halo_receipts::evidence::Stream;
use halo_receipts::ids::SessionId;
use halo_receipts::payload::{AnswerStatus, Answerer, ContentPolicy, Decision};
use halo_receipts::verdict::{
    Code, Completeness, Integrity, Keys, NoKeys, Options, SessionKeys, verify,
};

use crate::golden::{self, Builder, FIRST_EPOCH, SECOND_EPOCH};
use crate::{codes, has, judge, judge_with, session};

#[test]
fn the_golden_session_passes_and_says_what_was_checked() {
    let golden = golden::golden();
    let verdict = judge(golden.session_id, &golden.evidence);
    assert_eq!(codes(&verdict), Vec::<String>::new());
    assert_eq!(verdict.exit_code, 0);
    assert_eq!(
        verdict.summary(),
        "PASS - 29 receipts verified, chain intact"
    );
    assert_eq!(verdict.receipts.signed, 29);
    assert_eq!(verdict.epochs, [FIRST_EPOCH, SECOND_EPOCH]);
    assert_eq!(verdict.breaks.len(), 1);
    assert_eq!(verdict.breaks[0].broken_epoch, FIRST_EPOCH);
    let made: Vec<_> = verdict
        .checks
        .iter()
        .map(|check| (check.kind.name(), check.made, check.failed))
        .collect();
    assert_eq!(
        made,
        [
            ("header", 1, 0),
            ("claims", 6, 0),
            ("numbering", 29, 0),
            ("form", 29, 0),
            ("signatures", 29, 0),
            ("parents", 29, 0),
            ("payloads", 29, 0),
            ("attributes", 121, 0),
            ("answer_seals", 2, 0),
            ("session_seals", 3, 0),
            ("times", 28, 0),
        ]
    );
    assert!(verdict.proves().contains("holder of its key"));
}

#[test]
fn a_tenant_that_keeps_no_text_verifies_the_same() {
    let mut builder = Builder::open(5);
    builder.policy = ContentPolicy::Omit;
    builder.capture(b"capture");
    builder.escalate("prompt", &["an", "swer"], 64);
    let verdict = judge(builder.session_id, &builder.evidence);
    assert_eq!((verdict.exit_code, codes(&verdict)), (0, vec![]));
}

#[test]
fn session_keys_verify_their_session() {
    let builder = session();
    let mut keys = SessionKeys::new();
    keys.insert(FIRST_EPOCH, builder.session_key(FIRST_EPOCH));
    keys.insert(SECOND_EPOCH, builder.session_key(SECOND_EPOCH));
    let verdict = judge_with(builder.session_id, &builder.evidence, &keys);
    assert_eq!((verdict.exit_code, verdict.keys), (0, Keys::Ok));
}

#[test]
fn without_keys_the_structure_passes_and_says_that_no_signature_was_checked() {
    let builder = session();
    let verdict = judge_with(builder.session_id, &builder.evidence, &NoKeys);
    assert_eq!(codes(&verdict), Vec::<String>::new());
    assert_eq!((verdict.exit_code, verdict.keys), (0, Keys::Unavailable));
    assert!(verdict.summary().contains("NO SIGNATURE WAS CHECKED"));
    assert!(!verdict.summary().contains("PASS"));
    assert!(verdict.not_made.iter().any(|not| not.check == "signatures"));
    assert!(
        verdict
            .checks
            .iter()
            .all(|check| check.kind.name() != "signatures")
    );
}

#[test]
fn nothing_is_not_found() {
    let builder = session();
    let mut evidence = builder.evidence;
    evidence.blocks.clear();
    evidence.attributes.clear();
    let verdict = judge(builder.session_id, &evidence);
    assert_eq!(
        (verdict.exit_code, has(&verdict, Code::SessionNotFound)),
        (4, true)
    );
    let verdict = judge(builder.session_id, &Default::default());
    assert_eq!(verdict.exit_code, 4);
    assert!(!verdict.summary().contains("PASS"));
}

#[test]
fn every_moment_of_a_running_session_is_intact_and_incomplete() {
    let mut builder = Builder::open(3);
    let mut moments = Vec::new();
    builder.capture(b"capture");
    moments.push(builder.evidence.clone());
    let (routing, request) = builder.route(Decision::Escalate, "prompt");
    moments.push(builder.evidence.clone());
    let written = builder.steps(&routing, &["a", "b", "c"], 2);
    moments.push(builder.evidence.clone());
    let response = builder.seal_answer(
        &routing,
        request,
        &["a", "b", "c"],
        0,
        &written,
        AnswerStatus::Ok,
    );
    moments.push(builder.evidence.clone());
    for evidence in moments {
        let verdict = judge(builder.session_id, &evidence);
        assert_eq!(verdict.integrity, Integrity::Ok, "{:?}", codes(&verdict));
        assert_eq!(
            (verdict.exit_code, verdict.completeness),
            (3, Completeness::Open)
        );
    }
    builder.seal(&response, AnswerStatus::Ok, Answerer::Substrate, "abc");
    assert_eq!(judge(builder.session_id, &builder.evidence).exit_code, 0);
}

#[test]
fn tokens_without_a_seal_are_named() {
    let mut builder = Builder::open(3);
    builder.capture(b"capture");
    let (routing, _) = builder.route(Decision::Escalate, "prompt");
    builder.steps(&routing, &["a", "b"], 2);
    let verdict = judge(builder.session_id, &builder.evidence);
    assert_eq!(codes(&verdict), ["chain.leaf.unsealed", "seal.missing"]);
}

#[test]
fn an_interrupted_answer_is_not_a_pass() {
    let mut builder = Builder::open(4);
    builder.capture(b"capture");
    let (routing, request) = builder.route(Decision::Escalate, "prompt");
    let response = builder.answer(&routing, request, &["half"], 64, AnswerStatus::Interrupted);
    let verdict = judge(builder.session_id, &builder.evidence);
    assert_eq!(
        (verdict.exit_code, verdict.completeness),
        (3, Completeness::Open)
    );
    builder.seal(
        &response,
        AnswerStatus::Interrupted,
        Answerer::Substrate,
        "half",
    );
    let verdict = judge(builder.session_id, &builder.evidence);
    assert_eq!(
        (verdict.exit_code, verdict.completeness),
        (3, Completeness::Interrupted)
    );
    assert_eq!(codes(&verdict), ["seal.interrupted"]);
}

#[test]
fn an_epoch_that_nothing_sealed_is_not_a_pass() {
    let mut builder = Builder::open(4);
    builder.capture(b"capture");
    builder.answer_locally("prompt", "answer");
    assert_eq!(judge(builder.session_id, &builder.evidence).exit_code, 0);
    builder.rekey(SECOND_EPOCH);
    let verdict = judge(builder.session_id, &builder.evidence);
    assert_eq!(
        (verdict.exit_code, codes(&verdict)),
        (3, vec!["epoch.unsealed".to_owned()])
    );
}

#[test]
fn a_required_anchor_that_is_not_there() {
    let builder = session();
    let options = Options {
        require_anchor: true,
        ..Options::default()
    };
    let verdict = verify(
        builder.session_id,
        &builder.evidence,
        &golden::root_keys(),
        &options,
    );
    assert_eq!(
        (verdict.exit_code, codes(&verdict)),
        (3, vec!["anchor.missing".to_owned()])
    );
}

#[test]
fn a_clock_that_runs_backwards_is_a_warning() {
    let mut builder = Builder::open(6);
    builder.capture(b"capture");
    builder.turn_clock_back(121);
    builder.answer_locally("prompt", "answer");
    let verdict = judge(builder.session_id, &builder.evidence);
    assert!(has(&verdict, Code::TimeNonMonotonic));
    assert_eq!(verdict.exit_code, 0);
}

#[test]
fn another_sessions_evidence_does_not_pass_for_this_one() {
    let builder = session();
    let other = SessionId::from_random([9; 16]);
    let verdict = judge(other, &builder.evidence);
    assert_eq!(verdict.exit_code, 1);
    assert!(has(&verdict, Code::SessionBinding));
}

#[test]
fn the_json_is_versioned_and_carries_the_exit_code() {
    let mut builder = session();
    let json = serde_json::to_value(judge(builder.session_id, &builder.evidence)).unwrap();
    assert_eq!(json["format"], "halo-verdict/1");
    assert_eq!(json["exit_code"], 0);
    assert_eq!(json["integrity"], "ok");
    assert_eq!(json["completeness"], "sealed");
    assert_eq!(json["anchoring"], "none");
    assert_eq!(json["keys"], "ok");
    builder
        .evidence
        .blocks
        .retain(|block| block.stream == Stream::Device);
    let json = serde_json::to_value(judge(builder.session_id, &builder.evidence)).unwrap();
    assert_eq!(json["exit_code"], 1);
    assert!(
        json["findings"]
            .as_array()
            .is_some_and(|findings| !findings.is_empty())
    );
}
