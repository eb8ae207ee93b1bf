//! How many slots there are: which are woken, which are launched and where, and which go.

use std::cmp::Reverse;

use halo_cloud::{Failure, VolumeState};
use halo_crds::status::{NodeSlot, NodeState};
use jiff::Timestamp;

use super::capacity::Lesson;
use super::disks;
use super::plan::{Pool, PoolBlock};
use super::slots::{enter, is_active, stamp};
use super::work::Work;

/// Brings the number of slots to what is wanted.
pub fn balance(work: &mut Work<'_>) {
    let pool = work.pool;
    let wanted = if pool.deleting {
        0
    } else {
        pool.wanted.min(pool.spec.max_nodes) as usize
    };
    let active = count(work, is_active);
    if active > wanted {
        shrink(work, active - wanted, wanted);
    } else if active < wanted {
        grow(work, wanted - active);
    } else if wanted == 0 && work.plan.slots.is_empty() && work.waits_until().is_none() {
        let known = pool.capacity.block.is_some();
        work.plan.lessons.extend(known.then_some(Lesson::Unwanted));
    }
}

fn count(work: &Work<'_>, matches: impl Fn(NodeState) -> bool) -> usize {
    let slots = work.plan.slots.iter();
    slots.filter(|slot| matches(slot.state)).count()
}

fn grow(work: &mut Work<'_>, mut missing: usize) {
    let now = work.pool.now;
    for index in 0..work.plan.slots.len() {
        let slot = &work.plan.slots[index];
        if missing > 0 && slot.state == NodeState::Draining {
            work.kept.push(slot.slot);
            missing -= 1;
        }
    }
    for index in 0..work.plan.slots.len() {
        let slot = &work.plan.slots[index];
        if missing == 0 {
            return;
        }
        match slot.state {
            NodeState::Stopped if work.is_startable(slot) => {
                missing -= 1;
                // The old Node object would pass for the new one: it goes first.
                if work.node(slot).is_some() {
                    work.moving = true;
                } else if let Some(until) = work.waits_until() {
                    work.block_on_wait(until);
                } else {
                    enter(&mut work.plan.slots[index], NodeState::Starting, now);
                }
            }
            // Its slot comes back: a volume waits for it there.
            NodeState::Stopped | NodeState::Stopping | NodeState::Terminating => missing -= 1,
            _ => {}
        }
    }
    for _ in 0..missing {
        if !launch(work) {
            return;
        }
    }
}

/// Records one more launch; whether there was a slot and a place for it.
fn launch(work: &mut Work<'_>) -> bool {
    let pool = work.pool;
    let max = pool.spec.max_nodes;
    let taken = |number: &u32| work.plan.slots.iter().any(|s| s.slot == *number);
    let Some(number) = (0..max).find(|number| !taken(number)) else {
        return false;
    };
    if work.plan.slots.len() as u64 + u64::from(work.unknown) >= u64::from(max) {
        // An instance that no slot knows still runs; it ends first.
        work.moving = true;
        return false;
    }
    if let Some(until) = work.waits_until() {
        work.block_on_wait(until);
        return false;
    }
    match choose(pool, number) {
        Ok((instance_type, zone)) => {
            work.plan.attempts = work.plan.attempts.saturating_add(1);
            work.plan.slots.push(NodeSlot {
                slot: number,
                attempt: work.plan.attempts,
                generation: pool.generation,
                template: pool.template.to_owned(),
                state: NodeState::Launching,
                since: stamp(pool.now),
                instance_type,
                zone,
                instance: None,
                volume: None,
                node: None,
                volume_since: None,
                running_since: None,
            });
            true
        }
        Err(block) => {
            work.plan.lessons.push(Lesson::NoneAnywhere(block.clone()));
            work.block(block);
            false
        }
    }
}

/// The first type and zone that may have capacity. Where the slot's data volume lives comes first, with any type: weights are worth
/// more than the preferred type. Then types in their order, zones in theirs.
fn choose(pool: &Pool<'_>, slot: u32) -> Result<(String, String), PoolBlock> {
    let zones = || pool.spec.subnets.iter().map(|subnet| subnet.zone.as_str());
    let types = || pool.spec.instance_types.iter().map(String::as_str);
    let has_volume = |zone: &str| {
        disks::of_slot(pool, slot, zone)
            .any(|v| !matches!(v.state, VolumeState::Deleting | VolumeState::Error))
    };
    let mut places: Vec<(&str, &str)> = Vec::new();
    for home in [true, false] {
        for instance_type in types() {
            for zone in zones().filter(|zone| has_volume(zone) == home) {
                places.push((instance_type, zone));
            }
        }
    }
    let mut second_choice = None;
    let mut earliest: Option<Timestamp> = None;
    for (instance_type, zone) in places {
        match pool.capacity.without_until(instance_type, zone) {
            Some(until) => earliest = Some(earliest.map_or(until, |known| known.min(until))),
            None if pool.capacity.is_shunned(instance_type, zone) => {
                second_choice.get_or_insert((instance_type, zone));
            }
            None => return Ok((instance_type.to_owned(), zone.to_owned())),
        }
    }
    if let Some((instance_type, zone)) = second_choice {
        return Ok((instance_type.to_owned(), zone.to_owned()));
    }
    Err(PoolBlock {
        reason: Failure::Capacity.name().to_owned(),
        message: format!(
            "the cloud has no capacity (InsufficientInstanceCapacity) for {} in {}: add types or zones to nodePool.ec2, or wait",
            types().collect::<Vec<_>>().join(", "),
            zones().collect::<Vec<_>>().join(", "),
        ),
        next_attempt: earliest,
    })
}

fn shrink(work: &mut Work<'_>, mut surplus: usize, wanted: usize) {
    let pool = work.pool;
    let stays_on = |slot: &NodeSlot| {
        let on = |place: &&super::plan::PodPlace| slot.node.is_some() && place.node == slot.node;
        pool.pods.iter().filter(on).any(|pod| !pod.ending)
    };
    let mut order: Vec<usize> = (0..work.plan.slots.len())
        .filter(|index| is_active(work.plan.slots[*index].state))
        .collect();
    order.sort_by_key(|index| {
        let slot = &work.plan.slots[*index];
        let progress = match slot.state {
            NodeState::Launching => 0,
            NodeState::Starting => 1,
            NodeState::Pending => 2,
            NodeState::Registered => 3,
            _ => 4,
        };
        let current = !work.is_drifted(slot);
        (progress, stays_on(slot), current, Reverse(slot.slot))
    });
    let resting = work.resting_state();
    for index in order {
        if surplus == 0 {
            return;
        }
        surplus -= 1;
        let slot = &work.plan.slots[index];
        match slot.state {
            NodeState::Launching => work.cancelled.push(slot.slot),
            NodeState::Registered | NodeState::Ready => {
                if wanted > 0 && stays_on(slot) {
                    // The Deployment has not yet chosen which pods end; the node that it empties goes.
                    work.moving = true;
                } else {
                    enter(&mut work.plan.slots[index], NodeState::Draining, pool.now);
                }
            }
            _ => enter(&mut work.plan.slots[index], resting, pool.now),
        }
    }
}
