//! `halo-bench-operator`: the operator as a process against a real API server and the AWS emulator, measured.

mod board;
mod failover;
mod limits;
mod objects;
mod operator;
mod page;
mod proc;
mod report;
mod samples;
mod scale;
mod table;
mod wakes;
mod world;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use serde_json::json;

use self::operator::Operator;
use self::page::Histogram;
use self::table::Row;
use self::world::World;

/// The histogram of the time between an event's arrival and its reconcile.
const QUEUE: &str = "workqueue_queue_duration_seconds";

/// Measure halo-operator: etcd, kube-apiserver, the AWS emulator and the operator on this machine, one table with each figure beside its
/// target and its limit.
///
/// The API server's controllers do not run and instances do not become nodes: what is measured is the operator and what it waits for.
/// Build with optimisation (`make bench-operator`); the control plane's binaries are taken or built as for the tests. Progress goes
/// to standard error.
#[derive(Parser, Debug)]
#[command(
    name = "halo-bench-operator",
    version,
    after_help = "Exit codes: 0 measured; 1 something could not be measured, or a launch was doubled; 2 wrong usage; 3 with --strict, a target was missed."
)]
pub struct Arguments {
    /// Tenants, each with one substrate; targets of size are held against 1000 and more
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = at_least_one)]
    tenants: usize,

    /// Wakes that are measured one at a time, and as many again several at once
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = at_least_one)]
    wakes: usize,

    /// Wakes at once
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = at_least_one)]
    at_once: usize,

    /// How long requests are counted while nothing happens
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// How often the leader is killed; 5 unless fewer than 100 wakes are measured, then once
    #[arg(long, value_name = "COUNT")]
    failovers: Option<usize>,

    /// The operator's program; the halo-operator beside this program by default
    #[arg(long, value_name = "FILE", default_value_os_t = beside())]
    operator: PathBuf,

    /// A further flag of `halo-operator run`, such as --operator-flag=--concurrency=32; may be given again
    #[arg(
        long = "operator-flag",
        value_name = "FLAG",
        allow_hyphen_values = true
    )]
    operator_flags: Vec<String>,

    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,

    /// End with code 3 if a target is missed
    #[arg(long)]
    strict: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let count: usize = text.parse().map_err(|_| "write a number".to_owned())?;
    if (1..=100_000).contains(&count) {
        Ok(count)
    } else {
        Err("at least 1 and at most 100000".to_owned())
    }
}

fn beside() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.with_file_name("halo-operator")
}

impl Arguments {
    fn rounds(&self) -> usize {
        let usual = if self.wakes < 100 { 1 } else { 5 };
        self.failovers.unwrap_or(usual)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (json, strict) = (arguments.json, arguments.strict);
    match start(arguments) {
        Ok(outcome) => {
            let text = if json {
                format!("{}\n", table::json(&outcome.rows, outcome.machine))
            } else {
                format!("{}\n{}", table::text(&outcome.rows), notes(&outcome))
            };
            if std::io::stdout().write_all(text.as_bytes()).is_err() {
                return ExitCode::FAILURE;
            }
            let missed = outcome.rows.iter().any(Row::missed);
            if outcome.doubled {
                ExitCode::FAILURE
            } else if strict && missed {
                ExitCode::from(3)
            } else {
                ExitCode::SUCCESS
            }
        }
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Says how far it is.
fn say(text: &str) {
    let mut stderr = std::io::stderr();
    // Nothing can be said of a stderr that cannot be written.
    let _ = if stderr.is_terminal() {
        writeln!(stderr, "\x1b[2m{text}\x1b[0m")
    } else {
        writeln!(stderr, "halo-bench-operator: {text}")
    };
}

struct Outcome {
    rows: Vec<Row>,
    machine: serde_json::Value,
    doubled: bool,
}

fn notes(outcome: &Outcome) -> String {
    format!(
        "\nMachine: {}. Limits were measured in the same run, by a client without an operator.\n",
        outcome.machine
    )
}

fn start(arguments: Arguments) -> Result<Outcome> {
    ensure!(
        arguments.operator.is_file(),
        "{}: there is no such program; cargo build --release --package halo-operator makes it",
        arguments.operator.display()
    );
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            outcome = measure(arguments) => outcome,
            // Dropping the rest ends every process that was started.
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        }
    })
}

async fn measure(arguments: Arguments) -> Result<Outcome> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let before = proc::load();
    let begun = Instant::now();
    say("starting etcd, the API server and the AWS emulator");
    let world = World::start(arguments).await?;
    let options = &world.options;
    let (count, wakes, at_once) = (options.tenants, options.wakes, options.at_once);

    say("the API server alone, with a bare client");
    let one = limits::measure(&world, wakes, 1).await?;
    let many = limits::measure(&world, wakes.div_ceil(at_once), at_once).await?;

    say("starting the operator");
    let mut operator = Operator::start(&world, 0).await?;
    operator.leads().await?;

    say(&format!("applying {count} tenants and {count} substrates"));
    let idle = operator.figures().await?;
    let scale = scale::measure(&world, &operator).await?;
    say(&format!(
        "all ready after {:.1} s",
        scale.took.as_secs_f64()
    ));
    say(&format!("the operator's requests: {:?}", scale.requests));
    let applied = operator.figures().await?;

    say("waiting until nothing is left to do");
    let steady = scale::steady(&world, &operator).await?;

    let keys = scale::keys(&world);
    say(&format!("{wakes} wakes, one at a time"));
    let quiet = operator.figures().await?;
    let single = wakes::measure(&world, &keys, wakes, 1).await?;
    let halfway = operator.figures().await?;
    say(&format!("{wakes} wakes, {at_once} at once"));
    let mark = world.plane.mark()?;
    let batches = wakes::measure(&world, &keys, wakes, at_once).await?;
    let asked = scale::kinds(&world.requests(mark, &operator.user)?);
    say(&format!(
        "the operator's requests, sleep included: {asked:?}"
    ));
    let woken = operator.figures().await?;
    let peak = proc::memory(operator.pid())?;

    let rounds = world.options.rounds();
    let (failover, _operator) = failover::measure(&world, operator, &keys, rounds).await?;

    let waits = |from: &str, to: &str| {
        let [from, to] = [from, to].map(|page| Histogram::read(page, QUEUE, &[]));
        to.since(&from)
    };
    let mut rows = vec![
        report::wake(1, &single, &one),
        report::wake(at_once, &batches, &many),
        report::queue(
            "wakes singly, to sleep by twenties",
            &waits(&quiet, &halfway),
            Some(&one),
        ),
        report::queue(
            &format!("wakes by {at_once}, to sleep by twenties"),
            &waits(&halfway, &woken),
            Some(&many),
        ),
        report::queue("while all are applied", &waits(&idle, &applied), None),
    ];
    rows.extend(report::scale(count, &scale, cores));
    rows.push(report::memory(scale.memory, steady.memory, peak, count));
    if rounds > 0 {
        rows.extend(report::failover(rounds, &failover));
    }
    rows.extend(report::steady(world.options.seconds, &steady));
    let optimised = !cfg!(debug_assertions);
    Ok(Outcome {
        rows,
        doubled: failover.doubled > 0,
        machine: json!({
            "cores": cores, "load_average_before": before, "load_average_after": proc::load(),
            "seconds": begun.elapsed().as_secs(), "optimised": optimised,
            "kubernetes": halo_e2e_cluster::KUBERNETES_VERSION,
        }),
    })
}
