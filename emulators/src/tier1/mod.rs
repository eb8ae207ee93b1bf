//! Tier 1: the orchestrator. `machine` decides, with the parts of one decision in modules of their own; `serve` and what it
//! uses connect it to the sensor, the gateway and the classifier.

mod answer;
mod capture;
pub mod classifier;
pub mod classify;
pub mod client;
mod gateway;
pub mod load;
pub mod local;
pub mod machine;
mod outbox;
mod phone;
pub mod report;
mod requests;
mod routing;
pub mod serve;
mod session;
pub mod transcribe;
mod wire;
