//! What holds for any input: codecs, links, documents, sealed content, opening; and a table for every chain rule.
#![allow(clippy::unwrap_used, clippy::panic)]

mod chain;
mod documents;
mod keyrings;
mod links;
mod messages;
mod opening;
mod payloads;

#[path = "../support/golden.rs"]
mod golden;
