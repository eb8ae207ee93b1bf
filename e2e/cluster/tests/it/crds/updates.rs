//! What cannot change once it is there.

use std::collections::BTreeSet;

use kube::{
    Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{Kind, Kind::Substrate, Kind::Tenant, causes, merge, plane};

/// A change of the smallest right object, and a change of that which is refused with the message.
fn rows() -> Vec<(Kind, Value, Value, &'static str)> {
    let id =
        "spec.tenantId cannot change, as keys and receipts carry it: create another HaloTenant";
    let namespace = "spec.namespace cannot change: create another HaloTenant and move the devices";
    let generation = "a root generation only rises: an earlier root may be known to others";
    let tenant =
        "spec.tenant cannot change, as keys and receipts carry it: create another HaloSubstrate";
    let pool = "a pool's kind cannot change, as its nodes would be left behind: create another HaloSubstrate";
    let size = "a data volume cannot be resized here: create another HaloSubstrate";
    let policy =
        "deletionPolicy cannot change, as each volume carries it: create another HaloSubstrate";
    let spec = |spec: Value| json!({ "spec": spec });
    vec![
        (
            Tenant,
            spec(json!({"tenantId": "a"})),
            spec(json!({"tenantId": "b"})),
            id,
        ),
        (
            Tenant,
            spec(json!({"tenantId": "a"})),
            spec(json!({"tenantId": null})),
            id,
        ),
        (Tenant, json!({}), spec(json!({"tenantId": "b"})), id),
        (
            Tenant,
            spec(json!({"namespace": "a"})),
            spec(json!({"namespace": "b"})),
            namespace,
        ),
        (
            Tenant,
            spec(json!({"namespace": "a"})),
            spec(json!({"namespace": null})),
            namespace,
        ),
        (
            Tenant,
            json!({}),
            spec(json!({"namespace": "b"})),
            namespace,
        ),
        (
            Tenant,
            spec(json!({"keys": {"generation": 2}})),
            spec(json!({"keys": {"generation": 1}})),
            generation,
        ),
        (
            Substrate,
            json!({}),
            spec(json!({"tenant": "other"})),
            tenant,
        ),
        (
            Substrate,
            json!({}),
            spec(json!({"nodePool": {"ec2": null, "existing": {"nodeSelector": {"a": "b"}}}})),
            pool,
        ),
        (
            Substrate,
            spec(json!({"nodePool": {"ec2": {"dataVolume": {"sizeGib": 80}}}})),
            spec(json!({"nodePool": {"ec2": {"dataVolume": {"sizeGib": 81}}}})),
            size,
        ),
        (
            Substrate,
            spec(json!({"nodePool": {"ec2": {"dataVolume": {"sizeGib": 80}}}})),
            spec(json!({"nodePool": {"ec2": {"dataVolume": {"deletionPolicy": "Retain"}}}})),
            policy,
        ),
    ]
}

async fn store(client: &Client, kind: Kind, name: &str, change: &Value) {
    let mut object = kind.least(name);
    merge(&mut object, change);
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    kind.api(client)
        .create(&PostParams::default(), &object)
        .await
        .unwrap();
}

async fn change(
    client: &Client,
    kind: Kind,
    name: &str,
    change: &Value,
) -> kube::Result<DynamicObject> {
    kind.api(client)
        .patch(name, &PatchParams::default(), &Patch::Merge(change))
        .await
}

/// Tries all changes, and returns the fields and messages of the refusals.
pub(super) async fn refused() -> BTreeSet<(String, String)> {
    let client = plane().await.client().await.unwrap();
    let mut seen = BTreeSet::new();
    for (index, (kind, before, after, message)) in rows().into_iter().enumerate() {
        let name = format!("fixed-{index}");
        store(&client, kind, &name, &before).await;
        let what = format!("{before} to {after}");
        let causes = causes(&what, change(&client, kind, &name, &after).await);
        let [(field, said)] = causes.as_slice() else {
            panic!("{what}: more than one cause: {causes:#?}");
        };
        assert!(said.contains(message), "{what}: {field}: {said}");
        seen.insert((field.clone(), message.to_owned()));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_else_may_change() {
    let client = plane().await.client().await.unwrap();
    store(
        &client,
        Tenant,
        "moving",
        &json!({"spec": {"tenantId": "a", "namespace": "n"}}),
    )
    .await;
    for spec in [
        json!({"keys": {"generation": 2, "rootParameter": "/other", "overlap": "48h"}}),
        json!({"paused": true, "limits": {"devices": 7}}),
        json!({"devices": {"revoked": ["x"]}, "isolation": {"quota": {"pods": "3"}}, "ledger": {"region": "eu-central-1"}}),
    ] {
        change(&client, Tenant, "moving", &json!({ "spec": spec }))
            .await
            .unwrap();
    }
    store(&client, Substrate, "moving", &json!({})).await;
    for spec in [
        json!({"nodePool": {"ec2": {"maxNodes": 5, "dataVolume": {"sizeGib": 10}}}, "scaling": {"max": 5}}),
        json!({"model": {"name": "n", "image": null, "node": {"path": "/n"}}, "engine": {"threads": 4}}),
        json!({"nodePool": {"ec2": {"idlePolicy": "Stop", "tenancy": "dedicated"}}, "paused": true}),
    ] {
        change(&client, Substrate, "moving", &json!({ "spec": spec }))
            .await
            .unwrap();
    }
}
