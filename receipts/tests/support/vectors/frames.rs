//! frames.json: every type of frame on its link, what links and payload codecs refuse, resets and fragments.

use std::sync::Arc;

use halo_receipts::documents::{
    EndCode, EndStatus, EscalateEnd, EscalateRequest, Notice, Operation, Progress, Sampling,
};
use halo_receipts::fragment::{self, END_MAX, REQUEST_MAX, Reassembler};
use halo_receipts::frame::{self, FrameError, FrameType};
use halo_receipts::hex;
use halo_receipts::ids::{Hash, Tier};
use halo_receipts::link::{End, Link};
use halo_receipts::messages::{
    Ack, Backpressure, BreakReason, CaptureKind, Gesture, GestureEvent, PauseReason, SensorEnd,
    Token, VerificationFailed,
};
use halo_receipts::payload::V1;
use halo_receipts::receipt::ReceiptKind;
use serde_json::{Value, json};

use super::{Made, Session, ensure, refused, resets};

pub fn make() -> Made {
    let session = Session::new()?;
    let keys = Tier::ALL.map(|tier| session.tier_key(tier).to_hex().to_string());
    let mut frames = Vec::new();
    sensor_link(&session, &mut frames)?;
    gateway_link(&session, &mut frames)?;
    substrate_link(&session, &mut frames)?;
    Ok(json!({
        "about": "Frames as they travel. spec.md, sections 5 to 7.",
        "session_id": session.id.to_string(),
        "session_epoch": session.epoch.0,
        "tenant_id": session.tenant.as_str(),
        "tier_keys": keys,
        "frames": frames,
        "frames_refused": refused::frames(&session)?,
        "payloads_refused": refused::payloads(&session)?,
        "session_reset": resets::make(&session)?,
        "fragments": fragments()?,
    }))
}

/// One direction of a link that is being written down.
struct Direction<'a> {
    link: Link,
    names: [&'static str; 3],
    frames: &'a mut Vec<Value>,
}

impl<'a> Direction<'a> {
    /// `names`: the link, the sender, the receiver.
    fn new(
        session: &Session,
        end: End,
        tier: Tier,
        names: [&'static str; 3],
        frames: &'a mut Vec<Value>,
    ) -> Self {
        let link = Link::new(end, session.id, Arc::new(session.tier_key(tier)));
        Self {
            link,
            names,
            frames,
        }
    }

    fn send(&mut self, typ: FrameType, payload: &[u8], fields: Value) -> Made<()> {
        let sequence = self.link.next_sent();
        let frame = self.link.send(typ, payload)?;
        let [link, from, to] = self.names;
        self.frames.push(json!({
            "link": link,
            "from": from,
            "to": to,
            "type": typ as u8,
            "name": typ.name().to_uppercase(),
            "sequence": sequence,
            "payload": hex::encode(payload),
            "fields": fields,
            "frame": hex::encode(&frame),
        }));
        Ok(())
    }
}

fn sensor_link(session: &Session, frames: &mut Vec<Value>) -> Made<()> {
    let names = ["sensor", "tier 0", "tier 1"];
    let mut up = Direction::new(session, End::Sensor, Tier::Sensor, names, frames);
    let sound: Vec<u8> = (0..300u16).map(|i| (i * 7 % 256) as u8).collect();
    for chunk in sound.chunks(frame::PAYLOAD_MAX) {
        up.send(FrameType::AudioChunk, chunk, Value::Null)?;
    }
    let first = sensor_end(
        session,
        CaptureKind::Audio,
        "capture 0",
        &sound,
        2,
        None,
        1_000_000,
    )?;
    let end = |up: &mut Direction<'_>, end: &SensorEnd| -> Made<()> {
        let receipt = end.receipt(session.id, session.epoch, session.tenant.clone());
        let full = String::from_utf8(receipt.to_bytes())?;
        let fields = json!({
            "kind": match end.kind {
                CaptureKind::Audio => "audio",
                CaptureKind::Image => "image",
                CaptureKind::Gesture => "gesture",
            },
            "bytes": end.bytes,
            "chunks": end.chunks,
            "receipt": full,
        });
        up.send(FrameType::SensorEnd, &end.encode(), fields)
    };
    end(&mut up, &first)?;
    let mut parent = first.receipt(session.id, session.epoch, session.tenant.clone());
    let picture = b"\xff\xd8\xff\xe0 not quite a picture \xff\xd9";
    up.send(FrameType::ImageChunk, picture, Value::Null)?;
    let at = Some(parent.as_parent());
    let second = sensor_end(
        session,
        CaptureKind::Image,
        "capture 1",
        picture,
        1,
        at,
        2_000_000,
    )?;
    end(&mut up, &second)?;
    parent = second.receipt(session.id, session.epoch, session.tenant.clone());
    for (number, gesture) in [Gesture::Tap, Gesture::DoubleTap, Gesture::Swipe]
        .into_iter()
        .enumerate()
    {
        let micros = 3_000_000 + number as u64;
        let time = session.time(micros)?;
        let payload = GestureEvent { gesture, time }.encode();
        let fields = json!({"gesture": number + 1, "timestamp_utc": time.to_string()});
        up.send(FrameType::GestureEvent, &payload, fields)?;
        let label = format!("capture {}", number + 2);
        let at = Some(parent.as_parent());
        let gesture = sensor_end(
            session,
            CaptureKind::Gesture,
            &label,
            &payload,
            1,
            at,
            micros,
        )?;
        end(&mut up, &gesture)?;
        parent = gesture.receipt(session.id, session.epoch, session.tenant.clone());
    }
    for (reason, number) in [(PauseReason::Battery, 2), (PauseReason::Heat, 3)] {
        pause(&mut up, Tier::Sensor, reason, number, 5000)?;
    }
    up.send(
        FrameType::AudioChunk,
        b"",
        json!({"note": "an empty payload is a frame too"}),
    )?;

    let names = ["sensor", "tier 1", "tier 0"];
    let mut down = Direction::new(
        session,
        End::OrchestratorToSensor,
        Tier::Sensor,
        names,
        frames,
    );
    down.send(FrameType::Ack, &Ack(2).encode(), json!({"accepted": 2}))?;
    pause(&mut down, Tier::Orchestrator, PauseReason::Busy, 1, 250)?;
    let text = "Ja \u{2014} 12 St\u{fc}ck, Regal 7. \u{1f4e6}";
    down.send(
        FrameType::DisplayRender,
        text.as_bytes(),
        json!({"text": text}),
    )?;
    let samples: Vec<u8> = (0..64i16).flat_map(|i| (i * 500).to_le_bytes()).collect();
    let fields = json!({"samples": 64, "note": "16-bit little-endian PCM, 16 kHz, mono"});
    down.send(FrameType::AudioRender, &samples, fields)?;
    for reason in [
        BreakReason::Frame(FrameError::Hmac),
        BreakReason::Frame(FrameError::Sequence),
        BreakReason::Capture,
        BreakReason::Receipt,
        BreakReason::Parent,
    ] {
        let failed = VerificationFailed {
            first_bad: 41,
            reason,
            expected: Hash::of(b"expected"),
            computed: Hash::of(b"computed"),
        };
        let fields = json!({
            "first_bad": 41, "reason": reason.number(), "reason_name": reason.name(),
            "expected": failed.expected.to_string(), "computed": failed.computed.to_string(),
        });
        down.send(FrameType::VerificationFailed, &failed.encode(), fields)?;
    }
    Ok(())
}

fn pause(
    direction: &mut Direction<'_>,
    sender: Tier,
    reason: PauseReason,
    number: u8,
    pause_ms: u32,
) -> Made<()> {
    let payload = Backpressure {
        sender,
        reason,
        pause_ms,
    }
    .encode();
    let fields = json!({"sender": sender.number(), "reason": number, "pause_ms": pause_ms});
    direction.send(FrameType::Backpressure, &payload, fields)
}

pub fn sensor_end(
    session: &Session,
    kind: CaptureKind,
    label: &str,
    capture: &[u8],
    chunks: u32,
    parent: Option<halo_receipts::receipt::Parent>,
    micros: u64,
) -> Made<SensorEnd> {
    let hash = Hash::of(capture);
    let receipt = session.receipt(
        label,
        Tier::Sensor,
        ReceiptKind::SensorCapture,
        hash,
        parent,
        micros,
    )?;
    Ok(SensorEnd {
        kind,
        receipt_id: receipt.body.receipt_id,
        parent,
        capture_hash: hash,
        time: receipt.body.timestamp_utc,
        bytes: u32::try_from(capture.len())?,
        chunks,
        signature: receipt.hmac_signature,
    })
}

fn gateway_link(session: &Session, frames: &mut Vec<Value>) -> Made<()> {
    let names = ["gateway", "tier 1", "gateway"];
    let tier = Tier::Orchestrator;
    let mut up = Direction::new(session, End::OrchestratorToGateway, tier, names, frames);
    request(session, &mut up)?;
    let names = ["gateway", "gateway", "tier 1"];
    let mut down = Direction::new(session, End::GatewayToOrchestrator, tier, names, frames);
    pause(&mut down, Tier::Substrate, PauseReason::Busy, 1, 1000)?;
    let notice = Notice {
        state: Progress::Waking,
        position: 0,
        eta_ms: 28_000,
    };
    let fields = json!({"notice": String::from_utf8(notice.to_json()?)?});
    down.send(FrameType::EscalateToken, &notice.encode()?, fields)?;
    token(&mut down, 0, " Sovereign")?;
    token(&mut down, 1, "")?;
    token(&mut down, 2, &"x".repeat(Token::TEXT_MAX))?;
    end(session, &mut down)
}

fn substrate_link(session: &Session, frames: &mut Vec<Value>) -> Made<()> {
    let names = ["substrate", "gateway", "pod"];
    let tier = Tier::Substrate;
    let mut up = Direction::new(session, End::GatewayToSubstrate, tier, names, frames);
    request(session, &mut up)?;
    let names = ["substrate", "pod", "gateway"];
    let mut down = Direction::new(session, End::Substrate, tier, names, frames);
    token(&mut down, 0, " Sovereign")?;
    end(session, &mut down)
}

fn request(session: &Session, up: &mut Direction<'_>) -> Made<()> {
    let capture = session.receipt(
        "capture 0",
        Tier::Sensor,
        ReceiptKind::SensorCapture,
        Hash::of(b"sound"),
        None,
        1_000_000,
    )?;
    let document = EscalateRequest {
        v: V1,
        op: Operation::Record,
        request_id: session.request,
        receipts: vec![capture],
        payloads: vec![None],
        prompt: String::new(),
        max_tokens: 0,
        sampling: Sampling::default(),
        last_step: None,
    };
    fragmented(
        up,
        FrameType::EscalateRequest,
        &document.to_json()?,
        REQUEST_MAX,
    )
}

fn end(session: &Session, down: &mut Direction<'_>) -> Made<()> {
    let mut refused = EscalateEnd::bare(session.request, EndStatus::Refused, EndCode::WakeDeadline);
    refused.retry_after_ms = Some(2000);
    for document in [
        EscalateEnd::bare(session.request, EndStatus::Recorded, EndCode::Ok),
        refused,
    ] {
        fragmented(down, FrameType::EscalateEnd, &document.to_json()?, END_MAX)?;
    }
    Ok(())
}

fn fragmented(
    direction: &mut Direction<'_>,
    typ: FrameType,
    document: &[u8],
    limit: usize,
) -> Made<()> {
    let payloads = fragment::split(document, limit)?;
    let count = payloads.len();
    for (index, payload) in payloads.iter().enumerate() {
        let mut fields = json!({"index": index, "count": count});
        if index + 1 == count {
            fields["document"] = String::from_utf8(document.to_vec())?.into();
        }
        direction.send(typ, payload, fields)?;
    }
    Ok(())
}

fn token(down: &mut Direction<'_>, step: u32, text: &str) -> Made<()> {
    let token = Token {
        step,
        token_id: 1000 + step,
        expert_load: Hash::of(format!("expert_load {step}").as_bytes()),
        token_emit: Hash::of(format!("token_emit {step}").as_bytes()),
        text: text.to_owned(),
    };
    let fields = json!({
        "step": step, "token_id": token.token_id, "text": text,
        "expert_load": token.expert_load.to_string(), "token_emit": token.token_emit.to_string(),
    });
    down.send(FrameType::EscalateToken, &token.encode()?, fields)
}

/// Messages cut at every edge, and sequences of fragments that make no message. Byte `i` of a message is `i mod 251`.
fn fragments() -> Made {
    let message = |len: usize| -> Vec<u8> { (0..len).map(|i| (i % 251) as u8).collect() };
    let mut cut = Vec::new();
    for len in [0, 1, 193, 194, 195, 388, 389] {
        let payloads = fragment::split(&message(len), REQUEST_MAX)?;
        cut.push(json!({
            "length": len,
            "payloads": payloads.iter().map(|payload| hex::encode(payload)).collect::<Vec<_>>(),
        }));
    }
    let piece = |index: u16, count: u16, len: usize| {
        [
            &index.to_be_bytes()[..],
            &count.to_be_bytes(),
            &message(len),
        ]
        .concat()
    };
    let mut refused = Vec::new();
    for (note, payloads) in [
        ("three bytes", vec![vec![0, 0, 0]]),
        ("a count of zero", vec![piece(0, 0, 1)]),
        ("a beginning in the middle", vec![piece(1, 2, 194)]),
        ("an index past the count", vec![piece(1, 1, 1)]),
        (
            "the first fragment twice",
            vec![piece(0, 2, 194), piece(0, 2, 194)],
        ),
        (
            "a count that changes",
            vec![piece(0, 2, 194), piece(1, 3, 194)],
        ),
        (
            "a fragment left out",
            vec![piece(0, 3, 194), piece(2, 3, 1)],
        ),
        ("a first fragment that is not full", vec![piece(0, 2, 193)]),
        (
            "an empty last fragment",
            vec![piece(0, 2, 194), piece(1, 2, 0)],
        ),
        (
            "a count over the limit of 65536 bytes",
            vec![piece(0, 339, 194)],
        ),
    ] {
        let mut reassembler = Reassembler::new(REQUEST_MAX);
        let outcome = payloads
            .iter()
            .map(|payload| reassembler.push(payload))
            .last();
        ensure(matches!(outcome, Some(Err(_))), || {
            format!("fragments with {note} were taken")
        })?;
        refused.push(json!({
            "note": note,
            "payloads": payloads.iter().map(|payload| hex::encode(payload)).collect::<Vec<_>>(),
        }));
    }
    Ok(json!({"limit": REQUEST_MAX, "cut": cut, "refused": refused}))
}
