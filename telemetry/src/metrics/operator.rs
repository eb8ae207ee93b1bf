//! Metrics of the operator.

use super::Component;

/// The operator.
pub const COMPONENT: Component = Component {
    name: "operator",
    served: "`halo-operator` on its HTTP port",
    metrics: &[],
};
