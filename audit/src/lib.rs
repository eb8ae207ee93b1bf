//! What an auditor runs: `halo-verify` reads a session from a ledger or a bundle, and prints the verdict.
//!
//! The verdict itself is [`halo_receipts::verdict`], pure. Here are its edges: where evidence and keys come from
//! ([`source`], [`keyfile`]), how the verdict is written ([`report`]), and the conversation for whoever has the key
//! ([`replay`]).

pub mod cli;
pub mod error;
pub mod keyfile;
pub mod many;
pub mod replay;
pub mod report;
pub mod run;
pub mod source;
