//! What Prometheus reads of a pod: the metrics of [`halo_telemetry::metrics::substrate`].

use halo_receipts::keys::KeyStore as _;
use halo_telemetry::metrics::substrate as list;
use halo_telemetry::registry::Maker;
use prometheus::{Error, Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::engine::Kernel;
use crate::generate::StepOutput;
use crate::pod::Pod;

/// The pod's metrics. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    maker: Maker,
    /// Seconds that loading the weights took; 0 until they are loaded.
    pub load_seconds: Gauge,
    /// 1 when requests are taken.
    pub ready: IntGauge,
    /// From a request's place in the queue to its first token.
    pub time_to_first_token: Histogram,
    /// From a request's place in the queue to the start of its computation.
    pub queue_seconds: Histogram,
    /// Between one token and the next.
    pub inter_token: Histogram,
    /// From handing a block to the ledger to its acknowledgement.
    pub append: Histogram,
    /// How long an answer stood still each time because the ledger lagged.
    pub ledger_wait: Histogram,
    /// Answers that stand still because the ledger lags.
    pub ledger_waiting: IntGauge,
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
    kernel_info: IntGaugeVec,
    keys_end: Gauge,
    keys_generation: IntGauge,
}

impl Metrics {
    /// All metrics at zero, in a registry of their own.
    ///
    /// # Errors
    /// When a metric is defined in another way than it is used here.
    pub fn new() -> Result<Self, Error> {
        let maker = Maker::new();
        Ok(Self {
            load_seconds: maker.measure(&list::LOAD_SECONDS)?,
            ready: maker.gauge(&list::READY)?,
            time_to_first_token: maker.histogram(&list::TIME_TO_FIRST_TOKEN_SECONDS)?,
            queue_seconds: maker.histogram(&list::QUEUE_SECONDS)?,
            inter_token: maker.histogram(&list::INTER_TOKEN_SECONDS)?,
            append: maker.histogram(&list::LEDGER_APPEND_SECONDS)?,
            ledger_wait: maker.histogram(&list::LEDGER_WAIT_SECONDS)?,
            ledger_waiting: maker.gauge(&list::LEDGER_WAITING)?,
            prompt_tokens: maker.counter(&list::PROMPT_TOKENS)?,
            tokens: maker.counter(&list::TOKENS)?,
            queue_depth: maker.gauge(&list::QUEUE_DEPTH)?,
            active: maker.gauge(&list::ACTIVE)?,
            links: maker.gauge(&list::LINKS)?,
            receipts: maker.counter(&list::RECEIPTS)?,
            expert_activations: maker.counter(&list::EXPERT_ACTIVATIONS)?,
            expert_loads: maker.counter(&list::EXPERT_LOADS)?,
            answers: maker.counters(&list::ANSWERS)?,
            refusals: maker.counters(&list::REFUSALS)?,
            kernel_info: maker.gauges(&list::KERNEL_INFO)?,
            keys_end: maker.measure(&list::KEYS_END)?,
            keys_generation: maker.gauge(&list::KEYS_GENERATION)?,
            maker,
        })
    }

    /// Where further metrics of this program are made, such as the ledger's.
    pub fn maker(&self) -> &Maker {
        &self.maker
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

    /// Tells which kernels multiply the weights.
    pub fn kernels(&self, kernels: &[Kernel]) {
        for Kernel { stored, path } in kernels {
            self.kernel_info.with_label_values(&[stored, path]).set(1);
        }
    }

    /// The text format of Prometheus, with what is true of the pod's keys now.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn render(&self, pod: &Pod) -> Result<Vec<u8>, Error> {
        let current = pod.keys.current(&pod.tenant).map(|keys| keys.root());
        self.keys_generation
            .set(current.map_or(0, |root| root.generation.into()));
        let end = pod.keys.end().map_or(0, |end| end.micros() / 1_000_000);
        self.keys_end.set(end as f64);
        self.maker.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_on_the_list_is_served() {
        let metrics = Metrics::new().unwrap();
        assert!(metrics.maker().missing(&list::COMPONENT).is_empty());
    }
}
