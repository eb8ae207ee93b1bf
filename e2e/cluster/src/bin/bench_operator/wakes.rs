//! From a demand that is patched to the launch that the cloud receives.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future;

use super::objects::Key;
use super::samples::{Samples, ms};
use super::world::World;

/// How long a wake, or going to sleep again, may take before it counts as failed.
const DEADLINE: Duration = Duration::from_secs(120);

/// So many substrates are awake at most before all are put to sleep again.
const AWAKE: usize = 20;

/// So many of the slowest wakes are named while it runs.
const SLOWEST: usize = 6;

/// What was measured. Both clocks are this process's, in which the emulator runs.
#[derive(Debug, Clone, Default)]
pub struct Wakes {
    /// From the patch sent to RunInstances received.
    pub launch: Samples,
    /// From the patch answered to RunInstances received; zero if the launch was first.
    pub after_answer: Samples,
    /// Each wake's number and its time to launch.
    order: Vec<(usize, Duration)>,
}

/// Wakes `count` substrates, `at_once` in each round; a round begins when the one before is recorded in the status.
///
/// # Errors
/// A wake launches nothing, or twice.
pub async fn measure(world: &World, keys: &[Key], count: usize, at_once: usize) -> Result<Wakes> {
    let mut wakes = Wakes::default();
    let mut next = keys.iter().cycle();
    while wakes.launch.len() < count {
        let left = count - wakes.launch.len();
        let batch: Vec<Key> = next
            .by_ref()
            .take(AWAKE.min(left.next_multiple_of(at_once)).min(keys.len()))
            .cloned()
            .collect();
        for round in batch.chunks(at_once) {
            one_round(world, round, &mut wakes).await?;
        }
        world.put_to_sleep(&batch, DEADLINE).await?;
    }
    wakes
        .order
        .sort_by_key(|(_, took)| std::cmp::Reverse(*took));
    let slowest = wakes.order.iter().take(SLOWEST);
    let slowest: Vec<String> = slowest
        .map(|(number, took)| format!("number {number} {:.1} ms", ms(*took)))
        .collect();
    super::say(&format!("the slowest wakes: {}", slowest.join(", ")));
    Ok(wakes)
}

async fn one_round(world: &World, round: &[Key], wakes: &mut Wakes) -> Result<()> {
    world.emulator.clear_calls();
    let demands = round.iter().map(|key| world.demand(key, 1));
    let demanded = future::try_join_all(demands).await?;
    world.launched(round, DEADLINE).await?;
    world
        .board
        .until("the launch stands in the status", DEADLINE, |state| {
            let has = |key| {
                state
                    .substrates
                    .get(key)
                    .is_some_and(|seen| seen.instances == 1)
            };
            round.iter().all(has).then_some(())
        })
        .await?;
    let calls = world.emulator.calls();
    for (key, demanded) in round.iter().zip(demanded) {
        let launches = World::launches_of(&calls, key);
        ensure!(
            launches.len() == 1,
            "{} was launched for {} times",
            key.tag(),
            launches.len()
        );
        let received = launches[0].received;
        let took = received.saturating_duration_since(demanded.sent);
        wakes.order.push((wakes.order.len(), took));
        wakes.launch.add(took);
        wakes
            .after_answer
            .add(received.saturating_duration_since(demanded.answered));
    }
    Ok(())
}
