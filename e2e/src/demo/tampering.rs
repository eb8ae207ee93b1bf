//! The verdict on what was said, and damage that must be found: step 4, step 5 and the live tamper test.

use halo_ledger::LedgerUrl;
use halo_receipts::evidence::Stream;
use halo_receipts::ids::SessionId;
use halo_receipts::receipt::{Receipt, ReceiptKind};

use super::conversation::{Pair, Session, sample};
use super::data::Data;
use super::log::{detail, line_with, parsed, step, text};
use super::services::Services;
use super::{DemoError, LONG, SOON, Settings, TAMPERED_FRAME};
use crate::processes::Programs;
use crate::tamper::{self, Place};

pub(super) async fn halo_verify(
    data: &Data,
    programs: &Programs,
    session: &SessionId,
    ledger: &str,
    more: &[&str],
) -> Result<(Option<i32>, String), DemoError> {
    let session = session.to_string();
    let (ledger, root) = (data.ledger(ledger), data.text("root"));
    let mut arguments = vec![session.as_str(), "--ledger", &ledger, "--demo-root", &root];
    arguments.extend_from_slice(more);
    let output = programs.run("halo-verify", arguments).await?;
    let mut report = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.code() == Some(2) {
        report.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    Ok((output.status.code(), report))
}

pub(super) async fn verify_clean(
    data: &Data,
    programs: &Programs,
    session: &Session,
) -> Result<(), DemoError> {
    let bundle = data.text("bundle.json");
    let more = ["--bundle-out", bundle.as_str()];
    let (code, report) = halo_verify(data, programs, &session.id, "ledger.db", &more).await?;
    let pass = line_with(&report, "PASS - ");
    match (code, pass) {
        (Some(0), Some(pass)) => {
            step(
                "4/5",
                "HALO-VERIFY: walk chain",
                &format!("CLEAN PATH RESULT: {pass}"),
            );
            Ok(())
        }
        _ => Err(DemoError::Step {
            step: "[4/5]",
            what: format!("halo-verify ended with {code:?}:\n{report}"),
        }),
    }
}

pub(super) async fn verify_tampered(
    data: &Data,
    programs: &Programs,
    session: &Session,
) -> Result<(), DemoError> {
    let damage = format!(
        "one byte of a stored tier {} receipt, then of its payload, in a copy of the ledger",
        session.tier
    );
    step("5/5", "TAMPER TEST", &damage);
    let mut detected = Vec::new();
    // Byte 30 stands inside event_payload_hash; byte 60 of the payload among its first values.
    for (copy, place, offset, expected) in [
        ("tampered.db", Place::Receipt, 30, "HMAC FAIL at receipt "),
        (
            "tampered-payload.db",
            Place::Payload,
            45,
            "PAYLOAD HASH FAIL at receipt ",
        ),
    ] {
        let path = data.path(copy);
        tamper::copy(&data.path("ledger.db"), &path)?;
        tamper::change_byte(&path, &session.response, place, offset)?;
        let (code, report) = halo_verify(data, programs, &session.id, copy, &[]).await?;
        let named = format!("{expected}{}", session.response);
        match (code, line_with(&report, &named)) {
            (Some(1), Some(line)) => detected.push((line.to_owned(), report)),
            _ => {
                return Err(DemoError::Step {
                    step: "[5/5]",
                    what: format!(
                        "the damage was not named; halo-verify ended with {code:?}:\n{report}"
                    ),
                });
            }
        }
    }
    detail("TAMPERED PATH RESULT: CORRECTLY DETECTED");
    for (line, report) in &detected {
        detail(&format!("  {line}"));
        // What follows the line, indented further, says which byte it was.
        let found = report
            .lines()
            .skip_while(|found| found.trim() != line.trim())
            .skip(1);
        for more in found.take_while(|more| more.starts_with("    ")) {
            detail(&format!("    {}", more.trim()));
        }
    }
    Ok(())
}

pub(super) async fn live_tamper(
    settings: &Settings,
    data: &Data,
    programs: &Programs,
    services: &Services,
) -> Result<(), DemoError> {
    step("+", "LIVE TAMPER", "one byte of an image frame, in flight");
    let image = data.path("photo.jpg");
    sample(programs, "--image", &image).await?;
    let frame = ["--tamper-frame".to_owned(), TAMPERED_FRAME.to_string()];
    let (what, label) = ("--image", "-tamper");
    let mut pair = Pair::start(
        settings, data, programs, services, label, what, &image, &frame,
    )
    .await?;
    let opened = pair.phone_says("session_opened", SOON, |_| {}).await?;
    let id: SessionId = parsed(&opened, "session_id")?;
    let broken = pair.phone_says("chain_broken", SOON, |_| {}).await?;
    detail(&format!(
        "tier 1: frame {} refused ({}); 0x80 sent, nothing of the capture written",
        broken["first_bad"],
        text(&broken, "reason")?
    ));
    pair.glasses.wait_for("alert", SOON, |_| {}).await?;
    detail("tier 0: key wiped; SECURITY ALERT - CHAIN BROKEN");
    let relinked = pair.phone_says("relinked", SOON, |_| {}).await?;
    detail(&format!(
        "tier 1: epoch {} opened, the break recorded in receipt {}; 0x81 sent",
        relinked["session_epoch"],
        text(&relinked, "receipt_id")?
    ));
    pair.glasses.wait_for("relinked", SOON, |_| {}).await?;
    detail("tier 0: READY TO RE-LINK; capture resumes");
    let captured = pair.phone_says("capture_verified", SOON, |_| {}).await?;
    detail(&format!(
        "tier 1: capture verified, {} frames, receipt {}",
        captured["frames"],
        text(&captured, "receipt_id")?
    ));
    pair.phone_says("sealed", LONG, |_| {}).await?;
    pair.finish().await?;
    let kept = captures_in(data, &id).await?;
    let (code, report) = halo_verify(data, programs, &id, "ledger.db", &[]).await?;
    match (
        code,
        line_with(&report, "PASS - "),
        line_with(&report, "break recorded"),
    ) {
        (Some(0), Some(pass), Some(found)) if kept == 1 => {
            detail("ledger: one capture, the whole one");
            detail(&format!("halo-verify: {}", pass.trim()));
            detail(&format!("             {}", found.trim()));
            Ok(())
        }
        _ => Err(DemoError::Step {
            step: "[+]",
            what: format!(
                "the ledger holds {kept} captures and must hold 1; halo-verify ended with {code:?} and must pass and \
                 show the break:\n{report}"
            ),
        }),
    }
}

/// How many sensor captures the ledger holds of a session.
pub(super) async fn captures_in(data: &Data, session: &SessionId) -> Result<usize, DemoError> {
    let url: LedgerUrl = data.ledger("ledger.db").parse()?;
    let evidence = halo_ledger::open_read_only(&url)
        .await?
        .snapshot(session)
        .await?;
    let evidence = evidence.unwrap_or_default();
    let receipts = evidence.receipts(Stream::Device);
    let parsed = receipts.filter_map(|(_, stored)| Receipt::parse(&stored.bytes).ok());
    Ok(parsed
        .filter(|receipt| receipt.body.receipt_kind == ReceiptKind::SensorCapture)
        .count())
}
