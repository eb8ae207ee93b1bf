//! Volumes: their states, attachments, tokens, and what ends with an instance.

use crate::account::Account;

const NOWHERE: &str = "vol-0123456789abcdef0";

#[test]
fn a_volume_is_made_attached_detached_and_deleted() {
    let mut account = Account::new();
    let instance = account.running(&[]);
    let made = account
        .call(
            "CreateVolume",
            &[
                ("AvailabilityZone", "us-east-2a"),
                ("Size", "100"),
                ("VolumeType", "gp3"),
                ("Encrypted", "true"),
            ],
        )
        .unwrap();
    assert_eq!(made.one("status"), "creating");
    assert_eq!(made.one("iops"), "3000");
    assert_eq!(made.one("throughput"), "125");
    let id = made.one("volumeId");
    let volume = [("VolumeId", id.as_str())];
    let attach = [
        ("VolumeId", id.as_str()),
        ("InstanceId", &instance),
        ("Device", "/dev/sdf"),
    ];
    let unknown = account.call("AttachVolume", &attach);
    assert_eq!(unknown.unwrap_err(), "InvalidVolume.NotFound");
    account.pass(1_000);
    let state = |account: &mut Account| {
        let described = account
            .call("DescribeVolumes", &[("VolumeId.1", &id)])
            .unwrap();
        let attachment = described.all("attachmentSet/item/status");
        (
            described.one("volumeSet/item/status"),
            attachment.first().map(|state| (*state).to_owned()),
        )
    };
    assert_eq!(state(&mut account), ("available".to_owned(), None));
    let attached = account.call("AttachVolume", &attach).unwrap();
    assert_eq!(attached.one("status"), "attaching");
    assert_eq!(
        state(&mut account),
        ("in-use".to_owned(), Some("attaching".to_owned()))
    );
    account.pass(1_000);
    assert_eq!(
        state(&mut account),
        ("in-use".to_owned(), Some("attached".to_owned()))
    );
    for (action, pairs, code) in [
        ("AttachVolume", &attach[..], "VolumeInUse"),
        ("DeleteVolume", &volume, "VolumeInUse"),
        (
            "DetachVolume",
            &[("VolumeId", &id), ("Device", "/dev/sdg")],
            "InvalidAttachment.NotFound",
        ),
    ] {
        assert_eq!(account.call(action, pairs).unwrap_err(), code, "{action}");
    }
    account.call("DetachVolume", &volume).unwrap();
    let again = account.call("DetachVolume", &volume);
    assert_eq!(again.unwrap_err(), "IncorrectState");
    account.pass(1_000);
    assert_eq!(state(&mut account), ("available".to_owned(), None));
    account.call("DeleteVolume", &volume).unwrap();
    assert_eq!(state(&mut account).0, "deleting");
    account.pass(1_000);
    let gone = account.call("DescribeVolumes", &[("VolumeId.1", &id)]);
    assert_eq!(gone.unwrap_err(), "InvalidVolume.NotFound");
}

#[test]
fn what_cannot_be_attached() {
    let mut account = Account::new();
    let instance = account.running(&[]);
    let near = account.volume(&[]);
    let far = account.volume(&[("AvailabilityZone", "us-east-2b")]);
    let pending = account.launched(&[]);
    account.pass(400);
    for (volume, instance, device, code) in [
        (
            far.as_str(),
            instance.as_str(),
            "/dev/sdf",
            "InvalidVolume.ZoneMismatch",
        ),
        (&near, &instance, "/dev/xvda", "InvalidParameterValue"),
        (&near, &pending, "/dev/sdf", "IncorrectState"),
        (NOWHERE, &instance, "/dev/sdf", "InvalidVolume.NotFound"),
        (
            &near,
            "i-0123456789abcdef0",
            "/dev/sdf",
            "InvalidInstanceID.NotFound",
        ),
        ("volume", &instance, "/dev/sdf", "InvalidVolumeID.Malformed"),
    ] {
        let pairs = [
            ("VolumeId", volume),
            ("InstanceId", instance),
            ("Device", device),
        ];
        assert_eq!(
            account.call("AttachVolume", &pairs).unwrap_err(),
            code,
            "{pairs:?}"
        );
    }
}

#[test]
fn what_a_volume_cannot_be() {
    let zone = ("AvailabilityZone", "us-east-2a");
    let gp3 = ("VolumeType", "gp3");
    for (pairs, code) in [
        (&[("Size", "1")][..], "MissingParameter"),
        (&[zone], "MissingParameter"),
        (
            &[("AvailabilityZone", "us-east-2z"), ("Size", "1")],
            "InvalidZone.NotFound",
        ),
        (&[zone, ("Size", "0")], "InvalidParameterValue"),
        (
            &[zone, ("Size", "1"), ("VolumeType", "gp9")],
            "InvalidParameterValue",
        ),
        (
            &[zone, gp3, ("Size", "1"), ("Iops", "100")],
            "InvalidParameterValue",
        ),
        (
            &[zone, gp3, ("Size", "1"), ("Throughput", "5000")],
            "InvalidParameterValue",
        ),
        (
            &[zone, ("Size", "1"), ("Throughput", "125")],
            "InvalidParameterCombination",
        ),
        (
            &[zone, ("Size", "1"), ("KmsKeyId", "alias/mine")],
            "InvalidParameterDependency",
        ),
        (
            &[zone, ("SnapshotId", "snap-0123456789abcdef0")],
            "InvalidSnapshot.NotFound",
        ),
        (
            &[
                zone,
                ("SnapshotId", "snap-00000000000000001"),
                ("Size", "50"),
            ],
            "InvalidParameterValue",
        ),
        (
            &[zone, ("Size", "1"), ("DryRun", "true")],
            "DryRunOperation",
        ),
    ] {
        let mut account = Account::new();
        assert_eq!(
            account.call("CreateVolume", pairs).unwrap_err(),
            code,
            "{pairs:?}"
        );
        assert_eq!(account.world.revision(), 0, "{pairs:?}");
    }
    let mut account = Account::new();
    let of_snapshot = [zone, ("SnapshotId", "snap-00000000000000001")];
    assert_eq!(
        account
            .call("CreateVolume", &of_snapshot)
            .unwrap()
            .one("size"),
        "100"
    );
}

#[test]
fn one_token_makes_one_volume() {
    let mut account = Account::new();
    let token = ("ClientToken", "one");
    let first = account.volume(&[token]);
    assert_eq!(account.volume(&[token]), first);
    let larger = [("AvailabilityZone", "us-east-2a"), ("Size", "200"), token];
    let refused = account.call("CreateVolume", &larger);
    assert_eq!(refused.unwrap_err(), "IdempotentParameterMismatch");
    assert_eq!(account.world.state.volumes.len(), 1);
}

#[test]
fn volumes_end_with_their_instance_only_if_they_say_so() {
    let mut account = Account::new();
    let instance = account.running(&[
        ("BlockDeviceMapping.1.DeviceName", "/dev/sdb"),
        ("BlockDeviceMapping.1.Ebs.VolumeSize", "10"),
        ("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "false"),
        ("BlockDeviceMapping.2.DeviceName", "/dev/sdc"),
        ("BlockDeviceMapping.2.Ebs.VolumeSize", "10"),
    ]);
    let data = account.volume(&[]);
    let attach = [
        ("VolumeId", data.as_str()),
        ("InstanceId", &instance),
        ("Device", "/dev/sdf"),
    ];
    account.call("AttachVolume", &attach).unwrap();
    account.pass(1_000);
    let devices = |account: &Account| -> Vec<String> {
        let volumes = account.world.state.volumes_of(&instance);
        volumes
            .iter()
            .map(|volume| volume.attachment.as_ref().unwrap().device.clone())
            .collect()
    };
    assert_eq!(
        devices(&account),
        ["/dev/sdb", "/dev/sdc", "/dev/sdf", "/dev/xvda"]
    );
    // A stop keeps everything where it is.
    account
        .call("StopInstances", &[("InstanceId.1", &instance)])
        .unwrap();
    account.pass(1_000);
    assert_eq!(devices(&account).len(), 4);
    account
        .call("TerminateInstances", &[("InstanceId.1", &instance)])
        .unwrap();
    account.pass(1_000);
    let left: Vec<(u32, &str)> = account
        .world
        .state
        .volumes
        .values()
        .map(|volume| (volume.size, volume.state.name()))
        .collect();
    assert_eq!(left.len(), 2);
    assert!(left.contains(&(100, "available")) && left.contains(&(10, "available")));
}

#[test]
fn the_root_of_a_running_instance_is_not_detached() {
    let mut account = Account::new();
    let instance = account.running(&[]);
    let root = account.world.state.volumes_of(&instance)[0].id.clone();
    let refused = account.call("DetachVolume", &[("VolumeId", &root)]);
    assert_eq!(refused.unwrap_err(), "OperationNotPermitted");
}
