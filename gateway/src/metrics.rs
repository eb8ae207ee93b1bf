//! What a gateway counts. Names begin with `halo_gateway_`; no label ever holds a session, a device or a text.

use std::sync::Arc;

use halo_receipts::documents::{EndStatus, Operation, Progress};
use halo_receipts::ids::TenantId;
use halo_telemetry::metrics::gateway as list;
use halo_telemetry::registry::{Bounded, Maker};
use prometheus::{Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use crate::session::Count;

/// Tenants that have labels of their own; a gateway in one cluster serves far fewer.
const TENANTS: usize = 200;

/// The counters of one gateway. A copy counts in the same place.
#[derive(Clone)]
pub struct Metrics {
    maker: Maker,
    tenants: Arc<Bounded>,
    frames: IntCounterVec,
    refused: IntCounterVec,
    verify: HistogramVec,
    bundles: IntCounterVec,
    integrity: IntCounterVec,
    requests: IntCounterVec,
    refusals: IntCounterVec,
    openings: IntCounterVec,
    upgrades: IntCounterVec,
    closes: IntCounterVec,
    turned_away: IntCounterVec,
    pod_links: IntCounterVec,
    holds: IntCounterVec,
    wake_stages: HistogramVec,
    notices: IntCounterVec,
    moved: IntCounterVec,
    backpressure: IntCounterVec,
    demand_writes: IntCounterVec,
    watch_failures: IntCounterVec,
    /// Receipts that tell of a broken sensor link.
    pub session_resets: IntCounter,
    /// Sessions and epochs that were opened.
    pub sessions: IntCounterVec,
    /// Sockets that are accepted now, with or without a session.
    pub sockets: IntGauge,
    /// Device connections that are open now.
    pub connections: IntGauge,
    /// Requests that wait for a pod now.
    pub held: IntGauge,
    /// Their bytes.
    pub held_bytes: IntGauge,
    /// For how long the oldest of them has waited, in seconds.
    pub oldest_hold: Gauge,
    /// Answers under way now, those whose device is away included.
    pub answers: IntGauge,
    /// Tokens that were taken from pods.
    pub tokens: IntCounter,
    /// Tokens that were sent to devices.
    pub relayed: IntCounter,
    /// Receipts that were written to stream `d`.
    pub receipts: IntCounter,
    /// Answers that the gateway closed in place of a lost pod.
    pub closed_for_pod: IntCounter,
    /// From a request's admission until its pod's link stands.
    pub hold_seconds: Histogram,
    /// From a pod's readiness until the first held request's link stands.
    pub ready_to_link: Histogram,
    /// From a request's admission until its first token.
    pub first_token_seconds: Histogram,
    /// How long the ledger took to append.
    pub append_seconds: Histogram,
    /// 1 while the gateway shuts down.
    pub draining: IntGauge,
    /// 1 when it is known who is served and where.
    pub directory_synced: IntGauge,
    /// Seconds since that was last confirmed.
    pub directory_age: Gauge,
}

impl Metrics {
    /// Registers every counter with `maker`, which other parts of the same program may share.
    pub fn new(maker: &Maker) -> Result<Self, prometheus::Error> {
        Ok(Self {
            tenants: Arc::new(Bounded::new(TENANTS)),
            frames: maker.counters(&list::FRAMES)?,
            refused: maker.counters(&list::REFUSED_MESSAGES)?,
            verify: maker.histograms(&list::VERIFY_SECONDS)?,
            bundles: maker.counters(&list::REFUSED_BUNDLES)?,
            integrity: maker.counters(&list::INTEGRITY_FAILURES)?,
            requests: maker.counters(&list::REQUESTS)?,
            refusals: maker.counters(&list::REFUSALS)?,
            openings: maker.counters(&list::REFUSED_OPENINGS)?,
            upgrades: maker.counters(&list::REFUSED_UPGRADES)?,
            closes: maker.counters(&list::CLOSED_CONNECTIONS)?,
            turned_away: maker.counters(&list::TURNED_AWAY)?,
            pod_links: maker.counters(&list::POD_LINKS)?,
            holds: maker.counters(&list::HOLDS)?,
            wake_stages: maker.histograms(&list::WAKE_STAGES)?,
            notices: maker.counters(&list::NOTICES)?,
            moved: maker.counters(&list::MOVED)?,
            backpressure: maker.counters(&list::BACKPRESSURE)?,
            demand_writes: maker.counters(&list::DEMAND_WRITES)?,
            watch_failures: maker.counters(&list::WATCH_FAILURES)?,
            session_resets: maker.counter(&list::SESSION_RESETS)?,
            sessions: maker.counters(&list::OPENED)?,
            sockets: maker.gauge(&list::SOCKETS)?,
            connections: maker.gauge(&list::CONNECTIONS)?,
            held: maker.gauge(&list::HELD)?,
            held_bytes: maker.gauge(&list::HELD_BYTES)?,
            oldest_hold: maker.measure(&list::OLDEST_HOLD)?,
            answers: maker.gauge(&list::ANSWERS)?,
            tokens: maker.counter(&list::TOKENS)?,
            relayed: maker.counter(&list::RELAYED)?,
            receipts: maker.counter(&list::RECEIPTS)?,
            closed_for_pod: maker.counter(&list::CLOSED_FOR_POD)?,
            hold_seconds: maker.histogram(&list::HOLD_SECONDS)?,
            ready_to_link: maker.histogram(&list::READY_TO_LINK)?,
            first_token_seconds: maker.histogram(&list::FIRST_TOKEN_SECONDS)?,
            append_seconds: maker.histogram(&list::APPEND_SECONDS)?,
            draining: maker.gauge(&list::DRAINING)?,
            directory_synced: maker.gauge(&list::DIRECTORY_SYNCED)?,
            directory_age: maker.measure(&list::DIRECTORY_AGE)?,
            maker: maker.clone(),
        })
    }

    /// Counts what a session machine of a tenant reports.
    pub fn count(&self, tenant: &TenantId, count: &Count) {
        match count {
            Count::Accepted(typ) => self.frames.with_label_values(&[typ.name()]).inc(),
            Count::Refused(reason) => self.refused.with_label_values(&[*reason]).inc(),
            Count::Bundle(reason) => self.bundles.with_label_values(&[*reason]).inc(),
            Count::Integrity(reason) => self.integrity_failed(reason),
            Count::Reset => self.session_resets.inc(),
            Count::Pause => self.slowed("device"),
            Count::Request(operation, status, code) => {
                let operation = match operation {
                    Operation::Infer => "infer",
                    Operation::Record => "record",
                    Operation::Resume => "resume",
                };
                let word = match status {
                    EndStatus::Ok => "ok",
                    EndStatus::Recorded => "recorded",
                    EndStatus::Refused => "refused",
                    EndStatus::Failed => "failed",
                    EndStatus::Cancelled => "cancelled",
                };
                let labels = [operation, word, code.name()];
                self.requests.with_label_values(&labels).inc();
                if *status == EndStatus::Refused {
                    let labels = [self.tenants.label(tenant.as_str()), code.name()];
                    self.refusals.with_label_values(&labels).inc();
                }
            }
        }
    }

    /// Counts a signed thing that did not verify.
    pub fn integrity_failed(&self, reason: &str) {
        self.integrity.with_label_values(&[reason]).inc();
    }

    /// How long a check of `what`, a frame or a bundle, took.
    pub fn verified(&self, what: &str, seconds: f64) {
        self.verify.with_label_values(&[what]).observe(seconds);
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

    /// Counts a request that stopped waiting.
    pub fn hold_ended(&self, tenant: &TenantId, outcome: &str) {
        let labels = [self.tenants.label(tenant.as_str()), outcome];
        self.holds.with_label_values(&labels).inc();
    }

    /// How long a wake spent in a stage.
    pub fn wake_stage(&self, stage: &str, seconds: f64) {
        self.wake_stages
            .with_label_values(&[stage])
            .observe(seconds);
    }

    /// Counts a notice.
    pub fn notice(&self, state: Progress) {
        let state = match state {
            Progress::Waking => "waking",
            Progress::Queued => "queued",
            Progress::Loading => "loading",
            Progress::Ready => "ready",
        };
        self.notices.with_label_values(&[state]).inc();
    }

    /// Counts a request that goes to another link before its first token.
    pub fn moved(&self, reason: &str) {
        self.moved.with_label_values(&[reason]).inc();
    }

    /// Counts a sender that was slowed: `pod` or `device`.
    pub fn slowed(&self, kind: &str) {
        self.backpressure.with_label_values(&[kind]).inc();
    }

    /// Counts a report of demand.
    pub fn demand_written(&self, result: &str) {
        self.demand_writes.with_label_values(&[result]).inc();
    }

    /// Counts a failure of a watch on objects of a kind.
    pub fn watch_failed(&self, kind: &str) {
        self.watch_failures.with_label_values(&[kind]).inc();
    }

    /// What other parts of this program register their metrics with.
    pub fn maker(&self) -> &Maker {
        &self.maker
    }

    /// The exposition in Prometheus' text format.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        self.maker.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_on_the_list_is_served() {
        let maker = Maker::new();
        Metrics::new(&maker).unwrap();
        assert!(maker.missing(&list::COMPONENT).is_empty());
    }
}
