//! A real Kubernetes control plane for tests: etcd and the API server, and where asked for the controllers, the
//! scheduler, and nodes that have no kubelet.
//!
//! ```no_run
//! # async fn test() -> Result<(), halo_e2e_cluster::Error> {
//! use halo_e2e_cluster::{ControlPlane, FakeNodes, NodeSpec, Options};
//!
//! let plane = ControlPlane::start(Options { crds: halo_crds::all(), ..Options::full() }).await?;
//! let nodes = FakeNodes::start(&plane).await?;
//! nodes.boot(NodeSpec::new("node-0"));
//! let client = plane.client_named("my-test").await?;
//! // ...
//! assert_eq!(plane.requests_by("my-test")?.len(), 0);
//! # Ok(())
//! # }
//! ```
//!
//! The binaries are those of the folder that `KUBEBUILDER_ASSETS` names or, where it is not set, are built once with Go and kept in
//! `${XDG_CACHE_HOME:-$HOME/.cache}/halo/kubernetes`. Everything listens on loopback only, everything ends with the test process, even when that
//! is killed, and nothing needs root.

#![allow(
    clippy::panic,
    reason = "this library serves tests, whose conditions fail by panicking"
)]

mod access;
mod arguments;
mod assets;
mod audit;
mod clients;
mod control_plane;
mod crds;
mod error;
mod eventually;
mod fake_nodes;
mod go_modules;
mod metrics;
mod options;
mod pki;
mod ports;
pub mod real;
mod supervise;

pub use assets::{Assets, HELM_VERSION, KUBERNETES_VERSION};
pub use audit::{Mark, Request};
pub use control_plane::{AT_ONCE, ControlPlane};
pub use crds::{install, install_crds};
pub use error::Error;
pub use eventually::eventually;
pub use fake_nodes::{FakeNodes, Hold, NodeSpec, Step};
pub use go_modules::GoModule;
pub use metrics::RequestKind;
pub use options::{Controllers, Options};
