//! What a change of status is worth saying: events for people, figures for dashboards. Pure; each change is seen once, as each status
//! is written once.

use halo_crds::HaloSubstrateStatus;
use halo_crds::condition::find;
use halo_crds::reasons::{self, kinds};
use halo_crds::status::{NodeSlot, NodeState, Phase};
use jiff::Timestamp;
use std::sync::Arc;

use super::demand::Reading;
use super::status::NEXT_TRY;
use crate::runtime::metrics::WakeStage;
use crate::runtime::records::PodView;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tale {
    /// Whether somebody may have to act.
    pub warning: bool,
    /// A stable name.
    pub reason: String,
    /// A sentence.
    pub note: String,
}

impl Tale {
    fn normal(reason: &str, note: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason: reason.to_owned(),
            note: note.into(),
        }
    }

    fn warning(reason: &str, note: impl Into<String>) -> Self {
        Self {
            warning: true,
            ..Self::normal(reason, note)
        }
    }
}

/// Notes of a pool, as events.
pub fn of_notes(notes: &[(&'static str, String)]) -> Vec<Tale> {
    let grave = [
        reasons::INSTANCE_LOST,
        reasons::REGISTRATION_DEADLINE,
        reasons::DRAIN_BLOCKED,
    ];
    notes
        .iter()
        .map(|(reason, note)| match grave.contains(reason) {
            true => Tale::warning(reason, note),
            false => Tale::normal(reason, note),
        })
        .collect()
}

/// Reasons of PodsReady that a person should hear of.
const POD_TROUBLE: [&str; 4] = [
    reasons::QUOTA_EXCEEDED,
    reasons::PODS_REFUSED,
    reasons::UNSCHEDULABLE,
    reasons::POD_FAILING,
];

/// Events for the way from one status to the next.
pub fn events(before: &HaloSubstrateStatus, after: &HaloSubstrateStatus) -> Vec<Tale> {
    let mut tales = Vec::new();
    if before.phase != after.phase
        && let Some(phase) = after.phase
        // That a new object sleeps is no news.
        && (before.phase.is_some() || phase != Phase::Asleep)
    {
        tales.push(match phase {
            Phase::Asleep => Tale::normal(reasons::ASLEEP, "no pod and no node that costs is left"),
            Phase::Waking => Tale::normal(reasons::WAKING, "there is demand"),
            Phase::Awake => Tale::normal(reasons::AWAKE, "a pod answers"),
            Phase::Draining => Tale::normal(reasons::DRAINING, "pods end, then nodes"),
        });
    }
    for (_, slot) in steps(before, after, |was, is| {
        is.instance.is_some() && was.is_none_or(|was| was.instance != is.instance)
    }) {
        let id = slot.instance.as_deref().unwrap_or_default();
        let note = format!(
            "slot {}: instance {id}, {} in {}, launch {}",
            slot.slot, slot.instance_type, slot.zone, slot.attempt
        );
        tales.push(Tale::normal("Launched", note));
    }
    let told = |kind: &str, status: &str, reasons: Option<&[&str]>| {
        let now = find(&after.conditions, kind).filter(|now| now.status == status)?;
        let worth = reasons.is_none_or(|reasons| reasons.contains(&now.reason.as_str()));
        let old = find(&before.conditions, kind);
        let news = old.is_none_or(|old| (&old.status, &old.reason) != (&now.status, &now.reason));
        // Without the time of the next try, so that what happens again and again is one event.
        let what = now.message.split(NEXT_TRY).next();
        (worth && news).then(|| Tale::warning(&now.reason, what.unwrap_or_default()))
    };
    tales.extend(told(kinds::BLOCKED, "True", None));
    tales.extend(told(kinds::PODS_READY, "False", Some(&POD_TROUBLE)));
    tales.extend(told(kinds::AWAKE, "False", Some(&[reasons::WAKE_DEADLINE])));
    tales
}

/// Slots of `after`, each with itself as it was, for which a step is true.
fn steps<'a>(
    before: &'a HaloSubstrateStatus,
    after: &'a HaloSubstrateStatus,
    step: impl Fn(Option<&NodeSlot>, &NodeSlot) -> bool + 'a,
) -> impl Iterator<Item = (Option<&'a NodeSlot>, &'a NodeSlot)> {
    after.nodes.iter().filter_map(move |is| {
        let was = before
            .nodes
            .iter()
            .find(|was| was.slot == is.slot && was.attempt == is.attempt);
        step(was, is).then_some((was, is))
    })
}

fn seconds(since: Timestamp, until: Timestamp) -> f64 {
    until.duration_since(since).as_secs_f64().max(0.0)
}

/// Stages of a wake that end with the way from one status to the next, and how many seconds each took.
pub fn stages(
    before: &HaloSubstrateStatus,
    after: &HaloSubstrateStatus,
    demand: &Reading,
    pods: &[Arc<PodView>],
    now: Timestamp,
) -> Vec<(WakeStage, f64)> {
    let mut stages = Vec::new();
    let (was, is) = (
        before.phase.unwrap_or_default(),
        after.phase.unwrap_or_default(),
    );
    if is == Phase::Waking
        && matches!(was, Phase::Asleep | Phase::Draining)
        && let Some(since) = demand.since
    {
        stages.push((WakeStage::Decision, seconds(since, now)));
    }
    let rank = |state: NodeState| match state {
        NodeState::Launching | NodeState::Starting => Some(0),
        NodeState::Pending => Some(1),
        NodeState::Registered => Some(2),
        NodeState::Ready => Some(3),
        NodeState::Draining | NodeState::Stopping | NodeState::Stopped | NodeState::Terminating => {
            None
        }
    };
    for (was, slot) in steps(before, after, |_, _| true) {
        let from = was.and_then(|was| rank(was.state));
        let (Some(was), Some(from), Some(to)) = (was, from, rank(slot.state)) else {
            continue;
        };
        let took = seconds(was.since.0, now);
        let reached = |stage: u8| from < stage && to >= stage;
        if reached(1) {
            stages.push((WakeStage::Launch, took));
        }
        if reached(2) {
            stages.push((WakeStage::Registered, took));
        }
        if reached(3) {
            let took = if from == 2 { took } else { 0.0 };
            stages.push((WakeStage::Ready, took));
        }
    }
    if was == Phase::Waking && is == Phase::Awake {
        let first = pods
            .iter()
            .filter(|pod| pod.place.ready && !pod.place.ending)
            .min_by_key(|pod| pod.ready_since);
        if let Some(pod) = first {
            let slot = after
                .nodes
                .iter()
                .find(|slot| slot.node.is_some() && slot.node == pod.place.node);
            let begun = match slot {
                Some(slot) => Some(slot.since.0),
                None => before.waking_since.as_ref().map(|since| since.0),
            };
            if let (Some(begun), Some(started)) = (begun, pod.started_at) {
                stages.push((WakeStage::Pod, seconds(begun, started)));
            }
            if let (Some(started), Some(ready)) = (pod.started_at, pod.ready_since) {
                stages.push((WakeStage::Loaded, seconds(started, ready)));
            }
        }
    }
    stages
}

#[cfg(test)]
#[path = "tell_tests.rs"]
mod tests;
