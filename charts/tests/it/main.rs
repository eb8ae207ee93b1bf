//! What the charts write is what the programs read: flags, environment and configuration files of the rendered charts (`golden/`) go
//! through the programs' own parsers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod chart;
mod gateway;
mod operator;
mod rendered;
mod session_test;
