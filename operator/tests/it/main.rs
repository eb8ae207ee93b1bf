//! The operator on a real API server. One binary, so that it is linked once.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a failed test panics"
)]

mod bench;
mod tenant;
