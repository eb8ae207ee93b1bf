//! The binary payloads: what is written reads back, and any bytes are read or refused without a panic.

use halo_receipts::frame::{self, Frame, FrameError, FrameType};
use halo_receipts::ids::{Epoch, Hash, ReceiptId, SessionId, TenantId, Tier};
use halo_receipts::keys::{PairingKey, TierKey};
use halo_receipts::messages::{
    Ack, Backpressure, BreakReason, CaptureKind, Gesture, GestureEvent, MessageError, PauseReason,
    SensorEnd, Token, TokenOrNotice, VerificationFailed,
};
use halo_receipts::receipt::Parent;
use halo_receipts::reset::{SensorContext, SessionReset};
use halo_receipts::time::Timestamp;
use proptest::prelude::*;
use proptest::sample::select;

fn time() -> impl Strategy<Value = Timestamp> {
    (0..253_402_300_800_000_000u64).prop_map(|micros| Timestamp::from_micros(micros).unwrap())
}

fn hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash)
}

fn parent() -> impl Strategy<Value = Option<Parent>> {
    let parent = (any::<[u8; 16]>(), hash()).prop_map(|(id, hash)| Parent {
        id: ReceiptId::from_random(id),
        hash,
    });
    proptest::option::of(parent)
}

fn tenant() -> impl Strategy<Value = TenantId> {
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?".prop_map(|text| text.parse().unwrap())
}

prop_compose! {
    fn sensor_end()(
        kind in select(&[CaptureKind::Audio, CaptureKind::Image, CaptureKind::Gesture][..]),
        id in any::<[u8; 16]>(),
        parent in parent(),
        capture_hash in hash(),
        time in time(),
        (bytes, chunks) in any::<(u32, u32)>(),
        signature in any::<[u8; 32]>(),
    ) -> SensorEnd {
        SensorEnd { kind, receipt_id: ReceiptId::from_random(id), parent, capture_hash, time, bytes, chunks, signature }
    }
}

prop_compose! {
    fn failed()(
        first_bad in any::<u32>(),
        number in select(&[1u8, 2, 3, 4, 5, 6, 7, 16, 17, 18][..]),
        expected in hash(),
        computed in hash(),
    ) -> VerificationFailed {
        VerificationFailed { first_bad, reason: BreakReason::from_number(number).unwrap(), expected, computed }
    }
}

prop_compose! {
    fn token()(
        step in 0..u32::MAX,
        token_id in any::<u32>(),
        expert_load in hash(),
        token_emit in hash(),
        text in "\\PC{0,40}".prop_filter("too long", |text| text.len() <= Token::TEXT_MAX),
    ) -> Token {
        Token { step, token_id, expert_load, token_emit, text }
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back(
        end in sensor_end(),
        failed in failed(),
        token in token(),
        gesture in select(&[Gesture::Tap, Gesture::DoubleTap, Gesture::Swipe][..]),
        at in time(),
        sequence in any::<u32>(),
        pause_ms in any::<u32>(),
        reason in select(&[PauseReason::Busy, PauseReason::Battery, PauseReason::Heat][..]),
        sender in select(&Tier::ALL[..]),
    ) {
        prop_assert_eq!(SensorEnd::decode(&end.encode()), Ok(end));
        prop_assert_eq!(VerificationFailed::decode(&failed.encode()), Ok(failed));
        prop_assert_eq!(TokenOrNotice::decode(&token.encode().unwrap()), Ok(TokenOrNotice::Token(token)));
        let event = GestureEvent { gesture, time: at };
        prop_assert_eq!(GestureEvent::decode(&event.encode()), Ok(event));
        prop_assert_eq!(Ack::decode(&Ack(sequence).encode()), Ok(Ack(sequence)));
        let plea = Backpressure { sender, reason, pause_ms };
        for receiver in Tier::ALL {
            let expected = if receiver == sender { Err(MessageError::Value) } else { Ok(plea) };
            prop_assert_eq!(Backpressure::decode(&plea.encode(), receiver), expected);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..260), kind in 0usize..6) {
        // Whatever is taken has one spelling only.
        let lengths = [bytes.len(), 4, 6, 9, 69, 156];
        let bytes: Vec<u8> = bytes.into_iter().cycle().take(lengths[kind]).collect();
        if let Ok(read) = SensorEnd::decode(&bytes) {
            prop_assert_eq!(&read.encode()[..], &bytes[..]);
        }
        if let Ok(read) = VerificationFailed::decode(&bytes) {
            prop_assert_eq!(&read.encode()[..], &bytes[..]);
        }
        if let Ok(read) = GestureEvent::decode(&bytes) {
            prop_assert_eq!(&read.encode()[..], &bytes[..]);
        }
        if let Ok(read) = Ack::decode(&bytes) {
            prop_assert_eq!(&read.encode()[..], &bytes[..]);
        }
        for receiver in Tier::ALL {
            if let Ok(read) = Backpressure::decode(&bytes, receiver) {
                prop_assert_eq!(&read.encode()[..], &bytes[..]);
            }
        }
        match TokenOrNotice::decode(&bytes) {
            Ok(TokenOrNotice::Token(read)) => prop_assert_eq!(&read.encode().unwrap()[..], &bytes[..]),
            Ok(TokenOrNotice::Notice(read)) => prop_assert_eq!(&read.encode().unwrap()[..], &bytes[..]),
            Err(_) => {}
        }
        let _ = Frame::parse(&bytes);
        let _ = SessionReset::open_with(&bytes, &PairingKey::from_bytes([1; 32]), None);
    }

    #[test]
    fn a_changed_byte_is_another_payload_or_none(
        end in sensor_end(),
        at in 0..SensorEnd::LEN,
        byte in any::<u8>(),
    ) {
        let mut bytes = end.encode();
        let before = std::mem::replace(&mut bytes[at], byte);
        match SensorEnd::decode(&bytes) {
            Ok(read) => prop_assert_eq!(read == end, before == byte),
            Err(error) => {
                prop_assert_ne!(before, byte);
                prop_assert_eq!(error, MessageError::Value);
            }
        }
    }

    #[test]
    fn frames_read_back_and_never_begin_like_a_receipt(
        number in 0usize..13,
        sequence in any::<u32>(),
        payload in proptest::collection::vec(any::<u8>(), 0..=frame::PAYLOAD_MAX),
        id in any::<[u8; 16]>(),
        flip in any::<prop::sample::Index>(),
        mask in 1u8..,
    ) {
        let (key, session) = (TierKey::from_bytes([7; 32]), SessionId::from_random(id));
        let typ = FrameType::ALL[number];
        let mut bytes = frame::encode(&key, &session, typ, sequence, &payload).unwrap();
        prop_assert!(bytes.len() <= frame::FRAME_MAX);
        prop_assert_ne!(bytes[0], b'{');
        let frame = Frame::parse(&bytes).unwrap();
        prop_assert_eq!((frame.typ, frame.sequence, frame.payload, frame.tag), (typ, sequence, &payload[..], session.tag()));
        prop_assert!(frame.verify(&key));
        prop_assert!(!frame.verify(&TierKey::from_bytes([8; 32])));
        let at = flip.index(bytes.len());
        bytes[at] ^= mask;
        prop_assert!(Frame::parse(&bytes).map_or(true, |frame| !frame.verify(&key)));
    }

    #[test]
    fn resets_open_for_their_pair_alone(
        id in any::<[u8; 16]>(),
        epoch in 1u32..,
        tier_key in any::<[u8; 32]>(),
        nonce in any::<[u8; 12]>(),
        tenant_id in tenant(),
        parent in parent(),
        flip in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let pairing = PairingKey::from_bytes([1; 32]);
        let reset = SessionReset { session_id: SessionId::from_random(id), session_epoch: Epoch(epoch), tier_key: TierKey::from_bytes(tier_key) };
        let context = SensorContext { tenant_id, parent };
        let mut frame = reset.frame_with(&pairing, nonce, &context).unwrap();
        prop_assert!(frame.len() <= frame::FRAME_MAX);
        let (read, found) = SessionReset::open_with(&frame, &pairing, Some(Epoch(epoch - 1))).unwrap();
        prop_assert_eq!((read.session_id, read.session_epoch, *read.tier_key.expose(), found), (reset.session_id, reset.session_epoch, tier_key, Some(context)));
        prop_assert_eq!(SessionReset::open_with(&frame, &pairing, Some(Epoch(epoch))).err(), Some(MessageError::Replay));
        prop_assert!(SessionReset::open_with(&frame, &PairingKey::from_bytes([2; 32]), None).is_err());
        let at = flip.index(frame.len());
        frame[at] ^= 1 << bit;
        prop_assert!(SessionReset::open_with(&frame, &pairing, None).is_err());
    }
}

#[test]
fn texts_and_steps_at_their_limits() {
    let token = |step, len| Token {
        step,
        token_id: 0,
        expert_load: Hash([0; 32]),
        token_emit: Hash([0; 32]),
        text: "x".repeat(len),
    };
    assert_eq!(token(0, 122).encode().unwrap().len(), frame::PAYLOAD_MAX);
    assert_eq!(token(0, 123).encode(), Err(MessageError::Length));
    assert_eq!(token(u32::MAX, 0).encode(), Err(MessageError::Value));
    assert!(token(u32::MAX - 1, 0).encode().is_ok());
}

#[test]
fn reasons_have_one_number_each() {
    let numbers: Vec<u8> = (0..=255)
        .filter(|&number| BreakReason::from_number(number).is_some())
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 16, 17, 18]);
    for number in numbers {
        assert_eq!(BreakReason::from_number(number).unwrap().number(), number);
    }
    assert_eq!(BreakReason::Frame(FrameError::Hmac).name(), "hmac");
}
