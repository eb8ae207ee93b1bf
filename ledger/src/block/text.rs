//! Texts: payloads, and receipts that are stored verbatim. What does not compress leaves the text and is packed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use halo_receipts::hex;

use super::columns::{Columns, Cursor, MARKS, Reader};
use super::ranks::{BitReader, BitWriter, WORD};

/// The text is over.
pub const END: u8 = 0xFF;
/// A whole number.
pub const NUMBER: u8 = 0xFE;
/// A string of hexadecimal digits.
pub const HEX: u8 = 0xFD;
/// A string in base64url.
pub const BASE64: u8 = 0xFC;
/// A string that is a UUID.
pub const UUID: u8 = 0xFB;
/// A list of bitmaps.
pub const BITMAPS: u8 = 0xFA;
/// A text that stands as it is.
pub const PLAIN: u8 = MARKS;

/// The shortest string that is packed as digits: a text of small words is none.
const HEX_MIN: usize = 16;
/// The shortest that is packed as base64url; names of fields and of models are shorter.
const BASE64_MIN: usize = 48;
/// What [`PLAIN`] takes beside the text, at most.
const PLAIN_COST: usize = 6;

/// Writes a text of a kind: the same kinds of texts have their numbers at the same places.
pub fn pack(text: &[u8], kind: usize, out: &mut Columns) {
    let (mark, before) = (out.mark(kind), out.texts());
    if text.iter().all(|byte| *byte < MARKS) {
        Packer {
            text,
            kind,
            place: 0,
            copied: 0,
            out,
        }
        .pack();
        if out.texts() - before <= text.len() + PLAIN_COST {
            return;
        }
        out.take_back(kind, mark);
    }
    out.text.push(PLAIN);
    out.value(kind, &mut 0, text.len() as u32);
    out.text.extend_from_slice(text);
}

struct Packer<'a> {
    text: &'a [u8],
    kind: usize,
    place: usize,
    /// How much of the text is written.
    copied: usize,
    out: &'a mut Columns,
}

impl Packer<'_> {
    fn pack(mut self) {
        let mut at = 0;
        while let Some(byte) = self.text.get(at) {
            let end = match byte {
                b'"' => self.string(at),
                b'[' => self.bitmaps(at),
                b'0'..=b'9' => self.number(at),
                _ => None,
            };
            match end {
                Some(Run { end, packed }) => {
                    at = end;
                    if packed {
                        self.copied = end;
                    }
                }
                None => at += 1,
            }
        }
        self.copy_to(self.text.len());
        self.out.text.push(END);
    }

    fn copy_to(&mut self, at: usize) {
        self.out.text.extend_from_slice(&self.text[self.copied..at]);
    }

    fn value(&mut self, value: usize) {
        self.out.value(self.kind, &mut self.place, value as u32);
    }

    /// The text up to `at`, and a mark.
    fn mark(&mut self, at: usize, mark: u8) {
        self.copy_to(at);
        self.out.text.push(mark);
    }

    fn string(&mut self, at: usize) -> Option<Run> {
        let inner = at + 1;
        let mut end = inner;
        while *self.text.get(end)? != b'"' {
            end += 1 + usize::from(self.text[end] == b'\\');
        }
        let string = &self.text[inner..end];
        let end = end + 1;
        let packed = &mut self.out.packed;
        let before = packed.len();
        let mark = if let Some(uuid) = read_uuid(string) {
            packed.extend_from_slice(&uuid);
            self.mark(at, UUID);
            return Some(Run::packed(end));
        } else if let Some(bytes) = read_hash(string) {
            packed.extend_from_slice(&bytes);
            HEX
        } else if let Some(bytes) = (string.len() >= HEX_MIN)
            .then(|| hex::decode_vec(string))
            .flatten()
        {
            packed.extend_from_slice(&bytes);
            HEX
        } else if string.len() >= BASE64_MIN && URL_SAFE_NO_PAD.decode_vec(string, packed).is_ok() {
            BASE64
        } else {
            packed.truncate(before);
            return Some(Run { end, packed: false });
        };
        let len = packed.len() - before;
        self.mark(at, mark);
        self.value(len);
        Some(Run::packed(end))
    }

    fn number(&mut self, at: usize) -> Option<Run> {
        let rest = &self.text[at..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let end = at + digits;
        let canonical = digits == 1 || rest[0] != b'0';
        let number = rest[..digits].iter().try_fold(0u32, |number, digit| {
            number.checked_mul(10)?.checked_add(u32::from(digit - b'0'))
        });
        let Some(number) = number.filter(|_| canonical) else {
            return Some(Run { end, packed: false });
        };
        self.mark(at, NUMBER);
        self.value(number as usize);
        Some(Run::packed(end))
    }

    /// A list of strings of digits, all of one length.
    fn bitmaps(&mut self, at: usize) -> Option<Run> {
        let digits = self.text.get(at + 1..)?.strip_prefix(b"\"")?;
        let digits = digits.iter().position(|byte| *byte == b'"')?;
        if digits == 0 || !digits.is_multiple_of(2) {
            return None;
        }
        let (ones, packed) = (self.out.ones.len(), self.out.packed.len());
        let Some((end, count)) = self.words(at, digits) else {
            self.out.ones.truncate(ones);
            self.out.packed.truncate(packed);
            return None;
        };
        self.mark(at, BITMAPS);
        self.value(count);
        self.value(digits / 2);
        Some(Run::packed(end))
    }

    /// Writes the words of the list's bitmaps; returns where it ends, and how many there are.
    fn words(&mut self, at: usize, digits: usize) -> Option<(usize, usize)> {
        let mut bits = BitWriter::new(&mut self.out.packed);
        let (mut at, mut count) = (at, 0);
        loop {
            let bitmap = self.text.get(at + 1..)?.strip_prefix(b"\"")?;
            let (bitmap, rest) = bitmap.split_at_checked(digits)?;
            for piece in bitmap.chunks(2 * WORD / 8) {
                let mut padded = [b'0'; 2 * WORD / 8];
                padded[..piece.len()].copy_from_slice(piece);
                let word = u128::from_le_bytes(hex::decode(&padded)?);
                self.out.ones.push(word.count_ones() as u8);
                bits.word(word, 4 * piece.len());
            }
            count += 1;
            at += digits + 3;
            match rest {
                [b'"', b',', ..] => {}
                [b'"', b']', ..] => break,
                _ => return None,
            }
        }
        bits.finish();
        Some((at + 1, count))
    }
}

/// A piece of a text that was looked at.
struct Run {
    /// Where the text goes on.
    end: usize,
    /// Whether it left the text.
    packed: bool,
}

impl Run {
    fn packed(end: usize) -> Self {
        Self { end, packed: true }
    }
}

/// Where the hyphens of a UUID stand.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

fn read_uuid(text: &[u8]) -> Option<[u8; 16]> {
    let text: &[u8; 36] = text.try_into().ok()?;
    if HYPHENS.iter().any(|at| text[*at] != b'-') {
        return None;
    }
    let mut digits = [0; 32];
    let kept = text.iter().filter(|byte| **byte != b'-');
    if kept.clone().count() != digits.len() {
        return None;
    }
    digits
        .iter_mut()
        .zip(kept)
        .for_each(|(to, from)| *to = *from);
    hex::decode(&digits)
}

fn read_hash(text: &[u8]) -> Option<[u8; 32]> {
    hex::decode(text)
}

/// Reads a text of a kind, of at most `limit` bytes.
pub fn unpack(kind: usize, limit: usize, from: &mut Reader<'_>) -> Option<Vec<u8>> {
    let mut out = Unpacker {
        out: Vec::with_capacity(limit.min(USUAL)),
        limit,
    };
    let mut place = 0;
    loop {
        let literal = from.text.0.iter().position(|byte| *byte >= MARKS)?;
        out.push(from.text.take(literal)?)?;
        match from.text.byte()? {
            END => return Some(out.out),
            NUMBER => out.number(from.value(kind, &mut place)?)?,
            HEX => {
                let len = from.value(kind, &mut place)?;
                out.quoted(from.packed.take(len as usize)?)?;
            }
            BASE64 => {
                let len = from.value(kind, &mut place)?;
                out.base64(from.packed.take(len as usize)?)?;
            }
            UUID => out.uuid(&from.packed.array()?)?,
            BITMAPS => {
                let count = from.value(kind, &mut place)?;
                let width = from.value(kind, &mut place)?;
                out.bitmaps(
                    count as usize,
                    width as usize,
                    &mut from.ones,
                    &mut from.packed,
                )?;
            }
            // Nothing but the whole text is plain.
            _ if place > 0 || !out.out.is_empty() => return None,
            _ => {
                let len = from.value(kind, &mut place)?;
                out.push(from.text.take(len as usize)?)?;
                return Some(out.out);
            }
        }
    }
}

/// Room that most texts need no more than.
const USUAL: usize = 256;

/// Two digits for each byte. Without a table, so that all are computed at once.
fn digits(bytes: [u8; 16]) -> [u8; 32] {
    let digit = |value: u8| value + b'0' + u8::from(value > 9) * (b'a' - b'0' - 10);
    let mut digits = [0; 32];
    for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    digits
}

struct Unpacker {
    out: Vec<u8>,
    limit: usize,
}

impl Unpacker {
    /// Whether so many bytes more are allowed.
    fn room(&self, len: usize) -> Option<()> {
        (len <= self.limit - self.out.len()).then_some(())
    }

    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        self.room(bytes.len())?;
        self.out.extend_from_slice(bytes);
        Some(())
    }

    fn number(&mut self, number: u32) -> Option<()> {
        let mut digits = [0; 10];
        let (mut at, mut left) = (digits.len(), number);
        loop {
            at -= 1;
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                return self.push(&digits[at..]);
            }
        }
    }

    /// The digits of bytes; the caller has made sure that there is room.
    fn hex(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(16) {
            let mut padded = [0; 16];
            padded[..piece.len()].copy_from_slice(piece);
            self.out
                .extend_from_slice(&digits(padded)[..2 * piece.len()]);
        }
    }

    /// The digits of bytes in quotes.
    fn quoted(&mut self, bytes: &[u8]) -> Option<()> {
        self.room(bytes.len().checked_mul(2)?.checked_add(2)?)?;
        self.out.push(b'"');
        self.hex(bytes);
        self.out.push(b'"');
        Some(())
    }

    fn base64(&mut self, bytes: &[u8]) -> Option<()> {
        let len = base64::encoded_len(bytes.len(), false)?;
        self.room(len.checked_add(2)?)?;
        self.out.push(b'"');
        let start = self.out.len();
        self.out.resize(start + len, 0);
        URL_SAFE_NO_PAD
            .encode_slice(bytes, &mut self.out[start..])
            .ok()?;
        self.out.push(b'"');
        Some(())
    }

    fn uuid(&mut self, bytes: &[u8; 16]) -> Option<()> {
        let digits = digits(*bytes);
        self.room(digits.len() + HYPHENS.len() + 2)?;
        self.out.push(b'"');
        let mut from = 0;
        for (passed, at) in HYPHENS.into_iter().enumerate() {
            self.out.extend_from_slice(&digits[from..at - passed]);
            self.out.push(b'-');
            from = at - passed;
        }
        self.out.extend_from_slice(&digits[from..]);
        self.out.push(b'"');
        Some(())
    }

    fn bitmaps(
        &mut self,
        count: usize,
        width: usize,
        ones: &mut Cursor<'_>,
        packed: &mut Cursor<'_>,
    ) -> Option<()> {
        if count == 0 || width == 0 {
            return None;
        }
        let each = width.checked_mul(2)?.checked_add(3)?;
        let len = each.checked_mul(count)?.checked_add(1)?;
        self.room(len)?;
        self.out.reserve(len);
        let mut bits = BitReader::new(packed);
        self.out.push(b'[');
        for at in 0..count {
            self.out
                .extend_from_slice(if at == 0 { b"\"" } else { b",\"" });
            let mut left = width;
            while left > 0 {
                let bytes = left.min(WORD / 8);
                let word = bits.word(8 * bytes, usize::from(ones.byte()?))?;
                self.out
                    .extend_from_slice(&digits(word.to_le_bytes())[..2 * bytes]);
                left -= bytes;
            }
            self.out.push(b'"');
        }
        self.out.push(b']');
        bits.finish()
    }
}
