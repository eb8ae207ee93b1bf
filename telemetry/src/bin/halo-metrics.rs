//! Writes what is generated from the list of metrics, or says what of it is stale.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;

/// Writes what is generated from the list of metrics and the alerts: docs/metrics.md, docs/alerts.md and the dashboards.
///
/// Without --write it prints the paths of those that are stale. Exit codes: 0 all are as they should be, 1 some are stale or something
/// failed, 2 wrong usage.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Write them
    #[arg(long)]
    write: bool,
    /// The repository
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    root: PathBuf,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let mut stale = 0;
    for (path, text) in halo_telemetry::reference::files(&args.root)? {
        let file = args.root.join(&path);
        if std::fs::read_to_string(&file).is_ok_and(|known| known == text) {
            continue;
        }
        writeln!(std::io::stdout(), "{}", path.display())?;
        if args.write {
            std::fs::write(&file, text)
                .with_context(|| format!("cannot write {}", file.display()))?;
        } else {
            stale += 1;
        }
    }
    Ok(if stale == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
