//! The JSON documents of the 0x60 family (protocol section 3): requests, progress notices and ends. RFC 8785 on the wire,
//! strict when read: unknown or repeated fields and another spelling are errors.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ids::{Hash, RequestId};
use crate::payload::{PayloadError, V1, from_canonical, to_canonical};
use crate::receipt::Receipt;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Record the bundle and answer the prompt.
    Infer,
    /// Record the bundle only.
    Record,
    /// Send the rest of an answer whose connection broke.
    Resume,
}

/// How to choose tokens; integers only. All zeros is greedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Temperature in thousandths; 0 is greedy.
    pub temperature_milli: u32,
    /// Nucleus probability in thousandths; 0 and 1000 leave all tokens in.
    pub top_p_milli: u32,
    /// How many of the likeliest tokens stay in; 0 leaves all in.
    pub top_k: u32,
    /// Seed of the choice; the same seed gives the same answer.
    pub seed: u32,
}

/// ESCALATE_REQUEST.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EscalateRequest {
    /// The document's version.
    pub v: V1,
    /// What is asked.
    pub op: Operation,
    /// Names the request; the same one in the routing receipt.
    pub request_id: RequestId,
    /// The receipts of tiers 0 and 1 that the other side does not have yet, in chain order.
    pub receipts: Vec<Receipt>,
    /// The event payload of each receipt; `null` for a sensor capture.
    pub payloads: Vec<Option<Box<RawValue>>>,
    /// What to answer; empty unless `op` is `infer`.
    pub prompt: String,
    /// The most tokens to make; 0 unless `op` is `infer`.
    pub max_tokens: u32,
    /// How to choose them.
    pub sampling: Sampling,
    /// For `resume`: the last step that arrived; left out if none did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_step: Option<u32>,
}

impl EscalateRequest {
    /// The document.
    pub fn to_json(&self) -> Result<Vec<u8>, PayloadError> {
        to_canonical(self)
    }

    /// Reads a document; each receipt has its payload beside it.
    pub fn parse(bytes: &[u8]) -> Result<Self, PayloadError> {
        let request: Self = from_canonical(bytes)?;
        paired(&request.receipts, &request.payloads)?;
        Ok(request)
    }
}

/// How far a held request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// The substrate is being started.
    Waking,
    /// Others are before this one.
    Queued,
    /// The model is being loaded.
    Loading,
    /// The request is on its way.
    Ready,
}

/// A progress notice, in an ESCALATE_TOKEN frame with step 0xFFFFFFFF. It has no receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// How far the request is.
    pub state: Progress,
    /// How many requests are before this one.
    pub position: u32,
    /// Estimated time until the first token, in milliseconds; 0 if unknown.
    pub eta_ms: u32,
}

impl Notice {
    /// The notice's JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, PayloadError> {
        to_canonical(self)
    }

    /// Reads a notice's JSON.
    pub fn parse(bytes: &[u8]) -> Result<Self, PayloadError> {
        from_canonical(bytes)
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndStatus {
    /// Answered; every receipt of the answer is in the ledger.
    Ok,
    /// The bundle is in the ledger; no answer was asked for.
    Recorded,
    /// Nothing was computed, for the reason in `code`.
    Refused,
    /// It began and could not be finished.
    Failed,
    /// The device asked no longer.
    Cancelled,
}

/// Why a request was refused or failed. The words are stable; `retry_after_ms` says whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCode {
    /// All went well.
    Ok,
    /// The document, a receipt or a payload of the bundle is not what it must be.
    BundleInvalid,
    /// The answer to another request of this session is still under way.
    Busy,
    /// Too many requests.
    RateLimited,
    /// The prompt and the tokens asked for do not fit the model's context.
    ContextExceeded,
    /// No substrate is there to answer.
    Unavailable,
    /// The substrate was not ready in time.
    WakeDeadline,
    /// The server is shutting down; connect again.
    Draining,
    /// `resume` names a request that is not known.
    UnknownRequest,
    /// The pod went away in the middle of the answer.
    Lost,
    /// The receipts could not be stored.
    LedgerUnavailable,
    /// The model failed.
    EngineFailed,
    /// The device cancelled or went away.
    Cancelled,
}

impl EndCode {
    /// The code as JSON spells it, for metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            EndCode::Ok => "ok",
            EndCode::BundleInvalid => "bundle_invalid",
            EndCode::Busy => "busy",
            EndCode::RateLimited => "rate_limited",
            EndCode::ContextExceeded => "context_exceeded",
            EndCode::Unavailable => "unavailable",
            EndCode::WakeDeadline => "wake_deadline",
            EndCode::Draining => "draining",
            EndCode::UnknownRequest => "unknown_request",
            EndCode::Lost => "lost",
            EndCode::LedgerUnavailable => "ledger_unavailable",
            EndCode::EngineFailed => "engine_failed",
            EndCode::Cancelled => "cancelled",
        }
    }
}

/// ESCALATE_END.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EscalateEnd {
    /// The request that ended.
    pub request_id: RequestId,
    /// How.
    pub status: EndStatus,
    /// Why.
    pub code: EndCode,
    /// When to try again, in milliseconds; `null`: trying again will not help.
    pub retry_after_ms: Option<u32>,
    /// Tier 2's response, which Tier 1 needs as a parent; empty if Tier 2 wrote none.
    pub receipts: Vec<Receipt>,
    /// Its payload.
    pub payloads: Vec<Option<Box<RawValue>>>,
}

impl EscalateEnd {
    /// An end without receipts.
    pub fn bare(request_id: RequestId, status: EndStatus, code: EndCode) -> Self {
        Self {
            request_id,
            status,
            code,
            retry_after_ms: None,
            receipts: Vec::new(),
            payloads: Vec::new(),
        }
    }

    /// The document.
    pub fn to_json(&self) -> Result<Vec<u8>, PayloadError> {
        to_canonical(self)
    }

    /// Reads a document; each receipt has its payload beside it.
    pub fn parse(bytes: &[u8]) -> Result<Self, PayloadError> {
        let end: Self = from_canonical(bytes)?;
        paired(&end.receipts, &end.payloads)?;
        Ok(end)
    }
}

/// Each receipt has a payload, whose bytes hash to what the receipt says; a sensor capture has none.
fn paired(receipts: &[Receipt], payloads: &[Option<Box<RawValue>>]) -> Result<(), PayloadError> {
    use crate::receipt::ReceiptKind::SensorCapture;
    let fits = |(receipt, payload): (&Receipt, &Option<Box<RawValue>>)| match payload {
        None => receipt.body.receipt_kind == SensorCapture,
        Some(raw) => {
            receipt.body.receipt_kind != SensorCapture
                && receipt.body.event_payload_hash == Hash::of(raw.get().as_bytes())
        }
    };
    if receipts.len() == payloads.len() && receipts.iter().zip(payloads).all(fits) {
        Ok(())
    } else {
        Err(PayloadError::Unpaired)
    }
}
