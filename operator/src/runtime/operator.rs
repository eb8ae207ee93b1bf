//! An operator as a whole: started, led, ended.
//!
//! Several can run in one process; they share nothing. Watches run and fill the queues from the start, workers only while this process
//! leads, so that a standby takes over at once.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use halo_cloud::{Cloud, Secrets};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::apply::{Clients, Writer};
use super::caches::{Caches, ContentKey};
use super::crd_check::{self, CrdError};
use super::election::{Election, End};
use super::events::Events;
use super::http::{self, Health};
use super::metrics::Metrics;
use super::queue::{Backoff, Queue};
use super::route::{self, Queues};
use super::{watch as watches, work};
use crate::clock::{Clock, SystemClock};
use crate::context::Context;
use crate::effect::Witness;
use crate::nodes::capacity::CapacityMemory;
use crate::nodes::fleet::Fleet;
use crate::nodes::permissions::Permissions;
use crate::settings::Settings;
use crate::tenant::keys::RootStore;

/// How long reconciles that have begun may take when the operator is asked to end.
const DRAIN: Duration = Duration::from_secs(20);

/// What an operator is made of.
pub struct Parts {
    /// How to reach the API server.
    pub kube: kube::Config,
    /// What it is told.
    pub settings: Settings,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; port 0 for any.
    pub http: SocketAddr,
    /// The cloud.
    pub cloud: Arc<dyn Cloud>,
    /// Secret parameters.
    pub secrets: Arc<dyn Secrets>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Sees every effect.
    pub witness: Arc<dyn Witness>,
    /// Figures; made first, as the cloud's session tells them of its calls.
    pub metrics: Arc<Metrics>,
}

/// Why an operator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The connection cannot be set up.
    #[error("the connection to the API server cannot be set up")]
    Client(#[source] Box<kube::Error>),
    /// The cluster's definitions do not do.
    #[error(transparent)]
    Crds(#[from] CrdError),
    /// The address is taken or not one of this machine.
    #[error("cannot listen at {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system has no randomness.
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

/// How an operator ended by itself or on request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to: what had begun is finished and the lease is given back.
    Stopped,
    /// It led and does not any more: everything was stopped at once.
    LostLease(String),
    /// A part that runs for ever ended.
    Failed(String),
}

/// An operator that runs. Dropping it stops everything at once and gives nothing back, as a crash would.
pub struct Handle {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Ended>,
    context: Arc<Context>,
    leading: watch::Receiver<bool>,
}

impl Handle {
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub fn http(&self) -> SocketAddr {
        self.address
    }

    /// What its reconciles work with.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Whether it leads.
    pub fn is_leading(&self) -> bool {
        *self.leading.borrow()
    }

    /// Waits until it leads; false if it ended before.
    pub async fn leads(&self) -> bool {
        self.leading
            .clone()
            .wait_for(|leading| *leading)
            .await
            .is_ok()
    }

    /// Asks it to end: what has begun is finished and the lease is given back.
    pub fn shutdown(&self) {
        self.stop.cancel();
    }

    /// Asks it to end when this token is cancelled as well.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Stops everything at once, as a crash would.
    pub fn abort(&self) {
        self.task.abort();
    }

    /// Waits for its end.
    pub async fn join(mut self) -> Ended {
        match (&mut self.task).await {
            Ok(ended) => ended,
            Err(error) => Ended::Failed(error.to_string()),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The pages' view of an operator.
struct Pages {
    caches: Arc<Caches>,
    queues: Queues,
    metrics: Arc<Metrics>,
}

impl Health for Pages {
    fn is_ready(&self) -> bool {
        self.caches.is_synced()
    }

    fn figures(&self) -> prometheus::Result<String> {
        self.queues.tenants.observe();
        self.queues.substrates.observe();
        self.metrics.synced(self.caches.is_synced());
        for (kind, count) in self.caches.counts() {
            self.metrics.cached(kind, count);
        }
        self.metrics.invalid(self.caches.all_invalid().len());
        self.metrics.text()
    }
}

/// Everything that runs from the start.
struct Running {
    context: Arc<Context>,
    queues: Queues,
    background: JoinSet<&'static str>,
    election: Election,
    leading: watch::Receiver<bool>,
    changes: mpsc::UnboundedReceiver<String>,
    stop: CancellationToken,
}

/// The operator.
pub struct Operator;

impl Operator {
    /// Checks the cluster's definitions, then starts. Needs a Tokio runtime, and rustls its process-wide provider.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(parts: Parts) -> Result<Handle, StartError> {
        let Parts {
            kube,
            settings,
            http: address,
            cloud,
            secrets,
            clock,
            witness,
            metrics,
        } = parts;
        let clients = Clients::new(&kube).map_err(StartError::Client)?;
        let pace = settings.pace.clone();
        crd_check::check(clients.patient.clone(), pace.api_timeout).await?;
        let (listener, address) = http::listen(address)
            .await
            .map_err(|source| StartError::Listen { address, source })?;
        let content = ContentKey::random().map_err(StartError::Random)?;
        let caches = Arc::new(Caches::new(content, watches::WATCHES));
        let backoff = Backoff {
            first: pace.retry,
            most: pace.retry_max,
        };
        let queues = Queues {
            tenants: Queue::new(backoff, metrics.queue("tenant")),
            substrates: Queue::new(backoff, metrics.queue("substrate")),
        };
        let (lead, leading) = watch::channel(false);
        let (events, sending) = Events::new(
            clients.once.clone(),
            &settings.identity,
            clock.clone(),
            metrics.clone(),
            pace.api_timeout,
        );
        let (fleet, changes) = Fleet::new(cloud.clone(), clock.clone(), &settings.cluster, &pace);
        let ice = metrics.clone();
        let capacity = CapacityMemory::new(
            &pace,
            Box::new(move |instance_type, zone| ice.ice(instance_type, zone)),
        );
        let election = Election::new(
            clients.once.clone(),
            &settings,
            // Others read the lease's times, so they are the machine's.
            Arc::new(SystemClock),
            metrics.clone(),
            lead,
        );
        let context = Arc::new(Context {
            writer: Writer::new(
                clients.clone(),
                caches.clone(),
                witness.clone(),
                metrics.clone(),
                leading.clone(),
                pace.api_timeout,
            ),
            roots: Arc::new(RootStore::new(secrets, clock.clone(), pace.clone())),
            capacity: Arc::new(capacity),
            permissions: Permissions::default(),
            settings,
            clock,
            caches,
            cloud,
            fleet,
            events,
            metrics,
            witness,
        });
        let mut background = JoinSet::new();
        let pages = Pages {
            caches: context.caches.clone(),
            queues: queues.clone(),
            metrics: context.metrics.clone(),
        };
        background.spawn(named("http", http::serve(listener, Arc::new(pages))));
        background.spawn(named("events", sending.run()));
        let routed = {
            let (queues, caches) = (queues.clone(), context.caches.clone());
            Arc::new(move |touched| queues.add(route::looks(&caches, &touched)))
        };
        let all = watches::all(
            clients.once,
            context.caches.clone(),
            context.metrics.clone(),
            routed,
            pace.watch_timeout,
        );
        for one in all {
            background.spawn(named("watch", one));
        }
        let stop = CancellationToken::new();
        let running = Running {
            context: context.clone(),
            queues,
            background,
            election,
            leading: leading.clone(),
            changes,
            stop: stop.clone(),
        };
        Ok(Handle {
            address,
            stop,
            task: tokio::spawn(running.run()),
            context,
            leading,
        })
    }
}

/// A part that should run for ever, and its name for when it does not.
pub(super) async fn named<T>(name: &'static str, part: impl Future<Output = T>) -> &'static str {
    part.await;
    name
}

impl Running {
    async fn run(self) -> Ended {
        let Self {
            context,
            queues,
            mut background,
            election,
            mut leading,
            changes,
            stop,
        } = self;
        let give_back = CancellationToken::new();
        // In a set, so that it ends with this future.
        let mut elections = JoinSet::new();
        elections.spawn(election.run(give_back.clone()));
        let ready = async {
            context.caches.synced().await;
            leading.wait_for(|leading| *leading).await.is_ok()
        };
        let leads = tokio::select! {
            biased;
            () = stop.cancelled() => false,
            Some(ended) = elections.join_next() => return end_of(ended),
            Some(ended) = background.join_next() => return Ended::Failed(what_ended(ended)),
            leads = ready => leads,
        };
        let mut workers = JoinSet::new();
        let mut helpers = JoinSet::new();
        if leads {
            work::start(&context, &queues, changes, &mut workers, &mut helpers);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                // Dropping the sets stops all work at once.
                Some(ended) = elections.join_next() => return end_of(ended),
                Some(ended) = background.join_next() => return Ended::Failed(what_ended(ended)),
                Some(ended) = workers.join_next() => return Ended::Failed(what_ended(ended)),
                Some(ended) = helpers.join_next() => return Ended::Failed(what_ended(ended)),
            }
        }
        queues.tenants.shutdown();
        queues.substrates.shutdown();
        let finished = async { while workers.join_next().await.is_some() {} };
        tokio::select! {
            // The lease is renewed meanwhile.
            Some(ended) = elections.join_next() => return end_of(ended),
            finished = tokio::time::timeout(DRAIN, finished) => {
                if finished.is_err() {
                    tracing::warn!(?DRAIN, "reconciles that have not ended are stopped");
                }
            }
        }
        workers.shutdown().await;
        helpers.shutdown().await;
        give_back.cancel();
        match elections.join_next().await {
            Some(ended) => end_of(ended),
            None => Ended::Stopped,
        }
    }
}

fn end_of(ended: Result<End, tokio::task::JoinError>) -> Ended {
    match ended {
        Ok(End::Released) => Ended::Stopped,
        Ok(End::Lost(why)) => Ended::LostLease(why),
        Err(error) => Ended::Failed(format!("leader election: {error}")),
    }
}

fn what_ended(ended: Result<&'static str, tokio::task::JoinError>) -> String {
    match ended {
        Ok(name) => format!("{name} ended"),
        Err(error) => error.to_string(),
    }
}
