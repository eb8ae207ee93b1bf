//! What a gateway counts. Names begin with `halo_gateway_`; no label ever holds a session, a device or a text.

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use crate::session::Count;
use halo_receipts::documents::Operation;

/// The counters of one gateway, in a registry of their own.
pub struct Metrics {
    registry: Registry,
    frames: IntCounterVec,
    refused: IntCounterVec,
    bundles: IntCounterVec,
    requests: IntCounterVec,
    openings: IntCounterVec,
    upgrades: IntCounterVec,
    closes: IntCounterVec,
    turned_away: IntCounterVec,
    pod_links: IntCounterVec,
    /// Sessions and epochs that were opened.
    pub sessions: IntCounterVec,
    /// Sockets that are accepted now, with or without a session.
    pub sockets: IntGauge,
    /// Device connections that are open now.
    pub connections: IntGauge,
    /// Requests that wait for a pod now.
    pub held: IntGauge,
    /// Answers under way now, those whose device is away included.
    pub answers: IntGauge,
    /// Tokens that were taken from pods.
    pub tokens: IntCounter,
    /// Receipts that were written to stream `d`.
    pub receipts: IntCounter,
    /// Answers that the gateway closed in place of a lost pod.
    pub closed_for_pod: IntCounter,
    /// From a request's admission until its pod's link stands.
    pub hold_seconds: Histogram,
    /// From a request's admission until its first token.
    pub first_token_seconds: Histogram,
    /// How long the ledger took to append.
    pub append_seconds: Histogram,
    /// 1 while the gateway shuts down.
    pub draining: IntGauge,
}

impl Metrics {
    /// Registers every counter.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters =
                IntCounterVec::new(Opts::new(format!("halo_gateway_{name}"), help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("halo_gateway_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("halo_gateway_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let seconds = |name: &str, help: &str, buckets: &[f64]| {
            let opts = HistogramOpts::new(format!("halo_gateway_{name}"), help);
            let histogram = Histogram::with_opts(opts.buckets(buckets.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let waits = [
            0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
        ];
        let writes = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];
        Ok(Self {
            frames: counters(
                "frames_total",
                "Frames of devices that were accepted, by type.",
                &["type"],
            )?,
            refused: counters(
                "refused_messages_total",
                "Messages of devices that were refused, by reason.",
                &["reason"],
            )?,
            bundles: counters(
                "refused_bundles_total",
                "Bundles that were refused, by reason.",
                &["reason"],
            )?,
            requests: counters(
                "requests_total",
                "Requests that ended, by operation, status and code.",
                &["op", "status", "code"],
            )?,
            openings: counters(
                "refused_openings_total",
                "Requests for a session or an epoch that were refused, by reason.",
                &["reason"],
            )?,
            upgrades: counters(
                "refused_upgrades_total",
                "WebSocket upgrades that were refused, by reason.",
                &["reason"],
            )?,
            closes: counters(
                "closed_connections_total",
                "Device connections that ended, by reason.",
                &["reason"],
            )?,
            turned_away: counters(
                "turned_away_sockets_total",
                "Sockets that were closed before a request, by reason.",
                &["reason"],
            )?,
            pod_links: counters(
                "pod_links_total",
                "Attempts to reach a pod and what became of them.",
                &["outcome"],
            )?,
            sessions: counters(
                "opened_total",
                "Sessions and epochs that were opened.",
                &["kind"],
            )?,
            sockets: gauge("sockets", "Sockets that are accepted now.")?,
            connections: gauge("connections", "Device connections that are open now.")?,
            held: gauge("held_requests", "Requests that wait for a pod now.")?,
            answers: gauge("answers", "Answers under way now.")?,
            tokens: counter("tokens_total", "Tokens that were taken from pods.")?,
            receipts: counter(
                "receipts_total",
                "Receipts of tiers 0 and 1 that were written.",
            )?,
            closed_for_pod: counter(
                "closed_for_pod_total",
                "Answers that were closed in place of a lost pod.",
            )?,
            hold_seconds: seconds(
                "hold_seconds",
                "From a request until the link to its pod stands.",
                &waits,
            )?,
            first_token_seconds: seconds(
                "first_token_seconds",
                "From a request until its first token.",
                &waits,
            )?,
            append_seconds: seconds(
                "append_seconds",
                "How long the ledger took to append a bundle.",
                &writes,
            )?,
            draining: gauge("draining", "1 while the gateway shuts down.")?,
            registry,
        })
    }

    /// Counts what a session machine reports.
    pub fn count(&self, count: &Count) {
        match count {
            Count::Accepted(typ) => self.frames.with_label_values(&[typ.name()]).inc(),
            Count::Refused(reason) => self.refused.with_label_values(&[*reason]).inc(),
            Count::Bundle(reason) => self.bundles.with_label_values(&[*reason]).inc(),
            Count::Request(operation, status, code) => {
                let operation = match operation {
                    Operation::Infer => "infer",
                    Operation::Record => "record",
                    Operation::Resume => "resume",
                };
                let status = match status {
                    halo_receipts::documents::EndStatus::Ok => "ok",
                    halo_receipts::documents::EndStatus::Recorded => "recorded",
                    halo_receipts::documents::EndStatus::Refused => "refused",
                    halo_receipts::documents::EndStatus::Failed => "failed",
                    halo_receipts::documents::EndStatus::Cancelled => "cancelled",
                };
                let labels = [operation, status, code.name()];
                self.requests.with_label_values(&labels).inc();
            }
        }
    }

    /// Counts a refused opening.
    pub fn opening_refused(&self, reason: &str) {
        self.openings.with_label_values(&[reason]).inc();
    }

    /// Counts a refused upgrade.
    pub fn upgrade_refused(&self, reason: &str) {
        self.upgrades.with_label_values(&[reason]).inc();
    }

    /// Counts a connection that ended.
    pub fn connection_closed(&self, reason: &str) {
        self.closes.with_label_values(&[reason]).inc();
    }

    /// Counts a socket that was closed before it made a request.
    pub fn turned_away(&self, reason: &str) {
        self.turned_away.with_label_values(&[reason]).inc();
    }

    /// Counts an attempt to reach a pod, or a link that ended badly.
    pub fn pod_link(&self, outcome: &str) {
        self.pod_links.with_label_values(&[outcome]).inc();
    }

    /// The exposition in Prometheus' text format.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
