//! What HALO's programs tell of themselves.
//!
//! [`metrics`] is the one list of every metric: its name, type, labels, meaning, and who acts on it. Programs can only register what
//! stands there, through [`registry::Maker`]; the reference in `docs/`, the dashboard and the alerts are made from it or checked
//! against it. [`logs`] and [`traces`] are the flags and the form of the other two signals.

#[cfg(feature = "logs")]
pub mod logs;
pub mod metrics;
#[cfg(feature = "reference")]
pub mod reference;
pub mod registry;
#[cfg(feature = "traces")]
pub mod traces;
