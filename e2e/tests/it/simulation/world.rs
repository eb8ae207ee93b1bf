//! The four machines, a ledger, and the edges between them as the programs have them, without sockets and clocks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use halo_emulators::tier0::machine as tier0;
use halo_emulators::tier1::classify::{Heard, by_rules};
use halo_emulators::tier1::machine as tier1;
use halo_emulators::tier1::report::Report;
use halo_gateway::bundle::Terms;
use halo_gateway::keyring::Keyring;
use halo_gateway::session as gateway;
use halo_gateway::stored_answer::{Closing, StoredAnswer};
use halo_gateway::upstream::{Received, Upstream};
use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd, Sampling};
use halo_receipts::evidence::{Block, Claim, ClaimKind, Header, Record as _, Stream};
use halo_receipts::experts::ExpertSet;
use halo_receipts::ids::{DeviceId, Epoch, Hash, ReceiptId, RequestId, SessionId, TenantId, Tier};
use halo_receipts::keys::{PairingKey, RootKeys, RootSecret, TenantKeys as _};
use halo_receipts::opening::{
    DeviceTierKeys, OpenAnswer, OpenRequest, signature_is_valid, stream_path,
};
use halo_receipts::payload::{ContentPolicy, ModelIdentity, V1};
use halo_receipts::time::Timestamp;
use halo_substrate::bundle::LinkId;

use halo_substrate::generate::{FinishReason, StepOutput};
use halo_substrate::session as pod;

use super::ledger::{MemoryLedger, Refused};
use super::network::{Agenda, Rng, Wire};

#[path = "gateway_edge.rs"]
mod gateway_edge;
#[path = "pod_edge.rs"]
mod pod_edge;

/// 2026-01-31T23:59:50Z: some runs cross the end of a month, and with it the change of the tenant's key.
const START: u64 = 1_769_903_990_000_000;
const MS: u64 = 1_000;
const S: u64 = 1_000_000;
/// When the last fault may happen; after it everything has time to settle.
const FAULTS_END: u64 = START + 40 * S;
/// When everything must be settled.
const END: u64 = START + 400 * S;

/// What goes wrong in a run, at most; drawn from the seed.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    pub tampered_frames: u32,
    pub local_cuts: u32,
    pub device_cuts: u32,
    pub pod_cuts: u32,
    pub pod_crashes: u32,
    pub ledger_outages: u32,
}

impl Faults {
    pub fn none() -> Self {
        Self {
            tampered_frames: 0,
            local_cuts: 0,
            device_cuts: 0,
            pod_cuts: 0,
            pod_crashes: 0,
            ledger_outages: 0,
        }
    }

    pub fn drawn(rng: &mut Rng) -> Self {
        let mut some = |most: u64| rng.below(most + 1) as u32;
        Self {
            tampered_frames: some(2),
            local_cuts: some(2),
            device_cuts: some(3),
            pod_cuts: some(2),
            pod_crashes: some(1),
            ledger_outages: some(1),
        }
    }
}

enum Item {
    ToSensor(u64, Vec<u8>),
    SensorToPhone(u64, Vec<u8>),
    LocalUp,
    CutLocal,
    Capture(tier0::Capture),
    SensorTick,
    PhoneTick,
    Understood(u64, Vec<usize>),
    Posted(String, String, Vec<u8>),
    PostAnswered(u16, Vec<u8>),
    Connected(SessionId, Epoch),
    ConnectFailed,
    ToGateway(u64, Vec<u8>),
    GatewayToPhone(u64, Vec<u8>),
    CutDevice,
    DeviceLost(u64),
    GatewayEvent(u64, GatewayEvent),
    ToPod(u64, Vec<u8>),
    PodToGateway(u64, Vec<u8>),
    CutPod,
    PodLinkLost(u64),
    PodSees(u64, PodEvent),
    PodStep(u64),
    PodTick(u64),
    PodAppend(u64),
    CrashPod,
    CloseAnswer(SessionId, RequestId, u32),
    LedgerDown(bool),
    Tamper,
}

enum GatewayEvent {
    Admitted,
    Read,
    Append(Vec<Block>),
    Ask(gateway::Ask),
    Resume(RequestId, u32),
}

enum PodEvent {
    Prepare,
    Encode(String),
    /// An engine is free, and will make this many tokens.
    Started(u32),
    Closed,
}

/// One connection of the device as the gateway holds it.
struct Device {
    session: gateway::Session,
    id: SessionId,
    terms: Terms,
}

/// An answer under way on the gateway; it outlives the connection that asked for it.
struct Answer {
    request_id: RequestId,
    epoch: Epoch,
    upstream: Option<Upstream>,
    pod: u64,
    tokens: Vec<Vec<u8>>,
    heard: Vec<String>,
    end: Option<Vec<u8>>,
    reader: Option<u64>,
    next: usize,
}

/// One link as the pod holds it.
struct PodLink {
    session: pod::LinkSession,
    id: SessionId,
    reserved: bool,
    generating: Option<(u32, u32)>,
    stepping: bool,
    appends: VecDeque<Block>,
    appending: bool,
    closed: bool,
}

/// Everything.
pub struct World {
    now: u64,
    rng: Rng,
    agenda: Agenda<Item>,
    keys: Arc<RootKeys>,
    tenant: TenantId,
    pub ledger: MemoryLedger,
    pub sensor: tier0::Sensor,
    pub phone: tier1::Orchestrator,
    local: Wire,
    device_wire: Wire,
    device: Option<Device>,
    answers: BTreeMap<SessionId, Answer>,
    pods: BTreeMap<u64, PodLink>,
    next_pod: u64,
    sensor_wake: Option<u64>,
    phone_wake: Option<u64>,
    tamper_next: bool,
    connecting: bool,
    pub tampered: u32,
    pub alerts: u32,
    pub broken: u32,
    pub relinked: u32,
    pub captures: u32,
    pub accepted: u32,
    pub shown: String,
    pub stopped: Option<String>,
    pub sessions: BTreeSet<SessionId>,
    pub trace: Vec<String>,
}

fn time(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros).unwrap()
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> Self {
        let mut rng = Rng::new(seed);
        let root = RootSecret::new(rng.bytes::<48>().to_vec()).unwrap();
        let keys = Arc::new(RootKeys::new(root, 1, true));
        let tenant: TenantId = "acme".parse().unwrap();
        let device: DeviceId = "phone-1".parse().unwrap();
        let pairing = rng.bytes::<32>();
        let phone = tier1::Orchestrator::new(tier1::Config {
            tenant: tenant.clone(),
            key: keys.device_key(&tenant, &device, 1).unwrap(),
            device,
            generation: 1,
            pairing: PairingKey::from_bytes(pairing),
            max_tokens: 40,
            sampling: Sampling::default(),
            utterance_gap_ms: 700,
            attempts_max: tier1::ATTEMPTS_MAX,
            facts: Default::default(),
        });
        let mut world = Self {
            now: START,
            agenda: Agenda::new(),
            keys,
            tenant,
            ledger: MemoryLedger::default(),
            sensor: tier0::Sensor::new(PairingKey::from_bytes(pairing), None),
            phone,
            local: Wire::default(),
            device_wire: Wire::default(),
            device: None,
            answers: BTreeMap::new(),
            pods: BTreeMap::new(),
            next_pod: 0,
            sensor_wake: None,
            phone_wake: None,
            tamper_next: false,
            connecting: false,
            tampered: 0,
            alerts: 0,
            broken: 0,
            relinked: 0,
            captures: 0,
            accepted: 0,
            shown: String::new(),
            stopped: None,
            sessions: BTreeSet::new(),
            trace: Vec::new(),
            rng,
        };
        world.plan(faults);
        world
    }

    /// Puts captures and faults at random times.
    fn plan(&mut self, faults: Faults) {
        let captures = 1 + self.rng.below(4);
        for _ in 0..captures {
            let at = START + S + self.rng.below(20 * S);
            let length = 200 + self.rng.below(6_000) as usize;
            let capture = match self.rng.below(4) {
                0 => tier0::Capture::Gesture(halo_receipts::messages::Gesture::Tap),
                1 => tier0::Capture::Image(vec![7; length]),
                _ => tier0::Capture::Audio(vec![1; length]),
            };
            self.captures += 1;
            self.agenda.at(at, Item::Capture(capture));
        }
        let mut plan = |count: u32, make: fn() -> Item| {
            for _ in 0..count {
                let at = START + S / 2 + self.rng.below(FAULTS_END - START - S / 2);
                self.agenda.at(at, make());
            }
        };
        plan(faults.tampered_frames, || Item::Tamper);
        plan(faults.local_cuts, || Item::CutLocal);
        plan(faults.device_cuts, || Item::CutDevice);
        plan(faults.pod_cuts, || Item::CutPod);
        plan(faults.pod_crashes, || Item::CrashPod);
        for _ in 0..faults.ledger_outages {
            let from = START + S / 2 + self.rng.below(20 * S);
            let until = from + self.rng.below(6 * S);
            self.agenda.at(from, Item::LedgerDown(true));
            self.agenda.at(until, Item::LedgerDown(false));
        }
    }

    /// Runs until everything is settled after the last fault, or time is up.
    pub fn run(&mut self) {
        self.phone_event(tier1::Event::Start);
        self.agenda.at(START + 10 * MS, Item::LocalUp);
        while let Some((at, item)) = self.agenda.pop() {
            if at > END || self.stopped.is_some() {
                return;
            }
            self.now = at;
            self.happen(item);
            if at > FAULTS_END && self.is_settled() {
                return;
            }
        }
    }

    /// The keys of an auditor who holds the root.
    pub fn verify_keys(&self) -> &RootKeys {
        &self.keys
    }

    /// Whether every capture was accepted, answered and sealed, and nothing is under way.
    pub fn is_settled(&self) -> bool {
        self.phone.is_settled() && self.sensor.unsent() == 0 && self.pods.is_empty()
    }

    fn note(&mut self, what: impl Into<String>) {
        let at = self.now - START;
        self.trace
            .push(format!("{:>9}.{:03} {}", at / MS, at % MS, what.into()));
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::Capture(capture) => self.sensor_event(tier0::Event::Capture(capture)),
            Item::ToSensor(wire, message) => {
                if self.local.up && self.local.number == wire {
                    self.sensor_event(tier0::Event::Message(message));
                }
            }
            Item::SensorToPhone(wire, message) => {
                if self.local.up && self.local.number == wire {
                    self.phone_event(tier1::Event::SensorMessage(message));
                }
            }
            Item::LocalUp => {
                if !self.local.up {
                    self.local.connect();
                    self.sensor_event(tier0::Event::Connected);
                    self.phone_event(tier1::Event::SensorConnected);
                }
            }
            Item::CutLocal => self.cut_local(),
            Item::SensorTick => {
                self.sensor_wake = None;
                self.sensor_event(tier0::Event::Tick);
            }
            Item::PhoneTick => {
                self.phone_wake = None;
                self.phone_event(tier1::Event::Tick);
            }
            Item::Understood(utterance, kinds) => self.understood(utterance, &kinds),
            Item::Posted(path, signature, body) => self.posted(&path, &signature, &body),
            Item::PostAnswered(status, body) => {
                self.phone_event(tier1::Event::Posted { status, body });
            }
            Item::Connected(session, epoch) => self.connected(session, epoch),
            Item::ConnectFailed => self.phone_event(tier1::Event::GatewayLost {
                cause: "the upgrade was refused".to_owned(),
            }),
            Item::ToGateway(wire, message) => {
                if self.device_wire.up && self.device_wire.number == wire {
                    self.device_event(wire, gateway::Event::Message(&message));
                }
            }
            Item::GatewayToPhone(wire, message) => {
                if self.device_wire.up && self.device_wire.number == wire {
                    self.phone_event(tier1::Event::GatewayMessage(message));
                }
            }
            Item::CutDevice => self.cut_device(true),
            Item::DeviceLost(wire) => {
                if self.device_wire.number == wire && !self.device_wire.up {
                    self.phone_event(tier1::Event::GatewayLost {
                        cause: "cut".to_owned(),
                    });
                }
            }
            Item::GatewayEvent(wire, event) => self.gateway_edge(wire, event),
            Item::ToPod(link, message) => {
                self.pod_event(link, pod::Event::Message(message));
            }
            Item::PodToGateway(link, message) => self.pod_sent(link, &message),
            Item::CutPod => {
                let links: Vec<u64> = self.pods.keys().copied().collect();
                if let Some(&link) = links.first() {
                    self.note("fault: the link to the pod is cut");
                    self.agenda
                        .at(self.now, Item::PodSees(link, PodEvent::Closed));
                    self.agenda.at(self.now + MS, Item::PodLinkLost(link));
                }
            }
            Item::PodLinkLost(link) => self.pod_lost(link),
            Item::PodSees(link, event) => self.pod_edge(link, event),
            Item::PodStep(link) => self.pod_step(link),
            Item::PodTick(link) => {
                self.pod_event(link, pod::Event::Tick);
            }
            Item::PodAppend(link) => self.pod_append(link),
            Item::CrashPod => {
                self.note("fault: the pod crashes");
                let links: Vec<u64> = self.pods.keys().copied().collect();
                self.pods.clear();
                for link in links {
                    self.agenda.at(self.now + MS, Item::PodLinkLost(link));
                }
            }
            Item::CloseAnswer(session, request, tries) => {
                self.close_answer(session, request, tries)
            }
            Item::LedgerDown(down) => {
                self.note(format!("fault: ledger down {down}"));
                self.ledger.down = down;
            }
            Item::Tamper => self.tamper_next = true,
        }
        self.arm();
    }

    /// Sees to it that each machine is told the time when it asks for it.
    fn arm(&mut self) {
        let soon = |wanted: Option<Timestamp>, armed: Option<u64>, now: u64| {
            let at = wanted?.micros().max(now + 1);
            armed.is_none_or(|armed| at < armed).then_some(at)
        };
        if let Some(at) = soon(self.sensor.next_wake(), self.sensor_wake, self.now) {
            self.sensor_wake = Some(at);
            self.agenda.at(at, Item::SensorTick);
        }
        if let Some(at) = soon(self.phone.next_wake(), self.phone_wake, self.now) {
            self.phone_wake = Some(at);
            self.agenda.at(at, Item::PhoneTick);
        }
    }

    fn cut_local(&mut self) {
        if !self.local.up {
            return;
        }
        self.note("the sensor's connection is cut");
        self.local.up = false;
        self.sensor_event(tier0::Event::Lost);
        self.phone_event(tier1::Event::SensorLost);
        let back = self.now + 50 * MS + self.rng.below(S);
        self.agenda.at(back, Item::LocalUp);
    }

    fn sensor_event(&mut self, event: tier0::Event) {
        let random = self.rng.bytes();
        let alerted = self.sensor.is_alerted();
        for action in self.sensor.handle(event, time(self.now), random) {
            match action {
                tier0::Action::Send(mut message) => {
                    assert!(
                        !(alerted && self.sensor.is_alerted()),
                        "an alerted sensor sent a frame"
                    );
                    if !self.local.up {
                        continue;
                    }
                    if self.tamper_next && matches!(message.get(1), Some(0x10..=0x20)) {
                        self.tamper_next = false;
                        let at = self.rng.below(message.len() as u64) as usize;
                        message[at] ^= 1 << self.rng.below(8);
                        self.tampered += 1;
                        self.note(format!("fault: byte {at} of a frame is changed in flight"));
                    }
                    let arrival = self.local.arrival(0, self.now, &mut self.rng);
                    self.agenda
                        .at(arrival, Item::SensorToPhone(self.local.number, message));
                }
                tier0::Action::Show(text) => self.shown.push_str(&text),
                tier0::Action::Alert { .. } => {
                    assert!(!self.sensor.is_linked(), "an alerted sensor kept its key");
                    self.alerts += 1;
                    self.note("tier 0: alert");
                }
                tier0::Action::Accepted { .. } => self.accepted += 1,
                tier0::Action::Disconnect => self.agenda.at(self.now, Item::CutLocal),
                tier0::Action::Rejected { .. } => panic!("a capture was rejected"),
                _ => {}
            }
        }
    }

    fn phone_event(&mut self, event: tier1::Event) {
        let random = self.rng.bytes();
        for action in self.phone.handle(event, time(self.now), random) {
            match action {
                tier1::Action::SendSensor(message) => {
                    if self.local.up {
                        let arrival = self.local.arrival(1, self.now, &mut self.rng);
                        self.agenda
                            .at(arrival, Item::ToSensor(self.local.number, message));
                    }
                }
                tier1::Action::Post {
                    path,
                    signature,
                    body,
                } => {
                    self.connecting = true;
                    let at = self.now + MS + self.rng.below(20 * MS);
                    self.agenda.at(at, Item::Posted(path, signature, body));
                }
                tier1::Action::Connect { path, signature } => self.connect(&path, &signature),
                tier1::Action::SendGateway(message) => {
                    if self.device_wire.up {
                        let arrival = self.device_wire.arrival(0, self.now, &mut self.rng);
                        self.agenda
                            .at(arrival, Item::ToGateway(self.device_wire.number, message));
                    }
                }
                tier1::Action::CloseGateway => self.cut_device(false),
                tier1::Action::Understand {
                    utterance, media, ..
                } => {
                    let kinds = media.iter().map(|media| media.kind as usize).collect();
                    let at = self.now + self.rng.below(50 * MS);
                    self.agenda.at(at, Item::Understood(utterance, kinds));
                }
                tier1::Action::Report(report) => {
                    match &report {
                        Report::ChainBroken { .. } => self.broken += 1,
                        Report::Relinked { .. } => self.relinked += 1,
                        _ => {}
                    }
                    self.note(format!("tier 1: {report:?}"));
                }
                tier1::Action::Stop => {
                    self.stopped = Some(self.trace.last().cloned().unwrap_or_default())
                }
            }
        }
    }

    fn understood(&mut self, utterance: u64, kinds: &[usize]) {
        let sound = halo_receipts::messages::CaptureKind::Audio as usize;
        let words = [
            "What is sovereign inference?",
            "What time is it?",
            "nice weather today",
        ];
        let mut heard = Heard {
            segments: Vec::new(),
            images: 0,
            gestures: 0,
            typed: false,
        };
        for &kind in kinds {
            if kind == sound {
                let said = words[self.rng.below(words.len() as u64) as usize];
                heard.segments.push(said.to_owned());
            } else {
                heard.images += 1;
            }
        }
        let understanding = by_rules(&heard);
        self.phone_event(tier1::Event::Understood {
            utterance,
            understanding,
        });
    }
}
