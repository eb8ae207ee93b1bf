//! What a kubelet would do next with a pod.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::{Holds, Step};

/// The next step of a pod that is bound to a node that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for something else.
    Nothing,
    /// Say that its containers run and whether it is Ready.
    Run {
        /// Whether it is Ready.
        ready: bool,
    },
    /// Say that it has ended, by removing it.
    End,
}

/// `namespace/name`, as holds match it.
pub(super) fn key(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

pub(super) fn next(pod: &Pod, holds: &Holds) -> Next {
    let key = key(pod);
    if pod.metadata.deletion_timestamp.is_some() {
        // A pod with finalizers stays after it was ended; its grace period is zero then.
        let ended = pod.metadata.deletion_grace_period_seconds == Some(0);
        return if ended || holds.has(Step::PodEnd, &key) {
            Next::Nothing
        } else {
            Next::End
        };
    }
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default();
    if phase == "Succeeded" || phase == "Failed" {
        return Next::Nothing;
    }
    let wanted = !holds.has(Step::PodReady, &key);
    if phase == "Running" && is_ready(pod) == wanted {
        return Next::Nothing;
    }
    // As with a kubelet, a pod runs before it is ready: a watcher can see both.
    Next::Run {
        ready: wanted && phase == "Running",
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The patch of the status of a pod whose containers run. The uid keeps it from another pod of the same name.
pub(super) fn running(pod: &Pod, ready: bool, address: &str, node: &str, now: Timestamp) -> Value {
    let status = pod.status.clone().unwrap_or_default();
    let started = match &status.start_time {
        Some(time) => json!(time),
        None => json!(now),
    };
    let address = status.pod_ip.unwrap_or_else(|| address.to_owned());
    let condition = |kind: &str, is: bool| json!({"type": kind, "status": if is { "True" } else { "False" }, "lastTransitionTime": now});
    let spec = pod.spec.clone().unwrap_or_default();
    let containers: Vec<Value> = spec
        .containers
        .iter()
        .map(|container| {
            container_status(container, ready, json!({"running": {"startedAt": started}}))
        })
        .collect();
    let init_containers: Vec<Value> = spec
        .init_containers
        .unwrap_or_default()
        .iter()
        .map(|container| {
            let restarts = container.restart_policy.as_deref() == Some("Always");
            let state = if restarts {
                json!({"running": {"startedAt": started}})
            } else {
                json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": started, "finishedAt": started}})
            };
            container_status(container, true, state)
        })
        .collect();
    json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {
            "phase": "Running",
            "startTime": started,
            "hostIP": node,
            "hostIPs": [{"ip": node}],
            "podIP": address,
            "podIPs": [{"ip": address}],
            "containerStatuses": containers,
            "initContainerStatuses": init_containers,
            "conditions": [
                condition("PodReadyToStartContainers", true),
                condition("Initialized", true),
                condition("ContainersReady", ready),
                condition("Ready", ready),
            ],
        },
    })
}

fn container_status(container: &Container, ready: bool, state: Value) -> Value {
    json!({
        "name": container.name,
        "image": container.image.clone().unwrap_or_default(),
        "imageID": "",
        "ready": ready,
        "started": true,
        "restartCount": 0,
        "state": state,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::Entry, *};

    fn pod(change: Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "a", "namespace": "ns", "uid": "u"},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]},
        });
        for (part, fields) in change.as_object().unwrap() {
            for (field, value) in fields.as_object().unwrap() {
                pod[part][field] = value.clone();
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    fn held(step: Step) -> Holds {
        let prefix = "ns/a".to_owned();
        Holds {
            next: 1,
            entries: vec![Entry {
                number: 0,
                step,
                prefix,
            }],
        }
    }

    #[test]
    fn steps() {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let pending = pod(json!({"status": {"phase": "Pending"}}));
        let new = pod(json!({}));
        let running = pod(json!({"status": {"phase": "Running"}}));
        let up = pod(json!({"status": {"phase": "Running", "conditions": ready}}));
        let failed = pod(json!({"status": {"phase": "Failed"}}));
        let gone = |seconds: i64| {
            pod(json!({"metadata": {
                "deletionTimestamp": "2026-01-01T00:00:00Z",
                "deletionGracePeriodSeconds": seconds,
            }}))
        };
        let free = Holds::default();
        let table = [
            (&new, &free, Next::Run { ready: false }),
            (&pending, &free, Next::Run { ready: false }),
            (&pending, &held(Step::PodReady), Next::Run { ready: false }),
            (&running, &free, Next::Run { ready: true }),
            (&running, &held(Step::PodReady), Next::Nothing),
            (&up, &free, Next::Nothing),
            (&up, &held(Step::PodReady), Next::Run { ready: false }),
            (&up, &held(Step::PodEnd), Next::Nothing),
            (&failed, &free, Next::Nothing),
            (&gone(30), &free, Next::End),
            (&gone(30), &held(Step::PodEnd), Next::Nothing),
            (&gone(0), &free, Next::Nothing),
        ];
        for (index, (pod, holds, expected)) in table.into_iter().enumerate() {
            assert_eq!(next(pod, holds), expected, "row {index}");
        }
    }

    #[test]
    fn a_pod_that_was_told_ready_has_nothing_left_to_do() {
        let pod = pod(json!({"metadata": {}}));
        let patch = running(&pod, true, "10.0.0.1", "10.1.0.1", Timestamp::UNIX_EPOCH);
        let mut told = serde_json::to_value(&pod).unwrap();
        told["status"] = patch["status"].clone();
        let told: Pod = serde_json::from_value(told).unwrap();
        assert_eq!(next(&told, &Holds::default()), Next::Nothing);
        assert_eq!(patch["metadata"]["uid"], "u");
        assert_eq!(
            told.status.unwrap().container_statuses.unwrap()[0].name,
            "c"
        );
    }
}
