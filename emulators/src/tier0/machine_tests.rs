//! Tables of the sensor, and the proof that its key is gone.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use halo_receipts::frame::{FrameError, FrameType};
use halo_receipts::ids::Tier;
use halo_receipts::ids::{Epoch, Hash, SessionId};
use halo_receipts::keys::{PairingKey, TierKey};
use halo_receipts::link::{End, Link};
use halo_receipts::messages::{Ack, Backpressure, BreakReason, PauseReason, VerificationFailed};
use halo_receipts::reset::{SensorContext, SessionReset};
use halo_receipts::time::Timestamp;

use crate::after;
use crate::tier0::machine::{Action, Capture, Event, Sensor, WINDOW};

const KEY: [u8; 32] = [0xc5; 32];

fn now() -> Timestamp {
    "2026-11-21T09:00:00.000000Z".parse().unwrap()
}

/// A sensor with a key, and the phone's end of its link.
struct Linked {
    sensor: Sensor,
    phone: Link,
}

fn session() -> SessionId {
    SessionId::from_random([1; 16])
}

fn reset(epoch: u32, key: [u8; 32]) -> Vec<u8> {
    let reset = SessionReset {
        session_id: session(),
        session_epoch: Epoch(epoch),
        tier_key: TierKey::from_bytes(key),
    };
    let context = SensorContext {
        tenant_id: "acme".parse().unwrap(),
        parent: None,
    };
    reset
        .frame_with(&PairingKey::from_bytes([3; 32]), [4; 12], &context)
        .unwrap()
}

fn linked() -> Linked {
    let mut sensor = Sensor::new(PairingKey::from_bytes([3; 32]), None);
    assert!(sensor.handle(Event::Connected, now(), [1; 32]).is_empty());
    let actions = sensor.handle(Event::Message(reset(100, KEY)), now(), [2; 32]);
    assert!(matches!(
        actions[..],
        [Action::Linked {
            after_alert: false,
            ..
        }]
    ));
    let key = std::sync::Arc::new(TierKey::from_bytes(KEY));
    Linked {
        sensor,
        phone: Link::new(End::OrchestratorToSensor, session(), key),
    }
}

impl Linked {
    fn handle(&mut self, event: Event) -> Vec<Action> {
        self.sensor.handle(event, now(), [7; 32])
    }

    fn send(&mut self, typ: FrameType, payload: &[u8]) -> Vec<Action> {
        let frame = self.phone.send(typ, payload).unwrap();
        self.handle(Event::Message(frame))
    }
}

fn sent(actions: &[Action]) -> Vec<u8> {
    let types = actions.iter().filter_map(|action| match action {
        Action::Send(message) => Some(message[1]),
        _ => None,
    });
    types.collect()
}

fn failed() -> VerificationFailed {
    VerificationFailed {
        first_bad: 3,
        reason: BreakReason::Frame(FrameError::Hmac),
        expected: Hash([1; 32]),
        computed: Hash([2; 32]),
    }
}

/// 32 bytes of this process's memory, as the kernel shows them.
fn memory_at(address: usize) -> [u8; 32] {
    let mut bytes = [0; 32];
    File::open("/proc/self/mem")
        .unwrap()
        .read_exact_at(&mut bytes, address as u64)
        .unwrap();
    bytes
}

#[test]
fn the_memory_that_held_the_key_is_zero_after_0x80() {
    let mut linked = linked();
    let address = linked.sensor.key_memory().as_ptr().addr();
    linked.handle(Event::Capture(Capture::Audio(vec![5; 10_000])));
    assert_eq!(memory_at(address), KEY);
    let actions = linked.send(FrameType::VerificationFailed, &failed().encode());
    assert_eq!(actions[0], Action::KeyWiped);
    assert_eq!(memory_at(address), [0; 32]);
    assert_eq!(linked.sensor.key_memory(), &[0; 32]);
    // The same memory takes the next key, and is wiped when the connection or the sensor goes.
    linked.handle(Event::Message(reset(101, [0x3a; 32])));
    assert_eq!(memory_at(address), [0x3a; 32]);
    linked.handle(Event::Lost);
    assert_eq!(memory_at(address), [0; 32]);
    linked.handle(Event::Connected);
    linked.handle(Event::Message(reset(102, [0x77; 32])));
    assert_eq!(memory_at(address), [0x77; 32]);
    drop(linked);
    assert_ne!(memory_at(address), [0x77; 32]);
}

#[test]
fn after_an_alert_nothing_is_sent_until_a_valid_reset() {
    let mut linked = linked();
    linked.handle(Event::Capture(Capture::Audio(vec![5; 500])));
    let actions = linked.send(FrameType::VerificationFailed, &failed().encode());
    let reason = BreakReason::Frame(FrameError::Hmac);
    assert_eq!(
        actions,
        [
            Action::KeyWiped,
            Action::Alert {
                first_bad: 3,
                reason
            }
        ]
    );
    assert!(linked.sensor.is_alerted());
    let silent = [
        Event::Capture(Capture::Audio(vec![6; 500])),
        Event::Battery(3),
        Event::Tick,
        // The old epoch again, a forged one, and one under a key that is wiped.
        Event::Message(reset(100, KEY)),
        Event::Message({
            let mut forged = reset(101, KEY);
            forged[40] ^= 1;
            forged
        }),
        Event::Message(
            linked
                .phone
                .send(FrameType::DisplayRender, b"go on")
                .unwrap(),
        ),
    ];
    for event in silent {
        assert_eq!(linked.handle(event), []);
    }
    assert_eq!(linked.sensor.refused().of("reset_replay"), 1);
    assert_eq!(linked.sensor.refused().of("reset_not_authentic"), 1);
    assert_eq!(linked.sensor.refused().of("not_linked"), 1);
    let actions = linked.handle(Event::Message(reset(101, [9; 32])));
    assert!(matches!(
        actions[0],
        Action::Linked {
            after_alert: true,
            epoch: Epoch(101),
            ..
        }
    ));
    // Low on battery it says so first, then it captures again from the beginning.
    assert_eq!(sent(&actions), [0x50, 0x10, 0x10, 0x10, 0x20]);
    assert_eq!(linked.sensor.unsent(), 2);
}

#[test]
fn the_window_is_obeyed() {
    let mut linked = linked();
    let actions = linked.handle(Event::Capture(Capture::Image(vec![5; 198 * 100])));
    assert_eq!(sent(&actions).len(), WINDOW as usize);
    assert_eq!(linked.handle(Event::Tick), []);
    let actions = linked.send(FrameType::Ack, &Ack(9).encode());
    assert_eq!(sent(&actions).len(), 10);
    // An ACK of what was never sent, or of what is acknowledged already, is refused.
    for bad in [9, 3, 42, u32::MAX] {
        assert_eq!(linked.send(FrameType::Ack, &Ack(bad).encode()), []);
    }
    assert_eq!(linked.sensor.refused().of("ack"), 4);
}

#[test]
fn a_pause_is_obeyed() {
    let mut linked = linked();
    let plea = Backpressure {
        sender: Tier::Orchestrator,
        reason: PauseReason::Busy,
        pause_ms: 700,
    };
    assert_eq!(linked.send(FrameType::Backpressure, &plea.encode()), []);
    assert_eq!(
        linked.handle(Event::Capture(Capture::Audio(vec![5; 100]))),
        []
    );
    let end = after(now(), 700);
    assert_eq!(linked.sensor.next_wake(), Some(end));
    let actions = linked.sensor.handle(Event::Tick, end, [1; 32]);
    assert_eq!(sent(&actions), [0x10, 0x20]);
    // One that names the sensor's own tier is refused.
    let reflected = Backpressure {
        sender: Tier::Sensor,
        ..plea
    };
    assert_eq!(
        linked.send(FrameType::Backpressure, &reflected.encode()),
        []
    );
    assert_eq!(linked.sensor.refused().of("backpressure"), 1);
}

#[test]
fn what_is_shown_and_played() {
    let mut linked = linked();
    assert_eq!(
        linked.send(FrameType::DisplayRender, "Grüße".as_bytes()),
        [Action::Show("Grüße".into())]
    );
    assert_eq!(
        linked.send(FrameType::AudioRender, &[1, 2]),
        [Action::Play(vec![1, 2])]
    );
    for (typ, payload) in [
        (FrameType::DisplayRender, &[0xff, 0xfe][..]),
        (FrameType::AudioRender, &[1][..]),
        (FrameType::VerificationFailed, &[0; 69][..]),
        (FrameType::Ack, &[0; 5][..]),
    ] {
        assert_eq!(linked.send(typ, payload), [], "{typ:?}");
    }
    assert_eq!(linked.sensor.refused().total(), 4);
    assert!(linked.sensor.is_linked());
}

#[test]
fn a_silent_phone_is_given_up() {
    let mut linked = linked();
    linked.handle(Event::Capture(Capture::Audio(vec![5; 100])));
    let due = linked.sensor.next_wake().unwrap();
    assert_eq!(
        linked.sensor.handle(Event::Tick, due, [1; 32]),
        [Action::Disconnect]
    );
    let mut sensor = Sensor::new(PairingKey::from_bytes([3; 32]), None);
    assert_eq!(sensor.next_wake(), None);
    sensor.handle(Event::Connected, now(), [1; 32]);
    let due = sensor.next_wake().unwrap();
    assert_eq!(
        sensor.handle(Event::Tick, due, [1; 32]),
        [Action::Disconnect]
    );
}

#[test]
fn captures_that_are_none() {
    let mut linked = linked();
    for bytes in [0, crate::CAPTURE_MAX + 1] {
        let actions = linked.handle(Event::Capture(Capture::Audio(vec![0; bytes])));
        assert_eq!(actions, [Action::Rejected { bytes }]);
    }
}
