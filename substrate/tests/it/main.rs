//! Integration tests: one binary, so that it is linked once.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::type_complexity,
    missing_docs
)]

mod broken;
mod generate;
mod gguf;
mod parity;
mod service;
mod synthetic;
mod template;
mod tokenizer;
