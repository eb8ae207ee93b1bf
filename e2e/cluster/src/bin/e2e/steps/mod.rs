//! The steps, in order.

mod faults;
mod keys;
mod leave;
mod many;
mod rollout;
mod sleep;
mod wake;

use std::time::Duration;

use crate::arguments::Arguments;
use crate::report::{Step, StepReport};
use crate::world::World;

/// Numbers and titles.
const TITLES: [(u8, &str); 7] = [
    (1, "a question from a wav wakes a sleeping substrate"),
    (2, "twenty devices of two tenants at once, apart"),
    (3, "idle: asleep, sockets open; and woken again"),
    (4, "month and root secret change under load"),
    (5, "gateways and operators replaced under load"),
    (6, "no capacity, throttling, SSM and DynamoDB away, kills"),
    (7, "deleted and uninstalled: nothing stays"),
];

/// Runs the steps that were asked for, all if none was. One that fails ends the run.
pub async fn run(world: &mut World, arguments: &Arguments, reports: &mut Vec<StepReport>) {
    let wanted = &arguments.step;
    for (number, title) in TITLES {
        if !wanted.is_empty() && !wanted.contains(&number) {
            continue;
        }
        let mut step = Step::begin(number, title);
        let result = match number {
            1 => wake::run(world, &mut step).await,
            2 => many::run(world, &mut step).await,
            3 => sleep::run(world, &mut step, Duration::from_secs(arguments.idle)).await,
            4 => keys::run(world, &mut step).await,
            5 => rollout::run(world, &mut step).await,
            6 => faults::run(world, &mut step).await,
            _ => leave::run(world, &mut step).await,
        };
        let failed = result.is_err();
        reports.push(step.end(result));
        if failed {
            return;
        }
    }
}
