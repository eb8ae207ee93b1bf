//! What tests of this folder are made of.

use halo_cloud::{
    CloudError, Failure, Instance, InstanceId, InstanceState, Tags, Volume, VolumeId, VolumeState,
};
use halo_crds::pool::Ec2Pool;
use halo_crds::status::{NodeSlot, NodeState};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::capacity::CapacityView;
use super::plan::{NodeView, PodPlace, Pool, PoolPlan, plan};
use super::tags;
use crate::settings::Pace;

pub const UID: &str = "3c2f6f2e-0000-4000-8000-000000000001";
pub const TEMPLATE: &str = "0123456789abcdef0123456789abcdef";

/// A second after a beginning that is long past every grace time.
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub fn spec() -> Ec2Pool {
    serde_json::from_value(json!({
        "instanceTypes": ["big", "small"],
        "subnets": [{"zone": "za", "id": "subnet-0000000a"}, {"zone": "zb", "id": "subnet-0000000b"}],
        "image": {"id": "ami-00000001"},
        "securityGroups": ["sg-00000001"],
        "instanceProfile": "node",
        "maxNodes": 3,
        "registrationDeadline": "2m",
    }))
    .unwrap()
}

pub fn slot(number: u32, state: NodeState) -> NodeSlot {
    let launching = state == NodeState::Launching;
    NodeSlot {
        slot: number,
        attempt: number + 1,
        generation: 1,
        template: TEMPLATE.to_owned(),
        state,
        since: Time(at(0)),
        instance_type: "big".to_owned(),
        zone: "za".to_owned(),
        instance: (!launching).then(|| format!("i-{number}")),
        volume: None,
        node: None,
        volume_since: None,
        running_since: None,
    }
}

/// The instance that `slot` records.
pub fn instance(number: u32, state: InstanceState) -> Instance {
    Instance {
        id: InstanceId(format!("i-{number}")),
        state,
        instance_type: "big".to_owned(),
        zone: "za".to_owned(),
        private_dns_name: String::new(),
        client_token: String::new(),
        launched_at: u64::try_from(at(0).as_second()).unwrap(),
        reason: String::new(),
        tags: Tags::from([
            (tags::SUBSTRATE_UID.to_owned(), UID.to_owned()),
            (tags::SLOT.to_owned(), number.to_string()),
            (tags::ATTEMPT.to_owned(), (number + 1).to_string()),
            (tags::TEMPLATE.to_owned(), TEMPLATE.to_owned()),
        ]),
    }
}

pub fn volume(number: u32, zone: &str, state: VolumeState) -> Volume {
    Volume {
        id: VolumeId(format!("vol-{number}{zone}")),
        zone: zone.to_owned(),
        state,
        created_at: 0,
        tags: Tags::from([
            (tags::SUBSTRATE_UID.to_owned(), UID.to_owned()),
            (tags::SLOT.to_owned(), number.to_string()),
            (tags::ZONE.to_owned(), zone.to_owned()),
            (tags::DELETION_POLICY.to_owned(), "Delete".to_owned()),
        ]),
    }
}

pub fn node(number: u32, ready: bool) -> NodeView {
    NodeView {
        name: format!("node-{number}"),
        instance: Some(InstanceId(format!("i-{number}"))),
        ready,
        unschedulable: false,
        deleting: false,
    }
}

pub fn pod_on(number: u32, ending: bool) -> PodPlace {
    PodPlace {
        name: format!("pod-{number}"),
        node: Some(format!("node-{number}")),
        ready: true,
        ending,
    }
}

pub fn error(failure: Failure) -> CloudError {
    CloudError {
        action: "RunInstances",
        failure,
        code: "SomeCode".to_owned(),
        message: "some words".to_owned(),
    }
}

/// A pool that owns what it looks at.
#[derive(Clone)]
pub struct Scene {
    pub spec: Ec2Pool,
    pub template: String,
    pub wanted: u32,
    pub deleting: bool,
    pub slots: Vec<NodeSlot>,
    pub attempts: u32,
    pub instances: Vec<Instance>,
    pub volumes: Vec<Volume>,
    pub listed_at: Option<Timestamp>,
    pub nodes: Vec<NodeView>,
    pub pods: Vec<PodPlace>,
    pub capacity: CapacityView,
    pub not_before: Option<Timestamp>,
    pub pace: Pace,
    pub now: Timestamp,
}

impl Scene {
    pub fn new(wanted: u32) -> Self {
        Self {
            spec: spec(),
            template: TEMPLATE.to_owned(),
            wanted,
            deleting: false,
            slots: Vec::new(),
            attempts: 0,
            instances: Vec::new(),
            volumes: Vec::new(),
            listed_at: Some(at(10)),
            nodes: Vec::new(),
            pods: Vec::new(),
            capacity: CapacityView::default(),
            not_before: None,
            pace: Pace::default(),
            now: at(10),
        }
    }

    /// With slots of these states, each with an instance of that state and a ready node if it is given.
    pub fn with(mut self, all: &[(NodeState, InstanceState, Option<bool>)]) -> Self {
        for (number, (state, cloud, ready)) in (0..).zip(all) {
            let mut slot = slot(number, *state);
            if matches!(cloud, InstanceState::Running | InstanceState::Pending) {
                slot.running_since = Some(Time(at(0)));
            }
            if let Some(ready) = ready {
                slot.node = Some(format!("node-{number}"));
                self.nodes.push(node(number, *ready));
            }
            self.slots.push(slot);
            self.instances.push(instance(number, *cloud));
        }
        self.attempts = u32::try_from(all.len()).unwrap();
        self
    }

    pub fn plan(&self) -> PoolPlan {
        plan(&Pool {
            uid: UID,
            object: "ns/name",
            generation: 1,
            spec: &self.spec,
            template: &self.template,
            wanted: self.wanted,
            deleting: self.deleting,
            slots: &self.slots,
            attempts: self.attempts,
            instances: &self.instances,
            volumes: &self.volumes,
            listed_at: self.listed_at,
            nodes: &self.nodes,
            pods: &self.pods,
            capacity: &self.capacity,
            not_before: self.not_before,
            pace: &self.pace,
            now: self.now,
        })
    }
}

pub fn id(number: u32) -> InstanceId {
    InstanceId(format!("i-{number}"))
}

pub fn states(scene: &Scene) -> Vec<NodeState> {
    scene.plan().slots.iter().map(|slot| slot.state).collect()
}

/// A slot whose node is ready, for [`Scene::with`].
pub const READY: (NodeState, InstanceState, Option<bool>) =
    (NodeState::Ready, InstanceState::Running, Some(true));
