//! One answer of the substrate, as the phone checks it: token by token, then against its seal.

use halo_receipts::chain::Event as Payload;
use halo_receipts::documents::EscalateEnd;
use halo_receipts::ids::{Epoch, Hash, RequestId, SessionId, TenantId, Tier};
use halo_receipts::merkle;
use halo_receipts::messages::Token;
use halo_receipts::payload::{AnswerStatus, SubstrateResponse};
use halo_receipts::receipt::{Parent, Receipt, ReceiptKind};
use halo_receipts::time::Timestamp;

use crate::elapsed_ms;

/// Where the request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The gateway does not have it.
    Unsent,
    /// It was sent over a connection that still stands.
    Sent,
    /// It was sent over a connection that is gone: ask for the rest.
    Interrupted,
}

/// A request to the substrate and what came of it so far.
pub(super) struct Answer {
    pub(super) request_id: RequestId,
    pub(super) prompt: String,
    /// The routing receipt that it answers.
    pub(super) routing: Parent,
    /// The position after the routing receipt in stream `d`.
    pub(super) upto: u64,
    pub(super) progress: Progress,
    /// Not before this time.
    pub(super) retry_at: Option<Timestamp>,
    /// How often it was put off or broke.
    pub(super) attempts: u32,
    pub(super) sent_at: Option<Timestamp>,
    pub(super) first_token_at: Option<Timestamp>,
    pub(super) last_token_at: Option<Timestamp>,
    /// The hashes of the answer's receipts, two a step.
    leaves: Vec<Hash>,
    text: String,
    /// The length of the text after each step.
    ends: Vec<usize>,
}

/// What a token did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is the next one.
    Next,
    /// It was there already, word for word.
    Again,
    /// It contradicts what was there, or one before it is missing.
    Wrong,
}

/// A seal that fits the tokens.
pub(super) struct Closed {
    pub(super) receipt: Receipt,
    pub(super) response: SubstrateResponse,
    /// The hashes of the answer's receipts that it seals.
    pub(super) leaves: Vec<Hash>,
    /// The text of the sealed steps.
    pub(super) text: String,
}

/// What in a seal does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// A stable name for the routing receipt that records the break.
    pub(super) what: &'static str,
    pub(super) expected: Hash,
    pub(super) computed: Hash,
}

fn mismatch(what: &'static str, expected: &[u8], computed: &[u8]) -> Mismatch {
    Mismatch {
        what,
        expected: Hash::of(expected),
        computed: Hash::of(computed),
    }
}

/// What of the session a seal is checked against.
pub(super) struct Place<'a> {
    pub(super) session_id: SessionId,
    pub(super) tenant_id: &'a TenantId,
    /// The current epoch; an answer may be of an earlier one.
    pub(super) epoch: Epoch,
    /// The number of receipts of stream `s` before the answer.
    pub(super) first: u32,
}

impl Answer {
    pub(super) fn new(request_id: RequestId, prompt: String, routing: Parent, upto: u64) -> Self {
        Self {
            request_id,
            prompt,
            routing,
            upto,
            progress: Progress::Unsent,
            retry_at: None,
            attempts: 0,
            sent_at: None,
            first_token_at: None,
            last_token_at: None,
            leaves: Vec::new(),
            text: String::new(),
            ends: Vec::new(),
        }
    }

    /// Milliseconds since the request was first sent.
    pub(super) fn after_ms(&self, now: Timestamp) -> u64 {
        self.sent_at.map_or(0, |sent| elapsed_ms(sent, now))
    }

    /// The last step that arrived.
    pub(super) fn last_step(&self) -> Option<u32> {
        u32::try_from(self.ends.len()).ok()?.checked_sub(1)
    }

    /// Takes the next token. Tokens that a resumed answer repeats must be the same.
    pub(super) fn token(&mut self, token: &Token) -> Taken {
        let step = token.step as usize;
        let hashes = [token.expert_load, token.token_emit];
        if step < self.ends.len() {
            let start = if step == 0 { 0 } else { self.ends[step - 1] };
            let same = self.leaves[2 * step..2 * step + 2] == hashes
                && self.text[start..self.ends[step]] == token.text;
            return if same { Taken::Again } else { Taken::Wrong };
        }
        if step > self.ends.len() {
            return Taken::Wrong;
        }
        self.leaves.extend(hashes);
        self.text.push_str(&token.text);
        self.ends.push(self.text.len());
        Taken::Next
    }

    /// Checks the substrate's response: that it is the one for this request, that its hash covers its payload, that the
    /// tokens lead to its root, and that it follows the last of them. Its HMAC is under a key that no phone has.
    /// `None` if the end carries no response.
    pub(super) fn close(
        &self,
        end: &EscalateEnd,
        place: &Place<'_>,
    ) -> Option<Result<Closed, Mismatch>> {
        let (receipt, payload) = match (end.receipts.as_slice(), end.payloads.as_slice()) {
            ([], _) => return None,
            ([receipt], [Some(payload)]) => (receipt, payload.get().as_bytes()),
            _ => {
                return Some(Err(mismatch(
                    "response",
                    b"1",
                    end.receipts.len().to_string().as_bytes(),
                )));
            }
        };
        Some(self.check(receipt, payload, place))
    }

    fn check(
        &self,
        receipt: &Receipt,
        payload: &[u8],
        place: &Place<'_>,
    ) -> Result<Closed, Mismatch> {
        let body = &receipt.body;
        let found = receipt.to_bytes();
        let form = |what| mismatch(what, b"", &found);
        if (body.tier, body.receipt_kind) != (Tier::Substrate, ReceiptKind::TierResponse) {
            return Err(form("kind"));
        }
        if body.session_id != place.session_id
            || body.tenant_id != *place.tenant_id
            || body.session_epoch > place.epoch
        {
            return Err(form("session"));
        }
        let Ok(Payload::SubstrateResponse(response)) = Payload::read(body, Some(payload)) else {
            return Err(mismatch("payload", &body.event_payload_hash.0, payload));
        };
        if response.request_id != self.request_id {
            return Err(form("request"));
        }
        // An answer that broke off may seal less than was streamed; a whole one seals exactly what was.
        let sealed = response.receipts as usize;
        let fits = match response.status {
            AnswerStatus::Ok => sealed == self.leaves.len() && sealed > 0,
            AnswerStatus::Refused => sealed == 0,
            AnswerStatus::Interrupted => sealed <= self.leaves.len() && sealed.is_multiple_of(2),
        };
        let leaves = self.leaves.get(..sealed).filter(|_| fits);
        let (Some(leaves), true) = (leaves, response.first == place.first) else {
            let count = |n: usize, first: u32| format!("{n} from {first}");
            return Err(mismatch(
                "count",
                count(self.leaves.len(), place.first).as_bytes(),
                count(sealed, response.first).as_bytes(),
            ));
        };
        let root = merkle::root(leaves);
        if root != response.root {
            return Err(Mismatch {
                what: "root",
                expected: response.root,
                computed: root,
            });
        }
        let expected = match (leaves.last(), response.last_receipt_id) {
            (None, None) => Some(self.routing),
            (Some(&hash), Some(id)) => Some(Parent { id, hash }),
            _ => None,
        };
        if expected.is_none() || body.parent != expected {
            let hash = |parent: Option<Parent>| parent.map_or(Hash([0; 32]), |parent| parent.hash);
            return Err(Mismatch {
                what: "parent",
                expected: hash(expected),
                computed: hash(body.parent),
            });
        }
        let steps = sealed / 2;
        let text_end = steps.checked_sub(1).map_or(0, |last| self.ends[last]);
        Ok(Closed {
            receipt: receipt.clone(),
            leaves: leaves.to_vec(),
            text: self.text[..text_end].to_owned(),
            response,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halo_receipts::ids::ReceiptId;

    fn answer() -> Answer {
        let routing = Parent {
            id: ReceiptId::from_random([1; 16]),
            hash: Hash([1; 32]),
        };
        Answer::new(
            RequestId::from_random([2; 16]),
            "why?".to_owned(),
            routing,
            2,
        )
    }

    fn token(step: u32, text: &str) -> Token {
        Token {
            step,
            token_id: step,
            expert_load: Hash([step as u8; 32]),
            token_emit: Hash([step as u8 | 0x80; 32]),
            text: text.to_owned(),
        }
    }

    #[test]
    fn tokens_come_in_order_and_may_come_again() {
        let mut answer = answer();
        assert_eq!(answer.last_step(), None);
        let mut other_hash = token(0, "a");
        other_hash.token_emit = Hash([9; 32]);
        let table = [
            (token(1, "b"), Taken::Wrong),
            (token(0, "a"), Taken::Next),
            (token(0, "a"), Taken::Again),
            (token(0, "x"), Taken::Wrong),
            (other_hash, Taken::Wrong),
            (token(1, ""), Taken::Next),
            (token(2, "é"), Taken::Next),
            (token(1, ""), Taken::Again),
            (token(2, "é"), Taken::Again),
            (token(u32::MAX, "z"), Taken::Wrong),
        ];
        for (token, expected) in table {
            assert_eq!(answer.token(&token), expected, "{token:?}");
        }
        assert_eq!(answer.last_step(), Some(2));
        assert_eq!((answer.text.as_str(), answer.leaves.len()), ("aé", 6));
    }
}
