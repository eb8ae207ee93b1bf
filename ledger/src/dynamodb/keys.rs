//! The names of items: pure.
//!
//! All of a session stands under one partition key, so that one query reads it. Numbers stand in sort keys with ten decimal
//! digits, enough for 32 bits, so that the order of the texts is the order of the numbers.

use halo_receipts::evidence::{ClaimKind, Stream};
use halo_receipts::ids::{Epoch, SessionId};

use crate::record::kind_name;

/// The attribute of the partition key.
pub const PK: &str = "pk";
/// The attribute of the sort key.
pub const SK: &str = "sk";

/// The sort key of a session's header.
pub const HEADER: &str = "H";
/// What every claim and the header stand between, in the order of sort keys: `C#…`, `E#…`, `H`.
pub const RECORDS: (&str, &str) = ("C#", HEADER);
/// What every block stands between.
pub const BLOCKS: (&str, &str) = ("B#", "B$");
/// What every later epoch's claim stands between.
pub const EPOCHS: (&str, &str) = ("E#", "E$");

/// The partition key of a session.
pub fn session(session: &SessionId) -> String {
    format!("S#{session}")
}

/// Ten decimal digits.
pub fn number(number: u32) -> String {
    format!("{number:010}")
}

/// The sort key of a block, by its first number.
pub fn block(stream: Stream, first: u32) -> String {
    format!("B#{stream}#{first:010}")
}

/// What every block of a stream stands between.
pub fn blocks(stream: Stream) -> (String, String) {
    (format!("B#{stream}#"), format!("B#{stream}$"))
}

/// The stream and first number in a block's sort key.
pub fn read_block(sk: &str) -> Option<(Stream, u32)> {
    let (letter, digits) = sk.strip_prefix("B#")?.split_once('#')?;
    let stream = Stream::ALL
        .into_iter()
        .find(|stream| letter == stream.letter().to_string())?;
    Some((stream, read_number(digits)?))
}

/// The sort key of the claim of a later epoch. It holds the claim's place among the claims of epochs and not the epoch: two
/// writers that claim different epochs at once compete for one place, so that one conditional put decides between them. The
/// claim of the first epoch stands in the header's item, at place 0.
pub fn epoch(place: u32) -> String {
    format!("E#{place:010}")
}

/// The place in such a sort key.
pub fn read_epoch(sk: &str) -> Option<u32> {
    read_number(sk.strip_prefix("E#")?)
}

/// The sort key of a claim that is not an epoch's.
pub fn claim(epoch: Epoch, kind: ClaimKind, link: u32) -> String {
    format!("C#{:010}#{}#{link:010}", epoch.0, kind_name(kind))
}

/// Epoch, kind and link in such a sort key.
pub fn read_claim(sk: &str) -> Option<(u32, ClaimKind, u32)> {
    let mut parts = sk.strip_prefix("C#")?.split('#');
    let epoch = read_number(parts.next()?)?;
    let name = parts.next()?;
    let kind = [ClaimKind::Connection, ClaimKind::SubstrateLink]
        .into_iter()
        .find(|kind| kind_name(*kind) == name)?;
    let link = read_number(parts.next()?)?;
    parts.next().is_none().then_some((epoch, kind, link))
}

/// A number in exactly ten digits.
pub fn read_number(digits: &str) -> Option<u32> {
    let right = digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
    right.then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn keys_read_back_and_sort_as_their_numbers(a in any::<u32>(), b in any::<u32>(), link in any::<u32>()) {
            for stream in Stream::ALL {
                prop_assert_eq!(read_block(&block(stream, a)), Some((stream, a)));
                prop_assert_eq!(block(stream, a).cmp(&block(stream, b)), a.cmp(&b));
                let (from, to) = blocks(stream);
                prop_assert!(from < block(stream, a) && block(stream, a) < to);
                prop_assert!(*BLOCKS.0 < *block(stream, a) && *block(stream, a) < *BLOCKS.1);
            }
            prop_assert!(block(Stream::Device, a) < block(Stream::Substrate, b));
            prop_assert_eq!(read_epoch(&epoch(a)), Some(a));
            prop_assert!(*EPOCHS.0 < *epoch(a) && *epoch(a) < *EPOCHS.1);
            for kind in [ClaimKind::Connection, ClaimKind::SubstrateLink] {
                let key = claim(Epoch(a), kind, link);
                prop_assert_eq!(read_claim(&key), Some((a, kind, link)));
                prop_assert!(*RECORDS.0 < *key && *key < *RECORDS.1);
            }
            prop_assert!(claim(Epoch(a), ClaimKind::Connection, link) < claim(Epoch(a), ClaimKind::SubstrateLink, 0));
            prop_assert!(*RECORDS.0 < *epoch(a) && *epoch(a) < *RECORDS.1);
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,40}") {
            let _ = (read_block(&text), read_epoch(&text), read_claim(&text), read_number(&text));
        }
    }

    #[test]
    fn other_spellings_are_no_numbers() {
        for digits in [
            "",
            "1",
            "00000000001",
            "4294967296",
            "+000000001",
            "000000000x",
            "٠٠٠٠٠",
        ] {
            assert_eq!(read_number(digits), None, "{digits}");
        }
        assert_eq!(read_number("4294967295"), Some(u32::MAX));
    }
}
