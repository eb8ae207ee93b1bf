//! What goes into a session machine and what comes out of it.

use halo_receipts::documents::{EndCode, EndStatus, Operation};
use halo_receipts::evidence::{Block, Evidence};
use halo_receipts::frame::FrameType;
use halo_receipts::ids::RequestId;

/// Something that happened to the connection.
pub enum Event<'a> {
    /// A binary message of the device.
    Message(&'a [u8]),
    /// A message that is no frame at all: text, or a flood of pings.
    Foreign(&'static str),
    /// Whether the request may go on.
    Admitted(Result<(), Refusal>),
    /// What the ledger holds of the session, or that it could not be read.
    Evidence(Result<Box<Evidence>, String>),
    /// What became of the blocks.
    Written(Result<(), WriteError>),
    /// Whether the answer was begun or found.
    Started(Result<(), Refusal>),
    /// The payload of a token or of a notice, for the device.
    Token(&'a [u8]),
    /// The document that ends the request.
    Ended(&'a [u8]),
    /// The gateway shuts down, and no request is under way any more.
    Shutdown,
}

/// A request that is not served now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: EndCode,
    /// When to try again, in milliseconds.
    pub retry_after_ms: Option<u32>,
}

/// Why blocks were not written.
#[derive(Debug)]
pub enum WriteError {
    /// Another writer was faster: the ledger has to be read again.
    Conflict,
    /// The ledger did not take them.
    Unavailable(String),
}

/// Something to do. They are to be done in order.
#[derive(Debug)]
pub enum Action {
    /// Send a frame to the device.
    Send(Vec<u8>),
    /// Say whether a request of this kind may go on ([`Event::Admitted`]).
    Admit(Operation),
    /// Read the session from the ledger ([`Event::Evidence`]).
    Read,
    /// Append the blocks in order ([`Event::Written`]).
    Append(Vec<Block>),
    /// Have a pod answer ([`Event::Started`], then tokens and an end).
    Ask(Ask),
    /// Find the answer, running or stored ([`Event::Started`], then tokens and an end).
    Resume {
        /// Whose answer.
        request_id: RequestId,
        /// The first step that the device does not have.
        from_step: u32,
    },
    /// Close the connection.
    Close(CloseReason),
    /// Count something.
    Count(Count),
}

/// A request for a pod.
#[derive(Debug)]
pub struct Ask {
    /// The request.
    pub request_id: RequestId,
    /// The document as the device wrote it.
    pub document: Vec<u8>,
    /// The most tokens that it asks for.
    pub max_tokens: u32,
    /// The number of the next link to a pod in this epoch.
    pub next_link: u32,
}

/// Why the gateway closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Too many refused messages.
    Refusals,
    /// The gateway shuts down.
    Shutdown,
    /// No more sequence numbers: a new epoch is needed.
    Exhausted,
}

/// Something for a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// An accepted frame.
    Accepted(FrameType),
    /// A refused message, with the name of the reason.
    Refused(&'static str),
    /// A refused bundle, with the name of the reason.
    Bundle(&'static str),
    /// Something signed that did not verify: a device's bundle, or what the ledger holds.
    Integrity(&'static str),
    /// A recorded receipt that tells of a broken sensor link.
    Reset,
    /// The device was asked to pause.
    Pause,
    /// A request that ended, with its operation.
    Request(Operation, EndStatus, EndCode),
}
