//! `status.demand` is written by many gateways, the rest of the status by the operator, and nobody overwrites another.

use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::{Kind::Substrate, plane};

const NAME: &str = "demanded";

async fn apply(manager: &str, force: bool, status: Value) -> kube::Result<Value> {
    let api = Substrate.api(&plane().await.client().await.unwrap());
    let mut parameters = PatchParams::apply(manager);
    parameters.force = force;
    let patch = json!({
        "apiVersion": "halo.howdify.io/v1alpha1",
        "kind": "HaloSubstrate",
        "status": status,
    });
    let answer = api
        .patch_status(NAME, &parameters, &Patch::Apply(patch))
        .await?;
    Ok(answer.data["status"].clone())
}

fn entry(gateway: &str, in_flight: i64) -> Value {
    json!({"gateway": gateway, "inFlight": in_flight, "lastActive": "2026-01-02T03:04:05Z"})
}

fn in_flight(status: &Value) -> Vec<(&str, i64)> {
    let mut demand: Vec<_> = status["demand"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| {
            (
                entry["gateway"].as_str().unwrap(),
                entry["inFlight"].as_i64().unwrap(),
            )
        })
        .collect();
    demand.sort_unstable();
    demand
}

fn operator_status(phase: &str) -> Value {
    json!({
        "phase": phase,
        "replicas": 1,
        "readyReplicas": 0,
        "conditions": [{
            "type": "Ready", "status": "False", "reason": "Waking", "message": "no pod is ready", "lastTransitionTime": "2026-01-02T03:04:05Z",
        }],
        "nodes": [{
            "slot": 0, "attempt": 1, "generation": 1, "template": "t", "state": "Launching", "since": "2026-01-02T03:04:05Z",
            "instanceType": "r7iz.4xlarge", "zone": "us-east-2a",
        }],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_and_the_operator_share_one_status() {
    let api = Substrate.api(&plane().await.client().await.unwrap());
    let object: DynamicObject = serde_json::from_value(Substrate.least(NAME)).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();

    // Nobody forces; each writes before and after the others.
    apply("gateway-a", false, json!({"demand": [entry("a", 1)]}))
        .await
        .unwrap();
    apply("halo-operator", false, operator_status("Waking"))
        .await
        .unwrap();
    let status = apply("gateway-b", false, json!({"demand": [entry("b", 2)]}))
        .await
        .unwrap();
    assert_eq!(in_flight(&status), [("a", 1), ("b", 2)]);
    assert_eq!(status["phase"], "Waking");
    assert_eq!(status["nodes"][0]["slot"], 0);
    let status = apply("gateway-a", false, json!({"demand": [entry("a", 5)]}))
        .await
        .unwrap();
    assert_eq!(in_flight(&status), [("a", 5), ("b", 2)]);
    let status = apply("halo-operator", false, operator_status("Awake"))
        .await
        .unwrap();
    assert_eq!(in_flight(&status), [("a", 5), ("b", 2)]);
    assert_eq!(status["phase"], "Awake");

    // A gateway that is idle takes its own entry away and no other.
    let status = apply("gateway-a", false, json!({})).await.unwrap();
    assert_eq!(in_flight(&status), [("b", 2)]);
    assert_eq!(status["phase"], "Awake");

    // Another's entry cannot be changed by mistake.
    let taken = apply("gateway-a", false, json!({"demand": [entry("b", 9)]})).await;
    assert!(
        matches!(&taken, Err(kube::Error::Api(status)) if status.code == 409),
        "{taken:?}"
    );
    let status = apply("gateway-b", false, json!({"demand": [entry("b", 3)]}))
        .await
        .unwrap();
    assert_eq!(in_flight(&status), [("b", 3)]);

    // The operator may take away the entry of a gateway that is gone for good, and still own nothing of the others'.
    apply("gateway-a", false, json!({"demand": [entry("a", 1)]}))
        .await
        .unwrap();
    let status = apply("gateway-a", true, json!({"demand": []}))
        .await
        .unwrap();
    assert_eq!(in_flight(&status), [("b", 3)]);
    let refused = apply("gateway-b", false, json!({"demand": [entry("b", -1)]})).await;
    assert!(
        matches!(&refused, Err(kube::Error::Api(status)) if status.code == 422),
        "{refused:?}"
    );
}
