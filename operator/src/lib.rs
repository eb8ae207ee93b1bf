//! The operator of HALO: `HaloTenant` and `HaloSubstrate` become namespaces, keys, policies, pods and nodes, and go again.
//!
//! Both kinds walk `dereference -> validate -> plan -> apply -> status`. What decides is pure ([`substrate::plan`], [`nodes::plan`],
//! [`tenant::plan`]); what touches the API server or the cloud is at the edge and passes through [`effect`].

pub mod context;
pub mod effect;
pub mod nodes;
pub mod runtime;
pub mod settings;
pub mod substrate;
pub mod tenant;
