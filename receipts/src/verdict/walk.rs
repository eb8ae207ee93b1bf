//! Walks the chain: payloads, parents and their rules, epochs, times, and the copies beside the receipts.

use std::collections::{HashMap, HashSet};

use crate::attribution;
use crate::chain::{Chain, ChainError, Event};
use crate::evidence::{Attributes, Evidence, Stream};
use crate::experts::ExpertSet;
use crate::ids::{Epoch, ReceiptId, SessionId, TenantId, Tier};
use crate::payload::{
    AnswerStatus, Answerer, Decision, ExpertLoad, OrchestratorResponse, Private, Routing,
    SubstrateResponse, SubstrateSeal, TokenEmit, V1,
};
use crate::receipt::{Receipt, ReceiptKind};
use crate::time::Timestamp;

use super::reading::{Item, Mac, Report, Seal, Streams, about};
use super::{CheckKind, Code, Finding, Options, RecordedBreak};

/// How far a receipt's time may lie before its parent's, in microseconds.
const CLOCK_TOLERANCE: u64 = 120 * 1_000_000;

/// The state of a walk.
pub(super) struct Walk<'w> {
    chain: Chain,
    /// The epochs that were claimed, rising.
    claimed: &'w [Epoch],
    options: &'w Options,
    report: &'w mut Report,
    times: HashMap<ReceiptId, Timestamp>,
    /// Receipts whose payload cannot be read, and what follows them: their place cannot be judged.
    unclear: HashSet<ReceiptId>,
    /// Receipts that cannot be read. Their children's parents are missing for a reason that was reported.
    unreadable: HashSet<ReceiptId>,
    /// Whether a receipt was left out of the chain because it cannot be read.
    holes: bool,
    searches: u32,
    unclaimed: HashSet<Epoch>,
    breaks: Vec<RecordedBreak>,
}

impl<'w> Walk<'w> {
    pub(super) fn new(
        session: SessionId,
        tenant: TenantId,
        claimed: &'w [Epoch],
        options: &'w Options,
        report: &'w mut Report,
    ) -> Self {
        Self {
            chain: Chain::new(session, tenant),
            claimed,
            options,
            report,
            times: HashMap::new(),
            unclear: HashSet::new(),
            unreadable: HashSet::new(),
            holes: false,
            searches: options.searches,
            unclaimed: HashSet::new(),
            breaks: Vec::new(),
        }
    }

    /// Walks both streams in an order in which parents come before their children. Returns the breaks on the way.
    pub(super) fn run(mut self, streams: &mut Streams<'_>) -> Vec<RecordedBreak> {
        self.unreadable = std::mem::take(&mut streams.unreadable);
        self.holes = !self.unreadable.is_empty();
        self.times
            .reserve(streams.device.len() + streams.substrate.len());
        let mut next = 0;
        for at in 0..streams.device.len() {
            let event = self.read(&streams.device[at]);
            let upto = drained(streams, &streams.device[at], event.as_ref());
            while let Some(item) = streams
                .substrate
                .get_mut(next)
                .filter(|item| item.number < upto)
            {
                let event = self.read(item);
                self.visit(item, event);
                next += 1;
            }
            self.visit(&mut streams.device[at], event);
        }
        for item in streams.substrate.iter_mut().skip(next) {
            let event = self.read(item);
            self.visit(item, event);
        }
        self.breaks
    }

    /// Reads the payload of a receipt; none if that cannot be done, which is then reported.
    fn read(&mut self, item: &Item<'_>) -> Option<Event> {
        let receipt = item.receipt.as_ref().ok()?;
        self.report.made(CheckKind::Payloads, 1);
        let stored = item.stored.payload.as_deref();
        match Event::read(&receipt.body, stored) {
            Ok(event) => Some(event),
            Err(ChainError::Payload(error)) => {
                let finding = about(Code::PayloadForm, item.subject(), error.to_string());
                self.report.fail(CheckKind::Payloads, finding);
                None
            }
            Err(_) => self.read_damaged(item, receipt),
        }
    }

    /// Reports a payload that does not have its hash, and reads it as it was if the changed byte can be told.
    fn read_damaged(&mut self, item: &Item<'_>, receipt: &Receipt) -> Option<Event> {
        let capture = receipt.body.receipt_kind == ReceiptKind::SensorCapture;
        let detail = match &item.stored.payload {
            None => "its payload is not there",
            Some(_) if capture => "a payload stands beside a capture, which has none",
            Some(_) => "its payload does not have the SHA-256 that the receipt holds",
        };
        let mut finding = about(Code::PayloadHash, item.subject(), detail);
        let mut event = None;
        if capture {
            event = Some(Event::Capture);
        } else if let Some(stored) = &item.stored.payload
            && self.searches > 0
        {
            self.searches -= 1;
            let hash = &receipt.body.event_payload_hash;
            finding.damage = attribution::payload(stored, hash, self.options.search_budget);
            if let Some(damage) = &finding.damage
                && let Some(old) = damage.old
            {
                let mut right = stored.clone();
                if let Some(byte) = right.get_mut(damage.offset) {
                    *byte = old;
                }
                event = Event::read(&receipt.body, Some(&right)).ok();
            }
        }
        self.report.fail(CheckKind::Payloads, finding);
        event
    }

    /// Judges one receipt's place and adds it to the chain.
    fn visit(&mut self, item: &mut Item<'_>, event: Option<Event>) {
        let subject = item.subject();
        if let (Some(beside), Ok(receipt)) = (item.beside, &item.receipt)
            && beside != receipt.body.receipt_id
        {
            let detail = format!("the id {beside} stands beside it");
            let finding = about(Code::BlockIds, subject, detail);
            self.report.fail(CheckKind::Numbering, finding);
        }
        let Ok(receipt) = &item.receipt else {
            self.unreadable.extend(item.beside);
            self.holes = true;
            return;
        };
        let body = &receipt.body;
        self.report.made(CheckKind::Parents, 1);
        if (body.tier == Tier::Substrate) != (item.stream == Stream::Substrate) {
            let detail = format!(
                "a receipt of tier {} stands in stream {}",
                body.tier, item.stream
            );
            let finding = about(Code::ReceiptTier, subject, detail);
            self.report.fail(CheckKind::Parents, finding);
        }
        if self.claimed.binary_search(&body.session_epoch).is_err()
            && self.unclaimed.insert(body.session_epoch)
        {
            let detail = format!("epoch {} was never claimed", body.session_epoch);
            let finding = about(Code::EpochUnclaimed, subject, detail);
            self.report.fail(CheckKind::Parents, finding);
        }
        let follows_unclear = body
            .parent
            .is_some_and(|parent| self.unclear.contains(&parent.id));
        let clear = event.is_some();
        let event = event.unwrap_or_else(|| stand_in(receipt));
        if let Err(error) = self.chain.check(receipt, &event) {
            let by_itself = clear && !follows_unclear;
            if let Some((code, detail)) = self.translate(item, error, by_itself) {
                self.report
                    .fail(CheckKind::Parents, about(code, subject, detail));
            }
        }
        if (!clear || follows_unclear) && body.receipt_kind != ReceiptKind::SensorCapture {
            self.unclear.insert(body.receipt_id);
        }
        self.chain.insert_hashed(receipt, &event, item.hash);
        if let Some(finding) = self.check_time(item, receipt) {
            self.report.fail(CheckKind::Times, finding);
        }
        self.times.insert(body.receipt_id, body.timestamp_utc);
        if let Event::Routing(Routing {
            break_found: Some(found),
            ..
        }) = &event
        {
            self.breaks.push(RecordedBreak {
                receipt_id: body.receipt_id,
                broken_epoch: found.epoch,
                session_epoch: body.session_epoch,
                first_bad: found.first_bad,
                reason: found.reason.clone(),
            });
        }
        item.seal = match event {
            Event::SubstrateResponse(response) if clear => Some(Seal::Answer(response)),
            Event::OrchestratorResponse(response) if clear => Some(Seal::Session(response)),
            _ => None,
        };
    }

    /// The finding that a chain error amounts to; none if it only follows from something that was reported.
    fn translate(
        &self,
        item: &Item<'_>,
        error: ChainError,
        by_itself: bool,
    ) -> Option<(Code, String)> {
        let detail = error.to_string();
        let parent = item
            .receipt
            .as_ref()
            .ok()
            .and_then(|receipt| receipt.body.parent);
        let code = match error {
            ChainError::Binding("request_id") if !by_itself => return None,
            ChainError::Binding(_) => Code::SessionBinding,
            ChainError::Tier(..) => Code::ReceiptTier,
            ChainError::Duplicate => Code::ReceiptDuplicate,
            ChainError::ParentMissing => {
                let parent = parent?;
                if self.unreadable.contains(&parent.id) {
                    return None;
                }
                let detail = format!("its parent {} is not in the session before it", parent.id);
                return Some((Code::ParentMissing, detail));
            }
            ChainError::ParentHash { expected } => {
                let parent = parent?;
                let detail = format!(
                    "its parent {} has the hash {expected}, and the receipt holds {}",
                    parent.id, parent.hash
                );
                return Some((Code::ParentHash, detail));
            }
            // What stands before a hole is not known, so neither is what should have followed.
            _ if !by_itself || self.holes => return None,
            ChainError::NoParent | ChainError::ParentKind(_) => Code::ParentRule,
            ChainError::Fork => Code::ChainFork,
            ChainError::Step => Code::ChainStep,
            ChainError::SealCount { .. } => Code::SealCount,
            ChainError::PayloadHash => Code::PayloadHash,
            ChainError::Payload(_) => Code::PayloadForm,
        };
        Some((code, detail))
    }

    fn check_time(&mut self, item: &Item<'_>, receipt: &Receipt) -> Option<Finding> {
        let parent = receipt.body.parent?;
        let before = *self.times.get(&parent.id)?;
        self.report.made(CheckKind::Times, 1);
        let time = receipt.body.timestamp_utc;
        let backwards = before.micros().saturating_sub(time.micros());
        (backwards > CLOCK_TOLERANCE).then(|| {
            let detail = format!(
                "its time {time} lies {} seconds before its parent's",
                backwards / 1_000_000
            );
            about(Code::TimeNonMonotonic, item.subject(), detail)
        })
    }
}

/// Up to which number of stream `s` the receipts come before a receipt of stream `d`: what a seal covers, and the parent.
fn drained(streams: &Streams<'_>, item: &Item<'_>, event: Option<&Event>) -> u32 {
    let sealed = match event {
        Some(Event::OrchestratorResponse(response)) => response.substrate_receipts,
        Some(_) => return 0,
        None => 0,
    };
    let Ok(receipt) = &item.receipt else { return 0 };
    if receipt.body.receipt_kind != ReceiptKind::TierResponse || event.is_some() {
        return sealed;
    }
    // The payload cannot be read; the parent still says how far the pod was.
    let parent = receipt.body.parent.map(|parent| parent.id);
    let is_parent = |item: &&Item<'_>| {
        let id = item
            .receipt
            .as_ref()
            .ok()
            .map(|receipt| receipt.body.receipt_id);
        id == parent
    };
    let parent = streams.substrate.iter().find(is_parent);
    parent.map_or(0, |item| item.number.saturating_add(1))
}

/// What stands in the chain for a payload that cannot be read, so that its receipt can be a parent. Nothing is judged by it.
fn stand_in(receipt: &Receipt) -> Event {
    let private = Private::Sealed(String::new());
    let root = crate::ids::Hash([0; 32]);
    match (receipt.body.receipt_kind, receipt.body.tier) {
        (ReceiptKind::SensorCapture, _) => Event::Capture,
        (ReceiptKind::TierRouting, _) => Event::Routing(Routing::new(Decision::Escalate, "", "")),
        (ReceiptKind::ExpertLoad, _) => Event::ExpertLoad(ExpertLoad {
            v: V1,
            step: 0,
            experts: ExpertSet::new(0, 0),
            loaded: None,
            model: None,
        }),
        (ReceiptKind::TokenEmit, _) => Event::TokenEmit(TokenEmit::new(0, private)),
        (ReceiptKind::TierResponse, Tier::Substrate) => {
            let seal = SubstrateSeal {
                request_id: crate::ids::RequestId::from_random([0; 16]),
                status: AnswerStatus::Interrupted,
                finish: String::new(),
                model: String::new(),
                prompt_tokens: 0,
                completion_tokens: 0,
                first: 0,
                ids: None,
                receipts: 0,
                root,
                blocks: Vec::new(),
            };
            Event::SubstrateResponse(SubstrateResponse::new(seal, private))
        }
        (ReceiptKind::TierResponse, _) => Event::OrchestratorResponse(OrchestratorResponse::new(
            AnswerStatus::Interrupted,
            Answerer::Local,
            0,
            0,
            root,
            private,
        )),
    }
}

/// Compares the searchable copies with the receipts.
pub(super) fn attributes(streams: &Streams<'_>, evidence: &Evidence, report: &mut Report) {
    for row in &evidence.attributes {
        let (stream, number) = row.position;
        report.made(CheckKind::Attributes, row.fields.len() as u64);
        match streams.at(stream, number) {
            Some(item) => compare(item, row, report),
            None => {
                let detail = format!(
                    "searchable fields stand for number {number} of stream {stream}, where no receipt can be read"
                );
                let mut finding = super::reading::overall(Code::Attribute, detail);
                finding.suffix = Some("receipt_id".to_owned());
                report.fail(CheckKind::Attributes, finding);
            }
        }
    }
}

fn compare(item: &Item<'_>, row: &Attributes, report: &mut Report) {
    let Ok(receipt) = &item.receipt else { return };
    // A receipt that does not verify is no measure for its copy.
    if item.mac == Mac::Bad {
        return;
    }
    for (name, copy) in &row.fields {
        let signed = field_text(receipt, name);
        if signed.as_ref() != Some(copy) {
            let say = |value: &Option<String>| match value {
                Some(text) => format!("{text:?}"),
                None => "null".to_owned(),
            };
            let detail = match &signed {
                Some(signed) => format!("the copy says {}, the receipt {}", say(copy), say(signed)),
                None => "a receipt has no such field".to_owned(),
            };
            let mut finding = about(Code::Attribute, item.subject(), detail);
            finding.suffix = Some(name.clone());
            report.fail(CheckKind::Attributes, finding);
        }
    }
}

/// The text of a field as a searchable copy holds it; `None` for a field that a receipt does not have.
fn field_text(receipt: &Receipt, name: &str) -> Option<Option<String>> {
    let body = &receipt.body;
    Some(match name {
        "event_payload_hash" => Some(body.event_payload_hash.to_string()),
        "hmac_signature" => Some(crate::hex::encode(&receipt.hmac_signature)),
        "parent_receipt_hash" => body.parent.map(|parent| parent.hash.to_string()),
        "parent_receipt_id" => body.parent.map(|parent| parent.id.to_string()),
        "receipt_id" => Some(body.receipt_id.to_string()),
        "receipt_kind" => Some(body.receipt_kind.to_string()),
        "session_epoch" => Some(body.session_epoch.to_string()),
        "session_id" => Some(body.session_id.to_string()),
        "tenant_id" => Some(body.tenant_id.to_string()),
        "tier" => Some(body.tier.to_string()),
        "timestamp_utc" => Some(body.timestamp_utc.to_string()),
        _ => return None,
    })
}
