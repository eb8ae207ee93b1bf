//! `halo-e2e-run`: HALO whole, on a real cluster on this machine.

mod arguments;
mod aws;
mod children;
mod device;
mod dns;
mod fleet;
mod http;
mod images;
mod install;
mod monitor;
mod processes;
mod report;
mod stages;
mod steps;
mod tenants;
mod verify;
mod world;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use halo_e2e_cluster::real::nest::{self, Nest};
use halo_e2e_cluster::real::{node_init, requirements, run_node};
use halo_e2e_cluster::{Assets, Error};

use crate::arguments::{Arguments, Cli, Command};
use crate::report::{Step, StepReport, say};
use crate::world::World;

/// Something is missing on this machine.
const MISSING: u8 = 3;
/// Another run is under way.
const IN_USE: u8 = 4;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match cli.command {
        Some(Command::NodeInit { machine }) => node_init(&machine)
            .context("the machine")
            .map(|()| ExitCode::SUCCESS),
        Some(Command::Node { joined, name }) => on_one_thread(async {
            run_node(&joined, name).await?;
            Ok(ExitCode::SUCCESS)
        }),
        None => match Nest::inside() {
            None => on_one_thread(outside(&cli.run)),
            Some(nest) => inside(&nest, &cli.run),
        },
    };
    ended.unwrap_or_else(|error| {
        eprintln!("halo-e2e-run: {error:#}");
        match error.downcast_ref() {
            Some(Error::InUse(_)) => ExitCode::from(IN_USE),
            _ => ExitCode::FAILURE,
        }
    })
}

/// On this thread, because what it starts is bound to the thread's life.
fn on_one_thread(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build()?.block_on(work)
}

/// Fetches and builds what needs the world's network, then runs the rest in a network of its own.
async fn outside(arguments: &Arguments) -> Result<ExitCode> {
    let missing = requirements::missing();
    if !missing.is_empty() {
        for sentence in missing {
            eprintln!("halo-e2e-run: {sentence}");
        }
        return Ok(ExitCode::from(MISSING));
    }
    // Before minutes are spent on builds.
    let claim = nest::claim()?;
    Assets::find()?;
    Assets::helm()?;
    tokio::task::spawn_blocking(halo_dynamodb_local::install).await??;
    images::build(arguments).await?;
    let status = nest::run_in_nest(&claim, &arguments.logs).await?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn inside(nest: &Nest, arguments: &Arguments) -> Result<ExitCode> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed already"))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let code = runtime.block_on(async {
        tokio::select! {
            code = run(nest, arguments) => code,
            () = Nest::asked_to_end() => {
                say("asked to end");
                Ok(ExitCode::FAILURE)
            }
        }
    });
    // Nothing that still runs is waited for: the nest ends it.
    runtime.shutdown_background();
    code
}

async fn run(nest: &Nest, arguments: &Arguments) -> Result<ExitCode> {
    let mut reports = Vec::new();
    let mut setup = Step::begin(0, "cluster, cloud, ledger, charts, tenants");
    let world = match World::start(nest, arguments, &mut setup).await {
        Ok(world) => {
            reports.push(setup.end(Ok(())));
            Some(world)
        }
        Err(error) => {
            reports.push(setup.end(Err(error)));
            None
        }
    };
    if let Some(mut world) = world {
        steps::run(&mut world, arguments, &mut reports).await;
        finish(nest, arguments, &reports).await?;
        drop(world);
    } else {
        finish(nest, arguments, &reports).await?;
    }
    Ok(if reports.iter().all(|report| report.failure.is_none()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn finish(nest: &Nest, arguments: &Arguments, reports: &[StepReport]) -> Result<()> {
    let mut out = std::io::stdout();
    if arguments.json {
        writeln!(out, "{}", report::as_json(reports))?;
    } else {
        write!(out, "{}", report::table(reports))?;
    }
    out.flush()?;
    say(&format!("logs: {}", nest.logs().display()));
    if arguments.keep {
        say(&format!(
            "everything runs on until Ctrl-C; to look into it: nsenter --target {} --net --mount --pid bash; KUBECONFIG is in {}",
            nest.first_process(),
            nest.folder().display()
        ));
        std::future::pending::<()>().await;
    }
    Ok(())
}
