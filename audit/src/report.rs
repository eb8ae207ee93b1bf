//! The verdict as a person reads it: one line for each check that was made, what was found, the four answers, and the
//! final line.

use std::io::{self, Write};
use std::time::Duration;

use halo_receipts::verdict::{
    Anchoring, Completeness, Finding, Integrity, KeySource, Keys, Severity, Verdict,
};

const RED: &str = "\x1b[31;1m";
const GREEN: &str = "\x1b[32;1m";
const YELLOW: &str = "\x1b[33;1m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// The most findings that are written in full; the JSON has all of them.
const FINDINGS_MAX: usize = 50;

/// Writes the verdict. The writer drops the colours where there is no terminal.
pub fn write(out: &mut impl Write, verdict: &Verdict) -> io::Result<()> {
    writeln!(out, "session {}", verdict.session_id)?;
    if let Some(header) = &verdict.header {
        let epochs: Vec<String> = verdict.epochs.iter().map(ToString::to_string).collect();
        writeln!(
            out,
            "tenant {}, device {}, opened {}, root generation {} ({}), epochs {}",
            header.tenant_id,
            header.device_id,
            header.opened_at,
            header.root_generation,
            header.key_check_value,
            epochs.join(", ")
        )?;
    }
    if verdict.demo_root() {
        writeln!(
            out,
            "{RED}!!! DEMO ROOT: this session was keyed from a demo root; its receipts prove nothing to anyone !!!{PLAIN}"
        )?;
    }
    writeln!(out)?;
    for check in &verdict.checks {
        let (mark, colour) = if check.failed == 0 {
            ("ok  ", GREEN)
        } else {
            ("FAIL", RED)
        };
        let counts = if check.failed == 0 {
            check.made.to_string()
        } else {
            format!(
                "{} failed of {}",
                check.failed,
                check.made.max(check.failed)
            )
        };
        writeln!(
            out,
            "{colour}{mark}{PLAIN} {}: {counts}",
            check.kind.about()
        )?;
    }
    for not in &verdict.not_made {
        writeln!(out, "{DIM}not checked: {}: {}{PLAIN}", not.check, not.why)?;
    }
    for found in &verdict.breaks {
        writeln!(
            out,
            "break recorded in receipt {}: epoch {} broke at frame {} ({}), and epoch {} followed",
            found.receipt_id,
            found.broken_epoch,
            found.first_bad,
            found.reason,
            found.session_epoch
        )?;
    }
    if !verdict.findings.is_empty() {
        writeln!(out)?;
    }
    for finding in verdict.findings.iter().take(FINDINGS_MAX) {
        write_finding(out, finding)?;
    }
    if let Some(more) = verdict
        .findings
        .len()
        .checked_sub(FINDINGS_MAX)
        .filter(|&more| more > 0)
    {
        writeln!(out, "... and {more} more; --json has them all")?;
    }
    writeln!(out)?;
    write_answers(out, verdict)?;
    writeln!(out, "{}", verdict.proves())?;
    let colour = colour(verdict.exit_code);
    writeln!(out, "{colour}{}{PLAIN}", verdict.summary())
}

/// The colour of an exit code.
pub fn colour(exit_code: u8) -> &'static str {
    match exit_code {
        0 => GREEN,
        1 => RED,
        _ => YELLOW,
    }
}

/// What ends a colour.
pub const END: &str = PLAIN;

fn write_finding(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let colour = match finding.code.severity() {
        Severity::Failure => RED,
        _ => YELLOW,
    };
    writeln!(out, "{colour}{}{PLAIN}", finding.headline())?;
    if let Some(damage) = &finding.damage {
        writeln!(out, "    {damage}")?;
    }
    writeln!(
        out,
        "    {}: {} {DIM}[{}]{PLAIN}",
        finding.code.severity().name(),
        finding.detail,
        finding.code_text()
    )
}

fn write_answers(out: &mut impl Write, verdict: &Verdict) -> io::Result<()> {
    let integrity = match verdict.integrity {
        Integrity::Ok => "ok",
        Integrity::Failed => "FAILED",
    };
    let completeness = match verdict.completeness {
        Completeness::Sealed => "sealed",
        Completeness::Interrupted => "interrupted",
        Completeness::Open => "open",
    };
    let anchoring = match verdict.anchoring {
        Anchoring::Witnessed => "witnessed",
        Anchoring::Signed => "signed",
        Anchoring::None => "none",
    };
    let keys = match (verdict.keys, &verdict.key_source) {
        (Keys::Ok, KeySource::Session) => "ok (session keys)",
        (Keys::Ok, _) => "ok",
        (Keys::Unavailable, KeySource::None) => "unavailable (none were asked for)",
        (Keys::Unavailable, _) => "unavailable",
    };
    writeln!(
        out,
        "integrity: {integrity}   completeness: {completeness}   anchoring: {anchoring}   keys: {keys}"
    )
}

/// Writes how long a verification took.
pub fn write_stats(
    out: &mut impl Write,
    receipts: u64,
    read: Duration,
    verify: Duration,
) -> io::Result<()> {
    let rate = rate(receipts, verify);
    writeln!(
        out,
        "stats: {receipts} receipts read in {:.3} ms, verified in {:.3} ms, {rate:.0} receipts/s",
        read.as_secs_f64() * 1e3,
        verify.as_secs_f64() * 1e3,
    )
}

/// Receipts a second.
pub fn rate(receipts: u64, took: Duration) -> f64 {
    receipts as f64 / took.as_secs_f64().max(1e-9)
}
