//! One changed byte, anywhere: the break is seen, nothing of it is kept, and the conversation goes on.

use halo_emulators::tier0::machine::{ALERT, Action, Capture, READY};
use halo_receipts::ids::Hash;
use halo_receipts::payload::SubstrateSeal;
use proptest::prelude::*;

use crate::world::{Fate, Hook, World, audio};

/// Flips a bit of the `nth` message on one way, counted from 0.
fn flip(nth: usize, byte: usize, bit: u8) -> Option<Hook> {
    let mut seen = 0;
    Some(Box::new(move |message| {
        seen += 1;
        if seen != nth + 1 {
            return Fate::Deliver;
        }
        let mut changed = message.to_vec();
        let at = byte % changed.len();
        changed[at] ^= 1 << bit;
        Fate::Change(changed)
    }))
}

fn ask(world: &mut World) {
    world
        .transcripts
        .push_back("What is sovereign inference?".to_owned());
    world.capture(audio(1000));
}

/// Every frame of a capture, its SENSOR_END included, and in each of them every field of the frame.
#[test]
fn every_frame_and_every_field_of_it() {
    for nth in 0..7 {
        for byte in [0, 1, 2, 9, 10, 60, 240 - 32, 239] {
            let mut world = World::new((nth * 1000 + byte) as u64);
            world.hooks[0] = flip(nth, byte, 3);
            ask(&mut world);
            world.settle();
            let note = format!("frame {nth}, byte {byte}");
            assert_eq!(world.count("chain_broken"), 1, "{note}");
            assert_eq!(world.last("chain_broken")["first_bad"], nth, "{note}");
            let wiped = world
                .sensor_log
                .iter()
                .filter(|action| matches!(action, Action::KeyWiped));
            assert_eq!(wiped.count(), 1, "{note}");
            let expected = format!("{ALERT}{READY}Your model and keys stay yours.\n");
            assert_eq!(world.display, expected, "{note}");
            // The break stands first, and the capture of the second try follows it.
            let (kinds, sealed) = world.gateway.audit(&world.gateway.order[0]);
            assert_eq!(
                kinds,
                ["verification_failed", "capture", "escalate", "sealed"],
                "{note}"
            );
            assert!(sealed, "{note}");
            assert_eq!(world.count("capture_verified"), 1, "{note}");
        }
    }
}

#[test]
fn a_break_follows_the_last_good_receipt() {
    let mut world = World::new(1);
    ask(&mut world);
    world.settle();
    // Six audio frames and a SENSOR_END went by; the third frame of the next capture is hit.
    world.hooks[0] = flip(2, 100, 0);
    ask(&mut world);
    world.settle();
    let (kinds, sealed) = world.gateway.audit(&world.gateway.order[0]);
    let expected = [
        "capture",
        "escalate",
        "sealed",
        "verification_failed",
        "capture",
        "escalate",
        "sealed",
    ];
    assert_eq!(kinds, expected);
    assert!(sealed);
    let held = &world.gateway.held().device;
    assert_eq!(
        held[3].receipt.body.parent,
        Some(held[2].receipt.as_parent())
    );
    assert_eq!(
        held[4].receipt.body.parent,
        Some(held[3].receipt.as_parent())
    );
    assert!(held[3].receipt.body.session_epoch > held[2].receipt.body.session_epoch);
    assert_eq!(
        world.last("relinked")["parent"],
        held[2].receipt.body.receipt_id.to_string()
    );
}

/// A picture in which one byte is flipped in flight, as the demo does it.
#[test]
fn a_picture_in_flight() {
    let mut world = World::new(2);
    world.hooks[0] = flip(19, 77, 6);
    world.capture(Capture::Image(vec![0x55; 20_000]));
    world.settle();
    assert_eq!(world.count("chain_broken"), 1);
    assert_eq!(world.last("chain_broken")["reason"], "hmac");
    assert_eq!(world.last("capture_verified")["bytes"], 20_000);
}

/// A frame of the phone that is hit is refused by the sensor; the two find together again.
#[test]
fn frames_on_their_way_to_the_sensor() {
    for nth in 0..9 {
        for byte in [1, 5, 12, 30] {
            let mut world = World::new(nth as u64 * 100 + byte as u64);
            ask(&mut world);
            world.hooks[1] = flip(nth, byte, 2);
            world.settle();
            assert!(
                world.sensor.refused().total() >= 1,
                "frame {nth}, byte {byte}"
            );
            assert!(world.gateway.audit(&world.gateway.order[0]).1);
        }
    }
}

#[test]
fn frames_of_the_gateway() {
    for hook in [2, 3] {
        for nth in 0..8 {
            let mut world = World::new(nth as u64);
            world.hooks[hook] = flip(nth, 40, 5);
            ask(&mut world);
            world.settle();
            let display = world.display.replace('\n', "");
            assert_eq!(
                display, "Your model and keys stay yours.",
                "way {hook}, frame {nth}"
            );
            assert!(world.gateway.audit(&world.gateway.order[0]).1);
        }
    }
}

/// A substrate whose seal does not fit what it streamed is not believed: the break is on record, and a new session begins.
#[test]
fn a_seal_that_does_not_fit() {
    type Forge = fn(&mut SubstrateSeal);
    let forgeries: [(Forge, &str); 5] = [
        (|seal| seal.root = Hash([9; 32]), "root"),
        (|seal| seal.receipts -= 2, "count"),
        (|seal| seal.first += 1, "count"),
        (|seal| seal.ids = None, "parent"),
        (
            |seal| seal.request_id = halo_receipts::ids::RequestId::from_random([1; 16]),
            "request",
        ),
    ];
    for (forge, reason) in forgeries {
        let mut world = World::new(3);
        world.gateway.faults.forge_seal = Some(forge);
        ask(&mut world);
        world.settle_until(|world| world.gateway.order.len() == 2);
        assert_eq!(world.last("chain_broken")["reason"], reason);
        assert!(world.display.contains("could not be verified"));
        let (kinds, sealed) = world.gateway.audit(&world.gateway.order[0]);
        assert_eq!(kinds, ["capture", "escalate", "verification_failed"]);
        assert!(!sealed);
        // The next question is answered in a session of its own.
        ask(&mut world);
        world.settle();
        assert!(world.gateway.audit(&world.gateway.order[1]).1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Any bit of any message on any way: the conversation always ends well, and what is on record always fits.
    #[test]
    fn any_bit_anywhere(way in 0usize..4, nth in 0usize..24, byte in 0usize..240, bit in 0u8..8) {
        let mut world = World::new(byte as u64);
        world.hooks[way] = flip(nth, byte, bit);
        ask(&mut world);
        world.settle();
        prop_assert_eq!(world.gateway.order.len(), 1);
        prop_assert!(world.gateway.audit(&world.gateway.order[0]).1);
        prop_assert!(world.display.replace('\n', "").ends_with("stay yours.") || way == 1);
    }
}
