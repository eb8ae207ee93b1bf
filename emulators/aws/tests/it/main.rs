//! The emulator: tables for the world, properties of the codecs, raw requests over HTTP, restarts, real child processes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod account;
mod codecs;
mod describing;
mod faults;
mod hook;
mod http;
mod invariants;
mod launching;
mod library;
mod life;
mod limits;
mod parameters;
mod restart;
mod signatures;
mod volumes;
mod wire;
