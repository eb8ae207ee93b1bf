//! A steady cluster costs nothing: what the API server received is counted by its own audit log and its own counters.

use std::time::Duration;

use halo_crds::status::Phase;
use halo_e2e_cluster::{Request, eventually};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::support::objects::{self, with};
use crate::support::{DEADLINE, OPERATOR, Process, World};

const TENANTS: [&str; 3] = ["one", "two", "three"];

/// How many objects are reconciled: each tenant and its substrate.
const OBJECTS: u64 = 2 * TENANTS.len() as u64;

/// What the operator asked of the API server since then, but for its lease and watches that begin again.
fn asked(world: &World, since: halo_e2e_cluster::Mark) -> Vec<Request> {
    let mut requests = world.plane.requests_since(since).unwrap();
    requests.retain(|request| {
        request.user == OPERATOR && request.resource != "leases" && request.verb != "watch"
    });
    requests
}

fn changes(request: &Request) -> bool {
    !matches!(request.verb.as_str(), "get" | "list" | "watch")
}

/// The sum of a figure's samples that have this in their labels.
async fn figure(operator: &Process, name: &str, label: &str) -> u64 {
    let page = operator.figures().await;
    let of = |line: &str| -> Option<f64> {
        let rest = line.strip_prefix(name)?.strip_prefix('{')?;
        let (labels, value) = rest.rsplit_once("} ")?;
        labels
            .contains(label)
            .then(|| value.trim().parse().unwrap())
    };
    let sum: f64 = page.lines().filter_map(of).sum();
    sum as u64
}

async fn reconciles(operator: &Process, controller: &str) -> u64 {
    let label = format!("controller=\"{controller}\"");
    figure(operator, "controller_runtime_reconcile_total", &label).await
}

/// Waits until so many more reconciles have ended and none waits.
async fn reconciled(operator: &Process, controller: &str, more_than: u64) {
    eventually(DEADLINE, || async {
        let done = reconciles(operator, controller).await;
        let label = format!("name=\"{controller}\"");
        let waiting = figure(operator, "workqueue_depth", &label).await;
        match done > more_than && waiting == 0 {
            true => Ok(()),
            false => Err(format!("{done} reconciles of {controller}, {waiting} wait")),
        }
    })
    .await;
}

/// Waits until the operator has asked for nothing for a second.
async fn quiet(world: &World) {
    eventually(DEADLINE, || async {
        let mark = world.plane.mark().unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked = asked(world, mark);
        match asked.is_empty() {
            true => Ok(()),
            false => Err(format!("{asked:#?}")),
        }
    })
    .await;
}

/// Tenants whose substrates sleep, but the first, which is awake.
async fn steady(world: &World) {
    for tenant in TENANTS {
        let substrate = with(
            objects::substrate(tenant, "demo"),
            json!({"spec": {
                "model": {"image": null, "node": {"path": "/mnt/halo/demo"}},
                "nodePool": {"ec2": {"dataVolume": {"sizeGib": 20}}},
            }}),
        );
        world.tenant_with_substrate(tenant, substrate).await;
    }
    world.gateway("gateway-0").asks("halo-one", "demo", 1).await;
    world.phase("halo-one", "demo", Phase::Awake).await;
    world
        .substrate_says("halo-one", "demo", "Ready", "True", "Awake")
        .await;
    quiet(world).await;
}

/// Everything that happens all day and changes nothing: heartbeats of nodes and gateways, pods' conditions, people's notes.
async fn noise(world: &World, round: u32) {
    let note = json!({"metadata": {"annotations": {"example.com/note": format!("round {round}")}}});
    for tenant in TENANTS {
        let namespace = format!("halo-{tenant}");
        world.patch(&objects::tenant(tenant), note.clone()).await;
        world
            .patch(&objects::substrate(tenant, "demo"), note.clone())
            .await;
        for (version, kind, name) in [
            ("v1", "ServiceAccount", "default"),
            ("apps/v1", "Deployment", "demo"),
            ("v1", "Service", "demo"),
        ] {
            let object = json!({
                "apiVersion": version, "kind": kind,
                "metadata": {"name": name, "namespace": namespace},
            });
            if world.api_of(&object).get_opt(name).await.unwrap().is_some() {
                world.patch(&object, note.clone()).await;
            }
        }
        let own = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        world.patch(&own, note.clone()).await;
    }
    let gateway = world.gateway("gateway-0");
    gateway
        .asks("halo-one", "demo", i64::from(round % 3) + 1)
        .await;

    let condition = |kind: &str| {
        json!({"status": {"conditions": [{
            "type": kind, "status": "True", "reason": "Checked", "message": format!("round {round}"),
            "lastTransitionTime": Timestamp::now(),
        }]}})
    };
    let params = PatchParams::default();
    let nodes: Api<Node> = Api::all(world.client.clone());
    for node in world.pool_nodes().await {
        let patch = Patch::Strategic(condition("example.com/Checked"));
        nodes
            .patch_status(&node.name_any(), &params, &patch)
            .await
            .unwrap();
    }
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), "halo-one");
    for pod in world.pods("halo-one", "demo").await {
        let patch = Patch::Strategic(condition("example.com/Checked"));
        pods.patch_status(&pod.name_any(), &params, &patch)
            .await
            .unwrap();
    }
}

/// How often the API server changed an object of ours, by its own count.
async fn counted_changes(world: &World) -> u64 {
    let counts = world.plane.request_counts().await.unwrap();
    let ours = counts.iter().filter(|(kind, _)| {
        kind.group == "halo.howdify.io"
            && matches!(
                kind.verb.as_str(),
                "POST" | "PUT" | "PATCH" | "APPLY" | "DELETE"
            )
    });
    ours.map(|(_, count)| count).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steady_cluster_costs_nothing() {
    let world = World::start().await;
    let operator = world.operator().await;
    steady(&world).await;

    let mark = world.plane.mark().unwrap();
    let counted = counted_changes(&world).await;
    world.emulator.clear_calls();
    let begun = [
        reconciles(&operator, "tenant").await,
        reconciles(&operator, "substrate").await,
    ];
    for round in 0..8 {
        let before = [
            reconciles(&operator, "tenant").await,
            reconciles(&operator, "substrate").await,
        ];
        noise(&world, round).await;
        reconciled(&operator, "tenant", before[0]).await;
        reconciled(&operator, "substrate", before[1]).await;
    }
    // Looks at the cloud and at the root secret come by themselves, and so do renewals of the lease.
    world
        .cloud_is("looks", |view| {
            view.count("DescribeInstances") > 3 && view.count("GetParameter") > 0
        })
        .await;
    eventually(DEADLINE, || async {
        let all = world.plane.requests_since(mark).unwrap();
        let renewals = all
            .iter()
            .filter(|one| one.user == OPERATOR && one.resource == "leases");
        match renewals.count() {
            0 => Err("the lease was not renewed"),
            _ => Ok(()),
        }
    })
    .await;
    let asked = asked(&world, mark);
    assert!(asked.is_empty(), "{asked:#?}");
    let all = world.plane.requests_since(mark).unwrap();

    // The API server's own counters say the same: each change of our kinds was one of this test.
    let own = all
        .iter()
        .filter(|one| one.user != OPERATOR && one.group == "halo.howdify.io");
    let own = own.filter(|one| changes(one)).count() as u64;
    assert!(own > 8 * OBJECTS, "{own}");
    assert_eq!(counted_changes(&world).await - counted, own);

    // It was not idle.
    let done = [
        reconciles(&operator, "tenant").await - begun[0],
        reconciles(&operator, "substrate").await - begun[1],
    ];
    assert!(done.iter().all(|done| *done >= 8), "{done:?}");
    only_looks(&world);
    operator.stop().await;
}

/// The cloud was looked at and not changed.
fn only_looks(world: &World) {
    let calls = world.emulator.calls();
    assert!(!calls.is_empty());
    let changing: Vec<_> = calls
        .iter()
        .filter(|call| {
            let looks = ["Describe", "GetParameter"];
            let looks = looks.iter().any(|prefix| call.action.starts_with(prefix));
            // A dry run asks for a permission and does nothing.
            !looks && !call.is_dry_run()
        })
        .collect();
    assert!(changing.is_empty(), "{changing:#?}");
}

/// An operator that starts reads everything once and finds nothing to write: no field flaps from one process to the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_writes_nothing() {
    let world = World::start().await;
    let operator = world.operator().await;
    steady(&world).await;
    operator.stop().await;

    for _ in 0..2 {
        let mark = world.plane.mark().unwrap();
        world.emulator.clear_calls();
        let operator = world.operator().await;
        reconciled(&operator, "tenant", OBJECTS / 2 - 1).await;
        reconciled(&operator, "substrate", OBJECTS / 2 - 1).await;
        world
            .cloud_is("a look", |view| view.count("DescribeInstances") > 1)
            .await;
        quiet(&world).await;
        let asked = asked(&world, mark);
        let written: Vec<_> = asked.iter().filter(|one| changes(one)).collect();
        assert!(written.is_empty(), "{written:#?}");
        let lists = asked.iter().filter(|one| one.verb == "list").count();
        assert!(lists > 10, "{asked:#?}");
        // Beside the definitions, which it checks first, it reads nothing one by one.
        let gets: Vec<_> = asked
            .iter()
            .filter(|one| one.verb == "get" && one.resource != "customresourcedefinitions")
            .collect();
        assert!(gets.is_empty(), "{gets:#?}");
        // Each kind is listed once.
        let mut listed: Vec<&str> = asked
            .iter()
            .filter(|one| one.verb == "list")
            .map(|one| one.resource.as_str())
            .collect();
        listed.sort_unstable();
        let count = listed.len();
        listed.dedup();
        assert_eq!(listed.len(), count, "{asked:#?}");
        only_looks(&world);
        operator.stop().await;
    }
}
