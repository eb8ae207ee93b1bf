//! Where held requests wait: asks the directory, wakes whose turn it is, and tells what this gateway has for each substrate.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use halo_receipts::documents::{Notice, Progress};
use halo_receipts::ids::{SessionId, TenantId};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::line::{Bounds, Line, Ticket};
use super::place::Place;
use super::wake::{self, Wakes};
use crate::directory::{Demand, Directory, PodAddress, Stage};
use crate::metrics::Metrics;

/// What a refused request is told when nothing is known of the tenant's wakes, and the least and the most that it is told otherwise.
const RETRY_UNKNOWN_MS: u32 = 5_000;
const RETRY_MIN_MS: u32 = 1_000;
const RETRY_MAX_MS: u32 = 600_000;

/// Why a request may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// As many wait as may.
    Full {
        /// When to try again.
        retry_after_ms: u32,
    },
    /// The tenant has no substrate.
    Unavailable,
}

/// What a request that waited gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It goes to this pod.
    Pod(PodAddress),
    /// It has waited for too long.
    Deadline {
        /// When to try again.
        retry_after_ms: u32,
    },
    /// The tenant's substrate was removed.
    Unavailable,
}

/// The gateway's own limits.
#[derive(Debug, Clone, Copy)]
pub struct HallLimits {
    /// For which a request may wait if its tenant does not say.
    pub age_ms: u64,
    /// Bytes of one tenant's requests that wait.
    pub bytes: usize,
    /// Between notices that say the same.
    pub notice_ms: u64,
}

pub(super) struct TenantHall {
    pub(super) line: Line,
    pub(super) wakes: Wakes,
    pub(super) turns: HashMap<Ticket, oneshot::Sender<Turn>>,
    stage: Stage,
    /// What the last pod that took no request made of it.
    pub(super) trouble: Option<Progress>,
    demand: Demand,
    bytes: usize,
    /// Rises with every change that a waiting request may want to tell.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    next: u64,
    tenants: HashMap<TenantId, TenantHall>,
}

/// The requests of all tenants that wait for a pod or have one.
pub struct Hall {
    directory: Arc<dyn Directory>,
    pub(super) metrics: Metrics,
    pub(super) limits: HallLimits,
    started: Instant,
    state: Mutex<State>,
    kick: Arc<Notify>,
    driven: AtomicBool,
}

impl Drop for Hall {
    fn drop(&mut self) {
        // The driver looks whether there still is a hall.
        self.kick.notify_one();
    }
}

impl Hall {
    /// A hall in which nobody waits.
    pub fn new(directory: Arc<dyn Directory>, metrics: Metrics, limits: HallLimits) -> Arc<Self> {
        Arc::new(Self {
            directory,
            metrics,
            limits,
            started: Instant::now(),
            state: Mutex::default(),
            kick: Arc::default(),
            driven: AtomicBool::new(false),
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a verified request of so many bytes. It waits until [`Place::turn`] says what becomes of it.
    ///
    /// # Errors
    /// When it may not wait.
    pub fn enter(
        self: &Arc<Self>,
        tenant: &TenantId,
        session: SessionId,
        bytes: usize,
    ) -> Result<Place, Refused> {
        if !self.driven.swap(true, Ordering::Relaxed) {
            let changes = self.directory.changes();
            tokio::spawn(drive(Arc::downgrade(self), Arc::clone(&self.kick), changes));
        }
        if self.directory.substrate(tenant).is_none() {
            self.metrics.hold_ended(tenant, "unavailable");
            return Err(Refused::Unavailable);
        }
        let now = self.now_ms();
        let mut state = self.lock();
        let ticket = Ticket(state.next);
        state.next = state.next.wrapping_add(1);
        let hall = state
            .tenants
            .entry(tenant.clone())
            .or_insert_with(|| TenantHall::new(self.bounds(tenant)));
        self.refresh(tenant, hall, now);
        if hall.line.enter(ticket, session, bytes, now).is_err() {
            let retry_after_ms = hall.retry_after_ms(hall.line.counts().0, now);
            self.metrics.hold_ended(tenant, "full");
            return Err(Refused::Full { retry_after_ms });
        }
        let (send, turn) = oneshot::channel();
        hall.turns.insert(ticket, send);
        let version = hall.version.subscribe();
        self.settle(tenant, hall, now);
        self.rearm(hall);
        drop(state);
        Ok(Place::new(
            Arc::clone(self),
            tenant.clone(),
            ticket,
            turn,
            version,
        ))
    }

    /// What the tenant may have now.
    fn bounds(&self, tenant: &TenantId) -> Bounds {
        let rules = self.directory.tenant(tenant);
        let substrate = self.directory.substrate(tenant);
        let held = rules.as_ref().and_then(|rules| rules.held_seconds);
        let age = held.map_or(self.limits.age_ms, |seconds| u64::from(seconds) * 1000);
        let wake = substrate.and_then(|substrate| substrate.wake_deadline);
        let wake = wake.map_or(u64::MAX, |wake| {
            u64::try_from(wake.as_millis()).unwrap_or(u64::MAX)
        });
        Bounds {
            count: rules.as_ref().map_or(0, |rules| rules.held_requests),
            bytes: self.limits.bytes,
            at_once: rules
                .as_ref()
                .map_or(0, |rules| rules.concurrent_escalations),
            age_ms: age.min(wake),
        }
    }

    /// Takes over what the directory says.
    fn refresh(&self, tenant: &TenantId, hall: &mut TenantHall, now: u64) {
        hall.line.set_bounds(self.bounds(tenant));
        let substrate = self.directory.substrate(tenant);
        let (pods, stage) = match &substrate {
            Some(substrate) if substrate.pods.is_empty() => (
                &[][..],
                match substrate.stage {
                    // Its pod is on its way into the list, or out of it.
                    Stage::Ready => Stage::Loading,
                    stage => stage,
                },
            ),
            Some(substrate) => (&substrate.pods[..], Stage::Ready),
            None => (&[][..], Stage::Asleep),
        };
        if pods.is_empty() {
            hall.trouble = None;
        }
        hall.line.set_pods(pods);
        hall.stage = stage;
        let waits = hall.line.counts().0 > 0;
        if let Some((over, ms)) = hall.wakes.observe(stage, waits, now) {
            self.metrics.wake_stage(wake::name(over), seconds(ms));
        }
        if substrate.is_none() {
            for ticket in hall.line.dismiss() {
                hall.give(ticket, Turn::Unavailable);
            }
        }
    }

    /// Gives turns to all that can have one, and tells what has changed.
    fn settle(&self, tenant: &TenantId, hall: &mut TenantHall, now: u64) {
        for ticket in hall.line.expired(now) {
            let retry_after_ms = hall.retry_after_ms(0, now);
            hall.give(ticket, Turn::Deadline { retry_after_ms });
        }
        while let Some((ticket, address)) = hall.line.next(now) {
            hall.give(ticket, Turn::Pod(address));
        }
        let (waiting, answering) = hall.line.counts();
        // A wake begins with the first request that waits.
        hall.wakes.observe(hall.stage, waiting > 0, now);
        let demand = Demand { waiting, answering };
        if demand != hall.demand {
            let more = |new: usize, old: usize| new as i64 - old as i64;
            self.metrics
                .held
                .add(more(demand.waiting, hall.demand.waiting));
            hall.demand = demand;
            self.directory.demand(tenant, demand);
        }
        let bytes = hall.line.bytes();
        self.metrics
            .held_bytes
            .add(bytes as i64 - hall.bytes as i64);
        hall.bytes = bytes;
        hall.version
            .send_modify(|version| *version = version.wrapping_add(1));
    }

    /// Has the driver look at the times again, if there is one to look at.
    fn rearm(&self, hall: &TenantHall) {
        if hall.line.due_ms().is_some() {
            self.kick.notify_one();
        }
    }

    /// Looks at all tenants; says when to look again if nothing else happens.
    fn look(&self) -> Option<Instant> {
        let now = self.now_ms();
        let mut state = self.lock();
        state.tenants.retain(|tenant, hall| {
            !hall.line.is_empty() || self.directory.tenant(tenant).is_some()
        });
        let mut due = None;
        for (tenant, hall) in &mut state.tenants {
            self.refresh(tenant, hall, now);
            self.settle(tenant, hall, now);
            due = [due, hall.line.due_ms()].into_iter().flatten().min();
        }
        due.map(|due| self.started + Duration::from_millis(due))
    }

    /// Changes a tenant's part and does what follows from it.
    pub(super) fn change<T>(
        &self,
        tenant: &TenantId,
        change: impl FnOnce(&mut TenantHall, u64) -> T,
    ) -> Option<T> {
        let now = self.now_ms();
        let mut state = self.lock();
        let hall = state.tenants.get_mut(tenant)?;
        let done = change(hall, now);
        self.refresh(tenant, hall, now);
        self.settle(tenant, hall, now);
        self.rearm(hall);
        Some(done)
    }

    /// How far a request is that waits.
    pub(super) fn notice(&self, tenant: &TenantId, ticket: Ticket) -> Notice {
        let now = self.now_ms();
        let state = self.lock();
        let nothing = Notice {
            state: Progress::Waking,
            position: 0,
            eta_ms: 0,
        };
        let hall = state.tenants.get(tenant);
        hall.map_or(nothing, |hall| hall.notice(ticket, now))
    }

    /// Brings the gauges up to date that change with time alone.
    pub fn measure(&self) {
        let now = self.now_ms();
        let state = self.lock();
        let oldest = state
            .tenants
            .values()
            .filter_map(|hall| hall.line.oldest_ms())
            .min();
        let age = oldest.map_or(0, |oldest| now.saturating_sub(oldest));
        self.metrics.oldest_hold.set(seconds(age));
    }
}

/// Looks at the lines whenever the directory changes, a pause is over or a request is late.
async fn drive(hall: Weak<Hall>, kick: Arc<Notify>, mut changes: watch::Receiver<()>) {
    let mut may_change = true;
    loop {
        let due = match hall.upgrade() {
            Some(hall) => hall.look(),
            None => return,
        };
        let late = due.unwrap_or_else(Instant::now);
        tokio::select! {
            changed = changes.changed(), if may_change => may_change = changed.is_ok(),
            () = kick.notified() => {}
            () = sleep_until(late), if due.is_some() => {}
        }
    }
}

pub(super) fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

impl TenantHall {
    fn new(bounds: Bounds) -> Self {
        Self {
            line: Line::new(bounds),
            wakes: Wakes::default(),
            turns: HashMap::new(),
            stage: Stage::Asleep,
            trouble: None,
            demand: Demand::default(),
            bytes: 0,
            version: watch::Sender::new(0),
        }
    }

    fn give(&mut self, ticket: Ticket, turn: Turn) {
        if let Some(send) = self.turns.remove(&ticket) {
            // Whoever does not take it has gone, and its place leaves the line.
            let _ = send.send(turn);
        }
    }

    fn retry_after_ms(&self, before: usize, now: u64) -> u32 {
        match self.wakes.eta_ms(before, self.line.bounds().at_once, now) {
            0 => RETRY_UNKNOWN_MS,
            eta => eta.clamp(RETRY_MIN_MS, RETRY_MAX_MS),
        }
    }

    fn notice(&self, ticket: Ticket, now: u64) -> Notice {
        let before = self.line.position(ticket);
        let (_, answering) = self.line.counts();
        let state = match self.stage {
            Stage::Ready if answering > 0 => Progress::Queued,
            Stage::Ready => self.trouble.unwrap_or(Progress::Queued),
            Stage::Loading => Progress::Loading,
            Stage::Asleep | Stage::Starting => Progress::Waking,
        };
        Notice {
            state,
            position: u32::try_from(before).unwrap_or(u32::MAX),
            eta_ms: self.wakes.eta_ms(before, self.line.bounds().at_once, now),
        }
    }
}
