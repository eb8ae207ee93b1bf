//! The demo: the product's own programs on one machine, a whole conversation, and damage that must be found.

pub mod demo;
pub mod processes;
pub mod tamper;
