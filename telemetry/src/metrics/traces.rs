//! Metrics of traces.

use super::{Component, Definition, Kind};

/// What became of spans.
pub const SPANS: Definition = Definition {
    name: "halo_traces_spans_total",
    kind: Kind::Counter,
    labels: &["outcome"],
    help: "Spans of this process: `sent`, `dropped` because the queue was full or the collector away, `refused` by the collector.",
    acts: "Who misses a trace looks here: dropped spans name a collector that is slow or away.",
};

/// Traces.
pub const COMPONENT: Component = Component {
    name: "traces",
    served: "every program that can send traces, beside its own metrics",
    metrics: &[&SPANS],
};
