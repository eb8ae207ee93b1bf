//! Brings the checks together: keys, records, receipts, chain, seals, and the answers that follow.

use std::collections::BTreeMap;

use crate::evidence::{Evidence, Header};
use crate::ids::{Epoch, SessionId, Tier};
use crate::keys::KeyCheckValue;

use super::keys::{KeySource, Ring, VerifyKeys};
use super::reading::{Mac, Report, Streams, overall};
use super::records::Records;
use super::repair::Scene;
use super::walk::Walk;
use super::{
    Anchoring, Code, Completeness, Counts, Integrity, Keys, NotMade, Options, Severity, Verdict,
    repair, seals, walk,
};

pub(super) fn judge(
    session_id: SessionId,
    evidence: &Evidence,
    keys: &dyn VerifyKeys,
    options: &Options,
) -> Verdict {
    let mut report = Report::default();
    let mut streams = Streams::read(evidence, &mut report);
    let mut records = Records::read(evidence);
    let tenant_id = streams
        .tenant()
        .or_else(|| records.header().map(|header| header.tenant_id.clone()));
    let source = keys.source();
    let mut verdict = Verdict {
        session_id,
        tenant_id: tenant_id.clone(),
        header: records.header().cloned(),
        integrity: Integrity::Ok,
        completeness: Completeness::Open,
        anchoring: Anchoring::None,
        keys: Keys::Unavailable,
        key_source: source.clone(),
        receipts: Counts::default(),
        epochs: records.epochs(),
        breaks: Vec::new(),
        checks: Vec::new(),
        not_made: Vec::new(),
        findings: Vec::new(),
        exit_code: 4,
    };
    // Where not one receipt and no header can be read, no tenant is known, and no key is asked for.
    let tenant_id = tenant_id.or_else(|| "unknown".parse().ok());
    let Some(tenant_id) = tenant_id.filter(|_| !streams.is_empty()) else {
        let detail = "the evidence holds no receipt of this session";
        report.add(overall(Code::SessionNotFound, detail));
        verdict.findings = report.findings;
        return verdict;
    };

    let mut ring = Ring::of_session(keys, session_id, &tenant_id, &streams, &records);
    streams.items_mut().for_each(|item| item.check_mac(&ring));
    let results = records.check_macs(&ring);
    let trust = distrust_wrong_keys(
        &mut ring,
        &streams,
        &results,
        &source,
        &records,
        &mut report,
    );
    if trust == Trust::Changed {
        streams.items_mut().for_each(|item| item.check_mac(&ring));
        records.check_macs(&ring);
    }
    records.judge(&session_id, Some(&tenant_id), &ring, options, &mut report);

    let claimed = records.epochs();
    let scene = Scene {
        session_id,
        tenant_id: &tenant_id,
        epochs: &claimed,
        evidence,
        ring: &ring,
        options,
    };
    repair::judge(&mut streams, &scene, &mut report);
    let walk = Walk::new(session_id, tenant_id, &claimed, options, &mut report);
    verdict.breaks = walk.run(&mut streams);
    super::records::connections(&records, &streams, &mut report);
    walk::attributes(&streams, evidence, &mut report);
    seals::answers(&streams, &mut report);
    seals::sessions(&streams, &mut report);
    verdict.completeness = seals::completeness(&streams, claimed.last().copied(), &mut report);
    if options.require_anchor && verdict.anchoring == Anchoring::None {
        let detail = "an anchor is required, and the evidence has none";
        report.add(overall(Code::AnchorMissing, detail));
    }

    verdict.receipts = counts(&streams);
    verdict.keys = keys_answer(&streams, &records, &ring, &source, &mut report);
    finish(&mut verdict, report, options);
    verdict
}

#[derive(PartialEq, Eq)]
enum Trust {
    Unchanged,
    Changed,
}

/// Keys under which nothing at all verifies are other keys, not proof of tampering; unless the header's check value says
/// that they are the right ones.
fn distrust_wrong_keys(
    ring: &mut Ring<'_>,
    streams: &Streams<'_>,
    records: &[(Epoch, bool)],
    source: &KeySource,
    read: &Records<'_>,
    report: &mut Report,
) -> Trust {
    let mut good: BTreeMap<Epoch, bool> = BTreeMap::new();
    for (epoch, verified) in records {
        *good.entry(*epoch).or_default() |= verified;
    }
    for item in streams.items() {
        let Ok(receipt) = &item.receipt else { continue };
        if item.mac != Mac::NoKey {
            *good.entry(receipt.body.session_epoch).or_default() |= item.mac == Mac::Good;
        }
    }
    let wrong: Vec<Epoch> = match source {
        KeySource::None => Vec::new(),
        KeySource::Session => {
            let wrong = good.iter().filter(|(_, good)| !**good);
            wrong.map(|(epoch, _)| *epoch).collect()
        }
        KeySource::Root { check_value, .. } => {
            let header = read.header();
            let same = header.is_some_and(|header| header.key_check_value == *check_value);
            if same || good.values().any(|&good| good) {
                Vec::new()
            } else {
                good.keys().copied().collect()
            }
        }
    };
    if wrong.is_empty() {
        return Trust::Unchanged;
    }
    for epoch in &wrong {
        ring.distrust(*epoch);
    }
    match source {
        KeySource::Root {
            check_value,
            others,
        } => {
            let detail = other_root(read.header(), check_value, others);
            report.add(overall(Code::RootMismatch, detail));
        }
        _ => {
            for epoch in wrong {
                let detail =
                    format!("nothing in epoch {epoch} verifies under the key given for it");
                report.add(overall(Code::KeyMismatch, detail));
            }
        }
    }
    Trust::Changed
}

/// Which root the session names, which ones were given, and what to do.
fn other_root(
    header: Option<&Header>,
    check_value: &KeyCheckValue,
    others: &[KeyCheckValue],
) -> String {
    let given: Vec<String> = std::iter::once(check_value)
        .chain(others)
        .map(ToString::to_string)
        .collect();
    let given = match others {
        [] => format!("the root given, whose check value is {check_value}"),
        _ => format!(
            "any of the {} roots given, whose check values are {}",
            given.len(),
            given.join(", ")
        ),
    };
    match header {
        Some(header) => format!(
            "the header names root generation {} with check value {}, and nothing in the session verifies under {given}; \
             give the root of generation {}",
            header.root_generation, header.key_check_value, header.root_generation
        ),
        None => format!(
            "nothing in the session verifies under {given}, and no header says which root it was keyed from; give every \
             root that it may have been"
        ),
    }
}

fn counts(streams: &Streams<'_>) -> Counts {
    let device = streams.device.len() as u64;
    let substrate = streams.substrate.len() as u64;
    let signed = streams.items().filter(|item| item.mac == Mac::Good);
    Counts {
        total: device + substrate,
        device,
        substrate,
        signed: signed.count() as u64,
    }
}

/// Whether every epoch in use has its keys; those that have none are reported, unless no keys were asked for.
fn keys_answer(
    streams: &Streams<'_>,
    records: &Records<'_>,
    ring: &Ring<'_>,
    source: &KeySource,
    report: &mut Report,
) -> Keys {
    let mut used = streams.epochs();
    used.extend(records.epochs_used());
    used.sort_unstable();
    used.dedup();
    let missing: Vec<Epoch> = used
        .into_iter()
        .filter(|epoch| ring.get(*epoch, Tier::Orchestrator).is_none())
        .collect();
    if missing.is_empty() {
        return Keys::Ok;
    }
    let explained = report
        .findings
        .iter()
        .any(|finding| matches!(finding.code, Code::RootMismatch | Code::KeyMismatch));
    if *source != KeySource::None && !explained {
        let epochs: Vec<String> = missing.iter().take(8).map(Epoch::to_string).collect();
        let more = missing.len().saturating_sub(8);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let detail = format!("no key at hand for epoch {}{more}", epochs.join(", "));
        report.add(overall(Code::KeyUnavailable, detail));
    }
    Keys::Unavailable
}

fn finish(verdict: &mut Verdict, mut report: Report, options: &Options) {
    verdict.checks = report.checks();
    report
        .findings
        .sort_by_key(|finding| finding.code.severity());
    let failed = |finding: &super::Finding| finding.code.severity() == Severity::Failure;
    if report.findings.iter().any(failed) {
        verdict.integrity = Integrity::Failed;
    }
    verdict.findings = report.findings;
    let unsigned = verdict.receipts.total - verdict.receipts.signed;
    if verdict.keys == Keys::Unavailable {
        let why = match verdict.key_source {
            KeySource::None => "no keys were asked for".to_owned(),
            _ => "their keys are not at hand".to_owned(),
        };
        verdict.not_made.push(NotMade {
            check: "signatures",
            why: format!("{unsigned} receipts, and the header and claims of their epochs: {why}"),
        });
    }
    verdict.not_made.push(NotMade {
        check: "anchors",
        why: "no anchor outside the ledger stands in the evidence; without one, a holder of the keys can rewrite \
              the session, and an end that follows an earlier seal of the same epoch can be cut off"
            .to_owned(),
    });
    verdict.not_made.push(NotMade {
        check: "private_content",
        why: "it is committed to and not opened; a replay opens it".to_owned(),
    });
    verdict.exit_code = exit_code(verdict, options);
}

fn exit_code(verdict: &Verdict, options: &Options) -> u8 {
    let anchored = verdict.anchoring != Anchoring::None;
    match verdict {
        Verdict {
            integrity: Integrity::Failed,
            ..
        } => 1,
        Verdict {
            keys: Keys::Unavailable,
            key_source,
            ..
        } if *key_source != KeySource::None => 5,
        Verdict {
            completeness: Completeness::Sealed,
            ..
        } if anchored || !options.require_anchor => 0,
        _ => 3,
    }
}
