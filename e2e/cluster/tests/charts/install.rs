//! The charts in a real API server: every object is accepted, by Pod Security too; an upgrade changes what it should; an uninstall leaves
//! the definitions only.

use std::time::Duration;

use halo_e2e_cluster::{Controllers, Options, eventually};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::helm::chart;

const DEADLINE: Duration = Duration::from_secs(60);

/// The pods of both Deployments were made, which Pod Security lets pass.
async fn pods_are_made(cluster: &Cluster, wanted: [usize; 2]) {
    eventually(DEADLINE, async || {
        let pods = cluster.json(&["get", "pods", "-n", "halo-system"]).await;
        let count = |name: &str| {
            let pods = pods["items"].as_array().into_iter().flatten();
            pods.filter(|pod| {
                pod["metadata"]["labels"]["app.kubernetes.io/name"] == name
                    && pod["metadata"]["deletionTimestamp"].is_null()
            })
            .count()
        };
        let found = [count("halo-operator"), count("halo-gateway")];
        if found == wanted {
            Ok(())
        } else {
            Err(format!("{found:?} pods of {wanted:?}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn install_upgrade_and_uninstall() {
    let cluster = Cluster::start(Options {
        controllers: Controllers::On,
        ..Options::default()
    })
    .await;
    let (crds, halo) = (chart("halo-crds"), chart("halo"));
    let (minimal, full) = (
        chart("halo/ci/minimal-values.yaml"),
        chart("halo/ci/full-values.yaml"),
    );
    let restricted = r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "halo-system",
        "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}"#;
    cluster.kubectl(&["apply", "-f", "-"], restricted).await;

    cluster
        .helm(&["install", "halo-crds", &crds, "-n", "halo-system"])
        .await
        .good();
    cluster
        .kubectl(
            &[
                "wait",
                "--for=condition=Established",
                "crd/halotenants.halo.howdify.io",
                "crd/halosubstrates.halo.howdify.io",
            ],
            "",
        )
        .await;
    let installed = cluster
        .helm(&[
            "install",
            "halo",
            &halo,
            "-n",
            "halo-system",
            "-f",
            &minimal,
        ])
        .await
        .good();
    assert!(
        installed.contains("kubectl -n halo-system wait"),
        "{installed}"
    );
    assert!(!installed.contains("WARNING"), "{installed}");
    assert!(cluster.everything_is_there().await > 15);
    pods_are_made(&cluster, [2, 2]).await;

    // Everything that can be changed, but what needs other operators' kinds.
    let off = "monitoring.monitors.enabled=false,monitoring.rules.enabled=false,monitoring.dashboards.namespace=halo-system";
    let before = cluster
        .json(&["get", "deployment", "halo-gateway", "-n", "halo-system"])
        .await;
    cluster
        .helm(&[
            "upgrade",
            "halo",
            &halo,
            "-n",
            "halo-system",
            "-f",
            &full,
            "--set",
            off,
        ])
        .await
        .good();
    let after = cluster
        .json(&["get", "deployment", "halo-gateway", "-n", "halo-system"])
        .await;
    let checksum =
        |of: &Value| of["spec"]["template"]["metadata"]["annotations"]["checksum/config"].clone();
    assert!(checksum(&before).is_string() && checksum(&before) != checksum(&after));
    assert_eq!(after["spec"]["replicas"], 5);
    let config = cluster
        .json(&["get", "configmap", "halo-gateway", "-n", "halo-system"])
        .await;
    assert!(
        config["data"]["gateway.toml"]
            .as_str()
            .unwrap()
            .contains("hold_ms = 600000")
    );
    cluster.everything_is_there().await;
    // The account that was renamed went.
    let accounts = cluster
        .kubectl(
            &["get", "serviceaccounts", "-n", "halo-system", "-o", "name"],
            "",
        )
        .await;
    assert!(
        accounts.contains("halo-operator-prod")
            && !accounts.contains("serviceaccount/halo-operator\n"),
        "{accounts}"
    );

    // Back again, as a rollback does.
    cluster
        .helm(&["rollback", "halo", "1", "-n", "halo-system"])
        .await
        .good();
    let back = cluster
        .json(&["get", "deployment", "halo-gateway", "-n", "halo-system"])
        .await;
    assert_eq!(checksum(&back), checksum(&before));

    // A second release would fight over the same tenants.
    let refused = cluster
        .helm(&[
            "install",
            "second",
            &halo,
            "-n",
            "elsewhere",
            "--create-namespace",
            "-f",
            &minimal,
        ])
        .await
        .bad();
    assert!(
        refused.contains("cannot be imported into the current release"),
        "{refused}"
    );

    cluster
        .helm(&["uninstall", "halo", "-n", "halo-system"])
        .await
        .good();
    let kept = cluster
        .helm(&["uninstall", "halo-crds", "-n", "halo-system"])
        .await
        .good();
    assert!(kept.contains("kept due to the resource policy"), "{kept}");
    let definitions = cluster.kubectl(&["get", "crds", "-o", "name"], "").await;
    assert_eq!(definitions.lines().count(), 2, "{definitions}");
    eventually(DEADLINE, async || {
        let kinds = "pods,deployments,replicasets,services,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,\
            poddisruptionbudgets,clusterroles,clusterrolebindings";
        let left = cluster.kubectl(&["get", kinds, "-A", "-o", "name", "-l", "app.kubernetes.io/part-of=halo"], "").await;
        if left.trim().is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    // The definitions are taken over again, with what is in the cluster.
    cluster
        .helm(&[
            "install",
            "halo-crds",
            &crds,
            "-n",
            "halo-system",
            "--take-ownership",
        ])
        .await
        .good();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_the_definitions_is_told_what_is_missing() {
    let cluster = Cluster::start(Options::default()).await;
    let (halo, single) = (chart("halo"), chart("halo/ci/single-replica-values.yaml"));
    let installed = cluster
        .helm(&[
            "install",
            "halo",
            &halo,
            "-n",
            "halo-system",
            "--create-namespace",
            "-f",
            &single,
        ])
        .await
        .good();
    for warning in [
        "this cluster does not know HaloTenant and HaloSubstrate yet",
        "aws.cluster.endpoint, certificateAuthority and serviceCIDR are empty",
        "the gateway serves without TLS",
        "operator.replicas is 1",
        "gateway.replicas is 1",
        "monitors and rules were left out",
    ] {
        assert!(installed.contains(warning), "{warning}: {installed}");
    }
    cluster.everything_is_there().await;
}
