//! Objects of the Prometheus operator's and cert-manager's kinds, in an API server that has their definitions.

use halo_crds::HaloSubstrate;
use halo_e2e_cluster::{GoModule, Options};
use halo_operator::substrate::validate::validate;
use halo_operator::substrate::workload::{self, Plan, TenantFacts};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::helm::{Answer, chart};

const PROMETHEUS_OPERATOR: GoModule = GoModule {
    path: "github.com/prometheus-operator/prometheus-operator",
    version: "v0.85.0",
    sum: "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
};
const MONITORS: [&str; 3] = [
    "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
    "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
];
const CERT_MANAGER: GoModule = GoModule {
    path: "github.com/cert-manager/cert-manager",
    version: "v1.21.2",
    sum: "h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68=",
};
const CERTIFICATES: [&str; 1] = ["deploy/crds/cert-manager.io_certificates.yaml"];

/// `helm VERB halo` with values of `ci/`.
async fn release(cluster: &Cluster, verb: &str, values: &str, set: &[&str]) -> Answer {
    let (halo, values) = (
        chart("halo"),
        chart(&format!("halo/ci/{values}-values.yaml")),
    );
    let mut arguments = vec![verb, "halo", &halo, "-n", "halo-system", "-f", &values];
    for set in set {
        arguments.extend(["--set", set]);
    }
    if verb == "install" {
        arguments.push("--create-namespace");
    }
    cluster.helm(&arguments).await
}

/// Installs definitions from the files of a Go module, and waits until their kinds are served.
async fn define(cluster: &Cluster, module: GoModule, files: &[&str]) {
    let folder = tokio::task::spawn_blocking(move || module.folder())
        .await
        .unwrap()
        .unwrap();
    for file in files {
        let file = folder.join(file);
        let file = file.to_str().unwrap();
        cluster
            .kubectl(&["apply", "--server-side", "-f", file], "")
            .await;
        let wait = ["wait", "--for=condition=Established", "--timeout=60s"];
        cluster
            .kubectl(&[&wait[..], &["-f", file]].concat(), "")
            .await;
    }
}

/// What the API server says of a manifest in which every field must be one that it knows.
async fn strictly(cluster: &Cluster, manifest: &str) -> Result<(), String> {
    let arguments = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
    ];
    let output = cluster.plane.kubectl_with(&arguments, manifest).await;
    let output = output.unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The release's manifest; the API server takes it strictly, and does not with another field in its place.
async fn taken_strictly(cluster: &Cluster, field: &str) -> String {
    let manifest = cluster
        .helm(&["get", "manifest", "halo", "-n", "halo-system"])
        .await
        .good();
    strictly(cluster, &manifest).await.unwrap();
    let wrong = manifest.replace(&format!("  {field}:"), &format!("  {field}x:"));
    assert_ne!(wrong, manifest);
    let complaint = strictly(cluster, &wrong).await.unwrap_err();
    assert!(complaint.contains(&format!("{field}x")), "{complaint}");
    manifest
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// Whether these labels are all among those.
fn among(wanted: &Value, labels: &Value) -> bool {
    let mut wanted = wanted.as_object().unwrap().iter();
    wanted.all(|(key, value)| labels[key] == *value)
}

/// The number of a container's port.
fn port<'a>(pod: &'a Value, name: &Value) -> &'a Value {
    let mut ports = items(&pod["spec"]["containers"]).flat_map(|one| items(&one["ports"]));
    let found = ports.find(|port| port["name"] == *name);
    &found.unwrap_or_else(|| panic!("no port {name}"))["containerPort"]
}

/// A pod of a substrate, as the operator makes it.
fn substrate_pod() -> Value {
    let example = include_str!("../../../../docs/examples/existing-nodes.yaml");
    let objects: Vec<Value> = serde_saphyr::from_multiple(example).unwrap();
    let mut substrate = objects
        .into_iter()
        .find(|one| one["kind"] == "HaloSubstrate")
        .unwrap();
    substrate["metadata"]["uid"] = json!("d3b07384-d113-4ec6-a7d8-3f2b6a5c9e01");
    let substrate: HaloSubstrate = serde_json::from_value(substrate).unwrap();
    let made = workload::build(&Plan {
        substrate: &validate(&substrate).unwrap(),
        tenant: &TenantFacts {
            id: "acme-clinic".to_owned(),
            table: "receipts".to_owned(),
            region: "us-east-2".to_owned(),
        },
        image: "halo/substrate:1",
        defaults: &Default::default(),
        replicas: 1,
    });
    serde_json::to_value(made.deployment.spec.unwrap().template).unwrap()
}

/// What a Prometheus makes of the monitors: each leads to one port of pods that let it in, and gives the job its name.
async fn monitors_lead_to_pods(cluster: &Cluster) {
    let all = async |kind: &'static str| cluster.json(&["get", kind, "-n", "halo-system"]).await;
    let services = all("services").await;
    let deployments = all("deployments").await;
    let policies = all("networkpolicies").await;
    let monitors = all("servicemonitors").await;
    let mut names = Vec::new();
    for monitor in items(&monitors["items"]) {
        let (name, spec) = (&monitor["metadata"]["name"], &monitor["spec"]);
        assert_eq!(
            spec["namespaceSelector"]["matchNames"],
            json!(["halo-system"])
        );
        let [endpoint] = &spec["endpoints"].as_array().unwrap()[..] else {
            panic!("{name}: one endpoint");
        };
        assert_eq!(endpoint["path"], "/metrics");
        let targets: Vec<(&Value, &Value)> = items(&services["items"])
            .filter(|one| among(&spec["selector"]["matchLabels"], &one["metadata"]["labels"]))
            .flat_map(|one| items(&one["spec"]["ports"]).map(move |port| (one, port)))
            .filter(|(_, port)| port["name"] == endpoint["port"])
            .collect();
        let [(service, service_port)] = targets[..] else {
            panic!("{name} leads to {targets:?}");
        };
        let job = &service["metadata"]["labels"][spec["jobLabel"].as_str().unwrap()];
        assert_eq!(job, name);
        let pods: Vec<&Value> = items(&deployments["items"])
            .map(|one| &one["spec"]["template"])
            .filter(|pod| among(&service["spec"]["selector"], &pod["metadata"]["labels"]))
            .collect();
        let [pod] = pods[..] else {
            panic!("{name} leads to {} Deployments", pods.len());
        };
        let number = port(pod, &service_port["targetPort"]);
        let monitoring = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}});
        let lets_in = items(&policies["items"])
            .filter(|one| {
                among(
                    &one["spec"]["podSelector"]["matchLabels"],
                    &pod["metadata"]["labels"],
                )
            })
            .flat_map(|one| items(&one["spec"]["ingress"]))
            .any(|rule| {
                items(&rule["from"]).any(|from| *from == monitoring)
                    && items(&rule["ports"]).any(|port| port["port"] == *number)
            });
        assert!(lets_in, "{name}: nobody is let in to port {number}");
        names.push(name.as_str().unwrap());
    }
    names.sort_unstable();
    assert_eq!(names, ["halo-gateway", "halo-operator"]);

    let monitors = all("podmonitors").await;
    let [monitor] = &monitors["items"].as_array().unwrap()[..] else {
        panic!("one PodMonitor");
    };
    let (spec, pod) = (&monitor["spec"], substrate_pod());
    let labels = &pod["metadata"]["labels"];
    assert_eq!(spec["namespaceSelector"]["any"], true);
    let expressions = spec["selector"]["matchExpressions"].as_array().unwrap();
    for expression in expressions {
        assert_eq!(expression["operator"], "Exists");
        assert!(labels[expression["key"].as_str().unwrap()].is_string());
    }
    assert_eq!(expressions.len(), 1);
    for label in items(&spec["podTargetLabels"]) {
        assert!(labels[label.as_str().unwrap()].is_string(), "{label}");
    }
    let endpoint = &spec["podMetricsEndpoints"][0];
    assert_eq!(endpoint["path"], "/metrics");
    assert_eq!(*port(&pod, &endpoint["port"]), workload::PORT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn monitors_and_rules_come_with_their_definitions() {
    let cluster = Cluster::start(Options::default()).await;
    let modes = ["skipIfMissing", "failIfMissing", "alwaysRender"]
        .map(|mode| format!("monitoring.renderMode={mode}"));
    let [skip, fail, always] = modes.each_ref().map(String::as_str);

    let installed = release(&cluster, "install", "monitoring", &[skip])
        .await
        .good();
    assert!(
        installed.contains("monitors and rules were left out"),
        "{installed}"
    );
    let manifest = cluster
        .helm(&["get", "manifest", "halo", "-n", "halo-system"])
        .await
        .good();
    assert!(!manifest.contains("monitoring.coreos.com"));
    let complaint = release(&cluster, "upgrade", "monitoring", &[fail])
        .await
        .bad();
    assert!(
        complaint.contains("the cluster does not know monitoring.coreos.com/v1"),
        "{complaint}"
    );
    let complaint = release(&cluster, "upgrade", "monitoring", &[always])
        .await
        .bad();
    assert!(
        complaint.contains("no matches for kind \"PodMonitor\""),
        "{complaint}"
    );

    define(&cluster, PROMETHEUS_OPERATOR, &MONITORS).await;
    for mode in [skip, fail, always] {
        let upgraded = release(&cluster, "upgrade", "monitoring", &[mode])
            .await
            .good();
        assert!(!upgraded.contains("were left out"), "{mode}: {upgraded}");
        let manifest = taken_strictly(&cluster, "scrapeTimeout").await;
        for (kind, count) in [
            ("ServiceMonitor", 2),
            ("PodMonitor", 1),
            ("PrometheusRule", 1),
        ] {
            let found = manifest.matches(&format!("\nkind: {kind}\n")).count();
            assert_eq!(found, count, "{mode}: {kind}");
        }
        cluster.everything_is_there().await;
        monitors_lead_to_pods(&cluster).await;
    }

    // Everything that can be changed; labels that a Prometheus may select by.
    cluster
        .kubectl(&["create", "namespace", "grafana"], "")
        .await;
    release(&cluster, "upgrade", "full", &[]).await.good();
    taken_strictly(&cluster, "scrapeTimeout").await;
    for kind in ["servicemonitors", "podmonitors", "prometheusrules"] {
        let selected = ["get", kind, "-n", "halo-system", "-l", "release=prometheus"];
        let selected = cluster.json(&selected).await;
        let selected = selected["items"].as_array().unwrap();
        assert!(!selected.is_empty(), "{kind}");
        for one in selected {
            let metadata = &one["metadata"];
            assert_eq!(metadata["labels"]["team"], "inference", "{kind}");
            assert_eq!(
                metadata["annotations"]["example.com/owner"], "platform",
                "{kind}"
            );
        }
    }
    let rules = cluster
        .json(&["get", "prometheusrule", "halo", "-n", "halo-system"])
        .await;
    let alerts: Vec<&Value> = items(&rules["spec"]["groups"])
        .flat_map(|group| items(&group["rules"]))
        .filter(|rule| rule["alert"].is_string())
        .collect();
    assert!(alerts.len() > 10);
    for alert in alerts {
        assert_eq!(alert["labels"]["team"], "inference", "{alert}");
    }

    // Off again: what was there goes.
    release(&cluster, "upgrade", "minimal", &[]).await.good();
    let kinds = "servicemonitors,podmonitors,prometheusrules";
    let left = cluster
        .kubectl(&["get", kinds, "-A", "-o", "name"], "")
        .await;
    assert_eq!(left.trim(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_is_written_where_the_gateway_reads_it() {
    let cluster = Cluster::start(Options::default()).await;
    let complaint = release(&cluster, "install", "cert-manager", &[])
        .await
        .bad();
    assert!(
        complaint.contains("no matches for kind \"Certificate\""),
        "{complaint}"
    );
    define(&cluster, CERT_MANAGER, &CERTIFICATES).await;
    for (set, secret) in [
        (&[][..], "halo-gateway-tls"),
        (&["gateway.tls.secretName=front-door"], "front-door"),
    ] {
        let verb = if set.is_empty() { "install" } else { "upgrade" };
        release(&cluster, verb, "cert-manager", set).await.good();
        taken_strictly(&cluster, "secretName").await;
        cluster.everything_is_there().await;
        let object = async |kind: &'static str| {
            cluster
                .json(&["get", kind, "halo-gateway", "-n", "halo-system"])
                .await
        };
        let (certificate, deployment) = (object("certificate").await, object("deployment").await);
        let spec = &certificate["spec"];
        assert_eq!(spec["secretName"], secret);
        let pod = &deployment["spec"]["template"]["spec"];
        let mounted = items(&pod["volumes"]).find(|one| one["name"] == "tls");
        assert_eq!(mounted.unwrap()["secret"]["secretName"], secret);
        let service = "halo-gateway.halo-system.svc";
        assert_eq!(
            spec["dnsNames"],
            json!([
                "halo.example.com",
                service,
                format!("{service}.cluster.local")
            ])
        );
        assert_eq!(
            spec["issuerRef"],
            json!({"group": "cert-manager.io", "kind": "ClusterIssuer", "name": "company-ca"})
        );
    }
    // What a public authority signs.
    let public = [
        "gateway.tls.certManager.serviceNames=false",
        "tests.gateway=https://halo.example.com",
    ];
    release(&cluster, "upgrade", "cert-manager", &public)
        .await
        .good();
    let name = ["get", "certificate", "halo-gateway", "-n", "halo-system"];
    let certificate = cluster.json(&name).await;
    assert_eq!(certificate["spec"]["dnsNames"], json!(["halo.example.com"]));
}
