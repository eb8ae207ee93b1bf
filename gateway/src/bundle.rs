//! Verifies the bundle of a request before anything is written or computed for it.
//!
//! A [`Book`] is what the ledger held of the session when it was read. A bundle is checked against it receipt by receipt:
//! tier, epoch, HMAC, payload, chain rule, private content, and the seal of a Tier 1 response.

use std::collections::{BTreeSet, HashMap, HashSet};

use halo_receipts::chain::{Chain, ChainError, Event};
use halo_receipts::documents::{EscalateRequest, Operation, Sampling};
use halo_receipts::evidence::{
    BLOCK_MAX, Block, Claim, ClaimKind, Evidence, StoredReceipt, Stream,
};
use halo_receipts::ids::{Epoch, Hash, ReceiptId, RequestId, SessionId, TenantId, Tier};
use halo_receipts::keys::TierKey;
use halo_receipts::merkle;
use halo_receipts::payload::{
    AnswerContent, ContentPolicy, Decision, OrchestratorResponse, Private, Routing, RoutingContent,
};
use halo_receipts::receipt::Receipt;

use crate::keyring::Keyring;

/// Why a bundle is not taken. The device is told `bundle_invalid` and nothing more, where a variant does not say otherwise.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Fields that the operation does not have, or lacks.
    #[error("the request's fields do not fit its operation: {0}")]
    Form(&'static str),
    /// More tokens than one answer may have.
    #[error("the request asks for {asked} tokens, and at most {most} are allowed")]
    TooManyTokens {
        /// What was asked for.
        asked: u32,
        /// The limit.
        most: u32,
    },
    /// A receipt of tier 2, which no device signs.
    #[error("receipt {0} is of tier 2, which no device signs")]
    Tier(ReceiptId),
    /// An epoch that this session never claimed, or one after the connection's.
    #[error("receipt {0} names an epoch that is not this session's")]
    Epoch(ReceiptId),
    /// The HMAC is wrong.
    #[error("the HMAC of receipt {0} is wrong")]
    Hmac(ReceiptId),
    /// The receipt does not follow what stands in the ledger.
    #[error("receipt {id} does not follow the chain: {error}")]
    Chain {
        /// The receipt.
        id: ReceiptId,
        /// Why.
        error: ChainError,
    },
    /// A receipt that the ledger holds with other bytes.
    #[error("receipt {0} stands in the ledger with other content")]
    Differs(ReceiptId),
    /// Private content in another form than the tenant chose, missing, or not readable under its key.
    #[error("the private content of receipt {0} is not what the tenant's policy asks for")]
    Private(ReceiptId),
    /// A seal over other receipts than the session has.
    #[error("the seal in receipt {0} is not over the receipts of this session")]
    Seal(ReceiptId),
    /// A parent that the ledger does not show, or a seal that counts more receipts than it does. What was acknowledged may still wait in
    /// the spill of a pod or of another gateway, so nothing is known to be wrong: the device is told
    /// `ledger_unavailable` at first.
    #[error("receipt {0} builds on receipts that the ledger does not show yet")]
    Behind(ReceiptId),
    /// The routing receipt does not ask for this request and this prompt.
    #[error("the routing receipt does not commit to this request and prompt")]
    Prompt,
    /// Tier 2 has already begun or closed the answer to this routing receipt. Nothing is wrong with the bundle: it is served as `resume`.
    #[error("this decision is already answered")]
    Answered,
}

impl BundleError {
    /// A stable name for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            BundleError::Form(_) => "form",
            BundleError::TooManyTokens { .. } => "too_many_tokens",
            BundleError::Tier(_) => "tier",
            BundleError::Epoch(_) => "epoch",
            BundleError::Hmac(_) => "hmac",
            BundleError::Chain { .. } => "chain",
            BundleError::Differs(_) => "differs",
            BundleError::Private(_) => "private",
            BundleError::Seal(_) => "seal",
            BundleError::Behind(_) => "behind",
            BundleError::Prompt => "prompt",
            BundleError::Answered => "answered",
        }
    }

    /// Whether something signed, or the chain that it stands in, is not what its signer wrote; else the document is only not served.
    pub fn is_integrity(&self) -> bool {
        matches!(
            self,
            BundleError::Hmac(_)
                | BundleError::Chain { .. }
                | BundleError::Differs(_)
                | BundleError::Seal(_)
                | BundleError::Behind(_)
        )
    }
}

/// What the ledger holds cannot be continued.
#[derive(Debug, thiserror::Error)]
#[error(
    "stream {stream} of the session is damaged at number {number}: {cause}; run halo-verify on it"
)]
pub struct Damaged {
    /// The stream.
    pub stream: Stream,
    /// The number of the receipt.
    pub number: u32,
    /// What is wrong.
    pub cause: String,
}

/// What the ledger held of one session, as far as it decides what may come next.
pub struct Book {
    chain: Chain,
    /// The hashes of stream `d`, by number, and of stream `s`.
    device: Vec<Hash>,
    substrate: Vec<Hash>,
    /// The receipts of stream `d` by id.
    known: HashMap<ReceiptId, Hash>,
    /// The parents of the receipts of stream `s`: a routing receipt among them has an answer.
    answered: HashSet<ReceiptId>,
    epochs: BTreeSet<Epoch>,
    links: HashMap<Epoch, u32>,
}

impl Book {
    /// Reads the receipts and claims of a session.
    pub fn read(
        evidence: &Evidence,
        session: SessionId,
        tenant: &TenantId,
    ) -> Result<Self, Damaged> {
        if let Some(block) = evidence.blocks.iter().find(|block| block.content.is_err()) {
            return Err(Damaged {
                stream: block.stream,
                number: block.first,
                cause: "the block cannot be read".to_owned(),
            });
        }
        let mut book = Self {
            chain: Chain::new(session, tenant.clone()),
            device: Vec::new(),
            substrate: Vec::new(),
            known: HashMap::new(),
            answered: HashSet::new(),
            epochs: BTreeSet::new(),
            links: HashMap::new(),
        };
        for claim in &evidence.claims {
            let Ok(claim) = claim.parse::<Claim>() else {
                continue;
            };
            match claim.kind {
                ClaimKind::Epoch => {
                    book.epochs.insert(claim.session_epoch);
                }
                ClaimKind::SubstrateLink => {
                    let next = book.links.entry(claim.session_epoch).or_default();
                    *next = (*next).max(claim.link.saturating_add(1));
                }
                ClaimKind::Connection => {}
            }
        }
        for (stream, number, stored) in evidence.in_causal_order() {
            book.replay(stream, stored).map_err(|cause| Damaged {
                stream,
                number,
                cause,
            })?;
        }
        Ok(book)
    }

    fn replay(&mut self, stream: Stream, stored: &StoredReceipt) -> Result<(), String> {
        let receipt = Receipt::parse(&stored.bytes).map_err(|error| error.to_string())?;
        let event = Event::read(&receipt.body, stored.payload.as_deref())
            .map_err(|error| error.to_string())?;
        self.chain
            .accept(&receipt, &event)
            .map_err(|error| error.to_string())?;
        let hash = Hash::of(&stored.bytes);
        match stream {
            Stream::Device => self.push_device(receipt.body.receipt_id, hash),
            Stream::Substrate => {
                self.substrate.push(hash);
                self.answered
                    .extend(receipt.body.parent.map(|parent| parent.id));
            }
        }
        Ok(())
    }

    fn push_device(&mut self, id: ReceiptId, hash: Hash) {
        self.device.push(hash);
        self.known.insert(id, hash);
    }

    /// The number that the next receipt of stream `d` gets.
    pub fn next_device(&self) -> u32 {
        u32::try_from(self.device.len()).unwrap_or(u32::MAX)
    }

    /// The number of the next link to a pod in this epoch.
    pub fn next_link(&self, epoch: Epoch) -> u32 {
        self.links.get(&epoch).copied().unwrap_or(0)
    }
}

/// What a connection knows of itself, and what its tenant and this gateway allow.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The connection's epoch.
    pub epoch: Epoch,
    /// What the session's header says of private content.
    pub content: ContentPolicy,
    /// The most tokens of one answer.
    pub max_tokens: u32,
}

/// A bundle that may be written.
#[derive(Debug)]
pub struct Accepted {
    /// The receipts that the ledger does not have yet, in blocks for stream `d`.
    pub blocks: Vec<Block>,
    /// For `infer`: the routing receipt that the answer will follow.
    pub routing: Option<ReceiptId>,
    /// How many of the new receipts tell of a broken sensor link.
    pub resets: u32,
}

/// Whether the fields of the document fit its operation. Needs no ledger, so it is checked first.
pub fn check_form(request: &EscalateRequest, terms: &Terms) -> Result<(), BundleError> {
    let empty = request.receipts.is_empty();
    let asks = !request.prompt.is_empty() || request.max_tokens != 0;
    let samples = request.sampling != Sampling::default();
    match request.op {
        _ if request.last_step.is_some() && request.op != Operation::Resume => {
            Err(BundleError::Form("last_step belongs to resume"))
        }
        Operation::Infer if empty => Err(BundleError::Form("infer needs its routing receipt")),
        Operation::Infer if request.prompt.is_empty() || request.max_tokens == 0 => Err(
            BundleError::Form("infer needs a prompt and a number of tokens"),
        ),
        Operation::Infer if request.max_tokens > terms.max_tokens => {
            Err(BundleError::TooManyTokens {
                asked: request.max_tokens,
                most: terms.max_tokens,
            })
        }
        Operation::Infer => Ok(()),
        Operation::Record | Operation::Resume if asks || samples => {
            Err(BundleError::Form("only infer asks for tokens"))
        }
        Operation::Record if empty => Err(BundleError::Form("record needs receipts")),
        Operation::Resume if !empty => Err(BundleError::Form("resume carries no receipts")),
        Operation::Record | Operation::Resume => Ok(()),
    }
}

/// Whether the bundle holds the seal of a whole session, for which the book has to be as new as the ledger.
pub fn has_seal(request: &EscalateRequest) -> bool {
    let response = halo_receipts::receipt::ReceiptKind::TierResponse;
    let mut kinds = request.receipts.iter().map(|r| r.body.receipt_kind);
    kinds.any(|kind| kind == response)
}

/// Checks every receipt of the bundle and enters it in the book. After an error the book is not to be used any more: it
/// may hold a part of the bundle. Receipts that stand in the ledger already, with the same bytes, are passed over, so
/// that a device whose connection broke before it heard of them can send them again.
pub fn verify(
    book: &mut Book,
    ring: &mut Keyring,
    terms: &Terms,
    request: &EscalateRequest,
) -> Result<Accepted, BundleError> {
    check_form(request, terms)?;
    let first = book.next_device();
    let (mut new, mut resets) = (Vec::new(), 0);
    let mut last = None;
    for (receipt, payload) in request.receipts.iter().zip(&request.payloads) {
        let payload = payload.as_ref().map(|raw| raw.get().as_bytes());
        let event = verify_one(book, ring, terms, receipt, payload)?;
        let bytes = receipt.to_bytes();
        let (id, hash) = (receipt.body.receipt_id, Hash::of(&bytes));
        match book.known.get(&id) {
            Some(known) if *known == hash => {}
            Some(_) => return Err(BundleError::Differs(id)),
            None => {
                let accepted = book.chain.accept(receipt, &event);
                accepted.map_err(|error| match error.is_behind(receipt, &request.receipts) {
                    true => BundleError::Behind(id),
                    false => BundleError::Chain { id, error },
                })?;
                book.push_device(id, hash);
                if let Event::Routing(routing) = &event
                    && routing.decision == Decision::VerificationFailed
                {
                    resets += 1;
                }
                new.push(StoredReceipt {
                    bytes,
                    payload: payload.map(<[u8]>::to_vec),
                });
            }
        }
        last = Some((receipt, event));
    }
    let routing = match request.op {
        Operation::Infer => Some(verify_prompt(book, ring, terms, request, last)?),
        Operation::Record | Operation::Resume => None,
    };
    Ok(Accepted {
        blocks: blocks(first, new),
        routing,
        resets,
    })
}

fn verify_one(
    book: &Book,
    ring: &mut Keyring,
    terms: &Terms,
    receipt: &Receipt,
    payload: Option<&[u8]>,
) -> Result<Event, BundleError> {
    let body = &receipt.body;
    let id = body.receipt_id;
    if body.tier == Tier::Substrate {
        return Err(BundleError::Tier(id));
    }
    let epoch = body.session_epoch;
    if epoch > terms.epoch || !book.epochs.contains(&epoch) {
        return Err(BundleError::Epoch(id));
    }
    let key = ring.tier_key(epoch, body.tier);
    let key = key.ok_or(BundleError::Epoch(id))?;
    if !receipt.verify(&key) {
        return Err(BundleError::Hmac(id));
    }
    let event = Event::read(body, payload).map_err(|error| BundleError::Chain { id, error })?;
    match &event {
        Event::Routing(routing) => check_routing(routing, terms.content, &key, &id)?,
        Event::OrchestratorResponse(response) => {
            let private = response.private();
            check_private::<AnswerContent>(private.as_ref(), true, terms.content, &key, &id)?;
            if !book.known.contains_key(&id) {
                check_seal(book, response, &id)?;
            }
        }
        _ => {}
    }
    Ok(event)
}

fn check_routing(
    routing: &Routing,
    policy: ContentPolicy,
    key: &TierKey,
    id: &ReceiptId,
) -> Result<(), BundleError> {
    let needed = routing.decision == Decision::Escalate;
    let private = routing.private();
    check_private::<RoutingContent>(private.as_ref(), needed, policy, key, id)
}

/// Private content stands in the form that the tenant chose, and what is sealed opens: a ledger must not fill up with
/// what nobody can ever read, and a tenant that keeps nothing must not find text kept.
fn check_private<T: serde::Serialize + for<'de> serde::Deserialize<'de>>(
    private: Option<&Private>,
    needed: bool,
    policy: ContentPolicy,
    key: &TierKey,
    id: &ReceiptId,
) -> Result<(), BundleError> {
    let good = match (private, policy) {
        (None, _) => !needed,
        (Some(Private::Commitment(_)), ContentPolicy::Omit) => true,
        (Some(private @ Private::Sealed(_)), ContentPolicy::Sealed) => {
            private.open::<T>(&key.payload_key(), id).is_ok()
        }
        _ => false,
    };
    if good {
        Ok(())
    } else {
        Err(BundleError::Private(*id))
    }
}

fn check_seal(
    book: &Book,
    response: &OrchestratorResponse,
    id: &ReceiptId,
) -> Result<(), BundleError> {
    let shown = [&book.device, &book.substrate].map(|hashes| hashes.len() as u64);
    let sealed = [response.device_receipts, response.substrate_receipts].map(u64::from);
    if sealed
        .iter()
        .zip(&shown)
        .any(|(sealed, shown)| sealed > shown)
    {
        return Err(BundleError::Behind(*id));
    }
    let root = || merkle::root(book.device.iter().chain(&book.substrate));
    if sealed == shown && response.root == root() {
        Ok(())
    } else {
        Err(BundleError::Seal(*id))
    }
}

/// The last receipt of an `infer` decides to escalate this very request, and commits to this very prompt.
fn verify_prompt(
    book: &Book,
    ring: &mut Keyring,
    terms: &Terms,
    request: &EscalateRequest,
    last: Option<(&Receipt, Event)>,
) -> Result<ReceiptId, BundleError> {
    let Some((receipt, Event::Routing(routing))) = last else {
        return Err(BundleError::Prompt);
    };
    let id = receipt.body.receipt_id;
    let same_request =
        routing.decision == Decision::Escalate && routing.request_id == Some(request.request_id);
    let key = ring.tier_key(receipt.body.session_epoch, Tier::Orchestrator);
    let key = key.ok_or(BundleError::Epoch(id))?;
    // Sealing and committing are deterministic for one receipt, so the content is made again and compared.
    let content = RoutingContent::new(&request.prompt);
    let private = Private::new(&content, terms.content, &key.payload_key(), &id);
    let same_prompt = private
        .ok()
        .is_some_and(|made| routing.private() == Some(made));
    if !(same_request && same_prompt) {
        return Err(BundleError::Prompt);
    }
    if book.answered.contains(&id) {
        return Err(BundleError::Answered);
    }
    Ok(id)
}

fn blocks(first: u32, receipts: Vec<StoredReceipt>) -> Vec<Block> {
    let mut next = first;
    let mut blocks = Vec::new();
    let mut receipts = receipts.into_iter().peekable();
    while receipts.peek().is_some() {
        let receipts: Vec<_> = receipts.by_ref().take(BLOCK_MAX).collect();
        let first = next;
        next = next.saturating_add(u32::try_from(receipts.len()).unwrap_or(u32::MAX));
        blocks.push(Block {
            stream: Stream::Device,
            first,
            receipts,
        });
    }
    blocks
}

/// The request's id, read from a document that may be wrong in every other respect, so that its refusal can name it.
pub fn request_id_of(document: &[u8]) -> Option<RequestId> {
    #[derive(serde::Deserialize)]
    struct Named {
        request_id: RequestId,
    }
    let named: Named = serde_json::from_slice(document).ok()?;
    Some(named.request_id)
}
