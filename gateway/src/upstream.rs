//! The gateway's end of one link to a pod, for one request: what the pod sends is verified and taken out of its frames.

use halo_receipts::chain::Event;
use halo_receipts::documents::{EndStatus, EscalateEnd};
use halo_receipts::fragment::{self, END_MAX, FragmentError, REQUEST_MAX, Reassembler};
use halo_receipts::frame::{FrameError, FrameType};
use halo_receipts::ids::{Epoch, RequestId, Tier};
use halo_receipts::link::{End, Link};
use halo_receipts::messages::{MessageError, TokenOrNotice};
use halo_receipts::payload::PayloadError;
use halo_receipts::receipt::ReceiptKind;

use crate::keyring::Keyring;

/// What a pod did wrong. The link cannot go on after it: the next frame has no sequence number that would be accepted.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// A frame was refused.
    #[error("the pod's frame was refused: {0}")]
    Frame(#[from] FrameError),
    /// A fragment was refused.
    #[error("the pod's message was refused: {0}")]
    Fragment(#[from] FragmentError),
    /// A token or a notice has another form.
    #[error("the pod's token was refused: {0}")]
    Message(#[from] MessageError),
    /// A token that is not the next one.
    #[error("the pod sent step {found}, and step {expected} is next")]
    Step {
        /// The next step.
        expected: u32,
        /// The step that came.
        found: u32,
    },
    /// More tokens than were asked for.
    #[error("the pod sent more than the {0} tokens that were asked for")]
    TooMany(u32),
    /// The end has another form.
    #[error("the pod's end was refused: {0}")]
    End(#[from] PayloadError),
    /// The end is of another request, or its receipt is not one that this pod can have signed.
    #[error("the pod's end does not belong to this request")]
    ForeignEnd,
    /// The keys of the epoch are not held here.
    #[error("the keys of the epoch are not held by this gateway")]
    NoKeys,
}

impl UpstreamError {
    /// A stable name for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            UpstreamError::Frame(error) => error.name(),
            UpstreamError::Fragment(_) => "fragment",
            UpstreamError::Message(_) => "message",
            UpstreamError::Step { .. } => "step",
            UpstreamError::TooMany(_) => "too_many",
            UpstreamError::End(_) => "end",
            UpstreamError::ForeignEnd => "foreign_end",
            UpstreamError::NoKeys => "no_keys",
        }
    }
}

/// What a pod sent.
#[derive(Debug)]
pub enum Received {
    /// A token: its text, and the payload of its frame.
    Token {
        /// The text, for an answer that has to be closed without the pod.
        text: String,
        /// The payload.
        payload: Vec<u8>,
    },
    /// A progress notice: the payload of its frame.
    Notice(Vec<u8>),
    /// The end: its parts, and the document as it came.
    End(EscalateEnd, Vec<u8>),
}

/// One link to a pod, for one request.
pub struct Upstream {
    link: Link,
    ring: Keyring,
    epoch: Epoch,
    request_id: RequestId,
    end: Reassembler,
    next_step: u32,
    max_tokens: u32,
}

impl Upstream {
    /// A fresh link under TIER_KEY\[2\] of `epoch`, for an answer of at most `max_tokens`.
    pub fn new(
        mut ring: Keyring,
        epoch: Epoch,
        request_id: RequestId,
        max_tokens: u32,
    ) -> Result<Self, UpstreamError> {
        let key = ring.tier_key(epoch, Tier::Substrate);
        let key = key.ok_or(UpstreamError::NoKeys)?;
        Ok(Self {
            link: Link::new(End::GatewayToSubstrate, ring.session(), key),
            ring,
            epoch,
            request_id,
            end: Reassembler::new(END_MAX),
            next_step: 0,
            max_tokens,
        })
    }

    /// The frames that carry the device's document on.
    pub fn forward(&mut self, document: &[u8]) -> Result<Vec<Vec<u8>>, UpstreamError> {
        let payloads = fragment::split(document, REQUEST_MAX)?;
        let frames = payloads.iter().map(|payload| {
            let sent = self.link.send(FrameType::EscalateRequest, payload);
            sent.map_err(UpstreamError::from)
        });
        frames.collect()
    }

    /// Takes one message of the pod; `None` while an end is not whole yet.
    pub fn receive(&mut self, message: &[u8]) -> Result<Option<Received>, UpstreamError> {
        let frame = self.link.receive(message)?;
        if frame.typ == FrameType::EscalateEnd {
            return match self.end.push(frame.payload)? {
                Some(document) => {
                    let end = self.check_end(&document)?;
                    Ok(Some(Received::End(end, document)))
                }
                None => Ok(None),
            };
        }
        let payload = frame.payload.to_vec();
        Ok(Some(match TokenOrNotice::decode(&payload)? {
            TokenOrNotice::Notice(_) => Received::Notice(payload),
            TokenOrNotice::Token(token) => {
                if token.step != self.next_step {
                    return Err(UpstreamError::Step {
                        expected: self.next_step,
                        found: token.step,
                    });
                }
                if token.step >= self.max_tokens {
                    return Err(UpstreamError::TooMany(self.max_tokens));
                }
                self.next_step = self.next_step.saturating_add(1);
                Received::Token {
                    text: token.text,
                    payload,
                }
            }
        }))
    }

    /// An answer that is whole has its response with it, and nothing but that response is ever sent.
    fn check_end(&mut self, document: &[u8]) -> Result<EscalateEnd, UpstreamError> {
        let end = EscalateEnd::parse(document)?;
        let needs_response = end.status == EndStatus::Ok;
        let shape = match end.receipts.len() {
            0 => !needs_response,
            1 => true,
            _ => false,
        };
        if end.request_id != self.request_id || end.status == EndStatus::Recorded || !shape {
            return Err(UpstreamError::ForeignEnd);
        }
        for (receipt, payload) in end.receipts.iter().zip(&end.payloads) {
            let body = &receipt.body;
            let key = self.ring.tier_key(self.epoch, Tier::Substrate);
            let signed = key.is_some_and(|key| receipt.verify(&key));
            let bound = body.tier == Tier::Substrate
                && body.receipt_kind == ReceiptKind::TierResponse
                && body.session_epoch == self.epoch
                && body.session_id == self.ring.session()
                && body.tenant_id == *self.ring.tenant();
            let payload = payload.as_ref().map(|raw| raw.get().as_bytes());
            let answers = matches!(
                Event::read(body, payload),
                Ok(Event::SubstrateResponse(response)) if response.request_id == self.request_id
            );
            if !(signed && bound && answers) {
                return Err(UpstreamError::ForeignEnd);
            }
        }
        Ok(end)
    }
}
