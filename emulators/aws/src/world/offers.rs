//! What the catalogue holds: types, where they are offered, subnets, security groups, images.

use std::collections::BTreeSet;

use crate::catalogue::{Image, InstanceType, SecurityGroup, Subnet};
use crate::form::Form;
use crate::xml::{Element, group, list, text, texts};

use super::error::ApiError;
use super::filters::{self, Field, Page, one, tag_field};
use super::state::Tags;
use super::tags::tag_set;
use super::{Answer, World, query};

const TYPE_FIELDS: &[&str] = &[
    "bare-metal",
    "burstable-performance-supported",
    "current-generation",
    "hypervisor",
    "instance-type",
    "memory-info.size-in-mib",
    "processor-info.supported-architecture",
    "supported-usage-class",
    "supported-virtualization-type",
    "vcpu-info.default-cores",
    "vcpu-info.default-vcpus",
];
const OFFERING_FIELDS: &[&str] = &["instance-type", "location"];
const SUBNET_FIELDS: &[&str] = &[
    "availability-zone",
    "availability-zone-id",
    "cidr-block",
    "owner-id",
    "state",
    "subnet-id",
    "tag-key",
    "tag-value",
    "vpc-id",
];
const GROUP_FIELDS: &[&str] = &[
    "description",
    "group-id",
    "group-name",
    "owner-id",
    "tag-key",
    "tag-value",
    "vpc-id",
];
const IMAGE_FIELDS: &[&str] = &[
    "architecture",
    "image-id",
    "image-type",
    "is-public",
    "name",
    "owner-id",
    "root-device-name",
    "root-device-type",
    "state",
    "tag-key",
    "tag-value",
    "virtualization-type",
];

impl World {
    pub(super) fn describe_instance_types(&self, form: &Form) -> Answer {
        query::dry_run(form)?;
        let names = form.list("InstanceType");
        let unknown: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| self.rules.catalogue.instance_type(name).is_none())
            .collect();
        if !unknown.is_empty() {
            return Err(ApiError::bad(
                "InvalidInstanceType",
                format!(
                    "The following supplied instance types do not exist: [{}]",
                    unknown.join(", ")
                ),
            ));
        }
        let filters = filters::filters(form)?;
        filters::check_names(&filters, TYPE_FIELDS)?;
        // The real one never returns more than 100 at once.
        let largest = Some(self.rules.limits.page.unwrap_or(100).min(100));
        let page = Page::read(form, 5..=100, !names.is_empty(), largest)?;
        let mut sorted = Vec::new();
        for kind in &self.rules.catalogue.types {
            let named = names.is_empty() || names.contains(&kind.name.as_str());
            if named && filters::passes(&filters, |name| type_field(kind, name))? {
                sorted.push((kind.name.clone(), kind));
            }
        }
        Ok(paged("instanceTypeSet", page, sorted, type_shown))
    }

    pub(super) fn describe_instance_type_offerings(&self, form: &Form) -> Answer {
        query::dry_run(form)?;
        let location_types = ["region", "availability-zone", "availability-zone-id"];
        let location_type = query::word(form, "LocationType", &location_types)?;
        let filters = filters::filters(form)?;
        filters::check_names(&filters, OFFERING_FIELDS)?;
        let page = Page::read(form, 5..=1000, false, self.rules.limits.page)?;
        let catalogue = &self.rules.catalogue;
        let mut sorted = Vec::new();
        for kind in &catalogue.types {
            let places: BTreeSet<&str> = kind
                .zones
                .iter()
                .map(|zone| match location_type.as_str() {
                    "region" => catalogue.region.as_str(),
                    "availability-zone" => zone.as_str(),
                    _ => catalogue.zone_id(zone),
                })
                .collect();
            for place in places {
                let field = |name: &str| match name {
                    "instance-type" => one(&kind.name),
                    "location" => one(place),
                    _ => None,
                };
                if filters::passes(&filters, field)? {
                    sorted.push((format!("{} {place}", kind.name), (&kind.name, place)));
                }
            }
        }
        Ok(paged(
            "instanceTypeOfferingSet",
            page,
            sorted,
            |(name, place)| {
                vec![
                    text("instanceType", name),
                    text("locationType", &location_type),
                    text("location", place),
                ]
            },
        ))
    }

    pub(super) fn describe_subnets(&self, form: &Form) -> Answer {
        query::dry_run(form)?;
        let ids = form.list("SubnetId");
        let known = |id: &str| self.rules.catalogue.subnet(id).is_some();
        if let Some(id) = ids.iter().find(|id| !known(id)) {
            return Err(ApiError::bad(
                "InvalidSubnetID.NotFound",
                format!("The subnet ID '{id}' does not exist"),
            ));
        }
        let filters = filters::filters(form)?;
        filters::check_names(&filters, SUBNET_FIELDS)?;
        let page = Page::read(form, 5..=1000, !ids.is_empty(), self.rules.limits.page)?;
        let mut sorted = Vec::new();
        for subnet in &self.rules.catalogue.subnets {
            let named = ids.is_empty() || ids.contains(&subnet.id.as_str());
            if named && filters::passes(&filters, |name| self.subnet_field(subnet, name))? {
                sorted.push((subnet.id.clone(), subnet));
            }
        }
        Ok(paged("subnetSet", page, sorted, |subnet| {
            self.subnet_shown(subnet)
        }))
    }

    pub(super) fn describe_security_groups(&self, form: &Form) -> Answer {
        query::dry_run(form)?;
        let (ids, names) = (form.list("GroupId"), form.list("GroupName"));
        let groups = &self.rules.catalogue.security_groups;
        for id in &ids {
            if self.rules.catalogue.security_group(id).is_none() {
                return Err(ApiError::bad(
                    "InvalidGroup.NotFound",
                    format!("The security group '{id}' does not exist"),
                ));
            }
        }
        if let Some(name) = names
            .iter()
            .find(|name| !groups.iter().any(|group| group.name == **name))
        {
            return Err(ApiError::bad(
                "InvalidGroup.NotFound",
                format!("The security group '{name}' does not exist"),
            ));
        }
        let filters = filters::filters(form)?;
        filters::check_names(&filters, GROUP_FIELDS)?;
        let some_named = !ids.is_empty() || !names.is_empty();
        let page = Page::read(form, 5..=1000, some_named, self.rules.limits.page)?;
        let mut sorted = Vec::new();
        for group in groups {
            let named = (ids.is_empty() || ids.contains(&group.id.as_str()))
                && (names.is_empty() || names.contains(&group.name.as_str()));
            if named && filters::passes(&filters, |name| self.group_field(group, name))? {
                sorted.push((group.id.clone(), group));
            }
        }
        Ok(paged("securityGroupInfo", page, sorted, |group| {
            self.group_shown(group)
        }))
    }

    pub(super) fn describe_images(&self, form: &Form) -> Answer {
        query::dry_run(form)?;
        let (ids, owners) = (form.list("ImageId"), form.list("Owner"));
        for id in &ids {
            query::check_id(id, "ami", "InvalidAMIID.Malformed")?;
            if self.rules.catalogue.image(id).is_none() {
                return Err(ApiError::bad(
                    "InvalidAMIID.NotFound",
                    format!("The image id '[{id}]' does not exist"),
                ));
            }
        }
        let filters = filters::filters(form)?;
        filters::check_names(&filters, IMAGE_FIELDS)?;
        let page = Page::read(form, 5..=1000, !ids.is_empty(), self.rules.limits.page)?;
        let account = self.rules.catalogue.account.as_str();
        let mut sorted = Vec::new();
        for image in &self.rules.catalogue.images {
            let owned = owners.is_empty()
                || owners.iter().any(|owner| match *owner {
                    // The images of the default catalogue are Amazon's, whatever account they come from.
                    "amazon" => image.owner != account,
                    "self" => image.owner == account,
                    number => image.owner == number,
                });
            let named = ids.is_empty() || ids.contains(&image.id.as_str());
            if owned && named && filters::passes(&filters, |name| self.image_field(image, name))? {
                sorted.push((image.id.clone(), image));
            }
        }
        Ok(paged("imagesSet", page, sorted, |image| {
            self.image_shown(image)
        }))
    }

    fn tags_of(&self, id: &str, own: &Tags) -> Tags {
        let mut tags = own.clone();
        if let Some(added) = self.state.other_tags.get(id) {
            tags.extend(added.clone());
        }
        tags
    }

    fn subnet_field(&self, subnet: &Subnet, name: &str) -> Field {
        match name {
            "availability-zone" => one(&subnet.zone),
            "availability-zone-id" => one(self.rules.catalogue.zone_id(&subnet.zone)),
            "cidr-block" => one(format!("{}/{}", subnet.network, subnet.prefix)),
            "owner-id" => one(&self.rules.catalogue.account),
            "state" => one("available"),
            "subnet-id" => one(&subnet.id),
            "vpc-id" => one(&subnet.vpc),
            _ => tag_field(&self.tags_of(&subnet.id, &subnet.tags), name),
        }
    }

    fn subnet_shown(&self, subnet: &Subnet) -> Vec<Element> {
        let hosts = 1u32 << (32 - u32::from(subnet.prefix.clamp(16, 28)));
        let used = self.state.instances.values();
        let used = used
            .filter(|instance| instance.subnet == subnet.id && instance.private_ip.is_some())
            .count();
        let free = (hosts - 5).saturating_sub(u32::try_from(used).unwrap_or(u32::MAX));
        let catalogue = &self.rules.catalogue;
        let tags = self.tags_of(&subnet.id, &subnet.tags);
        let mut shown = vec![
            text("subnetId", &subnet.id),
            text(
                "subnetArn",
                format!(
                    "arn:aws:ec2:{}:{}:subnet/{}",
                    catalogue.region, catalogue.account, subnet.id
                ),
            ),
            text("state", "available"),
            text("ownerId", &catalogue.account),
            text("vpcId", &subnet.vpc),
            text("cidrBlock", format!("{}/{}", subnet.network, subnet.prefix)),
            list("ipv6CidrBlockAssociationSet", []),
            text("availableIpAddressCount", free),
            text("availabilityZone", &subnet.zone),
            text("availabilityZoneId", catalogue.zone_id(&subnet.zone)),
            text("defaultForAz", false),
            text("mapPublicIpOnLaunch", false),
            text("assignIpv6AddressOnCreation", false),
        ];
        if !tags.is_empty() {
            shown.push(tag_set(&tags));
        }
        shown
    }

    fn group_field(&self, group: &SecurityGroup, name: &str) -> Field {
        match name {
            "description" => one(&group.description),
            "group-id" => one(&group.id),
            "group-name" => one(&group.name),
            "owner-id" => one(&self.rules.catalogue.account),
            "vpc-id" => one(&group.vpc),
            _ => tag_field(&self.tags_of(&group.id, &group.tags), name),
        }
    }

    fn group_shown(&self, of: &SecurityGroup) -> Vec<Element> {
        let tags = self.tags_of(&of.id, &of.tags);
        let mut shown = vec![
            text("ownerId", &self.rules.catalogue.account),
            text("groupId", &of.id),
            text("groupName", &of.name),
            text("groupDescription", &of.description),
            text("vpcId", &of.vpc),
            list("ipPermissions", []),
            list(
                "ipPermissionsEgress",
                [vec![
                    text("ipProtocol", "-1"),
                    list("groups", []),
                    list("ipRanges", [vec![text("cidrIp", "0.0.0.0/0")]]),
                    list("ipv6Ranges", []),
                    list("prefixListIds", []),
                ]],
            ),
        ];
        if !tags.is_empty() {
            shown.push(tag_set(&tags));
        }
        shown
    }

    fn image_field(&self, image: &Image, name: &str) -> Field {
        match name {
            "architecture" => one(&image.architecture),
            "image-id" => one(&image.id),
            "image-type" => one("machine"),
            "is-public" => one("true"),
            "name" => one(&image.name),
            "owner-id" => one(&image.owner),
            "root-device-name" => one(&image.root_device),
            "root-device-type" => one("ebs"),
            "state" => one("available"),
            "virtualization-type" => one("hvm"),
            _ => tag_field(&self.tags_of(&image.id, &Tags::new()), name),
        }
    }

    fn image_shown(&self, image: &Image) -> Vec<Element> {
        let tags = self.tags_of(&image.id, &Tags::new());
        let mut shown = vec![
            text("imageId", &image.id),
            text("imageLocation", format!("{}/{}", image.owner, image.name)),
            text("imageState", "available"),
            text("imageOwnerId", &image.owner),
            text("creationDate", &image.created),
            text("isPublic", true),
            text("architecture", &image.architecture),
            text("imageType", "machine"),
            text("name", &image.name),
            text("rootDeviceType", "ebs"),
            text("rootDeviceName", &image.root_device),
            text("virtualizationType", "hvm"),
            text("hypervisor", "xen"),
            text("enaSupport", true),
            list(
                "blockDeviceMapping",
                [vec![
                    text("deviceName", &image.root_device),
                    group(
                        "ebs",
                        vec![
                            text("snapshotId", &image.snapshot),
                            text("volumeSize", image.root_gib),
                            text("deleteOnTermination", true),
                            text("volumeType", "gp3"),
                            text("encrypted", false),
                        ],
                    ),
                ]],
            ),
        ];
        if !tags.is_empty() {
            shown.push(tag_set(&tags));
        }
        shown
    }
}

fn paged<T>(
    name: &'static str,
    page: Page,
    mut sorted: Vec<(String, T)>,
    shown: impl Fn(&T) -> Vec<Element>,
) -> Vec<Element> {
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let (things, token) = page.cut(sorted);
    let mut answer = vec![list(name, things.iter().map(shown))];
    answer.extend(token);
    answer
}

fn type_field(kind: &InstanceType, name: &str) -> Field {
    match name {
        "bare-metal" => one("false"),
        "burstable-performance-supported" => one(kind.name.starts_with('t').to_string()),
        "current-generation" => one("true"),
        "hypervisor" => one("nitro"),
        "instance-type" => one(&kind.name),
        "memory-info.size-in-mib" => one(kind.memory_mib.to_string()),
        "processor-info.supported-architecture" => one(&kind.architecture),
        "supported-usage-class" => Some(vec!["on-demand".to_owned(), "spot".to_owned()]),
        "supported-virtualization-type" => one("hvm"),
        "vcpu-info.default-cores" => one(kind.cores.to_string()),
        "vcpu-info.default-vcpus" => one(kind.vcpus.to_string()),
        _ => None,
    }
}

fn type_shown(kind: &&InstanceType) -> Vec<Element> {
    vec![
        text("instanceType", &kind.name),
        text("currentGeneration", true),
        text("freeTierEligible", false),
        texts("supportedUsageClasses", ["on-demand", "spot"]),
        texts("supportedRootDeviceTypes", ["ebs"]),
        texts("supportedVirtualizationTypes", ["hvm"]),
        text("bareMetal", false),
        text("hypervisor", "nitro"),
        group(
            "processorInfo",
            vec![
                texts("supportedArchitectures", [&kind.architecture]),
                text("sustainedClockSpeedInGhz", kind.clock_ghz),
                text("manufacturer", &kind.manufacturer),
            ],
        ),
        group(
            "vCpuInfo",
            vec![
                text("defaultVCpus", kind.vcpus),
                text("defaultCores", kind.cores),
                text("defaultThreadsPerCore", kind.vcpus / kind.cores.max(1)),
            ],
        ),
        group("memoryInfo", vec![text("sizeInMiB", kind.memory_mib)]),
        text("instanceStorageSupported", false),
        text("burstablePerformanceSupported", kind.name.starts_with('t')),
        text("dedicatedHostsSupported", kind.dedicated),
    ]
}
