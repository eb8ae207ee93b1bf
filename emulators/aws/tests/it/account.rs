//! An account without a server: calls as pairs, time by hand.

use halo_aws_emulator::form::Form;
use halo_aws_emulator::world::{Effect, Random, Step, World};
use halo_aws_emulator::{Rules, State};
use serde_json::Value;

use crate::wire::Leaves;

/// The time at which every account begins: 2026-11-21T12:00:00Z, in microseconds.
pub const START: u64 = 1_795_262_400_000_000;

/// A launch that succeeds; tests change one thing.
pub const LAUNCH: &[(&str, &str)] = &[
    ("ImageId", "ami-00000000000133001"),
    ("InstanceType", "r7iz.4xlarge"),
    ("MinCount", "1"),
    ("MaxCount", "1"),
    ("SubnetId", "subnet-0000000000000000a"),
    ("SecurityGroupId.1", "sg-00000000000000001"),
];

/// One account.
pub struct Account {
    pub world: World,
    pub now: u64,
    pub random: Random,
    pub effects: Vec<Effect>,
}

impl Account {
    /// Under the default rules.
    pub fn new() -> Self {
        Self::under(Rules::default())
    }

    pub fn under(rules: Rules) -> Self {
        Self {
            world: World::new(rules, State::default()),
            now: START,
            random: Random(7),
            effects: Vec::new(),
        }
    }

    /// One call; its answer by paths, or the error's code.
    pub fn call(&mut self, action: &str, pairs: &[(&str, &str)]) -> Result<Leaves, String> {
        let mut all = vec![("Action", action), ("Version", "2016-11-15")];
        all.extend_from_slice(pairs);
        let form = Form::of(all);
        let mut step = Step::at(self.now, &mut self.random);
        let answer = self.world.ec2(action, &form, &mut step);
        self.effects.append(&mut step.effects);
        match answer {
            Ok(children) => {
                let xml = halo_aws_emulator::xml::answer(action, "the-request", &children);
                Ok(Leaves::read(&xml))
            }
            Err(error) => Err(error.code.into_owned()),
        }
    }

    /// One SSM call.
    pub fn ssm(&mut self, action: &str, body: Value) -> Result<Value, String> {
        let mut step = Step::at(self.now, &mut self.random);
        self.world
            .ssm(action, &body, &mut step)
            .map_err(|error| error.code.into_owned())
    }

    /// A launch with some parameters changed; an empty value takes one away.
    pub fn launch(&mut self, changes: &[(&str, &str)]) -> Result<Leaves, String> {
        let mut pairs: Vec<(&str, &str)> = LAUNCH
            .iter()
            .copied()
            .filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name))
            .collect();
        pairs.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
        self.call("RunInstances", &pairs)
    }

    /// A launched instance's id.
    pub fn launched(&mut self, changes: &[(&str, &str)]) -> String {
        self.launch(changes).unwrap().one("instanceId")
    }

    /// A running instance's id.
    pub fn running(&mut self, changes: &[(&str, &str)]) -> String {
        let id = self.launched(changes);
        self.pass(5_000);
        assert_eq!(self.state_of(&id), "running");
        id
    }

    /// Lets time pass.
    pub fn pass(&mut self, ms: u64) {
        self.now += ms * 1_000;
        let mut step = Step::at(self.now, &mut self.random);
        self.world.advance(&mut step);
        self.effects.append(&mut step.effects);
    }

    /// An instance's state by its own name, without a call.
    pub fn state_of(&self, id: &str) -> &'static str {
        self.world.state.instances[id].state.name()
    }

    /// A volume in zone a that is available.
    pub fn volume(&mut self, changes: &[(&str, &str)]) -> String {
        let mut pairs = vec![("Size", "100"), ("VolumeType", "gp3")];
        if !changes.iter().any(|(name, _)| *name == "AvailabilityZone") {
            pairs.push(("AvailabilityZone", "us-east-2a"));
        }
        pairs.extend_from_slice(changes);
        let id = self.call("CreateVolume", &pairs).unwrap().one("volumeId");
        self.pass(5_000);
        id
    }
}
