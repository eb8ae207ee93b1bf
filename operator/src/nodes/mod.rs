//! Nodes of an EC2 pool: one slot for each pod, one instance for each slot.
//!
//! [`plan`] is pure: from slots as they are recorded, instances, nodes, pods and the time it makes slots as they should be recorded
//! and the actions that follow. The record is written before an action is done, so that a crash between two loses nothing.
//! [`settle`] is pure as well: it folds what came of an action back into the record. [`act`] and [`fleet`] touch the cloud.

pub mod act;
pub mod adopt;
pub mod capacity;
pub mod disks;
pub mod fleet;
pub mod garbage;
pub mod launch;
pub mod permissions;
pub mod plan;
pub mod settle;
pub mod slots;
pub mod supply;
pub mod tags;
pub mod user_data;
pub mod work;

#[cfg(test)]
mod model;
#[cfg(test)]
mod model_operator;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod rest_tests;
#[cfg(test)]
mod settle_tests;
#[cfg(test)]
mod testing;
