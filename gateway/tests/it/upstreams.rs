//! The gateway's end of a pod's link, and answers that are rebuilt or closed from the ledger.

use std::sync::Arc;

use halo_gateway::keyring::Keyring;
use halo_gateway::stored_answer::{Closing, StoredAnswer};
use halo_gateway::upstream::{Received, Upstream};
use halo_receipts::chain::{Chain, Event};
use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd, Notice, Progress};
use halo_receipts::evidence::{Evidence, Stream};
use halo_receipts::fragment::{END_MAX, REQUEST_MAX, Reassembler, split};
use halo_receipts::frame::FrameType;
use halo_receipts::ids::{Epoch, Hash, ReceiptId, SessionId, Tier};
use halo_receipts::link::{End, Link};
use halo_receipts::merkle;
use halo_receipts::messages::{Token, TokenOrNotice};
use halo_receipts::payload::{AnswerContent, AnswerStatus, ContentPolicy, Private, to_raw};
use halo_receipts::receipt::Receipt;
use halo_receipts::time::Timestamp;

use crate::author::{Author, Written, request_id, stored_block};

const EPOCH: Epoch = Epoch(1_900_000_000);

fn author() -> Author {
    Author::new(SessionId::from_random([6; 16]), EPOCH)
}

fn ring(author: &Author) -> Keyring {
    let keys: Arc<dyn halo_receipts::keys::TenantKeys> = author.keys.clone();
    Keyring::new(keys, author.tenant.clone(), author.session)
}

fn pair(author: &Author) -> (Upstream, Link) {
    let upstream = Upstream::new(ring(author), EPOCH, request_id(1), 3).unwrap();
    let key = Arc::new(author.key(Tier::Substrate));
    (upstream, Link::new(End::Substrate, author.session, key))
}

fn end_of(answer: &Written) -> EscalateEnd {
    EscalateEnd {
        receipts: vec![answer.receipt.clone()],
        payloads: vec![Some(to_raw(answer.payload.as_ref().unwrap()).unwrap())],
        ..EscalateEnd::bare(request_id(1), EndStatus::Ok, EndCode::Ok)
    }
}

/// Sends an end over the link and says what became of its last fragment.
fn end_over(
    upstream: &mut Upstream,
    pod: &mut Link,
    end: &EscalateEnd,
) -> Result<Option<Received>, &'static str> {
    let mut last = Ok(None);
    for payload in split(&end.to_json().unwrap(), END_MAX).unwrap() {
        let frame = pod.send(FrameType::EscalateEnd, &payload).unwrap();
        last = upstream.receive(&frame).map_err(|error| error.name());
    }
    last
}

#[test]
fn the_document_arrives_as_it_was_and_tokens_come_in_order() {
    let mut author = author();
    let (mut upstream, mut pod) = pair(&author);
    let document = b"any document".repeat(100);
    let mut whole = Reassembler::new(REQUEST_MAX);
    let mut arrived = None;
    for frame in upstream.forward(&document).unwrap() {
        arrived = whole.push(pod.receive(&frame).unwrap().payload).unwrap();
    }
    assert_eq!(arrived.as_deref(), Some(document.as_slice()));

    let notice = Notice {
        state: Progress::Queued,
        position: 2,
        eta_ms: 0,
    };
    let frame = pod
        .send(FrameType::EscalateToken, &notice.encode().unwrap())
        .unwrap();
    assert!(matches!(
        upstream.receive(&frame),
        Ok(Some(Received::Notice(_)))
    ));
    author.capture();
    let routing = author.routing(request_id(1), "?");
    let (step, token) = author.step(0, routing.receipt.as_parent(), "One");
    let frame = pod
        .send(FrameType::EscalateToken, &token.encode().unwrap())
        .unwrap();
    let received = upstream.receive(&frame).unwrap();
    assert!(matches!(received, Some(Received::Token { text, .. }) if text == "One"));
    let answer = author.answer(request_id(1), step[1].receipt.as_parent(), 0, &step, "One");
    let received = end_over(&mut upstream, &mut pod, &end_of(&answer)).unwrap();
    assert!(matches!(received, Some(Received::End(end, _)) if end.receipts == [answer.receipt]));
}

#[test]
fn what_a_wrong_pod_sends() {
    let mut author = author();
    let token = |step| Token {
        step,
        token_id: 1,
        expert_load: Hash([0; 32]),
        token_emit: Hash([0; 32]),
        text: "x".to_owned(),
    };
    let payload = token(0).encode().unwrap();
    // Another key, another session, another direction, a step that is not the next one, no token at all.
    let (mut upstream, _) = pair(&author);
    let wrong = Arc::new(author.key(Tier::Orchestrator));
    let mut impostor = Link::new(End::Substrate, author.session, wrong);
    let frame = impostor.send(FrameType::EscalateToken, &payload).unwrap();
    assert_eq!(upstream.receive(&frame).unwrap_err().name(), "hmac");
    let other = SessionId::from_random([1; 16]);
    let mut impostor = Link::new(End::Substrate, other, Arc::new(author.key(Tier::Substrate)));
    let frame = impostor.send(FrameType::EscalateToken, &payload).unwrap();
    assert_eq!(upstream.receive(&frame).unwrap_err().name(), "tag");
    let (mut upstream, mut pod) = pair(&author);
    let frame = pod
        .send(FrameType::EscalateToken, &token(1).encode().unwrap())
        .unwrap();
    assert_eq!(upstream.receive(&frame).unwrap_err().name(), "step");
    let (mut upstream, mut pod) = pair(&author);
    for step in 0..3 {
        let frame = pod
            .send(FrameType::EscalateToken, &token(step).encode().unwrap())
            .unwrap();
        assert!(upstream.receive(&frame).is_ok());
    }
    let frame = pod
        .send(FrameType::EscalateToken, &token(3).encode().unwrap())
        .unwrap();
    assert_eq!(upstream.receive(&frame).unwrap_err().name(), "too_many");
    let (mut upstream, mut pod) = pair(&author);
    let frame = pod.send(FrameType::EscalateToken, b"\0\0\0\x02").unwrap();
    assert_eq!(upstream.receive(&frame).unwrap_err().name(), "message");

    // Ends: of another request, without their response, with another tier's, another epoch's, a forged one.
    author.capture();
    let routing = author.routing(request_id(1), "?");
    let answer = author.answer(request_id(1), routing.receipt.as_parent(), 0, &[], "");
    let mut foreign = end_of(&answer);
    foreign.request_id = request_id(2);
    let bare = EscalateEnd::bare(request_id(1), EndStatus::Ok, EndCode::Ok);
    let recorded = EscalateEnd::bare(request_id(1), EndStatus::Recorded, EndCode::Ok);
    let mut forged = end_of(&answer);
    forged.receipts[0].hmac_signature[0] ^= 1;
    let mut twice = end_of(&answer);
    let again = end_of(&answer);
    twice.receipts.extend(again.receipts);
    twice.payloads.extend(again.payloads);
    let routed = end_of(&routing);
    let other_request = author.answer(request_id(3), routing.receipt.as_parent(), 0, &[], "");
    author.epoch = Epoch(EPOCH.0 + 1);
    let later = author.answer(request_id(1), routing.receipt.as_parent(), 0, &[], "");
    author.epoch = EPOCH;
    let ends = [
        foreign,
        bare,
        recorded,
        forged,
        twice,
        routed,
        end_of(&other_request),
        end_of(&later),
    ];
    for (at, end) in ends.iter().enumerate() {
        let (mut upstream, mut pod) = pair(&author);
        let refused = end_over(&mut upstream, &mut pod, end);
        assert_eq!(refused.err(), Some("foreign_end"), "{at}");
    }
    // A refusal needs no response.
    let refusal = EscalateEnd::bare(request_id(1), EndStatus::Refused, EndCode::ContextExceeded);
    let (mut upstream, mut pod) = pair(&author);
    assert!(matches!(
        end_over(&mut upstream, &mut pod, &refusal),
        Ok(Some(Received::End(..)))
    ));
}

/// A session whose answer has `steps` steps and, when `torn`, a load without its token.
fn broken(author: &mut Author, steps: u32, torn: bool) -> (Vec<Written>, Vec<Written>, Vec<Token>) {
    let device = vec![author.capture(), author.routing(request_id(1), "Where?")];
    let mut parent = device[1].receipt.as_parent();
    let (mut substrate, mut tokens) = (Vec::new(), Vec::new());
    for step in 0..steps + u32::from(torn) {
        let (written, token) = author.step(step, parent, &format!("t{step} "));
        parent = written[0].receipt.as_parent();
        substrate.extend(written);
        tokens.push(token);
    }
    if torn {
        substrate.pop();
        author.s.pop();
        tokens.pop();
    }
    (device, substrate, tokens)
}

fn find(author: &Author, evidence: &Evidence) -> StoredAnswer {
    StoredAnswer::find(evidence, &mut ring(author), request_id(1))
        .unwrap()
        .unwrap()
}

#[test]
fn an_answer_is_rebuilt_from_any_step_on() {
    for policy in [ContentPolicy::Sealed, ContentPolicy::Omit] {
        let mut author = author();
        author.content = policy;
        let (device, substrate, mut tokens) = broken(&mut author, 5, false);
        let evidence = author.evidence(&device, &substrate);
        let stored = find(&author, &evidence);
        assert_eq!(stored.token_count(), 5);
        assert!(stored.end().unwrap().is_none());
        if policy == ContentPolicy::Omit {
            // The text is nowhere; the hashes, from which the seal is rebuilt, are.
            for token in &mut tokens {
                (token.token_id, token.text) = (0, String::new());
            }
        }
        for from in 0..6 {
            let payloads = stored.token_payloads(from..).unwrap();
            let decoded = payloads.iter().map(|p| TokenOrNotice::decode(p).unwrap());
            let expected = tokens[from..].iter().cloned().map(TokenOrNotice::Token);
            assert!(decoded.eq(expected));
        }
        assert!(stored.token_payloads(7..).unwrap().is_empty());
    }
}

#[test]
fn an_answer_that_broke_off_is_closed_as_the_chain_wants_it() {
    for (steps, torn) in [(0, false), (0, true), (1, false), (3, true), (40, false)] {
        let mut author = author();
        let (device, substrate, tokens) = broken(&mut author, steps, torn);
        let mut evidence = author.evidence(&device, &substrate);
        // The pod wrote in two blocks.
        if substrate.len() > 4 {
            let mut second = evidence.blocks.pop().unwrap();
            let mut first = second.clone();
            first.ids.truncate(4);
            first.content.as_mut().unwrap().truncate(4);
            second.ids.drain(..4);
            second.content.as_mut().unwrap().drain(..4);
            second.first = 4;
            evidence.blocks.extend([first, second]);
        }
        let closing = Closing {
            epoch: EPOCH,
            content: ContentPolicy::Sealed,
            id: ReceiptId::from_random([0xcc; 16]),
            now: Timestamp::from_micros(u64::from(EPOCH.0) * 1_000_000 + 999).unwrap(),
        };
        let stored = find(&author, &evidence);
        let block = stored
            .interrupted("lost", &closing, &[], &mut ring(&author))
            .unwrap();
        assert_eq!(
            (block.stream, block.first),
            (Stream::Substrate, substrate.len() as u32)
        );
        evidence.blocks.push(stored_block(&block));

        // The chain takes all of it, and the seal names what stands there.
        let mut chain = Chain::new(author.session, author.tenant.clone());
        for (_, _, stored) in evidence.in_causal_order() {
            let receipt = Receipt::parse(&stored.bytes).unwrap();
            let event = Event::read(&receipt.body, stored.payload.as_deref()).unwrap();
            chain.accept(&receipt, &event).unwrap();
        }
        let closed = find(&author, &evidence);
        let end = closed.end().unwrap().unwrap();
        assert_eq!((end.status, end.code), (EndStatus::Failed, EndCode::Lost));
        let receipt = &end.receipts[0];
        let key = author.key(Tier::Substrate);
        assert!(receipt.verify(&key));
        let payload = end.payloads[0].as_ref().map(|raw| raw.get().as_bytes());
        let Ok(Event::SubstrateResponse(response)) = Event::read(&receipt.body, payload) else {
            panic!("a response");
        };
        let hashes: Vec<Hash> = substrate.iter().map(Written::hash).collect();
        assert_eq!(response.status, AnswerStatus::Interrupted);
        assert_eq!(response.root, merkle::root(&hashes));
        assert_eq!(response.completion_tokens, steps);
        let counted: u32 = response.blocks.iter().map(|block| block.count).sum();
        assert_eq!(counted, substrate.len() as u32);
        assert_eq!(
            response.blocks.len(),
            if substrate.len() > 4 {
                2
            } else {
                usize::from(!substrate.is_empty())
            }
        );
        let output: String = tokens.iter().map(|token| token.text.as_str()).collect();
        let content: AnswerContent = response
            .private()
            .unwrap()
            .open(&key.payload_key(), &receipt.body.receipt_id)
            .unwrap();
        assert_eq!(content.output_sha256, Hash::of(output.as_bytes()));
    }
}

#[test]
fn text_that_is_not_kept_is_committed_to_as_it_was_heard() {
    let mut author = author();
    author.content = ContentPolicy::Omit;
    let (device, substrate, _) = broken(&mut author, 2, false);
    let evidence = author.evidence(&device, &substrate);
    let closing = Closing {
        epoch: EPOCH,
        content: ContentPolicy::Omit,
        id: ReceiptId::from_random([0xcc; 16]),
        now: Timestamp::from_micros(1).unwrap(),
    };
    // A third token was heard, but never became durable.
    let heard = ["t0 ", "t1 ", "t2 "].map(str::to_owned);
    let stored = find(&author, &evidence);
    let block = stored
        .interrupted("lost", &closing, &heard, &mut ring(&author))
        .unwrap();
    let receipt = Receipt::parse(&block.receipts[0].bytes).unwrap();
    let payload = block.receipts[0].payload.as_deref();
    let Ok(Event::SubstrateResponse(response)) = Event::read(&receipt.body, payload) else {
        panic!("a response");
    };
    let content = AnswerContent {
        output_sha256: Hash::of(b"t0 t1 "),
        output: None,
    };
    let expected: Private = author.private(&content, Tier::Substrate, &closing.id);
    assert_eq!(response.private(), Some(expected));
}

#[test]
fn nothing_is_rebuilt_from_a_ledger_that_was_changed() {
    let mut author = author();
    let (device, mut substrate, _) = broken(&mut author, 3, false);
    substrate[2].receipt.hmac_signature[0] ^= 1;
    let evidence = author.evidence(&device, &substrate);
    assert!(StoredAnswer::find(&evidence, &mut ring(&author), request_id(1)).is_err());
    let unknown = StoredAnswer::find(&evidence, &mut ring(&author), request_id(2)).unwrap();
    assert!(unknown.is_none());
}
