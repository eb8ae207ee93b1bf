//! The phone's end of the link to the sensor: frames in, verified captures out; text and sound on their way back.

use std::sync::Arc;

use halo_receipts::chain::Event as Payload;
use halo_receipts::frame::{Frame, FrameError, FrameType, PAYLOAD_MAX, TAG_LEN};
use halo_receipts::ids::{Epoch, Hash, ReceiptId, Tier};
use halo_receipts::keys::{PairingKey, TierKey};
use halo_receipts::link::{End, Link};
use halo_receipts::messages::{
    Ack, Backpressure, BreakReason, CaptureKind, GestureEvent, MessageError, SensorEnd,
    VerificationFailed,
};
use halo_receipts::receipt::Receipt;
use halo_receipts::reset::{SensorContext, SessionReset};
use halo_receipts::time::Timestamp;

use crate::tier1::session::Session;
use crate::{CAPTURE_MAX, after};

/// An ACK is sent for so many accepted frames, and for each SENSOR_END. Less than the sensor's window.
const ACK_EVERY: u32 = 8;
/// Keys of so many earlier epochs are kept to recognise late frames.
const EARLIER_MAX: usize = 8;
/// The most text and sound that waits for the sensor, in bytes.
const WAITING_MAX: usize = 256 * 1024;
/// The longest pause that the sensor can impose, in milliseconds.
const PAUSE_MAX_MS: u32 = 60_000;

/// A verified capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// Its receipt.
    pub receipt_id: ReceiptId,
    /// What it is.
    pub kind: CaptureKind,
    /// 16-bit PCM at 16 kHz, a JPEG, or the nine bytes of a gesture.
    pub bytes: Vec<u8>,
}

/// What the phone saw when the chain broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Break {
    pub(super) epoch: Epoch,
    pub(super) first_bad: u32,
    /// What the sensor is told.
    pub(super) reason: BreakReason,
    /// What the receipt says.
    pub(super) name: &'static str,
    pub(super) expected: Hash,
    pub(super) computed: Hash,
}

/// What became of a message from the sensor.
pub(super) enum Incoming {
    /// Refused, or late mail from an earlier epoch; counted under this name.
    Ignored(&'static str),
    /// Accepted; more is to come.
    Accepted,
    /// A whole capture with its receipt, which is not in the chain yet, and the number of its frames.
    Captured(Media, Receipt, u32),
    /// Not authentic.
    Broken(Break),
}

/// The capture that is arriving.
struct Assembly {
    kind: CaptureKind,
    bytes: Vec<u8>,
    chunks: u32,
}

/// The phone's end of the link.
#[derive(Default)]
pub(super) struct SensorSide {
    present: bool,
    /// The link of the epoch for which a reset was sent; none before, and after a break.
    link: Option<(Link, Arc<TierKey>)>,
    /// Keys of earlier epochs, until a frame of the current one has arrived.
    earlier: Vec<Arc<TierKey>>,
    assembly: Option<Assembly>,
    since_ack: u32,
    /// The highest epoch that a sensor was told of.
    told: Option<Epoch>,
    pause_until: Option<Timestamp>,
    battery_low: bool,
    text: String,
    sound: Vec<u8>,
}

impl SensorSide {
    pub(super) fn connected(&mut self) {
        self.disconnected();
        self.present = true;
    }

    pub(super) fn disconnected(&mut self) {
        self.present = false;
        self.link = None;
        self.earlier.clear();
        self.assembly = None;
        self.pause_until = None;
    }

    pub(super) fn is_present(&self) -> bool {
        self.present
    }

    /// Whether a capture is arriving.
    pub(super) fn is_receiving(&self) -> bool {
        self.assembly.is_some()
    }

    pub(super) fn battery_low(&self) -> bool {
        self.battery_low
    }

    /// The highest epoch that a sensor was told of: it takes only a higher one.
    pub(super) fn told(&self) -> Option<Epoch> {
        self.told
    }

    /// When something that waits may be sent.
    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        let waiting = !self.text.is_empty() || !self.sound.is_empty();
        self.pause_until.filter(|_| self.link.is_some() && waiting)
    }

    /// SESSION_RESET for the session's epoch: the sensor begins again, with a new key.
    pub(super) fn reset(
        &mut self,
        session: &Session,
        pairing: &PairingKey,
        nonce: [u8; 12],
    ) -> Result<Vec<u8>, FrameError> {
        let reset = SessionReset {
            session_id: session.id,
            session_epoch: session.epoch,
            tier_key: TierKey::from_bytes(*session.sensor_key.expose()),
        };
        let context = SensorContext {
            tenant_id: session.tenant.clone(),
            parent: session.chain.capture_parent(),
        };
        let frame = reset.frame_with(pairing, nonce, &context)?;
        self.set_aside();
        let key = Arc::clone(&session.sensor_key);
        let link = Link::new(End::OrchestratorToSensor, session.id, Arc::clone(&key));
        self.link = Some((link, key));
        self.told = Some(session.epoch);
        self.pause_until = None;
        self.since_ack = 0;
        Ok(frame)
    }

    /// Ends the link but remembers its key, so that what was under way is told from an attack.
    pub(super) fn set_aside(&mut self) {
        self.assembly = None;
        if let Some((_, key)) = self.link.take() {
            self.earlier.push(key);
            if self.earlier.len() > EARLIER_MAX {
                self.earlier.remove(0);
            }
        }
    }

    /// VERIFICATION_FAILED, after which the sensor is not listened to until the next reset. None if there is no link.
    pub(super) fn break_off(&mut self, found: &Break) -> Option<Vec<u8>> {
        let failed = VerificationFailed {
            first_bad: found.first_bad,
            reason: found.reason,
            expected: found.expected,
            computed: found.computed,
        };
        let frame = self.frame(FrameType::VerificationFailed, &failed.encode());
        self.set_aside();
        frame
    }

    fn frame(&mut self, typ: FrameType, payload: &[u8]) -> Option<Vec<u8>> {
        let (link, _) = self.link.as_mut()?;
        link.send(typ, payload).ok()
    }

    /// Takes one message. `replies` receives the ACKs.
    pub(super) fn receive(
        &mut self,
        message: &[u8],
        session: &Session,
        now: Timestamp,
        replies: &mut Vec<Vec<u8>>,
    ) -> Incoming {
        let Some((link, key)) = &mut self.link else {
            return Incoming::Ignored("sensor_not_linked");
        };
        let sequence = link.next_received();
        let broken = |reason: BreakReason, expected, computed| {
            Incoming::Broken(Break {
                epoch: session.epoch,
                first_bad: sequence,
                reason,
                name: reason.name(),
                expected,
                computed,
            })
        };
        let (typ, payload) = match link.receive(message) {
            Ok(frame) => (frame.typ, frame.payload),
            Err(error) => {
                if is_signed_by(message, &self.earlier) {
                    return Incoming::Ignored("sensor_late");
                }
                let (expected, computed) = difference(message, error, sequence, key);
                return broken(BreakReason::Frame(error), expected, computed);
            }
        };
        self.earlier.clear();
        self.since_ack += 1;
        let taken = match typ {
            FrameType::Backpressure => match Backpressure::decode(payload, Tier::Orchestrator) {
                Ok(plea) => {
                    self.pause_until = Some(after(now, u64::from(plea.pause_ms.min(PAUSE_MAX_MS))));
                    self.battery_low |=
                        plea.reason == halo_receipts::messages::PauseReason::Battery;
                    Incoming::Accepted
                }
                Err(_) => Incoming::Ignored("sensor_backpressure"),
            },
            FrameType::SensorEnd => match self.finish(payload, session) {
                Ok((media, receipt, chunks)) => Incoming::Captured(media, receipt, chunks),
                Err((reason, expected, computed)) => return broken(reason, expected, computed),
            },
            _ => match (CaptureKind::of_frame(typ), payload) {
                (Some(kind), [_, ..]) => match self.chunk(kind, payload) {
                    Ok(()) => Incoming::Accepted,
                    Err((reason, expected, computed)) => return broken(reason, expected, computed),
                },
                _ => return broken(BreakReason::Capture, Hash([0; 32]), Hash::of(message)),
            },
        };
        if self.since_ack >= ACK_EVERY || matches!(taken, Incoming::Captured(..)) {
            self.since_ack = 0;
            replies.extend(self.frame(FrameType::Ack, &Ack(sequence).encode()));
        }
        taken
    }

    fn chunk(&mut self, kind: CaptureKind, payload: &[u8]) -> Result<(), Difference> {
        let assembly = self.assembly.get_or_insert_with(|| Assembly {
            kind,
            bytes: Vec::new(),
            chunks: 0,
        });
        let whole = assembly.bytes.len() + payload.len();
        if assembly.kind != kind || whole > CAPTURE_MAX {
            return Err((BreakReason::Capture, Hash([0; 32]), Hash::of(payload)));
        }
        if kind == CaptureKind::Gesture
            && (assembly.chunks > 0 || GestureEvent::decode(payload).is_err())
        {
            return Err((BreakReason::Capture, Hash([0; 32]), Hash::of(payload)));
        }
        assembly.bytes.extend_from_slice(payload);
        assembly.chunks += 1;
        Ok(())
    }

    /// Checks a SENSOR_END against the capture that it closes, against its key and against the chain.
    fn finish(
        &mut self,
        payload: &[u8],
        session: &Session,
    ) -> Result<(Media, Receipt, u32), Difference> {
        let unknown = |_: MessageError| (BreakReason::Capture, Hash([0; 32]), Hash::of(payload));
        let end = SensorEnd::decode(payload).map_err(unknown)?;
        let Some(assembly) = self.assembly.take() else {
            return Err((BreakReason::Capture, end.capture_hash, Hash::of(b"")));
        };
        let found = Hash::of(&assembly.bytes);
        if found != end.capture_hash {
            return Err((BreakReason::Capture, end.capture_hash, found));
        }
        let shape = |kind: CaptureKind, bytes: u32, chunks: u32| {
            let kind = [kind.frame_type() as u8];
            Hash::of(&[&kind[..], &bytes.to_be_bytes(), &chunks.to_be_bytes()].concat())
        };
        let bytes = u32::try_from(assembly.bytes.len()).unwrap_or(u32::MAX);
        if (end.kind, end.bytes, end.chunks) != (assembly.kind, bytes, assembly.chunks) {
            let expected = shape(end.kind, end.bytes, end.chunks);
            return Err((
                BreakReason::Capture,
                expected,
                shape(assembly.kind, bytes, assembly.chunks),
            ));
        }
        let receipt = end.receipt(session.id, session.epoch, session.tenant.clone());
        if !receipt.verify(&session.sensor_key) {
            let expected = session.sensor_key.sign(&[&receipt.body.canonical()]);
            return Err((
                BreakReason::Receipt,
                Hash::of(&expected),
                Hash::of(&end.signature),
            ));
        }
        if session.chain.check(&receipt, &Payload::Capture).is_err() {
            let hash = |parent: Option<halo_receipts::receipt::Parent>| {
                parent.map_or(Hash([0; 32]), |parent| parent.hash)
            };
            let expected = hash(session.chain.capture_parent());
            return Err((BreakReason::Parent, expected, hash(end.parent)));
        }
        let media = Media {
            receipt_id: end.receipt_id,
            kind: assembly.kind,
            bytes: assembly.bytes,
        };
        Ok((media, receipt, assembly.chunks))
    }

    /// Text for the sensor's display; waits for the link if there is none.
    pub(super) fn show(&mut self, text: &str) {
        if self.text.len() + text.len() <= WAITING_MAX {
            self.text.push_str(text);
        }
    }

    /// 16-bit PCM for the sensor's speaker, after the text that waits.
    pub(super) fn play(&mut self, sound: &[u8]) {
        if self.sound.len() + sound.len() <= WAITING_MAX {
            self.sound.extend_from_slice(sound);
        }
    }

    /// The frames of what waits, unless the sensor asked for a pause.
    pub(super) fn flush(&mut self, now: Timestamp) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        if self.link.is_none() || self.pause_until.is_some_and(|until| now < until) {
            return frames;
        }
        self.pause_until = None;
        let (text, sound) = (
            std::mem::take(&mut self.text),
            std::mem::take(&mut self.sound),
        );
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.floor_char_boundary(PAYLOAD_MAX));
            frames.extend(self.frame(FrameType::DisplayRender, piece.as_bytes()));
            rest = more;
        }
        // 198 is even, so no sample is torn apart.
        for piece in sound.chunks(PAYLOAD_MAX) {
            frames.extend(self.frame(FrameType::AudioRender, piece));
        }
        frames
    }
}

/// What is wrong, what was expected and what was found.
type Difference = (BreakReason, Hash, Hash);

/// Whether a message is a frame that one of these keys signed.
fn is_signed_by(message: &[u8], keys: &[Arc<TierKey>]) -> bool {
    Frame::parse(message).is_ok_and(|frame| keys.iter().any(|key| frame.verify(key)))
}

/// The hashes for VERIFICATION_FAILED of a refused frame: of the two HMACs, of the two sequence numbers, or of nothing and
/// the whole message.
fn difference(message: &[u8], error: FrameError, sequence: u32, key: &TierKey) -> (Hash, Hash) {
    match (
        error,
        message.split_last_chunk::<TAG_LEN>(),
        Frame::parse(message),
    ) {
        (FrameError::Hmac, Some((signed, tag)), _) => {
            (Hash::of(&key.sign(&[signed])), Hash::of(tag))
        }
        (FrameError::Sequence, _, Ok(frame)) => (
            Hash::of(&sequence.to_be_bytes()),
            Hash::of(&frame.sequence.to_be_bytes()),
        ),
        _ => (Hash([0; 32]), Hash::of(message)),
    }
}
