//! The payloads that are not JSON: what a sensor sends and is sent, tokens, and the request to pause.

use crate::frame::{self, FrameError, FrameType};
use crate::ids::{Epoch, Hash, ReceiptId, SessionId, TenantId, Tier};
use crate::receipt::{Parent, Receipt, ReceiptKind, Unsigned};
use crate::time::Timestamp;

/// A payload that does not have its type's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Another length than the type has.
    #[error("the payload has another length than its type")]
    Length,
    /// A value that the type does not know.
    #[error("the payload holds a value that its type does not know")]
    Value,
    /// A SESSION_RESET that the pairing key did not make, or not for this session and epoch.
    #[error("the session reset is not authentic")]
    NotAuthentic,
    /// A SESSION_RESET for an epoch that is not above the last one.
    #[error("the session reset is not newer than the last one")]
    Replay,
}

/// Takes a payload of fixed width apart from the front.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl Reader<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let (head, tail) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(MessageError::Length)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, MessageError> {
        self.take().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, MessageError> {
        self.take().map(u32::from_be_bytes)
    }

    pub(crate) fn time(&mut self) -> Result<Timestamp, MessageError> {
        let micros = u64::from_be_bytes(self.take()?);
        Timestamp::from_micros(micros).ok_or(MessageError::Value)
    }

    pub(crate) fn end(self) -> Result<(), MessageError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(MessageError::Length)
        }
    }
}

/// What a finger did (GESTURE_EVENT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gesture {
    /// One tap.
    Tap,
    /// Two taps.
    DoubleTap,
    /// A swipe.
    Swipe,
}

/// GESTURE_EVENT, 9 bytes: the whole capture of a gesture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GestureEvent {
    /// What was done.
    pub gesture: Gesture,
    /// When.
    pub time: Timestamp,
}

impl GestureEvent {
    /// The payload.
    pub fn encode(&self) -> [u8; 9] {
        let number = match self.gesture {
            Gesture::Tap => 1,
            Gesture::DoubleTap => 2,
            Gesture::Swipe => 3,
        };
        let mut payload = [number; 9];
        payload[1..].copy_from_slice(&self.time.micros().to_be_bytes());
        payload
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(payload);
        let gesture = match reader.u8()? {
            1 => Gesture::Tap,
            2 => Gesture::DoubleTap,
            3 => Gesture::Swipe,
            _ => return Err(MessageError::Value),
        };
        let time = reader.time()?;
        reader.end()?;
        Ok(Self { gesture, time })
    }
}

/// What kind of capture a SENSOR_END closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CaptureKind {
    /// Sound, in AUDIO_CHUNKs.
    Audio,
    /// A picture, in IMAGE_CHUNKs.
    Image,
    /// One GESTURE_EVENT.
    Gesture,
}

impl CaptureKind {
    /// The type of the frames that carry the capture.
    pub fn frame_type(self) -> FrameType {
        match self {
            CaptureKind::Audio => FrameType::AudioChunk,
            CaptureKind::Image => FrameType::ImageChunk,
            CaptureKind::Gesture => FrameType::GestureEvent,
        }
    }

    /// The kind that frames of this type carry.
    pub fn of_frame(typ: FrameType) -> Option<Self> {
        match typ {
            FrameType::AudioChunk => Some(CaptureKind::Audio),
            FrameType::ImageChunk => Some(CaptureKind::Image),
            FrameType::GestureEvent => Some(CaptureKind::Gesture),
            _ => None,
        }
    }
}

/// SENSOR_END, 156 bytes: the Tier 0 receipt in compact form. A sensor never writes JSON; both sides rebuild the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SensorEnd {
    /// What was captured.
    pub kind: CaptureKind,
    /// The receipt's id.
    pub receipt_id: ReceiptId,
    /// The receipt before it; none for the first of a session.
    pub parent: Option<Parent>,
    /// SHA-256 of the reassembled capture.
    pub capture_hash: Hash,
    /// When the capture ended.
    pub time: Timestamp,
    /// The capture's length in bytes.
    pub bytes: u32,
    /// The number of frames that carried it.
    pub chunks: u32,
    /// The receipt's HMAC under TIER_KEY\[0\].
    pub signature: [u8; 32],
}

impl SensorEnd {
    /// The payload's length.
    pub const LEN: usize = 156;

    /// The payload.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut payload = [0; Self::LEN];
        payload[0] = match self.kind {
            CaptureKind::Audio => 1,
            CaptureKind::Image => 2,
            CaptureKind::Gesture => 3,
        };
        payload[1..17].copy_from_slice(self.receipt_id.as_bytes());
        if let Some(parent) = &self.parent {
            payload[17..33].copy_from_slice(parent.id.as_bytes());
            payload[33..65].copy_from_slice(&parent.hash.0);
        }
        payload[65..97].copy_from_slice(&self.capture_hash.0);
        payload[97..105].copy_from_slice(&self.time.micros().to_be_bytes());
        payload[105..109].copy_from_slice(&self.bytes.to_be_bytes());
        payload[109..113].copy_from_slice(&self.chunks.to_be_bytes());
        payload[124..].copy_from_slice(&self.signature);
        payload
    }

    /// Reads a payload. The reserved bytes are zeros; a parent is wholly there or wholly zeros.
    pub fn decode(payload: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(payload);
        let kind = match reader.u8()? {
            1 => CaptureKind::Audio,
            2 => CaptureKind::Image,
            3 => CaptureKind::Gesture,
            _ => return Err(MessageError::Value),
        };
        let id = |bytes| ReceiptId::from_bytes(bytes).map_err(|_| MessageError::Value);
        let receipt_id = id(reader.take()?)?;
        let parent = match (reader.take::<16>()?, reader.take::<32>()?) {
            ([0, ..], [0, ..]) if payload[17..65].iter().all(|&b| b == 0) => None,
            (parent, hash) => Some(Parent {
                id: id(parent)?,
                hash: Hash(hash),
            }),
        };
        let capture_hash = Hash(reader.take()?);
        let time = reader.time()?;
        let (bytes, chunks) = (reader.u32()?, reader.u32()?);
        if reader.take::<11>()? != [0; 11] {
            return Err(MessageError::Value);
        }
        let signature = reader.take()?;
        reader.end()?;
        Ok(Self {
            kind,
            receipt_id,
            parent,
            capture_hash,
            time,
            bytes,
            chunks,
            signature,
        })
    }

    /// The receipt that this stands for, in the session and epoch of the link that carried it.
    pub fn receipt(
        &self,
        session_id: SessionId,
        session_epoch: Epoch,
        tenant_id: TenantId,
    ) -> Receipt {
        Receipt {
            body: Unsigned {
                event_payload_hash: self.capture_hash,
                parent: self.parent,
                receipt_id: self.receipt_id,
                receipt_kind: ReceiptKind::SensorCapture,
                session_epoch,
                session_id,
                tenant_id,
                tier: Tier::Sensor,
                timestamp_utc: self.time,
            },
            hmac_signature: self.signature,
        }
    }
}

/// BACKPRESSURE, 6 bytes: the sender's tier, a reason, and for how long to pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backpressure {
    /// Who asks. Its own is refused by a receiver, as this is the one type that travels both ways.
    pub sender: Tier,
    /// Why.
    pub reason: PauseReason,
    /// How long to send nothing, in milliseconds.
    pub pause_ms: u32,
}

/// Why a peer asks for a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseReason {
    /// More arrives than can be worked off.
    Busy,
    /// The battery is low.
    Battery,
    /// The device is hot.
    Heat,
}

impl Backpressure {
    /// The payload.
    pub fn encode(&self) -> [u8; 6] {
        let reason = match self.reason {
            PauseReason::Busy => 1,
            PauseReason::Battery => 2,
            PauseReason::Heat => 3,
        };
        let [a, b, c, d] = self.pause_ms.to_be_bytes();
        [self.sender.number(), reason, a, b, c, d]
    }

    /// Reads a payload that came to `receiver`, whose own tier is no sender.
    pub fn decode(payload: &[u8], receiver: Tier) -> Result<Self, MessageError> {
        let mut reader = Reader(payload);
        let sender = Tier::try_from(reader.u8()?).map_err(|_| MessageError::Value)?;
        let reason = match reader.u8()? {
            1 => PauseReason::Busy,
            2 => PauseReason::Battery,
            3 => PauseReason::Heat,
            _ => return Err(MessageError::Value),
        };
        let pause_ms = reader.u32()?;
        reader.end()?;
        if sender == receiver {
            return Err(MessageError::Value);
        }
        Ok(Self {
            sender,
            reason,
            pause_ms,
        })
    }
}

/// ACK, 4 bytes: the sequence number of the last frame accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack(pub u32);

impl Ack {
    /// The payload.
    pub fn encode(&self) -> [u8; 4] {
        self.0.to_be_bytes()
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(payload);
        let sequence = reader.u32()?;
        reader.end()?;
        Ok(Self(sequence))
    }
}

/// Why Tier 1 says that the chain broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakReason {
    /// A frame was refused.
    Frame(FrameError),
    /// The capture's hash is not the one in its receipt, or its length or number of frames.
    Capture,
    /// The receipt's HMAC is wrong.
    Receipt,
    /// The receipt does not follow the last good one.
    Parent,
}

impl BreakReason {
    /// The reason byte.
    pub fn number(self) -> u8 {
        match self {
            BreakReason::Frame(error) => error.number(),
            BreakReason::Capture => 16,
            BreakReason::Receipt => 17,
            BreakReason::Parent => 18,
        }
    }

    /// The reason with this byte.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            16 => Some(BreakReason::Capture),
            17 => Some(BreakReason::Receipt),
            18 => Some(BreakReason::Parent),
            _ => FrameError::ALL
                .into_iter()
                .find(|error| error.number() == number)
                .map(BreakReason::Frame),
        }
    }

    /// A stable name for receipts, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            BreakReason::Frame(error) => error.name(),
            BreakReason::Capture => "capture",
            BreakReason::Receipt => "receipt",
            BreakReason::Parent => "parent",
        }
    }
}

/// VERIFICATION_FAILED, 69 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerificationFailed {
    /// The sequence number at which the stream went wrong.
    pub first_bad: u32,
    /// What was wrong.
    pub reason: BreakReason,
    /// SHA-256 of what was expected: the HMAC as computed, the capture hash of the receipt, the parent's hash.
    pub expected: Hash,
    /// SHA-256 of what was found in its place.
    pub computed: Hash,
}

impl VerificationFailed {
    /// The payload.
    pub fn encode(&self) -> [u8; 69] {
        let mut payload = [0; 69];
        payload[..4].copy_from_slice(&self.first_bad.to_be_bytes());
        payload[4] = self.reason.number();
        payload[5..37].copy_from_slice(&self.expected.0);
        payload[37..].copy_from_slice(&self.computed.0);
        payload
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(payload);
        let failed = Self {
            first_bad: reader.u32()?,
            reason: BreakReason::from_number(reader.u8()?).ok_or(MessageError::Value)?,
            expected: Hash(reader.take()?),
            computed: Hash(reader.take()?),
        };
        reader.end()?;
        Ok(failed)
    }
}

/// ESCALATE_TOKEN for one token: a frame of its own, whose fragment header says 0 of 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Counts within the answer, from 0.
    pub step: u32,
    /// The token's id in the model's vocabulary.
    pub token_id: u32,
    /// SHA-256 of the step's full expert_load receipt.
    pub expert_load: Hash,
    /// SHA-256 of the step's full token_emit receipt.
    pub token_emit: Hash,
    /// The text that became whole with this token; may be empty.
    pub text: String,
}

/// The step number that marks a progress notice.
const NOTICE_STEP: u32 = u32::MAX;

impl Token {
    /// The most bytes of text that one token carries.
    pub const TEXT_MAX: usize = 122;
    const HEAD: [u8; 4] = [0, 0, 0, 1];

    /// The payload. Errors: text over [`Token::TEXT_MAX`] bytes, or the step number that marks a notice.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        if self.text.len() > Self::TEXT_MAX {
            return Err(MessageError::Length);
        }
        if self.step == NOTICE_STEP {
            return Err(MessageError::Value);
        }
        let mut payload = Self::HEAD.to_vec();
        payload.extend_from_slice(&self.step.to_be_bytes());
        payload.extend_from_slice(&self.token_id.to_be_bytes());
        payload.extend_from_slice(&self.expert_load.0);
        payload.extend_from_slice(&self.token_emit.0);
        payload.extend_from_slice(self.text.as_bytes());
        Ok(payload)
    }
}

/// What an ESCALATE_TOKEN frame holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenOrNotice {
    /// A token of the answer.
    Token(Token),
    /// How far a held request is. It has no receipt.
    Notice(crate::documents::Notice),
}

impl TokenOrNotice {
    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(payload);
        if reader.take::<4>()? != Token::HEAD {
            return Err(MessageError::Value);
        }
        let step = reader.u32()?;
        if step == NOTICE_STEP {
            return crate::documents::Notice::parse(reader.0)
                .map(TokenOrNotice::Notice)
                .map_err(|_| MessageError::Value);
        }
        let token_id = reader.u32()?;
        let (expert_load, token_emit) = (Hash(reader.take()?), Hash(reader.take()?));
        let text = std::str::from_utf8(reader.0).map_err(|_| MessageError::Value)?;
        if text.len() > Token::TEXT_MAX {
            return Err(MessageError::Length);
        }
        Ok(TokenOrNotice::Token(Token {
            step,
            token_id,
            expert_load,
            token_emit,
            text: text.to_owned(),
        }))
    }
}

impl crate::documents::Notice {
    /// The payload of the notice. Error: JSON that does not fit one frame.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let mut payload = Token::HEAD.to_vec();
        payload.extend_from_slice(&NOTICE_STEP.to_be_bytes());
        payload.extend_from_slice(&self.to_json().map_err(|_| MessageError::Value)?);
        if payload.len() > frame::PAYLOAD_MAX {
            return Err(MessageError::Length);
        }
        Ok(payload)
    }
}
