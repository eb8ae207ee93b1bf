//! Keys: published from one root secret, put right when somebody changes them, and honest about what cannot be read.

use std::collections::BTreeMap;

use halo_aws_emulator::ParameterKind;
use halo_crds::status::Phase;
use halo_receipts::keyring::KeyRing;
use halo_receipts::keys::TenantKeys as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::support::objects::{self, with};
use crate::support::{ROOT, ROOT_PARAMETER, SYSTEM, Setup, World, assert_words};

fn secrets(world: &World, namespace: &str) -> Api<Secret> {
    Api::namespaced(world.client.clone(), namespace)
}

fn ring(secret: &Secret) -> KeyRing {
    let data: &BTreeMap<String, ByteString> = secret.data.as_ref().unwrap();
    let ByteString(document) = &data["keyring.json"];
    KeyRing::decode(document).unwrap()
}

fn document(secret: Secret) -> Vec<u8> {
    secret.data.unwrap().remove("keyring.json").unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_published_and_put_right() {
    let world = World::with(Setup::bare()).await;
    let operator = world.operator().await;
    world.apply(&[objects::tenant("acme")]).await;
    let said = world
        .tenant_says("acme", "KeysReady", "True", "KeysPublished")
        .await;
    assert_words(&said, &["generation 1"]);

    // The pods' ring cannot enrol devices, the gateways' can; neither has more than it needs.
    let pods = secrets(&world, "halo-acme").get("halo-keys").await.unwrap();
    let gateways = secrets(&world, SYSTEM).get("halo-keys-acme").await.unwrap();
    let (of_pods, of_gateways) = (ring(&pods), ring(&gateways));
    let enrols = |ring: &KeyRing| {
        let device = "watch-1".parse().unwrap();
        ring.device_key_under(1, &"acme".parse().unwrap(), &device, 1)
            .is_some()
    };
    assert!(!enrols(&of_pods));
    assert!(enrols(&of_gateways));
    let root = halo_receipts::keys::RootSecret::new(ROOT.as_bytes().to_vec()).unwrap();
    assert_eq!(of_pods.root().check_value, root.check_value());
    assert_eq!(of_pods.root().generation, 1);
    let tenant = world.tenants().get("acme").await.unwrap();
    let published = tenant.status.unwrap().keys.unwrap();
    assert_eq!(published.check_value, root.check_value().to_string());
    assert!(published.months.len() >= 2);

    // Somebody changes one Secret and deletes the other: both are as they were, and an Event says so.
    let (pods, gateways) = (document(pods), document(gateways));
    let change =
        Patch::Merge(json!({"data": {"keyring.json": "bm90aGluZw==", "more": "bW9yZQ=="}}));
    let api = secrets(&world, "halo-acme");
    api.patch("halo-keys", &PatchParams::default(), &change)
        .await
        .unwrap();
    let note = world
        .event_saying("acme", "SecretRestored", "changed")
        .await;
    assert!(note.note.unwrap().contains("halo-acme/halo-keys"));
    let restored = api.get("halo-keys").await.unwrap();
    assert_eq!(restored.data.as_ref().unwrap().len(), 1);
    assert_eq!(document(restored), pods);
    let api = secrets(&world, SYSTEM);
    api.delete("halo-keys-acme", &DeleteParams::default())
        .await
        .unwrap();
    let note = world
        .event_saying("acme", "SecretRestored", "deleted")
        .await;
    assert!(note.note.unwrap().contains("halo-system/halo-keys-acme"));
    assert_eq!(document(api.get("halo-keys-acme").await.unwrap()), gateways);

    // Nothing of a key is in a status, an Event, a label or the figures.
    let everything = [
        world
            .kubectl(&["get", "ht,ns,events", "-A", "-o", "yaml"])
            .await,
        operator.figures().await,
    ]
    .concat();
    let text = String::from_utf8(pods).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in value["roots"][0]["tenant_keys"]
        .as_object()
        .unwrap()
        .values()
    {
        assert!(!everything.contains(key.as_str().unwrap()));
    }
    assert!(!everything.contains(ROOT));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parameter_store_is_down_at_the_start_and_later() {
    let world = World::with(Setup::bare()).await;
    world.ssm_goes_down();
    let _operator = world.operator().await;
    world.apply(&[objects::tenant("acme")]).await;
    let said = world
        .tenant_says("acme", "KeysReady", "False", "SecretsUnavailable")
        .await;
    assert_words(&said, &["generation 1", "since"]);
    world.event("acme", "SecretsUnavailable").await;
    // A substrate waits for keys and says for what.
    world.apply(&[objects::substrate("acme", "demo")]).await;
    world
        .gateway("gateway-0")
        .asks("halo-acme", "demo", 1)
        .await;
    let blocked = world
        .substrate_says("halo-acme", "demo", "Blocked", "True", "TenantNotReady")
        .await;
    assert_words(&blocked, &["KeysReady says SecretsUnavailable"]);
    assert_eq!(world.launches(), 0);

    world.emulator.clear_faults();
    world
        .tenant_says("acme", "KeysReady", "True", "KeysPublished")
        .await;
    world.phase("halo-acme", "demo", Phase::Waking).await;
    world
        .cloud_is("a launch", |view| !view.state.instances.is_empty())
        .await;

    // Later: what is published goes on.
    let before = secrets(&world, "halo-acme").get("halo-keys").await.unwrap();
    world.ssm_goes_down();
    let stale = world
        .tenant_says("acme", "KeysReady", "True", "KeysStale")
        .await;
    assert_words(&stale, &["since", "cannot be read"]);
    world.event("acme", "KeysStale").await;
    world.tenant_says("acme", "Ready", "True", "Ready").await;
    let table = world.kubectl(&["get", "ht", "acme"]).await;
    assert!(table.contains("cannot be read"), "{table}");
    let after = secrets(&world, "halo-acme").get("halo-keys").await.unwrap();
    assert_eq!(
        before.metadata.resource_version,
        after.metadata.resource_version
    );
    world.emulator.clear_faults();
    world
        .tenant_says("acme", "KeysReady", "True", "KeysPublished")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_way_in_which_a_root_cannot_be_had_has_its_name() {
    let setup = Setup {
        root: false,
        ..Setup::bare()
    };
    let world = World::with(setup).await;
    let _operator = world.operator().await;
    let with_root = |name: &str, parameter: &str| {
        with(
            objects::tenant(name),
            json!({"spec": {"keys": {"rootParameter": parameter}}}),
        )
    };
    world.emulator.put_parameter(
        "/halo/short",
        "only 24 characters, sure",
        ParameterKind::SecureString,
    );
    world
        .emulator
        .put_parameter("/halo/plain", ROOT, ParameterKind::String);
    world
        .apply(&[
            with_root("missing", "/halo/missing"),
            with_root("short", "/halo/short"),
            with_root("plain", "/halo/plain"),
        ])
        .await;
    for (tenant, reason, words) in [
        ("missing", "RootParameterMissing", ["/halo/missing"]),
        ("short", "RootTooShort", ["24 bytes"]),
        ("plain", "RootParameterNotSecure", ["/halo/plain"]),
    ] {
        let said = world
            .tenant_says(tenant, "KeysReady", "False", reason)
            .await;
        assert_words(&said, &words);
        world.tenant_says(tenant, "Ready", "False", reason).await;
        world.event(tenant, reason).await;
        let published = secrets(&world, &format!("halo-{tenant}"));
        assert!(published.get_opt("halo-keys").await.unwrap().is_none());
    }

    // Denied, by the parameter and by its key; and a version that does not exist.
    world.put_root(ROOT);
    world.emulator.deny(["ssm:GetParameter"]);
    world.apply(&[objects::tenant("denied")]).await;
    let said = world
        .tenant_says("denied", "KeysReady", "False", "RootParameterDenied")
        .await;
    assert_words(&said, &["ssm:GetParameter", ROOT_PARAMETER]);
    world.emulator.deny(["kms:Decrypt"]);
    let said = world
        .tenant_says("denied", "KeysReady", "False", "RootKeyDenied")
        .await;
    assert_words(&said, &["kms:Decrypt"]);
    world.event("denied", "RootKeyDenied").await;
    world.emulator.deny(Vec::<String>::new());
    world
        .tenant_says("denied", "KeysReady", "True", "KeysPublished")
        .await;
    let later = json!({"spec": {"keys": {"generation": 7}}});
    world.patch(&objects::tenant("denied"), later).await;
    let said = world
        .tenant_says("denied", "KeysReady", "False", "RootGenerationMissing")
        .await;
    assert_words(&said, &["What is published stays: generation 1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_generation_overlaps_with_the_one_before() {
    let world = World::with(Setup::bare()).await;
    let operator = world.operator().await;
    world.apply(&[objects::tenant("acme")]).await;
    world.tenant_says("acme", "Ready", "True", "Ready").await;
    let other: String = ROOT.chars().rev().collect();
    assert_eq!(world.put_root(&other), 2);
    world
        .patch(
            &objects::tenant("acme"),
            json!({"spec": {"keys": {"generation": 2, "overlap": "10m"}}}),
        )
        .await;
    let tenant = world
        .tenant_is("acme", |tenant| {
            let keys = tenant
                .status
                .as_ref()
                .and_then(|status| status.keys.as_ref());
            keys.is_some_and(|keys| keys.generation == 2)
        })
        .await;
    let keys = tenant.status.unwrap().keys.unwrap();
    assert_eq!(keys.previous_generation, Some(1));
    let published = secrets(&world, "halo-acme").get("halo-keys").await.unwrap();
    let of_pods = ring(&published);
    assert_eq!(of_pods.root().generation, 2);
    assert_eq!(of_pods.generations().count(), 2);

    // The overlap ends, also when the operator was away meanwhile.
    operator.crash();
    world.clock.forward(std::time::Duration::from_secs(700));
    let _operator = world.operator().await;
    world
        .tenant_is("acme", |tenant| {
            let keys = tenant
                .status
                .as_ref()
                .and_then(|status| status.keys.as_ref());
            keys.is_some_and(|keys| keys.previous_generation.is_none())
        })
        .await;
    let published = secrets(&world, "halo-acme").get("halo-keys").await.unwrap();
    assert_eq!(ring(&published).generations().count(), 1);

    // The root of that version is another one, after the parameter was made anew: nothing is published from it.
    let before = document(published);
    assert!(world.emulator.remove_parameter(ROOT_PARAMETER));
    world.put_root(ROOT);
    world.put_root("another root secret of the same version, made by mistake");
    let said = world
        .tenant_says("acme", "KeysReady", "False", "RootChanged")
        .await;
    assert_words(&said, &["version 2", "the published keys stay"]);
    world.event("acme", "RootChanged").await;
    let published = secrets(&world, "halo-acme").get("halo-keys").await.unwrap();
    assert_eq!(document(published), before);
}
