//! The seals: how many receipts each one commits to, and the Merkle root over them.

use crate::evidence::Stream;
use crate::ids::Hash;
use crate::merkle::{self, MerkleTree};
use crate::payload::{AnswerStatus, BlockRoot, OrchestratorResponse, SubstrateResponse};

use super::reading::{Item, Leaf, Report, Seal, Streams, about, overall};
use super::{CheckKind, Code, Completeness, Finding};

/// The hashes of a range of a stream.
enum Leaves {
    All(Vec<Hash>),
    /// One of them cannot be read, which was reported.
    Damaged,
    /// This number holds nothing.
    Missing(u32),
}

fn leaves(streams: &Streams<'_>, stream: Stream, first: u32, count: u32) -> Leaves {
    let Some(end) = first.checked_add(count) else {
        return Leaves::Missing(first);
    };
    // A forged count must not make this allocate.
    let next = streams.next_number(stream);
    if end > next {
        return Leaves::Missing(next.max(first));
    }
    let mut hashes = Vec::with_capacity(count as usize);
    let mut damaged = false;
    for number in first..end {
        match streams.leaf(stream, number) {
            Leaf::Present(hash) => hashes.push(hash),
            Leaf::Damaged => damaged = true,
            Leaf::Missing => return Leaves::Missing(number),
        }
    }
    if damaged {
        Leaves::Damaged
    } else {
        Leaves::All(hashes)
    }
}

/// Checks every seal of tier 2.
pub(super) fn answers(streams: &Streams<'_>, report: &mut Report) {
    for item in &streams.substrate {
        if let Some(Seal::Answer(response)) = &item.seal {
            report.made(CheckKind::AnswerSeals, 1);
            for finding in answer(streams, item, response) {
                report.fail(CheckKind::AnswerSeals, finding);
            }
        }
    }
}

fn answer(streams: &Streams<'_>, item: &Item<'_>, response: &SubstrateResponse) -> Vec<Finding> {
    let subject = item.subject();
    let (first, count) = (response.first, response.receipts);
    if first.checked_add(count) != Some(item.number) {
        let found = item.number.saturating_sub(first);
        let detail = format!(
            "the seal counts {count} receipts from number {first} of stream s on, and {found} stand before it"
        );
        return vec![about(Code::SealCount, subject, detail)];
    }
    let mut findings = Vec::new();
    let mut next = first;
    for (k, block) in response.blocks.iter().enumerate() {
        if block.first != next {
            let detail = format!("its blocks do not follow each other at block {k}");
            findings.push(about(Code::SealCount, subject, detail));
            return findings;
        }
        next = next.saturating_add(block.count);
        findings.extend(answer_block(streams, item, k, block));
    }
    if next != item.number {
        let detail = format!(
            "its blocks end at number {next}, and the answer at {}",
            item.number
        );
        findings.push(about(Code::SealCount, subject, detail));
        return findings;
    }
    match leaves(streams, Stream::Substrate, first, count) {
        // A block was named already.
        _ if !findings.is_empty() => {}
        Leaves::Damaged => {}
        Leaves::Missing(number) => {
            let detail = format!("it counts receipt {number} of stream s, which is not there");
            findings.push(about(Code::SealCount, subject, detail));
        }
        Leaves::All(hashes) => {
            let root = merkle::root(&hashes);
            if root != response.root {
                let detail = format!(
                    "it commits to the root {}, and the receipts have {root}",
                    response.root
                );
                findings.push(about(Code::SealRoot, subject, detail));
            }
        }
    }
    findings.extend(ends(streams, item, response));
    findings
}

fn answer_block(
    streams: &Streams<'_>,
    item: &Item<'_>,
    k: usize,
    block: &BlockRoot,
) -> Option<Finding> {
    let end = block.first.saturating_add(block.count);
    let numbers = format!(
        "numbers {} to {} of stream s",
        block.first,
        end.saturating_sub(1)
    );
    let detail = match leaves(streams, Stream::Substrate, block.first, block.count) {
        Leaves::Damaged => return None,
        Leaves::Missing(number) => format!("block {k} ({numbers}) lacks receipt {number}"),
        Leaves::All(hashes) => {
            let root = merkle::root(&hashes);
            if root == block.root {
                return None;
            }
            format!(
                "block {k} ({numbers}) has the root {root}, and the seal {}",
                block.root
            )
        }
    };
    let mut finding = about(Code::SealRoot, item.subject(), detail);
    finding.suffix = Some(format!("block {k}"));
    Some(finding)
}

fn ends(streams: &Streams<'_>, item: &Item<'_>, response: &SubstrateResponse) -> Option<Finding> {
    let id = |number| {
        let item = streams.at(Stream::Substrate, number)?;
        Some(item.receipt.as_ref().ok()?.body.receipt_id)
    };
    let (first, last) = match response.receipts.checked_sub(1) {
        None => (None, None),
        // A receipt that cannot be read was reported, and is not compared.
        Some(more) => (
            Some(id(response.first)?),
            Some(id(response.first.saturating_add(more))?),
        ),
    };
    if (first, last) == (response.first_receipt_id, response.last_receipt_id) {
        return None;
    }
    let detail = "it names other first or last receipts than stand there";
    Some(about(Code::SealIds, item.subject(), detail))
}

/// Checks every seal of tier 1.
pub(super) fn sessions(streams: &Streams<'_>, report: &mut Report) {
    // The receipts of stream `d` before the one that is looked at; none once one of them cannot be had.
    let mut tree = Some(MerkleTree::new());
    let mut expected = 0;
    for item in &streams.device {
        if item.number != expected {
            tree = None;
        }
        expected = item.number.saturating_add(1);
        if let Some(Seal::Session(response)) = &item.seal {
            report.made(CheckKind::SessionSeals, 1);
            if let Some(finding) = session(streams, item, response, tree.as_ref()) {
                report.fail(CheckKind::SessionSeals, finding);
            }
        }
        if let Some(tree) = &mut tree {
            tree.push(&item.hash);
        }
    }
}

fn session(
    streams: &Streams<'_>,
    item: &Item<'_>,
    response: &OrchestratorResponse,
    device: Option<&MerkleTree>,
) -> Option<Finding> {
    let subject = item.subject();
    let (d, s) = (response.device_receipts, response.substrate_receipts);
    if d != item.number {
        let detail = format!(
            "the seal counts {d} receipts of stream d, and {} stand before it",
            item.number
        );
        return Some(about(Code::SealCount, subject, detail));
    }
    if d.checked_add(s) != Some(response.receipts) {
        let detail = format!(
            "the seal counts {} receipts, and its streams {d} and {s}",
            response.receipts
        );
        return Some(about(Code::SealCount, subject, detail));
    }
    match leaves(streams, Stream::Substrate, 0, s) {
        Leaves::Damaged => None,
        Leaves::Missing(number) => {
            let detail = format!(
                "the seal counts {s} receipts of stream s, and number {number} is not there"
            );
            Some(about(Code::SealCount, subject, detail))
        }
        Leaves::All(hashes) => {
            let mut tree = device?.clone();
            hashes.iter().for_each(|hash| tree.push(hash));
            let root = tree.root();
            (root != response.root).then(|| {
                let detail = format!(
                    "it commits to the root {}, and the receipts have {root}",
                    response.root
                );
                about(Code::SealRoot, subject, detail)
            })
        }
    }
}

/// Whether the session is whole, and what keeps it from being so.
pub(super) fn completeness(
    streams: &Streams<'_>,
    last_epoch: Option<crate::ids::Epoch>,
    report: &mut Report,
) -> Completeness {
    leaf_unsealed(streams, report);
    let last = streams.device.last();
    let substrate = streams.next_number(Stream::Substrate);
    let seal = last.and_then(|item| match &item.seal {
        Some(Seal::Session(seal)) => Some((item, seal)),
        _ => None,
    });
    if let Some((item, seal)) = seal
        && streams.next_number(Stream::Device) == item.number.saturating_add(1)
        && seal.substrate_receipts == substrate
    {
        let epoch = item
            .receipt
            .as_ref()
            .ok()
            .map(|receipt| receipt.body.session_epoch);
        if last_epoch > epoch
            && let Some(last) = last_epoch
        {
            let detail =
                format!("epoch {last} was opened after the last seal and is sealed by nothing");
            report.add(overall(Code::EpochUnsealed, detail));
            return Completeness::Open;
        }
        if seal.status == AnswerStatus::Interrupted {
            let detail = "the last answer was interrupted";
            report.add(about(Code::SealInterrupted, item.subject(), detail));
            return Completeness::Interrupted;
        }
        return Completeness::Sealed;
    }
    let detail = "no seal of tier 1 commits to every receipt";
    report.add(overall(Code::SealMissing, detail));
    Completeness::Open
}

/// Reports receipts of stream `s` that no seal commits to.
fn leaf_unsealed(streams: &Streams<'_>, report: &mut Report) {
    let sessions = streams.device.iter().filter_map(|item| match &item.seal {
        Some(Seal::Session(seal)) => Some(seal.substrate_receipts),
        _ => None,
    });
    let answers = streams
        .substrate
        .iter()
        .filter_map(|item| match &item.seal {
            // A seal is itself a leaf, but deleting it leaves the receipts before it unsealed, which is seen.
            Some(Seal::Answer(_)) => Some(item.number.saturating_add(1)),
            _ => None,
        });
    let sealed = sessions.chain(answers).max().unwrap_or(0);
    let mut unsealed = streams
        .substrate
        .iter()
        .filter(|item| item.number >= sealed);
    if let Some(first) = unsealed.next() {
        let detail = format!(
            "{} receipts of stream s from number {} on are committed to by no seal",
            1 + unsealed.count(),
            first.number
        );
        report.add(about(Code::ChainLeafUnsealed, first.subject(), detail));
    }
}
