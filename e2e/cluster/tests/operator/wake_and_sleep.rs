//! A substrate's days: asleep, woken by demand, in use, idle, asleep again.

use std::time::Duration;

use halo_aws_emulator::{CapacityRule, InstanceState, VolumeState};
use halo_crds::HaloSubstrate;
use halo_crds::status::{NodeState, Phase};
use halo_e2e_cluster::eventually;
use kube::ResourceExt as _;
use serde_json::json;

use crate::support::objects::{self, NAMESPACE, SUBSTRATE, TENANT, TYPES, with};
use crate::support::{DEADLINE, Setup, World, assert_words, repository};

/// Longer than any `idleAfter` of these tests.
const LONG: Duration = Duration::from_secs(3600);

fn why(substrate: &HaloSubstrate) -> &str {
    let status = substrate.status.as_ref().unwrap();
    status.why.as_deref().unwrap_or_default()
}

/// The words of a table, line by line.
fn words(table: &str) -> Vec<Vec<&str>> {
    table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_wakes_and_sleeps() {
    let world = World::start().await;
    let operator = world.operator().await;
    let file = repository().join("docs/examples/tenant.yaml");
    world
        .kubectl(&["apply", "-f", &file.display().to_string()])
        .await;

    // Asleep: ready, and nothing that costs.
    world.tenant_says(TENANT, "Ready", "True", "Ready").await;
    world
        .substrate_says(NAMESPACE, SUBSTRATE, "Ready", "True", "Asleep")
        .await;
    assert_eq!(world.launches(), 0);
    assert!(world.volumes().is_empty());
    let table = world.kubectl(&["get", "hs", "-n", NAMESPACE]).await;
    let row = words(&table)[1].join(" ");
    assert!(
        row.starts_with("qwen acme-pharmacy Qwen/Qwen3-30B-A3B Asleep 0/0 True"),
        "{table}"
    );
    assert!(table.contains("no demand"), "{table}");

    // Demand: one instance, one node, one pod.
    let gateway = world.gateway("gateway-0");
    gateway.asks(NAMESPACE, SUBSTRATE, 3).await;
    let awake = world.phase(NAMESPACE, SUBSTRATE, Phase::Awake).await;
    let status = awake.status.as_ref().unwrap();
    let slot = &status.nodes[0];
    assert_eq!((status.nodes.len(), slot.state), (1, NodeState::Ready));
    assert_eq!(
        (
            slot.instance_type.as_str(),
            slot.zone.as_str(),
            slot.attempt
        ),
        ("r7iz.4xlarge", "us-east-2a", 1)
    );
    let living = world.living();
    assert_eq!(living.len(), 1);
    let instance = &living[0];
    assert_eq!(slot.instance.as_ref(), Some(&instance.id));
    assert_eq!(slot.node, world.machines.node_of(&instance.id));
    assert_eq!(instance.tenancy, "dedicated");
    assert_eq!(instance.metadata.tokens, "required");
    assert_eq!(instance.metadata.hop_limit, 1);
    assert_eq!(instance.key_name, None);
    assert_eq!(instance.profile.as_deref(), Some("halo-node"));
    let tag = |key: &str| {
        instance
            .tags
            .get(&format!("halo.howdify.io/{key}"))
            .map(String::as_str)
    };
    assert_eq!(tag("substrate"), Some("halo-acme-pharmacy.qwen"));
    assert_eq!(tag("tenant"), Some(TENANT));
    assert_eq!(tag("slot"), Some("0"));
    let volumes = world.volumes();
    let data = volumes
        .iter()
        .find(|one| one.tags.contains_key("halo.howdify.io/slot"));
    let data = data.unwrap();
    assert_eq!((data.size, data.throughput), (80, Some(1000)));
    assert_eq!(data.snapshot.as_deref(), Some("snap-0a1b2c3d4e5f60001"));
    assert!(
        volumes
            .iter()
            .all(|volume| volume.encrypted && volume.kind == "gp3")
    );
    assert_eq!(world.pods(NAMESPACE, SUBSTRATE).await.len(), 1);
    let table = world.kubectl(&["get", "halosubstrates", "-A"]).await;
    let row = words(&table)[1].join(" ");
    assert!(
        row.starts_with("halo-acme-pharmacy qwen acme-pharmacy Qwen/Qwen3-30B-A3B Awake 1/1 True"),
        "{table}"
    );
    assert!(table.contains("in use"), "{table}");
    let text = world
        .kubectl(&["describe", "hs", SUBSTRATE, "-n", NAMESPACE])
        .await;
    for part in [
        "Instance Type:   r7iz.4xlarge",
        "Zone:            us-east-2a",
        &instance.id,
        "a pod answers",
        "nothing stands in the way",
        "Launched",
        "there is demand",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }

    // The gateway has nothing any more: after idleAfter pods, then the node, go. The volume stays.
    gateway.leaves(NAMESPACE, SUBSTRATE).await;
    world
        .substrate_is(NAMESPACE, SUBSTRATE, |s| {
            s.status.as_ref().unwrap().idle_since.is_some()
        })
        .await;
    assert_eq!(
        world
            .phase(NAMESPACE, SUBSTRATE, Phase::Awake)
            .await
            .status
            .unwrap()
            .ready_replicas,
        1
    );
    world.clock.forward(Duration::from_secs(16 * 60));
    gateway
        .is_idle_for(NAMESPACE, SUBSTRATE, Duration::from_secs(16 * 60))
        .await;
    let asleep = world.phase(NAMESPACE, SUBSTRATE, Phase::Asleep).await;
    let status = asleep.status.as_ref().unwrap();
    assert!(status.nodes.is_empty(), "{status:?}");
    assert!(
        status.usage.as_ref().unwrap().node_seconds > 0,
        "{status:?}"
    );
    assert!(world.living().is_empty());
    assert!(world.pool_nodes().await.is_empty());
    assert!(world.pods(NAMESPACE, SUBSTRATE).await.is_empty());
    world
        .cloud_is("one volume, attached to nothing", |view| {
            let mut volumes = view.state.volumes.values();
            view.state.volumes.len() == 1 && volumes.all(|one| one.state == VolumeState::Available)
        })
        .await;

    // Once more: another instance, the same volume.
    gateway.asks(NAMESPACE, SUBSTRATE, 1).await;
    let awake = world.phase(NAMESPACE, SUBSTRATE, Phase::Awake).await;
    let slot = &awake.status.as_ref().unwrap().nodes[0];
    assert_eq!(slot.attempt, 2);
    assert_eq!(slot.volume.as_ref(), Some(&data.id));
    assert_eq!(world.launches(), 2);
    world
        .cloud_is("the volume is with the new instance", |view| {
            let holder = view.state.volumes[&data.id].attachment.as_ref();
            holder.map(|holder| &holder.instance) == slot.instance.as_ref()
        })
        .await;
    world.assert_no_double_launch();
    world.event(SUBSTRATE, "Awake").await;
    world.event(SUBSTRATE, "Draining").await;
    world.event(SUBSTRATE, "Asleep").await;
    operator.stop().await;
}
