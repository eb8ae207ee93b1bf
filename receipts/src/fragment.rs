//! Messages longer than a frame (protocol section 3, the 0x60 family): cut into fragments and put together again.

use crate::frame::PAYLOAD_MAX;

/// The bytes of index and count before a fragment's data.
pub const FRAGMENT_HEADER: usize = 4;
/// The most data that one fragment carries.
pub const FRAGMENT_DATA_MAX: usize = PAYLOAD_MAX - FRAGMENT_HEADER;
/// The longest ESCALATE_REQUEST, in bytes.
pub const REQUEST_MAX: usize = 64 * 1024;
/// The longest ESCALATE_END, in bytes.
pub const END_MAX: usize = 256 * 1024;

/// Why a fragment or a message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FragmentError {
    /// Too short to hold index and count, or a count of zero.
    #[error("a fragment begins with its index and a count above zero")]
    Header,
    /// Not the index that follows the last one, or another count than the message began with.
    #[error("the fragment is not the next one of its message")]
    Order,
    /// Data that is missing from a fragment that is not the last, or an empty fragment in a longer message.
    #[error("every fragment but the last one is full, and none of several is empty")]
    Size,
    /// The whole message would be longer than its kind may be.
    #[error("the message is longer than its kind may be")]
    TooLong,
}

/// Cuts `message` into the payloads of consecutive frames. Every fragment but the last is full.
pub fn split(message: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, FragmentError> {
    if message.len() > limit {
        return Err(FragmentError::TooLong);
    }
    let count = message.len().div_ceil(FRAGMENT_DATA_MAX).max(1);
    let count = u16::try_from(count).map_err(|_| FragmentError::TooLong)?;
    let mut pieces = message.chunks(FRAGMENT_DATA_MAX);
    Ok((0..count)
        .map(|index| {
            let data = pieces.next().unwrap_or_default();
            let mut payload = Vec::with_capacity(FRAGMENT_HEADER + data.len());
            payload.extend_from_slice(&index.to_be_bytes());
            payload.extend_from_slice(&count.to_be_bytes());
            payload.extend_from_slice(data);
            payload
        })
        .collect())
}

/// Puts the fragments of one direction together. After an error it is empty: the message is lost, the link is not.
#[derive(Debug)]
pub struct Reassembler {
    limit: usize,
    /// The next index and the count of the message under way; (0, 0) between messages.
    next: u16,
    count: u16,
    data: Vec<u8>,
}

impl Reassembler {
    /// For messages of at most `limit` bytes. Reserves nothing until data arrives.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            next: 0,
            count: 0,
            data: Vec::new(),
        }
    }

    /// Takes one frame's payload; returns the message if this was its last fragment.
    pub fn push(&mut self, payload: &[u8]) -> Result<Option<Vec<u8>>, FragmentError> {
        let taken = self.take(payload);
        if taken.is_err() {
            self.reset();
        }
        taken
    }

    /// Forgets a message that will not be finished.
    pub fn reset(&mut self) {
        (self.next, self.count, self.data) = (0, 0, Vec::new());
    }

    fn take(&mut self, payload: &[u8]) -> Result<Option<Vec<u8>>, FragmentError> {
        let (&[a, b, c, d], data) = payload
            .split_first_chunk::<FRAGMENT_HEADER>()
            .ok_or(FragmentError::Header)?;
        let (index, count) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        if count == 0 {
            return Err(FragmentError::Header);
        }
        if usize::from(count) > self.limit.div_ceil(FRAGMENT_DATA_MAX).max(1) {
            return Err(FragmentError::TooLong);
        }
        if index != self.next || (self.count != 0 && count != self.count) || index >= count {
            return Err(FragmentError::Order);
        }
        let last = index + 1 == count;
        let full = data.len() == FRAGMENT_DATA_MAX;
        if data.len() > FRAGMENT_DATA_MAX || (!last && !full) || (data.is_empty() && count > 1) {
            return Err(FragmentError::Size);
        }
        if self.data.len() + data.len() > self.limit {
            return Err(FragmentError::TooLong);
        }
        self.data.extend_from_slice(data);
        if last {
            let message = std::mem::take(&mut self.data);
            self.reset();
            Ok(Some(message))
        } else {
            (self.next, self.count) = (index + 1, count);
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fragment(index: u16, count: u16, data: &[u8]) -> Vec<u8> {
        [&index.to_be_bytes()[..], &count.to_be_bytes(), data].concat()
    }

    #[test]
    fn refusals() {
        let full = [7; FRAGMENT_DATA_MAX];
        let table: [(&[Vec<u8>], FragmentError); 9] = [
            (&[vec![0, 0, 0]], FragmentError::Header),
            (&[fragment(0, 0, b"x")], FragmentError::Header),
            (&[fragment(1, 2, &full)], FragmentError::Order),
            (&[fragment(1, 1, b"x")], FragmentError::Order),
            (
                &[fragment(0, 2, &full), fragment(1, 3, &full)],
                FragmentError::Order,
            ),
            (
                &[fragment(0, 2, &full), fragment(0, 2, &full)],
                FragmentError::Order,
            ),
            (&[fragment(0, 2, b"short")], FragmentError::Size),
            (
                &[fragment(0, 2, &full), fragment(1, 2, b"")],
                FragmentError::Size,
            ),
            (&[fragment(0, u16::MAX, &full)], FragmentError::TooLong),
        ];
        for (payloads, error) in table {
            let mut reassembler = Reassembler::new(1000);
            let outcome = payloads.iter().map(|p| reassembler.push(p)).last();
            assert_eq!(outcome, Some(Err(error)));
            // What was refused leaves nothing behind.
            assert_eq!(
                reassembler.push(&fragment(0, 1, b"ok")),
                Ok(Some(b"ok".to_vec()))
            );
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_at_both_ends() {
        assert_eq!(split(&[0; 1001], 1000), Err(FragmentError::TooLong));
        let payloads = split(&[0; 1001], 2000).unwrap();
        let mut reassembler = Reassembler::new(1000);
        let outcome = payloads.iter().map(|p| reassembler.push(p)).last();
        assert_eq!(outcome, Some(Err(FragmentError::TooLong)));
    }

    proptest! {
        #[test]
        fn split_messages_come_back(message in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let mut reassembler = Reassembler::new(REQUEST_MAX);
            let payloads = split(&message, REQUEST_MAX).unwrap();
            let (last, first) = payloads.split_last().unwrap();
            for payload in first {
                prop_assert_eq!(reassembler.push(payload), Ok(None));
            }
            prop_assert_eq!(reassembler.push(last), Ok(Some(message)));
        }

        #[test]
        fn any_bytes_are_refused_or_taken(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..220), 0..8)) {
            let mut reassembler = Reassembler::new(1000);
            for payload in payloads {
                if let Ok(Some(message)) = reassembler.push(&payload) {
                    prop_assert!(message.len() <= 1000);
                }
            }
        }
    }
}
