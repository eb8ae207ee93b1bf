//! The device's front door: opens sessions and epochs, verifies every frame and every bundle, records receipts of tiers 0
//! and 1, holds a request until a substrate is there, and relays its answer.
//!
//! What decides is pure: [`session`], [`bundle`], [`opening`], [`upstream`], [`stored_answer`] and [`limits`] take the time
//! and what they need as arguments. The edges are named for what they touch: [`http`], [`server`], [`websocket`],
//! [`device`], [`substrate`]. In a cluster, [`cluster`] says who is served, under which keys and where pods are.

mod answer_ledger;
pub mod answer_task;
pub mod answers;
pub mod bundle;
pub mod certificate;
pub mod cluster;
pub mod config;
pub mod credential;
pub mod device;
pub mod directory;
pub mod gateway;
pub mod hold;
pub mod http;
pub mod keyring;
pub mod limits;
pub mod metrics;
pub mod opening;
pub mod seats;
pub mod server;
pub mod session;
pub mod stored_answer;
pub mod substrate;
pub mod system;
pub mod upstream;
pub mod websocket;
