//! Connections with delays: what one end sends arrives at the other in order, later, unless the connection is cut.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A small generator of random numbers (SplitMix64, Steele et al. 2014): a seed gives the same run for ever.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `end` - 1.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in `of` times.
    pub fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.iter_mut().for_each(|byte| *byte = self.next() as u8);
        bytes
    }
}

/// What is to happen, ordered by time and then by the order in which it was said.
pub struct Agenda<T> {
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    items: Vec<Option<T>>,
    said: u64,
}

impl<T> Agenda<T> {
    pub fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            items: Vec::new(),
            said: 0,
        }
    }

    pub fn at(&mut self, time: u64, item: T) {
        self.said += 1;
        self.heap.push(Reverse((time, self.said, self.items.len())));
        self.items.push(Some(item));
    }

    pub fn pop(&mut self) -> Option<(u64, T)> {
        let Reverse((time, _, index)) = self.heap.pop()?;
        Some((time, self.items[index].take().unwrap()))
    }
}

/// One connection: both directions keep their order, each message has a delay of its own.
#[derive(Default)]
pub struct Wire {
    /// Rises with each new connection; what was sent on an earlier one never arrives.
    pub number: u64,
    pub up: bool,
    last_arrival: [u64; 2],
}

impl Wire {
    pub fn connect(&mut self) -> u64 {
        self.number += 1;
        self.up = true;
        self.last_arrival = [0; 2];
        self.number
    }

    /// When a message arrives that is sent now; `direction` is 0 or 1.
    pub fn arrival(&mut self, direction: usize, now: u64, rng: &mut Rng) -> u64 {
        let arrival = (now + 100 + rng.below(5_000)).max(self.last_arrival[direction]);
        self.last_arrival[direction] = arrival;
        arrival
    }
}
