//! `StartInstances`, `StopInstances`, `TerminateInstances`; capacity and quotas.

use crate::catalogue::InstanceType;
use crate::form::Form;
use crate::xml::{Element, group, list, text};

use super::clock::halt;
use super::error::ApiError;
use super::launch::no_capacity;
use super::query;
use super::state::{Instance, InstanceState, Moment};
use super::{Answer, Step, World, later, reason_time};

/// One instance's state before and after a call.
type Change = (String, InstanceState, InstanceState);

impl World {
    pub(super) fn start_instances(&mut self, form: &Form, step: &mut Step<'_>) -> Answer {
        let ids = self.named_instances(form, step.now)?;
        query::dry_run(form)?;
        let mut wanted: Vec<(String, String, String)> = Vec::new();
        for id in &ids {
            let instance = self.known(id, step.now)?;
            match instance.state {
                InstanceState::Pending | InstanceState::Running => {}
                InstanceState::Stopped => wanted.push((
                    instance.instance_type.clone(),
                    instance.zone.clone(),
                    instance.tenancy.clone(),
                )),
                _ => return Err(wrong_state(id, "started")),
            }
        }
        for place in &wanted {
            let (name, zone, tenancy) = place;
            let Some(kind) = self.rules.catalogue.instance_type(name) else {
                return Err(no_capacity(name, zone));
            };
            let same = wanted.iter().filter(|other| *other == place).count();
            let same = u32::try_from(same).unwrap_or(u32::MAX);
            self.check_quota(kind.vcpus, same)?;
            if self.room_for(kind, zone, tenancy) < same {
                return Err(no_capacity(name, zone));
            }
        }
        let due = later(step.now, self.rules.timings.pending_ms);
        let changes = self.change(&ids, |instance| {
            if instance.state == InstanceState::Stopped {
                instance.turn(InstanceState::Pending, step.now, Some(due));
                instance.launched_at = step.now;
                instance.reason.clear();
                instance.state_reason = None;
            }
        });
        Ok(changes_shown(&changes))
    }

    pub(super) fn stop_instances(&mut self, form: &Form, step: &mut Step<'_>) -> Answer {
        let ids = self.named_instances(form, step.now)?;
        query::dry_run(form)?;
        for id in &ids {
            match self.known(id, step.now)?.state {
                InstanceState::Running | InstanceState::Stopping | InstanceState::Stopped => {}
                _ => return Err(wrong_state(id, "stopped")),
            }
        }
        let due = later(step.now, self.rules.timings.stopping_ms);
        let mut effects = Vec::new();
        let changes = self.change(&ids, |instance| {
            if instance.state == InstanceState::Running {
                effects.push(halt(instance, false));
                instance.turn(InstanceState::Stopping, step.now, Some(due));
                by_user(instance, step.now);
            }
        });
        step.effects.append(&mut effects);
        Ok(changes_shown(&changes))
    }

    pub(super) fn terminate_instances(&mut self, form: &Form, step: &mut Step<'_>) -> Answer {
        let ids = self.named_instances(form, step.now)?;
        query::dry_run(form)?;
        for id in &ids {
            let instance = self.known(id, step.now)?;
            if instance.protected && !instance.state.is_ending() {
                return Err(ApiError::bad(
                    "OperationNotPermitted",
                    format!(
                        "The instance '{id}' may not be terminated. Modify its 'disableApiTermination' instance attribute \
                         and try again."
                    ),
                ));
            }
        }
        let changes = self.end(&ids, None, step);
        Ok(changes_shown(&changes))
    }

    /// Ends instances, for the user or for a reason of the cloud's own.
    pub(super) fn end(
        &mut self,
        ids: &[String],
        reason: Option<(&str, &str)>,
        step: &mut Step<'_>,
    ) -> Vec<Change> {
        let now = step.now;
        let due = later(now, self.rules.timings.shutting_down_ms);
        let mut effects = Vec::new();
        let changes = self.change(ids, |instance| {
            if instance.state.is_ending() {
                return;
            }
            if instance.state == InstanceState::Running {
                effects.push(halt(instance, true));
            }
            instance.turn(InstanceState::ShuttingDown, now, Some(due));
            match reason {
                None => by_user(instance, now),
                Some((code, message)) => {
                    instance.reason = format!("{code}: {message} ({})", reason_time(now));
                    instance.state_reason = Some((code.to_owned(), format!("{code}: {message}")));
                }
            }
        });
        step.effects.append(&mut effects);
        changes
    }

    fn change(&mut self, ids: &[String], mut with: impl FnMut(&mut Instance)) -> Vec<Change> {
        let mut changes = Vec::new();
        for id in ids {
            if let Some(instance) = self.state.instances.get_mut(id) {
                let before = instance.state;
                with(instance);
                changes.push((id.clone(), before, instance.state));
            }
        }
        if changes.iter().any(|(_, before, after)| before != after) {
            self.touch();
        }
        changes
    }

    /// The instances that a call names, each once; all must be known.
    fn named_instances(&self, form: &Form, now: Moment) -> Result<Vec<String>, ApiError> {
        let ids = form.list("InstanceId");
        if ids.is_empty() {
            return Err(ApiError::missing("InstanceId"));
        }
        let mut known: Vec<String> = Vec::new();
        let mut unknown = Vec::new();
        for id in ids {
            query::check_id(id, "i", "InvalidInstanceID.Malformed")?;
            match self.known(id, now) {
                Ok(_) if known.iter().any(|earlier| earlier == id) => {}
                Ok(_) => known.push(id.to_owned()),
                Err(_) => unknown.push(id),
            }
        }
        if unknown.is_empty() {
            return Ok(known);
        }
        Err(not_found(&unknown))
    }

    /// An instance, if calls know it by now.
    pub(super) fn known(&self, id: &str, now: Moment) -> Result<&Instance, ApiError> {
        self.state
            .instances
            .get(id)
            .filter(|instance| instance.visible_at <= now)
            .ok_or_else(|| not_found(&[id]))
    }

    /// How many more such instances there is hardware for.
    pub(super) fn room_for(&self, kind: &InstanceType, zone: &str, tenancy: &str) -> u32 {
        let rules = self.state.capacity.iter();
        rules
            .filter(|rule| rule.matches(&kind.name, zone, tenancy))
            .filter_map(|rule| {
                let used = self
                    .state
                    .instances
                    .values()
                    .filter(|other| {
                        other.uses_capacity()
                            && rule.matches(&other.instance_type, &other.zone, &other.tenancy)
                    })
                    .count();
                Some(
                    rule.slots?
                        .saturating_sub(u32::try_from(used).unwrap_or(u32::MAX)),
                )
            })
            .min()
            .unwrap_or(u32::MAX)
    }

    /// Whether the account may run so many more.
    pub(super) fn check_quota(&self, vcpus: u32, count: u32) -> Result<(), ApiError> {
        let running: Vec<&Instance> = self
            .state
            .instances
            .values()
            .filter(|instance| instance.uses_capacity())
            .collect();
        let limits = &self.rules.limits;
        if let Some(limit) = limits.instances
            && running.len() + count as usize > limit as usize
        {
            return Err(ApiError::bad(
                "InstanceLimitExceeded",
                format!(
                    "You have requested more instances ({}) than your current instance limit of {limit} allows.",
                    running.len() + count as usize
                ),
            ));
        }
        let used: u64 = running
            .iter()
            .filter_map(|other| self.rules.catalogue.instance_type(&other.instance_type))
            .map(|kind| u64::from(kind.vcpus))
            .sum();
        if let Some(limit) = limits.vcpus
            && used + u64::from(vcpus) * u64::from(count) > u64::from(limit)
        {
            return Err(ApiError::bad(
                "VcpuLimitExceeded",
                format!(
                    "You have requested more vCPU capacity than your current vCPU limit of {limit} allows for the instance \
                     bucket that the specified instance type belongs to."
                ),
            ));
        }
        Ok(())
    }
}

fn by_user(instance: &mut Instance, now: Moment) {
    instance.reason = format!("User initiated ({})", reason_time(now));
    instance.state_reason = Some((
        "Client.UserInitiatedShutdown".to_owned(),
        "Client.UserInitiatedShutdown: User initiated shutdown".to_owned(),
    ));
}

fn not_found(ids: &[&str]) -> ApiError {
    let message = match ids {
        [id] => format!("The instance ID '{id}' does not exist"),
        _ => format!("The instance IDs '{}' do not exist", ids.join(", ")),
    };
    ApiError::bad("InvalidInstanceID.NotFound", message)
}

fn wrong_state(id: &str, verb: &str) -> ApiError {
    ApiError::bad(
        "IncorrectInstanceState",
        format!("The instance '{id}' is not in a state from which it can be {verb}."),
    )
}

/// An instance's state as answers write it.
pub(super) fn state_shown(name: &'static str, state: InstanceState) -> Element {
    group(
        name,
        vec![text("code", state.code()), text("name", state.name())],
    )
}

fn changes_shown(changes: &[Change]) -> Vec<Element> {
    vec![list(
        "instancesSet",
        changes.iter().map(|(id, before, after)| {
            vec![
                text("instanceId", id),
                state_shown("currentState", *after),
                state_shown("previousState", *before),
            ]
        }),
    )]
}
