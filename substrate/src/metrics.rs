//! What Prometheus reads of a pod. Every label has a fixed set of values.

use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

use crate::generate::StepOutput;

/// The pod's metrics. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// Seconds that loading the weights took; 0 until they are loaded.
    pub load_seconds: Gauge,
    /// 1 when requests are taken.
    pub ready: IntGauge,
    /// From a request's place in the queue to its first token.
    pub time_to_first_token: Histogram,
    /// Between one token and the next.
    pub inter_token: Histogram,
    /// From handing a block to the ledger to its acknowledgement.
    pub append: Histogram,
    /// Tokens of prompts that were computed.
    pub prompt_tokens: IntCounter,
    /// Tokens made.
    pub tokens: IntCounter,
    /// Requests waiting for their turn.
    pub queue_depth: IntGauge,
    /// Answers being computed.
    pub active: IntGauge,
    /// Links from gateways.
    pub links: IntGauge,
    /// Tier 2 receipts that are durable.
    pub receipts: IntCounter,
    /// Experts that a step used, summed over layers.
    pub expert_activations: IntCounter,
    /// Experts used for the first time since the weights were loaded.
    pub expert_loads: IntCounter,
    /// Requests that ended, by status.
    pub answers: IntCounterVec,
    /// Messages, requests and connections that were refused, by reason.
    pub refusals: IntCounterVec,
}

/// Buckets in seconds for what happens within one answer: 1 ms to about 130 s, doubling.
fn buckets() -> Vec<f64> {
    (0..18).map(|power| 0.001 * f64::from(1 << power)).collect()
}

impl Metrics {
    /// All metrics at zero, in a registry of their own.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let histogram = |name: &str, help: &str| {
            let opts = HistogramOpts::new(format!("halo_substrate_{name}"), help);
            let histogram = Histogram::with_opts(opts.buckets(buckets()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("halo_substrate_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("halo_substrate_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counters = |name: &str, help: &str, label: &str| {
            let opts = Opts::new(format!("halo_substrate_{name}"), help);
            let counters = IntCounterVec::new(opts, &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let load_seconds = Gauge::new(
            "halo_substrate_load_seconds",
            "Seconds that loading the weights took; 0 until they are loaded.",
        )?;
        registry.register(Box::new(load_seconds.clone()))?;
        Ok(Self {
            load_seconds,
            ready: gauge("ready", "1 when the pod takes requests.")?,
            time_to_first_token: histogram(
                "time_to_first_token_seconds",
                "From a request's place in the queue to its first token.",
            )?,
            inter_token: histogram("inter_token_seconds", "Between one token and the next.")?,
            append: histogram(
                "ledger_append_seconds",
                "From handing a block of receipts to the ledger to its acknowledgement.",
            )?,
            prompt_tokens: counter("prompt_tokens_total", "Tokens of computed prompts.")?,
            tokens: counter("tokens_total", "Tokens made.")?,
            queue_depth: gauge("queue_depth", "Requests waiting for their turn.")?,
            active: gauge("active", "Answers being computed.")?,
            links: gauge("links", "Connections from gateways.")?,
            receipts: counter("receipts_total", "Tier 2 receipts that are durable.")?,
            expert_activations: counter(
                "expert_activations_total",
                "Experts that steps used, summed over layers.",
            )?,
            expert_loads: counter(
                "expert_loads_total",
                "Experts used for the first time since the weights were loaded.",
            )?,
            answers: counters("answers_total", "Requests that ended, by status.", "status")?,
            refusals: counters(
                "refusals_total",
                "Messages, requests and connections that were refused, by reason.",
                "reason",
            )?,
            registry,
        })
    }

    /// Counts what a step made.
    pub fn step(&self, output: &StepOutput) {
        self.tokens.inc();
        self.expert_activations.inc_by(output.active.count() as u64);
        self.expert_loads.inc_by(output.loaded.count() as u64);
    }

    /// Counts a refusal. `reason` is one of the words in the code, never text from outside.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.with_label_values(&[reason]).inc();
    }

    /// The text format of Prometheus.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
