//! `RunInstances`.

use std::net::Ipv4Addr;

use crate::catalogue::Subnet;
use crate::form::Form;
use crate::rules::SpentToken;
use crate::xml::Element;

use super::error::ApiError;
use super::launch_checks::{Launch, subnet_id};
use super::query::{self, required};
use super::state::{
    Attachment, AttachmentState, Instance, InstanceState, TokenUse, Volume, VolumeState,
};
use super::tokens::{check_token, fingerprint, mismatch};
use super::volumes::Disk;
use super::{Answer, Step, World, later, tags};

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
            let instance = self.new_instance(&launch, &id, &reservation, index, ip, step.now);
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

    fn reservation_of(&self, made: &[String]) -> Vec<Element> {
        let instances: Vec<&Instance> = made
            .iter()
            .filter_map(|id| self.state.instances.get(id))
            .collect();
        self.reservation(&instances)
    }

    fn new_instance(
        &self,
        launch: &Launch<'_>,
        id: &str,
        reservation: &str,
        launch_index: u32,
        ip: Ipv4Addr,
        now: u64,
    ) -> Instance {
        let timings = &self.rules.timings;
        let dashed = ip.to_string().replace('.', "-");
        Instance {
            id: id.to_owned(),
            reservation: reservation.to_owned(),
            launch_index,
            state: InstanceState::Pending,
            was: InstanceState::Pending,
            since: now,
            due: Some(later(now, timings.pending_ms)),
            visible_at: later(now, timings.visible_after_ms),
            created_at: now,
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
            client_token: launch.client_token.clone(),
            security_groups: launch.groups.clone(),
            key_name: launch.key_name.clone(),
            profile: launch.profile.clone(),
            user_data: launch.user_data.clone(),
            metadata: launch.metadata.clone(),
            ebs_optimized: launch.ebs_optimized,
            monitoring: launch.monitoring,
            protected: launch.protected,
            root_device: launch.image.root_device.clone(),
            architecture: launch.image.architecture.clone(),
            reason: String::new(),
            state_reason: Some(("pending".to_owned(), "pending".to_owned())),
            tags: launch.specified.of("instance"),
            boots: 0,
        }
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
            visible_at: later(now, timings.visible_after_ms),
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
            .filter(|host| !taken.contains(&base.wrapping_add(*host)))
            .take(count as usize)
            .map(|host| (host, Ipv4Addr::from_bits(base.wrapping_add(host))))
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
