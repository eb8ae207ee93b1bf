//! The life of instances, as slow and forgetful as EC2's.

use futures_util::future::join_all;
use halo_aws_emulator::{Config, Limits};
use halo_cloud::{Cloud as _, Failure, InstanceId, InstanceState};

use super::{PATIENCE, launch, start, until, until_state, what};
use crate::script::tags;

#[tokio::test]
async fn what_was_launched_is_not_seen_at_once() {
    let mut config = Config::default();
    // Long enough that what follows happens before.
    config.rules.timings.visible_after_ms = 3_000;
    let (emulator, clients) = start(config);
    let launched = clients.cloud.launch(&launch("t-1")).await.unwrap();
    assert_eq!(launched.state, InstanceState::Pending);
    let ours = tags(&[("halo.howdify.io/cluster", "test")]);
    assert_eq!(clients.cloud.instances(&ours).await, Ok(vec![]));
    assert_eq!(clients.cloud.instance_by_token("t-1").await, Ok(None));
    // The launch itself is remembered.
    assert_eq!(
        clients.cloud.launch(&launch("t-1")).await.unwrap().id,
        launched.id
    );
    // Not known yet is not gone.
    let not_yet = Some((Failure::State, "InvalidInstanceID.NotFound".to_owned()));
    assert_eq!(what(clients.cloud.terminate(&launched.id).await), not_yet);
    assert_eq!(what(clients.cloud.stop(&launched.id).await), not_yet);
    assert_eq!(emulator.living().len(), 1);

    let seen = until("it is shown", || async {
        clients.cloud.instance_by_token("t-1").await.unwrap()
    })
    .await;
    assert_eq!(seen.id, launched.id);
    assert_eq!(clients.cloud.instances(&ours).await.unwrap().len(), 1);
    assert_eq!(
        clients
            .cloud
            .instances(&tags(&[("halo.howdify.io/cluster", "other")]))
            .await,
        Ok(vec![])
    );
    clients.cloud.terminate(&launched.id).await.unwrap();
    emulator
        .wait_until(PATIENCE, |view| view.state.living().next().is_none())
        .await
        .unwrap();
}

#[tokio::test]
async fn from_launch_to_end() {
    let mut config = Config::default();
    config.rules.timings.visible_after_ms = 20;
    config.rules.timings.pending_ms = 60;
    config.rules.timings.stopping_ms = 60;
    config.rules.timings.shutting_down_ms = 60;
    let (emulator, clients) = start(config);
    let id = clients.cloud.launch(&launch("t-1")).await.unwrap().id;
    until_state(&clients, &id, InstanceState::Running).await;
    // What is so already is a success.
    clients.cloud.start(&id).await.unwrap();
    clients.cloud.stop(&id).await.unwrap();
    let stopped = until_state(&clients, &id, InstanceState::Stopped).await;
    assert!(
        stopped.reason.starts_with("Client.UserInitiatedShutdown"),
        "{}",
        stopped.reason
    );
    clients.cloud.stop(&id).await.unwrap();
    clients.cloud.start(&id).await.unwrap();
    until_state(&clients, &id, InstanceState::Running).await;
    clients.cloud.terminate(&id).await.unwrap();
    until_state(&clients, &id, InstanceState::Terminated).await;
    clients.cloud.terminate(&id).await.unwrap();
    let wrong = Some((Failure::State, "IncorrectInstanceState".to_owned()));
    assert_eq!(what(clients.cloud.start(&id).await), wrong);
    assert_eq!(what(clients.cloud.stop(&id).await), wrong);
    assert_eq!(emulator.instance(&id.0).unwrap().boots, 2);
}

#[tokio::test]
async fn what_others_end_is_seen_with_its_reason() {
    let (emulator, clients) = start(Config::instant());
    let id = clients.cloud.launch(&launch("t-1")).await.unwrap().id;
    emulator.terminate(
        &id.0,
        Some(("Server.InternalError", "Internal error on launch")),
    );
    let ended = until_state(&clients, &id, InstanceState::Terminated).await;
    assert_eq!(
        ended.reason,
        "Server.InternalError: Internal error on launch"
    );
    assert_eq!(ended.tags, launch("t-1").tags);
}

#[tokio::test]
async fn many_end_in_one_call() {
    let (emulator, clients) = start(Config::instant());
    let requests: Vec<_> = (0..30).map(|n| launch(&format!("t-{n}"))).collect();
    let launched = join_all(requests.iter().map(|request| clients.cloud.launch(request))).await;
    let mut ids: Vec<InstanceId> = launched.into_iter().map(|one| one.unwrap().id).collect();
    // One that never was, and one that is no id at all.
    ids.push(InstanceId("i-0fffffffffffffff0".to_owned()));
    let ended = join_all(ids.iter().map(|id| clients.cloud.terminate(id))).await;
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    assert!(emulator.living().is_empty());
    let calls = emulator.calls_of("TerminateInstances").len();
    assert!(calls <= 4, "{calls} calls");
    let odd = clients
        .cloud
        .terminate(&InstanceId("nonsense".to_owned()))
        .await;
    assert_eq!(
        what(odd),
        Some((Failure::Invalid, "InvalidInstanceID.Malformed".to_owned()))
    );
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let (emulator, clients) = start(Config::instant());
    emulator.set_limits(Limits {
        page: Some(5),
        ..Limits::default()
    });
    let requests: Vec<_> = (0..13).map(|n| launch(&format!("t-{n}"))).collect();
    for launched in join_all(requests.iter().map(|request| clients.cloud.launch(request))).await {
        launched.unwrap();
    }
    let all = clients.cloud.instances(&requests[0].tags).await.unwrap();
    let ids: std::collections::BTreeSet<_> = all.iter().map(|one| &one.id).collect();
    assert_eq!((all.len(), ids.len()), (13, 13));
    assert_eq!(emulator.calls_of("DescribeInstances").len(), 3);
    // Root volumes too.
    assert_eq!(
        clients
            .cloud
            .volumes(&requests[0].tags)
            .await
            .unwrap()
            .len(),
        13
    );
    assert_eq!(emulator.calls_of("DescribeVolumes").len(), 3);
}
