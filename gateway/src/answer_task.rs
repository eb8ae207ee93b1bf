//! The tasks that write an answer's log: one asks a pod and relays it, one follows what the ledger holds.

use std::sync::Arc;
use std::time::Duration;

use halo_ledger::LedgerError;
use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd, Notice, Progress};
use halo_receipts::ids::{ReceiptId, RequestId, Tier};
use http::StatusCode;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::answers::{Answer, Reader};
use crate::bundle::Terms;
use crate::gateway::{self, Gateway};
use crate::keyring::Keyring;
use crate::session::{Ask, Refusal};
use crate::stored_answer::{Closing, StoredAnswer};
use crate::substrate::{DialError, FromPod, LinkName, PodSocket};
use crate::upstream::{Received, Upstream};

/// The first pause between two attempts to reach a pod; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(25);
const RETRY_MAX: Duration = Duration::from_millis(1000);
/// Between two looks at a ledger that somebody else writes.
const LOOK: Duration = Duration::from_millis(100);
/// How often an end is tried to be written against another writer.
const CLOSE_TRIES: u32 = 20;

/// An answer's task: what it works for and under which keys.
pub struct Task {
    /// The gateway.
    pub gateway: Arc<Gateway>,
    /// The answer that it writes.
    pub answer: Arc<Answer>,
    /// The keys of the session.
    pub ring: Keyring,
    /// What the connection was opened under.
    pub terms: Terms,
}

/// Why a task stops before an end has come from a pod.
enum Stopped {
    /// No pod was reached: nothing of the answer exists.
    Refused(Refusal),
    /// The pod was reached, and the answer broke off; the word is the response's `finish`.
    Broken(&'static str),
}

fn refused(code: EndCode, retry_after_ms: Option<u32>) -> Stopped {
    Stopped::Refused(Refusal {
        code,
        retry_after_ms,
    })
}

/// Takes a request out of its tenant's queue however the waiting ends.
struct Ticket<'a>(&'a Task, u64);

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let gateway = &self.0.gateway;
        gateway.holds().leave(self.0.ring.tenant(), self.1);
        gateway.metrics.held.dec();
    }
}

impl Task {
    /// Has a pod answer, relays it, and keeps the answer for a device that comes back.
    pub async fn ask(mut self, ask: Ask) {
        let begun = Instant::now();
        self.gateway.metrics.answers.inc();
        let mut heard = Vec::new();
        let document = match self.relay(&ask, begun, &mut heard).await {
            Ok(document) => Some(document),
            Err(Stopped::Refused(refusal)) => {
                let status = match refusal.code {
                    EndCode::Cancelled => EndStatus::Cancelled,
                    _ => EndStatus::Refused,
                };
                let end = EscalateEnd {
                    retry_after_ms: refusal.retry_after_ms,
                    ..EscalateEnd::bare(ask.request_id, status, refusal.code)
                };
                end.to_json().ok()
            }
            Err(Stopped::Broken(finish)) => {
                tracing::info!(session = %self.ring.session(), finish, "an answer broke off");
                self.close(finish, &heard).await.to_json().ok()
            }
        };
        self.serve_end(document).await;
    }

    /// Answers from the ledger's receipts, for as long as somebody else adds to them; closes what nobody adds to any more.
    pub async fn follow(mut self) {
        self.gateway.metrics.answers.inc();
        let end = self.follow_ledger().await;
        self.serve_end(end.to_json().ok()).await;
    }

    /// Adds the end and waits until it was handed over or nobody will come for it.
    async fn serve_end(&mut self, document: Option<Vec<u8>>) {
        if let Some(document) = document {
            self.answer.finish(&document);
        }
        self.abandoned(true).await;
        self.gateway
            .answers
            .remove(&self.ring.session(), &self.answer);
        self.gateway.metrics.answers.dec();
    }

    /// Returns when no device reads the answer and none is waited for any longer; with `ended`, also once it was served.
    async fn abandoned(&self, ended: bool) {
        abandoned(self.answer.reader(), self.resume(), ended).await;
    }

    fn resume(&self) -> Duration {
        Duration::from_millis(self.gateway.limits.resume_ms)
    }

    async fn relay(
        &mut self,
        ask: &Ask,
        begun: Instant,
        heard: &mut Vec<String>,
    ) -> Result<Vec<u8>, Stopped> {
        let ring = self.ring.fresh();
        let mut upstream = Upstream::new(ring, self.terms.epoch, ask.request_id, ask.max_tokens)
            .map_err(|_| refused(EndCode::Unavailable, None))?;
        let frames = upstream
            .forward(&ask.document)
            .map_err(|_| refused(EndCode::BundleInvalid, None))?;
        let abandoned = abandoned(self.answer.reader(), self.resume(), false);
        tokio::pin!(abandoned);
        let interrupt = self.gateway.interrupt.clone();
        let drain = self.gateway.drain.clone();
        let mut pod = tokio::select! {
            reached = self.reach(ask.next_link, begun) => reached?,
            () = &mut abandoned => return Err(refused(EndCode::Cancelled, None)),
            // What waits for a pod has not begun: the device may ask another gateway at once.
            () = drain.cancelled() => return Err(refused(EndCode::Draining, Some(1000))),
        };
        self.gateway
            .metrics
            .hold_seconds
            .observe(begun.elapsed().as_secs_f64());
        let stopped = tokio::select! {
            ended = self.converse(&mut pod, &mut upstream, frames, begun, heard) => ended,
            () = &mut abandoned => Err("cancelled"),
            () = interrupt.cancelled() => Err("draining"),
        };
        // Closing the link is what tells the pod to stop; after an end it has stopped already.
        pod.close().await;
        stopped.map_err(Stopped::Broken)
    }

    /// Sends the request and relays what comes back until the end.
    async fn converse(
        &self,
        pod: &mut PodSocket,
        upstream: &mut Upstream,
        frames: Vec<Vec<u8>>,
        begun: Instant,
        heard: &mut Vec<String>,
    ) -> Result<Vec<u8>, &'static str> {
        let metrics = &self.gateway.metrics;
        for frame in frames {
            if !pod.send(frame).await {
                metrics.pod_link("stalled");
                return Err("lost");
            }
        }
        let silence = Duration::from_millis(self.gateway.limits.pod_silence_ms);
        let mut alive = Instant::now();
        let mut ping = Instant::now() + silence / 3;
        loop {
            let from_pod = tokio::select! {
                from_pod = pod.next() => from_pod,
                () = sleep_until(ping) => {
                    ping = Instant::now() + silence / 3;
                    if alive.elapsed() >= silence || !pod.ping().await {
                        metrics.pod_link("silent");
                        return Err("lost");
                    }
                    continue;
                }
            };
            alive = Instant::now();
            let frame = match from_pod {
                FromPod::Alive => continue,
                FromPod::Frame(frame) => frame,
                FromPod::Over(cause) => {
                    metrics.pod_link("lost");
                    tracing::warn!(session = %self.ring.session(), cause, "a pod was lost");
                    return Err("lost");
                }
            };
            match upstream.receive(&frame) {
                Ok(None) => {}
                Ok(Some(Received::Notice(payload))) => self.answer.set_notice(&payload),
                Ok(Some(Received::Token { text, payload })) => {
                    self.answer.push_token(&payload);
                    if heard.is_empty() {
                        metrics
                            .first_token_seconds
                            .observe(begun.elapsed().as_secs_f64());
                    }
                    metrics.tokens.inc();
                    heard.push(text);
                }
                Ok(Some(Received::End(_, document))) => return Ok(document),
                Err(error) => {
                    metrics.pod_link(error.name());
                    tracing::error!(session = %self.ring.session(), %error, "a pod broke the protocol");
                    return Err("lost");
                }
            }
        }
    }

    /// Dials the tenant's pod until it answers or the request's time is up. What it dials is looked up each time, so that
    /// a pod that was started meanwhile, or elsewhere, is found.
    async fn reach(&self, first_link: u32, begun: Instant) -> Result<PodSocket, Stopped> {
        let gateway = Arc::clone(&self.gateway);
        let limits = &gateway.limits;
        let tenant = self.ring.tenant().clone();
        let most = gateway
            .directory
            .tenant(&tenant)
            .map_or(0, |tenant| tenant.held_requests);
        let ticket = gateway.holds().enter(&tenant, most);
        let Some(ticket) = ticket else {
            return Err(refused(EndCode::Unavailable, Some(5_000)));
        };
        gateway.metrics.held.inc();
        let ticket = Ticket(self, ticket);
        let key = self
            .ring
            .fresh()
            .tier_key(self.terms.epoch, Tier::Substrate);
        let key = key.ok_or_else(|| refused(EndCode::Unavailable, None))?;
        let deadline = begun + Duration::from_millis(limits.hold_ms);
        let connect = Duration::from_millis(limits.connect_ms);
        let send = Duration::from_millis(limits.send_ms);
        let (mut link, mut pause, mut told) = (first_link, RETRY_MIN, None);
        loop {
            let Some(substrate) = gateway.directory.substrate(&tenant) else {
                return Err(refused(EndCode::Unavailable, None));
            };
            let Some(address) = substrate.pods.first().cloned() else {
                return Err(refused(EndCode::Unavailable, None));
            };
            let name = LinkName {
                tenant: &tenant,
                session: self.ring.session(),
                epoch: self.terms.epoch,
                link,
            };
            let state = match PodSocket::dial(&address, &name, &key, connect, send).await {
                Ok(pod) => {
                    gateway.metrics.pod_link("open");
                    return Ok(pod);
                }
                Err(DialError::Rejected(StatusCode::CONFLICT)) => {
                    gateway.metrics.pod_link("taken");
                    link = link.saturating_add(1);
                    Progress::Loading
                }
                Err(DialError::Rejected(status)) if status.is_client_error() => {
                    gateway.metrics.pod_link("rejected");
                    tracing::error!(%tenant, %address, %status, "the pod does not serve this tenant");
                    return Err(refused(EndCode::Unavailable, None));
                }
                Err(DialError::Rejected(status)) => {
                    gateway.metrics.pod_link("not_ready");
                    tracing::debug!(%tenant, %address, %status, "the pod is not ready");
                    Progress::Loading
                }
                Err(DialError::Unreachable(error)) => {
                    gateway.metrics.pod_link("unreachable");
                    tracing::debug!(%tenant, %address, error, "the pod is not reachable");
                    Progress::Waking
                }
            };
            if Instant::now() >= deadline {
                return Err(refused(EndCode::WakeDeadline, Some(5_000)));
            }
            let position = gateway.holds().position(&tenant, ticket.1);
            let state = if position > 0 {
                Progress::Queued
            } else {
                state
            };
            self.notify(&mut told, state, position);
            sleep_until(deadline.min(Instant::now() + pause)).await;
            pause = pause.saturating_mul(2).min(RETRY_MAX);
        }
    }

    /// Tells a device that waits how far its request is, when that changes and every few seconds.
    fn notify(&self, told: &mut Option<(Progress, u32, Instant)>, state: Progress, position: u32) {
        let every = Duration::from_millis(self.gateway.limits.notice_ms);
        let known = told.is_some_and(|(old, before, at)| {
            old == state && before == position && at.elapsed() < every
        });
        if known {
            return;
        }
        let notice = Notice {
            state,
            position,
            eta_ms: 0,
        };
        if let Ok(payload) = notice.encode() {
            self.answer.set_notice(&payload);
        }
        *told = Some((state, position, Instant::now()));
    }

    /// Ends an answer whose pod is gone. A pod that lives closes it by itself; otherwise this gateway does.
    async fn close(&mut self, finish: &'static str, heard: &[String]) -> EscalateEnd {
        let deadline = Instant::now() + Duration::from_millis(self.gateway.limits.pod_close_ms);
        let mut tries = 0;
        loop {
            let stored = match self.stored().await {
                Ok(Some(stored)) => stored,
                Ok(None) => return self.failed(EndCode::Lost),
                Err(error) => {
                    tracing::warn!(session = %self.ring.session(), error, "an answer cannot be closed yet");
                    tries += 1;
                    if tries >= CLOSE_TRIES {
                        return self.failed(EndCode::LedgerUnavailable);
                    }
                    sleep(LOOK).await;
                    continue;
                }
            };
            match stored.end() {
                Ok(Some(end)) => return end,
                Ok(None) if Instant::now() < deadline => sleep(LOOK).await,
                Ok(None) => {
                    tries += 1;
                    if tries >= CLOSE_TRIES {
                        return self.failed(EndCode::LedgerUnavailable);
                    }
                    self.write_end(&stored, finish, heard).await;
                }
                Err(error) => {
                    tracing::error!(session = %self.ring.session(), %error, "an answer cannot be closed");
                    return self.failed(EndCode::LedgerUnavailable);
                }
            }
        }
    }

    /// Writes the response of a broken answer. Whether it stands, or another writer's, is read from the ledger afterwards.
    async fn write_end(&mut self, stored: &StoredAnswer, finish: &str, heard: &[String]) {
        let block = gateway::random()
            .and_then(|random| Ok((ReceiptId::from_random(random), gateway::now()?)))
            .map_err(|error| error.to_string())
            .and_then(|(id, now)| {
                let closing = Closing {
                    epoch: self.terms.epoch,
                    content: self.terms.content,
                    id,
                    now,
                };
                let block = stored.interrupted(finish, &closing, heard, &mut self.ring);
                block.map_err(|error| error.to_string())
            });
        let session = self.ring.session();
        let written = match block {
            Err(error) => Err(error),
            Ok(block) => {
                let append = self.gateway.ledger.append(&session, &block);
                match timeout(self.ledger_time(), append).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("the ledger did not answer in time".to_owned()),
                }
            }
        };
        match written {
            Ok(()) => self.gateway.metrics.closed_for_pod.inc(),
            Err(error) => {
                tracing::warn!(%session, error, "an answer was not closed");
                sleep(LOOK).await;
            }
        }
    }

    async fn follow_ledger(&mut self) -> EscalateEnd {
        let patience = Duration::from_millis(self.gateway.limits.pod_close_ms);
        let mut grown = Instant::now();
        let interrupt = self.gateway.interrupt.clone();
        loop {
            let stored = match self.stored().await {
                Ok(Some(stored)) => stored,
                Ok(None) => {
                    return EscalateEnd::bare(
                        self.answer.request_id,
                        EndStatus::Refused,
                        EndCode::UnknownRequest,
                    );
                }
                Err(error) => {
                    tracing::warn!(session = %self.ring.session(), error, "an answer cannot be read");
                    return self.failed(EndCode::LedgerUnavailable);
                }
            };
            if stored.token_count() > self.answer.token_count() {
                grown = Instant::now();
            }
            match stored.token_payloads(self.answer.token_count()) {
                Ok(payloads) => payloads
                    .iter()
                    .for_each(|token| self.answer.push_token(token)),
                Err(error) => {
                    tracing::error!(session = %self.ring.session(), %error, "an answer cannot be read");
                    return self.failed(EndCode::LedgerUnavailable);
                }
            }
            match stored.end() {
                Ok(Some(end)) => return end,
                Ok(None) => {}
                Err(_) => return self.failed(EndCode::LedgerUnavailable),
            }
            if grown.elapsed() >= patience {
                return self.close("lost", &[]).await;
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                () = self.abandoned(false) => {
                    let request = self.answer.request_id;
                    return EscalateEnd::bare(request, EndStatus::Cancelled, EndCode::Cancelled);
                }
                () = interrupt.cancelled() => return self.failed(EndCode::Draining),
            }
        }
    }

    /// The answer as the ledger holds it now.
    async fn stored(&mut self) -> Result<Option<StoredAnswer>, String> {
        let session = self.ring.session();
        let snapshot = timeout(self.ledger_time(), self.gateway.ledger.snapshot(&session)).await;
        let evidence = snapshot
            .map_err(|_| "the ledger did not answer in time".to_owned())?
            .map_err(|error: LedgerError| error.to_string())?
            .ok_or_else(|| "the session is not in the ledger".to_owned())?;
        let request: RequestId = self.answer.request_id;
        StoredAnswer::find(&evidence, &mut self.ring, request).map_err(|error| error.to_string())
    }

    fn ledger_time(&self) -> Duration {
        Duration::from_millis(self.gateway.limits.ledger_ms)
    }

    fn failed(&self, code: EndCode) -> EscalateEnd {
        EscalateEnd {
            retry_after_ms: Some(1000),
            ..EscalateEnd::bare(self.answer.request_id, EndStatus::Failed, code)
        }
    }
}

/// Returns when no device reads the answer and none is waited for any longer; with `ended`, also once it was served.
async fn abandoned(mut reader: watch::Receiver<Reader>, resume: Duration, ended: bool) {
    loop {
        let now = *reader.borrow_and_update();
        match now {
            Reader::Gone => return,
            Reader::Served if ended => return,
            Reader::Here(_) | Reader::Served => {
                if reader.changed().await.is_err() {
                    return;
                }
            }
            Reader::Away => match timeout(resume, reader.changed()).await {
                Err(_) | Ok(Err(_)) => return,
                Ok(Ok(())) => {}
            },
        }
    }
}
