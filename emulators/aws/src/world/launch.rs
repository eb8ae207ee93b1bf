//! `RunInstances`.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::catalogue::{Image, InstanceType, Subnet};
use crate::form::Form;
use crate::rules::SpentToken;
use crate::xml::text;

use super::error::ApiError;
use super::query::{self, boolean, number, required, word};
use super::state::{
    Attachment, AttachmentState, Instance, InstanceState, Metadata, TokenUse, Volume, VolumeState,
};
use super::volumes::Disk;
use super::{Answer, Step, World, tags};

/// The most bytes of user data, before base64.
const MAX_USER_DATA: usize = 16_384;

/// A launch that is well formed and names only things that exist.
struct Launch<'a> {
    kind: &'a InstanceType,
    image: &'a Image,
    subnet: &'a Subnet,
    tenancy: String,
    groups: Vec<String>,
    disks: Vec<Disk>,
    user_data: String,
    metadata: Metadata,
    profile: Option<String>,
    specified: tags::Specified,
    least: u32,
    most: u32,
}

impl World {
    /// Launches instances, or returns those that the client token launched before.
    pub(super) fn run_instances(&mut self, form: &Form, step: &mut Step<'_>) -> Answer {
        required(form, "ImageId")?;
        for name in ["MinCount", "MaxCount"] {
            required(form, name)?;
        }
        let specified = tags::specified(form, &["instance", "volume", "network-interface"])?;
        if !specified.is_empty() {
            self.permit("ec2:CreateTags")?;
        }
        if !form.structure("IamInstanceProfile").is_empty() {
            self.permit("iam:PassRole")?;
        }
        query::dry_run(form)?;
        let token = self.token_key(form)?;
        let fingerprint = fingerprint(form);
        if let Some(key) = &token
            && let Some(earlier) = self.state.launch_tokens.get(key)
        {
            if earlier.fingerprint != fingerprint {
                return Err(mismatch());
            }
            if !earlier.made.is_empty() {
                return self.launched_before(&earlier.made);
            }
        }
        let launch = self.check_launch(form, specified)?;
        let room = self.room_for(launch.kind, &launch.subnet.zone, &launch.tenancy);
        let (least, most) = (launch.least, launch.most);
        self.check_quota(launch.kind.vcpus, most)?;
        if room < least {
            let error = no_capacity(&launch.kind.name, &launch.subnet.zone);
            if let Some(key) = token {
                // The token is bound to its parameters even though it made nothing.
                let made = Vec::new();
                let used = TokenUse { fingerprint, made };
                self.state.launch_tokens.insert(key, used);
                self.touch();
            }
            return Err(error);
        }
        let count = room.min(most);
        let addresses = self.addresses(launch.subnet, count)?;
        let mut next_host = None;
        let reservation = step.random.id("r");
        let (mut instances, mut volumes) = (Vec::new(), Vec::new());
        for (index, (host, ip)) in (0..).zip(addresses) {
            next_host = Some(host + 1);
            let id = self.fresh_id("i", step.random);
            let instance =
                self.new_instance(&launch, form, &id, &reservation, index, ip, step.now)?;
            for disk in &launch.disks {
                let volume = self.fresh_id("vol", step.random);
                volumes.push(self.attached_volume(&launch, disk, volume, &id, step.now));
            }
            instances.push(instance);
        }
        let subnet = launch.subnet.id.clone();
        if let Some(next_host) = next_host {
            self.state.next_host.insert(subnet, next_host);
        }
        let made: Vec<String> = instances
            .iter()
            .map(|instance| instance.id.clone())
            .collect();
        for volume in volumes {
            self.state.volumes.insert(volume.id.clone(), volume);
        }
        for instance in instances {
            self.state.instances.insert(instance.id.clone(), instance);
        }
        if let Some(key) = token {
            let made = made.clone();
            let used = TokenUse { fingerprint, made };
            self.state.launch_tokens.insert(key, used);
        }
        self.touch();
        Ok(self.reservation_of(&made))
    }

    /// A token counts per zone if the request names one, and per region otherwise.
    fn token_key(&self, form: &Form) -> Result<Option<String>, ApiError> {
        let Some(token) = form.get("ClientToken").filter(|token| !token.is_empty()) else {
            return Ok(None);
        };
        check_token(token)?;
        let subnet = subnet_id(form).and_then(|id| self.rules.catalogue.subnet(id));
        let zone = subnet
            .map(|subnet| subnet.zone.as_str())
            .or_else(|| form.get("Placement.AvailabilityZone"));
        Ok(Some(format!("{token}@{}", zone.unwrap_or("region"))))
    }

    fn launched_before(&self, made: &[String]) -> Answer {
        let known: Vec<&Instance> = made
            .iter()
            .filter_map(|id| self.state.instances.get(id))
            .collect();
        let all_ended = known.iter().all(|instance| instance.state.is_ending());
        if known.is_empty() || all_ended && self.rules.spent_token == SpentToken::Refuse {
            return Err(ApiError::bad(
                "IdempotentInstanceTerminated",
                "The client token you have provided is associated with a terminated instance. Please use a different \
                 client token.",
            ));
        }
        Ok(self.reservation_of(made))
    }

    fn reservation_of(&self, made: &[String]) -> Vec<crate::xml::Element> {
        let instances: Vec<&Instance> = made
            .iter()
            .filter_map(|id| self.state.instances.get(id))
            .collect();
        self.reservation(&instances)
    }

    fn check_launch<'a>(
        &'a self,
        form: &Form,
        specified: tags::Specified,
    ) -> Result<Launch<'a>, ApiError> {
        let catalogue = &self.rules.catalogue;
        let least = number(form, "MinCount")?.unwrap_or(0);
        let most = number(form, "MaxCount")?.unwrap_or(0);
        if least == 0 || most < least {
            return Err(ApiError::value(format!(
                "Invalid value '{least}' for MinCount with MaxCount '{most}'."
            )));
        }
        let type_name = required(form, "InstanceType")?;
        let kind = catalogue.instance_type(type_name).ok_or_else(|| {
            ApiError::value(format!("Invalid value '{type_name}' for InstanceType."))
        })?;
        let image = self.launch_image(form, kind)?;
        let subnet = self.launch_subnet(form, kind)?;
        let groups = self.launch_groups(form)?;
        if !kind.zones.contains(&subnet.zone) {
            return Err(ApiError::bad(
                "Unsupported",
                format!(
                    "Your requested instance type ({type_name}) is not supported in your requested Availability Zone ({}). \
                     Please retry your request by not specifying an Availability Zone or choosing {}.",
                    subnet.zone,
                    kind.zones.join(", ")
                ),
            ));
        }
        let tenancy = word(form, "Placement.Tenancy", &["default", "dedicated"])?;
        if tenancy == "dedicated" && !kind.dedicated {
            return Err(ApiError::bad(
                "Unsupported",
                "The requested configuration is currently not supported. Please check the documentation for supported \
                 configurations.",
            ));
        }
        let switch = ["enabled", "disabled"];
        let hop_limit = number(form, "MetadataOptions.HttpPutResponseHopLimit")?.unwrap_or(1);
        if !(1..=64).contains(&hop_limit) {
            return Err(ApiError::value(format!(
                "Value ({hop_limit}) for parameter HttpPutResponseHopLimit is invalid. Expecting a value between 1 and 64."
            )));
        }
        Ok(Launch {
            kind,
            image,
            subnet,
            tenancy,
            groups,
            disks: self.launch_disks(form, image)?,
            user_data: user_data(form)?,
            metadata: Metadata {
                tokens: word(
                    form,
                    "MetadataOptions.HttpTokens",
                    &["optional", "required"],
                )?,
                hop_limit,
                endpoint: word(form, "MetadataOptions.HttpEndpoint", &switch)?,
                tags: word(
                    form,
                    "MetadataOptions.InstanceMetadataTags",
                    &["disabled", "enabled"],
                )?,
            },
            profile: self.launch_profile(form)?,
            specified,
            least,
            most,
        })
    }

    fn launch_image(&self, form: &Form, kind: &InstanceType) -> Result<&Image, ApiError> {
        let id = required(form, "ImageId")?;
        query::check_id(id, "ami", "InvalidAMIID.Malformed")?;
        let image = self.rules.catalogue.image(id).ok_or_else(|| {
            ApiError::bad(
                "InvalidAMIID.NotFound",
                format!("The image id '[{id}]' does not exist"),
            )
        })?;
        if image.architecture != kind.architecture {
            return Err(ApiError::value(format!(
                "The architecture '{}' of the specified instance type does not match the architecture '{}' of the \
                 specified AMI. Specify an instance type and an AMI that have matching architectures, and try again.",
                kind.architecture, image.architecture
            )));
        }
        Ok(image)
    }

    fn launch_subnet(&self, form: &Form, kind: &InstanceType) -> Result<&Subnet, ApiError> {
        let catalogue = &self.rules.catalogue;
        let zone = form.get("Placement.AvailabilityZone");
        if let Some(zone) = zone
            && !catalogue.zones.iter().any(|known| known.name == zone)
        {
            return Err(ApiError::value(format!(
                "Invalid availability zone: [{zone}]"
            )));
        }
        if let Some(id) = subnet_id(form) {
            let subnet = catalogue.subnet(id).ok_or_else(|| {
                ApiError::bad(
                    "InvalidSubnetID.NotFound",
                    format!("The subnet ID '{id}' does not exist"),
                )
            })?;
            if let Some(zone) = zone
                && zone != subnet.zone
            {
                return Err(ApiError::value(format!(
                    "Value ({zone}) for parameter availabilityZone is invalid. Subnet '{id}' is in the availability zone {}",
                    subnet.zone
                )));
            }
            return Ok(subnet);
        }
        catalogue
            .subnets
            .iter()
            .find(|subnet| match zone {
                Some(zone) => zone == subnet.zone,
                None => kind.zones.contains(&subnet.zone),
            })
            .ok_or_else(|| {
                ApiError::bad(
                    "MissingInput",
                    "No subnets found for the default VPC. Please specify a subnet.",
                )
            })
    }

    fn launch_groups(&self, form: &Form) -> Result<Vec<String>, ApiError> {
        let catalogue = &self.rules.catalogue;
        let interfaces = form.structures("NetworkInterface");
        let mut groups: Vec<String> = form
            .list("SecurityGroupId")
            .into_iter()
            .map(str::to_owned)
            .collect();
        if !interfaces.is_empty() && (!groups.is_empty() || form.get("SubnetId").is_some()) {
            return Err(ApiError::bad(
                "InvalidParameterCombination",
                "Network interfaces and an instance-level subnet ID or security groups may not be specified on the same \
                 request",
            ));
        }
        if interfaces.len() > 1 {
            return Err(ApiError::value(
                "This emulator launches instances with one network interface only.",
            ));
        }
        for interface in &interfaces {
            groups.extend(
                interface
                    .list("SecurityGroupId")
                    .into_iter()
                    .map(str::to_owned),
            );
        }
        if groups.is_empty() {
            let default = catalogue
                .security_groups
                .iter()
                .find(|group| group.name == "default");
            groups.extend(default.map(|group| group.id.clone()));
        }
        for id in &groups {
            if catalogue.security_group(id).is_none() {
                return Err(ApiError::bad(
                    "InvalidGroup.NotFound",
                    format!("The security group '{id}' does not exist"),
                ));
            }
        }
        Ok(groups)
    }

    fn launch_profile(&self, form: &Form) -> Result<Option<String>, ApiError> {
        let (name, arn) = (
            form.get("IamInstanceProfile.Name"),
            form.get("IamInstanceProfile.Arn"),
        );
        let name = match (name, arn) {
            (None, None) => return Ok(None),
            (Some(name), None) => name,
            (None, Some(arn)) => arn.rsplit('/').next().unwrap_or(arn),
            (Some(_), Some(_)) => {
                return Err(ApiError::bad(
                    "InvalidParameterCombination",
                    "The parameter 'iamInstanceProfile.name' may not be used in combination with 'iamInstanceProfile.arn'",
                ));
            }
        };
        let known = &self.rules.catalogue.instance_profiles;
        if known
            .as_ref()
            .is_some_and(|names| !names.iter().any(|known| known == name))
        {
            return Err(ApiError::value(format!(
                "Value ({name}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"
            )));
        }
        Ok(Some(name.to_owned()))
    }

    #[allow(clippy::too_many_arguments, reason = "a record is filled in one place")]
    fn new_instance(
        &self,
        launch: &Launch<'_>,
        form: &Form,
        id: &str,
        reservation: &str,
        launch_index: u32,
        ip: Ipv4Addr,
        now: u64,
    ) -> Result<Instance, ApiError> {
        let timings = &self.rules.timings;
        let dashed = ip.to_string().replace('.', "-");
        Ok(Instance {
            id: id.to_owned(),
            reservation: reservation.to_owned(),
            launch_index,
            state: InstanceState::Pending,
            since: now,
            due: Some(now + timings.pending_ms * 1_000),
            visible_at: now + timings.visible_after_ms * 1_000,
            launched_at: now,
            instance_type: launch.kind.name.clone(),
            image: launch.image.id.clone(),
            subnet: launch.subnet.id.clone(),
            vpc: launch.subnet.vpc.clone(),
            zone: launch.subnet.zone.clone(),
            tenancy: launch.tenancy.clone(),
            private_ip: Some(ip),
            private_dns: format!(
                "ip-{dashed}.{}.compute.internal",
                self.rules.catalogue.region
            ),
            client_token: form.get("ClientToken").unwrap_or_default().to_owned(),
            security_groups: launch.groups.clone(),
            key_name: form.get("KeyName").map(str::to_owned),
            profile: launch.profile.clone(),
            user_data: launch.user_data.clone(),
            metadata: launch.metadata.clone(),
            ebs_optimized: boolean(form, "EbsOptimized")?.unwrap_or(false),
            monitoring: boolean(form, "Monitoring.Enabled")?.unwrap_or(false),
            protected: boolean(form, "DisableApiTermination")?.unwrap_or(false),
            root_device: launch.image.root_device.clone(),
            architecture: launch.image.architecture.clone(),
            reason: String::new(),
            state_reason: Some(("pending".to_owned(), "pending".to_owned())),
            tags: launch.specified.of("instance"),
            boots: 0,
        })
    }

    fn attached_volume(
        &self,
        launch: &Launch<'_>,
        disk: &Disk,
        id: String,
        instance: &str,
        now: u64,
    ) -> Volume {
        let timings = &self.rules.timings;
        Volume {
            id,
            state: VolumeState::InUse,
            due: None,
            visible_at: now + timings.visible_after_ms * 1_000,
            created_at: now,
            zone: launch.subnet.zone.clone(),
            size: disk.size,
            kind: disk.kind.clone(),
            iops: disk.iops,
            throughput: disk.throughput,
            encrypted: disk.encrypted,
            kms_key: disk.kms_key.clone(),
            snapshot: disk.snapshot.clone(),
            tags: launch.specified.of("volume"),
            attachment: Some(Attachment {
                instance: instance.to_owned(),
                device: disk.device.clone(),
                state: AttachmentState::Attached,
                since: now,
                due: None,
                delete_on_termination: disk.delete_on_termination,
            }),
        }
    }

    /// Free addresses of a subnet, each with its host number. Addresses are not given out again until the range is through.
    fn addresses(&self, subnet: &Subnet, count: u32) -> Result<Vec<(u32, Ipv4Addr)>, ApiError> {
        let hosts = 1u32 << (32 - u32::from(subnet.prefix.clamp(16, 28)));
        let base = subnet.network.to_bits();
        let taken: std::collections::BTreeSet<u32> = self
            .state
            .instances
            .values()
            .filter_map(|instance| instance.private_ip.map(Ipv4Addr::to_bits))
            .collect();
        // The first four and the last are AWS's.
        let usable = hosts - 5;
        let first = self.state.next_host.get(&subnet.id).copied().unwrap_or(4);
        let found: Vec<(u32, Ipv4Addr)> = (0..usable)
            .map(|offset| 4 + (first.saturating_sub(4) + offset) % usable)
            .filter(|host| !taken.contains(&(base + host)))
            .take(count as usize)
            .map(|host| (host, Ipv4Addr::from_bits(base + host)))
            .collect();
        if found.len() < count as usize {
            return Err(ApiError::bad(
                "InsufficientFreeAddressesInSubnet",
                format!(
                    "There are not enough free addresses in subnet '{}' to satisfy the requested number of instances.",
                    subnet.id
                ),
            ));
        }
        Ok(found)
    }
}

fn subnet_id(form: &Form) -> Option<&str> {
    form.get("SubnetId")
        .or_else(|| form.get("NetworkInterface.1.SubnetId"))
}

/// At most 64 ASCII characters.
pub(super) fn check_token(token: &str) -> Result<(), ApiError> {
    if token.len() <= 64 && token.is_ascii() {
        return Ok(());
    }
    Err(ApiError::value(
        "Invalid value for ClientToken: it must be at most 64 ASCII characters.",
    ))
}

/// A digest of everything that a client token is bound to.
pub(super) fn fingerprint(form: &Form) -> String {
    let mut digest = Sha256::new();
    for (name, value) in form.pairs() {
        if matches!(
            name.as_str(),
            "Action" | "Version" | "ClientToken" | "DryRun"
        ) {
            continue;
        }
        for part in [name, value] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part.as_bytes());
        }
    }
    let mut out = String::new();
    for byte in digest.finalize() {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// `IdempotentParameterMismatch`.
pub(super) fn mismatch() -> ApiError {
    ApiError::bad(
        "IdempotentParameterMismatch",
        "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
    )
}

/// `InsufficientInstanceCapacity`, which EC2 counts among its own faults: status 500.
pub(super) fn no_capacity(instance_type: &str, zone: &str) -> ApiError {
    ApiError::with(
        500,
        "InsufficientInstanceCapacity",
        format!(
            "We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested ({zone}). \
             Our system will be working on provisioning additional capacity."
        ),
    )
}

fn user_data(form: &Form) -> Result<String, ApiError> {
    let sent = form.get("UserData").unwrap_or_default();
    let decoded = STANDARD
        .decode(sent)
        .map_err(|_| ApiError::value("Invalid BASE64 encoding of user data."))?;
    if decoded.len() > MAX_USER_DATA {
        return Err(ApiError::value("User data is limited to 16384 bytes"));
    }
    Ok(sent.to_owned())
}

/// The launch's tags by resource type, as answers write them.
pub(super) fn tag_set(tags: &super::state::Tags) -> crate::xml::Element {
    crate::xml::list(
        "tagSet",
        tags.iter()
            .map(|(key, value)| vec![text("key", key), text("value", value)]),
    )
}
