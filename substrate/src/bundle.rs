//! What a request brings to prove that it may be answered, checked before anything is computed or written.
//!
//! Two steps: [`authenticate`] needs keys alone, so a forged bundle costs no read of the ledger; [`Bundle::place`] compares
//! with what the ledger holds of the session.

use std::collections::{HashMap, HashSet};

use halo_receipts::chain::{Chain, ChainError, Event};
use halo_receipts::documents::{EndCode, EscalateRequest, Operation};
use halo_receipts::evidence::{Claim, ClaimKind, Evidence, Header, SignedRecord, Stream};
use halo_receipts::experts::ExpertSet;
use halo_receipts::ids::{Epoch, Hash, ReceiptId, RequestId, SessionId, TenantId, Tier};
use halo_receipts::keys::{TenantKeys, TierKey};
use halo_receipts::payload::{
    ContentPolicy, Decision, ExpertLoad, PayloadError, Private, Routing, RoutingContent, V1,
};
use halo_receipts::receipt::{Parent, Receipt, ReceiptKind, Unsigned};

use crate::generate::Params;
use crate::sampling::Sampling;

/// The session and epoch that a link belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkId {
    /// The pod's one tenant.
    pub tenant_id: TenantId,
    /// The session.
    pub session_id: SessionId,
    /// The epoch.
    pub session_epoch: Epoch,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A pod only answers; the gateway records and resumes.
    #[error("a pod answers `infer` only")]
    Operation,
    /// A field that an `infer` cannot have.
    #[error("{0}")]
    Request(&'static str),
    /// No receipt, or one too many.
    #[error("the bundle ends with the routing receipt that escalates the request")]
    NoRouting,
    /// A receipt of another session or tenant, of tier 2, or of an epoch that is not claimed or still to come.
    #[error("receipt {0} does not belong here: {1}")]
    Foreign(ReceiptId, &'static str),
    /// A key that this pod does not hold.
    #[error("the keys of epoch {0} are not here")]
    Keys(Epoch),
    /// A receipt that its tier did not sign.
    #[error("receipt {0} is not signed by its tier")]
    Signature(ReceiptId),
    /// A payload that is not its receipt's, or a receipt that has no place in the chain.
    #[error("receipt {id}: {error}")]
    Chain {
        /// The receipt.
        id: ReceiptId,
        /// What is wrong with it.
        error: ChainError,
    },
    /// A parent that the ledger does not show: what was acknowledged may still wait in a gateway's spill.
    #[error("receipt {0} builds on receipts that the ledger does not show yet")]
    Behind(ReceiptId),
    /// A receipt under whose id the ledger holds other bytes, or in another order.
    #[error("receipt {0} is not the one in the ledger")]
    Differs(ReceiptId),
    /// The routing receipt is about another prompt.
    #[error("the routing receipt does not commit to this prompt")]
    Prompt,
    /// The routing receipt was answered before, or is being answered.
    #[error("the request was answered before")]
    Answered,
    /// The ledger's record of the session cannot be relied on.
    #[error("the ledger's record of the session is unusable: {0}")]
    Ledger(&'static str),
}

impl BundleError {
    /// The code that the other side gets.
    pub fn code(&self) -> EndCode {
        match self {
            BundleError::Ledger(_) | BundleError::Behind(_) => EndCode::LedgerUnavailable,
            BundleError::Keys(_) => EndCode::Unavailable,
            // Another gateway had it answered meanwhile. The one that asks finds the answer in the ledger when it looks again.
            BundleError::Answered => EndCode::Busy,
            _ => EndCode::BundleInvalid,
        }
    }
}

/// A request whose receipts are signed by who they say, for this session.
#[derive(Debug)]
pub struct Bundle {
    /// The request's id.
    pub request_id: RequestId,
    /// What to answer.
    pub prompt: String,
    /// How.
    pub params: Params,
    receipts: Vec<(Receipt, Event)>,
}

/// A request that may be answered.
#[derive(Debug)]
pub struct Accepted {
    /// The request's id.
    pub request_id: RequestId,
    /// What to answer.
    pub prompt: String,
    /// How.
    pub params: Params,
    /// The routing receipt that escalates it.
    pub routing: Parent,
    /// The chain of tiers 0 and 1 up to it.
    pub chain: Chain,
    /// What the tenant wants done with private content.
    pub content: ContentPolicy,
    /// The number in stream `s` of the answer's first receipt.
    pub first: u32,
}

/// TIER_KEY of one tier in one epoch of the link's session.
fn tier_key(
    link: &LinkId,
    keys: &dyn TenantKeys,
    epoch: Epoch,
    tier: Tier,
) -> Result<TierKey, BundleError> {
    let session_key = keys.session_key(&link.tenant_id, &link.session_id, epoch);
    Ok(session_key.ok_or(BundleError::Keys(epoch))?.tier_key(tier))
}

/// Checks all that needs no ledger: the request's fields, and for each receipt where it belongs, its HMAC and its
/// payload; and that the last one commits to the prompt.
///
/// # Errors
/// The first thing that is wrong.
pub fn authenticate(
    link: &LinkId,
    keys: &dyn TenantKeys,
    request: EscalateRequest,
) -> Result<Bundle, BundleError> {
    let params = check_fields(&request)?;
    let mut receipts = Vec::with_capacity(request.receipts.len());
    for (receipt, payload) in request.receipts.into_iter().zip(&request.payloads) {
        let (id, body) = (receipt.body.receipt_id, &receipt.body);
        let foreign = |why| Err(BundleError::Foreign(id, why));
        if body.session_id != link.session_id {
            return foreign("another session");
        }
        if body.tenant_id != link.tenant_id {
            return foreign("another tenant");
        }
        if body.tier == Tier::Substrate {
            return foreign("a receipt of tier 2");
        }
        if body.session_epoch > link.session_epoch {
            return foreign("an epoch after the link's");
        }
        if !receipt.verify(&tier_key(link, keys, body.session_epoch, body.tier)?) {
            return Err(BundleError::Signature(id));
        }
        let payload = payload.as_ref().map(|raw| raw.get().as_bytes());
        let event = Event::read(body, payload).map_err(|error| BundleError::Chain { id, error })?;
        receipts.push((receipt, event));
    }
    let (receipt, event) = receipts.last().ok_or(BundleError::NoRouting)?;
    let routing = match event {
        Event::Routing(routing)
            if routing.decision == Decision::Escalate
                && routing.request_id == Some(request.request_id) =>
        {
            routing
        }
        _ => return Err(BundleError::NoRouting),
    };
    check_prompt(link, keys, receipt, routing, &request.prompt)?;
    Ok(Bundle {
        request_id: request.request_id,
        prompt: request.prompt,
        params,
        receipts,
    })
}

fn check_fields(request: &EscalateRequest) -> Result<Params, BundleError> {
    if request.op != Operation::Infer {
        return Err(BundleError::Operation);
    }
    if request.prompt.is_empty() {
        return Err(BundleError::Request("the prompt is empty"));
    }
    if request.max_tokens == 0 {
        return Err(BundleError::Request("max_tokens is at least 1"));
    }
    if request.last_step.is_some() {
        return Err(BundleError::Request("last_step belongs to `resume`"));
    }
    let asked = &request.sampling;
    let sampling = Sampling {
        temperature_milli: asked.temperature_milli,
        top_k: asked.top_k,
        // 0 and 1000 both leave all tokens in.
        top_p_milli: if asked.top_p_milli == 0 {
            1000
        } else {
            asked.top_p_milli
        },
        seed: asked.seed.into(),
    };
    if sampling.check().is_err() {
        return Err(BundleError::Request("a sampling parameter is out of range"));
    }
    Ok(Params {
        max_tokens: request.max_tokens,
        sampling,
        stop_tokens: Vec::new(),
    })
}

/// Whether the routing receipt's private content, sealed or committed to, is about this prompt.
fn check_prompt(
    link: &LinkId,
    keys: &dyn TenantKeys,
    receipt: &Receipt,
    routing: &Routing,
    prompt: &str,
) -> Result<(), BundleError> {
    let (id, epoch) = (receipt.body.receipt_id, receipt.body.session_epoch);
    let key = tier_key(link, keys, epoch, Tier::Orchestrator)?.payload_key();
    let expected = RoutingContent::new(prompt);
    let matches = match routing.private() {
        None => false,
        Some(Private::Sealed(text)) => {
            let content: Result<RoutingContent, PayloadError> =
                Private::Sealed(text).open(&key, &id);
            content.is_ok_and(|content| content == expected)
        }
        Some(commitment) => Private::new(&expected, ContentPolicy::Omit, &key, &id)
            .is_ok_and(|expected| commitment == expected),
    };
    if matches {
        Ok(())
    } else {
        Err(BundleError::Prompt)
    }
}

impl Bundle {
    /// Compares the bundle with what the ledger holds of the session. Every receipt must stand in stream `d` with the
    /// same bytes and in the same order, or be one that the chain accepts next; the routing receipt must be unanswered.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn place(
        self,
        link: &LinkId,
        keys: &dyn TenantKeys,
        evidence: &Evidence,
    ) -> Result<Accepted, BundleError> {
        let header = checked_header(link, keys, evidence)?;
        let epochs = claimed_epochs(link, keys, evidence, &header);
        let unclaimed =
            |(receipt, _): &&(Receipt, Event)| !epochs.contains(&receipt.body.session_epoch);
        if let Some((receipt, _)) = self.receipts.iter().find(unclaimed) {
            let id = receipt.body.receipt_id;
            return Err(BundleError::Foreign(id, "an epoch that nobody claimed"));
        }
        if evidence.blocks.iter().any(|block| block.content.is_err()) {
            return Err(BundleError::Ledger("a block cannot be read"));
        }
        let (mut chain, stored) = device_chain(link, evidence)?;
        let mut last = None;
        for (receipt, event) in &self.receipts {
            let id = receipt.body.receipt_id;
            match stored.get(&id) {
                Some((number, bytes)) => {
                    // `last` is u32::MAX once a receipt was new: nothing stored may come after it.
                    if *bytes != receipt.to_bytes() || last >= Some(*number) {
                        return Err(BundleError::Differs(id));
                    }
                    last = Some(*number);
                }
                None => {
                    let accepted = chain.accept(receipt, event);
                    let bundle = self.receipts.iter().map(|(receipt, _)| receipt);
                    accepted.map_err(|error| match error.is_behind(receipt, bundle) {
                        true => BundleError::Behind(id),
                        false => BundleError::Chain { id, error },
                    })?;
                    last = Some(u32::MAX);
                }
            }
        }
        let (receipt, _) = self.receipts.last().ok_or(BundleError::NoRouting)?;
        let routing = receipt.as_parent();
        if !may_begin(link, &chain, receipt) || substrate_children(evidence, routing.id)? {
            return Err(BundleError::Answered);
        }
        Ok(Accepted {
            request_id: self.request_id,
            prompt: self.prompt,
            params: self.params,
            routing,
            chain,
            content: header.content,
            first: evidence.next_number(Stream::Substrate),
        })
    }
}

/// The header, if the tenant's own keys signed it for this session.
pub fn check_header(
    link: &LinkId,
    keys: &dyn TenantKeys,
    record: &SignedRecord,
) -> Result<Header, BundleError> {
    let unusable = BundleError::Ledger;
    let header: Header = record
        .parse()
        .map_err(|_| unusable("the header cannot be read"))?;
    let key = tier_key(link, keys, header.session_epoch, Tier::Orchestrator)?;
    let root = keys.root();
    if header.session_id != link.session_id
        || header.tenant_id != link.tenant_id
        || (header.root_generation, header.key_check_value) != (root.generation, root.check_value)
        || !record.verify::<Header>(&key)
    {
        return Err(unusable("the header is not this session's"));
    }
    Ok(header)
}

fn checked_header(
    link: &LinkId,
    keys: &dyn TenantKeys,
    evidence: &Evidence,
) -> Result<Header, BundleError> {
    let record = evidence.header.as_ref();
    check_header(
        link,
        keys,
        record.ok_or(BundleError::Ledger("there is no header"))?,
    )
}

/// The session's epochs: the first one, and those that a signed claim took.
fn claimed_epochs(
    link: &LinkId,
    keys: &dyn TenantKeys,
    evidence: &Evidence,
    header: &Header,
) -> HashSet<Epoch> {
    let claimed = |record: &SignedRecord| {
        let claim: Claim = record.parse().ok()?;
        let epoch = claim.session_epoch;
        let ours = claim.kind == ClaimKind::Epoch && claim.session_id == link.session_id;
        let key = tier_key(link, keys, epoch, Tier::Orchestrator)
            .ok()
            .filter(|_| ours)?;
        record.verify::<Claim>(&key).then_some(epoch)
    };
    let first = std::iter::once(header.session_epoch);
    first
        .chain(evidence.claims.iter().filter_map(claimed))
        .collect()
}

type StoredById<'a> = HashMap<ReceiptId, (u32, &'a [u8])>;

/// The chain of stream `d` as it stands, and where each receipt stands in it. What the gateway wrote is taken as it is:
/// a receipt that the bundle builds on is pinned by its hash, and damage elsewhere is the verifier's to find.
fn device_chain<'a>(
    link: &LinkId,
    evidence: &'a Evidence,
) -> Result<(Chain, StoredById<'a>), BundleError> {
    let mut chain = Chain::new(link.session_id, link.tenant_id.clone());
    let mut stored = HashMap::new();
    for (number, entry) in evidence.receipts(Stream::Device) {
        let unreadable = BundleError::Ledger("a receipt of stream d cannot be read");
        let Ok(receipt) = Receipt::parse(&entry.bytes) else {
            return Err(unreadable);
        };
        let Ok(event) = Event::read(&receipt.body, entry.payload.as_deref()) else {
            return Err(unreadable);
        };
        stored.insert(receipt.body.receipt_id, (number, entry.bytes.as_slice()));
        chain.insert(&receipt, &event);
    }
    Ok((chain, stored))
}

/// Whether the chain would take the first expert_load of an answer to this routing receipt. The chain does not look at
/// signatures and payload hashes, so a load that is never signed can ask.
fn may_begin(link: &LinkId, chain: &Chain, routing: &Receipt) -> bool {
    let body = Unsigned {
        event_payload_hash: Hash([0; 32]),
        parent: Some(routing.as_parent()),
        receipt_id: ReceiptId::from_random([0xa5; 16]),
        receipt_kind: ReceiptKind::ExpertLoad,
        session_epoch: link.session_epoch,
        session_id: link.session_id,
        tenant_id: link.tenant_id.clone(),
        tier: Tier::Substrate,
        timestamp_utc: routing.body.timestamp_utc,
    };
    let load = ExpertLoad {
        v: V1,
        step: 0,
        experts: ExpertSet::new(0, 0),
        loaded: None,
        model: None,
    };
    let receipt = Receipt {
        body,
        hmac_signature: [0; 32],
    };
    chain.check(&receipt, &Event::ExpertLoad(load)).is_ok()
}

/// Whether a receipt of stream `s` already answers the routing receipt. The payloads need not be read for that.
fn substrate_children(evidence: &Evidence, routing: ReceiptId) -> Result<bool, BundleError> {
    for (_, entry) in evidence.receipts(Stream::Substrate) {
        let receipt = Receipt::parse(&entry.bytes)
            .map_err(|_| BundleError::Ledger("a receipt of stream s cannot be read"))?;
        if receipt
            .body
            .parent
            .is_some_and(|parent| parent.id == routing)
        {
            return Ok(true);
        }
    }
    Ok(false)
}
