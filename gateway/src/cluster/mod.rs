//! Tenants, keys and substrates from the API server, and demand for substrates back to it.
//!
//! [`objects`], [`endpoints`], [`keys`], [`index`] and [`demand`] are pure; [`watches`] and [`reporter`] talk to the API server,
//! [`hub`] stands between.
//!
//! Everything is pushed: a pod that becomes ready is an event of one watch, which makes a new [`index::View`] and marks
//! [`Directory::changes`]. While the API server is away, what is known stays and is served. Pods are dialled at their own addresses.

pub mod demand;
pub mod endpoints;
pub mod error;
pub mod hub;
pub mod index;
pub mod keys;
pub mod objects;
pub mod reporter;
pub mod watches;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use halo_receipts::ids::TenantId;
use halo_receipts::keys::{KeyStore, TenantKeys};
use halo_receipts::payload::ContentPolicy;
use kube::Client;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::demand::Pace;
use self::error::ClusterError;
use self::hub::Hub;
use self::objects::Kind;
use self::reporter::{Inbox, Leave, Reporter};
use self::watches::Watch;
use crate::directory::{Demand, Directory, Substrate, Tenant};
use crate::metrics::Metrics;

/// How often the metrics of the view are set.
const AGE_EVERY: Duration = Duration::from_secs(5);
/// How many names the log line of the start holds.
const NAMES_LOGGED: usize = 20;

/// What a gateway is told of its place in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its own namespace, where the Secrets with keys are.
    pub namespace: String,
    /// Its name, unlike that of every other gateway: the entry in `status.demand` carries it.
    pub name: String,
    /// What is kept of private content in new sessions.
    pub content: ContentPolicy,
    /// How long after a root was first seen beside another it is used for new sessions.
    pub keys_settle: Duration,
    /// How demand is written.
    pub pace: Pace,
}

/// A cluster: a [`Directory`] and a [`KeyStore`].
pub struct Cluster {
    hub: Arc<Hub>,
    inbox: Arc<Inbox>,
    leave: Mutex<Option<oneshot::Sender<Leave>>>,
    // Ends the tasks with the cluster.
    _tasks: JoinSet<()>,
}

/// The client's configuration of a pod's service account or, outside of a cluster, of a kubeconfig.
///
/// # Errors
/// There is neither.
pub async fn kube_config() -> Result<kube::Config, ClusterError> {
    let config = kube::Config::infer().await;
    config.map_err(|error| ClusterError::Config(Box::new(error)))
}

impl Cluster {
    /// Begins to watch. Returns at once; [`Directory::is_synced`] says when everything was listed.
    ///
    /// # Errors
    /// There is no client with this configuration.
    pub fn start(
        mut config: kube::Config,
        settings: Settings,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, ClusterError> {
        // Calls have deadlines, and what fails is tried again by whoever knows whether it still matters.
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(5));
        let agent =
            http::HeaderValue::from_static(concat!("halo-gateway/", env!("CARGO_PKG_VERSION")));
        config.headers.push((http::header::USER_AGENT, agent));
        let client = Client::try_from(config).map_err(|e| ClusterError::Client(Box::new(e)))?;
        let hub = Arc::new(Hub::new(settings.keys_settle, metrics.clone()));
        let inbox = Arc::new(Inbox::default());
        let mut tasks = JoinSet::new();
        for kind in Kind::ALL {
            let watch = Watch {
                client: client.clone(),
                namespace: settings.namespace.clone(),
                content: settings.content,
                hub: Arc::clone(&hub),
            };
            tasks.spawn(watch.run(kind));
        }
        tasks.spawn(age(Arc::clone(&hub), metrics.clone()));
        tasks.spawn(announce(Arc::clone(&hub), settings.namespace));
        let (leave, asked) = oneshot::channel();
        let reporter = Reporter {
            client,
            name: settings.name,
            pace: settings.pace,
            inbox: Arc::clone(&inbox),
            hub: Arc::clone(&hub),
            metrics: metrics.clone(),
        };
        tasks.spawn(reporter.run(asked));
        Ok(Arc::new(Self {
            hub,
            inbox,
            leave: Mutex::new(Some(leave)),
            _tasks: tasks,
        }))
    }

    /// Takes this gateway's demand away, as it ends: what its devices still want they ask of another one, which reports it then. Waits
    /// no longer than `patience`; says whether all of it is gone. What is left then is a silent gateway's.
    pub async fn leave(&self, patience: Duration) -> bool {
        let leave = {
            let mut leave = self.leave.lock().unwrap_or_else(PoisonError::into_inner);
            leave.take()
        };
        let Some(leave) = leave else {
            return true;
        };
        let (done, gone) = oneshot::channel();
        leave.send(done).is_ok() && matches!(timeout(patience, gone).await, Ok(Ok(())))
    }
}

impl Directory for Cluster {
    fn tenant(&self, tenant: &TenantId) -> Option<Arc<Tenant>> {
        let view = self.hub.view();
        Some(Arc::clone(&view.tenant(tenant)?.tenant))
    }

    fn substrate(&self, tenant: &TenantId) -> Option<Arc<Substrate>> {
        let view = self.hub.view();
        let place = view.tenant(tenant)?.substrate.as_ref()?;
        Some(Arc::clone(&place.substrate))
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.hub.changes()
    }

    fn is_synced(&self) -> bool {
        self.hub.view().synced
    }

    fn demand(&self, tenant: &TenantId, demand: Demand) {
        self.inbox.put(tenant, demand);
    }
}

impl KeyStore for Cluster {
    fn current(&self, tenant: &TenantId) -> Option<Arc<dyn TenantKeys>> {
        self.hub.view().keys(tenant)?.current(self.hub.now())
    }

    fn held(&self, tenant: &TenantId) -> Vec<Arc<dyn TenantKeys>> {
        let view = self.hub.view();
        view.keys(tenant).map_or_else(Vec::new, |held| held.held())
    }
}

/// Keeps the metrics of the view.
async fn age(hub: Arc<Hub>, metrics: Metrics) {
    loop {
        metrics.directory_age.set(hub.age().as_secs_f64());
        metrics.directory_synced.set(hub.view().synced.into());
        tokio::time::sleep(AGE_EVERY).await;
    }
}

/// Says once what was found.
async fn announce(hub: Arc<Hub>, namespace: String) {
    let mut changes = hub.changes();
    let view = loop {
        let view = hub.view();
        if view.synced {
            break view;
        }
        if changes.changed().await.is_err() {
            return;
        }
    };
    let mut tenants: Vec<String> = view.tenants().map(|(id, _)| id.to_string()).collect();
    let substrates = view.tenants().filter_map(|(_, one)| one.substrate.as_ref());
    let mut substrates: Vec<String> = substrates.map(|place| place.key.to_string()).collect();
    tracing::info!(
        namespace,
        tenants = names(&mut tenants),
        substrates = names(&mut substrates),
        "tenants, keys and substrates are known"
    );
}

fn names(all: &mut [String]) -> String {
    all.sort_unstable();
    let (shown, more) = all.split_at(all.len().min(NAMES_LOGGED));
    match more.len() {
        0 => shown.join(" "),
        more => format!("{} and {more} more", shown.join(" ")),
    }
}

/// A random number from 0 to 255, to spread pauses; without randomness there is no spread, and nothing else is lost.
fn random_byte() -> u8 {
    let mut byte = [128];
    let _ = getrandom::fill(&mut byte);
    byte[0]
}
