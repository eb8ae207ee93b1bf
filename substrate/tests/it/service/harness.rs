//! A link's machine without sockets: the test plays the gateway, the ledger, the tokenizer and the threads.

use std::sync::Arc;

use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd, Notice};
use halo_receipts::evidence::Block;
use halo_receipts::fragment::{END_MAX, REQUEST_MAX, Reassembler, split};
use halo_receipts::frame::FrameType;
use halo_receipts::ids::{Hash, Tier};
use halo_receipts::link::{End, Link};
use halo_receipts::messages::{Token, TokenOrNotice};
use halo_receipts::payload::ModelIdentity;
use halo_receipts::time::Timestamp;
use halo_substrate::engine::ExpertSet;
use halo_substrate::generate::{FinishReason, StepOutput};
use halo_substrate::session::{Action, Event, Job, LinkSession, Served};

use super::device::{Ask, Device, Store};

pub fn served() -> Arc<Served> {
    Arc::new(Served {
        identity: ModelIdentity {
            name: "scripted".into(),
            weights_sha256: Hash([7; 32]),
            build_sha256: Hash([8; 32]),
        },
        context_limit: 64,
    })
}

/// What the gateway got and the machine asked for, in order of arrival.
#[derive(Default)]
pub struct Seen {
    pub tokens: Vec<Token>,
    pub notices: Vec<Notice>,
    pub ends: Vec<EscalateEnd>,
    pub prepares: usize,
    pub prompts: Vec<String>,
    pub jobs: Vec<Job>,
    pub cancels: usize,
    pub releases: Vec<(EndStatus, EndCode)>,
    pub refused: Vec<&'static str>,
    pub closed_with: Option<u16>,
}

pub struct Harness {
    pub device: Device,
    pub store: Store,
    pub machine: LinkSession,
    gateway: Link,
    ends: Reassembler,
    /// Blocks handed over and not acknowledged.
    pub blocks: Vec<Block>,
    pub seen: Seen,
    seed: u64,
}

impl Harness {
    pub fn new(device: Device) -> Self {
        let key = Arc::new(device.key(Tier::Substrate));
        let keys = device.keys.clone();
        let machine = LinkSession::new(device.link_id(), keys, served(), 16).unwrap();
        Self {
            store: Store::open(&device),
            machine,
            gateway: Link::new(End::GatewayToSubstrate, device.session, key),
            device,
            ends: Reassembler::new(END_MAX),
            blocks: Vec::new(),
            seen: Seen::default(),
            seed: 0,
        }
    }

    /// Gives the machine an event and notes what it wants.
    pub fn event(&mut self, event: Event) {
        self.device.clock += 1000;
        let now = Timestamp::from_micros(self.device.clock).unwrap();
        let seed = &mut self.seed;
        let mut random = || {
            *seed += 1;
            Hash::of(&seed.to_be_bytes()).0[..16].try_into().unwrap()
        };
        for action in self.machine.handle(event, now, &mut random) {
            match action {
                Action::Send(frame) => self.receive(&frame),
                Action::Prepare => self.seen.prepares += 1,
                Action::Encode { prompt } => self.seen.prompts.push(prompt),
                Action::Generate(job) => self.seen.jobs.push(job),
                Action::Cancel => self.seen.cancels += 1,
                Action::Append(block) => self.blocks.push(block),
                Action::Release { status, code, .. } => self.seen.releases.push((status, code)),
                Action::Refused(reason) => self.seen.refused.push(reason),
                Action::Close(code) => self.seen.closed_with = Some(code),
                Action::Log(_) => {}
            }
        }
    }

    fn receive(&mut self, frame: &[u8]) {
        let frame = self.gateway.receive(frame).unwrap();
        match frame.typ {
            FrameType::EscalateToken => match TokenOrNotice::decode(frame.payload).unwrap() {
                TokenOrNotice::Token(token) => self.seen.tokens.push(token),
                TokenOrNotice::Notice(notice) => self.seen.notices.push(notice),
            },
            FrameType::EscalateEnd => {
                if let Some(end) = self.ends.push(frame.payload).unwrap() {
                    self.seen.ends.push(EscalateEnd::parse(&end).unwrap());
                }
            }
            other => panic!("{other:?}"),
        }
    }

    /// Sends fragments as they are.
    pub fn send_pieces(&mut self, pieces: &[&[u8]]) {
        for piece in pieces {
            let frame = self
                .gateway
                .send(FrameType::EscalateRequest, piece)
                .unwrap();
            self.event(Event::Message(frame));
        }
    }

    pub fn frames(&mut self, document: &[u8]) -> Vec<Vec<u8>> {
        let pieces = split(document, REQUEST_MAX).unwrap();
        let send = |piece: Vec<u8>| {
            self.gateway
                .send(FrameType::EscalateRequest, &piece)
                .unwrap()
        };
        pieces.into_iter().map(send).collect()
    }

    pub fn send(&mut self, document: &[u8]) {
        for frame in self.frames(document) {
            self.event(Event::Message(frame));
        }
    }

    /// A recorded question, up to the job that the machine asks for.
    pub fn ask(&mut self, prompt: &str, max_tokens: u32) -> Ask {
        let ask = self.device.ask(prompt, max_tokens);
        self.store.record(&ask.stored);
        self.send(&ask.document());
        self.prepare();
        self.event(Event::Encoded(Some(vec![1, 2, 3])));
        ask
    }

    pub fn prepare(&mut self) {
        self.event(Event::Prepared(Box::new(self.store.evidence.clone())));
    }

    pub fn step(&mut self, step: u32, finished: Option<FinishReason>) {
        self.event(Event::Step(output(step, finished)));
    }

    /// The ledger acknowledges the oldest block.
    pub fn append(&mut self) {
        let block = self.blocks.remove(0);
        self.store.append(block);
        self.event(Event::Appended);
    }

    pub fn append_all(&mut self) {
        while !self.blocks.is_empty() {
            self.append();
        }
    }

    pub fn later(&mut self, micros: u64) {
        self.device.clock += micros;
    }
}

pub fn output(step: u32, finished: Option<FinishReason>) -> StepOutput {
    let mut active = ExpertSet::new(2, 8);
    active.insert(0, step as usize % 8);
    active.insert(1, (step as usize + 1) % 8);
    StepOutput {
        step,
        token_id: 100 + step,
        text: format!("w{step} "),
        cut: 0,
        loaded: if step == 0 {
            active.clone()
        } else {
            ExpertSet::new(2, 8)
        },
        active,
        finished,
    }
}
