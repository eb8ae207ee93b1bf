//! Instances that no slot knows: the answer to a launch that was lost, a record that was lost, or a leak.

use std::collections::BTreeMap;

use halo_cloud::{Instance, InstanceId, InstanceState};
use halo_crds::status::{NodeSlot, NodeState};
use jiff::Timestamp;

use super::plan::NodeAction;
use super::slots::{after, enter, stamp};
use super::tags;
use super::work::Work;

/// Gives each instance that no slot knows to the slot that its tags name, or ends it.
pub fn unknown_instances(work: &mut Work<'_>) {
    let pool = work.pool;
    let known = |instance: &&Instance| {
        let id = Some(&instance.id.0);
        pool.slots.iter().any(|slot| slot.instance.as_ref() == id)
    };
    let unknown: Vec<&Instance> = pool.instances.iter().filter(|i| !known(i)).collect();

    // An attempt's number is never used twice, whatever became of the record.
    let attempts = pool.instances.iter().filter_map(attempt_of).max();
    work.plan.attempts = work.plan.attempts.max(attempts.unwrap_or(0));

    for instance in &unknown {
        if let Some(index) = awaited(work, instance) {
            let slot = &mut work.plan.slots[index];
            take(slot, instance, pool.now);
        }
    }
    // Of several that claim a slot without a record, the last launched is it.
    let mut by_slot: BTreeMap<u32, &Instance> = BTreeMap::new();
    for instance in &unknown {
        let claims = |slot: u32| {
            slot < pool.spec.max_nodes && !work.plan.slots.iter().any(|s| s.slot == slot)
        };
        if instance.state.is_ending() || attempt_of(instance).is_none() {
            continue;
        }
        if let Some(slot) = slot_of(instance).filter(|slot| claims(*slot)) {
            let best = by_slot.entry(slot).or_insert(instance);
            if attempt_of(best) < attempt_of(instance) {
                *best = instance;
            }
        }
    }
    for (number, instance) in by_slot {
        let slot = restored(number, instance, pool.now);
        work.plan.slots.push(slot);
    }
    work.plan.slots.sort_by_key(|slot| slot.slot);
    for instance in unknown {
        let id = Some(&instance.id.0);
        let taken = |slot: &NodeSlot| slot.instance.as_ref() == id;
        if !work.plan.slots.iter().any(taken) {
            end_when_old(work, instance);
        }
    }
}

/// The slot whose launch this instance answers.
fn awaited(work: &Work<'_>, instance: &Instance) -> Option<usize> {
    let (slot, attempt) = (slot_of(instance)?, attempt_of(instance)?);
    work.plan.slots.iter().position(|s| {
        s.slot == slot
            && s.attempt == attempt
            && s.state == NodeState::Launching
            && s.instance.is_none()
    })
}

fn slot_of(instance: &Instance) -> Option<u32> {
    tags::number(&instance.tags, tags::SLOT)
}

fn attempt_of(instance: &Instance) -> Option<u32> {
    tags::number(&instance.tags, tags::ATTEMPT)
}

/// Records the instance that a slot's launch brought.
pub fn take(slot: &mut NodeSlot, instance: &Instance, now: Timestamp) {
    slot.instance = Some(instance.id.0.clone());
    if !instance.instance_type.is_empty() {
        slot.instance_type.clone_from(&instance.instance_type);
    }
    if !instance.zone.is_empty() {
        slot.zone.clone_from(&instance.zone);
    }
    if let Some(template) = tags::text(&instance.tags, tags::TEMPLATE) {
        template.clone_into(&mut slot.template);
    }
    if matches!(
        instance.state,
        InstanceState::Pending | InstanceState::Running
    ) {
        slot.running_since.get_or_insert_with(|| stamp(now));
    }
    // A token may bring back an instance that has ended since.
    let state = if instance.state.is_ending() {
        NodeState::Terminating
    } else {
        NodeState::Pending
    };
    enter(slot, state, now);
}

/// A record made from tags.
fn restored(number: u32, instance: &Instance, now: Timestamp) -> NodeSlot {
    let mut slot = NodeSlot {
        slot: number,
        attempt: attempt_of(instance).unwrap_or(0),
        generation: tags::number(&instance.tags, tags::GENERATION).unwrap_or(0),
        template: String::new(),
        state: NodeState::Launching,
        since: stamp(now),
        instance_type: String::new(),
        zone: String::new(),
        instance: None,
        volume: None,
        node: None,
        volume_since: None,
        running_since: None,
    };
    take(&mut slot, instance, now);
    match instance.state {
        InstanceState::Stopping => enter(&mut slot, NodeState::Stopping, now),
        InstanceState::Stopped => enter(&mut slot, NodeState::Stopped, now),
        _ => {}
    }
    slot
}

fn end_when_old(work: &mut Work<'_>, instance: &Instance) {
    let pool = work.pool;
    if instance.state == InstanceState::Terminated {
        return;
    }
    work.moving = true;
    if instance.state == InstanceState::ShuttingDown {
        return;
    }
    work.unknown += 1;
    let launched = i64::try_from(instance.launched_at).unwrap_or(i64::MAX);
    let launched = Timestamp::from_second(launched).unwrap_or(Timestamp::MAX);
    let from = after(launched, pool.pace.orphan_grace);
    if pool.deleting || pool.now >= from {
        let instance = InstanceId(instance.id.0.clone());
        work.end(NodeAction::Terminate { instance });
    } else {
        work.look_again_at(from);
    }
}
