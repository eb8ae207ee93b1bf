//! `halo-tier1`: the phone as a program.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use halo_emulators::edge::clock;
use halo_emulators::edge::logs::{self, LogFormat};
use halo_emulators::edge::secret_file::{
    create_pairing_key, read_credential, read_credentials, read_pairing_key,
};
use halo_emulators::tier1::classifier::{Classifier, HttpClassifier, Rules};
use halo_emulators::tier1::client::{Gateway, classifier_uri};
use halo_emulators::tier1::load::{self, Plan};
use halo_emulators::tier1::local::Facts;
use halo_emulators::tier1::machine::{ATTEMPTS_MAX, Config};
use halo_emulators::tier1::report::Report;
use halo_emulators::tier1::serve::{self, Options, Said};
use halo_emulators::tier1::transcribe::{Deaf, Fixed, Script, Transcriber};
use halo_receipts::documents::Sampling;
use tokio::signal::unix::{SignalKind, signal};

/// Be the phone: check what the glasses capture, answer what can be answered here, ask the tenant's substrate for the
/// rest, and put all of it on record.
///
/// Exit codes: 0 finished; 1 something failed, or a question of `load` had no outcome that its device was told; 2 wrong usage.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// How logs on standard error look.
    #[arg(long, value_enum, default_value_t, global = true)]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Connect glasses and gateway.
    Serve(Box<ServeArguments>),
    /// Be many phones with their glasses at once, and ask again and again: one JSON line for every session, connection and question.
    ///
    /// A line `ask` on standard input makes every device ask once more, `ask DEVICE` one of them, `end` ends. A question's line says
    /// its `outcome` (answered, refused, interrupted, failed), whether the device was told (`reported`), and when, in milliseconds
    /// since it was asked: first notices, first token, end, seal in the ledger.
    Load(Box<LoadArguments>),
    /// Make the key that glasses and phone share: 32 random bytes, readable by their owner alone.
    Pair {
        /// Where it goes; a file that is there is not overwritten.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Args)]
struct ServeArguments {
    /// The gateway.
    #[arg(long, value_name = "https://HOST:PORT")]
    gateway: String,
    /// PEM certificates that the gateway's is signed by.
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// What `halo-gateway enroll` printed for this device.
    #[arg(long, value_name = "FILE")]
    credential: PathBuf,
    /// The key that glasses and phone share, from `halo-tier1 pair`.
    #[arg(long, value_name = "FILE")]
    pairing_key: PathBuf,
    /// Where the glasses connect; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// What is said in every utterance.
    #[arg(long, value_name = "TEXT", conflicts_with = "transcript_file")]
    transcript: Option<String>,
    /// What is said, one line for each capture of sound.
    #[arg(long, value_name = "FILE")]
    transcript_file: Option<PathBuf>,
    /// What is asked when a capture holds no words, such as a picture or a tap.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// The most tokens of an answer.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Sampling temperature in thousandths; 0 takes the likeliest token.
    #[arg(long, default_value_t = 0)]
    temperature_milli: u32,
    /// Nucleus probability in thousandths; 0 leaves all tokens in.
    #[arg(long, default_value_t = 0)]
    top_p_milli: u32,
    /// How many of the likeliest tokens stay in; 0 leaves all in.
    #[arg(long, default_value_t = 0)]
    top_k: u32,
    /// Seed of the choice.
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Who decides what is answered here: `rules`, or a classifier beside the phone.
    #[arg(
        long,
        value_name = "rules|http://HOST:PORT/PATH",
        default_value = "rules"
    )]
    classifier: String,
    /// How long an HTTP classifier may take before the rules decide.
    #[arg(long, value_name = "MS", default_value_t = 300)]
    classifier_timeout_ms: u64,
    /// The silence after which an utterance is complete.
    #[arg(long, value_name = "MS", default_value_t = 600)]
    utterance_gap_ms: u32,
    /// The phone's charge, for whoever asks; read from the system if left out.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    battery: Option<u8>,
    /// The executive briefing: read out here, and never sent anywhere.
    #[arg(long, value_name = "FILE")]
    briefing: Option<PathBuf>,
    /// Finish once a session is sealed and nothing is under way.
    #[arg(long)]
    once: bool,
    /// Write the session's id here as soon as it is known.
    #[arg(long, value_name = "FILE")]
    session_out: Option<PathBuf>,
    /// Print one JSON event a line; `at_ms` is when, in milliseconds since 1970.
    #[arg(long)]
    json: bool,
    /// For tests: shift this program's clock by so many seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "HALO_CLOCK_OFFSET_SECONDS",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    clock_offset_seconds: i64,
}

#[derive(Args)]
struct LoadArguments {
    /// The gateway.
    #[arg(long, value_name = "https://HOST:PORT")]
    gateway: String,
    /// PEM certificates that the gateway's is signed by.
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// What `halo-gateway enroll` printed for the devices, one after the other.
    #[arg(long, value_name = "FILE")]
    credentials: PathBuf,
    /// Take so many of the devices, from the first; by default all.
    #[arg(long, value_name = "N")]
    devices: Option<usize>,
    /// Questions of each device; 0 opens the socket and asks when told to.
    #[arg(long, value_name = "N", default_value_t = 1)]
    questions: u32,
    /// Begin a question so long after the one before began, or as soon as that one is over.
    #[arg(long, value_name = "MS", conflicts_with = "pause")]
    every: Option<u64>,
    /// Begin a question so long after the one before was over.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pause: u64,
    /// Start a device so long after the one before.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    ramp: u64,
    /// What is asked.
    #[arg(long, default_value = "What is sovereign inference, in one sentence?")]
    prompt: String,
    /// The most tokens of an answer.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// How often a request may be put off or resumed before that is its outcome.
    #[arg(long, value_name = "N", default_value_t = ATTEMPTS_MAX)]
    attempts: u32,
    /// Give a device up whose question has no outcome for so long.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    time_limit_seconds: u64,
    /// Keep the sockets open when every question has its outcome, until `end` or a signal.
    #[arg(long)]
    hold_open: bool,
    /// For tests: shift this program's clock by so many seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "HALO_CLOCK_OFFSET_SECONDS",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    clock_offset_seconds: i64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logs::start(arguments.log_format);
    let done = match arguments.command {
        Command::Pair { out } => create_pairing_key(&out).map_err(anyhow::Error::from),
        Command::Serve(serve) => run(*serve),
        Command::Load(load) => run_load(*load),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("halo-tier1: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: ServeArguments) -> anyhow::Result<()> {
    let json = arguments.json;
    let options = options(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let end = async move {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        };
        let mut broken = None;
        let served = serve::serve(
            options,
            |said| {
                let printed = if json {
                    print_json(&said)
                } else {
                    print_text(&said)
                };
                broken = broken.take().or(printed.err());
            },
            end,
        )
        .await;
        served?;
        broken.map_or(Ok(()), |error| Err(error).context("standard output"))
    })
}

fn run_load(arguments: LoadArguments) -> anyhow::Result<()> {
    let mut credentials = read_credentials(&arguments.credentials)?;
    let (found, wanted) = (credentials.len(), arguments.devices);
    anyhow::ensure!(
        found > 0 && wanted.is_none_or(|wanted| (1..=found).contains(&wanted)),
        "{} holds {found} credentials",
        arguments.credentials.display()
    );
    credentials.truncate(wanted.unwrap_or(found));
    let plan = Plan {
        gateway: Gateway::new(&arguments.gateway, &arguments.ca)?,
        questions: arguments.questions,
        every: arguments.every.map(Duration::from_millis),
        pause: Duration::from_millis(arguments.pause),
        ramp: Duration::from_millis(arguments.ramp),
        prompt: arguments.prompt,
        max_tokens: arguments.max_tokens,
        attempts: arguments.attempts,
        time_limit: Duration::from_secs(arguments.time_limit_seconds),
        hold_open: arguments.hold_open,
        clock_offset: arguments.clock_offset_seconds,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut broken = None;
    let totals = runtime.block_on(async {
        let (commands, told) = tokio::sync::mpsc::unbounded_channel();
        let mut terminate = signal(SignalKind::terminate())?;
        let by_signal = commands.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            let _ = by_signal.send(load::Command::End);
        });
        // Its own thread: nothing else waits for a line, and the process ends without one.
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                match line.parse() {
                    Ok(command) => {
                        if commands.send(command).is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::warn!("{error}"),
                }
            }
        });
        let totals = load::load(plan, credentials, told, |line| {
            let written = writeln!(std::io::stdout().lock(), "{line}");
            broken = broken.take().or(written.err());
        })
        .await;
        Ok::<_, std::io::Error>(totals)
    })?;
    if let Some(error) = broken {
        return Err(error).context("standard output");
    }
    anyhow::ensure!(
        totals.all_told(),
        "a question had no outcome that its device was told"
    );
    Ok(())
}

fn options(arguments: ServeArguments) -> anyhow::Result<Options> {
    let text =
        |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
    let transcriber: Box<dyn Transcriber> = match (arguments.transcript, &arguments.transcript_file)
    {
        (Some(text), _) => Box::new(Fixed(text)),
        (None, Some(path)) => Box::new(Script::new(&text(path)?)),
        (None, None) => Box::new(Deaf),
    };
    let classifier: Arc<dyn Classifier> = match arguments.classifier.as_str() {
        "rules" => Arc::new(Rules),
        uri => Arc::new(HttpClassifier {
            uri: classifier_uri(uri)?,
            time_limit: Duration::from_millis(arguments.classifier_timeout_ms),
        }),
    };
    let credential = read_credential(&arguments.credential)?;
    let config = Config {
        tenant: credential.tenant,
        device: credential.device,
        generation: credential.generation,
        key: credential.key,
        pairing: read_pairing_key(&arguments.pairing_key)?,
        max_tokens: arguments.max_tokens,
        sampling: Sampling {
            temperature_milli: arguments.temperature_milli,
            top_p_milli: arguments.top_p_milli,
            top_k: arguments.top_k,
            seed: arguments.seed,
        },
        utterance_gap_ms: arguments.utterance_gap_ms,
        attempts_max: ATTEMPTS_MAX,
        facts: Facts {
            battery: arguments.battery.or_else(system_battery),
            briefing: arguments.briefing.as_deref().map(text).transpose()?,
            ..Facts::default()
        },
    };
    Ok(Options {
        config,
        gateway: Gateway::new(&arguments.gateway, &arguments.ca)?,
        listen: arguments.listen,
        transcriber,
        prompt: arguments.prompt,
        classifier,
        once: arguments.once,
        session_out: arguments.session_out,
        clock_offset: arguments.clock_offset_seconds,
    })
}

/// The charge that Linux reports for the first battery, if there is one.
fn system_battery() -> Option<u8> {
    let supplies = std::fs::read_dir("/sys/class/power_supply").ok()?;
    let mut levels = supplies.flatten().filter_map(|supply| {
        let level = std::fs::read_to_string(supply.path().join("capacity")).ok()?;
        level.trim().parse().ok()
    });
    levels.next()
}

fn print_json(said: &Said<'_>) -> std::io::Result<()> {
    let mut line = match said {
        Said::Listening(address) => serde_json::json!({"event": "listening", "addr": address}),
        Said::Report(report) => serde_json::to_value(report).map_err(std::io::Error::other)?,
    };
    line["at_ms"] = clock::wall_ms().into();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
}

/// What a person at the phone sees.
fn print_text(said: &Said<'_>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match said {
        Said::Listening(address) => writeln!(out, "listening for the glasses on ws://{address}"),
        Said::Report(Report::SessionOpened {
            session_id,
            demo_root,
            ..
        }) => {
            let demo = if *demo_root {
                " (demo root: its receipts prove nothing)"
            } else {
                ""
            };
            writeln!(out, "session {session_id}{demo}")
        }
        Said::Report(Report::CaptureVerified {
            kind,
            bytes,
            frames,
            ..
        }) => {
            writeln!(out, "captured: {kind}, {bytes} bytes in {frames} frames")
        }
        Said::Report(Report::Routed {
            reason, classifier, ..
        }) => writeln!(out, "decided by {classifier}: {reason}"),
        Said::Report(Report::Notice { state, eta_ms, .. }) => {
            writeln!(
                out,
                "the substrate is {state:?}, about {} s",
                eta_ms.div_ceil(1000)
            )
        }
        Said::Report(Report::Token { text, .. }) => write!(out, "{text}"),
        Said::Report(Report::Answer {
            tokens,
            seconds,
            tok_per_s,
            ..
        }) => {
            writeln!(out, "\n{tokens} tokens in {seconds} s, {tok_per_s} tok/s")
        }
        Said::Report(Report::LocalAnswer { text }) => writeln!(out, "{text}"),
        Said::Report(Report::Sealed { receipts, root, .. }) => {
            writeln!(out, "sealed: {receipts} receipts, root {root}")
        }
        Said::Report(Report::ChainBroken {
            reason, first_bad, ..
        }) => {
            writeln!(out, "THE CHAIN BROKE: frame {first_bad} ({reason})")
        }
        Said::Report(Report::Relinked { session_epoch, .. }) => {
            writeln!(
                out,
                "the break is on record; the glasses begin again in epoch {session_epoch}"
            )
        }
        Said::Report(Report::Retry { cause, retry_ms }) => {
            writeln!(out, "{cause}; again in {retry_ms} ms")
        }
        Said::Report(Report::Ignored { message } | Report::Error { message, .. }) => {
            writeln!(out, "{message}")
        }
        Said::Report(Report::PutOff { code, retry_ms, .. }) => {
            writeln!(out, "put off: {}; again in {retry_ms} ms", code.name())
        }
        Said::Report(
            Report::EpochOpened { .. } | Report::Asked { .. } | Report::Unanswered { .. },
        ) => Ok(()),
    }?;
    out.flush()
}
