//! The charts: rendered, linted and installed by the real helm.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod cluster;
mod files;
mod golden;
mod helm;
mod install;
mod operators;
mod wrong;
