//! What happens by itself as time goes by.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::state::{AttachmentState, Instance, InstanceState, Moment, VolumeState};
use super::{Effect, Started, Step, Stopped, World, later};

/// What time changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Instance,
    Volume,
    Attachment,
    Forget,
}

impl World {
    /// Makes everything true that is due by now, in the order in which it was due.
    pub fn advance(&mut self, step: &mut Step<'_>) {
        // One change at a time, because one may bring another.
        while let Some((at, change, id)) = self.next_change()
            && at <= step.now
        {
            let id = id.to_owned();
            match change {
                Change::Instance => self.instance_moves_on(&id, at, step),
                Change::Volume => self.volume_moves_on(&id),
                Change::Attachment => self.attachment_moves_on(&id, at),
                Change::Forget => {
                    self.state.instances.remove(&id);
                }
            }
            self.touch();
        }
    }

    /// When something changes by itself next.
    pub fn next_due(&self) -> Option<Moment> {
        self.next_change().map(|(at, _, _)| at)
    }

    fn next_change(&self) -> Option<(Moment, Change, &str)> {
        let visible = self.rules.timings.terminated_visible_ms;
        let instances = self.state.instances.values().filter_map(|instance| {
            if instance.state == InstanceState::Terminated {
                let at = later(instance.since, visible);
                return Some((at, Change::Forget, instance.id.as_str()));
            }
            Some((instance.due?, Change::Instance, instance.id.as_str()))
        });
        let volumes = self
            .state
            .volumes
            .values()
            .filter_map(|volume| Some((volume.due?, Change::Volume, volume.id.as_str())));
        let attachments = self.state.volumes.values().filter_map(|volume| {
            let due = volume.attachment.as_ref()?.due?;
            Some((due, Change::Attachment, volume.id.as_str()))
        });
        instances.chain(volumes).chain(attachments).min()
    }

    fn instance_moves_on(&mut self, id: &str, at: Moment, step: &mut Step<'_>) {
        let locked_out = self.is_locked_out(id);
        let Some(instance) = self.state.instances.get_mut(id) else {
            return;
        };
        match instance.state {
            InstanceState::Pending if locked_out => {
                let (code, message) = ("Client.InternalError", "Client error on launch");
                // A first launch ends for good; what has run before is stopped again.
                let next = match instance.boots {
                    0 => InstanceState::ShuttingDown,
                    _ => InstanceState::Stopping,
                };
                instance.turn(next, at, Some(at));
                instance.reason = format!("{code}: {message}");
                instance.state_reason = Some((code.to_owned(), format!("{code}: {message}")));
            }
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

    /// Whether an instance cannot read its encrypted disks: EC2 launches it all the same and ends it before it runs.
    fn is_locked_out(&self, id: &str) -> bool {
        self.is_denied("kms:CreateGrant")
            && self
                .state
                .volumes_of(id)
                .iter()
                .any(|volume| volume.encrypted)
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
