//! The parent rules by kind and tier (protocol section 5), applied to receipts in the order in which they are written.
//!
//! The same state follows a chain in the orchestrator, the gateway, the pod and the verifier, so that none accepts what
//! another refuses. Signatures are not its concern.

use std::collections::HashMap;

use crate::ids::{Epoch, Hash, ReceiptId, RequestId, SessionId, TenantId, Tier};
use crate::payload::{
    Decision, ExpertLoad, OrchestratorResponse, PayloadError, Routing, SubstrateResponse,
    TokenEmit, from_canonical,
};
use crate::receipt::{Parent, Receipt, ReceiptKind, Unsigned};

/// What is wrong with a receipt's place in its chain.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Another session, tenant or an earlier epoch than the receipts before it.
    #[error("{0} does not belong to this chain")]
    Binding(&'static str),
    /// A kind that its tier does not sign.
    #[error("tier {0} does not sign {1}")]
    Tier(Tier, ReceiptKind),
    /// An id that an earlier receipt has.
    #[error("the receipt_id is already used in this session")]
    Duplicate,
    /// No parent, although this is not the first receipt of the session.
    #[error("only the first receipt of a session has no parent")]
    NoParent,
    /// A parent that is not in the chain.
    #[error("the parent is not in this session")]
    ParentMissing,
    /// The parent is there, but its hash is another.
    #[error("the parent's hash is {expected}, not the one in the receipt")]
    ParentHash {
        /// The hash of the parent as it stands.
        expected: Hash,
    },
    /// The parent is there, but not the one that the kind must have.
    #[error("the parent must be {0}")]
    ParentKind(&'static str),
    /// A second receipt where only one can follow.
    #[error("another receipt already stands in this place")]
    Fork,
    /// A step that is not the next one.
    #[error("the step is not the next one of its answer")]
    Step,
    /// The payload does not hash to what the receipt says.
    #[error("the event payload does not have the hash in the receipt")]
    PayloadHash,
    /// The payload is not what the kind has.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A seal that names other numbers than the chain has.
    #[error("the seal counts {claimed} receipts, and the chain has {found}")]
    SealCount {
        /// What the seal says.
        claimed: u32,
        /// What is there.
        found: u32,
    },
}

impl ChainError {
    /// Whether `receipt` builds on one that neither the chain nor the bundle that it came in has. If the chain was read from a ledger,
    /// what was acknowledged may still be on its way there.
    pub fn is_behind<'a>(
        &self,
        receipt: &Receipt,
        bundle: impl IntoIterator<Item = &'a Receipt>,
    ) -> bool {
        let parent = receipt.body.parent.map(|parent| parent.id);
        let mut bundle = bundle.into_iter();
        matches!(self, ChainError::ParentMissing)
            && !bundle.any(|other| Some(other.body.receipt_id) == parent)
    }
}

/// An event payload read by the kind and tier of its receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Raw bytes of a sensor, which are not stored.
    Capture,
    /// Tier 1's decision.
    Routing(Routing),
    /// The experts of a step.
    ExpertLoad(ExpertLoad),
    /// The token of a step.
    TokenEmit(TokenEmit),
    /// Tier 2's answer.
    SubstrateResponse(SubstrateResponse),
    /// Tier 1's answer.
    OrchestratorResponse(OrchestratorResponse),
}

impl Event {
    /// Checks the payload against the receipt's hash and reads it.
    pub fn read(body: &Unsigned, payload: Option<&[u8]>) -> Result<Self, ChainError> {
        use ReceiptKind::*;
        let Some(bytes) = payload else {
            return match body.receipt_kind {
                SensorCapture => Ok(Event::Capture),
                _ => Err(ChainError::PayloadHash),
            };
        };
        if body.receipt_kind == SensorCapture || Hash::of(bytes) != body.event_payload_hash {
            return Err(ChainError::PayloadHash);
        }
        Ok(match (body.receipt_kind, body.tier) {
            (TierRouting, _) => Event::Routing(from_canonical(bytes)?),
            (ExpertLoad, _) => Event::ExpertLoad(from_canonical(bytes)?),
            (TokenEmit, _) => Event::TokenEmit(from_canonical(bytes)?),
            (TierResponse, Tier::Substrate) => Event::SubstrateResponse(from_canonical(bytes)?),
            (TierResponse, _) => Event::OrchestratorResponse(from_canonical(bytes)?),
            (SensorCapture, _) => Event::Capture,
        })
    }
}

/// What the chain remembers of a receipt.
#[derive(Debug, Clone)]
struct Node {
    hash: Hash,
    place: Place,
}

/// What may follow a receipt.
#[derive(Debug, Clone)]
enum Place {
    Capture,
    Routing {
        decision: Decision,
        request_id: Option<RequestId>,
        answered: bool,
    },
    /// Followed by its token, and by the next load.
    ExpertLoad {
        step: u32,
        answer: ReceiptId,
        token: bool,
        next: bool,
    },
    TokenEmit {
        answer: ReceiptId,
    },
    SubstrateResponse {
        answered: bool,
    },
    OrchestratorResponse,
}

/// One answer of Tier 2 under way.
#[derive(Debug, Clone)]
struct Answer {
    /// The last load and the last token of the answer.
    last_load: ReceiptId,
    last_token: Option<ReceiptId>,
}

/// The receipts of one session so far, as far as they decide what may come next.
#[derive(Debug, Clone)]
pub struct Chain {
    session_id: SessionId,
    tenant_id: TenantId,
    epoch: Option<Epoch>,
    nodes: HashMap<ReceiptId, Node>,
    /// The answers under way, by the routing receipt that they answer.
    answers: HashMap<ReceiptId, Answer>,
    last_capture: Option<ReceiptId>,
    /// The receipt that records a break, until the next capture has followed it.
    last_break: Option<ReceiptId>,
    /// The last receipt of stream `d`.
    last_device: Option<ReceiptId>,
    device: u32,
}

impl Chain {
    /// The chain of a session before its first receipt.
    pub fn new(session_id: SessionId, tenant_id: TenantId) -> Self {
        Self {
            session_id,
            tenant_id,
            epoch: None,
            nodes: HashMap::new(),
            answers: HashMap::new(),
            last_capture: None,
            last_break: None,
            last_device: None,
            device: 0,
        }
    }

    /// The parent that the next sensor capture must have.
    pub fn capture_parent(&self) -> Option<Parent> {
        self.parent(self.last_break.or(self.last_capture)?)
    }

    /// The parent that the next routing decision must have.
    pub fn routing_parent(&self) -> Option<Parent> {
        self.parent(self.last_capture?)
    }

    /// The parent that a receipt must have which records a break.
    pub fn break_parent(&self) -> Option<Parent> {
        self.parent(self.last_device?)
    }

    /// The number of receipts of stream `d` in the chain.
    pub fn device_receipts(&self) -> u32 {
        self.device
    }

    /// The epoch of the last receipt of tiers 0 and 1.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Whether a receipt with this id is in the chain.
    pub fn contains(&self, id: &ReceiptId) -> bool {
        self.nodes.contains_key(id)
    }

    fn parent(&self, id: ReceiptId) -> Option<Parent> {
        let hash = self.nodes.get(&id)?.hash;
        Some(Parent { id, hash })
    }

    /// Checks the receipt and appends it. A receipt that is refused changes nothing.
    pub fn accept(&mut self, receipt: &Receipt, event: &Event) -> Result<(), ChainError> {
        self.check(receipt, event)?;
        self.insert(receipt, event);
        Ok(())
    }

    /// Appends a receipt whatever [`Chain::check`] says of it, so that a verifier can go on to the next one.
    pub fn insert(&mut self, receipt: &Receipt, event: &Event) {
        self.insert_hashed(receipt, event, receipt.hash());
    }

    /// As [`Chain::insert`], for a caller that has the receipt's hash already.
    pub fn insert_hashed(&mut self, receipt: &Receipt, event: &Event, hash: Hash) {
        let body = &receipt.body;
        let id = body.receipt_id;
        let parent = body.parent.map(|parent| parent.id);
        let place = match event {
            Event::Capture => {
                (self.last_capture, self.last_break) = (Some(id), None);
                Place::Capture
            }
            Event::Routing(routing) => {
                if routing.decision == Decision::VerificationFailed {
                    self.last_break = Some(id);
                }
                Place::Routing {
                    decision: routing.decision,
                    request_id: routing.request_id,
                    answered: false,
                }
            }
            Event::ExpertLoad(load) => {
                let answer = self.answer_of(parent).unwrap_or(id);
                if let Some(Node {
                    place: Place::ExpertLoad { next, .. },
                    ..
                }) = parent.and_then(|parent| self.nodes.get_mut(&parent))
                {
                    *next = true;
                }
                let started = Answer {
                    last_load: id,
                    last_token: None,
                };
                self.answers.entry(answer).or_insert(started).last_load = id;
                Place::ExpertLoad {
                    step: load.step,
                    answer,
                    token: false,
                    next: false,
                }
            }
            Event::TokenEmit(_) => {
                let answer = self.answer_of(parent).unwrap_or(id);
                if let Some(Node {
                    place: Place::ExpertLoad { token, .. },
                    ..
                }) = parent.and_then(|parent| self.nodes.get_mut(&parent))
                {
                    *token = true;
                }
                if let Some(answer) = self.answers.get_mut(&answer) {
                    answer.last_token = Some(id);
                }
                Place::TokenEmit { answer }
            }
            Event::SubstrateResponse(_) => {
                let routing = self.answer_of(parent);
                self.mark_answered(routing);
                Place::SubstrateResponse { answered: false }
            }
            Event::OrchestratorResponse(_) => {
                self.mark_answered(parent);
                Place::OrchestratorResponse
            }
        };
        if body.tier != Tier::Substrate {
            self.last_device = Some(id);
            self.device = self.device.saturating_add(1);
            // The two streams are written apart: an answer under a later epoch does not bar what the device had
            // signed before it moved on.
            self.epoch = self.epoch.max(Some(body.session_epoch));
        }
        self.nodes.insert(id, Node { hash, place });
    }

    /// The routing receipt of the answer that `parent` belongs to; `parent` itself if it is the routing receipt.
    fn answer_of(&self, parent: Option<ReceiptId>) -> Option<ReceiptId> {
        let parent = parent?;
        match self.nodes.get(&parent)?.place {
            Place::ExpertLoad { answer, .. } | Place::TokenEmit { answer } => Some(answer),
            _ => Some(parent),
        }
    }

    /// Whether the answer to this routing receipt is closed, so that nothing can be added to it any more.
    fn is_answered(&self, routing: &ReceiptId) -> bool {
        let node = self.nodes.get(routing);
        node.is_some_and(|node| matches!(node.place, Place::Routing { answered: true, .. }))
    }

    fn mark_answered(&mut self, id: Option<ReceiptId>) {
        if let Some(Node {
            place: Place::Routing { answered, .. } | Place::SubstrateResponse { answered },
            ..
        }) = id.and_then(|id| self.nodes.get_mut(&id))
        {
            *answered = true;
        }
    }

    /// What is wrong with the receipt as the next one of its stream, if anything.
    pub fn check(&self, receipt: &Receipt, event: &Event) -> Result<(), ChainError> {
        let body = &receipt.body;
        self.check_binding(body)?;
        if self.nodes.contains_key(&body.receipt_id) {
            return Err(ChainError::Duplicate);
        }
        let parent = match &body.parent {
            None => None,
            Some(parent) => {
                let node = self
                    .nodes
                    .get(&parent.id)
                    .ok_or(ChainError::ParentMissing)?;
                if node.hash != parent.hash {
                    return Err(ChainError::ParentHash {
                        expected: node.hash,
                    });
                }
                Some((parent.id, &node.place))
            }
        };
        match event {
            Event::Capture => self.check_capture(parent),
            Event::Routing(routing) => self.check_routing(parent, routing),
            Event::ExpertLoad(load) => self.check_load(parent, load.step),
            Event::TokenEmit(token) => self.check_token(parent, token.step),
            Event::SubstrateResponse(response) => self.check_substrate_response(parent, response),
            Event::OrchestratorResponse(response) => {
                self.check_orchestrator_response(parent, response)
            }
        }
    }

    fn check_binding(&self, body: &Unsigned) -> Result<(), ChainError> {
        use ReceiptKind::*;
        if body.session_id != self.session_id {
            return Err(ChainError::Binding("session_id"));
        }
        if body.tenant_id != self.tenant_id {
            return Err(ChainError::Binding("tenant_id"));
        }
        // Tier 2 may still close an answer of an epoch that its device has left.
        if body.tier != Tier::Substrate && self.epoch > Some(body.session_epoch) {
            return Err(ChainError::Binding("session_epoch"));
        }
        match (body.tier, body.receipt_kind) {
            (Tier::Sensor, SensorCapture)
            | (Tier::Orchestrator, TierRouting | TierResponse)
            | (Tier::Substrate, ExpertLoad | TokenEmit | TierResponse) => Ok(()),
            (tier, kind) => Err(ChainError::Tier(tier, kind)),
        }
    }

    fn check_capture(&self, parent: Option<(ReceiptId, &Place)>) -> Result<(), ChainError> {
        let expected = self.last_break.or(self.last_capture);
        match (parent.map(|(id, _)| id), expected) {
            (None, None) if self.last_device.is_none() => Ok(()),
            (None, _) => Err(ChainError::NoParent),
            (found, expected) if found == expected => Ok(()),
            _ if self.last_break.is_some() => {
                Err(ChainError::ParentKind("the receipt that records the break"))
            }
            _ => Err(ChainError::ParentKind("the previous sensor capture")),
        }
    }

    fn check_routing(
        &self,
        parent: Option<(ReceiptId, &Place)>,
        routing: &Routing,
    ) -> Result<(), ChainError> {
        let found = parent.map(|(id, _)| id);
        if routing.decision == Decision::VerificationFailed {
            // A break before anything was captured well is itself the first receipt.
            return match (found, self.last_device) {
                (found, expected) if found == expected => Ok(()),
                (None, _) => Err(ChainError::NoParent),
                _ => Err(ChainError::ParentKind(
                    "the last receipt of tiers 0 and 1 before the break",
                )),
            };
        }
        match found {
            None => Err(ChainError::NoParent),
            found if found == self.last_capture => Ok(()),
            _ => Err(ChainError::ParentKind("the most recent sensor capture")),
        }
    }

    fn check_load(&self, parent: Option<(ReceiptId, &Place)>, step: u32) -> Result<(), ChainError> {
        const EXPECTED: &str = "the routing receipt, or the previous expert_load of the answer";
        match parent {
            None => Err(ChainError::NoParent),
            Some((
                id,
                Place::Routing {
                    decision: Decision::Escalate,
                    answered,
                    ..
                },
            )) => {
                if *answered || self.answers.contains_key(&id) {
                    Err(ChainError::Fork)
                } else if step != 0 {
                    Err(ChainError::Step)
                } else {
                    Ok(())
                }
            }
            Some((
                _,
                Place::ExpertLoad {
                    step: previous,
                    answer,
                    next,
                    token,
                },
            )) => {
                if *next || self.is_answered(answer) {
                    Err(ChainError::Fork)
                } else if !token || previous.checked_add(1) != Some(step) {
                    Err(ChainError::Step)
                } else {
                    Ok(())
                }
            }
            Some(_) => Err(ChainError::ParentKind(EXPECTED)),
        }
    }

    fn check_token(
        &self,
        parent: Option<(ReceiptId, &Place)>,
        step: u32,
    ) -> Result<(), ChainError> {
        match parent {
            None => Err(ChainError::NoParent),
            Some((
                _,
                Place::ExpertLoad {
                    step: load,
                    answer,
                    token,
                    ..
                },
            )) => {
                if *token || self.is_answered(answer) {
                    Err(ChainError::Fork)
                } else if *load != step {
                    Err(ChainError::Step)
                } else {
                    Ok(())
                }
            }
            Some(_) => Err(ChainError::ParentKind("the expert_load of the same step")),
        }
    }

    fn check_substrate_response(
        &self,
        parent: Option<(ReceiptId, &Place)>,
        response: &SubstrateResponse,
    ) -> Result<(), ChainError> {
        const EXPECTED: &str = "the last token_emit of the answer, or what stands for it";
        let (parent, place) = parent.ok_or(ChainError::NoParent)?;
        let routing = match place {
            Place::Routing {
                decision: Decision::Escalate,
                ..
            } => parent,
            Place::TokenEmit { answer } | Place::ExpertLoad { answer, .. } => *answer,
            _ => return Err(ChainError::ParentKind(EXPECTED)),
        };
        let Some(Node {
            place:
                Place::Routing {
                    request_id,
                    answered,
                    ..
                },
            ..
        }) = self.nodes.get(&routing)
        else {
            return Err(ChainError::ParentKind(EXPECTED));
        };
        if *answered {
            return Err(ChainError::Fork);
        }
        if *request_id != Some(response.request_id) {
            return Err(ChainError::Binding("request_id"));
        }
        // The last receipt of the answer: its token, or a load whose token was never written.
        let (last, receipts) = match self.answers.get(&routing) {
            None => (routing, 0),
            Some(answer) => {
                let load = &self.nodes.get(&answer.last_load).map(|node| &node.place);
                let Some(Place::ExpertLoad { step, token, .. }) = load else {
                    return Err(ChainError::ParentKind(EXPECTED));
                };
                match answer.last_token {
                    Some(last) if *token => (last, 2 * (u64::from(*step) + 1)),
                    _ => (answer.last_load, 2 * u64::from(*step) + 1),
                }
            }
        };
        if parent != last {
            return Err(ChainError::ParentKind(EXPECTED));
        }
        if u64::from(response.receipts) != receipts {
            return Err(ChainError::SealCount {
                claimed: response.receipts,
                found: u32::try_from(receipts).unwrap_or(u32::MAX),
            });
        }
        Ok(())
    }

    fn check_orchestrator_response(
        &self,
        parent: Option<(ReceiptId, &Place)>,
        response: &OrchestratorResponse,
    ) -> Result<(), ChainError> {
        match parent {
            None => return Err(ChainError::NoParent),
            Some((_, Place::SubstrateResponse { answered: true }))
            | Some((_, Place::Routing { answered: true, .. })) => return Err(ChainError::Fork),
            Some((_, Place::SubstrateResponse { answered: false })) => {}
            Some((_, Place::Routing { decision, .. })) => {
                if *decision == Decision::VerificationFailed {
                    return Err(ChainError::ParentKind("a decision to answer"));
                }
            }
            Some(_) => {
                return Err(ChainError::ParentKind(
                    "tier 2's response, or the routing receipt of a local answer",
                ));
            }
        }
        if response.device_receipts != self.device {
            return Err(ChainError::SealCount {
                claimed: response.device_receipts,
                found: self.device,
            });
        }
        if Some(response.receipts)
            != response
                .device_receipts
                .checked_add(response.substrate_receipts)
        {
            return Err(ChainError::SealCount {
                claimed: response.receipts,
                found: response
                    .device_receipts
                    .saturating_add(response.substrate_receipts),
            });
        }
        Ok(())
    }
}
