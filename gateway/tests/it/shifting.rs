//! A directory that a test changes, and that remembers what it is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use halo_gateway::config::Limits;
use halo_gateway::directory::{Demand, Directory, PodAddress, Stage, Substrate, Tenant};
use halo_ledger::SqliteLedger;
use halo_receipts::ids::TenantId;
use halo_receipts::payload::ContentPolicy;
use tokio::sync::watch;

use crate::author::tenant;
use crate::pod::{Manner, Pod};
use crate::world::{World, listener, until};

pub struct Shifting {
    tenant: Arc<Tenant>,
    substrate: Mutex<Arc<Substrate>>,
    changes: watch::Sender<()>,
    demands: Mutex<Vec<Demand>>,
}

impl Shifting {
    /// A tenant whose substrate sleeps.
    pub fn new(tenant: Tenant) -> Arc<Self> {
        Arc::new(Self {
            tenant: Arc::new(tenant),
            substrate: Mutex::new(Arc::new(Substrate {
                pods: Vec::new(),
                stage: Stage::Asleep,
                wake_deadline: None,
            })),
            changes: watch::Sender::new(()),
            demands: Mutex::default(),
        })
    }

    fn set(&self, change: impl FnOnce(&mut Substrate)) {
        change(Arc::make_mut(&mut self.substrate.lock().unwrap()));
        self.changes.send_replace(());
    }

    pub fn stage(&self, stage: Stage) {
        self.set(|substrate| (substrate.stage, substrate.pods) = (stage, Vec::new()));
    }

    pub fn pods(&self, pods: &[&PodAddress]) {
        self.set(|substrate| {
            substrate.pods = pods.iter().map(|pod| (*pod).clone()).collect();
            substrate.stage = Stage::Ready;
        });
    }

    pub fn wake_deadline(&self, deadline: Duration) {
        self.set(|substrate| substrate.wake_deadline = Some(deadline));
    }

    pub fn demands(&self) -> Vec<Demand> {
        self.demands.lock().unwrap().clone()
    }

    pub fn demand_now(&self) -> Demand {
        self.demands().last().copied().unwrap_or_default()
    }
}

impl Directory for Shifting {
    fn tenant(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        (*id == tenant()).then(|| Arc::clone(&self.tenant))
    }

    fn substrate(&self, id: &TenantId) -> Option<Arc<Substrate>> {
        (*id == tenant()).then(|| Arc::clone(&self.substrate.lock().unwrap()))
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn demand(&self, id: &TenantId, demand: Demand) {
        assert_eq!(*id, tenant());
        self.demands.lock().unwrap().push(demand);
    }
}

/// A tenant that may ask as often as a test likes.
pub fn policy() -> Tenant {
    Tenant {
        requests_per_minute: 10_000,
        ..Tenant::default()
    }
}

/// Limits that no test meets by being slow.
pub fn patient() -> Limits {
    Limits {
        hold_ms: 60_000,
        pod_close_ms: 300,
        penalty_failures: 0,
        ..Limits::default()
    }
}

/// A gateway with a directory that shifts.
pub async fn shifting(tenant: Tenant, limits: Limits) -> (World, Arc<Shifting>) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = SqliteLedger::open(folder.path().join("ledger.db")).unwrap();
    let directory = Shifting::new(tenant);
    let seen: Arc<dyn Directory> = directory.clone();
    let world = World::of(Arc::new(ledger), folder, seen, limits).await;
    (world, directory)
}

/// A pod that shares the world's ledger, and its address, which the directory does not have yet.
pub async fn pod(world: &World, manner: Manner, permits: usize) -> (Pod, PodAddress) {
    let port = listener().await;
    let address = PodAddress(port.local_addr().unwrap().to_string());
    let content = ContentPolicy::Sealed;
    let pod = Pod::start(port, manner, Arc::clone(&world.ledger), content, permits);
    (pod, address)
}

/// Waits until the directory was told of so many.
pub async fn demand_is(directory: &Shifting, waiting: usize, answering: usize) {
    let wanted = Demand { waiting, answering };
    let what = format!("the demand {wanted:?}");
    until(&what, || directory.demand_now() == wanted).await;
}
