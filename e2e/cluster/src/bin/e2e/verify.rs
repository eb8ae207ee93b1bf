//! What stands in the ledger: every session by `halo-verify`, with every generation of the root in one run.

use std::collections::BTreeMap;
use std::fs;

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

    /// The generation of the root that the session was keyed from, by its header.
    pub fn root_generation(&self) -> Option<u64> {
        self.0["root_generation"].as_u64()
    }

    /// Whether the session is whole and sealed.
    ///
    /// # Errors
    /// It is not.
    pub fn passes(&self) -> Result<()> {
        let sealed = self.get("integrity") == "ok" && self.get("completeness") == "sealed";
        if !sealed || self.get("keys") != "ok" {
            bail!("halo-verify {}: {}", self.get("session_id"), self.0);
        }
        Ok(())
    }
}

impl World {
    /// Where `halo-verify` reads, and the flags with every generation of the root secret.
    fn flags(&self) -> Result<Vec<String>> {
        let mut flags = vec!["--ledger".to_owned(), ledger()];
        for (root, generation) in self.roots.iter().zip(1..) {
            let path = self.folder.join(format!("root-{generation}"));
            fs::write(&path, root)?;
            flags.extend(["--root".to_owned(), path.display().to_string()]);
        }
        Ok(flags)
    }

    /// Verifies one session.
    ///
    /// # Errors
    /// `halo-verify` does not say.
    pub async fn verdict(&self, session: &str) -> Result<Verdict> {
        let mut arguments = self.flags()?;
        arguments.extend([session.to_owned(), "--json".to_owned()]);
        let ended = self.programs.run("halo-verify", arguments).await?;
        let verdict = serde_json::from_str(&ended.out)
            .with_context(|| format!("halo-verify {session}: {} {}", ended.out, ended.err))?;
        Ok(Verdict(verdict))
    }

    /// Verifies all sessions of a tenant in one run.
    ///
    /// # Errors
    /// `halo-verify` does not say.
    pub async fn verdicts(&self, tenant: &str) -> Result<BTreeMap<String, Verdict>> {
        let mut arguments = self.flags()?;
        arguments.extend(["--tenant", tenant, "--jsonl"].map(str::to_owned));
        let ended = self.programs.run("halo-verify", arguments).await?;
        if ended.code == Some(2) {
            bail!("halo-verify --tenant {tenant}: {}", ended.err.trim());
        }
        let verdicts = ended.out.lines().map(|line| {
            let verdict = serde_json::from_str(line).map(Verdict);
            let verdict = verdict
                .with_context(|| format!("halo-verify --tenant {tenant}: {line} {}", ended.err))?;
            Ok((verdict.get("session_id").to_owned(), verdict))
        });
        verdicts.collect()
    }

    /// Verifies one session: it is whole and sealed.
    ///
    /// # Errors
    /// It is not.
    pub async fn passes(&self, session: &str) -> Result<Verdict> {
        let verdict = self.verdict(session).await?;
        verdict.passes()?;
        Ok(verdict)
    }
}
