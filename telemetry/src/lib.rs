//! What HALO's programs tell of themselves.
//!
//! [`metrics`] is the one list of every metric: its name, type, labels, meaning, and who acts on it. Programs can only register what
//! stands there, through [`registry::Maker`]; the reference in `docs/`, the dashboard and the alerts are made from it or checked
//! against it.

pub mod metrics;
pub mod registry;
