//! A phone with its glasses, and the session that a gateway opened for them.

use std::sync::Arc;

use halo_receipts::chain::{Chain, Event};
use halo_receipts::documents::{EscalateRequest, Operation, Sampling};
use halo_receipts::evidence::{
    Block, Claim, ClaimKind, Evidence, Header, Record as _, SignedRecord, StoredBlock,
    StoredReceipt, Stream,
};
use halo_receipts::ids::{DeviceId, Epoch, Hash, ReceiptId, RequestId, SessionId, TenantId, Tier};
use halo_receipts::keys::{RootKeys, RootSecret, TenantKeys, TierKey};
use halo_receipts::merkle;
use halo_receipts::payload::{
    AnswerContent, AnswerStatus, Answerer, ContentPolicy, Decision, OrchestratorResponse, Private,
    Routing, RoutingContent, V1, to_canonical, to_raw,
};
use halo_receipts::receipt::{Parent, Receipt, ReceiptKind, Unsigned};
use halo_receipts::time::Timestamp;
use halo_substrate::bundle::LinkId;

pub const EPOCH: Epoch = Epoch(1_790_000_000);
pub const PROMPT: &str = "What is sovereign inference?";

/// Keys under one root for every test; `other_keys` is another root.
pub fn keys() -> Arc<RootKeys> {
    Arc::new(root_keys())
}

pub fn root_keys() -> RootKeys {
    let root = RootSecret::new((0..32).collect()).unwrap();
    RootKeys::new(root, 1, false)
}

pub fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

/// A request as the device sends it, with the receipts of its bundle as the gateway stores them.
pub struct Ask {
    pub request: EscalateRequest,
    pub stored: Vec<StoredReceipt>,
}

impl Ask {
    pub fn document(&self) -> Vec<u8> {
        self.request.to_json().unwrap()
    }
}

pub struct Device {
    pub keys: Arc<RootKeys>,
    pub tenant: TenantId,
    pub session: SessionId,
    pub epoch: Epoch,
    pub content: ContentPolicy,
    pub chain: Chain,
    /// Microseconds since 1970; every receipt is a millisecond after the last.
    pub clock: u64,
    seed: u8,
    made: u64,
}

impl Device {
    /// Devices with different seeds have different sessions.
    pub fn new(seed: u8) -> Self {
        let session = SessionId::from_random([seed; 16]);
        Self {
            keys: keys(),
            tenant: tenant(),
            session,
            epoch: EPOCH,
            content: ContentPolicy::Sealed,
            chain: Chain::new(session, tenant()),
            clock: u64::from(EPOCH.0) * 1_000_000,
            seed,
            made: 0,
        }
    }

    /// A device of a session that is keyed from another root.
    pub fn keyed(seed: u8, keys: RootKeys) -> Self {
        Self {
            keys: Arc::new(keys),
            ..Self::new(seed)
        }
    }

    pub fn link_id(&self) -> LinkId {
        LinkId {
            tenant_id: self.tenant.clone(),
            session_id: self.session,
            session_epoch: self.epoch,
        }
    }

    pub fn key(&self, tier: Tier) -> TierKey {
        self.key_of(self.epoch, tier)
    }

    pub fn key_of(&self, epoch: Epoch, tier: Tier) -> TierKey {
        let session_key = self.keys.session_key(&self.tenant, &self.session, epoch);
        session_key.unwrap().tier_key(tier)
    }

    pub fn random(&mut self) -> [u8; 16] {
        self.made += 1;
        let hash = Hash::of(&[&[self.seed][..], &self.made.to_be_bytes()].concat());
        hash.0[..16].try_into().unwrap()
    }

    pub fn receipt_id(&mut self) -> ReceiptId {
        ReceiptId::from_random(self.random())
    }

    pub fn header(&self) -> SignedRecord {
        let root = self.keys.root();
        let header = Header {
            v: V1,
            session_id: self.session,
            session_epoch: self.epoch,
            tenant_id: self.tenant.clone(),
            device_id: "phone-1".parse::<DeviceId>().unwrap(),
            root_generation: root.generation,
            key_check_value: root.check_value,
            demo_root: root.demo,
            content: self.content,
            opened_at: Timestamp::from_micros(u64::from(EPOCH.0) * 1_000_000).unwrap(),
        };
        header.sign(&self.key(Tier::Orchestrator)).unwrap()
    }

    pub fn epoch_claim(&self) -> SignedRecord {
        self.claim_of(self.epoch)
    }

    pub fn claim_of(&self, epoch: Epoch) -> SignedRecord {
        let claim = Claim {
            v: V1,
            kind: ClaimKind::Epoch,
            session_id: self.session,
            session_epoch: epoch,
            link: 0,
            claimed_by: "gateway".into(),
            claimed_at: Timestamp::from_micros(u64::from(epoch.0) * 1_000_000).unwrap(),
        };
        claim.sign(&self.key_of(epoch, Tier::Orchestrator)).unwrap()
    }

    pub fn unsigned(
        &mut self,
        tier: Tier,
        kind: ReceiptKind,
        parent: Option<Parent>,
        hash: Hash,
    ) -> Unsigned {
        self.clock += 1000;
        Unsigned {
            event_payload_hash: hash,
            parent,
            receipt_id: self.receipt_id(),
            receipt_kind: kind,
            session_epoch: self.epoch,
            session_id: self.session,
            tenant_id: self.tenant.clone(),
            tier,
            timestamp_utc: Timestamp::from_micros(self.clock).unwrap(),
        }
    }

    pub fn capture(&mut self) -> Receipt {
        let parent = self.chain.capture_parent();
        let hash = Hash::of(b"the sound of a question");
        let body = self.unsigned(Tier::Sensor, ReceiptKind::SensorCapture, parent, hash);
        let receipt = body.sign(&self.key(Tier::Sensor));
        self.chain.accept(&receipt, &Event::Capture).unwrap();
        receipt
    }

    /// A routing receipt that is not put into the chain.
    pub fn routing(
        &mut self,
        decision: Decision,
        request_id: RequestId,
        prompt: &str,
    ) -> (Receipt, Vec<u8>) {
        let parent = self.chain.routing_parent();
        let kind = ReceiptKind::TierRouting;
        let mut body = self.unsigned(Tier::Orchestrator, kind, parent, Hash([0; 32]));
        let key = self.key(Tier::Orchestrator);
        let content = RoutingContent::new(prompt);
        let id = body.receipt_id;
        let private = Private::new(&content, self.content, &key.payload_key(), &id).unwrap();
        let mut routing = Routing::new(decision, "a question", "rules/1").with_private(private);
        routing.request_id = Some(request_id);
        let payload = to_canonical(&routing).unwrap();
        body.event_payload_hash = Hash::of(&payload);
        (body.sign(&key), payload)
    }

    /// Takes over what the substrate wrote and seals the session after its last answer.
    pub fn seal(&mut self, evidence: &Evidence) -> StoredReceipt {
        let mut hashes = Vec::new();
        for stream in Stream::ALL {
            for (_, stored) in evidence.receipts(stream) {
                hashes.push(Hash::of(&stored.bytes));
            }
        }
        let mut last = None;
        for (_, stored) in evidence.receipts(Stream::Substrate) {
            let receipt = Receipt::parse(&stored.bytes).unwrap();
            if !self.chain.contains(&receipt.body.receipt_id) {
                let event = Event::read(&receipt.body, stored.payload.as_deref()).unwrap();
                self.chain.accept(&receipt, &event).unwrap();
            }
            last = Some(receipt.as_parent());
        }
        let kind = ReceiptKind::TierResponse;
        let mut body = self.unsigned(Tier::Orchestrator, kind, last, Hash([0; 32]));
        let key = self.key(Tier::Orchestrator);
        let content = AnswerContent {
            output_sha256: Hash::of(b""),
            output: Some(String::new()),
        };
        let id = body.receipt_id;
        let private = Private::new(&content, self.content, &key.payload_key(), &id).unwrap();
        let response = OrchestratorResponse::new(
            AnswerStatus::Ok,
            Answerer::Substrate,
            evidence.next_number(Stream::Device),
            evidence.next_number(Stream::Substrate),
            merkle::root(&hashes),
            private,
        );
        let payload = to_canonical(&response).unwrap();
        body.event_payload_hash = Hash::of(&payload);
        let receipt = body.sign(&key);
        let event = Event::OrchestratorResponse(response);
        self.chain.accept(&receipt, &event).unwrap();
        stored(&receipt, Some(&payload))
    }

    /// A capture, the decision to escalate it, and the request with both.
    pub fn ask(&mut self, prompt: &str, max_tokens: u32) -> Ask {
        let request_id = RequestId::from_random(self.random());
        let capture = self.capture();
        let (routing, payload) = self.routing(Decision::Escalate, request_id, prompt);
        let event = Event::read(&routing.body, Some(&payload)).unwrap();
        self.chain.accept(&routing, &event).unwrap();
        Ask {
            stored: vec![stored(&capture, None), stored(&routing, Some(&payload))],
            request: EscalateRequest {
                v: V1,
                op: Operation::Infer,
                request_id,
                receipts: vec![capture, routing],
                payloads: vec![None, Some(to_raw(&payload).unwrap())],
                prompt: prompt.to_owned(),
                max_tokens,
                sampling: Sampling::default(),
                last_step: None,
            },
        }
    }
}

pub fn stored(receipt: &Receipt, payload: Option<&[u8]>) -> StoredReceipt {
    StoredReceipt {
        bytes: receipt.to_bytes(),
        payload: payload.map(<[u8]>::to_vec),
    }
}

/// A ledger in memory for one session, without the promises of a real one but the conditional append.
pub struct Store {
    pub evidence: Evidence,
}

impl Store {
    pub fn open(device: &Device) -> Self {
        Self {
            evidence: Evidence {
                header: Some(device.header()),
                claims: vec![device.epoch_claim()],
                ..Evidence::default()
            },
        }
    }

    /// What a gateway does before it forwards a request.
    pub fn record(&mut self, receipts: &[StoredReceipt]) {
        if !receipts.is_empty() {
            self.append(Block {
                stream: Stream::Device,
                first: self.evidence.next_number(Stream::Device),
                receipts: receipts.to_vec(),
            });
        }
    }

    pub fn append(&mut self, block: Block) {
        assert_eq!(block.first, self.evidence.next_number(block.stream));
        assert!((1..=64).contains(&block.receipts.len()));
        let id = |stored: &StoredReceipt| Receipt::parse(&stored.bytes).unwrap().body.receipt_id;
        self.evidence.blocks.push(StoredBlock {
            stream: block.stream,
            first: block.first,
            ids: block.receipts.iter().map(id).collect(),
            content: Ok(block.receipts),
        });
    }
}
