//! `halo`: flags in, an exit code out.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _};
use halo_cli::check::dial::Dialer;
use halo_cli::check::{self, render};
use halo_cli::cli::{CheckArgs, Cli, Command, LedgerCommand, SessionArgs, called_as};
use halo_cli::{ledger, session};
use halo_emulators::edge::logs;
use halo_ledger::LedgerUrl;

fn main() -> ExitCode {
    let name = called_as(std::env::args_os().next().as_deref());
    let matches = Cli::command().bin_name(name).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    logs::start(cli.log_format);
    match act(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("halo: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn act(command: Command) -> anyhow::Result<u8> {
    // One TLS library for everything that speaks TLS here.
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    if provider.install_default().is_err() {
        anyhow::bail!("another TLS library is installed already");
    }
    match command {
        Command::Crds => crds(),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "halo", &mut io::stdout());
            Ok(0)
        }
        Command::Check(arguments) => block_on(check(*arguments)),
        Command::SessionTest(arguments) => block_on(session_test(arguments)),
        Command::Ledger(LedgerCommand::Create { ledger }) => block_on(create(ledger)),
    }
}

/// Runs a verb, and ends it when somebody interrupts.
fn block_on(verb: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        tokio::select! {
            done = verb => done,
            _ = tokio::signal::ctrl_c() => Ok(130),
        }
    });
    // A name that is being looked up must not hold up the end.
    runtime.shutdown_background();
    done
}

fn crds() -> anyhow::Result<u8> {
    let mut out = io::stdout().lock();
    for definition in halo_crds::all() {
        let yaml =
            halo_crds::yaml(&definition).context("a definition cannot be written as YAML")?;
        write!(out, "---\n{yaml}")?;
    }
    Ok(0)
}

async fn check(arguments: CheckArgs) -> anyhow::Result<u8> {
    let (wait, output) = (arguments.wait.get(), arguments.output);
    let options = arguments.options();
    let dialer = Dialer::with_system_roots(options.timeout);
    let report = check::until(&options, &dialer, wait).await;
    let mut out = anstream::stdout().lock();
    render::write(&mut out, &report, output)?;
    out.flush()?;
    Ok(report.exit_code())
}

async fn create(url: LedgerUrl) -> anyhow::Result<u8> {
    match ledger::create(&url).await {
        Ok(report) => Ok(ledger::tell(&mut io::stdout().lock(), &url, &report)?),
        Err(error) => {
            eprintln!("halo: {url}: {error}");
            Ok(ledger::exit_code(&error))
        }
    }
}

async fn session_test(arguments: SessionArgs) -> anyhow::Result<u8> {
    let json = arguments.json;
    let options = arguments.options();
    let tell = |stage: &'static str, passed: Duration| {
        tracing::info!("{stage} after {} ms", passed.as_millis())
    };
    match session::run(&options, tell).await {
        Ok(outcome) => {
            let mut out = io::stdout().lock();
            match json {
                true => serde_json::to_writer_pretty(&mut out, &outcome)?,
                false => outcome.write(&mut out)?,
            }
            writeln!(out)?;
            Ok(u8::from(!outcome.pass))
        }
        Err(error) => {
            match json {
                true => println!(
                    "{}",
                    serde_json::json!({"pass": false, "why": error.to_string()})
                ),
                false => println!("FAIL - {error}"),
            }
            Ok(error.exit_code())
        }
    }
}
