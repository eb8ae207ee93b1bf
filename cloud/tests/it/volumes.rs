//! Volumes.

use halo_cloud::{Cloud as _, Failure, InstanceId, NewVolume, VolumeId, VolumeState};

use crate::script::{Reply, Server, clients, settings, tags, volume};

#[tokio::test]
async fn what_is_attached_there_already_is_attached() {
    for (holder, ours) in [(Some("i-1"), true), (Some("i-2"), false), (None, false)] {
        let server = Server::new(move |_, seen| match seen.action() {
            "AttachVolume" => Reply::error(
                400,
                "VolumeInUse",
                "vol-1 is already attached to an instance",
            ),
            _ => volume("vol-1", "in-use", holder),
        })
        .await;
        let cloud = clients(settings(&server.url)).cloud;
        let result = cloud
            .attach_volume(
                &VolumeId("vol-1".to_owned()),
                &InstanceId("i-1".to_owned()),
                "/dev/sdf",
            )
            .await;
        assert_eq!(
            result.map_err(|error| error.failure),
            if ours { Ok(()) } else { Err(Failure::State) },
            "{holder:?}"
        );
        assert_eq!(server.actions(), ["AttachVolume", "DescribeVolumes"]);
        let seen = server.seen();
        assert_eq!(
            (
                seen[0].get("VolumeId"),
                seen[0].get("InstanceId"),
                seen[0].get("Device")
            ),
            ("vol-1", "i-1", "/dev/sdf")
        );
        assert_eq!(
            (
                seen[1].get("Filter.1.Name"),
                seen[1].get("Filter.1.Value.1")
            ),
            ("volume-id", "vol-1")
        );
    }
}

#[tokio::test]
async fn made_listed_and_deleted() {
    let server = Server::new(|_, seen| match seen.action() {
        "CreateVolume" => Reply::ok(
            "<CreateVolumeResponse><volumeId>vol-1</volumeId><availabilityZone>us-east-2a</availabilityZone><status>creating</status><createTime>2026-11-21T12:00:00.000Z</createTime></CreateVolumeResponse>",
        ),
        "DescribeVolumes" => volume("vol-1", "available", None),
        _ => Reply::done(seen),
    })
    .await;
    let cloud = clients(settings(&server.url)).cloud;
    let request = NewVolume {
        client_token: "v-1".to_owned(),
        zone: "us-east-2a".to_owned(),
        size_gib: 100,
        snapshot: None,
        iops: None,
        throughput: None,
        kms_key: None,
        tags: tags(&[("slot", "0")]),
    };
    let made = cloud.create_volume(&request).await.unwrap();
    assert_eq!(
        (made.id.0.as_str(), &made.state, &made.tags),
        ("vol-1", &VolumeState::Creating, &request.tags)
    );
    let sent = &server.seen()[0];
    assert_eq!(
        (
            sent.get("Encrypted"),
            sent.get("VolumeType"),
            sent.get("ClientToken")
        ),
        ("true", "gp3", "v-1")
    );
    // The list's volume carries no tags, so it is in no list of tagged ones.
    assert_eq!(
        cloud.volumes(&tags(&[])).await.unwrap()[0].state,
        VolumeState::Available
    );
    assert_eq!(cloud.volumes(&request.tags).await, Ok(vec![]));
    assert_eq!(cloud.delete_volume(&made.id).await, Ok(()));
}
