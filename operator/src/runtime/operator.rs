//! An operator as a whole: started, led, ended.
//!
//! Several can run in one process; they share nothing. Watches run and fill the queues from the start, workers only while this process
//! leads, so that a standby takes over at once.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use halo_cloud::{Cloud, Secrets};
use halo_crds::{HaloSubstrate, HaloTenant, reasons};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Resource as _;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::apply::{Clients, WriteError, Writer};
use super::caches::{Caches, ContentKey, InvalidObject, OwnerKind};
use super::controller::{Controller, Failed, Key, causes};
use super::crd_check::{self, CrdError};
use super::election::{Election, End};
use super::events::Events;
use super::http::{self, Health};
use super::managers::Manager;
use super::metrics::Metrics;
use super::queue::{Backoff, Queue};
use super::route::{self, Queues, SubstrateKey};
use super::watch as watches;
use crate::context::{Clock, Context};
use crate::effect::Witness;
use crate::nodes::capacity::CapacityMemory;
use crate::nodes::fleet::Fleet;
use crate::nodes::garbage;
use crate::settings::Settings;
use crate::tenant::keys::RootStore;
use crate::{substrate, tenant};

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
            settings.lease.clone(),
            &settings.namespace,
            &settings.identity,
            clock.clone(),
            metrics.clone(),
            lead,
            pace.api_timeout,
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
async fn named<T>(name: &'static str, part: impl Future<Output = T>) -> &'static str {
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
            start(&context, &queues, changes, &mut workers, &mut helpers);
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

/// Starts what runs while this process leads.
fn start(
    context: &Arc<Context>,
    queues: &Queues,
    mut changes: mpsc::UnboundedReceiver<String>,
    workers: &mut JoinSet<&'static str>,
    helpers: &mut JoinSet<&'static str>,
) {
    let count = context.settings.concurrency;
    let reported: Arc<Reported> = Arc::default();
    let tenants = Controller {
        name: "tenant",
        queue: queues.tenants.clone(),
        workers: count,
        metrics: context.metrics.clone(),
    };
    let (ctx, all, told) = (context.clone(), queues.clone(), reported.clone());
    let reconcile =
        move |name: String| reconcile_tenant(ctx.clone(), all.clone(), told.clone(), name);
    let ctx = context.clone();
    let on_failure = move |name: &String, failed: &Failed| {
        let tenant = ctx.caches.tenant(name);
        tell(&ctx, tenant.map(|tenant| tenant.object_ref(&())), failed);
    };
    workers.spawn(named("tenants", tenants.run(reconcile, on_failure)));

    let substrates = Controller {
        name: "substrate",
        queue: queues.substrates.clone(),
        workers: count,
        metrics: context.metrics.clone(),
    };
    let (ctx, told) = (context.clone(), reported);
    let reconcile = move |key: SubstrateKey| reconcile_substrate(ctx.clone(), told.clone(), key);
    let ctx = context.clone();
    let on_failure = move |key: &SubstrateKey, failed: &Failed| {
        let substrate = ctx.caches.substrate(&key.0, &key.1);
        let about = substrate.map(|substrate| substrate.object_ref(&()));
        tell(&ctx, about, failed);
    };
    workers.spawn(named("substrates", substrates.run(reconcile, on_failure)));

    let stop = CancellationToken::new();
    let fleet = context.fleet.clone();
    let token = stop.clone();
    helpers.spawn(named("fleet", async move { fleet.run(token).await }));
    let ctx = context.clone();
    helpers.spawn(named("garbage", async move {
        garbage::run(&ctx, stop).await;
    }));
    let (ctx, queue) = (context.clone(), queues.substrates.clone());
    helpers.spawn(named("fleet changes", async move {
        while let Some(uid) = changes.recv().await {
            if let Some(substrate) = ctx.caches.substrate_with_uid(&uid) {
                let namespace = substrate.metadata.namespace.clone().unwrap_or_default();
                let name = substrate.metadata.name.clone().unwrap_or_default();
                queue.add((namespace, name));
            }
        }
    }));
}

fn tell(ctx: &Context, about: Option<ObjectReference>, failed: &Failed) {
    if let Some(about) = about {
        ctx.events
            .warning(&about, failed.category, failed.message.clone());
    }
}

/// Failures that no person has to hear of.
fn failed(category: &'static str, error: &dyn std::error::Error) -> Failed {
    Failed {
        category,
        message: causes(error),
        quiet: matches!(category, "Conflict" | "NotLeader"),
    }
}

async fn reconcile_tenant(
    ctx: Arc<Context>,
    queues: Queues,
    reported: Arc<Reported>,
    name: String,
) -> Result<Option<Duration>, Failed> {
    if let Some(bad) = ctx.caches.invalid(OwnerKind::Tenant, "", &name) {
        let manager = Manager::TenantInvalid;
        return report_invalid::<HaloTenant>(&ctx, &reported, bad, manager).await;
    }
    let before = ctx.caches.tenant(&name);
    let result = tenant::reconcile(ctx.clone(), name.clone()).await;
    // The echo of an own write is no news to the watch, but substrates wait for their tenant.
    let status = |tenant: &Option<Arc<HaloTenant>>| tenant.as_ref().and_then(|t| t.status.clone());
    if status(&before) != status(&ctx.caches.tenant(&name)) {
        queues.add(route::substrates_of(&ctx.caches, &name));
    }
    result.map_err(|error| failed(error.category(), &error))
}

async fn reconcile_substrate(
    ctx: Arc<Context>,
    reported: Arc<Reported>,
    key: SubstrateKey,
) -> Result<Option<Duration>, Failed> {
    if let Some(bad) = ctx
        .caches
        .invalid(OwnerKind::Substrate, key.namespace(), key.name())
    {
        let manager = Manager::SubstrateInvalid;
        return report_invalid::<HaloSubstrate>(&ctx, &reported, bad, manager).await;
    }
    let result = substrate::reconcile(ctx, key).await;
    result.map_err(|error| failed(error.category(), &error))
}

/// Objects that do not parse and what was said of them, by uid.
type Reported = Mutex<HashMap<String, (Option<i64>, String)>>;

/// Says of an object that it does not parse: a condition and an event. The manager is one of its own, so that nothing else of the
/// status is touched.
async fn report_invalid<K: super::apply::Object>(
    ctx: &Context,
    reported: &Reported,
    bad: InvalidObject,
    manager: Manager,
) -> Result<Option<Duration>, Failed> {
    let said = (bad.generation, bad.message.clone());
    let known = || reported.lock().unwrap_or_else(PoisonError::into_inner);
    if known().get(&bad.uid) == Some(&said) {
        return Ok(None);
    }
    let message = format!(
        "it cannot be read, and what runs is left as it is: {}",
        bad.message
    );
    let condition = Condition {
        type_: reasons::kinds::READY.to_owned(),
        status: "False".to_owned(),
        reason: reasons::INVALID.to_owned(),
        message: message.clone(),
        observed_generation: bad.generation,
        last_transition_time: Time(ctx.clock.now()),
    };
    let status = json!({"conditions": [condition], "why": reasons::INVALID});
    let namespace = bad.reference.namespace.as_deref().unwrap_or_default();
    let name = bad.reference.name.as_deref().unwrap_or_default();
    ctx.events
        .warning(&bad.reference, reasons::INVALID, message);
    ctx.writer
        .apply_status_unread::<K>(namespace, name, &status, manager)
        .await
        .map_err(|error: WriteError| failed(error.name(), &error))?;
    known().insert(bad.uid, said);
    Ok(None)
}
