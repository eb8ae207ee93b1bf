//! A small EC2 with nodes and pods, unkind on request, and an operator that may crash between any two effects.

use std::collections::{BTreeMap, BTreeSet};

use halo_cloud::{Failure, Instance, InstanceId, InstanceState, Volume, VolumeId, VolumeState};
use halo_crds::status::NodeSlot;

use super::launch::{client_token, volume_token};
use super::plan::{NodeAction, NodeView, Outcome, PodPlace};
use super::tags;
use super::testing::{UID, at, error};

/// Randomness that a seed repeats.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    /// True once in so many.
    pub fn once_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

struct Machine {
    instance: Instance,
    visible_at: i64,
    changed_at: i64,
    image: u64,
    registers: bool,
}

/// EC2, the nodes and the pods.
pub struct World {
    pub now: i64,
    machines: Vec<Machine>,
    volumes: Vec<(Volume, String, i64)>,
    pub nodes: Vec<NodeView>,
    pub pods: Vec<PodPlace>,
    pub image: u64,
    without: BTreeSet<(String, String)>,
    ids: u32,
    pub unkind: bool,
    pub dice: Dice,
    /// Launches that really made an instance, by client token.
    pub made: BTreeMap<String, u32>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            now: 1000,
            machines: Vec::new(),
            volumes: Vec::new(),
            nodes: Vec::new(),
            pods: Vec::new(),
            image: 0,
            without: BTreeSet::new(),
            ids: 0,
            unkind: true,
            dice: Dice::new(seed),
            made: BTreeMap::new(),
        }
    }

    pub fn instances(&self) -> Vec<Instance> {
        let shown = self.machines.iter().filter(|m| m.visible_at <= self.now);
        shown.map(|m| m.instance.clone()).collect()
    }

    pub fn volumes(&self) -> Vec<Volume> {
        let shown = self.volumes.iter().filter(|(_, _, at)| *at <= self.now);
        shown.map(|(volume, _, _)| volume.clone()).collect()
    }

    /// Instances that have not ended, whether a listing shows them or not.
    pub fn live(&self) -> impl Iterator<Item = &Instance> {
        let all = self.machines.iter().map(|m| &m.instance);
        all.filter(|i| !i.state.is_ending())
    }

    /// Never two instances for one slot, never more than the pool may have, never one token twice.
    pub fn check(&self, max: u32, seed: u64) {
        let mut by_slot: BTreeMap<u32, u32> = BTreeMap::new();
        for instance in self.live() {
            let slot = tags::number(&instance.tags, tags::SLOT).unwrap();
            *by_slot.entry(slot).or_default() += 1;
        }
        assert!(
            by_slot.values().all(|n| *n == 1),
            "seed {seed}: {by_slot:?}"
        );
        assert!(self.live().count() <= max as usize, "seed {seed}");
        assert!(self.made.values().all(|n| *n == 1), "seed {seed}");
    }

    /// Time passes; what takes time happens, and now and then something that nobody asked for.
    pub fn pass(&mut self, seconds: i64, pods_wanted: usize) {
        for _ in 0..seconds {
            self.now += 1;
            self.second(pods_wanted);
        }
        if self.unkind {
            self.mischief();
        }
    }

    fn second(&mut self, pods_wanted: usize) {
        use InstanceState as S;
        let now = self.now;
        for machine in &mut self.machines {
            let age = now - machine.changed_at;
            let next = match machine.instance.state {
                S::Pending if age >= 4 => S::Running,
                S::Stopping if age >= 6 => S::Stopped,
                S::ShuttingDown if age >= 6 => S::Terminated,
                same => same,
            };
            if next != machine.instance.state {
                machine.instance.state = next;
                machine.changed_at = now;
            }
            let id = &machine.instance.id;
            let known = self
                .nodes
                .iter()
                .position(|n| n.instance.as_ref() == Some(id));
            match (machine.instance.state, known) {
                (S::Running, None) if machine.registers && age == 9 => {
                    self.nodes.push(NodeView {
                        name: format!("node-of-{id}"),
                        instance: Some(id.clone()),
                        ready: false,
                        unschedulable: false,
                        deleting: false,
                    });
                }
                (S::Running, Some(known)) if age >= 12 => self.nodes[known].ready = true,
                (S::Running, _) => {}
                (_, Some(known)) if age >= 5 => self.nodes[known].ready = false,
                _ => {}
            }
        }
        for (volume, _, _) in &mut self.volumes {
            if volume.state == VolumeState::Creating {
                volume.state = VolumeState::Available;
            }
            if let VolumeState::InUse(holder) = &volume.state {
                let ended =
                    |m: &Machine| m.instance.id == *holder && m.instance.state == S::Terminated;
                if self.machines.iter().any(ended) {
                    volume.state = VolumeState::Available;
                }
            }
        }
        self.deployment(pods_wanted);
    }

    fn deployment(&mut self, wanted: usize) {
        let nodes = &self.nodes;
        let there = |pod: &PodPlace| nodes.iter().any(|n| Some(&n.name) == pod.node.as_ref());
        self.pods.retain(|pod| !pod.ending && there(pod));
        let surplus = self.pods.len().saturating_sub(wanted);
        for pod in self.pods.iter_mut().take(surplus) {
            pod.ending = true;
        }
        for node in nodes.iter().filter(|n| n.ready && !n.unschedulable) {
            let taken = self
                .pods
                .iter()
                .any(|p| p.node.as_ref() == Some(&node.name));
            if self.pods.len() < wanted && !taken {
                self.pods.push(PodPlace {
                    name: format!("pod-{}", node.name),
                    node: Some(node.name.clone()),
                    ready: true,
                    ending: false,
                });
            }
        }
    }

    fn mischief(&mut self) {
        if self.dice.once_in(3) {
            self.image += 1;
        }
        if self.dice.once_in(12) && !self.nodes.is_empty() {
            let node = self.dice.below(self.nodes.len() as u64) as usize;
            self.nodes.remove(node);
        }
        for (instance_type, zone) in [
            ("big", "za"),
            ("big", "zb"),
            ("small", "za"),
            ("small", "zb"),
        ] {
            let place = (instance_type.to_owned(), zone.to_owned());
            if self.dice.once_in(6) {
                self.without.insert(place);
            } else if self.dice.once_in(3) {
                self.without.remove(&place);
            }
        }
        for index in 0..self.machines.len() {
            let state = self.machines[index].instance.state;
            if state == InstanceState::Running && self.dice.once_in(20) {
                let by_hand = if self.dice.once_in(2) {
                    InstanceState::ShuttingDown
                } else {
                    InstanceState::Stopping
                };
                self.change(index, by_hand);
            }
        }
    }

    pub fn be_kind(&mut self) {
        self.unkind = false;
        self.without.clear();
        for machine in &mut self.machines {
            machine.visible_at = self.now;
        }
        for (_, _, visible_at) in &mut self.volumes {
            *visible_at = self.now;
        }
    }

    fn change(&mut self, index: usize, state: InstanceState) {
        self.machines[index].instance.state = state;
        self.machines[index].changed_at = self.now;
    }

    fn position(&self, id: &InstanceId) -> Option<usize> {
        self.machines.iter().position(|m| m.instance.id == *id)
    }

    /// Does an action. In an unkind world calls fail before their effect or after it.
    pub fn act(&mut self, slots: &[NodeSlot], action: &NodeAction) -> Outcome {
        if self.unkind && self.dice.once_in(6) {
            let failures = [
                Failure::Throttled,
                Failure::Unreachable,
                Failure::Server,
                Failure::Unauthorized,
                Failure::Quota,
            ];
            let which = self.dice.below(5) as usize;
            return Outcome::Failed(error(failures[which]));
        }
        let outcome = self.effect(slots, action);
        if self.unkind && self.dice.once_in(3) {
            return Outcome::Failed(error(Failure::Unreachable));
        }
        outcome
    }

    fn effect(&mut self, slots: &[NodeSlot], action: &NodeAction) -> Outcome {
        use InstanceState as S;
        let slot = |number: &u32| slots.iter().find(|s| s.slot == *number).unwrap().clone();
        match action {
            NodeAction::Launch { slot: number } => self.launch(&slot(number)),
            NodeAction::FindByToken { slot: number } => {
                let token = client_token(UID, &slot(number));
                let shown = self.instances();
                let found = shown.into_iter().find(|i| i.client_token == token);
                found.map_or(Outcome::NotFound, Outcome::Launched)
            }
            NodeAction::Start { instance, .. } => {
                let Some(index) = self.position(instance) else {
                    return Outcome::Failed(error(Failure::NotFound));
                };
                let found = &self.machines[index].instance;
                let place = (found.instance_type.clone(), found.zone.clone());
                match found.state {
                    S::Stopped if self.without.contains(&place) => {
                        Outcome::Failed(error(Failure::Capacity))
                    }
                    S::Stopped => {
                        self.change(index, S::Pending);
                        Outcome::Done
                    }
                    S::Pending | S::Running => Outcome::Done,
                    _ => Outcome::Failed(error(Failure::State)),
                }
            }
            NodeAction::Stop { instance, .. } => {
                let Some(index) = self.position(instance) else {
                    return Outcome::Failed(error(Failure::NotFound));
                };
                match self.machines[index].instance.state {
                    S::Running => self.change(index, S::Stopping),
                    S::Stopping | S::Stopped => {}
                    _ => return Outcome::Failed(error(Failure::State)),
                }
                Outcome::Done
            }
            NodeAction::Terminate { instance } => {
                if let Some(index) = self.position(instance)
                    && !self.machines[index].instance.state.is_ending()
                {
                    self.change(index, S::ShuttingDown);
                }
                Outcome::Done
            }
            NodeAction::CreateVolume { slot: number } => self.create_volume(&slot(number)),
            NodeAction::AttachVolume {
                volume, instance, ..
            } => {
                let runs = self.position(instance).map(|i| &self.machines[i].instance);
                let zone = runs
                    .filter(|i| i.state == S::Running)
                    .map(|i| i.zone.clone());
                let found = self.volumes.iter_mut().find(|(v, _, _)| v.id == *volume);
                match (found, zone) {
                    (Some((volume, _, _)), Some(zone)) if volume.zone == zone => {
                        match &volume.state {
                            VolumeState::Available => {
                                volume.state = VolumeState::InUse(instance.clone());
                                Outcome::Done
                            }
                            VolumeState::InUse(holder) if holder == instance => Outcome::Done,
                            _ => Outcome::Failed(error(Failure::State)),
                        }
                    }
                    _ => Outcome::Failed(error(Failure::State)),
                }
            }
            NodeAction::DeleteVolume { volume } => {
                let held = |(v, _, _): &(Volume, String, i64)| {
                    v.id == *volume && matches!(v.state, VolumeState::InUse(_))
                };
                if self.volumes.iter().any(held) {
                    return Outcome::Failed(error(Failure::State));
                }
                self.volumes.retain(|(v, _, _)| v.id != *volume);
                Outcome::Done
            }
            NodeAction::Drain { node, .. } => {
                for view in self.nodes.iter_mut().filter(|n| n.name == *node) {
                    view.unschedulable = true;
                }
                if self.unkind && self.dice.once_in(3) {
                    return Outcome::StillDraining {
                        message: "a budget".to_owned(),
                    };
                }
                self.pods.retain(|pod| pod.node.as_ref() != Some(node));
                Outcome::Done
            }
            NodeAction::Uncordon { node } => {
                for view in self.nodes.iter_mut().filter(|n| n.name == *node) {
                    view.unschedulable = false;
                }
                Outcome::Done
            }
            NodeAction::DeleteNode { node } => {
                self.nodes.retain(|n| n.name != *node);
                Outcome::Done
            }
        }
    }

    fn launch(&mut self, slot: &NodeSlot) -> Outcome {
        let token = client_token(UID, slot);
        assert!(token.is_ascii() && token.len() <= 64);
        let known = self
            .machines
            .iter()
            .find(|m| m.instance.client_token == token);
        if let Some(machine) = known {
            if machine.image != self.image {
                return Outcome::Failed(error(Failure::TokenMismatch));
            }
            if machine.instance.state == InstanceState::Terminated {
                return Outcome::Failed(error(Failure::TokenSpent));
            }
            return Outcome::Launched(machine.instance.clone());
        }
        let place = (slot.instance_type.clone(), slot.zone.clone());
        if self.without.contains(&place) {
            return Outcome::Failed(error(Failure::Capacity));
        }
        self.ids += 1;
        let mut instance = super::testing::instance(slot.slot, InstanceState::Pending);
        instance.id = InstanceId(format!("i-{}", self.ids));
        instance.instance_type = place.0;
        instance.zone = place.1;
        instance.client_token.clone_from(&token);
        instance.launched_at = u64::try_from(at(self.now).as_second()).unwrap();
        for (key, value) in [
            (tags::ATTEMPT, slot.attempt.to_string()),
            (tags::TEMPLATE, slot.template.clone()),
        ] {
            instance.tags.insert(key.to_owned(), value);
        }
        let registers = !(self.unkind && self.dice.once_in(8));
        let lag = if self.unkind {
            self.dice.below(50) as i64
        } else {
            0
        };
        self.machines.push(Machine {
            instance: instance.clone(),
            visible_at: self.now + lag,
            changed_at: self.now,
            image: self.image,
            registers,
        });
        *self.made.entry(token).or_default() += 1;
        Outcome::Launched(instance)
    }

    fn create_volume(&mut self, slot: &NodeSlot) -> Outcome {
        let token = volume_token(UID, slot);
        if let Some((volume, _, _)) = self.volumes.iter().find(|(_, t, _)| *t == token) {
            return Outcome::Volume(volume.clone());
        }
        self.ids += 1;
        let mut volume = super::testing::volume(slot.slot, &slot.zone, VolumeState::Creating);
        volume.id = VolumeId(format!("vol-{}", self.ids));
        let lag = if self.unkind {
            self.dice.below(50) as i64
        } else {
            0
        };
        self.volumes.push((volume.clone(), token, self.now + lag));
        Outcome::Volume(volume)
    }
}
