//! Checks expressions against the list of metrics.

use std::collections::{BTreeMap, BTreeSet};

use super::promql::{self, Selector};
use super::rules::Group;
use crate::metrics::{COMPONENTS, Definition, Kind};

/// Labels that Prometheus gives every series of a scraped program.
const SCRAPED: [&str; 4] = ["instance", "job", "namespace", "pod"];
/// Series that Prometheus makes itself, and their labels.
const BUILT_IN: [(&str, &[&str]); 2] = [
    ("up", &[]),
    ("ALERTS", &["alertname", "alertstate", "severity", "tenant"]),
];
/// Functions that mean something of what only rises.
const OF_COUNTERS: [&str; 3] = ["rate", "increase", "irate"];
/// Functions that mean something of what rises and falls.
const OF_GAUGES: [&str; 4] = ["delta", "deriv", "min_over_time", "avg_over_time"];

/// What expressions may name.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// Names that are recorded, and the labels that they may have.
    recorded: BTreeMap<String, BTreeSet<String>>,
}

/// The metric of the list that a series belongs to, and the suffix of the series.
pub fn metric(series: &str) -> Option<(&'static Definition, &str)> {
    let all = || COMPONENTS.iter().flat_map(|component| component.metrics);
    if let Some(plain) = all().find(|metric| metric.name == series) {
        return (!matches!(plain.kind, Kind::Histogram(_))).then_some((*plain, ""));
    }
    ["_bucket", "_sum", "_count"]
        .into_iter()
        .find_map(|suffix| {
            let name = series.strip_suffix(suffix)?;
            let found = all().find(|metric| metric.name == name)?;
            matches!(found.kind, Kind::Histogram(_)).then_some((*found, suffix))
        })
}

fn set(labels: &[&str]) -> BTreeSet<String> {
    labels.iter().map(|&label| label.to_owned()).collect()
}

impl Catalogue {
    /// The list, and what these rules record.
    ///
    /// # Errors
    /// What is wrong with each recorded expression.
    pub fn new(groups: &[Group]) -> Result<Self, Vec<String>> {
        let mut catalogue = Self::default();
        let mut wrong = Vec::new();
        for rule in groups.iter().flat_map(|group| &group.rules) {
            let Some(name) = &rule.record else { continue };
            match catalogue.check(&rule.expr) {
                Ok(mut labels) => {
                    labels.extend(rule.labels.keys().cloned());
                    catalogue.recorded.insert(name.clone(), labels);
                }
                Err(found) => wrong.extend(found.iter().map(|one| format!("{name}: {one}"))),
            }
        }
        if wrong.is_empty() {
            Ok(catalogue)
        } else {
            Err(wrong)
        }
    }

    /// Checks an expression; the labels that its series may have.
    ///
    /// # Errors
    /// Each name in it that does not exist, each label that its metric does not have, each bucket that is none, and each function that
    /// says nothing of its metric.
    pub fn check(&self, expression: &str) -> Result<BTreeSet<String>, Vec<String>> {
        let names = promql::names(expression).map_err(|error| vec![error])?;
        let mut wrong = Vec::new();
        let mut labels = set(&SCRAPED);
        for selector in &names.selectors {
            match self.labels(selector) {
                Ok(own) => labels.extend(own),
                Err(found) => wrong.extend(found),
            }
        }
        for label in &names.grouping {
            if !labels.contains(label) {
                wrong.push(format!("nothing has the label {label} by which it groups"));
            }
        }
        if wrong.is_empty() {
            Ok(labels)
        } else {
            Err(wrong)
        }
    }

    fn labels(&self, selector: &Selector) -> Result<BTreeSet<String>, Vec<String>> {
        let name = selector.name.as_str();
        let mut wrong = Vec::new();
        let mut labels = set(&SCRAPED);
        let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
        if let Some((_, own)) = built_in {
            labels.extend(set(own));
        } else if let Some(own) = self.recorded.get(name) {
            labels.clone_from(own);
        } else if let Some((metric, suffix)) = metric(name) {
            labels.extend(set(metric.labels));
            if suffix == "_bucket" {
                labels.insert("le".to_owned());
            }
            if let Kind::Histogram(buckets) = metric.kind {
                let exact = selector.matchers.iter().filter(|matcher| {
                    matcher.label == "le" && matcher.operator == "=" && matcher.value != "+Inf"
                });
                for bucket in exact {
                    if !buckets
                        .iter()
                        .any(|known| known.to_string() == bucket.value)
                    {
                        wrong.push(format!("{name} has no bucket le={:?}", bucket.value));
                    }
                }
            }
            let gauge = metric.kind == Kind::Gauge;
            let function = selector.function.as_str();
            if gauge && OF_COUNTERS.contains(&function) || !gauge && OF_GAUGES.contains(&function) {
                wrong.push(format!("{function} says nothing of {name}"));
            }
        } else {
            wrong.push(format!("no metric is named {name}"));
            return Err(wrong);
        }
        for matcher in &selector.matchers {
            if !labels.contains(&matcher.label) {
                wrong.push(format!("{name} has no label {}", matcher.label));
            }
        }
        if wrong.is_empty() {
            Ok(labels)
        } else {
            Err(wrong)
        }
    }
}

/// What is recorded, and the names of the metrics that it is made of.
pub type Recorded = BTreeMap<String, BTreeSet<&'static str>>;

/// The names of the metrics that an expression looks at, itself or through what is recorded.
pub fn metrics_of(expression: &str, recorded: &Recorded) -> BTreeSet<&'static str> {
    let names = promql::names(expression).unwrap_or_default();
    let mut metrics = BTreeSet::new();
    for selector in &names.selectors {
        match recorded.get(&selector.name) {
            Some(known) => metrics.extend(known.iter().copied()),
            None => metrics.extend(metric(&selector.name).map(|(metric, _)| metric.name)),
        }
    }
    metrics
}

/// What these rules record.
pub fn recorded(groups: &[Group]) -> Recorded {
    let mut recorded = Recorded::new();
    for rule in groups.iter().flat_map(|group| &group.rules) {
        if let Some(name) = &rule.record {
            let metrics = metrics_of(&rule.expr, &recorded);
            recorded.insert(name.clone(), metrics);
        }
    }
    recorded
}

/// The names of the alerts whose expressions look at a metric, themselves or through what is recorded.
pub fn alerts_of(groups: &[Group]) -> BTreeMap<&'static str, BTreeSet<String>> {
    let recorded = recorded(groups);
    let mut alerts: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
    for rule in groups.iter().flat_map(|group| &group.rules) {
        if let Some(alert) = &rule.alert {
            for metric in metrics_of(&rule.expr, &recorded) {
                alerts.entry(metric).or_default().insert(alert.clone());
            }
        }
    }
    alerts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn what_does_not_exist_is_found() {
        let catalogue = Catalogue::default();
        for good in [
            "sum by (pod, code) (rate(halo_gateway_requests_total{status=\"ok\"}[5m]))",
            "halo_gateway_first_token_seconds_bucket{le=\"10\"}",
            "up{job=\"halo-gateway\"} == 0",
            "min_over_time(halo_substrate_phase{phase=\"Waking\"}[5m])",
        ] {
            catalogue.check(good).unwrap();
        }
        for (bad, says) in [
            ("halo_gateway_request_total", "no metric"),
            ("halo_gateway_first_token_seconds", "no metric"),
            ("halo_gateway_requests_total_count", "no metric"),
            ("halo_gateway_requests_total{verb=\"x\"}", "no label verb"),
            ("sum by (le) (halo_gateway_requests_total)", "label le"),
            (
                "halo_gateway_first_token_seconds_bucket{le=\"11\"}",
                "no bucket",
            ),
            ("rate(halo_gateway_held_requests[5m])", "says nothing"),
            ("deriv(halo_gateway_requests_total[5m])", "says nothing"),
        ] {
            let wrong = catalogue.check(bad).unwrap_err();
            assert!(wrong[0].contains(says), "{bad}: {wrong:?}");
        }
    }
}
