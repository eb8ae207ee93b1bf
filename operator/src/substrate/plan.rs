//! What becomes of a substrate: everything that was observed goes in, everything that should be done comes out. Pure.

use std::sync::Arc;
use std::time::Duration;

use halo_crds::pool::Ec2Pool;
use halo_crds::reasons;
use halo_crds::status::{NodeSlot, NodeState};
use halo_crds::{HaloSubstrate, HaloSubstrateStatus, HaloTenant};
use jiff::Timestamp;

use super::demand::{self, Reading};
use super::gate::{self, Gate};
use super::need::{costs, count, nodes_wanted, there, total};
use super::phase::{self, Situation, Step, runs};
use super::replicas::{self, Level, Rule};
use super::status::{self, Facts, Nodes};
use super::usage;
use super::validate::{self, Invalid};
use super::weights;
use super::workload::{self, Prepared};
use crate::nodes;
use crate::nodes::capacity::CapacityView;
use crate::nodes::fleet::FleetView;
use crate::nodes::plan::{NodeView, PodPlace, Pool, PoolBlock, PoolPlan};
use crate::runtime::kinds::ChildKind;
use crate::runtime::records::{DeploymentView, PodView};
use crate::settings::Settings;

/// A child as the caches have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Its kind.
    pub kind: ChildKind,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// Everything that is known of a substrate.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The object.
    pub substrate: Arc<HaloSubstrate>,
    /// The tenant that it names.
    pub tenant: Option<Arc<HaloTenant>>,
    /// Its Deployment's figures.
    pub deployment: Option<DeploymentView>,
    /// Its Deployment, budget, volumes and claims.
    pub children: Vec<Child>,
    /// Its pods.
    pub pods: Vec<Arc<PodView>>,
    /// Nodes of its instances or with its label; of an existing pool those that match.
    pub nodes: Vec<NodeView>,
    /// What the cloud has of it.
    pub fleet: FleetView,
    /// Which types have no capacity where.
    pub capacity: CapacityView,
    /// A hash of what its instances are launched with; empty if it has no EC2 pool.
    pub template: String,
    /// Why nothing can be launched by the spec.
    pub unlaunchable: Option<String>,
    /// What the API server refused in this pass: a stable name and the words.
    pub refusal: Option<(String, String)>,
    /// The time.
    pub now: Timestamp,
}

/// What is decided besides nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The phase machine's word.
    pub step: Step,
    /// What is asked.
    pub demand: Reading,
    /// Since when nothing is asked.
    pub idle_since: Option<Timestamp>,
    /// Pods that should run.
    pub level: Level,
    /// Slots that should have a node.
    pub wanted: u32,
    /// What the tenant allows.
    pub gate: Gate,
    /// Why the object cannot be worked with.
    pub invalid: Option<Invalid>,
    /// Whether nothing may be changed.
    pub paused: bool,
    /// Whether the object is being deleted.
    pub deleting: bool,
}

/// Slots as they should be recorded, and what is to be said of them.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The slots.
    pub slots: &'a [NodeSlot],
    /// Launches so far.
    pub attempts: u32,
    /// What keeps the pool from going on.
    pub block: Option<&'a PoolBlock>,
    /// Seconds that instances ran, by type, to be added to what was used.
    pub used: &'a [(String, i64)],
}

/// What should be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What was decided besides nodes.
    pub decision: Decision,
    /// What becomes of the nodes; `None` where the operator has none to bring or nothing may be changed.
    pub pool: Option<PoolPlan>,
    /// Children as they should be; `None` to leave them as they are.
    pub children: Option<Box<Prepared>>,
    /// Children that should go.
    pub removals: Vec<Child>,
    /// Whether nothing is left that only the operator can end: the finalizer may go.
    pub release: bool,
    /// What is to be reported.
    pub status: HaloSubstrateStatus,
    /// When to look again if nothing happens before.
    pub look_again: Option<Duration>,
}

impl Plan {
    /// Whether the cloud or a node is to be touched.
    pub fn acts(&self) -> bool {
        self.pool
            .as_ref()
            .is_some_and(|pool| !pool.actions.is_empty())
    }

    /// Whether the record of nodes, or what it is read with, changes.
    pub fn moves(&self, observed: &Observed) -> bool {
        let before = before(&observed.substrate);
        let status = &self.status;
        (&before.nodes, before.attempts, before.phase)
            != (&status.nodes, status.attempts, status.phase)
            || before.usage != status.usage
    }

    /// The record of nodes as it was planned.
    pub fn record<'a>(&'a self, observed: &'a Observed) -> Record<'a> {
        match (&self.pool, &observed.substrate.status) {
            (Some(pool), _) => Record {
                slots: &pool.slots,
                attempts: pool.attempts,
                block: pool.blocked.as_ref(),
                used: &pool.used,
            },
            (None, Some(before)) => Record {
                slots: &before.nodes,
                attempts: before.attempts,
                block: None,
                used: &[],
            },
            (None, None) => Record {
                slots: &[],
                attempts: 0,
                block: None,
                used: &[],
            },
        }
    }
}

/// The status of an object as it was observed.
pub fn before(substrate: &HaloSubstrate) -> HaloSubstrateStatus {
    substrate.status.clone().unwrap_or_default()
}

/// Plans.
pub fn plan(observed: &Observed, settings: &Settings) -> Plan {
    let o = observed;
    let before = before(&o.substrate);
    let spec = &o.substrate.spec;
    let mut gate = gate::look(&o.substrate, o.tenant.as_deref(), &settings.region);
    if let Some(why) = &o.unlaunchable {
        gate.closed = Some((reasons::INVALID, why.clone()));
    }
    let valid = validate::validate(&o.substrate);
    let deleting = o.substrate.metadata.deletion_timestamp.is_some();
    // An object that cannot be worked with is left as it is, and so is one that should be.
    let paused = !deleting && (spec.paused || gate.paused || valid.is_err());
    let idle_after = spec.scaling.idle_after.get();
    let demand = demand::read(&before.demand, idle_after, o.now);
    let recorded = before.idle_since.as_ref().map(|since| since.0);
    let idle_since = phase::idle_since(recorded, &demand, o.now);
    let mut situation = Situation {
        phase: before.phase.unwrap_or_default(),
        busy: demand.is_busy(),
        idle_since,
        may_wake: gate.closed.is_none(),
        paused,
        deleting,
        pods: count(&o.pods),
        nodes_left: costs(&before.nodes, &o.fleet),
        waking_since: before.waking_since.as_ref().map(|since| since.0),
        idle_after,
        wake_deadline: spec.scaling.wake_deadline.get(),
        now: o.now,
    };
    let mut step = phase::step(&situation);
    let (level, shrink_in) = level(&before, &step, &demand, paused, spec, o.now);
    let (wanted, hold_in) = nodes_wanted(o, &before, &step, &level, deleting);
    let ec2 = spec.node_pool.ec2.as_ref();
    // By a spec that nothing can be launched by, nodes can only end.
    let stuck = o.unlaunchable.is_some() && wanted > 0;
    let pool = ec2.filter(|_| !paused && !stuck).map(|ec2| {
        let places: Vec<PodPlace> = there(&o.pods).map(|pod| pod.place.clone()).collect();
        nodes::plan::plan(&node_pool(
            o, &before, ec2, &places, wanted, deleting, settings,
        ))
    });
    if let Some(pool) = &pool {
        // What the pool has just crossed out costs no more.
        situation.nodes_left = costs(&pool.slots, &o.fleet);
        (situation.phase, situation.waking_since) = (step.phase, step.waking_since);
        step = phase::step(&situation);
    }
    let prepared = match (&valid, &gate.tenant) {
        (Ok(valid), Some(tenant)) if !deleting && !paused => {
            Some(Box::new(workload::build(&workload::Plan {
                substrate: valid,
                tenant,
                image: &settings.substrate_image,
                defaults: &settings.substrate_pods,
                replicas: level.replicas,
            })))
        }
        _ => None,
    };
    let removals = match paused {
        true => Vec::new(),
        false => removals(o, prepared.as_deref(), &step, deleting),
    };
    let kept = o
        .children
        .iter()
        .any(|child| child.kind == ChildKind::PersistentVolume && !child.deleting);
    let release = deleting && !kept && pool.as_ref().is_none_or(|pool| pool.empty);
    let decision = Decision {
        step,
        demand,
        idle_since,
        level,
        wanted,
        gate,
        invalid: valid.err(),
        paused,
        deleting,
    };
    let record = Record {
        slots: pool.as_ref().map_or(&before.nodes, |pool| &pool.slots),
        attempts: pool.as_ref().map_or(before.attempts, |pool| pool.attempts),
        block: pool.as_ref().and_then(|pool| pool.blocked.as_ref()),
        used: pool.as_ref().map_or(&[], |pool| &pool.used),
    };
    let status = report(o, &decision, &record, settings);
    // A volume without a tenant tells nobody that it goes.
    let volumes_in = (deleting && kept).then_some(settings.pace.fleet_busy);
    let look_again = [
        volumes_in,
        decision.step.look_again,
        decision.demand.dead_in,
        shrink_in,
        hold_in,
        pool.as_ref().and_then(|pool| pool.look_again),
    ];
    let look_again = look_again.into_iter().flatten().min();
    Plan {
        look_again: look_again.filter(|_| !decision.paused),
        decision,
        pool,
        children: prepared,
        removals,
        release,
        status,
    }
}

/// The status for what was decided and a record of slots.
pub fn report(
    observed: &Observed,
    decision: &Decision,
    record: &Record<'_>,
    settings: &Settings,
) -> HaloSubstrateStatus {
    let (o, d) = (observed, decision);
    let before = before(&o.substrate);
    let ec2 = o.substrate.spec.node_pool.ec2.as_ref();
    let matching = o
        .nodes
        .iter()
        .filter(|node| node.ready && !node.deleting)
        .count();
    let nodes = match ec2 {
        Some(_) => Nodes {
            wanted: d.wanted,
            ready: total(
                record
                    .slots
                    .iter()
                    .filter(|slot| slot.state == NodeState::Ready)
                    .count(),
            ),
            launched: true,
        },
        None => Nodes {
            wanted: d.level.replicas,
            ready: total(matching),
            launched: false,
        },
    };
    let own_prices = ec2.map(|pool| &pool.prices).cloned().unwrap_or_default();
    let trouble = o
        .pods
        .iter()
        .filter(|pod| !pod.place.ending)
        .filter_map(|pod| pod.trouble.as_ref())
        .min();
    let invalid = d.invalid.as_ref().map(ToString::to_string);
    status::draft(&Facts {
        before: &before,
        generation: o.substrate.metadata.generation,
        step: &d.step,
        busy: d.demand.is_busy(),
        idle_since: d.idle_since,
        level: d.level,
        pods: count(&o.pods),
        scheduled: there(&o.pods).any(|pod| !pod.place.ending && pod.place.node.is_some()),
        trouble,
        refused: o
            .deployment
            .as_ref()
            .and_then(|deployment| deployment.failure.as_ref()),
        nodes,
        slots: record.slots,
        attempts: record.attempts,
        block: record.block,
        gate: &d.gate,
        invalid: invalid.as_deref(),
        api: o.refusal.as_ref(),
        paused: d.paused && d.invalid.is_none(),
        deleting: d.deleting,
        spent: usage::spent(record.used, &own_prices, &settings.prices),
        now: o.now,
    })
}

fn level(
    before: &HaloSubstrateStatus,
    step: &Step,
    demand: &Reading,
    paused: bool,
    spec: &halo_crds::HaloSubstrateSpec,
    now: Timestamp,
) -> (Level, Option<Duration>) {
    let had = Level {
        replicas: u32::try_from(before.replicas).unwrap_or_default(),
        surplus_since: before.surplus_since.as_ref().map(|since| since.0),
    };
    if paused {
        return (had, None);
    }
    if !runs(step.phase) {
        return (Level::default(), None);
    }
    let rule = Rule {
        sessions_per_pod: spec.scaling.sessions_per_pod,
        max: spec.scaling.max,
        shrink_after: spec.scaling.idle_after.get(),
    };
    replicas::next(had, demand.in_flight, &rule, now)
}

#[allow(
    clippy::too_many_arguments,
    reason = "it only puts them into one struct"
)]
fn node_pool<'a>(
    o: &'a Observed,
    before: &'a HaloSubstrateStatus,
    spec: &'a Ec2Pool,
    pods: &'a [PodPlace],
    wanted: u32,
    deleting: bool,
    settings: &'a Settings,
) -> Pool<'a> {
    let meta = &o.substrate.metadata;
    Pool {
        uid: meta.uid.as_deref().unwrap_or_default(),
        object: meta.name.as_deref().unwrap_or_default(),
        generation: meta.generation.unwrap_or_default(),
        spec,
        template: &o.template,
        wanted,
        deleting,
        slots: &before.nodes,
        attempts: before.attempts,
        instances: &o.fleet.instances,
        volumes: &o.fleet.volumes,
        listed_at: o.fleet.listed_at,
        nodes: &o.nodes,
        pods,
        capacity: &o.capacity,
        not_before: None,
        pace: &settings.pace,
        now: o.now,
    }
}

/// Children that should go: all when the object goes; a Deployment that cannot be built while it should sleep, as its tenant is gone;
/// and volumes and claims of weights that were somewhere else.
fn removals(o: &Observed, prepared: Option<&Prepared>, step: &Step, deleting: bool) -> Vec<Child> {
    let wanted = prepared.and_then(|prepared| prepared.storage.as_ref());
    let has_name = |name: &Option<String>, child: &Child| name.as_deref() == Some(&child.name);
    let goes = |child: &&Child| match child.kind {
        _ if child.deleting => false,
        _ if deleting => true,
        ChildKind::Deployment => prepared.is_none() && !runs(step.phase),
        ChildKind::PersistentVolume => {
            prepared.is_some()
                && wanted.is_none_or(|wanted| !has_name(&wanted.volume.metadata.name, child))
        }
        ChildKind::PersistentVolumeClaim => {
            prepared.is_some()
                && wanted.is_none_or(|wanted| !has_name(&wanted.claim.metadata.name, child))
        }
        _ => false,
    };
    o.children.iter().filter(goes).cloned().collect()
}

/// Whether a PersistentVolume of this name is a substrate's own.
pub fn owns_volume(uid: &str, volume: &str) -> bool {
    volume.starts_with(&weights::volume_prefix(uid))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
