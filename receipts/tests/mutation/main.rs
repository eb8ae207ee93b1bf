//! What the verdict says of a session that was changed, in every way in which a ledger's file can be.
// The helpers beside the tests are tests too.
#![allow(clippy::panic, clippy::unwrap_used)]

mod flips;
#[path = "../support/golden.rs"]
mod golden;
mod intact;
mod keys;
mod moves;
mod removals;
mod roots;

use golden::Builder;
use halo_receipts::evidence::{Evidence, StoredReceipt, Stream};
use halo_receipts::ids::SessionId;
use halo_receipts::verdict::{Code, Options, Severity, Verdict, VerifyKeys, verify};

/// A short golden session: every kind of receipt, both streams, a break, two months.
fn session() -> Builder {
    golden::session(1, &["One", "."], &["Yes"])
}

/// The verdict under the root.
fn judge(session: SessionId, evidence: &Evidence) -> Verdict {
    judge_with(session, evidence, &golden::root_keys())
}

fn judge_with(session: SessionId, evidence: &Evidence, keys: &dyn VerifyKeys) -> Verdict {
    verify(session, evidence, keys, &Options::default())
}

/// The codes of what was found, without warnings.
fn codes(verdict: &Verdict) -> Vec<String> {
    let findings = verdict.findings.iter();
    let findings = findings.filter(|finding| finding.code.severity() != Severity::Warning);
    findings.map(|finding| finding.code_text()).collect()
}

fn has(verdict: &Verdict, code: Code) -> bool {
    verdict.findings.iter().any(|finding| finding.code == code)
}

/// Every stored receipt with its stream and number, to be changed.
fn stored(evidence: &mut Evidence) -> Vec<(Stream, u32, &mut StoredReceipt)> {
    let mut all = Vec::new();
    for block in &mut evidence.blocks {
        let (stream, first) = (block.stream, block.first);
        for (number, receipt) in (first..).zip(block.content.as_mut().unwrap()) {
            all.push((stream, number, receipt));
        }
    }
    all
}

/// Takes a receipt out and renumbers what follows, as someone would who rewrites the whole ledger.
fn remove(evidence: &mut Evidence, stream: Stream, number: u32) {
    for block in evidence
        .blocks
        .iter_mut()
        .filter(|block| block.stream == stream)
    {
        let receipts = block.content.as_mut().unwrap();
        let at = number.wrapping_sub(block.first) as usize;
        if at < receipts.len() {
            receipts.remove(at);
            block.ids.remove(at);
        } else if block.first > number {
            block.first -= 1;
        }
    }
    evidence.blocks.retain(|block| !block.ids.is_empty());
    evidence
        .attributes
        .retain(|row| row.position != (stream, number));
    for row in &mut evidence.attributes {
        if row.position.0 == stream && row.position.1 > number {
            row.position.1 -= 1;
        }
    }
}
