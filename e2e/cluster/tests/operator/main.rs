//! The operator on a real control plane, with nodes from an EC2 that can be unkind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod support;
mod wake_and_sleep;
