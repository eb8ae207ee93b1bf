//! The pure middle: state, a request, the time and randomness in; an answer and effects out.

pub mod admin;
pub mod clock;
pub mod describe;
pub mod error;
pub mod filters;
pub mod launch;
mod launch_checks;
pub mod lifecycle;
pub mod limits;
pub mod offers;
pub mod query;
pub mod ssm;
pub mod state;
pub mod tags;
mod tokens;
pub mod volumes;
pub mod volumes_shown;

use serde_json::Value;

use crate::form::Form;
use crate::rules::Rules;
use crate::xml::Element;

pub use error::ApiError;
use limits::Buckets;
use state::{Moment, State, Tags};

/// What the edge has to do because of a call or because time went by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// An instance came to `running`: boot it.
    Boot(Box<Started>),
    /// An instance left `running`: end what was booted.
    Halt(Stopped),
}

/// An instance that came to `running`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Its id.
    pub instance_id: String,
    /// Its type.
    pub instance_type: String,
    /// Its zone.
    pub zone: String,
    /// Its address.
    pub private_ip: String,
    /// Its name.
    pub private_dns_name: String,
    /// User data, decoded.
    pub user_data: Vec<u8>,
    /// Its tags.
    pub tags: Tags,
    /// Which boot this is, from 1.
    pub boot: u32,
}

/// An instance that left `running`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Its id.
    pub instance_id: String,
    /// Its name.
    pub private_dns_name: String,
    /// Whether it ends for good, or may be started again.
    pub terminated: bool,
}

/// A small generator (SplitMix64) for ids. Not for secrets.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// An id of the long form: the prefix, `-`, and 17 hexadecimal digits of which the first is 0.
    pub fn id(&mut self, prefix: &str) -> String {
        format!("{prefix}-0{:016x}", self.draw())
    }

    /// A request id in the form of a UUID.
    pub fn request_id(&mut self) -> String {
        let (high, low) = (self.draw(), self.draw());
        format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xfff,
            low >> 48 & 0xfff,
            low & 0xffff_ffff_ffff
        )
    }
}

/// What one step may draw on, and where its effects go.
#[derive(Debug)]
pub struct Step<'a> {
    /// The time.
    pub now: Moment,
    /// For new ids.
    pub random: &'a mut Random,
    /// What the edge has to do.
    pub effects: Vec<Effect>,
}

impl<'a> Step<'a> {
    /// A step at this time.
    pub fn at(now: Moment, random: &'a mut Random) -> Self {
        Self {
            now,
            random,
            effects: Vec::new(),
        }
    }
}

/// The account: its rules and its state.
#[derive(Debug)]
pub struct World {
    /// What does not change by API calls.
    pub rules: Rules,
    /// What does.
    pub state: State,
    buckets: Buckets,
    revision: u64,
}

/// What an EC2 action answers.
pub type Answer = Result<Vec<Element>, ApiError>;

impl World {
    /// An account under these rules, with what an earlier one left.
    pub fn new(rules: Rules, state: State) -> Self {
        let buckets = Buckets::new(&rules.rate_limits);
        Self {
            rules,
            state,
            buckets,
            revision: 0,
        }
    }

    /// Grows with every change of [`World::state`].
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Says that the state has changed.
    fn touch(&mut self) {
        self.revision += 1;
    }

    /// One EC2 action.
    ///
    /// # Errors
    /// What EC2 would answer.
    pub fn ec2(&mut self, action: &str, form: &Form, step: &mut Step<'_>) -> Answer {
        self.advance(step);
        if !self.buckets.take(action, step.now) {
            return Err(ApiError::with(
                503,
                "RequestLimitExceeded",
                "Request limit exceeded.",
            ));
        }
        query::check_parameters(action, form)?;
        self.permit(&format!("ec2:{action}"))?;
        match action {
            "RunInstances" => self.run_instances(form, step),
            "StartInstances" => self.start_instances(form, step),
            "StopInstances" => self.stop_instances(form, step),
            "TerminateInstances" => self.terminate_instances(form, step),
            "DescribeInstances" => self.describe_instances(form, step.now),
            "DescribeInstanceStatus" => self.describe_instance_status(form, step.now),
            "DescribeInstanceTypes" => self.describe_instance_types(form),
            "DescribeInstanceTypeOfferings" => self.describe_instance_type_offerings(form),
            "DescribeSubnets" => self.describe_subnets(form),
            "DescribeSecurityGroups" => self.describe_security_groups(form),
            "DescribeImages" => self.describe_images(form),
            "DescribeVolumes" => self.describe_volumes(form, step.now),
            "DescribeTags" => self.describe_tags(form, step.now),
            "CreateVolume" => self.create_volume(form, step),
            "AttachVolume" => self.attach_volume(form, step),
            "DetachVolume" => self.detach_volume(form, step),
            "DeleteVolume" => self.delete_volume(form, step),
            "CreateTags" => self.create_tags(form, step.now),
            _ => Err(ApiError::bad(
                "InvalidAction",
                format!("The action {action} is not valid for this web service."),
            )),
        }
    }

    /// One SSM action.
    ///
    /// # Errors
    /// What SSM would answer.
    pub fn ssm(
        &mut self,
        action: &str,
        body: &Value,
        step: &mut Step<'_>,
    ) -> Result<Value, ApiError> {
        self.advance(step);
        if !self.buckets.take(action, step.now) {
            return Err(ApiError::bad("ThrottlingException", "Rate exceeded"));
        }
        self.answer_ssm(action, body, step)
    }

    /// Refuses an EC2 action whose IAM action is denied.
    fn permit(&self, iam: &str) -> Result<(), ApiError> {
        if !self.is_denied(iam) {
            return Ok(());
        }
        let account = &self.rules.catalogue.account;
        Err(ApiError::with(
            403,
            "UnauthorizedOperation",
            format!(
                "You are not authorized to perform this operation. User: arn:aws:sts::{account}:assumed-role/halo/emulator \
                 is not authorized to perform: {iam} on resource: {} because no identity-based policy allows the {iam} action.",
                resource_of(iam, &self.rules.catalogue.region, account)
            ),
        ))
    }

    /// Whether an IAM action is denied.
    pub(crate) fn is_denied(&self, iam: &str) -> bool {
        let denied = &self.state.denied;
        denied
            .iter()
            .any(|pattern| crate::rules::action_matches(pattern, iam))
    }

    /// The first id of this kind that is not taken.
    fn fresh_id(&self, prefix: &str, random: &mut Random) -> String {
        loop {
            let id = random.id(prefix);
            if !self.state.instances.contains_key(&id) && !self.state.volumes.contains_key(&id) {
                return id;
            }
        }
    }
}

fn resource_of(iam: &str, region: &str, account: &str) -> String {
    let kind = match iam {
        "iam:PassRole" => return format!("arn:aws:iam::{account}:role/halo-node"),
        "ec2:RunInstances"
        | "ec2:StartInstances"
        | "ec2:StopInstances"
        | "ec2:TerminateInstances"
        | "ec2:CreateTags" => "instance/*",
        "ec2:CreateVolume" | "ec2:AttachVolume" | "ec2:DetachVolume" | "ec2:DeleteVolume" => {
            "volume/*"
        }
        _ => "*",
    };
    format!("arn:aws:ec2:{region}:{account}:{kind}")
}

/// A moment so many milliseconds later.
pub(crate) fn later(moment: Moment, ms: u64) -> Moment {
    moment.saturating_add(ms.saturating_mul(1_000))
}

/// A moment as the API writes it: to the second, in UTC.
pub(crate) fn timestamp(moment: Moment) -> String {
    written(moment, "%Y-%m-%dT%H:%M:%S.000Z")
}

/// A moment as reasons of state changes write it.
pub(crate) fn reason_time(moment: Moment) -> String {
    written(moment, "%Y-%m-%d %H:%M:%S GMT")
}

fn written(moment: Moment, format: &str) -> String {
    i64::try_from(moment)
        .ok()
        .and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok())
        .map_or_else(String::new, |at| at.strftime(format).to_string())
}
