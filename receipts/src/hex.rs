//! Lower-case hexadecimal: the only spelling of bytes that the protocol knows.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The value of each digit; 255 for a byte that is none.
const VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut value = 0;
    while value < 16 {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// Appends two digits for each byte.
pub(crate) fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    // Over pairs of known width there is nothing to check or to grow: this is on the path of every receipt.
    for (pair, &byte) in out[start..].as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ];
    }
}

/// Two digits for each byte.
pub fn encode(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|&byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

/// The bytes that `text` spells, or `None` for another length, an upper-case digit or anything else.
pub fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    // One look at the end instead of a branch for each digit: this is on the path of every receipt.
    let mut seen = 0;
    for (byte, &[high, low]) in bytes.iter_mut().zip(text.as_chunks::<2>().0) {
        let (high, low) = (VALUES[usize::from(high)], VALUES[usize::from(low)]);
        seen |= high | low;
        *byte = high << 4 | low & 15;
    }
    (seen < 16).then_some(bytes)
}

/// As [`decode`], for a length that is not known at compile time.
pub fn decode_vec(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = text.as_chunks::<2>().0.iter();
    let value = |digit: u8| Some(VALUES[usize::from(digit)]).filter(|&value| value < 16);
    pairs
        .map(|&[high, low]| Some(value(high)? << 4 | value(low)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_of_the_right_length() {
        assert_eq!(decode(b"00ff"), Some([0, 255]));
        assert_eq!(encode(&[0, 255]), "00ff");
        for bad in ["00FF", "00f", "00f ", "00fff", "0x00"] {
            assert_eq!(decode::<2>(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(decode_vec(b"0a0b0c"), Some(vec![10, 11, 12]));
        assert_eq!(decode_vec(b"0a0"), None);
    }
}
