//! Random values for one step of a machine, drawn from the 32 random bytes that the step was given.

use halo_receipts::ids::Hash;
use zeroize::Zeroizing;

/// Expands a seed: block `n` is SHA-256(seed, n). Each value is drawn once, so no two of a step are related.
pub(crate) struct Draw {
    /// The seed and, in the last four bytes, the number of the next block.
    block: Zeroizing<[u8; 36]>,
    next: u32,
}

impl Draw {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let mut block = Zeroizing::new([0; 36]);
        block[..32].copy_from_slice(&seed);
        Self { block, next: 0 }
    }

    /// The next `N` bytes, at most 32.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= 32) };
        self.block[32..].copy_from_slice(&self.next.to_be_bytes());
        self.next = self.next.wrapping_add(1);
        let hash = Hash::of(self.block.as_slice());
        let mut bytes = [0; N];
        bytes.copy_from_slice(&hash.0[..N]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_differ_and_depend_on_the_seed() {
        let mut one = Draw::new([1; 32]);
        let (a, b): ([u8; 16], [u8; 16]) = (one.bytes(), one.bytes());
        assert_ne!(a, b);
        assert_eq!(Draw::new([1; 32]).bytes(), a);
        assert_ne!(Draw::new([2; 32]).bytes(), a);
    }
}
