//! The flags of `halo-verify`.

use std::path::PathBuf;

use clap::{Args, Parser};
use halo_ledger::LedgerUrl;
use halo_receipts::ids::{SessionId, TenantId};
use halo_receipts::time::Timestamp;

/// Verify HALO sessions: every receipt's form, signature and parent, every payload and every seal.
///
/// The verdict has four answers: integrity (ok, failed), completeness (sealed, interrupted, open), anchoring (witnessed,
/// signed, none) and keys (ok, unavailable). It says which checks were made, and which were not.
#[derive(Debug, Parser)]
#[command(name = "halo-verify", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// The session to verify. With --bundle it may be left out.
    pub session: Option<SessionId>,

    /// The ledger to read, such as sqlite:ledger.db or dynamodb:howdify-receipts@us-east-2; it may be in use.
    #[arg(
        long,
        value_name = "sqlite:PATH|dynamodb:TABLE@REGION",
        env = "HALO_LEDGER",
        conflicts_with = "bundle"
    )]
    pub ledger: Option<LedgerUrl>,

    /// A halo-bundle/1 file to read in the place of a ledger.
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,

    /// Where the keys come from.
    #[command(flatten)]
    pub keys: KeyArgs,

    /// Fail with exit code 3 if no anchor outside the ledger vouches for the seal.
    #[arg(long)]
    pub require_anchor: bool,

    /// Print one JSON object (format halo-verdict/1, or halo-verdicts/1 for many sessions).
    #[arg(long, conflicts_with = "jsonl")]
    pub json: bool,

    /// Print one line of JSON for each session.
    #[arg(long)]
    pub jsonl: bool,

    /// Say how long the verification took.
    #[arg(long)]
    pub stats: bool,

    /// Verify again whenever something is appended, until the session is sealed or fails.
    #[arg(long)]
    pub watch: bool,

    /// Print the conversation: who asked what, what was decided, what was answered. Needs keys for the words.
    #[arg(long)]
    pub replay: bool,

    /// Write the session's evidence into a halo-bundle/1 file, to be verified where the ledger is not.
    #[arg(long, value_name = "FILE")]
    pub bundle_out: Option<PathBuf>,

    /// Put the SESSION_KEYs into the bundle too. Whoever has it can then read the session, and sign for it.
    #[arg(long, requires = "bundle_out")]
    pub bundle_keys: bool,

    /// Write the SESSION_KEYs of the session's epochs into a new file for --key, and for no other session.
    #[arg(long, value_name = "FILE")]
    pub key_out: Option<PathBuf>,

    /// Say what a code means, such as receipt.hmac.mismatch, and end.
    #[arg(long, value_name = "CODE", exclusive = true)]
    pub explain: Option<String>,

    /// Verify all sessions of this tenant.
    #[arg(long, conflicts_with_all = ["session", "bundle"])]
    pub tenant: Option<TenantId>,

    /// Verify sessions opened at this time or later, such as 2026-01-31T00:00:00.000000Z or 2026-01-31.
    #[arg(long, value_parser = time, value_name = "TIME", conflicts_with_all = ["session", "bundle"])]
    pub since: Option<Timestamp>,

    /// Verify sessions opened before this time.
    #[arg(long, value_parser = time, value_name = "TIME", conflicts_with_all = ["session", "bundle"])]
    pub until: Option<Timestamp>,

    /// List the sessions, and verify nothing.
    #[arg(long, conflicts_with_all = ["session", "bundle"])]
    pub list: bool,
}

/// Where the keys come from: one of these flags.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct KeyArgs {
    /// A root secret: the exact bytes of the file, at least 32. Repeat it for other generations of the root.
    ///
    /// Each session is verified under the one that it was keyed from, which is the one that its header names by its check
    /// value. Where the header is damaged or missing, it is the one under which most of the session verifies.
    #[arg(long, value_name = "FILE")]
    pub root: Vec<PathBuf>,

    /// A demo root, which may be repeated as --root. Under it a receipt proves nothing.
    #[arg(long, value_name = "FILE")]
    pub demo_root: Vec<PathBuf>,

    /// The SESSION_KEYs of the session: lines of an epoch, a colon and 64 hexadecimal digits.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// Check structure, hashes and seals only. No signature is checked, and the verdict says so.
    #[arg(long)]
    pub no_keys: bool,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  pass: intact and sealed (with --no-keys: as far as structure shows)
  1  failed: something was changed, moved or removed; the receipt, field and byte are named where they can be
  2  wrong usage, or a file or ledger that cannot be read or written
  3  intact, but not sealed, or a required anchor is missing
  4  not found: there is no receipt of this session
  5  unverifiable: the keys are missing or are others, which is not a sign of tampering
For many sessions the code is that of the worst one, in the order 1, 5, 3, 4, 0.

What a pass proves: that holders of the keys wrote every receipt, and that none was changed since. A phone can sign for its
own sensor, and a tenant's cluster for every tier. Proof to a third party needs an anchored seal.";

/// A time in the spelling of receipts, or a day.
fn time(text: &str) -> Result<Timestamp, String> {
    let day = format!("{text}T00:00:00.000000Z");
    let time = text.parse().or_else(|_| day.parse());
    time.map_err(|error: halo_receipts::time::TimeError| {
        format!("{error}, or a day like 2026-01-31")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn days_and_times() {
        let day = time("2026-01-31").unwrap();
        assert_eq!(day.to_string(), "2026-01-31T00:00:00.000000Z");
        assert_eq!(time(&day.to_string()), Ok(day));
        assert!(time("yesterday").is_err());
    }
}
