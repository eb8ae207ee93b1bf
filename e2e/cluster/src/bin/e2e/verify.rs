//! What stands in the ledger: every session by `halo-verify`, with the tenant's root.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::world::{World, ledger};

/// A verdict of `halo-verify --json`.
#[derive(Debug, Clone)]
pub struct Verdict(pub Value);

impl Verdict {
    /// A field at the top, such as `integrity`.
    pub fn get(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }
}

impl World {
    /// The file with a generation of the root secret.
    ///
    /// # Errors
    /// There is none, or it cannot be written.
    pub fn root_file(&self, generation: usize) -> Result<PathBuf> {
        let root = self.roots.get(generation.wrapping_sub(1));
        let root = root.with_context(|| format!("no root generation {generation}"))?;
        let path = self.folder.join(format!("root-{generation}"));
        fs::write(&path, root)?;
        Ok(path)
    }

    /// Verifies one session under a generation of the root.
    ///
    /// # Errors
    /// `halo-verify` does not say.
    pub async fn verdict(&self, session: &str, generation: usize) -> Result<Verdict> {
        let root = self.root_file(generation)?.display().to_string();
        let generation = generation.to_string();
        let ledger = ledger();
        let arguments = [
            session,
            "--ledger",
            &ledger,
            "--root",
            &root,
            "--root-generation",
            &generation,
            "--json",
        ];
        let ended = self.programs.run("halo-verify", arguments).await?;
        let verdict = serde_json::from_str(&ended.out)
            .with_context(|| format!("halo-verify {session}: {} {}", ended.out, ended.err))?;
        Ok(Verdict(verdict))
    }

    /// Verifies one session: it is whole and sealed.
    ///
    /// # Errors
    /// It is not.
    pub async fn passes(&self, session: &str, generation: usize) -> Result<Verdict> {
        let verdict = self.verdict(session, generation).await?;
        let sealed = verdict.get("integrity") == "ok" && verdict.get("completeness") == "sealed";
        if !sealed || verdict.get("keys") != "ok" {
            bail!("halo-verify {session}: {}", verdict.0);
        }
        Ok(verdict)
    }
}
