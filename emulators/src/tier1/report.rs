//! What the phone says about what it does: one JSON object a line under `--json`, with stable names.

use halo_receipts::documents::{EndCode, EndStatus, Progress};
use halo_receipts::ids::{Epoch, Hash, ReceiptId, RequestId, SessionId, TenantId};
use halo_receipts::payload::{AnswerStatus, Answerer, ContentPolicy, Decision};
use serde::Serialize;

/// Something worth telling whoever runs the phone. In JSON, `event` is the name in snake case.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Report {
    /// A new session exists.
    SessionOpened {
        /// The session.
        session_id: SessionId,
        /// Its first epoch.
        session_epoch: Epoch,
        /// The tenant.
        tenant_id: TenantId,
        /// Which root secret its keys come from.
        root_generation: u32,
        /// Whether that is a demo root.
        demo_root: bool,
        /// What is kept of private content.
        content: ContentPolicy,
    },
    /// The session goes on under new keys.
    EpochOpened {
        /// The new epoch.
        session_epoch: Epoch,
    },
    /// A capture is whole and authentic, and its receipt stands in the chain.
    CaptureVerified {
        /// The receipt.
        receipt_id: ReceiptId,
        /// Its parent; `null` for the first of a session.
        parent: Option<ReceiptId>,
        /// `audio`, `image` or `gesture`.
        kind: &'static str,
        /// The frames that carried it.
        frames: u32,
        /// Its length in bytes.
        bytes: u32,
        /// SHA-256 of its bytes.
        sha256: Hash,
        /// The receipt's HMAC, hex.
        hmac: String,
    },
    /// What was decided about a request.
    Routed {
        /// `local` or `escalate`.
        decision: Decision,
        /// The rule that decided.
        reason: String,
        /// Who decided.
        classifier: String,
        /// The receipt.
        receipt_id: ReceiptId,
        /// The capture that it follows.
        parent: Option<ReceiptId>,
        /// The receipt's HMAC, hex.
        hmac: String,
    },
    /// A request went to the gateway.
    Asked {
        /// The request.
        request_id: RequestId,
        /// Whether it asks for the rest of an answer that broke off.
        resumed: bool,
    },
    /// The gateway put a request off; it is sent again.
    PutOff {
        /// The request.
        request_id: RequestId,
        /// Why.
        code: EndCode,
        /// In how many milliseconds it is sent again.
        retry_ms: u64,
        /// Since it was first sent, in milliseconds.
        after_ms: u64,
    },
    /// There is no answer: what the gateway said last, after the request was put off as often as it may be.
    Unanswered {
        /// The request.
        request_id: RequestId,
        /// How it ended.
        status: EndStatus,
        /// Why.
        code: EndCode,
        /// When the gateway would be asked again, in milliseconds, if it said that.
        retry_after_ms: Option<u32>,
        /// Tokens that came before.
        tokens: u32,
        /// Since it was first sent, in milliseconds.
        after_ms: u64,
    },
    /// How far a held request is.
    Notice {
        /// The request.
        request_id: RequestId,
        /// `waking`, `queued`, `loading` or `ready`.
        state: Progress,
        /// How many requests are before it.
        position: u32,
        /// Estimated time until the first token, in milliseconds; 0 if unknown.
        eta_ms: u32,
        /// Since the request was first sent, in milliseconds.
        after_ms: u64,
    },
    /// One token of an answer.
    Token {
        /// Counts within the answer.
        step: u32,
        /// The text that became whole with it.
        text: String,
        /// Since the request was first sent, in milliseconds.
        after_ms: u64,
    },
    /// The substrate's answer, its hashes checked against its seal.
    Answer {
        /// The request.
        request_id: RequestId,
        /// How it ended.
        status: AnswerStatus,
        /// Why generation stopped.
        finish: String,
        /// The model's name.
        model: String,
        /// The whole text.
        text: String,
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens of the answer.
        tokens: u32,
        /// From first sending the request to the first token, in milliseconds; `null` if there was none.
        first_token_ms: Option<u64>,
        /// From sending the request to the last token.
        seconds: f64,
        /// Tokens by seconds.
        tok_per_s: f64,
        /// Tier 2's halo_tier_response.
        receipt_id: ReceiptId,
        /// How many receipts of Tier 2 it seals.
        receipts: u32,
        /// The root over them, as rebuilt from the tokens.
        root: Hash,
    },
    /// An answer that the phone made by itself.
    LocalAnswer {
        /// The whole text; empty if nothing was asked.
        text: String,
    },
    /// The session's seal is in the ledger.
    Sealed {
        /// The session.
        session_id: SessionId,
        /// Tier 1's halo_tier_response.
        receipt_id: ReceiptId,
        /// Who answered.
        answered_by: Answerer,
        /// How many receipts it seals, itself not counted.
        receipts: u32,
        /// The root over them.
        root: Hash,
    },
    /// Something was not authentic; VERIFICATION_FAILED was sent.
    ChainBroken {
        /// The sequence number at which it went wrong.
        first_bad: u32,
        /// What was wrong.
        reason: String,
        /// SHA-256 of what was expected.
        expected: Hash,
        /// SHA-256 of what was found.
        computed: Hash,
    },
    /// The break is recorded under a new epoch, and SESSION_RESET is on its way.
    Relinked {
        /// The new epoch.
        session_epoch: Epoch,
        /// The receipt that records the break.
        receipt_id: ReceiptId,
        /// The last good receipt.
        parent: Option<ReceiptId>,
    },
    /// The connection to the gateway failed or ended; it is tried again.
    Retry {
        /// What happened.
        cause: String,
        /// In how many milliseconds.
        retry_ms: u64,
    },
    /// Something that was asked of the phone was not done.
    Ignored {
        /// For a person.
        message: String,
    },
    /// What went wrong and what to do; the phone cannot go on with it.
    Error {
        /// A stable name.
        code: &'static str,
        /// For a person.
        message: String,
    },
}
