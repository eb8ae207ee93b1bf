//! What a person reads when something is wrong: the condition, its reason and message, the Event.

use std::time::Duration;

use halo_crds::status::Phase;
use halo_e2e_cluster::{Options, eventually};
use halo_operator::runtime::operator::StartError;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use serde_json::{Value, json};

use crate::support::objects::{self, with};
use crate::support::{DEADLINE, Launch, Setup, World, a_while, assert_words};

/// The definitions as if their schemas allowed every spec.
fn loose() -> Vec<CustomResourceDefinition> {
    let mut definitions = halo_crds::all();
    for version in definitions
        .iter_mut()
        .flat_map(|one| &mut one.spec.versions)
    {
        version.selectable_fields = None;
        let schema = version.schema.as_mut().unwrap();
        let schema = schema.open_api_v3_schema.as_mut().unwrap();
        schema.x_kubernetes_validations = None;
        let anything = JSONSchemaProps {
            type_: Some("object".to_owned()),
            x_kubernetes_preserve_unknown_fields: Some(true),
            ..JSONSchemaProps::default()
        };
        let fields = schema.properties.as_mut().unwrap();
        fields.insert("spec".to_owned(), anything);
    }
    definitions
}

/// Waits until an object's only condition says that it cannot be read, and returns its message. A client that knows the types cannot
/// read it either.
async fn unreadable(world: &World, object: &Value) -> String {
    let api = world.api_of(object);
    let name = object["metadata"]["name"].as_str().unwrap();
    eventually(DEADLINE, || async {
        let found = api.get(name).await.map_err(|error| error.to_string())?;
        let status = &found.data["status"];
        let said = status["conditions"].as_array().into_iter().flatten();
        let mut said = said.filter(|one| one["type"] == "Ready" && one["status"] == "False");
        match said.find(|one| one["reason"] == "Invalid" && status["why"] == "Invalid") {
            Some(said) => Ok(said["message"].as_str().unwrap().to_owned()),
            None => Err(status.to_string()),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_cannot_be_read_stops_only_itself() {
    let world = World::with(Setup {
        options: Options {
            crds: loose(),
            ..Options::default()
        },
        ..Setup::default()
    })
    .await;
    // Stored before the operator starts, as by an earlier version.
    let bad_tenant = with(
        objects::tenant("bad"),
        json!({"spec": {"keys": {"overlap": "a day"}}}),
    );
    world.apply(std::slice::from_ref(&bad_tenant)).await;
    let operator = world.operator().await;
    let said = unreadable(&world, &bad_tenant).await;
    for part in ["a day", "length of time", "what runs is left as it is"] {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
    world.event_saying("bad", "Invalid", "a day").await;

    // And while it runs: in the middle of others.
    let bad = with(
        objects::substrate("good", "bad"),
        json!({"spec": {"scaling": {"max": "many"}}}),
    );
    world.apply(&[objects::tenant("good")]).await;
    world.tenant_says("good", "Ready", "True", "Ready").await;
    world
        .apply(&[bad.clone(), objects::substrate("good", "fine")])
        .await;
    world
        .substrate_says("halo-good", "fine", "Ready", "True", "Asleep")
        .await;
    let said = unreadable(&world, &bad).await;
    for part in ["\"many\"", "u32"] {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
    world.event_saying("bad", "Invalid", "many").await;
    let figures = operator.figures().await;
    assert!(!figures.contains("reconcile_panics_total{controller=\"substrate\"} 1"));

    // Put right, it is served as if nothing had been.
    world
        .patch(&bad, json!({"spec": {"scaling": {"max": 1}}}))
        .await;
    world
        .substrate_says("halo-good", "bad", "Ready", "True", "Asleep")
        .await;
    world
        .patch(&bad_tenant, json!({"spec": {"keys": {"overlap": "24h"}}}))
        .await;
    world.tenant_says("bad", "Ready", "True", "Ready").await;

    // A spec that can be read and says two things at once.
    let both = json!({"spec": {"nodePool": {"existing": {"nodeSelector": {"a": "b"}}}}});
    world.patch(&objects::substrate("good", "fine"), both).await;
    let said = world
        .substrate_says("halo-good", "fine", "Ready", "False", "Invalid")
        .await;
    assert_words(
        &said,
        &["exactly one of nodePool.ec2 and nodePool.existing"],
    );
    world.event("fine", "Invalid").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_definition_is_named_with_the_command_that_mends_it() {
    let mut crds = halo_crds::all();
    for definition in &mut crds {
        let annotations = definition.metadata.annotations.as_mut().unwrap();
        annotations.insert(
            halo_crds::SCHEMA_REVISION_ANNOTATION.to_owned(),
            "0".to_owned(),
        );
    }
    let world = World::with(Setup {
        options: Options {
            crds,
            ..Options::default()
        },
        ..Setup::default()
    })
    .await;
    let error = world.launch(Launch::default()).await.err().unwrap();
    assert!(matches!(error, StartError::Crds(_)), "{error:?}");
    let text = error.to_string();
    for part in [
        "halotenants.halo.howdify.io is of revision 0",
        &format!("needs revision {}", halo_crds::SCHEMA_REVISION),
        "kubectl apply --server-side -f -",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    halo_e2e_cluster::install_crds(&world.plane).await.unwrap();
    world.operator().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_of_somebody_else_and_one_that_does_not_end() {
    let world = World::start().await;
    let _operator = world.operator().await;
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "halo-acme"}});
    world.apply(std::slice::from_ref(&namespace)).await;
    world.apply(&[objects::tenant("acme")]).await;
    let said = world
        .tenant_says("acme", "NamespaceReady", "False", "NamespaceForeign")
        .await;
    let command = "kubectl label namespace halo-acme --overwrite halo.howdify.io/tenant=acme";
    assert_words(&said, &["halo-acme exists", command]);
    world.event("acme", "NamespaceForeign").await;
    world
        .tenant_says("acme", "KeysReady", "False", "NamespacePending")
        .await;
    // The command is the one that helps.
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    world.kubectl(&words).await;
    world.tenant_says("acme", "Ready", "True", "Ready").await;

    // Something in it keeps it from ending.
    let stuck = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "stuck", "namespace": "halo-acme", "finalizers": ["example.com/never"]},
    });
    world.apply(std::slice::from_ref(&stuck)).await;
    world.delete(&namespace).await;
    let said = world
        .tenant_says("acme", "NamespaceReady", "False", "NamespaceTerminating")
        .await;
    assert_words(
        &said,
        &[
            "halo-acme is being deleted",
            "kubectl get namespace halo-acme -o yaml",
        ],
    );
    world.event("acme", "NamespaceTerminating").await;
    world
        .patch(&stuck, json!({"metadata": {"finalizers": null}}))
        .await;
    world.tenant_says("acme", "Ready", "True", "Ready").await;

    // An adopted namespace outlives its tenant; this one was made anew by the operator and goes with it.
    world.delete(&objects::tenant("acme")).await;
    world.nothing_left("acme").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_tenants_that_want_the_same_the_older_has_it() {
    let world = World::with(Setup::bare()).await;
    let _operator = world.operator().await;
    let of_id = |name: &str, namespace: &str| {
        with(
            objects::tenant(name),
            json!({"spec": {"tenantId": "acme", "namespace": namespace}}),
        )
    };
    let first = of_id("first", "halo-one");
    world.apply(std::slice::from_ref(&first)).await;
    world.tenant_says("first", "Ready", "True", "Ready").await;
    // Ages count in seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    world.apply(&[of_id("second", "halo-two")]).await;
    let said = world
        .tenant_says("second", "Ready", "False", "TenantConflict")
        .await;
    assert_words(&said, &["HaloTenant first", "tenant id acme", "older"]);
    world.event("second", "TenantConflict").await;
    world.tenant_says("first", "Ready", "True", "Ready").await;
    world.delete(&first).await;
    world.gone(&first).await;
    world.tenant_says("second", "Ready", "True", "Ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_paused_or_in_the_wrong_place_says_so() {
    let world = World::start().await;
    let _operator = world.operator().await;

    // In a namespace of no tenant, and of another.
    world
        .apply(&[
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "halo-nobody"}}),
        ])
        .await;
    world.apply(&[objects::substrate("nobody", "demo")]).await;
    let said = world
        .substrate_says("halo-nobody", "demo", "Blocked", "True", "TenantMissing")
        .await;
    assert_words(&said, &["there is no HaloTenant nobody"]);
    world.event("demo", "TenantMissing").await;
    world.apply(&[objects::tenant("acme")]).await;
    world.tenant_says("acme", "Ready", "True", "Ready").await;
    let astray = with(
        objects::substrate("acme", "astray"),
        json!({"metadata": {"namespace": "halo-nobody"}}),
    );
    world.apply(std::slice::from_ref(&astray)).await;
    let said = world
        .substrate_says("halo-nobody", "astray", "Ready", "False", "WrongNamespace")
        .await;
    assert_words(&said, &["has the namespace halo-acme"]);

    // A substrate that is paused does not wake; one whose tenant is paused neither.
    let demo = objects::substrate("acme", "demo");
    world.apply(std::slice::from_ref(&demo)).await;
    world.phase("halo-acme", "demo", Phase::Asleep).await;
    let gateway = world.gateway("gateway-0");
    let pause = |on: bool| json!({"spec": {"paused": on}});
    for object in [demo.clone(), objects::tenant("acme")] {
        world.patch(&object, pause(true)).await;
        let said = world
            .substrate_says("halo-acme", "demo", "Ready", "False", "Paused")
            .await;
        assert_words(&said, &["nothing is changed"]);
        gateway.asks("halo-acme", "demo", 1).await;
        a_while().await;
        assert_eq!(world.launches(), 0);
        gateway.leaves("halo-acme", "demo").await;
        world.patch(&object, pause(false)).await;
        world
            .substrate_says("halo-acme", "demo", "Ready", "True", "Asleep")
            .await;
    }
    // One that is awake stays awake while it is paused, and sleeps after.
    gateway.asks("halo-acme", "demo", 1).await;
    world.phase("halo-acme", "demo", Phase::Awake).await;
    world.patch(&demo, pause(true)).await;
    world
        .substrate_says("halo-acme", "demo", "Ready", "False", "Paused")
        .await;
    gateway
        .is_idle_for("halo-acme", "demo", Duration::from_secs(3600))
        .await;
    a_while().await;
    assert_eq!(world.living().len(), 1);
    world.patch(&demo, pause(false)).await;
    world.phase("halo-acme", "demo", Phase::Asleep).await;
}
