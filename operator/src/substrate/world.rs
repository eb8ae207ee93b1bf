//! A cluster and a cloud in memory, moved by the real plan and the real settling.

use std::collections::BTreeMap;
use std::sync::Arc;

use halo_cloud::{
    CloudError, Failure, Instance, InstanceId, InstanceState, Volume, VolumeId, VolumeState,
};
use halo_crds::HaloSubstrate;
use halo_crds::pool::IdlePolicy;
use halo_crds::status::{Demand, NodeSlot, Phase};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::{TestCaseError, prop_assert};

use super::act::Settled;
use super::plan::{self, Observed, Record};
use super::testing;
use crate::nodes::capacity::CapacityMemory;
use crate::nodes::fleet::FleetView;
use crate::nodes::launch::{Identity, Template};
use crate::nodes::plan::{NodeAction, NodeView, Outcome};
use crate::nodes::settle::{Settling, settle};
use crate::runtime::records::PodView;
use crate::settings::Settings;

const BEGIN: i64 = 1_700_000_000;

/// What goes wrong with a launch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// No capacity.
    Capacity,
    /// Refused for now.
    Throttled,
    /// It was done and nothing answered.
    LostAnswer,
    /// Nothing was done and nothing answered.
    LostRequest,
    /// The operator ends between the launch and its record.
    Crash,
}

pub(super) struct World {
    pub(super) substrate: HaloSubstrate,
    template: Template,
    settings: Settings,
    capacity: CapacityMemory,
    pub(super) instances: BTreeMap<String, (Instance, i64)>,
    pub(super) volumes: BTreeMap<String, Volume>,
    tokens: BTreeMap<String, String>,
    pub(super) nodes: BTreeMap<String, (NodeView, i64)>,
    pub(super) pods: Vec<(PodView, i64)>,
    pub(super) replicas: u32,
    faults: Vec<Fault>,
    pub(super) made: u32,
    pub(super) now: i64,
    pub(super) released: bool,
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

impl World {
    pub(super) fn new(policy: IdlePolicy, faults: Vec<Fault>) -> Self {
        let mut substrate = testing::ec2();
        let pool = substrate.spec.node_pool.ec2.as_mut().unwrap();
        pool.idle_policy = policy;
        let settings = testing::settings();
        let identity = Identity {
            uid: substrate.metadata.uid.clone().unwrap(),
            namespace: "halo-acme".to_owned(),
            name: "qwen".to_owned(),
            tenant: "acme".to_owned(),
        };
        Self {
            template: Template::new(&identity, pool, &settings).unwrap(),
            capacity: CapacityMemory::new(&settings.pace, Box::new(|_, _| {})),
            substrate,
            settings,
            instances: BTreeMap::new(),
            volumes: BTreeMap::new(),
            tokens: BTreeMap::new(),
            nodes: BTreeMap::new(),
            pods: Vec::new(),
            replicas: 0,
            faults,
            made: 0,
            now: BEGIN,
            released: false,
        }
    }

    fn uid(&self) -> String {
        self.substrate.metadata.uid.clone().unwrap()
    }

    pub(super) fn ask(&mut self, in_flight: i64) {
        let now = Time(at(self.now));
        let status = self.substrate.status.get_or_insert_default();
        status.demand = vec![Demand {
            gateway: "g".to_owned(),
            in_flight,
            since: (in_flight > 0).then(|| now.clone()),
            last_active: now,
        }];
    }

    /// A gateway that is alive says so again.
    pub(super) fn heartbeat(&mut self) {
        let now = Time(at(self.now));
        let status = self.substrate.status.get_or_insert_default();
        for demand in status
            .demand
            .iter_mut()
            .filter(|demand| demand.in_flight > 0)
        {
            demand.last_active = now.clone();
        }
    }

    fn observe(&self) -> Observed {
        Observed {
            substrate: Arc::new(self.substrate.clone()),
            tenant: Some(Arc::new(testing::tenant())),
            deployment: None,
            children: Vec::new(),
            pods: self
                .pods
                .iter()
                .map(|(pod, _)| Arc::new(pod.clone()))
                .collect(),
            nodes: self.nodes.values().map(|(node, _)| node.clone()).collect(),
            fleet: FleetView {
                instances: self
                    .instances
                    .values()
                    .map(|(one, _)| one.clone())
                    .collect(),
                volumes: self.volumes.values().cloned().collect(),
                listed_at: Some(at(self.now)),
            },
            capacity: self.capacity.view(&self.uid(), 3, at(self.now)),
            template: self.template.hash().to_owned(),
            unlaunchable: None,
            refusal: None,
            now: at(self.now),
        }
    }

    /// One pass of the operator; whether it wrote or did anything.
    pub(super) fn pass(&mut self) -> bool {
        let mut observed = self.observe();
        let plan = plan::plan(&observed, &self.settings);
        if plan.release {
            self.released = true;
            return false;
        }
        let before = plan::before(&self.substrate);
        let mut changed = plan.status != before;
        self.substrate.status = Some(plan.status.clone());
        observed.substrate = Arc::new(self.substrate.clone());
        let wanted = match &plan.children {
            Some(children) => children.deployment.spec.as_ref().unwrap().replicas.unwrap(),
            None => 0,
        };
        let wanted = u32::try_from(wanted).unwrap();
        changed |= wanted != self.replicas;
        self.replicas = wanted;
        let Some(pool) = plan.pool.clone() else {
            return changed;
        };
        self.capacity
            .learn(&self.uid(), 3, &pool.lessons, at(self.now), 0.5);
        let mut settled = Settled {
            slots: pool.slots.clone(),
            block: pool.blocked.clone(),
            ..Settled::default()
        };
        let idle_policy = self
            .substrate
            .spec
            .node_pool
            .ec2
            .as_ref()
            .unwrap()
            .idle_policy;
        let pace = self.settings.pace.clone();
        for action in &pool.actions {
            changed = true;
            let Some(outcome) = self.act(&pool.slots, action) else {
                // A crash: nothing after it is recorded.
                return true;
            };
            let scene = Settling {
                idle_policy,
                deleting: plan.decision.deleting,
                pace: &pace,
                now: at(self.now),
            };
            let one = settle(&mut settled.slots, action, &outcome, &scene);
            self.capacity
                .learn(&self.uid(), 3, &one.lessons, at(self.now), 0.5);
            settled.block = one.blocked.or(settled.block);
        }
        let record = Record {
            slots: &settled.slots,
            attempts: pool.attempts,
            block: settled.block.as_ref(),
            used: &[],
        };
        let status = plan::report(&observed, &plan.decision, &record, &self.settings);
        changed |= Some(&status) != self.substrate.status.as_ref();
        self.substrate.status = Some(status);
        changed
    }

    fn instance(&mut self, slot: &NodeSlot) -> Instance {
        let token = self.template.client_token(slot);
        let id = match self.tokens.get(&token) {
            Some(id) => id.clone(),
            None => {
                self.made += 1;
                let id = format!("i-{:017x}", self.made);
                let request = self.template.launch(slot, "ami-0123456789abcdef0").unwrap();
                let instance = Instance {
                    id: InstanceId(id.clone()),
                    state: InstanceState::Pending,
                    instance_type: slot.instance_type.clone(),
                    zone: slot.zone.clone(),
                    private_dns_name: String::new(),
                    client_token: token.clone(),
                    launched_at: u64::try_from(self.now).unwrap(),
                    reason: String::new(),
                    tags: request.tags,
                };
                self.tokens.insert(token, id.clone());
                self.instances.insert(id.clone(), (instance, self.now));
                id
            }
        };
        self.instances[&id].0.clone()
    }

    fn failed(failure: Failure) -> Outcome {
        Outcome::Failed(CloudError {
            action: "RunInstances",
            failure,
            code: failure.name().to_owned(),
            message: "it failed".to_owned(),
        })
    }

    pub(super) fn turn(&mut self, id: &InstanceId, state: InstanceState) -> Outcome {
        let now = self.now;
        if let Some((instance, since)) = self.instances.get_mut(&id.0)
            && !instance.state.is_ending()
            && instance.state != state
        {
            (instance.state, *since) = (state, now);
        }
        Outcome::Done
    }

    pub(super) fn act(&mut self, slots: &[NodeSlot], action: &NodeAction) -> Option<Outcome> {
        let slot = |number: &u32| {
            slots
                .iter()
                .find(|slot| slot.slot == *number)
                .unwrap()
                .clone()
        };
        Some(match action {
            NodeAction::Launch { slot: number } => {
                let slot = slot(number);
                match self.faults.pop() {
                    None => Outcome::Launched(self.instance(&slot)),
                    Some(Fault::Capacity) => Self::failed(Failure::Capacity),
                    Some(Fault::Throttled) => Self::failed(Failure::Throttled),
                    Some(Fault::LostRequest) => Self::failed(Failure::Unreachable),
                    Some(Fault::LostAnswer) => {
                        self.instance(&slot);
                        Self::failed(Failure::Unreachable)
                    }
                    Some(Fault::Crash) => {
                        self.instance(&slot);
                        return None;
                    }
                }
            }
            NodeAction::FindByToken { slot: number } => {
                let token = self.template.client_token(&slot(number));
                let found = self
                    .tokens
                    .get(&token)
                    .and_then(|id| self.instances.get(id));
                match found {
                    Some((instance, _)) => Outcome::Launched(instance.clone()),
                    None => Outcome::NotFound,
                }
            }
            NodeAction::Start { instance, .. } => self.turn(instance, InstanceState::Pending),
            NodeAction::Stop { instance, .. } => self.turn(instance, InstanceState::Stopping),
            NodeAction::Terminate { instance } => self.turn(instance, InstanceState::ShuttingDown),
            NodeAction::CreateVolume { slot: number } => {
                let slot = slot(number);
                let request = self.template.volume(&slot).unwrap();
                let id = format!("vol-{}", &request.client_token[..17]);
                let volume = Volume {
                    id: VolumeId(id.clone()),
                    zone: slot.zone,
                    state: VolumeState::Available,
                    created_at: u64::try_from(self.now).unwrap(),
                    tags: request.tags,
                };
                Outcome::Volume(self.volumes.entry(id).or_insert(volume).clone())
            }
            NodeAction::AttachVolume {
                volume, instance, ..
            } => {
                let volume = self.volumes.get_mut(&volume.0).unwrap();
                volume.state = VolumeState::InUse(instance.clone());
                Outcome::Done
            }
            NodeAction::DeleteVolume { volume } => {
                self.volumes.remove(&volume.0);
                Outcome::Done
            }
            NodeAction::Drain { node, .. } => {
                if let Some((view, _)) = self.nodes.get_mut(node) {
                    view.unschedulable = true;
                }
                let now = self.now;
                let mut left = false;
                for (pod, since) in &mut self.pods {
                    if pod.place.node.as_ref() == Some(node) {
                        left = true;
                        if !pod.place.ending {
                            (pod.place.ending, pod.place.ready, *since) = (true, false, now);
                        }
                    }
                }
                match left {
                    true => Outcome::StillDraining {
                        message: "pods end".to_owned(),
                    },
                    false => Outcome::Done,
                }
            }
            NodeAction::Uncordon { node } => {
                if let Some((view, _)) = self.nodes.get_mut(node) {
                    view.unschedulable = false;
                }
                Outcome::Done
            }
            NodeAction::DeleteNode { node } => {
                self.nodes.remove(node);
                Outcome::Done
            }
        })
    }

    pub(super) fn run(&mut self, seconds: i64) -> Result<(), TestCaseError> {
        let most = self
            .substrate
            .spec
            .node_pool
            .ec2
            .as_ref()
            .unwrap()
            .max_nodes as usize;
        for _ in 0..seconds {
            self.heartbeat();
            self.pass();
            self.tick();
            let live = self.live();
            prop_assert!(live <= most, "{live} instances, {most} allowed");
        }
        Ok(())
    }

    pub(super) fn live(&self) -> usize {
        let costs = |(instance, _): &&(Instance, i64)| {
            matches!(
                instance.state,
                InstanceState::Pending | InstanceState::Running
            )
        };
        self.instances.values().filter(costs).count()
    }

    pub(super) fn phase(&self) -> Phase {
        let status = self.substrate.status.as_ref();
        status.and_then(|status| status.phase).unwrap_or_default()
    }

    /// Nothing is written or done any more.
    pub(super) fn is_steady(&mut self) -> bool {
        // One more pass may note what the last tick brought.
        self.pass();
        !self.pass()
    }
}
