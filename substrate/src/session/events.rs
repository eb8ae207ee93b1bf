//! What happens to a link, and what it asks for.

use halo_receipts::documents::{EndCode, EndStatus};
use halo_receipts::evidence::{Block, Evidence};
use halo_receipts::ids::ReceiptId;
use halo_receipts::payload::ModelIdentity;

use crate::generate::{Params, StepOutput};

/// Refused messages after which a link is closed, unless told otherwise.
pub const REFUSALS_MAX: u32 = 16;
/// Blocks that may wait for the ledger before no further step is taken.
pub const BLOCKS_WAITING: u32 = 4;
/// WebSocket close code: the messages are not what the protocol says.
pub const CLOSE_REFUSED: u16 = 1008;
/// WebSocket close code: the pod shuts down, connect elsewhere.
pub const CLOSE_DRAIN: u16 = 1012;

/// What a link is told about the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// What stands in the first receipt of each answer.
    pub identity: ModelIdentity,
    /// Tokens that a prompt and its answer may have together.
    pub context_limit: usize,
}

/// What a generator is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// How to answer it.
    pub params: Params,
}

/// Why the session could not be read for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unprepared {
    /// Another link of the session has an answer under way in this pod.
    Busy,
    /// The ledger does not answer, or does not know the session.
    Ledger,
}

/// What happens to a link.
#[derive(Debug)]
pub enum Event {
    /// A binary message came. (A text message is an empty one: no frame either.)
    Message(Vec<u8>),
    /// The answer to `Prepare`: the session is this link's until `Release`, and the ledger holds this of it.
    Prepared(Box<Evidence>),
    /// The answer to `Prepare`: it could not be done.
    Unprepared(Unprepared),
    /// The answer to `Encode`; `None` if the model's template or tokenizer refuses the prompt.
    Encoded(Option<Vec<u32>>),
    /// The job waits.
    Queued {
        /// Jobs that have to end or start before it: 1 for the next in line.
        position: u32,
        /// Estimated time until it starts, in milliseconds; 0 if unknown.
        eta_ms: u32,
    },
    /// The job was not taken.
    Rejected {
        /// Why.
        code: EndCode,
        /// When to try again.
        retry_after_ms: u32,
    },
    /// Computing begins.
    Started,
    /// The engine made a token.
    Step(StepOutput),
    /// The engine failed; no further step follows.
    Failed,
    /// The oldest block that was handed over is durable.
    Appended,
    /// The oldest block that was handed over is lost, and those after it.
    AppendFailed,
    /// The time of [`LinkSession::deadline`](super::LinkSession::deadline) has come.
    Tick,
    /// The connection is gone.
    Closed,
    /// Finish what is computed, begin nothing new.
    Drain,
    /// Break off what is computed.
    Interrupt,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Send a frame.
    Send(Vec<u8>),
    /// Reserve the session in this pod, then read it from the ledger.
    Prepare,
    /// Turn a prompt into tokens.
    Encode {
        /// The prompt.
        prompt: String,
    },
    /// Make an answer.
    Generate(Job),
    /// Stop making it.
    Cancel,
    /// Append a block to the session.
    Append(Block),
    /// Give the session free.
    Release {
        /// How the request ended.
        status: EndStatus,
        /// Why.
        code: EndCode,
        /// The seal of its answer, if there is one.
        seal: Option<ReceiptId>,
    },
    /// Count a refused message or request under this reason.
    Refused(&'static str),
    /// Log an error; it holds nothing private.
    Log(String),
    /// Send what is to be sent, then close the connection with this code.
    Close(u16),
}
