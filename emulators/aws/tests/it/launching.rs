//! `RunInstances`: what is checked, what a client token is bound to, capacity.

use halo_aws_emulator::{CapacityRule, Rules, SpentToken};

use crate::account::Account;

const TOKEN: (&str, &str) = ("ClientToken", "one");

#[test]
fn a_launch_reads_back_as_it_was_asked_for() {
    let mut account = Account::new();
    let answer = account
        .launch(&[
            TOKEN,
            ("Placement.Tenancy", "dedicated"),
            ("UserData", "aGVsbG8="),
            ("IamInstanceProfile.Name", "halo-node"),
            ("MetadataOptions.HttpTokens", "required"),
            ("MetadataOptions.HttpPutResponseHopLimit", "1"),
            ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
            ("BlockDeviceMapping.1.Ebs.VolumeSize", "50"),
            ("BlockDeviceMapping.1.Ebs.Encrypted", "true"),
            ("TagSpecification.1.ResourceType", "instance"),
            ("TagSpecification.1.Tag.1.Key", "halo.howdify.io/slot"),
            ("TagSpecification.1.Tag.1.Value", "<0> & \"1\""),
            ("TagSpecification.2.ResourceType", "volume"),
            ("TagSpecification.2.Tag.1.Key", "of"),
            ("TagSpecification.2.Tag.1.Value", "root"),
        ])
        .unwrap();
    for (name, value) in [
        ("instanceState/name", "pending"),
        ("instanceState/code", "0"),
        ("instanceType", "r7iz.4xlarge"),
        ("placement/tenancy", "dedicated"),
        ("placement/availabilityZone", "us-east-2a"),
        ("subnetId", "subnet-0000000000000000a"),
        ("clientToken", "one"),
        ("metadataOptions/httpTokens", "required"),
        ("metadataOptions/httpPutResponseHopLimit", "1"),
        ("privateDnsName", "ip-10-0-16-4.us-east-2.compute.internal"),
        ("launchTime", "2026-11-21T12:00:00.000Z"),
        ("tagSet/item/key", "halo.howdify.io/slot"),
        ("tagSet/item/value", "<0> & \"1\""),
        ("cpuOptions/coreCount", "8"),
        (
            "iamInstanceProfile/arn",
            "arn:aws:iam::123456789012:instance-profile/halo-node",
        ),
    ] {
        assert_eq!(answer.one(name), value, "{name}");
    }
    let id = answer.one("instanceId");
    let volumes = account.world.state.volumes_of(&id);
    assert_eq!(volumes.len(), 1);
    assert_eq!((volumes[0].size, volumes[0].encrypted), (50, true));
    assert_eq!(volumes[0].tags["of"], "root");
}

#[test]
fn what_does_not_fit_is_refused_by_its_name() {
    for (changes, code) in [
        (&[("ImageId", "")][..], "MissingParameter"),
        (&[("InstanceType", "")], "MissingParameter"),
        (&[("MinCount", "")], "MissingParameter"),
        (&[("MinCount", "0")], "InvalidParameterValue"),
        (&[("MinCount", "2")], "InvalidParameterValue"),
        (&[("MaxCount", "many")], "InvalidParameterValue"),
        (
            &[("ImageId", "ami-0123456789abcdef0")],
            "InvalidAMIID.NotFound",
        ),
        (&[("ImageId", "image")], "InvalidAMIID.Malformed"),
        (
            &[("ImageId", "ami-00000000000233001")],
            "InvalidParameterValue",
        ),
        (&[("InstanceType", "z9.mega")], "InvalidParameterValue"),
        (
            &[("SubnetId", "subnet-0123456789abcdef0")],
            "InvalidSubnetID.NotFound",
        ),
        (
            &[("SecurityGroupId.1", "sg-0123456789abcdef0")],
            "InvalidGroup.NotFound",
        ),
        (
            &[
                ("InstanceType", "m7g.large"),
                ("ImageId", "ami-00000000000233001"),
                ("SubnetId", "subnet-0000000000000000c"),
            ],
            "Unsupported",
        ),
        (&[("Placement.Tenancy", "shared")], "InvalidParameterValue"),
        (
            &[("Placement.AvailabilityZone", "us-east-2b")],
            "InvalidParameterValue",
        ),
        (
            &[("Placement.AvailabilityZone", "mars-1a")],
            "InvalidParameterValue",
        ),
        (&[("UserData", "not base64!")], "InvalidParameterValue"),
        (
            &[("MetadataOptions.HttpPutResponseHopLimit", "0")],
            "InvalidParameterValue",
        ),
        (
            &[("MetadataOptions.HttpTokens", "maybe")],
            "InvalidParameterValue",
        ),
        (&[("InstanceTyp", "r7iz.4xlarge")], "UnknownParameter"),
        (
            &[("BlockDeviceMapping.1.Ebs.Size", "1")],
            "UnknownParameter",
        ),
        (
            &[("NetworkInterface.1.SubnetId", "subnet-0000000000000000a")],
            "InvalidParameterCombination",
        ),
        (
            &[
                ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
                ("BlockDeviceMapping.1.Ebs.VolumeSize", "8"),
            ],
            "InvalidBlockDeviceMapping",
        ),
        (
            &[("TagSpecification.1.ResourceType", "instance")],
            "InvalidParameterValue",
        ),
        (
            &[
                ("TagSpecification.1.ResourceType", "vpc"),
                ("TagSpecification.1.Tag.1.Key", "a"),
            ],
            "InvalidParameterValue",
        ),
        (
            &[
                ("TagSpecification.1.ResourceType", "instance"),
                ("TagSpecification.1.Tag.1.Key", "aws:a"),
            ],
            "InvalidParameterValue",
        ),
        (&[("DryRun", "true")], "DryRunOperation"),
    ] {
        let mut account = Account::new();
        assert_eq!(account.launch(changes).unwrap_err(), code, "{changes:?}");
        assert!(account.world.state.instances.is_empty(), "{changes:?}");
        assert_eq!(account.world.revision(), 0, "{changes:?} changed something");
    }
}

#[test]
fn user_data_ends_at_16_kib() {
    use base64::Engine as _;
    let encode = |size: usize| base64::engine::general_purpose::STANDARD.encode(vec![b'x'; size]);
    let mut account = Account::new();
    account.launch(&[("UserData", &encode(16_384))]).unwrap();
    let refused = account.launch(&[("UserData", &encode(16_385))]);
    assert_eq!(refused.unwrap_err(), "InvalidParameterValue");
}

#[test]
fn one_token_launches_once() {
    let mut account = Account::new();
    let first = account.launched(&[TOKEN]);
    assert_eq!(account.launched(&[TOKEN]), first);
    account.pass(10_000);
    let again = account.launch(&[TOKEN]).unwrap();
    assert_eq!(again.one("instanceId"), first);
    assert_eq!(again.one("instanceState/name"), "running");
    assert_eq!(account.world.state.instances.len(), 1);
}

#[test]
fn a_token_is_bound_to_every_parameter() {
    for change in [
        ("InstanceType", "r8i.8xlarge"),
        ("ImageId", "ami-00000000000134001"),
        ("UserData", "aGVsbG8="),
        ("Placement.Tenancy", "dedicated"),
        ("MaxCount", "2"),
        ("SecurityGroupId.1", "sg-00000000000000002"),
        ("KeyName", "mine"),
    ] {
        let mut account = Account::new();
        account.launched(&[TOKEN]);
        let refused = account.launch(&[TOKEN, change]);
        assert_eq!(
            refused.unwrap_err(),
            "IdempotentParameterMismatch",
            "{change:?}"
        );
        assert_eq!(account.world.state.instances.len(), 1, "{change:?}");
    }
}

#[test]
fn a_token_counts_for_each_zone_by_itself() {
    let mut account = Account::new();
    let a = account.launched(&[TOKEN]);
    let b = account.launched(&[TOKEN, ("SubnetId", "subnet-0000000000000000b")]);
    assert_ne!(a, b);
    assert_eq!(account.launched(&[TOKEN]), a);
}

#[test]
fn a_token_that_met_no_capacity_is_bound_all_the_same() {
    let mut account = Account::new();
    let rule = CapacityRule::of("r7iz.4xlarge", "us-east-2a");
    account.world.set_capacity(rule.clone().slots(0));
    let refused = account.launch(&[TOKEN]);
    assert_eq!(refused.unwrap_err(), "InsufficientInstanceCapacity");
    let other = account.launch(&[TOKEN, ("InstanceType", "r8i.8xlarge")]);
    assert_eq!(other.unwrap_err(), "IdempotentParameterMismatch");
    // With capacity back, the same request launches.
    account.world.set_capacity(rule);
    let id = account.launched(&[TOKEN]);
    assert_eq!(account.launched(&[TOKEN]), id);
}

#[test]
fn the_token_of_what_has_ended_is_spent() {
    for (spent_token, expected) in [
        (SpentToken::Refuse, Err("IdempotentInstanceTerminated")),
        (SpentToken::OldInstance, Ok(())),
    ] {
        let mut account = Account::under(Rules {
            spent_token,
            ..Rules::default()
        });
        let id = account.running(&[TOKEN]);
        account
            .call("TerminateInstances", &[("InstanceId.1", &id)])
            .unwrap();
        for wait in [0, 10_000] {
            account.pass(wait);
            let again = account
                .launch(&[TOKEN])
                .map(|answer| assert_eq!(answer.one("instanceId"), id));
            assert_eq!(again.map_err(|code| code.leak() as &str), expected);
        }
        // Once the instance is forgotten, nothing can return it any more.
        account.pass(2 * 3_600_000);
        assert!(!account.world.state.instances.contains_key(&id));
        assert_eq!(
            account.launch(&[TOKEN]).unwrap_err(),
            "IdempotentInstanceTerminated"
        );
    }
}

#[test]
fn a_token_is_at_most_64_ascii_characters() {
    let mut account = Account::new();
    account.launched(&[("ClientToken", &"x".repeat(64))]);
    for token in ["x".repeat(65), "é".to_owned()] {
        let refused = account.launch(&[("ClientToken", &token)]);
        assert_eq!(refused.unwrap_err(), "InvalidParameterValue");
    }
}

#[test]
fn capacity_ends_by_type_zone_and_tenancy() {
    let mut account = Account::new();
    account.world.set_capacity(
        CapacityRule::of("r7iz.4xlarge", "us-east-2a")
            .tenancy("dedicated")
            .slots(1),
    );
    let dedicated = ("Placement.Tenancy", "dedicated");
    let id = account.running(&[dedicated]);
    let none = account.launch(&[dedicated]);
    assert_eq!(none.unwrap_err(), "InsufficientInstanceCapacity");
    account.launched(&[]);
    account.launched(&[dedicated, ("SubnetId", "subnet-0000000000000000b")]);
    account.launched(&[dedicated, ("InstanceType", "r8i.8xlarge")]);
    // A stopped instance gives its place away, and may not get it back.
    account
        .call("StopInstances", &[("InstanceId.1", &id)])
        .unwrap();
    account.pass(10_000);
    account.launched(&[dedicated]);
    let none = account.call("StartInstances", &[("InstanceId.1", &id)]);
    assert_eq!(none.unwrap_err(), "InsufficientInstanceCapacity");
    assert_eq!(account.state_of(&id), "stopped");
}

#[test]
fn what_was_stopped_takes_no_room_while_it_ends() {
    let mut account = Account::new();
    let rule = CapacityRule::of("r7iz.4xlarge", "us-east-2a");
    account.world.set_capacity(rule.slots(1));
    let id = account.running(&[]);
    let named = [("InstanceId.1", id.as_str())];
    account.call("StopInstances", &named).unwrap();
    account.pass(10_000);
    account.call("TerminateInstances", &named).unwrap();
    assert_eq!(account.state_of(&id), "shutting-down");
    account.launched(&[]);
}

#[test]
fn a_rule_without_a_type_counts_all_types() {
    let mut account = Account::new();
    account.world.set_capacity(CapacityRule {
        zone: Some("us-east-2a".to_owned()),
        slots: Some(2),
        ..CapacityRule::default()
    });
    account.launched(&[]);
    account.launched(&[("InstanceType", "m7i.large")]);
    let none = account.launch(&[("InstanceType", "c7i.large")]);
    assert_eq!(none.unwrap_err(), "InsufficientInstanceCapacity");
}

#[test]
fn as_many_as_there_is_room_for_between_least_and_most() {
    let mut account = Account::new();
    account
        .world
        .set_capacity(CapacityRule::of("r7iz.4xlarge", "us-east-2a").slots(3));
    let answer = account
        .launch(&[("MinCount", "2"), ("MaxCount", "5")])
        .unwrap();
    assert_eq!(answer.all("instanceId").len(), 3);
    let addresses = answer.all("instancesSet/item/privateIpAddress");
    assert_eq!(addresses, ["10.0.16.4", "10.0.16.5", "10.0.16.6"]);
    let none = account.launch(&[("MinCount", "1"), ("MaxCount", "5")]);
    assert_eq!(none.unwrap_err(), "InsufficientInstanceCapacity");
}

#[test]
fn addresses_are_not_given_out_again_at_once_and_end() {
    let mut rules = Rules::default();
    rules.catalogue.subnets[0].prefix = 28;
    let mut account = Account::under(rules);
    let first = account.running(&[]);
    account
        .call("TerminateInstances", &[("InstanceId.1", &first)])
        .unwrap();
    account.pass(10_000);
    let second = account.launch(&[]).unwrap();
    assert_eq!(
        second.one("instancesSet/item/privateIpAddress"),
        "10.0.16.5"
    );
    account
        .launch(&[("MinCount", "10"), ("MaxCount", "10")])
        .unwrap();
    let none = account.launch(&[]);
    assert_eq!(none.unwrap_err(), "InsufficientFreeAddressesInSubnet");
}
