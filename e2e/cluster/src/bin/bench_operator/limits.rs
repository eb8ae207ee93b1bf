//! What the API server alone takes, asked by a bare client while no operator runs.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::objects::{self, Key};
use super::samples::Samples;
use super::world::World;

/// A tenant that no operator ever sees.
const NOBODY: &str = "limit";

/// How long one exchange may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// What was measured with so many at once.
#[derive(Debug, Clone, Default)]
pub struct Limit {
    /// A status patch, from sent to answered.
    pub patch: Samples,
    /// The same patch, from sent to its watch event.
    pub delivery: Samples,
    /// From the demand's patch sent, over its watch event, to the answer of one more status patch: what has to happen before a launch
    /// whose intent is recorded first.
    pub recorded: Samples,
}

/// Measures `rounds` rounds of `at_once` exchanges each.
///
/// # Errors
/// The API server does not answer.
pub async fn measure(world: &World, rounds: usize, at_once: usize) -> Result<Limit> {
    let tenants: Vec<String> = (0..at_once).map(|n| format!("{NOBODY}{n}")).collect();
    let groups = tenants.iter().map(|tenant| {
        let (namespace, substrate) = (objects::namespace(tenant), objects::substrate(tenant));
        vec![namespace, substrate]
    });
    world.apply_groups(groups).await?;
    let mut limit = Limit::default();
    for round in 0..rounds {
        let round = u32::try_from(round).unwrap_or(u32::MAX);
        let exchanges = tenants
            .iter()
            .map(|tenant| exchange(world, Key::of(tenant), round + 1));
        for [patch, delivery, recorded] in future::try_join_all(exchanges).await? {
            limit.patch.add(patch);
            limit.delivery.add(delivery);
            limit.recorded.add(recorded);
        }
    }
    for tenant in &tenants {
        world.delete(&objects::substrate(tenant)).await?;
    }
    Ok(limit)
}

async fn exchange(world: &World, key: Key, round: u32) -> Result<[Duration; 3]> {
    let demanded = world.demand(&key, round).await?;
    let delivered = world
        .board
        .until("the watch event of a patch", DEADLINE, |state| {
            let seen = state.substrates.get(&key)?;
            (seen.version == demanded.version).then_some(seen.at)
        })
        .await?;
    let status = json!({
        "apiVersion": "halo.howdify.io/v1alpha1", "kind": "HaloSubstrate",
        "metadata": {"resourceVersion": demanded.version},
        "status": {"why": format!("round {round}"), "attempts": round},
    });
    let params = PatchParams::apply("halo-bench-record").force();
    let api = world.substrates(&key);
    api.patch_status(&key.name, &params, &Patch::Apply(status))
        .await?;
    let recorded = Instant::now();
    Ok([
        demanded.answered - demanded.sent,
        // An event may come before the answer.
        delivered.saturating_duration_since(demanded.sent),
        recorded - demanded.sent,
    ])
}
