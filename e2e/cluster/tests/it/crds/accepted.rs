//! What is right is accepted; the API server's defaults are the types' own; whatever the API server accepts, the types can read.

use futures_util::{StreamExt as _, stream};
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::{Kind, Kind::Substrate, Kind::Tenant, merge, plane, try_create};

fn existing() -> Value {
    json!({"spec": {"nodePool": {"ec2": null, "existing": {"nodeSelector": {"pool": "p"}, "toleratedTaints": ["dedicated"]}}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_objects_are_accepted_unchanged() {
    let client = plane().await.client().await.unwrap();
    let ssm = json!({"spec": {"nodePool": {"ec2": {"image": {"id": null, "ssmParameter": "/aws/service/x"}}}}});
    let template = json!({"spec": {
        "model": {"image": null, "node": {"path": "/m"}},
        "nodePool": {"ec2": {"userData": {"template": "#!/bin/sh\n"}}},
    }});
    let claim =
        json!({"spec": {"model": {"image": null, "claim": {"claimName": "c", "path": "a/b"}}}});
    // Pods on nodes that are there share them, so no number of nodes bounds their number.
    let mut many = existing();
    merge(&mut many, &json!({"spec": {"scaling": {"max": 100}}}));
    let long = json!({"metadata": {"name": "a".repeat(45)}});
    let dotted =
        json!({"metadata": {"name": "acme.pharmacy"}, "spec": {"tenantId": "acme-pharmacy"}});
    let long_tenant = json!({"metadata": {"name": "a".repeat(63)}, "spec": {"namespace": "acme"}});
    let null = json!({});
    let good = [
        (Substrate, &null),
        (Substrate, &ssm),
        (Substrate, &template),
        (Substrate, &claim),
        (Substrate, &many),
        (Substrate, &long),
        (Tenant, &null),
        (Tenant, &dotted),
        (Tenant, &long_tenant),
    ];
    for (kind, change) in good {
        let mut object = kind.least("good");
        merge(&mut object, change);
        try_create(&client, kind, &object)
            .await
            .unwrap_or_else(|error| panic!("{object}: {error}"));
    }
    for kind in [Tenant, Substrate] {
        let object = kind.most("good");
        let stored = try_create(&client, kind, &object).await.unwrap();
        assert_eq!(
            stored["spec"], object["spec"],
            "something was dropped or defaulted"
        );
        let parsed = kind.parse(&stored).unwrap();
        let numbers_as_text = |mut spec: Value| {
            if let Some(pods) = spec.pointer_mut("/isolation/quota/pods") {
                *pods = json!("10");
            }
            spec
        };
        assert_eq!(
            parsed["spec"],
            numbers_as_text(object["spec"].clone()),
            "the type lost something"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defaults_are_those_of_the_types() {
    let client = plane().await.client().await.unwrap();
    let mut on_existing = Substrate.least("defaults");
    merge(&mut on_existing, &existing());
    for (kind, object) in [
        (Tenant, Tenant.least("defaults")),
        (Substrate, Substrate.least("defaults")),
        (Substrate, on_existing),
    ] {
        let stored = try_create(&client, kind, &object).await.unwrap();
        let from_server = kind.parse(&stored).unwrap();
        let from_types = kind.parse(&object).unwrap();
        assert_eq!(from_server["spec"], from_types["spec"]);
        assert!(
            stored["spec"].as_object().unwrap().len() > object["spec"].as_object().unwrap().len()
        );
    }
    let stored = try_create(&client, Substrate, &Substrate.least("defaults"))
        .await
        .unwrap();
    let spec = &stored["spec"];
    assert_eq!(
        spec["nodePool"]["ec2"]["instanceTypes"],
        json!(["r7iz.4xlarge", "r8i.8xlarge"])
    );
    assert_eq!(spec["nodePool"]["ec2"]["idlePolicy"], "Terminate");
    assert_eq!(spec["nodePool"]["ec2"]["tenancy"], "default");
    assert_eq!(spec["scaling"]["max"], 1);
    assert_eq!(spec["engine"]["memory"], "96Gi");
    let stored = try_create(&client, Tenant, &Tenant.least("defaults"))
        .await
        .unwrap();
    assert_eq!(stored["spec"]["ledger"]["table"], "howdify-receipts");
    assert_eq!(stored["spec"]["keys"]["generation"], 1);
}

/// Every field of a full object in turn is replaced by what people and programs get wrong; where the API server accepts that, the
/// type must read it, or the operator could not even say what is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_accepted_can_be_read() {
    let client = plane().await.client().await.unwrap();
    let wrong = [
        json!(null),
        json!({}),
        json!([]),
        json!(""),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(9_007_199_254_740_993_i64),
        json!("999999999h999999999m"),
        json!("Ä"),
        json!(true),
        json!({"k": null}),
        json!([null]),
    ];
    let mut on_existing = Substrate.most("mutant");
    merge(&mut on_existing, &existing());
    let mut mutants = Vec::new();
    for (kind, object) in [
        (Tenant, Tenant.most("mutant")),
        (Substrate, Substrate.most("mutant")),
        (Substrate, on_existing),
    ] {
        let mut paths = Vec::new();
        pointers(&object["spec"], "/spec", &mut paths);
        for path in paths {
            for value in &wrong {
                let mut mutant = object.clone();
                *mutant.pointer_mut(&path).unwrap() = value.clone();
                mutants.push((kind, path.clone(), value.clone(), mutant));
            }
        }
    }
    assert!(mutants.len() > 1000);
    let results: Vec<Result<bool, String>> = stream::iter(mutants)
        .map(|(kind, path, value, mutant)| {
            let client = client.clone();
            async move {
                check_mutant(&client, kind, &mutant)
                    .await
                    .map_err(|error| format!("{kind:?} {path} = {value}: {error}"))
            }
        })
        .buffer_unordered(8)
        .collect()
        .await;
    let errors: Vec<_> = results
        .iter()
        .filter_map(|result| result.as_ref().err())
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    // The test would be empty if nothing were accepted.
    assert!(results.iter().filter(|result| **result == Ok(true)).count() > 50);
}

/// Whether it was accepted; an error if it was, and cannot be read.
async fn check_mutant(client: &kube::Client, kind: Kind, mutant: &Value) -> Result<bool, String> {
    match try_create(client, kind, mutant).await {
        Ok(stored) => kind.parse(&stored).map(|_| true),
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

/// JSON pointers of all values below, and of the value itself.
fn pointers(value: &Value, path: &str, out: &mut Vec<String>) {
    out.push(path.to_owned());
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = key.replace('~', "~0").replace('/', "~1");
                pointers(value, &format!("{path}/{key}"), out);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                pointers(value, &format!("{path}/{index}"), out);
            }
        }
        _ => {}
    }
}

/// Status comes from the operator alone: a spec write does not change it, a status write changes no spec and no generation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_is_a_subresource() {
    let client = plane().await.client().await.unwrap();
    let api = Substrate.api(&client);
    let mut object = Substrate.least("status");
    object["status"] = json!({"phase": "Awake"});
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let created = api.create(&Default::default(), &object).await.unwrap();
    assert!(created.data.get("status").is_none(), "{:?}", created.data);
    let both = json!({"status": {"phase": "Waking"}, "spec": {"paused": true}});
    let patched = api
        .patch_status("status", &PatchParams::default(), &Patch::Merge(both))
        .await
        .unwrap();
    assert_eq!(patched.data["status"]["phase"], "Waking");
    assert_eq!(patched.data["spec"]["paused"], false);
    assert_eq!(patched.metadata.generation, created.metadata.generation);
    let bad = json!({"status": {"phase": "Sleepy"}});
    let refused = api
        .patch_status("status", &PatchParams::default(), &Patch::Merge(bad))
        .await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 422));
}
