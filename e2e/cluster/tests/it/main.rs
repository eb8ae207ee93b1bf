//! The harness itself, and the rules of the custom resources, on a real API server.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod control_plane;
mod crds;
mod fake_nodes;

/// An object from JSON.
fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}
