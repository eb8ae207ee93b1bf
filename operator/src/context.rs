//! What every reconcile works with.

use std::sync::Arc;

use halo_cloud::Cloud;

use crate::clock::Clock;
use crate::effect::Witness;
use crate::nodes::capacity::CapacityMemory;
use crate::nodes::fleet::Fleet;
use crate::nodes::permissions::Permissions;
use crate::runtime::apply::Writer;
use crate::runtime::caches::Caches;
use crate::runtime::events::Events;
use crate::runtime::metrics::Metrics;
use crate::settings::Settings;
use crate::tenant::keys::RootStore;

/// What every reconcile works with. Built once at the start.
pub struct Context {
    /// What the operator was told.
    pub settings: Settings,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Reads from watches.
    pub caches: Arc<Caches>,
    /// Writes to the API server.
    pub writer: Writer,
    /// The cloud.
    pub cloud: Arc<dyn Cloud>,
    /// What the cloud had when it was last looked at.
    pub fleet: Arc<Fleet>,
    /// Which types have no capacity where.
    pub capacity: Arc<CapacityMemory>,
    /// Which IAM actions pools lack.
    pub permissions: Permissions,
    /// Root secrets, in memory only.
    pub roots: Arc<RootStore>,
    /// Events of objects.
    pub events: Events,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Sees every effect.
    pub witness: Arc<dyn Witness>,
}
