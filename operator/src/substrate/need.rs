//! How much is there, and how many nodes are needed for it.

use std::sync::Arc;
use std::time::Duration;

use halo_cloud::InstanceState;
use halo_crds::HaloSubstrateStatus;
use halo_crds::condition;
use halo_crds::reasons::kinds;
use halo_crds::status::{NodeSlot, NodeState, Phase};

use super::demand::elapsed;
use super::phase::{Pods, Step, runs};
use super::plan::Observed;
use super::replicas::Level;
use crate::nodes::fleet::FleetView;
use crate::runtime::records::PodView;

/// How much longer than its drain a pod may take to be gone before its node goes anyway.
const END_GRACE: Duration = Duration::from_secs(60);

/// Slots that should have a node, and after how long time alone changes that. A node stays while a pod ends on it: one for each pod
/// that should run or is still there, but not for longer than pods may take to end.
pub fn nodes_wanted(
    o: &Observed,
    before: &HaloSubstrateStatus,
    step: &Step,
    level: &Level,
    deleting: bool,
) -> (u32, Option<Duration>) {
    // Of what is deleted the nodes are drained at once.
    if deleting || step.phase == Phase::Asleep {
        return (0, None);
    }
    let alive = |name: &str| o.nodes.iter().any(|node| node.name == name && node.ready);
    let staying = there(&o.pods)
        .filter(|pod| pod.place.node.as_deref().is_some_and(alive))
        .count();
    let most = o
        .substrate
        .spec
        .node_pool
        .ec2
        .as_ref()
        .map_or(u32::MAX, |pool| pool.max_nodes);
    let staying = total(staying).min(most);
    if runs(step.phase) {
        return (level.replicas.max(staying), None);
    }
    let ended = condition::find(&before.conditions, kinds::AWAKE)
        .filter(|awake| awake.status == "False")
        .map(|awake| elapsed(awake.last_transition_time.0, o.now));
    let patience = o.substrate.spec.pod.drain.get() + END_GRACE;
    let left = patience.saturating_sub(ended.unwrap_or_default());
    match staying > 0 && !left.is_zero() {
        true => (staying, Some(left)),
        false => (0, None),
    }
}

/// A count as status carries it.
pub fn total(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Pods that hold something. One that is over stays where it was until somebody removes it, which a Deployment does not do.
pub fn there(pods: &[Arc<PodView>]) -> impl Iterator<Item = &Arc<PodView>> {
    pods.iter().filter(|pod| !pod.over)
}

/// Counts pods.
pub fn count(pods: &[Arc<PodView>]) -> Pods {
    let ready = there(pods)
        .filter(|pod| pod.place.ready && !pod.place.ending)
        .count();
    Pods {
        left: total(there(pods).count()),
        ready: total(ready),
    }
}

/// Whether instances cost: a slot that is more than stopped, or an instance that runs and that no slot knows.
pub fn costs(slots: &[NodeSlot], fleet: &FleetView) -> bool {
    let known = |id: &str| {
        slots
            .iter()
            .any(|slot| slot.instance.as_deref() == Some(id))
    };
    slots.iter().any(|slot| slot.state != NodeState::Stopped)
        || fleet.instances.iter().any(|instance| {
            let runs = matches!(
                instance.state,
                InstanceState::Pending | InstanceState::Running
            );
            runs && !known(&instance.id.0)
        })
}
