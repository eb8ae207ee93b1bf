//! Step 1: asleep, a question from a wav, RunInstances, a kubelet that joins, a pod that loads the demo model, tokens, a seal, a verdict.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::install::NAMESPACE;
use crate::report::Step;
use crate::stages::Stages;
use crate::world::{SOON, World, eventually};

/// How long the first answer may take before something is wrong.
const LIMIT: Duration = Duration::from_secs(180);

/// The targets on two cores, with a boot delay of 0 in the emulator: all of it, and HALO's own share.
const WAKE: f64 = 8.0;
const SHARE: f64 = 0.15;

pub async fn run(world: &World, step: &mut Step) -> Result<()> {
    world.all_asleep(Duration::from_secs(120)).await?;
    step.held("both tenants sleep: no pod, no instance");
    let tenant = &world.tenants[0];
    let device = world.device(tenant, "phone-1").await?;
    let stages = Stages::watch(&world.client, tenant);
    let asked = device
        .ask(
            &world.programs,
            &world.door,
            "What is sovereign inference, in one sentence?",
            16,
            LIMIT,
        )
        .await?;
    ensure!(asked.status() == "ok", "the answer: {}", asked.answer);
    step.held(format!(
        "an answer of {} tokens, {} notices on the way",
        asked.answer["tokens"],
        asked.notices.len()
    ));
    let mut decision = None;
    for (stage, at) in stages.since(asked.routed) {
        step.figure(stage, at.as_secs_f64(), "s", None);
        if stage == "launch recorded" {
            decision = Some(at.as_secs_f64());
        }
    }
    let sealed = asked.sealed.duration_since(asked.routed);
    step.figure("sealed", sealed.as_secs_f64(), "s", None);
    step.figure(
        "request to first token",
        asked.wait().as_secs_f64(),
        "s",
        Some(WAKE),
    );

    let verdict = world.passes(&asked.session).await?;
    step.held(format!(
        "halo-verify on DynamoDB: integrity {}, {}",
        verdict.get("integrity"),
        verdict.get("completeness")
    ));
    let others = world.pods(&world.tenants[1].namespace).await?;
    ensure!(others.is_empty(), "the other tenant woke, too");
    step.held("the other tenant sleeps on");

    let dial = measured(world, step).await?;
    if let Some(decision) = decision {
        step.figure(
            "HALO's own share: decision, hold, dial",
            decision + dial,
            "s",
            Some(SHARE),
        );
    }
    helm_test(world, step).await
}

/// What Prometheus saw; returns the time from a ready pod to the link of the first request.
async fn measured(world: &World, step: &mut Step) -> Result<f64> {
    for (what, expression) in [
        ("gateways that are scraped", "sum(up{job=\"halo-gateway\"})"),
        (
            "operators that are scraped",
            "sum(up{job=\"halo-operator\"})",
        ),
        (
            "substrates that are scraped",
            "sum(up{job=\"halo-substrates\"})",
        ),
        (
            "held requests that were answered",
            "sum(halo_gateway_holds_total{outcome=\"dispatched\"})",
        ),
        ("tokens relayed", "sum(halo_gateway_relayed_tokens_total)"),
        ("receipts", "sum(halo_gateway_receipts_total)"),
        ("reconciles", "sum(controller_runtime_reconcile_total)"),
        ("dials", "sum(halo_gateway_ready_to_link_seconds_count)"),
    ] {
        eventually(SOON, what, || async {
            let sum = world.monitor.sum(expression).await?;
            ensure!(sum > 0.0, "{expression} is {sum}");
            Ok(())
        })
        .await?;
    }
    let firing = world.monitor.firing().await?;
    ensure!(firing.is_empty(), "alerts fire: {firing:?}");
    step.held("Prometheus saw all of it, and no alert fires");
    world
        .monitor
        .sum(
            "sum(halo_gateway_ready_to_link_seconds_sum) / sum(halo_gateway_ready_to_link_seconds_count)",
        )
        .await
}

async fn helm_test(world: &World, step: &mut Step) -> Result<()> {
    world
        .helm
        .run(&[
            "test",
            "halo",
            "--namespace",
            NAMESPACE,
            "--timeout",
            "120s",
        ])
        .await?;
    step.held("helm test passes: a session from inside the cluster, verified");
    Ok(())
}
