//! Bundles: every way to forge one, and that the book takes what is good.

use std::sync::Arc;

use halo_gateway::bundle::{Accepted, Book, BundleError, Terms, verify};
use halo_gateway::keyring::Keyring;
use halo_receipts::documents::EscalateRequest;
use halo_receipts::evidence::{BLOCK_MAX, Evidence};
use halo_receipts::ids::{Epoch, Hash, SessionId, Tier};
use halo_receipts::payload::{AnswerStatus, ContentPolicy, to_raw};
use halo_receipts::receipt::ReceiptKind;

use crate::author::{Author, Written, infer, record, request_id};

const EPOCH: Epoch = Epoch(1_900_000_000);
const PROMPT: &str = "What is in bay 7?";

fn author() -> Author {
    Author::new(SessionId::from_random([9; 16]), EPOCH)
}

fn check(
    author: &Author,
    evidence: &Evidence,
    request: &EscalateRequest,
) -> Result<Accepted, BundleError> {
    let keys: Arc<dyn halo_receipts::keys::TenantKeys> = author.keys.clone();
    let mut ring = Keyring::new(keys, author.tenant.clone(), author.session);
    let mut book = Book::read(evidence, author.session, &author.tenant).unwrap();
    let terms = Terms {
        epoch: author.epoch,
        content: author.content,
        max_tokens: 100,
    };
    // A document is parsed before it is verified, so these go the same way.
    let parsed = EscalateRequest::parse(&request.to_json().unwrap()).unwrap();
    verify(&mut book, &mut ring, &terms, &parsed)
}

#[test]
fn a_good_question_and_its_seal() {
    let mut author = author();
    let capture = author.capture();
    let routing = author.routing(request_id(1), PROMPT);
    let empty = author.evidence(&[], &[]);
    let asked = infer(request_id(1), &[&capture, &routing], PROMPT);
    let accepted = check(&author, &empty, &asked).unwrap();
    assert_eq!(accepted.routing, Some(routing.receipt.body.receipt_id));
    assert_eq!(accepted.blocks.len(), 1);
    assert_eq!(
        accepted.blocks[0].receipts,
        [capture.stored(), routing.stored()]
    );

    // Sent again, because the device never heard of it: nothing is written twice.
    let device = [capture, routing];
    let stands = author.evidence(&device, &[]);
    assert!(check(&author, &stands, &asked).unwrap().blocks.is_empty());

    let (step, _) = author.step(0, device[1].receipt.as_parent(), "Pallets.");
    let answer = author.answer(
        request_id(1),
        step[1].receipt.as_parent(),
        0,
        &step,
        "Pallets.",
    );
    let [load, emit] = step;
    let substrate = [load, emit, answer];
    let answered = author.evidence(&device, &substrate);
    assert!(matches!(
        check(&author, &answered, &asked),
        Err(BundleError::Answered)
    ));
    let seal = author.seal(
        substrate[2].receipt.as_parent(),
        AnswerStatus::Ok,
        "Pallets.",
    );
    let accepted = check(&author, &answered, &record(request_id(1), &[&seal])).unwrap();
    assert_eq!(accepted.blocks[0].first, 2);
}

#[test]
fn a_seal_over_other_receipts_is_refused() {
    let mut author = author();
    let device = [author.capture(), author.routing(request_id(1), PROMPT)];
    let (step, _) = author.step(0, device[1].receipt.as_parent(), "Pallets.");
    let answer = author.answer(
        request_id(1),
        step[1].receipt.as_parent(),
        0,
        &step,
        "Pallets.",
    );
    let [load, emit] = step;
    let substrate = [load, emit, answer];
    let evidence = author.evidence(&device, &substrate);
    let parent = substrate[2].receipt.as_parent();
    for forge in [
        |author: &mut Author| author.s[0] = Hash([0; 32]),
        |author: &mut Author| author.d[0] = Hash([0; 32]),
        |author: &mut Author| author.s.truncate(2),
        |author: &mut Author| author.s.swap(0, 1),
    ] {
        let (d, s) = (author.d.clone(), author.s.clone());
        forge(&mut author);
        let seal = author.seal(parent, AnswerStatus::Ok, "Pallets.");
        let refused = check(&author, &evidence, &record(request_id(1), &[&seal]));
        assert!(matches!(refused, Err(BundleError::Seal(_))), "{refused:?}");
        (author.d, author.s) = (d, s);
    }
    // One that counts more than the ledger shows may be right.
    for more in [
        |author: &mut Author| author.s.push(Hash([0; 32])),
        |author: &mut Author| author.d.push(Hash([0; 32])),
    ] {
        let (d, s) = (author.d.clone(), author.s.clone());
        more(&mut author);
        let seal = author.seal(parent, AnswerStatus::Ok, "Pallets.");
        let refused = check(&author, &evidence, &record(request_id(1), &[&seal]));
        assert!(
            matches!(refused, Err(BundleError::Behind(_))),
            "{refused:?}"
        );
        (author.d, author.s) = (d, s);
    }
}

/// Signs a changed copy of a receipt.
fn resigned(
    author: &Author,
    written: &Written,
    tier: Tier,
    change: impl FnOnce(&mut halo_receipts::receipt::Unsigned),
) -> Written {
    let mut body = written.receipt.body.clone();
    change(&mut body);
    Written {
        receipt: body.sign(&author.key(tier)),
        payload: written.payload.clone(),
    }
}

#[test]
fn forged_bundles() {
    let mut author = author();
    let capture = author.capture();
    let routing = author.routing(request_id(1), PROMPT);
    let empty = author.evidence(&[], &[]);
    let ask = |bundle: &[&Written]| infer(request_id(1), bundle, PROMPT);
    let name = |request: &EscalateRequest| match check(&author, &empty, request) {
        Ok(_) => "accepted",
        Err(error) => error.name(),
    };
    assert_eq!(name(&ask(&[&capture, &routing])), "accepted");

    // Signatures: one bit, the key of another tier, of another session.
    let mut flipped = capture.clone();
    flipped.receipt.hmac_signature[0] ^= 1;
    assert_eq!(name(&ask(&[&flipped, &routing])), "hmac");
    let wrong_tier = resigned(&author, &capture, Tier::Orchestrator, |_| {});
    assert_eq!(name(&ask(&[&wrong_tier, &routing])), "hmac");
    let stranger = Author::new(SessionId::from_random([8; 16]), EPOCH);
    let foreign_key = resigned(&stranger, &capture, Tier::Sensor, |_| {});
    assert_eq!(name(&ask(&[&foreign_key, &routing])), "hmac");
    let foreign = resigned(&author, &capture, Tier::Sensor, |body| {
        body.session_id = stranger.session
    });
    assert_eq!(name(&ask(&[&foreign, &routing])), "chain");

    // Epochs that were never claimed, before and after the connection's.
    for epoch in [EPOCH.0 - 1, EPOCH.0 + 1] {
        let mut other = Author::new(author.session, Epoch(epoch));
        let capture = other.capture();
        assert_eq!(name(&ask(&[&capture, &routing])), "epoch");
    }

    // A receipt that no device signs, even under the right key.
    let load = author.step(0, routing.receipt.as_parent(), "x").0[0].clone();
    author.s.clear();
    let name = |request: &EscalateRequest| match check(&author, &empty, request) {
        Ok(_) => "accepted",
        Err(error) => error.name(),
    };
    assert_eq!(name(&ask(&[&capture, &routing, &load])), "tier");

    // The chain: order, a gap, a repetition, another parent.
    assert_eq!(name(&ask(&[&routing, &capture])), "chain");
    assert_eq!(name(&ask(&[&routing])), "behind");
    let twin = resigned(&author, &capture, Tier::Sensor, |body| {
        body.event_payload_hash = Hash::of(b"other");
    });
    assert_eq!(name(&ask(&[&capture, &twin, &routing])), "differs");
    let orphan = resigned(&author, &routing, Tier::Orchestrator, |body| {
        body.parent = None
    });
    assert_eq!(name(&ask(&[&capture, &orphan])), "chain");
    let bent = resigned(&author, &routing, Tier::Orchestrator, |body| {
        if let Some(parent) = &mut body.parent {
            parent.hash = Hash([1; 32]);
        }
    });
    assert_eq!(name(&ask(&[&capture, &bent])), "chain");
    let wrong_kind = resigned(&author, &capture, Tier::Sensor, |body| {
        body.receipt_kind = ReceiptKind::TierRouting;
    });
    assert!(EscalateRequest::parse(&ask(&[&wrong_kind]).to_json().unwrap()).is_err());

    // The question: another prompt, another request, too many tokens, fields of other operations.
    let mut other = ask(&[&capture, &routing]);
    other.prompt = "What is in bay 8?".to_owned();
    assert_eq!(name(&other), "prompt");
    assert_eq!(
        name(&infer(request_id(2), &[&capture, &routing], PROMPT)),
        "prompt"
    );
    assert_eq!(name(&ask(&[&capture])), "prompt");
    let mut greedy = ask(&[&capture, &routing]);
    greedy.max_tokens = 101;
    assert_eq!(name(&greedy), "too_many_tokens");
    for (change, op) in [
        (
            (|r| r.max_tokens = 0) as fn(&mut EscalateRequest),
            ask(&[&capture, &routing]),
        ),
        (|r| r.prompt.clear(), ask(&[&capture, &routing])),
        (|r| r.last_step = Some(0), ask(&[&capture, &routing])),
        (|r| r.max_tokens = 1, record(request_id(1), &[&capture])),
        (|r| r.prompt.push('x'), record(request_id(1), &[&capture])),
        (|r| r.sampling.seed = 1, record(request_id(1), &[&capture])),
        (|_| {}, record(request_id(1), &[])),
        (|_| {}, ask(&[])),
    ] {
        let mut request = op;
        change(&mut request);
        assert_eq!(name(&request), "form");
    }
}

#[test]
fn a_payload_that_is_not_the_one_that_was_signed_does_not_parse() {
    let mut author = author();
    let capture = author.capture();
    let routing = author.routing(request_id(1), PROMPT);
    let mut request = infer(request_id(1), &[&capture, &routing], PROMPT);
    let text = String::from_utf8(routing.payload.clone().unwrap()).unwrap();
    let changed = text.replace("question", "anything");
    request.payloads[1] = Some(to_raw(changed.as_bytes()).unwrap());
    assert!(EscalateRequest::parse(&request.to_json().unwrap()).is_err());
    request.payloads[1] = None;
    assert!(EscalateRequest::parse(&request.to_json().unwrap()).is_err());
}

#[test]
fn private_content_stands_as_the_tenant_chose() {
    for (header, device, good) in [
        (ContentPolicy::Sealed, ContentPolicy::Sealed, true),
        (ContentPolicy::Omit, ContentPolicy::Omit, true),
        (ContentPolicy::Sealed, ContentPolicy::Omit, false),
        (ContentPolicy::Omit, ContentPolicy::Sealed, false),
    ] {
        let mut author = author();
        author.content = device;
        let capture = author.capture();
        let routing = author.routing(request_id(1), PROMPT);
        author.content = header;
        let empty = author.evidence(&[], &[]);
        let checked = check(
            &author,
            &empty,
            &infer(request_id(1), &[&capture, &routing], PROMPT),
        );
        match checked {
            Ok(_) => assert!(good),
            Err(error) => assert_eq!((good, error.name()), (false, "private")),
        }
    }
}

#[test]
fn long_bundles_are_cut_into_blocks() {
    let mut author = author();
    let captures: Vec<Written> = (0..70).map(|_| author.capture()).collect();
    let bundle: Vec<&Written> = captures[3..].iter().collect();
    let evidence = author.evidence(&captures[..3], &[]);
    let accepted = check(&author, &evidence, &record(request_id(1), &bundle)).unwrap();
    let cut: Vec<_> = accepted
        .blocks
        .iter()
        .map(|b| (b.first, b.receipts.len()))
        .collect();
    assert_eq!(cut, [(3, BLOCK_MAX), (67, 3)]);
}

#[test]
fn a_damaged_ledger_is_not_continued() {
    let mut author = author();
    let device = [author.capture(), author.capture()];
    let mut evidence = author.evidence(&device, &[]);
    let Ok(receipts) = &mut evidence.blocks[0].content else {
        panic!("the block is there");
    };
    receipts.remove(0);
    assert!(Book::read(&evidence, author.session, &author.tenant).is_err());
    evidence.blocks[0].content = Err("broken".to_owned());
    assert!(Book::read(&evidence, author.session, &author.tenant).is_err());
}
