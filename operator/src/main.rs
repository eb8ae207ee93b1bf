//! `halo-operator`: flags, logs, signals, exit codes.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use halo_cloud::aws::{AwsCloud, AwsSecrets, AwsSession};
use halo_operator::clock::ShiftedClock;
use halo_operator::config::RunArgs;
use halo_operator::effect::Log;
use halo_operator::runtime::crd_check::{self, CrdError};
use halo_operator::runtime::metrics::Metrics;
use halo_operator::runtime::operator::{Ended, Operator, Parts, StartError};
use halo_operator::settings::Pace;
use halo_telemetry::traces::TelemetryArgs;
use tokio::signal::unix::{SignalKind, signal};

/// Reconciles HaloTenants and HaloSubstrates: namespaces, keys, policies, pods, and nodes from EC2.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 ended as asked; 1 failed; 2 the command line cannot be read; \
3 the cluster's CustomResourceDefinitions are missing or older than this operator; 4 the lease was lost."
)]
struct Cli {
    #[command(flatten)]
    telemetry: TelemetryArgs,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGTERM or SIGINT
    Run(Box<RunArgs>),
    /// Print the CustomResourceDefinitions, for `kubectl apply --server-side -f -`
    Crds,
    /// Check that the cluster's CustomResourceDefinitions are not older than this operator
    CheckCrds,
}

/// The cluster's definitions are missing or too old.
const CRDS_OUTDATED: u8 = 3;
/// This process led and does not any more.
const LEASE_LOST: u8 = 4;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Traces that are left are sent when it is dropped.
    let _traces = match cli
        .telemetry
        .start("halo-operator", env!("CARGO_PKG_VERSION"))
    {
        Ok(traces) => traces,
        Err(error) => {
            eprintln!("halo-operator: {error}");
            return ExitCode::FAILURE;
        }
    };
    match act(cli.command) {
        Ok(code) => code,
        Err(error) => {
            let outdated = matches!(
                (
                    error.downcast_ref::<CrdError>(),
                    error.downcast_ref::<StartError>()
                ),
                (Some(CrdError::Outdated { .. }), _)
                    | (_, Some(StartError::Crds(CrdError::Outdated { .. })))
            );
            eprintln!("halo-operator: {error:#}");
            if outdated {
                ExitCode::from(CRDS_OUTDATED)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn act(command: Command) -> Result<ExitCode> {
    if let Command::Crds = command {
        return print_definitions();
    }
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the asynchronous runtime cannot start")?;
    runtime.block_on(async {
        match command {
            Command::Run(args) => run(&args).await,
            Command::CheckCrds => {
                let client = kube::Client::try_from(kube_config().await?)?;
                crd_check::check(client, Pace::default().api_timeout).await?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Crds => print_definitions(),
        }
    })
}

fn print_definitions() -> Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    for definition in halo_crds::all() {
        let yaml =
            halo_crds::yaml(&definition).context("a definition cannot be written as YAML")?;
        match write!(stdout, "---\n{yaml}") {
            // Who reads has read enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => break,
            written => written.context("cannot write to standard output")?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn kube_config() -> Result<kube::Config> {
    kube::Config::infer()
        .await
        .context("neither a service account nor a kubeconfig says where the API server is")
}

async fn run(args: &RunArgs) -> Result<ExitCode> {
    // Caught from here on, so that a signal during the start is not lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let random = getrandom::u32().context("the system gives no random bytes")?;
    let settings = args.settings(random)?;
    let metrics = Arc::new(Metrics::new().context("the figures cannot be set up")?);
    let session = AwsSession::new(args.aws(), metrics.clone())?;
    let parts = Parts {
        kube: kube_config().await?,
        settings,
        http: args.http(),
        cloud: Arc::new(AwsCloud::new(&session)),
        secrets: Arc::new(AwsSecrets::new(&session)),
        clock: Arc::new(ShiftedClock(args.clock_offset())),
        witness: Arc::new(Log),
        metrics,
    };
    let operator = tokio::select! {
        started = Operator::start(parts) => started?,
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
    };
    tracing::info!(http = %operator.http(), "started");
    let stop = operator.stop_token();
    let mut ended = std::pin::pin!(operator.join());
    let ended = tokio::select! {
        ended = &mut ended => ended,
        _ = async { tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () } } => {
            tracing::info!("asked to end: what has begun is finished");
            stop.cancel();
            ended.await
        }
    };
    match ended {
        Ended::Stopped => Ok(ExitCode::SUCCESS),
        Ended::LostLease(why) => {
            eprintln!("halo-operator: stopped at once: {why}");
            Ok(ExitCode::from(LEASE_LOST))
        }
        Ended::Failed(why) => anyhow::bail!("stopped: {why}"),
    }
}
