//! Tier 1: the orchestrator. `machine` decides, with the parts of one decision in modules of their own; the others connect
//! it to the sensor, the gateway and the classifier.

mod answer;
mod capture;
pub mod classify;
mod gateway;
pub mod local;
pub mod machine;
mod outbox;
pub mod report;
mod requests;
mod routing;
mod session;
