//! Builds whole sessions as the product's machines write them, with ids, times and keys that are the same on every run.
//!
//! [`golden`] is the session that vectors and the mutation suite stand on: two questions in a first epoch, one answered by
//! the substrate and one on the device, then a break, a new epoch in the next month, and a third question.
// Each test that includes this file uses a part of it.
#![allow(dead_code)]

use halo_receipts::chain::{Chain, Event};
use halo_receipts::evidence::{
    Attributes, Claim, ClaimKind, Evidence, Header, Record as _, StoredBlock, StoredReceipt, Stream,
};
use halo_receipts::experts::ExpertSet;
use halo_receipts::hex;
use halo_receipts::ids::{DeviceId, Epoch, Hash, ReceiptId, RequestId, SessionId, TenantId, Tier};
use halo_receipts::keys::{PayloadKey, RootKeys, RootSecret, SessionKey, TenantKeys as _, TierKey};
use halo_receipts::merkle;
use halo_receipts::payload::{
    AnswerContent, AnswerStatus, Answerer, BlockRoot, BreakFound, ContentPolicy, Decision,
    ExpertLoad, ModelIdentity, OrchestratorResponse, Private, Routing, RoutingContent,
    SubstrateResponse, SubstrateSeal, TokenContent, TokenEmit, V1, to_canonical,
};
use halo_receipts::receipt::{Parent, Receipt, ReceiptKind, Unsigned};
use halo_receipts::time::Timestamp;

/// 2026-01-31T23:59:40Z: the first epoch's receipts run over midnight into a month whose keys are others.
pub const FIRST_EPOCH: Epoch = Epoch(1_769_903_980);
/// 2026-02-01T00:01:40Z.
pub const SECOND_EPOCH: Epoch = Epoch(1_769_904_100);
/// What the golden session's answers say.
pub const ANSWERS: [&[&str]; 2] = [
    &["Three", " pallets", " in", " aisle", " seven", "."],
    &["Yes", "."],
];

/// The root secret that signs these sessions: the bytes 0 to 47.
pub fn root_bytes() -> Vec<u8> {
    (0..48).collect()
}

/// Every key of these sessions.
pub fn root_keys() -> RootKeys {
    RootKeys::new(RootSecret::new(root_bytes()).unwrap(), 1, false)
}

/// The root secret of the next generation.
pub fn next_root_bytes() -> Vec<u8> {
    (48..96).collect()
}

/// Every key of the sessions under the next generation of the root.
pub fn next_root_keys() -> RootKeys {
    RootKeys::new(RootSecret::new(next_root_bytes()).unwrap(), 2, false)
}

/// What a receipt is written with: its kind, parent and payload.
pub struct Draft {
    /// Who signs.
    pub tier: Tier,
    /// What it is about.
    pub kind: ReceiptKind,
    /// What it follows.
    pub parent: Option<Parent>,
    /// What it commits to.
    pub content: Content,
}

/// The payload of a draft.
pub enum Content {
    /// A capture's bytes, which are not stored.
    Capture(Vec<u8>),
    /// JSON that is stored.
    Payload(Vec<u8>),
}

/// Writes a session receipt by receipt.
pub struct Builder {
    /// The keys of everything.
    pub keys: RootKeys,
    /// The session.
    pub session_id: SessionId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// The epoch that signs what is written next.
    pub epoch: Epoch,
    /// What is kept of private content.
    pub policy: ContentPolicy,
    /// What is written so far.
    pub evidence: Evidence,
    /// The chain that every machine would hold by now.
    pub chain: Chain,
    seed: u64,
    drawn: u64,
    clock: u64,
}

impl Builder {
    /// A session that was just opened in its first epoch. Sessions with other seeds share no id.
    pub fn open(seed: u64) -> Self {
        Self::open_under(root_keys(), seed)
    }

    /// The same under another root.
    pub fn open_under(keys: RootKeys, seed: u64) -> Self {
        let tenant_id: TenantId = "acme-west".parse().unwrap();
        let session_id = SessionId::from_random(random(seed, 0));
        let mut builder = Self {
            chain: Chain::new(session_id, tenant_id.clone()),
            keys,
            session_id,
            tenant_id,
            epoch: FIRST_EPOCH,
            policy: ContentPolicy::Sealed,
            evidence: Evidence::default(),
            seed,
            drawn: 1,
            clock: u64::from(FIRST_EPOCH.0) * 1_000_000,
        };
        let root = builder.keys.root();
        let header = Header {
            v: V1,
            session_id,
            session_epoch: FIRST_EPOCH,
            tenant_id: builder.tenant_id.clone(),
            device_id: "phone-17".parse::<DeviceId>().unwrap(),
            root_generation: root.generation,
            key_check_value: root.check_value,
            demo_root: root.demo,
            content: builder.policy,
            opened_at: builder.now(),
        };
        let signed = header.sign(&builder.tier_key(Tier::Orchestrator)).unwrap();
        builder.evidence.header = Some(signed);
        builder.claim(ClaimKind::Epoch);
        builder.claim(ClaimKind::Connection);
        builder
    }

    /// Sixteen bytes that depend on the seed and on how many were drawn before.
    pub fn random(&mut self) -> [u8; 16] {
        self.drawn += 1;
        random(self.seed, self.drawn)
    }

    /// A time 137.011 ms after the last one.
    pub fn now(&mut self) -> Timestamp {
        self.clock += 137_011;
        Timestamp::from_micros(self.clock).unwrap()
    }

    /// Sets the clock back, as a phone's that was wrong.
    pub fn turn_clock_back(&mut self, seconds: u64) {
        self.clock -= seconds * 1_000_000;
    }

    /// SESSION_KEY of an epoch.
    pub fn session_key(&self, epoch: Epoch) -> SessionKey {
        self.keys
            .session_key(&self.tenant_id, &self.session_id, epoch)
            .unwrap()
    }

    /// TIER_KEY of the epoch under way.
    pub fn tier_key(&self, tier: Tier) -> TierKey {
        self.session_key(self.epoch).tier_key(tier)
    }

    fn payload_key(&self, tier: Tier) -> PayloadKey {
        self.tier_key(tier).payload_key()
    }

    /// Writes a claim of the epoch under way.
    pub fn claim(&mut self, kind: ClaimKind) {
        let claim = Claim {
            v: V1,
            kind,
            session_id: self.session_id,
            session_epoch: self.epoch,
            link: 0,
            claimed_by: match kind {
                ClaimKind::SubstrateLink => "pod-a".to_owned(),
                _ => "gateway-a".to_owned(),
            },
            claimed_at: self.now(),
        };
        let signed = claim.sign(&self.tier_key(Tier::Orchestrator)).unwrap();
        self.evidence.claims.push(signed);
    }

    /// Opens a later epoch, as after a reconnect.
    pub fn rekey(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.clock = self.clock.max(u64::from(epoch.0) * 1_000_000);
        self.claim(ClaimKind::Epoch);
        self.claim(ClaimKind::Connection);
    }

    /// Signs a draft with the epoch under way, without writing it.
    pub fn sign(&mut self, id: ReceiptId, draft: &Draft) -> (Receipt, StoredReceipt) {
        let (hash, payload) = match &draft.content {
            Content::Capture(bytes) => (Hash::of(bytes), None),
            Content::Payload(json) => (Hash::of(json), Some(json.clone())),
        };
        let unsigned = Unsigned {
            event_payload_hash: hash,
            parent: draft.parent,
            receipt_id: id,
            receipt_kind: draft.kind,
            session_epoch: self.epoch,
            session_id: self.session_id,
            tenant_id: self.tenant_id.clone(),
            tier: draft.tier,
            timestamp_utc: self.now(),
        };
        let receipt = unsigned.sign(&self.tier_key(draft.tier));
        let bytes = receipt.to_bytes();
        (receipt, StoredReceipt { bytes, payload })
    }

    /// Signs drafts, checks them against the chain, and writes them as one block.
    pub fn write(&mut self, stream: Stream, drafts: Vec<(ReceiptId, Draft)>) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        let mut stored = Vec::new();
        for (id, draft) in drafts {
            let (receipt, bytes) = self.sign(id, &draft);
            let event = Event::read(&receipt.body, bytes.payload.as_deref()).unwrap();
            self.chain.accept(&receipt, &event).unwrap();
            receipts.push(receipt);
            stored.push(bytes);
        }
        self.store(stream, stored);
        receipts
    }

    /// Writes signed receipts as one block, with the copies that a ledger keeps beside it.
    pub fn store(&mut self, stream: Stream, receipts: Vec<StoredReceipt>) {
        let first = self.evidence.next_number(stream);
        let mut ids = Vec::new();
        for (number, stored) in (first..).zip(&receipts) {
            let receipt = Receipt::parse(&stored.bytes).unwrap();
            ids.push(receipt.body.receipt_id);
            if stream == Stream::Device {
                let copy = attributes(stream, number, &receipt);
                self.evidence.attributes.push(copy);
            }
        }
        let block = StoredBlock {
            stream,
            first,
            ids,
            content: Ok(receipts),
        };
        // Evidence holds the blocks by stream and number.
        let blocks = &mut self.evidence.blocks;
        let at = blocks.partition_point(|other| (other.stream, other.first) < (stream, first));
        blocks.insert(at, block);
    }

    /// A capture of these bytes by tier 0.
    pub fn capture(&mut self, bytes: &[u8]) -> Receipt {
        let draft = Draft {
            tier: Tier::Sensor,
            kind: ReceiptKind::SensorCapture,
            parent: self.chain.capture_parent(),
            content: Content::Capture(bytes.to_vec()),
        };
        self.write_one(Stream::Device, draft)
    }

    fn write_one(&mut self, stream: Stream, draft: Draft) -> Receipt {
        let id = ReceiptId::from_random(self.random());
        self.write(stream, vec![(id, draft)]).remove(0)
    }

    /// Tier 1's decision about what was asked.
    pub fn route(&mut self, decision: Decision, prompt: &str) -> (Receipt, RequestId) {
        let id = ReceiptId::from_random(self.random());
        let request_id = RequestId::from_random(self.random());
        let private = Private::new(
            &RoutingContent::new(prompt),
            self.policy,
            &self.payload_key(Tier::Orchestrator),
            &id,
        );
        let mut routing = Routing::new(decision, "rule:stock", "rules/1");
        routing.request_id = Some(request_id);
        let draft = Draft {
            tier: Tier::Orchestrator,
            kind: ReceiptKind::TierRouting,
            parent: self.chain.routing_parent(),
            content: json(&routing.with_private(private.unwrap())),
        };
        let receipt = self.write(Stream::Device, vec![(id, draft)]).remove(0);
        (receipt, request_id)
    }

    /// Tier 1's record of a break in the stream of `broken`.
    pub fn record_break(&mut self, broken: Epoch) -> Receipt {
        let mut routing = Routing::new(Decision::VerificationFailed, "break: hmac", "link/1");
        routing.break_found = Some(BreakFound {
            epoch: broken,
            first_bad: 41,
            reason: "hmac".to_owned(),
            expected: Hash::of(b"the frame that was sent"),
            computed: Hash::of(b"the frame that arrived"),
        });
        let draft = Draft {
            tier: Tier::Orchestrator,
            kind: ReceiptKind::TierRouting,
            parent: self.chain.break_parent(),
            content: json(&routing),
        };
        self.write_one(Stream::Device, draft)
    }

    /// Tier 2's answer of these tokens to a routing receipt, in blocks of `block` receipts, and its seal.
    pub fn answer(
        &mut self,
        routing: &Receipt,
        request_id: RequestId,
        tokens: &[&str],
        block: usize,
        status: AnswerStatus,
    ) -> Receipt {
        let first = self.evidence.next_number(Stream::Substrate);
        let written = self.steps(routing, tokens, block);
        self.seal_answer(routing, request_id, tokens, first, &written, status)
    }

    /// Claims the gateway's link to the pod, once for each epoch.
    fn claim_link(&mut self) {
        let claimed = self.evidence.claims.iter().any(|signed| {
            let claim: Claim = signed.parse().unwrap();
            claim.kind == ClaimKind::SubstrateLink && claim.session_epoch == self.epoch
        });
        if !claimed {
            self.claim(ClaimKind::SubstrateLink);
        }
    }

    /// The expert_load and token_emit of each token, in blocks of `block` receipts; returns the blocks.
    pub fn steps(&mut self, routing: &Receipt, tokens: &[&str], block: usize) -> Vec<Vec<Receipt>> {
        self.claim_link();
        let mut drafts = Vec::new();
        let mut written = Vec::new();
        let mut parent = routing.as_parent();
        for (step, token) in (0u32..).zip(tokens) {
            let load = self.load(step, parent);
            let load = self.flush_full(load, &mut drafts, &mut written, block);
            let token = self.token(step, token, load.as_parent());
            self.flush_full(token, &mut drafts, &mut written, block);
            parent = load.as_parent();
        }
        self.flush(&mut drafts, &mut written);
        written
    }

    /// Signs and accepts a receipt of an answer, and writes the block once it is full.
    fn flush_full(
        &mut self,
        (id, draft): (ReceiptId, Draft),
        pending: &mut Vec<(Receipt, StoredReceipt)>,
        written: &mut Vec<Vec<Receipt>>,
        block: usize,
    ) -> Receipt {
        let (receipt, stored) = self.sign(id, &draft);
        let event = Event::read(&receipt.body, stored.payload.as_deref()).unwrap();
        self.chain.accept(&receipt, &event).unwrap();
        pending.push((receipt.clone(), stored));
        if pending.len() == block {
            self.flush(pending, written);
        }
        receipt
    }

    fn flush(
        &mut self,
        pending: &mut Vec<(Receipt, StoredReceipt)>,
        written: &mut Vec<Vec<Receipt>>,
    ) {
        if !pending.is_empty() {
            let (receipts, stored) = std::mem::take(pending).into_iter().unzip();
            self.store(Stream::Substrate, stored);
            written.push(receipts);
        }
    }

    fn load(&mut self, step: u32, parent: Parent) -> (ReceiptId, Draft) {
        let mut experts = ExpertSet::new(2, 16);
        for layer in 0..2 {
            for k in 0..4 {
                experts.insert(layer, (step as usize * 5 + layer + 3 * k) % 16);
            }
        }
        let load = ExpertLoad {
            v: V1,
            step,
            experts: experts.clone(),
            loaded: (step == 0).then_some(experts),
            model: (step == 0).then(|| ModelIdentity {
                name: "halo-demo".to_owned(),
                weights_sha256: Hash::of(b"weights"),
                build_sha256: Hash::of(b"build"),
            }),
        };
        let draft = Draft {
            tier: Tier::Substrate,
            kind: ReceiptKind::ExpertLoad,
            parent: Some(parent),
            content: json(&load),
        };
        (ReceiptId::from_random(self.random()), draft)
    }

    fn token(&mut self, step: u32, text: &str, parent: Parent) -> (ReceiptId, Draft) {
        let id = ReceiptId::from_random(self.random());
        let content = TokenContent {
            token_id: 1000 + step,
            text: text.to_owned(),
        };
        let key = self.payload_key(Tier::Substrate);
        let private = Private::new(&content, self.policy, &key, &id);
        let draft = Draft {
            tier: Tier::Substrate,
            kind: ReceiptKind::TokenEmit,
            parent: Some(parent),
            content: json(&TokenEmit::new(step, private.unwrap())),
        };
        (id, draft)
    }

    /// Tier 2's seal over the blocks of an answer.
    pub fn seal_answer(
        &mut self,
        routing: &Receipt,
        request_id: RequestId,
        tokens: &[&str],
        first: u32,
        written: &[Vec<Receipt>],
        status: AnswerStatus,
    ) -> Receipt {
        let all: Vec<&Receipt> = written.iter().flatten().collect();
        let hashes = |receipts: &[&Receipt]| -> Vec<Hash> {
            receipts.iter().map(|receipt| receipt.hash()).collect()
        };
        let mut blocks = Vec::new();
        let mut at = first;
        for block in written {
            let leaves = hashes(&block.iter().collect::<Vec<_>>());
            blocks.push(BlockRoot {
                first: at,
                count: leaves.len() as u32,
                root: merkle::root(&leaves),
            });
            at += leaves.len() as u32;
        }
        let ids = match (all.first(), all.last()) {
            (Some(first), Some(last)) => Some((first.body.receipt_id, last.body.receipt_id)),
            _ => None,
        };
        let id = ReceiptId::from_random(self.random());
        let content = AnswerContent {
            output_sha256: Hash::of(tokens.concat().as_bytes()),
            output: None,
        };
        let key = self.payload_key(Tier::Substrate);
        let private = Private::new(&content, self.policy, &key, &id);
        let seal = SubstrateSeal {
            request_id,
            status,
            finish: match status {
                AnswerStatus::Ok => "stop".to_owned(),
                _ => "lost".to_owned(),
            },
            model: "halo-demo".to_owned(),
            prompt_tokens: 12,
            completion_tokens: tokens.len() as u32,
            first,
            ids,
            receipts: all.len() as u32,
            root: merkle::root(&hashes(&all)),
            blocks,
        };
        let draft = Draft {
            tier: Tier::Substrate,
            kind: ReceiptKind::TierResponse,
            parent: Some(
                all.last()
                    .map_or(routing.as_parent(), |last| last.as_parent()),
            ),
            content: json(&SubstrateResponse::new(seal, private.unwrap())),
        };
        self.write(Stream::Substrate, vec![(id, draft)]).remove(0)
    }

    /// Tier 1's response to `parent`, which seals everything written so far.
    pub fn seal(
        &mut self,
        parent: &Receipt,
        status: AnswerStatus,
        answered_by: Answerer,
        output: &str,
    ) -> Receipt {
        let leaves = |stream| {
            let stored = self.evidence.receipts(stream);
            stored
                .map(|(_, stored)| Hash::of(&stored.bytes))
                .collect::<Vec<_>>()
        };
        let (device, substrate) = (leaves(Stream::Device), leaves(Stream::Substrate));
        let root = merkle::root(device.iter().chain(&substrate));
        let id = ReceiptId::from_random(self.random());
        let content = AnswerContent {
            output_sha256: Hash::of(output.as_bytes()),
            output: Some(output.to_owned()),
        };
        let key = self.payload_key(Tier::Orchestrator);
        let private = Private::new(&content, self.policy, &key, &id);
        let response = OrchestratorResponse::new(
            status,
            answered_by,
            device.len() as u32,
            substrate.len() as u32,
            root,
            private.unwrap(),
        );
        let draft = Draft {
            tier: Tier::Orchestrator,
            kind: ReceiptKind::TierResponse,
            parent: Some(parent.as_parent()),
            content: json(&response),
        };
        self.write(Stream::Device, vec![(id, draft)]).remove(0)
    }

    /// A question that the substrate answers, from the routing receipt to the seal.
    pub fn escalate(&mut self, prompt: &str, tokens: &[&str], block: usize) {
        let (routing, request) = self.route(Decision::Escalate, prompt);
        let response = self.answer(&routing, request, tokens, block, AnswerStatus::Ok);
        self.seal(
            &response,
            AnswerStatus::Ok,
            Answerer::Substrate,
            &tokens.concat(),
        );
    }

    /// A question that the device answers itself.
    pub fn answer_locally(&mut self, prompt: &str, output: &str) {
        let (routing, _) = self.route(Decision::Local, prompt);
        self.seal(&routing, AnswerStatus::Ok, Answerer::Local, output);
    }
}

/// A session like the golden one, whose substrate answers with these tokens.
pub fn session(seed: u64, first: &[&str], second: &[&str]) -> Builder {
    session_under(root_keys(), seed, first, second)
}

/// The same under another root.
pub fn session_under(keys: RootKeys, seed: u64, first: &[&str], second: &[&str]) -> Builder {
    let mut builder = Builder::open_under(keys, seed);
    builder.capture(b"sixteen kHz of somebody asking");
    builder.capture(b"a picture of aisle seven");
    builder.escalate("How many pallets of saline are left?", first, 3);
    builder.capture(b"another question");
    builder.answer_locally("What time is it?", "It is one minute past midnight.");
    builder.rekey(SECOND_EPOCH);
    builder.record_break(FIRST_EPOCH);
    builder.capture(b"the question again");
    builder.escalate("Is the certificate valid?", second, 3);
    builder
}

/// The golden session.
pub fn golden() -> Builder {
    session(1, ANSWERS[0], ANSWERS[1])
}

/// The searchable copy of a receipt's fields, as a ledger keeps it.
pub fn attributes(stream: Stream, number: u32, receipt: &Receipt) -> Attributes {
    let body = &receipt.body;
    let field = |name: &str, value: String| (name.to_owned(), Some(value));
    let parent_id = body.parent.map(|parent| parent.id.to_string());
    let parent_hash = body.parent.map(|parent| parent.hash.to_string());
    Attributes {
        position: (stream, number),
        fields: vec![
            field("event_payload_hash", body.event_payload_hash.to_string()),
            field("hmac_signature", hex::encode(&receipt.hmac_signature)),
            ("parent_receipt_hash".to_owned(), parent_hash),
            ("parent_receipt_id".to_owned(), parent_id),
            field("receipt_id", body.receipt_id.to_string()),
            field("receipt_kind", body.receipt_kind.to_string()),
            field("session_epoch", body.session_epoch.to_string()),
            field("session_id", body.session_id.to_string()),
            field("tenant_id", body.tenant_id.to_string()),
            field("tier", body.tier.to_string()),
            field("timestamp_utc", body.timestamp_utc.to_string()),
        ],
    }
}

fn random(seed: u64, number: u64) -> [u8; 16] {
    let input = [seed.to_be_bytes(), number.to_be_bytes()].concat();
    Hash::of(&input).0[..16].try_into().unwrap()
}

fn json(payload: &impl serde::Serialize) -> Content {
    Content::Payload(to_canonical(payload).unwrap())
}
