//! Many tenants and substrates at once, and then nothing more to do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use halo_e2e_cluster::Request;

use super::objects::{self, Key};
use super::operator::Operator;
use super::proc::{self, Memory, Usage};
use super::world::World;

/// How long applying may take before it counts as failed.
const DEADLINE: Duration = Duration::from_secs(900);

/// Nothing is asked for so long: then everything has been done.
const QUIET: Duration = Duration::from_secs(3);

/// What was measured while everything was applied.
#[derive(Debug, Clone)]
pub struct Scale {
    /// From the first object sent to the last Ready.
    pub took: Duration,
    /// From the first object sent to the last answer to the applying client.
    pub applying: Duration,
    /// Cores that the operator, the API server and etcd used on average.
    pub cores: [f64; 3],
    /// Processor seconds of API server and etcd together.
    pub control_plane_seconds: f64,
    /// Requests of the operator, by verb and resource.
    pub requests: BTreeMap<String, usize>,
    /// Requests of the applying client.
    pub own_requests: usize,
    /// The operator's memory.
    pub memory: Memory,
}

/// Applies all tenants and substrates, and waits until all are ready.
///
/// # Errors
/// They are not, in time.
pub async fn measure(world: &World, operator: &Operator) -> Result<Scale> {
    let count = world.options.tenants;
    let mark = world.plane.mark()?;
    let usage = Usage::of(&[operator.pid(), world.api_server, world.etcd])?;
    let begun = Instant::now();
    let groups = (0..count).map(|number| {
        let tenant = objects::tenant_name(number);
        vec![
            objects::namespace(&tenant),
            objects::tenant(&tenant),
            objects::substrate(&tenant),
        ]
    });
    world.apply_groups(groups).await?;
    let applying = begun.elapsed();
    world
        .board
        .until(
            "all tenants ready, all substrates asleep",
            DEADLINE,
            |state| (state.ready_tenants.len() == count && state.asleep() == count).then_some(()),
        )
        .await?;
    let took = begun.elapsed();
    let cores = usage.cores()?;
    let seconds = usage.seconds()?;
    Ok(Scale {
        took,
        applying,
        cores: [cores[0], cores[1], cores[2]],
        control_plane_seconds: seconds[1] + seconds[2],
        requests: kinds(&world.requests(mark, &operator.user)?),
        own_requests: count * 3,
        memory: proc::memory(operator.pid())?,
    })
}

/// How many requests there are of each verb and resource.
pub fn kinds(requests: &[Request]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for request in requests {
        let part = match request.subresource.as_str() {
            "" => String::new(),
            part => format!("/{part}"),
        };
        let kind = format!("{} {}{part}", request.verb, request.resource);
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// What was measured while nothing happened.
#[derive(Debug, Clone)]
pub struct Steady {
    /// Requests beside the lease, and beside watches that were begun again when their time was over.
    pub requests: Vec<Request>,
    /// Requests for the lease.
    pub lease: usize,
    /// Watches that were begun again.
    pub watches: usize,
    /// Calls of the cloud.
    pub cloud: usize,
    /// Cores that the operator and the API server used on average.
    pub cores: [f64; 2],
    /// The operator's memory.
    pub memory: Memory,
}

/// Waits until the operator has nothing more to do, then counts.
///
/// # Errors
/// It goes on and on.
pub async fn steady(world: &World, operator: &Operator) -> Result<Steady> {
    let begun = Instant::now();
    loop {
        let mark = world.plane.mark()?;
        tokio::time::sleep(QUIET).await;
        let requests = world.requests(mark, &operator.user)?;
        if requests.iter().all(|request| request.resource == "leases") {
            break;
        }
        anyhow::ensure!(begun.elapsed() < DEADLINE, "the operator never rests");
    }
    let mark = world.plane.mark()?;
    world.emulator.clear_calls();
    let usage = Usage::of(&[operator.pid(), world.api_server])?;
    // The measured span itself.
    tokio::time::sleep(Duration::from_secs(world.options.seconds)).await;
    let cores = usage.cores()?;
    let all = world.requests(mark, &operator.user)?;
    let of = |is: fn(&Request) -> bool| all.iter().filter(|request| is(request)).count();
    let lease = |request: &Request| request.resource == "leases";
    Ok(Steady {
        lease: of(lease),
        watches: of(|request| request.verb == "watch"),
        requests: all
            .into_iter()
            .filter(|request| !lease(request) && request.verb != "watch")
            .collect(),
        cloud: world.emulator.calls().len(),
        cores: [cores[0], cores[1]],
        memory: proc::memory(operator.pid())?,
    })
}

/// The substrates that [`measure`] has made.
pub fn keys(world: &World) -> Vec<Key> {
    (0..world.options.tenants)
        .map(|number| Key::of(&objects::tenant_name(number)))
        .collect()
}
