//! What a cluster and a cloud do by themselves, second by second.

use halo_cloud::{InstanceState, VolumeState};

use super::world::{World, at};
use crate::nodes::plan::{NodeView, PodPlace};
use crate::runtime::records::PodView;

impl World {
    /// The cluster and the cloud go on for a second.
    pub(super) fn tick(&mut self) {
        self.now += 1;
        let now = self.now;
        for (instance, since) in self.instances.values_mut() {
            let (after, next) = match instance.state {
                InstanceState::Pending => (3, InstanceState::Running),
                InstanceState::Stopping => (4, InstanceState::Stopped),
                InstanceState::ShuttingDown => (4, InstanceState::Terminated),
                other => (i64::MAX, other),
            };
            if now - *since >= after {
                (instance.state, *since) = (next, now);
            }
            let name = format!("node-{}", instance.id);
            let view = NodeView {
                name: name.clone(),
                instance: Some(instance.id.clone()),
                ready: false,
                unschedulable: false,
                deleting: false,
            };
            let node = self.nodes.get_mut(&name);
            match (instance.state, node) {
                (InstanceState::Running, None) if now - *since >= 5 => {
                    self.nodes.insert(name, (view, now));
                }
                (InstanceState::Running, Some((node, since))) => node.ready = now - *since >= 3,
                (_, Some((node, since))) => (node.ready, *since) = (false, now),
                (_, None) => {}
            }
        }
        for volume in self.volumes.values_mut() {
            if let VolumeState::InUse(instance) = &volume.state
                && self.instances[&instance.0].0.state.is_ending()
            {
                volume.state = VolumeState::Available;
            }
        }
        self.deployment();
    }

    /// What the controllers of Deployments and pods do.
    fn deployment(&mut self) {
        let now = self.now;
        let nodes = &self.nodes;
        self.pods.retain(|(pod, since)| {
            let orphan = pod
                .place
                .node
                .as_ref()
                .is_some_and(|node| !nodes.contains_key(node));
            let ended = pod.place.ending && now - since >= 3;
            !orphan && !ended
        });
        let wanted = self.replicas as usize;
        let alive = self
            .pods
            .iter()
            .filter(|(pod, _)| !pod.place.ending)
            .count();
        for _ in alive..wanted {
            self.made += 1;
            let name = format!("pod-{}", self.made);
            let pod = PodView {
                place: PodPlace {
                    name: name.clone(),
                    node: None,
                    ready: false,
                    ending: false,
                },
                over: false,
                uid: name,
                substrate: "qwen".to_owned(),
                trouble: None,
                ready_since: None,
                scheduled_since: None,
                started_at: None,
            };
            self.pods.push((pod, now));
        }
        let mut surplus = alive.saturating_sub(wanted);
        let taken: Vec<String> = self
            .pods
            .iter()
            .filter_map(|(pod, _)| pod.place.node.clone())
            .collect();
        let mut free = self
            .nodes
            .values()
            .filter(|(node, _)| node.ready && !node.unschedulable && !taken.contains(&node.name))
            .map(|(node, _)| node.name.clone());
        for (pod, since) in &mut self.pods {
            if surplus > 0 && !pod.place.ending {
                surplus -= 1;
                (pod.place.ending, pod.place.ready, *since) = (true, false, now);
            }
            if pod.place.node.is_none() && !pod.place.ending {
                pod.place.node = free.next();
                *since = now;
            }
            let node = pod
                .place
                .node
                .as_ref()
                .and_then(|node| self.nodes.get(node));
            let healthy = node.is_some_and(|(node, _)| node.ready);
            pod.place.ready = healthy && !pod.place.ending && now - *since >= 4;
            pod.ready_since = pod.place.ready.then(|| at(now));
        }
    }
}
