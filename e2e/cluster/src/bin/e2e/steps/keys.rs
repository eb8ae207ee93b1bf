//! Step 4: the month ends and the root secret changes while devices ask. Nothing is refused, and what was recorded before verifies.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde_json::json;

use crate::device::CLOCK_OFFSET;
use crate::fleet::{Fleet, Plan};
use crate::install::{self, NAMESPACE};
use crate::report::Step;
use crate::world::{ROOT, SOON, World, condition, eventually, random_text};

/// Before the end of the month when the shifted clocks begin: for the rollout, the wake and some questions.
const BEFORE: i64 = 75;

/// How long a round of questions may take, a wake included.
const ROUND: Duration = Duration::from_secs(180);

/// How long a new root may take until sessions begin under it: pods and gateways must hold it first.
const NEW_ROOT: Duration = Duration::from_secs(240);

/// Devices of each tenant.
const EACH: usize = 3;

pub async fn run(world: &mut World, step: &mut Step) -> Result<()> {
    let offset = offset_to_month_end(Timestamp::now(), BEFORE)?;
    world.shift_clocks(offset).await?;
    step.held(format!(
        "every clock of HALO is {offset} s ahead: {BEFORE} s before a month ends"
    ));
    let now = || Timestamp::now() + offset.seconds();
    let month = |at: Timestamp| at.to_zoned(TimeZone::UTC).date().first_of_month();
    let first = month(now());

    let devices = world.devices("keys", EACH).await?;
    let plan = Plan {
        questions: 0,
        pause: Duration::ZERO,
        tokens: 8,
        hold_open: true,
    };
    let mut fleet = Fleet::start(world, "month", &devices, &plan)?;
    fleet.round(devices.len(), ROUND).await?;
    ensure!(
        month(now()) == first,
        "the first answers came after the month's end"
    );
    let before = fleet.questions.len();
    while month(now()) == first {
        fleet.round(devices.len(), ROUND).await?;
    }
    let across = fleet.questions.len();
    for _ in 0..3 {
        fleet.round(devices.len(), ROUND).await?;
    }
    fleet.all_answered()?;
    step.held(format!(
        "{} questions across the month's end, {} of them after it: none refused",
        fleet.questions.len() - before,
        fleet.questions.len() - across
    ));

    let root = random_text()?;
    let version = world.aws.put_parameter(ROOT, &root).await?;
    world.roots.push(root);
    ensure!(
        version == world.roots.len() as u64,
        "the root's new version: {version}"
    );
    for tenant in &world.tenants {
        let patch = json!({"spec": {"keys": {"generation": version}}}).to_string();
        let arguments = [
            "patch",
            "halotenant",
            &tenant.id,
            "--type=merge",
            "--patch",
            &patch,
        ];
        install::kubectl(&world.cluster, &arguments).await?;
    }
    step.held(format!("generation {version} of the root is asked for"));
    let started = std::time::Instant::now();
    let mut newer = Vec::new();
    let mut number = 0;
    while newer.len() < world.tenants.len() {
        ensure!(
            started.elapsed() < NEW_ROOT,
            "no session of generation {version} after {NEW_ROOT:?}"
        );
        fleet.round(devices.len(), ROUND).await?;
        // New sessions meanwhile: each is answered, under the root that is current at that moment.
        newer.clear();
        for tenant in &world.tenants {
            let device = world.device(tenant, &format!("root-{number}")).await?;
            let mut one = Fleet::start(world, "root", &[device], &plan)?;
            one.round(1, ROUND).await?;
            one.all_answered()?;
            one.end(SOON).await?;
            for (session, generation) in &one.sessions {
                let verdict = world.passes(session).await?;
                ensure!(
                    verdict.root_generation() == Some(*generation),
                    "{session} was opened under generation {generation}: {}",
                    verdict.0
                );
                if *generation == version {
                    newer.push(session.clone());
                }
            }
        }
        number += 1;
    }
    step.figure(
        "a new root: asked for, to sessions of both tenants under it",
        started.elapsed().as_secs_f64(),
        "s",
        None,
    );
    fleet.round(devices.len(), ROUND).await?;
    fleet.all_answered()?;
    step.held(format!(
        "{} questions in sessions of the old root meanwhile: none refused",
        fleet.questions.len()
    ));
    fleet.end(SOON).await?;
    let mut verdicts = BTreeMap::new();
    for tenant in &world.tenants {
        verdicts.extend(world.verdicts(&tenant.id).await?);
    }
    let new = newer.iter().map(|session| (session, version));
    let old = fleet.sessions.iter();
    for (session, generation) in old.map(|(session, old)| (session, *old)).chain(new) {
        let verdict = verdicts
            .get(session)
            .with_context(|| format!("{session} is not in the ledger"))?;
        verdict.passes()?;
        ensure!(
            verdict.root_generation() == Some(generation),
            "{session} was opened under generation {generation}: {}",
            verdict.0
        );
    }
    step.held("sessions of both roots and both months verify, in one run for each tenant");
    for tenant in &world.tenants {
        let tenant = tenant.id.clone();
        eventually(SOON, "the tenant is ready", || async {
            let arguments = ["get", "halotenant", &tenant, "--output=json"];
            let text = install::kubectl(&world.cluster, &arguments).await?;
            let object = serde_json::from_str(&text)?;
            ensure!(condition(&object, "Ready") == Some("True"), "{object}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// How far to shift clocks so that a month ends in so many seconds.
fn offset_to_month_end(now: Timestamp, before: i64) -> Result<i64> {
    let today: Date = now.to_zoned(TimeZone::UTC).date();
    let next = today.last_of_month().tomorrow()?;
    let end = next.to_zoned(TimeZone::UTC)?.timestamp();
    let offset = end.as_second() - now.as_second() - before;
    // On the last minutes of a month the next one's end is taken: clocks go forward only.
    if offset >= 0 {
        return Ok(offset);
    }
    let end = next.last_of_month().tomorrow()?;
    let end = end.to_zoned(TimeZone::UTC)?.timestamp();
    Ok(end.as_second() - now.as_second() - before)
}

impl World {
    /// Shifts the clocks of all programs of HALO: operator, gateways, substrates, devices.
    async fn shift_clocks(&mut self, seconds: i64) -> Result<()> {
        let variable = json!({"name": CLOCK_OFFSET, "value": seconds.to_string()});
        for component in ["operator", "gateway"] {
            let list = self.values[component]["extraEnv"].as_array_mut();
            list.context("extraEnv")?.push(variable.clone());
        }
        self.values["operator"]["substrate"]["env"][CLOCK_OFFSET] = json!(seconds.to_string());
        let environment = &mut self.programs.environment;
        environment.insert(CLOCK_OFFSET.to_owned(), seconds.to_string());
        self.upgrade().await
    }

    /// Applies the values as they are now.
    async fn upgrade(&self) -> Result<()> {
        let path = self.folder.join("values.json");
        std::fs::write(&path, self.values.to_string())?;
        let (chart, values) = (self.charts.join("halo"), path);
        self.helm
            .run(&[
                "upgrade",
                "halo",
                &chart.display().to_string(),
                "--namespace",
                NAMESPACE,
                "--values",
                &values.display().to_string(),
            ])
            .await?;
        install::rolled_out(&self.cluster, "halo-operator").await?;
        install::rolled_out(&self.cluster, "halo-gateway").await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_forward_to_the_end_of_a_month() {
        for (now, ends) in [
            ("2026-11-21T15:00:00Z", "2026-12-01T00:00:00Z"),
            ("2026-12-31T23:00:00Z", "2027-01-01T00:00:00Z"),
            ("2028-02-28T00:00:00Z", "2028-03-01T00:00:00Z"),
            ("2026-11-30T23:59:00Z", "2027-01-01T00:00:00Z"),
        ] {
            let now: Timestamp = now.parse().unwrap();
            let end: Timestamp = ends.parse().unwrap();
            let offset = offset_to_month_end(now, 120).unwrap();
            assert!(offset >= 0);
            assert_eq!(now + offset.seconds() + 120.seconds(), end, "{ends}");
        }
    }
}
