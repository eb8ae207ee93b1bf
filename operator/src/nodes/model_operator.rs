//! The operator of the model: its record survives a crash between any two effects, the rest does not.

use halo_crds::status::{NodeSlot, NodeState};

use super::capacity::CapacityMemory;
use super::model::World;
use super::plan::PoolPlan;
use super::settle::{Settling, settle};
use super::testing::{Scene, UID, at};
use crate::settings::Pace;

/// An operator: the record survives it, the rest does not.
pub struct Operator {
    pub scene: Scene,
    memory: CapacityMemory,
    generation: i64,
}

impl Operator {
    pub fn new(scene: Scene) -> Self {
        Self {
            memory: memory(&scene.pace),
            scene,
            generation: 1,
        }
    }

    /// One reconcile. `crash` is the number of effects after which the process ends; the record stays as it was written last.
    pub fn reconcile(&mut self, world: &mut World, crash: Option<u64>) -> PoolPlan {
        let scene = &mut self.scene;
        let now = at(world.now);
        scene.now = now;
        scene.listed_at = Some(now);
        scene.instances = world.instances();
        scene.volumes = world.volumes();
        scene.nodes.clone_from(&world.nodes);
        scene.pods.clone_from(&world.pods);
        scene.capacity = self.memory.view(UID, self.generation, now);
        scene.not_before = scene.capacity.not_before;
        let plan = scene.plan();
        let mut left = crash;
        let mut ends = || match &mut left {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        if ends() {
            self.memory = memory(&self.scene.pace);
            return plan;
        }
        scene.slots.clone_from(&plan.slots);
        scene.attempts = plan.attempts;
        self.memory
            .learn(UID, self.generation, &plan.lessons, now, 0.5);
        let mut slots = plan.slots.clone();
        for action in &plan.actions {
            if ends() {
                self.memory = memory(&self.scene.pace);
                return plan;
            }
            let outcome = world.act(&plan.slots, action);
            let settling = Settling {
                idle_policy: self.scene.spec.idle_policy,
                deleting: self.scene.deleting,
                pace: &self.scene.pace,
                now,
            };
            let settled = settle(&mut slots, action, &outcome, &settling);
            self.memory
                .learn(UID, self.generation, &settled.lessons, now, 0.5);
        }
        if ends() {
            self.memory = memory(&self.scene.pace);
            return plan;
        }
        self.scene.slots = slots;
        plan
    }

    /// Whether the last plan had nothing to do and nothing to wait for.
    pub fn is_settled(&self, plan: &PoolPlan) -> bool {
        plan.actions.is_empty()
            && plan.slots == self.scene.slots
            && !plan.moving
            && plan.blocked.is_none()
            && plan.notes.is_empty()
    }

    pub fn ready(&self) -> usize {
        let ready = |slot: &&NodeSlot| slot.state == NodeState::Ready;
        self.scene.slots.iter().filter(ready).count()
    }
}

fn memory(pace: &Pace) -> CapacityMemory {
    CapacityMemory::new(pace, Box::new(|_, _| {}))
}
