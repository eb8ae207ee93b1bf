//! Metrics of the gateway.

use super::Component;

/// The gateway.
pub const COMPONENT: Component = Component {
    name: "gateway",
    served: "`halo-gateway` on its admin port",
    metrics: &[],
};
