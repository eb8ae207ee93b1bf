//! Prometheus, as it would look at a cluster: it finds the pods by their labels, and evaluates the chart's rules.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use halo_crds::{SUBSTRATE_LABEL, TENANT_LABEL};
use halo_e2e_cluster::real::nest::Nest;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use tokio::task::AbortHandle;

use crate::children::{Programs, Running};
use crate::http;

/// Where it listens.
const PORT: u16 = 9095;

/// How often pods are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// How long it may take to answer at first.
const READY: Duration = Duration::from_secs(60);

/// A Prometheus. It ends with this.
pub struct Monitor {
    _process: Running,
    targets: AbortHandle,
    address: SocketAddr,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.targets.abort();
    }
}

impl Monitor {
    /// Starts it with the rules of these files.
    ///
    /// # Errors
    /// It does not start, or a rule is refused.
    pub async fn start(
        nest: &Nest,
        programs: &Programs,
        client: Client,
        rules: &[PathBuf],
    ) -> Result<Self> {
        let folder = nest.folder().join("prometheus");
        fs::create_dir_all(&folder)?;
        let config = folder.join("prometheus.json");
        fs::write(&config, configuration(&folder, rules).to_string())?;
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
        let targets = tokio::spawn(follow_pods(client, folder)).abort_handle();
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
            targets,
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

/// The jobs: the label that tells their pods, its value if only one counts, and the port that has figures.
const JOBS: [(&str, &str, Option<&str>, &str); 3] = [
    ("halo-operator", NAME, Some("halo-operator"), "metrics"),
    ("halo-gateway", NAME, Some("halo-gateway"), "metrics"),
    ("halo-substrates", SUBSTRATE_LABEL, None, "stream"),
];

/// The label with a component's name.
const NAME: &str = "app.kubernetes.io/name";

fn configuration(folder: &Path, rules: &[PathBuf]) -> Value {
    let jobs = JOBS.map(|(job, ..)| {
        json!({
            "job_name": job,
            "file_sd_configs": [{"files": [targets_file(folder, job)], "refresh_interval": "1s"}],
        })
    });
    json!({
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": rules,
        "scrape_configs": jobs,
    })
}

fn targets_file(folder: &Path, job: &str) -> PathBuf {
    folder.join(format!("{job}.json"))
}

/// Keeps the files of targets as the pods are. Debian's Prometheus is built without Kubernetes.
async fn follow_pods(client: Client, folder: PathBuf) {
    let api: Api<Pod> = Api::all(client);
    let mut written = BTreeMap::new();
    loop {
        // One look that fails is made up for by the next.
        if let Ok(pods) = api.list(&ListParams::default()).await {
            for (job, label, value, port) in JOBS {
                let targets = targets(&pods.items, label, value, port).to_string();
                let path = targets_file(&folder, job);
                let new = path.with_extension("new");
                if written.get(job) != Some(&targets)
                    && fs::write(&new, &targets).is_ok()
                    && fs::rename(&new, &path).is_ok()
                {
                    written.insert(job, targets);
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The pods with this label that run, with the labels that the chart's monitors give them.
fn targets(pods: &[Pod], label: &str, value: Option<&str>, port: &str) -> Value {
    let mut targets = Vec::new();
    for pod in pods {
        let metadata = &pod.metadata;
        let labels = metadata.labels.clone().unwrap_or_default();
        let found = labels.get(label);
        if found.is_none() || value.is_some_and(|value| found.is_none_or(|found| found != value)) {
            continue;
        }
        let address = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.as_ref());
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let number = containers
            .flat_map(|container| container.ports.iter().flatten())
            .find(|found| found.name.as_deref() == Some(port))
            .map(|found| found.container_port);
        let (Some(address), Some(number)) = (address, number) else {
            continue;
        };
        let mut own = json!({
            "namespace": metadata.namespace,
            "pod": metadata.name,
        });
        for (from, to) in [
            (TENANT_LABEL, "halo_howdify_io_tenant"),
            (SUBSTRATE_LABEL, "halo_howdify_io_substrate"),
        ] {
            if let Some(value) = labels.get(from) {
                own[to] = json!(value);
            }
        }
        targets.push(json!({"targets": [format!("{address}:{number}")], "labels": own}));
    }
    json!(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_have_an_address_are_targets() {
        let pod = |name: &str, component: &str, address: Option<&str>| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "n", "labels": {NAME: component}},
                "spec": {"containers": [{"name": "c", "ports": [
                    {"name": "devices", "containerPort": 8443}, {"name": "metrics", "containerPort": 9090},
                ]}]},
                "status": {"podIP": address},
            }))
            .unwrap()
        };
        let pods = [
            pod("a", "halo-gateway", Some("10.88.0.2")),
            pod("b", "halo-gateway", None),
            pod("c", "other", Some("10.88.0.3")),
        ];
        let found = targets(&pods, NAME, Some("halo-gateway"), "metrics");
        assert_eq!(
            found,
            json!([{"targets": ["10.88.0.2:9090"], "labels": {"namespace": "n", "pod": "a"}}])
        );
        assert_eq!(targets(&pods, SUBSTRATE_LABEL, None, "stream"), json!([]));
    }
}
