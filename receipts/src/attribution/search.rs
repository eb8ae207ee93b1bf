//! The single-byte search: which one byte, put back, makes a digest come out right.
//!
//! The digest's state after every 64-byte block is kept, so a trial costs only the blocks from the changed byte on.

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

/// A hash or MAC under way.
pub(crate) trait State: Clone {
    /// Takes in more bytes.
    fn feed(&mut self, bytes: &[u8]);
    /// The digest.
    fn digest(self) -> [u8; 32];
}

impl State for Sha256 {
    fn feed(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }

    fn digest(self) -> [u8; 32] {
        self.finalize().into()
    }
}

impl State for Hmac<Sha256> {
    fn feed(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }

    fn digest(self) -> [u8; 32] {
        self.finalize().into_bytes().into()
    }
}

const BLOCK: usize = 64;

/// A message, the digest that it should have, and the digest's states at its block boundaries.
pub(crate) struct Search<S> {
    states: Vec<S>,
    message: Vec<u8>,
    target: [u8; 32],
}

impl<S: State> Search<S> {
    /// A search in `message` for the byte that makes `start` fed with it give `target`.
    pub(crate) fn new(start: S, message: Vec<u8>, target: [u8; 32]) -> Self {
        let mut states = vec![start];
        for block in message.chunks_exact(BLOCK) {
            let mut state = states[states.len() - 1].clone();
            state.feed(block);
            states.push(state);
        }
        Self {
            states,
            message,
            target,
        }
    }

    /// Compressions that trying one byte at `at` costs.
    pub(crate) fn cost(&self, at: usize) -> u64 {
        (self.message.len() / BLOCK - at / BLOCK + 1) as u64
    }

    /// The first of `bytes` that makes the digest right at `at`.
    pub(crate) fn try_at(&mut self, at: usize, bytes: impl Iterator<Item = u8>) -> Option<u8> {
        let block = at / BLOCK;
        let state = self.states.get(block)?;
        let found = *self.message.get(at)?;
        let mut right = None;
        for byte in bytes.filter(|&byte| byte != found) {
            self.message[at] = byte;
            let mut state = state.clone();
            state.feed(&self.message[block * BLOCK..]);
            if state.digest() == self.target {
                right = Some(byte);
                break;
            }
        }
        self.message[at] = found;
        right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_is_found() {
        let right: Vec<u8> = (0..200u8).collect();
        let target = crate::ids::Hash::of(&right).0;
        for at in 0..right.len() {
            let mut found = right.clone();
            found[at] ^= 0x81;
            let mut search = Search::new(Sha256::new(), found, target);
            assert_eq!(search.try_at(at, 0..=255), Some(right[at]), "{at}");
            assert_eq!(search.try_at((at + 1) % 200, 0..=255), None);
        }
    }
}
