//! One slot at a time: what the listing and the nodes say of it, and what is done for the state it is in.

use std::time::Duration;

use halo_cloud::{InstanceId, InstanceState};
use halo_crds::pool::IdlePolicy;
use halo_crds::reasons;
use halo_crds::status::{NodeSlot, NodeState};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::capacity::Lesson;
use super::plan::{NodeAction, PoolBlock};
use super::work::Work;

/// A time as the API server keeps it: in whole seconds.
pub fn stamp(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// Moves a slot to a state; a state that it is in already keeps its time.
pub fn enter(slot: &mut NodeSlot, state: NodeState, now: Timestamp) {
    if slot.state != state {
        slot.state = state;
        slot.since = stamp(now);
    }
}

/// `base` and so much later.
pub fn after(base: Timestamp, wait: Duration) -> Timestamp {
    base.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// Whether a slot has a node or is about to have one.
pub fn is_active(state: NodeState) -> bool {
    matches!(
        state,
        NodeState::Launching
            | NodeState::Pending
            | NodeState::Registered
            | NodeState::Ready
            | NodeState::Starting
    )
}

/// Whether a slot is between two states that last.
pub fn is_moving(state: NodeState) -> bool {
    !matches!(
        state,
        NodeState::Ready | NodeState::Registered | NodeState::Stopped
    )
}

/// Where a slot goes that is not needed, its node being empty.
pub fn resting_state(policy: IdlePolicy, deleting: bool) -> NodeState {
    match policy {
        IdlePolicy::Stop if !deleting => NodeState::Stopping,
        _ => NodeState::Terminating,
    }
}

/// Moves every slot to where the listing, its node and the time say it is.
pub fn observe(work: &mut Work<'_>) {
    for index in 0..work.plan.slots.len() {
        observe_instance(work, index);
        observe_node(work, index);
        observe_deadline(work, index);
    }
}

fn observe_instance(work: &mut Work<'_>, index: usize) {
    use InstanceState as Cloud;
    use NodeState as State;

    let now = work.pool.now;
    let slot = &work.plan.slots[index];
    let Some(id) = slot.instance.clone() else {
        return;
    };
    let before = slot.state;
    let Some(instance) = work.listed(Some(&id)) else {
        let known_since = slot
            .running_since
            .as_ref()
            .map_or(slot.since.0, |t| t.0.max(slot.since.0));
        if before != State::Terminating && work.listing_is_past_grace(known_since) {
            work.account(index);
            work.note(
                reasons::INSTANCE_LOST,
                format!("the cloud no longer lists {id}"),
            );
            enter(&mut work.plan.slots[index], State::Terminating, now);
        }
        return;
    };
    let expected_to_end = matches!(before, State::Terminating);
    let expected_to_stop = matches!(before, State::Stopping | State::Stopped | State::Starting)
        || before == State::Draining
        || expected_to_end;
    let cause = if instance.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", instance.reason)
    };
    match instance.state {
        Cloud::ShuttingDown | Cloud::Terminated => {
            work.account(index);
            if !expected_to_end {
                let message = format!("{id} was ended outside of the operator{cause}");
                if before == State::Pending {
                    let slot = &work.plan.slots[index];
                    let block = PoolBlock {
                        reason: reasons::INSTANCE_LOST.to_owned(),
                        message: format!("{id} ended before it became a node{cause}"),
                        next_attempt: None,
                    };
                    let lesson = Lesson::NoNode {
                        instance_type: slot.instance_type.clone(),
                        zone: slot.zone.clone(),
                        block,
                    };
                    work.plan.lessons.push(lesson);
                }
                work.note(reasons::INSTANCE_LOST, message);
                enter(&mut work.plan.slots[index], State::Terminating, now);
            }
        }
        Cloud::Stopping | Cloud::Stopped => {
            work.account(index);
            if !expected_to_stop {
                let message = format!("{id} was stopped outside of the operator{cause}");
                work.note(reasons::INSTANCE_LOST, message);
            }
            let slot = &mut work.plan.slots[index];
            match (before, instance.state) {
                // Our own end or start follows; the listing may be older than it.
                (State::Terminating | State::Starting, _) => {}
                (_, Cloud::Stopped) => enter(slot, State::Stopped, now),
                _ => enter(slot, State::Stopping, now),
            }
        }
        Cloud::Pending | Cloud::Running => {
            let slot = &mut work.plan.slots[index];
            if matches!(before, State::Starting | State::Stopped) {
                enter(slot, State::Pending, now);
            }
            slot.running_since.get_or_insert_with(|| stamp(now));
        }
    }
}

fn observe_node(work: &mut Work<'_>, index: usize) {
    use NodeState as State;

    let now = work.pool.now;
    let resting = work.resting_state();
    let node = work.node(&work.plan.slots[index]).cloned();
    let slot = &mut work.plan.slots[index];
    slot.node = node.as_ref().map(|node| node.name.clone());
    let node = node.filter(|node| !node.deleting);
    match (slot.state, node) {
        (State::Pending | State::Registered | State::Ready, Some(node)) => {
            if node.ready && slot.state != State::Ready {
                enter(slot, State::Ready, now);
                work.plan.lessons.push(Lesson::Ready);
            } else if !node.ready {
                enter(slot, State::Registered, now);
            }
        }
        // A kubelet does not register again by itself: the deadline begins anew, and another instance follows.
        (State::Registered | State::Ready, None) => enter(slot, State::Pending, now),
        (State::Draining, None) => enter(slot, resting, now),
        _ => {}
    }
}

fn observe_deadline(work: &mut Work<'_>, index: usize) {
    let (pool, now) = (work.pool, work.pool.now);
    let slot = &work.plan.slots[index];
    let deadline = pool.spec.registration_deadline;
    let waits = matches!(slot.state, NodeState::Pending | NodeState::Starting);
    let instance = slot.instance.as_deref().unwrap_or_default();
    if waits && now >= after(slot.since.0, deadline.get()) {
        let (instance_type, zone) = (slot.instance_type.clone(), slot.zone.clone());
        let message = format!(
            "{instance} ({instance_type} in {zone}) did not become a node within {deadline}: look at its console output, its user \
             data, and whether it reaches the API server; another is tried"
        );
        let block = PoolBlock {
            reason: reasons::REGISTRATION_DEADLINE.to_owned(),
            message: message.clone(),
            next_attempt: None,
        };
        work.plan.lessons.push(Lesson::NoNode {
            instance_type,
            zone,
            block,
        });
        work.note(reasons::REGISTRATION_DEADLINE, message);
        enter(&mut work.plan.slots[index], NodeState::Terminating, now);
    }
}

/// A node that could not be emptied in time goes anyway.
fn observe_drain(work: &mut Work<'_>, index: usize) {
    let (pool, now) = (work.pool, work.pool.now);
    let slot = &work.plan.slots[index];
    let deadline = pool.pace.drain_deadline;
    if slot.state == NodeState::Draining
        && !work.kept.contains(&slot.slot)
        && now >= after(slot.since.0, deadline)
    {
        let message = format!(
            "{} still has pods that refuse eviction after {} s: it goes anyway",
            slot.instance.as_deref().unwrap_or_default(),
            deadline.as_secs()
        );
        work.note(reasons::DRAIN_BLOCKED, message);
        let resting = work.resting_state();
        enter(&mut work.plan.slots[index], resting, now);
    }
}

/// Drops slots of which nothing is left: neither the instance nor its node.
pub fn drop_ended(work: &mut Work<'_>) {
    let ended = |slot: &NodeSlot| match slot.state {
        NodeState::Launching => false,
        // Only a launch has no instance; what else the record may say of one is not to be believed.
        _ if slot.instance.is_none() => true,
        NodeState::Terminating => {
            is_ended(work, slot) && work.node(slot).is_none_or(|n| n.deleting)
        }
        _ => false,
    };
    let (_, left): (Vec<_>, Vec<_>) = work.plan.slots.iter().cloned().partition(ended);
    work.plan.slots = left;
}

/// Whether the instance of a slot that should end has ended.
fn is_ended(work: &Work<'_>, slot: &NodeSlot) -> bool {
    match work.listed(slot.instance.as_deref()) {
        Some(instance) => instance.state == InstanceState::Terminated,
        None => work.listing_is_past_grace(slot.since.0),
    }
}

/// Plans what is done for the state that each slot is in.
pub fn drive(work: &mut Work<'_>) {
    for index in 0..work.plan.slots.len() {
        observe_drain(work, index);
        leave_stopped(work, index);
        drive_slot(work, index);
    }
}

fn drive_slot(work: &mut Work<'_>, index: usize) {
    use InstanceState as Cloud;
    use NodeState as State;

    let now = work.pool.now;
    let slot = work.plan.slots[index].clone();
    let number = slot.slot;
    let listed = work.listed(slot.instance.as_deref()).map(|i| i.state);
    let node = work.node(&slot).filter(|node| !node.deleting);
    let Some(instance) = slot.instance.clone().map(InstanceId) else {
        if work.cancelled.contains(&number) || work.is_drifted(&slot) {
            // What was asked for cannot be asked for again, or should not be: whether it was launched is asked instead.
            work.end(NodeAction::FindByToken { slot: number });
        } else if let Some(until) = work.waits_until() {
            work.block_on_wait(until);
        } else {
            // From the last time it is asked for, a lost answer may have been a launch that does not show yet.
            work.plan.slots[index].since = stamp(now);
            work.plan.actions.push(NodeAction::Launch { slot: number });
        }
        return;
    };
    match slot.state {
        State::Launching | State::Pending | State::Registered | State::Ready => {}
        State::Draining => {
            if let Some(node) = node {
                let node = node.name.clone();
                if work.kept.contains(&number) {
                    work.plan.actions.push(NodeAction::Uncordon { node });
                } else {
                    let slot = number;
                    work.plan.actions.push(NodeAction::Drain { slot, node });
                }
            }
        }
        State::Stopping => {
            if !matches!(listed, None | Some(Cloud::Stopping)) {
                let slot = number;
                work.end(NodeAction::Stop { slot, instance });
            }
        }
        State::Stopped => {
            if let Some(node) = node {
                let node = node.name.clone();
                work.plan.actions.push(NodeAction::DeleteNode { node });
            }
        }
        State::Starting => {
            if let Some(until) = work.waits_until() {
                work.block_on_wait(until);
            } else if listed == Some(Cloud::Stopped) {
                let slot = number;
                work.plan.actions.push(NodeAction::Start { slot, instance });
            }
        }
        State::Terminating => {
            if is_ended(work, &slot) {
                if let Some(node) = node {
                    let node = node.name.clone();
                    work.plan.actions.push(NodeAction::DeleteNode { node });
                }
            } else if listed.is_some_and(|state| !state.is_ending())
                || listed.is_none() && slot.since == stamp(now)
            {
                work.end(NodeAction::Terminate { instance });
            }
        }
    }
}

/// A stopped instance that will not be started again ends.
fn leave_stopped(work: &mut Work<'_>, index: usize) {
    let pool = work.pool;
    let slot = &work.plan.slots[index];
    if slot.state == NodeState::Stopped && !work.is_startable(slot) {
        enter(
            &mut work.plan.slots[index],
            NodeState::Terminating,
            pool.now,
        );
    }
}

/// Removes nodes of instances that are gone and that no slot has.
pub fn orphan_nodes(work: &mut Work<'_>) {
    // The instance of a launch whose answer is missing may have become a node already.
    let unanswered = |slot: &NodeSlot| slot.instance.is_none();
    if work.plan.slots.iter().any(unanswered) {
        return;
    }
    let pool = work.pool;
    for node in pool.nodes.iter().filter(|node| !node.deleting) {
        let own = |slot: &NodeSlot| work.node(slot).is_some_and(|n| n.name == node.name);
        if work.plan.slots.iter().any(own) {
            continue;
        }
        let listed = work.listed(node.instance.as_ref().map(|id| id.0.as_str()));
        let gone = match listed {
            Some(instance) => instance.state == InstanceState::Terminated,
            None => !node.ready,
        };
        let action = NodeAction::DeleteNode {
            node: node.name.clone(),
        };
        if gone && !work.plan.actions.contains(&action) {
            work.plan.actions.push(action);
        }
    }
}
