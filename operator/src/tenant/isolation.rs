//! What keeps a tenant's pods apart: its namespace, quota, limits, network policies, and a service account without a token. Pure.

use std::collections::BTreeMap;

use halo_crds::{SUBSTRATE_LABEL, TENANT_LABEL};
use k8s_openapi::api::core::v1::{
    LimitRange, LimitRangeItem, LimitRangeSpec, Namespace, ResourceQuota, ResourceQuotaSpec,
    ServiceAccount,
};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::validate::{Destination, Valid, node_local};
use crate::runtime::records::MANAGED_BY;
use crate::settings::Settings;

/// The label of a namespace that the operator made, and so deletes with the tenant.
pub const ORIGIN_LABEL: &str = "halo.howdify.io/namespace-origin";
/// Its value.
pub const ORIGIN_CREATED: &str = "created";

/// The port on which substrate pods listen.
pub const SUBSTRATE_PORT: i32 = 8090;

/// Names of the children.
pub mod names {
    /// The ResourceQuota.
    pub const QUOTA: &str = "halo-quota";
    /// The LimitRange.
    pub const LIMITS: &str = "halo-limits";
    /// The NetworkPolicy that denies everything.
    pub const DENY: &str = "halo-default-deny";
    /// The NetworkPolicy that lets gateways in.
    pub const GATEWAY: &str = "halo-gateway";
    /// The NetworkPolicy that lets pods ask for names.
    pub const DNS: &str = "halo-dns";
    /// The NetworkPolicy that lets pods reach the ledger.
    pub const LEDGER: &str = "halo-ledger";
    /// The NetworkPolicy of the destinations that the tenant's spec allows.
    pub const ALLOWED: &str = "halo-allowed-egress";
    /// The service account that pods have that name none.
    pub const ACCOUNT: &str = "default";
}

/// Labels of every object of a tenant.
pub fn labels(valid: &Valid) -> BTreeMap<String, String> {
    [(TENANT_LABEL, valid.name.as_str()), MANAGED_BY]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The tenant's namespace, in which the API server itself refuses pods that are not restricted.
pub fn namespace(valid: &Valid, created: bool) -> Namespace {
    let mut labels = labels(valid);
    for mode in ["enforce", "audit", "warn"] {
        let key = format!("pod-security.kubernetes.io/{mode}");
        labels.insert(key, "restricted".to_owned());
    }
    if created {
        labels.insert(ORIGIN_LABEL.to_owned(), ORIGIN_CREATED.to_owned());
    }
    Namespace {
        metadata: ObjectMeta {
            name: Some(valid.namespace.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}

fn meta(valid: &Valid, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(valid.namespace.clone()),
        labels: Some(labels(valid)),
        ..ObjectMeta::default()
    }
}

/// The namespace's hard limits; none if the spec gives none.
pub fn quota(valid: &Valid) -> Option<ResourceQuota> {
    (!valid.quota.is_empty()).then(|| ResourceQuota {
        metadata: meta(valid, names::QUOTA),
        spec: Some(ResourceQuotaSpec {
            hard: Some(valid.quota.clone()),
            ..ResourceQuotaSpec::default()
        }),
        status: None,
    })
}

/// Limits of single containers; none if the spec gives none.
pub fn limits(valid: &Valid) -> Option<LimitRange> {
    let limits = valid.limits.as_ref()?;
    let given = |map: &BTreeMap<_, _>| (!map.is_empty()).then(|| map.clone());
    let item = LimitRangeItem {
        type_: "Container".to_owned(),
        default: given(&limits.default),
        max: given(&limits.max),
        ..LimitRangeItem::default()
    };
    (item.default.is_some() || item.max.is_some()).then(|| LimitRange {
        metadata: meta(valid, names::LIMITS),
        spec: Some(LimitRangeSpec { limits: vec![item] }),
    })
}

/// The service account of pods that name none: no token is put into them.
pub fn account(valid: &Valid) -> ServiceAccount {
    ServiceAccount {
        metadata: meta(valid, names::ACCOUNT),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// The network policies: nothing in or out but what the flow needs.
pub fn policies(valid: &Valid, settings: &Settings) -> Vec<NetworkPolicy> {
    let mut policies = vec![
        deny(valid),
        gateway(valid, settings),
        egress(valid, names::DNS, every_pod(), vec![dns()]),
        egress(valid, names::LEDGER, substrates(), ledger()),
    ];
    if !valid.egress.is_empty() {
        let rules = valid.egress.iter().map(allowed).collect();
        policies.push(egress(valid, names::ALLOWED, every_pod(), rules));
    }
    policies
}

/// Selects every pod of the namespace.
fn every_pod() -> LabelSelector {
    LabelSelector::default()
}

/// Selects the pods of substrates.
fn substrates() -> LabelSelector {
    LabelSelector {
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: SUBSTRATE_LABEL.to_owned(),
            operator: "Exists".to_owned(),
            values: None,
        }]),
        match_labels: None,
    }
}

fn matching(labels: &BTreeMap<String, String>) -> LabelSelector {
    LabelSelector {
        match_labels: (!labels.is_empty()).then(|| labels.clone()),
        match_expressions: None,
    }
}

fn matching_one(key: &str, value: &str) -> LabelSelector {
    matching(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
}

fn port(protocol: &str, port: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(port)),
        end_port: None,
    }
}

fn block(cidr: String, except: Vec<String>) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr,
            except: (!except.is_empty()).then_some(except),
        }),
        ..NetworkPolicyPeer::default()
    }
}

fn deny(valid: &Valid) -> NetworkPolicy {
    NetworkPolicy {
        metadata: meta(valid, names::DENY),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector::default()),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ..NetworkPolicySpec::default()
        }),
    }
}

/// Lets gateways in, and whoever reads metrics: those are served on the same port, where a stream opens to a signature alone.
fn gateway(valid: &Valid, settings: &Settings) -> NetworkPolicy {
    let namespace = |name: &str| NetworkPolicyPeer {
        namespace_selector: Some(matching_one("kubernetes.io/metadata.name", name)),
        ..NetworkPolicyPeer::default()
    };
    let gateways = NetworkPolicyPeer {
        pod_selector: Some(matching(&settings.gateway_pod_labels)),
        ..namespace(&settings.gateway_namespace)
    };
    let readers = settings.metrics_namespaces.iter();
    let peers = std::iter::once(gateways).chain(readers.map(|name| namespace(name)));
    NetworkPolicy {
        metadata: meta(valid, names::GATEWAY),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(substrates()),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(peers.collect()),
                ports: Some(vec![port("TCP", SUBSTRATE_PORT)]),
            }]),
            egress: None,
        }),
    }
}

fn egress(
    valid: &Valid,
    name: &str,
    pods: LabelSelector,
    rules: Vec<NetworkPolicyEgressRule>,
) -> NetworkPolicy {
    NetworkPolicy {
        metadata: meta(valid, name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(pods),
            policy_types: Some(vec!["Egress".to_owned()]),
            egress: Some(rules),
            ingress: None,
        }),
    }
}

fn dns() -> NetworkPolicyEgressRule {
    let servers = NetworkPolicyPeer {
        namespace_selector: Some(matching_one("kubernetes.io/metadata.name", "kube-system")),
        pod_selector: Some(matching_one("k8s-app", "kube-dns")),
        ip_block: None,
    };
    NetworkPolicyEgressRule {
        to: Some(vec![servers]),
        ports: Some(vec![port("UDP", 53), port("TCP", 53)]),
    }
}

/// The ledger's endpoint has no fixed address, so HTTPS goes anywhere but to the node's own services. The one of them that is let
/// through, on its own port, gives a pod the credentials of its own service account and no other (EKS Pod Identity).
fn ledger() -> Vec<NetworkPolicyEgressRule> {
    let everywhere = ["0.0.0.0/0", "::/0"].into_iter().map(|cidr| {
        let family = |text: &&String| text.contains(':') == cidr.contains(':');
        let local: Vec<String> = node_local().iter().map(ToString::to_string).collect();
        let except = local.iter().filter(family).cloned().collect();
        block(cidr.to_owned(), except)
    });
    let credentials = ["169.254.170.23/32", "fd00:ec2::23/128"];
    vec![
        NetworkPolicyEgressRule {
            to: Some(everywhere.collect()),
            ports: Some(vec![port("TCP", 443)]),
        },
        NetworkPolicyEgressRule {
            to: Some(
                credentials
                    .map(|cidr| block(cidr.to_owned(), Vec::new()))
                    .into(),
            ),
            ports: Some(vec![port("TCP", 80)]),
        },
    ]
}

fn allowed(destination: &Destination) -> NetworkPolicyEgressRule {
    let except = destination.except.iter().map(ToString::to_string).collect();
    let ports = destination
        .ports
        .iter()
        .map(|number| port("TCP", i32::from(*number)));
    NetworkPolicyEgressRule {
        to: Some(vec![block(destination.cidr.to_string(), except)]),
        ports: (!destination.ports.is_empty()).then(|| ports.collect()),
    }
}
