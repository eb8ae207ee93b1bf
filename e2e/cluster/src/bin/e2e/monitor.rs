//! Prometheus, as it would look at a cluster: it finds the pods by their labels, and evaluates the chart's rules.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use halo_e2e_cluster::real::nest::Nest;
use serde_json::{Value, json};

use crate::children::{Programs, Running};
use crate::http;

/// Where it listens.
const PORT: u16 = 9095;

/// How long it may take to answer at first.
const READY: Duration = Duration::from_secs(60);

/// A Prometheus. It ends with this.
pub struct Monitor {
    _process: Running,
    address: SocketAddr,
}

impl Monitor {
    /// Starts it with the rules of these files.
    ///
    /// # Errors
    /// It does not start, or a rule is refused.
    pub async fn start(
        nest: &Nest,
        programs: &Programs,
        kubeconfig: &Path,
        rules: &[std::path::PathBuf],
    ) -> Result<Self> {
        let folder = nest.folder().join("prometheus");
        fs::create_dir_all(&folder)?;
        let config = folder.join("prometheus.json");
        fs::write(&config, configuration(kubeconfig, rules).to_string())?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let system = Programs {
            folder: "/usr/bin".into(),
            ..programs.clone()
        };
        let arguments = [
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--web.listen-address={address}"),
            "--log.level=warn".to_owned(),
        ];
        let process = system.start("prometheus", "prometheus", arguments)?;
        let started = tokio::time::Instant::now();
        while let Err(error) = http::get(address, "/-/ready").await {
            if started.elapsed() > READY {
                return Err(error.context("prometheus is not ready; see its log"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Self {
            _process: process,
            address,
        })
    }

    /// What an expression is now: labels and values.
    ///
    /// # Errors
    /// It does not answer, or the expression is wrong.
    pub async fn query(&self, expression: &str) -> Result<Vec<(Value, f64)>> {
        let path = format!("/api/v1/query?query={}", http::encode(expression));
        let answer: Value = serde_json::from_str(&http::get(self.address, &path).await?)
            .with_context(|| expression.to_owned())?;
        if answer["status"] != "success" {
            bail!("{expression}: {answer}");
        }
        let result = answer["data"]["result"].as_array().cloned();
        result
            .unwrap_or_default()
            .into_iter()
            .map(|series| {
                let value = series["value"][1].as_str().context("a value")?;
                Ok((series["metric"].clone(), value.parse()?))
            })
            .collect()
    }

    /// The sum of an expression's values; 0 if there are none.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn sum(&self, expression: &str) -> Result<f64> {
        let series = self.query(expression).await?;
        Ok(series.iter().map(|(_, value)| value).sum())
    }

    /// Names of the alerts that fire.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn firing(&self) -> Result<Vec<String>> {
        let series = self.query("ALERTS{alertstate=\"firing\"}").await?;
        Ok(series
            .iter()
            .filter_map(|(labels, _)| labels["alertname"].as_str().map(str::to_owned))
            .collect())
    }
}

fn configuration(kubeconfig: &Path, rules: &[std::path::PathBuf]) -> Value {
    let label = |name: &str| format!("__meta_kubernetes_pod_label_{name}");
    let job = |name: &str, keep: Value, port: &str| {
        json!({
            "job_name": name,
            "kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": kubeconfig}],
            "relabel_configs": [
                keep,
                {
                    "action": "keep",
                    "source_labels": ["__meta_kubernetes_pod_container_port_name"],
                    "regex": port,
                },
                {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
                {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
                {"source_labels": [label("halo_howdify_io_tenant")], "target_label": "halo_howdify_io_tenant"},
                {"source_labels": [label("halo_howdify_io_substrate")], "target_label": "halo_howdify_io_substrate"},
            ],
        })
    };
    let named = |name: &str| {
        json!({
            "action": "keep",
            "source_labels": [label("app_kubernetes_io_name")],
            "regex": name,
        })
    };
    let substrate = json!({
        "action": "keep",
        "source_labels": [label("halo_howdify_io_substrate")],
        "regex": ".+",
    });
    json!({
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": rules,
        "scrape_configs": [
            job("halo-operator", named("halo-operator"), "metrics"),
            job("halo-gateway", named("halo-gateway"), "metrics"),
            job("halo-substrates", substrate, "http|stream"),
        ],
    })
}
