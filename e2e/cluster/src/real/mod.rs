//! A whole Kubernetes cluster on this machine, without a container engine: the control plane of this crate, and nodes that are
//! real kubelets, each with its own containerd, pod network, cgroups, processes and mounts.
//!
//! Everything happens in the network namespace that the caller is in; [`nest`] makes one that takes all of it along when it
//! ends. Needs root and what [`requirements`] names.

mod boot;
mod cgroups;
mod cluster;
mod elf;
mod hook;
mod network;
mod node;
mod oci;
mod user_data;

pub mod nest;
pub mod requirements;

pub use boot::node_init;
pub use cluster::{CLUSTER_ADDRESS, Joined, RealCluster, RealOptions};
pub use hook::run_node;
