//! Event payloads (protocol sections 4 and 5): what stands beside a receipt and is committed to by its hash.
//!
//! Integers and strings only. What a person said, was shown or was answered is sealed or committed to, never in the clear.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::experts::ExpertSet;
use crate::ids::{Hash, ReceiptId, RequestId};
use crate::keys::{KeyError, PayloadKey};

/// Why a payload was refused.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// Not the JSON that the receipt's kind has.
    #[error("the event payload is not what its receipt's kind has: {0}")]
    Form(#[from] serde_json::Error),
    /// JSON that is not in its one canonical spelling.
    #[error("the event payload is not RFC 8785 JSON")]
    NotCanonical,
    /// Sealed content that does not open.
    #[error(transparent)]
    Sealed(#[from] KeyError),
    /// The tenant keeps no text: only a commitment stands here.
    #[error("the payload holds a commitment, not sealed content")]
    Omitted,
    /// Receipts and payloads that do not belong together.
    #[error("each receipt needs its own payload beside it, and a sensor capture none")]
    Unpaired,
    /// Sealed content that is not base64url without padding.
    #[error("the sealed content is not base64url without padding")]
    NotBase64,
}

/// RFC 8785 JSON of `value`.
pub fn to_canonical(value: &impl Serialize) -> Result<Vec<u8>, PayloadError> {
    match serde_json_canonicalizer::to_vec(value) {
        Ok(bytes) => Ok(bytes),
        // The canonicalizer refuses the raw JSON as which documents carry receipts; a general value holds none.
        Err(_) => Ok(serde_json_canonicalizer::to_vec(&serde_json::to_value(
            value,
        )?)?),
    }
}

/// Reads canonical JSON strictly: unknown and repeated fields are errors by the types, another spelling by writing it again.
pub fn from_canonical<T: Serialize + for<'de> Deserialize<'de>>(
    bytes: &[u8],
) -> Result<T, PayloadError> {
    let value: T = serde_json::from_slice(bytes)?;
    if to_canonical(&value)? == bytes {
        Ok(value)
    } else {
        Err(PayloadError::NotCanonical)
    }
}

/// A payload as raw canonical JSON, for a document that carries it on.
pub fn to_raw(payload: &[u8]) -> Result<Box<RawValue>, PayloadError> {
    let text = std::str::from_utf8(payload).map_err(|_| PayloadError::NotCanonical)?;
    Ok(RawValue::from_string(text.to_owned())?)
}

/// Whether a tenant's private content is kept sealed, or only committed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentPolicy {
    /// Kept, readable for whoever holds the SESSION_KEY.
    #[default]
    Sealed,
    /// Kept nowhere; a commitment stands in its place.
    Omit,
}

/// Private content as it stands in a payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Private {
    /// base64url without padding of ChaCha20-Poly1305 under the tier's PAYLOAD_KEY.
    Sealed(String),
    /// HMAC-SHA256(PAYLOAD_KEY, plaintext), hex.
    Commitment(Hash),
}

impl Private {
    /// Seals `content` for the receipt `id`, or commits to it, as the tenant chose.
    pub fn new(
        content: &impl Serialize,
        policy: ContentPolicy,
        key: &PayloadKey,
        id: &ReceiptId,
    ) -> Result<Self, PayloadError> {
        let plaintext = Zeroizing::new(to_canonical(content)?);
        Ok(match policy {
            ContentPolicy::Sealed => {
                Private::Sealed(URL_SAFE_NO_PAD.encode(key.seal(id, &plaintext)))
            }
            ContentPolicy::Omit => Private::Commitment(Hash(key.commit(&plaintext))),
        })
    }

    /// Opens sealed content.
    pub fn open<T: Serialize + for<'de> Deserialize<'de>>(
        &self,
        key: &PayloadKey,
        id: &ReceiptId,
    ) -> Result<T, PayloadError> {
        match self {
            Private::Sealed(text) => {
                let sealed = URL_SAFE_NO_PAD
                    .decode(text)
                    .map_err(|_| PayloadError::NotBase64)?;
                from_canonical(&key.open(id, &sealed)?)
            }
            Private::Commitment(_) => Err(PayloadError::Omitted),
        }
    }
}

/// The version of every payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct V1;

impl Serialize for V1 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(1)
    }
}

impl<'de> Deserialize<'de> for V1 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            1 => Ok(V1),
            _ => Err(serde::de::Error::custom("the version is not 1")),
        }
    }
}

/// Declares a payload whose private content is one field named `sealed` or `commitment`. A plain `#[serde(flatten)]`
/// would give up the refusal of unknown fields, so both are optional fields. One of them is there, and never both;
/// a kind that is declared `optional` may also have neither.
macro_rules! with_private {
    ($presence:ident; $(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        pub struct $name {
            /// The payload's version.
            pub v: V1,
            $($(#[$field_doc])* pub $field: $type,)*
            #[serde(skip_serializing_if = "Option::is_none")]
            sealed: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            commitment: Option<Hash>,
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                /// The same fields, before it is known whether they go together.
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Fields {
                    v: V1,
                    $($(#[$field_doc])* $field: $type,)*
                    #[serde(default)]
                    sealed: Option<String>,
                    #[serde(default)]
                    commitment: Option<Hash>,
                }
                let fields = Fields::deserialize(deserializer)?;
                presence::$presence(fields.sealed.is_some(), fields.commitment.is_some())
                    .map_err(serde::de::Error::custom)?;
                Ok(Self {
                    v: fields.v,
                    $($field: fields.$field,)*
                    sealed: fields.sealed,
                    commitment: fields.commitment,
                })
            }
        }

        impl $name {
            /// The same payload with this private content.
            #[must_use]
            pub fn with_private(mut self, private: Private) -> Self {
                (self.sealed, self.commitment) = match private {
                    Private::Sealed(text) => (Some(text), None),
                    Private::Commitment(hash) => (None, Some(hash)),
                };
                self
            }

            /// The private content, if there is any.
            pub fn private(&self) -> Option<Private> {
                match (&self.sealed, &self.commitment) {
                    (Some(text), None) => Some(Private::Sealed(text.clone())),
                    (None, Some(hash)) => Some(Private::Commitment(*hash)),
                    _ => None,
                }
            }
        }
    };
}

/// Which of `sealed` and `commitment` a payload may have.
mod presence {
    /// One of the two.
    pub fn required(sealed: bool, commitment: bool) -> Result<(), &'static str> {
        match (sealed, commitment) {
            (false, false) => Err("sealed or commitment is missing"),
            _ => optional(sealed, commitment),
        }
    }

    /// One of the two, or neither.
    pub fn optional(sealed: bool, commitment: bool) -> Result<(), &'static str> {
        match (sealed, commitment) {
            (true, true) => Err("sealed and commitment exclude each other"),
            _ => Ok(()),
        }
    }
}

/// What Tier 1 decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It answers by itself.
    Local,
    /// The substrate answers.
    Escalate,
    /// The chain broke, and this records it.
    VerificationFailed,
}

with_private! { optional;
    /// Payload of halo_tier_routing. Private: [`RoutingContent`], for an escalation and for a local answer.
    pub struct Routing {
        /// What was decided.
        pub decision: Decision,
        /// Why, in words that name the rule that fired or the break that was found; never what a person said.
        pub reason: String,
        /// Which classifier decided, with its version.
        pub classifier: String,
        /// The request that this decision opens; none when it records a break.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub request_id: Option<RequestId>,
        /// The break that this records.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub break_found: Option<BreakFound>,
    }
}

impl Routing {
    /// A decision without private content.
    pub fn new(decision: Decision, reason: &str, classifier: &str) -> Self {
        Self {
            v: V1,
            decision,
            reason: reason.to_owned(),
            classifier: classifier.to_owned(),
            request_id: None,
            break_found: None,
            sealed: None,
            commitment: None,
        }
    }
}

/// What Tier 1 saw when the chain broke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakFound {
    /// The epoch whose stream broke.
    pub epoch: crate::ids::Epoch,
    /// The sequence number at which it went wrong.
    pub first_bad: u32,
    /// The name of the reason.
    pub reason: String,
    /// SHA-256 of what was expected.
    pub expected: Hash,
    /// SHA-256 of what was found.
    pub computed: Hash,
}

/// The private content of a routing decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutingContent {
    /// What was asked.
    pub prompt: String,
    /// SHA-256 of the prompt's UTF-8 bytes.
    pub prompt_sha256: Hash,
}

impl RoutingContent {
    /// The content for this prompt.
    pub fn new(prompt: &str) -> Self {
        Self {
            prompt: prompt.to_owned(),
            prompt_sha256: Hash::of(prompt.as_bytes()),
        }
    }
}

/// Payload of halo_expert_load: the experts of one decode step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertLoad {
    /// The payload's version.
    pub v: V1,
    /// Counts within the answer; step 0 is the prompt's pass.
    pub step: u32,
    /// The experts that the step activated.
    pub experts: ExpertSet,
    /// Those of them that were read from storage for it; left out when there were none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub loaded: Option<ExpertSet>,
    /// What computes; in the first step of an answer only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<ModelIdentity>,
}

/// What computed an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelIdentity {
    /// The model's name.
    pub name: String,
    /// A digest over its weights, as spec.md defines it.
    pub weights_sha256: Hash,
    /// SHA-256 of the program that ran.
    pub build_sha256: Hash,
}

with_private! { required;
    /// Payload of halo_token_emit. Private: [`TokenContent`].
    pub struct TokenEmit {
        /// The step that made the token.
        pub step: u32,
    }
}

impl TokenEmit {
    /// The token of one step.
    pub fn new(step: u32, private: Private) -> Self {
        let bare = Self {
            v: V1,
            step,
            sealed: None,
            commitment: None,
        };
        bare.with_private(private)
    }
}

/// The private content of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenContent {
    /// The token's id in the vocabulary.
    pub token_id: u32,
    /// The text that became whole with it.
    pub text: String,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerStatus {
    /// It is whole.
    Ok,
    /// It was refused before anything was computed.
    Refused,
    /// It broke off: cancelled, or its pod was lost.
    Interrupted,
}

/// The root over one stored block of an answer's receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockRoot {
    /// The number in stream `s` of the block's first receipt.
    pub first: u32,
    /// How many receipts of this answer the block holds.
    pub count: u32,
    /// The RFC 6962 root over them.
    pub root: Hash,
}

with_private! { required;
    /// Payload of Tier 2's halo_tier_response: the seal of one answer. Private: [`AnswerContent`].
    pub struct SubstrateResponse {
        /// The request that is answered.
        pub request_id: RequestId,
        /// How it ended.
        pub status: AnswerStatus,
        /// Why generation stopped: `stop`, `length`, `context`, `cancelled`, `draining`, `lost`.
        pub finish: String,
        /// The model's name.
        pub model: String,
        /// Tokens of the prompt.
        pub prompt_tokens: u32,
        /// Tokens of the answer.
        pub completion_tokens: u32,
        /// The number of Tier 2 receipts of the answer before this one.
        pub receipts: u32,
        /// The number in stream `s` of the first of them.
        pub first: u32,
        /// The ids of the first and the last of them.
        pub first_receipt_id: Option<ReceiptId>,
        /// The id of the last of them.
        pub last_receipt_id: Option<ReceiptId>,
        /// The RFC 6962 root over them.
        pub root: Hash,
        /// The root of each stored block of them.
        pub blocks: Vec<BlockRoot>,
    }
}

/// What a substrate response says in the clear.
#[derive(Debug, Clone)]
pub struct SubstrateSeal {
    /// The request that is answered.
    pub request_id: RequestId,
    /// How it ended.
    pub status: AnswerStatus,
    /// Why generation stopped.
    pub finish: String,
    /// The model's name.
    pub model: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// The number in stream `s` of the answer's first receipt.
    pub first: u32,
    /// The ids of the first and last receipt of the answer.
    pub ids: Option<(ReceiptId, ReceiptId)>,
    /// The number of receipts of the answer.
    pub receipts: u32,
    /// The root over them.
    pub root: Hash,
    /// The roots of their blocks.
    pub blocks: Vec<BlockRoot>,
}

impl SubstrateResponse {
    /// The seal of one answer, with its private content.
    pub fn new(seal: SubstrateSeal, private: Private) -> Self {
        let bare = Self {
            v: V1,
            request_id: seal.request_id,
            status: seal.status,
            finish: seal.finish,
            model: seal.model,
            prompt_tokens: seal.prompt_tokens,
            completion_tokens: seal.completion_tokens,
            receipts: seal.receipts,
            first: seal.first,
            first_receipt_id: seal.ids.map(|(first, _)| first),
            last_receipt_id: seal.ids.map(|(_, last)| last),
            root: seal.root,
            blocks: seal.blocks,
            sealed: None,
            commitment: None,
        };
        bare.with_private(private)
    }
}

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answerer {
    /// The orchestrator itself.
    Local,
    /// The substrate.
    Substrate,
}

with_private! { required;
    /// Payload of Tier 1's halo_tier_response: the seal of everything before it. Private: [`AnswerContent`].
    pub struct OrchestratorResponse {
        /// How the answer ended.
        pub status: AnswerStatus,
        /// Who answered.
        pub answered_by: Answerer,
        /// The number of all receipts before this one, in ledger order.
        pub receipts: u32,
        /// How many of them stand in stream `d`; this receipt's own number in it.
        pub device_receipts: u32,
        /// How many of them stand in stream `s`.
        pub substrate_receipts: u32,
        /// The RFC 6962 root over them: stream `d` by number, then stream `s` by number.
        pub root: Hash,
    }
}

impl OrchestratorResponse {
    /// The seal over `device` receipts of stream `d` and `substrate` receipts of stream `s`.
    pub fn new(
        status: AnswerStatus,
        answered_by: Answerer,
        device: u32,
        substrate: u32,
        root: Hash,
        private: Private,
    ) -> Self {
        let bare = Self {
            v: V1,
            status,
            answered_by,
            receipts: device.saturating_add(substrate),
            device_receipts: device,
            substrate_receipts: substrate,
            root,
            sealed: None,
            commitment: None,
        };
        bare.with_private(private)
    }
}

/// The private content of an answer. The substrate commits to the output by its hash, as the text stands in the tokens;
/// the orchestrator also keeps the text, which for a local answer stands nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerContent {
    /// SHA-256 of the whole output's UTF-8 bytes.
    pub output_sha256: Hash,
    /// The whole output; the substrate leaves it out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output: Option<String>,
}
