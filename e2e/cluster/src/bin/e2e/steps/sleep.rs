//! Step 3: nothing is asked: pods go, instances end, sockets stay open; then the same sockets wake it again.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::fleet::{Fleet, Plan};
use crate::install::NAMESPACE;
use crate::report::Step;
use crate::world::{SOON, World, eventually};

/// How long the way to sleep may take: idleAfter, a drain, and a machine under load.
const ASLEEP: Duration = Duration::from_secs(180);

/// `watched`: for how long idle sockets are watched.
pub async fn run(world: &World, step: &mut Step, watched: Duration) -> Result<()> {
    let devices = world.devices("idle", 10).await?;
    let plan = Plan {
        questions: 1,
        pause: Duration::ZERO,
        tokens: 8,
        hold_open: true,
    };
    let mut fleet = Fleet::start(world, "idle", &devices, &plan)?;
    let all = devices.len();
    fleet
        .until(ASLEEP, "every answer", |fleet| fleet.questions.len() >= all)
        .await?;
    fleet.all_answered()?;
    step.held(format!("{all} devices were answered and stay connected"));

    tokio::select! {
        asleep = world.all_asleep(ASLEEP) => asleep?,
        ended = fleet.listen(ASLEEP * 2) => ended?,
    }
    step.held("no pod, no instance: nothing costs but the weights' volumes");
    let quiet = eventually(SOON, "no gateway reports demand", || async {
        for tenant in &world.tenants {
            let substrate = world.substrate(tenant).await?;
            let demand = &substrate["status"]["demand"];
            ensure!(
                demand.as_array().is_none_or(Vec::is_empty),
                "{}: {demand}",
                tenant.id
            );
        }
        Ok(())
    });
    tokio::select! {
        quiet = quiet => quiet?,
        ended = fleet.listen(SOON * 2) => ended?,
    }
    step.held("no gateway reports demand");

    let mark = world.cluster.plane().mark()?;
    fleet.listen(watched).await?;
    ensure!(
        fleet.lost == 0 && fleet.open == all,
        "{} of {all} sockets are open, {} were lost",
        fleet.open,
        fleet.lost
    );
    let user = format!("system:serviceaccount:{NAMESPACE}:halo-gateway");
    let requests = world.cluster.plane().requests_since(mark)?;
    let asked: Vec<_> = requests
        .iter()
        // A watch that is begun again after its time is no question about a device.
        .filter(|request| request.user == user && request.verb != "watch")
        .collect();
    ensure!(asked.is_empty(), "idle gateways asked: {asked:?}");
    step.held(format!(
        "all {all} sockets are open; in {watched:?} the gateways asked the API server nothing"
    ));

    fleet.ask().await?;
    fleet
        .until(ASLEEP, "the second answers", |fleet| {
            fleet.questions.len() >= 2 * all
        })
        .await?;
    fleet.all_answered()?;
    ensure!(fleet.lost == 0, "{} connections were lost", fleet.lost);
    step.held("the same sockets woke both again: every question answered");
    let slowest = fleet.questions[all..]
        .iter()
        .filter_map(|question| question.first_token())
        .max();
    if let Some(slowest) = slowest {
        step.figure(
            "second wake of two substrates at once, slowest of 20 first tokens",
            slowest.as_secs_f64(),
            "s",
            None,
        );
    }
    fleet.end(Duration::from_secs(60)).await?;
    for question in &fleet.questions[all..] {
        world.passes(question.session()).await?;
    }
    step.held("halo-verify passes for every session");
    Ok(())
}
