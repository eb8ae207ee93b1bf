//! The HALO protocol, pure: keys, frames, links, receipts, chain, seal, verdict.
//!
//! No I/O, no clock, no async and no randomness of its own: callers bring the time and random bytes. `spec.md` beside this
//! crate is the document for whoever implements a device or a verifier without this code.

pub mod attribution;
pub mod bundle;
pub mod chain;
pub mod documents;
pub mod evidence;
pub mod experts;
pub mod fragment;
pub mod frame;
pub mod hex;
pub mod ids;
pub mod keyring;
pub mod keys;
pub mod link;
pub mod merkle;
pub mod messages;
pub mod opening;
pub mod payload;
pub mod receipt;
pub mod reset;
pub mod time;
pub mod verdict;
