//! What a person at a terminal sees.

use halo_e2e_cluster::ControlPlane;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use serde_json::json;

use super::{Kind::Substrate, Kind::Tenant, plane};

/// Runs kubectl, which must succeed, and returns what it prints.
async fn kubectl(plane: &ControlPlane, arguments: &[&str], input: &str) -> String {
    let output = plane.kubectl_with(arguments, input).await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

async fn patch_status(plane: &ControlPlane, of: &[&str], status: &serde_json::Value) {
    let status = status.to_string();
    let flags = ["--subresource=status", "--type=merge", "-p", &status];
    kubectl(plane, &[&["patch"], of, &flags].concat(), "").await;
}

/// The words of a table, line by line.
fn words(table: &str) -> Vec<Vec<&str>> {
    table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_show_what_matters() {
    let plane = plane().await;
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tables"}});
    let mut substrate = Substrate.least("seen");
    substrate["metadata"]["namespace"] = json!("tables");
    substrate["spec"]["tenant"] = json!("seen-tenant");
    let tenant = Tenant.least("seen-tenant");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [namespace, tenant, substrate]});
    kubectl(
        plane,
        &["apply", "--server-side", "-f", "-"],
        &list.to_string(),
    )
    .await;

    let status = json!({"status": {
        "phase": "Waking", "nodeCount": "0/1", "why": "no-capacity", "idleSince": "2026-01-02T03:04:05Z",
        "conditions": [{"type": "Ready", "status": "False", "reason": "r", "message": "m", "lastTransitionTime": "2026-01-02T03:04:05Z"}],
    }});
    patch_status(plane, &["hs", "seen", "-n", "tables"], &status).await;
    let status = json!({"status": {
        "namespace": "halo-seen-tenant", "why": "ok",
        "conditions": [{"type": "Ready", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": "2026-01-02T03:04:05Z"}],
    }});
    patch_status(plane, &["ht", "seen-tenant"], &status).await;

    let table = kubectl(
        plane,
        &[
            "get",
            "halosubstrates",
            "-A",
            "--field-selector",
            "spec.tenant=seen-tenant",
        ],
        "",
    )
    .await;
    let rows = words(&table);
    assert_eq!(
        rows[0],
        [
            "NAMESPACE",
            "NAME",
            "TENANT",
            "MODEL",
            "PHASE",
            "NODES",
            "READY",
            "IDLE",
            "WHY",
            "AGE"
        ]
    );
    assert_eq!(
        rows.len(),
        2,
        "the field selector selects by tenant: {table}"
    );
    assert_eq!(
        rows[1][..7],
        [
            "tables",
            "seen",
            "seen-tenant",
            "m",
            "Waking",
            "0/1",
            "False"
        ]
    );
    assert_eq!(rows[1][8], "no-capacity");

    let table = kubectl(plane, &["get", "ht", "seen-tenant"], "").await;
    let rows = words(&table);
    assert_eq!(
        rows[0],
        ["NAME", "NAMESPACE", "READY", "GENERATION", "WHY", "AGE"]
    );
    assert_eq!(
        rows[1][..5],
        ["seen-tenant", "halo-seen-tenant", "True", "1", "ok"]
    );

    let both = kubectl(plane, &["get", "halo", "-n", "tables", "-o", "name"], "").await;
    assert!(
        both.contains("halosubstrate.halo.howdify.io/seen"),
        "{both}"
    );
    assert!(
        both.contains("halotenant.halo.howdify.io/seen-tenant"),
        "{both}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_typing_error_is_named() {
    let mut object = Substrate.least("typo");
    object["spec"]["scaling"] = json!({"idelAfter": "5m"});
    let output = plane()
        .await
        .kubectl_with(&["apply", "-f", "-"], &object.to_string())
        .await
        .unwrap();
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("unknown field \"spec.scaling.idelAfter\""),
        "{errors}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn examples_of_the_manual_apply() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples");
    let tenant = folder.join("tenant.yaml");
    // The namespace comes with the tenant's file; the second file needs it.
    for file in [tenant, folder.join("existing-nodes.yaml")] {
        let file = file.display().to_string();
        let printed = kubectl(plane().await, &["apply", "-f", &file], "").await;
        assert!(printed.contains("created"), "{printed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_explains() {
    let plane = plane().await;
    let text = kubectl(
        plane,
        &["explain", "halosubstrate.spec.scaling.idleAfter"],
        "",
    )
    .await;
    assert!(
        text.contains("How long nothing is asked before it sleeps"),
        "{text}"
    );
    let text = kubectl(plane, &["explain", "halotenant.spec.keys"], "").await;
    assert!(
        text.contains("rootParameter") && text.contains("-required-"),
        "{text}"
    );
    let text = kubectl(plane, &["explain", "ht", "--recursive"], "").await;
    assert!(text.contains("allowedEgress"), "{text}");
    for definition in halo_crds::all() {
        for version in definition.spec.versions {
            let schema = version.schema.unwrap().open_api_v3_schema.unwrap();
            let kind = definition.spec.names.kind.clone();
            for (name, property) in schema.properties.iter().flatten() {
                described(property, &format!("{kind}.{name}"));
            }
        }
    }
}

/// Every field says what it is.
fn described(schema: &JSONSchemaProps, field: &str) {
    for (name, property) in schema.properties.iter().flatten() {
        let field = format!("{field}.{name}");
        assert!(
            property
                .description
                .as_ref()
                .is_some_and(|text| !text.is_empty()),
            "{field} has no description"
        );
        described(property, &field);
    }
    let value = serde_json::to_value(schema).unwrap();
    if let Ok(items) = serde_json::from_value::<JSONSchemaProps>(value["items"].clone()) {
        described(&items, &format!("{field}[]"));
    }
}
