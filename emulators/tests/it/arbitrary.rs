//! Whatever arrives: no panic, and nothing changes but a counter.

use halo_emulators::tier0::machine::{self as tier0, Capture, Sensor};
use halo_emulators::tier1::machine::{self as tier1, Orchestrator};
use halo_receipts::keys::PairingKey;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::fake::FakeGateway;
use crate::world::{World, audio, config, start_time};

/// Anything, but often something that begins like a frame.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let types = prop::sample::select(vec![
        0x10u8, 0x20, 0x40, 0x50, 0x60, 0x61, 0x62, 0x70, 0x71, 0x80, 0x81,
    ]);
    prop_oneof![
        vec(any::<u8>(), 0..300),
        (types, vec(any::<u8>(), 40..238)).prop_map(|(typ, rest)| [&[1, typ][..], &rest].concat()),
    ]
}

proptest! {
    #[test]
    fn the_sensor_ignores_what_it_cannot_verify(messages in vec(message(), 1..15)) {
        let mut world = World::new(1);
        world.capture(audio(5000));
        world.run_until_idle();
        let before = (world.sensor.is_linked(), world.sensor.is_alerted(), world.sensor.unsent(), world.sensor.last_epoch());
        let refused = world.sensor.refused().total();
        for message in &messages {
            let actions = world.sensor.handle(tier0::Event::Message(message.clone()), world.now, [5; 32]);
            prop_assert!(actions.is_empty());
        }
        let after = (world.sensor.is_linked(), world.sensor.is_alerted(), world.sensor.unsent(), world.sensor.last_epoch());
        prop_assert_eq!(before, after);
        prop_assert_eq!(world.sensor.refused().total(), refused + messages.len() as u64);
    }

    #[test]
    fn a_sensor_without_a_key_says_nothing(messages in vec(message(), 1..15)) {
        let mut sensor = Sensor::new(PairingKey::from_bytes([1; 32]), None);
        let mut events = vec![tier0::Event::Connected, tier0::Event::Capture(Capture::Audio(vec![1; 900]))];
        events.extend(messages.into_iter().map(tier0::Event::Message));
        for event in events {
            prop_assert!(sensor.handle(event, start_time(), [5; 32]).is_empty());
        }
        prop_assert!(!sensor.is_linked());
    }

    #[test]
    fn the_phone_ignores_what_the_gateway_did_not_sign(messages in vec(message(), 1..15)) {
        let mut world = World::new(2);
        let refused = world.phone.refused().total();
        for message in &messages {
            let actions = world.phone.handle(tier1::Event::GatewayMessage(message.clone()), world.now, [5; 32]);
            prop_assert!(actions.is_empty());
        }
        prop_assert_eq!(world.phone.refused().total(), refused + messages.len() as u64);
        // The conversation still works.
        world.transcripts.push_back("What is sovereign inference?".to_owned());
        world.capture(audio(900));
        world.settle();
        prop_assert_eq!(world.display.as_str(), "Your model and keys stay yours.\n");
    }

    /// From the sensor, what is not authentic breaks the chain, and never more than once.
    #[test]
    fn the_phone_survives_any_sensor(messages in vec(message(), 1..15)) {
        let mut world = World::new(3);
        world.run_until_idle();
        for message in &messages {
            let _ = world.phone.handle(tier1::Event::SensorMessage(message.clone()), world.now, [5; 32]);
        }
        prop_assert_eq!(world.phone.refused().total(), messages.len() as u64);
    }

    /// Any order of events, before anything stands.
    #[test]
    fn no_order_of_events_panics(order in vec((0u8..12, message()), 0..40)) {
        let gateway = FakeGateway::new(start_time());
        let mut phone = Orchestrator::new(config(&gateway));
        let mut sensor = Sensor::new(PairingKey::from_bytes([3; 32]), None);
        for (which, message) in order {
            let text = String::from_utf8_lossy(&message).into_owned();
            let event = match which {
                0 => tier1::Event::Start,
                1 => tier1::Event::SensorConnected,
                2 => tier1::Event::SensorLost,
                3 => tier1::Event::SensorMessage(message.clone()),
                4 => tier1::Event::Posted { status: 201, body: message.clone() },
                5 => tier1::Event::PostFailed { cause: text },
                6 => tier1::Event::GatewayConnected,
                7 => tier1::Event::GatewayMessage(message.clone()),
                8 => tier1::Event::GatewayLost { cause: text },
                9 => tier1::Event::Ask(text),
                _ => tier1::Event::Tick,
            };
            let _ = phone.handle(event, start_time(), [6; 32]);
            let event = match which {
                0 | 1 => tier0::Event::Connected,
                2 => tier0::Event::Lost,
                3 | 4 => tier0::Event::Message(message),
                5 | 6 => tier0::Event::Capture(Capture::Image(message)),
                7 => tier0::Event::Battery(which),
                _ => tier0::Event::Tick,
            };
            let _ = sensor.handle(event, start_time(), [6; 32]);
        }
    }
}
