//! The list of metrics against everything that names them, and traces against a collector on loopback.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod dashboards;
mod reference;
mod traces;
