//! The charts as they are rendered: committed, so that a change shows what it does to a cluster.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::helm::{chart, charts, helm, render};

/// The values of `ci/`, and the API versions that the cluster has besides its own.
const RENDERED: [(&str, &[&str]); 8] = [
    ("cert-manager", &["cert-manager.io/v1"]),
    ("full", &[]),
    ("irsa", &[]),
    ("isolated-vpc", &[]),
    ("minimal", &[]),
    ("monitoring", &["monitoring.coreos.com/v1"]),
    ("pod-identity", &[]),
    ("single-replica", &[]),
];
/// Writes the files instead of comparing with them.
const WRITE: &str = "HALO_WRITE_GOLDEN";

fn values(name: &str) -> String {
    chart(&format!("halo/ci/{name}-values.yaml"))
}

fn rendered(name: &str, versions: &[&str]) -> String {
    let (chart, values) = (chart("halo"), values(name));
    let mut arguments = vec![
        "template",
        "halo",
        &chart,
        "--namespace",
        "halo-system",
        "--values",
        &values,
    ];
    for version in versions {
        arguments.extend(["--api-versions", version]);
    }
    helm(None, &arguments).good()
}

/// Without what comes from `files/rules` and `files/dashboards`, which is long and has a test of its own.
fn shortened(text: &str) -> String {
    let mut short = Vec::new();
    for document in text.split("\n---\n") {
        let end = if document.contains("\nkind: PrometheusRule\n") {
            document.find("\n  groups:\n")
        } else if document.contains("\n  name: halo-dashboard-") {
            document.find("\ndata:\n")
        } else {
            None
        };
        short.push(&document[..end.unwrap_or(document.len())]);
    }
    let text = short.join("\n---\n");
    text.trim_end().to_owned() + "\n"
}

#[track_caller]
fn compare(name: &str, text: &str) {
    let text = &shortened(text);
    let file = charts().join("golden").join(format!("{name}.yaml"));
    if std::env::var_os(WRITE).is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        return;
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    let differs = committed
        .lines()
        .zip(text.lines())
        .position(|(was, is)| was != is);
    let line = differs.unwrap_or_else(|| committed.lines().count().min(text.lines().count()));
    assert!(
        committed == *text,
        "charts/golden/{name}.yaml differs from line {} on: {WRITE}=1 cargo test -p halo-e2e-cluster --test charts golden, \
         and look at the difference",
        line + 1
    );
}

#[test]
fn the_rendered_charts_are_the_committed_ones() {
    for (name, versions) in RENDERED {
        compare(name, &rendered(name, versions));
    }
    let chart = chart("halo-crds");
    compare(
        "halo-crds",
        &helm(None, &["template", "halo-crds", &chart]).good(),
    );
}

#[test]
fn all_values_of_ci_are_rendered_and_nothing_else_is_kept() {
    let names = |folder: &str, end: &str| -> BTreeSet<String> {
        let files = fs::read_dir(charts().join(folder)).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names
            .map(|name| name.strip_suffix(end).unwrap_or(&name).to_owned())
            .collect()
    };
    let listed: BTreeSet<String> = RENDERED
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(names("halo/ci", "-values.yaml"), listed);
    let mut golden = names("golden", ".yaml");
    assert!(golden.remove("halo-crds"));
    assert_eq!(golden, listed);
}

#[test]
fn helm_has_nothing_to_complain_of() {
    let (halo, crds) = (chart("halo"), chart("halo-crds"));
    for (name, _) in RENDERED {
        let values = values(name);
        let linted = helm(
            None,
            &[
                "lint",
                "--strict",
                &halo,
                "--namespace",
                "halo-system",
                "--values",
                &values,
            ],
        )
        .good();
        assert!(
            linted.contains("0 chart(s) failed") && !linted.contains("[WARNING]"),
            "{linted}"
        );
    }
    helm(None, &["lint", "--strict", &crds]).good();
}

#[test]
fn monitors_follow_the_mode_and_what_the_cluster_knows() {
    let mode = |mode: &str, known: bool| {
        let mode = format!("monitoring.renderMode={mode}");
        let set = [
            "--set",
            &mode,
            "--set",
            "monitoring.monitors.enabled=true",
            "--set",
            "monitoring.rules.enabled=true",
        ];
        let known: &[&str] = if known {
            &["--api-versions", "monitoring.coreos.com/v1"]
        } else {
            &[]
        };
        render(&[&set, known].concat())
    };
    for (name, known, rendered) in [
        ("skipIfMissing", false, false),
        ("skipIfMissing", true, true),
        ("failIfMissing", true, true),
        ("alwaysRender", false, true),
        ("alwaysRender", true, true),
    ] {
        let text = mode(name, known).good();
        for kind in ["ServiceMonitor", "PodMonitor", "PrometheusRule"] {
            assert_eq!(
                text.contains(&format!("kind: {kind}\n")),
                rendered,
                "{name}, {known}: {kind}"
            );
        }
    }
    let complaint = mode("failIfMissing", false).bad();
    assert!(
        complaint.contains("the cluster does not know monitoring.coreos.com/v1"),
        "{complaint}"
    );
}

#[test]
fn another_configuration_is_another_rollout() {
    let checksum = |set: &str| {
        let text = render(&["--set", set]).good();
        let line = text
            .lines()
            .find(|line| line.contains("checksum/config"))
            .unwrap();
        line.trim().to_owned()
    };
    let first = checksum("gateway.config.limits.hold_ms=120000");
    assert_eq!(first, checksum("gateway.replicas=3"));
    assert_ne!(first, checksum("gateway.config.limits.hold_ms=120001"));
    assert_ne!(first, checksum("aws.ledger.table=other"));
}

#[test]
fn a_pod_may_take_as_long_to_end_as_its_drain_can_take() {
    let grace = |more: &[&str]| {
        let text = render(more).good();
        let (_, gateway) = text.split_once("minReadySeconds").unwrap();
        let line = gateway
            .lines()
            .find(|line| line.contains("terminationGracePeriodSeconds"))
            .unwrap();
        line.split_once(": ").unwrap().1.parse::<u32>().unwrap()
    };
    // 5 s to be unlisted, 30 s to drain, 2 s to close, 15 s to let go and to bring the spill to the ledger.
    assert_eq!(grace(&[]), 52);
    assert_eq!(
        grace(&[
            "--set",
            "gateway.config.limits.drain_ms=120500",
            "--set",
            "gateway.preStopSeconds=20"
        ]),
        158
    );
    assert_eq!(
        grace(&["--set", "gateway.terminationGracePeriodSeconds=300"]),
        300
    );
}

/// A key that is there twice is refused by those that apply objects strictly, and means whatever the reader makes of it to others.
#[test]
fn own_labels_and_annotations_win_over_those_of_every_object() {
    let mut flags = vec!["--api-versions", "monitoring.coreos.com/v1"];
    let own: Vec<String> = [
        "global.labels",
        "global.annotations",
        "operator.podLabels",
        "gateway.podLabels",
        "operator.podAnnotations",
        "gateway.podAnnotations",
        "monitoring.monitors.labels",
        "monitoring.rules.labels",
        "monitoring.dashboards.labels",
        "monitoring.dashboards.annotations",
    ]
    .iter()
    .map(|place| {
        let word = place.rsplit('.').nth(1).unwrap();
        format!(
            "{place}={{\"team\":\"{word}\",\"kubectl.kubernetes.io/default-container\":\"{word}\"}}"
        )
    })
    .collect();
    for set in own.iter().map(String::as_str).chain([
        "monitoring.monitors.enabled=true",
        "monitoring.rules.enabled=true",
        "monitoring.dashboards.enabled=true",
    ]) {
        flags.extend(["--set-json", set]);
    }
    // The parser refuses a key that is there twice.
    let objects: Vec<Value> = serde_saphyr::from_multiple(&render(&flags).good()).unwrap();
    for (kind, name, team) in [
        ("Deployment", "halo-operator", "global"),
        ("ServiceMonitor", "halo-gateway", "monitors"),
        ("PodMonitor", "halo-substrates", "monitors"),
        ("PrometheusRule", "halo", "rules"),
        ("ConfigMap", "halo-dashboard-halo", "dashboards"),
    ] {
        let object = objects
            .iter()
            .find(|one| one["kind"] == kind && one["metadata"]["name"] == name)
            .unwrap();
        assert_eq!(object["metadata"]["labels"]["team"], team, "{kind}");
        let pod = &object["spec"]["template"]["metadata"];
        if kind == "Deployment" {
            assert_eq!(pod["labels"]["team"], "operator");
            assert_eq!(pod["annotations"]["team"], "operator");
        }
    }
}

#[test]
fn an_older_cluster_is_refused() {
    let complaint = render(&["--kube-version", "1.32.9"]).bad();
    assert!(complaint.contains(">=1.33.0-0"), "{complaint}");
    for version in ["1.33.0", "1.33.1-eks-1234567", "1.37.0"] {
        render(&["--kube-version", version]).good();
    }
}
