//! What keeps a tenant's pods apart: which pods the policies select and what they let through, Pod Security, accounts without tokens.
//!
//! No packet is sent: the objects are judged as a network plugin would judge them.

use halo_crds::status::Phase;
use k8s_openapi::api::core::v1::{LimitRange, ResourceQuota, ServiceAccount};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use std::collections::BTreeMap;

use crate::support::objects::{self, with};
use crate::support::{Setup, World};

type Labels = BTreeMap<String, String>;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(own).collect()
}

/// Whether a selector selects these labels; an empty one selects all.
fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let wanted = selector.match_labels.iter().flatten();
    let mut equal = wanted.map(|(key, value)| labels.get(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten();
    let mut hold = expressions.map(|one| match one.operator.as_str() {
        "Exists" => labels.contains_key(&one.key),
        "DoesNotExist" => !labels.contains_key(&one.key),
        other => panic!("{other}"),
    });
    equal.all(|holds| holds) && hold.all(|holds| holds)
}

/// Who or what is at the other end.
enum Other {
    Pod { namespace: Labels, pod: Labels },
    Address([u8; 4]),
}

fn contains(cidr: &str, address: [u8; 4]) -> bool {
    let Some((network, length)) = cidr.split_once('/') else {
        return false;
    };
    let Ok(network) = network.parse::<std::net::Ipv4Addr>() else {
        return false;
    };
    let length: u32 = length.parse().unwrap();
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    u32::from(network) & mask == u32::from_be_bytes(address) & mask
}

fn is_peer(peer: &NetworkPolicyPeer, other: &Other) -> bool {
    match other {
        Other::Pod { namespace, pod } => {
            peer.ip_block.is_none()
                && peer
                    .namespace_selector
                    .as_ref()
                    .is_some_and(|s| selects(s, namespace))
                && peer.pod_selector.as_ref().is_none_or(|s| selects(s, pod))
        }
        Other::Address(address) => peer.ip_block.as_ref().is_some_and(|block| {
            let except = block.except.iter().flatten();
            contains(&block.cidr, *address)
                && !except.into_iter().any(|one| contains(one, *address))
        }),
    }
}

fn is_port(ports: Option<&Vec<NetworkPolicyPort>>, protocol: &str, number: i32) -> bool {
    ports.is_none_or(|ports| {
        ports.iter().any(|port| {
            port.protocol.as_deref().unwrap_or("TCP") == protocol
                && port
                    .port
                    .as_ref()
                    .is_none_or(|port| *port == IntOrString::Int(number))
        })
    })
}

/// The policies of a namespace, judged together.
struct Policies(Vec<NetworkPolicy>);

impl Policies {
    fn of<'a>(
        &'a self,
        pod: &'a Labels,
        direction: &'a str,
    ) -> impl Iterator<Item = &'a NetworkPolicy> {
        self.0.iter().filter(move |policy| {
            let spec = policy.spec.as_ref().unwrap();
            let types = spec.policy_types.iter().flatten();
            let every = LabelSelector::default();
            types.into_iter().any(|one| one == direction)
                && selects(spec.pod_selector.as_ref().unwrap_or(&every), pod)
        })
    }

    fn may_reach(&self, pod: &Labels, to: &Other, protocol: &str, port: i32) -> bool {
        let mut policies = self.of(pod, "Egress").peekable();
        if policies.peek().is_none() {
            return true;
        }
        policies
            .flat_map(|policy| policy.spec.as_ref().unwrap().egress.iter().flatten())
            .any(|rule| {
                let peers = rule.to.as_ref();
                peers.is_none_or(|peers| peers.iter().any(|peer| is_peer(peer, to)))
                    && is_port(rule.ports.as_ref(), protocol, port)
            })
    }

    fn may_be_reached(&self, pod: &Labels, from: &Other, port: i32) -> bool {
        let mut policies = self.of(pod, "Ingress").peekable();
        if policies.peek().is_none() {
            return true;
        }
        policies
            .flat_map(|policy| policy.spec.as_ref().unwrap().ingress.iter().flatten())
            .any(|rule| {
                let peers = rule.from.as_ref();
                peers.is_none_or(|peers| peers.iter().any(|peer| is_peer(peer, from)))
                    && is_port(rule.ports.as_ref(), "TCP", port)
            })
    }
}

fn in_namespace(name: &str, pod: &[(&str, &str)]) -> Other {
    Other::Pod {
        namespace: labels(&[("kubernetes.io/metadata.name", name)]),
        pod: labels(pod),
    }
}

async fn policies(world: &World, namespace: &str) -> Policies {
    let api: Api<NetworkPolicy> = Api::namespaced(world.client.clone(), namespace);
    Policies(api.list(&ListParams::default()).await.unwrap().items)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_let_through_what_the_flow_needs() {
    let world = World::with(Setup::bare()).await;
    let _operator = world.operator().await;
    let tenant = with(
        objects::tenant("acme"),
        json!({"spec": {"isolation": {
            "quota": {"limits.cpu": "64"},
            "limitRange": {"default": {"cpu": "1"}},
            "allowedEgress": [{"cidr": "10.0.12.0/24", "ports": [5432]}, {"cidr": "160.0.0.0/3"}],
        }}}),
    );
    world.apply(std::slice::from_ref(&tenant)).await;
    world
        .tenant_says("acme", "IsolationReady", "True", "Isolated")
        .await;
    let policies = policies(&world, "halo-acme").await;

    let substrate = labels(&[("halo.howdify.io/substrate", "demo")]);
    let stranger = labels(&[("app", "other")]);
    let gateway = [("app.kubernetes.io/name", "halo-gateway")];
    let of_gateway = in_namespace("halo-gateways", &gateway);
    assert!(policies.may_be_reached(&substrate, &of_gateway, 8090));
    assert!(!policies.may_be_reached(&substrate, &of_gateway, 22));
    assert!(!policies.may_be_reached(&stranger, &of_gateway, 8090));
    for (namespace, pod) in [
        ("halo-gateways", &[("app", "other")][..]),
        ("halo-acme", &gateway[..]),
        ("halo-other", &gateway[..]),
        ("default", &gateway[..]),
    ] {
        let other = in_namespace(namespace, pod);
        assert!(
            !policies.may_be_reached(&substrate, &other, 8090),
            "{namespace}"
        );
    }

    let dns = in_namespace("kube-system", &[("k8s-app", "kube-dns")]);
    for pod in [&substrate, &stranger] {
        assert!(policies.may_reach(pod, &dns, "UDP", 53));
        assert!(policies.may_reach(pod, &dns, "TCP", 53));
        assert!(!policies.may_reach(pod, &dns, "TCP", 443));
        assert!(!policies.may_reach(pod, &in_namespace("halo-other", &[]), "TCP", 443));
        // The spec allows both; the second is wide, and leaves the node's own services out.
        assert!(policies.may_reach(pod, &Other::Address([10, 0, 12, 7]), "TCP", 5432));
        assert!(!policies.may_reach(pod, &Other::Address([10, 0, 12, 7]), "TCP", 22));
        assert!(!policies.may_reach(pod, &Other::Address([10, 0, 13, 7]), "TCP", 5432));
        assert!(policies.may_reach(pod, &Other::Address([170, 1, 1, 1]), "TCP", 22));
        for port in [80, 443] {
            let metadata = Other::Address([169, 254, 169, 254]);
            assert!(!policies.may_reach(pod, &metadata, "TCP", port), "{port}");
        }
    }
    // Only substrates reach the ledger.
    let ledger = Other::Address([52, 1, 2, 3]);
    assert!(policies.may_reach(&substrate, &ledger, "TCP", 443));
    assert!(!policies.may_reach(&substrate, &ledger, "TCP", 80));
    assert!(!policies.may_reach(&stranger, &ledger, "TCP", 443));

    // Quota, limits, account.
    let client = || world.client.clone();
    let quota: Api<ResourceQuota> = Api::namespaced(client(), "halo-acme");
    let hard = quota.get("halo-quota").await.unwrap().spec.unwrap().hard;
    assert_eq!(hard.unwrap()["limits.cpu"].0, "64");
    let limits: Api<LimitRange> = Api::namespaced(client(), "halo-acme");
    assert!(limits.get_opt("halo-limits").await.unwrap().is_some());
    let account: Api<ServiceAccount> = Api::namespaced(client(), "halo-acme");
    let account = account.get("default").await.unwrap();
    assert_eq!(account.automount_service_account_token, Some(false));

    // What somebody adds to a policy or takes away is put right; what the spec does not ask for any more goes.
    let deny: Value = serde_json::to_value(&policies.0[0]).unwrap();
    let deny = with(
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}),
        json!({"metadata": {"name": deny["metadata"]["name"], "namespace": "halo-acme"}}),
    );
    for name in ["halo-default-deny", "halo-gateway"] {
        let policy = with(deny.clone(), json!({"metadata": {"name": name}}));
        world
            .patch(&policy, json!({"spec": {"ingress": [{}]}}))
            .await;
        restored(&world, &substrate).await;
        world.delete(&policy).await;
        restored(&world, &substrate).await;
    }
    world
        .patch(&tenant, json!({"spec": {"isolation": {"quota": null, "limitRange": null, "allowedEgress": null}}}))
        .await;
    world
        .gone(&json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "halo-quota", "namespace": "halo-acme"}}))
        .await;
    world
        .gone(&json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "halo-limits", "namespace": "halo-acme"}}))
        .await;
    halo_e2e_cluster::eventually(crate::support::DEADLINE, || async {
        let policies = self::policies(&world, "halo-acme").await;
        match policies.may_reach(&stranger, &Other::Address([10, 0, 12, 7]), "TCP", 5432) {
            false => Ok(()),
            true => Err("the destination is still allowed"),
        }
    })
    .await;
}

/// Waits until strangers are kept out again and gateways are let in.
async fn restored(world: &World, pod: &Labels) {
    let gateway = in_namespace(
        "halo-gateways",
        &[("app.kubernetes.io/name", "halo-gateway")],
    );
    let other = in_namespace("default", &[]);
    halo_e2e_cluster::eventually(crate::support::DEADLINE, || async {
        let policies = policies(world, "halo-acme").await;
        let names: Vec<_> = policies
            .0
            .iter()
            .map(|one| one.metadata.name.clone())
            .collect();
        let kept_out = !policies.may_be_reached(pod, &other, 8090);
        let let_in = policies.may_be_reached(pod, &gateway, 8090);
        let alone = !policies.may_reach(pod, &other, "TCP", 9999);
        match kept_out && let_in && alone && names.len() == 5 {
            true => Ok(()),
            false => Err(format!("{names:?}: {kept_out} {let_in} {alone}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_restricted_and_have_what_they_need() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world
        .tenant_with_substrate("acme", objects::substrate("acme", "demo"))
        .await;
    world
        .gateway("gateway-0")
        .asks("halo-acme", "demo", 1)
        .await;
    // The namespace enforces `restricted`: a pod that runs there was admitted by it.
    world.phase("halo-acme", "demo", Phase::Awake).await;
    let pods = world.pods("halo-acme", "demo").await;
    let spec = pods[0].spec.as_ref().unwrap();
    assert_eq!(spec.automount_service_account_token, Some(false));
    assert_eq!(spec.service_account_name.as_deref(), Some("demo-pod"));
    let projected = |volume: &k8s_openapi::api::core::v1::Volume| volume.projected.is_some();
    assert!(!spec.volumes.iter().flatten().any(projected));
    let resources = spec.containers[0].resources.as_ref().unwrap();
    assert_eq!(resources.requests, resources.limits);
    let class = pods[0].status.as_ref().unwrap().qos_class.as_deref();
    assert_eq!(class, Some("Guaranteed"));
    let args = spec.containers[0].args.as_ref().unwrap().join(" ");
    for part in [
        "--model /models/demo",
        "--tenant acme",
        "--ledger dynamodb:howdify-receipts@us-east-2",
        "--keys /var/run/halo/keys/keyring.json",
        "--threads 4",
    ] {
        assert!(args.contains(part), "{part:?} is not in {args:?}");
    }

    // Another pod that would be more is refused, in the tenant's namespace only.
    let privileged = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tool", "namespace": "halo-acme"},
        "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "none", "securityContext": {"privileged": true}}]},
    });
    let output = world
        .plane
        .kubectl_with(&["apply", "-f", "-"], &privileged.to_string())
        .await
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("violates PodSecurity \"restricted"),
        "{errors}"
    );

    // The label that enforces it is put back.
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "halo-acme"}});
    world
        .patch(
            &namespace,
            json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}),
        )
        .await;
    halo_e2e_cluster::eventually(crate::support::DEADLINE, || async {
        let found = world.api_of(&namespace).get("halo-acme").await.unwrap();
        let labels = found.metadata.labels.unwrap_or_default();
        match labels
            .get("pod-security.kubernetes.io/enforce")
            .map(String::as_str)
        {
            Some("restricted") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
