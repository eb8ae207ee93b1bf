//! The columns of a block's body, and how they are joined and split.

/// Bytes that begin a run in the text column, or end a text; no text in UTF-8 has bytes from here on.
pub const MARKS: u8 = 0xF9;
/// The kinds of texts: the payloads of each tier and receipt kind, and what belongs to a receipt that is stored verbatim.
pub const KINDS: usize = 16;
/// The numbers of a text that are foretold; those behind them are written as they are.
const PLACES: usize = 64;

/// What is written.
#[derive(Default)]
pub struct Columns {
    /// One to three bytes for each receipt.
    pub forms: Vec<u8>,
    /// The times, each as its distance from the one before.
    pub times: Vec<u8>,
    /// The numbers in texts, and the lengths of their runs.
    pub values: Vec<u8>,
    /// The number of ones in each word of the bitmaps.
    pub ones: Vec<u8>,
    /// What is left of texts.
    pub text: Vec<u8>,
    /// What does not compress.
    pub packed: Vec<u8>,
    /// The numbers that were written last.
    pub last: Last,
}

/// Where the columns of a text begin, to take it back.
pub struct Mark {
    lengths: [usize; 4],
    last: [u32; PLACES],
}

impl Columns {
    /// The bytes of all columns.
    pub fn len(&self) -> usize {
        self.forms.len() + self.times.len() + self.texts()
    }

    /// The bytes of the columns that texts are written to.
    pub fn texts(&self) -> usize {
        self.values.len() + self.ones.len() + self.text.len() + self.packed.len()
    }

    /// Where a text of this kind begins.
    pub fn mark(&self, kind: usize) -> Mark {
        Mark {
            lengths: [&self.values, &self.ones, &self.text, &self.packed].map(Vec::len),
            last: self.last.0[kind],
        }
    }

    /// Takes back what was written of a text.
    pub fn take_back(&mut self, kind: usize, mark: Mark) {
        let columns = [
            &mut self.values,
            &mut self.ones,
            &mut self.text,
            &mut self.packed,
        ];
        for (column, len) in columns.into_iter().zip(mark.lengths) {
            column.truncate(len);
        }
        self.last.0[kind] = mark.last;
    }

    /// Writes the number at a place of a text.
    pub fn value(&mut self, kind: usize, place: &mut usize, value: u32) {
        let last = self.last.at(kind, place);
        let step = value.wrapping_sub(*last) as i32;
        *last = value;
        push_varint(&mut self.values, zigzag(i64::from(step)));
    }

    /// The body, of which the packed column is the end.
    pub fn join(&self) -> Vec<u8> {
        let columns = [
            &self.forms,
            &self.times,
            &self.values,
            &self.ones,
            &self.text,
        ];
        let mut out = Vec::with_capacity(self.len() + 16);
        for column in columns {
            push_varint(&mut out, column.len() as u64);
        }
        for column in columns {
            out.extend_from_slice(column);
        }
        out.extend_from_slice(&self.packed);
        out
    }
}

/// The columns of a body as they are read.
pub struct Reader<'a> {
    /// See [`Columns::forms`].
    pub forms: Cursor<'a>,
    /// See [`Columns::times`].
    pub times: Cursor<'a>,
    /// See [`Columns::values`].
    pub values: Cursor<'a>,
    /// See [`Columns::ones`].
    pub ones: Cursor<'a>,
    /// See [`Columns::text`].
    pub text: Cursor<'a>,
    /// See [`Columns::packed`].
    pub packed: Cursor<'a>,
    last: Last,
}

impl<'a> Reader<'a> {
    /// Splits what [`Columns::join`] joined; `packed` is the rest of its last column.
    pub fn split(body: &'a [u8], packed: Option<&'a [u8]>) -> Option<Self> {
        let mut body = Cursor(body);
        let mut lengths = [0; 5];
        for len in &mut lengths {
            *len = usize::try_from(body.varint()?).ok()?;
        }
        let mut columns = [const { Cursor(&[]) }; 5];
        for (column, len) in columns.iter_mut().zip(lengths) {
            *column = Cursor(body.take(len)?);
        }
        let [forms, times, values, ones, text] = columns;
        let packed = match packed {
            Some(packed) => body.0.is_empty().then_some(Cursor(packed))?,
            None => body,
        };
        Some(Self {
            forms,
            times,
            values,
            ones,
            text,
            packed,
            last: Last::default(),
        })
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        let columns = [
            &self.forms,
            &self.times,
            &self.values,
            &self.ones,
            &self.text,
            &self.packed,
        ];
        columns.into_iter().all(|column| column.0.is_empty())
    }

    /// Reads the number at a place of a text.
    pub fn value(&mut self, kind: usize, place: &mut usize) -> Option<u32> {
        let step = i32::try_from(unzigzag(self.values.varint()?)).ok()?;
        let last = self.last.at(kind, place);
        *last = last.wrapping_add(step as u32);
        Some(*last)
    }
}

/// The last number at each place of each kind of text.
pub struct Last([[u32; PLACES]; KINDS], u32);

impl Default for Last {
    fn default() -> Self {
        Self([[0; PLACES]; KINDS], 0)
    }
}

impl Last {
    /// The number at a place that is counted on; 0 behind the last place.
    fn at(&mut self, kind: usize, place: &mut usize) -> &mut u32 {
        let Self(kinds, beyond) = self;
        let found = kinds
            .get_mut(kind)
            .and_then(|places| places.get_mut(*place));
        *place += 1;
        *beyond = 0;
        found.unwrap_or(beyond)
    }
}

/// Bytes that are read from front to back.
#[derive(Clone)]
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    /// The next bytes.
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// As many bytes as the array has.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    /// A number: seven bits a byte, the lowest first, the top bit in every byte but the last.
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

/// Writes a number as [`Cursor::varint`] reads it.
pub fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// 0, -1, 1, -2, 2, … as 0, 1, 2, 3, 4, …
pub fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// The inverse of [`zigzag`].
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_read_back(value in any::<i64>(), bits in 0u32..64) {
            let value = value >> bits;
            let mut out = Vec::new();
            push_varint(&mut out, zigzag(value));
            let mut cursor = Cursor(&out);
            prop_assert_eq!(cursor.varint().map(unzigzag), Some(value));
            prop_assert!(cursor.0.is_empty());
        }

        #[test]
        fn any_bytes_split_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..40), whole in any::<bool>()) {
            let _ = Reader::split(&body, whole.then_some(&[]));
        }
    }

    #[test]
    fn numbers_over_64_bits_are_refused() {
        let longest = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];
        assert_eq!(Cursor(&longest).varint(), Some(u64::MAX));
        let mut over = longest;
        over[9] = 0x02;
        assert_eq!(Cursor(&over).varint(), None);
        assert_eq!(Cursor(&[0x80; 11]).varint(), None);
        assert_eq!(Cursor(&[0x80]).varint(), None);
    }
}
