//! The stages of a wake, as the API server shows them.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use halo_crds::{HaloSubstrate, TENANT_LABEL};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use serde_json::Value;
use tokio::task::AbortHandle;

use crate::tenants::Tenant;

/// The stages, in the order in which they come.
pub const STAGES: [&str; 9] = [
    "demand reported",
    "launch recorded",
    "instance launched",
    "pod created",
    "node registered",
    "node ready",
    "pod scheduled",
    "container runs",
    "pod ready",
];

type Seen = Arc<Mutex<BTreeMap<&'static str, Instant>>>;

/// Watches one tenant's wake.
pub struct Stages {
    seen: Seen,
    task: AbortHandle,
}

impl Drop for Stages {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stages {
    /// Begins to watch.
    pub fn watch(client: &Client, tenant: &Tenant) -> Self {
        let seen = Seen::default();
        let follow = follow(client.clone(), tenant.clone(), seen.clone());
        let task = tokio::spawn(follow).abort_handle();
        Self { seen, task }
    }

    /// When each stage was first seen, since `from`, in order; those that were not are left out.
    pub fn since(&self, from: Instant) -> Vec<(&'static str, Duration)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        STAGES
            .into_iter()
            .filter_map(|stage| Some((stage, seen.get(stage)?.saturating_duration_since(from))))
            .collect()
    }
}

async fn follow(client: Client, tenant: Tenant, seen: Seen) {
    let config = watcher::Config::default;
    let substrates: Api<HaloSubstrate> = Api::namespaced(client.clone(), &tenant.namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &tenant.namespace);
    let nodes: Api<Node> = Api::all(client);
    let own = config().labels(&format!("{TENANT_LABEL}={}", tenant.id));
    let substrates = watcher(substrates, config())
        .default_backoff()
        .applied_objects()
        .filter_map(async |object| serde_json::to_value(object.ok()?).ok())
        .map(|object| of_substrate(&object));
    let pods = watcher(pods, config())
        .default_backoff()
        .applied_objects()
        .filter_map(async |object| serde_json::to_value(object.ok()?).ok())
        .map(|object| of_pod(&object));
    let nodes = watcher(nodes, own)
        .default_backoff()
        .applied_objects()
        .filter_map(async |object| serde_json::to_value(object.ok()?).ok())
        .map(|object| of_node(&object));
    let mut all = pin!(stream::select(stream::select(substrates, pods), nodes));
    while let Some(stages) = all.next().await {
        let now = Instant::now();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        for stage in stages {
            seen.entry(stage).or_insert(now);
        }
    }
}

fn of_substrate(object: &Value) -> Vec<&'static str> {
    let status = &object["status"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut stages = Vec::new();
    if !list(&status["demand"]).is_empty() {
        stages.push("demand reported");
    }
    for slot in list(&status["nodes"]) {
        stages.push("launch recorded");
        if slot["instance"].is_string() {
            stages.push("instance launched");
        }
    }
    stages
}

fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|found| found["type"] == condition && found["status"] == "True")
}

fn of_pod(object: &Value) -> Vec<&'static str> {
    let mut stages = vec!["pod created"];
    if object["spec"]["nodeName"].is_string() {
        stages.push("pod scheduled");
    }
    if object["status"]["containerStatuses"][0]["state"]["running"].is_object() {
        stages.push("container runs");
    }
    if is_true(object, "Ready") {
        stages.push("pod ready");
    }
    stages
}

fn of_node(object: &Value) -> Vec<&'static str> {
    let mut stages = vec!["node registered"];
    if is_true(object, "Ready") {
        stages.push("node ready");
    }
    stages
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_show_their_stages() {
        let substrate = json!({"status": {"demand": [{}], "nodes": [{"slot": 0}]}});
        assert_eq!(
            of_substrate(&substrate),
            ["demand reported", "launch recorded"]
        );
        assert!(of_substrate(&json!({})).is_empty());
        let pod = json!({
            "spec": {"nodeName": "n"},
            "status": {
                "containerStatuses": [{"state": {"running": {}}}],
                "conditions": [{"type": "Ready", "status": "False"}],
            },
        });
        assert_eq!(
            of_pod(&pod),
            ["pod created", "pod scheduled", "container runs"]
        );
        let node = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(of_node(&node), ["node registered", "node ready"]);
        for stage in of_pod(&pod).into_iter().chain(of_node(&node)) {
            assert!(STAGES.contains(&stage));
        }
    }
}
