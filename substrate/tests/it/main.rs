//! Integration tests: one binary, so that it is linked once.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod parity;
mod synthetic;
