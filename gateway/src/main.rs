//! `halo-gateway`: reads flags and a configuration file, builds the parts, runs them, drains on SIGTERM.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use halo_gateway::certificate::Certificate;
use halo_gateway::cluster::{self, Cluster};
use halo_gateway::config::Config;
use halo_gateway::credential::Credential;
use halo_gateway::directory::Directory;
use halo_gateway::gateway::{Gateway, Parts};
use halo_gateway::keyring;
use halo_gateway::metrics::Metrics;
use halo_gateway::server;
use halo_gateway::system::shift_clock;
use halo_ledger::LedgerMetrics;
use halo_receipts::ids::{DeviceId, TenantId};
use halo_receipts::keyring::KeyRing;
use halo_receipts::keys::{KeyStore, OneRoot, RootKeys, TenantKeys as _};
use halo_telemetry::registry::Maker;
use halo_telemetry::traces::{self, TelemetryArgs};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// How long taking back this gateway's demand may take.
const LEAVE: Duration = Duration::from_secs(5);
/// How long tasks may take to let go of what they hold, once everything is done.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// The device's front door of HALO: opens sessions, verifies, holds, forwards to a substrate, records.
///
/// Exit codes: 0 done or drained, 1 something failed, 2 wrong usage, 3 drained, but some answers were cut off.
#[derive(Parser)]
#[command(name = "halo-gateway", version)]
struct Cli {
    #[command(flatten)]
    telemetry: TelemetryArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve devices until SIGTERM or SIGINT.
    ///
    /// With [[tenants]] in the configuration the keys come from a root secret on this machine. With a [cluster] table they come, as
    /// tenants and pods do, from the API server, and no root secret is given.
    ///
    /// Prints one line of JSON when it listens, {"event":"listening","addr","admin_addr"}, and one when it is done,
    /// {"event":"drained","whole"}.
    Serve {
        /// The configuration file.
        #[arg(long, env = "HALO_GATEWAY_CONFIG")]
        config: PathBuf,
        #[command(flatten)]
        root: GivenRoot,
        /// For tests: shift this program's clock by so many seconds.
        #[arg(
            long,
            env = "HALO_CLOCK_OFFSET_SECONDS",
            value_name = "N",
            default_value_t = 0,
            allow_hyphen_values = true
        )]
        clock_offset_seconds: i64,
    },
    /// Read a configuration file and say what is wrong with it, if anything.
    CheckConfig {
        /// The configuration file.
        #[arg(long, env = "HALO_GATEWAY_CONFIG")]
        config: PathBuf,
    },
    /// Print the credential of a device as JSON: {"tenant_id","device_id","device_generation","device_key"}.
    ///
    /// In a cluster nobody has the root secret; the tenant's Secret in the operator's namespace is enough:
    ///
    ///   kubectl -n halo-system get secret halo-keys-TENANT -o json | halo-gateway enroll --keyring - --tenant TENANT --device DEVICE
    #[command(verbatim_doc_comment)]
    Enroll {
        /// The tenant's published keys instead of a root secret: the Secret halo-keys-TENANT as JSON, or the keyring.json in it; `-`
        /// reads standard input.
        #[arg(
            long,
            value_name = "FILE",
            required_unless_present_any = ["root", "demo_root"],
            conflicts_with_all = ["root", "demo_root", "root_generation"]
        )]
        keyring: Option<PathBuf>,
        #[command(flatten)]
        root: GivenRoot,
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

/// The flags that name a root secret; in a cluster nobody has one.
#[derive(clap::Args)]
struct GivenRoot {
    /// The root secret: the exact bytes of this file, at least 32.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// A root secret for trying things out, made if it is missing. Sessions are stamped with it: under it, a receipt
    /// proves nothing.
    #[arg(long, value_name = "FILE", conflicts_with = "root")]
    demo_root: Option<PathBuf>,
    /// Which root secret this is, counted from 1.
    #[arg(long, value_name = "N", default_value_t = 1)]
    root_generation: u32,
}

impl GivenRoot {
    /// The keys under the root that the flags name, if they name one.
    fn given(&self) -> anyhow::Result<Option<RootKeys>> {
        Ok(match (&self.root, &self.demo_root) {
            (Some(file), _) => Some(halo_root_file::read(file, self.root_generation, false)?),
            (None, Some(file)) => Some(halo_root_file::demo(file, self.root_generation)?),
            (None, None) => None,
        })
    }

    /// The keys of a gateway that serves; none in a cluster.
    fn keys(&self, config: &Config) -> anyhow::Result<Option<RootKeys>> {
        let keys = self.given()?;
        match (&config.cluster, &keys) {
            (Some(_), Some(_)) => anyhow::bail!(
                "keys come from the cluster, whose table the configuration has: give no root secret"
            ),
            (None, None) => anyhow::bail!("give --root or --demo-root"),
            _ => Ok(keys),
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Traces that are left are sent when it is dropped.
    let _traces = match cli
        .telemetry
        .start("halo-gateway", env!("CARGO_PKG_VERSION"))
    {
        Ok(traces) => traces,
        Err(error) => {
            eprintln!("halo-gateway: {error}");
            return ExitCode::FAILURE;
        }
    };
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
            keyring,
            root,
            tenant,
            device,
            device_generation,
        } => {
            let key = match &keyring {
                Some(file) => published(file)?
                    .device_key(&tenant, &device, device_generation)
                    .context("these keys enrol no device of the tenant: take the Secret halo-keys-TENANT of the operator's namespace")?,
                None => root
                    .given()?
                    .context("give --keyring, --root or --demo-root")?
                    .device_key(&tenant, &device, device_generation)
                    .context("this root has no key for the tenant")?,
            };
            let credential = Credential::new(tenant, device, device_generation, &key);
            let json = Zeroizing::new(serde_json::to_string(&credential)?);
            writeln!(std::io::stdout(), "{}", json.as_str())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Serve {
            config,
            root,
            clock_offset_seconds,
        } => {
            let config = Config::load(&config)?;
            let keys = root.keys(&config)?;
            shift_clock(clock_offset_seconds);
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

/// The keyring in a file, or on standard input.
fn published(file: &Path) -> anyhow::Result<KeyRing> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(keyring::FILE_MAX));
    let most = u64::try_from(keyring::FILE_MAX)?;
    let (name, read) = match file.to_str() {
        Some("-") => {
            let read = std::io::stdin().lock().take(most).read_to_end(&mut bytes);
            ("standard input".to_owned(), read)
        }
        _ => {
            let opened = std::fs::File::open(file);
            let read = opened.and_then(|file| file.take(most).read_to_end(&mut bytes));
            (file.display().to_string(), read)
        }
    };
    read.with_context(|| format!("{name} cannot be read"))?;
    keyring::published(&bytes).with_context(|| format!("{name} holds no keys"))
}

/// Where keys and tenants come from.
struct Sources {
    keys: Arc<dyn KeyStore>,
    directory: Arc<dyn Directory>,
    cluster: Option<Arc<Cluster>>,
}

impl Sources {
    async fn open(
        config: &Config,
        name: &str,
        keys: Option<RootKeys>,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        if let Some(keys) = keys {
            metrics.directory_synced.set(1);
            return Ok(Self {
                keys: Arc::new(OneRoot::new(keys)),
                directory: Arc::new(config.directory()?),
                cluster: None,
            });
        }
        let table = config.cluster.clone().unwrap_or_default();
        let namespace = std::env::var("POD_NAMESPACE");
        let settings = table.settings(name, namespace.ok().as_deref())?;
        // Fails only if there is one already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let cluster = Cluster::start(cluster::kube_config().await?, settings, metrics)?;
        Ok(Self {
            keys: cluster.clone(),
            directory: cluster.clone(),
            cluster: Some(cluster),
        })
    }
}

/// How long receipts that wait in the local spill may take to the ledger at the end.
const SETTLE: Duration = Duration::from_secs(10);

/// Tells whoever started the program, in one line of JSON on standard output. That nobody reads it is no reason to stop.
fn report(event: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{event}").and_then(|()| out.flush());
}

async fn serve(config: Config, keys: Option<RootKeys>) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if keys.as_ref().is_some_and(|keys| keys.root().demo) {
        tracing::warn!("a demo root is in use: receipts prove nothing to anyone");
    }
    let metrics = Metrics::new(&Maker::new())?;
    traces::metrics(metrics.maker())?;
    let url = config.ledger_url()?;
    let options = halo_ledger::OpenOptions {
        spill: config.ledger_spill.clone(),
        metrics: Some(LedgerMetrics::new(metrics.maker())?),
    };
    let ledger = halo_ledger::open(&url, options).await;
    let ledger = ledger.with_context(|| format!("opening the ledger {url}"))?;
    let certificate = match &config.tls {
        Some(files) => Some(Certificate::open(&files.certificate, &files.key)?),
        None => {
            tracing::warn!("devices are served without TLS: something in front must terminate it");
            None
        }
    };
    let tls = certificate.clone().map(server::tls).transpose()?;
    let name = config.gateway_name(std::env::var("POD_NAME").ok().as_deref());
    let sources = Sources::open(&config, &name, keys, &metrics).await?;
    let gateway = Gateway::new(Parts {
        name: name.clone(),
        ledger,
        keys: sources.keys,
        directory: sources.directory,
        limits: config.limits.clone(),
        metrics,
    })?;
    if let Some(certificate) = certificate {
        tokio::spawn(server::renew(certificate, gateway.drain.clone()));
    }
    let devices = server::listen(config.listen).await?;
    let admin = server::listen(config.admin_listen).await?;
    let (address, admin_address) = (devices.local_addr()?, admin.local_addr()?);
    report(&serde_json::json!({
        "event": "listening",
        "addr": address.to_string(),
        "admin_addr": admin_address.to_string(),
    }));
    let tenants = match &sources.cluster {
        Some(_) => "from the cluster".to_owned(),
        None => config.tenants.len().to_string(),
    };
    tracing::info!(%address, %admin_address, ledger = %url, name, tenants, "listening");
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
    let leave = async {
        if let Some(cluster) = &sources.cluster
            && !cluster.leave(LEAVE).await
        {
            tracing::warn!(
                "this gateway's demand could not be taken back; other gateways remove it later"
            );
        }
    };
    let settle = async {
        let settled = tokio::time::timeout(SETTLE, gateway.ledger.settle()).await;
        if !matches!(settled, Ok(Ok(()))) {
            tracing::error!(
                "receipts are left in the spill: they go into the ledger when this program starts again with it"
            );
        }
    };
    tokio::join!(leave, settle);
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
