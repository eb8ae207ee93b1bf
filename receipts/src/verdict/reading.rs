//! Reads the stored blocks into numbered receipts: form, hash and MAC of each, and the numbering itself.

use std::collections::HashSet;

use crate::evidence::{Evidence, StoredBlock, StoredReceipt, Stream};
use crate::ids::{Epoch, Hash, ReceiptId, SessionId, TenantId, Tier};
use crate::payload::{OrchestratorResponse, SubstrateResponse};
use crate::receipt::{Receipt, ReceiptError, split_signature};

use super::keys::Ring;
use super::{CheckKind, Code, Finding, Subject};

/// Collects what the checks found and how many were made.
#[derive(Default)]
pub(super) struct Report {
    pub findings: Vec<Finding>,
    made: [u64; CheckKind::ALL.len()],
    failed: [u64; CheckKind::ALL.len()],
}

impl Report {
    /// Counts checks that were made.
    pub(super) fn made(&mut self, kind: CheckKind, count: u64) {
        self.made[kind as usize] += count;
    }

    /// Counts a failed check and keeps what was found, unless the same was just found.
    pub(super) fn fail(&mut self, kind: CheckKind, finding: Finding) {
        self.failed[kind as usize] += 1;
        self.add(finding);
    }

    /// Keeps what was found. Two checks can find the same thing in a row; it is said once.
    pub(super) fn add(&mut self, finding: Finding) {
        let same = |other: &Finding| {
            (other.code, &other.suffix, &other.subject)
                == (finding.code, &finding.suffix, &finding.subject)
        };
        let repeated = finding.subject.is_some() && self.findings.iter().rev().take(32).any(same);
        if !repeated {
            self.findings.push(finding);
        }
    }

    /// The checks that were made on anything.
    pub(super) fn checks(&self) -> Vec<super::Check> {
        let checks = CheckKind::ALL.into_iter().map(|kind| super::Check {
            kind,
            made: self.made[kind as usize],
            failed: self.failed[kind as usize],
        });
        checks
            .filter(|check| check.made > 0 || check.failed > 0)
            .collect()
    }
}

/// A finding about one receipt.
pub(super) fn about(code: Code, subject: Subject, detail: impl Into<String>) -> Finding {
    Finding {
        code,
        suffix: None,
        subject: Some(subject),
        damage: None,
        detail: detail.into(),
    }
}

/// A finding about the session.
pub(super) fn overall(code: Code, detail: impl Into<String>) -> Finding {
    Finding {
        code,
        suffix: None,
        subject: None,
        damage: None,
        detail: detail.into(),
    }
}

/// What became of a receipt's MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mac {
    /// It verifies.
    Good,
    /// It does not.
    Bad,
    /// There is no key for it.
    NoKey,
}

/// A seal, kept for the last checks.
pub(super) enum Seal {
    Answer(SubstrateResponse),
    Session(OrchestratorResponse),
}

/// A stored receipt and what is known of it by now.
pub(super) struct Item<'a> {
    pub stream: Stream,
    pub number: u32,
    pub stored: &'a StoredReceipt,
    /// The id beside its block.
    pub beside: Option<ReceiptId>,
    /// What stands in it, or what stood there before it was damaged, if that could be proved.
    pub receipt: Result<Receipt, ReceiptError>,
    /// The hash of the same.
    pub hash: Hash,
    pub mac: Mac,
    /// Whether `receipt` and `hash` are not what is stored.
    pub repaired: bool,
    pub seal: Option<Seal>,
}

impl Item<'_> {
    /// The receipt as a finding names it.
    pub(super) fn subject(&self) -> Subject {
        let body = self.receipt.as_ref().ok().map(|receipt| &receipt.body);
        let substrate = (self.stream == Stream::Substrate).then_some(Tier::Substrate);
        Subject {
            stream: self.stream,
            number: self.number,
            id: body.map(|body| body.receipt_id).or(self.beside),
            tier: body.map(|body| body.tier).or(substrate),
            kind: body.map(|body| body.receipt_kind),
        }
    }

    /// Checks the MAC over the bytes as they are stored.
    pub(super) fn check_mac(&mut self, ring: &Ring<'_>) {
        self.mac = match &self.receipt {
            Err(_) => Mac::NoKey,
            Ok(receipt) => match ring.get(receipt.body.session_epoch, receipt.body.tier) {
                None => Mac::NoKey,
                Some(key) => {
                    let parts = split_signature(&self.stored.bytes);
                    let good =
                        parts.is_some_and(|(body, _)| key.verify(&body, &receipt.hmac_signature));
                    if good { Mac::Good } else { Mac::Bad }
                }
            },
        };
    }
}

/// What stands at a number of a stream.
pub(super) enum Leaf {
    /// A receipt with this hash.
    Present(Hash),
    /// Something that cannot be read, which was reported.
    Damaged,
    /// Nothing.
    Missing,
}

/// Both streams of a session.
pub(super) struct Streams<'a> {
    /// The receipts of stream `d`, by number.
    pub device: Vec<Item<'a>>,
    /// The receipts of stream `s`, by number.
    pub substrate: Vec<Item<'a>>,
    /// Numbers whose block cannot be read, as first and count.
    damaged: Vec<(Stream, u32, u32)>,
    /// Ids of receipts that cannot be read.
    pub unreadable: HashSet<ReceiptId>,
}

impl<'a> Streams<'a> {
    /// Reads all blocks, and checks that the numbers of each stream run from 0 without gap or fork.
    pub(super) fn read(evidence: &'a Evidence, report: &mut Report) -> Self {
        let mut streams = Self {
            device: Vec::new(),
            substrate: Vec::new(),
            damaged: Vec::new(),
            unreadable: HashSet::new(),
        };
        for stream in Stream::ALL {
            let blocks = evidence
                .blocks
                .iter()
                .filter(|block| block.stream == stream);
            let mut blocks: Vec<&StoredBlock> = blocks.collect();
            blocks.sort_by_key(|block| block.first);
            let mut next = 0u32;
            for block in blocks {
                streams.read_block(block, &mut next, report);
            }
        }
        streams
    }

    fn read_block(&mut self, block: &'a StoredBlock, next: &mut u32, report: &mut Report) {
        let (stream, first) = (block.stream, block.first);
        let subject = |number| Subject {
            stream,
            number,
            id: None,
            tier: None,
            kind: None,
        };
        if first > *next {
            let detail = format!(
                "numbers {next} to {} of stream {stream} are missing",
                first - 1
            );
            report.fail(
                CheckKind::Numbering,
                about(Code::StreamGap, subject(*next), detail),
            );
        } else if first < *next {
            let detail = format!("two blocks of stream {stream} hold receipt number {first}");
            report.fail(
                CheckKind::Numbering,
                about(Code::ChainFork, subject(first), detail),
            );
        }
        let damage = match &block.content {
            Err(why) => Some(why.clone()),
            Ok(receipts) if receipts.is_empty() => Some("it holds no receipt".to_owned()),
            Ok(_) => None,
        };
        if let Some(why) = damage {
            let count = block.ids.len().max(1) as u32;
            report.made(CheckKind::Numbering, u64::from(count));
            self.damaged.push((stream, first, count));
            self.unreadable.extend(&block.ids);
            *next = (*next).max(first.saturating_add(count));
            let detail = format!(
                "the block of stream {stream} from number {first} on, {count} receipts by its ids: {why}"
            );
            report.fail(
                CheckKind::Numbering,
                about(Code::BlockDamaged, subject(first), detail),
            );
            return;
        }
        let receipts = block.content.as_deref().unwrap_or_default();
        if block.ids.len() != receipts.len() {
            let detail = format!("{} ids beside {} receipts", block.ids.len(), receipts.len());
            report.fail(
                CheckKind::Numbering,
                about(Code::BlockIds, subject(first), detail),
            );
        }
        report.made(CheckKind::Numbering, receipts.len() as u64);
        let items = match stream {
            Stream::Device => &mut self.device,
            Stream::Substrate => &mut self.substrate,
        };
        for (at, stored) in receipts.iter().enumerate() {
            items.push(Item {
                stream,
                number: first.saturating_add(at as u32),
                stored,
                beside: block.ids.get(at).copied(),
                receipt: Receipt::parse(&stored.bytes),
                hash: Hash::of(&stored.bytes),
                mac: Mac::NoKey,
                repaired: false,
                seal: None,
            });
        }
        *next = (*next).max(first.saturating_add(receipts.len() as u32));
    }

    /// Whether there is nothing, not even something damaged.
    pub(super) fn is_empty(&self) -> bool {
        self.device.is_empty() && self.substrate.is_empty() && self.damaged.is_empty()
    }

    /// All receipts, stream `d` first.
    pub(super) fn items(&self) -> impl Iterator<Item = &Item<'a>> {
        self.device.iter().chain(&self.substrate)
    }

    /// All receipts, to change them.
    pub(super) fn items_mut(&mut self) -> impl Iterator<Item = &mut Item<'a>> {
        self.device.iter_mut().chain(&mut self.substrate)
    }

    /// One of all receipts by its index, stream `d` first.
    pub(super) fn item_mut(&mut self, index: usize) -> Option<&mut Item<'a>> {
        let device = self.device.len();
        match index.checked_sub(device) {
            None => self.device.get_mut(index),
            Some(index) => self.substrate.get_mut(index),
        }
    }

    fn of(&self, stream: Stream) -> &[Item<'a>] {
        match stream {
            Stream::Device => &self.device,
            Stream::Substrate => &self.substrate,
        }
    }

    /// The receipt at a number.
    pub(super) fn at(&self, stream: Stream, number: u32) -> Option<&Item<'a>> {
        let items = self.of(stream);
        // Without gaps a receipt's number is its index.
        if let Some(item) = items
            .get(number as usize)
            .filter(|item| item.number == number)
        {
            return Some(item);
        }
        let at = items
            .binary_search_by_key(&number, |item| item.number)
            .ok()?;
        items.get(at)
    }

    /// What a seal finds at a number.
    pub(super) fn leaf(&self, stream: Stream, number: u32) -> Leaf {
        match self.at(stream, number) {
            // A receipt whose bytes do not verify still has a hash, and a seal over it names the block.
            Some(item) => Leaf::Present(item.hash),
            None => {
                let covers = |&(damaged, first, count): &(Stream, u32, u32)| {
                    damaged == stream && (first..first.saturating_add(count)).contains(&number)
                };
                if self.damaged.iter().any(covers) {
                    Leaf::Damaged
                } else {
                    Leaf::Missing
                }
            }
        }
    }

    /// The number after the last one of a stream.
    pub(super) fn next_number(&self, stream: Stream) -> u32 {
        let items = self
            .of(stream)
            .iter()
            .map(|item| item.number.saturating_add(1));
        let damaged = self
            .damaged
            .iter()
            .filter(|(damaged, ..)| *damaged == stream);
        let damaged = damaged.map(|(_, first, count)| first.saturating_add(*count));
        items.chain(damaged).max().unwrap_or(0)
    }

    /// The tenant that most receipts name.
    pub(super) fn tenant(&self) -> Option<TenantId> {
        let mut tenants: Vec<(&TenantId, u64)> = Vec::new();
        for item in self.items() {
            let Ok(receipt) = &item.receipt else { continue };
            let tenant = &receipt.body.tenant_id;
            // Enough to outvote any splice; a session with more tenants is broken whichever is taken.
            let room = tenants.len() < 16;
            match tenants.iter_mut().find(|(known, _)| *known == tenant) {
                Some((_, count)) => *count += 1,
                None if room => tenants.push((tenant, 1)),
                None => {}
            }
        }
        let most = tenants.into_iter().max_by_key(|(_, count)| *count);
        most.map(|(tenant, _)| tenant.clone())
    }

    /// Whether a receipt names this session and tenant.
    pub(super) fn belongs(item: &Item<'_>, session: &SessionId, tenant: &TenantId) -> bool {
        item.receipt.as_ref().is_ok_and(|receipt| {
            receipt.body.session_id == *session && receipt.body.tenant_id == *tenant
        })
    }

    /// The epochs that receipts name, each once, in the order of their first use.
    pub(super) fn epochs(&self) -> Vec<Epoch> {
        let mut epochs: Vec<Epoch> = Vec::new();
        let mut seen = HashSet::new();
        let mut last = None;
        for item in self.items() {
            let Ok(receipt) = &item.receipt else { continue };
            let epoch = receipt.body.session_epoch;
            if last != Some(epoch) && seen.insert(epoch) {
                epochs.push(epoch);
            }
            last = Some(epoch);
        }
        epochs
    }
}
