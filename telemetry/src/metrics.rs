//! The list of metrics, a file for each component.

pub mod gateway;
pub mod ledger;
pub mod operator;
pub mod substrate;
pub mod traces;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only rises; named `…_total`.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Observations in these buckets (upper bounds, ascending, without the infinite one).
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Definition {
    /// Its name, with unit and, for a counter, `_total`.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its labels. Each has a bounded set of values.
    pub labels: &'static [&'static str],
    /// What it says, one sentence: the HELP line.
    pub help: &'static str,
    /// Who looks at it, and what it makes them do; one sentence.
    pub acts: &'static str,
}

/// A program, or a part that several programs share, and its metrics.
#[derive(Debug, Clone, Copy)]
pub struct Component {
    /// Its name, such as `gateway`.
    pub name: &'static str,
    /// Which programs serve these metrics, and where.
    pub served: &'static str,
    /// Its metrics.
    pub metrics: &'static [&'static Definition],
}

/// Every component, in the order in which a reader meets them.
pub const COMPONENTS: [Component; 5] = [
    gateway::COMPONENT,
    substrate::COMPONENT,
    ledger::COMPONENT,
    operator::COMPONENT,
    traces::COMPONENT,
];

/// From half a millisecond to two and a half seconds: what a local write takes.
pub const WRITES: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];
/// From a millisecond to a minute and a half: requests and reconciles.
pub const SHORT: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 90.0,
];
/// From a tenth of a second to half an hour: wakes.
pub const LONG: &[f64] = &[
    0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0,
];
/// How many at once.
pub const COUNTS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_metric_is_named_and_explained_as_prometheus_wants_it() {
        let mut names = BTreeSet::new();
        for metric in COMPONENTS.iter().flat_map(|component| component.metrics) {
            let Definition {
                name,
                kind,
                labels,
                help,
                acts,
            } = metric;
            assert!(names.insert(name), "{name} is there twice");
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
                "{name}"
            );
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(help.ends_with('.') && acts.ends_with('.'), "{name}");
            assert_eq!(
                labels.iter().collect::<BTreeSet<_>>().len(),
                labels.len(),
                "{name}"
            );
            if let Kind::Histogram(buckets) = kind {
                assert!(buckets.is_sorted() && !buckets.is_empty(), "{name}");
            }
        }
    }
}
