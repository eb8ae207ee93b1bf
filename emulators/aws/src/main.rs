//! `halo-aws-emulator`: the emulator as a program.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use halo_aws_emulator::edge::logs::{self, LogFormat};
use halo_aws_emulator::faults::Schedule;
use halo_aws_emulator::{Boot, Config, Credentials, Emulator, Rules};
use tokio::signal::unix::{SignalKind, signal};

/// Be EC2 and SSM, on loopback and unkind: client tokens, eventual consistency, capacity, limits, faults.
///
/// Prints one JSON line when it listens: {"event":"listening","addr":...,"admin":...}. Give the SDK that address as its endpoint,
/// any credentials, and the region us-east-2.
///
/// The default account has the zones us-east-2a, b and c with the subnets subnet-0000000000000000a, ...b and ...c, the security
/// groups sg-00000000000000001 (halo-nodes) and sg-00000000000000002 (default), the snapshot snap-00000000000000001 (100 GiB),
/// and EKS images for Kubernetes 1.31 to 1.35 under /aws/service/eks/optimized-ami/. `--print-rules` shows all of it.
///
/// Admin endpoint, JSON: GET /_halo/{health,state,calls?after=N,faults}; POST /_halo/{faults,capacity,deny,timings,limits,
/// rate-limits,parameters,reset}, /_halo/instances/ID/{terminate,stop}, /_halo/tags/ID; DELETE /_halo/{faults,parameters}.
///
/// Exit codes: 0 ended by a signal; 1 something failed; 2 wrong usage.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Listen on an address that other machines may reach, too. Whoever reaches it may do anything here.
    #[arg(long)]
    not_only_loopback: bool,
    /// Keep the state here, over restarts.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Catalogue, delays, limits, as JSON; what is left out is as in `--print-rules`.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Print the default rules and exit.
    #[arg(long)]
    print_rules: bool,
    /// Faults that wait from the beginning: {"faults":[{"action":"RunInstances","after":1,"do":{"kind":"cut","when":"after"}}]}.
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// A shell command that an instance is: started when it runs, ended with its process group when it stops. It finds
    /// INSTANCE_ID, INSTANCE_TYPE, ZONE, PRIVATE_IP, PRIVATE_DNS_NAME, USER_DATA (a file), TAGS (JSON) and ATTEMPT in its
    /// environment.
    #[arg(long, value_name = "COMMAND")]
    boot: Option<String>,
    /// Where instances have their folders with user data and logs; a temporary one if left out. It is one emulator's at a time:
    /// what a killed one left running there is ended at the start.
    #[arg(long, value_name = "FOLDER", requires = "boot")]
    boot_folder: Option<PathBuf>,
    /// How long a boot command has between SIGTERM and SIGKILL.
    #[arg(long, value_name = "MS", default_value_t = 10_000, requires = "boot")]
    boot_grace_ms: u64,
    /// Accept only requests signed by this key pair.
    #[arg(
        long,
        value_name = "ID:SECRET",
        env = "HALO_AWS_EMULATOR_CREDENTIALS",
        hide_env_values = true
    )]
    credentials: Option<String>,
    /// Where ids come from; random if left out.
    #[arg(long)]
    seed: Option<u64>,
    /// How logs on standard error look.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.print_rules {
        let rules = serde_json::to_string_pretty(&Rules::default())?;
        writeln!(std::io::stdout(), "{rules}")?;
        return Ok(());
    }
    logs::start(arguments.log_format);
    // Before the first instance is booted, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Holds the folder for as long as instances may write into it.
    let mut temporary = None;
    let config = config(arguments, &mut temporary)?;
    let emulator = Emulator::start(config)?;
    let event = serde_json::json!({
        "event": "listening",
        "addr": emulator.address().to_string(),
        "admin": format!("{}/_halo", emulator.url()),
    });
    writeln!(std::io::stdout(), "{event}")?;
    std::io::stdout().flush()?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    emulator.stop().await;
    Ok(())
}

fn config(
    arguments: Arguments,
    temporary: &mut Option<tempfile::TempDir>,
) -> anyhow::Result<Config> {
    if !arguments.listen.ip().is_loopback() && !arguments.not_only_loopback {
        anyhow::bail!(
            "{} is not a loopback address; add --not-only-loopback if that is meant",
            arguments.listen
        );
    }
    let rules = match &arguments.rules {
        Some(path) => read_json(path)?,
        None => Rules::default(),
    };
    let faults = match &arguments.faults {
        Some(path) => read_json::<Schedule>(path)?.faults,
        None => Vec::new(),
    };
    let boot = match arguments.boot {
        None => Boot::Nothing,
        Some(command) => Boot::Command {
            argv: vec!["/bin/sh".into(), "-c".into(), command.into()],
            folder: match arguments.boot_folder {
                Some(folder) => folder,
                None => {
                    let folder = tempfile::Builder::new().prefix("halo-aws-").tempdir()?;
                    temporary.insert(folder).path().to_owned()
                }
            },
            grace: Duration::from_millis(arguments.boot_grace_ms),
        },
    };
    let credentials = match arguments.credentials {
        None => None,
        Some(pair) => {
            let (id, secret) = pair
                .split_once(':')
                .context("--credentials takes ID:SECRET")?;
            Some(Credentials {
                id: id.to_owned(),
                secret: secret.to_owned(),
            })
        }
    };
    Ok(Config {
        listen: arguments.listen,
        rules,
        state_file: arguments.state,
        faults,
        boot,
        credentials,
        seed: arguments.seed,
    })
}

fn read_json<T: serde::de::DeserializeOwned>(path: &std::path::Path) -> anyhow::Result<T> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
}
