//! Drives the machine of one link: socket, ledger, tokenizer, threads and clock on one side, [`LinkSession`] on the other.

mod trace;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use halo_ledger::{Ledger, LedgerError};
use halo_receipts::documents::{EndCode, EndStatus};
use halo_receipts::evidence::{Block, Evidence};
use halo_receipts::ids::SessionId;
use halo_receipts::keys::{SigningKey, TenantKeys};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::bundle::LinkId;
use crate::metrics::Metrics;
use crate::pod::{Phase, Pod, Ready, Reservation, now};
use crate::session::{Action, Event, LinkSession, REFUSALS_MAX, Unprepared};
use crate::worker::{Report, Ticket};
use trace::Trace;

/// A gateway that takes no message for so long is gone.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// How often a quiet connection is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(25);
/// How long a connection may be quiet, its pongs included.
const QUIET_LIMIT: Duration = Duration::from_secs(60);
/// How long a read or an append may take, retries included.
const LEDGER_LIMIT: Duration = Duration::from_secs(10);
/// Waits between attempts to append; after the last one the block is given up.
const APPEND_RETRIES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_millis(1000),
];

type Pending<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// Fresh ids for receipts: HMAC-SHA256 over a counter under a random key, so that only the key's making can fail.
pub struct Ids {
    key: SigningKey,
    counter: u64,
}

impl Ids {
    /// Takes 32 bytes from the operating system.
    ///
    /// # Errors
    /// When it gives none.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice())?;
        Ok(Self {
            key: SigningKey::from_bytes(*seed),
            counter: 0,
        })
    }

    /// The next 16 bytes.
    pub fn take(&mut self) -> [u8; 16] {
        self.counter += 1;
        let mut id = [0; 16];
        let block = self.key.sign(&[&self.counter.to_be_bytes()]);
        id.copy_from_slice(&block[..16]);
        id
    }
}

/// One link with everything that happens around it.
struct Driver {
    pod: Arc<Pod>,
    ready: Arc<Ready>,
    session_id: SessionId,
    socket: Option<WebSocket>,
    session: LinkSession,
    ids: Ids,
    /// Events that are answered at once.
    inbox: VecDeque<Event>,
    reservation: Option<Reservation>,
    snapshot: Pending<Option<Evidence>>,
    encoding: Option<JoinHandle<Option<Vec<u32>>>>,
    ticket: Option<Ticket>,
    blocks: VecDeque<Block>,
    appending: Pending<bool>,
    trace: Trace,
    /// Since when no step is taken because the ledger lags.
    held_since: Option<Instant>,
}

/// A link that was let in.
pub struct Admitted {
    /// Its session and epoch.
    pub id: LinkId,
    /// The keys under the session's root.
    pub keys: Arc<dyn TenantKeys>,
    /// The model.
    pub ready: Arc<Ready>,
    /// Ids for its receipts.
    pub ids: Ids,
}

/// Serves one link until its connection is gone and its receipts are written.
pub async fn serve(pod: Arc<Pod>, admitted: Admitted, socket: WebSocket) {
    let Admitted {
        id,
        keys,
        ready,
        ids,
    } = admitted;
    let session_id = id.session_id;
    let served = Arc::clone(&ready.served);
    let Some(session) = LinkSession::new(id, keys, served, REFUSALS_MAX) else {
        return;
    };
    pod.metrics.links.inc();
    let metrics = pod.metrics.clone();
    let driver = Driver {
        pod,
        ready,
        session_id,
        socket: Some(socket),
        session,
        ids,
        inbox: VecDeque::new(),
        reservation: None,
        snapshot: None,
        encoding: None,
        ticket: None,
        blocks: VecDeque::new(),
        appending: None,
        trace: Trace::default(),
        held_since: None,
    };
    driver.run().await;
    metrics.links.dec();
}

impl Driver {
    async fn run(mut self) {
        let mut phase = self.pod.watch_phase();
        // Whatever the phase is now counts as news.
        phase.mark_changed();
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.reset();
        let mut heard = Instant::now();
        while !self.session.is_over() {
            self.note_lag();
            let event = match self.inbox.pop_front() {
                Some(event) => event,
                None => tokio::select! {
                    biased;
                    Ok(()) = phase.changed() => match *phase.borrow_and_update() {
                        Phase::Running => continue,
                        Phase::Draining => Event::Drain,
                        Phase::Interrupting => Event::Interrupt,
                    },
                    written = pending(&mut self.appending) => self.appended(written),
                    received = receive(&mut self.socket) => {
                        heard = Instant::now();
                        match received {
                            Some(event) => event,
                            None => continue,
                        }
                    }
                    evidence = pending(&mut self.snapshot) => match evidence {
                        Some(evidence) => Event::Prepared(Box::new(evidence)),
                        None => Event::Unprepared(Unprepared::Ledger),
                    },
                    tokens = joined(&mut self.encoding) => Event::Encoded(tokens),
                    report = reported(&mut self.ticket), if self.session.wants_step() => report,
                    () = until(&self.session) => Event::Tick,
                    _ = ping.tick(), if self.socket.is_some() => {
                        if heard.elapsed() < QUIET_LIMIT && self.send(Message::Ping(Vec::new().into())).await {
                            continue;
                        }
                        Event::Closed
                    }
                },
            };
            self.handle(event).await;
        }
    }

    async fn handle(&mut self, event: Event) {
        if matches!(event, Event::Closed) {
            self.socket = None;
        }
        match &event {
            Event::Queued { .. } => self.trace.enter("queue"),
            Event::Started => self.trace.enter("compute"),
            _ => {}
        }
        let ids = &mut self.ids;
        let actions = self.session.handle(event, now(), &mut || ids.take());
        for action in actions {
            self.perform(action).await;
        }
        if self.appending.is_none()
            && let Some(block) = self.blocks.pop_front()
        {
            self.appending = Some(Box::pin(append(
                Arc::clone(&self.pod.ledger),
                self.pod.metrics.clone(),
                self.session_id,
                block,
            )));
        }
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::Send(frame) => {
                if self.socket.is_some() && !self.send(Message::Binary(frame.into())).await {
                    self.inbox.push_back(Event::Closed);
                }
            }
            Action::Prepare => match self.pod.reserve(self.session_id) {
                None => self.inbox.push_back(Event::Unprepared(Unprepared::Busy)),
                Some(reservation) => {
                    self.reservation = Some(reservation);
                    if let Some(request) = self.session.request_id() {
                        self.trace = Trace::begin(&self.pod, &self.session_id, &request);
                    }
                    let ledger = Arc::clone(&self.pod.ledger);
                    self.snapshot = Some(Box::pin(snapshot(ledger, self.session_id)));
                }
            },
            Action::Encode { prompt } => {
                self.trace.enter("encode");
                let prompter = Arc::clone(&self.ready.prompter);
                self.encoding = Some(tokio::task::spawn_blocking(move || {
                    let encoded = prompter.encode(&prompt);
                    let warn = |error: &_| tracing::warn!(%error, "the prompt cannot be encoded");
                    encoded.inspect_err(warn).ok()
                }));
            }
            Action::Generate(job) => match self.ready.workers.submit(job) {
                Ok(ticket) => self.ticket = Some(ticket),
                Err(full) => self.inbox.push_back(Event::Rejected {
                    code: EndCode::RateLimited,
                    retry_after_ms: full.retry_after_ms,
                }),
            },
            Action::Cancel => self.ticket = None,
            Action::Append(block) => self.blocks.push_back(block),
            Action::Release { status, code, seal } => {
                self.snapshot = None;
                self.encoding = None;
                self.ticket = None;
                self.blocks.clear();
                self.appending = None;
                self.reservation = None;
                let label = status_label(status);
                self.trace.end(label, code, seal);
                self.pod.metrics.answers.with_label_values(&[label]).inc();
                tracing::info!(session = %self.session_id, status = label, code = code.name(), "request ended");
            }
            Action::Refused(reason) => self.pod.metrics.refused(reason),
            Action::Log(text) => tracing::warn!(session = %self.session_id, "{text}"),
            Action::Close(code) => self.close(code).await,
        }
    }

    /// Measures how long an answer stands still because the ledger has too many of its blocks.
    fn note_lag(&mut self) {
        let held = self.ticket.is_some() && !self.session.wants_step();
        match (held, self.held_since) {
            (true, None) => {
                self.held_since = Some(Instant::now());
                self.pod.metrics.ledger_waiting.inc();
            }
            (false, Some(since)) => {
                self.held_since = None;
                self.pod.metrics.ledger_waiting.dec();
                let waited = since.elapsed().as_secs_f64();
                self.pod.metrics.ledger_wait.observe(waited);
            }
            _ => {}
        }
    }

    fn appended(&mut self, written: bool) -> Event {
        if written {
            Event::Appended
        } else {
            self.blocks.clear();
            Event::AppendFailed
        }
    }

    /// Sends a message; `false`: the connection is gone.
    async fn send(&mut self, message: Message) -> bool {
        let Some(socket) = &mut self.socket else {
            return false;
        };
        let sent = tokio::time::timeout(SEND_LIMIT, socket.send(message)).await;
        let sent = matches!(sent, Ok(Ok(())));
        if !sent {
            self.socket = None;
        }
        sent
    }

    /// Closes the connection with a code, and waits for the other side to agree, so that all that was sent arrives.
    async fn close(&mut self, code: u16) {
        let frame = CloseFrame {
            code,
            reason: "".into(),
        };
        if self.send(Message::Close(Some(frame))).await
            && let Some(mut socket) = self.socket.take()
        {
            let agreed = async { while let Some(Ok(_)) = socket.recv().await {} };
            let _ = tokio::time::timeout(Duration::from_secs(1), agreed).await;
        }
        self.socket = None;
    }
}

fn status_label(status: EndStatus) -> &'static str {
    match status {
        EndStatus::Ok => "ok",
        EndStatus::Recorded => "recorded",
        EndStatus::Refused => "refused",
        EndStatus::Failed => "failed",
        EndStatus::Cancelled => "cancelled",
    }
}

/// The outcome of a future that may be there, which is then taken out; without one it never comes.
async fn pending<T>(slot: &mut Pending<T>) -> T {
    match slot {
        None => std::future::pending().await,
        Some(future) => {
            let output = future.await;
            *slot = None;
            output
        }
    }
}

async fn joined(slot: &mut Option<JoinHandle<Option<Vec<u32>>>>) -> Option<Vec<u32>> {
    match slot {
        None => std::future::pending().await,
        Some(handle) => {
            let output = handle.await;
            *slot = None;
            output.ok().flatten()
        }
    }
}

/// The next report of the threads. After the last one nothing comes.
async fn reported(ticket: &mut Option<Ticket>) -> Event {
    let report = match ticket {
        None => None,
        Some(live) => live.reports.recv().await,
    };
    match report {
        None => {
            *ticket = None;
            std::future::pending().await
        }
        Some(Report::Queued { position, eta_ms }) => Event::Queued { position, eta_ms },
        Some(Report::Started) => Event::Started,
        Some(Report::Step(step)) => Event::Step(step),
        Some(Report::Failed(error)) => {
            tracing::error!(%error, "the engine failed");
            Event::Failed
        }
    }
}

/// What came from the gateway; `None` for what needs no answer. The library answers pings by itself.
async fn receive(socket: &mut Option<WebSocket>) -> Option<Event> {
    match socket {
        None => std::future::pending().await,
        Some(open) => match open.recv().await {
            Some(Ok(Message::Binary(bytes))) => Some(Event::Message(bytes.to_vec())),
            // No frame is empty, so the machine counts a text as what it is: no frame.
            Some(Ok(Message::Text(_))) => Some(Event::Message(Vec::new())),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => None,
            Some(Ok(Message::Close(_)) | Err(_)) | None => Some(Event::Closed),
        },
    }
}

async fn until(session: &LinkSession) {
    match session.deadline() {
        None => std::future::pending().await,
        Some(deadline) => {
            let micros = deadline.micros().saturating_sub(now().micros());
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
    }
}

async fn snapshot(ledger: Arc<dyn Ledger>, session: SessionId) -> Option<Evidence> {
    match tokio::time::timeout(LEDGER_LIMIT, ledger.snapshot(&session)).await {
        Ok(Ok(Some(evidence))) => Some(evidence),
        Ok(Ok(None)) => {
            tracing::warn!(%session, "the session is not in the ledger");
            None
        }
        Ok(Err(error)) => {
            tracing::error!(%session, %error, "the session cannot be read");
            None
        }
        Err(_) => {
            tracing::error!(%session, "the ledger takes too long to read the session");
            None
        }
    }
}

/// Appends a block, trying again where that can help: the same bytes may be appended twice.
async fn append(
    ledger: Arc<dyn Ledger>,
    metrics: Metrics,
    session: SessionId,
    block: Block,
) -> bool {
    let begin = Instant::now();
    let attempts = async {
        let mut waits = APPEND_RETRIES.iter();
        loop {
            let error = match ledger.append(&session, &block).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            match waits.next().filter(|_| may_pass(&error)) {
                None => return Err(error),
                Some(wait) => tokio::time::sleep(*wait).await,
            }
        }
    };
    match tokio::time::timeout(LEDGER_LIMIT, attempts).await {
        Ok(Ok(())) => {
            metrics.append.observe(begin.elapsed().as_secs_f64());
            metrics.receipts.inc_by(block.receipts.len() as u64);
            true
        }
        Ok(Err(error)) => {
            tracing::error!(%session, %error, first = block.first, "a block is not written");
            false
        }
        Err(_) => {
            tracing::error!(%session, first = block.first, "the ledger takes too long to write a block");
            false
        }
    }
}

/// Whether the same attempt may succeed a moment later.
fn may_pass(error: &LedgerError) -> bool {
    matches!(
        error,
        LedgerError::Busy(_)
            | LedgerError::Full(_)
            | LedgerError::Storage(_)
            | LedgerError::Unavailable(_)
    )
}
