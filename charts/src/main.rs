//! Writes the generated files of the charts.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Parser;

/// Writes the generated files of the charts: values.yaml, values.schema.json, READMEs, Chart.yaml, definitions, roles.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 written, or up to date; 1 a file differs or cannot be written; 2 wrong usage."
)]
struct Args {
    /// Write into this folder, such as `charts`; without it the files there are compared only
    #[arg(long, value_name = "FOLDER", conflicts_with = "check")]
    write: Option<PathBuf>,
    /// The folder whose files are compared
    #[arg(long, value_name = "FOLDER", default_value = "charts")]
    check: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut stale = Vec::new();
    for (path, text) in halo_charts::files::generated()? {
        let file = args.write.as_ref().unwrap_or(&args.check).join(&path);
        if std::fs::read_to_string(&file).is_ok_and(|there| there == text) {
            continue;
        }
        if args.write.is_none() {
            stale.push(path);
            continue;
        }
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if !stale.is_empty() {
        bail!(
            "out of date: {}; cargo run -p halo-charts -- --write charts",
            stale.join(", ")
        );
    }
    Ok(())
}
