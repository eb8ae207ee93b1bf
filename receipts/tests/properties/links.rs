//! Links: whatever arrives in whatever order, each frame is accepted once at most, and in order.

use std::sync::Arc;

use halo_receipts::frame::{self, FrameType};
use halo_receipts::ids::SessionId;
use halo_receipts::keys::TierKey;
use halo_receipts::link::{End, Link};
use proptest::prelude::*;

fn session(number: u8) -> SessionId {
    SessionId::from_random([number; 16])
}

fn link(end: End, number: u8, key: u8) -> Link {
    Link::new(
        end,
        session(number),
        Arc::new(TierKey::from_bytes([key; 32])),
    )
}

/// What an attacker on the wire can do with frames that were sent.
#[derive(Debug, Clone)]
enum Delivery {
    /// Frame `n` of this link, once more or out of turn.
    Ours(usize),
    /// Frame `n` of another session under the same key, of this session under another key, of the other direction.
    OtherSession(usize),
    OtherKey(usize),
    Reflected(usize),
    /// Frame `n` with a bit flipped, cut short or made longer.
    Flipped(usize, usize, u8),
    Cut(usize, usize),
    Longer(usize),
    /// Anything.
    Noise(Vec<u8>),
}

fn delivery(count: usize) -> impl Strategy<Value = Delivery> {
    let frame = 0..count;
    prop_oneof![
        4 => frame.clone().prop_map(Delivery::Ours),
        1 => frame.clone().prop_map(Delivery::OtherSession),
        1 => frame.clone().prop_map(Delivery::OtherKey),
        1 => frame.clone().prop_map(Delivery::Reflected),
        1 => (frame.clone(), 0..240usize, 0..8u8).prop_map(|(n, at, bit)| Delivery::Flipped(n, at, bit)),
        1 => (frame.clone(), 0..240usize).prop_map(|(n, len)| Delivery::Cut(n, len)),
        1 => frame.prop_map(Delivery::Longer),
        1 => proptest::collection::vec(any::<u8>(), 0..250).prop_map(Delivery::Noise),
    ]
}

const FRAMES: usize = 8;

proptest! {
    #[test]
    fn no_sequence_is_accepted_twice_or_out_of_order(deliveries in proptest::collection::vec(delivery(FRAMES), 0..60)) {
        let send = |mut link: Link| -> Vec<Vec<u8>> {
            (0..FRAMES).map(|n| link.send(FrameType::AudioChunk, format!("chunk {n}").as_bytes()).unwrap()).collect()
        };
        let ours = send(link(End::Sensor, 1, 1));
        let (other_session, other_key) = (send(link(End::Sensor, 2, 1)), send(link(End::Sensor, 1, 2)));
        let mut back = link(End::OrchestratorToSensor, 1, 1);
        let reflected: Vec<_> = (0..FRAMES).map(|_| back.send(FrameType::Ack, &[0; 4]).unwrap()).collect();
        let mut receiver = link(End::OrchestratorToSensor, 1, 1);
        for delivery in deliveries {
            let message = match delivery.clone() {
                Delivery::Ours(n) => ours[n].clone(),
                Delivery::OtherSession(n) => other_session[n].clone(),
                Delivery::OtherKey(n) => other_key[n].clone(),
                Delivery::Reflected(n) => reflected[n].clone(),
                Delivery::Flipped(n, at, bit) => {
                    let mut bytes = ours[n].clone();
                    let at = at % bytes.len();
                    bytes[at] ^= 1 << bit;
                    bytes
                }
                Delivery::Cut(n, len) => ours[n][..len % ours[n].len()].to_vec(),
                Delivery::Longer(n) => [&ours[n][..], &[0]].concat(),
                Delivery::Noise(bytes) => bytes,
            };
            let next = receiver.next_received();
            let due = matches!(delivery, Delivery::Ours(n) if n == next as usize);
            match receiver.receive(&message) {
                Ok(frame) => {
                    prop_assert!(due, "{:?} was accepted when frame {} was due", delivery, next);
                    let expected = format!("chunk {next}");
                    prop_assert_eq!(frame.payload, expected.as_bytes());
                    prop_assert_eq!(receiver.next_received(), next + 1);
                }
                Err(_) => {
                    prop_assert!(!due);
                    prop_assert_eq!(receiver.next_received(), next);
                }
            }
        }
    }

    #[test]
    fn ends_of_different_links_share_no_frame(a in 0usize..6, b in 0usize..6, typ in 0usize..13) {
        const ENDS: [End; 6] = [
            End::Sensor, End::OrchestratorToSensor, End::OrchestratorToGateway,
            End::GatewayToOrchestrator, End::GatewayToSubstrate, End::Substrate,
        ];
        let (a, b, typ) = (ENDS[a], ENDS[b], FrameType::ALL[typ]);
        let key = |end: End| match end {
            End::Sensor | End::OrchestratorToSensor => 0,
            End::OrchestratorToGateway | End::GatewayToOrchestrator => 1,
            End::GatewayToSubstrate | End::Substrate => 2,
        };
        let frame = frame::encode(&TierKey::from_bytes([key(a); 32]), &session(1), typ, 0, b"x").unwrap();
        let accepted = link(b, 1, key(b)).receive(&frame).is_ok();
        prop_assert_eq!(accepted, key(a) == key(b) && b.peer().sends(typ));
    }

    #[test]
    fn a_resumed_link_goes_on_where_it_stood(sent in 0u32..5, received in 0u32..5) {
        let key = Arc::new(TierKey::from_bytes([1; 32]));
        let mut peer = link(End::OrchestratorToSensor, 1, 1);
        let mut first = link(End::Sensor, 1, 1);
        for _ in 0..sent {
            peer.receive(&first.send(FrameType::AudioChunk, b"a").unwrap()).unwrap();
        }
        for _ in 0..received {
            first.receive(&peer.send(FrameType::Ack, &[0; 4]).unwrap()).unwrap();
        }
        let mut second = Link::resume(End::Sensor, session(1), key, first.next_sent(), first.next_received());
        prop_assert!(peer.receive(&second.send(FrameType::AudioChunk, b"b").unwrap()).is_ok());
        prop_assert!(second.receive(&peer.send(FrameType::Ack, &[0; 4]).unwrap()).is_ok());
    }
}
