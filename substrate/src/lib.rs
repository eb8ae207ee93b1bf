//! The HALO inference pod.
//!
//! A prompt walks through [`template`] (the model's chat template), [`tokenizer`], [`generate`] (one step at a time)
//! and [`engine`] (the seam behind which the arithmetic lives); [`model`] loads weights and holds the reference engine.
//!
//! A gateway's link walks through [`session`], which checks what it brings ([`bundle`]) and signs what it gets ([`answer`]).

pub mod answer;
pub mod bundle;
pub mod engine;
pub mod generate;
pub mod http;
pub mod keys;
pub mod metrics;
pub mod model;
pub mod pod;
pub mod sampling;
pub mod session;
pub mod stream;
pub mod template;
pub mod threads;
pub mod tokenizer;
pub mod worker;
