//! The tasks that write an answer's log: one asks a pod and relays it, one follows what the ledger holds.

use std::sync::Arc;
use std::time::Duration;

use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd, Notice, Progress};
use halo_receipts::ids::{Epoch, Tier};
use halo_receipts::keys::TierKey;
use http::StatusCode;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::Instrument as _;

use crate::answers::{Answer, Reader};
use crate::bundle::Terms;
use crate::directory::PodAddress;
use crate::gateway::Gateway;
use crate::hold::hall::{Refused, Turn};
use crate::hold::line::Back;
use crate::hold::place::Place;
use crate::keyring::Keyring;
use crate::session::{Ask, Refusal};
use crate::substrate::{DialError, FromPod, LinkName, PodSocket};
use crate::upstream::{Received, Upstream};

/// How often a request that no token was heard of goes to another pod. One that kills its pod is not to kill them all.
const MOVES: u32 = 2;
/// How many numbers of links that others have claimed are passed over at once.
const LINK_TRIES: u32 = 16;

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
    /// The answer stands in the ledger, or is being written there: another gateway had asked for it.
    Elsewhere,
}

fn refused(code: EndCode, retry_after_ms: Option<u32>) -> Stopped {
    Stopped::Refused(Refusal {
        code,
        retry_after_ms,
    })
}

/// How a link ended well.
enum Relayed {
    /// With the answer's end.
    Ended(Vec<u8>),
    /// The pod has no room now, and has computed nothing.
    NotNow(EndCode),
    /// The pod refuses for good, with the answer's end, and has computed nothing.
    Refused(Vec<u8>),
}

/// How a link ended badly.
enum Broke {
    /// The pod is gone.
    Lost,
    /// What it sent does not verify.
    Protocol,
    /// This side ended it; the word is the response's `finish`.
    Stopped(&'static str),
}

impl Task {
    /// Has a pod answer, relays it, and keeps the answer for a device that comes back.
    pub async fn ask(self, ask: Ask) {
        let span = tracing::info_span!(
            target: "halo::trace",
            "escalation",
            session = %self.ring.session(),
            request = %ask.request_id,
            receipt = tracing::field::Empty,
        );
        self.answer_request(ask).instrument(span).await;
    }

    async fn answer_request(mut self, ask: Ask) {
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
            Err(Stopped::Elsewhere) => self.follow_ledger().await.to_json().ok(),
        };
        self.serve_end(document).await;
    }

    /// Answers from the ledger's receipts, for as long as somebody else adds to them; closes what nobody adds to any more.
    pub async fn follow(mut self) {
        let span = tracing::info_span!(
            target: "halo::trace",
            "resume",
            session = %self.ring.session(),
            request = %self.answer.request_id,
        );
        self.follow_request().instrument(span).await;
    }

    async fn follow_request(&mut self) {
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
    pub(crate) async fn abandoned(&self, ended: bool) {
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
        let abandoned = abandoned(self.answer.reader(), self.resume(), false);
        tokio::pin!(abandoned);
        let (interrupt, drain) = (self.gateway.interrupt.clone(), self.gateway.drain.clone());
        let mut place = self.enter(ask)?;
        let (mut link, mut moves) = ((self.terms.epoch, ask.next_link), 0);
        loop {
            let reached = tokio::select! {
                reached = self.reach(&mut place, &mut link).instrument(hold_span()) => reached,
                () = &mut abandoned => Err(refused(EndCode::Cancelled, None)),
                // What waits for a pod has not begun: the device may ask another gateway at once.
                () = drain.cancelled() => {
                    place.ends("draining");
                    Err(refused(EndCode::Draining, Some(1000)))
                }
            };
            let mut pod = match reached {
                Ok(pod) => pod,
                // A pod that was lost may still write: only a response in its place keeps out what the device would not know of.
                Err(Stopped::Refused(refusal)) if moves > 0 => {
                    return Err(Stopped::Broken(finish(refusal.code)));
                }
                Err(stopped) => return Err(stopped),
            };
            self.terms.epoch = link.0;
            let ended = tokio::select! {
                ended = self.converse(&mut pod, ask, begun, heard, &place) => ended,
                () = &mut abandoned => Err(Broke::Stopped("cancelled")),
                () = interrupt.cancelled() => Err(Broke::Stopped("draining")),
            };
            // The number of a link that stood is used up.
            link.1 = link.1.saturating_add(1);
            match ended {
                Err(Broke::Lost) => {
                    // There is nobody to close it with, and closing would wait for the silent.
                    drop(pod);
                    place.lost();
                    if !heard.is_empty() || moves >= MOVES || !self.is_untouched().await {
                        return Err(Stopped::Broken("lost"));
                    }
                    moves += 1;
                    tracing::info!(
                        session = %self.ring.session(),
                        request = %ask.request_id,
                        "a pod was lost before it answered: the request goes on"
                    );
                    self.gateway.metrics.moved("lost");
                    place.returns(Back::Lost);
                }
                ended => {
                    // Closing the link is what tells the pod to stop; after an end it has stopped already.
                    pod.close().await;
                    match ended {
                        Ok(Relayed::Refused(_)) if moves > 0 => {
                            return Err(Stopped::Broken("lost"));
                        }
                        Ok(Relayed::Ended(document) | Relayed::Refused(document)) => {
                            return Ok(document);
                        }
                        Ok(Relayed::NotNow(code)) => {
                            if code == EndCode::Busy && self.is_begun().await {
                                return Err(Stopped::Elsewhere);
                            }
                            self.gateway.metrics.moved("refused");
                            match code {
                                EndCode::Busy => place.returns(Back::SessionBusy),
                                _ => place.refused(Progress::Queued),
                            }
                        }
                        Err(Broke::Stopped(finish)) => return Err(Stopped::Broken(finish)),
                        Err(Broke::Protocol | Broke::Lost) => return Err(Stopped::Broken("lost")),
                    }
                }
            }
        }
    }

    /// Enters the request among those that wait for a pod.
    fn enter(&self, ask: &Ask) -> Result<Place, Stopped> {
        let entered =
            self.gateway
                .hall
                .enter(self.ring.tenant(), self.ring.session(), ask.document.len());
        entered.map_err(|why| match why {
            Refused::Full { retry_after_ms } => refused(EndCode::Unavailable, Some(retry_after_ms)),
            Refused::Unavailable => refused(EndCode::Unavailable, None),
        })
    }

    /// Waits for the request's turn, and dials the pod that it gets until one takes the link.
    async fn reach(
        &self,
        place: &mut Place,
        link: &mut (Epoch, u32),
    ) -> Result<PodSocket, Stopped> {
        let gateway = &self.gateway;
        let tenant = self.ring.tenant();
        loop {
            let address = match place.turn(|notice| self.tell(notice)).await {
                Turn::Pod(address) => address,
                Turn::Deadline { retry_after_ms } => {
                    return Err(refused(EndCode::WakeDeadline, Some(retry_after_ms)));
                }
                Turn::Unavailable => return Err(refused(EndCode::Unavailable, None)),
            };
            // The device may have come back in a new epoch while the request waited.
            let epoch = self.answer.epoch();
            if epoch > link.0 {
                *link = (epoch, 0);
            }
            let key = self.ring.fresh().tier_key(link.0, Tier::Substrate);
            let key = key.ok_or_else(|| refused(EndCode::Unavailable, None))?;
            match self.dial(&address, link, &key).await {
                Ok(pod) => {
                    gateway.metrics.pod_link("open");
                    place.linked(|notice| self.tell(notice));
                    return Ok(pod);
                }
                Err(DialError::Rejected(status)) if status.is_client_error() => {
                    if let Some(newer) = self.newer_epoch(link.0).await {
                        // The device is on its way back: its session's last epoch is the one that counts.
                        gateway.metrics.pod_link("old_epoch");
                        *link = (newer, 0);
                        place.returns(Back::SessionBusy);
                        continue;
                    }
                    gateway.metrics.pod_link("rejected");
                    tracing::error!(%tenant, %address, %status, "the pod does not serve this tenant");
                    place.ends("unavailable");
                    return Err(refused(EndCode::Unavailable, None));
                }
                Err(DialError::Rejected(status)) => {
                    gateway.metrics.pod_link("not_ready");
                    tracing::debug!(%tenant, %address, %status, "the pod is not ready");
                    place.refused(Progress::Loading);
                }
                Err(DialError::Unreachable(error)) => {
                    gateway.metrics.pod_link("unreachable");
                    tracing::debug!(%tenant, %address, error, "the pod is not reachable");
                    place.refused(Progress::Waking);
                }
            }
        }
    }

    /// The session's last epoch, if it is after this one.
    async fn newer_epoch(&self, epoch: Epoch) -> Option<Epoch> {
        let session = self.ring.session();
        let limit = Duration::from_millis(self.gateway.limits.ledger_ms);
        let state = timeout(limit, self.gateway.ledger.session(&session)).await;
        let last = state.ok()?.ok()??.last_epoch;
        (last > epoch).then_some(last)
    }

    /// Opens a link with the first number that is free.
    async fn dial(
        &self,
        address: &PodAddress,
        (epoch, link): &mut (Epoch, u32),
        key: &TierKey,
    ) -> Result<PodSocket, DialError> {
        let limits = &self.gateway.limits;
        let connect = Duration::from_millis(limits.connect_ms);
        let send = Duration::from_millis(limits.send_ms);
        let mut tries = 0;
        loop {
            let name = LinkName {
                tenant: self.ring.tenant(),
                session: self.ring.session(),
                epoch: *epoch,
                link: *link,
            };
            match PodSocket::dial(address, &name, key, connect, send).await {
                Err(DialError::Rejected(StatusCode::CONFLICT)) if tries < LINK_TRIES => {
                    self.gateway.metrics.pod_link("taken");
                    *link = link.saturating_add(1);
                    tries += 1;
                }
                dialled => return dialled,
            }
        }
    }

    /// Tells a device that waits how far its request is.
    fn tell(&self, notice: &Notice) {
        if let Ok(payload) = notice.encode() {
            self.answer.set_notice(&payload);
        }
    }

    /// Sends the request over a link that stands, and relays what comes back until the end.
    async fn converse(
        &self,
        pod: &mut PodSocket,
        ask: &Ask,
        begun: Instant,
        heard: &mut Vec<String>,
        place: &Place,
    ) -> Result<Relayed, Broke> {
        let metrics = &self.gateway.metrics;
        let ring = self.ring.fresh();
        let upstream = Upstream::new(ring, self.terms.epoch, ask.request_id, ask.max_tokens);
        let mut upstream = upstream.map_err(|_| Broke::Protocol)?;
        let frames = upstream
            .forward(&ask.document)
            .map_err(|_| Broke::Protocol)?;
        for frame in frames {
            if !pod.send(frame).await {
                metrics.pod_link("stalled");
                return Err(Broke::Lost);
            }
        }
        let silence = Duration::from_millis(self.gateway.limits.pod_silence_ms);
        let mut alive = Instant::now();
        let mut ping = Instant::now() + silence / 3;
        loop {
            if !self.answer.has_room() {
                // The device does not keep up: what the pod sends stays with it until there is room.
                metrics.slowed("pod");
                self.answer.room().await;
                alive = Instant::now();
            }
            let from_pod = tokio::select! {
                from_pod = pod.next() => from_pod,
                () = sleep_until(ping) => {
                    ping = Instant::now() + silence / 3;
                    if alive.elapsed() >= silence || !pod.ping().await {
                        metrics.pod_link("silent");
                        return Err(Broke::Lost);
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
                    return Err(Broke::Lost);
                }
            };
            match upstream.receive(&frame) {
                Ok(None) => {}
                Ok(Some(Received::Notice(payload))) => self.answer.set_notice(&payload),
                Ok(Some(Received::Token { text, payload })) => {
                    self.answer.push_token(&payload);
                    if heard.is_empty() {
                        let seconds = begun.elapsed().as_secs_f64();
                        metrics.first_token_seconds.observe(seconds);
                        place.first_token();
                    }
                    metrics.tokens.inc();
                    heard.push(text);
                }
                Ok(Some(Received::End(end, document))) => {
                    if heard.is_empty() && is_not_now(&end) {
                        metrics.pod_link("refused");
                        return Ok(Relayed::NotNow(end.code));
                    }
                    if let Some(receipt) = end.receipts.first() {
                        let id = tracing::field::display(receipt.body.receipt_id);
                        tracing::Span::current().record("receipt", id);
                    }
                    place.answered();
                    let computed = !heard.is_empty() || !end.receipts.is_empty();
                    return Ok(match end.status {
                        EndStatus::Refused if !computed => Relayed::Refused(document),
                        _ => Relayed::Ended(document),
                    });
                }
                Err(error) => {
                    metrics.pod_link(error.name());
                    metrics.integrity_failed("pod");
                    tracing::error!(session = %self.ring.session(), %error, "a pod broke the protocol");
                    return Err(Broke::Protocol);
                }
            }
        }
    }
}

fn hold_span() -> tracing::Span {
    tracing::info_span!(target: "halo::trace", "hold")
}

/// The response's `finish` for a request that was with a pod and ends with this code while it waits for another.
fn finish(code: EndCode) -> &'static str {
    match code {
        EndCode::Cancelled => "cancelled",
        EndCode::Draining => "draining",
        _ => "lost",
    }
}

/// Whether a pod that was reached has no room for the request, of which nothing exists yet.
fn is_not_now(end: &EscalateEnd) -> bool {
    let later = matches!(
        end.code,
        EndCode::Busy | EndCode::RateLimited | EndCode::Draining
    );
    end.status == EndStatus::Refused && later && end.receipts.is_empty()
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
