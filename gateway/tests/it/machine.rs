//! The session machine as a table: what each thing that can happen to a connection makes it do, without a socket.

use std::collections::VecDeque;
use std::sync::Arc;

use halo_gateway::bundle::Terms;
use halo_gateway::keyring::Keyring;
use halo_gateway::session::{Action, Ask, CloseReason, Count, Event, Refusal, Session, WriteError};
use halo_receipts::documents::{
    EndCode, EndStatus, EscalateEnd, EscalateRequest, Notice, Operation, Progress,
};
use halo_receipts::evidence::{Block, Stream};
use halo_receipts::fragment::{END_MAX, REQUEST_MAX, Reassembler, split};
use halo_receipts::frame::{FrameType, encode};
use halo_receipts::ids::{Epoch, RequestId, SessionId, Tier};
use halo_receipts::keys::TierKey;
use halo_receipts::link::{End, Link};
use halo_receipts::messages::Backpressure;
use halo_receipts::payload::AnswerStatus;
use proptest::prelude::*;

use crate::author::{Author, infer, record, request_id, resume, stored_block};

const PROMPT: &str = "Is lot 12 certified?";

/// A machine, the device at its other end, and a ledger in memory.
struct Bench {
    session: Session,
    device: Link,
    incoming: Reassembler,
    author: Author,
    ledger: Vec<Block>,
    refuse: Option<Refusal>,
    write: VecDeque<WriteError>,
    ends: Vec<EscalateEnd>,
    tokens: Vec<Vec<u8>>,
    asked: Vec<Ask>,
    resumed: Vec<(RequestId, u32)>,
    closed: Option<CloseReason>,
    counts: Vec<Count>,
    pauses: Vec<u32>,
    reads: u32,
}

impl Bench {
    fn new() -> Self {
        let author = Author::new(SessionId::from_random([3; 16]), Epoch(1_900_000_000));
        let keys: Arc<dyn halo_receipts::keys::TenantKeys> = author.keys.clone();
        let ring = Keyring::new(keys, author.tenant.clone(), author.session);
        let key = || Arc::new(author.key(Tier::Orchestrator));
        let terms = Terms {
            epoch: author.epoch,
            content: author.content,
            max_tokens: 100,
        };
        let device = "phone-1".parse().unwrap();
        Self {
            session: Session::new(device, terms, ring, key(), 16),
            device: Link::new(End::OrchestratorToGateway, author.session, key()),
            incoming: Reassembler::new(END_MAX),
            author,
            ledger: Vec::new(),
            refuse: None,
            write: VecDeque::new(),
            ends: Vec::new(),
            tokens: Vec::new(),
            asked: Vec::new(),
            resumed: Vec::new(),
            closed: None,
            counts: Vec::new(),
            pauses: Vec::new(),
            reads: 0,
        }
    }

    fn event(&mut self, event: Event<'_>) {
        let mut actions = VecDeque::from(self.session.handle(event));
        while let Some(action) = actions.pop_front() {
            let more = match action {
                Action::Send(frame) => {
                    self.take(&frame);
                    Vec::new()
                }
                Action::Admit(_) => {
                    let admitted = self.refuse.map_or(Ok(()), Err);
                    self.session.handle(Event::Admitted(admitted))
                }
                Action::Read => {
                    self.reads += 1;
                    let mut evidence = self.author.evidence(&[], &[]);
                    evidence.blocks = self.ledger.iter().map(stored_block).collect();
                    self.session.handle(Event::Evidence(Ok(Box::new(evidence))))
                }
                Action::Append(blocks) => {
                    let written = match self.write.pop_front() {
                        Some(error) => Err(error),
                        None => {
                            self.ledger.extend(blocks);
                            Ok(())
                        }
                    };
                    self.session.handle(Event::Written(written))
                }
                Action::Ask(ask) => {
                    self.asked.push(ask);
                    self.session.handle(Event::Started(Ok(())))
                }
                Action::Resume {
                    request_id,
                    from_step,
                } => {
                    self.resumed.push((request_id, from_step));
                    self.session.handle(Event::Started(Ok(())))
                }
                Action::Close(reason) => {
                    self.closed = Some(reason);
                    Vec::new()
                }
                Action::Count(count) => {
                    self.counts.push(count);
                    Vec::new()
                }
            };
            actions.extend(more);
        }
    }

    /// What the device makes of a frame.
    fn take(&mut self, frame: &[u8]) {
        let frame = self.device.receive(frame).unwrap();
        match frame.typ {
            FrameType::EscalateToken => self.tokens.push(frame.payload.to_vec()),
            FrameType::EscalateEnd => {
                if let Some(document) = self.incoming.push(frame.payload).unwrap() {
                    self.ends.push(EscalateEnd::parse(&document).unwrap());
                }
            }
            FrameType::Backpressure => {
                let plea = Backpressure::decode(frame.payload, Tier::Orchestrator).unwrap();
                self.pauses.push(plea.pause_ms);
            }
            other => panic!("{other:?}"),
        }
    }

    fn message(&mut self, message: &[u8]) {
        self.event(Event::Message(message));
    }

    fn send(&mut self, request: &EscalateRequest) {
        self.send_bytes(&request.to_json().unwrap());
    }

    fn send_bytes(&mut self, document: &[u8]) {
        for payload in split(document, REQUEST_MAX).unwrap() {
            let frame = self
                .device
                .send(FrameType::EscalateRequest, &payload)
                .unwrap();
            self.message(&frame);
        }
    }

    fn question(&mut self, number: u8) -> EscalateRequest {
        let capture = self.author.capture();
        let routing = self.author.routing(request_id(number), PROMPT);
        infer(request_id(number), &[&capture, &routing], PROMPT)
    }

    fn last_end(&self) -> (EndStatus, EndCode) {
        let end = self.ends.last().unwrap();
        (end.status, end.code)
    }

    fn refusals(&self) -> Vec<&'static str> {
        let refused = self.counts.iter().filter_map(|count| match count {
            Count::Refused(reason) | Count::Bundle(reason) => Some(*reason),
            _ => None,
        });
        refused.collect()
    }

    /// Nothing was asked of anybody, and nothing written.
    fn untouched(&self) -> bool {
        self.asked.is_empty() && self.ledger.is_empty() && self.resumed.is_empty()
    }
}

fn bare(request: RequestId, status: EndStatus, code: EndCode) -> Vec<u8> {
    EscalateEnd::bare(request, status, code).to_json().unwrap()
}

#[test]
fn a_question_is_written_before_it_is_asked_and_its_document_forwarded_as_it_is() {
    let mut bench = Bench::new();
    let question = bench.question(1);
    bench.send(&question);
    assert_eq!(bench.ledger.len(), 1);
    assert_eq!(bench.asked.len(), 1);
    assert_eq!(bench.asked[0].document, question.to_json().unwrap());
    assert!(bench.ends.is_empty());
    let notice = Notice {
        state: Progress::Waking,
        position: 0,
        eta_ms: 0,
    };
    bench.event(Event::Token(&notice.encode().unwrap()));
    bench.event(Event::Token(b"\0\0\0\x01token"));
    bench.event(Event::Ended(&bare(
        request_id(1),
        EndStatus::Ok,
        EndCode::Ok,
    )));
    assert_eq!(bench.tokens.len(), 2);
    assert_eq!(bench.last_end(), (EndStatus::Ok, EndCode::Ok));
    // A token after the end goes nowhere.
    bench.event(Event::Token(b"late"));
    assert_eq!(bench.tokens.len(), 2);
    assert!(bench.session.is_idle());
}

#[test]
fn a_record_is_written_and_asks_nobody() {
    let mut bench = Bench::new();
    let capture = bench.author.capture();
    bench.send(&record(request_id(1), &[&capture]));
    assert_eq!(bench.last_end(), (EndStatus::Recorded, EndCode::Ok));
    assert!(bench.asked.is_empty());
    assert_eq!(bench.ledger.len(), 1);
    // Again: nothing is written twice, and the device hears the same.
    bench.send(&record(request_id(1), &[&capture]));
    assert_eq!(bench.ledger.len(), 1);
    assert_eq!(bench.ends.len(), 2);
    // The ledger is read once as long as nobody else writes.
    let capture = bench.author.capture();
    bench.send(&record(request_id(2), &[&capture]));
    assert_eq!((bench.ledger.len(), bench.reads), (2, 1));
}

#[test]
fn refused_frames_change_nothing_and_sixteen_end_the_connection() {
    let mut bench = Bench::new();
    let question = bench.question(1).to_json().unwrap();
    let payloads = split(&question, REQUEST_MAX).unwrap();
    let first = bench
        .device
        .send(FrameType::EscalateRequest, &payloads[0])
        .unwrap();
    let second = bench
        .device
        .send(FrameType::EscalateRequest, &payloads[1])
        .unwrap();
    let session = bench.author.session;
    let key = bench.author.key(Tier::Orchestrator);
    let other_key = bench.author.key(Tier::Substrate);
    let stranger = SessionId::from_random([4; 16]);
    let frame = |key: &TierKey, session, typ, sequence| {
        encode(key, session, typ, sequence, &payloads[0]).unwrap()
    };
    let mut flipped = first.clone();
    flipped[50] ^= 1;
    use FrameType::{EscalateEnd, EscalateRequest, EscalateToken};
    let table: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "length"),
        (vec![0; 41], "length"),
        (vec![1; 241], "length"),
        (b"{\"v\":1}".repeat(10), "version"),
        (frame(&key, &session, EscalateToken, 0), "direction"),
        (frame(&key, &session, EscalateEnd, 0), "direction"),
        (frame(&key, &session, FrameType::AudioChunk, 0), "direction"),
        (
            frame(&key, &session, FrameType::Backpressure, 0),
            "direction",
        ),
        (frame(&key, &stranger, EscalateRequest, 0), "tag"),
        (second.clone(), "sequence"),
        (frame(&other_key, &session, EscalateRequest, 0), "hmac"),
        (flipped, "hmac"),
    ];
    for (message, _) in &table {
        bench.message(message);
    }
    let reasons: Vec<&str> = table.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(bench.refusals(), reasons);
    assert!(!bench.session.heard());
    // The link stands where it stood: the right frames still go through.
    bench.message(&first);
    assert!(bench.session.heard());
    bench.message(&first);
    assert_eq!(bench.refusals().last(), Some(&"sequence"));
    bench.event(Event::Foreign("text"));
    assert!(bench.closed.is_none());
    bench.message(&second);
    for payload in &payloads[2..] {
        let frame = bench
            .device
            .send(FrameType::EscalateRequest, payload)
            .unwrap();
        bench.message(&frame);
    }
    assert_eq!(bench.asked.len(), 1);
    bench.message(b"");
    bench.message(b"");
    assert_eq!(bench.closed, Some(CloseReason::Refusals));
    // After that nothing is heard any more.
    let before = bench.counts.len();
    bench.message(b"");
    assert_eq!(bench.counts.len(), before);
}

#[test]
fn documents_that_are_none() {
    let mut bench = Bench::new();
    let mut question = bench.question(1);
    let good = String::from_utf8(question.to_json().unwrap()).unwrap();
    // With a name the refusal can be told, without one it is only counted.
    for (document, ends) in [
        (good.replace("\"v\":1", "\"v\":2"), 1),
        (good.replace("\"v\":1", "\"v\":1,\"x\":1"), 2),
        (good.replace("\"op\":\"infer\"", "\"op\":\"erase\""), 3),
        (good.replace(", ", ",").replace("{\"max", "{ \"max"), 4),
        (good.replace("request_id", "request"), 4),
        ("[]".to_owned(), 4),
        (String::new(), 4),
    ] {
        bench.send_bytes(document.as_bytes());
        assert_eq!(bench.ends.len(), ends, "{document}");
    }
    assert!(
        bench
            .ends
            .iter()
            .all(|end| end.code == EndCode::BundleInvalid)
    );
    question.max_tokens = 101;
    bench.send(&question);
    assert_eq!(
        bench.last_end(),
        (EndStatus::Refused, EndCode::ContextExceeded)
    );
    assert!(bench.untouched());
    assert_eq!(bench.reads, 0);
}

#[test]
fn fragments_out_of_order_and_over_the_limit() {
    let mut bench = Bench::new();
    let question = bench.question(1).to_json().unwrap();
    let payloads = split(&question, REQUEST_MAX).unwrap();
    let long = split(&vec![b' '; END_MAX], END_MAX).unwrap();
    for payload in [&payloads[1], &long[0]] {
        let frame = bench
            .device
            .send(FrameType::EscalateRequest, payload)
            .unwrap();
        bench.message(&frame);
    }
    assert_eq!(bench.refusals(), ["fragment", "fragment"]);
    bench.send_bytes(&question);
    assert_eq!(bench.asked.len(), 1);
}

#[test]
fn a_forged_bundle_is_refused_with_nothing_computed_and_nothing_written() {
    let mut bench = Bench::new();
    let mut question = bench.question(1);
    question.receipts[0].hmac_signature[5] ^= 1;
    bench.send(&question);
    assert_eq!(
        bench.last_end(),
        (EndStatus::Refused, EndCode::BundleInvalid)
    );
    assert_eq!(bench.refusals(), ["hmac"]);
    // A receipt before its parent.
    let [capture, next] = [bench.author.capture(), bench.author.capture()];
    let late = record(request_id(2), &[&next, &capture]);
    bench.send(&late);
    assert_eq!(
        bench.last_end(),
        (EndStatus::Refused, EndCode::BundleInvalid)
    );
    assert!(bench.untouched());
    // Forging is bounded like any refusal.
    for _ in 0..14 {
        bench.send(&late);
    }
    assert_eq!(bench.closed, Some(CloseReason::Refusals));
    assert!(bench.untouched());
}

#[test]
fn one_request_at_a_time() {
    let mut bench = Bench::new();
    let first = bench.question(1);
    bench.send(&first);
    let capture = bench.author.capture();
    for request in [
        record(request_id(2), &[&capture]),
        resume(request_id(1), None),
        first,
    ] {
        bench.send(&request);
        assert_eq!(bench.last_end(), (EndStatus::Refused, EndCode::Busy));
        assert!(bench.ends.last().unwrap().retry_after_ms.is_some());
    }
    assert_eq!((bench.ledger.len(), bench.asked.len()), (1, 1));
    // The running answer is not disturbed.
    bench.event(Event::Token(b"\0\0\0\x01token"));
    bench.event(Event::Ended(&bare(
        request_id(1),
        EndStatus::Ok,
        EndCode::Ok,
    )));
    assert_eq!(bench.last_end(), (EndStatus::Ok, EndCode::Ok));
    bench.send(&record(request_id(2), &[&capture]));
    assert_eq!(bench.last_end(), (EndStatus::Recorded, EndCode::Ok));
}

#[test]
fn what_is_not_admitted_is_not_written() {
    for code in [EndCode::Draining, EndCode::RateLimited, EndCode::Busy] {
        let mut bench = Bench::new();
        bench.refuse = Some(Refusal {
            code,
            retry_after_ms: Some(7),
        });
        let question = bench.question(1);
        bench.send(&question);
        assert_eq!(bench.last_end(), (EndStatus::Refused, code));
        assert_eq!(bench.ends[0].retry_after_ms, Some(7));
        // Only where everything that it sent would be refused is the device asked to pause.
        let pauses: &[u32] = match code {
            EndCode::RateLimited => &[7],
            _ => &[],
        };
        assert_eq!(bench.pauses, pauses);
        assert!(bench.untouched());
        bench.refuse = None;
        bench.send(&question);
        assert_eq!(bench.asked.len(), 1);
    }
}

#[test]
fn a_ledger_that_does_not_serve() {
    let mut bench = Bench::new();
    let question = bench.question(1);
    bench
        .write
        .push_back(WriteError::Unavailable("full".to_owned()));
    bench.send(&question);
    assert_eq!(
        bench.last_end(),
        (EndStatus::Failed, EndCode::LedgerUnavailable)
    );
    assert!(bench.untouched());
    // The same document again, as the retry time says.
    bench.send(&question);
    assert_eq!(bench.asked.len(), 1);

    // Another writer was faster: read again, once.
    let mut bench = Bench::new();
    let question = bench.question(1);
    bench.write.push_back(WriteError::Conflict);
    bench.send(&question);
    assert_eq!((bench.asked.len(), bench.reads), (1, 2));
    let mut bench = Bench::new();
    let question = bench.question(1);
    bench
        .write
        .extend([WriteError::Conflict, WriteError::Conflict]);
    bench.send(&question);
    assert_eq!(
        bench.last_end(),
        (EndStatus::Failed, EndCode::LedgerUnavailable)
    );
}

/// What was acknowledged may wait in a spill: the ledger is late, and nothing is wrong with the bundle.
#[test]
fn what_builds_on_receipts_that_the_ledger_does_not_show_is_put_off() {
    let put_off = (EndStatus::Refused, EndCode::LedgerUnavailable);
    let mut bench = Bench::new();
    let question = bench.question(1);
    let routing = question.receipts[1].as_parent();
    bench.send(&question);
    bench.event(Event::Ended(&bare(
        request_id(1),
        EndStatus::Ok,
        EndCode::Ok,
    )));
    let ([load, emit], _) = bench.author.step(0, routing, PROMPT);
    let answer = bench.author.answer(
        request_id(1),
        emit.receipt.as_parent(),
        0,
        &[load.clone(), emit.clone()],
        PROMPT,
    );
    let last = answer.receipt.as_parent();
    let seal = bench.author.seal(last, AnswerStatus::Ok, PROMPT);
    let capture = bench.author.capture();
    let sealed = record(request_id(2), &[&seal, &capture]);
    bench.send(&sealed);
    assert_eq!(bench.last_end(), put_off);
    assert_eq!(bench.ends.last().unwrap().retry_after_ms, Some(2000));
    assert_eq!(bench.ledger.len(), 1);
    bench.ledger.push(Block {
        stream: Stream::Substrate,
        first: 0,
        receipts: [load, emit, answer]
            .map(|written| written.stored())
            .to_vec(),
    });
    bench.send(&sealed);
    assert_eq!(bench.last_end(), (EndStatus::Recorded, EndCode::Ok));
    assert_eq!(bench.refusals(), [""; 0]);

    // A capture whose parent never comes: it is put off until nothing can be waiting any more.
    let mut bench = Bench::new();
    bench.author.capture();
    let orphan = bench.author.capture();
    let orphan = record(request_id(1), &[&orphan]);
    for _ in 0..60 {
        bench.send(&orphan);
        assert_eq!(bench.last_end(), put_off);
    }
    bench.send(&orphan);
    assert_eq!(
        bench.last_end(),
        (EndStatus::Refused, EndCode::BundleInvalid)
    );
    assert_eq!(bench.refusals(), ["behind"]);
    let integrity = |count: &Count| matches!(count, Count::Integrity("bundle"));
    assert_eq!(bench.counts.iter().filter(|one| integrity(one)).count(), 1);
    assert!(bench.untouched());
}

#[test]
fn an_answer_that_does_not_start() {
    let mut bench = Bench::new();
    bench.send(&resume(request_id(9), Some(4)));
    assert_eq!(bench.resumed, [(request_id(9), 5)]);
    bench.event(Event::Started(Err(Refusal {
        code: EndCode::UnknownRequest,
        retry_after_ms: None,
    })));
    assert_eq!(
        bench.last_end(),
        (EndStatus::Refused, EndCode::UnknownRequest)
    );
    assert!(bench.session.is_idle());
    bench.send(&resume(request_id(9), None));
    assert_eq!(bench.resumed[1], (request_id(9), 0));
    let count = Count::Request(
        Operation::Resume,
        EndStatus::Refused,
        EndCode::UnknownRequest,
    );
    assert!(bench.counts.contains(&count));
}

#[test]
fn a_long_end_is_cut_into_frames() {
    let mut bench = Bench::new();
    let question = bench.question(1);
    bench.send(&question);
    let parent = bench.author.captures.unwrap();
    let answer = bench
        .author
        .answer(request_id(1), parent, 0, &[], &"x".repeat(500));
    let end = EscalateEnd {
        receipts: vec![answer.receipt.clone()],
        payloads: vec![Some(
            halo_receipts::payload::to_raw(&answer.payload.unwrap()).unwrap(),
        )],
        ..EscalateEnd::bare(request_id(1), EndStatus::Ok, EndCode::Ok)
    };
    bench.event(Event::Ended(&end.to_json().unwrap()));
    assert_eq!(bench.ends[0].receipts, [answer.receipt]);
}

#[test]
fn a_shutdown_closes() {
    let mut bench = Bench::new();
    bench.event(Event::Shutdown);
    assert_eq!(bench.closed, Some(CloseReason::Shutdown));
    let question = bench.question(1);
    bench.send(&question);
    assert!(bench.untouched() && bench.ends.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever order, repetition or damage a sequence of frames has, no request reaches a pod or the ledger more than
    /// once, and none that the device did not sign in that order.
    #[test]
    fn no_permuted_or_damaged_stream_gets_through_twice(
        picks in proptest::collection::vec((any::<prop::sample::Index>(), proptest::option::of((any::<prop::sample::Index>(), 1u8..))), 0..60),
    ) {
        let mut bench = Bench::new();
        bench.session = Bench::new().session;
        let question = bench.question(1).to_json().unwrap();
        let mut signer = Link::new(
            End::OrchestratorToGateway,
            bench.author.session,
            Arc::new(bench.author.key(Tier::Orchestrator)),
        );
        let payloads = split(&question, REQUEST_MAX).unwrap();
        let frames: Vec<Vec<u8>> = payloads
            .iter()
            .map(|payload| signer.send(FrameType::EscalateRequest, payload).unwrap())
            .collect();
        for (pick, damage) in &picks {
            let mut frame = pick.get(&frames).clone();
            if let Some((at, bits)) = damage {
                let at = at.index(frame.len());
                frame[at] ^= bits;
            }
            bench.message(&frame);
        }
        prop_assert!(bench.asked.len() <= 1);
        if let Some(ask) = bench.asked.first() {
            prop_assert_eq!(&ask.document, &question);
        }
        prop_assert!(bench.ledger.len() <= 1);
        // The rest in order completes the request if the connection is still open.
        let accepted = bench.counts.iter().filter(|c| matches!(c, Count::Accepted(_))).count();
        for frame in &frames[accepted..] {
            bench.message(frame);
        }
        prop_assert!(bench.closed.is_some() || bench.asked.len() == 1);
    }
}
