//! What a ledger tells of itself.

use halo_telemetry::metrics::ledger as list;
use halo_telemetry::registry::Maker;
use prometheus::{
    CounterVec, Gauge, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};

/// The metrics of `halo_telemetry::metrics::ledger`. Clones count into the same metrics.
#[derive(Clone)]
pub struct LedgerMetrics {
    pub(crate) append: HistogramVec,
    pub(crate) units: CounterVec,
    pub(crate) throttles: IntCounterVec,
    pub(crate) queue: IntGauge,
    pub(crate) spill_blocks: IntGaugeVec,
    pub(crate) spill_bytes: IntGauge,
    pub(crate) spill_oldest: Gauge,
    pub(crate) spilled: IntCounter,
    pub(crate) drained: IntCounter,
    pub(crate) forks: IntCounterVec,
    pub(crate) errors: IntCounterVec,
}

impl LedgerMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// If they were registered with this maker before.
    pub fn new(maker: &Maker) -> prometheus::Result<Self> {
        Ok(Self {
            append: maker.histograms(&list::APPEND_SECONDS)?,
            units: maker.sums(&list::UNITS)?,
            throttles: maker.counters(&list::THROTTLES)?,
            queue: maker.gauge(&list::QUEUE)?,
            spill_blocks: maker.gauges(&list::SPILL_BLOCKS)?,
            spill_bytes: maker.gauge(&list::SPILL_BYTES)?,
            spill_oldest: maker.measure(&list::SPILL_OLDEST_SECONDS)?,
            spilled: maker.counter(&list::SPILLED)?,
            drained: maker.counter(&list::DRAINED)?,
            forks: maker.counters(&list::FORKS)?,
            errors: maker.counters(&list::ERRORS)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_list_is_made() {
        let maker = Maker::new();
        LedgerMetrics::new(&maker).unwrap();
        assert!(maker.missing(&list::COMPONENT).is_empty());
        assert!(LedgerMetrics::new(&maker).is_err());
    }
}
