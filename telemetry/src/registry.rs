//! Makes and registers metrics of the list, and keeps their labels few.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    CounterVec, Encoder as _, Error, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec,
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, Result, TextEncoder,
};

use crate::metrics::{Component, Definition, Kind};

/// What label values beyond the count are called.
pub const OTHER: &str = "other";

/// Values of a label that have one of their own; the rest is [`OTHER`].
pub struct Bounded {
    most: usize,
    seen: Mutex<BTreeSet<String>>,
}

impl Bounded {
    /// The first `most` values keep their name.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            seen: Mutex::default(),
        }
    }

    /// The value, or [`OTHER`].
    pub fn label<'a>(&self, value: &'a str) -> &'a str {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(value) {
            return value;
        }
        if seen.len() >= self.most {
            return OTHER;
        }
        seen.insert(value.to_owned());
        value
    }
}

/// Makes metrics from their definitions and registers them. Every method fails if the definition is of another type, has labels where
/// none are asked for or none where some are, or was registered already.
#[derive(Clone, Default)]
pub struct Maker {
    registry: Registry,
    made: Arc<Mutex<BTreeSet<&'static str>>>,
}

fn mismatch(definition: &Definition, asked: &str) -> Error {
    Error::Msg(format!(
        "{} is not {asked}: see its definition",
        definition.name
    ))
}

fn opts(definition: &Definition) -> Opts {
    Opts::new(definition.name, definition.help)
}

impl Maker {
    /// A registry of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// The registry, to gather from.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The exposition in Prometheus' text format.
    ///
    /// # Errors
    /// What the encoder reports; none is known for metrics of the list.
    pub fn render(&self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    fn put<C: Collector + Clone + 'static>(
        &self,
        definition: &Definition,
        made: Result<C>,
    ) -> Result<C> {
        let made = made?;
        self.registry.register(Box::new(made.clone()))?;
        let mut names = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(definition.name);
        Ok(made)
    }

    /// Registers a metric that was made elsewhere from the same definition: one that the whole process has.
    ///
    /// # Errors
    /// It is registered already.
    pub fn add<C: Collector + Clone + 'static>(
        &self,
        definition: &Definition,
        made: C,
    ) -> Result<()> {
        self.put(definition, Ok(made)).map(drop)
    }

    fn check(definition: &Definition, kind: Kind, labelled: bool, asked: &str) -> Result<()> {
        let same = std::mem::discriminant(&definition.kind) == std::mem::discriminant(&kind);
        if same && labelled != definition.labels.is_empty() {
            Ok(())
        } else {
            Err(mismatch(definition, asked))
        }
    }

    /// A counter without labels.
    ///
    /// # Errors
    /// See [`Maker`]; so for all methods below.
    pub fn counter(&self, definition: &Definition) -> Result<IntCounter> {
        Self::check(definition, Kind::Counter, false, "a counter without labels")?;
        self.put(definition, IntCounter::with_opts(opts(definition)))
    }

    /// Counters by label.
    pub fn counters(&self, definition: &Definition) -> Result<IntCounterVec> {
        Self::check(definition, Kind::Counter, true, "a counter with labels")?;
        self.put(
            definition,
            IntCounterVec::new(opts(definition), definition.labels),
        )
    }

    /// Sums of seconds or money, by label.
    pub fn sums(&self, definition: &Definition) -> Result<CounterVec> {
        Self::check(definition, Kind::Counter, true, "a counter with labels")?;
        self.put(
            definition,
            CounterVec::new(opts(definition), definition.labels),
        )
    }

    /// A gauge of whole numbers without labels.
    pub fn gauge(&self, definition: &Definition) -> Result<IntGauge> {
        Self::check(definition, Kind::Gauge, false, "a gauge without labels")?;
        self.put(definition, IntGauge::with_opts(opts(definition)))
    }

    /// Gauges of whole numbers by label.
    pub fn gauges(&self, definition: &Definition) -> Result<IntGaugeVec> {
        Self::check(definition, Kind::Gauge, true, "a gauge with labels")?;
        self.put(
            definition,
            IntGaugeVec::new(opts(definition), definition.labels),
        )
    }

    /// A gauge of seconds or another measure without labels.
    pub fn measure(&self, definition: &Definition) -> Result<Gauge> {
        Self::check(definition, Kind::Gauge, false, "a gauge without labels")?;
        self.put(definition, Gauge::with_opts(opts(definition)))
    }

    /// Gauges of seconds or another measure by label.
    pub fn measures(&self, definition: &Definition) -> Result<GaugeVec> {
        Self::check(definition, Kind::Gauge, true, "a gauge with labels")?;
        self.put(
            definition,
            GaugeVec::new(opts(definition), definition.labels),
        )
    }

    /// A histogram without labels.
    pub fn histogram(&self, definition: &Definition) -> Result<Histogram> {
        Self::check(
            definition,
            Kind::Histogram(&[]),
            false,
            "a histogram without labels",
        )?;
        self.put(definition, Histogram::with_opts(Self::buckets(definition)))
    }

    /// Histograms by label.
    pub fn histograms(&self, definition: &Definition) -> Result<HistogramVec> {
        Self::check(
            definition,
            Kind::Histogram(&[]),
            true,
            "a histogram with labels",
        )?;
        self.put(
            definition,
            HistogramVec::new(Self::buckets(definition), definition.labels),
        )
    }

    fn buckets(definition: &Definition) -> HistogramOpts {
        let buckets = match definition.kind {
            Kind::Histogram(buckets) => buckets.to_vec(),
            Kind::Counter | Kind::Gauge => Vec::new(),
        };
        HistogramOpts::new(definition.name, definition.help).buckets(buckets)
    }

    /// Metrics of a component that were not registered: a name on the list that nothing serves would mislead whoever reads it.
    pub fn missing(&self, component: &Component) -> Vec<&'static str> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let names = component.metrics.iter().map(|metric| metric.name);
        names.filter(|name| !made.contains(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    const COUNTED: Definition = Definition {
        name: "halo_test_total",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Counted.",
        acts: "Nobody.",
    };
    const PLAIN: Definition = Definition {
        name: "halo_test_seconds",
        kind: Kind::Histogram(crate::metrics::WRITES),
        labels: &[],
        help: "Measured.",
        acts: "Nobody.",
    };
    const COMPONENT: Component = Component {
        name: "test",
        served: "nowhere",
        metrics: &[&COUNTED, &PLAIN],
    };

    #[test]
    fn only_what_is_defined_is_made() {
        let maker = Maker::new();
        assert_eq!(maker.missing(&COMPONENT).len(), 2);
        assert!(maker.counter(&COUNTED).is_err() && maker.gauges(&COUNTED).is_err());
        maker
            .counters(&COUNTED)
            .unwrap()
            .with_label_values(&["x"])
            .inc();
        assert!(maker.counters(&COUNTED).is_err(), "twice");
        assert_eq!(maker.missing(&COMPONENT), ["halo_test_seconds"]);
        maker.histogram(&PLAIN).unwrap().observe(0.3);
        assert!(maker.missing(&COMPONENT).is_empty());
        let text = String::from_utf8(maker.render().unwrap()).unwrap();
        assert!(text.contains("halo_test_total{reason=\"x\"} 1"));
        assert!(text.contains("halo_test_seconds_bucket{le=\"0.5\"} 1"));
    }

    #[test]
    fn labels_are_bounded() {
        let bounded = Bounded::new(1);
        assert_eq!(
            [bounded.label("a"), bounded.label("b"), bounded.label("a")],
            ["a", OTHER, "a"]
        );
    }
}
