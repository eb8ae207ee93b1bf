//! Metrics of the ledger.

use super::Component;

/// The ledger.
pub const COMPONENT: Component = Component {
    name: "ledger",
    served: "every program that writes the ledger, beside its own metrics",
    metrics: &[],
};
