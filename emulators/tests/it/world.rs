//! Sensor, phone and fake gateway in one place, with messages in queues and a clock that jumps to the next thing due.

use std::collections::VecDeque;

use halo_emulators::tier0::machine::{self as tier0, Capture, Sensor};
use halo_emulators::tier1::classify::{self, Heard};
use halo_emulators::tier1::local::Facts;
use halo_emulators::tier1::machine::{self as tier1, Config, Orchestrator};
use halo_emulators::tier1::report::Report;
use halo_receipts::ids::Hash;
use halo_receipts::keys::PairingKey;
use halo_receipts::messages::CaptureKind;
use halo_receipts::time::Timestamp;

use crate::fake::{FakeGateway, device, tenant};

/// What a hook does to a message in flight.
pub enum Fate {
    Deliver,
    Change(Vec<u8>),
    /// The connection breaks before it arrives.
    Cut,
}

pub type Hook = Box<dyn FnMut(&[u8]) -> Fate>;

pub struct World {
    pub now: Timestamp,
    pub sensor: Sensor,
    pub phone: Orchestrator,
    pub gateway: FakeGateway,
    to_phone: VecDeque<Vec<u8>>,
    to_sensor: VecDeque<Vec<u8>>,
    to_gateway: VecDeque<Vec<u8>>,
    from_gateway: VecDeque<Vec<u8>>,
    gateway_up: bool,
    /// Whether a POST gets an answer.
    pub gateway_reachable: bool,
    /// What the sensor shows, its alerts included.
    pub display: String,
    pub sound: Vec<u8>,
    pub sensor_log: Vec<tier0::Action>,
    pub reports: Vec<Report>,
    pub transcripts: VecDeque<String>,
    /// On messages from the sensor, to the sensor, to the gateway and from the gateway.
    pub hooks: [Option<Hook>; 4],
    pub stopped: bool,
    /// Everything that crossed the gateway's link, to look for what must not.
    pub sent_to_gateway: Vec<u8>,
    seed: u64,
    steps: u32,
}

pub fn start_time() -> Timestamp {
    "2026-11-21T09:00:00.000000Z".parse().unwrap()
}

pub fn config(gateway: &FakeGateway) -> Config {
    Config {
        tenant: tenant(),
        device: device(),
        generation: 1,
        key: gateway.device_key(),
        pairing: PairingKey::from_bytes([3; 32]),
        max_tokens: 32,
        sampling: Default::default(),
        utterance_gap_ms: 600,
        attempts_max: tier1::ATTEMPTS_MAX,
        facts: Facts::default(),
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let now = start_time();
        let gateway = FakeGateway::new(now);
        let mut world = Self {
            now,
            sensor: Sensor::new(PairingKey::from_bytes([3; 32]), None),
            phone: Orchestrator::new(config(&gateway)),
            gateway,
            to_phone: VecDeque::new(),
            to_sensor: VecDeque::new(),
            to_gateway: VecDeque::new(),
            from_gateway: VecDeque::new(),
            gateway_up: false,
            gateway_reachable: true,
            display: String::new(),
            sound: Vec::new(),
            sensor_log: Vec::new(),
            reports: Vec::new(),
            transcripts: VecDeque::new(),
            hooks: [None, None, None, None],
            stopped: false,
            sent_to_gateway: Vec::new(),
            seed,
            steps: 0,
        };
        world.phone(tier1::Event::Start);
        world.connect_sensor();
        world
    }

    fn random(&mut self) -> [u8; 32] {
        self.seed = self.seed.wrapping_add(1);
        Hash::of(&self.seed.to_be_bytes()).0
    }

    fn connect_sensor(&mut self) {
        self.to_phone.clear();
        self.to_sensor.clear();
        self.sensor(tier0::Event::Connected);
        self.phone(tier1::Event::SensorConnected);
    }

    /// Breaks the connection of sensor and phone, and makes it again.
    pub fn cut_sensor(&mut self) {
        self.to_phone.clear();
        self.to_sensor.clear();
        self.sensor(tier0::Event::Lost);
        self.phone(tier1::Event::SensorLost);
        self.connect_sensor();
    }

    /// Breaks the connection of phone and gateway.
    pub fn cut_gateway(&mut self) {
        if self.gateway_up {
            self.drop_gateway();
            self.phone(tier1::Event::GatewayLost {
                cause: "cut".to_owned(),
            });
        }
    }

    fn drop_gateway(&mut self) {
        self.gateway_up = false;
        self.gateway.disconnect();
        self.to_gateway.clear();
        self.from_gateway.clear();
    }

    pub fn capture(&mut self, capture: Capture) {
        self.sensor(tier0::Event::Capture(capture));
    }

    pub fn sensor(&mut self, event: tier0::Event) {
        let random = self.random();
        for action in self.sensor.handle(event, self.now, random) {
            match &action {
                tier0::Action::Send(message) => self.to_phone.push_back(message.clone()),
                tier0::Action::Show(text) => self.display.push_str(text),
                tier0::Action::Play(sound) => self.sound.extend_from_slice(sound),
                tier0::Action::Alert { .. } => self.display.push_str(tier0::ALERT),
                tier0::Action::Linked {
                    after_alert: true, ..
                } => self.display.push_str(tier0::READY),
                tier0::Action::Disconnect => {
                    self.sensor_log.push(action);
                    return self.cut_sensor();
                }
                _ => {}
            }
            self.sensor_log.push(action);
        }
    }

    pub fn phone(&mut self, event: tier1::Event) {
        let random = self.random();
        for action in self.phone.handle(event, self.now, random) {
            match action {
                tier1::Action::SendSensor(message) => self.to_sensor.push_back(message),
                tier1::Action::SendGateway(message) => {
                    self.sent_to_gateway.extend_from_slice(&message);
                    self.to_gateway.push_back(message);
                }
                tier1::Action::Post { .. } if !self.gateway_reachable => {
                    self.phone(tier1::Event::PostFailed {
                        cause: "unreachable".to_owned(),
                    });
                }
                tier1::Action::Post {
                    path,
                    signature,
                    body,
                } => {
                    self.gateway.now = self.now;
                    let (status, body) = self.gateway.post(&path, &signature, &body);
                    self.phone(tier1::Event::Posted { status, body });
                }
                tier1::Action::Connect { path, signature } => {
                    self.gateway_up = self.gateway.connect(&path, &signature);
                    self.phone(match self.gateway_up {
                        true => tier1::Event::GatewayConnected,
                        false => tier1::Event::GatewayLost {
                            cause: "refused".to_owned(),
                        },
                    });
                }
                tier1::Action::CloseGateway => self.drop_gateway(),
                tier1::Action::Understand {
                    utterance,
                    media,
                    typed,
                } => {
                    let mut heard = Heard {
                        typed: typed.is_some(),
                        ..Heard::default()
                    };
                    heard.segments.extend(typed);
                    for media in media {
                        match media.kind {
                            CaptureKind::Audio => {
                                heard.segments.extend(self.transcripts.pop_front())
                            }
                            CaptureKind::Image => heard.images += 1,
                            CaptureKind::Gesture => heard.gestures += 1,
                        }
                    }
                    let understanding = classify::by_rules(&heard);
                    self.phone(tier1::Event::Understood {
                        utterance,
                        understanding,
                    });
                }
                tier1::Action::Report(report) => self.reports.push(report),
                tier1::Action::Stop => self.stopped = true,
            }
        }
    }

    /// Delivers one message; false if none waits.
    fn deliver(&mut self) -> bool {
        self.gateway.now = self.now;
        let queues = [
            &mut self.to_phone,
            &mut self.to_sensor,
            &mut self.to_gateway,
            &mut self.from_gateway,
        ];
        let found = queues
            .into_iter()
            .enumerate()
            .find_map(|(at, queue)| Some((at, queue.pop_front()?)));
        let Some((at, message)) = found else {
            return false;
        };
        let fate = self.hooks[at]
            .as_mut()
            .map_or(Fate::Deliver, |hook| hook(&message));
        let message = match fate {
            Fate::Deliver => message,
            Fate::Change(message) => message,
            Fate::Cut if at < 2 => {
                self.cut_sensor();
                return true;
            }
            Fate::Cut => {
                self.cut_gateway();
                return true;
            }
        };
        match at {
            0 => self.phone(tier1::Event::SensorMessage(message)),
            1 => self.sensor(tier0::Event::Message(message)),
            2 => self.from_gateway.extend(self.gateway.message(&message)),
            _ => self.phone(tier1::Event::GatewayMessage(message)),
        }
        true
    }

    /// Runs until nothing is left to do: every capture accepted, answered and sealed.
    pub fn settle(&mut self) {
        self.settle_until(|world| {
            world.sensor.unsent() == 0 && world.phone.is_settled() && world.phone.seals() > 0
        });
    }

    /// Delivers what is under way, without letting time pass.
    pub fn run_until_idle(&mut self) {
        while self.deliver() {}
    }

    /// Runs until nothing is under way and `done` holds, or the phone stops.
    pub fn settle_until(&mut self, done: impl Fn(&Self) -> bool) {
        while !self.stopped {
            self.steps += 1;
            let last = || self.reports.iter().rev().take(8).collect::<Vec<_>>();
            assert!(self.steps < 200_000, "no end: {:?}", last());
            if self.deliver() {
                continue;
            }
            if done(self) {
                return;
            }
            let due = [self.sensor.next_wake(), self.phone.next_wake()]
                .into_iter()
                .flatten()
                .min();
            let due = due.unwrap_or_else(|| panic!("stuck: {:?}", self.reports));
            self.now = self.now.max(due);
            self.sensor(tier0::Event::Tick);
            self.phone(tier1::Event::Tick);
        }
    }

    /// How many reports have this name.
    pub fn count(&self, name: &str) -> usize {
        let names = self
            .reports
            .iter()
            .map(|report| serde_json::to_value(report).unwrap());
        names.filter(|value| value["event"] == name).count()
    }

    /// The last report with this name, as JSON.
    pub fn last(&self, name: &str) -> serde_json::Value {
        let mut values = self
            .reports
            .iter()
            .rev()
            .map(|report| serde_json::to_value(report).unwrap());
        values
            .find(|value| value["event"] == name)
            .unwrap_or_else(|| panic!("no {name}"))
    }
}

/// Sound that is only good for its length.
pub fn audio(bytes: usize) -> Capture {
    Capture::Audio((0..bytes).map(|at| (at * 7 % 251) as u8).collect())
}
