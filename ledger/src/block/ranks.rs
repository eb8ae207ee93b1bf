//! Words of few ones, written as ranks: of `n` bits with `k` ones there are C(n, k), and the rank says which one it is.
//!
//! The rank of the ones at places p1 < p2 < … < pk is C(p1, 1) + C(p2, 2) + … + C(pk, k) (the combinatorial number system).

use super::columns::Cursor;

/// The most bits of a word.
pub const WORD: usize = 128;
/// The most ones of a word that is written as its rank: C(128, 15) is the largest that fits 64 bits.
const ONES: usize = 15;

/// C(n, k), by k and n.
static CHOOSE: [[u64; WORD + 1]; ONES + 1] = {
    let mut choose = [[0; WORD + 1]; ONES + 1];
    choose[0] = [1; WORD + 1];
    let mut k = 1;
    while k <= ONES {
        let mut n = 1;
        while n <= WORD {
            choose[k][n] = choose[k][n - 1] + choose[k - 1][n - 1];
            n += 1;
        }
        k += 1;
    }
    choose
};

/// Numbers that begin with the same bits: the length in bits, and the three bits behind the first one.
const ALIKE: usize = 8 * u64::BITS as usize;

const fn alike(rank: u64) -> usize {
    // One more, so that there is a first bit.
    let rank = rank.saturating_add(1);
    let zeros = rank.leading_zeros();
    (63 - zeros as usize) * 8 + ((rank << zeros) >> 60) as usize - 8
}

/// For numbers that begin with the same bits: the highest place whose share, C(place, k), is in all of them.
static PLACES: [[u8; ALIKE]; ONES + 1] = {
    let mut places = [[0; ALIKE]; ONES + 1];
    let mut k = 1;
    while k <= ONES {
        let (mut at, mut place) = (0, k - 1);
        while at < ALIKE {
            // The lowest of them.
            let least = ((8 + at as u128 % 8) << (at / 8)).div_ceil(8) - 1;
            while place < WORD && CHOOSE[k][place + 1] as u128 <= least {
                place += 1;
            }
            places[k][at] = place as u8;
            at += 1;
        }
        k += 1;
    }
    places
};

/// The highest place whose share is in a rank of so many ones.
fn place(ones: usize, rank: u64) -> Option<usize> {
    let shares = CHOOSE.get(ones)?;
    let mut place = usize::from(PLACES[ones][alike(rank)]);
    while *shares.get(place + 1)? <= rank {
        place += 1;
    }
    Some(place)
}

/// The bits that the rank of a word takes; `None` if the word itself takes no more.
fn rank_bits(bits: usize, ones: usize) -> Option<u32> {
    let words = CHOOSE.get(ones)?.get(bits)?;
    let rank = u64::BITS - words.checked_sub(1)?.leading_zeros();
    ((rank as usize) < bits).then_some(rank)
}

/// Writes bits into bytes, the least significant ones first.
pub struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    pending: u128,
    filled: u32,
}

impl<'a> BitWriter<'a> {
    /// Begins behind the last byte.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self {
            out,
            pending: 0,
            filled: 0,
        }
    }

    fn put(&mut self, value: u64, bits: u32) {
        self.pending |= u128::from(value) << self.filled;
        self.filled += bits;
        let whole = self.filled as usize / 8;
        self.out
            .extend_from_slice(&self.pending.to_le_bytes()[..whole]);
        self.pending >>= 8 * whole;
        self.filled %= 8;
    }

    /// Writes a word of `bits` bits, of which the caller keeps the number of ones.
    pub fn word(&mut self, word: u128, bits: usize) {
        let ones = word.count_ones() as usize;
        if let Some(rank_bits) = rank_bits(bits, ones) {
            let (mut rank, mut left) = (0, word);
            for choose in CHOOSE.iter().take(ones + 1).skip(1) {
                rank += choose[left.trailing_zeros() as usize];
                left &= left - 1;
            }
            self.put(rank, rank_bits);
        } else {
            let low = bits.min(64);
            self.put(word as u64, low as u32);
            self.put((word >> 64) as u64, (bits - low) as u32);
        }
    }

    /// Fills the last byte with zeros.
    pub fn finish(self) {
        if self.filled > 0 {
            self.out.push(self.pending as u8);
        }
    }
}

/// Reads what [`BitWriter`] wrote.
pub struct BitReader<'a, 'b> {
    from: &'a mut Cursor<'b>,
    /// The bits that were read.
    at: usize,
}

impl<'a, 'b> BitReader<'a, 'b> {
    /// Begins at the cursor.
    pub fn new(from: &'a mut Cursor<'b>) -> Self {
        Self { from, at: 0 }
    }

    fn take(&mut self, bits: u32) -> Option<u64> {
        let rest = &self.from.0.get(self.at / 8..)?;
        let bytes = match rest.first_chunk() {
            Some(bytes) => *bytes,
            None => {
                let mut padded = [0; 16];
                padded[..rest.len()].copy_from_slice(rest);
                padded
            }
        };
        let value = u128::from_le_bytes(bytes) >> (self.at % 8) & !(u128::MAX << bits);
        self.at += bits as usize;
        (self.at <= 8 * self.from.0.len()).then_some(value as u64)
    }

    /// A word of `bits` bits with this many ones.
    pub fn word(&mut self, bits: usize, ones: usize) -> Option<u128> {
        let Some(rank_bits) = rank_bits(bits, ones) else {
            let low = bits.min(64);
            let half = u128::from(self.take(low as u32)?);
            let word = half | u128::from(self.take((bits - low) as u32)?) << 64;
            return (word.count_ones() as usize == ones).then_some(word);
        };
        let mut rank = self.take(rank_bits)?;
        let (mut word, mut below) = (0, bits);
        for ones in (1..=ones).rev() {
            let place = place(ones, rank).filter(|place| *place < below)?;
            rank -= CHOOSE[ones][place];
            word |= 1 << place;
            below = place;
        }
        (rank == 0).then_some(word)
    }

    /// Passes over the zeros that fill the last byte.
    pub fn finish(self) -> Option<()> {
        let last = self.from.take(self.at.div_ceil(8))?.last();
        let filled = self.at % 8;
        (filled == 0 || last? >> filled == 0).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(words: &[(u128, usize)]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = BitWriter::new(&mut out);
        for (word, bits) in words {
            writer.word(*word, *bits);
        }
        writer.finish();
        out
    }

    proptest! {
        #[test]
        fn words_read_back(words in proptest::collection::vec((any::<u128>(), any::<u128>(), any::<bool>(), 1usize..=16), 0..40)) {
            // Few ones, or about half.
            let words: Vec<_> = words.into_iter().map(|(a, b, sparse, bytes)| {
                let word = if sparse { a & b & a.rotate_left(31) & b.rotate_left(57) } else { a };
                (word & (u128::MAX >> (WORD - 8 * bytes)), 8 * bytes)
            }).collect();
            let out = written(&words);
            let mut cursor = Cursor(&out);
            let mut reader = BitReader::new(&mut cursor);
            for (word, bits) in words {
                prop_assert_eq!(reader.word(bits, word.count_ones() as usize), Some(word));
            }
            prop_assert_eq!(reader.finish(), Some(()));
            prop_assert!(cursor.0.is_empty());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), words in proptest::collection::vec((1usize..=16, any::<u8>()), 0..8)) {
            let mut cursor = Cursor(&bytes);
            let mut reader = BitReader::new(&mut cursor);
            for (width, ones) in words {
                let Some(word) = reader.word(8 * width, usize::from(ones)) else { break };
                prop_assert_eq!(word.count_ones(), u32::from(ones));
            }
        }
    }

    #[test]
    fn places_are_found() {
        for (ones, shares) in CHOOSE.iter().enumerate().skip(1) {
            for at in ones - 1..WORD {
                assert_eq!(place(ones, shares[at]), Some(at), "{ones}");
                assert_eq!(place(ones, shares[at + 1] - 1), Some(at), "{ones}");
            }
            assert_eq!(place(ones, u64::MAX), None);
        }
    }

    #[test]
    fn ranks_by_hand() {
        // Places 1 and 3 of 8: C(1, 1) + C(3, 2) = 4, in the 5 bits that C(8, 2) = 28 needs.
        assert_eq!(rank_bits(8, 2), Some(5));
        assert_eq!(written(&[(0b1010, 8)]), [4]);
        // 8 of 128 experts: 41 bits.
        assert_eq!(rank_bits(128, 8), Some(41));
        assert_eq!(rank_bits(32, 8), Some(24));
        // The last word of all is the highest rank.
        assert_eq!(written(&[(0xC0, 8)]), [27]);
        assert_eq!((rank_bits(128, 0), rank_bits(8, 8)), (Some(0), Some(0)));
        // As many bits as the word, or ranks over 64 bits: the word itself.
        assert_eq!((rank_bits(8, 4), rank_bits(128, 16)), (Some(7), None));
        let dense = u128::MAX >> 64;
        assert_eq!(written(&[(dense, 128)]), dense.to_le_bytes());
    }
}
