//! What happens to an account without its API: hardware fails, capacity comes and goes, a person changes a policy.

use super::clock::halt;
use super::limits::Buckets;
use super::state::{CapacityRule, InstanceState, ParameterKind, State};
use super::{Step, World, later};
use crate::rules::{Limits, RateLimit, Timings};

impl World {
    /// Sets, replaces or takes away the rule for one place.
    pub fn set_capacity(&mut self, rule: CapacityRule) {
        self.state.capacity.retain(|other| !other.same_place(&rule));
        if rule.slots.is_some() {
            self.state.capacity.push(rule);
        }
        self.touch();
    }

    /// Replaces the list of denied IAM actions.
    pub fn set_denied(&mut self, denied: Vec<String>) {
        self.state.denied = denied;
        self.touch();
    }

    /// Ends an instance out of band; `reason` is the code and message of its state reason, or the user's own doing.
    /// Whether there is such an instance.
    pub fn terminate_out_of_band(
        &mut self,
        id: &str,
        reason: Option<(&str, &str)>,
        step: &mut Step<'_>,
    ) -> bool {
        self.advance(step);
        !self.end(&[id.to_owned()], reason, step).is_empty()
    }

    /// Stops a running instance out of band, as scheduled maintenance does. Whether it was running.
    pub fn stop_out_of_band(&mut self, id: &str, step: &mut Step<'_>) -> bool {
        self.advance(step);
        let due = later(step.now, self.rules.timings.stopping_ms);
        let Some(instance) = self.state.instances.get_mut(id) else {
            return false;
        };
        if instance.state != InstanceState::Running {
            return false;
        }
        step.effects.push(halt(instance, false));
        instance.turn(InstanceState::Stopping, step.now, Some(due));
        instance.reason = "Server.ScheduledStop".to_owned();
        instance.state_reason = Some((
            "Server.ScheduledStop".to_owned(),
            "Server.ScheduledStop: Stopped due to scheduled retirement".to_owned(),
        ));
        self.touch();
        true
    }

    /// Puts a parameter, or a new version of it; returns the version.
    pub fn put_parameter_out_of_band(
        &mut self,
        name: &str,
        value: &str,
        kind: ParameterKind,
        step: &mut Step<'_>,
    ) -> u64 {
        self.store_parameter(name, value, kind, None, step.now)
    }

    /// Takes a parameter away; whether it was there.
    pub fn remove_parameter(&mut self, name: &str) -> bool {
        let there = self.state.parameters.remove(name).is_some();
        if there {
            self.touch();
        }
        there
    }

    /// Other delays from now on. What is on its way already keeps its time.
    pub fn set_timings(&mut self, timings: Timings) {
        self.rules.timings = timings;
        self.touch();
    }

    /// Other limits from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.rules.limits = limits;
        self.touch();
    }

    /// Other budgets of calls from now on; the buckets begin full.
    pub fn set_rate_limits(&mut self, limits: Vec<RateLimit>) {
        self.buckets = Buckets::new(&limits);
        self.rules.rate_limits = limits;
        self.touch();
    }

    /// An empty account; what was booted is ended.
    pub fn reset(&mut self, step: &mut Step<'_>) {
        for instance in self.state.instances.values() {
            if instance.state == InstanceState::Running {
                step.effects.push(halt(instance, true));
            }
        }
        self.state = State::default();
        self.buckets = Buckets::new(&self.rules.rate_limits);
        self.touch();
    }

    /// The state without the values of parameters.
    pub fn state_shown(&self) -> State {
        let mut state = self.state.clone();
        for version in state.parameters.values_mut().flatten() {
            version.value.0 = format!("<{} bytes>", version.value.0.len());
        }
        state
    }
}
