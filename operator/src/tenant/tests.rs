//! Tables for what is pure, and the root store on a parameter store that counts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod cleanup;
mod isolation;
mod keys;
mod roots;
mod status;
mod validate;
mod worlds;
