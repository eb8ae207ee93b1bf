//! What EC2 is asked, as forms. Parameters stand in a fixed order, so the same request is the same bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::action::Action;
use super::form::{self, Form};
use crate::{LaunchRequest, NewVolume, Tags, Tenancy};

/// As many as one page may hold without the answer being large: an instance is about 6 KB of XML.
const PAGE: u32 = 500;

pub(super) fn run_instances(request: &LaunchRequest) -> Form {
    let mut form = Form::new(Action::RunInstances.name());
    form.add("MinCount", "1");
    form.add("MaxCount", "1");
    form.add("ClientToken", &request.client_token);
    form.add("ImageId", &request.image_id);
    form.add("InstanceType", &request.instance_type);
    form.add("SubnetId", &request.subnet_id);
    for (n, group) in (1..).zip(&request.security_groups) {
        form.add(&format!("SecurityGroupId.{n}"), group);
    }
    let tenancy = match request.tenancy {
        Tenancy::Default => "default",
        Tenancy::Dedicated => "dedicated",
    };
    form.add("Placement.Tenancy", tenancy);
    form.add_some(
        "IamInstanceProfile.Name",
        request.instance_profile.as_deref(),
    );
    let root = &request.root_volume;
    form.add("BlockDeviceMapping.1.DeviceName", &root.device);
    form.add_number("BlockDeviceMapping.1.Ebs.VolumeSize", root.size_gib);
    form.add("BlockDeviceMapping.1.Ebs.VolumeType", "gp3");
    form.add("BlockDeviceMapping.1.Ebs.Encrypted", "true");
    form.add_some("BlockDeviceMapping.1.Ebs.KmsKeyId", root.kms_key.as_deref());
    form.add("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true");
    form.add("MetadataOptions.HttpEndpoint", "enabled");
    form.add("MetadataOptions.HttpTokens", "required");
    form.add_number(
        "MetadataOptions.HttpPutResponseHopLimit",
        u32::from(request.metadata.hop_limit),
    );
    // An instance that shuts itself down must not stay behind and cost.
    form.add("InstanceInitiatedShutdownBehavior", "terminate");
    if !request.user_data.is_empty() {
        form.add("UserData", &BASE64.encode(&request.user_data));
    }
    add_tags(&mut form, &["instance", "volume"], &request.tags);
    form
}

/// A page of the instances that match filters.
pub(super) fn describe_instances(filters: &[(String, String)], page: Option<&str>) -> Form {
    describe(Action::DescribeInstances, filters, page)
}

/// A page of the volumes that match filters.
pub(super) fn describe_volumes(filters: &[(String, String)], page: Option<&str>) -> Form {
    describe(Action::DescribeVolumes, filters, page)
}

fn describe(action: Action, filters: &[(String, String)], page: Option<&str>) -> Form {
    let mut form = Form::new(action.name());
    for (n, (name, value)) in (1..).zip(filters) {
        form.add(&format!("Filter.{n}.Name"), name);
        form.add(&format!("Filter.{n}.Value.1"), &form::exactly(value));
    }
    form.add_number("MaxResults", PAGE);
    form.add_some("NextToken", page);
    form
}

/// Filters for all these tags.
pub(super) fn tag_filters(tags: &Tags) -> Vec<(String, String)> {
    tags.iter()
        .map(|(key, value)| (format!("tag:{key}"), value.clone()))
        .collect()
}

/// StartInstances, StopInstances or TerminateInstances of these instances.
pub(super) fn of_instances(action: Action, ids: &[String]) -> Form {
    let mut form = Form::new(action.name());
    for (n, id) in (1..).zip(ids) {
        form.add(&format!("InstanceId.{n}"), id);
    }
    form
}

pub(super) fn create_volume(request: &NewVolume) -> Form {
    let mut form = Form::new(Action::CreateVolume.name());
    form.add("ClientToken", &request.client_token);
    form.add("AvailabilityZone", &request.zone);
    form.add_number("Size", request.size_gib);
    form.add("VolumeType", "gp3");
    form.add("Encrypted", "true");
    form.add_some("KmsKeyId", request.kms_key.as_deref());
    form.add_some("SnapshotId", request.snapshot.as_deref());
    if let Some(iops) = request.iops {
        form.add_number("Iops", iops);
    }
    if let Some(throughput) = request.throughput {
        form.add_number("Throughput", throughput);
    }
    add_tags(&mut form, &["volume"], &request.tags);
    form
}

pub(super) fn attach_volume(volume: &str, instance: &str, device: &str) -> Form {
    let mut form = Form::new(Action::AttachVolume.name());
    form.add("VolumeId", volume);
    form.add("InstanceId", instance);
    form.add("Device", device);
    form
}

pub(super) fn delete_volume(volume: &str) -> Form {
    let mut form = Form::new(Action::DeleteVolume.name());
    form.add("VolumeId", volume);
    form
}

/// The same, but only asked whether it would be permitted.
pub(super) fn dry(mut form: Form) -> Form {
    form.add("DryRun", "true");
    form
}

fn add_tags(form: &mut Form, resources: &[&str], tags: &Tags) {
    if tags.is_empty() {
        return;
    }
    for (n, resource) in (1..).zip(resources) {
        form.add(&format!("TagSpecification.{n}.ResourceType"), resource);
        for (m, (key, value)) in (1..).zip(tags) {
            form.add(&format!("TagSpecification.{n}.Tag.{m}.Key"), key);
            form.add(&format!("TagSpecification.{n}.Tag.{m}.Value"), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::form::tests::decode;
    use crate::{MetadataOptions, RootVolume};

    fn lines(form: Form) -> Vec<String> {
        decode(&form.into_body())
            .unwrap()
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    fn tags() -> Tags {
        [("a", "1"), ("halo.howdify.io/slot", "0")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    }

    fn launch() -> LaunchRequest {
        LaunchRequest {
            client_token: "t-1".to_owned(),
            image_id: "ami-1".to_owned(),
            instance_type: "r7iz.4xlarge".to_owned(),
            subnet_id: "subnet-1".to_owned(),
            tenancy: Tenancy::Dedicated,
            security_groups: vec!["sg-1".to_owned(), "sg-2".to_owned()],
            instance_profile: Some("halo-node".to_owned()),
            root_volume: RootVolume {
                device: "/dev/xvda".to_owned(),
                size_gib: 80,
                kms_key: None,
            },
            metadata: MetadataOptions { hop_limit: 1 },
            user_data: "#!/bin/sh\n".to_owned(),
            tags: tags(),
        }
    }

    #[test]
    fn a_launch() {
        assert_eq!(
            lines(run_instances(&launch())),
            [
                "Action=RunInstances",
                "Version=2016-11-15",
                "MinCount=1",
                "MaxCount=1",
                "ClientToken=t-1",
                "ImageId=ami-1",
                "InstanceType=r7iz.4xlarge",
                "SubnetId=subnet-1",
                "SecurityGroupId.1=sg-1",
                "SecurityGroupId.2=sg-2",
                "Placement.Tenancy=dedicated",
                "IamInstanceProfile.Name=halo-node",
                "BlockDeviceMapping.1.DeviceName=/dev/xvda",
                "BlockDeviceMapping.1.Ebs.VolumeSize=80",
                "BlockDeviceMapping.1.Ebs.VolumeType=gp3",
                "BlockDeviceMapping.1.Ebs.Encrypted=true",
                "BlockDeviceMapping.1.Ebs.DeleteOnTermination=true",
                "MetadataOptions.HttpEndpoint=enabled",
                "MetadataOptions.HttpTokens=required",
                "MetadataOptions.HttpPutResponseHopLimit=1",
                "InstanceInitiatedShutdownBehavior=terminate",
                "UserData=IyEvYmluL3NoCg==",
                "TagSpecification.1.ResourceType=instance",
                "TagSpecification.1.Tag.1.Key=a",
                "TagSpecification.1.Tag.1.Value=1",
                "TagSpecification.1.Tag.2.Key=halo.howdify.io/slot",
                "TagSpecification.1.Tag.2.Value=0",
                "TagSpecification.2.ResourceType=volume",
                "TagSpecification.2.Tag.1.Key=a",
                "TagSpecification.2.Tag.1.Value=1",
                "TagSpecification.2.Tag.2.Key=halo.howdify.io/slot",
                "TagSpecification.2.Tag.2.Value=0",
            ]
        );
    }

    #[test]
    fn a_bare_launch_sends_no_empty_parameter() {
        let request = LaunchRequest {
            tenancy: Tenancy::Default,
            security_groups: vec![],
            instance_profile: None,
            user_data: String::new(),
            tags: Tags::new(),
            root_volume: RootVolume {
                kms_key: Some("arn:aws:kms:k".to_owned()),
                ..launch().root_volume
            },
            ..launch()
        };
        let lines = lines(run_instances(&request));
        assert!(lines.contains(&"Placement.Tenancy=default".to_owned()));
        assert!(lines.contains(&"BlockDeviceMapping.1.Ebs.KmsKeyId=arn:aws:kms:k".to_owned()));
        for none in [
            "SecurityGroupId",
            "IamInstanceProfile",
            "UserData",
            "TagSpecification",
        ] {
            assert!(!lines.iter().any(|line| line.starts_with(none)), "{none}");
        }
    }

    #[test]
    fn lists_and_pages() {
        let filters = tag_filters(&Tags::from([("k*".to_owned(), "v?".to_owned())]));
        assert_eq!(
            lines(describe_instances(&filters, Some("next"))),
            [
                "Action=DescribeInstances",
                "Version=2016-11-15",
                "Filter.1.Name=tag:k*",
                "Filter.1.Value.1=v\\?",
                "MaxResults=500",
                "NextToken=next",
            ]
        );
        assert_eq!(
            lines(of_instances(
                Action::StopInstances,
                &["i-1".to_owned(), "i-2".to_owned()]
            )),
            [
                "Action=StopInstances",
                "Version=2016-11-15",
                "InstanceId.1=i-1",
                "InstanceId.2=i-2"
            ]
        );
    }

    #[test]
    fn volumes() {
        let request = NewVolume {
            client_token: "v-1".to_owned(),
            zone: "us-east-2a".to_owned(),
            size_gib: 200,
            snapshot: Some("snap-1".to_owned()),
            iops: Some(6_000),
            throughput: Some(500),
            kms_key: None,
            tags: Tags::from([("a".to_owned(), "1".to_owned())]),
        };
        assert_eq!(
            lines(create_volume(&request)),
            [
                "Action=CreateVolume",
                "Version=2016-11-15",
                "ClientToken=v-1",
                "AvailabilityZone=us-east-2a",
                "Size=200",
                "VolumeType=gp3",
                "Encrypted=true",
                "SnapshotId=snap-1",
                "Iops=6000",
                "Throughput=500",
                "TagSpecification.1.ResourceType=volume",
                "TagSpecification.1.Tag.1.Key=a",
                "TagSpecification.1.Tag.1.Value=1",
            ]
        );
        assert_eq!(
            lines(dry(attach_volume("vol-1", "i-1", "/dev/sdf")))[2..],
            [
                "VolumeId=vol-1",
                "InstanceId=i-1",
                "Device=/dev/sdf",
                "DryRun=true"
            ]
        );
        assert_eq!(lines(delete_volume("vol-1"))[2..], ["VolumeId=vol-1"]);
    }
}
