//! What becomes of each slot.

use std::time::Duration;

use halo_cloud::{CloudError, Instance, InstanceId, Volume, VolumeId};
use halo_crds::pool::Ec2Pool;
use halo_crds::status::NodeSlot;
use jiff::Timestamp;

use super::capacity::{CapacityView, Lesson};
use super::work::Work;
use super::{adopt, disks, slots, supply};

/// What the pool's plan looks at.
pub struct Pool<'a> {
    /// The substrate's uid.
    pub uid: &'a str,
    /// `namespace/name` of the substrate.
    pub object: &'a str,
    /// The generation of its spec.
    pub generation: i64,
    /// The pool's spec.
    pub spec: &'a Ec2Pool,
    /// A hash of everything that an instance is launched with ([`super::launch::Template`]).
    pub template: &'a str,
    /// Slots that should have a ready node; 0 to sleep or to go.
    pub wanted: u32,
    /// Whether the substrate is being deleted: stopped instances and volumes go as well.
    pub deleting: bool,
    /// Slots as they are recorded.
    pub slots: &'a [NodeSlot],
    /// Launches so far.
    pub attempts: u32,
    /// Instances with this substrate's tag, as the cloud last listed them.
    pub instances: &'a [Instance],
    /// Volumes with this substrate's tag.
    pub volumes: &'a [Volume],
    /// When that listing was asked for; `None` before the first.
    pub listed_at: Option<Timestamp>,
    /// Nodes of the cluster whose provider id names one of the instances, or that carry the pool's label.
    pub nodes: &'a [NodeView],
    /// Pods of this substrate: on which node, and whether they are ending.
    pub pods: &'a [PodPlace],
    /// Types without capacity.
    pub capacity: &'a CapacityView,
    /// The pool waits until then after failed launches.
    pub not_before: Option<Timestamp>,
    /// How long things may take.
    pub pace: &'a crate::settings::Pace,
    /// The time.
    pub now: Timestamp,
}

/// A node as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// The instance that its provider id names, if any.
    pub instance: Option<InstanceId>,
    /// Whether its Ready condition is True.
    pub ready: bool,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// Where a substrate's pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlace {
    /// Its name.
    pub name: String,
    /// Its node, once it is scheduled.
    pub node: Option<String>,
    /// Whether it answers.
    pub ready: bool,
    /// Whether it is ending.
    pub ending: bool,
}

/// What should be recorded, then done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolPlan {
    /// Slots as they should be recorded before anything is done.
    pub slots: Vec<NodeSlot>,
    /// Launches so far, those that are about to be done included.
    pub attempts: u32,
    /// What is then done, in this order; actions of different slots do not depend on each other.
    pub actions: Vec<NodeAction>,
    /// What keeps a slot from going on, if anything.
    pub blocked: Option<PoolBlock>,
    /// When to look again if nothing happens before.
    pub look_again: Option<Duration>,
    /// Seconds that instances ran that have now ended or stopped, by type: to be added to what was used.
    pub used: Vec<(String, i64)>,
    /// Whether nothing of the pool is left that costs or holds a name: instances, and volumes that should go.
    pub empty: bool,
    /// What a person should be told, each once: reason and message.
    pub notes: Vec<(&'static str, String)>,
    /// What was learnt about the cloud, for [`super::capacity::CapacityMemory::learn`].
    pub lessons: Vec<Lesson>,
    /// Whether something is on its way, so that the cloud should be looked at often ([`super::fleet::Fleet::busy`]).
    pub moving: bool,
}

/// What keeps a pool from going on.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolBlock {
    /// A stable name: a reason of the kinds, or a cloud failure's.
    pub reason: String,
    /// Cause and what to do, for a person; the cloud's code in it.
    pub message: String,
    /// When it is tried again.
    pub next_attempt: Option<Timestamp>,
}

/// One thing to be done for a slot.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeAction {
    /// Launch what the slot records, with the client token that follows from the record.
    Launch {
        /// The slot.
        slot: u32,
    },
    /// Ask which instance the slot's client token launched: its launch was refused as a mismatch.
    FindByToken {
        /// The slot.
        slot: u32,
    },
    /// Start a stopped instance.
    Start {
        /// The slot.
        slot: u32,
        /// Its instance.
        instance: InstanceId,
    },
    /// Stop an instance.
    Stop {
        /// The slot.
        slot: u32,
        /// Its instance.
        instance: InstanceId,
    },
    /// End an instance, one of a slot or one that no slot knows.
    Terminate {
        /// The instance.
        instance: InstanceId,
    },
    /// Make the data volume of a slot in its zone.
    CreateVolume {
        /// The slot.
        slot: u32,
    },
    /// Attach the data volume to the slot's running instance.
    AttachVolume {
        /// The slot.
        slot: u32,
        /// The volume.
        volume: VolumeId,
        /// The instance.
        instance: InstanceId,
    },
    /// Delete a volume.
    DeleteVolume {
        /// The volume.
        volume: VolumeId,
    },
    /// Cordon a node and evict what daemons do not own; disruption budgets are respected.
    Drain {
        /// The slot.
        slot: u32,
        /// The node.
        node: String,
    },
    /// Let a cordoned node take pods again: demand came back while it drained.
    Uncordon {
        /// The node.
        node: String,
    },
    /// Remove the Node object of an instance that is gone.
    DeleteNode {
        /// The node.
        node: String,
    },
}

/// What came of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// An instance was launched or found.
    Launched(Instance),
    /// No instance shows under the token.
    NotFound,
    /// A volume was made or found.
    Volume(Volume),
    /// Done.
    Done,
    /// A node still has pods that may not be evicted now.
    StillDraining {
        /// Why, for a person.
        message: String,
    },
    /// The cloud refused.
    Failed(CloudError),
    /// The API server refused or did not answer.
    Refused {
        /// Why, for a person.
        message: String,
    },
}

/// What becomes of each slot, and what is done for it.
///
/// The rules, in the order in which they are followed:
///
/// 1. Nothing is decided before the first listing.
/// 2. An instance that no slot knows is taken into the slot and attempt that its tags name, if that slot waits for it or has no record;
///    otherwise it ends after a grace time.
/// 3. What the listing and the nodes show moves each slot on. An instance that ended, stopped or vanished without the operator is noted.
/// 4. Slots are woken until `wanted` have or will have a node: a draining one is kept, a stopped one started, a new one launched. A slot
///    whose instance is on its way out comes back in its own place, because its volume lives there.
/// 5. Slots above `wanted` go: not yet ready first, then those without pods, then those out of date, then the highest. A node keeps
///    its pods while any should stay.
/// 6. An instance that is out of date (another template, a type or zone that the spec no longer names) is replaced when it would be
///    started again; one that runs is left alone until then.
pub fn plan(pool: &Pool<'_>) -> PoolPlan {
    let mut work = Work::new(pool);
    if pool.listed_at.is_none() {
        work.moving = true;
        return work.finish();
    }
    adopt::unknown_instances(&mut work);
    slots::observe(&mut work);
    slots::drop_ended(&mut work);
    supply::balance(&mut work);
    slots::drive(&mut work);
    disks::drive(&mut work);
    slots::orphan_nodes(&mut work);
    work.finish()
}
