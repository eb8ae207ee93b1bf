//! Pods from EndpointSlices: an event of the watch is all that there is between a pod's readiness and its use.

use std::time::Duration;

use halo_gateway::directory::{Directory as _, Stage};
use tokio::time::timeout;

use crate::support::{DEADLINE, World, slice, substrate};

#[tokio::test]
async fn a_pod_that_becomes_ready_is_told_of() {
    let world = World::shared().await;
    world.tenant("ready").await;
    let gateway = world.gateway("gateway-0", |_| {}).await;
    let asleep = gateway.substrate("ready").unwrap();
    assert_eq!((asleep.stage, asleep.pods.len()), (Stage::Asleep, 0));
    assert_eq!(asleep.wake_deadline, Some(Duration::from_secs(600)));

    world
        .apply(&[slice("ready", "qwen-1", &[("10.0.0.7", false)])])
        .await;
    gateway.sees("ready", Stage::Loading, &[]).await;
    // Whoever waits is woken by what follows; other tests change the view as well.
    let mut changes = gateway.cluster.changes();
    changes.mark_unchanged();
    world
        .apply(&[slice("ready", "qwen-1", &[("10.0.0.7", true)])])
        .await;
    let told = async {
        loop {
            changes.changed().await.unwrap();
            let found = gateway.substrate("ready").unwrap();
            if found.stage == Stage::Ready {
                break found;
            }
        }
    };
    let found = timeout(DEADLINE, told).await.unwrap();
    assert_eq!(found.pods[0].0, "10.0.0.7:8090");

    world
        .apply(&[slice("ready", "qwen-2", &[("10.0.0.3", true)])])
        .await;
    let both = &["10.0.0.3:8090", "10.0.0.7:8090"];
    gateway.sees("ready", Stage::Ready, both).await;
    // The first one ends.
    let mut ending = slice("ready", "qwen-1", &[("10.0.0.7", false)]);
    ending["endpoints"][0]["conditions"]["terminating"] = serde_json::json!(true);
    world.apply(&[ending]).await;
    gateway
        .sees("ready", Stage::Ready, &["10.0.0.3:8090"])
        .await;
    world.delete(&slice("ready", "qwen-2", &[])).await;
    gateway.sees("ready", Stage::Asleep, &[]).await;
}

#[tokio::test]
async fn of_several_substrates_one_serves_until_it_is_deleted() {
    let world = World::shared().await;
    world.tenant("several").await;
    let gateway = world.gateway("gateway-0", |_| {}).await;
    world
        .apply(&[slice("several", "qwen-1", &[("10.0.1.1", true)])])
        .await;
    gateway
        .sees("several", Stage::Ready, &["10.0.1.1:8090"])
        .await;
    // A later one, whose name is earlier; created in another second, as ages are told in seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut other = slice("several", "another-1", &[("10.0.1.2", true)]);
    other["metadata"]["labels"]["halo.howdify.io/substrate"] = serde_json::json!("another");
    world.apply(&[substrate("several", "another"), other]).await;
    world
        .apply(&[slice("several", "qwen-2", &[("10.0.1.3", true)])])
        .await;
    gateway
        .sees("several", Stage::Ready, &["10.0.1.1:8090", "10.0.1.3:8090"])
        .await;
    world.delete(&substrate("several", "qwen")).await;
    gateway
        .sees("several", Stage::Ready, &["10.0.1.2:8090"])
        .await;
}
