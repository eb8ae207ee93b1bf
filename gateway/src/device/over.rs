//! How a device connection ends, and what that means for the answer that it was reading.

use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::session::CloseReason;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// The device closed it: it asks no longer.
    Closed,
    /// It broke: the device may come back.
    Broken,
    /// The device did not take what it was sent.
    Slow,
    /// No sign of life.
    Silent,
    /// The device opened a newer epoch.
    Superseded,
    /// The WebSocket protocol was broken, with the close code.
    Protocol(CloseCode),
    /// The machine closed it.
    Machine(CloseReason),
}

impl Over {
    /// A stable name for metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Over::Closed => "closed",
            Over::Broken => "broken",
            Over::Slow => "slow",
            Over::Silent => "silent",
            Over::Superseded => "superseded",
            Over::Protocol(_) => "protocol",
            Over::Machine(CloseReason::Refusals) => "refusals",
            Over::Machine(CloseReason::Shutdown) => "shutdown",
            Over::Machine(CloseReason::Exhausted) => "exhausted",
        }
    }

    /// What the device is told, if it hears anything.
    pub(super) fn code(self) -> Option<(CloseCode, &'static str)> {
        match self {
            Over::Closed | Over::Broken | Over::Slow => None,
            Over::Silent => Some((CloseCode::Policy, "no sign of life")),
            Over::Superseded => Some((CloseCode::Normal, "a newer epoch is open")),
            Over::Protocol(code) => Some((code, "")),
            Over::Machine(CloseReason::Refusals) => Some((CloseCode::Policy, "refused")),
            Over::Machine(CloseReason::Shutdown) => Some((CloseCode::Restart, "shutting down")),
            Over::Machine(CloseReason::Exhausted) => Some((CloseCode::Again, "open a new epoch")),
        }
    }

    /// Whether the answer that the device was reading is to go on for a while.
    pub(super) fn may_come_back(self) -> bool {
        match self {
            Over::Broken | Over::Slow | Over::Silent | Over::Superseded => true,
            Over::Closed | Over::Protocol(_) => false,
            Over::Machine(reason) => reason != CloseReason::Refusals,
        }
    }
}
