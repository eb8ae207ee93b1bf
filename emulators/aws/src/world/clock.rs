//! What happens by itself as time goes by.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::state::{AttachmentState, Instance, InstanceState, Moment, VolumeState};
use super::{Effect, Started, Step, Stopped, World};

/// A change that time brings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Instance(String),
    Volume(String),
    Attachment(String),
    Forget(String),
}

impl World {
    /// Makes everything true that is due by now, in the order in which it was due.
    pub fn advance(&mut self, step: &mut Step<'_>) {
        while let Some((at, change)) = self.next_change()
            && at <= step.now
        {
            match change {
                Change::Instance(id) => self.instance_moves_on(&id, at, step),
                Change::Volume(id) => self.volume_moves_on(&id),
                Change::Attachment(id) => self.attachment_moves_on(&id, at),
                Change::Forget(id) => {
                    self.state.instances.remove(&id);
                }
            }
            self.touch();
        }
    }

    /// When something changes by itself next.
    pub fn next_due(&self) -> Option<Moment> {
        self.next_change().map(|(at, _)| at)
    }

    fn next_change(&self) -> Option<(Moment, Change)> {
        let visible = self.rules.timings.terminated_visible_ms * 1_000;
        let instances = self.state.instances.values().filter_map(|instance| {
            if instance.state == InstanceState::Terminated {
                let at = instance.since.saturating_add(visible);
                return Some((at, Change::Forget(instance.id.clone())));
            }
            Some((instance.due?, Change::Instance(instance.id.clone())))
        });
        let volumes = self
            .state
            .volumes
            .values()
            .filter_map(|volume| Some((volume.due?, Change::Volume(volume.id.clone()))));
        let attachments = self.state.volumes.values().filter_map(|volume| {
            let due = volume.attachment.as_ref()?.due?;
            Some((due, Change::Attachment(volume.id.clone())))
        });
        instances.chain(volumes).chain(attachments).min()
    }

    fn instance_moves_on(&mut self, id: &str, at: Moment, step: &mut Step<'_>) {
        let Some(instance) = self.state.instances.get_mut(id) else {
            return;
        };
        match instance.state {
            InstanceState::Pending => {
                instance.turn(InstanceState::Running, at, None);
                instance.state_reason = None;
                instance.boots += 1;
                step.effects.push(Effect::Boot(Box::new(started(instance))));
            }
            InstanceState::Stopping => instance.turn(InstanceState::Stopped, at, None),
            InstanceState::ShuttingDown => {
                instance.turn(InstanceState::Terminated, at, None);
                instance.private_ip = None;
                instance.private_dns.clear();
                self.release_volumes(id);
            }
            InstanceState::Running | InstanceState::Stopped | InstanceState::Terminated => {
                instance.due = None;
            }
        }
    }

    /// The volumes of an ended instance: some end with it, the others are free again.
    fn release_volumes(&mut self, instance: &str) {
        self.state.volumes.retain(|_, volume| {
            let Some(on) = &volume.attachment else {
                return true;
            };
            if on.instance != instance {
                return true;
            }
            if on.delete_on_termination {
                return false;
            }
            volume.attachment = None;
            volume.state = VolumeState::Available;
            true
        });
    }

    fn volume_moves_on(&mut self, id: &str) {
        let Some(volume) = self.state.volumes.get_mut(id) else {
            return;
        };
        volume.due = None;
        match volume.state {
            VolumeState::Creating => volume.state = VolumeState::Available,
            VolumeState::Deleting => {
                self.state.volumes.remove(id);
            }
            VolumeState::Available | VolumeState::InUse => {}
        }
    }

    fn attachment_moves_on(&mut self, id: &str, at: Moment) {
        let Some(volume) = self.state.volumes.get_mut(id) else {
            return;
        };
        let Some(on) = &mut volume.attachment else {
            return;
        };
        on.due = None;
        on.since = at;
        match on.state {
            AttachmentState::Attaching => on.state = AttachmentState::Attached,
            AttachmentState::Detaching => {
                volume.attachment = None;
                volume.state = VolumeState::Available;
            }
            AttachmentState::Attached => {}
        }
    }

    /// What a restart of this program has to boot: everything that runs, once more.
    pub fn boot_again(&mut self, step: &mut Step<'_>) {
        self.advance(step);
        // What came to running just now is among the effects already.
        let booted: Vec<String> = step
            .effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Boot(started) => Some(started.instance_id.clone()),
                Effect::Halt(_) => None,
            })
            .collect();
        for instance in self.state.instances.values_mut() {
            if instance.state == InstanceState::Running && !booted.contains(&instance.id) {
                instance.boots += 1;
                step.effects.push(Effect::Boot(Box::new(started(instance))));
                self.revision += 1;
            }
        }
    }
}

fn started(instance: &Instance) -> Started {
    Started {
        instance_id: instance.id.clone(),
        instance_type: instance.instance_type.clone(),
        zone: instance.zone.clone(),
        private_ip: instance
            .private_ip
            .map(|ip| ip.to_string())
            .unwrap_or_default(),
        private_dns_name: instance.private_dns.clone(),
        // It was checked at the launch.
        user_data: STANDARD.decode(&instance.user_data).unwrap_or_default(),
        tags: instance.tags.clone(),
        boot: instance.boots,
    }
}

/// The effect of an instance that leaves `running`.
pub(super) fn halt(instance: &Instance, terminated: bool) -> Effect {
    Effect::Halt(Stopped {
        instance_id: instance.id.clone(),
        private_dns_name: instance.private_dns.clone(),
        terminated,
    })
}
