//! One answer of Tier 2 as the ledger holds it: rebuilt for a device that missed it, and closed when its pod is lost.

use std::collections::HashSet;
use std::ops::RangeBounds;

use halo_receipts::chain::Event;
use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd};
use halo_receipts::evidence::{Block, Evidence, StoredReceipt, Stream};
use halo_receipts::ids::{Epoch, Hash, ReceiptId, RequestId, Tier};
use halo_receipts::merkle;
use halo_receipts::messages::{MessageError, Token};
use halo_receipts::payload::{
    AnswerContent, AnswerStatus, BlockRoot, ContentPolicy, Decision, PayloadError, Private,
    SubstrateResponse, SubstrateSeal, TokenContent, to_canonical, to_raw,
};
use halo_receipts::receipt::{Parent, Receipt, ReceiptKind, Unsigned};
use halo_receipts::time::Timestamp;

use crate::keyring::Keyring;

/// Why an answer could not be read from the ledger or closed in it.
#[derive(Debug, thiserror::Error)]
pub enum StoredAnswerError {
    /// Receipts that cannot be read or that no key of the session signed.
    #[error("stream {stream} is damaged at number {number}; run halo-verify on the session")]
    Damaged {
        /// The stream.
        stream: Stream,
        /// The number.
        number: u32,
    },
    /// The keys of the answer's epoch are not held here.
    #[error("the keys of epoch {0} are not held by this gateway")]
    NoKeys(Epoch),
    /// A payload could not be written.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A token could not be written.
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// A token as far as the ledger knows it.
struct StoredToken {
    step: u32,
    expert_load: Hash,
    token_emit: Hash,
    /// Id and text; not there when the tenant keeps no text.
    content: Option<TokenContent>,
}

/// One answer as the ledger holds it.
pub struct StoredAnswer {
    request_id: RequestId,
    /// The last receipt of the answer, or the routing receipt if there is none yet.
    last: Parent,
    /// Number, id and hash of each receipt before the response.
    members: Vec<(u32, ReceiptId, Hash)>,
    tokens: Vec<StoredToken>,
    model: String,
    response: Option<(Receipt, SubstrateResponse, Vec<u8>)>,
    /// The number that the next receipt of stream `s` gets.
    next_substrate: u32,
    blocks: Vec<(u32, u32)>,
}

impl StoredAnswer {
    /// Looks for the answer to `request_id`. `None` if no routing receipt of the session escalates that request.
    pub fn find(
        evidence: &Evidence,
        ring: &mut Keyring,
        request_id: RequestId,
    ) -> Result<Option<Self>, StoredAnswerError> {
        if let Some(block) = evidence.blocks.iter().find(|block| block.content.is_err()) {
            return Err(StoredAnswerError::Damaged {
                stream: block.stream,
                number: block.first,
            });
        }
        let Some(routing) = find_routing(evidence, ring, request_id)? else {
            return Ok(None);
        };
        let stream_blocks = evidence.blocks.iter();
        let blocks = stream_blocks.filter(|block| block.stream == Stream::Substrate);
        let mut answer = Self {
            request_id,
            last: routing,
            members: Vec::new(),
            tokens: Vec::new(),
            model: String::new(),
            response: None,
            next_substrate: evidence.next_number(Stream::Substrate),
            blocks: blocks
                .map(|block| {
                    (
                        block.first,
                        block.content.as_ref().map_or(0, Vec::len) as u32,
                    )
                })
                .collect(),
        };
        let mut ids = HashSet::from([routing.id]);
        for (number, stored) in evidence.receipts(Stream::Substrate) {
            let damaged = StoredAnswerError::Damaged {
                stream: Stream::Substrate,
                number,
            };
            let Ok(receipt) = Receipt::parse(&stored.bytes) else {
                return Err(damaged);
            };
            let parent = receipt.body.parent.map(|parent| parent.id);
            if !parent.is_some_and(|parent| ids.contains(&parent)) {
                continue;
            }
            let event = checked(&receipt, stored, ring)?.ok_or(damaged)?;
            ids.insert(receipt.body.receipt_id);
            answer.add(number, receipt, stored, event, ring)?;
        }
        Ok(Some(answer))
    }

    fn add(
        &mut self,
        number: u32,
        receipt: Receipt,
        stored: &StoredReceipt,
        event: Event,
        ring: &mut Keyring,
    ) -> Result<(), StoredAnswerError> {
        let (id, hash) = (receipt.body.receipt_id, Hash::of(&stored.bytes));
        match event {
            Event::SubstrateResponse(response) => {
                let payload = stored.payload.clone().unwrap_or_default();
                self.response = Some((receipt, response, payload));
                return Ok(());
            }
            Event::ExpertLoad(load) => {
                if let Some(model) = load.model {
                    self.model = model.name;
                }
            }
            Event::TokenEmit(token) => {
                let epoch = receipt.body.session_epoch;
                let key = ring.tier_key(epoch, Tier::Substrate);
                let key = key.ok_or(StoredAnswerError::NoKeys(epoch))?;
                let opened = token.private().map(|p| p.open(&key.payload_key(), &id));
                let content = match opened {
                    Some(Ok(content)) => Some(content),
                    None | Some(Err(PayloadError::Omitted)) => None,
                    Some(Err(error)) => return Err(error.into()),
                };
                self.tokens.push(StoredToken {
                    step: token.step,
                    expert_load: self.last.hash,
                    token_emit: hash,
                    content,
                });
            }
            _ => return Ok(()),
        }
        self.last = Parent { id, hash };
        self.members.push((number, id, hash));
        Ok(())
    }

    /// How many tokens stand in the ledger.
    pub fn token_count(&self) -> usize {
        self.tokens.len()
    }

    /// Whether nothing of tier 2 stands in the ledger for it.
    pub fn is_untouched(&self) -> bool {
        self.members.is_empty() && self.response.is_none()
    }

    /// The payloads of the answer's ESCALATE_TOKEN frames of the given steps, as far as there are any. Where the tenant keeps no text the token's id
    /// is 0 and its text is empty.
    pub fn token_payloads(
        &self,
        steps: impl RangeBounds<usize>,
    ) -> Result<Vec<Vec<u8>>, StoredAnswerError> {
        let tokens = self.tokens.iter().enumerate();
        let tokens = tokens.filter(|(step, _)| steps.contains(step));
        let payloads = tokens.map(|(_, stored)| {
            let content = stored.content.as_ref();
            let token = Token {
                step: stored.step,
                token_id: content.map_or(0, |content| content.token_id),
                expert_load: stored.expert_load,
                token_emit: stored.token_emit,
                text: content.map_or(String::new(), |content| content.text.clone()),
            };
            Ok(token.encode()?)
        });
        payloads.collect()
    }

    /// The end that belongs to the answer's response; `None` while there is no response.
    pub fn end(&self) -> Result<Option<EscalateEnd>, StoredAnswerError> {
        let Some((receipt, response, payload)) = &self.response else {
            return Ok(None);
        };
        let (status, code) = match (response.status, response.finish.as_str()) {
            (AnswerStatus::Ok, _) => (EndStatus::Ok, EndCode::Ok),
            (AnswerStatus::Refused, "context") => (EndStatus::Refused, EndCode::ContextExceeded),
            (AnswerStatus::Refused, _) => (EndStatus::Refused, EndCode::BundleInvalid),
            (AnswerStatus::Interrupted, "cancelled") => (EndStatus::Cancelled, EndCode::Cancelled),
            (AnswerStatus::Interrupted, "draining") => (EndStatus::Failed, EndCode::Draining),
            (AnswerStatus::Interrupted, _) => (EndStatus::Failed, EndCode::Lost),
        };
        Ok(Some(EscalateEnd {
            receipts: vec![receipt.clone()],
            payloads: vec![Some(to_raw(payload)?)],
            ..EscalateEnd::bare(self.request_id, status, code)
        }))
    }

    /// Tier 2's response to an answer that broke off, as a block for stream `s`. `heard` is the text that passed through
    /// this gateway, by step: it stands in for text that the tenant does not keep. The output's hash covers the tokens
    /// that the ledger holds and no others.
    pub fn interrupted(
        &self,
        finish: &str,
        closing: &Closing,
        heard: &[String],
        ring: &mut Keyring,
    ) -> Result<Block, StoredAnswerError> {
        let key = ring.tier_key(closing.epoch, Tier::Substrate);
        let key = key.ok_or(StoredAnswerError::NoKeys(closing.epoch))?;
        let text = |(at, token): (usize, &StoredToken)| match &token.content {
            Some(content) => content.text.clone(),
            None => heard.get(at).cloned().unwrap_or_default(),
        };
        let output: String = self.tokens.iter().enumerate().map(text).collect();
        let content = AnswerContent {
            output_sha256: Hash::of(output.as_bytes()),
            output: None,
        };
        let private = Private::new(&content, closing.content, &key.payload_key(), &closing.id)?;
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let ends = self.members.first().zip(self.members.last());
        let first = self.members.first();
        let payload = to_canonical(&SubstrateResponse::new(
            SubstrateSeal {
                request_id: self.request_id,
                status: AnswerStatus::Interrupted,
                finish: finish.to_owned(),
                model: self.model.clone(),
                // Only the pod knew how many tokens the prompt had.
                prompt_tokens: 0,
                completion_tokens: count(self.tokens.len()),
                first: first.map_or(self.next_substrate, |(number, ..)| *number),
                ids: ends.map(|((_, first, _), (_, last, _))| (*first, *last)),
                receipts: count(self.members.len()),
                root: merkle::root(self.members.iter().map(|(.., hash)| hash)),
                blocks: self.block_roots(),
            },
            private,
        ))?;
        let receipt = Unsigned {
            event_payload_hash: Hash::of(&payload),
            parent: Some(self.last),
            receipt_id: closing.id,
            receipt_kind: ReceiptKind::TierResponse,
            session_epoch: closing.epoch,
            session_id: ring.session(),
            tenant_id: ring.tenant().clone(),
            tier: Tier::Substrate,
            timestamp_utc: closing.now,
        }
        .sign(&key);
        Ok(Block {
            stream: Stream::Substrate,
            first: self.next_substrate,
            receipts: vec![StoredReceipt {
                bytes: receipt.to_bytes(),
                payload: Some(payload),
            }],
        })
    }

    fn block_roots(&self) -> Vec<BlockRoot> {
        let roots = self.blocks.iter().filter_map(|&(start, count)| {
            let inside = |number: u32| number >= start && number - start < count;
            let members = self.members.iter().filter(|(number, ..)| inside(*number));
            let first = members.clone().next()?.0;
            Some(BlockRoot {
                first,
                count: u32::try_from(members.clone().count()).ok()?,
                root: merkle::root(members.map(|(.., hash)| hash)),
            })
        });
        roots.collect()
    }
}

/// What the response to a broken answer is made with.
pub struct Closing {
    /// The epoch under whose key it is signed.
    pub epoch: Epoch,
    /// What the session keeps of private content.
    pub content: ContentPolicy,
    /// The new receipt's id.
    pub id: ReceiptId,
    /// The time.
    pub now: Timestamp,
}

fn find_routing(
    evidence: &Evidence,
    ring: &mut Keyring,
    request_id: RequestId,
) -> Result<Option<Parent>, StoredAnswerError> {
    for (number, stored) in evidence.receipts(Stream::Device) {
        let damaged = StoredAnswerError::Damaged {
            stream: Stream::Device,
            number,
        };
        let Ok(receipt) = Receipt::parse(&stored.bytes) else {
            return Err(damaged);
        };
        if receipt.body.receipt_kind != ReceiptKind::TierRouting {
            continue;
        }
        let Some(Event::Routing(routing)) = checked(&receipt, stored, ring)? else {
            return Err(damaged);
        };
        if routing.decision == Decision::Escalate && routing.request_id == Some(request_id) {
            return Ok(Some(receipt.as_parent()));
        }
    }
    Ok(None)
}

/// Reads the payload of a receipt that the key of its tier and epoch signed; `None` if it did not. What is signed over
/// here must not rest on bytes that somebody changed in the ledger.
fn checked(
    receipt: &Receipt,
    stored: &StoredReceipt,
    ring: &mut Keyring,
) -> Result<Option<Event>, StoredAnswerError> {
    let epoch = receipt.body.session_epoch;
    let key = ring.tier_key(epoch, receipt.body.tier);
    let key = key.ok_or(StoredAnswerError::NoKeys(epoch))?;
    if !receipt.verify(&key) {
        return Ok(None);
    }
    Ok(Event::read(&receipt.body, stored.payload.as_deref()).ok())
}
