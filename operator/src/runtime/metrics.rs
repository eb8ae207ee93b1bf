//! Figures, under the names that controller-runtime and client-go made common, and HALO's own.
//!
//! Every label is bounded: kinds, verbs, codes, types and zones by what there is, tenants by a count, the rest of them is `other`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use halo_cloud::aws::CallObserver;
use halo_crds::status::Phase;
use halo_telemetry::metrics::operator as list;
use halo_telemetry::registry::{Bounded, Maker, OTHER};
use prometheus::{CounterVec, Gauge, GaugeVec, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};

/// Tenants that have labels of their own.
const TENANTS: usize = 200;
/// Codes of cloud calls that have labels of their own.
const CODES: usize = 100;
/// Types and zones that have labels of their own.
const TYPES: usize = 200;

/// A stage of a wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WakeStage {
    /// Demand was reported -> the wake was decided and recorded.
    Decision,
    /// Decided -> the cloud took the launch.
    Launch,
    /// Launched -> the node registered.
    Registered,
    /// Registered -> the node is ready.
    Ready,
    /// Node ready -> the pod's container runs.
    Pod,
    /// The container runs -> the model is loaded and the pod ready.
    Loaded,
}

impl WakeStage {
    /// As the label says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Launch => "launch",
            Self::Registered => "registered",
            Self::Ready => "ready",
            Self::Pod => "pod",
            Self::Loaded => "loaded",
        }
    }
}

/// How a reconcile ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReconcileResult {
    /// Done until something changes.
    Success,
    /// Done, to be looked at again later.
    RequeueAfter,
    /// Failed.
    Error,
    /// Panicked.
    Panic,
}

impl ReconcileResult {
    fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::RequeueAfter => "requeue_after",
            Self::Error | Self::Panic => "error",
        }
    }
}

/// Figures of one operator.
pub struct Metrics {
    maker: Maker,
    reconciles: IntCounterVec,
    reconcile_errors: IntCounterVec,
    reconcile_panics: IntCounterVec,
    reconcile_seconds: HistogramVec,
    active_workers: IntGaugeVec,
    max_workers: IntGaugeVec,
    queue_depth: IntGaugeVec,
    queue_adds: IntCounterVec,
    queue_retries: IntCounterVec,
    queue_seconds: HistogramVec,
    work_seconds: HistogramVec,
    unfinished: GaugeVec,
    longest: GaugeVec,
    leader: IntGaugeVec,
    api_requests: IntCounterVec,
    api_seconds: HistogramVec,
    watch_failures: IntCounterVec,
    cached: IntGaugeVec,
    invalid: IntGauge,
    events: IntCounterVec,
    cloud_requests: IntCounterVec,
    cloud_seconds: HistogramVec,
    cloud_batch: HistogramVec,
    cloud_delayed: CounterVec,
    ice: IntCounterVec,
    orphans: IntCounterVec,
    phases: IntGaugeVec,
    wake_stages: HistogramVec,
    nodes: IntGaugeVec,
    keys: IntGaugeVec,
    node_seconds: CounterVec,
    cost: CounterVec,
    synced: Gauge,
    phase_of: Mutex<BTreeMap<(String, String), Phase>>,
    nodes_of: Mutex<BTreeMap<(String, String), (String, i64)>>,
    keys_of: Mutex<BTreeMap<String, String>>,
    tenants: Bounded,
    codes: Bounded,
    types: Bounded,
}

impl Metrics {
    /// All figures, in a registry of their own.
    ///
    /// # Errors
    /// Two have one name; that cannot be with the names below.
    pub fn new() -> prometheus::Result<Self> {
        let maker = Maker::new();
        halo_telemetry::traces::metrics(&maker)?;
        let metrics = Self {
            reconciles: maker.counters(&list::RECONCILES)?,
            reconcile_errors: maker.counters(&list::RECONCILE_ERRORS)?,
            reconcile_panics: maker.counters(&list::RECONCILE_PANICS)?,
            reconcile_seconds: maker.histograms(&list::RECONCILE_SECONDS)?,
            active_workers: maker.gauges(&list::ACTIVE_WORKERS)?,
            max_workers: maker.gauges(&list::MAX_WORKERS)?,
            queue_depth: maker.gauges(&list::QUEUE_DEPTH)?,
            queue_adds: maker.counters(&list::QUEUE_ADDS)?,
            queue_retries: maker.counters(&list::QUEUE_RETRIES)?,
            queue_seconds: maker.histograms(&list::QUEUE_SECONDS)?,
            work_seconds: maker.histograms(&list::WORK_SECONDS)?,
            unfinished: maker.measures(&list::UNFINISHED)?,
            longest: maker.measures(&list::LONGEST)?,
            leader: maker.gauges(&list::LEADER)?,
            api_requests: maker.counters(&list::API_REQUESTS)?,
            api_seconds: maker.histograms(&list::API_SECONDS)?,
            watch_failures: maker.counters(&list::WATCH_FAILURES)?,
            cached: maker.gauges(&list::CACHED)?,
            invalid: maker.gauge(&list::INVALID)?,
            events: maker.counters(&list::EVENTS)?,
            cloud_requests: maker.counters(&list::CLOUD_REQUESTS)?,
            cloud_seconds: maker.histograms(&list::CLOUD_SECONDS)?,
            cloud_batch: maker.histograms(&list::CLOUD_BATCH)?,
            cloud_delayed: maker.sums(&list::CLOUD_DELAYED)?,
            orphans: maker.counters(&list::ORPHANS)?,
            ice: maker.counters(&list::ICE)?,
            phases: maker.gauges(&list::PHASES)?,
            wake_stages: maker.histograms(&list::WAKE_STAGES)?,
            nodes: maker.gauges(&list::NODES)?,
            keys: maker.gauges(&list::TENANT_KEYS)?,
            node_seconds: maker.sums(&list::NODE_SECONDS)?,
            cost: maker.sums(&list::COST)?,
            synced: maker.measure(&list::SYNCED)?,
            phase_of: Mutex::default(),
            nodes_of: Mutex::default(),
            keys_of: Mutex::default(),
            tenants: Bounded::new(TENANTS),
            codes: Bounded::new(CODES),
            types: Bounded::new(TYPES),
            maker,
        };
        for phase in PHASES {
            metrics.phases.with_label_values(&[phase_name(phase)]);
        }
        Ok(metrics)
    }

    /// All figures as Prometheus reads them.
    ///
    /// # Errors
    /// They cannot be written as text.
    pub fn text(&self) -> prometheus::Result<String> {
        let text = self.maker.render()?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Something that belonged to nothing was ended: `instance` or `volume`.
    pub fn orphan(&self, kind: &'static str) {
        self.orphans.with_label_values(&[kind]).inc();
    }

    /// A launch was refused for want of capacity.
    pub fn ice(&self, instance_type: &str, zone: &str) {
        let pair = format!("{instance_type} {zone}");
        if self.types.label(&pair) == OTHER {
            self.ice.with_label_values(&[OTHER, OTHER]).inc();
        } else {
            self.ice.with_label_values(&[instance_type, zone]).inc();
        }
    }

    /// A substrate is in this phase now; `None` once it is gone.
    pub fn phase(&self, namespace: &str, name: &str, phase: Option<Phase>) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut known = self.phase_of.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match phase {
            Some(phase) => known.insert(key, phase),
            None => known.remove(&key),
        };
        if let Some(before) = before {
            self.phases.with_label_values(&[phase_name(before)]).dec();
        }
        if let Some(phase) = phase {
            self.phases.with_label_values(&[phase_name(phase)]).inc();
        }
    }

    /// So many instances of a substrate run for a tenant now.
    pub fn nodes(&self, namespace: &str, name: &str, tenant: &str, nodes: usize) {
        let tenant = self.tenants.label(tenant).to_owned();
        let nodes = i64::try_from(nodes).unwrap_or(i64::MAX);
        let key = (namespace.to_owned(), name.to_owned());
        let mut known = self.nodes_of.lock().unwrap_or_else(PoisonError::into_inner);
        self.nodes.with_label_values(&[&*tenant]).add(nodes);
        if let Some((tenant, nodes)) = known.insert(key, (tenant, nodes)) {
            self.nodes.with_label_values(&[&*tenant]).sub(nodes);
        }
    }

    /// A substrate is gone.
    pub fn gone(&self, namespace: &str, name: &str) {
        self.phase(namespace, name, None);
        let key = (namespace.to_owned(), name.to_owned());
        let mut known = self.nodes_of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((tenant, nodes)) = known.remove(&key) {
            self.nodes.with_label_values(&[&*tenant]).sub(nodes);
        }
    }

    /// The reason of a tenant's condition KeysReady; `None` once the tenant is gone.
    pub fn keys(&self, tenant: &str, reason: Option<&str>) {
        let mut known = self.keys_of.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match reason {
            Some(reason) => known.insert(tenant.to_owned(), reason.to_owned()),
            None => known.remove(tenant),
        };
        if let Some(before) = before {
            self.keys.with_label_values(&[&*before]).dec();
        }
        if let Some(reason) = reason {
            self.keys.with_label_values(&[reason]).inc();
        }
    }

    /// A stage of a wake took so long.
    pub fn wake_stage(&self, stage: WakeStage, seconds: f64) {
        if seconds.is_finite() && seconds >= 0.0 {
            self.wake_stages
                .with_label_values(&[stage.name()])
                .observe(seconds);
        }
    }

    /// Instances of a tenant ran for so long and cost so much, since this was said last.
    pub fn used(&self, tenant: &str, node_seconds: f64, usd: f64) {
        let tenant = self.tenants.label(tenant);
        for (counter, value) in [(&self.node_seconds, node_seconds), (&self.cost, usd)] {
            if value.is_finite() && value > 0.0 {
                counter.with_label_values(&[tenant]).inc_by(value);
            }
        }
    }

    pub(super) fn api_request(&self, method: &str, code: u16, took: Duration) {
        let code = match code {
            0 => "<error>".to_owned(),
            code => code.to_string(),
        };
        self.api_requests.with_label_values(&[&*code, method]).inc();
        self.api_seconds
            .with_label_values(&[method])
            .observe(took.as_secs_f64());
    }

    pub(super) fn reconciled(&self, controller: &str, result: ReconcileResult, took: Duration) {
        self.reconciles
            .with_label_values(&[controller, result.name()])
            .inc();
        if matches!(result, ReconcileResult::Error | ReconcileResult::Panic) {
            self.reconcile_errors.with_label_values(&[controller]).inc();
        }
        if result == ReconcileResult::Panic {
            self.reconcile_panics.with_label_values(&[controller]).inc();
        }
        self.reconcile_seconds
            .with_label_values(&[controller])
            .observe(took.as_secs_f64());
    }

    /// A controller exists: its figures are there from the start, so that a rate of them is one.
    pub(super) fn controller(&self, controller: &str, workers: usize) {
        for result in ["success", "requeue_after", "error"] {
            self.reconciles.with_label_values(&[controller, result]);
        }
        self.reconcile_errors.with_label_values(&[controller]);
        self.reconcile_panics.with_label_values(&[controller]);
        self.active_workers.with_label_values(&[controller]).set(0);
        self.max_workers
            .with_label_values(&[controller])
            .set(i64::try_from(workers).unwrap_or(i64::MAX));
    }

    /// One more reconcile is under way until the answer is dropped.
    pub(super) fn working(&self, controller: &str) -> Working {
        let gauge = self.active_workers.with_label_values(&[controller]);
        gauge.inc();
        Working(gauge)
    }

    pub(super) fn leading(&self, lease: &str, leads: bool) {
        self.leader
            .with_label_values(&[lease])
            .set(i64::from(leads));
    }

    pub(super) fn synced(&self, synced: bool) {
        self.synced.set(f64::from(u8::from(synced)));
    }

    pub(super) fn watch_failed(&self, kind: &str) {
        self.watch_failures.with_label_values(&[kind]).inc();
    }

    pub(super) fn cached(&self, kind: &str, objects: usize) {
        self.cached
            .with_label_values(&[kind])
            .set(i64::try_from(objects).unwrap_or(i64::MAX));
    }

    pub(super) fn invalid(&self, objects: usize) {
        self.invalid.set(i64::try_from(objects).unwrap_or(i64::MAX));
    }

    pub(super) fn event(&self, result: &'static str) {
        self.events.with_label_values(&[result]).inc();
    }

    /// The figures of one queue.
    pub(super) fn queue(&self, name: &str) -> QueueMetrics {
        let labels = [name];
        QueueMetrics {
            depth: self.queue_depth.with_label_values(&labels),
            adds: self.queue_adds.with_label_values(&labels),
            retries: self.queue_retries.with_label_values(&labels),
            waited: self.queue_seconds.with_label_values(&labels),
            worked: self.work_seconds.with_label_values(&labels),
            unfinished: self.unfinished.with_label_values(&labels),
            longest: self.longest.with_label_values(&labels),
        }
    }
}

/// One reconcile that is under way.
pub(super) struct Working(IntGauge);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The figures of one queue.
#[derive(Clone)]
pub struct QueueMetrics {
    pub(super) depth: IntGauge,
    pub(super) adds: prometheus::IntCounter,
    pub(super) retries: prometheus::IntCounter,
    pub(super) waited: prometheus::Histogram,
    pub(super) worked: prometheus::Histogram,
    pub(super) unfinished: Gauge,
    pub(super) longest: Gauge,
}

impl CallObserver for Metrics {
    fn observed(&self, action: &'static str, code: &str, elapsed: Duration) {
        let code = self.codes.label(code);
        self.cloud_requests.with_label_values(&[action, code]).inc();
        self.cloud_seconds
            .with_label_values(&[action])
            .observe(elapsed.as_secs_f64());
    }

    fn batched(&self, action: &'static str, size: usize) {
        let size = u32::try_from(size).map_or(f64::MAX, f64::from);
        self.cloud_batch.with_label_values(&[action]).observe(size);
    }

    fn delayed(&self, action: &'static str, wait: Duration) {
        self.cloud_delayed
            .with_label_values(&[action])
            .inc_by(wait.as_secs_f64());
    }
}

const PHASES: [Phase; 4] = [Phase::Asleep, Phase::Waking, Phase::Awake, Phase::Draining];

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Asleep => "Asleep",
        Phase::Waking => "Waking",
        Phase::Awake => "Awake",
        Phase::Draining => "Draining",
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
