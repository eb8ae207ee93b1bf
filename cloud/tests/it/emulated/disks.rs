//! Volumes that outlive instances.

use halo_aws_emulator::{Config, Fault, Limits, When};
use halo_cloud::{Cloud as _, Failure, InstanceState, NewVolume, VolumeId, VolumeState};

use super::{launch, start, until, until_state, what};
use crate::script::{Clients, tags};

fn request(token: &str) -> NewVolume {
    NewVolume {
        client_token: token.to_owned(),
        zone: "us-east-2a".to_owned(),
        size_gib: 200,
        snapshot: Some("snap-00000000000000001".to_owned()),
        iops: Some(6_000),
        throughput: Some(500),
        kms_key: None,
        tags: tags(&[
            ("halo.howdify.io/cluster", "test"),
            ("halo.howdify.io/slot", "0"),
        ]),
    }
}

async fn until_volume(clients: &Clients, id: &VolumeId, state: VolumeState) {
    until(&format!("{id} is {state:?}"), || async {
        let all = clients
            .cloud
            .volumes(&tags(&[("halo.howdify.io/slot", "0")]))
            .await
            .unwrap();
        all.into_iter()
            .find(|one| one.id == *id && one.state == state)
    })
    .await;
}

#[tokio::test]
async fn made_once() {
    let (emulator, clients) = start(Config::instant());
    emulator.add_fault(Fault::cut("CreateVolume", When::After));
    let made = clients.cloud.create_volume(&request("v-1")).await.unwrap();
    assert_eq!(
        clients
            .cloud
            .create_volume(&request("v-1"))
            .await
            .unwrap()
            .id,
        made.id
    );
    assert_eq!(emulator.state().volumes.len(), 1);
    assert_eq!(
        (made.zone.as_str(), &made.tags),
        ("us-east-2a", &request("v-1").tags)
    );
    let there = emulator.state().volumes.remove(&made.id.0).unwrap();
    assert_eq!(
        (there.kind.as_str(), there.encrypted, there.size),
        ("gp3", true, 200)
    );
    assert_eq!((there.iops, there.throughput), (Some(6_000), Some(500)));
    assert_eq!(there.snapshot.as_deref(), Some("snap-00000000000000001"));
    let larger = NewVolume {
        size_gib: 300,
        ..request("v-1")
    };
    assert_eq!(
        what(clients.cloud.create_volume(&larger).await),
        Some((
            Failure::TokenMismatch,
            "IdempotentParameterMismatch".to_owned()
        ))
    );
    emulator.set_limits(Limits {
        volumes: Some(1),
        ..Limits::default()
    });
    assert_eq!(
        what(clients.cloud.create_volume(&request("v-2")).await),
        Some((Failure::Quota, "VolumeLimitExceeded".to_owned()))
    );
}

#[tokio::test]
async fn from_creation_to_deletion() {
    let mut config = Config::default();
    config.rules.timings.visible_after_ms = 50;
    config.rules.timings.volume_ms = 80;
    config.rules.timings.pending_ms = 80;
    config.rules.timings.shutting_down_ms = 80;
    let (_emulator, clients) = start(config);
    let cloud = &clients.cloud;
    let first = cloud.launch(&launch("t-1")).await.unwrap().id;
    let second = cloud.launch(&launch("t-2")).await.unwrap().id;
    let volume = cloud.create_volume(&request("v-1")).await.unwrap().id;
    // Not shown yet, or not ready yet: later it will be, and until then nothing is lost.
    let attach = |instance| cloud.attach_volume(&volume, instance, "/dev/sdf");
    assert_eq!(
        attach(&first).await.map_err(|error| error.failure),
        Err(Failure::State)
    );
    until_state(&clients, &first, InstanceState::Running).await;
    until_state(&clients, &second, InstanceState::Running).await;
    until_volume(&clients, &volume, VolumeState::Available).await;
    attach(&first).await.unwrap();
    attach(&first).await.unwrap();
    until_volume(&clients, &volume, VolumeState::InUse(first.clone())).await;
    let in_use = Some((Failure::State, "VolumeInUse".to_owned()));
    assert_eq!(what(attach(&second).await), in_use);
    assert_eq!(what(cloud.delete_volume(&volume).await), in_use);
    // Its instance ends; it stays, and goes to the next one.
    cloud.terminate(&first).await.unwrap();
    until_volume(&clients, &volume, VolumeState::Available).await;
    attach(&second).await.unwrap();
    until_volume(&clients, &volume, VolumeState::InUse(second.clone())).await;
    cloud.terminate(&second).await.unwrap();
    until_volume(&clients, &volume, VolumeState::Available).await;
    cloud.delete_volume(&volume).await.unwrap();
    until("it is gone", || async {
        let all = cloud
            .volumes(&tags(&[("halo.howdify.io/slot", "0")]))
            .await
            .unwrap();
        all.iter().all(|one| one.id != volume).then_some(())
    })
    .await;
    // Of another process, which did not make it a moment ago.
    let other = crate::script::clients(crate::script::settings(&_emulator.url()));
    assert_eq!(other.cloud.delete_volume(&volume).await, Ok(()));
    let never = VolumeId("vol-0fffffffffffffff0".to_owned());
    assert_eq!(cloud.delete_volume(&never).await, Ok(()));
}

#[tokio::test]
async fn zones_do_not_mix() {
    let (_emulator, clients) = start(Config::instant());
    let mut there = launch("t-1");
    there.subnet_id = "subnet-0000000000000000b".to_owned();
    let instance = clients.cloud.launch(&there).await.unwrap().id;
    let volume = clients
        .cloud
        .create_volume(&request("v-1"))
        .await
        .unwrap()
        .id;
    until_state(&clients, &instance, InstanceState::Running).await;
    let result = clients
        .cloud
        .attach_volume(&volume, &instance, "/dev/sdf")
        .await;
    assert_eq!(
        what(result),
        Some((Failure::Invalid, "InvalidVolume.ZoneMismatch".to_owned()))
    );
}
