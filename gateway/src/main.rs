//! `halo-gateway`: reads flags and a configuration file, builds the parts, runs them, drains on SIGTERM.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use halo_gateway::config::Config;
use halo_gateway::credential::Credential;
use halo_gateway::gateway::{Gateway, Parts};
use halo_gateway::metrics::Metrics;
use halo_gateway::server;
use halo_receipts::ids::{DeviceId, TenantId};
use halo_receipts::keys::{OneRoot, RootKeys, TenantKeys as _};
use halo_root_file::RootArgs;
use halo_telemetry::registry::Maker;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// How long tasks may take to let go of what they hold, once everything is done.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// The device's front door of HALO: opens sessions, verifies, holds, forwards to a substrate, records.
///
/// Exit codes: 0 done or drained, 1 something failed, 2 wrong usage, 3 drained, but some answers were cut off.
#[derive(Parser)]
#[command(name = "halo-gateway", version)]
struct Cli {
    /// How to write the log, on standard error. Its level is set by RUST_LOG, `info` if that is missing.
    #[arg(long, value_enum, default_value = "text", global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Serve devices until SIGTERM or SIGINT.
    ///
    /// Prints one line of JSON when it listens, {"event":"listening","addr","admin_addr"}, and one when it is done,
    /// {"event":"drained","whole"}.
    Serve {
        /// The configuration file.
        #[arg(long, env = "HALO_GATEWAY_CONFIG")]
        config: PathBuf,
        #[command(flatten)]
        root: RootArgs,
    },
    /// Read a configuration file and say what is wrong with it, if anything.
    CheckConfig {
        /// The configuration file.
        #[arg(long, env = "HALO_GATEWAY_CONFIG")]
        config: PathBuf,
    },
    /// Print the credential of a device as JSON: {"tenant_id","device_id","device_generation","device_key"}.
    Enroll {
        #[command(flatten)]
        root: RootArgs,
        /// The tenant.
        #[arg(long)]
        tenant: TenantId,
        /// The device.
        #[arg(long)]
        device: DeviceId,
        /// Which of the device's keys; a higher one replaces a key that got lost.
        #[arg(long, default_value_t = 1)]
        device_generation: u32,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter);
    match cli.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::CheckConfig { config } => {
            Config::load(&config)?;
            writeln!(std::io::stdout(), "{}: good", config.display())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Enroll {
            root,
            tenant,
            device,
            device_generation,
        } => {
            let keys = root.keys()?;
            let key = keys
                .device_key(&tenant, &device, device_generation)
                .context("this root has no key for the tenant")?;
            let credential = Credential::new(tenant, device, device_generation, &key);
            let json = zeroize::Zeroizing::new(serde_json::to_string(&credential)?);
            writeln!(std::io::stdout(), "{}", json.as_str())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Serve { config, root } => {
            let config = Config::load(&config)?;
            let keys = root.keys()?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?;
            let code = runtime.block_on(serve(config, keys));
            // What is left after the drain has had its time; but the ledger's file is closed, with nothing left beside it.
            runtime.shutdown_timeout(SHUTDOWN);
            code
        }
    }
}

/// Tells whoever started the program, in one line of JSON on standard output. That nobody reads it is no reason to stop.
fn report(event: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{event}").and_then(|()| out.flush());
}

async fn serve(config: Config, keys: RootKeys) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if keys.root().demo {
        tracing::warn!("a demo root is in use: receipts prove nothing to anyone");
    }
    let metrics = Metrics::new(&Maker::new())?;
    let url = config.ledger_url()?;
    let options = halo_ledger::OpenOptions {
        spill: config.ledger_spill.clone(),
        ..Default::default()
    };
    let ledger = halo_ledger::open(&url, options).await;
    let ledger = ledger.with_context(|| format!("opening the ledger {url}"))?;
    let tls = match &config.tls {
        Some(files) => Some(server::tls_from_files(&files.certificate, &files.key)?),
        None => {
            tracing::warn!("devices are served without TLS: something in front must terminate it");
            None
        }
    };
    let gateway = Gateway::new(Parts {
        name: config.name.clone(),
        ledger,
        keys: Arc::new(OneRoot::new(keys)),
        directory: Arc::new(config.directory()?),
        limits: config.limits.clone(),
        metrics,
    })?;
    let devices = server::listen(config.listen).await?;
    let admin = server::listen(config.admin_listen).await?;
    let (address, admin_address) = (devices.local_addr()?, admin.local_addr()?);
    report(&serde_json::json!({
        "event": "listening",
        "addr": address.to_string(),
        "admin_addr": admin_address.to_string(),
    }));
    let tenants = config.tenants.len();
    tracing::info!(%address, %admin_address, ledger = %url, tenants, "listening");
    let stop = CancellationToken::new();
    let admin = tokio::spawn(server::serve_admin(
        Arc::clone(&gateway),
        admin,
        stop.clone(),
    ));
    let devices = tokio::spawn(server::serve_devices(Arc::clone(&gateway), devices, tls));
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
    }
    let whole = server::drain(&gateway).await;
    stop.cancel();
    devices.await?;
    admin.await?;
    report(&serde_json::json!({"event": "drained", "whole": whole}));
    if whole {
        tracing::info!("drained");
        Ok(ExitCode::SUCCESS)
    } else {
        tracing::warn!("some answers were cut off");
        Ok(ExitCode::from(3))
    }
}
