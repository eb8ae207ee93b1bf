//! The images: built by the checkout's own builder, or taken from a folder.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use crate::arguments::Arguments;
use crate::report::say;

/// What runs in the cluster.
const NAMES: [&str; 4] = ["operator", "gateway", "substrate-demo", "cli"];

/// The folder of the images: the one that was given, or one beside the programs' own.
///
/// # Errors
/// The system does not say where this program is.
pub fn folder(arguments: &Arguments) -> Result<PathBuf> {
    if let Some(folder) = &arguments.images {
        return Ok(folder.clone());
    }
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).context("the target folder")?;
    Ok(target.join("e2e-images"))
}

/// The archives of the folder.
///
/// # Errors
/// One is missing.
pub fn archives(folder: &Path) -> Result<Vec<PathBuf>> {
    NAMES
        .iter()
        .map(|name| {
            let path = folder.join(format!("halo-{name}.tar"));
            ensure!(path.is_file(), "{} is missing", path.display());
            Ok(path)
        })
        .collect()
}

/// Whether an archive is the substrate's, which is all that instances run.
pub fn is_substrate(archive: &Path) -> bool {
    let name = archive.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("halo-substrate"))
}

/// Builds the images, unless a folder with them was given.
///
/// # Errors
/// They cannot be built.
pub async fn build(arguments: &Arguments) -> Result<()> {
    if arguments.images.is_some() {
        return Ok(());
    }
    let started = Instant::now();
    say("building the images, static programs: minutes the first time");
    let status = Command::new("python3")
        .arg(arguments.repository.join("images/build.py"))
        .arg("--out")
        .arg(folder(arguments)?)
        .args(["--tag", &arguments.tag, "--only"])
        .args(NAMES)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .context("python3 does not start")?;
    ensure!(status.success(), "images/build.py: {status}");
    let seconds = started.elapsed().as_secs();
    say(&format!("built the images in {seconds} s"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_archive_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = archives(folder.path()).unwrap_err().to_string();
        assert!(error.contains("halo-operator.tar is missing"), "{error}");
        for name in NAMES {
            std::fs::write(folder.path().join(format!("halo-{name}.tar")), "").unwrap();
        }
        assert_eq!(archives(folder.path()).unwrap().len(), NAMES.len());
    }
}
