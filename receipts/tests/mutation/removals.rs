//! Receipts and records that were taken out.

use halo_receipts::evidence::{Claim, ClaimKind, Evidence, Stream};
use halo_receipts::verdict::Code;

use crate::golden::{Builder, SECOND_EPOCH};
use crate::{codes, has, judge, remove, session, stored};

#[test]
fn no_single_receipt_can_be_taken_out() {
    let builder = session();
    let mut evidence = builder.evidence;
    let places: Vec<_> = stored(&mut evidence)
        .iter()
        .map(|(stream, number, _)| (*stream, *number))
        .collect();
    assert_eq!(places.len(), 19);
    for (stream, number) in places {
        let mut less = evidence.clone();
        remove(&mut less, stream, number);
        let verdict = judge(builder.session_id, &less);
        let last = (stream, number) == (Stream::Device, 10);
        // Without its last seal a session is intact and not whole; without any other receipt it is not intact.
        assert_eq!(
            verdict.exit_code,
            if last { 3 } else { 1 },
            "{stream} {number}"
        );
        if !last {
            let expected = [Code::SealCount, Code::SealRoot, Code::ParentMissing];
            assert!(
                expected.into_iter().any(|code| has(&verdict, code)),
                "{:?}",
                codes(&verdict)
            );
        }
    }
}

#[test]
fn a_gap_in_the_numbers_is_named() {
    let builder = session();
    for block in 0..builder.evidence.blocks.len() {
        let mut evidence = builder.evidence.clone();
        let gone = evidence.blocks.remove(block);
        evidence.attributes.clear();
        let last =
            gone.first + gone.ids.len() as u32 == evidence.next_number(gone.stream).max(gone.first);
        let verdict = judge(builder.session_id, &evidence);
        assert_ne!(verdict.exit_code, 0);
        if !last && evidence.next_number(gone.stream) > gone.first {
            assert!(has(&verdict, Code::StreamGap), "{:?}", codes(&verdict));
        }
    }
}

/// Every way in which the ends of both streams can be cut off.
#[test]
fn no_end_can_be_cut_off() {
    let builder = session();
    let cut = |device: u32, substrate: u32| {
        let mut evidence = builder.evidence.clone();
        for (stream, keep) in [(Stream::Device, device), (Stream::Substrate, substrate)] {
            for number in (keep..evidence.next_number(stream)).rev() {
                remove(&mut evidence, stream, number);
            }
        }
        evidence
    };
    let (all_device, all_substrate) = (
        builder.evidence.next_number(Stream::Device),
        builder.evidence.next_number(Stream::Substrate),
    );
    let mut codes_seen = Vec::new();
    for device in 0..=all_device {
        for substrate in 0..=all_substrate {
            let verdict = judge(builder.session_id, &cut(device, substrate));
            let whole = (device, substrate) == (all_device, all_substrate);
            assert_eq!(
                verdict.exit_code == 0,
                whole,
                "d to {device}, s to {substrate}"
            );
            codes_seen.push(verdict.exit_code);
        }
    }
    for code in [1, 3, 4] {
        assert!(codes_seen.contains(&code));
    }
}

/// What this schema cannot show, so that nobody relies on it: a session that is cut back to an earlier seal, with every
/// trace of what came after, is the session that ended there. Only an anchor outside the ledger tells the two apart.
#[test]
fn only_an_anchor_can_show_a_return_to_an_earlier_seal() {
    let mut builder = Builder::open(8);
    builder.capture(b"capture");
    builder.answer_locally("first", "answer");
    let earlier = builder.evidence.clone();
    builder.capture(b"capture");
    builder.answer_locally("second", "answer");
    assert_eq!(judge(builder.session_id, &builder.evidence).exit_code, 0);
    let verdict = judge(builder.session_id, &earlier);
    assert_eq!(verdict.exit_code, 0);
    let anchors = verdict
        .not_made
        .iter()
        .find(|not| not.check == "anchors")
        .unwrap();
    assert!(anchors.why.contains("cut off"));
}

#[test]
fn a_header_or_a_claim_cannot_be_taken_out() {
    let builder = session();
    let without_header = Evidence {
        header: None,
        ..builder.evidence.clone()
    };
    let verdict = judge(builder.session_id, &without_header);
    assert_eq!(
        (verdict.exit_code, codes(&verdict)),
        (1, vec!["header.missing".to_owned()])
    );
    for claim in 0..builder.evidence.claims.len() {
        let mut evidence = builder.evidence.clone();
        let taken: Claim = evidence.claims.remove(claim).parse().unwrap();
        let verdict = judge(builder.session_id, &evidence);
        if taken.kind == ClaimKind::Connection && taken.session_epoch < SECOND_EPOCH {
            // A device may sign while its connection does not stand, and record over a later one: nothing says that
            // this connection ever stood.
            assert_eq!(verdict.exit_code, 0);
            continue;
        }
        assert_eq!(verdict.exit_code, 1, "claim {claim}");
        let expected = [Code::EpochUnclaimed, Code::ClaimMissing];
        assert!(
            expected.into_iter().any(|code| has(&verdict, code)),
            "{:?}",
            codes(&verdict)
        );
    }
}

#[test]
fn an_epoch_cannot_be_taken_out_with_its_claims() {
    let builder = session();
    let mut evidence = builder.evidence.clone();
    evidence
        .claims
        .retain(|signed| signed.parse::<Claim>().unwrap().session_epoch != SECOND_EPOCH);
    let verdict = judge(builder.session_id, &evidence);
    assert_eq!(verdict.exit_code, 1);
    assert!(has(&verdict, Code::EpochUnclaimed));
}
