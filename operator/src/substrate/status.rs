//! What is reported: the same facts make the same status, whatever the time is, so that nothing is written while nothing changes.

use halo_crds::HaloSubstrateStatus;
use halo_crds::condition::{self, Verdict};
use halo_crds::reasons::{self, kinds};
use halo_crds::status::{NodeSlot, NodeState, Phase};
use jiff::Timestamp;

use super::gate::Gate;
use super::phase::{Pods, Step, runs};
use super::replicas::Level;
use super::usage::{self, Spent};
use crate::nodes::plan::PoolBlock;
use crate::nodes::slots::stamp;

/// The most characters of `why`.
const WHY_MAX: usize = 100;

/// What stands between what is in the way and the time of the next try.
pub const NEXT_TRY: &str = "; next try ";

/// The most characters of a message of others.
const MESSAGE_MAX: usize = 300;

/// Nodes of a substrate, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Nodes {
    /// Those that should be ready.
    pub wanted: u32,
    /// Those that are.
    pub ready: u32,
    /// Whether they are the operator's to bring.
    pub launched: bool,
}

/// What a status is made from.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The status as it is.
    pub before: &'a HaloSubstrateStatus,
    /// The generation of the spec.
    pub generation: Option<i64>,
    /// The phase machine's word.
    pub step: &'a Step,
    /// Whether anything is asked.
    pub busy: bool,
    /// Since when nothing is.
    pub idle_since: Option<Timestamp>,
    /// Pods that should run.
    pub level: Level,
    /// Pods, counted.
    pub pods: Pods,
    /// Whether a pod that is not ending has a node.
    pub scheduled: bool,
    /// What keeps a pod from starting: reason and message.
    pub trouble: Option<&'a (String, String)>,
    /// Why pods cannot be made: reason and message.
    pub refused: Option<&'a (String, String)>,
    /// Nodes, counted.
    pub nodes: Nodes,
    /// Slots as they should be recorded.
    pub slots: &'a [NodeSlot],
    /// Launches so far.
    pub attempts: u32,
    /// What keeps the pool from going on.
    pub block: Option<&'a PoolBlock>,
    /// What the tenant allows.
    pub gate: &'a Gate,
    /// Why the object cannot be worked with.
    pub invalid: Option<&'a str>,
    /// What the API server refused: a stable name and the words.
    pub api: Option<&'a (String, String)>,
    /// Whether nothing may be changed.
    pub paused: bool,
    /// Whether the object is being deleted.
    pub deleting: bool,
    /// What came to the usage.
    pub spent: Spent,
    /// The time; only for transitions.
    pub now: Timestamp,
}

/// The status that follows; `demand` is left as it was, as it is the gateways'.
pub fn draft(facts: &Facts<'_>) -> HaloSubstrateStatus {
    let f = facts;
    let time = stamp;
    let now = stamp(f.now);
    let verdicts = [
        ready(f),
        awake(f),
        nodes_ready(f),
        pods_ready(f),
        blocked(f),
    ];
    let why = shorten(&why(f), WHY_MAX);
    HaloSubstrateStatus {
        observed_generation: f.generation,
        phase: Some(f.step.phase),
        why: Some(why),
        conditions: condition::fold(&f.before.conditions, verdicts, f.generation, &now),
        demand: f.before.demand.clone(),
        nodes: f.slots.to_vec(),
        node_count: Some(format!("{}/{}", f.nodes.ready, f.nodes.wanted)),
        replicas: i32::try_from(f.level.replicas).unwrap_or(i32::MAX),
        ready_replicas: i32::try_from(f.pods.ready).unwrap_or(i32::MAX),
        attempts: f.attempts,
        waking_since: f.step.waking_since.map(time),
        idle_since: f.idle_since.map(time),
        surplus_since: f.level.surplus_since.map(time),
        next_attempt: f.block.and_then(|block| block.next_attempt).map(time),
        usage: usage::add(f.before.usage.as_ref(), f.spent),
    }
}

/// What stands in the way, the gravest first: a stable reason and a message.
fn obstacle(f: &Facts<'_>) -> Option<(String, String)> {
    if let Some(invalid) = f.invalid {
        return Some((reasons::INVALID.to_owned(), invalid.to_owned()));
    }
    if let Some((name, words)) = f.api {
        let message = format!(
            "the API server refused: {name}: {}",
            shorten(words, MESSAGE_MAX)
        );
        return Some((reasons::API_SERVER.to_owned(), message));
    }
    if let Some(block) = f.block {
        let message = shorten(&block.message, MESSAGE_MAX);
        let message = match block.next_attempt {
            Some(at) => format!("{message}{NEXT_TRY}{}", clock(at)),
            None => message,
        };
        return Some((block.reason.clone(), message));
    }
    // An object that goes needs no tenant.
    match &f.gate.closed {
        Some((reason, message)) if !f.deleting => Some(((*reason).to_owned(), message.clone())),
        _ => None,
    }
}

fn ready(f: &Facts<'_>) -> Verdict {
    let no = |reason: &str, message: &str| Verdict::new(kinds::READY, false, reason, message);
    if f.deleting {
        return no(reasons::DELETING, "it is being deleted");
    }
    if f.paused {
        return no(
            reasons::PAUSED,
            "it is paused, or its tenant is: nothing is changed",
        );
    }
    let phase = f.step.phase;
    if let Some((reason, message)) = obstacle(f) {
        // What answers is ready, also if it cannot grow.
        if phase != Phase::Awake || f.invalid.is_some() {
            return no(&reason, &message);
        }
    }
    match phase {
        Phase::Asleep => Verdict::new(
            kinds::READY,
            true,
            reasons::ASLEEP,
            "it sleeps until it is asked",
        ),
        Phase::Awake => Verdict::new(kinds::READY, true, reasons::AWAKE, "it answers"),
        Phase::Draining => Verdict::new(kinds::READY, true, reasons::DRAINING, "it goes to sleep"),
        Phase::Waking => {
            let pods = pods_ready(f);
            let failing = f.trouble.is_some() || f.refused.is_some();
            match failing && pods.reason != reasons::PODS_PENDING {
                true => no(&pods.reason, &pods.message),
                false if f.step.overdue => no(reasons::WAKE_DEADLINE, OVERDUE),
                false => no(reasons::WAKING, "it wakes"),
            }
        }
    }
}

const OVERDUE: &str = "the wake takes longer than scaling.wakeDeadline; it goes on";

fn awake(f: &Facts<'_>) -> Verdict {
    let no = |reason: &str, message: &str| Verdict::new(kinds::AWAKE, false, reason, message);
    match f.step.phase {
        Phase::Asleep => no(reasons::ASLEEP, "nothing is asked"),
        Phase::Waking if f.step.overdue => no(reasons::WAKE_DEADLINE, OVERDUE),
        Phase::Waking => no(reasons::WAKING, "no pod answers yet"),
        Phase::Draining => no(reasons::DRAINING, "nothing is asked any more"),
        Phase::Awake => Verdict::new(kinds::AWAKE, true, reasons::AWAKE, "a pod answers"),
    }
}

fn nodes_ready(f: &Facts<'_>) -> Verdict {
    let Nodes {
        wanted,
        ready,
        launched,
    } = f.nodes;
    let say = |truth: bool, reason: &str, message: String| {
        Verdict::new(kinds::NODES_READY, truth, reason, message)
    };
    if !launched {
        return match ready {
            0 => say(
                false,
                reasons::NO_MATCHING_NODES,
                "no ready node has the labels of nodePool.existing.nodeSelector: label one, or change the selector".to_owned(),
            ),
            _ => say(true, reasons::READY, "ready nodes match".to_owned()),
        };
    }
    match (wanted, f.block) {
        (0, Some(block)) => say(false, &block.reason, shorten(&block.message, MESSAGE_MAX)),
        (0, None) => say(true, reasons::READY, "no node is wanted".to_owned()),
        _ if ready >= wanted => say(
            true,
            reasons::READY,
            format!("{ready} of {wanted} nodes are ready"),
        ),
        (_, Some(block)) => say(
            false,
            &block.reason,
            format!(
                "{ready} of {wanted} nodes are ready: {}",
                shorten(&block.message, MESSAGE_MAX)
            ),
        ),
        (_, None) => say(
            false,
            reasons::NODES_PENDING,
            format!("{ready} of {wanted} nodes are ready"),
        ),
    }
}

/// Said once a pod has a node.
const POD_STARTS: &str = "the pod starts and loads the model";

fn pods_ready(f: &Facts<'_>) -> Verdict {
    let say = |truth: bool, reason: &str, message: String| {
        Verdict::new(kinds::PODS_READY, truth, reason, message)
    };
    let (ready, wanted) = (f.pods.ready, f.level.replicas);
    if wanted == 0 {
        return match f.pods.left {
            0 => say(true, reasons::READY, "no pod is wanted".to_owned()),
            _ => say(true, reasons::DRAINING, "pods end".to_owned()),
        };
    }
    if ready >= wanted {
        return say(
            true,
            reasons::READY,
            format!("{ready} of {wanted} pods are ready"),
        );
    }
    if let Some((_, message)) = f.refused {
        let reason = match message.contains("exceeded quota") {
            true => reasons::QUOTA_EXCEEDED,
            false => reasons::PODS_REFUSED,
        };
        return say(false, reason, shorten(message, MESSAGE_MAX));
    }
    match f.trouble {
        // Before its node is there a pod has nowhere to go.
        Some((reason, _))
            if reason == "Unschedulable" && f.nodes.launched && f.nodes.ready < f.nodes.wanted =>
        {
            say(
                false,
                reasons::PODS_PENDING,
                "the pod waits for its node".to_owned(),
            )
        }
        Some((reason, message)) if reason == "Unschedulable" => {
            say(false, reasons::UNSCHEDULABLE, shorten(message, MESSAGE_MAX))
        }
        Some((reason, message)) => say(false, reasons::POD_FAILING, failing(reason, message)),
        None if f.scheduled => say(false, reasons::PODS_PENDING, POD_STARTS.to_owned()),
        None => say(
            false,
            reasons::PODS_PENDING,
            format!("{ready} of {wanted} pods are ready"),
        ),
    }
}

/// What a container waits for, without what the kubelet counts on while nothing changes.
fn failing(reason: &str, message: &str) -> String {
    match reason {
        "ErrImagePull" | "ImagePullBackOff" => {
            "ImagePullBackOff: the image cannot be pulled: check pod.image and the registry's access".to_owned()
        }
        "CrashLoopBackOff" => {
            "CrashLoopBackOff: the program ends again and again: its log says why".to_owned()
        }
        _ => shorten(&format!("{reason}: {message}"), MESSAGE_MAX),
    }
}

fn blocked(f: &Facts<'_>) -> Verdict {
    match obstacle(f) {
        Some((reason, message)) => Verdict::new(kinds::BLOCKED, true, reason, message),
        None => Verdict::new(
            kinds::BLOCKED,
            false,
            reasons::NOT_BLOCKED,
            "nothing stands in the way",
        ),
    }
}

fn why(f: &Facts<'_>) -> String {
    if let Some(block) = f.block.filter(|_| f.invalid.is_none() && f.api.is_none()) {
        return match block.next_attempt {
            // The time has to be seen, whatever else is cut.
            Some(at) => {
                let next = format!(", next try {}", clock(at));
                let room = WHY_MAX.saturating_sub(next.len());
                format!("{}{next}", shorten(&block.message, room))
            }
            None => block.message.clone(),
        };
    }
    let left = f.slots.iter().any(|slot| slot.state != NodeState::Stopped);
    let ending = match (f.pods.left, left) {
        (0, false) => "almost gone",
        (0, true) => "nodes end",
        _ => "pods end",
    };
    if f.deleting {
        return format!("deleting: {ending}");
    }
    if f.paused {
        return "paused".to_owned();
    }
    if let Some((_, message)) = obstacle(f) {
        return message;
    }
    let pods = pods_ready(f);
    match f.step.phase {
        Phase::Asleep => "no demand".to_owned(),
        Phase::Draining => ending.to_owned(),
        Phase::Awake if pods.status_is_false() => format!("answers; {}", pods.message),
        Phase::Awake if f.busy => "in use".to_owned(),
        Phase::Awake => "idle".to_owned(),
        Phase::Waking => {
            let stage = match slot_on_its_way(f.slots).filter(|_| f.nodes.ready < f.nodes.wanted) {
                Some(slot) => stage(slot),
                None => pods.message,
            };
            match f.step.overdue {
                true => format!("wake deadline exceeded: {stage}"),
                false => stage,
            }
        }
    }
}

trait Falsehood {
    fn status_is_false(&self) -> bool;
}

impl Falsehood for Verdict {
    fn status_is_false(&self) -> bool {
        self.truth == condition::Truth::False
    }
}

/// The slot that is nearest to a node.
fn slot_on_its_way(slots: &[NodeSlot]) -> Option<&NodeSlot> {
    let order = |state: NodeState| match state {
        NodeState::Registered => Some(0),
        NodeState::Pending => Some(1),
        NodeState::Starting => Some(2),
        NodeState::Launching => Some(3),
        _ => None,
    };
    slots
        .iter()
        .filter(|slot| order(slot.state).is_some())
        .min_by_key(|slot| order(slot.state))
}

fn stage(slot: &NodeSlot) -> String {
    let what = format!("{} in {}", slot.instance_type, slot.zone);
    match slot.state {
        NodeState::Launching => format!("launching {what}"),
        NodeState::Starting => format!("starting {what}"),
        NodeState::Registered => format!("{what} has registered, not ready yet"),
        _ => format!("{what} boots"),
    }
}

/// A time of day, UTC.
fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S").to_string()
}

/// At most so many characters, in one line.
pub fn shorten(text: &str, max: usize) -> String {
    let line: String = text
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect();
    match line.char_indices().nth(max) {
        None => line,
        Some(_) => {
            let kept: String = line.chars().take(max.saturating_sub(1)).collect();
            format!("{}…", kept.trim_end())
        }
    }
}

/// Whether pods or nodes of this status are on their way or at work.
pub fn is_moving(status: &HaloSubstrateStatus) -> bool {
    let phase = status.phase.unwrap_or_default();
    runs(phase) || phase == Phase::Draining
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
