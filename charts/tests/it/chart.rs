//! Rules that hold for everything that is rendered.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::rendered::{Rendered, all};

#[test]
fn every_pod_is_restricted() {
    for rendered in all() {
        let pods = rendered.pods();
        assert!(pods.len() >= 2);
        for pod in pods {
            let security = &pod["securityContext"];
            assert_eq!(
                (&security["runAsNonRoot"], &security["runAsUser"]),
                (&json!(true), &json!(65532))
            );
            assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
            for container in pod["containers"].as_array().unwrap() {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false);
                assert_eq!(security["readOnlyRootFilesystem"], true);
                assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
                assert!(
                    container["resources"]["requests"]["memory"].is_string()
                        && container["resources"]["limits"]["memory"].is_string()
                );
            }
            assert_eq!(pod["enableServiceLinks"], false);
            assert!(pod["automountServiceAccountToken"].is_boolean());
        }
    }
}

#[test]
fn no_pod_runs_on_nodes_that_halo_manages() {
    for rendered in all() {
        for pod in rendered.pods() {
            let nodes =
                &pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
            let terms = nodes["nodeSelectorTerms"].as_array().unwrap();
            let away = json!({"key": halo_crds::POOL_LABEL, "operator": "DoesNotExist"});
            // Terms are alternatives: each must say it.
            for term in terms {
                assert!(
                    term["matchExpressions"].as_array().unwrap().contains(&away),
                    "{}",
                    rendered.name
                );
            }
        }
    }
}

/// `kind/name` to rules, without the comments.
fn rules<'a>(objects: impl Iterator<Item = &'a Value>) -> BTreeMap<String, Value> {
    objects
        .filter(|one| !one["rules"].is_null())
        .map(|one| {
            (
                format!("{}/{}", one["kind"], one["metadata"]["name"]),
                one["rules"].clone(),
            )
        })
        .collect()
}

#[test]
fn roles_are_those_of_the_components_files() {
    let files = [
        include_str!("../../../operator/rbac.yaml"),
        include_str!("../../../gateway/rbac.yaml"),
    ];
    let objects: Vec<Value> = files
        .iter()
        .flat_map(|text| serde_saphyr::from_multiple::<Value>(text).unwrap())
        .collect();
    let wanted = rules(objects.iter());
    assert!(wanted.len() >= 4);
    for rendered in all() {
        let roles = rules(
            rendered
                .objects
                .iter()
                .filter(|one| one["apiVersion"] == "rbac.authorization.k8s.io/v1"),
        );
        assert_eq!(roles, wanted, "{}", rendered.name);
    }
}

#[test]
fn bindings_name_the_accounts_of_the_pods() {
    for rendered in all() {
        for name in ["halo-operator", "halo-gateway"] {
            let deployment = rendered.find("Deployment", name).unwrap();
            let account = &deployment["spec"]["template"]["spec"]["serviceAccountName"];
            for kind in ["ClusterRoleBinding", "RoleBinding"] {
                let subjects = &rendered.find(kind, name).unwrap()["subjects"];
                assert_eq!(
                    *subjects,
                    json!([{"kind": "ServiceAccount", "name": account, "namespace": "halo-system"}])
                );
            }
        }
    }
}

#[test]
fn services_and_policies_name_ports_that_are_there() {
    for rendered in all() {
        for (service, deployment) in [
            ("halo-gateway", "halo-gateway"),
            ("halo-gateway-metrics", "halo-gateway"),
            ("halo-operator-metrics", "halo-operator"),
        ] {
            let service = rendered.find("Service", service).unwrap();
            let ports = rendered.container(deployment)["ports"].as_array().unwrap();
            for port in service["spec"]["ports"].as_array().unwrap() {
                assert!(ports.iter().any(|one| one["name"] == port["targetPort"]));
            }
            let pods = &rendered.find("Deployment", deployment).unwrap()["spec"]["template"]["metadata"]
                ["labels"];
            for (key, value) in service["spec"]["selector"].as_object().unwrap() {
                assert_eq!(pods[key], *value);
            }
        }
    }
}

fn egress(rendered: &Rendered, name: &str) -> String {
    rendered.find("NetworkPolicy", name).unwrap()["spec"]["egress"].to_string()
}

#[test]
fn policies_let_nobody_reach_the_metadata_service() {
    for rendered in all().iter().filter(|one| one.name != "single-replica") {
        for name in ["halo-operator", "halo-gateway"] {
            for rule in rendered.find("NetworkPolicy", name).unwrap()["spec"]["egress"]
                .as_array()
                .unwrap()
            {
                for peer in rule["to"].as_array().into_iter().flatten() {
                    let (block, except) = (
                        &peer["ipBlock"]["cidr"],
                        peer["ipBlock"]["except"].to_string(),
                    );
                    assert!(
                        block != "0.0.0.0/0" || except.contains("169.254.0.0/16"),
                        "{}",
                        rendered.name
                    );
                    assert!(
                        block != "::/0" || except.contains("fd00:ec2::/32"),
                        "{}",
                        rendered.name
                    );
                }
            }
        }
    }
}

#[test]
fn ports_of_other_endpoints_are_let_through() {
    let all = all();
    let full = all.iter().find(|one| one.name == "full").unwrap();
    for port in [8000, 8443, 4318, 3128] {
        assert!(
            egress(full, "halo-gateway").contains(&format!("\"port\":{port}")),
            "{port}"
        );
    }
    let isolated = all.iter().find(|one| one.name == "isolated-vpc").unwrap();
    for name in ["halo-operator", "halo-gateway"] {
        assert!(
            !egress(isolated, name).contains("0.0.0.0/0")
                && !egress(isolated, name).contains("::/0")
        );
    }
}

#[test]
fn one_registry_serves_every_image() {
    for rendered in all()
        .iter()
        .filter(|one| ["full", "isolated-vpc"].contains(&one.name.as_str()))
    {
        let registry = if rendered.name == "full" {
            "registry.example.com/mirror/"
        } else {
            "111122223333.dkr.ecr.us-east-2.amazonaws.com/halo/"
        };
        for pod in rendered.pods() {
            for container in pod["containers"].as_array().unwrap() {
                let image = container["image"].as_str().unwrap();
                assert!(image.starts_with(registry), "{image}");
            }
        }
        let text = rendered.container("halo-operator")["args"].to_string();
        assert!(
            text.contains(&format!("--substrate-image={registry}")),
            "{text}"
        );
    }
}
