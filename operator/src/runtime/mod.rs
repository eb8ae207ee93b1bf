//! The operator's own small runtime: watches that feed slim caches, a work queue, workers, a lease, and one door for writes.
//!
//! What decides is pure and takes the time as an argument ([`backlog`], [`lease::evaluate`], [`ownership`]); the rest is thin.

pub mod apply;
pub mod backlog;
pub mod caches;
pub mod clients;
pub mod controller;
pub mod crd_check;
pub mod drain;
pub mod election;
pub mod events;
mod feed;
pub mod http;
mod intent;
pub mod kinds;
pub mod lease;
pub mod managers;
pub mod metrics;
pub mod operator;
pub mod ownership;
pub mod queue;
pub mod records;
pub mod route;
pub mod store;
pub mod touched;
pub mod watch;
mod work;
pub mod write_error;

#[cfg(test)]
mod testing;
