//! Prometheus, Grafana and traces.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is done when the cluster does not know the kinds of the Prometheus operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RenderMode {
    /// Leave them out. Tools that render without a cluster leave them out, too.
    #[default]
    SkipIfMissing,
    /// Fail.
    FailIfMissing,
    /// Write them anyway, for tools that render without a cluster.
    AlwaysRender,
}

/// Prometheus, Grafana and traces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Monitoring {
    /// Namespaces whose pods may read metrics.
    pub namespaces: Vec<String>,
    /// What is done when the cluster does not know ServiceMonitor, PodMonitor or PrometheusRule: `skipIfMissing`, `failIfMissing`, or
    /// `alwaysRender` for tools that render without a cluster.
    pub render_mode: RenderMode,
    /// ServiceMonitors of operator and gateway, and a PodMonitor of all substrates.
    pub monitors: Monitors,
    /// A PrometheusRule with HALO's recording rules and alerts.
    pub rules: Rules,
    /// ConfigMaps with HALO's dashboards, for Grafana's sidecar.
    pub dashboards: Dashboards,
    /// The URL of an OpenTelemetry collector (OTLP over HTTP) that gets the traces of operator and gateway, such as
    /// `http://otel-collector.monitoring:4318`. Empty: no traces. For substrates set OTEL_EXPORTER_OTLP_ENDPOINT in
    /// `operator.substrate.env`, and let them out in the HaloTenant (`isolation.allowedEgress`).
    pub otlp_endpoint: String,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self {
            namespaces: vec!["monitoring".to_owned()],
            render_mode: RenderMode::SkipIfMissing,
            monitors: Monitors::default(),
            rules: Rules::default(),
            dashboards: Dashboards::default(),
            otlp_endpoint: String::new(),
        }
    }
}

/// ServiceMonitors of operator and gateway, and a PodMonitor of all substrates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Monitors {
    /// Whether the chart makes them.
    pub enabled: bool,
    /// Between two scrapes.
    #[schemars(
        length(min = 1),
        regex(pattern = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$")
    )]
    pub interval: String,
    /// For one scrape; at most the interval.
    #[schemars(
        length(min = 1),
        regex(pattern = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$")
    )]
    pub scrape_timeout: String,
    /// Labels that the Prometheus selects monitors by.
    pub labels: BTreeMap<String, String>,
}

impl Default for Monitors {
    fn default() -> Self {
        Self {
            enabled: false,
            interval: "30s".to_owned(),
            scrape_timeout: "10s".to_owned(),
            labels: BTreeMap::new(),
        }
    }
}

/// A PrometheusRule with HALO's recording rules and alerts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rules {
    /// Whether the chart makes it.
    pub enabled: bool,
    /// Labels that the Prometheus selects rules by.
    pub labels: BTreeMap<String, String>,
    /// Labels of every alert, such as the team that is called.
    pub additional_rule_labels: BTreeMap<String, String>,
}

/// ConfigMaps with HALO's dashboards, for Grafana's sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Dashboards {
    /// Whether the chart makes them.
    pub enabled: bool,
    /// Their namespace. Empty: the release's.
    pub namespace: String,
    /// Labels that the sidecar selects by.
    pub labels: BTreeMap<String, String>,
    /// Annotations, such as the folder.
    pub annotations: BTreeMap<String, String>,
}

impl Default for Dashboards {
    fn default() -> Self {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        Self {
            enabled: false,
            namespace: String::new(),
            labels: [pair("grafana_dashboard", "1")].into(),
            annotations: [pair("grafana_folder", "HALO")].into(),
        }
    }
}
