//! Keys from Secrets: which are read, and which root new sessions are under while it is replaced.

use std::time::Duration;

use halo_e2e_cluster::eventually;
use halo_receipts::keys::KeyStore as _;
use serde_json::json;

use crate::support::{DEADLINE, Instance, World, id, namespace, secret, secret_with};

fn held(gateway: &Instance, tenant: &str) -> Vec<u32> {
    let held = gateway.cluster.held(&id(tenant));
    held.iter().map(|keys| keys.root().generation).collect()
}

fn current(gateway: &Instance, tenant: &str) -> Option<u32> {
    let keys = gateway.cluster.current(&id(tenant))?;
    Some(keys.root().generation)
}

#[track_caller]
fn holds(gateway: &Instance, tenant: &str, generations: &[u32]) -> impl Future<Output = ()> {
    eventually(DEADLINE, move || async move {
        let found = held(gateway, tenant);
        match found == generations {
            true => Ok(()),
            false => Err(format!("{found:?} are held")),
        }
    })
}

#[tokio::test]
async fn a_root_that_is_replaced_is_used_for_new_sessions_when_pods_have_the_next() {
    let world = World::shared().await;
    world.tenant("keys-settle").await;
    let patient = world
        .gateway("patient", |s| s.keys_settle = Duration::from_secs(3600))
        .await;
    let hasty = world.gateway("hasty", |_| {}).await;
    for gateway in [&patient, &hasty] {
        assert_eq!(held(gateway, "keys-settle"), [1]);
        assert_eq!(current(gateway, "keys-settle"), Some(1));
    }
    world.apply(&[secret("keys-settle", &[1, 2])]).await;
    for gateway in [&patient, &hasty] {
        holds(gateway, "keys-settle", &[2, 1]).await;
    }
    assert_eq!(current(&patient, "keys-settle"), Some(1));
    assert_eq!(current(&hasty, "keys-settle"), Some(2));
    // A session that began under either finds its keys.
    let ring = crate::support::keyring("keys-settle", &[1, 2]);
    for (generation, check_value) in ring.generations() {
        let keys = patient
            .cluster
            .under(&id("keys-settle"), generation, &check_value);
        assert_eq!(keys.unwrap().root().generation, generation);
        let wrong = crate::support::root(9).check_value();
        let none = patient
            .cluster
            .under(&id("keys-settle"), generation, &wrong);
        assert!(none.is_none());
    }
    // The overlap ends: nothing is left to wait with.
    world.apply(&[secret("keys-settle", &[2])]).await;
    holds(&patient, "keys-settle", &[2]).await;
    assert_eq!(current(&patient, "keys-settle"), Some(2));
    world.delete(&secret("keys-settle", &[2])).await;
    holds(&patient, "keys-settle", &[]).await;
    assert_eq!(current(&patient, "keys-settle"), None);
}

#[tokio::test]
async fn only_what_the_operator_publishes_in_the_own_namespace_is_read() {
    let world = World::shared().await;
    world.apply(&[namespace("keys-elsewhere")]).await;
    let mut foreign = secret("keys-foreign", &[1]);
    foreign["metadata"]["namespace"] = json!("keys-elsewhere");
    let mut unlabelled = secret("keys-unlabelled", &[1]);
    unlabelled["metadata"]["labels"] = json!({});
    // Keys of one tenant under the name of another.
    let mut swapped = secret("keys-swapped", &[1]);
    swapped["metadata"]["name"] = json!("halo-keys-keys-victim");
    let broken = secret_with("keys-broken", "bm90IGEga2V5cmluZw==".to_owned());
    let good = secret("keys-good", &[1]);
    world
        .apply(&[foreign, unlabelled, swapped, broken, good])
        .await;
    let gateway = world.gateway("reader", |_| {}).await;
    assert_eq!(held(&gateway, "keys-good"), [1]);
    for tenant in [
        "keys-foreign",
        "keys-unlabelled",
        "keys-swapped",
        "keys-victim",
        "keys-broken",
    ] {
        assert!(held(&gateway, tenant).is_empty(), "{tenant}");
    }
    // What was broken is good, and what was good breaks: the keys that were there stay.
    world.apply(&[secret("keys-broken", &[3])]).await;
    holds(&gateway, "keys-broken", &[3]).await;
    world
        .apply(&[
            secret_with("keys-good", "AAAA".to_owned()),
            secret("keys-last", &[4]),
        ])
        .await;
    holds(&gateway, "keys-last", &[4]).await;
    assert_eq!(held(&gateway, "keys-good"), [1]);
}
