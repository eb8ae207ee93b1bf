//! Frames (protocol section 3): at most 240 bytes, signed, one a transport message.

use crate::ids::SessionId;
use crate::keys::SigningKey;

/// The version byte. Never 0x7B, with which a receipt begins.
pub const VERSION: u8 = 1;
/// The bytes before the payload.
pub const HEADER_LEN: usize = 10;
/// The bytes of the HMAC at the end.
pub const TAG_LEN: usize = 32;
/// The longest frame.
pub const FRAME_MAX: usize = 240;
/// The longest payload.
pub const PAYLOAD_MAX: usize = FRAME_MAX - HEADER_LEN - TAG_LEN;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// A piece of recorded sound.
    AudioChunk = 0x10,
    /// A piece of a picture.
    ImageChunk = 0x11,
    /// A tap or a swipe.
    GestureEvent = 0x12,
    /// The end of a capture: the sensor's receipt in compact form.
    SensorEnd = 0x20,
    /// The last frame accepted.
    Ack = 0x40,
    /// A plea to pause.
    Backpressure = 0x50,
    /// A fragment of a request.
    EscalateRequest = 0x60,
    /// One token, or a progress notice.
    EscalateToken = 0x61,
    /// A fragment of the end of an answer.
    EscalateEnd = 0x62,
    /// Text to show.
    DisplayRender = 0x70,
    /// Sound to play.
    AudioRender = 0x71,
    /// The chain broke.
    VerificationFailed = 0x80,
    /// A new session or epoch for the sensor.
    SessionReset = 0x81,
}

impl FrameType {
    /// Every type that a link can carry.
    pub const ALL: [FrameType; 13] = [
        FrameType::AudioChunk,
        FrameType::ImageChunk,
        FrameType::GestureEvent,
        FrameType::SensorEnd,
        FrameType::Ack,
        FrameType::Backpressure,
        FrameType::EscalateRequest,
        FrameType::EscalateToken,
        FrameType::EscalateEnd,
        FrameType::DisplayRender,
        FrameType::AudioRender,
        FrameType::VerificationFailed,
        FrameType::SessionReset,
    ];

    /// The type with this number. 0x30 TIER_ROUTING is none: it never travels.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|typ| *typ as u8 == number)
    }

    /// The type's number and a stable name for metrics.
    pub fn name(self) -> &'static str {
        match self {
            FrameType::AudioChunk => "audio_chunk",
            FrameType::ImageChunk => "image_chunk",
            FrameType::GestureEvent => "gesture_event",
            FrameType::SensorEnd => "sensor_end",
            FrameType::Ack => "ack",
            FrameType::Backpressure => "backpressure",
            FrameType::EscalateRequest => "escalate_request",
            FrameType::EscalateToken => "escalate_token",
            FrameType::EscalateEnd => "escalate_end",
            FrameType::DisplayRender => "display_render",
            FrameType::AudioRender => "audio_render",
            FrameType::VerificationFailed => "verification_failed",
            FrameType::SessionReset => "session_reset",
        }
    }
}

/// Why a frame was refused, in the order in which it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FrameError {
    /// Shorter than an empty frame or longer than the longest.
    #[error("a frame has 42 to 240 bytes")]
    Length,
    /// Another version byte.
    #[error("the frame's version is not 1")]
    Version,
    /// A type that is not in the table.
    #[error("the frame's type is unknown")]
    Type,
    /// A type that this direction of this link does not carry.
    #[error("this direction does not carry the frame's type")]
    Direction,
    /// The tag of another session.
    #[error("the frame belongs to another session")]
    Tag,
    /// Not the next sequence number: replayed, reordered or lost.
    #[error("the frame's sequence number is not the next one")]
    Sequence,
    /// The HMAC is wrong.
    #[error("the frame's HMAC is wrong")]
    Hmac,
}

impl FrameError {
    /// A stable name for metrics and for the reason byte of VERIFICATION_FAILED.
    pub fn name(self) -> &'static str {
        match self {
            FrameError::Length => "length",
            FrameError::Version => "version",
            FrameError::Type => "type",
            FrameError::Direction => "direction",
            FrameError::Tag => "tag",
            FrameError::Sequence => "sequence",
            FrameError::Hmac => "hmac",
        }
    }

    /// The errors in the order of their numbers, from 1, on the wire.
    pub const ALL: [FrameError; 7] = [
        FrameError::Length,
        FrameError::Version,
        FrameError::Type,
        FrameError::Direction,
        FrameError::Tag,
        FrameError::Sequence,
        FrameError::Hmac,
    ];

    /// The reason byte, 1 to 7.
    pub fn number(self) -> u8 {
        match self {
            FrameError::Length => 1,
            FrameError::Version => 2,
            FrameError::Type => 3,
            FrameError::Direction => 4,
            FrameError::Tag => 5,
            FrameError::Sequence => 6,
            FrameError::Hmac => 7,
        }
    }
}

/// A frame taken apart, its HMAC not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is.
    pub typ: FrameType,
    /// The first four bytes of the session's id.
    pub tag: [u8; 4],
    /// Counted per link, direction and epoch, from 0.
    pub sequence: u32,
    /// 0 to [`PAYLOAD_MAX`] bytes.
    pub payload: &'a [u8],
    signed: &'a [u8],
    hmac: [u8; TAG_LEN],
}

impl<'a> Frame<'a> {
    /// Takes a transport message apart. No memory is reserved and nothing is trusted yet.
    pub fn parse(message: &'a [u8]) -> Result<Self, FrameError> {
        if message.len() > FRAME_MAX {
            return Err(FrameError::Length);
        }
        let (signed, hmac) = message
            .split_last_chunk::<TAG_LEN>()
            .ok_or(FrameError::Length)?;
        let (header, payload) = signed
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(FrameError::Length)?;
        let [version, typ, a, b, c, d, e, f, g, h] = *header;
        if version != VERSION {
            return Err(FrameError::Version);
        }
        Ok(Self {
            typ: FrameType::from_number(typ).ok_or(FrameError::Type)?,
            tag: [a, b, c, d],
            sequence: u32::from_be_bytes([e, f, g, h]),
            payload,
            signed,
            hmac: *hmac,
        })
    }

    /// Whether `key` signed the frame.
    pub fn verify(&self, key: &SigningKey) -> bool {
        key.verify(&[self.signed], &self.hmac)
    }

    /// What the HMAC covers, for VERIFICATION_FAILED's digests.
    pub fn signed_bytes(&self) -> &'a [u8] {
        self.signed
    }

    /// The HMAC as it was received.
    pub fn hmac(&self) -> &[u8; TAG_LEN] {
        &self.hmac
    }
}

/// Writes and signs a frame. A payload over [`PAYLOAD_MAX`] is an error, as a frame for it does not exist.
pub fn encode(
    key: &SigningKey,
    session: &SessionId,
    typ: FrameType,
    sequence: u32,
    payload: &[u8],
) -> Result<Vec<u8>, FrameError> {
    if payload.len() > PAYLOAD_MAX {
        return Err(FrameError::Length);
    }
    let mut frame = Vec::with_capacity(HEADER_LEN + payload.len() + TAG_LEN);
    frame.extend_from_slice(&[VERSION, typ as u8]);
    frame.extend_from_slice(&session.tag());
    frame.extend_from_slice(&sequence.to_be_bytes());
    frame.extend_from_slice(payload);
    let hmac = key.sign(&[&frame]);
    frame.extend_from_slice(&hmac);
    Ok(frame)
}
