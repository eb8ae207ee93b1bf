//! Writes what devices and pods write: receipts, bundles, documents, evidence.

use std::sync::Arc;

use halo_receipts::documents::{EscalateRequest, Operation, Sampling};
use halo_receipts::evidence::{
    Block, Claim, ClaimKind, Evidence, Header, Record as _, StoredBlock, StoredReceipt, Stream,
};
use halo_receipts::experts::ExpertSet;
use halo_receipts::ids::{Epoch, Hash, ReceiptId, RequestId, SessionId, TenantId, Tier};
use halo_receipts::keys::{OneRoot, RootKeys, RootSecret, TenantKeys, TierKey};
use halo_receipts::merkle;
use halo_receipts::messages::Token;
use halo_receipts::payload::{
    AnswerContent, AnswerStatus, Answerer, BlockRoot, ContentPolicy, Decision, ExpertLoad,
    ModelIdentity, OrchestratorResponse, Private, Routing, RoutingContent, SubstrateResponse,
    SubstrateSeal, TokenContent, TokenEmit, V1, to_canonical, to_raw,
};
use halo_receipts::receipt::{Parent, Receipt, ReceiptKind, Unsigned};
use halo_receipts::time::Timestamp;

pub fn keys() -> Arc<RootKeys> {
    Arc::new(root_keys())
}

/// The same keys, as a gateway holds them.
pub fn store() -> OneRoot {
    OneRoot::new(root_keys())
}

fn root_keys() -> RootKeys {
    RootKeys::new(RootSecret::new(vec![7; 32]).unwrap(), 1, true)
}

pub fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

pub fn request_id(number: u8) -> RequestId {
    RequestId::from_random([number; 16])
}

/// A receipt with its payload.
#[derive(Debug, Clone)]
pub struct Written {
    pub receipt: Receipt,
    pub payload: Option<Vec<u8>>,
}

impl Written {
    pub fn stored(&self) -> StoredReceipt {
        StoredReceipt {
            bytes: self.receipt.to_bytes(),
            payload: self.payload.clone(),
        }
    }

    pub fn hash(&self) -> Hash {
        self.receipt.hash()
    }
}

/// One session as all its authors write it.
pub struct Author {
    pub keys: Arc<RootKeys>,
    pub tenant: TenantId,
    pub session: SessionId,
    pub epoch: Epoch,
    pub content: ContentPolicy,
    pub d: Vec<Hash>,
    pub s: Vec<Hash>,
    pub captures: Option<Parent>,
    /// Why tier 2 stopped, when it did not finish.
    pub finish: Option<&'static str>,
    /// Ids and times come from it; two authors of one session count from far apart.
    pub counter: u64,
}

impl Author {
    pub fn new(session: SessionId, epoch: Epoch) -> Self {
        Self {
            keys: keys(),
            tenant: tenant(),
            session,
            epoch,
            content: ContentPolicy::Sealed,
            d: Vec::new(),
            s: Vec::new(),
            captures: None,
            finish: None,
            counter: 0,
        }
    }

    pub fn key(&self, tier: Tier) -> TierKey {
        let session = self
            .keys
            .session_key(&self.tenant, &self.session, self.epoch);
        session.unwrap().tier_key(tier)
    }

    pub fn next_id(&mut self) -> ReceiptId {
        self.counter += 1;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.counter.to_be_bytes());
        bytes[12..].copy_from_slice(&self.epoch.0.to_be_bytes());
        ReceiptId::from_random(bytes)
    }

    pub fn unsigned(
        &mut self,
        tier: Tier,
        kind: ReceiptKind,
        id: ReceiptId,
        parent: Option<Parent>,
        hash: Hash,
    ) -> Unsigned {
        Unsigned {
            event_payload_hash: hash,
            parent,
            receipt_id: id,
            receipt_kind: kind,
            session_epoch: self.epoch,
            session_id: self.session,
            tenant_id: self.tenant.clone(),
            tier,
            timestamp_utc: Timestamp::from_micros(
                u64::from(self.epoch.0) * 1_000_000 + self.counter,
            )
            .unwrap(),
        }
    }

    fn write(
        &mut self,
        tier: Tier,
        kind: ReceiptKind,
        id: ReceiptId,
        parent: Option<Parent>,
        payload: Option<Vec<u8>>,
    ) -> Written {
        let hash = Hash::of(payload.as_deref().unwrap_or(b"sound"));
        let receipt = self
            .unsigned(tier, kind, id, parent, hash)
            .sign(&self.key(tier));
        let written = Written { receipt, payload };
        match tier {
            Tier::Substrate => self.s.push(written.hash()),
            _ => self.d.push(written.hash()),
        }
        written
    }

    pub fn capture(&mut self) -> Written {
        let id = self.next_id();
        let parent = self.captures;
        let written = self.write(Tier::Sensor, ReceiptKind::SensorCapture, id, parent, None);
        self.captures = Some(written.receipt.as_parent());
        written
    }

    pub fn routing(&mut self, request: RequestId, prompt: &str) -> Written {
        let id = self.next_id();
        let parent = self.captures;
        let payload = self.routing_payload(request, prompt, id);
        self.write(
            Tier::Orchestrator,
            ReceiptKind::TierRouting,
            id,
            parent,
            Some(payload),
        )
    }

    pub fn routing_payload(&self, request: RequestId, prompt: &str, id: ReceiptId) -> Vec<u8> {
        let mut routing = Routing::new(Decision::Escalate, "question", "rules-1");
        routing.request_id = Some(request);
        let private = self.private(&RoutingContent::new(prompt), Tier::Orchestrator, &id);
        to_canonical(&routing.with_private(private)).unwrap()
    }

    pub fn private(&self, content: &impl serde::Serialize, tier: Tier, id: &ReceiptId) -> Private {
        Private::new(content, self.content, &self.key(tier).payload_key(), id).unwrap()
    }

    /// The seal of the whole session.
    pub fn seal(&mut self, parent: Parent, status: AnswerStatus, output: &str) -> Written {
        let id = self.next_id();
        let content = AnswerContent {
            output_sha256: Hash::of(output.as_bytes()),
            output: Some(output.to_owned()),
        };
        let payload = OrchestratorResponse::new(
            status,
            Answerer::Substrate,
            self.d.len() as u32,
            self.s.len() as u32,
            merkle::root(self.d.iter().chain(&self.s)),
            self.private(&content, Tier::Orchestrator, &id),
        );
        let payload = to_canonical(&payload).unwrap();
        let kind = ReceiptKind::TierResponse;
        self.write(Tier::Orchestrator, kind, id, Some(parent), Some(payload))
    }

    /// One step of an answer: its two receipts, and the token that is sent.
    pub fn step(&mut self, step: u32, parent: Parent, text: &str) -> ([Written; 2], Token) {
        let id = self.next_id();
        let load = to_canonical(&ExpertLoad {
            v: V1,
            step,
            experts: ExpertSet::new(2, 8),
            loaded: None,
            model: (step == 0).then(|| ModelIdentity {
                name: "tiny".to_owned(),
                weights_sha256: Hash::of(b"weights"),
                build_sha256: Hash::of(b"build"),
            }),
        });
        let kind = ReceiptKind::ExpertLoad;
        let load = self.write(Tier::Substrate, kind, id, Some(parent), Some(load.unwrap()));
        let id = self.next_id();
        let content = TokenContent {
            token_id: 100 + step,
            text: text.to_owned(),
        };
        let private = self.private(&content, Tier::Substrate, &id);
        let emit = to_canonical(&TokenEmit::new(step, private)).unwrap();
        let parent = Some(load.receipt.as_parent());
        let emit = self.write(
            Tier::Substrate,
            ReceiptKind::TokenEmit,
            id,
            parent,
            Some(emit),
        );
        let token = Token {
            step,
            token_id: 100 + step,
            expert_load: load.hash(),
            token_emit: emit.hash(),
            text: text.to_owned(),
        };
        ([load, emit], token)
    }

    /// Tier 2's response to an answer whose receipts, `members`, stand in stream `s` from `first` on.
    pub fn answer(
        &mut self,
        request: RequestId,
        parent: Parent,
        first: u32,
        members: &[Written],
        output: &str,
    ) -> Written {
        let id = self.next_id();
        let hashes: Vec<Hash> = members.iter().map(Written::hash).collect();
        let ids = members.first().zip(members.last());
        let seal = SubstrateSeal {
            request_id: request,
            status: match self.finish {
                None => AnswerStatus::Ok,
                Some(_) => AnswerStatus::Interrupted,
            },
            finish: self.finish.unwrap_or("stop").to_owned(),
            model: "tiny".to_owned(),
            prompt_tokens: 5,
            completion_tokens: members.len() as u32 / 2,
            first,
            ids: ids.map(|(a, b)| (a.receipt.body.receipt_id, b.receipt.body.receipt_id)),
            receipts: members.len() as u32,
            root: merkle::root(&hashes),
            blocks: vec![BlockRoot {
                first,
                count: members.len() as u32,
                root: merkle::root(&hashes),
            }],
        };
        let content = AnswerContent {
            output_sha256: Hash::of(output.as_bytes()),
            output: None,
        };
        let private = self.private(&content, Tier::Substrate, &id);
        let payload = to_canonical(&SubstrateResponse::new(seal, private)).unwrap();
        let kind = ReceiptKind::TierResponse;
        self.write(Tier::Substrate, kind, id, Some(parent), Some(payload))
    }

    /// The session as a ledger would hold it.
    pub fn evidence(&self, device: &[Written], substrate: &[Written]) -> Evidence {
        let key = self.key(Tier::Orchestrator);
        let now = Timestamp::from_micros(u64::from(self.epoch.0) * 1_000_000).unwrap();
        let root = self.keys.root();
        let header = Header {
            v: V1,
            session_id: self.session,
            session_epoch: self.epoch,
            tenant_id: self.tenant.clone(),
            device_id: "phone-1".parse().unwrap(),
            root_generation: root.generation,
            key_check_value: root.check_value,
            demo_root: root.demo,
            content: self.content,
            opened_at: now,
        };
        let claim = Claim {
            v: V1,
            kind: ClaimKind::Epoch,
            session_id: self.session,
            session_epoch: self.epoch,
            link: 0,
            claimed_by: "gateway".to_owned(),
            claimed_at: now,
        };
        let mut blocks = Vec::new();
        for (stream, receipts) in [(Stream::Device, device), (Stream::Substrate, substrate)] {
            if !receipts.is_empty() {
                blocks.push(StoredBlock {
                    stream,
                    first: 0,
                    ids: receipts.iter().map(|w| w.receipt.body.receipt_id).collect(),
                    content: Ok(receipts.iter().map(Written::stored).collect()),
                });
            }
        }
        Evidence {
            header: Some(header.sign(&key).unwrap()),
            claims: vec![claim.sign(&key).unwrap()],
            blocks,
            attributes: Vec::new(),
        }
    }
}

pub fn stored_block(block: &Block) -> StoredBlock {
    let ids = block
        .receipts
        .iter()
        .map(|stored| Receipt::parse(&stored.bytes).unwrap().body.receipt_id);
    StoredBlock {
        stream: block.stream,
        first: block.first,
        ids: ids.collect(),
        content: Ok(block.receipts.clone()),
    }
}

pub fn infer(request: RequestId, bundle: &[&Written], prompt: &str) -> EscalateRequest {
    EscalateRequest {
        prompt: prompt.to_owned(),
        max_tokens: 8,
        ..document(Operation::Infer, request, bundle)
    }
}

pub fn record(request: RequestId, bundle: &[&Written]) -> EscalateRequest {
    document(Operation::Record, request, bundle)
}

pub fn resume(request: RequestId, last_step: Option<u32>) -> EscalateRequest {
    EscalateRequest {
        last_step,
        ..document(Operation::Resume, request, &[])
    }
}

fn document(op: Operation, request_id: RequestId, bundle: &[&Written]) -> EscalateRequest {
    EscalateRequest {
        v: V1,
        op,
        request_id,
        receipts: bundle
            .iter()
            .map(|written| written.receipt.clone())
            .collect(),
        payloads: bundle
            .iter()
            .map(|written| {
                written
                    .payload
                    .as_ref()
                    .map(|payload| to_raw(payload).unwrap())
            })
            .collect(),
        prompt: String::new(),
        max_tokens: 0,
        sampling: Sampling::default(),
        last_step: None,
    }
}
