//! The AWS clients against servers on loopback: one that says what it is told, and the emulator.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a failed test panics"
)]

mod batching;
mod chain;
mod emulated;
mod errors;
mod garbage;
mod lists;
mod parameters;
mod permissions;
mod quiet;
mod retries;
mod script;
mod volumes;
