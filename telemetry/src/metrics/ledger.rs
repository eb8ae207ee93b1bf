//! Metrics of the ledger.

use super::{Component, Definition, Kind};

/// From half a millisecond to half a minute: a local write, a round trip to a region, and one that had to be tried again.
const APPENDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Seconds that appends took.
pub const APPEND_SECONDS: Definition = Definition {
    name: "halo_ledger_append_seconds",
    kind: Kind::Histogram(APPENDS),
    labels: &["outcome"],
    help: "How long blocks of receipts took to become durable, in seconds, by what became of them (written, repeated, spilled, failed).",
    acts: "Whoever runs the platform looks at the ledger's region and limits when it rises: answers end only after their last block.",
};
/// Consumed capacity.
pub const UNITS: Definition = Definition {
    name: "halo_ledger_units_total",
    kind: Kind::Counter,
    labels: &["operation"],
    help: "Capacity units that DynamoDB charged: write units for put, read units for get and query.",
    acts: "Whoever pays the bill compares it with the receipts that were written.",
};
/// Throttled requests.
pub const THROTTLES: Definition = Definition {
    name: "halo_ledger_throttles_total",
    kind: Kind::Counter,
    labels: &["operation"],
    help: "Requests that DynamoDB refused because too many came at once; they are tried again.",
    acts: "Whoever runs the platform raises the table's limits when it keeps rising.",
};
/// Requests under way.
pub const QUEUE: Definition = Definition {
    name: "halo_ledger_queue",
    kind: Kind::Gauge,
    labels: &[],
    help: "Requests to DynamoDB that are under way or wait for their turn; their callers wait with them.",
    acts: "Whoever runs the platform looks at throttles and latency when it stays high.",
};
/// Blocks in the local spill.
pub const SPILL_BLOCKS: Definition = Definition {
    name: "halo_ledger_spill_blocks",
    kind: Kind::Gauge,
    labels: &["state"],
    help: "Blocks that stand in the local spill: waiting for DynamoDB, or kept because the ledger holds something else in their place.",
    acts: "Waiting blocks: see that DynamoDB can be reached before the disk is replaced. Kept blocks: an integrity incident.",
};
/// The spill's size.
pub const SPILL_BYTES: Definition = Definition {
    name: "halo_ledger_spill_bytes",
    kind: Kind::Gauge,
    labels: &[],
    help: "Bytes of the blocks in the local spill; at its limit nothing more is acknowledged.",
    acts: "Whoever runs the platform brings DynamoDB back before it is full.",
};
/// The age of the oldest waiting block.
pub const SPILL_OLDEST_SECONDS: Definition = Definition {
    name: "halo_ledger_spill_oldest_seconds",
    kind: Kind::Gauge,
    labels: &[],
    help: "How long the oldest block has been waiting in the local spill, in seconds; 0 if none waits.",
    acts: "Whoever runs the platform looks at the way to DynamoDB when it does not fall.",
};
/// Blocks that went into the spill.
pub const SPILLED: Definition = Definition {
    name: "halo_ledger_spilled_blocks_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Blocks that were acknowledged from the local spill because DynamoDB was away.",
    acts: "Whoever runs the platform reads from it how often DynamoDB was away.",
};
/// Blocks that went from the spill into the ledger.
pub const DRAINED: Definition = Definition {
    name: "halo_ledger_drained_blocks_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Blocks that went from the local spill into DynamoDB.",
    acts: "Whoever runs the platform compares it with the blocks that were spilled.",
};
/// Forks.
pub const FORKS: Definition = Definition {
    name: "halo_ledger_forks_total",
    kind: Kind::Counter,
    labels: &["found"],
    help: "Blocks whose numbers already hold other receipts, by when that was found (append, drain).",
    acts: "Page at once: two writers, or a writer that forgot; see the error log for session and number.",
};
/// Errors.
pub const ERRORS: Definition = Definition {
    name: "halo_ledger_errors_total",
    kind: Kind::Counter,
    labels: &["operation", "kind"],
    help: "Operations on the ledger that failed, by operation and kind (taken, fork, gap, unavailable, denied and so on).",
    acts: "Whoever runs the platform looks at rights when the kind is denied, at the region when it is unavailable.",
};

/// The ledger.
pub const COMPONENT: Component = Component {
    name: "ledger",
    served: "every program that writes the ledger, beside its own metrics",
    metrics: &[
        &APPEND_SECONDS,
        &UNITS,
        &THROTTLES,
        &QUEUE,
        &SPILL_BLOCKS,
        &SPILL_BYTES,
        &SPILL_OLDEST_SECONDS,
        &SPILLED,
        &DRAINED,
        &FORKS,
        &ERRORS,
    ],
};
