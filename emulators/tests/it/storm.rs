//! Everything at once: connections that break and bytes that change, again and again, on all four ways.

use std::cell::Cell;
use std::rc::Rc;

use halo_emulators::tier0::machine::Capture;
use halo_receipts::ids::Hash;
use halo_receipts::messages::Gesture;

use crate::world::{Fate, Hook, World, audio};

/// Misfortune by chance, from a seed, for as long as `left` lasts.
fn misfortune(seed: u64, way: u64, left: Rc<Cell<u32>>) -> Hook {
    let mut number = 0u64;
    Box::new(move |message| {
        number += 1;
        let parts = [seed.to_be_bytes(), way.to_be_bytes(), number.to_be_bytes()].concat();
        let chance = Hash::of(&parts).0;
        if left.get() == 0 || chance[0] >= 12 {
            return Fate::Deliver;
        }
        left.set(left.get() - 1);
        if chance[1] < 128 {
            return Fate::Cut;
        }
        let mut changed = message.to_vec();
        let at = usize::from(chance[2]) % changed.len();
        changed[at] ^= 1 << (chance[3] % 8);
        Fate::Change(changed)
    })
}

/// Whatever happens, in the end every capture is answered, and every session on record fits and is sealed. A frame that
/// came through is never believed in part: what is on record is what was captured.
#[test]
fn every_conversation_ends_well() {
    let (mut breaks, mut epochs) = (0, 0);
    for seed in 0..400 {
        let mut world = World::new(seed);
        let left = Rc::new(Cell::new(12));
        for way in 0..4 {
            world.hooks[way as usize] = Some(misfortune(seed, way, Rc::clone(&left)));
        }
        for said in [
            "What is sovereign inference?",
            "What time is it?",
            "It was cold.",
            "Where is rack two?",
        ] {
            world.transcripts.push_back(said.to_owned());
            world.capture(audio(600 + seed as usize));
            if seed % 3 == 0 {
                world.settle();
            }
        }
        world.capture(Capture::Gesture(Gesture::Swipe));
        world.settle();
        for session in world.gateway.order.clone() {
            let (kinds, sealed) = world.gateway.audit(&session);
            assert!(sealed, "seed {seed}: {kinds:?}");
        }
        assert_eq!(world.gateway.order.len(), 1, "seed {seed}");
        assert!(!world.stopped, "seed {seed}");
        breaks += world.count("chain_broken");
        epochs += world.count("epoch_opened");
    }
    // The storm was one.
    assert!(
        breaks > 50 && epochs > 400,
        "{breaks} breaks, {epochs} epochs"
    );
}
