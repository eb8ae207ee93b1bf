//! Demand in `status.demand`: each gateway its own entry, under its own field manager, and nothing left behind.

use std::sync::Arc;
use std::time::Duration;

use halo_crds::HaloSubstrate;
use halo_crds::status::{Demand as Entry, Phase};
use halo_e2e_cluster::eventually;
use halo_gateway::cluster::Settings;
use halo_gateway::directory::{Demand, Directory as _};
use jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::support::{DEADLINE, Instance, World, id};

// A gateway takes an entry under its own name for one of its own, so that no other test uses these names.

/// A gateway that tells soon that it is idle, and goes soon.
fn quick(settings: &mut Settings) {
    settings.pace.linger = Duration::from_millis(50);
    settings.pace.remove = Duration::from_millis(500);
}

/// A gateway that leaves an idle entry where it is.
fn lingering(settings: &mut Settings) {
    settings.pace.linger = Duration::from_millis(50);
    settings.pace.remove = Duration::from_secs(3600);
}

fn asks(gateway: &Instance, tenant: &str, waiting: usize, answering: usize) {
    let demand = Demand { waiting, answering };
    gateway.cluster.demand(&id(tenant), demand);
}

fn entries(substrate: &HaloSubstrate) -> Vec<Entry> {
    let status = substrate.status.clone().unwrap_or_default();
    let mut entries = status.demand;
    entries.sort_by(|a, b| a.gateway.cmp(&b.gateway));
    entries
}

/// Field managers of gateways.
fn managers(substrate: &HaloSubstrate) -> Vec<String> {
    let fields = substrate.metadata.managed_fields.iter().flatten();
    let managers = fields.filter_map(|fields| fields.manager.clone());
    managers
        .filter(|manager| manager.starts_with("halo-gateway/"))
        .collect()
}

/// Waits until the entries of the tenant's substrate are so.
#[track_caller]
fn has(
    world: &World,
    tenant: &str,
    is: impl Fn(&[Entry]) -> bool,
) -> impl Future<Output = HaloSubstrate> {
    let (api, is) = (world.substrates(tenant), Arc::new(is));
    eventually(DEADLINE, move || {
        let (api, is) = (api.clone(), Arc::clone(&is));
        async move {
            let found = api.get("qwen").await.map_err(|error| error.to_string())?;
            let entries = entries(&found);
            match is(&entries) {
                true => Ok(found),
                false => Err(format!("{entries:?}")),
            }
        }
    })
}

/// Puts an entry there as another process did, so long ago.
async fn left_behind(world: &World, tenant: &str, gateway: &str, in_flight: i64, ago: i64) {
    let then = Timestamp::now() - SignedDuration::from_secs(ago);
    let then = then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let patch = json!({
        "apiVersion": "halo.howdify.io/v1alpha1",
        "kind": "HaloSubstrate",
        "status": {"demand": [{"gateway": gateway, "inFlight": in_flight, "since": then, "lastActive": then}]},
    });
    let manager = PatchParams::apply(&format!("halo-gateway/{gateway}"));
    let api = world.substrates(tenant);
    api.patch_status("qwen", &manager, &Patch::Apply(patch))
        .await
        .unwrap();
}

#[tokio::test]
async fn two_gateways_have_an_entry_each_and_take_it_away() {
    let world = World::shared().await;
    world.tenant("asked").await;
    // What the operator writes stays as it is all the time.
    let status = json!({
        "apiVersion": "halo.howdify.io/v1alpha1", "kind": "HaloSubstrate",
        "status": {"phase": "Waking", "replicas": 1, "readyReplicas": 0, "attempts": 0},
    });
    let operator = PatchParams::apply("halo-operator/status");
    let api = world.substrates("asked");
    api.patch_status("qwen", &operator, &Patch::Apply(status))
        .await
        .unwrap();

    let before = Timestamp::now() - SignedDuration::from_secs(1);
    let one = world.gateway("gateway-1", quick).await;
    let two = world.gateway("gateway-2", lingering).await;
    asks(&one, "asked", 2, 1);
    asks(&two, "asked", 0, 1);
    let both = has(&world, "asked", |entries| {
        let counts: Vec<(&str, i64)> = entries
            .iter()
            .map(|entry| (entry.gateway.as_str(), entry.in_flight))
            .collect();
        counts == [("gateway-1", 3), ("gateway-2", 1)]
    })
    .await;
    for entry in entries(&both) {
        let since = entry.since.unwrap().0;
        assert!(since >= before && since <= Timestamp::now(), "{since}");
        assert!(entry.last_active.0 >= since);
    }
    assert_eq!(
        managers(&both),
        ["halo-gateway/gateway-1", "halo-gateway/gateway-2"]
    );

    // One is idle and goes; the other says since when it is idle, and stays for now.
    asks(&one, "asked", 0, 0);
    asks(&two, "asked", 0, 0);
    let left = has(&world, "asked", |entries| {
        entries.len() == 1 && entries.iter().all(|entry| entry.in_flight == 0)
    })
    .await;
    let entry = &entries(&left)[0];
    assert_eq!((entry.gateway.as_str(), &entry.since), ("gateway-2", &None));
    assert_eq!(managers(&left), ["halo-gateway/gateway-2"]);

    // A gateway that ends takes back what it has.
    asks(&two, "asked", 1, 0);
    has(&world, "asked", |entries| {
        entries.iter().any(|entry| entry.in_flight == 1)
    })
    .await;
    assert!(two.cluster.leave(DEADLINE).await);
    let none = has(&world, "asked", <[Entry]>::is_empty).await;
    assert_eq!(managers(&none), [""; 0]);
    let status = none.status.unwrap();
    assert_eq!((status.phase, status.replicas), (Some(Phase::Waking), 1));
    // And asks for nothing any more.
    asks(&two, "asked", 1, 0);
    assert!(two.cluster.leave(DEADLINE).await);
    assert!(one.cluster.leave(DEADLINE).await);
    assert_eq!(
        two.metric("halo_gateway_demand_writes_total{result=\"failed\"}"),
        0.0
    );
}

#[tokio::test]
async fn an_entry_is_kept_fresh_while_there_are_requests() {
    let world = World::shared().await;
    world.tenant("fresh").await;
    let gateway = world
        .gateway("gateway-fresh", |s| {
            s.pace.refresh = Duration::from_millis(200)
        })
        .await;
    asks(&gateway, "fresh", 1, 0);
    let first = has(&world, "fresh", |entries| entries.len() == 1).await;
    let first = entries(&first)[0].clone();
    asks(&gateway, "fresh", 0, 5);
    // Times have seconds.
    has(&world, "fresh", |entries| {
        entries.iter().any(|entry| {
            entry.in_flight == 5
                && entry.last_active.0 > first.last_active.0
                && entry.since == first.since
        })
    })
    .await;
}

#[tokio::test]
async fn what_ended_gateways_left_behind_is_removed() {
    let world = World::shared().await;
    world.tenant("left").await;
    let day = 24 * 3600;
    for (gateway, in_flight, ago) in [
        ("dead", 3, day),
        ("dead-too", 0, day),
        ("alive", 1, 30),
        ("reborn", 4, day),
    ] {
        left_behind(&world, "left", gateway, in_flight, ago).await;
    }
    // One of the same name has nothing to do with what its earlier process had.
    let reborn = world.gateway("reborn", quick).await;
    has(&world, "left", |entries| {
        let names = entries.iter().map(|entry| entry.gateway.as_str());
        names.eq(["alive"])
    })
    .await;
    // It writes for itself as well.
    asks(&reborn, "left", 1, 0);
    let found = has(&world, "left", |entries| entries.len() == 2).await;
    assert_eq!(managers(&found).len(), 2);
}

#[tokio::test]
async fn requests_that_come_before_their_substrate_are_told_when_it_is_there() {
    let world = World::shared().await;
    world.tenant("later").await;
    let gateway = world.gateway("gateway-later", quick).await;
    let qwen = crate::support::substrate("later", "qwen");
    world.delete(&qwen).await;
    eventually(DEADLINE, || async {
        match gateway.substrate("later") {
            None => Ok(()),
            Some(found) => Err(format!("{found:?}")),
        }
    })
    .await;
    asks(&gateway, "later", 1, 0);
    asks(&gateway, "nobody", 1, 0);
    world.apply(&[qwen]).await;
    has(&world, "later", |entries| entries.len() == 1).await;
}
