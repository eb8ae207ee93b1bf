//! The sensor as a pure machine: captures in, signed frames out, under one key that it can be made to forget.
//!
//! Feed every event to [`Sensor::handle`] with the time and 32 fresh random bytes, do what it returns in that order, and
//! send [`Event::Tick`] when [`Sensor::next_wake`] is due. A message that is refused changes nothing but a counter.

use std::collections::VecDeque;

use halo_receipts::frame::{FrameType, PAYLOAD_MAX};
use halo_receipts::ids::{Epoch, Hash, ReceiptId, SessionId, TenantId, Tier};
use halo_receipts::keys::PairingKey;
use halo_receipts::link::{End, Link};
use halo_receipts::messages::{
    Ack, Backpressure, BreakReason, CaptureKind, Gesture, GestureEvent, MessageError, PauseReason,
    SensorEnd, VerificationFailed,
};
use halo_receipts::receipt::Parent;
use halo_receipts::reset::SessionReset;
use halo_receipts::time::Timestamp;

use crate::counters::Refusals;
use crate::draw::Draw;
use crate::tier0::key::KeySlot;
use crate::{CAPTURE_MAX, after};

/// What the sensor shows when the chain broke.
pub const ALERT: &str = "SECURITY ALERT - CHAIN BROKEN";
/// What it shows once it has a key again.
pub const READY: &str = "READY TO RE-LINK";

/// How many frames may be under way without an ACK.
pub const WINDOW: u32 = 32;
/// Below this charge, in percent, the sensor asks the phone for a pause.
pub const BATTERY_LOW: u8 = 20;
/// The pause that a low battery asks for, in milliseconds.
const BATTERY_PAUSE_MS: u32 = 500;
/// The longest pause that a peer can impose, in milliseconds.
const PAUSE_MAX_MS: u32 = 60_000;
/// How long to wait for an ACK, in milliseconds, before the connection is given up.
const ACK_LIMIT_MS: u64 = 10_000;
/// How long to wait for a key after connecting, in milliseconds.
const KEY_LIMIT_MS: u64 = 15_000;
/// After so many refused frames in a row the connection is given up.
const REFUSED_MAX: u32 = 16;

/// What the sensor captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capture {
    /// 16-bit little-endian PCM, 16 kHz, mono.
    Audio(Vec<u8>),
    /// A JPEG of 640 x 480.
    Image(Vec<u8>),
    /// A gesture, at the moment it is sent.
    Gesture(Gesture),
}

impl Capture {
    /// Which kind of frames carries it.
    pub fn kind(&self) -> CaptureKind {
        match self {
            Capture::Audio(_) => CaptureKind::Audio,
            Capture::Image(_) => CaptureKind::Image,
            Capture::Gesture(_) => CaptureKind::Gesture,
        }
    }
}

/// What happens to the sensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// There is a connection to the phone.
    Connected,
    /// One message arrived from the phone.
    Message(Vec<u8>),
    /// The connection is gone.
    Lost,
    /// Something was captured. It is kept until the phone has accepted it.
    Capture(Capture),
    /// The charge of the battery, in percent.
    Battery(u8),
    /// Time has passed.
    Tick,
}

/// What the sensor wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this message to the phone.
    Send(Vec<u8>),
    /// Show text as it arrives (DISPLAY_RENDER).
    Show(String),
    /// Play 16-bit PCM, 16 kHz, mono (AUDIO_RENDER).
    Play(Vec<u8>),
    /// There is a key: captures are sent from now on.
    Linked {
        /// The session.
        session: SessionId,
        /// The epoch.
        epoch: Epoch,
        /// Whether this ends an alert, so that [`READY`] is shown.
        after_alert: bool,
    },
    /// The whole capture was sent with this receipt.
    Sent {
        /// The receipt.
        receipt_id: ReceiptId,
        /// What was captured.
        kind: CaptureKind,
        /// Its length in bytes.
        bytes: u32,
        /// The frames that carried it.
        chunks: u32,
    },
    /// The phone accepted the capture.
    Accepted {
        /// The receipt.
        receipt_id: ReceiptId,
    },
    /// TIER_KEY\[0\] was overwritten.
    KeyWiped,
    /// The chain broke: show [`ALERT`]. Nothing is sent until there is a key again.
    Alert {
        /// The first bad sequence number.
        first_bad: u32,
        /// What was wrong.
        reason: BreakReason,
    },
    /// A capture was not taken; it is empty, or longer than [`CAPTURE_MAX`].
    Rejected {
        /// Its length in bytes.
        bytes: usize,
    },
    /// Give the connection up and connect again: the phone is silent or no longer understood.
    Disconnect,
}

/// A link in the current epoch; the key is in the slot.
struct Wire {
    session: SessionId,
    epoch: Epoch,
    next_sent: u32,
    next_received: u32,
    /// Frames below this number are acknowledged.
    acknowledged: u32,
    refused_in_a_row: u32,
}

/// The capture under way.
struct Sending {
    capture: Capture,
    /// The capture's bytes, once sending has begun.
    bytes: Vec<u8>,
    offset: usize,
    chunks: u32,
    /// The number of its SENSOR_END and the receipt in it, once sent.
    end: Option<(u32, Parent)>,
}

impl Sending {
    fn new(capture: Capture) -> Self {
        Self {
            capture,
            bytes: Vec::new(),
            offset: 0,
            chunks: 0,
            end: None,
        }
    }

    /// From the beginning again, under another key.
    fn restart(&mut self) {
        (self.offset, self.chunks, self.end) = (0, 0, None);
    }
}

/// Tier 0.
pub struct Sensor {
    pairing: PairingKey,
    key: KeySlot,
    wire: Option<Wire>,
    connected: bool,
    alert: bool,
    last_epoch: Option<Epoch>,
    tenant: Option<TenantId>,
    /// The parent of the next capture.
    parent: Option<Parent>,
    queue: VecDeque<Capture>,
    sending: Option<Sending>,
    battery: u8,
    pause_until: Option<Timestamp>,
    /// Since when the sensor has waited for a key or an ACK.
    waiting_since: Option<Timestamp>,
    refused: Refusals,
}

impl Sensor {
    /// A sensor that is paired with one phone. `last_epoch` is the highest epoch that it saw before, if it remembers one.
    pub fn new(pairing: PairingKey, last_epoch: Option<Epoch>) -> Self {
        Self {
            pairing,
            key: KeySlot::empty(),
            wire: None,
            connected: false,
            alert: false,
            last_epoch,
            tenant: None,
            parent: None,
            queue: VecDeque::new(),
            sending: None,
            battery: 100,
            pause_until: None,
            waiting_since: None,
            refused: Refusals::default(),
        }
    }

    /// What was refused so far.
    pub fn refused(&self) -> &Refusals {
        &self.refused
    }

    /// Whether the sensor has a key.
    pub fn is_linked(&self) -> bool {
        self.wire.is_some()
    }

    /// Whether the sensor shows [`ALERT`] and waits for a SESSION_RESET.
    pub fn is_alerted(&self) -> bool {
        self.alert
    }

    /// The highest epoch seen: what must be remembered across restarts, so that an old SESSION_RESET is not taken again.
    pub fn last_epoch(&self) -> Option<Epoch> {
        self.last_epoch
    }

    /// The memory that holds TIER_KEY\[0\], for tests that prove what stands in it.
    #[cfg(test)]
    pub(super) fn key_memory(&self) -> &[u8; 32] {
        self.key.memory()
    }

    /// How many captures the phone has not accepted yet.
    pub fn unsent(&self) -> usize {
        self.queue.len() + usize::from(self.sending.is_some())
    }

    /// When the next [`Event::Tick`] is due, if nothing happens before.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let pause = self.pause_until.filter(|_| self.wire.is_some());
        [pause, self.deadline()].into_iter().flatten().min()
    }

    /// Takes one event and says what to do.
    pub fn handle(&mut self, event: Event, now: Timestamp, random: [u8; 32]) -> Vec<Action> {
        let mut draw = Draw::new(random);
        let mut actions = Vec::new();
        match event {
            Event::Connected => {
                self.unlink();
                self.connected = true;
                self.waiting_since = Some(now);
            }
            Event::Lost => {
                self.unlink();
                self.connected = false;
                self.waiting_since = None;
            }
            Event::Message(message) if message.get(1) == Some(&(FrameType::SessionReset as u8)) => {
                self.reset(&message, &mut actions);
            }
            Event::Message(message) => self.frame(&message, now, &mut actions),
            Event::Capture(capture) => self.take(capture, &mut actions),
            Event::Battery(percent) => {
                let fell = self.battery >= BATTERY_LOW && percent < BATTERY_LOW;
                self.battery = percent.min(100);
                if fell {
                    self.plead(&mut actions);
                }
            }
            Event::Tick => {
                self.pause_until = self.pause_until.filter(|&until| now < until);
                if self.deadline().is_some_and(|deadline| deadline <= now) {
                    self.waiting_since = Some(now);
                    actions.push(Action::Disconnect);
                }
            }
        }
        self.pump(now, &mut draw, &mut actions);
        actions
    }

    fn deadline(&self) -> Option<Timestamp> {
        let since = self.waiting_since.filter(|_| self.connected)?;
        let limit = match self.wire {
            Some(_) => ACK_LIMIT_MS,
            None => KEY_LIMIT_MS,
        };
        Some(after(since, limit))
    }

    /// Forgets the key and whatever it signed that is not accepted. Returns whether there was a key.
    fn unlink(&mut self) -> bool {
        self.wire = None;
        self.pause_until = None;
        if let Some(sending) = &mut self.sending {
            // The receipt that was sent last stays known, as a reset may say that it had arrived.
            sending.offset = 0;
            sending.chunks = 0;
        }
        self.key.wipe()
    }

    fn take(&mut self, capture: Capture, actions: &mut Vec<Action>) {
        let bytes = match &capture {
            Capture::Audio(bytes) | Capture::Image(bytes) => bytes.len(),
            Capture::Gesture(_) => 9,
        };
        if bytes == 0 || bytes > CAPTURE_MAX {
            actions.push(Action::Rejected { bytes });
        } else {
            self.queue.push_back(capture);
        }
    }

    fn reset(&mut self, message: &[u8], actions: &mut Vec<Action>) {
        let opened = SessionReset::open_with(message, &self.pairing, self.last_epoch);
        let (reset, context) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                return self.refused.count(match error {
                    MessageError::Replay => "reset_replay",
                    _ => "reset_not_authentic",
                });
            }
        };
        let parent = match context {
            Some(context) => {
                self.tenant = Some(context.tenant_id);
                context.parent
            }
            // A sensor that does not know its tenant cannot write a receipt.
            None if self.tenant.is_none() => return self.refused.count("reset_without_tenant"),
            None => None,
        };
        self.unlink();
        if let Some(Sending {
            end: Some((_, sent)),
            ..
        }) = &self.sending
            && parent == Some(*sent)
        {
            // The phone has it: only its ACK was lost.
            actions.push(Action::Accepted {
                receipt_id: sent.id,
            });
            self.sending = None;
        }
        if let Some(sending) = &mut self.sending {
            sending.restart();
        }
        self.key.put(&reset.tier_key);
        self.last_epoch = Some(reset.session_epoch);
        self.parent = parent;
        self.wire = Some(Wire {
            session: reset.session_id,
            epoch: reset.session_epoch,
            next_sent: 0,
            next_received: 0,
            acknowledged: 0,
            refused_in_a_row: 0,
        });
        self.waiting_since = None;
        let after_alert = std::mem::take(&mut self.alert);
        actions.push(Action::Linked {
            session: reset.session_id,
            epoch: reset.session_epoch,
            after_alert,
        });
        if self.battery < BATTERY_LOW {
            self.plead(actions);
        }
    }

    fn frame(&mut self, message: &[u8], now: Timestamp, actions: &mut Vec<Action>) {
        let (Some(wire), Some(key)) = (&mut self.wire, self.key.get()) else {
            return self.refused.count("not_linked");
        };
        let (sent, received) = (wire.next_sent, wire.next_received);
        let mut link = Link::resume(End::Sensor, wire.session, key, sent, received);
        let frame = match link.receive(message) {
            Ok(frame) => frame,
            Err(error) => {
                self.refused.count(error.name());
                wire.refused_in_a_row += 1;
                if wire.refused_in_a_row == REFUSED_MAX {
                    actions.push(Action::Disconnect);
                }
                return;
            }
        };
        wire.next_received = link.next_received();
        wire.refused_in_a_row = 0;
        match frame.typ {
            FrameType::Ack => match Ack::decode(frame.payload) {
                Ok(Ack(sequence)) if (wire.acknowledged..sent).contains(&sequence) => {
                    wire.acknowledged = sequence + 1;
                    self.waiting_since = None;
                    self.accepted(sequence, actions);
                }
                _ => self.refused.count("ack"),
            },
            FrameType::Backpressure => match Backpressure::decode(frame.payload, Tier::Sensor) {
                Ok(plea) => {
                    let pause = u64::from(plea.pause_ms.min(PAUSE_MAX_MS));
                    self.pause_until = Some(after(now, pause));
                    self.waiting_since = self.waiting_since.map(|_| after(now, pause));
                }
                Err(_) => self.refused.count("backpressure"),
            },
            FrameType::DisplayRender => match std::str::from_utf8(frame.payload) {
                Ok(text) => actions.push(Action::Show(text.to_owned())),
                Err(_) => self.refused.count("display_render"),
            },
            FrameType::AudioRender if frame.payload.len().is_multiple_of(2) => {
                actions.push(Action::Play(frame.payload.to_vec()));
            }
            FrameType::VerificationFailed => match VerificationFailed::decode(frame.payload) {
                Ok(failed) => self.break_off(&failed, now, actions),
                Err(_) => self.refused.count("verification_failed"),
            },
            other => self.refused.count(other.name()),
        }
    }

    /// The mitigation loop (protocol section 6): stop, wipe, alert.
    fn break_off(
        &mut self,
        failed: &VerificationFailed,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        self.unlink();
        self.alert = true;
        self.waiting_since = Some(now);
        actions.push(Action::KeyWiped);
        actions.push(Action::Alert {
            first_bad: failed.first_bad,
            reason: failed.reason,
        });
    }

    fn accepted(&mut self, sequence: u32, actions: &mut Vec<Action>) {
        if let Some(Sending {
            end: Some((number, receipt)),
            ..
        }) = &self.sending
            && *number <= sequence
        {
            self.parent = Some(*receipt);
            actions.push(Action::Accepted {
                receipt_id: receipt.id,
            });
            self.sending = None;
        }
    }

    /// Asks the phone to send less while the battery is low.
    fn plead(&mut self, actions: &mut Vec<Action>) {
        let plea = Backpressure {
            sender: Tier::Sensor,
            reason: PauseReason::Battery,
            pause_ms: BATTERY_PAUSE_MS,
        };
        self.send(FrameType::Backpressure, &plea.encode(), actions);
    }

    /// Sends one frame; returns its sequence number, or nothing if there is no link.
    fn send(&mut self, typ: FrameType, payload: &[u8], actions: &mut Vec<Action>) -> Option<u32> {
        let wire = self.wire.as_mut()?;
        let sequence = wire.next_sent;
        let mut link = Link::resume(
            End::Sensor,
            wire.session,
            self.key.get()?,
            sequence,
            wire.next_received,
        );
        // Lengths and types are this module's own; what can end is the sequence numbers, and then only a new epoch helps.
        let Ok(message) = link.send(typ, payload) else {
            actions.push(Action::Disconnect);
            return None;
        };
        wire.next_sent = link.next_sent();
        actions.push(Action::Send(message));
        Some(sequence)
    }

    /// Sends as much as window and pauses allow.
    fn pump(&mut self, now: Timestamp, draw: &mut Draw, actions: &mut Vec<Action>) {
        if self.pause_until.is_some_and(|until| now < until) {
            return;
        }
        self.pause_until = None;
        loop {
            let Some(wire) = &self.wire else { return };
            let window_full = wire.next_sent - wire.acknowledged >= WINDOW;
            if self.sending.is_none() {
                let Some(capture) = self.queue.pop_front() else {
                    return;
                };
                self.sending = Some(Sending::new(capture));
            }
            let Some(sending) = &mut self.sending else {
                return;
            };
            if window_full || sending.end.is_some() {
                self.waiting_since.get_or_insert(now);
                return;
            }
            if sending.offset == 0 {
                sending.bytes = match &mut sending.capture {
                    Capture::Audio(bytes) | Capture::Image(bytes) if !bytes.is_empty() => {
                        std::mem::take(bytes)
                    }
                    Capture::Audio(_) | Capture::Image(_) => std::mem::take(&mut sending.bytes),
                    Capture::Gesture(gesture) => {
                        let gesture = *gesture;
                        GestureEvent { gesture, time: now }.encode().to_vec()
                    }
                };
            }
            let typ = sending.capture.kind().frame_type();
            let rest = sending.bytes.get(sending.offset..).unwrap_or_default();
            if rest.is_empty() {
                self.finish(now, draw, actions);
            } else {
                let chunk = rest[..rest.len().min(PAYLOAD_MAX)].to_vec();
                sending.offset += chunk.len();
                sending.chunks += 1;
                if self.send(typ, &chunk, actions).is_none() {
                    return;
                }
            }
        }
    }

    /// Sends the SENSOR_END of the capture under way.
    fn finish(&mut self, now: Timestamp, draw: &mut Draw, actions: &mut Vec<Action>) {
        let (Some(sending), Some(wire), Some(key), Some(tenant)) = (
            &self.sending,
            &self.wire,
            self.key.get(),
            self.tenant.clone(),
        ) else {
            return;
        };
        let (kind, chunks) = (sending.capture.kind(), sending.chunks);
        // A capture has at most CAPTURE_MAX bytes.
        let bytes = u32::try_from(sending.bytes.len()).unwrap_or(u32::MAX);
        let mut end = SensorEnd {
            kind,
            receipt_id: ReceiptId::from_random(draw.bytes()),
            parent: self.parent,
            capture_hash: Hash::of(&sending.bytes),
            time: now,
            bytes,
            chunks,
            signature: [0; 32],
        };
        let unsigned = end.receipt(wire.session, wire.epoch, tenant).body;
        let receipt = unsigned.sign(&key);
        end.signature = receipt.hmac_signature;
        let Some(sequence) = self.send(FrameType::SensorEnd, &end.encode(), actions) else {
            return;
        };
        if let Some(sending) = &mut self.sending {
            sending.end = Some((sequence, receipt.as_parent()));
        }
        self.waiting_since = Some(now);
        actions.push(Action::Sent {
            receipt_id: end.receipt_id,
            kind,
            bytes,
            chunks,
        });
    }
}
