//! Metrics of the substrate.

use super::Component;

/// The substrate.
pub const COMPONENT: Component = Component {
    name: "substrate",
    served: "`halo-substrate` on its port",
    metrics: &[],
};
