//! Folds what came of an action into the record.

use halo_cloud::{CloudError, Failure, Instance};
use halo_crds::pool::IdlePolicy;
use halo_crds::reasons;
use halo_crds::status::{NodeSlot, NodeState};
use jiff::Timestamp;

use super::adopt;
use super::capacity::Lesson;
use super::plan::{NodeAction, Outcome, PoolBlock};
use super::slots::{self, enter};

use crate::settings::Pace;

/// What settling looks at besides the action and its outcome.
#[derive(Debug, Clone, Copy)]
pub struct Settling<'a> {
    /// What becomes of instances that are not needed.
    pub idle_policy: IdlePolicy,
    /// Whether the substrate is being deleted.
    pub deleting: bool,
    /// How long things may take.
    pub pace: &'a Pace,
    /// The time.
    pub now: Timestamp,
}

/// What follows from an outcome.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settled {
    /// What was learnt about the cloud, for [`super::capacity::CapacityMemory::learn`].
    pub lessons: Vec<Lesson>,
    /// What keeps the pool from going on, for a condition.
    pub blocked: Option<PoolBlock>,
    /// What a person should be told, each once: reason and message.
    pub notes: Vec<(&'static str, String)>,
    /// Whether the pool should be planned again at once.
    pub again: bool,
}

/// Folds what came of `action` into the record. What the record does not need to know, such as a start that was accepted, changes
/// nothing: the next listing shows it.
pub fn settle(
    slots: &mut Vec<NodeSlot>,
    action: &NodeAction,
    outcome: &Outcome,
    scene: &Settling<'_>,
) -> Settled {
    let mut settled = Settled::default();
    match (action, outcome) {
        (NodeAction::Launch { slot } | NodeAction::FindByToken { slot }, Outcome::Launched(i)) => {
            launched(slots, *slot, i, scene, &mut settled);
        }
        (NodeAction::FindByToken { slot }, Outcome::NotFound) => {
            not_launched(slots, *slot, scene, &mut settled);
        }
        (NodeAction::Launch { slot }, Outcome::Failed(error)) => {
            launch_failed(slots, *slot, error, scene, &mut settled);
        }
        (NodeAction::Start { .. }, Outcome::Done) => settled.lessons.push(Lesson::Launched),
        (NodeAction::Start { slot, .. }, Outcome::Failed(error)) => {
            start_failed(slots, *slot, error, scene, &mut settled);
        }
        (NodeAction::CreateVolume { slot }, Outcome::Volume(volume)) => {
            if let Some(slot) = find(slots, *slot).filter(|s| s.zone == volume.zone) {
                slot.volume = Some(volume.id.0.clone());
                slot.volume_since = Some(slots::stamp(scene.now));
            }
        }
        (NodeAction::Drain { slot, .. }, Outcome::Done) => {
            if let Some(slot) = find(slots, *slot).filter(|s| s.state == NodeState::Draining) {
                let resting = slots::resting_state(scene.idle_policy, scene.deleting);
                enter(slot, resting, scene.now);
                settled.again = true;
            }
        }
        (NodeAction::Drain { node, .. }, Outcome::StillDraining { message }) => {
            settled.blocked = Some(PoolBlock {
                reason: reasons::DRAIN_BLOCKED.to_owned(),
                message: format!("node {node} keeps pods: {message}"),
                next_attempt: None,
            });
        }
        (NodeAction::Uncordon { node }, Outcome::Done) => {
            let drains =
                |s: &&mut NodeSlot| s.node.as_ref() == Some(node) && s.state == NodeState::Draining;
            if let Some(slot) = slots.iter_mut().find(drains) {
                // If it is not ready, the next pass sees that.
                enter(slot, NodeState::Ready, scene.now);
                settled.again = true;
            }
        }
        (_, Outcome::Refused { message }) => {
            settled.blocked = Some(PoolBlock {
                reason: reasons::API_SERVER.to_owned(),
                message: message.clone(),
                next_attempt: None,
            });
        }
        (_, Outcome::Failed(error)) => refused(action, error, &mut settled),
        _ => {}
    }
    settled
}

fn find(slots: &mut [NodeSlot], number: u32) -> Option<&mut NodeSlot> {
    slots.iter_mut().find(|slot| slot.slot == number)
}

/// The slot, if its launch has no answer yet: an answer that comes after another took the slot changes nothing.
fn waiting(slots: &mut [NodeSlot], number: u32) -> Option<&mut NodeSlot> {
    find(slots, number).filter(|s| s.state == NodeState::Launching && s.instance.is_none())
}

fn launched(
    slots: &mut [NodeSlot],
    number: u32,
    instance: &Instance,
    scene: &Settling<'_>,
    settled: &mut Settled,
) {
    let Some(slot) = waiting(slots, number) else {
        return;
    };
    adopt::take(slot, instance, scene.now);
    settled.lessons.push(Lesson::Launched);
    if instance.state.is_ending() {
        settled.again = true;
    } else {
        settled.notes.push((
            LAUNCHED,
            format!(
                "slot {number}: {} ({} in {}), attempt {}",
                instance.id, slot.instance_type, slot.zone, slot.attempt
            ),
        ));
    }
}

fn not_launched(
    slots: &mut Vec<NodeSlot>,
    number: u32,
    scene: &Settling<'_>,
    settled: &mut Settled,
) {
    // Until the grace time is over, an instance that was launched may not show yet.
    let sure = waiting(slots, number)
        .is_some_and(|slot| scene.now >= slots::after(slot.since.0, scene.pace.orphan_grace));
    if sure {
        slots.retain(|slot| slot.slot != number);
        settled.again = true;
    }
}

fn launch_failed(
    slots: &mut Vec<NodeSlot>,
    number: u32,
    error: &CloudError,
    scene: &Settling<'_>,
    settled: &mut Settled,
) {
    let Some(slot) = waiting(slots, number) else {
        return;
    };
    match error.failure {
        Failure::Capacity => {
            settled.lessons.push(Lesson::NoCapacity {
                instance_type: slot.instance_type.clone(),
                zone: slot.zone.clone(),
            });
            settled.notes.push((
                Failure::Capacity.name(),
                format!(
                    "slot {number}: no {} in {}: {}: {}",
                    slot.instance_type, slot.zone, error.code, error.message
                ),
            ));
            slots.retain(|slot| slot.slot != number);
            settled.again = true;
        }
        // The token launched something that has ended: a new attempt has a new token.
        Failure::TokenSpent => {
            slots.retain(|slot| slot.slot != number);
            settled.again = true;
        }
        // Something was asked for with this token that is not what is asked for now, such as another image behind the same parameter.
        // What it was is not known any more; without a template the plan asks what came of it.
        Failure::TokenMismatch => {
            slot.template.clear();
            slot.since = slots::stamp(scene.now);
            settled.again = true;
        }
        // The record stays: the same token is asked again, as an answer that was lost may have been a launch.
        _ => refuse(error, settled),
    }
}

fn start_failed(
    slots: &mut [NodeSlot],
    number: u32,
    error: &CloudError,
    scene: &Settling<'_>,
    settled: &mut Settled,
) {
    let Some(slot) = find(slots, number).filter(|s| s.state == NodeState::Starting) else {
        return;
    };
    match error.failure {
        Failure::Capacity => {
            settled.lessons.push(Lesson::NoCapacity {
                instance_type: slot.instance_type.clone(),
                zone: slot.zone.clone(),
            });
            settled.notes.push((
                Failure::Capacity.name(),
                format!(
                    "slot {number}: no {} in {} to start {}: {}: another is launched",
                    slot.instance_type,
                    slot.zone,
                    slot.instance.as_deref().unwrap_or_default(),
                    error.code
                ),
            ));
            enter(slot, NodeState::Terminating, scene.now);
            settled.again = true;
        }
        Failure::NotFound => {
            settled.notes.push((
                reasons::INSTANCE_LOST,
                format!(
                    "{} no longer exists",
                    slot.instance.as_deref().unwrap_or_default()
                ),
            ));
            enter(slot, NodeState::Terminating, scene.now);
            settled.again = true;
        }
        // It is still on its way to stopped; the next listing shows when it is.
        Failure::State => {}
        _ => refuse(error, settled),
    }
}

fn refused(action: &NodeAction, error: &CloudError, settled: &mut Settled) {
    // A listing shows later what exists in which state, and the plan asks again.
    let passes = matches!(error.failure, Failure::NotFound | Failure::State);
    match action {
        NodeAction::Stop { .. }
        | NodeAction::Terminate { .. }
        | NodeAction::DeleteVolume { .. }
        | NodeAction::FindByToken { .. } => {
            if !passes {
                let block = block_of(error);
                settled.lessons.push(Lesson::EndRefused(block.clone()));
                settled.blocked = Some(block);
            }
        }
        NodeAction::AttachVolume { .. } if passes => {}
        _ => refuse(error, settled),
    }
}

fn refuse(error: &CloudError, settled: &mut Settled) {
    let block = block_of(error);
    settled.lessons.push(Lesson::Refused(block.clone()));
    settled.blocked = Some(block);
}

/// What a condition says of a failure.
pub fn block_of(error: &CloudError) -> PoolBlock {
    let what_to_do = match error.failure {
        Failure::Quota => ": ask AWS to raise the limit, or lower what other pools use",
        Failure::Unauthorized => ": let the operator's role do it",
        Failure::Invalid | Failure::NotFound => ": put spec.nodePool.ec2 right",
        Failure::Credentials => ": give the operator a role (EKS Pod Identity or IRSA)",
        _ => "",
    };
    PoolBlock {
        reason: error.failure.name().to_owned(),
        message: format!(
            "{}: {}: {}{what_to_do}",
            error.action, error.code, error.message
        ),
        next_attempt: None,
    }
}

/// The reason of the note that an instance was launched.
pub const LAUNCHED: &str = "InstanceLaunched";
