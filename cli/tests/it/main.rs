//! `halo` against real servers on loopback: TLS that is wrong, ports that never answer, the AWS emulator, DynamoDB Local, an API server
//! with a script, a gateway.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod aws;
mod docs;
mod kubernetes;
mod network;
mod program;
mod servers;
mod session;
mod table;
