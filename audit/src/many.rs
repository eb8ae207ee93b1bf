//! Many sessions at once: the list, and their verdicts, in as many threads as there are cores.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;
use std::time::Duration;

use halo_ledger::{Ledger, SessionQuery, SessionSummary};
use halo_receipts::verdict::{Code, Options, Verdict, verify};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::error::AuditError;
use crate::report;
use crate::source::Keys;

/// The version of the JSON for many sessions.
pub const FORMAT: &str = "halo-verdicts/1";

/// The codes from worst to best.
const WORST: [u8; 5] = [1, 5, 3, 4, 0];

/// The exit code for all of these; 4 if there is none.
pub fn worst(codes: impl IntoIterator<Item = u8>) -> u8 {
    let rank = |code: u8| WORST.iter().position(|&worst| worst == code).unwrap_or(0);
    codes
        .into_iter()
        .min_by_key(|&code| rank(code))
        .unwrap_or(4)
}

/// The sessions that a query finds.
pub async fn list(
    ledger: &dyn Ledger,
    name: &str,
    query: &SessionQuery,
) -> Result<Vec<SessionSummary>, AuditError> {
    ledger
        .sessions(query)
        .await
        .map_err(|error| AuditError::Ledger {
            name: name.to_owned(),
            error,
        })
}

/// Verifies all of these, and returns the verdicts in their order. A progress bar is shown on a terminal, for work that
/// takes a while.
pub async fn verify_all(
    ledger: &Arc<dyn Ledger>,
    name: &str,
    sessions: &[SessionSummary],
    keys: &Arc<Keys>,
    options: &Options,
) -> Result<Vec<Verdict>, AuditError> {
    let bar = progress(sessions.len());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let permits = Arc::new(Semaphore::new(cores));
    let mut tasks = JoinSet::new();
    for (at, session) in sessions.iter().enumerate() {
        let (ledger, keys, options) = (ledger.clone(), keys.clone(), options.clone());
        let (permits, id) = (permits.clone(), session.session_id);
        tasks.spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire_owned().await;
            let evidence = ledger.snapshot(&id).await?.unwrap_or_default();
            let judged = move || {
                let keys = keys.of_session(&id, &evidence);
                verify(id, &evidence, keys.as_ref(), &options)
            };
            Ok((at, tokio::task::spawn_blocking(judged).await))
        });
    }
    let mut verdicts = Vec::with_capacity(sessions.len());
    while let Some(joined) = tasks.join_next().await {
        let failed = |error: tokio::task::JoinError| AuditError::Output(io::Error::other(error));
        let (at, verdict) = joined
            .map_err(failed)?
            .map_err(|error| AuditError::Ledger {
                name: name.to_owned(),
                error,
            })?;
        verdicts.push((at, verdict.map_err(failed)?));
        bar.inc(1);
    }
    bar.finish_and_clear();
    verdicts.sort_by_key(|(at, _)| *at);
    Ok(verdicts.into_iter().map(|(_, verdict)| verdict).collect())
}

fn progress(sessions: usize) -> ProgressBar {
    // Fewer are done before anyone has read the bar.
    if sessions < 20 || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(sessions as u64), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} sessions, {eta} left") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Writes a line for each verdict, and one for all.
pub fn write(out: &mut impl Write, verdicts: &[Verdict]) -> io::Result<()> {
    for verdict in verdicts {
        let (colour, end) = (report::colour(verdict.exit_code), report::END);
        let demo = if verdict.demo_root() {
            "  DEMO ROOT"
        } else {
            ""
        };
        writeln!(
            out,
            "{}  {colour}{}{end}{demo}",
            verdict.session_id,
            verdict.summary()
        )?;
    }
    for (missing, sessions) in other_roots(verdicts) {
        writeln!(out, "of {sessions} sessions, {missing}")?;
    }
    let passed = verdicts
        .iter()
        .filter(|verdict| verdict.exit_code == 0)
        .count();
    let receipts: u64 = verdicts.iter().map(|verdict| verdict.receipts.total).sum();
    writeln!(
        out,
        "{passed} of {} sessions passed, {receipts} receipts",
        verdicts.len()
    )
}

/// What the verdicts say of roots that were not given, and of how many sessions.
fn other_roots(verdicts: &[Verdict]) -> BTreeMap<&str, usize> {
    let findings = verdicts.iter().flat_map(|verdict| &verdict.findings);
    let mut missing = BTreeMap::new();
    for finding in findings.filter(|finding| finding.code == Code::RootMismatch) {
        *missing.entry(finding.detail.as_str()).or_default() += 1;
    }
    missing
}

/// Writes the list.
pub fn write_list(out: &mut impl Write, sessions: &[SessionSummary]) -> io::Result<()> {
    for session in sessions {
        writeln!(
            out,
            "{}  {}  {}  {}  {} receipts",
            session.session_id,
            session.opened_at,
            session.tenant_id,
            session.device_id,
            session.receipts
        )?;
    }
    Ok(())
}

/// The list as JSON.
#[derive(Serialize)]
pub struct ListRow<'a> {
    session_id: String,
    tenant_id: &'a str,
    device_id: &'a str,
    opened_at: String,
    receipts: u32,
}

impl<'a> From<&'a SessionSummary> for ListRow<'a> {
    fn from(session: &'a SessionSummary) -> Self {
        Self {
            session_id: session.session_id.to_string(),
            tenant_id: session.tenant_id.as_str(),
            device_id: session.device_id.as_str(),
            opened_at: session.opened_at.to_string(),
            receipts: session.receipts,
        }
    }
}

/// All verdicts as one JSON object.
#[derive(Serialize)]
pub struct Document<'a> {
    /// [`FORMAT`].
    pub format: &'static str,
    /// The worst of them.
    pub exit_code: u8,
    /// Each of them.
    pub sessions: &'a [Verdict],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_outweighs_any_number_of_passes() {
        assert_eq!(worst([0, 0, 3, 1, 5]), 1);
        assert_eq!(worst([0, 3, 5]), 5);
        assert_eq!(worst([0, 4, 3]), 3);
        assert_eq!(worst([0, 0]), 0);
        assert_eq!(worst([]), 4);
    }
}
