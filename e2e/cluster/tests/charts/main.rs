//! The charts: rendered, linted and installed by the real helm.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod files;
mod golden;
mod helm;
mod install;
mod wrong;
