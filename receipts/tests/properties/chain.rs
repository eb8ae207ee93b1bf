//! Every rule of the chain: what is accepted, what is refused and why; and that a refusal changes nothing.

use halo_receipts::chain::{Chain, ChainError, Event};
use halo_receipts::evidence::Stream;
use halo_receipts::experts::ExpertSet;
use halo_receipts::ids::{Epoch, Hash, ReceiptId, RequestId, SessionId, Tier};
use halo_receipts::payload::{
    AnswerStatus, Answerer, Decision, ExpertLoad, OrchestratorResponse, Private, Routing,
    SubstrateResponse, SubstrateSeal, TokenEmit, V1,
};
use halo_receipts::receipt::{Parent, Receipt, ReceiptKind, Unsigned};
use halo_receipts::time::Timestamp;
use proptest::prelude::*;

use crate::golden;

/// Writes receipts that only the chain looks at: their signatures and payload hashes are nothing.
struct Writer {
    chain: Chain,
    epoch: u32,
    drawn: u8,
}

impl Writer {
    fn new() -> Self {
        let chain = Chain::new(session(), "acme".parse().unwrap());
        Self {
            chain,
            epoch: 100,
            drawn: 0,
        }
    }

    fn receipt(&mut self, tier: Tier, kind: ReceiptKind, parent: Option<Parent>) -> Receipt {
        self.drawn += 1;
        Receipt {
            body: Unsigned {
                event_payload_hash: Hash([0; 32]),
                parent,
                receipt_id: ReceiptId::from_random([self.drawn; 16]),
                receipt_kind: kind,
                session_epoch: Epoch(self.epoch),
                session_id: session(),
                tenant_id: "acme".parse().unwrap(),
                tier,
                timestamp_utc: Timestamp::from_micros(1).unwrap(),
            },
            hmac_signature: [self.drawn; 32],
        }
    }

    /// Makes a receipt for this event and what the chain says of it; accepted ones stay in the chain.
    fn offer(&mut self, event: Event, parent: Option<Parent>) -> Result<Parent, ChainError> {
        let receipt = self.made(&event, parent);
        self.chain.accept(&receipt, &event)?;
        Ok(receipt.as_parent())
    }

    fn made(&mut self, event: &Event, parent: Option<Parent>) -> Receipt {
        use ReceiptKind::*;
        let (tier, kind) = match event {
            Event::Capture => (Tier::Sensor, SensorCapture),
            Event::Routing(_) => (Tier::Orchestrator, TierRouting),
            Event::ExpertLoad(_) => (Tier::Substrate, ReceiptKind::ExpertLoad),
            Event::TokenEmit(_) => (Tier::Substrate, ReceiptKind::TokenEmit),
            Event::SubstrateResponse(_) => (Tier::Substrate, TierResponse),
            Event::OrchestratorResponse(_) => (Tier::Orchestrator, TierResponse),
        };
        self.receipt(tier, kind, parent)
    }

    fn capture(&mut self) -> Parent {
        let parent = self.chain.capture_parent();
        self.offer(Event::Capture, parent).unwrap()
    }

    fn escalate(&mut self) -> Parent {
        let parent = self.chain.routing_parent();
        self.offer(escalate(), parent).unwrap()
    }

    /// One step of an answer; returns its load and its token.
    fn step(&mut self, step: u32, parent: Parent) -> (Parent, Parent) {
        let load = self.offer(load(step), Some(parent)).unwrap();
        (load, self.offer(token(step), Some(load)).unwrap())
    }
}

fn session() -> SessionId {
    SessionId::from_random([1; 16])
}

fn request() -> RequestId {
    RequestId::from_random([2; 16])
}

fn routing(decision: Decision) -> Event {
    let mut routing = Routing::new(decision, "rule", "rules/1");
    routing.request_id = Some(request());
    Event::Routing(routing)
}

fn escalate() -> Event {
    routing(Decision::Escalate)
}

fn load(step: u32) -> Event {
    Event::ExpertLoad(ExpertLoad {
        v: V1,
        step,
        experts: ExpertSet::new(1, 8),
        loaded: None,
        model: None,
    })
}

fn private() -> Private {
    Private::Sealed(String::new())
}

fn token(step: u32) -> Event {
    Event::TokenEmit(TokenEmit::new(step, private()))
}

fn substrate(request_id: RequestId, receipts: u32) -> Event {
    let seal = SubstrateSeal {
        request_id,
        status: AnswerStatus::Ok,
        finish: "stop".to_owned(),
        model: "m".to_owned(),
        prompt_tokens: 1,
        completion_tokens: 1,
        first: 0,
        ids: None,
        receipts,
        root: Hash([0; 32]),
        blocks: Vec::new(),
    };
    Event::SubstrateResponse(SubstrateResponse::new(seal, private()))
}

fn seal(device: u32, substrate: u32) -> Event {
    let status = AnswerStatus::Ok;
    let by = Answerer::Substrate;
    Event::OrchestratorResponse(OrchestratorResponse::new(
        status,
        by,
        device,
        substrate,
        Hash([0; 32]),
        private(),
    ))
}

macro_rules! refused {
    ($outcome:expr, $pattern:pat) => {
        let outcome = $outcome;
        assert!(matches!(&outcome, Err($pattern)), "{outcome:?}");
    };
}

#[test]
fn captures_follow_captures() {
    let mut w = Writer::new();
    let stranger = Parent {
        id: ReceiptId::from_random([99; 16]),
        hash: Hash([0; 32]),
    };
    refused!(
        w.offer(Event::Capture, Some(stranger)),
        ChainError::ParentMissing
    );
    let first = w.capture();
    refused!(w.offer(Event::Capture, None), ChainError::NoParent);
    let wrong = Parent {
        hash: Hash([9; 32]),
        ..first
    };
    refused!(
        w.offer(Event::Capture, Some(wrong)),
        ChainError::ParentHash { .. }
    );
    let second = w.capture();
    refused!(
        w.offer(Event::Capture, Some(first)),
        ChainError::ParentKind(_)
    );
    let routing = w.escalate();
    refused!(
        w.offer(Event::Capture, Some(routing)),
        ChainError::ParentKind(_)
    );
    assert!(w.offer(Event::Capture, Some(second)).is_ok());
}

#[test]
fn decisions_follow_the_most_recent_capture() {
    let mut w = Writer::new();
    refused!(w.offer(escalate(), None), ChainError::NoParent);
    let first = w.capture();
    let second = w.capture();
    refused!(w.offer(escalate(), Some(first)), ChainError::ParentKind(_));
    refused!(
        w.offer(routing(Decision::Local), None),
        ChainError::NoParent
    );
    let decided = w.offer(routing(Decision::Local), Some(second)).unwrap();
    refused!(
        w.offer(escalate(), Some(decided)),
        ChainError::ParentKind(_)
    );
    // The same capture may be decided about again.
    assert!(w.offer(escalate(), Some(second)).is_ok());
}

#[test]
fn a_break_follows_the_last_good_receipt_and_the_next_capture_follows_it() {
    let broken = || routing(Decision::VerificationFailed);
    let mut w = Writer::new();
    let capture = w.capture();
    let decided = w.offer(routing(Decision::Local), Some(capture)).unwrap();
    refused!(w.offer(broken(), Some(capture)), ChainError::ParentKind(_));
    refused!(w.offer(broken(), None), ChainError::NoParent);
    assert_eq!(w.chain.break_parent(), Some(decided));
    w.epoch += 1;
    let recorded = w.offer(broken(), Some(decided)).unwrap();
    assert_eq!(w.chain.capture_parent(), Some(recorded));
    refused!(
        w.offer(Event::Capture, Some(capture)),
        ChainError::ParentKind(_)
    );
    let next = w.offer(Event::Capture, Some(recorded)).unwrap();
    refused!(
        w.offer(Event::Capture, Some(recorded)),
        ChainError::ParentKind(_)
    );
    assert_eq!(w.chain.capture_parent(), Some(next));
    refused!(
        w.offer(seal(4, 0), Some(recorded)),
        ChainError::ParentKind(_)
    );
}

#[test]
fn a_break_may_be_the_first_receipt() {
    let mut w = Writer::new();
    assert_eq!(w.chain.break_parent(), None);
    let recorded = w
        .offer(routing(Decision::VerificationFailed), None)
        .unwrap();
    refused!(w.offer(Event::Capture, None), ChainError::NoParent);
    assert!(w.offer(Event::Capture, Some(recorded)).is_ok());
}

#[test]
fn steps_follow_each_other() {
    let mut w = Writer::new();
    let capture = w.capture();
    refused!(w.offer(load(0), None), ChainError::NoParent);
    refused!(w.offer(load(0), Some(capture)), ChainError::ParentKind(_));
    let local = w.offer(routing(Decision::Local), Some(capture)).unwrap();
    refused!(w.offer(load(0), Some(local)), ChainError::ParentKind(_));
    let routing = w.escalate();
    refused!(w.offer(load(1), Some(routing)), ChainError::Step);
    let first = w.offer(load(0), Some(routing)).unwrap();
    refused!(w.offer(load(0), Some(routing)), ChainError::Fork);
    // Not before its token stands.
    refused!(w.offer(load(1), Some(first)), ChainError::Step);
    refused!(w.offer(token(1), Some(first)), ChainError::Step);
    refused!(w.offer(token(0), Some(routing)), ChainError::ParentKind(_));
    refused!(w.offer(token(0), None), ChainError::NoParent);
    let first_token = w.offer(token(0), Some(first)).unwrap();
    refused!(w.offer(token(0), Some(first)), ChainError::Fork);
    refused!(
        w.offer(load(1), Some(first_token)),
        ChainError::ParentKind(_)
    );
    refused!(w.offer(load(2), Some(first)), ChainError::Step);
    w.step(1, first);
    refused!(w.offer(load(1), Some(first)), ChainError::Fork);
}

#[test]
fn an_answer_is_closed_once_by_its_last_receipt() {
    let mut w = Writer::new();
    w.capture();
    let routing = w.escalate();
    let (first, first_token) = w.step(0, routing);
    let (second, second_token) = w.step(1, first);
    for parent in [routing, first, first_token, second] {
        refused!(
            w.offer(substrate(request(), 4), Some(parent)),
            ChainError::ParentKind(_)
        );
    }
    refused!(w.offer(substrate(request(), 4), None), ChainError::NoParent);
    refused!(
        w.offer(substrate(request(), 3), Some(second_token)),
        ChainError::SealCount {
            claimed: 3,
            found: 4
        }
    );
    let stranger = RequestId::from_random([9; 16]);
    refused!(
        w.offer(substrate(stranger, 4), Some(second_token)),
        ChainError::Binding("request_id")
    );
    let closed = w
        .offer(substrate(request(), 4), Some(second_token))
        .unwrap();
    refused!(
        w.offer(substrate(request(), 4), Some(second_token)),
        ChainError::Fork
    );
    // Nothing is added to a closed answer.
    refused!(w.offer(load(2), Some(second)), ChainError::Fork);
    refused!(w.offer(load(0), Some(routing)), ChainError::Fork);
    refused!(w.offer(seal(2, 5), Some(routing)), ChainError::Fork);
    assert!(w.offer(seal(2, 5), Some(closed)).is_ok());
    refused!(w.offer(seal(3, 5), Some(closed)), ChainError::Fork);
}

#[test]
fn an_answer_that_broke_off_is_closed_where_it_stood() {
    // Nothing computed; a load without its token.
    let mut w = Writer::new();
    w.capture();
    let routing = w.escalate();
    assert!(w.offer(substrate(request(), 0), Some(routing)).is_ok());
    refused!(w.offer(load(0), Some(routing)), ChainError::Fork);

    let mut w = Writer::new();
    w.capture();
    let routing = w.escalate();
    let (first, first_token) = w.step(0, routing);
    let second = w.offer(load(1), Some(first)).unwrap();
    refused!(
        w.offer(substrate(request(), 3), Some(first_token)),
        ChainError::ParentKind(_)
    );
    refused!(
        w.offer(substrate(request(), 2), Some(second)),
        ChainError::SealCount {
            claimed: 2,
            found: 3
        }
    );
    assert!(w.offer(substrate(request(), 3), Some(second)).is_ok());
    refused!(w.offer(token(1), Some(second)), ChainError::Fork);
}

#[test]
fn the_phones_response_counts_what_stands_before_it() {
    let mut w = Writer::new();
    let capture = w.capture();
    refused!(w.offer(seal(1, 0), None), ChainError::NoParent);
    refused!(
        w.offer(seal(1, 0), Some(capture)),
        ChainError::ParentKind(_)
    );
    let local = w.offer(routing(Decision::Local), Some(capture)).unwrap();
    refused!(
        w.offer(seal(1, 0), Some(local)),
        ChainError::SealCount {
            claimed: 1,
            found: 2
        }
    );
    refused!(
        w.offer(seal(3, 0), Some(local)),
        ChainError::SealCount {
            claimed: 3,
            found: 2
        }
    );
    let sealed = w.offer(seal(2, 0), Some(local)).unwrap();
    refused!(w.offer(seal(3, 0), Some(local)), ChainError::Fork);
    refused!(w.offer(seal(3, 0), Some(sealed)), ChainError::ParentKind(_));
    assert_eq!(w.chain.device_receipts(), 3);
    // Tier 2 wrote nothing: the phone closes the request by itself. Tier 2 comes too late then.
    let routing = w.escalate();
    assert!(w.offer(seal(4, 0), Some(routing)).is_ok());
    refused!(w.offer(load(0), Some(routing)), ChainError::Fork);
    refused!(
        w.offer(substrate(request(), 0), Some(routing)),
        ChainError::Fork
    );
}

#[test]
fn receipts_belong_to_one_session_tenant_and_rising_epochs() {
    let mut w = Writer::new();
    let changed = |change: &dyn Fn(&mut Unsigned)| {
        let mut w = Writer::new();
        let mut receipt = w.made(&Event::Capture, None);
        change(&mut receipt.body);
        w.chain.check(&receipt, &Event::Capture)
    };
    assert!(changed(&|_| {}).is_ok());
    refused!(
        changed(&|body| body.session_id = SessionId::from_random([7; 16])),
        ChainError::Binding("session_id")
    );
    refused!(
        changed(&|body| body.tenant_id = "other".parse().unwrap()),
        ChainError::Binding("tenant_id")
    );
    let first = w.made(&Event::Capture, None);
    w.chain.accept(&first, &Event::Capture).unwrap();
    refused!(
        w.chain.check(&first, &Event::Capture),
        ChainError::Duplicate
    );
    let routing = w.escalate();
    w.epoch -= 1;
    let parent = w.chain.capture_parent();
    refused!(
        w.offer(Event::Capture, parent),
        ChainError::Binding("session_epoch")
    );
    // Tier 2 may still answer under the epoch in which it was asked.
    let parent = w.offer(load(0), Some(routing)).unwrap();
    // And an answer under a later epoch does not bar what the device signed before: the streams are written apart.
    w.epoch += 2;
    w.offer(token(0), Some(parent)).unwrap();
    w.epoch -= 1;
    let parent = w.chain.capture_parent();
    assert!(w.offer(Event::Capture, parent).is_ok());
}

#[test]
fn tiers_sign_their_own_kinds() {
    let allowed = [
        (Tier::Sensor, ReceiptKind::SensorCapture),
        (Tier::Orchestrator, ReceiptKind::TierRouting),
        (Tier::Orchestrator, ReceiptKind::TierResponse),
        (Tier::Substrate, ReceiptKind::ExpertLoad),
        (Tier::Substrate, ReceiptKind::TokenEmit),
        (Tier::Substrate, ReceiptKind::TierResponse),
    ];
    for tier in Tier::ALL {
        for kind in ReceiptKind::ALL {
            let mut w = Writer::new();
            let receipt = w.receipt(tier, kind, None);
            let outcome = w.chain.check(&receipt, &Event::Capture);
            let foreign = matches!(outcome, Err(ChainError::Tier(..)));
            assert_eq!(foreign, !allowed.contains(&(tier, kind)), "{tier} {kind}");
        }
    }
}

#[test]
fn the_golden_session_is_accepted_in_causal_order() {
    let golden = golden::golden();
    let mut chain = Chain::new(golden.session_id, golden.tenant_id.clone());
    let order = golden.evidence.in_causal_order();
    assert_eq!(
        order.len(),
        golden.evidence.receipts(Stream::Device).count()
            + golden.evidence.receipts(Stream::Substrate).count()
    );
    for (_, _, stored) in order {
        let receipt = Receipt::parse(&stored.bytes).unwrap();
        let event = Event::read(&receipt.body, stored.payload.as_deref()).unwrap();
        chain.accept(&receipt, &event).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_receipt_out_of_its_place_changes_nothing(at in any::<prop::sample::Index>(), from in any::<prop::sample::Index>()) {
        let golden = golden::golden();
        let order = golden.evidence.in_causal_order();
        let read = |stored: &halo_receipts::evidence::StoredReceipt| {
            let receipt = Receipt::parse(&stored.bytes).unwrap();
            let event = Event::read(&receipt.body, stored.payload.as_deref()).unwrap();
            (receipt, event)
        };
        let (at, from) = (at.index(order.len()), from.index(order.len()));
        let mut chain = Chain::new(golden.session_id, golden.tenant_id.clone());
        for (_, _, stored) in &order[..at] {
            let (receipt, event) = read(stored);
            chain.accept(&receipt, &event).unwrap();
        }
        // Any other receipt in the place of the next one, then the right one.
        let (receipt, event) = read(order[from].2);
        let before = (chain.device_receipts(), chain.epoch(), chain.capture_parent(), chain.break_parent());
        if from < at || chain.check(&receipt, &event).is_err() {
            prop_assert!(chain.accept(&receipt, &event).is_err());
        }
        let after = (chain.device_receipts(), chain.epoch(), chain.capture_parent(), chain.break_parent());
        prop_assert_eq!(before, after);
        for (_, _, stored) in &order[at..] {
            let (receipt, event) = read(stored);
            prop_assert!(chain.accept(&receipt, &event).is_ok());
        }
    }
}
