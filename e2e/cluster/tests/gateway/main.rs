//! The gateway on a real API server, with the rights that it has when it is deployed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod counts;
mod demand;
mod devices;
mod endpoints;
mod keys;
mod support;
mod trouble;
