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

use std::sync::Arc;

use halo_receipts::documents::{
    EndCode, EndStatus, EscalateEnd, EscalateRequest, Notice, Progress,
};
use halo_receipts::evidence::{Block, Evidence};
use halo_receipts::fragment::{self, END_MAX, REQUEST_MAX, Reassembler};
use halo_receipts::frame::FrameType;
use halo_receipts::ids::{RequestId, Tier};
use halo_receipts::keys::{TenantKeys, TierKey};
use halo_receipts::link::{End, Link};
use halo_receipts::payload::{ModelIdentity, to_raw};
use halo_receipts::time::Timestamp;

use crate::answer::{Answer, Binding, Ending, Random};
use crate::bundle::{Accepted, Bundle, LinkId, authenticate};
use crate::generate::{Params, StepOutput};

/// Refused messages after which a link is closed, unless told otherwise.
pub const REFUSALS_MAX: u32 = 16;
/// Blocks that may wait for the ledger before no further step is taken.
pub const BLOCKS_WAITING: u32 = 4;
/// WebSocket close code: the messages are not what the protocol says.
pub const CLOSE_REFUSED: u16 = 1008;
/// WebSocket close code: the pod shuts down, connect elsewhere.
pub const CLOSE_DRAIN: u16 = 1012;

/// When a refused request may come again, in milliseconds.
const RETRY_BUSY: u32 = 500;
const RETRY_LATER: u32 = 2_000;

/// What a link is told about the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// What stands in the first receipt of each answer.
    pub identity: ModelIdentity,
    /// Tokens that a prompt and its answer may have together.
    pub context_limit: usize,
}

/// What a generator is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// How to answer it.
    pub params: Params,
}

/// Why the session could not be read for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unprepared {
    /// Another link of the session has an answer under way in this pod.
    Busy,
    /// The ledger does not answer, or does not know the session.
    Ledger,
}

/// What happens to a link.
#[derive(Debug)]
pub enum Event {
    /// A binary message came. (A text message is an empty one: no frame either.)
    Message(Vec<u8>),
    /// The answer to `Prepare`: the session is this link's until `Release`, and the ledger holds this of it.
    Prepared(Box<Evidence>),
    /// The answer to `Prepare`: it could not be done.
    Unprepared(Unprepared),
    /// The answer to `Encode`; `None` if the model's template or tokenizer refuses the prompt.
    Encoded(Option<Vec<u32>>),
    /// The job waits, and this many are before it.
    Queued {
        /// Jobs before this one.
        position: u32,
        /// Estimated time until it starts, in milliseconds; 0 if unknown.
        eta_ms: u32,
    },
    /// The job was not taken.
    Rejected {
        /// Why.
        code: EndCode,
        /// When to try again.
        retry_after_ms: u32,
    },
    /// Computing begins.
    Started,
    /// The engine made a token.
    Step(StepOutput),
    /// The engine failed; no further step follows.
    Failed,
    /// The oldest block that was handed over is durable.
    Appended,
    /// The oldest block that was handed over is lost, and those after it.
    AppendFailed,
    /// The time of [`LinkSession::deadline`] has come.
    Tick,
    /// The connection is gone.
    Closed,
    /// Finish what is computed, begin nothing new.
    Drain,
    /// Break off what is computed.
    Interrupt,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Send a frame.
    Send(Vec<u8>),
    /// Reserve the session in this pod, then read it from the ledger.
    Prepare,
    /// Turn a prompt into tokens.
    Encode {
        /// The prompt.
        prompt: String,
    },
    /// Make an answer.
    Generate(Job),
    /// Stop making it.
    Cancel,
    /// Append a block to the session.
    Append(Block),
    /// Give the session free.
    Release {
        /// How the request ended.
        status: EndStatus,
        /// Why.
        code: EndCode,
    },
    /// Count a refused message or request under this reason.
    Refused(&'static str),
    /// Log an error; it holds nothing private.
    Log(String),
    /// Send what is to be sent, then close the connection with this code.
    Close(u16),
}

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
                self.send_refusal(id, EndCode::BundleInvalid, None, out);
                return Ok(());
            }
        };
        let id = request.request_id;
        if self.is_busy() {
            self.send_refusal(id, EndCode::Busy, Some(RETRY_BUSY), out);
        } else if self.draining {
            self.send_refusal(id, EndCode::Draining, Some(RETRY_LATER), out);
        } else {
            match authenticate(&self.id, &*self.keys, request) {
                Ok(bundle) => {
                    self.work = Work::Preparing(bundle);
                    out.push(Action::Prepare);
                }
                Err(error) => {
                    out.push(Action::Log(format!("request {id} refused: {error}")));
                    self.send_refusal(id, error.code(), None, out);
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
                self.send_refusal(id, error.code(), None, out);
                self.release(EndStatus::Refused, error.code(), out);
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
        let id = accepted.request_id;
        let Some(tokens) = tokens.filter(|tokens| !tokens.is_empty()) else {
            self.send_refusal(id, EndCode::BundleInvalid, None, out);
            return self.release(EndStatus::Refused, EndCode::BundleInvalid, out);
        };
        let asked = u64::from(accepted.params.max_tokens);
        let (Ok(prompt_tokens), true) = (
            u32::try_from(tokens.len()),
            tokens.len() as u64 + asked <= self.served.context_limit as u64,
        ) else {
            self.send_refusal(id, EndCode::ContextExceeded, None, out);
            return self.release(EndStatus::Refused, EndCode::ContextExceeded, out);
        };
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

    /// Closes the answer under way; its end is sent when all of it is durable.
    fn seal(
        &mut self,
        ending: Ending,
        now: Timestamp,
        random: &mut Random<'_>,
        out: &mut Vec<Action>,
    ) {
        let Work::Answering(answer, request_id) =
            self.take_work_if(|work| matches!(work, Work::Answering(..)))
        else {
            return;
        };
        let (status, code, retry_after_ms) = match ending {
            Ending::Finished(_) => (EndStatus::Ok, EndCode::Ok, None),
            Ending::Cancelled => (EndStatus::Cancelled, EndCode::Cancelled, None),
            Ending::Draining => (EndStatus::Failed, EndCode::Draining, Some(RETRY_LATER)),
            Ending::Lost => (EndStatus::Failed, EndCode::EngineFailed, None),
        };
        let mut end = EscalateEnd::bare(request_id, status, code);
        end.retry_after_ms = retry_after_ms;
        match answer.finish(ending, now, random) {
            Ok(sealed) => {
                for block in sealed.blocks {
                    self.append(block, out);
                }
                if let Ok(payload) = to_raw(&sealed.payload) {
                    end.receipts = vec![sealed.receipt];
                    end.payloads = vec![Some(payload)];
                }
                self.work = Work::Sealing(Box::new(end));
            }
            Err(error) => {
                out.push(Action::Log(format!("answer not sealed: {error}")));
                let end = EscalateEnd::bare(request_id, EndStatus::Failed, EndCode::EngineFailed);
                self.work = Work::Sealing(Box::new(end));
                self.finish_if_durable(out);
            }
        }
    }

    fn append(&mut self, block: Block, out: &mut Vec<Action>) {
        self.outstanding += 1;
        out.push(Action::Append(block));
    }

    fn appended(&mut self, out: &mut Vec<Action>) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.finish_if_durable(out);
    }

    fn finish_if_durable(&mut self, out: &mut Vec<Action>) {
        if self.outstanding > 0 {
            return;
        }
        let Work::Sealing(end) = self.take_work_if(|work| matches!(work, Work::Sealing(_))) else {
            return;
        };
        self.send_end(&end, out);
        self.release(end.status, end.code, out);
    }

    fn append_failed(&mut self, out: &mut Vec<Action>) {
        self.outstanding = 0;
        match self.work {
            Work::Answering(..) => out.push(Action::Cancel),
            Work::Sealing(_) => {}
            _ => return,
        }
        let (status, code) = (EndStatus::Failed, EndCode::LedgerUnavailable);
        self.end_bare(status, code, Some(RETRY_LATER), out);
    }

    fn closed(&mut self, now: Timestamp, random: &mut Random<'_>, out: &mut Vec<Action>) {
        self.open = false;
        match self.work {
            Work::Idle | Work::Sealing(_) => {}
            Work::Preparing(_) | Work::Encoding(_) => self.abandon(out),
            Work::Waiting(_) => {
                out.push(Action::Cancel);
                self.abandon(out);
            }
            Work::Answering(..) => {
                out.push(Action::Cancel);
                self.seal(Ending::Cancelled, now, random, out);
            }
        }
    }

    /// Forgets a request of which nothing was computed, and so nothing is written.
    fn abandon(&mut self, out: &mut Vec<Action>) {
        self.work = Work::Idle;
        self.release(EndStatus::Cancelled, EndCode::Cancelled, out);
    }

    fn drain(&mut self, out: &mut Vec<Action>) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        match self.work {
            Work::Idle => self.close_drained(out),
            Work::Preparing(_) | Work::Encoding(_) => {
                self.refuse(EndCode::Draining, Some(RETRY_LATER), out);
            }
            Work::Waiting(_) => {
                out.push(Action::Cancel);
                self.refuse(EndCode::Draining, Some(RETRY_LATER), out);
            }
            Work::Answering(..) | Work::Sealing(_) => {}
        }
    }

    fn close_drained(&mut self, out: &mut Vec<Action>) {
        if std::mem::replace(&mut self.open, false) {
            out.push(Action::Close(CLOSE_DRAIN));
        }
    }

    /// Refuses the request that is under way and of which nothing was computed.
    fn refuse(&mut self, code: EndCode, retry_after_ms: Option<u32>, out: &mut Vec<Action>) {
        self.end_bare(EndStatus::Refused, code, retry_after_ms, out);
    }

    /// Ends the request under way without a receipt.
    fn end_bare(
        &mut self,
        status: EndStatus,
        code: EndCode,
        retry_after_ms: Option<u32>,
        out: &mut Vec<Action>,
    ) {
        let request_id = match std::mem::replace(&mut self.work, Work::Idle) {
            Work::Idle => return,
            Work::Preparing(bundle) => bundle.request_id,
            Work::Encoding(accepted) => accepted.request_id,
            Work::Waiting(waiting) => waiting.accepted.request_id,
            Work::Answering(_, request_id) => request_id,
            Work::Sealing(end) => end.request_id,
        };
        let mut end = EscalateEnd::bare(request_id, status, code);
        end.retry_after_ms = retry_after_ms;
        if status == EndStatus::Refused {
            out.push(Action::Refused(code.name()));
        }
        self.send_end(&end, out);
        self.release(status, code, out);
    }

    /// Refuses a request that is not, or no longer, the one under way.
    fn send_refusal(
        &mut self,
        request_id: RequestId,
        code: EndCode,
        retry_after_ms: Option<u32>,
        out: &mut Vec<Action>,
    ) {
        let mut end = EscalateEnd::bare(request_id, EndStatus::Refused, code);
        end.retry_after_ms = retry_after_ms;
        out.push(Action::Refused(code.name()));
        self.send_end(&end, out);
    }

    /// The request is over; a draining link with nothing to do is closed.
    fn release(&mut self, status: EndStatus, code: EndCode, out: &mut Vec<Action>) {
        out.push(Action::Release { status, code });
        if self.draining {
            self.close_drained(out);
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
