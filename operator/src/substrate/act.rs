//! Does what the pool's plan says and folds what came of it into the slots.

use std::collections::BTreeMap;

use halo_cloud::Failure;
use halo_crds::status::NodeSlot;

use super::dereference;
use super::plan::{Observed, Plan};
use crate::context::Context;
use crate::nodes::act::act;
use crate::nodes::plan::{NodeAction, Outcome, PoolBlock};
use crate::nodes::settle::{self, Settling};

/// What came of all actions of a pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settled {
    /// The slots.
    pub slots: Vec<NodeSlot>,
    /// What keeps the pool from going on.
    pub block: Option<PoolBlock>,
    /// What a person should be told: reason and message.
    pub notes: Vec<(&'static str, String)>,
    /// Whether to plan again at once.
    pub again: bool,
}

/// A number between 0 and 1.
#[allow(clippy::cast_precision_loss, reason = "32 bits fit")]
pub fn jitter() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}

/// Does all actions: those of one slot one after the other, slots at the same time.
pub async fn all(ctx: &Context, observed: &Observed, plan: &Plan) -> Settled {
    let Some(pool) = &plan.pool else {
        return Settled::default();
    };
    let substrate = &observed.substrate;
    let Some(spec) = &substrate.spec.node_pool.ec2 else {
        return Settled::default();
    };
    let template = dereference::template(substrate, spec, &ctx.settings).template;
    let mut settled = Settled {
        slots: pool.slots.clone(),
        block: pool.blocked.clone(),
        ..Settled::default()
    };
    let Some(template) = template else {
        return settled;
    };
    let (template, slots) = (&template, pool.slots.as_slice());
    let works = by_slot(slots, &pool.actions)
        .into_iter()
        .map(|actions| async move {
            let mut outcomes = Vec::with_capacity(actions.len());
            for action in actions {
                let outcome = act(ctx, template, slots, action).await;
                let failed = matches!(outcome, Outcome::Failed(_) | Outcome::Refused { .. });
                outcomes.push((action, outcome));
                // What follows on the same slot builds on it.
                if failed {
                    break;
                }
            }
            outcomes
        });
    let outcomes = futures_util::future::join_all(works).await;
    let meta = &substrate.metadata;
    let (uid, generation) = (
        meta.uid.as_deref().unwrap_or_default(),
        meta.generation.unwrap_or_default(),
    );
    let scene = Settling {
        idle_policy: spec.idle_policy,
        deleting: plan.decision.deleting,
        pace: &ctx.settings.pace,
        now: ctx.clock.now(),
    };
    for (action, outcome) in outcomes.into_iter().flatten() {
        let one = settle::settle(&mut settled.slots, action, &outcome, &scene);
        ctx.capacity
            .learn(uid, generation, &one.lessons, scene.now, jitter());
        if matches!(outcome, Outcome::Launched(_)) && settled.block == observed.capacity.block {
            settled.block = None;
        }
        settled.block = one.blocked.or(settled.block);
        settled.notes.extend(one.notes);
        settled.again |= one.again;
    }
    if let Some(block) = &mut settled.block {
        // When it is tried again is decided where failures are remembered.
        let known = ctx.capacity.view(uid, generation, scene.now);
        let known = [known.block, known.end_block].into_iter().flatten();
        let same = known
            .into_iter()
            .find(|known| known.reason == block.reason && known.message == block.message);
        let next = same.and_then(|known| known.next_attempt);
        block.next_attempt = block.next_attempt.or(next);
    }
    settled.block = named(ctx, observed, settled.block.as_ref());
    settled
}

/// A block that names every IAM action that is denied, where the cloud named one at most; one of its own if nothing else is in the way.
pub fn named(ctx: &Context, observed: &Observed, block: Option<&PoolBlock>) -> Option<PoolBlock> {
    let substrate = &observed.substrate;
    let denied = |block: &PoolBlock| block.reason == Failure::Unauthorized.name();
    let spec = substrate.spec.node_pool.ec2.as_ref();
    let (Some(spec), true) = (spec, block.is_none_or(denied)) else {
        return block.cloned();
    };
    let mut instances = observed.fleet.instances.iter();
    let alive = instances.find(|instance| !instance.state.is_ending());
    let known = ctx.permissions.look(
        substrate.metadata.uid.as_deref().unwrap_or_default(),
        spec,
        alive.map(|instance| &instance.id),
        block.is_some(),
        || dereference::template(substrate, spec, &ctx.settings).template,
    );
    match (known, block) {
        (Some(known), Some(block)) => Some(PoolBlock {
            message: known.message,
            ..block.clone()
        }),
        (known, block) => known.or(block.cloned()),
    }
}

/// Actions in groups that do not depend on each other.
fn by_slot<'a>(slots: &[NodeSlot], actions: &'a [NodeAction]) -> Vec<Vec<&'a NodeAction>> {
    let mut groups: BTreeMap<String, Vec<&NodeAction>> = BTreeMap::new();
    for action in actions {
        let key = match slot_of(slots, action) {
            Ok(slot) => format!("slot {slot}"),
            Err(thing) => thing,
        };
        groups.entry(key).or_default().push(action);
    }
    groups.into_values().collect()
}

/// The slot that an action is for, or the thing that it touches.
fn slot_of(slots: &[NodeSlot], action: &NodeAction) -> Result<u32, String> {
    let find = |has: &dyn Fn(&NodeSlot) -> bool, thing: &str| {
        let slot = slots.iter().find(|slot| has(slot));
        slot.map(|slot| slot.slot).ok_or_else(|| thing.to_owned())
    };
    match action {
        NodeAction::Launch { slot }
        | NodeAction::FindByToken { slot }
        | NodeAction::Start { slot, .. }
        | NodeAction::Stop { slot, .. }
        | NodeAction::CreateVolume { slot }
        | NodeAction::AttachVolume { slot, .. }
        | NodeAction::Drain { slot, .. } => Ok(*slot),
        NodeAction::Terminate { instance } => find(
            &|slot| slot.instance.as_ref() == Some(&instance.0),
            &instance.0,
        ),
        NodeAction::DeleteVolume { volume } => {
            find(&|slot| slot.volume.as_ref() == Some(&volume.0), &volume.0)
        }
        NodeAction::Uncordon { node } | NodeAction::DeleteNode { node } => {
            find(&|slot| slot.node.as_ref() == Some(node), node)
        }
    }
}
