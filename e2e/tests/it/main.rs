//! Tests of the whole system: the four machines in a simulation, and the demo as processes.

#![allow(clippy::unwrap_used, clippy::panic)]

mod demo;
mod live_verify;
mod simulation;
mod traces;
mod use_cases;
