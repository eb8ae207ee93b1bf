//! What a gateway asks of the API server, counted by the API server's own audit log.

use std::time::{Duration, Instant};

use halo_e2e_cluster::{Mark, Request, eventually};
use halo_gateway::directory::{Demand, Directory as _, Stage};

use crate::support::{DEADLINE, Instance, USER, World, id, options, slice, tenant};

/// What gateways asked for since then, but for watches that begin again.
fn asked(world: &World, since: Mark) -> Vec<Request> {
    let mut requests = world.plane.requests_since(since).unwrap();
    requests.retain(|request| request.user == USER && request.verb != "watch");
    requests
}

fn writes(world: &World, since: Mark) -> usize {
    let requests = asked(world, since);
    for request in &requests {
        let what = (
            request.verb.as_str(),
            request.resource.as_str(),
            request.subresource.as_str(),
        );
        assert_eq!(what, ("patch", "halosubstrates", "status"), "{request:?}");
        assert_eq!(request.code.unwrap_or(200), 200, "{request:?}");
    }
    requests.len()
}

#[track_caller]
fn written(world: &World, since: Mark, times: usize) -> impl Future<Output = ()> {
    eventually(DEADLINE, move || async move {
        match writes(world, since) {
            found if found == times => Ok(()),
            found => Err(format!("{found} writes")),
        }
    })
}

fn asks(gateway: &Instance, tenant: &str, waiting: usize) {
    let demand = Demand {
        waiting,
        answering: 0,
    };
    gateway.cluster.demand(&id(tenant), demand);
}

#[tokio::test]
async fn an_idle_gateway_asks_for_nothing_and_a_burst_is_one_write() {
    let world = World::alone(options()).await;
    for name in ["one", "two"] {
        world.tenant(name).await;
    }
    let start = world.plane.mark().unwrap();
    let gateway = world
        .gateway("gateway-0", |settings| {
            settings.pace.linger = Duration::from_millis(100);
            settings.pace.remove = Duration::from_millis(100);
        })
        .await;
    // The start: one list of each kind.
    let mut kinds: Vec<String> = asked(&world, start)
        .into_iter()
        .map(|request| format!("{} {}", request.verb, request.resource))
        .collect();
    kinds.sort();
    assert_eq!(
        kinds,
        [
            "list endpointslices",
            "list halosubstrates",
            "list halotenants",
            "list secrets"
        ]
    );

    // What happens all day: it is seen, and nothing is asked.
    let mark = world.plane.mark().unwrap();
    world
        .apply(&[slice("one", "qwen-1", &[("10.0.0.1", false)])])
        .await;
    gateway.sees("one", Stage::Loading, &[]).await;
    let mut changed = tenant("two");
    changed["spec"]["limits"] = serde_json::json!({"heldRequests": 7});
    world.apply(&[changed]).await;
    eventually(DEADLINE, || async {
        let held = gateway.cluster.tenant(&id("two")).unwrap().held_requests;
        match held {
            7 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    assert_eq!(asked(&world, mark), []);

    // Two hundred requests within the half minute that follows on the first.
    for waiting in 1..=200 {
        asks(&gateway, "one", waiting);
        tokio::task::yield_now().await;
    }
    written(&world, mark, 1).await;
    for waiting in (0..200).rev() {
        asks(&gateway, "one", waiting);
    }
    // That it is idle, and that it goes.
    written(&world, mark, 3).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(writes(&world, mark), 3);
    let status = world.substrates("one").get("qwen").await.unwrap().status;
    assert!(status.unwrap_or_default().demand.is_empty());
}

#[tokio::test]
async fn while_there_are_requests_writes_keep_their_distance() {
    let world = World::alone(options()).await;
    world.tenant("one").await;
    let refresh = Duration::from_millis(500);
    let gateway = world
        .gateway("gateway-0", |s| s.pace.refresh = refresh)
        .await;
    let (mark, begun) = (world.plane.mark().unwrap(), Instant::now());
    for turn in 0..120usize {
        asks(&gateway, "one", 1 + turn % 7);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let found = writes(&world, mark);
    let most = 1 + begun.elapsed().as_millis().div_ceil(refresh.as_millis());
    assert!(
        found >= 2 && found as u128 <= most,
        "{found} writes, at most {most}"
    );
}
