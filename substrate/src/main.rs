//! The pod's program: flags in, a server out, drained on SIGTERM.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::Parser;
use halo_ledger::{Ledger, LedgerMetrics, LedgerUrl};
use halo_receipts::ids::{Hash, TenantId};
use halo_receipts::keys::{OneRoot, TenantKeys as _};
use halo_receipts::payload::ModelIdentity;
use halo_root_file::RootArgs;
use halo_substrate::http;
use halo_substrate::keys::{FileKeys, PodKeys};
use halo_substrate::metrics::Metrics;
use halo_substrate::model::choose::{ModelDigest, choose};
use halo_substrate::model::{self, Model, Options};
use halo_substrate::pod::{Limits, Phase, Pod, PromptForm, Ready, shift_clock};
use halo_substrate::session::Served;
use halo_substrate::threads;
use halo_telemetry::traces::{self, TelemetryArgs};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long tasks may take to let go of what they hold, once everything is done.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// How long receipts may take to reach the ledger after the last answer was broken off.
const SEAL_LIMIT: Duration = Duration::from_secs(15);

/// How long receipts may take from the spill to the ledger after that.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// Answers one tenant's requests with a model of its own, and signs a receipt for every expert and token.
///
/// Writes one JSON line to stdout when it listens and one when the model is loaded; logs go to stderr (RUST_LOG chooses
/// which). SIGTERM or SIGINT drains: running answers finish, or are broken off after --drain-seconds, and are sealed; a
/// second signal breaks them off at once.
#[derive(Parser)]
#[command(
    name = "halo-substrate",
    version,
    mut_arg("root", |arg| arg.required_unless_present("keys")),
    after_help = "Exit codes: 0 drained after a signal; 1 the model, the keys, the ledger or the address cannot be used, \
                  or receipts could not be written in time; 2 wrong flags."
)]
struct Flags {
    /// A Hugging Face folder of a Qwen3-MoE model, a GGUF file, or a folder of GGUF files.
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// Which GGUF file of the folder: the one that carries this in its name, such as Q8_0.
    #[arg(long, value_name = "NAME")]
    quantisation: Option<String>,
    /// The digest that the model must have, as receipts carry it; with another one the pod does not become ready.
    #[arg(long, value_name = "sha256:HEX")]
    model_digest: Option<ModelDigest>,
    /// The tokenizer.json, if it is not in the model's folder or beside the GGUF file.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// The model's name in receipts; by default the name in the GGUF file, or the folder's.
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// The one tenant that is served.
    #[arg(long)]
    tenant: TenantId,
    /// Where receipts go, such as sqlite:/var/lib/halo/ledger.db or dynamodb:howdify-receipts@us-east-2.
    #[arg(long, value_name = "sqlite:PATH|dynamodb:TABLE@REGION")]
    ledger: LedgerUrl,
    /// Where receipts wait while DynamoDB is away: a file, or a folder on a local disk.
    #[arg(long, value_name = "PATH")]
    ledger_spill: Option<PathBuf>,
    /// The tenant's published keys instead of a root secret: a keyring, read again when the file changes.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["root", "demo_root", "root_generation"])]
    keys: Option<PathBuf>,
    #[command(flatten)]
    root: RootArgs,
    /// Threads for the arithmetic; by default as many as the container grants.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Answers computed at once.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    max_active: u16,
    /// Requests that may wait besides; more are refused with a time to come back.
    #[arg(long, value_name = "N", default_value_t = 32)]
    max_queued: u16,
    /// Tokens that a prompt and its answer may have together, at most the model's own limit.
    #[arg(long, value_name = "TOKENS")]
    max_context: Option<usize>,
    /// Feed prompts as they are, without the model's chat template.
    #[arg(long)]
    raw_prompt: bool,
    /// Let a reasoning model think aloud before it answers. Without it the model is asked to answer at once, as a person
    /// is waiting.
    #[arg(long, conflicts_with = "raw_prompt")]
    thinking: bool,
    /// How long running answers may go on after SIGTERM before they are broken off. Grant the process 55 s more.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_seconds: u32,
    /// How this pod names itself in the ledger's claims.
    #[arg(
        long,
        value_name = "NAME",
        env = "HOSTNAME",
        default_value = "substrate"
    )]
    pod_name: String,
    /// For tests: shift this program's clock by so many seconds.
    #[arg(
        long,
        env = "HALO_CLOCK_OFFSET_SECONDS",
        value_name = "SECONDS",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    clock_offset_seconds: i64,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let granted = flags.threads.map_or_else(threads::available, usize::from);
    // Before anything else runs: the program may start again here.
    let bounded = threads::bound(granted);
    shift_clock(flags.clock_offset_seconds);
    let traces = flags
        .telemetry
        .start("halo-substrate", env!("CARGO_PKG_VERSION"));
    // Sends what is left when it is dropped.
    let _traces = match traces {
        Ok(traces) => traces,
        Err(error) => {
            eprintln!("halo-substrate: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = bounded {
        tracing::warn!(%error, "the number of threads could not be bounded");
    }
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(granted.clamp(1, 4))
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| {
            let outcome = runtime.block_on(run(flags, granted));
            // The ledger's file is closed, with nothing left beside it. A model that is still being loaded is not waited
            // for any longer.
            runtime.shutdown_timeout(SHUTDOWN);
            outcome
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = format!("{error:#}");
            tracing::error!("{message}");
            report(&serde_json::json!({"event": "error", "message": message}));
            ExitCode::FAILURE
        }
    }
}

/// Writes a line for whoever started the program. That nobody reads it is no reason to stop.
fn report(line: &serde_json::Value) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

async fn run(flags: Flags, threads: usize) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let keys = pod_keys(&flags)?;
    let metrics = Metrics::new().context("cannot register metrics")?;
    traces::metrics(metrics.maker()).context("cannot register metrics")?;
    let counted = LedgerMetrics::new(metrics.maker()).context("cannot register metrics")?;
    let ledger_options = halo_ledger::OpenOptions {
        spill: flags.ledger_spill.clone(),
        metrics: Some(counted),
    };
    let ledger = halo_ledger::open(&flags.ledger, ledger_options).await;
    let ledger = ledger.context("cannot open the ledger")?;
    let pod = Arc::new(Pod::new(
        flags.tenant.clone(),
        keys,
        Arc::clone(&ledger),
        metrics.clone(),
        flags.pod_name.clone(),
    ));
    let listener = TcpListener::bind(flags.listen)
        .await
        .with_context(|| format!("cannot listen on {}", flags.listen))?;
    let address = listener.local_addr().context("cannot tell the address")?;
    report(&serde_json::json!({"event": "listening", "addr": address.to_string()}));
    tracing::info!(%address, tenant = %flags.tenant, "listening");
    let stop = CancellationToken::new();
    let server = tokio::spawn(http::serve(
        listener,
        http::router(Arc::clone(&pod)),
        stop.clone(),
    ));

    let drain = Duration::from_secs(flags.drain_seconds.into());
    let begin = Instant::now();
    let (path, options) = (flags.model.clone(), options(&flags, threads));
    let (quantisation, digest) = (flags.quantisation.clone(), flags.model_digest);
    let loading = tokio::task::spawn_blocking(move || {
        let path = choose(&path, quantisation.as_deref())?;
        let model = model::open(&path, &options)?;
        check_digest(&path, &model, digest)?;
        Ok::<_, anyhow::Error>((model, build_digest()?))
    });
    let (model, build) = tokio::select! {
        loaded = loading => loaded.context("loading the model panicked")??,
        () = signals.next() => {
            tracing::info!("stopped while the model was being loaded");
            return Ok(());
        }
    };
    let seconds = begin.elapsed().as_secs_f64();
    metrics.load_seconds.set(seconds);
    let served = served(&model, &flags, build);
    announce(&model, &served, seconds);
    let limits = Limits {
        max_active: flags.max_active.into(),
        queue_max: flags.max_queued.into(),
    };
    let form = match flags.raw_prompt {
        true => PromptForm::Raw,
        false => PromptForm::Chat {
            thinking: flags.thinking,
        },
    };
    let ready = Ready::start(model, served, form, limits, metrics);
    pod.set_ready(ready.context("cannot start the threads that answer")?);

    signals.next().await;
    let sealed = drain_pod(&pod, &mut signals, drain).await;
    let settled = settle(&*ledger).await;
    stop.cancel();
    let _ = server.await;
    if !sealed {
        return Err(anyhow!(
            "answers were broken off and could not be sealed within {} s",
            SEAL_LIMIT.as_secs()
        ));
    }
    settled?;
    tracing::info!("drained");
    Ok(())
}

/// The tenant's keys: published ones, which are looked at again and again, or all of them, under a root.
fn pod_keys(flags: &Flags) -> anyhow::Result<PodKeys> {
    let Some(file) = &flags.keys else {
        let keys = flags.root.keys()?;
        if keys.root().demo {
            tracing::warn!("running on a demo root: receipts prove nothing to anyone");
        }
        return Ok(PodKeys::Root(OneRoot::new(keys)));
    };
    let keys = Arc::new(FileKeys::open(file, &flags.tenant)?);
    tracing::info!(keys = ?keys.held_names(), "the keyring is read");
    keys.watch();
    Ok(PodKeys::File(keys))
}

/// Refuses a model that is not the one that was asked for.
fn check_digest(path: &Path, model: &Model, expected: Option<ModelDigest>) -> anyhow::Result<()> {
    let found = ModelDigest(Hash(model.engine.info().weights_digest));
    match expected.filter(|expected| *expected != found) {
        Some(expected) => Err(anyhow!(
            "{}: the model's digest is {found}, and --model-digest asks for {expected}",
            path.display()
        )),
        None => Ok(()),
    }
}

/// Waits for receipts that were acknowledged from the spill to reach the ledger itself.
async fn settle(ledger: &dyn Ledger) -> anyhow::Result<()> {
    match tokio::time::timeout(SETTLE_LIMIT, ledger.settle()).await {
        Ok(settled) => settled.context("receipts are left in the spill"),
        Err(_) => Err(anyhow!(
            "receipts are left in the spill: the ledger took none for {} s; they go on their way when this program starts again with it",
            SETTLE_LIMIT.as_secs()
        )),
    }
}

/// Lets running answers finish, then breaks them off; `true`: nothing is left that is not in the ledger.
async fn drain_pod(pod: &Pod, signals: &mut Signals, limit: Duration) -> bool {
    tracing::info!(
        links = pod.links.len(),
        seconds = limit.as_secs(),
        "draining"
    );
    pod.enter(Phase::Draining);
    pod.links.close();
    tokio::select! {
        () = pod.links.wait() => return true,
        () = tokio::time::sleep(limit) => tracing::warn!("breaking off what is still running"),
        () = signals.next() => tracing::warn!("asked again: breaking off what is still running"),
    }
    pod.enter(Phase::Interrupting);
    tokio::time::timeout(SEAL_LIMIT, pod.links.wait())
        .await
        .is_ok()
}

fn options(flags: &Flags, threads: usize) -> Options {
    Options {
        tokenizer: flags.tokenizer.clone(),
        context_limit: flags.max_context,
        threads,
        ..Options::default()
    }
}

fn served(model: &Model, flags: &Flags, build_sha256: Hash) -> Served {
    let info = model.engine.info();
    Served {
        identity: ModelIdentity {
            name: flags
                .model_name
                .clone()
                .unwrap_or_else(|| info.name.clone()),
            weights_sha256: Hash(info.weights_digest),
            build_sha256,
        },
        context_limit: info.context_limit,
    }
}

fn announce(model: &Model, served: &Served, seconds: f64) {
    let info = model.engine.info();
    report(&serde_json::json!({
        "event": "loaded",
        "seconds": (seconds * 1000.0).round() / 1000.0,
        "model": served.identity.name,
        "format": info.format,
        "parameters": info.parameters,
        "context": info.context_limit,
        "weights_sha256": served.identity.weights_sha256,
        "build_sha256": served.identity.build_sha256,
    }));
    tracing::info!(model = %served.identity.name, seconds, "the model is loaded");
}

/// SHA-256 of the program that runs, even if its file was replaced since.
fn build_digest() -> anyhow::Result<Hash> {
    let own = PathBuf::from("/proc/self/exe");
    let path = if own.exists() {
        own
    } else {
        std::env::current_exe()?
    };
    let mut file = std::fs::File::open(path).context("cannot read this program's own file")?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file
            .read(&mut buffer)
            .context("cannot read this program's own file")?
        {
            0 => return Ok(Hash(hasher.finalize().into())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
