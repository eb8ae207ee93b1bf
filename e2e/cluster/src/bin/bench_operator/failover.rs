//! The leader is killed in the middle of wakes; the other takes over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::future;
use halo_e2e_cluster::{Mark, Request};
use jiff::Timestamp;

use super::objects::Key;
use super::operator::Operator;
use super::samples::Samples;
use super::world::World;

/// How long a takeover may take before it counts as failed.
const DEADLINE: Duration = Duration::from_secs(90);

/// Wakes that are under way when the leader is killed.
const UNDER_WAY: usize = 5;

/// Each round kills so much later after the demand was sent.
const LATER: Duration = Duration::from_millis(12);

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Failover {
    /// From the kill to the other's first write beside the lease.
    pub first_write: Samples,
    /// From the kill to the lease in the other's hands.
    pub lease: Samples,
    /// From the kill to the last launch that was waiting.
    pub last_launch: Samples,
    /// Wakes that were under way or came while nobody led.
    pub wakes: usize,
    /// Instances that were launched for them.
    pub instances: usize,
    /// Substrates with more than one.
    pub doubled: usize,
    /// Those among them that the killed leader had launched.
    pub launched_before: usize,
}

/// Kills the leader so many times. `leader` leads; the last operator that leads is returned.
///
/// # Errors
/// Nobody takes over, or a wake is lost.
pub async fn measure(
    world: &World,
    mut leader: Operator,
    keys: &[Key],
    rounds: usize,
) -> Result<(Failover, Operator)> {
    let mut result = Failover::default();
    for round in 0..rounds {
        super::say(&format!("failover {} of {rounds}", round + 1));
        let mut standby = Operator::start(world, round + 1).await?;
        let woken: Vec<Key> = keys
            .iter()
            .cycle()
            .skip(round * (UNDER_WAY + 1))
            .take((UNDER_WAY + 1).min(keys.len()))
            .cloned()
            .collect();
        let mark = world.plane.mark()?;
        world.emulator.clear_calls();
        let launched: usize = instances(world).values().sum();
        // The last one's demand comes when nobody leads.
        let (late, early) = woken.split_last().context("there is no substrate")?;
        let kill = async {
            tokio::time::sleep(LATER * u32::try_from(round + 1).unwrap_or(1)).await;
            leader.kill().await.map(|()| Timestamp::now())
        };
        let demands = future::try_join_all(early.iter().map(|key| world.demand(key, 1)));
        let (killed, _) = future::try_join(kill, demands).await?;
        result.launched_before += instances(world).values().sum::<usize>() - launched;
        world.demand(late, 1).await?;
        standby.leads().await?;
        world
            .board
            .until("every wake's launch is recorded", DEADLINE, |state| {
                let has = |key| {
                    state
                        .substrates
                        .get(key)
                        .is_some_and(|seen| seen.instances > 0)
                };
                woken.iter().all(has).then_some(())
            })
            .await?;
        let writes = writes(world, mark, &standby.user)?;
        let since = |request: &Request| passed(killed, request.at);
        let is_lease = |request: &&Request| request.resource == "leases";
        let lease = writes.iter().find(is_lease);
        let first = writes.iter().find(|request| !is_lease(request));
        let lease = lease.context("the lease was never written")?;
        let first = first.context("nothing was written")?;
        result.lease.add(since(lease));
        result.first_write.add(since(first));
        let launches = world.emulator.calls_of("RunInstances");
        if let Some(last) = launches.iter().map(|call| call.received.elapsed()).min() {
            let now = passed(killed, Timestamp::now());
            result.last_launch.add(now.saturating_sub(last));
        }
        let living = instances(world);
        for key in &woken {
            let living = living.get(&key.tag()).copied().unwrap_or_default();
            // A launch that is repeated with its token is the same instance.
            let tokens: BTreeSet<&str> = World::launches_of(&launches, key)
                .into_iter()
                .map(|call| call.parameter("ClientToken"))
                .collect();
            result.instances += living;
            result.doubled += usize::from(living > 1 || tokens.len() > 1);
        }
        result.wakes += woken.len();
        world.put_to_sleep(&woken, DEADLINE).await?;
        leader = standby;
    }
    Ok((result, leader))
}

/// Living instances by the substrate that they carry in their tag.
fn instances(world: &World) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for instance in world.emulator.living() {
        let tag = instance.tags.get("halo.howdify.io/substrate");
        *count.entry(tag.cloned().unwrap_or_default()).or_default() += 1;
    }
    count
}

fn writes(world: &World, since: Mark, user: &str) -> Result<Vec<Request>> {
    let mut requests = world.requests(since, user)?;
    requests.retain(|request| {
        matches!(
            request.verb.as_str(),
            "create" | "update" | "patch" | "delete" | "deletecollection"
        )
    });
    Ok(requests)
}

fn passed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
