//! What goes wrong: the API server is away, and objects cannot be read.

use std::time::Duration;

use halo_e2e_cluster::{Options, eventually};
use halo_gateway::directory::{Demand, Directory as _, Stage};
use halo_receipts::keys::KeyStore as _;
use serde_json::json;

use crate::support::{
    DEADLINE, World, id, namespace, options, secret, secret_with, slice, substrate, tenant,
};

#[tokio::test]
async fn without_the_api_server_what_is_known_is_served_and_the_rest_is_caught_up() {
    let world = World::alone(options()).await;
    for name in ["one", "two"] {
        world.tenant(name).await;
    }
    world
        .apply(&[slice("one", "qwen-1", &[("10.0.0.1", true)])])
        .await;
    let gateway = world.gateway("gateway-0", |_| {}).await;
    gateway.sees("one", Stage::Ready, &["10.0.0.1:8090"]).await;

    world.plane.stop_api_server();
    let failed = |kind: &str| {
        let name = format!("halo_gateway_watch_failures_total{{kind=\"{kind}\"}}");
        gateway.metric(&name)
    };
    eventually(DEADLINE, || async {
        let counts = ["Secret", "HaloTenant", "HaloSubstrate", "EndpointSlice"].map(failed);
        match counts.iter().all(|count| *count >= 1.0) {
            true => Ok(()),
            false => Err(format!("{counts:?}")),
        }
    })
    .await;
    assert!(gateway.cluster.is_synced());
    assert_eq!(gateway.substrate("one").unwrap().pods.len(), 1);
    assert!(gateway.cluster.tenant(&id("two")).is_some());
    assert_eq!(gateway.cluster.held(&id("one")).len(), 1);
    // A request that comes now is told when that is possible.
    let waiting = Demand {
        waiting: 1,
        answering: 0,
    };
    gateway.cluster.demand(&id("two"), waiting);
    eventually(DEADLINE, || async {
        let failed = gateway.metric("halo_gateway_demand_writes_total{result=\"failed\"}");
        match failed >= 2.0 {
            true => Ok(()),
            false => Err(failed.to_string()),
        }
    })
    .await;

    world.plane.start_api_server().await.unwrap();
    let mut revoking = tenant("one");
    revoking["spec"]["devices"] = json!({"revoked": ["lost"]});
    world
        .apply(&[
            revoking,
            secret("one", &[1, 2]),
            slice("one", "qwen-1", &[("10.0.0.2", true)]),
        ])
        .await;
    gateway.sees("one", Stage::Ready, &["10.0.0.2:8090"]).await;
    eventually(DEADLINE, || async {
        let revoked = gateway.cluster.tenant(&id("one")).unwrap().revoked.len();
        let roots = gateway.cluster.held(&id("one")).len();
        let status = world.substrates("two").get("qwen").await.unwrap().status;
        let demand = status.unwrap_or_default().demand.len();
        match (revoked, roots, demand) {
            (1, 2, 1) => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })
    .await;
}

/// Definitions whose schemas let everything through, as a later version's may let more through than this one's.
fn loose() -> Options {
    let mut crds = halo_crds::all();
    for version in crds.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
        let any = json!({
            "type": "object",
            "properties": {
                "spec": {"x-kubernetes-preserve-unknown-fields": true},
                "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            },
        });
        let schema = version.schema.get_or_insert_default();
        schema.open_api_v3_schema = Some(serde_json::from_value(any).unwrap());
        version.selectable_fields = None;
    }
    Options { crds, ..options() }
}

#[tokio::test]
async fn objects_that_cannot_be_read_are_no_matter_for_the_others() {
    let world = World::alone(loose()).await;
    for name in ["good", "odd"] {
        world.tenant(name).await;
    }
    let bad_tenant = |name: &str| {
        let mut object = tenant(name);
        object["spec"] = json!("no spec");
        object
    };
    let bad_secret = |name: &str| secret_with(name, "eyJ2IjoxfQ==".to_owned());
    world
        .apply(&[
            bad_tenant("never"),
            bad_secret("never"),
            namespace("halo-never"),
            slice("good", "qwen-1", &[("10.0.0.1", true)]),
        ])
        .await;
    let gateway = world.gateway("gateway-0", |_| {}).await;
    gateway.sees("good", Stage::Ready, &["10.0.0.1:8090"]).await;
    assert!(gateway.cluster.tenant(&id("never")).is_none());
    assert!(gateway.cluster.held(&id("never")).is_empty());

    // Good ones become bad: what was known of them stays. Everything else goes on.
    let mut bad_substrate = substrate("odd", "qwen");
    bad_substrate["spec"] = json!({"tenant": 7});
    world
        .apply(&[bad_tenant("odd"), bad_secret("odd"), bad_substrate])
        .await;
    let mut revoking = tenant("good");
    revoking["spec"]["devices"] = json!({"revoked": ["lost"], "of": "a later version"});
    world
        .apply(&[
            revoking,
            secret("good", &[1, 2]),
            slice("good", "qwen-1", &[("10.0.0.2", true)]),
        ])
        .await;
    gateway.sees("good", Stage::Ready, &["10.0.0.2:8090"]).await;
    eventually(DEADLINE, || async {
        let revoked = gateway.cluster.tenant(&id("good")).unwrap().revoked.len();
        match (revoked, gateway.cluster.held(&id("good")).len()) {
            (1, 2) => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })
    .await;
    assert!(gateway.cluster.tenant(&id("odd")).is_some());
    assert_eq!(gateway.cluster.held(&id("odd")).len(), 1);
    assert!(gateway.substrate("odd").is_some());
    // And it is well again.
    world.apply(&[tenant("never"), secret("never", &[1])]).await;
    eventually(Duration::from_secs(60), || async {
        let known = gateway.cluster.tenant(&id("never")).is_some();
        match known && gateway.cluster.held(&id("never")).len() == 1 {
            true => Ok(()),
            false => Err("it is not known"),
        }
    })
    .await;
    for kind in ["Secret", "HaloTenant", "HaloSubstrate"] {
        let name = format!("halo_gateway_watch_failures_total{{kind=\"{kind}\"}}");
        assert_eq!(gateway.metric(&name), 0.0, "{kind}");
    }
}
