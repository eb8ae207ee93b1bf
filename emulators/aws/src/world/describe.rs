//! `DescribeInstances` and `DescribeInstanceStatus`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::form::Form;
use crate::xml::{Element, group, list, text};

use super::filters::{self, Field, Filter, Page, one, tag_field};
use super::lifecycle::state_shown;
use super::query;
use super::state::{Instance, InstanceState, Moment, Volume};
use super::tags::tag_set;
use super::{Answer, World, later, timestamp};

/// Fields by which instances can be filtered.
const FIELDS: &[&str] = &[
    "architecture",
    "availability-zone",
    "client-token",
    "dns-name",
    "iam-instance-profile.arn",
    "image-id",
    "instance-id",
    "instance-state-code",
    "instance-state-name",
    "instance-type",
    "instance.group-id",
    "instance.group-name",
    "key-name",
    "launch-time",
    "metadata-options.http-tokens",
    "owner-id",
    "placement.tenancy",
    "private-dns-name",
    "private-ip-address",
    "reason",
    "reservation-id",
    "root-device-name",
    "state-reason-code",
    "subnet-id",
    "tag-key",
    "tag-value",
    "tenancy",
    "vpc-id",
];

/// Fields by which instance statuses can be filtered.
const STATUS_FIELDS: &[&str] = &[
    "availability-zone",
    "instance-state-code",
    "instance-state-name",
    "instance-status.reachability",
    "instance-status.status",
    "system-status.reachability",
    "system-status.status",
];

impl World {
    pub(super) fn describe_instances(&self, form: &Form, now: Moment) -> Answer {
        query::dry_run(form)?;
        let named = self.instances_by_id(form, now)?;
        let filters = filters::filters(form)?;
        filters::check_names(&filters, FIELDS)?;
        let page = Page::read(form, 5..=1000, named.is_some(), self.rules.limits.page)?;
        let found = self.filtered(named, &filters, now, |instance, name| {
            self.instance_field(instance, name)
        })?;
        // Launches in the order of their time; a launch is not split over pages.
        let mut launches: BTreeMap<(Moment, &str), Vec<&Instance>> = BTreeMap::new();
        for instance in &found {
            launches
                .entry((instance.created_at, &instance.reservation))
                .or_default()
                .push(instance);
        }
        let sorted = launches
            .into_iter()
            .map(|((at, reservation), instances)| (format!("{at:020}{reservation}"), instances))
            .collect();
        let (launches, token) = page.cut(sorted);
        let volumes = self.volumes_by_instance();
        let items = launches
            .iter()
            .map(|instances| self.reservation_with(instances, &volumes));
        let mut answer = vec![list("reservationSet", items)];
        answer.extend(token);
        Ok(answer)
    }

    pub(super) fn describe_instance_status(&self, form: &Form, now: Moment) -> Answer {
        query::dry_run(form)?;
        let named = self.instances_by_id(form, now)?;
        let filters = filters::filters(form)?;
        filters::check_names(&filters, STATUS_FIELDS)?;
        let page = Page::read(form, 5..=1000, named.is_some(), self.rules.limits.page)?;
        let all = query::boolean(form, "IncludeAllInstances")?.unwrap_or(false);
        let found = self.filtered(named, &filters, now, status_field)?;
        let sorted = found
            .iter()
            .filter(|instance| all || instance.state == InstanceState::Running)
            .map(|instance| (instance.id.clone(), instance))
            .collect();
        let (instances, token) = page.cut(sorted);
        let items = instances.iter().map(|instance| {
            let (status, reachability) = status_of(instance.state);
            let summary = |name| {
                let mut shown = vec![text("status", status)];
                shown.extend(reachability.map(|reachability| {
                    let detail = vec![text("name", "reachability"), text("status", reachability)];
                    list("details", [detail])
                }));
                group(name, shown)
            };
            vec![
                text("instanceId", &instance.id),
                text("availabilityZone", &instance.zone),
                state_shown("instanceState", instance.state),
                summary("systemStatus"),
                summary("instanceStatus"),
            ]
        });
        let mut answer = vec![list("instanceStatusSet", items)];
        answer.extend(token);
        Ok(answer)
    }

    /// The instances that a call names one by one; `None` if it names none.
    fn instances_by_id(
        &self,
        form: &Form,
        now: Moment,
    ) -> Result<Option<Vec<&Instance>>, super::ApiError> {
        let ids = form.list("InstanceId");
        if ids.is_empty() {
            return Ok(None);
        }
        let mut found: Vec<&Instance> = Vec::new();
        for id in ids {
            query::check_id(id, "i", "InvalidInstanceID.Malformed")?;
            let instance = self.known(id, now)?;
            if !found.iter().any(|earlier| earlier.id == id) {
                found.push(instance);
            }
        }
        Ok(Some(found))
    }

    fn filtered<'a>(
        &'a self,
        named: Option<Vec<&'a Instance>>,
        filters: &[Filter],
        now: Moment,
        field: impl Fn(&Instance, &str) -> Field,
    ) -> Result<Vec<Cow<'a, Instance>>, super::ApiError> {
        let candidates = named.unwrap_or_else(|| {
            self.state
                .instances
                .values()
                .filter(|instance| instance.visible_at <= now)
                .collect()
        });
        let mut passed = Vec::new();
        for instance in candidates {
            let instance = self.as_shown(instance, now);
            if filters::passes(filters, |name| field(&instance, name))? {
                passed.push(instance);
            }
        }
        Ok(passed)
    }

    /// An instance as Describe calls see it now: for a while after a change, as it was before.
    fn as_shown<'a>(&self, instance: &'a Instance, now: Moment) -> Cow<'a, Instance> {
        let stale = self.rules.timings.stale_ms;
        if now >= later(instance.since, stale) || instance.was == instance.state {
            return Cow::Borrowed(instance);
        }
        let mut shown = instance.clone();
        shown.state = shown.was;
        Cow::Owned(shown)
    }

    fn instance_field(&self, instance: &Instance, name: &str) -> Field {
        let groups = &instance.security_groups;
        match name {
            "architecture" => one(&instance.architecture),
            "availability-zone" => one(&instance.zone),
            "client-token" => one(&instance.client_token),
            "dns-name" => one(""),
            "iam-instance-profile.arn" => Some(
                instance
                    .profile
                    .iter()
                    .map(|name| self.profile_arn(name))
                    .collect(),
            ),
            "image-id" => one(&instance.image),
            "instance-id" => one(&instance.id),
            "instance-state-code" => one(instance.state.code().to_string()),
            "instance-state-name" => one(instance.state.name()),
            "instance-type" => one(&instance.instance_type),
            "instance.group-id" => Some(groups.clone()),
            "instance.group-name" => Some(groups.iter().map(|id| self.group_name(id)).collect()),
            "key-name" => Some(instance.key_name.iter().cloned().collect()),
            "launch-time" => one(timestamp(instance.launched_at)),
            "metadata-options.http-tokens" => one(&instance.metadata.tokens),
            "owner-id" => one(&self.rules.catalogue.account),
            "placement.tenancy" | "tenancy" => one(&instance.tenancy),
            "private-dns-name" => one(&instance.private_dns),
            "private-ip-address" => Some(
                instance
                    .private_ip
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            ),
            "reason" => one(&instance.reason),
            "reservation-id" => one(&instance.reservation),
            "root-device-name" => one(&instance.root_device),
            "state-reason-code" => Some(
                instance
                    .state_reason
                    .iter()
                    .map(|(code, _)| code.clone())
                    .collect(),
            ),
            "subnet-id" => one(&instance.subnet),
            "vpc-id" => one(&instance.vpc),
            _ => tag_field(&instance.tags, name),
        }
    }

    fn profile_arn(&self, name: &str) -> String {
        format!(
            "arn:aws:iam::{}:instance-profile/{name}",
            self.rules.catalogue.account
        )
    }

    fn group_name(&self, id: &str) -> String {
        self.rules
            .catalogue
            .security_group(id)
            .map(|group| group.name.clone())
            .unwrap_or_default()
    }

    fn volumes_by_instance(&self) -> BTreeMap<&str, Vec<&Volume>> {
        let mut found: BTreeMap<&str, Vec<&Volume>> = BTreeMap::new();
        for volume in self.state.volumes.values() {
            if let Some(on) = &volume.attachment {
                found.entry(&on.instance).or_default().push(volume);
            }
        }
        found
    }

    /// The reservation that a launch answers with.
    pub(super) fn reservation(&self, instances: &[&Instance]) -> Vec<Element> {
        self.reservation_with(instances, &self.volumes_by_instance())
    }

    fn reservation_with(
        &self,
        instances: &[&Instance],
        volumes: &BTreeMap<&str, Vec<&Volume>>,
    ) -> Vec<Element> {
        let reservation = instances.first().map_or("", |first| &first.reservation);
        let none = Vec::new();
        vec![
            text("reservationId", reservation),
            text("ownerId", &self.rules.catalogue.account),
            list("groupSet", []),
            list(
                "instancesSet",
                instances.iter().map(|instance| {
                    let volumes = volumes.get(instance.id.as_str()).unwrap_or(&none);
                    self.instance_shown(instance, volumes)
                }),
            ),
        ]
    }

    fn interface_shown(&self, instance: &Instance, ip: Ipv4Addr, groups: &Element) -> Vec<Element> {
        let [_, b, c, d] = ip.octets();
        vec![
            text("networkInterfaceId", interface_id(instance, "eni-")),
            text("subnetId", &instance.subnet),
            text("vpcId", &instance.vpc),
            text("description", ""),
            text("ownerId", &self.rules.catalogue.account),
            text("status", "in-use"),
            text("macAddress", format!("02:00:0a:{b:02x}:{c:02x}:{d:02x}")),
            text("privateIpAddress", ip),
            text("privateDnsName", &instance.private_dns),
            text("sourceDestCheck", true),
            groups.clone(),
            group(
                "attachment",
                vec![
                    text("attachmentId", interface_id(instance, "eni-attach-")),
                    text("deviceIndex", 0),
                    text("status", "attached"),
                    text("attachTime", timestamp(instance.created_at)),
                    text("deleteOnTermination", true),
                    text("networkCardIndex", 0),
                ],
            ),
            list("ipv6AddressesSet", []),
            list(
                "privateIpAddressesSet",
                [vec![
                    text("privateIpAddress", ip),
                    text("privateDnsName", &instance.private_dns),
                    text("primary", true),
                ]],
            ),
            text("interfaceType", "interface"),
        ]
    }

    fn instance_shown(&self, instance: &Instance, volumes: &[&Volume]) -> Vec<Element> {
        let gone = instance.state == InstanceState::Terminated;
        let mut shown = vec![
            text("instanceId", &instance.id),
            text("imageId", &instance.image),
            state_shown("instanceState", instance.state),
            text("privateDnsName", &instance.private_dns),
            text("dnsName", ""),
            text("reason", &instance.reason),
            text("amiLaunchIndex", instance.launch_index),
            list("productCodes", []),
            text("instanceType", &instance.instance_type),
            text("launchTime", timestamp(instance.launched_at)),
            group(
                "placement",
                vec![
                    text("availabilityZone", &instance.zone),
                    text(
                        "availabilityZoneId",
                        self.rules.catalogue.zone_id(&instance.zone),
                    ),
                    text("groupName", ""),
                    text("tenancy", &instance.tenancy),
                ],
            ),
            group(
                "monitoring",
                vec![text(
                    "state",
                    if instance.monitoring {
                        "enabled"
                    } else {
                        "disabled"
                    },
                )],
            ),
            text("architecture", &instance.architecture),
            text("rootDeviceType", "ebs"),
            text("rootDeviceName", &instance.root_device),
            list(
                "blockDeviceMapping",
                volumes.iter().filter_map(|volume| disk_shown(volume)),
            ),
            text("virtualizationType", "hvm"),
            text("clientToken", &instance.client_token),
            text("hypervisor", "xen"),
            text("ebsOptimized", instance.ebs_optimized),
            text("enaSupport", true),
            metadata_shown(instance),
        ];
        if !instance.tags.is_empty() {
            shown.push(tag_set(&instance.tags));
        }
        if let Some(key) = &instance.key_name {
            shown.push(text("keyName", key));
        }
        if let Some((code, message)) = &instance.state_reason {
            shown.push(group(
                "stateReason",
                vec![text("code", code), text("message", message)],
            ));
        }
        if let Some(name) = &instance.profile {
            shown.push(group(
                "iamInstanceProfile",
                vec![
                    text("arn", self.profile_arn(name)),
                    text("id", "AIPA0000000000EXAMPLE"),
                ],
            ));
        }
        if let Some(kind) = self.rules.catalogue.instance_type(&instance.instance_type) {
            shown.push(group(
                "cpuOptions",
                vec![
                    text("coreCount", kind.cores),
                    text("threadsPerCore", kind.vcpus / kind.cores.max(1)),
                ],
            ));
        }
        let groups = list(
            "groupSet",
            instance
                .security_groups
                .iter()
                .filter(|_| !gone)
                .map(|id| vec![text("groupId", id), text("groupName", self.group_name(id))]),
        );
        if let Some(ip) = instance.private_ip {
            shown.extend([
                text("subnetId", &instance.subnet),
                text("vpcId", &instance.vpc),
                text("privateIpAddress", ip),
                text("sourceDestCheck", true),
                list(
                    "networkInterfaceSet",
                    [self.interface_shown(instance, ip, &groups)],
                ),
            ]);
        }
        shown.push(groups);
        shown
    }
}

fn interface_id(instance: &Instance, prefix: &str) -> String {
    instance.id.replacen("i-", prefix, 1)
}

fn metadata_shown(instance: &Instance) -> Element {
    let state = if instance.state == InstanceState::Pending {
        "pending"
    } else {
        "applied"
    };
    group(
        "metadataOptions",
        vec![
            text("state", state),
            text("httpTokens", &instance.metadata.tokens),
            text("httpPutResponseHopLimit", instance.metadata.hop_limit),
            text("httpEndpoint", &instance.metadata.endpoint),
            text("httpProtocolIpv6", "disabled"),
            text("instanceMetadataTags", &instance.metadata.tags),
        ],
    )
}

fn disk_shown(volume: &Volume) -> Option<Vec<Element>> {
    let on = volume.attachment.as_ref()?;
    Some(vec![
        text("deviceName", &on.device),
        group(
            "ebs",
            vec![
                text("volumeId", &volume.id),
                text("status", on.state.name()),
                text("attachTime", timestamp(on.since)),
                text("deleteOnTermination", on.delete_on_termination),
            ],
        ),
    ])
}

fn status_of(state: InstanceState) -> (&'static str, Option<&'static str>) {
    match state {
        InstanceState::Pending => ("initializing", Some("initializing")),
        InstanceState::Running => ("ok", Some("passed")),
        _ => ("not-applicable", None),
    }
}

fn status_field(instance: &Instance, name: &str) -> Field {
    let (status, reachability) = status_of(instance.state);
    match name {
        "availability-zone" => one(&instance.zone),
        "instance-state-code" => one(instance.state.code().to_string()),
        "instance-state-name" => one(instance.state.name()),
        "instance-status.status" | "system-status.status" => one(status),
        "instance-status.reachability" | "system-status.reachability" => Some(
            reachability
                .iter()
                .map(|value| (*value).to_owned())
                .collect(),
        ),
        _ => None,
    }
}
