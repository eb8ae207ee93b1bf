//! Fake nodes with the real scheduler and controllers: a Deployment, a held step each, eviction under a budget.

use std::time::Duration;

use halo_e2e_cluster::{ControlPlane, FakeNodes, NodeSpec, Options, Step, eventually};
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{Node, Pod},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::object;

const DEADLINE: Duration = Duration::from_secs(60);

fn condition(pod: &Pod, kind: &str) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|c| c.type_ == kind && c.status == "True")
}

/// Waits until the pods of the namespace are as many as `count` and all fulfil `is`, and returns them.
async fn pods_are(client: &Client, count: usize, what: &str, is: fn(&Pod) -> bool) -> Vec<Pod> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    eventually(DEADLINE, || async {
        let list = pods
            .list(&ListParams::default())
            .await
            .map_err(|error| error.to_string())?;
        if list.items.len() == count && list.items.iter().all(is) {
            Ok(list.items)
        } else {
            let seen: Vec<_> = list
                .iter()
                .map(|pod| (pod.name_any(), pod.status.clone()))
                .collect();
            Err(format!("not {count} pods that are {what}: {seen:?}"))
        }
    })
    .await
}

async fn deploy(client: &Client, replicas: i32) {
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "none", "resources": {"requests": {"cpu": "10"}}}]},
            },
        },
    });
    let api: Api<Deployment> = Api::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &object(deployment))
        .await
        .unwrap();
    let budget = json!({
        "metadata": {"name": "web"},
        "spec": {"minAvailable": replicas, "selector": {"matchLabels": {"app": "web"}}},
    });
    let api: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &object(budget))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_from_boot_to_eviction() {
    let plane = ControlPlane::start(Options::full()).await.unwrap();
    let client = plane.client().await.unwrap();
    let nodes = FakeNodes::start(&plane).await.unwrap();
    let node_api: Api<Node> = Api::all(client.clone());
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");

    // No node: the pod waits for the scheduler.
    deploy(&client, 1).await;
    pods_are(&client, 1, "unschedulable", |pod| {
        pod.status
            .as_ref()
            .and_then(|status| status.conditions.as_ref())
            .is_some_and(|conditions| {
                conditions
                    .iter()
                    .any(|c| c.reason.as_deref() == Some("Unschedulable"))
            })
    })
    .await;

    // A node whose registration is held does not exist; then it registers, is Ready, and the pod runs.
    let registration = nodes.hold(Step::Registration, "node-a");
    let readiness = nodes.hold(Step::PodReady, "default/web-");
    nodes.boot(
        NodeSpec::new("node-a")
            .provider_id("aws:///zone-a/i-1")
            .label("pool", "p"),
    );
    nodes.boot(NodeSpec::new("node-b"));
    eventually(DEADLINE, || node_api.get("node-b")).await;
    assert!(node_api.get_opt("node-a").await.unwrap().is_none());
    drop(registration);
    let node = eventually(DEADLINE, || node_api.get("node-a")).await;
    assert_eq!(
        node.spec.unwrap().provider_id.as_deref(),
        Some("aws:///zone-a/i-1")
    );
    assert_eq!(node.metadata.labels.unwrap()["pool"], "p");
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    eventually(DEADLINE, || leases.get("node-a")).await;

    let running = pods_are(&client, 1, "running", |pod| {
        pod.status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            == Some("Running")
    })
    .await;
    assert!(!condition(&running[0], "Ready"));
    drop(readiness);
    let ready = pods_are(&client, 1, "ready", |pod| condition(pod, "Ready")).await;
    let first = ready[0].name_any();

    // The budget allows no eviction of the only pod; with a second one it allows one.
    eventually(DEADLINE, || async {
        match pods.evict(&first, &EvictParams::default()).await {
            Err(kube::Error::Api(status))
                if status.code == 429 && status.message.contains("disruption budget") =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let scale = Patch::Merge(json!({"spec": {"replicas": 2}}));
    deployments
        .patch("web", &PatchParams::default(), &scale)
        .await
        .unwrap();
    pods_are(&client, 2, "ready", |pod| condition(pod, "Ready")).await;

    // An evicted pod stays Terminating while its end is held, then it is replaced.
    let end = nodes.hold(Step::PodEnd, &format!("default/{first}"));
    let evict = EvictParams::default();
    eventually(DEADLINE, || pods.evict(&first, &evict)).await;
    let terminating = pods.get(&first).await.unwrap();
    assert!(terminating.metadata.deletion_timestamp.is_some());
    pods_are(&client, 3, "there", |_| true).await;
    drop(end);
    let left = pods_are(&client, 2, "ready", |pod| condition(pod, "Ready")).await;
    assert!(left.iter().all(|pod| pod.name_any() != first));

    // A pod that was Ready is not while its readiness is held.
    let readiness = nodes.hold(Step::PodReady, "");
    pods_are(&client, 2, "not ready", |pod| !condition(pod, "Ready")).await;
    drop(readiness);
    pods_are(&client, 2, "ready", |pod| condition(pod, "Ready")).await;

    // A pod that was deleted on a stopped node stays; when the node comes back it ends.
    let victim = left[0].name_any();
    let machine = left[0].spec.as_ref().unwrap().node_name.clone().unwrap();
    nodes.stop(&machine);
    pods.delete(&victim, &DeleteParams::default())
        .await
        .unwrap();
    pods_are(&client, 3, "there", |_| true).await;
    nodes.boot(NodeSpec::new(&machine));
    pods_are(&client, 2, "ready", |pod| condition(pod, "Ready")).await;
    assert!(pods.get_opt(&victim).await.unwrap().is_none());
}

/// Without controllers the fake node takes its own taint away, and the API server may be away for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_by_hand_across_an_outage() {
    let plane = ControlPlane::start(Options::default()).await.unwrap();
    let client = plane.client().await.unwrap();
    let nodes = FakeNodes::start(&plane).await.unwrap();
    let node_api: Api<Node> = Api::all(client.clone());

    let not_ready = nodes.hold(Step::NodeReady, "n");
    nodes.boot(NodeSpec::new("n").taint("dedicated", "halo", "NoSchedule"));
    let taints = || async {
        let node = node_api.get("n").await.map_err(|error| error.to_string())?;
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        Ok::<_, String>(
            taints
                .into_iter()
                .map(|taint| taint.key)
                .collect::<Vec<_>>(),
        )
    };
    let keys = eventually(DEADLINE, taints).await;
    assert!(
        keys.contains(&"node.kubernetes.io/not-ready".to_owned()),
        "{keys:?}"
    );
    drop(not_ready);
    eventually(DEADLINE, || async {
        let keys = taints().await?;
        if keys == ["dedicated"] {
            Ok(())
        } else {
            Err(format!("{keys:?}"))
        }
    })
    .await;

    plane.stop_api_server();
    nodes.boot(NodeSpec::new("m"));
    plane.start_api_server().await.unwrap();
    eventually(DEADLINE, || node_api.get("m")).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let pod = json!({
        "metadata": {"name": "p"},
        "spec": {"nodeName": "m", "containers": [{"name": "c", "image": "none"}]},
    });
    pods.create(&PostParams::default(), &object(pod))
        .await
        .unwrap();
    pods_are(&client, 1, "ready", |pod| condition(pod, "Ready")).await;
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    pods_are(&client, 0, "gone", |_| true).await;
}
