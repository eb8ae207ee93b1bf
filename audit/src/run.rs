//! Does what the flags ask: reads, verifies, writes, and returns the exit code.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use halo_ledger::{Ledger, SessionQuery};
use halo_receipts::bundle::Bundle;
use halo_receipts::evidence::{Evidence, Stream};
use halo_receipts::ids::SessionId;
use halo_receipts::verdict::{Code, Integrity, Options, SessionKeys, Verdict, VerifyKeys, verify};

use crate::cli::Cli;
use crate::error::AuditError;
use crate::source::{self, Keys};
use crate::{keyfile, many, replay, report};

/// How often `--watch` looks for something new.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Runs the command and returns its exit code.
pub async fn run(cli: Cli, out: &mut impl Write) -> Result<u8, AuditError> {
    if let Some(code) = &cli.explain {
        return explain(code, out);
    }
    if cli.tenant.is_some() || cli.since.is_some() || cli.until.is_some() || cli.list {
        return run_many(&cli, out).await;
    }
    run_one(&cli, out).await
}

fn explain(text: &str, out: &mut impl Write) -> Result<u8, AuditError> {
    let code = Code::parse(text).ok_or_else(|| {
        let all: Vec<&str> = Code::ALL.iter().map(|code| code.text()).collect();
        AuditError::UnknownCode(text.to_owned(), all.join("\n  "))
    })?;
    writeln!(
        out,
        "{code} ({})\n{}",
        code.severity().name(),
        code.explanation()
    )?;
    Ok(0)
}

fn options(cli: &Cli) -> Options {
    Options {
        require_anchor: cli.require_anchor,
        ..Options::default()
    }
}

async fn run_many(cli: &Cli, out: &mut impl Write) -> Result<u8, AuditError> {
    for (given, flag) in [
        (cli.replay, "--replay"),
        (cli.watch, "--watch"),
        (cli.bundle_out.is_some(), "--bundle-out"),
        (cli.key_out.is_some(), "--key-out"),
        (cli.keys.key.is_some(), "--key"),
    ] {
        if given {
            return Err(AuditError::OneSession(flag));
        }
    }
    let url = cli
        .ledger
        .as_ref()
        .ok_or(AuditError::NeedsLedger("a list of sessions"))?;
    let (name, ledger) = (url.to_string(), source::open(url).await?);
    let query = SessionQuery {
        tenant: cli.tenant.clone(),
        since: cli.since,
        until: cli.until,
        limit: None,
    };
    let sessions = many::list(ledger.as_ref(), &name, &query).await?;
    if cli.list {
        let rows = sessions.iter().map(many::ListRow::from);
        if cli.json {
            let rows: Vec<_> = rows.collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
        } else if cli.jsonl {
            for row in rows {
                writeln!(out, "{}", serde_json::to_string(&row)?)?;
            }
        } else {
            many::write_list(out, &sessions)?;
        }
        return Ok(if sessions.is_empty() { 4 } else { 0 });
    }
    let keys = Arc::new(Keys::load(&cli.keys, None)?);
    let begun = Instant::now();
    let verdicts = many::verify_all(&ledger, &name, &sessions, &keys, &options(cli)).await?;
    let took = begun.elapsed();
    let exit_code = many::worst(verdicts.iter().map(|verdict| verdict.exit_code));
    if cli.json {
        let document = many::Document {
            format: many::FORMAT,
            exit_code,
            sessions: &verdicts,
        };
        writeln!(out, "{}", serde_json::to_string_pretty(&document)?)?;
    } else if cli.jsonl {
        for verdict in &verdicts {
            writeln!(out, "{}", serde_json::to_string(verdict)?)?;
        }
    } else {
        many::write(out, &verdicts)?;
        if cli.stats {
            let receipts: u64 = verdicts.iter().map(|verdict| verdict.receipts.total).sum();
            let rate = report::rate(receipts, took);
            writeln!(
                out,
                "stats: {receipts} receipts read and verified in {:.3} ms, {rate:.0} receipts/s",
                took.as_secs_f64() * 1e3
            )?;
        }
    }
    Ok(exit_code)
}

/// A session's evidence, and where more of it may come from.
struct Loaded {
    session: SessionId,
    evidence: Evidence,
    keys: Keys,
    ledger: Option<(String, Arc<dyn Ledger>)>,
    read: Duration,
}

async fn load(cli: &Cli) -> Result<Loaded, AuditError> {
    let begun = Instant::now();
    if let Some(path) = &cli.bundle {
        let bundle = source::read_bundle(path)?;
        if let Some(asked) = cli.session.filter(|asked| *asked != bundle.session_id) {
            let found = bundle.session_id;
            return Err(AuditError::OtherSession { found, asked });
        }
        let keys = Keys::load(&cli.keys, Some(bundle.keys))?;
        return Ok(Loaded {
            session: bundle.session_id,
            evidence: bundle.evidence,
            keys,
            ledger: None,
            read: begun.elapsed(),
        });
    }
    let session = cli.session.ok_or(AuditError::NoSession)?;
    let url = cli
        .ledger
        .as_ref()
        .ok_or(AuditError::NeedsLedger("a session"))?;
    let keys = Keys::load(&cli.keys, None)?;
    let (name, ledger) = (url.to_string(), source::open(url).await?);
    let evidence = snapshot(ledger.as_ref(), &name, &session).await?;
    Ok(Loaded {
        session,
        evidence,
        keys,
        ledger: Some((name, ledger)),
        read: begun.elapsed(),
    })
}

async fn snapshot(
    ledger: &dyn Ledger,
    name: &str,
    session: &SessionId,
) -> Result<Evidence, AuditError> {
    let evidence = ledger.snapshot(session).await;
    let evidence = evidence.map_err(|error| AuditError::Ledger {
        name: name.to_owned(),
        error,
    })?;
    Ok(evidence.unwrap_or_default())
}

async fn run_one(cli: &Cli, out: &mut impl Write) -> Result<u8, AuditError> {
    let mut loaded = load(cli).await?;
    // What cannot be done at the end is refused before anything is printed.
    if cli.watch && loaded.ledger.is_none() {
        return Err(AuditError::NeedsLedger("--watch"));
    }
    if !matches!(loaded.keys, Keys::Roots(_)) {
        for (given, flag) in [
            (cli.key_out.is_some(), "--key-out"),
            (cli.bundle_keys, "--bundle-keys"),
        ] {
            if given {
                return Err(AuditError::NeedsRoot(flag));
            }
        }
    }
    loop {
        let begun = Instant::now();
        let keys = loaded.keys.of_session(&loaded.session, &loaded.evidence);
        let verdict = verify(
            loaded.session,
            &loaded.evidence,
            keys.as_ref(),
            &options(cli),
        );
        let took = begun.elapsed();
        write_one(cli, &loaded, keys.as_ref(), &verdict, took, out)?;
        if !cli.watch || verdict.exit_code == 0 || verdict.integrity == Integrity::Failed {
            write_files(cli, &loaded, keys.as_ref(), &verdict)?;
            return Ok(verdict.exit_code);
        }
        loaded.evidence = next(&loaded).await?;
        writeln!(out)?;
    }
}

/// Waits until the ledger holds something new of the session.
async fn next(loaded: &Loaded) -> Result<Evidence, AuditError> {
    let (name, ledger) = loaded
        .ledger
        .as_ref()
        .ok_or(AuditError::NeedsLedger("--watch"))?;
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let evidence = snapshot(ledger.as_ref(), name, &loaded.session).await?;
        if size(&evidence) != size(&loaded.evidence) {
            return Ok(evidence);
        }
    }
}

/// What grows when something is appended.
fn size(evidence: &Evidence) -> (u32, u32, usize) {
    (
        evidence.next_number(Stream::Device),
        evidence.next_number(Stream::Substrate),
        evidence.claims.len(),
    )
}

fn write_one(
    cli: &Cli,
    loaded: &Loaded,
    keys: &dyn VerifyKeys,
    verdict: &Verdict,
    took: Duration,
    out: &mut impl Write,
) -> Result<(), AuditError> {
    let entries = cli
        .replay
        .then(|| replay::replay(loaded.session, &loaded.evidence, keys));
    let receipts = verdict.receipts.total;
    if cli.json || cli.jsonl {
        let mut json = serde_json::to_value(verdict)?;
        if let Some(entries) = entries {
            json["replay"] = serde_json::to_value(entries)?;
        }
        if cli.stats {
            json["stats"] = serde_json::json!({
                "read_us": loaded.read.as_micros() as u64,
                "verify_us": took.as_micros() as u64,
                "receipts_per_second": report::rate(receipts, took) as u64,
            });
        }
        let text = match cli.json && !cli.watch {
            true => serde_json::to_string_pretty(&json)?,
            false => serde_json::to_string(&json)?,
        };
        writeln!(out, "{text}")?;
    } else {
        report::write(out, verdict)?;
        if cli.stats {
            report::write_stats(out, receipts, loaded.read, took)?;
        }
        if let Some(entries) = entries {
            writeln!(out)?;
            replay::write(out, &entries, matches!(verdict.exit_code, 0 | 3))?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Writes the bundle and the key file that were asked for.
fn write_files(
    cli: &Cli,
    loaded: &Loaded,
    keys: &dyn VerifyKeys,
    verdict: &Verdict,
) -> Result<(), AuditError> {
    let derived = |flag| {
        // Keys of another root would open nothing, and whoever is given them could not tell why.
        let mut findings = verdict.findings.iter();
        if findings.any(|finding| finding.code == Code::RootMismatch) {
            let session = loaded.session;
            return Err(AuditError::NotItsRoot { flag, session });
        }
        let derived = keyfile::derive(keys, &loaded.session, &loaded.evidence);
        derived.ok_or(AuditError::NoTenant(loaded.session))
    };
    if let Some(path) = &cli.key_out {
        let text = keyfile::format(&loaded.session, &derived("--key-out")?);
        source::write(path, text.as_bytes(), true)?;
    }
    if let Some(path) = &cli.bundle_out {
        let keys = match cli.bundle_keys {
            true => derived("--bundle-keys")?,
            false => SessionKeys::new(),
        };
        let bundle = Bundle {
            session_id: loaded.session,
            evidence: loaded.evidence.clone(),
            keys,
        };
        let json = bundle.to_json().map_err(|error| AuditError::Bundle {
            path: path.clone(),
            error,
        })?;
        source::write(path, &json, cli.bundle_keys)?;
    }
    Ok(())
}
