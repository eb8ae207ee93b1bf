//! A plan in the making: what it looks at, and what it says so far.

use std::time::Duration;

use halo_cloud::{Instance, InstanceId, InstanceState};
use halo_crds::pool::IdlePolicy;
use halo_crds::reasons;
use halo_crds::status::{NodeSlot, NodeState};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::{NodeAction, NodeView, Pool, PoolBlock, PoolPlan};
use super::slots::{after, is_moving, resting_state};

/// A plan in the making.
pub struct Work<'a> {
    /// What it looks at.
    pub pool: &'a Pool<'a>,
    /// What it says.
    pub plan: PoolPlan,
    /// Whether something is on its way besides the slots.
    pub moving: bool,
    /// Slots that should not go on: not wanted, and without an instance that could be ended.
    pub cancelled: Vec<u32>,
    /// Slots whose drain is called off.
    pub kept: Vec<u32>,
    /// Instances that run, that no slot knows and that are not yet ended.
    pub unknown: u32,
}

impl<'a> Work<'a> {
    /// A plan that changes nothing.
    pub fn new(pool: &'a Pool<'a>) -> Self {
        let mut slots = pool.slots.to_vec();
        slots.sort_by_key(|slot| slot.slot);
        Self {
            pool,
            plan: PoolPlan {
                slots,
                attempts: pool.attempts,
                ..PoolPlan::default()
            },
            moving: false,
            cancelled: Vec::new(),
            kept: Vec::new(),
            unknown: 0,
        }
    }

    /// The instance as listed.
    pub fn listed(&self, id: Option<&str>) -> Option<&'a Instance> {
        let id = id?;
        self.pool.instances.iter().find(|i| i.id.0 == id)
    }

    /// The node of a slot: the one whose provider id names its instance, or that carries the name it had and names none.
    pub fn node(&self, slot: &NodeSlot) -> Option<&'a NodeView> {
        let by_instance = |node: &&NodeView| match (&node.instance, &slot.instance) {
            (Some(InstanceId(id)), Some(own)) => id == own,
            _ => false,
        };
        let by_name =
            |node: &&NodeView| node.instance.is_none() && Some(&node.name) == slot.node.as_ref();
        let nodes = self.pool.nodes.iter();
        nodes
            .clone()
            .find(by_instance)
            .or_else(|| nodes.clone().find(by_name))
    }

    /// Whether a slot is launched with something else than what the spec says now.
    pub fn is_drifted(&self, slot: &NodeSlot) -> bool {
        let spec = self.pool.spec;
        slot.template != self.pool.template
            || !spec.instance_types.contains(&slot.instance_type)
            || !spec.subnets.iter().any(|s| s.zone == slot.zone)
    }

    /// Whether a stopped instance may be started again when it is needed.
    pub fn is_startable(&self, slot: &NodeSlot) -> bool {
        !self.pool.deleting
            && self.pool.spec.idle_policy == IdlePolicy::Stop
            && slot.slot < self.pool.spec.max_nodes
            && !self.is_drifted(slot)
    }

    /// Until when launches, starts and new volumes wait.
    pub fn waits_until(&self) -> Option<Timestamp> {
        let until = self.pool.not_before.max(self.pool.capacity.not_before);
        until.filter(|until| *until > self.pool.now)
    }

    /// Says that the pool waits after failures, and why.
    pub fn block_on_wait(&mut self, until: Timestamp) {
        let known = self.pool.capacity.block.clone();
        let block = known.unwrap_or_else(|| PoolBlock {
            reason: reasons::NODES_PENDING.to_owned(),
            message: "the pool waits after a launch that failed".to_owned(),
            next_attempt: None,
        });
        self.block(PoolBlock {
            next_attempt: Some(until),
            ..block
        });
    }

    /// Says what keeps the pool from going on; the first word stands.
    pub fn block(&mut self, block: PoolBlock) {
        if let Some(next) = block.next_attempt {
            self.look_again_at(next);
        }
        self.plan.blocked.get_or_insert(block);
    }

    /// What was refused and is asked again stands in the way until there is another answer.
    fn keep_block(&mut self) {
        let asks_again = |action: &NodeAction| matches!(action, NodeAction::Launch { .. });
        if self.plan.actions.iter().any(asks_again) && self.plan.blocked.is_none() {
            self.plan.blocked.clone_from(&self.pool.capacity.block);
        }
    }

    /// Plans an action that ends or deletes something, unless those wait.
    pub fn end(&mut self, action: NodeAction) {
        let capacity = self.pool.capacity;
        if capacity.ends_not_before.is_none_or(|t| t <= self.pool.now) {
            self.plan.actions.push(action);
        } else if let Some(block) = &capacity.end_block {
            self.block(block.clone());
        }
    }

    /// Looks again at a time, if not before.
    pub fn look_again_at(&mut self, at: Timestamp) {
        let wait = Duration::try_from(at.duration_since(self.pool.now)).unwrap_or_default();
        // A moment later, so that the time has come then for sure.
        let wait = wait + Duration::from_millis(5);
        let sooner = self.plan.look_again.map_or(wait, |known| known.min(wait));
        self.plan.look_again = Some(sooner);
    }

    /// Whether the listing is newer than `base` by the time that an instance or a volume may be missing from listings after it was made.
    pub fn listing_is_past_grace(&self, base: Timestamp) -> bool {
        let known_by = after(base, self.pool.pace.orphan_grace);
        self.pool.listed_at.is_some_and(|listed| listed >= known_by)
    }

    /// Where a slot goes that is not needed, its node being empty.
    pub fn resting_state(&self) -> NodeState {
        resting_state(self.pool.spec.idle_policy, self.pool.deleting)
    }

    /// Counts what an instance ran that has ended or stopped.
    pub(super) fn account(&mut self, index: usize) {
        let slot = &mut self.plan.slots[index];
        if let Some(Time(since)) = slot.running_since.take() {
            let seconds = self.pool.now.as_second() - since.as_second();
            self.plan
                .used
                .push((slot.instance_type.clone(), seconds.max(0)));
        }
    }

    pub(super) fn note(&mut self, reason: &'static str, message: String) {
        self.plan.notes.push((reason, message));
    }

    /// The plan.
    pub fn finish(mut self) -> PoolPlan {
        let pool = self.pool;
        let moving = self.moving
            || !self.plan.actions.is_empty()
            || self.plan.slots.iter().any(|slot| is_moving(slot.state));
        if moving {
            self.look_again_at(after(pool.now, pool.pace.fleet_busy));
        }
        self.keep_block();
        let gone = |i: &Instance| i.state == InstanceState::Terminated;
        self.plan.empty = pool.listed_at.is_some()
            && self.plan.slots.is_empty()
            && self.plan.actions.is_empty()
            && pool.instances.iter().all(gone)
            && !self.moving;
        self.plan.moving = moving;
        self.plan.slots.sort_by_key(|slot| slot.slot);
        self.plan
    }
}
