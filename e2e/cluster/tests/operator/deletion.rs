//! Objects that are deleted, in any order and whatever is down: nothing is left, in the cluster or in the cloud.

use halo_crds::status::Phase;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::support::objects::{self, with};
use crate::support::{World, assert_words};

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A substrate whose weights are on a volume of its own, of this deletion policy.
fn with_volume(tenant: &str, policy: &str) -> Value {
    with(
        objects::substrate(tenant, "demo"),
        json!({"spec": {
            "model": {"image": null, "node": {"path": "/mnt/halo/demo"}},
            "nodePool": {"ec2": {"dataVolume": {"sizeGib": 20, "deletionPolicy": policy}}},
        }}),
    )
}

/// A tenant with a substrate that is awake.
async fn awake(world: &World, tenant: &str, substrate: Value) {
    world.tenant_with_substrate(tenant, substrate).await;
    let namespace = format!("halo-{tenant}");
    world.gateway("gateway-0").asks(&namespace, "demo", 1).await;
    world.phase(&namespace, "demo", Phase::Awake).await;
}

/// The ids of data volumes of a tenant.
fn data_volumes(world: &World, tenant: &str) -> Vec<String> {
    let of = |tags: &std::collections::BTreeMap<String, String>| {
        tags.contains_key("halo.howdify.io/zone")
            && tags
                .get("halo.howdify.io/tenant")
                .is_some_and(|one| one == tenant)
    };
    let volumes = world.volumes().into_iter();
    volumes
        .filter(|one| of(&one.tags))
        .map(|one| one.id)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_every_order() {
    let world = World::start().await;
    let _operator = world.operator().await;

    // The substrate first: its node drains, its instance ends, its volume goes by its policy, its children with it.
    let deleted = with_volume("first", "Delete");
    awake(&world, "first", deleted.clone()).await;
    assert_eq!(data_volumes(&world, "first").len(), 1);
    world.delete(&deleted).await;
    world.gone(&deleted).await;
    world
        .cloud_is("neither instance nor volume", |view| {
            view.state.living().count() == 0 && view.state.volumes.is_empty()
        })
        .await;
    for kind in ["deployment", "service", "pdb", "pvc"] {
        let left = ["get", kind, "-n", "halo-first", "-o", "name"];
        halo_e2e_cluster::eventually(crate::support::DEADLINE, || async {
            match world.kubectl(&left).await {
                left if left.is_empty() => Ok(()),
                left => Err(left),
            }
        })
        .await;
    }
    world.delete(&objects::tenant("first")).await;
    world.nothing_left("first").await;

    // The tenant first: its substrates end before it, and a volume that is to be kept is kept.
    let kept = with_volume("second", "Retain");
    awake(&world, "second", kept).await;
    let volumes = data_volumes(&world, "second");
    assert_eq!(volumes.len(), 1);
    world.delete(&objects::tenant("second")).await;
    world.nothing_left("second").await;
    assert_eq!(data_volumes(&world, "second"), volumes);

    // The namespace by hand, under everything: the substrate ends as it should, and the tenant makes its namespace anew.
    awake(&world, "third", with_volume("third", "Delete")).await;
    let uid = |namespace: k8s_openapi::api::core::v1::Namespace| namespace.metadata.uid.unwrap();
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> =
        kube::Api::all(world.client.clone());
    let before = uid(namespaces.get("halo-third").await.unwrap());
    namespaces
        .delete("halo-third", &DeleteParams::default())
        .await
        .unwrap();
    halo_e2e_cluster::eventually(crate::support::DEADLINE, || async {
        let now = namespaces.get("halo-third").await;
        let now = now.map_err(|error| error.to_string())?;
        match now.metadata.uid.as_ref() != Some(&before) {
            true => Ok(()),
            false => Err(format!("{:?}", now.status)),
        }
    })
    .await;
    world.tenant_says("third", "Ready", "True", "Ready").await;
    world
        .cloud_is("no instance", |view| view.state.living().count() == 0)
        .await;
    assert!(data_volumes(&world, "third").is_empty());
    world.delete(&objects::tenant("third")).await;
    world.nothing_left("third").await;

    // Everything at once.
    let substrate = with_volume("fourth", "Delete");
    awake(&world, "fourth", substrate.clone()).await;
    let tenant = objects::tenant("fourth");
    let ours = namespace("halo-fourth");
    tokio::join!(
        world.delete(&ours),
        world.delete(&tenant),
        world.delete(&substrate)
    );
    world.nothing_left("fourth").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_wakes() {
    let world = World::start().await;
    let _operator = world.operator().await;
    let held = world.machines.hold_registration();
    let substrate = with_volume("acme", "Delete");
    world.tenant_with_substrate("acme", substrate.clone()).await;
    world
        .gateway("gateway-0")
        .asks("halo-acme", "demo", 1)
        .await;
    world
        .cloud_is("an instance", |view| view.state.living().count() == 1)
        .await;
    world.delete(&substrate).await;
    world.gone(&substrate).await;
    drop(held);
    world.delete(&objects::tenant("acme")).await;
    world.nothing_left("acme").await;
    assert!(world.living().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_ec2_is_down() {
    let world = World::start().await;
    let _operator = world.operator().await;
    let substrate = with_volume("acme", "Delete");
    awake(&world, "acme", substrate.clone()).await;
    world.ec2_goes_down();
    world.delete(&objects::tenant("acme")).await;
    let blocked = world
        .substrate_says("halo-acme", "demo", "Blocked", "True", "CloudUnreachable")
        .await;
    assert_words(&blocked, &["next try"]);
    let waits = world
        .tenant_says("acme", "Ready", "False", "SubstratesRemain")
        .await;
    assert_words(&waits, &["halo-acme/demo"]);
    let text = world.kubectl(&["get", "hs", "-n", "halo-acme"]).await;
    assert!(text.contains("next try"), "{text}");

    world.emulator.clear_faults();
    world.nothing_left("acme").await;
    assert!(world.living().is_empty());
    assert!(data_volumes(&world, "acme").is_empty());
}

/// The operator is away while a person removes everything, finalizers included: what is left in the cloud is found by its tags.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_the_operators_back() {
    let world = World::start().await;
    let operator = world.operator().await;
    let deleted = with_volume("acme", "Delete");
    awake(&world, "acme", deleted.clone()).await;
    awake(&world, "kept", with_volume("kept", "Retain")).await;
    operator.crash();

    for tenant in ["acme", "kept"] {
        let substrate = with_volume(tenant, "Delete");
        world.delete(&substrate).await;
        world
            .patch(&substrate, json!({"metadata": {"finalizers": []}}))
            .await;
        world.gone(&substrate).await;
    }
    assert_eq!(world.living().len(), 2);
    let kept = data_volumes(&world, "kept");

    let _operator = world.operator().await;
    world
        .cloud_is("no instance", |view| view.state.living().count() == 0)
        .await;
    world
        .cloud_is("one data volume", |view| {
            let data = view.state.volumes.values();
            data.filter(|one| one.tags.contains_key("halo.howdify.io/zone"))
                .count()
                == 1
        })
        .await;
    assert_eq!(data_volumes(&world, "kept"), kept);
    assert!(data_volumes(&world, "acme").is_empty());
}
