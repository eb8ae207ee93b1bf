//! One request's place in the hall: its turn, what its device is told meanwhile, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use halo_receipts::documents::{Notice, Progress};
use halo_receipts::ids::TenantId;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::hall::{Hall, Turn, seconds};
use super::line::{Back, Ticket};

/// Between two notices for one request, however much changes.
const NOTICE_GAP: Duration = Duration::from_millis(250);

/// A request's place in the hall, from its verification to its end. Dropping it lets go of whatever it holds.
pub struct Place {
    hall: Arc<Hall>,
    tenant: TenantId,
    ticket: Ticket,
    turn: oneshot::Receiver<Turn>,
    version: watch::Receiver<u64>,
    entered: Instant,
    linked: Option<Instant>,
    /// How its wait ends if nothing else is said.
    outcome: Option<&'static str>,
    told: Option<(Notice, Instant)>,
}

impl Place {
    pub(super) fn new(
        hall: Arc<Hall>,
        tenant: TenantId,
        ticket: Ticket,
        turn: oneshot::Receiver<Turn>,
        version: watch::Receiver<u64>,
    ) -> Self {
        Self {
            hall,
            tenant,
            ticket,
            turn,
            version,
            entered: Instant::now(),
            linked: None,
            outcome: Some("cancelled"),
            told: None,
        }
    }

    /// Waits for a turn, and tells meanwhile how far the request is. Nothing is lost when the future is dropped.
    pub async fn turn(&mut self, mut tell: impl FnMut(&Notice)) -> Turn {
        let every = Duration::from_millis(self.hall.limits.notice_ms);
        loop {
            let next = self.told.as_ref().map(|(_, at)| *at + every);
            let news = self.told.as_ref().map(|(_, at)| *at + NOTICE_GAP);
            tokio::select! {
                biased;
                turn = &mut self.turn => return self.took(turn.unwrap_or(Turn::Unavailable)),
                // Changes that come faster are told together.
                _ = settled(&mut self.version, news) => {}
                () = until(next) => {}
            }
            let notice = self.hall.notice(&self.tenant, self.ticket);
            let same = self.told.as_ref().is_some_and(|(told, at)| {
                told.state == notice.state
                    && told.position == notice.position
                    && at.elapsed() < every
            });
            if !same {
                self.say(notice, &mut tell);
            }
        }
    }

    fn say(&mut self, notice: Notice, tell: &mut impl FnMut(&Notice)) {
        self.hall.metrics.notice(notice.state);
        tell(&notice);
        self.told = Some((notice, Instant::now()));
    }

    fn took(&mut self, turn: Turn) -> Turn {
        match turn {
            Turn::Pod(_) => {}
            Turn::Deadline { .. } => self.outcome = Some("deadline"),
            Turn::Unavailable => self.outcome = Some("unavailable"),
        }
        turn
    }

    /// The pod took the request's link. If the device was told that it waits, it is told that it does no longer.
    pub fn linked(&mut self, mut tell: impl FnMut(&Notice)) {
        let ticket = self.ticket;
        let metrics = &self.hall.metrics;
        if self.linked.is_none() {
            metrics
                .hold_seconds
                .observe(self.entered.elapsed().as_secs_f64());
            metrics.hold_ended(&self.tenant, "dispatched");
        }
        self.outcome = None;
        self.linked = Some(Instant::now());
        let woken = self.hall.change(&self.tenant, |hall, now| {
            hall.line.linked(ticket, now);
            hall.trouble = None;
            (hall.wakes.linked(now), hall.wakes.eta_ms(0, 1, now))
        });
        let (woken, eta_ms) = woken.unwrap_or_default();
        if let Some(ms) = woken {
            metrics.ready_to_link.observe(seconds(ms));
        }
        if self.told.take().is_some() {
            let notice = Notice {
                state: Progress::Ready,
                position: 0,
                eta_ms,
            };
            metrics.notice(notice.state);
            tell(&notice);
        }
    }

    /// The pod did not take the request, which is to the device as if its substrate were in `state`.
    pub fn refused(&mut self, state: Progress) {
        self.back(Back::Refused, Some(state));
    }

    /// The request goes back to its place in the line.
    pub fn returns(&mut self, why: Back) {
        self.back(why, None);
    }

    fn back(&mut self, why: Back, trouble: Option<Progress>) {
        let (send, turn) = oneshot::channel();
        let ticket = self.ticket;
        self.turn = turn;
        self.outcome = Some("cancelled");
        self.hall.change(&self.tenant, |hall, now| {
            hall.trouble = trouble.or(hall.trouble);
            hall.turns.insert(ticket, send);
            hall.line.back(ticket, why, now);
        });
    }

    /// The request's pod is gone.
    pub fn lost(&mut self) {
        let ticket = self.ticket;
        self.hall
            .change(&self.tenant, |hall, now| hall.line.lost(ticket, now));
    }

    /// How long ago the link stood.
    fn since_link(&self) -> Option<u64> {
        let since = self.linked?.elapsed().as_millis();
        u64::try_from(since).ok()
    }

    /// The first token came.
    pub fn first_token(&self) {
        if let Some(ms) = self.since_link() {
            self.hall
                .change(&self.tenant, |hall, _| hall.wakes.first_token(ms));
        }
    }

    /// The answer is whole.
    pub fn answered(&self) {
        if let Some(ms) = self.since_link() {
            self.hall
                .change(&self.tenant, |hall, _| hall.wakes.answered(ms));
        }
    }

    /// Says why the request waits no longer, where that is not that its device went away.
    pub fn ends(&mut self, outcome: &'static str) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome
            && self.linked.is_none()
        {
            self.hall.metrics.hold_ended(&self.tenant, outcome);
        }
        let ticket = self.ticket;
        self.hall.change(&self.tenant, |hall, now| {
            hall.turns.remove(&ticket);
            hall.line.leave(ticket, now);
        });
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Returns when there is something new, and not before `from`; at once if nothing was ever told.
async fn settled(version: &mut watch::Receiver<u64>, from: Option<Instant>) {
    let Some(from) = from else {
        return;
    };
    if version.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    sleep_until(from).await;
}
