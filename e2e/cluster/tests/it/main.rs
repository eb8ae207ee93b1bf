//! The harness itself, and the rules of the custom resources, on a real API server.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod control_plane;
