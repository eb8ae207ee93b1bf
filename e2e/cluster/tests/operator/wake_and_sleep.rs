//! A substrate's days: asleep, woken by demand, in use, idle, asleep again.

use std::time::Duration;

use halo_aws_emulator::{CapacityRule, InstanceState, VolumeState};
use halo_crds::HaloSubstrate;
use halo_crds::status::{NodeState, Phase};
use halo_e2e_cluster::eventually;
use serde_json::json;

use crate::support::objects::{self, NAMESPACE, SUBSTRATE, TENANT, TYPES, with};
use crate::support::{DEADLINE, World, assert_words, repository};

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
    // The root volume ends with its instance, and has no zone in its tags.
    let data = volumes
        .iter()
        .find(|one| one.tags.contains_key("halo.howdify.io/zone"));
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
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "Instance Type: r7iz.4xlarge",
        "Zone: us-east-2a",
        "State: Ready",
        &instance.id,
        "a pod answers",
        "nothing stands in the way",
        "Launched",
        "there is demand",
    ] {
        assert!(flat.contains(part), "{part:?} is not in:\n{text}");
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

/// A substrate that stops its instances and keeps weights on a volume.
fn stopping() -> serde_json::Value {
    with(
        objects::substrate("acme", "demo"),
        json!({"spec": {
            "model": {"image": null, "node": {"path": "/mnt/halo/demo"}},
            "nodePool": {"ec2": {"idlePolicy": "Stop", "dataVolume": {"sizeGib": 20}}},
        }}),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_stops_is_started_again() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world.tenant_with_substrate("acme", stopping()).await;
    let gateway = world.gateway("gateway-0");

    gateway.asks("halo-acme", "demo", 1).await;
    let awake = world.phase("halo-acme", "demo", Phase::Awake).await;
    let first = awake.status.unwrap().nodes[0].clone();
    let instance = first.instance.clone().unwrap();

    gateway.is_idle_for("halo-acme", "demo", LONG).await;
    let asleep = world.phase("halo-acme", "demo", Phase::Asleep).await;
    let status = asleep.status.as_ref().unwrap();
    assert_eq!(status.nodes[0].state, NodeState::Stopped);
    assert_eq!(status.node_count.as_deref(), Some("0/0"));
    assert_eq!(
        world.emulator.instance(&instance).unwrap().state,
        InstanceState::Stopped
    );
    // A node that is stopped is no node: what stays would pass for a ready one.
    eventually(DEADLINE, || async {
        match world.pool_nodes().await.len() {
            0 => Ok(()),
            left => Err(format!("{left} nodes")),
        }
    })
    .await;

    // The same instance and the same volume, by no new launch.
    gateway.asks("halo-acme", "demo", 1).await;
    let awake = world.phase("halo-acme", "demo", Phase::Awake).await;
    let again = awake.status.unwrap().nodes[0].clone();
    assert_eq!(again.instance.as_ref(), Some(&instance));
    assert_eq!(again.volume, first.volume);
    assert_eq!(again.attempt, first.attempt);
    assert_eq!(world.launches(), 1);
    let data = world.volumes();
    let data: Vec<_> = data
        .iter()
        .filter(|one| one.tags.contains_key("halo.howdify.io/zone"))
        .collect();
    assert_eq!(data.len(), 1);
    assert_eq!(Some(&data[0].id), first.volume.as_ref());
    assert_eq!(
        data[0].attachment.as_ref().map(|on| &on.instance),
        Some(&instance)
    );
    assert_eq!(world.asked_for("CreateVolume"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_capacity_it_moves_on_says_so_and_recovers() {
    let world = World::start().await;
    let operator = world.operator().await;
    let [(zone_a, _), (zone_b, _)] = objects::SUBNETS;
    let [first, second] = TYPES;
    world
        .emulator
        .set_capacity(CapacityRule::of(first, zone_a).slots(0));
    world
        .tenant_with_substrate("acme", objects::substrate("acme", "demo"))
        .await;
    let gateway = world.gateway("gateway-0");

    // None in the first zone: the preferred type in the next.
    gateway.asks("halo-acme", "demo", 1).await;
    let awake = world.phase("halo-acme", "demo", Phase::Awake).await;
    let slot = awake.status.unwrap().nodes[0].clone();
    assert_eq!(
        (slot.instance_type.as_str(), slot.zone.as_str()),
        (first, zone_b)
    );
    gateway.is_idle_for("halo-acme", "demo", LONG).await;
    world.phase("halo-acme", "demo", Phase::Asleep).await;

    // None anywhere: it says so, and when it tries again.
    for instance_type in [first, second] {
        for zone in [zone_a, zone_b] {
            world
                .emulator
                .set_capacity(CapacityRule::of(instance_type, zone).slots(0));
        }
    }
    gateway.asks("halo-acme", "demo", 1).await;
    let blocked = world
        .substrate_says(
            "halo-acme",
            "demo",
            "Blocked",
            "True",
            "InsufficientCapacity",
        )
        .await;
    assert_words(
        &blocked,
        &[
            "InsufficientInstanceCapacity",
            first,
            second,
            zone_a,
            zone_b,
            "next try",
        ],
    );
    let substrate = world
        .substrate_is("halo-acme", "demo", |s| {
            s.status.as_ref().unwrap().next_attempt.is_some()
        })
        .await;
    assert!(why(&substrate).contains("next try"), "{}", why(&substrate));
    let table = world.kubectl(&["get", "hs", "-n", "halo-acme"]).await;
    assert!(
        table.contains("Waking") && table.contains("no capacity"),
        "{table}"
    );
    world.event("demo", "InsufficientCapacity").await;

    // Some comes back in the last place of all.
    world
        .emulator
        .set_capacity(CapacityRule::of(second, zone_b).slots(1));
    let awake = world.phase("halo-acme", "demo", Phase::Awake).await;
    let slot = awake.status.unwrap().nodes[0].clone();
    assert_eq!(
        (slot.instance_type.as_str(), slot.zone.as_str()),
        (second, zone_b)
    );
    world
        .substrate_says("halo-acme", "demo", "Blocked", "False", "NotBlocked")
        .await;
    let figures = operator.figures().await;
    let counted = figures.lines().any(|line| {
        line.starts_with("halo_substrate_ice_total")
            && line.contains(first)
            && line.contains(zone_a)
    });
    assert!(counted, "{figures}");
    world.assert_no_double_launch();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_that_arrives_while_it_drains_keeps_the_node() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world
        .tenant_with_substrate("acme", objects::substrate("acme", "demo"))
        .await;
    let gateway = world.gateway("gateway-0");
    gateway.asks("halo-acme", "demo", 1).await;
    world.phase("halo-acme", "demo", Phase::Awake).await;
    let before = world.living();

    let held = world.machines.hold_pod_ends("halo-acme/demo");
    gateway.is_idle_for("halo-acme", "demo", LONG).await;
    let draining = world.phase("halo-acme", "demo", Phase::Draining).await;
    assert_eq!(draining.status.as_ref().unwrap().replicas, 0);
    gateway.asks("halo-acme", "demo", 1).await;
    world.phase("halo-acme", "demo", Phase::Waking).await;
    drop(held);
    let awake = world.phase("halo-acme", "demo", Phase::Awake).await;
    assert_eq!(awake.status.unwrap().attempts, 1);
    assert_eq!(world.launches(), 1);
    let after = world.living();
    assert_eq!(before[0].id, after[0].id);
    let nodes = world.pool_nodes().await;
    let cordoned = |node: &k8s_openapi::api::core::v1::Node| {
        node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
    };
    assert!(!nodes.iter().any(cordoned));
    assert_eq!(world.asked_for("TerminateInstances"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_demand_brings_more_pods_each_on_its_own_node() {
    let world = World::start().await;
    let _operator = world.operator().await;
    let substrate = with(
        objects::substrate("acme", "demo"),
        json!({"spec": {"scaling": {"max": 2, "sessionsPerPod": 4}, "nodePool": {"ec2": {"maxNodes": 2}}}}),
    );
    world.tenant_with_substrate("acme", substrate).await;
    let (one, two) = (world.gateway("gateway-0"), world.gateway("gateway-1"));

    // The demand of all gateways counts together.
    one.asks("halo-acme", "demo", 3).await;
    two.asks("halo-acme", "demo", 3).await;
    world
        .substrate_is("halo-acme", "demo", |s| {
            s.status.as_ref().unwrap().ready_replicas == 2
        })
        .await;
    let pods = world.pods("halo-acme", "demo").await;
    let places: std::collections::BTreeSet<_> = pods
        .iter()
        .map(|pod| pod.spec.as_ref().unwrap().node_name.clone())
        .collect();
    assert_eq!((pods.len(), places.len()), (2, 2));
    assert_eq!(world.living().len(), 2);

    // One of them is enough again: a pod and its node go after a while, and it answers all the time.
    two.leaves("halo-acme", "demo").await;
    world
        .substrate_is("halo-acme", "demo", |s| {
            s.status.as_ref().unwrap().surplus_since.is_some()
        })
        .await;
    world.clock.forward(Duration::from_secs(60));
    one.asks("halo-acme", "demo", 2).await;
    world
        .substrate_is("halo-acme", "demo", |s| {
            let status = s.status.as_ref().unwrap();
            assert_eq!(status.phase, Some(Phase::Awake));
            assert!(status.ready_replicas > 0);
            status.nodes.len() == 1 && status.replicas == 1
        })
        .await;
    world
        .cloud_is("one instance", |view| view.state.living().count() == 1)
        .await;
    world.assert_no_double_launch();
}
