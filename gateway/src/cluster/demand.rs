//! When a gateway writes its entry in a substrate's `status.demand`, and what stands in it. Pure: a table over what it has, what it
//! wrote and the time.
//!
//! | has requests | wrote last | writes |
//! |---|---|---|
//! | yes | nothing, or that it is idle | at once: how many, and since when |
//! | yes | that it has requests | the same again when that is [`Pace::refresh`] old |
//! | no | that it has requests | that it is idle since its last request, when nothing came for a while |
//! | no | that it is idle | removes the entry, when that is [`Pace::remove`] old |
//! | no | nothing | nothing; but if requests came and went, that it is idle since then |
//!
//! The operator takes an entry that claims requests as demand, and one that is idle as the time from which `scaling.idleAfter` counts.
//! So a substrate sleeps exactly `idleAfter` after the last request, and a conversation with pauses does not write with each of its
//! requests: "a while" is [`Pace::linger`], and at most half of `idleAfter`. The operator records the time in its own part of the
//! status, so that the entry can go soon after: a gateway that is idle has no entry, and asks the API server for nothing.

use std::time::Duration;

use jiff::Timestamp;

use super::objects::DemandEntry;
use crate::directory::Demand;

/// The least time after which the operator counts a gateway as dead that claims requests and is silent.
const DEAD_AFTER: Duration = Duration::from_secs(600);
/// How much longer than that a silent gateway's entry stays.
const GARBAGE_AFTER: Duration = Duration::from_secs(3600);
/// With more entries than this, those of dead gateways go at once: a substrate has room for 64.
const CROWDED: usize = 32;

/// How often it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Between two writes while there are requests.
    pub refresh: Duration,
    /// How long nothing may come before it is told.
    pub linger: Duration,
    /// How long an idle entry stays.
    pub remove: Duration,
    /// Before the first further try of a write that failed; doubled with each further one.
    pub retry: Duration,
    /// The longest such wait.
    pub retry_max: Duration,
    /// For one call to the API server.
    pub call: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(30),
            linger: Duration::from_secs(30),
            remove: Duration::from_secs(60),
            retry: Duration::from_millis(100),
            retry_max: Duration::from_secs(10),
            call: Duration::from_secs(5),
        }
    }
}

/// The time: the steady one that waits are counted in, and the clock's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since the gateway started.
    pub steady: Duration,
    /// The clock.
    pub clock: Timestamp,
}

/// What is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Requests wait or are answered.
    Busy {
        /// How many.
        in_flight: i64,
        /// Since when there are any.
        since: Timestamp,
        /// The time.
        last_active: Timestamp,
    },
    /// Nothing is asked.
    Idle {
        /// When it was last.
        last_active: Timestamp,
    },
    /// The entry goes.
    Removed,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Write this now.
    Write(Entry),
    /// Look again at this steady time.
    At(Duration),
    /// Nothing until something changes.
    Nothing,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It stands.
    Done,
    /// The substrate is gone.
    Gone,
    /// It failed or its outcome is not known; the API server asks to wait so long.
    Failed(Option<Duration>),
}

/// What the API server holds of this gateway, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Nothing,
    /// Since when; `None` if the outcome of the write is not known.
    Busy(Option<Duration>),
    Idle(Duration),
}

/// One substrate's demand on this gateway.
#[derive(Debug)]
pub struct Desk {
    demand: Demand,
    since: Option<Timestamp>,
    /// When it last had requests.
    last: Option<Now>,
    /// Whether it had requests since the last write began.
    news: bool,
    held: Held,
    writing: Option<Entry>,
    failures: u32,
    retry_at: Duration,
    leaving: bool,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            demand: Demand::default(),
            since: None,
            last: None,
            news: false,
            held: Held::Nothing,
            writing: None,
            failures: 0,
            retry_at: Duration::ZERO,
            leaving: false,
        }
    }
}

impl Desk {
    /// A desk under whose name an earlier process has left an entry, last active at `last_active`.
    pub fn inherited(last_active: Timestamp) -> Self {
        let last = Now {
            steady: Duration::ZERO,
            clock: last_active,
        };
        Self {
            last: Some(last),
            held: Held::Busy(None),
            ..Self::default()
        }
    }

    /// What the substrate has now; `touched` if it had requests at any time since the last call.
    pub fn set(&mut self, demand: Demand, touched: bool, now: Now) {
        let busy = in_flight(demand) > 0;
        if touched || busy || in_flight(self.demand) > 0 {
            self.last = Some(now);
        }
        if touched || busy {
            self.news = true;
        }
        self.since = match (busy, self.since) {
            (true, since) => Some(since.unwrap_or(now.clock)),
            (false, _) => None,
        };
        self.demand = demand;
    }

    /// The gateway ends: its entry goes and no other is written.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// Whether nothing is there and nothing is to be done: the desk can be forgotten.
    pub fn is_clear(&self) -> bool {
        let quiet = self.leaving || (in_flight(self.demand) == 0 && !self.news);
        quiet && self.held == Held::Nothing && self.writing.is_none()
    }

    /// What is to be done for a substrate that sleeps `idle_after` after the last request.
    pub fn next(&self, pace: &Pace, idle_after: Duration, now: Now) -> Next {
        if self.writing.is_some() || self.is_clear() {
            return Next::Nothing;
        }
        let next = self.wish(pace, idle_after, now);
        match next {
            Next::Write(_) if now.steady < self.retry_at => Next::At(self.retry_at),
            next => next,
        }
    }

    fn wish(&self, pace: &Pace, idle_after: Duration, now: Now) -> Next {
        let at = |time: Duration, entry: Entry| match now.steady < time {
            true => Next::At(time),
            false => Next::Write(entry),
        };
        if self.leaving {
            return Next::Write(Entry::Removed);
        }
        let last = self.last.unwrap_or(now);
        let idle = Entry::Idle {
            last_active: last.clock.min(now.clock),
        };
        if in_flight(self.demand) > 0 {
            let busy = Entry::Busy {
                in_flight: in_flight(self.demand),
                since: self.since.unwrap_or(now.clock),
                last_active: now.clock,
            };
            return match self.held {
                Held::Busy(Some(written)) => at(written.saturating_add(pace.refresh), busy),
                Held::Busy(None) | Held::Idle(_) | Held::Nothing => Next::Write(busy),
            };
        }
        let linger = pace.linger.min(idle_after / 2);
        match self.held {
            Held::Busy(_) => at(last.steady.saturating_add(linger), idle),
            Held::Idle(_) | Held::Nothing if self.news => Next::Write(idle),
            Held::Idle(written) => at(written.saturating_add(pace.remove), Entry::Removed),
            Held::Nothing => Next::Nothing,
        }
    }

    /// The write of `entry` has begun.
    pub fn begin(&mut self, entry: Entry) {
        self.writing = Some(entry);
        self.news = false;
    }

    /// The write that had begun has ended. `random`, from 0 to 255, spreads further tries.
    pub fn end(&mut self, written: Written, pace: &Pace, random: u8, now: Now) {
        let Some(entry) = self.writing.take() else {
            return;
        };
        match written {
            Written::Done => {
                self.held = match entry {
                    Entry::Busy { .. } => Held::Busy(Some(now.steady)),
                    Entry::Idle { .. } => Held::Idle(now.steady),
                    Entry::Removed => Held::Nothing,
                };
                (self.failures, self.retry_at) = (0, Duration::ZERO);
            }
            Written::Gone => {
                self.held = Held::Nothing;
                self.retry_at = now.steady.saturating_add(pace.retry_max);
            }
            Written::Failed(asked) => {
                match entry {
                    // It may stand all the same, and must not stay.
                    Entry::Busy { .. } => self.held = Held::Busy(None),
                    Entry::Idle { .. } => self.news = true,
                    Entry::Removed => {}
                }
                let factor = 1u32 << self.failures.min(16);
                let most = pace.retry.saturating_mul(factor).min(pace.retry_max);
                // From half of it to all: gateways that failed together do not come back together.
                let wait = most.mul_f64(0.5 + f64::from(random) / 510.0);
                let wait = wait.max(asked.unwrap_or_default().min(pace.retry_max));
                self.failures = self.failures.saturating_add(1);
                self.retry_at = now.steady.saturating_add(wait);
            }
        }
    }
}

fn in_flight(demand: Demand) -> i64 {
    i64::try_from(demand.waiting.saturating_add(demand.answering)).unwrap_or(i64::MAX)
}

/// The other gateways whose entries are to be removed, as they have ended without doing it themselves: nobody else would, as the next
/// gateway has another name. The operator does not count them any more.
pub fn garbage<'a>(
    entries: &'a [DemandEntry],
    own: &str,
    idle_after: Duration,
    clock: Timestamp,
) -> Vec<&'a str> {
    let dead = idle_after.max(DEAD_AFTER);
    let after = match entries.len() > CROWDED {
        true => dead,
        false => dead.saturating_add(GARBAGE_AFTER),
    };
    let silent = |entry: &&DemandEntry| {
        let silent = clock.duration_since(entry.last_active);
        Duration::try_from(silent).is_ok_and(|silent| silent >= after)
    };
    let others = entries.iter().filter(|entry| entry.gateway != own);
    others
        .filter(silent)
        .map(|entry| entry.gateway.as_str())
        .collect()
}

#[cfg(test)]
#[path = "demand_tests.rs"]
mod tests;
