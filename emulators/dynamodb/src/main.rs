//! `halo-dynamodb-local`: starts the emulator, says where it is, and ends with it.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use halo_dynamodb_local::{DynamoDbLocal, Options, install};
use tokio::signal::unix::{SignalKind, signal};

/// Run DynamoDB Local, AWS's own emulator, for tests; fetches it from Maven Central the first time.
///
/// Prints one line of JSON on standard output when it answers. Any credentials and any region will do, and all see the same
/// tables: AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:8000 AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 ended after SIGTERM or SIGINT; 1 it cannot be fetched or started, or it ended by itself; 2 wrong flags."
)]
struct Flags {
    /// The address under which it is reached. It listens on every address of its network namespace all the same.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    listen: IpAddr,
    /// The port; 0 takes a free one.
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,
    /// A folder that keeps the tables over a stop and a start; without it they are in memory.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Only fetch it, and print the folder of its jars.
    #[arg(long, conflicts_with_all = ["port", "data", "listen"])]
    fetch: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done if standard error is closed too.
            let _ = writeln!(std::io::stderr(), "halo-dynamodb-local: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<()> {
    if flags.fetch {
        let library = install()?;
        writeln!(std::io::stdout(), "{}", library.display())?;
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(flags))
}

async fn serve(flags: &Flags) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for signals")?;
    let mut local = DynamoDbLocal::start(&Options {
        address: flags.listen,
        port: flags.port,
        data: flags.data.clone(),
    })?;
    let (url, pid) = (local.url(), local.pid());
    let mut out = std::io::stdout().lock();
    writeln!(out, r#"{{"event":"listening","url":"{url}","pid":{pid}}}"#)?;
    out.flush()?;
    drop(out);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                anyhow::ensure!(local.is_running(), "DynamoDB Local has ended by itself");
            }
        }
    }
    local.stop()?;
    Ok(())
}
