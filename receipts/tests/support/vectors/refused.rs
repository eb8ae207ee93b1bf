//! Frames and payloads that are refused, for frames.json.

use std::sync::Arc;

use halo_receipts::frame::{self, FrameError, FrameType};
use halo_receipts::hex;
use halo_receipts::ids::{SessionId, Tier};
use halo_receipts::keys::TierKey;
use halo_receipts::link::{End, Link};
use halo_receipts::messages::{
    Ack, Backpressure, CaptureKind, GestureEvent, SensorEnd, TokenOrNotice, VerificationFailed,
};
use serde_json::json;

use super::frames::sensor_end;
use super::{Made, Session, ensure, random};

/// What Tier 1's end of the sensor link refuses, having accepted one frame so far.
pub fn frames(session: &Session) -> Made {
    let key = session.tier_key(Tier::Sensor);
    let frame = |key: &TierKey, id: &SessionId, typ, sequence, payload: &[u8]| {
        frame::encode(key, id, typ, sequence, payload)
    };
    let first = frame(&key, &session.id, FrameType::AudioChunk, 0, b"one")?;
    let next = frame(&key, &session.id, FrameType::AudioChunk, 1, b"two")?;
    let changed = |at: usize, value: u8| {
        let mut bytes = next.clone();
        bytes[at] = value;
        bytes
    };
    let resigned = |at: usize, value: u8| {
        let mut bytes = changed(at, value);
        bytes.truncate(next.len() - 32);
        let tag = key.sign(&[&bytes]);
        [bytes, tag.to_vec()].concat()
    };
    let last = next.len() - 1;
    let orchestrator = session.tier_key(Tier::Orchestrator);
    let stranger = SessionId::from_random(random("another session"));
    let cases: Vec<(&str, Vec<u8>, FrameError)> = vec![
        ("nothing", vec![], FrameError::Length),
        (
            "one byte short of an empty frame",
            vec![1; 41],
            FrameError::Length,
        ),
        (
            "one byte over the longest frame",
            vec![1; 241],
            FrameError::Length,
        ),
        ("version 2, signed", resigned(0, 2), FrameError::Version),
        (
            "the first byte of a receipt",
            resigned(0, b'{'),
            FrameError::Version,
        ),
        (
            "0x30 never travels, signed",
            resigned(1, 0x30),
            FrameError::Type,
        ),
        (
            "an unknown type, signed",
            resigned(1, 0x99),
            FrameError::Type,
        ),
        (
            "a type of the other direction",
            frame(&key, &session.id, FrameType::Ack, 1, &[0; 4])?,
            FrameError::Direction,
        ),
        (
            "SESSION_RESET is not for Tier 1",
            frame(&key, &session.id, FrameType::SessionReset, 1, &[0; 80])?,
            FrameError::Direction,
        ),
        (
            "a type of another link",
            frame(&key, &session.id, FrameType::EscalateToken, 1, b"")?,
            FrameError::Direction,
        ),
        (
            "another session",
            frame(&key, &stranger, FrameType::AudioChunk, 1, b"two")?,
            FrameError::Tag,
        ),
        ("the first frame again", first.clone(), FrameError::Sequence),
        (
            "a frame too early",
            frame(&key, &session.id, FrameType::AudioChunk, 2, b"three")?,
            FrameError::Sequence,
        ),
        (
            "another tier's key",
            frame(&orchestrator, &session.id, FrameType::AudioChunk, 1, b"two")?,
            FrameError::Hmac,
        ),
        (
            "one bit of the payload",
            changed(10, next[10] ^ 1),
            FrameError::Hmac,
        ),
        (
            "the type, to another of the direction",
            changed(1, 0x11),
            FrameError::Hmac,
        ),
        (
            "the last bit of the HMAC",
            changed(last, next[last] ^ 1),
            FrameError::Hmac,
        ),
        ("one byte cut off", next[..last].to_vec(), FrameError::Hmac),
        (
            "one byte appended",
            [&next[..], &[0]].concat(),
            FrameError::Hmac,
        ),
    ];
    let mut link = Link::new(
        End::OrchestratorToSensor,
        session.id,
        Arc::new(session.tier_key(Tier::Sensor)),
    );
    link.receive(&first)?;
    let mut refused = Vec::new();
    for (note, bytes, reason) in cases {
        ensure(link.receive(&bytes).err() == Some(reason), || {
            format!("a frame with {note} is not refused for {reason:?}")
        })?;
        refused.push(json!({
            "note": note,
            "frame": hex::encode(&bytes),
            "reason": reason.name(),
            "number": reason.number(),
        }));
    }
    link.receive(&next)?;
    Ok(json!({
        "link": "sensor",
        "receiver": "tier 1",
        "accepted_before": [hex::encode(&first)],
        "refused": refused,
        "accepted_after": [hex::encode(&next)],
    }))
}

/// Payloads that are refused although their frame is in order.
pub fn payloads(session: &Session) -> Made {
    let end = sensor_end(session, CaptureKind::Audio, "capture 0", b"x", 1, None, 0)?.encode();
    let time = session.time(0)?.micros().to_be_bytes();
    let with = |bytes: &[u8], at: usize, value: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = value;
        bytes
    };
    let gesture = |number: u8| [&[number], &time[..]].concat();
    let failed = [&[0, 0, 0, 0, 7][..], &[0; 64]].concat();
    let token = |head: [u8; 4], text: &[u8]| [&head[..], &[0; 72], text].concat();
    let notice = |json: &str| [&[0, 0, 0, 1, 255, 255, 255, 255][..], json.as_bytes()].concat();
    let mut out = Vec::new();
    let mut case = |typ: FrameType, receiver: Tier, note: &str, payload: &[u8]| -> Made<()> {
        let refused = match typ {
            FrameType::GestureEvent => GestureEvent::decode(payload).err(),
            FrameType::SensorEnd => SensorEnd::decode(payload).err(),
            FrameType::Ack => Ack::decode(payload).err(),
            FrameType::Backpressure => Backpressure::decode(payload, receiver).err(),
            FrameType::VerificationFailed => VerificationFailed::decode(payload).err(),
            FrameType::EscalateToken => TokenOrNotice::decode(payload).err(),
            _ => None,
        };
        ensure(refused.is_some(), || {
            format!("{typ:?} with {note} was taken")
        })?;
        out.push(json!({
            "type": typ as u8, "name": typ.name().to_uppercase(), "note": note,
            "receiver_tier": receiver.number(), "payload": hex::encode(payload),
        }));
        Ok(())
    };
    let one = Tier::Orchestrator;
    case(FrameType::GestureEvent, one, "gesture 0", &gesture(0))?;
    case(FrameType::GestureEvent, one, "gesture 4", &gesture(4))?;
    case(
        FrameType::GestureEvent,
        one,
        "one byte short",
        &gesture(1)[..8],
    )?;
    case(
        FrameType::GestureEvent,
        one,
        "one byte long",
        &[gesture(1), vec![0]].concat(),
    )?;
    case(
        FrameType::GestureEvent,
        one,
        "the year 10000",
        &[1, 3, 132, 68, 12, 204, 115, 96, 0],
    )?;
    case(FrameType::SensorEnd, one, "one byte short", &end[..155])?;
    case(
        FrameType::SensorEnd,
        one,
        "one byte long",
        &[&end[..], &[0]].concat(),
    )?;
    case(FrameType::SensorEnd, one, "kind 0", &with(&end, 0, 0))?;
    case(FrameType::SensorEnd, one, "kind 4", &with(&end, 0, 4))?;
    case(
        FrameType::SensorEnd,
        one,
        "a receipt_id that is no UUID v4",
        &with(&end, 7, 0x10),
    )?;
    case(
        FrameType::SensorEnd,
        one,
        "a parent's hash without its id",
        &with(&end, 64, 1),
    )?;
    case(
        FrameType::SensorEnd,
        one,
        "a parent's id that is no UUID v4",
        &with(&end, 17, 1),
    )?;
    case(
        FrameType::SensorEnd,
        one,
        "a reserved byte that is not zero",
        &with(&end, 123, 1),
    )?;
    case(FrameType::Ack, Tier::Sensor, "three bytes", &[0; 3])?;
    case(FrameType::Ack, Tier::Sensor, "five bytes", &[0; 5])?;
    case(
        FrameType::Backpressure,
        one,
        "the receiver's own tier",
        &[1, 1, 0, 0, 0, 9],
    )?;
    case(
        FrameType::Backpressure,
        Tier::Sensor,
        "the receiver's own tier",
        &[0, 1, 0, 0, 0, 9],
    )?;
    case(FrameType::Backpressure, one, "tier 3", &[3, 1, 0, 0, 0, 9])?;
    case(
        FrameType::Backpressure,
        one,
        "reason 0",
        &[0, 0, 0, 0, 0, 9],
    )?;
    case(
        FrameType::Backpressure,
        one,
        "reason 4",
        &[0, 4, 0, 0, 0, 9],
    )?;
    case(FrameType::Backpressure, one, "five bytes", &[0, 1, 0, 0, 9])?;
    case(
        FrameType::VerificationFailed,
        Tier::Sensor,
        "one byte short",
        &failed[..68],
    )?;
    case(
        FrameType::VerificationFailed,
        Tier::Sensor,
        "reason 0",
        &with(&failed, 4, 0),
    )?;
    case(
        FrameType::VerificationFailed,
        Tier::Sensor,
        "reason 8",
        &with(&failed, 4, 8),
    )?;
    case(
        FrameType::VerificationFailed,
        Tier::Sensor,
        "reason 15",
        &with(&failed, 4, 15),
    )?;
    case(
        FrameType::VerificationFailed,
        Tier::Sensor,
        "reason 19",
        &with(&failed, 4, 19),
    )?;
    case(
        FrameType::EscalateToken,
        one,
        "a fragment header of 0 of 2",
        &token([0, 0, 0, 2], b""),
    )?;
    case(
        FrameType::EscalateToken,
        one,
        "a fragment header of 1 of 1",
        &token([0, 1, 0, 1], b""),
    )?;
    case(
        FrameType::EscalateToken,
        one,
        "half a character",
        &token([0, 0, 0, 1], &[0xe2, 0x82]),
    )?;
    case(
        FrameType::EscalateToken,
        one,
        "a hash cut short",
        &token([0, 0, 0, 1], b"")[..75],
    )?;
    let good = r#"{"eta_ms":0,"position":0,"state":"queued"}"#;
    TokenOrNotice::decode(&notice(good))?;
    for (note, json) in [
        (
            "a notice with a space",
            r#"{"eta_ms":0, "position":0,"state":"queued"}"#,
        ),
        (
            "a notice out of order",
            r#"{"position":0,"eta_ms":0,"state":"queued"}"#,
        ),
        (
            "a notice with an unknown state",
            r#"{"eta_ms":0,"position":0,"state":"lost"}"#,
        ),
        (
            "a notice with an unknown field",
            r#"{"a":0,"eta_ms":0,"position":0,"state":"queued"}"#,
        ),
        (
            "a notice with a repeated field",
            r#"{"eta_ms":0,"eta_ms":0,"position":0,"state":"queued"}"#,
        ),
        (
            "a notice with a float",
            r#"{"eta_ms":0.0,"position":0,"state":"queued"}"#,
        ),
    ] {
        case(FrameType::EscalateToken, one, note, &notice(json))?;
    }
    Ok(out.into())
}
