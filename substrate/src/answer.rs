//! The receipts of one answer: an expert_load and a token_emit for each step, cut into blocks, closed by a seal.
//!
//! Pure: steps, times and random bytes come in; tokens to send and blocks to append come out.

use std::sync::Arc;

use halo_receipts::chain::{Chain, ChainError, Event};
use halo_receipts::evidence::{BLOCK_MAX, Block, StoredReceipt, Stream};
use halo_receipts::ids::{Epoch, Hash, ReceiptId, RequestId, SessionId, TenantId, Tier};
use halo_receipts::keys::{PayloadKey, TierKey};
use halo_receipts::merkle::{self, MerkleTree};
use halo_receipts::messages::Token;
use halo_receipts::payload::{
    AnswerContent, AnswerStatus, BlockRoot, ContentPolicy, ExpertLoad, ModelIdentity, PayloadError,
    Private, SubstrateResponse, SubstrateSeal, TokenContent, TokenEmit, V1, to_canonical,
};
use halo_receipts::receipt::{Parent, Receipt, ReceiptKind, Unsigned};
use halo_receipts::time::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::generate::{FinishReason, StepOutput};

/// Where random bytes come from; each call gives 16 fresh ones.
pub type Random<'a> = dyn FnMut() -> [u8; 16] + 'a;

/// How long a receipt waits at most for its block to fill, in microseconds, in an answer of ordinary length.
pub const BLOCK_WAIT: u64 = 250_000;

/// After each this many blocks the wait doubles, so that the list of block roots in the seal of a long and slow answer
/// still fits the message that carries it.
const BLOCKS_PER_WAIT: usize = 256;

/// Why a receipt was not written. None of these is expected of an engine and a clock that work.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The step is not the next one.
    #[error("step {found} came where step {expected} was due")]
    Step {
        /// The next step of the answer.
        expected: u32,
        /// The step that came.
        found: u32,
    },
    /// The step's text is longer than a token frame holds.
    #[error(
        "the text of step {step} has {length} bytes, and a token carries at most {}",
        Token::TEXT_MAX
    )]
    Text {
        /// The step.
        step: u32,
        /// Bytes of its text.
        length: usize,
    },
    /// The stream's numbers are used up.
    #[error("stream s has no numbers left")]
    Numbers,
    /// The receipt would not be accepted by whoever verifies it.
    #[error("the receipt does not continue its chain: {0}")]
    Chain(#[from] ChainError),
    /// The payload cannot be written.
    #[error(transparent)]
    Payload(#[from] PayloadError),
}

/// What an answer is bound to.
pub struct Binding {
    /// The tenant.
    pub tenant_id: TenantId,
    /// The session.
    pub session_id: SessionId,
    /// The epoch whose key signs.
    pub session_epoch: Epoch,
    /// The request that is answered.
    pub request_id: RequestId,
    /// The routing receipt that escalated it: the first expert_load's parent.
    pub routing: Parent,
    /// The number in stream `s` of the answer's first receipt.
    pub first: u32,
    /// What becomes of private content.
    pub content: ContentPolicy,
    /// What computes.
    pub model: ModelIdentity,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
}

/// What a step gives.
#[derive(Debug)]
pub struct Stepped {
    /// The token to send at once.
    pub token: Token,
    /// A block that became full and is to be appended.
    pub block: Option<Block>,
}

/// Why no step follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The answer is whole.
    Finished(FinishReason),
    /// The device cancelled it or went away.
    Cancelled,
    /// The pod shuts down.
    Draining,
    /// The engine failed.
    Lost,
}

impl Ending {
    fn status(self) -> AnswerStatus {
        match self {
            Ending::Finished(_) => AnswerStatus::Ok,
            Ending::Cancelled | Ending::Draining | Ending::Lost => AnswerStatus::Interrupted,
        }
    }

    /// The word in the seal's `finish`.
    pub fn name(self) -> &'static str {
        match self {
            Ending::Finished(reason) => reason.as_str(),
            Ending::Cancelled => "cancelled",
            Ending::Draining => "draining",
            Ending::Lost => "lost",
        }
    }
}

/// The end of an answer.
#[derive(Debug)]
pub struct Sealed {
    /// The blocks still to be appended, in order; the last one holds the seal alone.
    pub blocks: Vec<Block>,
    /// Tier 2's response.
    pub receipt: Receipt,
    /// Its event payload.
    pub payload: Vec<u8>,
}

/// One answer under way.
pub struct Answer {
    binding: Binding,
    key: Arc<TierKey>,
    payload_key: PayloadKey,
    /// The session's chain; the answer's own receipts are checked against it like anybody else's.
    chain: Chain,
    /// The receipts that no block holds yet, their hashes, and the time of the first of them.
    open: Vec<StoredReceipt>,
    open_hashes: Vec<Hash>,
    open_since: Timestamp,
    blocks: Vec<BlockRoot>,
    tree: MerkleTree,
    ids: Option<(ReceiptId, ReceiptId)>,
    last_load: Parent,
    last: Parent,
    steps: u32,
    next_number: u32,
    output: Sha256,
    last_time: Timestamp,
}

impl Answer {
    /// An answer before its first step. `chain` holds the routing receipt; `key` is TIER_KEY\[2\] of the epoch.
    pub fn new(binding: Binding, key: Arc<TierKey>, chain: Chain, now: Timestamp) -> Self {
        let routing = binding.routing;
        Self {
            payload_key: key.payload_key(),
            next_number: binding.first,
            binding,
            key,
            chain,
            open: Vec::new(),
            open_hashes: Vec::new(),
            open_since: now,
            blocks: Vec::new(),
            tree: MerkleTree::new(),
            ids: None,
            last_load: routing,
            last: routing,
            steps: 0,
            output: Sha256::new(),
            last_time: now,
        }
    }

    /// Signs the two receipts of a step.
    ///
    /// # Errors
    /// A step that is not the next one or cannot be written down; nothing is kept of it then.
    pub fn step(
        &mut self,
        output: &StepOutput,
        now: Timestamp,
        random: &mut Random<'_>,
    ) -> Result<Stepped, AnswerError> {
        if output.step != self.steps {
            return Err(AnswerError::Step {
                expected: self.steps,
                found: output.step,
            });
        }
        if output.text.len() > Token::TEXT_MAX {
            return Err(AnswerError::Text {
                step: output.step,
                length: output.text.len(),
            });
        }
        // Two for this step, one for the seal, and the number after it.
        let waiting = self.open.len() as u32;
        self.next_number
            .checked_add(waiting + 4)
            .ok_or(AnswerError::Numbers)?;
        let load = ExpertLoad {
            v: V1,
            step: output.step,
            experts: output.active.clone(),
            loaded: (!output.loaded.is_empty()).then(|| output.loaded.clone()),
            model: (output.step == 0).then(|| self.binding.model.clone()),
        };
        let payload = to_canonical(&load)?;
        let id = ReceiptId::from_random(random());
        let load_receipt = self.sign(ReceiptKind::ExpertLoad, id, &payload, self.last_load, now);
        self.chain
            .check(&load_receipt, &Event::ExpertLoad(load.clone()))?;
        let load_stored = stored(&load_receipt, payload);

        let id = ReceiptId::from_random(random());
        let content = TokenContent {
            token_id: output.token_id,
            text: output.text.clone(),
        };
        let private = Private::new(&content, self.binding.content, &self.payload_key, &id)?;
        let emit = TokenEmit::new(output.step, private);
        let payload = to_canonical(&emit)?;
        let parent = load_receipt.as_parent();
        let emit_receipt = self.sign(ReceiptKind::TokenEmit, id, &payload, parent, now);
        let emit_stored = stored(&emit_receipt, payload);

        self.chain.insert(&load_receipt, &Event::ExpertLoad(load));
        self.chain.accept(&emit_receipt, &Event::TokenEmit(emit))?;
        let token = Token {
            step: output.step,
            token_id: output.token_id,
            expert_load: parent.hash,
            token_emit: emit_receipt.hash(),
            text: output.text.clone(),
        };
        if self.open.is_empty() {
            self.open_since = self.last_time;
        }
        self.open.extend([load_stored, emit_stored]);
        for hash in [token.expert_load, token.token_emit] {
            self.open_hashes.push(hash);
            self.tree.push(&hash);
        }
        let first = self.ids.map_or(parent.id, |(first, _)| first);
        self.ids = Some((first, emit_receipt.body.receipt_id));
        self.last_load = parent;
        self.last = Parent {
            id: emit_receipt.body.receipt_id,
            hash: token.token_emit,
        };
        self.output.update(output.text.as_bytes());
        self.steps += 1;
        let block = (self.open.len() + 2 > BLOCK_MAX)
            .then(|| self.cut())
            .flatten();
        Ok(Stepped { token, block })
    }

    /// When [`Answer::tick`] has something to do; `None` while every receipt is in a block.
    pub fn deadline(&self) -> Option<Timestamp> {
        if self.open.is_empty() {
            return None;
        }
        let doublings = (self.blocks.len() / BLOCKS_PER_WAIT).min(16);
        Timestamp::from_micros(self.open_since.micros() + (BLOCK_WAIT << doublings))
    }

    /// Cuts a block whose receipts have waited long enough.
    pub fn tick(&mut self, now: Timestamp) -> Option<Block> {
        match self.deadline() {
            Some(deadline) if now >= deadline => self.cut(),
            _ => None,
        }
    }

    /// Closes the answer with Tier 2's response: the seal over all its receipts.
    ///
    /// # Errors
    /// A seal that cannot be written down.
    pub fn finish(
        mut self,
        ending: Ending,
        now: Timestamp,
        random: &mut Random<'_>,
    ) -> Result<Sealed, AnswerError> {
        let rest = self.cut();
        let id = ReceiptId::from_random(random());
        let content = AnswerContent {
            output_sha256: Hash(std::mem::take(&mut self.output).finalize().into()),
            output: None,
        };
        let private = Private::new(&content, self.binding.content, &self.payload_key, &id)?;
        let response = SubstrateResponse::new(
            SubstrateSeal {
                request_id: self.binding.request_id,
                status: ending.status(),
                finish: ending.name().to_owned(),
                model: self.binding.model.name.clone(),
                prompt_tokens: self.binding.prompt_tokens,
                completion_tokens: self.steps,
                first: self.binding.first,
                ids: self.ids,
                receipts: 2 * self.steps,
                root: self.tree.root(),
                blocks: std::mem::take(&mut self.blocks),
            },
            private,
        );
        let payload = to_canonical(&response)?;
        let receipt = self.sign(ReceiptKind::TierResponse, id, &payload, self.last, now);
        self.chain
            .check(&receipt, &Event::SubstrateResponse(response))?;
        let seal = Block {
            stream: Stream::Substrate,
            first: self.next_number,
            receipts: vec![stored(&receipt, payload.clone())],
        };
        Ok(Sealed {
            blocks: rest.into_iter().chain([seal]).collect(),
            receipt,
            payload,
        })
    }

    /// Steps made so far.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// Puts the waiting receipts into a block.
    fn cut(&mut self) -> Option<Block> {
        if self.open.is_empty() {
            return None;
        }
        let receipts = std::mem::take(&mut self.open);
        let hashes = std::mem::take(&mut self.open_hashes);
        let first = self.next_number;
        // At most 64, and `step` has made sure that the numbers suffice.
        let count = receipts.len() as u32;
        self.next_number += count;
        self.blocks.push(BlockRoot {
            first,
            count,
            root: merkle::root(&hashes),
        });
        Some(Block {
            stream: Stream::Substrate,
            first,
            receipts,
        })
    }

    /// Signs a receipt of this answer. Its time is never before that of the one before it, whatever the clock does.
    fn sign(
        &mut self,
        kind: ReceiptKind,
        id: ReceiptId,
        payload: &[u8],
        parent: Parent,
        now: Timestamp,
    ) -> Receipt {
        self.last_time = self.last_time.max(now);
        let body = Unsigned {
            event_payload_hash: Hash::of(payload),
            parent: Some(parent),
            receipt_id: id,
            receipt_kind: kind,
            session_epoch: self.binding.session_epoch,
            session_id: self.binding.session_id,
            tenant_id: self.binding.tenant_id.clone(),
            tier: Tier::Substrate,
            timestamp_utc: self.last_time,
        };
        body.sign(&self.key)
    }
}

fn stored(receipt: &Receipt, payload: Vec<u8>) -> StoredReceipt {
    StoredReceipt {
        bytes: receipt.to_bytes(),
        payload: Some(payload),
    }
}
