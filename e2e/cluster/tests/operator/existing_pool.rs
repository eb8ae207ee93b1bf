//! Nodes that are there already: sleeping means no pods.

use std::time::Duration;

use halo_crds::status::Phase;
use halo_e2e_cluster::NodeSpec;

use crate::support::{World, assert_words, objects};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_come_and_go_and_the_cloud_is_never_asked() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world
        .tenant_with_substrate("acme", objects::on_existing_nodes("acme", "demo"))
        .await;
    let gateway = world.gateway("gateway-0");

    // No node matches: it says so.
    gateway.asks("halo-acme", "demo", 1).await;
    let nodes = world
        .substrate_says(
            "halo-acme",
            "demo",
            "NodesReady",
            "False",
            "NoMatchingNodes",
        )
        .await;
    assert_words(&nodes, &["nodePool.existing.nodeSelector"]);

    // One that matches and one that does not.
    world.machines.nodes().boot(NodeSpec::new("other"));
    world
        .machines
        .nodes()
        .boot(NodeSpec::new("ours").label("role", "substrate"));
    world.phase("halo-acme", "demo", Phase::Awake).await;
    let pods = world.pods("halo-acme", "demo").await;
    assert_eq!(pods.len(), 1);
    assert_eq!(
        pods[0].spec.as_ref().unwrap().node_name.as_deref(),
        Some("ours")
    );

    gateway
        .is_idle_for("halo-acme", "demo", Duration::from_secs(3600))
        .await;
    let asleep = world.phase("halo-acme", "demo", Phase::Asleep).await;
    assert!(asleep.status.unwrap().nodes.is_empty());
    assert!(world.pods("halo-acme", "demo").await.is_empty());
    let nodes = world.kubectl(&["get", "nodes", "-o", "name"]).await;
    assert_eq!(nodes.lines().count(), 2, "{nodes}");
    for action in ["RunInstances", "TerminateInstances", "CreateVolume"] {
        assert!(world.emulator.calls_of(action).is_empty(), "{action}");
    }
    world.delete(&objects::tenant("acme")).await;
    world.nothing_left("acme").await;
}
