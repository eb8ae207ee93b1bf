//! Requests to the gateway, one at a time, and what comes back: tokens, ends, seals.

use halo_receipts::chain::Event as Payload;
use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd, EscalateRequest, Operation};
use halo_receipts::fragment::{REQUEST_MAX, split};
use halo_receipts::frame::FrameType;
use halo_receipts::ids::{Hash, RequestId};
use halo_receipts::messages::{BreakReason, Token};
use halo_receipts::payload::{AnswerStatus, Answerer, V1};

use crate::tier1::answer::{Answer, Closed, Mismatch, Place, Progress, Taken};
use crate::tier1::capture::Break;
use crate::tier1::gateway::{Gateway, HOLD_MAX_MS};
use crate::tier1::machine::{Action, Orchestrator, Pipeline, Turn};
use crate::tier1::outbox::Bundle;
use crate::tier1::report::Report;
use crate::{after, elapsed_ms};

/// Room in a request for everything but prompt, receipts and payloads, in bytes.
const ENVELOPE: usize = 2048;
/// The wait when an answer names none, in milliseconds.
const PUT_OFF_MS: u32 = 500;

/// The request that the gateway works on.
pub(super) struct InFlight {
    pub(super) request_id: RequestId,
    operation: Operation,
    /// The receipts before this position are in it or were recorded before.
    upto: u64,
}

impl Orchestrator {
    /// Sends the next request, if none is under way.
    pub(super) fn pump(&mut self, turn: &mut Turn) {
        if self.hold_until.is_some_and(|until| turn.now < until) {
            return;
        }
        self.hold_until = None;
        let (Gateway::Open(_), None, Some(session)) =
            (&self.gateway, &self.in_flight, &self.session)
        else {
            return;
        };
        let end = session.outbox.end();
        let to_record =
            session.outbox.has_decisions() || (self.abandoned && session.outbox.len() > 0);
        match &mut self.pipeline {
            Pipeline::Answering(answer) => {
                if answer.retry_at.is_some_and(|at| turn.now < at) {
                    return;
                }
                answer.retry_at = None;
                match answer.progress {
                    Progress::Interrupted => self.send_resume(turn),
                    Progress::Unsent => self.send_infer(turn),
                    Progress::Sent => {}
                }
            }
            _ if to_record => self.send_record(end, turn),
            _ if self.abandoned && self.pending_break.is_none() => {
                turn.actions.push(Action::CloseGateway);
                self.session = None;
                self.forming.clear();
                self.abandoned = false;
                self.post(turn);
            }
            _ => {}
        }
    }

    fn send_resume(&mut self, turn: &mut Turn) {
        let Pipeline::Answering(answer) = &mut self.pipeline else {
            return;
        };
        answer.progress = Progress::Sent;
        turn.report(Report::Asked {
            request_id: answer.request_id,
            resumed: true,
        });
        let request = EscalateRequest {
            last_step: answer.last_step(),
            ..bare(Operation::Resume, answer.request_id)
        };
        let upto = answer.upto;
        self.request(&request, upto, turn);
    }

    fn send_infer(&mut self, turn: &mut Turn) {
        let (Pipeline::Answering(answer), Some(session)) = (&mut self.pipeline, &self.session)
        else {
            return;
        };
        let prompt = serde_json::to_string(&answer.prompt).map_or(REQUEST_MAX, |text| text.len());
        let budget = REQUEST_MAX.saturating_sub(ENVELOPE + prompt);
        let Ok(bundle) = session.outbox.bundle(answer.upto, budget) else {
            return;
        };
        if bundle.upto < answer.upto {
            // It does not fit beside the prompt: what comes first is recorded first.
            let upto = answer.upto - 1;
            return self.send_record(upto, turn);
        }
        answer.progress = Progress::Sent;
        answer.sent_at.get_or_insert(turn.now);
        turn.report(Report::Asked {
            request_id: answer.request_id,
            resumed: false,
        });
        let request = EscalateRequest {
            receipts: bundle.receipts,
            payloads: bundle.payloads,
            prompt: answer.prompt.clone(),
            max_tokens: self.config.max_tokens,
            sampling: self.config.sampling,
            ..bare(Operation::Infer, answer.request_id)
        };
        self.request(&request, bundle.upto, turn);
    }

    fn send_record(&mut self, upto: u64, turn: &mut Turn) {
        let Some(session) = &self.session else { return };
        let Ok(Bundle {
            receipts,
            payloads,
            upto,
        }) = session.outbox.bundle(upto, REQUEST_MAX - ENVELOPE)
        else {
            return;
        };
        let request = EscalateRequest {
            receipts,
            payloads,
            ..bare(Operation::Record, turn.request_id())
        };
        self.request(&request, upto, turn);
    }

    /// Sends one request in fragments.
    fn request(&mut self, request: &EscalateRequest, upto: u64, turn: &mut Turn) {
        let Gateway::Open(open) = &mut self.gateway else {
            return;
        };
        let fragments = request
            .to_json()
            .ok()
            .and_then(|json| split(&json, REQUEST_MAX).ok());
        let Some(fragments) = fragments else {
            let message = "a request would be longer than 64 KiB; this is a defect of the phone";
            return self.stop("request_too_long", message.to_owned(), turn);
        };
        open.active = turn.now;
        for fragment in fragments {
            match open.link.send(FrameType::EscalateRequest, &fragment) {
                Ok(frame) => turn.actions.push(Action::SendGateway(frame)),
                // The sequence numbers of this epoch are used up.
                Err(_) => return self.give_up_connection("a new epoch is needed", turn),
            }
        }
        self.in_flight = Some(InFlight {
            request_id: request.request_id,
            operation: request.op,
            upto,
        });
    }

    pub(super) fn token(&mut self, token: &Token, sequence: u32, turn: &mut Turn) {
        let running =
            matches!(&self.in_flight, Some(request) if request.operation != Operation::Record);
        let (Pipeline::Answering(answer), true) = (&mut self.pipeline, running) else {
            return self.refused.count("gateway_token");
        };
        match answer.token(token) {
            Taken::Next => {
                answer.first_token_at.get_or_insert(turn.now);
                answer.last_token_at = Some(turn.now);
                turn.report(Report::Token {
                    step: token.step,
                    text: token.text.clone(),
                    after_ms: answer.after_ms(turn.now),
                });
                self.sensor.show(&token.text);
            }
            Taken::Again => {}
            Taken::Wrong => {
                let found = Hash::of(&[token.expert_load.0, token.token_emit.0].concat());
                let mismatch = Mismatch {
                    what: "token",
                    expected: Hash([0; 32]),
                    computed: found,
                };
                self.mistrust(mismatch, sequence, turn);
            }
        }
    }

    /// What the substrate sent contradicts itself: the mitigation loop, and a new session after it.
    fn mistrust(&mut self, mismatch: Mismatch, sequence: u32, turn: &mut Turn) {
        let Some(session) = &self.session else { return };
        let found = Break {
            epoch: session.epoch,
            first_bad: sequence,
            reason: match mismatch.what {
                "parent" => BreakReason::Parent,
                _ => BreakReason::Receipt,
            },
            name: mismatch.what,
            expected: mismatch.expected,
            computed: mismatch.computed,
        };
        self.sensor.show("\nThe answer could not be verified.\n");
        self.pipeline = Pipeline::Idle;
        self.abandoned = true;
        self.break_chain(found, turn);
    }

    pub(super) fn end(&mut self, end: &EscalateEnd, sequence: u32, turn: &mut Turn) {
        let Some(request) = self
            .in_flight
            .take_if(|request| request.request_id == end.request_id)
        else {
            return self.refused.count("gateway_end");
        };
        let recorded = end.status == EndStatus::Recorded && request.operation == Operation::Record;
        if recorded || !end.receipts.is_empty() {
            self.confirm(request.upto, turn);
        }
        match (request.operation, &self.pipeline) {
            (Operation::Record, _) if recorded => {}
            (Operation::Record, _) => self.put_off_record(end, turn),
            (_, Pipeline::Answering(_)) => self.answered(end, request.operation, sequence, turn),
            _ => {}
        }
    }

    fn confirm(&mut self, upto: u64, turn: &mut Turn) {
        let Some(session) = &mut self.session else {
            return;
        };
        for report in session.outbox.confirm(upto) {
            self.sealed += u64::from(matches!(report, Report::Sealed { .. }));
            turn.report(report);
        }
    }

    fn put_off_record(&mut self, end: &EscalateEnd, turn: &mut Turn) {
        if end.code == EndCode::BundleInvalid {
            return self.bundle_refused(turn);
        }
        let wait = end.retry_after_ms.unwrap_or(PUT_OFF_MS);
        self.hold(wait, turn.now);
        if end.code == EndCode::Draining {
            self.give_up_connection("the gateway is draining", turn);
        } else {
            let cause = format!("the gateway could not record: {}", end.code.name());
            turn.report(Report::Retry {
                cause,
                retry_ms: u64::from(wait),
            });
        }
    }

    fn bundle_refused(&mut self, turn: &mut Turn) {
        let message = "the gateway refused receipts of this session as invalid; look at its log, and begin a new session";
        self.stop("bundle_invalid", message.to_owned(), turn);
    }

    /// The end of an answer, whole or not.
    fn answered(
        &mut self,
        end: &EscalateEnd,
        operation: Operation,
        sequence: u32,
        turn: &mut Turn,
    ) {
        let Pipeline::Answering(mut answer) = std::mem::replace(&mut self.pipeline, Pipeline::Idle)
        else {
            return;
        };
        let Some(session) = &self.session else { return };
        let place = Place {
            session_id: session.id,
            tenant_id: &session.tenant,
            epoch: session.epoch,
            first: u32::try_from(session.substrate.len()).unwrap_or(u32::MAX),
        };
        match answer.close(end, &place) {
            Some(Ok(closed)) => self.close(&answer, closed, turn),
            Some(Err(mismatch)) => self.mistrust(mismatch, sequence, turn),
            None if matches!(end.status, EndStatus::Ok | EndStatus::Recorded) => {
                let mismatch = Mismatch {
                    what: "response",
                    expected: Hash([0; 32]),
                    computed: Hash::of(b""),
                };
                self.mistrust(mismatch, sequence, turn);
            }
            None if end.code == EndCode::BundleInvalid => self.bundle_refused(turn),
            None => {
                answer.attempts += 1;
                let again = end.retry_after_ms.is_some()
                    || end.status == EndStatus::Failed
                    || matches!(
                        end.code,
                        EndCode::UnknownRequest | EndCode::Busy | EndCode::Draining
                    );
                if again && answer.attempts <= self.config.attempts_max {
                    self.ask_again(answer, end, operation, turn);
                } else {
                    self.unanswered(&answer, end, turn);
                }
            }
        }
    }

    fn ask_again(
        &mut self,
        mut answer: Box<Answer>,
        end: &EscalateEnd,
        operation: Operation,
        turn: &mut Turn,
    ) {
        let unknown = end.code == EndCode::UnknownRequest;
        let begun = end.status != EndStatus::Refused || operation == Operation::Resume;
        answer.progress = match begun && !unknown {
            true => Progress::Interrupted,
            false => Progress::Unsent,
        };
        let wait = if unknown {
            0
        } else {
            end.retry_after_ms.unwrap_or(PUT_OFF_MS).min(HOLD_MAX_MS)
        };
        answer.retry_at = Some(after(turn.now, u64::from(wait)));
        turn.report(Report::PutOff {
            request_id: answer.request_id,
            code: end.code,
            retry_ms: u64::from(wait),
            after_ms: answer.after_ms(turn.now),
        });
        self.pipeline = Pipeline::Answering(answer);
        if end.code == EndCode::Draining {
            self.give_up_connection("the gateway is draining", turn);
        }
    }

    /// The substrate does not answer and has written nothing: the phone says so, and seals.
    fn unanswered(&mut self, answer: &Answer, end: &EscalateEnd, turn: &mut Turn) {
        let text = format!(
            "The substrate did not answer: {}.",
            end.code.name().replace('_', " ")
        );
        turn.report(Report::Unanswered {
            request_id: answer.request_id,
            status: end.status,
            code: end.code,
            retry_after_ms: end.retry_after_ms,
            tokens: answer.last_step().map_or(0, |last| last + 1),
            after_ms: answer.after_ms(turn.now),
        });
        self.sensor.show(&text);
        self.end_of_answer();
        if answer.last_step().is_some() || end.status != EndStatus::Refused {
            // Receipts of tier 2 may stand in the ledger that this phone never saw: it cannot seal over them.
            turn.report(Report::Error {
                code: "answer_lost",
                message: format!("{text} The session stays open, and a new one begins."),
            });
            self.abandoned = true;
            return;
        }
        turn.report(Report::LocalAnswer { text: text.clone() });
        let done = self.finish(
            answer.routing,
            AnswerStatus::Refused,
            Answerer::Local,
            &text,
            turn,
        );
        if let Err(error) = done {
            self.cannot_write(&error, turn);
        }
    }

    /// The seal fits: the phone seals in turn.
    fn close(&mut self, answer: &Answer, closed: Closed, turn: &mut Turn) {
        let Some(session) = &mut self.session else {
            return;
        };
        let response = closed.response;
        let event = Payload::SubstrateResponse(response.clone());
        session.substrate_response(closed.leaves, &closed.receipt, &event);
        let begun = answer.sent_at.unwrap_or(turn.now);
        let seconds = elapsed_ms(begun, answer.last_token_at.unwrap_or(turn.now)) as f64 / 1000.0;
        turn.report(Report::Answer {
            request_id: answer.request_id,
            status: response.status,
            finish: response.finish,
            model: response.model,
            text: closed.text.clone(),
            prompt_tokens: response.prompt_tokens,
            tokens: response.completion_tokens,
            first_token_ms: answer.first_token_at.map(|first| elapsed_ms(begun, first)),
            seconds,
            tok_per_s: rate(response.completion_tokens, seconds),
            receipt_id: closed.receipt.body.receipt_id,
            receipts: response.receipts,
            root: response.root,
        });
        match response.status {
            AnswerStatus::Ok => {}
            AnswerStatus::Interrupted => self.sensor.show("\nThe answer broke off here."),
            AnswerStatus::Refused => self.sensor.show("The substrate refused to answer."),
        }
        self.end_of_answer();
        let parent = closed.receipt.as_parent();
        let done = self.finish(
            parent,
            response.status,
            Answerer::Substrate,
            &closed.text,
            turn,
        );
        if let Err(error) = done {
            self.cannot_write(&error, turn);
        }
    }
}

fn bare(op: Operation, request_id: RequestId) -> EscalateRequest {
    EscalateRequest {
        v: V1,
        op,
        request_id,
        receipts: Vec::new(),
        payloads: Vec::new(),
        prompt: String::new(),
        max_tokens: 0,
        sampling: Default::default(),
        last_step: None,
    }
}

/// Tokens by seconds; 0 when no time was measured.
fn rate(tokens: u32, seconds: f64) -> f64 {
    match seconds > 0.0 {
        true => (f64::from(tokens) / seconds * 10.0).round() / 10.0,
        false => 0.0,
    }
}
