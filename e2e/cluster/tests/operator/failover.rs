//! Several operators: one leads, and another follows when it ends, crashes or cannot be reached, without a second launch.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use halo_crds::status::Phase;
use halo_e2e_cluster::{Request, eventually};
use halo_operator::runtime::operator::Ended;
use halo_operator::settings::LeaseSettings;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::support::lanes::{Lanes, Point};
use crate::support::objects;
use crate::support::{DEADLINE, Launch, Process, SYSTEM, Setup, World, a_while};

/// Short, and long enough for a machine that is busy with other things: a leader ends when it could not renew for two thirds of it.
const TERM: Duration = Duration::from_secs(6);

/// A lease that does not lapse while a test runs.
const AGES: Duration = Duration::from_secs(3600);

async fn world(term: Duration) -> World {
    let lease = LeaseSettings {
        duration: term,
        renew_every: Duration::from_millis(500),
        ..LeaseSettings::default()
    };
    let world = World::with(Setup {
        lease,
        ..Setup::default()
    })
    .await;
    // Each operator is a user of its own, so that the audit log tells them apart.
    for name in ["a", "b", "c"] {
        let user = format!("--user=operator-{name}");
        let binding = ["create", "clusterrolebinding", &user[7..]];
        let role = ["--clusterrole=cluster-admin", user.as_str()];
        world.kubectl(&[&binding[..], &role[..]].concat()).await;
    }
    world
}

/// One operator of several; its user at the API server has its name.
fn named(name: &str) -> Launch {
    Launch {
        user: Some(format!("operator-{name}")),
        ..Launch::named(&format!("operator-{name}"))
    }
}

/// Starts one that leads, then others whose caches are full and who wait.
async fn leader_and_standbys(
    world: &World,
    leader: Launch,
    others: &[&str],
) -> (Process, Vec<Process>) {
    let leader = world.launch(leader).await.unwrap();
    assert!(leader.leads().await);
    let mut standbys = Vec::new();
    for name in others {
        let standby = world.launch(named(name)).await.unwrap();
        standby.context().caches.synced().await;
        assert!(!standby.is_leading());
        standbys.push(standby);
    }
    (leader, standbys)
}

/// Who holds the lease by the API server; empty if nobody does.
async fn holder(world: &World) -> String {
    let api: Api<Lease> = Api::namespaced(world.client.clone(), SYSTEM);
    let lease = api.get("halo-operator").await.unwrap();
    lease.spec.unwrap().holder_identity.unwrap_or_default()
}

/// The requests of one operator that came after it first wrote the lease.
fn since_it_leads(world: &World, name: &str) -> (Vec<Request>, Vec<Request>) {
    let mut all = world
        .plane
        .requests_of(&format!("operator-{name}"))
        .unwrap();
    let takes = |request: &Request| {
        request.resource == "leases" && matches!(request.verb.as_str(), "create" | "update")
    };
    let first = all.iter().position(takes).unwrap();
    let since = all.split_off(first + 1);
    (all, since)
}

fn writes(request: &Request) -> bool {
    !matches!(request.verb.as_str(), "get" | "list" | "watch") && request.resource != "leases"
}

fn lists(requests: &[Request]) -> Vec<&str> {
    let lists = requests.iter().filter(|request| request.verb == "list");
    lists.map(|request| request.uri.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_leader_is_followed_by_one_that_knows_all() {
    let world = world(TERM).await;
    let (leader, standbys) = leader_and_standbys(&world, named("a"), &["b", "c"]).await;
    assert_eq!(holder(&world).await, "operator-a");
    world
        .tenant_with_substrate("acme", objects::substrate("acme", "demo"))
        .await;
    let gateway = world.gateway("gateway-0");
    gateway.asks("halo-acme", "demo", 1).await;
    world.phase("halo-acme", "demo", Phase::Awake).await;
    assert!(standbys.iter().all(|standby| !standby.is_leading()));
    for name in ["b", "c"] {
        let requests = world
            .plane
            .requests_of(&format!("operator-{name}"))
            .unwrap();
        assert!(
            !requests.iter().any(writes),
            "a standby writes: {requests:#?}"
        );
        assert!(lists(&requests).len() > 10, "{requests:#?}");
    }

    leader.crash();
    let follows = |name: &'static str, standby: &Process| {
        let leading = standby.is_leading();
        leading.then_some(name)
    };
    let next = eventually(DEADLINE, || async {
        let mut all = ["b", "c"].into_iter().zip(&standbys);
        all.find_map(|(name, standby)| follows(name, standby))
            .ok_or("nobody leads")
    })
    .await;
    assert_eq!(
        standbys
            .iter()
            .filter(|standby| standby.is_leading())
            .count(),
        1
    );
    assert_eq!(holder(&world).await, format!("operator-{next}"));

    // It knows what the other did, goes on with it, and asked nobody.
    gateway
        .is_idle_for("halo-acme", "demo", Duration::from_secs(3600))
        .await;
    world.phase("halo-acme", "demo", Phase::Asleep).await;
    gateway.asks("halo-acme", "demo", 1).await;
    world.phase("halo-acme", "demo", Phase::Awake).await;
    assert_eq!(world.launches(), 2);
    world.assert_no_double_launch();
    let (before, since) = since_it_leads(&world, next);
    assert!(!lists(&before).is_empty());
    // Pods of one node, which no cache has: a drain asks for them.
    let listed = lists(&since);
    let caches: Vec<_> = listed
        .iter()
        .filter(|uri| !uri.contains("fieldSelector=spec.nodeName"))
        .collect();
    assert!(caches.is_empty(), "{caches:#?}");
    assert!(since.iter().any(writes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_crashes_in_a_wake_has_launched_once() {
    let world = world(TERM).await;
    // It does not learn what came of its launch, and holds the lease while it hangs.
    let lanes = Lanes::new(
        &world,
        [("acme".to_owned(), Point::After("RunInstances", 0))],
    );
    let first = Launch {
        seer: Some(lanes.clone()),
        ..named("a")
    };
    let (leader, standbys) = leader_and_standbys(&world, first, &["b"]).await;
    world
        .tenant_with_substrate("acme", objects::substrate("acme", "demo"))
        .await;
    world
        .gateway("gateway-0")
        .asks("halo-acme", "demo", 1)
        .await;
    lanes.stopped("acme").await;
    assert_eq!(world.launches(), 1);
    leader.crash();
    assert!(standbys[0].leads().await);
    let awake = world.phase("halo-acme", "demo", Phase::Awake).await;
    assert_eq!(awake.status.unwrap().nodes[0].attempt, 1);
    assert_eq!(world.launches(), 1);
    world.assert_no_double_launch();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_ends_gives_the_lease_back() {
    let world = world(AGES).await;
    let (leader, standbys) = leader_and_standbys(&world, named("a"), &["b"]).await;
    world
        .tenant_with_substrate("acme", objects::substrate("acme", "demo"))
        .await;
    assert_eq!(leader.stop().await, Ended::Stopped);
    // Long before the lease would lapse.
    assert!(standbys[0].leads().await);
    world
        .gateway("gateway-0")
        .asks("halo-acme", "demo", 1)
        .await;
    world.phase("halo-acme", "demo", Phase::Awake).await;
    assert_eq!(world.launches(), 1);

    // The last one leaves a lease that nobody holds, and a standby that ends leaves the leader's as it is.
    let third = world.launch(named("c")).await.unwrap();
    third.context().caches.synced().await;
    assert_eq!(third.stop().await, Ended::Stopped);
    assert_eq!(holder(&world).await, "operator-b");
    for standby in standbys {
        assert_eq!(standby.stop().await, Ended::Stopped);
    }
    assert_eq!(holder(&world).await, "");
}

/// A way to the API server that can fall silent: connections stay open and nothing passes.
struct Line {
    address: SocketAddr,
    silent: watch::Sender<bool>,
    task: AbortHandle,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Line {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (silent, _) = watch::channel(false);
        let gate = silent.clone();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(server).await else {
                    continue;
                };
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                tokio::spawn(pass(near_in, far_out, gate.subscribe()));
                tokio::spawn(pass(far_in, near_out, gate.subscribe()));
            }
        });
        Self {
            address,
            silent,
            task: task.abort_handle(),
        }
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut silent: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or_default();
        // An error means that the test is over.
        if silent.wait_for(|silent| !silent).await.is_err() || read == 0 {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hears_nothing_ends_before_another_begins() {
    let world = world(TERM).await;
    let server = world.plane.url();
    let line = Line::to(server.trim_start_matches("https://").parse().unwrap()).await;
    let first = Launch {
        through: Some(line.address),
        ..named("a")
    };
    let (leader, mut standbys) = leader_and_standbys(&world, first, &["b"]).await;
    let standby = standbys.remove(0);
    world
        .tenant_with_substrate("acme", objects::substrate("acme", "demo"))
        .await;

    // In the middle of a wake its line goes dead.
    let held = world.machines.hold_registration();
    world
        .gateway("gateway-0")
        .asks("halo-acme", "demo", 1)
        .await;
    world
        .substrate_is("halo-acme", "demo", |substrate| {
            let nodes = substrate.status.as_ref().map(|status| &status.nodes);
            nodes.is_some_and(|nodes| nodes.iter().any(|slot| slot.instance.is_some()))
        })
        .await;
    line.silent.send_replace(true);
    drop(held);

    // By when it has ended, nobody else leads.
    let ended = Arc::new(AtomicBool::new(false));
    let told = ended.clone();
    let end = tokio::spawn(async move {
        let ended = leader.ended().await;
        told.store(true, Ordering::SeqCst);
        ended
    });
    assert!(standby.leads().await);
    assert!(ended.load(Ordering::SeqCst), "two lead at once");
    assert!(matches!(end.await.unwrap(), Ended::LostLease(_)));
    let awake = world.phase("halo-acme", "demo", Phase::Awake).await;
    assert_eq!(awake.status.unwrap().nodes[0].attempt, 1);
    assert_eq!(world.launches(), 1);
    world.assert_no_double_launch();

    // What was still on the line arrives late and changes nothing; an Event may, which tells only what was.
    line.silent.send_replace(false);
    a_while().await;
    let (_, since) = since_it_leads(&world, "b");
    let begins = since.first().unwrap().at;
    let late = world.plane.requests_of("operator-a").unwrap();
    let late: Vec<_> = late
        .iter()
        .filter(|request| {
            request.at > begins && !matches!(request.verb.as_str(), "get" | "list" | "watch")
        })
        .filter(|request| {
            request.resource != "events" && request.code.is_none_or(|code| code < 400)
        })
        .collect();
    assert!(late.is_empty(), "{late:#?}");
    assert_eq!(holder(&world).await, "operator-b");
    assert_eq!(world.launches(), 1);
    standby.stop().await;
}
