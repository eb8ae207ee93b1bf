//! Step 5: gateways and operators are replaced while devices ask. No answer is lost without its device being told, and sessions go on.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::sync::watch;

use crate::fleet::{Fleet, Plan};
use crate::install::{self, NAMESPACE};
use crate::report::Step;
use crate::world::{SOON, World};

/// How long a round of questions may take, a wake and a new connection included.
const ROUND: Duration = Duration::from_secs(180);

/// Devices of each tenant.
const EACH: usize = 5;

pub async fn run(world: &World, step: &mut Step) -> Result<()> {
    let devices = world.devices("roll", EACH).await?;
    let plan = Plan {
        questions: 0,
        pause: Duration::ZERO,
        tokens: 16,
        hold_open: true,
    };
    let all = devices.len();
    let mut fleet = Fleet::start(world, "roll", &devices, &plan)?;
    fleet.round(all, ROUND).await?;
    step.held(format!("{all} devices ask"));

    let (rolled, mut rolling) = watch::channel(false);
    let load = async {
        while !*rolling.borrow_and_update() {
            fleet.round(all, ROUND).await?;
        }
        // Those that came over to new gateways ask once more.
        fleet.round(all, ROUND).await
    };
    let roll = async {
        let names = ["halo-gateway", "halo-operator"].map(|name| format!("deployment/{name}"));
        for name in &names {
            let arguments = ["rollout", "restart", name, "--namespace", NAMESPACE];
            install::kubectl(&world.cluster, &arguments).await?;
        }
        let gateway = install::rolled_out(&world.cluster, "halo-gateway").await;
        let operator = install::rolled_out(&world.cluster, "halo-operator").await;
        let gone = gone(world).await;
        rolled.send_replace(true);
        gateway.and(operator).and(gone)
    };
    let (load, roll) = tokio::join!(load, roll);
    roll?;
    load?;
    fleet.all_told()?;
    let last = &fleet.questions[fleet.questions.len() - all..];
    ensure!(
        last.iter().all(|question| question.outcome() == "answered"),
        "the last round: {last:?}"
    );
    step.held(format!(
        "gateways and operators replaced: {} questions, {} answered, {} interrupted, {} refused, all told",
        fleet.questions.len(),
        fleet.count("answered"),
        fleet.count("interrupted"),
        fleet.count("refused"),
    ));
    let sessions: BTreeSet<String> = fleet
        .questions
        .iter()
        .map(|question| question.session().to_owned())
        .collect();
    ensure!(
        sessions.len() == all,
        "{} sessions for {all} devices",
        sessions.len()
    );
    step.held(format!(
        "each device went on in its session; {} connections were made anew",
        fleet.lost
    ));
    fleet.end(SOON).await?;
    for session in &sessions {
        let verdict = world.verdict(session).await?;
        ensure!(
            verdict.get("integrity") == "ok"
                && ["sealed", "interrupted"].contains(&verdict.get("completeness")),
            "halo-verify {session}: {}",
            verdict.0
        );
    }
    step.held("no chain is broken");
    Ok(())
}

/// Waits until the pods that were replaced are gone.
async fn gone(world: &World) -> Result<()> {
    crate::world::eventually(SOON, "old pods are gone", || async {
        let pods = world.pods(NAMESPACE).await?;
        let ending = pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_some());
        ensure!(ending.count() == 0, "pods are ending");
        Ok(())
    })
    .await
}
