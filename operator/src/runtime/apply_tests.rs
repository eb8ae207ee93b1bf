//! The door for writes against a server of a few lines.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use halo_crds::{FINALIZER, HaloTenant};
use k8s_openapi::api::core::v1::{Namespace, Node, Secret};
use serde_json::json;

use super::super::feed::How;
use super::super::testing::{Asked, Fake, desk, status};
use super::*;

const LONG: Duration = Duration::from_secs(10);

fn secret() -> Secret {
    serde_json::from_value(json!({
        "metadata": {"namespace": "acme", "name": "halo-keys", "labels": {"app.kubernetes.io/managed-by": "halo-operator"}},
        "data": {"keyring.json": "e30="},
    }))
    .unwrap()
}

fn managed(manager: &str, fields: Value) -> Value {
    json!({"manager": manager, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields})
}

/// Answers an apply as the server would: what was sent, with a uid, a further version and managedFields.
fn echo(asked: &Asked, version: u64, entries: &[Value]) -> Value {
    let mut object = asked.body.clone();
    object["metadata"]["uid"] = json!("u-1");
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    object["metadata"]["managedFields"] = json!(entries);
    object
}

fn own_fields() -> Value {
    managed(
        "halo-operator/keys",
        json!({"f:data": {"f:keyring.json": {}}}),
    )
}

#[tokio::test]
async fn what_is_as_it_should_be_costs_no_call() {
    let version = AtomicU64::new(10);
    let fake = Fake::start(move |asked| {
        let version = version.fetch_add(1, Ordering::SeqCst);
        Some((200, echo(asked, version, &[own_fields()])))
    })
    .await;
    let desk = desk(&fake, LONG);
    let wanted = secret();
    let first = desk.writer.apply(&wanted, Manager::Keys).await.unwrap();
    assert!(first.was_written());
    let again = desk.writer.apply(&wanted, Manager::Keys).await.unwrap();
    assert!(!again.was_written());
    let asked = fake.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].path, "/api/v1/namespaces/acme/secrets/halo-keys");
    assert!(
        asked[0].query.contains("fieldManager=halo-operator%2Fkeys"),
        "{}",
        asked[0].query
    );
    assert!(asked[0].query.contains("force=true"));
    let annotations = &asked[0].body["metadata"]["annotations"];
    assert!(annotations[SPEC_HASH].is_string());
    assert_eq!(asked[0].body["kind"], "Secret");

    // Another intent is written.
    let mut other = wanted.clone();
    other.data.get_or_insert_default().clear();
    desk.writer.apply(&other, Manager::Keys).await.unwrap();
    assert_eq!(fake.asked().len(), 2);

    let seen = desk.witness.0.lock().unwrap().clone();
    let effect = Effect::new("patch Secret", "acme/halo-keys");
    assert_eq!(seen[..2], [(effect.clone(), None), (effect, Some(true))]);
    let text = desk.metrics.text().unwrap();
    let line = r#"rest_client_requests_total{code="200",method="PATCH"} 2"#;
    assert!(text.contains(line), "{text}");
}

#[tokio::test]
async fn meddling_is_put_right_once() {
    let version = AtomicU64::new(10);
    let fake = Fake::start(move |asked| {
        let version = version.fetch_add(2, Ordering::SeqCst);
        Some((200, echo(asked, version, &[own_fields()])))
    })
    .await;
    let desk = desk(&fake, LONG);
    let wanted = secret();
    let first = desk.writer.apply(&wanted, Manager::Keys).await.unwrap();
    let Applied::Written(mut seen) = first else {
        panic!("not written")
    };
    let other = managed("kubectl-edit", json!({"f:data": {"f:keyring.json": {}}}));
    seen.metadata.resource_version = Some("11".to_owned());
    seen.metadata.managed_fields = serde_json::from_value(json!([own_fields(), other])).unwrap();
    assert!(desk.caches.take_secret(&seen, How::Watched).is_some());
    let child = desk
        .caches
        .child(ChildKind::Secret, "acme", "halo-keys")
        .unwrap();
    assert!(child.changed_by_others);
    for written in [true, false] {
        let applied = desk.writer.apply(&wanted, Manager::Keys).await.unwrap();
        assert_eq!(applied.was_written(), written);
    }
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test]
async fn a_key_that_another_added_to_a_secret_goes() {
    let fake = Fake::start(|asked| {
        let other = managed("kubectl-patch", json!({"f:data": {"f:extra": {}}}));
        let apply = asked.query.contains("force");
        let entries = if apply {
            vec![own_fields(), other]
        } else {
            vec![own_fields()]
        };
        let mut object = echo(asked, if apply { 5 } else { 6 }, &entries);
        object["metadata"]["name"] = json!("halo-keys");
        object["metadata"]["namespace"] = json!("acme");
        object["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "halo-operator"});
        object["data"] = json!({});
        Some((200, object))
    })
    .await;
    let desk = desk(&fake, LONG);
    desk.writer.apply(&secret(), Manager::Keys).await.unwrap();
    let asked = fake.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].body, json!({"data": {"extra": null}}));
    let child = desk
        .caches
        .child(ChildKind::Secret, "acme", "halo-keys")
        .unwrap();
    assert!(!child.changed_by_others);
}

#[tokio::test]
async fn a_server_that_does_not_answer_costs_the_deadline() {
    let fake = Fake::start(|_| None).await;
    let desk = desk(&fake, Duration::from_millis(100));
    let error = desk.writer.apply(&secret(), Manager::Keys).await;
    let error = error.unwrap_err();
    assert_eq!(error.name(), "ApiServerUnreachable");
    assert!(error.is_unknown());
    let seen = desk.witness.0.lock().unwrap().clone();
    assert_eq!(
        seen.last().map(|(_, succeeded)| *succeeded),
        Some(Some(false))
    );
}

#[tokio::test]
async fn refusals_have_names() {
    for (code, reason, message, name) in [
        (409, "Conflict", "the object has been modified", "Conflict"),
        (409, "AlreadyExists", "exists", "AlreadyExists"),
        (404, "NotFound", "gone", "NotFound"),
        (403, "Forbidden", "exceeded quota: halo", "QuotaExceeded"),
        (
            403,
            "Forbidden",
            "because it is being terminated",
            "NamespaceTerminating",
        ),
        (403, "Forbidden", "cannot patch", "ApiServerForbidden"),
        (422, "Invalid", "bad", "ApiServerInvalid"),
        (500, "InternalError", "etcd", "ApiServerFailed"),
    ] {
        let fake = Fake::start(move |_| Some(status(code, reason, message))).await;
        let desk = desk(&fake, LONG);
        let namespace = Namespace {
            metadata: kube::core::ObjectMeta {
                name: Some("acme".to_owned()),
                ..Default::default()
            },
            ..Default::default()
        };
        let error = desk.writer.create(&namespace, Manager::Tenant).await;
        let error = error.unwrap_err();
        assert_eq!(error.name(), name);
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.is_conflict(), name == "Conflict");
        assert_eq!(error.is_already_exists(), name == "AlreadyExists");
        assert_eq!(error.is_not_found(), name == "NotFound");
    }
}

#[tokio::test]
async fn an_eviction_that_a_budget_refuses_is_asked_once() {
    let fake =
        Fake::start(|_| Some(status(429, "TooManyRequests", "the budget needs 1 pod"))).await;
    let desk = desk(&fake, LONG);
    let evicted = desk.writer.evict("acme", "pod-0").await.unwrap();
    assert_eq!(
        evicted,
        Evicted::Refused("the budget needs 1 pod".to_owned())
    );
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test]
async fn who_does_not_lead_sends_nothing() {
    let fake = Fake::start(|_| Some((200, json!({})))).await;
    let desk = desk(&fake, LONG);
    desk.lead.send_replace(false);
    let error = desk.writer.apply(&secret(), Manager::Keys).await;
    assert_eq!(error.unwrap_err().name(), "NotLeader");
    let error = desk.writer.delete::<Node>("", "node-0", None).await;
    assert_eq!(error.unwrap_err().name(), "NotLeader");
    assert!(fake.asked().is_empty());
    assert!(desk.witness.0.lock().unwrap().is_empty());
}

fn tenant() -> HaloTenant {
    serde_json::from_value(json!({
        "apiVersion": "halo.howdify.io/v1alpha1", "kind": "HaloTenant",
        "metadata": {"name": "acme", "uid": "u-1", "resourceVersion": "7", "finalizers": ["example.com/other"]},
        "spec": {"keys": {"rootParameter": "/halo/root"}},
    }))
    .unwrap()
}

#[tokio::test]
async fn a_finalizer_is_set_on_the_version_that_was_read() {
    let fake = Fake::start(|asked| {
        let mut answer = serde_json::to_value(tenant()).unwrap();
        answer["metadata"]["finalizers"] = asked.body["metadata"]["finalizers"].clone();
        answer["metadata"]["resourceVersion"] = json!("8");
        Some((200, answer))
    })
    .await;
    let desk = desk(&fake, LONG);
    let held = desk.writer.add_finalizer(&tenant(), FINALIZER).await;
    let held = held.unwrap();
    let asked = fake.asked();
    assert_eq!(
        asked[0].body,
        json!({"metadata": {"uid": "u-1", "resourceVersion": "7", "finalizers": ["example.com/other", FINALIZER]}})
    );
    // It is there: no call, and the cache knows it before the watch does.
    desk.writer.add_finalizer(&held, FINALIZER).await.unwrap();
    assert_eq!(fake.asked().len(), 1);
    let cached = desk.caches.tenant("acme").unwrap();
    assert_eq!(cached.metadata.finalizers, held.metadata.finalizers);
    desk.writer
        .remove_finalizer(&held, FINALIZER)
        .await
        .unwrap();
    assert_eq!(
        fake.asked()[1].body["metadata"]["finalizers"],
        json!(["example.com/other"])
    );
}

#[tokio::test]
async fn a_status_is_written_on_the_version_that_was_read() {
    let fake = Fake::start(|asked| {
        if asked.body["metadata"]["resourceVersion"] == "7" {
            return Some(status(409, "Conflict", "the object has been modified"));
        }
        let mut answer = serde_json::to_value(tenant()).unwrap();
        answer["status"] = asked.body["status"].clone();
        answer["metadata"]["resourceVersion"] = json!("9");
        Some((200, answer))
    })
    .await;
    let desk = desk(&fake, LONG);
    let why = json!({"why": "Ready"});
    let tenant = tenant();
    let status = |version| {
        desk.writer
            .apply_status(&tenant, &why, Manager::TenantStatus, version)
    };
    assert!(status(Some("7")).await.unwrap_err().is_conflict());
    status(None).await.unwrap();
    let asked = fake.asked();
    assert_eq!(
        asked[1].path,
        "/apis/halo.howdify.io/v1alpha1/halotenants/acme/status"
    );
    assert_eq!(asked[1].body["status"], why);
    let cached = desk.caches.tenant("acme").unwrap();
    assert_eq!(
        cached.status.as_ref().and_then(|one| one.why.as_deref()),
        Some("Ready")
    );
}
