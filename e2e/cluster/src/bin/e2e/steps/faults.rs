//! Step 6: the cloud refuses, the ledger is away, machines and programs die. The system comes to rest again, no chain counts as tampered
//! with, and nothing is left behind.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::fleet::{Fleet, Plan};
use crate::install::{self, NAMESPACE};
use crate::processes;
use crate::report::Step;
use crate::world::{SOON, World, eventually, start_dynamodb};

/// How long a round of questions may take while something is broken.
const ROUND: Duration = Duration::from_secs(240);

/// How long until everything sleeps again.
const ASLEEP: Duration = Duration::from_secs(240);

/// How long DynamoDB is away.
const AWAY: Duration = Duration::from_secs(20);

/// Devices of each tenant.
const EACH: usize = 3;

pub async fn run(world: &mut World, step: &mut Step) -> Result<()> {
    world.all_asleep(ASLEEP).await?;
    let devices = world.devices("fault", EACH).await?;
    let plan = Plan {
        questions: 0,
        pause: Duration::ZERO,
        tokens: 48,
        hold_open: true,
    };
    let mut fleet = Fleet::start(world, "fault", &devices, &plan)?;
    let all = devices.len();

    no_capacity_and_throttled(world, &mut fleet, all, step).await?;
    ledger_away(world, &mut fleet, all, step).await?;
    secrets_away(world, &mut fleet, all, step).await?;
    pods_die(world, &mut fleet, all, step).await?;
    kubelets_die(world, &mut fleet, all, step).await?;
    operators_die(world, &mut fleet, all, step).await?;

    fleet.all_told()?;
    let sessions: BTreeSet<String> = fleet
        .questions
        .iter()
        .map(|question| question.session().to_owned())
        .collect();
    step.held(format!(
        "{} questions: {} answered, {} interrupted, {} refused; every device knows",
        fleet.questions.len(),
        fleet.count("answered"),
        fleet.count("interrupted"),
        fleet.count("refused"),
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
    step.held(format!("{} chains: none is tampered with", sessions.len()));
    world.all_asleep(ASLEEP).await?;
    // Weights are kept once for each zone that a slot was in. Instances' own volumes go a moment after them.
    let kept = eventually(SOON, "only the weights' volumes stay", || async {
        let volumes = world.aws.volumes().await?;
        let kept: BTreeSet<_> = volumes
            .iter()
            .filter(|volume| volume.instance.is_none())
            .filter_map(|volume| {
                Some((
                    volume.substrate.as_ref()?,
                    volume.slot.as_ref()?,
                    &volume.zone,
                ))
            })
            .collect();
        ensure!(
            kept.len() == volumes.len(),
            "{} volumes for {} places: {volumes:#?}; instances {:#?}",
            volumes.len(),
            kept.len(),
            world.aws.instances().await?
        );
        Ok(volumes)
    })
    .await?;
    // One pod is all that each tenant's scaling allows, so there was never work for a second slot.
    let second: Vec<_> = kept
        .iter()
        .filter(|volume| volume.slot.as_deref() != Some("0"))
        .collect();
    ensure!(
        second.is_empty(),
        "a second node was launched beside one pod: {second:#?}"
    );
    step.held(format!(
        "everything sleeps again, and nothing was leaked; weights are kept in {} volumes, one for each tenant and zone",
        kept.len()
    ));
    Ok(())
}

async fn no_capacity_and_throttled(
    world: &World,
    fleet: &mut Fleet,
    all: usize,
    step: &mut Step,
) -> Result<()> {
    for instance_type in ["r7iz.4xlarge", "r8i.8xlarge"] {
        let rule = json!({"instance_type": instance_type, "zone": "us-east-2a", "tenancy": "dedicated", "slots": 0});
        world.aws.post("capacity", &rule).await?;
    }
    let throttle = json!({
        "action": "RunInstances",
        "times": 2,
        "do": {"kind": "error", "code": "RequestLimitExceeded", "message": "slow down"},
    });
    world.aws.post("faults", &throttle).await?;
    let describe = json!({
        "action": "Describe*",
        "times": 5,
        "do": {"kind": "error", "code": "RequestLimitExceeded", "message": "slow down"},
    });
    world.aws.post("faults", &describe).await?;
    fleet.round(all, ROUND).await?;
    fleet.all_answered()?;
    let instances = world.aws.instances().await?;
    ensure!(
        !instances.is_empty() && instances.iter().all(|found| found.zone == "us-east-2b"),
        "instances: {instances:?}"
    );
    step.held("no capacity in the first zone, and throttled: woken in the second zone");
    for instance_type in ["r7iz.4xlarge", "r8i.8xlarge"] {
        let rule =
            json!({"instance_type": instance_type, "zone": "us-east-2a", "tenancy": "dedicated"});
        world.aws.post("capacity", &rule).await?;
    }
    world.aws.clear_faults().await
}

async fn ledger_away(
    world: &mut World,
    fleet: &mut Fleet,
    all: usize,
    step: &mut Step,
) -> Result<()> {
    let ledger = world.dynamodb.take().context("DynamoDB runs")?;
    tokio::task::spawn_blocking(move || ledger.stop()).await??;
    let asked = fleet.questions.len() + all;
    fleet.ask().await?;
    fleet.listen(AWAY).await?;
    world.dynamodb = Some(start_dynamodb(world.folder.join("dynamodb")).await?);
    fleet
        .until(ROUND, "outcomes after DynamoDB came back", |fleet| {
            fleet.questions.len() >= asked
        })
        .await?;
    fleet.round(all, ROUND).await?;
    fleet.all_told()?;
    step.held(format!(
        "DynamoDB away for {AWAY:?}: every device was told its outcome, and the next round was answered"
    ));
    Ok(())
}

async fn secrets_away(world: &World, fleet: &mut Fleet, all: usize, step: &mut Step) -> Result<()> {
    let fault = json!({
        "action": "GetParameter*",
        "times": null,
        "do": {"kind": "error", "code": "InternalServerError", "message": "away", "status": 500},
    });
    world.aws.post("faults", &fault).await?;
    // An operator that begins anew knows no root, and what is published stays.
    let arguments = [
        "rollout",
        "restart",
        "deployment/halo-operator",
        "--namespace",
        NAMESPACE,
    ];
    install::kubectl(&world.cluster, &arguments).await?;
    install::rolled_out(&world.cluster, "halo-operator").await?;
    fleet.round(all, ROUND).await?;
    world.aws.clear_faults().await?;
    step.held(
        "SSM is down and the operator begins anew: keys stay published, devices are answered",
    );
    Ok(())
}

async fn pods_die(world: &World, fleet: &mut Fleet, all: usize, step: &mut Step) -> Result<()> {
    let victims = processes::find("halo-substrate", "")?;
    ensure!(
        victims.len() == world.tenants.len(),
        "{} substrates run for {} tenants",
        victims.len(),
        world.tenants.len()
    );
    // The demo model answers within milliseconds; nobody could hit the middle of an answer.
    for victim in &victims {
        processes::slow(*victim)?;
    }
    let asked = fleet.questions.len() + all;
    let interrupted = fleet.count("interrupted");
    fleet.begun.clear();
    fleet.ask().await?;
    let tenants = world.tenants.len();
    fleet
        .until(ROUND, "an answer of each tenant has begun", |fleet| {
            fleet.begun.len() >= tenants
        })
        .await?;
    for victim in &victims {
        processes::kill(*victim).await?;
    }
    fleet
        .until(ROUND, "outcomes after pods died", |fleet| {
            fleet.questions.len() >= asked
        })
        .await?;
    let interrupted = fleet.count("interrupted") - interrupted;
    ensure!(
        interrupted >= tenants,
        "{interrupted} answers were told to be interrupted, and {tenants} were broken off after their first token"
    );
    fleet.round(all, ROUND).await?;
    fleet.all_told()?;
    step.held(format!(
        "{tenants} substrates killed amid answers: {interrupted} interrupted and told so, the others answered by what follows"
    ));
    Ok(())
}

async fn kubelets_die(world: &World, fleet: &mut Fleet, all: usize, step: &mut Step) -> Result<()> {
    for instance in world.aws.instances().await? {
        for kubelet in processes::find("kubelet", &format!("={}", instance.node))? {
            processes::kill(kubelet).await?;
        }
    }
    fleet.round(all, ROUND).await?;
    step.held("every kubelet of a pool killed: devices are answered");
    Ok(())
}

async fn operators_die(
    world: &World,
    fleet: &mut Fleet,
    all: usize,
    step: &mut Step,
) -> Result<()> {
    world.all_asleep(ASLEEP).await?;
    let asked = fleet.questions.len() + all;
    fleet.ask().await?;
    for pause in [400, 900, 1700] {
        fleet.listen(Duration::from_millis(pause)).await?;
        for operator in processes::find("halo-operator", "run")? {
            processes::kill(operator).await?;
        }
    }
    fleet
        .until(ROUND, "outcomes after operators died", |fleet| {
            fleet.questions.len() >= asked
        })
        .await?;
    let instances = world.aws.instances().await?;
    ensure!(
        instances.len() <= world.tenants.len(),
        "{} instances for {} tenants: {instances:?}",
        instances.len(),
        world.tenants.len()
    );
    step.held("all operators killed three times during a wake: one instance for each tenant");
    Ok(())
}
