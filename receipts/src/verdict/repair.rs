//! Finds out which bytes of a damaged receipt were changed, and goes on with what its signer wrote, so that one changed
//! byte is one finding and not also one for each seal and child that commits to it.

use std::collections::HashMap;

use crate::attribution::{self, Context};
use crate::evidence::{Attributes, Evidence, Stream};
use crate::ids::{Epoch, Hash, ReceiptId, SessionId, TenantId};

use super::keys::Ring;
use super::reading::{Item, Mac, Report, Streams, about};
use super::{CheckKind, Code, Options};

/// What the repair needs to know of the session.
pub(super) struct Scene<'a, 'k> {
    pub session_id: SessionId,
    pub tenant_id: &'a TenantId,
    /// The epochs that were claimed, rising.
    pub epochs: &'a [Epoch],
    pub evidence: &'a Evidence,
    pub ring: &'a Ring<'k>,
    pub options: &'a Options,
}

/// Judges form and MAC of every receipt, and repairs what can be proved.
pub(super) fn judge(streams: &mut Streams<'_>, scene: &Scene<'_, '_>, report: &mut Report) {
    let mut counts = (0u64, 0u64);
    for item in streams.items() {
        counts.0 += 1;
        counts.1 += u64::from(item.mac != Mac::NoKey);
    }
    report.made(CheckKind::Form, counts.0);
    report.made(CheckKind::Signatures, counts.1);
    let suspects = suspects(streams, scene);
    if suspects.is_empty() {
        return;
    }
    let attributes: HashMap<(Stream, u32), &Attributes> = {
        let rows = scene.evidence.attributes.iter();
        rows.map(|row| (row.position, row)).collect()
    };
    for (tried, suspect) in (0u32..).zip(suspects) {
        // Structure alone is cheap, but not free: what is broken a hundredfold is not repaired piece by piece.
        let search = tried < scene.options.searches;
        let attempt = tried < scene.options.searches.saturating_mul(4);
        let known = attempt.then(|| Known::of(streams, suspect));
        let Some(item) = streams.item_mut(suspect.index) else {
            continue;
        };
        let repaired = known.and_then(|known| repair(item, scene, &known, &attributes, search));
        judge_one(item, suspect, repaired, scene, report);
    }
}

/// Why a receipt is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It is not in canonical form.
    Form,
    /// Its MAC is bad.
    Mac,
    /// There is no key for it, and its epoch is none that was claimed.
    Epoch,
    /// There is no key for it, and a child says that its hash is this.
    Child(Hash),
}

#[derive(Clone, Copy)]
struct Suspect {
    /// The index among all receipts.
    index: usize,
    why: Why,
}

/// The receipts that something is wrong with by themselves, or by what a child says of them where no key can tell.
fn suspects(streams: &Streams<'_>, scene: &Scene<'_, '_>) -> Vec<Suspect> {
    let mut suspects = Vec::new();
    let mut keyless = false;
    for (index, item) in streams.items().enumerate() {
        let why = match (&item.receipt, item.mac) {
            (Err(_), _) => Why::Form,
            (Ok(_), Mac::Bad) => Why::Mac,
            (Ok(_), Mac::Good) => continue,
            (Ok(receipt), Mac::NoKey) => {
                keyless = true;
                if scene
                    .epochs
                    .binary_search(&receipt.body.session_epoch)
                    .is_ok()
                {
                    continue;
                }
                Why::Epoch
            }
        };
        suspects.push(Suspect { index, why });
    }
    if keyless {
        suspects.extend(contradicted(streams));
    }
    suspects
}

/// The receipts without a key whose hash is not the one that a child holds.
fn contradicted(streams: &Streams<'_>) -> Vec<Suspect> {
    let mut said: HashMap<ReceiptId, Hash> = HashMap::new();
    for item in streams.items() {
        if let Ok(receipt) = &item.receipt
            && let Some(parent) = receipt.body.parent
        {
            said.insert(parent.id, parent.hash);
        }
    }
    let mut suspects = Vec::new();
    for (index, item) in streams.items().enumerate() {
        let Ok(receipt) = &item.receipt else { continue };
        // The id may be what was changed; then the one beside the block is the one that children name.
        let ids = [item.beside, Some(receipt.body.receipt_id)];
        let mut said = ids.into_iter().flatten().filter_map(|id| said.get(&id));
        if item.mac == Mac::NoKey
            && let Some(&hash) = said.find(|hash| **hash != item.hash)
        {
            let why = Why::Child(hash);
            suspects.push(Suspect { index, why });
        }
    }
    suspects
}

/// What the other receipts say.
struct Known {
    receipts: HashMap<ReceiptId, Hash>,
    /// What children say of their parents' hashes.
    children: HashMap<ReceiptId, Hash>,
}

impl Known {
    fn of(streams: &Streams<'_>, suspect: Suspect) -> Self {
        let mut known = Self {
            receipts: HashMap::new(),
            children: HashMap::new(),
        };
        for (index, item) in streams.items().enumerate() {
            let Ok(receipt) = &item.receipt else { continue };
            if index == suspect.index || item.mac == Mac::Bad {
                continue;
            }
            known.receipts.insert(receipt.body.receipt_id, item.hash);
            if let Some(parent) = receipt.body.parent {
                known.children.insert(parent.id, parent.hash);
            }
        }
        known
    }
}

fn repair(
    item: &Item<'_>,
    scene: &Scene<'_, '_>,
    known: &Known,
    attributes: &HashMap<(Stream, u32), &Attributes>,
    search: bool,
) -> Option<attribution::Repaired> {
    let id = item.beside.or(item
        .receipt
        .as_ref()
        .ok()
        .map(|receipt| receipt.body.receipt_id));
    let context = Context {
        session_id: scene.session_id,
        tenant_id: scene.tenant_id,
        epochs: scene.epochs,
        stream: item.stream,
        id: item.beside,
        payload: item.stored.payload.as_deref(),
        attributes: attributes.get(&(item.stream, item.number)).copied(),
        receipts: &known.receipts,
        child: id.and_then(|id| known.children.get(&id).copied()),
    };
    let keys = |epoch, tier| scene.ring.get(epoch, tier);
    attribution::receipt(&item.stored.bytes, &context, &keys, search)
}

/// Reports a suspect, and puts what its signer wrote in its place if that could be proved.
fn judge_one(
    item: &mut Item<'_>,
    suspect: Suspect,
    repaired: Option<attribution::Repaired>,
    scene: &Scene<'_, '_>,
    report: &mut Report,
) {
    let belongs = Streams::belongs(item, &scene.session_id, scene.tenant_id);
    let form = item.receipt.as_ref().err().map(ToString::to_string);
    let damage = repaired.map(|repaired| {
        let body = &repaired.receipt.body;
        let key = scene.ring.get(body.session_epoch, body.tier);
        item.mac = if key.is_some() { Mac::Good } else { Mac::NoKey };
        item.hash = repaired.receipt.hash();
        item.receipt = Ok(repaired.receipt);
        item.repaired = true;
        repaired.damage
    });
    let keyed = match &item.receipt {
        Ok(receipt) => {
            let body = &receipt.body;
            scene.ring.get(body.session_epoch, body.tier).is_some()
        }
        Err(_) => false,
    };
    let (kind, code, detail) = match suspect.why {
        Why::Form => {
            let form = form.unwrap_or_default();
            if keyed {
                report.made(CheckKind::Signatures, 1);
                (
                    CheckKind::Signatures,
                    Code::ReceiptHmac,
                    format!("its bytes do not verify: {form}"),
                )
            } else {
                (CheckKind::Form, Code::ReceiptForm, form)
            }
        }
        // A whole receipt of another session is reported by the chain as what it is.
        Why::Mac if damage.is_none() && !belongs => return,
        Why::Mac => (
            CheckKind::Signatures,
            Code::ReceiptHmac,
            "its bytes do not verify under the key of its epoch and tier".to_owned(),
        ),
        // What cannot be repaired here is reported with its epoch, or at the child that disagrees.
        Why::Epoch | Why::Child(_) if damage.is_none() => return,
        Why::Epoch => (
            CheckKind::Parents,
            Code::EpochUnclaimed,
            "its session_epoch is none that was claimed".to_owned(),
        ),
        Why::Child(hash) => (
            CheckKind::Parents,
            Code::ParentHash,
            format!("the receipt after it holds the hash {hash} of it, and its bytes have another"),
        ),
    };
    let mut finding = about(code, item.subject(), detail);
    finding.damage = damage;
    report.fail(kind, finding);
}
