//! A gateway and its pod in one, small but strict: what it accepts would be accepted by the real ones.

use std::collections::HashMap;
use std::sync::Arc;

use halo_receipts::chain::{Chain, Event as Payload};
use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd, EscalateRequest, Operation};
use halo_receipts::experts::ExpertSet;
use halo_receipts::fragment::{END_MAX, REQUEST_MAX, Reassembler, split};
use halo_receipts::frame::FrameType;
use halo_receipts::ids::{DeviceId, Epoch, Hash, ReceiptId, SessionId, TenantId, Tier};
use halo_receipts::keys::{DeviceKey, RootKeys, RootSecret, TenantKeys as _};
use halo_receipts::link::{End, Link};
use halo_receipts::merkle;
use halo_receipts::messages::Token;
use halo_receipts::opening::{
    DeviceTierKeys, OpenAnswer, OpenRequest, SESSIONS_PATH, epochs_path, signature_is_valid,
    stream_path,
};
use halo_receipts::payload::{
    AnswerContent, AnswerStatus, ContentPolicy, Decision, ExpertLoad, Private, RoutingContent,
    SubstrateResponse, SubstrateSeal, TokenContent, TokenEmit, V1, to_canonical, to_raw,
};
use halo_receipts::receipt::{Parent, Receipt, ReceiptKind, Unsigned};
use halo_receipts::time::Timestamp;

pub const TENANT: &str = "acme";
pub const DEVICE: &str = "phone-1";

pub fn tenant() -> TenantId {
    TENANT.parse().unwrap()
}

pub fn device() -> DeviceId {
    DEVICE.parse().unwrap()
}

/// A receipt with its payload, as the ledger would hold it.
#[derive(Clone)]
pub struct Stored {
    pub receipt: Receipt,
    pub payload: Option<Vec<u8>>,
}

/// One session in the fake's ledger.
pub struct Held {
    pub epoch: Epoch,
    pub chain: Chain,
    pub device: Vec<Stored>,
    pub substrate: Vec<Stored>,
    /// The frames of the running or last answer, to resume from: step, payload.
    tokens: Vec<Token>,
    end: Option<Vec<u8>>,
    request: Option<halo_receipts::ids::RequestId>,
}

/// What the fake does wrong on purpose.
#[derive(Default)]
pub struct Faults {
    /// Answers to the next requests, before any is served.
    pub refuse: Vec<(EndStatus, EndCode, Option<u32>)>,
    /// Send only so many tokens of the next answer over its connection; the rest when it is resumed.
    pub cut_after: Option<usize>,
    /// The code with which a connection is closed that `cut_after` cuts; without one it just ends.
    pub close_with: Option<u16>,
    /// Close the next answer after so many steps, as interrupted.
    pub interrupt_after: Option<usize>,
    /// Change the next seal before it is signed.
    pub forge_seal: Option<fn(&mut SubstrateSeal)>,
    /// Forget the next request: never answer it.
    pub swallow: bool,
}

/// The connection that stands.
struct Connection {
    session: SessionId,
    link: Link,
    request: Reassembler,
}

pub struct FakeGateway {
    keys: RootKeys,
    pub sessions: HashMap<SessionId, Held>,
    /// Sessions in the order in which they were opened.
    pub order: Vec<SessionId>,
    connection: Option<Connection>,
    nonces: Vec<String>,
    pub now: Timestamp,
    pub words: Vec<&'static str>,
    pub content: ContentPolicy,
    pub faults: Faults,
    pub requests: Vec<(Operation, String)>,
    counter: u64,
}

impl FakeGateway {
    pub fn new(now: Timestamp) -> Self {
        Self {
            keys: RootKeys::new(RootSecret::new(vec![7; 32]).unwrap(), 1, true),
            sessions: HashMap::new(),
            order: Vec::new(),
            connection: None,
            nonces: Vec::new(),
            now,
            words: vec!["Your", " model", " and", " keys", " stay", " yours", "."],
            content: ContentPolicy::Sealed,
            faults: Faults::default(),
            requests: Vec::new(),
            counter: 0,
        }
    }

    /// Goes on under another root.
    pub fn root(&mut self, byte: u8) {
        self.keys = RootKeys::new(RootSecret::new(vec![byte; 32]).unwrap(), 2, true);
    }

    /// Refuses another epoch to every session there is.
    pub fn forget_sessions(&mut self) {
        self.sessions.clear();
    }

    pub fn device_key(&self) -> DeviceKey {
        self.keys.device_key(&tenant(), &device(), 1).unwrap()
    }

    fn id(&mut self) -> [u8; 16] {
        self.counter += 1;
        let hash = Hash::of(&self.counter.to_be_bytes());
        hash.0[..16].try_into().unwrap()
    }

    /// The only session, when there must be just one.
    pub fn held(&self) -> &Held {
        assert_eq!(self.order.len(), 1, "one session");
        &self.sessions[&self.order[0]]
    }

    pub fn post(&mut self, path: &str, signature: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let key = self.device_key();
        if !signature_is_valid(&key, "POST", path, body, signature.as_bytes()) {
            return (401, Vec::new());
        }
        let request: OpenRequest = serde_json::from_slice(body).unwrap();
        let nonce = request.nonce.to_string();
        let late = request.timestamp.seconds().abs_diff(self.now.seconds()) > 120;
        if late || self.nonces.contains(&nonce) || request.tenant_id != tenant() {
            return (401, Vec::new());
        }
        self.nonces.push(nonce);
        let known = self
            .sessions
            .iter_mut()
            .find(|(id, _)| epochs_path(id) == path);
        let (session, epoch) = match known {
            Some((id, held)) => {
                held.epoch = Epoch::next(Some(held.epoch), self.now.seconds()).unwrap();
                (*id, held.epoch)
            }
            None if path == SESSIONS_PATH => {
                let id = SessionId::from_random(self.id());
                let epoch = Epoch::next(None, self.now.seconds()).unwrap();
                let held = Held {
                    epoch,
                    chain: Chain::new(id, tenant()),
                    device: Vec::new(),
                    substrate: Vec::new(),
                    tokens: Vec::new(),
                    end: None,
                    request: None,
                };
                self.sessions.insert(id, held);
                self.order.push(id);
                (id, epoch)
            }
            None => return (404, Vec::new()),
        };
        let keys = self.keys.session_key(&tenant(), &session, epoch).unwrap();
        let answer = OpenAnswer {
            session_id: session,
            session_epoch: epoch,
            root_generation: 1,
            demo_root: true,
            content: self.content,
            tier_keys: DeviceTierKeys {
                sensor: keys.tier_key(Tier::Sensor).to_hex().to_string(),
                orchestrator: keys.tier_key(Tier::Orchestrator).to_hex().to_string(),
            },
            stream: stream_path(&session, epoch),
        };
        (201, serde_json::to_vec(&answer).unwrap())
    }

    pub fn connect(&mut self, path: &str, signature: &str) -> bool {
        let found = self
            .sessions
            .iter()
            .find(|(id, held)| stream_path(id, held.epoch) == path);
        let Some((&session, held)) = found else {
            return false;
        };
        let keys = self
            .keys
            .session_key(&tenant(), &session, held.epoch)
            .unwrap();
        let key = keys.tier_key(Tier::Orchestrator);
        if !signature_is_valid(&key, "GET", path, b"", signature.as_bytes()) {
            return false;
        }
        self.connection = Some(Connection {
            session,
            link: Link::new(End::GatewayToOrchestrator, session, Arc::new(key)),
            request: Reassembler::new(REQUEST_MAX),
        });
        true
    }

    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Takes one message; returns the frames of the answer. A refused frame is passed over.
    pub fn message(&mut self, message: &[u8]) -> Vec<Vec<u8>> {
        let Some(connection) = &mut self.connection else {
            return Vec::new();
        };
        let Ok(frame) = connection.link.receive(message) else {
            return Vec::new();
        };
        assert_eq!(frame.typ, FrameType::EscalateRequest);
        match connection.request.push(frame.payload).unwrap() {
            None => Vec::new(),
            Some(document) => self.request(EscalateRequest::parse(&document).unwrap()),
        }
    }

    fn end_frames(&mut self, json: &[u8]) -> Vec<Vec<u8>> {
        let link = &mut self.connection.as_mut().unwrap().link;
        let pieces = split(json, END_MAX).unwrap();
        pieces
            .iter()
            .map(|piece| link.send(FrameType::EscalateEnd, piece).unwrap())
            .collect()
    }

    fn token_frames(&mut self, tokens: &[Token]) -> Vec<Vec<u8>> {
        let link = &mut self.connection.as_mut().unwrap().link;
        let frames = tokens.iter().map(|token| token.encode().unwrap());
        frames
            .map(|payload| link.send(FrameType::EscalateToken, &payload).unwrap())
            .collect()
    }

    fn request(&mut self, request: EscalateRequest) -> Vec<Vec<u8>> {
        self.requests.push((request.op, request.prompt.clone()));
        if std::mem::take(&mut self.faults.swallow) {
            return Vec::new();
        }
        if !self.faults.refuse.is_empty() {
            let (status, code, retry_after_ms) = self.faults.refuse.remove(0);
            let end = EscalateEnd {
                retry_after_ms,
                ..EscalateEnd::bare(request.request_id, status, code)
            };
            return self.end_frames(&end.to_json().unwrap());
        }
        let session = self.connection.as_ref().unwrap().session;
        if request.op == Operation::Resume {
            let held = &self.sessions[&session];
            if held.request != Some(request.request_id) {
                let (status, code) = (EndStatus::Refused, EndCode::UnknownRequest);
                let end = EscalateEnd::bare(request.request_id, status, code);
                return self.end_frames(&end.to_json().unwrap());
            }
            let from = request.last_step.map_or(0, |last| last as usize + 1);
            let (rest, end) = (held.tokens[from..].to_vec(), held.end.clone().unwrap());
            let mut frames = self.token_frames(&rest);
            frames.extend(self.end_frames(&end));
            return frames;
        }
        self.append(session, &request);
        if request.op == Operation::Record {
            let end = EscalateEnd::bare(request.request_id, EndStatus::Recorded, EndCode::Ok);
            return self.end_frames(&end.to_json().unwrap());
        }
        self.infer(session, &request)
    }

    /// Every receipt is signed by the key of its tier and epoch and fits the chain; those that are already there must be
    /// the same, byte for byte.
    fn append(&mut self, session: SessionId, request: &EscalateRequest) {
        let held = self.sessions.get_mut(&session).unwrap();
        assert!(!request.receipts.is_empty());
        for (receipt, payload) in request.receipts.iter().zip(&request.payloads) {
            let same = |stored: &&Stored| stored.receipt.body.receipt_id == receipt.body.receipt_id;
            if let Some(there) = held.device.iter().find(same) {
                assert_eq!(there.receipt, *receipt, "the same receipt again");
                continue;
            }
            let keys = self
                .keys
                .session_key(&tenant(), &session, receipt.body.session_epoch)
                .unwrap();
            assert!(
                receipt.verify(&keys.tier_key(receipt.body.tier)),
                "signed by its tier"
            );
            let payload = payload.as_ref().map(|raw| raw.get().as_bytes().to_vec());
            let event = Payload::read(&receipt.body, payload.as_deref()).unwrap();
            held.chain.accept(receipt, &event).unwrap();
            held.device.push(Stored {
                receipt: receipt.clone(),
                payload,
            });
        }
    }

    fn infer(&mut self, session: SessionId, request: &EscalateRequest) -> Vec<Vec<u8>> {
        let routing = request.receipts.last().unwrap().clone();
        let raw = request.payloads.last().unwrap().as_ref().unwrap();
        let event = Payload::read(&routing.body, Some(raw.get().as_bytes())).unwrap();
        let Payload::Routing(decision) = event else {
            panic!("the last one is a routing receipt")
        };
        assert_eq!(decision.decision, Decision::Escalate);
        assert_eq!(decision.request_id, Some(request.request_id));
        let keys = self
            .keys
            .session_key(&tenant(), &session, routing.body.session_epoch)
            .unwrap();
        if self.content == ContentPolicy::Sealed {
            let key = keys.tier_key(Tier::Orchestrator).payload_key();
            let content: RoutingContent = decision
                .private()
                .unwrap()
                .open(&key, &routing.body.receipt_id)
                .unwrap();
            assert_eq!(content.prompt_sha256, Hash::of(request.prompt.as_bytes()));
        }
        let epoch = self.sessions[&session].epoch;
        let key = self
            .keys
            .session_key(&tenant(), &session, epoch)
            .unwrap()
            .tier_key(Tier::Substrate);
        let (content, payload_key) = (self.content, key.payload_key());
        let steps = self.faults.interrupt_after.take();
        let status = if steps.is_some() {
            AnswerStatus::Interrupted
        } else {
            AnswerStatus::Ok
        };
        let words: Vec<&str> = self
            .words
            .iter()
            .copied()
            .take(steps.unwrap_or(usize::MAX))
            .collect();
        let first = self.sessions[&session].substrate.len() as u32;
        let (mut parent, mut last) = (routing.as_parent(), routing.as_parent());
        let (mut leaves, mut ids, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        let write = |this: &mut Self, id: [u8; 16], kind, parent: Parent, payload: Vec<u8>| {
            let receipt = Unsigned {
                event_payload_hash: Hash::of(&payload),
                parent: Some(parent),
                receipt_id: ReceiptId::from_random(id),
                receipt_kind: kind,
                session_epoch: epoch,
                session_id: session,
                tenant_id: tenant(),
                tier: Tier::Substrate,
                timestamp_utc: this.now,
            }
            .sign(&key);
            let event = Payload::read(&receipt.body, Some(&payload)).unwrap();
            let held = this.sessions.get_mut(&session).unwrap();
            held.chain.insert(&receipt, &event);
            held.substrate.push(Stored {
                receipt: receipt.clone(),
                payload: Some(payload),
            });
            receipt
        };
        for (step, word) in (0..).zip(&words) {
            let mut experts = ExpertSet::new(2, 8);
            experts.insert(0, step as usize % 8);
            let load = ExpertLoad {
                v: V1,
                step,
                experts,
                loaded: None,
                model: None,
            };
            let id = self.id();
            let load = write(
                self,
                id,
                ReceiptKind::ExpertLoad,
                parent,
                to_canonical(&load).unwrap(),
            );
            parent = load.as_parent();
            let id = self.id();
            let content_of = TokenContent {
                token_id: step,
                text: (*word).to_owned(),
            };
            let receipt_id = ReceiptId::from_random(id);
            let private = Private::new(&content_of, content, &payload_key, &receipt_id).unwrap();
            let emit = to_canonical(&TokenEmit::new(step, private)).unwrap();
            let emit = write(self, id, ReceiptKind::TokenEmit, parent, emit);
            last = emit.as_parent();
            leaves.extend([load.hash(), emit.hash()]);
            ids.extend([load.body.receipt_id, emit.body.receipt_id]);
            tokens.push(Token {
                step,
                token_id: step,
                expert_load: load.hash(),
                token_emit: emit.hash(),
                text: (*word).to_owned(),
            });
        }
        let mut seal = SubstrateSeal {
            request_id: request.request_id,
            status,
            finish: if status == AnswerStatus::Ok {
                "stop"
            } else {
                "lost"
            }
            .to_owned(),
            model: "fake-moe".to_owned(),
            prompt_tokens: 9,
            completion_tokens: words.len() as u32,
            first,
            ids: ids.first().copied().zip(ids.last().copied()),
            receipts: leaves.len() as u32,
            root: merkle::root(&leaves),
            blocks: Vec::new(),
        };
        if let Some(forge) = self.faults.forge_seal.take() {
            forge(&mut seal);
        }
        let id = self.id();
        let output = AnswerContent {
            output_sha256: Hash::of(words.concat().as_bytes()),
            output: None,
        };
        let private =
            Private::new(&output, content, &payload_key, &ReceiptId::from_random(id)).unwrap();
        let payload = to_canonical(&SubstrateResponse::new(seal, private)).unwrap();
        let response = write(self, id, ReceiptKind::TierResponse, last, payload.clone());
        let (end_status, code) = match status {
            AnswerStatus::Ok => (EndStatus::Ok, EndCode::Ok),
            _ => (EndStatus::Failed, EndCode::Lost),
        };
        let end = EscalateEnd {
            receipts: vec![response],
            payloads: vec![Some(to_raw(&payload).unwrap())],
            ..EscalateEnd::bare(request.request_id, end_status, code)
        };
        let end = end.to_json().unwrap();
        let held = self.sessions.get_mut(&session).unwrap();
        (held.tokens, held.end, held.request) =
            (tokens.clone(), Some(end.clone()), Some(request.request_id));
        match self.faults.cut_after.take() {
            Some(count) => self.token_frames(&tokens[..count]),
            None => {
                let mut frames = self.token_frames(&tokens);
                frames.extend(self.end_frames(&end));
                frames
            }
        }
    }

    /// What an auditor would check: signatures, order, parents, payload hashes and the last seal. Returns the kinds of
    /// stream `d` and whether the session is sealed.
    pub fn audit(&self, session: &SessionId) -> (Vec<String>, bool) {
        let held = &self.sessions[session];
        let mut kinds = Vec::new();
        let mut sealed = false;
        for (at, stored) in held.device.iter().enumerate() {
            let body = &stored.receipt.body;
            let event = Payload::read(body, stored.payload.as_deref()).unwrap();
            sealed = false;
            kinds.push(match event {
                Payload::Capture => "capture".to_owned(),
                Payload::Routing(routing) => serde_json::to_value(routing.decision)
                    .unwrap()
                    .as_str()
                    .unwrap()
                    .to_owned(),
                Payload::OrchestratorResponse(seal) => {
                    let substrate = seal.substrate_receipts as usize;
                    let leaves = held.device[..at].iter().chain(&held.substrate[..substrate]);
                    let leaves: Vec<Hash> = leaves.map(|stored| stored.receipt.hash()).collect();
                    assert_eq!(
                        seal.root,
                        merkle::root(&leaves),
                        "the seal covers what came before"
                    );
                    assert_eq!(seal.device_receipts as usize, at);
                    sealed = at + 1 == held.device.len() && substrate == held.substrate.len();
                    "sealed".to_owned()
                }
                other => panic!("{other:?} in stream d"),
            });
        }
        (kinds, sealed)
    }
}
