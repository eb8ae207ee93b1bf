//! Whole sessions as devices and pods would write them, from a seed.

use halo_receipts::evidence::{
    BLOCK_MAX, Block, Claim, ClaimKind, Header, Record as _, SignedRecord, StoredReceipt, Stream,
};
use halo_receipts::experts::ExpertSet;
use halo_receipts::ids::{DeviceId, Epoch, Hash, ReceiptId, RequestId, SessionId, TenantId, Tier};
use halo_receipts::keys::{KeyCheckValue, RootSecret, SessionKey, TierKey};
use halo_receipts::merkle;
use halo_receipts::payload::{
    AnswerContent, AnswerStatus, Answerer, BlockRoot, ContentPolicy, Decision, ExpertLoad,
    OrchestratorResponse, Private, Routing, RoutingContent, SubstrateResponse, SubstrateSeal,
    TokenContent, TokenEmit, V1, to_canonical,
};
use halo_receipts::receipt::{Parent, Receipt, ReceiptKind, Unsigned};
use halo_receipts::time::{KeyMonth, Timestamp};
use serde::Serialize;

/// Why a sample could not be made.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// 2025-11-21T08:00:00Z.
const EPOCH: u32 = 1_763_712_000;
const MICROS: u64 = 1_000_000;

/// The root secret of every sample.
pub const ROOT: [u8; 32] = [0x5a; 32];

/// One sealed session of one question: a capture, a routing decision and the closing response in stream `d`; expert loads,
/// tokens and the substrate's response in stream `s`. Everything follows from the seed and the tenant.
pub struct Sample {
    /// The session.
    pub session: SessionId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its device.
    pub device: DeviceId,
    /// Its first epoch.
    pub epoch: Epoch,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// The receipts of stream `d`.
    pub device_receipts: Vec<StoredReceipt>,
    /// The receipts of stream `s`.
    pub substrate_receipts: Vec<StoredReceipt>,
    check_value: KeyCheckValue,
    key: SessionKey,
}

/// 16 bytes that look random and are the same each time.
fn bytes(seed: u64, what: &str, number: u32) -> [u8; 16] {
    let Hash(hash) = Hash::of(format!("{seed} {what} {number}").as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&hash[..16]);
    short
}

/// Numbers that look random (Knuth's MMIX generator, its upper half).
struct Random(u64);

impl Random {
    fn new([a, b, c, d, e, f, g, h, ..]: [u8; 16]) -> Self {
        Self(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl Iterator for Random {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Some((self.0 >> 33) as usize)
    }
}

/// Eight different experts of each layer, or all if there are fewer, as routers choose them.
fn chosen(seed: u64, step: u32, layers: usize, experts: usize) -> ExpertSet {
    let mut chosen = ExpertSet::new(layers, experts);
    let mut random = Random::new(bytes(seed, "experts", step));
    for layer in 0..layers {
        let mut missing = experts.min(8);
        while missing > 0 {
            let new = random
                .next()
                .is_some_and(|random| chosen.insert(layer, random % experts));
            missing -= usize::from(new);
        }
    }
    chosen
}

fn time(micros: u64) -> Result<Timestamp, Failure> {
    Ok(Timestamp::from_micros(micros).ok_or("the time is too late")?)
}

/// Signs receipts one after the other.
struct Author<'a> {
    sample: &'a Sample,
    seed: u64,
    written: u32,
    /// Microseconds since the session was opened.
    passed: u64,
    keys: [TierKey; 3],
}

impl Author<'_> {
    fn next_id(&self) -> ReceiptId {
        ReceiptId::from_random(bytes(self.seed, "receipt", self.written))
    }

    fn sign(
        &mut self,
        tier: Tier,
        receipt_kind: ReceiptKind,
        parent: Option<Parent>,
        event_payload_hash: Hash,
    ) -> Result<Receipt, Failure> {
        let body = Unsigned {
            event_payload_hash,
            parent,
            receipt_id: self.next_id(),
            receipt_kind,
            session_epoch: self.sample.epoch,
            session_id: self.sample.session,
            tenant_id: self.sample.tenant.clone(),
            tier,
            timestamp_utc: time(self.sample.opened_at.micros() + self.passed)?,
        };
        self.written += 1;
        // Up to 65 ms, and as irregular as a model's steps.
        let [high, low, ..] = bytes(self.seed, "time", self.written);
        self.passed += 1 + u64::from(u16::from_be_bytes([high, low]));
        Ok(body.sign(&self.keys[usize::from(tier.number())]))
    }

    /// Signs a receipt with a payload; returns what a child needs, and what is stored.
    fn write(
        &mut self,
        tier: Tier,
        kind: ReceiptKind,
        parent: Parent,
        payload: &impl Serialize,
    ) -> Result<(Parent, StoredReceipt), Failure> {
        let payload = to_canonical(payload)?;
        let receipt = self.sign(tier, kind, Some(parent), Hash::of(&payload))?;
        let stored = StoredReceipt {
            bytes: receipt.to_bytes(),
            payload: Some(payload),
        };
        Ok((receipt.as_parent(), stored))
    }

    /// Private content for the receipt that is written next.
    fn private(&self, tier: Tier, content: &impl Serialize) -> Result<Private, Failure> {
        let key = self.keys[usize::from(tier.number())].payload_key();
        Ok(Private::new(
            content,
            ContentPolicy::Sealed,
            &key,
            &self.next_id(),
        )?)
    }
}

impl Sample {
    /// A session of tenant `acme`, opened `seed` seconds after a fixed time, with `steps` decode steps.
    pub fn new(seed: u64, steps: u32) -> Result<Self, Failure> {
        Self::of("acme", seed, steps)
    }

    /// The same of another tenant.
    pub fn of(tenant: &str, seed: u64, steps: u32) -> Result<Self, Failure> {
        Self::telling(tenant, seed, steps, "What is sovereign inference?")
    }

    /// The same with another question: receipts with the same ids and numbers, and other bytes.
    pub fn telling(tenant: &str, seed: u64, steps: u32, prompt: &str) -> Result<Self, Failure> {
        Self::build(tenant, seed, steps, prompt, (4, 32))
    }

    /// The same from a model with this many layers, and experts in each: what its receipts take in a ledger.
    pub fn from_model(
        seed: u64,
        steps: u32,
        layers: usize,
        experts: usize,
    ) -> Result<Self, Failure> {
        Self::build(
            "acme",
            seed,
            steps,
            "What is sovereign inference?",
            (layers, experts),
        )
    }

    fn build(
        tenant: &str,
        seed: u64,
        steps: u32,
        prompt: &str,
        model: (usize, usize),
    ) -> Result<Self, Failure> {
        let tenant: TenantId = tenant.parse()?;
        let epoch = Epoch(EPOCH);
        let session = SessionId::from_random(bytes(seed, "session", 0));
        let root = RootSecret::new(ROOT.to_vec())?;
        let key = root
            .tenant_key(&tenant, KeyMonth::of(epoch))
            .session_key(&session, epoch);
        let mut sample = Self {
            session,
            tenant,
            device: "phone-1".parse()?,
            epoch,
            opened_at: time((u64::from(EPOCH) + seed) * MICROS)?,
            device_receipts: Vec::new(),
            substrate_receipts: Vec::new(),
            check_value: root.check_value(),
            key,
        };
        (sample.device_receipts, sample.substrate_receipts) =
            sample.receipts(seed, steps, prompt, model)?;
        Ok(sample)
    }

    /// TIER_KEY of the session's first epoch.
    pub fn tier_key(&self, tier: Tier) -> TierKey {
        self.key.tier_key(tier)
    }

    /// The signed header.
    pub fn header(&self) -> Result<SignedRecord, Failure> {
        let header = Header {
            v: V1,
            session_id: self.session,
            session_epoch: self.epoch,
            tenant_id: self.tenant.clone(),
            device_id: self.device.clone(),
            root_generation: 1,
            key_check_value: self.check_value,
            demo_root: true,
            content: ContentPolicy::Sealed,
            opened_at: self.opened_at,
        };
        Ok(header.sign(&self.tier_key(Tier::Orchestrator))?)
    }

    /// A signed claim: `later` is added to the first epoch.
    pub fn claim(&self, kind: ClaimKind, later: u32, link: u32) -> Result<SignedRecord, Failure> {
        self.claim_by("gateway-1", kind, later, link)
    }

    /// The same by another claimant.
    pub fn claim_by(
        &self,
        claimed_by: &str,
        kind: ClaimKind,
        later: u32,
        link: u32,
    ) -> Result<SignedRecord, Failure> {
        let claim = Claim {
            v: V1,
            kind,
            session_id: self.session,
            session_epoch: Epoch(self.epoch.0.saturating_add(later)),
            link,
            claimed_by: claimed_by.to_owned(),
            claimed_at: self.opened_at,
        };
        Ok(claim.sign(&self.tier_key(Tier::Orchestrator))?)
    }

    /// The claim that opens the session.
    pub fn first_claim(&self) -> Result<SignedRecord, Failure> {
        self.claim(ClaimKind::Epoch, 0, 0)
    }

    /// `count` receipts of a stream from number `first` on, or those that there are.
    pub fn block(&self, stream: Stream, first: usize, count: usize) -> Block {
        let receipts = match stream {
            Stream::Device => &self.device_receipts,
            Stream::Substrate => &self.substrate_receipts,
        };
        let receipts = receipts.iter().skip(first).take(count).cloned().collect();
        Block {
            stream,
            first: u32::try_from(first).unwrap_or(u32::MAX),
            receipts,
        }
    }

    /// A stream cut into blocks of at most `count` receipts.
    pub fn blocks(&self, stream: Stream, count: usize) -> Vec<Block> {
        let len = match stream {
            Stream::Device => self.device_receipts.len(),
            Stream::Substrate => self.substrate_receipts.len(),
        };
        (0..len)
            .step_by(count.max(1))
            .map(|first| self.block(stream, first, count))
            .collect()
    }

    /// Streams `d` and `s`.
    fn receipts(
        &self,
        seed: u64,
        steps: u32,
        prompt: &str,
        (layers, experts_each): (usize, usize),
    ) -> Result<(Vec<StoredReceipt>, Vec<StoredReceipt>), Failure> {
        use ReceiptKind::{
            ExpertLoad as Load, SensorCapture, TierResponse, TierRouting, TokenEmit as Emit,
        };
        let keys = Tier::ALL.map(|tier| self.tier_key(tier));
        let mut author = Author {
            sample: self,
            seed,
            written: 0,
            passed: 1,
            keys,
        };
        let request_id = RequestId::from_random(bytes(seed, "request", 0));

        let capture = author.sign(
            Tier::Sensor,
            SensorCapture,
            None,
            Hash::of(prompt.as_bytes()),
        )?;
        let capture_stored = StoredReceipt {
            bytes: capture.to_bytes(),
            payload: None,
        };
        let private = author.private(Tier::Orchestrator, &RoutingContent::new(prompt))?;
        let mut routing = Routing::new(Decision::Escalate, "rule: question", "rules-1");
        routing.request_id = Some(request_id);
        let routing = routing.with_private(private);
        let (routing, routing_stored) = author.write(
            Tier::Orchestrator,
            TierRouting,
            capture.as_parent(),
            &routing,
        )?;

        let mut substrate = Vec::new();
        let (mut load, mut last) = (routing, routing);
        for step in 0..steps {
            let experts = chosen(seed, step, layers, experts_each);
            let payload = ExpertLoad {
                v: V1,
                step,
                experts,
                loaded: None,
                model: None,
            };
            let (parent, stored) = author.write(Tier::Substrate, Load, load, &payload)?;
            load = parent;
            substrate.push(stored);
            let token = TokenContent {
                token_id: step,
                text: format!(" word{step}"),
            };
            let payload = TokenEmit::new(step, author.private(Tier::Substrate, &token)?);
            let (parent, stored) = author.write(Tier::Substrate, Emit, load, &payload)?;
            last = parent;
            substrate.push(stored);
        }

        let hash = |stored: &StoredReceipt| Hash::of(&stored.bytes);
        let leaves: Vec<_> = substrate.iter().map(hash).collect();
        let answer = |output: Option<String>| AnswerContent {
            output_sha256: Hash::of(b"answer"),
            output,
        };
        let first_id = ReceiptId::from_random(bytes(seed, "receipt", 2));
        let seal = SubstrateSeal {
            request_id,
            status: AnswerStatus::Ok,
            finish: "stop".to_owned(),
            model: "sample".to_owned(),
            prompt_tokens: 5,
            completion_tokens: steps,
            first: 0,
            ids: (steps > 0).then_some((first_id, last.id)),
            receipts: steps * 2,
            root: merkle::root(&leaves),
            blocks: (0..)
                .step_by(BLOCK_MAX)
                .zip(leaves.chunks(BLOCK_MAX))
                .map(|(first, block)| BlockRoot {
                    first,
                    count: block.len() as u32,
                    root: merkle::root(block),
                })
                .collect(),
        };
        let private = author.private(Tier::Substrate, &answer(None))?;
        let payload = SubstrateResponse::new(seal, private);
        let (response, stored) = author.write(Tier::Substrate, TierResponse, last, &payload)?;
        substrate.push(stored);

        let mut device = vec![capture_stored, routing_stored];
        let leaves: Vec<_> = device.iter().chain(&substrate).map(hash).collect();
        let private = author.private(Tier::Orchestrator, &answer(Some("answer".to_owned())))?;
        let payload = OrchestratorResponse::new(
            AnswerStatus::Ok,
            Answerer::Substrate,
            2,
            steps * 2 + 1,
            merkle::root(&leaves),
            private,
        );
        let (_, stored) = author.write(Tier::Orchestrator, TierResponse, response, &payload)?;
        device.push(stored);
        Ok((device, substrate))
    }
}
