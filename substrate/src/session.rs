//! One link from a gateway, as a pure machine: an event, the time and random bytes come in, actions go out.
//!
//! ```text
//! Message ──► verified frame ──► whole request ──► authenticated ──► Prepare
//!                                                                      │ Prepared(evidence)
//!                                        Encode ◄── bundle in place ◄──┘
//!             Encoded(tokens) ──► fits the context ──► Generate
//!             Queued* Started Step* ──► Send(token), Append(block)
//!             last Step, Closed, Interrupt, Failed ──► seal: Append(block) ──► Appended… ──► Send(end), Release
//! ```
//!
//! A link carries one request at a time. Whoever drives the machine appends blocks in the order in which it gets them,
//! answers each with `Appended` or `AppendFailed`, and after `Cancel` or `Release` passes on nothing more that belongs
//! to the request.

mod endings;
mod events;

use std::sync::Arc;

use halo_receipts::documents::{
    EndCode, EndStatus, EscalateEnd, EscalateRequest, Notice, Progress,
};
use halo_receipts::evidence::Evidence;
use halo_receipts::fragment::{self, END_MAX, REQUEST_MAX, Reassembler};
use halo_receipts::frame::FrameType;
use halo_receipts::ids::{RequestId, Tier};
use halo_receipts::keys::{TenantKeys, TierKey};
use halo_receipts::link::{End, Link};
use halo_receipts::time::Timestamp;

use crate::answer::{Answer, Binding, Ending, Random};
use crate::bundle::{Accepted, Bundle, BundleError, LinkId, authenticate};
use crate::generate::StepOutput;
pub use events::{
    Action, BLOCKS_WAITING, CLOSE_DRAIN, CLOSE_REFUSED, Event, Job, REFUSALS_MAX, Served,
    Unprepared,
};

/// When a refused request may come again, in milliseconds.
const RETRY_BUSY: u32 = 500;
const RETRY_LATER: u32 = 2_000;

/// A request that waits for its turn.
struct Waiting {
    accepted: Accepted,
    prompt_tokens: u32,
    noticed: bool,
}

/// Where the one request of the link stands.
enum Work {
    Idle,
    Preparing(Bundle),
    Encoding(Box<Accepted>),
    Waiting(Box<Waiting>),
    Answering(Box<Answer>, RequestId),
    /// The seal is on its way to the ledger; the end is sent when it is there.
    Sealing(Box<EscalateEnd>),
}

/// One link.
pub struct LinkSession {
    id: LinkId,
    keys: Arc<dyn TenantKeys>,
    key: Arc<TierKey>,
    served: Arc<Served>,
    refusals_max: u32,
    link: Link,
    incoming: Reassembler,
    work: Work,
    open: bool,
    draining: bool,
    refusals: u32,
    /// Blocks handed over that are not known to be durable.
    outstanding: u32,
}

impl LinkSession {
    /// A link before its first message; `None` if `keys` has none for its session.
    pub fn new(
        id: LinkId,
        keys: Arc<dyn TenantKeys>,
        served: Arc<Served>,
        refusals_max: u32,
    ) -> Option<Self> {
        let session_key = keys.session_key(&id.tenant_id, &id.session_id, id.session_epoch)?;
        let key = Arc::new(session_key.tier_key(Tier::Substrate));
        Some(Self {
            link: Link::new(End::Substrate, id.session_id, Arc::clone(&key)),
            id,
            keys,
            key,
            served,
            refusals_max,
            incoming: Reassembler::new(REQUEST_MAX),
            work: Work::Idle,
            open: true,
            draining: false,
            refusals: 0,
            outstanding: 0,
        })
    }

    /// Whether nothing is left to do: the connection is gone and no receipt is on its way.
    pub fn is_over(&self) -> bool {
        !self.open && matches!(self.work, Work::Idle)
    }

    /// Whether a request is under way.
    pub fn is_busy(&self) -> bool {
        !matches!(self.work, Work::Idle)
    }

    /// The request under way.
    pub fn request_id(&self) -> Option<RequestId> {
        match &self.work {
            Work::Idle => None,
            Work::Preparing(bundle) => Some(bundle.request_id),
            Work::Encoding(accepted) => Some(accepted.request_id),
            Work::Waiting(waiting) => Some(waiting.accepted.request_id),
            Work::Answering(_, request_id) => Some(*request_id),
            Work::Sealing(end) => Some(end.request_id),
        }
    }

    /// Whether the next step may be taken; not while the ledger lags behind.
    pub fn wants_step(&self) -> bool {
        self.outstanding < BLOCKS_WAITING
    }

    /// When to send [`Event::Tick`].
    pub fn deadline(&self) -> Option<Timestamp> {
        match &self.work {
            Work::Answering(answer, _) => answer.deadline(),
            _ => None,
        }
    }

    /// Takes an event.
    pub fn handle(&mut self, event: Event, now: Timestamp, random: &mut Random<'_>) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Message(message) if self.open => self.message(&message, now, random, &mut out),
            Event::Message(_) => {}
            Event::Prepared(evidence) => self.prepared(&evidence, &mut out),
            Event::Unprepared(why) => self.unprepared(why, &mut out),
            Event::Encoded(tokens) => self.encoded(tokens, &mut out),
            Event::Queued { position, eta_ms } => self.queued(position, eta_ms, &mut out),
            Event::Rejected {
                code,
                retry_after_ms,
            } => {
                if let Work::Waiting(_) = self.work {
                    self.refuse(code, Some(retry_after_ms), &mut out);
                }
            }
            Event::Started => self.started(now, &mut out),
            Event::Step(output) => self.step(&output, now, random, &mut out),
            Event::Failed => match self.work {
                Work::Waiting(_) => {
                    self.end_bare(EndStatus::Failed, EndCode::EngineFailed, None, &mut out);
                }
                _ => self.seal(Ending::Lost, now, random, &mut out),
            },
            Event::Appended => self.appended(&mut out),
            Event::AppendFailed => self.append_failed(&mut out),
            Event::Tick => {
                if let Work::Answering(answer, _) = &mut self.work
                    && let Some(block) = answer.tick(now)
                {
                    self.append(block, &mut out);
                }
            }
            Event::Closed => self.closed(now, random, &mut out),
            Event::Drain => self.drain(&mut out),
            Event::Interrupt => {
                self.drain(&mut out);
                if let Work::Answering(..) = self.work {
                    out.push(Action::Cancel);
                    self.seal(Ending::Draining, now, random, &mut out);
                }
            }
        }
        out
    }

    fn message(
        &mut self,
        message: &[u8],
        now: Timestamp,
        random: &mut Random<'_>,
        out: &mut Vec<Action>,
    ) {
        let refused = match self.link.receive(message) {
            Err(error) => error.name(),
            Ok(frame) => match self.incoming.push(frame.payload) {
                Err(_) => "fragment",
                Ok(None) => return,
                Ok(Some(document)) => match self.request(&document, out) {
                    Ok(()) => return,
                    Err(reason) => reason,
                },
            },
        };
        out.push(Action::Refused(refused));
        self.refusals += 1;
        if self.refusals >= self.refusals_max {
            out.push(Action::Close(CLOSE_REFUSED));
            self.closed(now, random, out);
        }
    }

    /// Takes a whole request. Error: a document that not even an answer can be sent to.
    fn request(&mut self, document: &[u8], out: &mut Vec<Action>) -> Result<(), &'static str> {
        let request = match EscalateRequest::parse(document) {
            Ok(request) => request,
            Err(error) => {
                let id = request_id(document).ok_or("document")?;
                out.push(Action::Log(format!("request {id} refused: {error}")));
                self.turn_away(id, EndCode::BundleInvalid, None, out);
                return Ok(());
            }
        };
        let id = request.request_id;
        if self.is_busy() {
            self.turn_away(id, EndCode::Busy, Some(RETRY_BUSY), out);
        } else if self.draining {
            self.turn_away(id, EndCode::Draining, Some(RETRY_LATER), out);
        } else {
            match authenticate(&self.id, &*self.keys, request) {
                Ok(bundle) => {
                    self.work = Work::Preparing(bundle);
                    out.push(Action::Prepare);
                }
                Err(error) => {
                    out.push(Action::Log(format!("request {id} refused: {error}")));
                    self.turn_away(id, error.code(), None, out);
                }
            }
        }
        Ok(())
    }

    fn prepared(&mut self, evidence: &Evidence, out: &mut Vec<Action>) {
        let Work::Preparing(bundle) = self.take_work_if(|work| matches!(work, Work::Preparing(_)))
        else {
            return;
        };
        let id = bundle.request_id;
        match bundle.place(&self.id, &*self.keys, evidence) {
            Ok(accepted) => {
                let prompt = accepted.prompt.clone();
                self.work = Work::Encoding(Box::new(accepted));
                out.push(Action::Encode { prompt });
            }
            Err(error) => {
                out.push(Action::Log(format!("request {id} refused: {error}")));
                let end = EscalateEnd {
                    retry_after_ms: match error {
                        BundleError::Answered => Some(RETRY_BUSY),
                        BundleError::Behind(_) => Some(RETRY_LATER),
                        _ => None,
                    },
                    ..EscalateEnd::bare(id, EndStatus::Refused, error.code())
                };
                self.conclude(&end, out);
            }
        }
    }

    fn unprepared(&mut self, why: Unprepared, out: &mut Vec<Action>) {
        if !matches!(self.work, Work::Preparing(_)) {
            return;
        }
        match why {
            Unprepared::Busy => self.refuse(EndCode::Busy, Some(RETRY_BUSY), out),
            Unprepared::Ledger => self.refuse(EndCode::LedgerUnavailable, Some(RETRY_LATER), out),
        }
    }

    fn encoded(&mut self, tokens: Option<Vec<u32>>, out: &mut Vec<Action>) {
        let Work::Encoding(accepted) = self.take_work_if(|work| matches!(work, Work::Encoding(_)))
        else {
            return;
        };
        let asked = u64::from(accepted.params.max_tokens);
        let limit = self.served.context_limit as u64;
        let refusal = match &tokens {
            None => Some(EndCode::BundleInvalid),
            Some(tokens) if tokens.is_empty() => Some(EndCode::BundleInvalid),
            Some(tokens) if tokens.len() as u64 + asked > limit => Some(EndCode::ContextExceeded),
            Some(_) => None,
        };
        if let Some(code) = refusal {
            let end = EscalateEnd::bare(accepted.request_id, EndStatus::Refused, code);
            return self.conclude(&end, out);
        }
        let tokens = tokens.unwrap_or_default();
        let prompt_tokens = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let params = accepted.params.clone();
        self.work = Work::Waiting(Box::new(Waiting {
            accepted: *accepted,
            prompt_tokens,
            noticed: false,
        }));
        out.push(Action::Generate(Job { tokens, params }));
    }

    fn queued(&mut self, position: u32, eta_ms: u32, out: &mut Vec<Action>) {
        if let Work::Waiting(waiting) = &mut self.work {
            waiting.noticed = true;
            self.notice(Progress::Queued, position, eta_ms, out);
        }
    }

    fn started(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let Work::Waiting(waiting) = self.take_work_if(|work| matches!(work, Work::Waiting(_)))
        else {
            return;
        };
        let Waiting {
            accepted,
            prompt_tokens,
            noticed,
        } = *waiting;
        if noticed {
            self.notice(Progress::Ready, 0, 0, out);
        }
        let request_id = accepted.request_id;
        let binding = Binding {
            tenant_id: self.id.tenant_id.clone(),
            session_id: self.id.session_id,
            session_epoch: self.id.session_epoch,
            request_id,
            routing: accepted.routing,
            first: accepted.first,
            content: accepted.content,
            model: self.served.identity.clone(),
            prompt_tokens,
        };
        let answer = Answer::new(binding, Arc::clone(&self.key), accepted.chain, now);
        self.work = Work::Answering(Box::new(answer), request_id);
    }

    fn step(
        &mut self,
        output: &StepOutput,
        now: Timestamp,
        random: &mut Random<'_>,
        out: &mut Vec<Action>,
    ) {
        let Work::Answering(answer, _) = &mut self.work else {
            return;
        };
        match answer.step(output, now, random) {
            Ok(stepped) => {
                match stepped.token.encode() {
                    Ok(payload) => self.send(FrameType::EscalateToken, &payload, out),
                    Err(error) => out.push(Action::Log(format!("token not sent: {error}"))),
                }
                if let Some(block) = stepped.block {
                    self.append(block, out);
                }
                if let Some(reason) = output.finished {
                    self.seal(Ending::Finished(reason), now, random, out);
                }
            }
            Err(error) => {
                out.push(Action::Log(format!("answer broken off: {error}")));
                out.push(Action::Cancel);
                self.seal(Ending::Lost, now, random, out);
            }
        }
    }

    fn notice(&mut self, state: Progress, position: u32, eta_ms: u32, out: &mut Vec<Action>) {
        let notice = Notice {
            state,
            position,
            eta_ms,
        };
        match notice.encode() {
            Ok(payload) => self.send(FrameType::EscalateToken, &payload, out),
            Err(error) => out.push(Action::Log(format!("notice not sent: {error}"))),
        }
    }

    fn send_end(&mut self, end: &EscalateEnd, out: &mut Vec<Action>) {
        let bare = EscalateEnd::bare(end.request_id, end.status, end.code);
        // The seal of a very long answer may not fit the message; the ledger holds it then.
        let cut = |end: &EscalateEnd| fragment::split(&end.to_json().ok()?, END_MAX).ok();
        match cut(end).or_else(|| cut(&bare)) {
            Some(pieces) => {
                for payload in pieces {
                    self.send(FrameType::EscalateEnd, &payload, out);
                }
            }
            None => out.push(Action::Log("the end could not be written".to_owned())),
        }
    }

    fn send(&mut self, typ: FrameType, payload: &[u8], out: &mut Vec<Action>) {
        if !self.open {
            return;
        }
        match self.link.send(typ, payload) {
            Ok(frame) => out.push(Action::Send(frame)),
            Err(error) => out.push(Action::Log(format!("frame not sent: {error}"))),
        }
    }

    /// Takes the work out, leaving the link idle, if it is of the kind asked for; `Idle` otherwise.
    fn take_work_if(&mut self, is: impl Fn(&Work) -> bool) -> Work {
        if is(&self.work) {
            std::mem::replace(&mut self.work, Work::Idle)
        } else {
            Work::Idle
        }
    }
}

/// The id of a request that is otherwise not what it must be, so that its sender is told.
fn request_id(document: &[u8]) -> Option<RequestId> {
    let value: serde_json::Value = serde_json::from_slice(document).ok()?;
    value.get("request_id")?.as_str()?.parse().ok()
}
