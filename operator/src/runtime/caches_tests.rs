//! What is kept of objects, and who hears of a change.

use halo_crds::{HaloSubstrate, HaloTenant};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::core::DeserializeGuard;
use serde_json::{Value, json};

use super::super::feed::{How, Watched};
use super::super::route::{Look, looks};
use super::super::testing::caches;
use super::*;

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn tenant(version: &str, managed: Value) -> DeserializeGuard<HaloTenant> {
    of(json!({
        "apiVersion": "halo.howdify.io/v1alpha1", "kind": "HaloTenant",
        "metadata": {"name": "acme", "uid": "t-1", "resourceVersion": version, "managedFields": managed},
        "spec": {"keys": {"rootParameter": "/halo/root"}},
    }))
}

fn substrate(pool: Value, status: Value) -> DeserializeGuard<HaloSubstrate> {
    of(json!({
        "apiVersion": "halo.howdify.io/v1alpha1", "kind": "HaloSubstrate",
        "metadata": {"name": "qwen", "namespace": "halo-acme", "uid": "s-1", "resourceVersion": "1"},
        "spec": {"tenant": "acme", "model": {"name": "m", "image": {"path": "/models/m"}}, "nodePool": pool},
        "status": status,
    }))
}

fn existing() -> Value {
    json!({"existing": {"nodeSelector": {"pool": "big"}}})
}

fn substrate_look() -> Look {
    Look::Substrate(("halo-acme".to_owned(), "qwen".to_owned()))
}

#[test]
fn managed_fields_are_dropped() {
    let caches = caches();
    let managed =
        json!([{"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {}}}]);
    let touched = caches.take_tenant(tenant("1", managed), How::Watched);
    assert_eq!(touched, Some(Touched::Tenant("acme".to_owned())));
    assert_eq!(caches.tenant("acme").unwrap().metadata.managed_fields, None);
}

#[test]
fn an_object_that_does_not_parse_stops_only_itself() {
    let caches = caches();
    caches.take_substrate(substrate(existing(), json!({})), How::Watched);
    let bad = |version: &str| -> DeserializeGuard<HaloSubstrate> {
        of(json!({
            "metadata": {"name": "qwen", "namespace": "halo-acme", "uid": "s-1", "resourceVersion": version, "generation": 2},
            "spec": {"tenant": 7},
        }))
    };
    assert!(caches.take_substrate(bad("2"), How::Watched).is_some());
    assert!(caches.substrate("halo-acme", "qwen").is_none());
    let invalid = caches
        .invalid(OwnerKind::Substrate, "halo-acme", "qwen")
        .unwrap();
    assert_eq!(invalid.generation, Some(2));
    assert_eq!(invalid.reference.kind.as_deref(), Some("HaloSubstrate"));
    // Its instances are no orphans.
    assert!(caches.substrate_exists("s-1"));
    // The condition that says so makes another version of the same bad object.
    assert_eq!(caches.take_substrate(bad("3"), How::Watched), None);
    let mended = substrate(existing(), json!({}));
    assert!(caches.take_substrate(mended, How::Watched).is_some());
    assert!(caches.all_invalid().is_empty());
    // One that is gone from the next list is forgotten.
    caches.take_substrate(bad("4"), How::Watched);
    caches.begin(Watched::Owner(OwnerKind::Substrate));
    let gone = caches.complete(Watched::Owner(OwnerKind::Substrate), &[]);
    assert_eq!(gone.len(), 1);
    assert!(!caches.substrate_exists("s-1"));
}

#[test]
fn a_secret_is_kept_as_a_hash() {
    let caches = caches();
    let secret: Secret = of(json!({
        "metadata": {"name": "halo-keys", "namespace": "halo-acme", "uid": "x", "resourceVersion": "1",
            "labels": {"halo.howdify.io/tenant": "acme"}},
        "data": {"keyring.json": "c2VjcmV0"},
    }));
    let touched = caches.take_secret(&secret, How::Watched).unwrap();
    assert_eq!(looks(&caches, &touched), [Look::Tenant("acme".to_owned())]);
    let child = caches
        .child(ChildKind::Secret, "halo-acme", "halo-keys")
        .unwrap();
    let data = secret.data.clone().unwrap();
    assert_eq!(child.content_hash, Some(caches.content_hash(&data)));
    assert!(!format!("{child:?}").contains("secret\""));
    let mut other = data.clone();
    other.insert("more".to_owned(), ByteString(Vec::new()));
    assert_ne!(child.content_hash, Some(caches.content_hash(&other)));
    // Another process hashes with another key.
    let elsewhere = super::super::testing::caches();
    assert_ne!(child.content_hash, Some(elsewhere.content_hash(&data)));
}

#[test]
fn a_deployment_is_kept_as_figures() {
    let caches = caches();
    let deployment = |ready: i32, version: &str| -> Deployment {
        of(json!({
            "metadata": {"name": "qwen", "namespace": "halo-acme", "uid": "d", "resourceVersion": version, "generation": 3,
                "labels": {"halo.howdify.io/tenant": "acme", "halo.howdify.io/substrate": "qwen"}},
            "spec": {"replicas": 2, "selector": {}, "template": {}},
            "status": {"readyReplicas": ready, "replicas": 1, "observedGeneration": 3, "conditions": [
                {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}]},
        }))
    };
    let touched = caches.take_deployment(&deployment(0, "1"), How::Watched);
    assert_eq!(looks(&caches, &touched.unwrap()), [substrate_look()]);
    let failure = Some(("FailedCreate".to_owned(), "exceeded quota".to_owned()));
    assert_eq!(
        caches.deployment("halo-acme", "qwen"),
        Some(DeploymentView {
            replicas: 2,
            ready: 0,
            current: 1,
            observed: true,
            failure
        })
    );
    // Nothing that is kept differs; then a pod is ready.
    assert_eq!(
        caches.take_deployment(&deployment(0, "2"), How::Watched),
        None
    );
    let touched = caches.take_deployment(&deployment(1, "3"), How::Watched);
    assert!(touched.is_some());
    caches.lose_child(ChildKind::Deployment, &deployment(1, "4").metadata);
    assert_eq!(caches.deployment("halo-acme", "qwen"), None);
}

#[test]
fn a_pod_says_what_keeps_it_from_starting() {
    let pod = |status: Value| -> PodView {
        PodView::of(&of(json!({
            "metadata": {"name": "p", "namespace": "halo-acme", "labels": {"halo.howdify.io/substrate": "qwen"}},
            "spec": {"nodeName": "n", "containers": []},
            "status": status,
        })))
    };
    let waiting = |reason: &str| {
        json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": "why"}}, "lastState": {"terminated": {"exitCode": 7}}}]})
    };
    for (status, trouble) in [
        (
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]}),
            Some(("Unschedulable", "0/3 nodes")),
        ),
        (
            waiting("CrashLoopBackOff"),
            Some(("CrashLoopBackOff", "why (it ended with code 7)")),
        ),
        (waiting("ContainerCreating"), None),
        (
            json!({"phase": "Failed", "reason": "Evicted", "message": "disk"}),
            Some(("Evicted", "disk")),
        ),
        (
            json!({"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T10:00:00Z"}]}),
            None,
        ),
    ] {
        let view = pod(status.clone());
        let expected = trouble.map(|(reason, message)| (reason.to_owned(), message.to_owned()));
        assert_eq!(view.trouble, expected, "{status}");
        assert_eq!(view.ready_since.is_some(), view.place.ready);
        assert_eq!(view.place.node.as_deref(), Some("n"));
        assert_eq!(view.over, status["phase"] == "Failed");
    }
}

fn node(labels: Value, instance: &str, ready: &str) -> Node {
    of(json!({
        "metadata": {"name": "n", "uid": "n", "labels": labels},
        "spec": {"providerID": format!("aws:///us-east-2a/{instance}"), "unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }))
}

#[test]
fn a_node_concerns_the_pools_it_is_of() {
    let slot = json!({"replicas": 0, "nodes": [{"slot": 0, "attempt": 1, "generation": 1, "template": "t", "state": "Pending",
        "since": "2026-11-21T10:00:00Z", "instanceType": "a.b", "zone": "us-east-2a", "instance": "i-1"}]});
    let ec2 = json!({"ec2": {"subnets": [], "image": {"id": "ami-12345678"}, "securityGroups": [], "instanceProfile": "p"}});
    for (pool, status, node, concerned) in [
        (
            ec2.clone(),
            json!({}),
            node(json!({"halo.howdify.io/pool": "s-1"}), "i-2", "True"),
            true,
        ),
        (
            ec2.clone(),
            slot.clone(),
            node(json!({}), "i-1", "True"),
            true,
        ),
        (ec2, slot, node(json!({}), "i-2", "True"), false),
        (
            existing(),
            json!({}),
            node(json!({"pool": "big"}), "i-2", "True"),
            true,
        ),
        (
            existing(),
            json!({}),
            node(json!({"pool": "small"}), "i-2", "True"),
            false,
        ),
    ] {
        let caches = caches();
        caches.take_substrate(substrate(pool, status), How::Watched);
        let touched = caches.take_node(&node, How::Watched).unwrap();
        let found = looks(&caches, &touched);
        assert_eq!(found.contains(&substrate_look()), concerned, "{touched:?}");
        let view = &caches.node("n").unwrap().view;
        assert!(view.ready && view.unschedulable && view.instance.is_some());
        // The same again is no news; its loss is.
        assert_eq!(caches.take_node(&node, How::Watched), None);
        let lost = looks(&caches, &caches.lose_node(&node));
        assert_eq!(lost.contains(&substrate_look()), concerned);
    }
}

#[test]
fn changes_reach_whom_they_concern() {
    let caches = caches();
    caches.take_tenant(tenant("1", json!([])), How::Watched);
    caches.take_substrate(substrate(existing(), json!({})), How::Watched);
    let acme = || Look::Tenant("acme".to_owned());
    let child =
        |kind, namespace: &str, name: &str, tenant: Option<&str>, substrate: Option<&str>| {
            Touched::Child {
                kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                tenant: tenant.map(str::to_owned),
                substrate: substrate.map(str::to_owned),
            }
        };
    for (touched, expected) in [
        (
            Touched::Tenant("acme".to_owned()),
            vec![acme(), substrate_look()],
        ),
        (
            Touched::Substrate("halo-acme".to_owned(), "qwen".to_owned()),
            vec![substrate_look()],
        ),
        (
            child(ChildKind::Namespace, "", "halo-acme", Some("acme"), None),
            vec![acme()],
        ),
        (
            child(ChildKind::Namespace, "", "halo-acme", None, None),
            vec![acme()],
        ),
        (
            child(
                ChildKind::Service,
                "halo-acme",
                "qwen",
                Some("acme"),
                Some("qwen"),
            ),
            vec![substrate_look()],
        ),
        (
            child(
                ChildKind::PersistentVolume,
                "",
                "pv",
                Some("acme"),
                Some("qwen"),
            ),
            vec![substrate_look()],
        ),
        (
            child(ChildKind::Secret, "elsewhere", "s", None, None),
            vec![],
        ),
        (
            Touched::Pod {
                namespace: "halo-acme".to_owned(),
                substrate: "qwen".to_owned(),
            },
            vec![substrate_look()],
        ),
    ] {
        assert_eq!(looks(&caches, &touched), expected, "{touched:?}");
    }
}

#[tokio::test]
async fn synced_is_said_once_all_are() {
    let caches = Caches::new(ContentKey::random().unwrap(), 2);
    caches.one_synced();
    assert!(!caches.is_synced());
    caches.one_synced();
    caches.synced().await;
    assert!(caches.is_synced());
}
