//! The phone as a pure machine: between a sensor and a gateway, it verifies, decides, answers or escalates, and seals.
//!
//! Feed every event to [`Orchestrator::handle`] with the time and 32 fresh random bytes, do what it returns in that order,
//! and send [`Event::Tick`] when [`Orchestrator::next_wake`] is due. Begin with [`Event::Start`]. The machine holds at most
//! one gateway connection and one POST at a time; after [`Action::CloseGateway`], and after a connection was lost, no
//! further event of that connection may be fed to it.

use std::collections::VecDeque;

use halo_receipts::documents::Sampling;
use halo_receipts::ids::{DeviceId, ReceiptId, RequestId, SessionId, TenantId};
use halo_receipts::keys::{DeviceKey, PairingKey};
use halo_receipts::payload::Decision;
use halo_receipts::time::Timestamp;

pub use crate::tier1::capture::Media;

use crate::counters::Refusals;
use crate::draw::Draw;
use crate::tier1::answer::Answer;
use crate::tier1::capture::{Break, Incoming, SensorSide};
use crate::tier1::classify::Understanding;
use crate::tier1::gateway::Gateway;
use crate::tier1::local::Facts;
use crate::tier1::report::Report;
use crate::tier1::requests::InFlight;
use crate::tier1::session::Session;
use crate::{after, kind_name};

/// How often a patient phone lets one request be put off or resumed.
pub const ATTEMPTS_MAX: u32 = 20;

/// Who the phone is and how it works.
pub struct Config {
    /// The tenant.
    pub tenant: TenantId,
    /// The device as the tenant enrolled it.
    pub device: DeviceId,
    /// Which of the device's keys `key` is, counted from 1.
    pub generation: u32,
    /// DEVICE_KEY.
    pub key: DeviceKey,
    /// What glasses and phone share.
    pub pairing: PairingKey,
    /// The most tokens of an answer.
    pub max_tokens: u32,
    /// How the substrate chooses tokens.
    pub sampling: Sampling,
    /// How long a pause ends what a person says, in milliseconds.
    pub utterance_gap_ms: u32,
    /// How often one request is put off or resumed before it is given up; [`ATTEMPTS_MAX`] for a phone that is patient.
    pub attempts_max: u32,
    /// What local answers come from.
    pub facts: Facts,
}

/// What happens to the phone.
pub enum Event {
    /// Open a session.
    Start,
    /// A sensor connected. One at a time.
    SensorConnected,
    /// One message arrived from the sensor.
    SensorMessage(Vec<u8>),
    /// The sensor's connection is gone.
    SensorLost,
    /// The gateway answered the last [`Action::Post`]. The body holds keys.
    Posted {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: Vec<u8>,
    },
    /// The last [`Action::Post`] got no answer.
    PostFailed {
        /// Why.
        cause: String,
    },
    /// The connection that the last [`Action::Connect`] asked for stands.
    GatewayConnected,
    /// One message arrived from the gateway.
    GatewayMessage(Vec<u8>),
    /// The gateway's connection is gone, or could not be made.
    GatewayLost {
        /// Why.
        cause: String,
    },
    /// What was found out about an utterance, after [`Action::Understand`].
    Understood {
        /// Which one.
        utterance: u64,
        /// What to do.
        understanding: Understanding,
    },
    /// The user typed something on the phone.
    Ask(String),
    /// Time has passed.
    Tick,
}

/// What the phone wants done.
pub enum Action {
    /// Send this message to the sensor.
    SendSensor(Vec<u8>),
    /// `POST` this to the gateway, signed; answer with [`Event::Posted`] or [`Event::PostFailed`].
    Post {
        /// The path.
        path: String,
        /// The value of the `Halo-Signature` header.
        signature: String,
        /// The JSON body.
        body: Vec<u8>,
    },
    /// Open the gateway's WebSocket; answer with [`Event::GatewayConnected`] or [`Event::GatewayLost`].
    Connect {
        /// Path and query.
        path: String,
        /// The value of the `Halo-Signature` header.
        signature: String,
    },
    /// Send this message to the gateway.
    SendGateway(Vec<u8>),
    /// Close the gateway's connection, or stop making it, and forget what comes of it.
    CloseGateway,
    /// Find out what is wanted; answer with [`Event::Understood`].
    Understand {
        /// Which utterance.
        utterance: u64,
        /// What was captured; empty for typed words.
        media: Vec<Media>,
        /// What was typed.
        typed: Option<String>,
    },
    /// Tell whoever runs the phone.
    Report(Report),
    /// Nothing more can be done; the last report says why.
    Stop,
}

/// What is being worked on.
pub(super) enum Pipeline {
    Idle,
    /// An utterance is being transcribed and classified.
    Understanding(u64),
    /// The substrate answers.
    Answering(Box<Answer>),
}

/// One call of [`Orchestrator::handle`].
pub(super) struct Turn {
    pub(super) now: Timestamp,
    pub(super) draw: Draw,
    pub(super) actions: Vec<Action>,
}

impl Turn {
    pub(super) fn report(&mut self, report: Report) {
        self.actions.push(Action::Report(report));
    }

    pub(super) fn receipt_id(&mut self) -> ReceiptId {
        ReceiptId::from_random(self.draw.bytes())
    }

    pub(super) fn request_id(&mut self) -> RequestId {
        RequestId::from_random(self.draw.bytes())
    }
}

/// Tier 1.
pub struct Orchestrator {
    pub(super) config: Config,
    pub(super) gateway: Gateway,
    pub(super) session: Option<Session>,
    pub(super) sensor: SensorSide,
    pub(super) pipeline: Pipeline,
    /// Verified captures that are not routed yet.
    pub(super) forming: Vec<Media>,
    /// When the sensor last sent something good.
    last_activity: Option<Timestamp>,
    typed: VecDeque<String>,
    utterances: u64,
    /// The request that the gateway works on; one at a time.
    pub(super) in_flight: Option<InFlight>,
    /// No request before this time.
    pub(super) hold_until: Option<Timestamp>,
    /// A break that is not recorded yet.
    pub(super) pending_break: Option<Break>,
    /// The session cannot be sealed any more: go on in a new one once everything is recorded.
    pub(super) abandoned: bool,
    /// Connections and requests that failed in a row.
    pub(super) failures: u32,
    pub(super) sealed: u64,
    pub(super) refused: Refusals,
}

impl Orchestrator {
    /// A phone that does nothing until [`Event::Start`].
    pub fn new(config: Config) -> Self {
        Self {
            config,
            gateway: Gateway::Idle,
            session: None,
            sensor: SensorSide::default(),
            pipeline: Pipeline::Idle,
            forming: Vec::new(),
            last_activity: None,
            typed: VecDeque::new(),
            utterances: 0,
            in_flight: None,
            hold_until: None,
            pending_break: None,
            abandoned: false,
            failures: 0,
            sealed: 0,
            refused: Refusals::default(),
        }
    }

    /// What was refused so far, on both links.
    pub fn refused(&self) -> &Refusals {
        &self.refused
    }

    /// The current session.
    pub fn session_id(&self) -> Option<SessionId> {
        self.session.as_ref().map(|session| session.id)
    }

    /// Whether the gateway's connection stands.
    pub fn is_connected(&self) -> bool {
        matches!(self.gateway, Gateway::Open(_))
    }

    /// How many seals are known to be in the ledger.
    pub fn seals(&self) -> u64 {
        self.sealed
    }

    /// Whether nothing is under way: everything captured is routed, answered, sealed and in the ledger.
    pub fn is_settled(&self) -> bool {
        matches!(self.pipeline, Pipeline::Idle)
            && self.forming.is_empty()
            && self.typed.is_empty()
            && !self.sensor.is_receiving()
            && self.pending_break.is_none()
            && self
                .session
                .as_ref()
                .is_none_or(|session| session.outbox.len() == 0)
    }

    /// When the next [`Event::Tick`] is due, if nothing happens before.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let idle = matches!(self.pipeline, Pipeline::Idle) && !self.abandoned;
        let utterance = self.utterance_ends().filter(|_| idle);
        [utterance, self.gateway_wake(), self.sensor.next_wake()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Takes one event and says what to do.
    pub fn handle(&mut self, event: Event, now: Timestamp, random: [u8; 32]) -> Vec<Action> {
        let draw = Draw::new(random);
        let mut turn = Turn {
            now,
            draw,
            actions: Vec::new(),
        };
        match event {
            Event::Start => self.start(&mut turn),
            Event::SensorConnected => {
                let told = self.sensor.told();
                self.sensor.connected();
                self.sensor_arrived(told, &mut turn);
            }
            Event::SensorMessage(message) => self.sensor_message(&message, &mut turn),
            Event::SensorLost => self.sensor.disconnected(),
            Event::Posted { status, body } => self.posted(status, body, &mut turn),
            Event::PostFailed { cause } => self.post_failed(cause, &mut turn),
            Event::GatewayConnected => self.gateway_connected(&mut turn),
            Event::GatewayMessage(message) => self.gateway_message(&message, &mut turn),
            Event::GatewayLost { cause } => self.gateway_lost(cause, &mut turn),
            Event::Understood {
                utterance,
                understanding,
            } => {
                if matches!(self.pipeline, Pipeline::Understanding(current) if current == utterance)
                {
                    self.pipeline = Pipeline::Idle;
                    self.understood(understanding, &mut turn);
                }
            }
            Event::Ask(text) => self.typed.push_back(text),
            Event::Tick => {}
        }
        self.begin_utterance(&mut turn);
        self.advance_gateway(&mut turn);
        for frame in self.sensor.flush(now) {
            turn.actions.push(Action::SendSensor(frame));
        }
        turn.actions
    }

    fn sensor_message(&mut self, message: &[u8], turn: &mut Turn) {
        let Some(session) = &mut self.session else {
            return self.refused.count("sensor_not_linked");
        };
        let mut replies = Vec::new();
        let incoming = self
            .sensor
            .receive(message, session, turn.now, &mut replies);
        match incoming {
            Incoming::Ignored(reason) => return self.refused.count(reason),
            Incoming::Accepted => self.last_activity = Some(turn.now),
            Incoming::Captured(media, receipt, frames) => {
                self.last_activity = Some(turn.now);
                let report = captured(&media, &receipt, frames);
                // The sensor's side has checked the receipt against the same chain.
                if session.capture(receipt).is_err() {
                    return self.refused.count("sensor_parent");
                }
                turn.report(report);
                self.forming.push(media);
            }
            Incoming::Broken(found) => return self.break_chain(found, turn),
        }
        turn.actions
            .extend(replies.into_iter().map(Action::SendSensor));
    }

    /// The mitigation loop (protocol section 6), up to the new epoch.
    pub(super) fn break_chain(&mut self, found: Break, turn: &mut Turn) {
        self.refused.count(found.name);
        if let Some(frame) = self.sensor.break_off(&found) {
            turn.actions.push(Action::SendSensor(frame));
        }
        turn.report(Report::ChainBroken {
            first_bad: found.first_bad,
            reason: found.name.to_owned(),
            expected: found.expected,
            computed: found.computed,
        });
        // A second break before the first one is recorded adds nothing: the sensor is not listened to until then.
        self.pending_break.get_or_insert(found);
        self.new_epoch(turn);
    }

    /// When what a person says counts as said.
    fn utterance_ends(&self) -> Option<Timestamp> {
        let quiet =
            !self.forming.is_empty() && !self.sensor.is_receiving() && self.pending_break.is_none();
        let last = self.last_activity.filter(|_| quiet)?;
        Some(after(last, u64::from(self.config.utterance_gap_ms)))
    }

    fn begin_utterance(&mut self, turn: &mut Turn) {
        if !matches!(self.pipeline, Pipeline::Idle) || self.abandoned {
            return;
        }
        let said = self.utterance_ends().is_some_and(|end| end <= turn.now);
        let (media, typed) = if said {
            (std::mem::take(&mut self.forming), None)
        } else {
            let Some(text) = self.typed.pop_front() else {
                return;
            };
            let captured = |session: &Session| session.chain.routing_parent().is_some();
            if !self.session.as_ref().is_some_and(captured) {
                let message =
                    "a question needs a capture before it: tap the glasses, then type again";
                return turn.report(Report::Ignored {
                    message: message.to_owned(),
                });
            }
            (Vec::new(), Some(text))
        };
        self.utterances += 1;
        self.pipeline = Pipeline::Understanding(self.utterances);
        turn.actions.push(Action::Understand {
            utterance: self.utterances,
            media,
            typed,
        });
    }
}

fn captured(media: &Media, receipt: &halo_receipts::receipt::Receipt, frames: u32) -> Report {
    Report::CaptureVerified {
        receipt_id: media.receipt_id,
        parent: receipt.body.parent.map(|parent| parent.id),
        kind: kind_name(media.kind),
        frames,
        bytes: u32::try_from(media.bytes.len()).unwrap_or(u32::MAX),
        sha256: receipt.body.event_payload_hash,
        hmac: halo_receipts::hex::encode(&receipt.hmac_signature),
    }
}

/// What a receipt that records a break says of its decision.
pub(super) const BREAK: Decision = Decision::VerificationFailed;
