//! Prints the CustomResourceDefinitions of HALO.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;

/// Prints the CustomResourceDefinitions of HALO as YAML, ready for `kubectl apply --server-side -f -`.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Write one file for each definition into this folder instead
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut stdout = std::io::stdout().lock();
    for definition in halo_crds::all() {
        let yaml =
            halo_crds::yaml(&definition).context("a definition cannot be written as YAML")?;
        match &args.write {
            Some(folder) => {
                let file = folder.join(halo_crds::file_name(&definition));
                std::fs::write(&file, yaml)
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
            None => write!(stdout, "---\n{yaml}")?,
        }
    }
    Ok(())
}
