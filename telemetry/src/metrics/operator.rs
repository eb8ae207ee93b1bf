//! Metrics of the operator, under the names that controller-runtime and client-go made common, and HALO's own.
//!
//! Every label is bounded: kinds, verbs, codes, types and zones by what there is, tenants by a count, the rest of them is `other`.

use super::{COUNTS, Component, Definition, Kind, LONG, SHORT};

/// Reconciles by controller and result.
pub const RECONCILES: Definition = Definition {
    name: "controller_runtime_reconcile_total",
    kind: Kind::Counter,
    labels: &["controller", "result"],
    help: "Reconciles by controller and result.",
    acts: "Dashboards of controller-runtime: a rate that falls to nothing while queues grow is an operator that hangs.",
};

/// Reconciles that failed.
pub const RECONCILE_ERRORS: Definition = Definition {
    name: "controller_runtime_reconcile_errors_total",
    kind: Kind::Counter,
    labels: &["controller"],
    help: "Reconciles that failed.",
    acts: "Alert HaloReconcileErrors: whoever is on duty reads the operator's log.",
};

/// Reconciles that panicked.
pub const RECONCILE_PANICS: Definition = Definition {
    name: "controller_runtime_reconcile_panics_total",
    kind: Kind::Counter,
    labels: &["controller"],
    help: "Reconciles that panicked.",
    acts: "Alert HaloReconcileErrors: a panic is a defect, report it with the log.",
};

/// How long a reconcile takes.
pub const RECONCILE_SECONDS: Definition = Definition {
    name: "controller_runtime_reconcile_time_seconds",
    kind: Kind::Histogram(SHORT),
    labels: &["controller"],
    help: "How long a reconcile takes.",
    acts: "Who tunes the operator: slow reconciles delay wakes.",
};

/// Reconciles that are under way.
pub const ACTIVE_WORKERS: Definition = Definition {
    name: "controller_runtime_active_workers",
    kind: Kind::Gauge,
    labels: &["controller"],
    help: "Reconciles that are under way.",
    acts: "Who tunes the operator: at the most for long, workers are too few.",
};

/// Reconciles that may be under way at once.
pub const MAX_WORKERS: Definition = Definition {
    name: "controller_runtime_max_concurrent_reconciles",
    kind: Kind::Gauge,
    labels: &["controller"],
    help: "Reconciles that may be under way at once.",
    acts: "Who tunes the operator: the limit of the metric above.",
};

/// Keys that wait for a worker.
pub const QUEUE_DEPTH: Definition = Definition {
    name: "workqueue_depth",
    kind: Kind::Gauge,
    labels: &["name"],
    help: "Keys that wait for a worker.",
    acts: "Who tunes the operator: a depth that stays is a queue that does not keep up.",
};

/// Keys that were added.
pub const QUEUE_ADDS: Definition = Definition {
    name: "workqueue_adds_total",
    kind: Kind::Counter,
    labels: &["name"],
    help: "Keys that were added.",
    acts: "Who looks for the cause of load: what the objects' changes come to.",
};

/// Keys that were added again after a failure.
pub const QUEUE_RETRIES: Definition = Definition {
    name: "workqueue_retries_total",
    kind: Kind::Counter,
    labels: &["name"],
    help: "Keys that were added again after a failure.",
    acts: "Who looks for the cause of errors: the same objects again, or many.",
};

/// How long a key waits for a worker: from the event to the reconcile.
pub const QUEUE_SECONDS: Definition = Definition {
    name: "workqueue_queue_duration_seconds",
    kind: Kind::Histogram(SHORT),
    labels: &["name"],
    help: "How long a key waits for a worker: from the event to the reconcile.",
    acts: "Who tunes the operator: it is part of every wake.",
};

/// How long a worker has a key.
pub const WORK_SECONDS: Definition = Definition {
    name: "workqueue_work_duration_seconds",
    kind: Kind::Histogram(SHORT),
    labels: &["name"],
    help: "How long a worker has a key.",
    acts: "Who tunes the operator.",
};

/// How long the keys that workers have now are with them, in sum.
pub const UNFINISHED: Definition = Definition {
    name: "workqueue_unfinished_work_seconds",
    kind: Kind::Gauge,
    labels: &["name"],
    help: "How long the keys that workers have now are with them, in sum.",
    acts: "Who looks for a reconcile that hangs.",
};

/// How long the key that is longest with a worker is with it.
pub const LONGEST: Definition = Definition {
    name: "workqueue_longest_running_processor_seconds",
    kind: Kind::Gauge,
    labels: &["name"],
    help: "How long the key that is longest with a worker is with it.",
    acts: "Who looks for a reconcile that hangs: over a minute, one does.",
};

/// 1 while this process leads.
pub const LEADER: Definition = Definition {
    name: "leader_election_master_status",
    kind: Kind::Gauge,
    labels: &["name"],
    help: "1 while this process leads.",
    acts: "Alerts HaloOperatorNoLeader and HaloOperatorLeaseUnstable: without a leader nothing wakes.",
};

/// Calls of the API server by method and status code; watches are not among them.
pub const API_REQUESTS: Definition = Definition {
    name: "rest_client_requests_total",
    kind: Kind::Counter,
    labels: &["code", "method"],
    help: "Calls of the API server by method and status code; watches are not among them.",
    acts: "Who looks for throttling or missing rights: codes 429 and 403.",
};

/// How long a call of the API server takes.
pub const API_SECONDS: Definition = Definition {
    name: "rest_client_request_duration_seconds",
    kind: Kind::Histogram(SHORT),
    labels: &["method"],
    help: "How long a call of the API server takes.",
    acts: "Who looks for a slow API server.",
};

/// Watches that broke and began again, by kind.
pub const WATCH_FAILURES: Definition = Definition {
    name: "halo_operator_watch_failures_total",
    kind: Kind::Counter,
    labels: &["kind"],
    help: "Watches that broke and began again, by kind.",
    acts: "Alert HaloWatchFailing: the operator's rights or its way to the API server are in doubt.",
};

/// Objects that are kept in memory, by kind.
pub const CACHED: Definition = Definition {
    name: "halo_operator_cached_objects",
    kind: Kind::Gauge,
    labels: &["kind"],
    help: "Objects that are kept in memory, by kind.",
    acts: "Who sizes the operator's memory.",
};

/// HaloTenants and HaloSubstrates that do not parse.
pub const INVALID: Definition = Definition {
    name: "halo_operator_invalid_objects",
    kind: Kind::Gauge,
    labels: &[],
    help: "HaloTenants and HaloSubstrates that do not parse.",
    acts: "Alert HaloInvalidObjects: their definitions are newer or older than the operator.",
};

/// Events by what became of them.
pub const EVENTS: Definition = Definition {
    name: "halo_operator_events_total",
    kind: Kind::Counter,
    labels: &["result"],
    help: "Events by what became of them.",
    acts: "Who misses an Event: it may have been dropped.",
};

/// Calls of the cloud by action and code, each attempt by itself.
pub const CLOUD_REQUESTS: Definition = Definition {
    name: "halo_operator_cloud_requests_total",
    kind: Kind::Counter,
    labels: &["action", "code"],
    help: "Calls of the cloud by action and code, each attempt by itself.",
    acts: "Alert HaloCloudDenied: IAM must allow what the code refuses. Who plans quotas reads the rest.",
};

/// How long an attempt of a cloud call takes.
pub const CLOUD_SECONDS: Definition = Definition {
    name: "halo_operator_cloud_request_seconds",
    kind: Kind::Histogram(SHORT),
    labels: &["action"],
    help: "How long an attempt of a cloud call takes.",
    acts: "Who looks for a slow or unreachable endpoint of the cloud.",
};

/// How many instances one call ends, starts or stops.
pub const CLOUD_BATCH: Definition = Definition {
    name: "halo_operator_cloud_batch_size",
    kind: Kind::Histogram(COUNTS),
    labels: &["action"],
    help: "How many instances one call ends, starts or stops.",
    acts: "Who plans quotas of the cloud's API.",
};

/// How long calls were held back by the operator's own pace.
pub const CLOUD_DELAYED: Definition = Definition {
    name: "halo_operator_cloud_delayed_seconds_total",
    kind: Kind::Counter,
    labels: &["action"],
    help: "How long calls were held back by the operator's own pace.",
    acts: "Who plans quotas of the cloud's API: above them the operator waits by itself.",
};

/// Instances and volumes that were ended because they belonged to no HaloSubstrate.
pub const ORPHANS: Definition = Definition {
    name: "halo_operator_orphans_ended_total",
    kind: Kind::Counter,
    labels: &["kind"],
    help: "Instances and volumes that were ended because they belonged to no HaloSubstrate.",
    acts: "Whoever watches cost: each is money that would have been lost; many are a defect.",
};

/// Launches refused for want of capacity, by type and zone.
pub const ICE: Definition = Definition {
    name: "halo_substrate_ice_total",
    kind: Kind::Counter,
    labels: &["instance_type", "zone"],
    help: "Launches refused for want of capacity, by type and zone.",
    acts: "Alert HaloCapacityShort: add instance types or zones to the pool, or reserve capacity.",
};

/// Substrates by phase.
pub const PHASES: Definition = Definition {
    name: "halo_substrate_phase",
    kind: Kind::Gauge,
    labels: &["phase"],
    help: "Substrates by phase.",
    acts: "Alert HaloWakeStuck: a substrate that is Waking for long. The dashboard's timeline of sleep and wake.",
};

/// How long each stage of a wake takes.
pub const WAKE_STAGES: Definition = Definition {
    name: "halo_substrate_wake_stage_seconds",
    kind: Kind::Histogram(LONG),
    labels: &["stage"],
    help: "How long each stage of a wake takes.",
    acts: "Who wants wakes to be faster: the stage that takes longest is where to begin.",
};

/// Instances that run for a tenant now, from launched until stopped or ended.
pub const NODES: Definition = Definition {
    name: "halo_tenant_nodes",
    kind: Kind::Gauge,
    labels: &["tenant"],
    help: "Instances that run for a tenant now, from launched until stopped or ended.",
    acts: "Alert HaloNodeHoursOverBudget: whoever pays.",
};

/// HaloTenants by the reason of their condition KeysReady; KeysPublished is the good one.
pub const TENANT_KEYS: Definition = Definition {
    name: "halo_tenant_keys",
    kind: Kind::Gauge,
    labels: &["reason"],
    help: "HaloTenants by the reason of their condition KeysReady; KeysPublished is the good one.",
    acts: "Alert HaloKeysStale: the root secret cannot be read, and keys run out at the end of what is published.",
};

/// Seconds that instances ran for a tenant, counted when one ends or stops.
pub const NODE_SECONDS: Definition = Definition {
    name: "halo_tenant_node_seconds_total",
    kind: Kind::Counter,
    labels: &["tenant"],
    help: "Seconds that instances ran for a tenant, counted when one ends or stops.",
    acts: "Whoever pays: what a bill consists of.",
};

/// What they cost by the prices known, in USD.
pub const COST: Definition = Definition {
    name: "halo_tenant_cost_usd_total",
    kind: Kind::Counter,
    labels: &["tenant"],
    help: "What they cost by the prices known, in USD.",
    acts: "Whoever pays: the dashboard's cost by tenant.",
};

/// 1 once every watch has delivered its first list.
pub const SYNCED: Definition = Definition {
    name: "halo_operator_synced",
    kind: Kind::Gauge,
    labels: &[],
    help: "1 once every watch has delivered its first list.",
    acts: "Alert HaloOperatorNotSynced: the operator decides nothing before.",
};

/// The operator.
pub const COMPONENT: Component = Component {
    name: "operator",
    served: "`halo-operator` on its HTTP port",
    metrics: &[
        &RECONCILES,
        &RECONCILE_ERRORS,
        &RECONCILE_PANICS,
        &RECONCILE_SECONDS,
        &ACTIVE_WORKERS,
        &MAX_WORKERS,
        &QUEUE_DEPTH,
        &QUEUE_ADDS,
        &QUEUE_RETRIES,
        &QUEUE_SECONDS,
        &WORK_SECONDS,
        &UNFINISHED,
        &LONGEST,
        &LEADER,
        &API_REQUESTS,
        &API_SECONDS,
        &WATCH_FAILURES,
        &CACHED,
        &INVALID,
        &EVENTS,
        &CLOUD_REQUESTS,
        &CLOUD_SECONDS,
        &CLOUD_BATCH,
        &CLOUD_DELAYED,
        &ORPHANS,
        &ICE,
        &PHASES,
        &WAKE_STAGES,
        &NODES,
        &TENANT_KEYS,
        &NODE_SECONDS,
        &COST,
        &SYNCED,
    ],
};
