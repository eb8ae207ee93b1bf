//! The operator on a real control plane, with nodes from an EC2 that can be unkind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod conditions;
mod counts;
mod deletion;
mod existing_pool;
mod failover;
mod isolation;
mod keys;
mod kill_anywhere;
mod refusals;
mod support;
mod tenant;
mod trouble;
mod wake_and_sleep;
