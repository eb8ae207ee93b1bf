//! The machine behind one device connection: frames and outcomes in, frames and demands out. No socket, clock or ledger.
//!
//! One request at a time. A request is reassembled, admitted, verified against the ledger and written before anything
//! is asked of a pod; whatever is refused on the way has no effect but a counter and, where the request has a name, an end.

mod events;

use std::sync::Arc;

use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd, EscalateRequest, Operation};
use halo_receipts::evidence::Evidence;
use halo_receipts::fragment::{self, END_MAX, REQUEST_MAX, Reassembler};
use halo_receipts::frame::FrameType;
use halo_receipts::ids::{DeviceId, RequestId, Tier};
use halo_receipts::keys::TierKey;
use halo_receipts::link::{End, Link};
use halo_receipts::messages::{Backpressure, PauseReason};

use crate::bundle::{self, Book, Terms};
use crate::keyring::Keyring;

pub use events::{Action, Ask, CloseReason, Count, Event, Refusal, WriteError};

/// When a bundle may come again whose foundation the ledger does not show, in milliseconds.
const RETRY_BEHIND: u32 = 2000;
/// How often running it is put off: two minutes for a device that waits as told. What a spill has not brought by then was lost with it.
const BEHIND_MAX: u32 = 60;

enum State {
    Idle,
    /// Waiting for the answer to [`Action::Admit`].
    Admitting(Box<Pending>),
    /// Waiting for the ledger's content.
    Reading(Box<Pending>),
    /// Waiting for the ledger to take the blocks.
    Writing(Box<Pending>),
    /// Waiting for the answer to be begun or found, then for its tokens and its end.
    Answering(RequestId, Operation),
    Closed,
}

struct Pending {
    request: EscalateRequest,
    document: Vec<u8>,
    /// Whether a conflict has already made it start over.
    retried: bool,
    /// Receipts that tell of a broken sensor link.
    resets: u32,
}

/// The machine behind one device connection.
pub struct Session {
    device: DeviceId,
    terms: Terms,
    ring: Keyring,
    link: Link,
    incoming: Reassembler,
    /// What the ledger held when it was last read; none when something may have been written since.
    book: Option<Book>,
    state: State,
    refusals_left: u32,
    /// How often running a bundle was put off because the ledger does not show what it builds on.
    behind: u32,
    heard: bool,
}

impl Session {
    /// A connection whose upgrade was signed under `key`, TIER_KEY\[1\] of the epoch. After `refusals` refused messages
    /// it is closed.
    pub fn new(
        device: DeviceId,
        terms: Terms,
        ring: Keyring,
        key: Arc<TierKey>,
        refusals: u32,
    ) -> Self {
        Self {
            device,
            terms,
            link: Link::new(End::GatewayToOrchestrator, ring.session(), key),
            ring,
            incoming: Reassembler::new(REQUEST_MAX),
            book: None,
            state: State::Idle,
            refusals_left: refusals.max(1),
            behind: 0,
            heard: false,
        }
    }

    /// Whether a valid frame has ever come.
    pub fn heard(&self) -> bool {
        self.heard
    }

    /// Whether no request is under way.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle | State::Closed)
    }

    /// Whether the connection is to be closed or is closed.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// The request whose tokens the device is sent.
    pub fn answering(&self) -> Option<RequestId> {
        match self.state {
            State::Answering(request_id, _) => Some(request_id),
            _ => None,
        }
    }

    /// The keys of the session, for the pod's link.
    pub fn ring(&self) -> Keyring {
        self.ring.fresh()
    }

    /// What the connection was opened under.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The device.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.is_closed() {
            return actions;
        }
        match event {
            Event::Message(message) => self.message(message, &mut actions),
            Event::Foreign(reason) => self.refuse(reason, &mut actions),
            Event::Admitted(admitted) => self.admitted(admitted, &mut actions),
            Event::Evidence(evidence) => self.evidence(evidence, &mut actions),
            Event::Written(written) => self.written(written, &mut actions),
            Event::Started(Ok(())) => {}
            Event::Started(Err(refusal)) => self.not_started(refusal, &mut actions),
            Event::Token(payload) => {
                if self.answering().is_some() {
                    self.send(FrameType::EscalateToken, payload, &mut actions);
                }
            }
            Event::Ended(document) => self.ended(document, &mut actions),
            Event::Shutdown => self.close(CloseReason::Shutdown, &mut actions),
        }
        actions
    }

    fn message(&mut self, message: &[u8], actions: &mut Vec<Action>) {
        let frame = match self.link.receive(message) {
            Ok(frame) => frame,
            Err(error) => return self.refuse(error.name(), actions),
        };
        self.heard = true;
        actions.push(Action::Count(Count::Accepted(frame.typ)));
        // ESCALATE_REQUEST is the only type that this direction carries.
        match self.incoming.push(frame.payload) {
            Ok(None) => {}
            Ok(Some(document)) => self.request(document, actions),
            Err(_) => self.refuse("fragment", actions),
        }
    }

    fn request(&mut self, document: Vec<u8>, actions: &mut Vec<Action>) {
        let parsed = EscalateRequest::parse(&document);
        let Some(request_id) = bundle::request_id_of(&document) else {
            // Without a name there is nobody to answer.
            return self.refuse("document", actions);
        };
        if !self.is_idle() {
            let operation = parsed.map_or(Operation::Infer, |request| request.op);
            let refusal = Refusal {
                code: EndCode::Busy,
                retry_after_ms: Some(1000),
            };
            return self.refuse_request(request_id, operation, refusal, actions);
        }
        let request = match parsed {
            Ok(request) => request,
            Err(_) => {
                actions.push(Action::Count(Count::Bundle("document")));
                return self.invalid(request_id, Operation::Infer, actions);
            }
        };
        if let Err(error) = bundle::check_form(&request, &self.terms) {
            return self.bad_bundle(request_id, request.op, &error, actions);
        }
        actions.push(Action::Admit(request.op));
        self.state = State::Admitting(Box::new(Pending {
            request,
            document,
            retried: false,
            resets: 0,
        }));
    }

    fn admitted(&mut self, admitted: Result<(), Refusal>, actions: &mut Vec<Action>) {
        let State::Admitting(pending) = std::mem::replace(&mut self.state, State::Idle) else {
            return;
        };
        let request = &pending.request;
        if let Err(refusal) = admitted {
            return self.refuse_request(request.request_id, request.op, refusal, actions);
        }
        if request.op == Operation::Resume {
            let from_step = request.last_step.map_or(0, |step| step.saturating_add(1));
            self.resume(request.request_id, request.op, from_step, actions);
        } else if self.book.is_none() || bundle::has_seal(request) {
            actions.push(Action::Read);
            self.state = State::Reading(pending);
        } else {
            self.verify(pending, actions);
        }
    }

    fn resume(
        &mut self,
        request_id: RequestId,
        operation: Operation,
        from_step: u32,
        actions: &mut Vec<Action>,
    ) {
        actions.push(Action::Resume {
            request_id,
            from_step,
        });
        self.book = None;
        self.state = State::Answering(request_id, operation);
    }

    fn evidence(&mut self, evidence: Result<Box<Evidence>, String>, actions: &mut Vec<Action>) {
        let State::Reading(pending) = std::mem::replace(&mut self.state, State::Idle) else {
            return;
        };
        let book = evidence.and_then(|evidence| {
            Book::read(&evidence, self.ring.session(), self.ring.tenant()).map_err(|damaged| {
                actions.push(Action::Count(Count::Integrity("ledger")));
                damaged.to_string()
            })
        });
        match book {
            Ok(book) => {
                self.book = Some(book);
                self.verify(pending, actions);
            }
            Err(error) => self.no_ledger(&pending, &error, actions),
        }
    }

    fn verify(&mut self, mut pending: Box<Pending>, actions: &mut Vec<Action>) {
        // Taken out: a book that a bad bundle was half entered in is not used again.
        let Some(mut book) = self.book.take() else {
            return;
        };
        let request = &pending.request;
        match bundle::verify(&mut book, &mut self.ring, &self.terms, request) {
            // The device could not know: its question came through a gateway that it lost before it heard anything.
            Err(bundle::BundleError::Answered) => {
                self.resume(request.request_id, request.op, 0, actions)
            }
            Err(error @ bundle::BundleError::Behind(_)) if self.behind < BEHIND_MAX => {
                self.behind += 1;
                tracing::warn!(session = %self.ring.session(), %error, "a bundle is put off");
                let refusal = Refusal {
                    code: EndCode::LedgerUnavailable,
                    retry_after_ms: Some(RETRY_BEHIND),
                };
                self.refuse_request(request.request_id, request.op, refusal, actions);
            }
            Err(error) => self.bad_bundle(request.request_id, request.op, &error, actions),
            Ok(accepted) => {
                self.behind = 0;
                self.book = Some(book);
                pending.resets = accepted.resets;
                if accepted.blocks.is_empty() {
                    self.recorded(*pending, actions);
                } else {
                    actions.push(Action::Append(accepted.blocks));
                    self.state = State::Writing(pending);
                }
            }
        }
    }

    fn written(&mut self, written: Result<(), WriteError>, actions: &mut Vec<Action>) {
        let State::Writing(mut pending) = std::mem::replace(&mut self.state, State::Idle) else {
            return;
        };
        match written {
            Ok(()) => self.recorded(*pending, actions),
            Err(WriteError::Conflict) if !pending.retried => {
                pending.retried = true;
                self.book = None;
                actions.push(Action::Read);
                self.state = State::Reading(pending);
            }
            Err(WriteError::Conflict) => {
                self.no_ledger(&pending, "another writer appends to this session", actions);
            }
            Err(WriteError::Unavailable(error)) => self.no_ledger(&pending, &error, actions),
        }
    }

    /// The bundle is in the ledger.
    fn recorded(&mut self, pending: Pending, actions: &mut Vec<Action>) {
        let Pending {
            request,
            document,
            resets,
            ..
        } = pending;
        actions.extend((0..resets).map(|_| Action::Count(Count::Reset)));
        let request_id = request.request_id;
        if request.op == Operation::Record {
            let end = EscalateEnd::bare(request_id, EndStatus::Recorded, EndCode::Ok);
            return self.end(&end, request.op, actions);
        }
        let next_link = self
            .book
            .take()
            .map_or(0, |book| book.next_link(self.terms.epoch));
        actions.push(Action::Ask(Ask {
            request_id,
            document,
            max_tokens: request.max_tokens,
            next_link,
        }));
        self.state = State::Answering(request_id, request.op);
    }

    fn not_started(&mut self, refusal: Refusal, actions: &mut Vec<Action>) {
        if let State::Answering(request_id, operation) = self.state {
            self.state = State::Idle;
            self.refuse_request(request_id, operation, refusal, actions);
        }
    }

    fn ended(&mut self, document: &[u8], actions: &mut Vec<Action>) {
        let State::Answering(_, operation) = self.state else {
            return;
        };
        self.state = State::Idle;
        if let Ok(end) = EscalateEnd::parse(document) {
            actions.push(Action::Count(Count::Request(
                operation, end.status, end.code,
            )));
        }
        self.send_document(document, actions);
    }

    /// Refuses a message that has no effect otherwise.
    fn refuse(&mut self, reason: &'static str, actions: &mut Vec<Action>) {
        actions.push(Action::Count(Count::Refused(reason)));
        self.spend_refusal(actions);
    }

    fn spend_refusal(&mut self, actions: &mut Vec<Action>) {
        self.refusals_left = self.refusals_left.saturating_sub(1);
        if self.refusals_left == 0 {
            self.close(CloseReason::Refusals, actions);
        }
    }

    fn bad_bundle(
        &mut self,
        request_id: RequestId,
        operation: Operation,
        error: &bundle::BundleError,
        actions: &mut Vec<Action>,
    ) {
        let session = self.ring.session();
        actions.push(Action::Count(Count::Bundle(error.name())));
        if error.is_integrity() {
            tracing::error!(%session, %request_id, %error, "what a device sent does not verify");
            actions.push(Action::Count(Count::Integrity("bundle")));
        } else {
            tracing::debug!(%session, %request_id, %error, "bundle refused");
        }
        if let bundle::BundleError::TooManyTokens { .. } = error {
            let refusal = Refusal {
                code: EndCode::ContextExceeded,
                retry_after_ms: None,
            };
            return self.refuse_request(request_id, operation, refusal, actions);
        }
        self.invalid(request_id, operation, actions);
    }

    fn invalid(&mut self, request_id: RequestId, operation: Operation, actions: &mut Vec<Action>) {
        let refusal = Refusal {
            code: EndCode::BundleInvalid,
            retry_after_ms: None,
        };
        self.refuse_request(request_id, operation, refusal, actions);
        self.spend_refusal(actions);
    }

    fn no_ledger(&mut self, pending: &Pending, error: &str, actions: &mut Vec<Action>) {
        tracing::warn!(session = %self.ring.session(), error, "the ledger did not serve a request");
        self.book = None;
        let request = &pending.request;
        let end = EscalateEnd {
            retry_after_ms: Some(1000),
            ..EscalateEnd::bare(
                request.request_id,
                EndStatus::Failed,
                EndCode::LedgerUnavailable,
            )
        };
        self.end(&end, request.op, actions);
    }

    fn refuse_request(
        &mut self,
        request_id: RequestId,
        operation: Operation,
        refusal: Refusal,
        actions: &mut Vec<Action>,
    ) {
        if let (EndCode::RateLimited, Some(pause_ms)) = (refusal.code, refusal.retry_after_ms) {
            // Whatever the device sent next would be refused too.
            let plea = Backpressure {
                sender: Tier::Substrate,
                reason: PauseReason::Busy,
                pause_ms,
            };
            actions.push(Action::Count(Count::Pause));
            self.send(FrameType::Backpressure, &plea.encode(), actions);
        }
        let end = EscalateEnd {
            retry_after_ms: refusal.retry_after_ms,
            ..EscalateEnd::bare(request_id, EndStatus::Refused, refusal.code)
        };
        self.end(&end, operation, actions);
    }

    fn end(&mut self, end: &EscalateEnd, operation: Operation, actions: &mut Vec<Action>) {
        let count = Count::Request(operation, end.status, end.code);
        actions.push(Action::Count(count));
        match end.to_json() {
            Ok(document) => self.send_document(&document, actions),
            Err(error) => tracing::error!(%error, "an end could not be written"),
        }
    }

    fn send_document(&mut self, document: &[u8], actions: &mut Vec<Action>) {
        match fragment::split(document, END_MAX) {
            Ok(payloads) => {
                for payload in payloads {
                    self.send(FrameType::EscalateEnd, &payload, actions);
                }
            }
            Err(error) => tracing::error!(%error, "an end could not be sent"),
        }
    }

    fn send(&mut self, typ: FrameType, payload: &[u8], actions: &mut Vec<Action>) {
        if self.is_closed() {
            return;
        }
        match self.link.send(typ, payload) {
            Ok(frame) => actions.push(Action::Send(frame)),
            // Payloads were measured before; what is left is the end of the sequence numbers.
            Err(_) => self.close(CloseReason::Exhausted, actions),
        }
    }

    fn close(&mut self, reason: CloseReason, actions: &mut Vec<Action>) {
        if !self.is_closed() {
            self.state = State::Closed;
            actions.push(Action::Close(reason));
        }
    }
}
