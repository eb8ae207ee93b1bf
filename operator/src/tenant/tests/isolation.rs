//! The namespace and what keeps pods apart.

use std::collections::BTreeMap;

use halo_crds::{SUBSTRATE_LABEL, TENANT_LABEL, reasons};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::super::cidr::Cidr;
use super::super::dereference::World;
use super::super::isolation::{ORIGIN_LABEL, names};
use super::super::plan::{IsolationPlan, NamespacePlan, Prepared, Refusal};
use super::worlds::*;
use crate::runtime::kinds::ChildKind;

fn namespace(world: &World) -> NamespacePlan {
    planned(world, &roots(held(7), None), now()).namespace
}

fn isolation(world: &World) -> IsolationPlan {
    planned(world, &roots(held(7), None), now())
        .isolation
        .unwrap()
}

fn labels(namespace: &Prepared<Namespace>) -> BTreeMap<String, String> {
    namespace.object().metadata.labels.clone().unwrap()
}

#[test]
fn a_namespace_is_made_kept_or_adopted() {
    let mut world = world(tenant(json!({}), None));
    let NamespacePlan::Create(made) = namespace(&world) else {
        panic!("not made");
    };
    let made = labels(&made);
    assert_eq!(made[TENANT_LABEL], "acme");
    assert_eq!(made["app.kubernetes.io/managed-by"], "halo-operator");
    for mode in ["enforce", "audit", "warn"] {
        assert_eq!(
            made[&format!("pod-security.kubernetes.io/{mode}")],
            "restricted"
        );
    }
    assert_eq!(made[ORIGIN_LABEL], "created");
    world.namespace = Some(created());
    let NamespacePlan::Keep(kept) = namespace(&world) else {
        panic!("not kept");
    };
    assert_eq!(labels(&kept), made);
    world.namespace = Some(adopted());
    let NamespacePlan::Keep(kept) = namespace(&world) else {
        panic!("not adopted");
    };
    assert_eq!(labels(&kept)[TENANT_LABEL], "acme");
    assert!(!labels(&kept).contains_key(ORIGIN_LABEL));
}

#[test]
fn a_namespace_that_is_anothers_or_on_its_way_out_is_left() {
    let terminating = record(&[(TENANT_LABEL, "acme"), (ORIGIN_LABEL, "created")], true);
    let foreign = record(&[(TENANT_LABEL, "other")], false);
    for (found, reason, said) in [
        (terminating, reasons::NAMESPACE_TERMINATING, "being deleted"),
        (
            foreign,
            reasons::NAMESPACE_FOREIGN,
            "kubectl label namespace halo-acme --overwrite halo.howdify.io/tenant=acme",
        ),
    ] {
        let mut world = world(tenant(json!({}), None));
        world.namespace = Some(found);
        let plan = planned(&world, &roots(held(7), None), now());
        assert!(plan.isolation.is_none());
        let NamespacePlan::Refuse(Refusal {
            reason: found,
            message,
        }) = plan.namespace
        else {
            panic!("taken");
        };
        assert_eq!(found, reason);
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn quota_and_limits_come_and_go_with_the_spec() {
    let spec = json!({"isolation": {
        "quota": {"limits.cpu": "32", "pods": "10"},
        "limitRange": {"default": {"cpu": "1"}, "max": {"cpu": "16"}},
        "allowedEgress": [{"cidr": "10.0.0.0/8", "ports": [443, 8443]}],
    }});
    let given = isolation(&world(tenant(spec, None)));
    let quota = given.quota.unwrap();
    let hard = quota.object().spec.as_ref().unwrap().hard.as_ref().unwrap();
    assert_eq!(hard["limits.cpu"].0, "32");
    let limits = given.limits.unwrap();
    let item = &limits.object().spec.as_ref().unwrap().limits[0];
    assert_eq!(
        (
            item.type_.as_str(),
            item.max.as_ref().unwrap()["cpu"].0.as_str()
        ),
        ("Container", "16")
    );
    assert!(given.removals.is_empty());

    let mut bare = world(tenant(json!({}), None));
    let optional = [
        (ChildKind::ResourceQuota, names::QUOTA),
        (ChildKind::LimitRange, names::LIMITS),
        (ChildKind::NetworkPolicy, names::ALLOWED),
    ];
    for key in optional
        .into_iter()
        .chain([(ChildKind::NetworkPolicy, names::DENY)])
    {
        bare.children
            .insert(key, record(&[(TENANT_LABEL, "acme")], false));
    }
    let gone = isolation(&bare);
    assert!(gone.quota.is_none() && gone.limits.is_none());
    assert_eq!(gone.removals, optional);
    let empty = json!({"isolation": {"limitRange": {}}});
    assert!(isolation(&world(tenant(empty, None))).limits.is_none());
}

#[test]
fn the_default_service_account_has_no_token() {
    let account = isolation(&world(tenant(json!({}), None))).account;
    let account = account.object();
    assert_eq!(account.metadata.name.as_deref(), Some("default"));
    assert_eq!(account.metadata.namespace.as_deref(), Some("halo-acme"));
    assert_eq!(account.automount_service_account_token, Some(false));
}

fn policies(spec: serde_json::Value) -> BTreeMap<String, NetworkPolicySpec> {
    let take = |policy: Prepared<NetworkPolicy>| {
        let policy = policy.object().clone();
        (policy.metadata.name.unwrap(), policy.spec.unwrap())
    };
    let plan = isolation(&world(tenant(spec, None)));
    plan.policies.into_iter().map(take).collect()
}

#[test]
fn everything_is_denied_but_what_the_flow_needs() {
    let policies = policies(json!({}));
    let names: Vec<&str> = policies.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [names::DENY, names::DNS, names::GATEWAY, names::LEDGER]
    );
    let deny = &policies[names::DENY];
    assert_eq!(deny.policy_types.as_ref().unwrap(), &["Ingress", "Egress"]);
    assert!(deny.ingress.is_none() && deny.egress.is_none());
    assert_eq!(deny.pod_selector, Some(Default::default()));

    let gateway = &policies[names::GATEWAY];
    let pods = gateway
        .pod_selector
        .as_ref()
        .unwrap()
        .match_expressions
        .as_ref()
        .unwrap();
    assert_eq!(
        (pods[0].key.as_str(), pods[0].operator.as_str()),
        (SUBSTRATE_LABEL, "Exists")
    );
    let rules = gateway.ingress.as_ref().unwrap();
    assert_eq!(rules.len(), 1);
    let ports = rules[0].ports.as_ref().unwrap();
    assert_eq!(ports.len(), 1);
    assert_eq!(ports[0].port, Some(IntOrString::Int(8090)));
    let from = rules[0].from.as_ref().unwrap();
    assert_eq!(from.len(), 1);
    // One peer with both selectors: the gateway's pods in the gateway's namespace, not either.
    let labels = |selector: &Option<
        k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
    >| { selector.as_ref().unwrap().match_labels.clone().unwrap() };
    assert_eq!(
        labels(&from[0].namespace_selector)["kubernetes.io/metadata.name"],
        "halo-system"
    );
    assert_eq!(labels(&from[0].pod_selector)["app"], "halo-gateway");
    for (name, policy) in &policies {
        assert_eq!(policy.ingress.is_some(), name == names::GATEWAY, "{name}");
    }
}

#[test]
fn no_policy_lets_a_pod_reach_the_metadata_service() {
    let policies = policies(
        json!({"isolation": {"allowedEgress": [{"cidr": "160.0.0.0/4"}, {"cidr": "fd00::/8"}]}}),
    );
    let metadata: [Cidr; 2] =
        ["169.254.169.254/32", "fd00:ec2::254/128"].map(|text| text.parse().unwrap());
    let mut blocks = 0;
    for (name, policy) in &policies {
        for rule in policy.egress.iter().flatten() {
            for peer in rule.to.as_ref().unwrap() {
                let Some(block) = &peer.ip_block else {
                    assert_eq!(name, names::DNS);
                    continue;
                };
                blocks += 1;
                let cidr: Cidr = block.cidr.parse().unwrap();
                for address in metadata.iter().filter(|address| cidr.contains(**address)) {
                    let left_out = block.except.iter().flatten();
                    let left_out = left_out.map(|text| text.parse::<Cidr>().unwrap());
                    assert!(
                        left_out.into_iter().any(|except| except.contains(*address)),
                        "{name} {cidr}"
                    );
                }
                // The API server takes no exception that is not inside its block.
                for except in block.except.iter().flatten() {
                    let except: Cidr = except.parse().unwrap();
                    assert!(cidr.contains(except) && !except.contains(cidr));
                }
            }
        }
    }
    assert_eq!(blocks, 6);
}

#[test]
fn who_reads_metrics_reaches_the_pods_from_its_namespace_alone() {
    let mut settings = super::worlds::settings();
    settings.metrics_namespaces = vec!["monitoring".to_owned()];
    let world = world(tenant(json!({}), None));
    let valid = crate::tenant::validate::validate(&world.tenant, &[], &[]).unwrap();
    let policies = crate::tenant::isolation::policies(&valid, &settings);
    let gateway = policies
        .iter()
        .find(|policy| policy.metadata.name.as_deref() == Some(names::GATEWAY));
    let rules = gateway.unwrap().spec.clone().unwrap().ingress.unwrap();
    let from = rules[0].from.as_ref().unwrap();
    assert_eq!(from.len(), 2);
    let selector = from[1].namespace_selector.clone().unwrap();
    assert_eq!(
        selector.match_labels.unwrap()["kubernetes.io/metadata.name"],
        "monitoring"
    );
    assert_eq!(from[1].pod_selector, None);
}
