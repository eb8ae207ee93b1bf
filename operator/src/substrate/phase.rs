//! Between asleep and awake: the pure machine over demand, pods, nodes and time.
//!
//! One step is a fixpoint: the same situation, stepped again, stays where it is. What is remembered between two steps is the phase,
//! since when it wakes and since when nothing is asked; all three are recorded in the status.

use std::time::Duration;

use halo_crds::status::Phase;
use jiff::Timestamp;

use super::demand::{Reading, elapsed};

/// The pods of a substrate, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pods {
    /// Those that exist, ending ones included.
    pub left: u32,
    /// Those that answer and are not ending.
    pub ready: u32,
}

/// What a step looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation {
    /// Where it is.
    pub phase: Phase,
    /// Whether anything is asked.
    pub busy: bool,
    /// Since when nothing is asked; see [`idle_since`].
    pub idle_since: Option<Timestamp>,
    /// Whether it may wake: its tenant is there, is ready and has keys.
    pub may_wake: bool,
    /// Whether nothing may be changed. A deletion goes on all the same.
    pub paused: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its pods.
    pub pods: Pods,
    /// Whether it has nodes that cost.
    pub nodes_left: bool,
    /// When the current wake began.
    pub waking_since: Option<Timestamp>,
    /// How long nothing is asked before it sleeps.
    pub idle_after: Duration,
    /// How long a wake may take.
    pub wake_deadline: Duration,
    /// The time.
    pub now: Timestamp,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where it is now.
    pub phase: Phase,
    /// When the current wake began; `None` unless waking.
    pub waking_since: Option<Timestamp>,
    /// Whether the wake takes longer than it may. It goes on.
    pub overdue: bool,
    /// After how long time alone changes something.
    pub look_again: Option<Duration>,
}

/// Since when nothing is asked, from what was recorded and what gateways say; `None` while something is asked.
///
/// A gateway removes its entry when it is idle, so the record counts; activity that came and went between two looks moves it on.
pub fn idle_since(
    recorded: Option<Timestamp>,
    demand: &Reading,
    now: Timestamp,
) -> Option<Timestamp> {
    if demand.is_busy() {
        return None;
    }
    match (recorded, demand.last_active) {
        (Some(recorded), Some(active)) => Some(recorded.max(active)),
        (Some(since), None) | (None, Some(since)) => Some(since),
        (None, None) => Some(now),
    }
}

/// The next phase.
pub fn step(situation: &Situation) -> Step {
    let s = situation;
    let awake = match s.pods.ready {
        0 => Phase::Waking,
        _ => Phase::Awake,
    };
    let asleep = match s.pods.left == 0 && !s.nodes_left {
        true => Phase::Asleep,
        false => Phase::Draining,
    };
    let idle_for = s.idle_since.map(|since| elapsed(since, s.now));
    let idle_over = !s.busy && idle_for.is_some_and(|idle| idle >= s.idle_after);
    let phase = match s.phase {
        _ if s.deleting => asleep,
        phase if s.paused => phase,
        Phase::Asleep | Phase::Draining if s.busy && s.may_wake => awake,
        Phase::Asleep | Phase::Draining => asleep,
        Phase::Waking | Phase::Awake if idle_over => asleep,
        Phase::Waking | Phase::Awake => awake,
    };
    let began = match (s.phase, s.waking_since) {
        (Phase::Waking, Some(since)) => since,
        _ => s.now,
    };
    let waking_since = (phase == Phase::Waking).then_some(began);
    let waking_for = waking_since.map(|since| elapsed(since, s.now));
    let overdue = waking_for.is_some_and(|waking| waking >= s.wake_deadline);
    let frozen = s.paused && !s.deleting;
    let sleeps_in = match phase {
        Phase::Waking | Phase::Awake if !s.busy => {
            idle_for.map(|idle| s.idle_after.saturating_sub(idle))
        }
        _ => None,
    };
    let overdue_in = waking_for
        .filter(|_| !overdue)
        .map(|waking| s.wake_deadline.saturating_sub(waking));
    Step {
        phase,
        waking_since,
        overdue,
        look_again: match frozen {
            true => None,
            false => [sleeps_in, overdue_in].into_iter().flatten().min(),
        },
    }
}

/// Whether pods should run in this phase.
pub fn runs(phase: Phase) -> bool {
    matches!(phase, Phase::Waking | Phase::Awake)
}

#[cfg(test)]
#[path = "phase_tests.rs"]
mod tests;
