//! HaloTenant on a real API server: made, kept, mended, adopted, refused, ended.

mod bench;

use std::collections::BTreeMap;
use std::time::Duration;

use halo_crds::HaloTenant;
use halo_e2e_cluster::eventually;
use halo_receipts::keyring::KeyRing;
use halo_receipts::keys::TenantKeys as _;
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, Secret, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use self::bench::Bench;

const SOON: Duration = Duration::from_secs(30);

fn tenant(name: &str, more: serde_json::Value) -> HaloTenant {
    let mut spec = json!({"keys": {"rootParameter": "/halo/root"}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "halo.howdify.io/v1alpha1", "kind": "HaloTenant", "metadata": {"name": name}, "spec": spec,
    }))
    .unwrap()
}

/// Waits until a condition of a tenant has this status and reason; its message.
async fn condition(bench: &Bench, name: &str, kind: &str, status: &str, reason: &str) -> String {
    let tenants: Api<HaloTenant> = Api::all(bench.client.clone());
    eventually(SOON, || async {
        let tenant = tenants.get(name).await.map_err(|error| error.to_string())?;
        let conditions = tenant.status.unwrap_or_default().conditions;
        match halo_crds::condition::find(&conditions, kind) {
            Some(found) if found.status == status && found.reason == reason => {
                Ok(found.message.clone())
            }
            _ => Err(format!(
                "{name}: {kind} is not {status} {reason}: {conditions:?}"
            )),
        }
    })
    .await
}

async fn make(bench: &Bench, tenant: &HaloTenant) {
    let tenants: Api<HaloTenant> = Api::all(bench.client.clone());
    tenants
        .create(&PostParams::default(), tenant)
        .await
        .unwrap();
}

/// Waits until a Secret holds the keyring of this tenant and nothing else.
async fn keyring(bench: &Bench, namespace: &str, name: &str, tenant: &str) -> KeyRing {
    let secrets: Api<Secret> = Api::namespaced(bench.client.clone(), namespace);
    eventually(SOON, || async {
        let secret = secrets.get(name).await.map_err(|error| error.to_string())?;
        let data = secret.data.unwrap_or_default();
        let document = data.get("keyring.json").filter(|_| data.len() == 1);
        let document = document.ok_or("another set of keys in the Secret")?;
        let ring = KeyRing::decode(&document.0).map_err(|error| error.to_string())?;
        match ring.tenant().as_str() == tenant {
            true => Ok::<_, String>(ring),
            false => Err("another tenant's keyring".to_owned()),
        }
    })
    .await
}

async fn told(bench: &Bench, reason: &str) {
    let events: Api<Event> = Api::all(bench.client.clone());
    eventually(SOON, || async {
        let list = events.list(&ListParams::default()).await;
        let list = list.map_err(|error| error.to_string())?;
        let found = list
            .items
            .iter()
            .any(|event| event.reason.as_deref() == Some(reason));
        if found {
            Ok(())
        } else {
            Err(format!("no event {reason}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_lives_and_ends() {
    let bench = Bench::start().await;
    let namespaces: Api<Namespace> = Api::all(bench.client.clone());
    let quota = json!({"isolation": {"quota": {"pods": "10"}}});
    make(&bench, &tenant("acme", quota)).await;
    condition(&bench, "acme", "Ready", "True", "Ready").await;
    let namespace = namespaces.get("halo-acme").await.unwrap();
    let labels = namespace.metadata.labels.unwrap();
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
    assert_eq!(labels["halo.howdify.io/tenant"], "acme");
    let policies: Api<NetworkPolicy> = Api::namespaced(bench.client.clone(), "halo-acme");
    assert_eq!(
        policies
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        4
    );
    let accounts: Api<ServiceAccount> = Api::namespaced(bench.client.clone(), "halo-acme");
    let account = accounts.get("default").await.unwrap();
    assert_eq!(account.automount_service_account_token, Some(false));
    let pods = keyring(&bench, "halo-acme", "halo-keys", "acme").await;
    let gateways = keyring(&bench, "halo-system", "halo-keys-acme", "acme").await;
    let (id, device) = ("acme".parse().unwrap(), "d".parse().unwrap());
    assert!(pods.device_key(&id, &device, 1).is_none());
    assert!(gateways.device_key(&id, &device, 1).is_some());
    assert_eq!(bench.secrets.calls(), 1);

    // What somebody changes or deletes is put right, and told.
    let secrets: Api<Secret> = Api::namespaced(bench.client.clone(), "halo-acme");
    let meddled = json!({"stringData": {"keyring.json": "{}", "more": "x"}});
    let params = PatchParams::default();
    secrets
        .patch("halo-keys", &params, &Patch::Merge(meddled))
        .await
        .unwrap();
    keyring(&bench, "halo-acme", "halo-keys", "acme").await;
    told(&bench, "SecretRestored").await;
    secrets
        .delete("halo-keys", &DeleteParams::default())
        .await
        .unwrap();
    keyring(&bench, "halo-acme", "halo-keys", "acme").await;
    let frozen = json!({"immutable": true, "stringData": {"keyring.json": "{}"}});
    secrets
        .patch("halo-keys", &params, &Patch::Merge(frozen))
        .await
        .unwrap();
    keyring(&bench, "halo-acme", "halo-keys", "acme").await;
    let lifted =
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
    namespaces
        .patch("halo-acme", &params, &Patch::Merge(lifted))
        .await
        .unwrap();
    eventually(SOON, || async {
        let namespace = namespaces
            .get("halo-acme")
            .await
            .map_err(|error| error.to_string())?;
        match namespace.metadata.labels.unwrap()["pod-security.kubernetes.io/enforce"].as_str() {
            "restricted" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;

    // What the spec does not ask for any more goes.
    let tenants: Api<HaloTenant> = Api::all(bench.client.clone());
    let bare = json!({"spec": {"isolation": null}});
    tenants
        .patch("acme", &params, &Patch::Merge(bare))
        .await
        .unwrap();
    let quotas: Api<ResourceQuota> = Api::namespaced(bench.client.clone(), "halo-acme");
    eventually(SOON, || async {
        match quotas.get_opt("halo-quota").await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    // It ends while the parameter store is down.
    bench.secrets.fail(true);
    tenants
        .delete("acme", &DeleteParams::default())
        .await
        .unwrap();
    bench.gone(&tenants, "acme").await;
    let gateways: Api<Secret> = Api::namespaced(bench.client.clone(), "halo-system");
    bench.gone(&gateways, "halo-keys-acme").await;
    let namespace = namespaces.get("halo-acme").await.unwrap();
    assert!(namespace.metadata.deletion_timestamp.is_some());
    // Made again while its namespace is still on its way out, it waits.
    make(&bench, &tenant("acme", json!({}))).await;
    condition(
        &bench,
        "acme",
        "NamespaceReady",
        "False",
        "NamespaceTerminating",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_adopted_only_when_it_is_labelled_for_the_tenant() {
    let bench = Bench::start().await;
    let namespaces: Api<Namespace> = Api::all(bench.client.clone());
    bench.namespace("taken", &BTreeMap::new()).await;
    make(&bench, &tenant("acme", json!({"namespace": "taken"}))).await;
    let message = condition(
        &bench,
        "acme",
        "NamespaceReady",
        "False",
        "NamespaceForeign",
    )
    .await;
    let command = "kubectl label namespace taken --overwrite halo.howdify.io/tenant=acme";
    assert!(message.contains(command), "{message}");
    let namespace = namespaces.get("taken").await.unwrap();
    assert!(
        !namespace
            .metadata
            .labels
            .unwrap()
            .contains_key("halo.howdify.io/tenant")
    );
    let label = json!({"metadata": {"labels": {"halo.howdify.io/tenant": "acme"}}});
    let params = PatchParams::default();
    namespaces
        .patch("taken", &params, &Patch::Merge(label))
        .await
        .unwrap();
    condition(&bench, "acme", "Ready", "True", "Ready").await;

    // A second tenant that asks for the same namespace comes second.
    let second = json!({"tenantId": "other", "namespace": "taken"});
    make(&bench, &tenant("later", second)).await;
    let message = condition(&bench, "later", "Ready", "False", "TenantConflict").await;
    assert!(message.contains("namespace taken"), "{message}");

    // Paused, nothing is changed; the end of an adopted namespace's tenant leaves it there.
    let tenants: Api<HaloTenant> = Api::all(bench.client.clone());
    let paused = |paused: bool| Patch::Merge(json!({"spec": {"paused": paused}}));
    tenants.patch("acme", &params, &paused(true)).await.unwrap();
    condition(&bench, "acme", "Ready", "False", "Paused").await;
    tenants
        .delete("acme", &DeleteParams::default())
        .await
        .unwrap();
    tenants
        .patch("acme", &params, &paused(false))
        .await
        .unwrap();
    bench.gone(&tenants, "acme").await;
    let namespace = namespaces.get("taken").await.unwrap();
    assert!(namespace.metadata.deletion_timestamp.is_none());
    let labels = namespace.metadata.labels.unwrap();
    assert!(
        !labels.contains_key("pod-security.kubernetes.io/enforce"),
        "{labels:?}"
    );
    let policies: Api<NetworkPolicy> = Api::namespaced(bench.client.clone(), "taken");
    assert!(
        policies
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}
