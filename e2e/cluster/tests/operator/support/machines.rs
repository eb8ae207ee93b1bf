//! Instances of the emulator as nodes: one that boots registers as its user data says, one that stops is silent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use halo_aws_emulator::{Boot, InstanceEvent, Started};
use halo_e2e_cluster::{FakeNodes, Hold, NodeSpec, Step};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// What becomes of instances.
pub struct Machines {
    nodes: Arc<FakeNodes>,
    names: Names,
    task: AbortHandle,
}

/// Names of nodes by instance, as they were last booted.
pub type Names = Arc<Mutex<BTreeMap<String, String>>>;

impl Drop for Machines {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Machines {
    /// Machines, and what tells them of boots.
    pub(super) fn start(nodes: FakeNodes, client: Client) -> (Self, Boot) {
        let (boot, events) = Boot::channel();
        let nodes = Arc::new(nodes);
        let names = Names::default();
        let follow = follow(nodes.clone(), names.clone(), client, events);
        let task = tokio::spawn(follow).abort_handle();
        (Self { nodes, names, task }, boot)
    }

    /// Nodes, to boot such as no instance is.
    pub fn nodes(&self) -> &FakeNodes {
        &self.nodes
    }

    /// The name of the node that an instance became.
    pub fn node_of(&self, instance: &str) -> Option<String> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(instance).cloned()
    }

    /// Names of nodes by instance, as they come to be.
    pub fn names(&self) -> Names {
        self.names.clone()
    }

    /// Instances boot, and none registers as a node until the result is dropped.
    pub fn hold_registration(&self) -> Hold {
        self.nodes.hold(Step::Registration, "ip-")
    }

    /// Nodes register and are not ready until the result is dropped.
    pub fn hold_readiness(&self) -> Hold {
        self.nodes.hold(Step::NodeReady, "ip-")
    }

    /// Pods whose `namespace/name` begins so run and are not ready until the result is dropped.
    pub fn hold_pods(&self, prefix: &str) -> Hold {
        self.nodes.hold(Step::PodReady, prefix)
    }

    /// Pods whose `namespace/name` begins so do not end until the result is dropped.
    pub fn hold_pod_ends(&self, prefix: &str) -> Hold {
        self.nodes.hold(Step::PodEnd, prefix)
    }
}

async fn follow(
    nodes: Arc<FakeNodes>,
    names: Names,
    client: Client,
    mut events: mpsc::UnboundedReceiver<InstanceEvent>,
) {
    while let Some(event) = events.recv().await {
        match event {
            InstanceEvent::Started(started) => {
                let spec = node(&started);
                let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
                names.insert(started.instance_id.clone(), spec.name.clone());
                nodes.boot(spec);
            }
            InstanceEvent::Stopped(stopped) => {
                let name = {
                    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
                    names.get(&stopped.instance_id).cloned()
                };
                if let Some(name) = name {
                    nodes.stop(&name);
                    miss(&client, &name).await;
                }
            }
        }
    }
}

/// What the node lifecycle controller says of a node that it has missed for 50 s.
async fn miss(client: &Client, name: &str) {
    let api: Api<Node> = Api::all(client.clone());
    let condition = json!({
        "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status.",
        "lastTransitionTime": jiff::Timestamp::now(),
    });
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    // The operator may have removed it already.
    let _ = api
        .patch_status(name, &PatchParams::default(), &patch)
        .await;
}

/// The node that an instance becomes: a kubelet takes its labels and taints from its flags, which stand in the user data.
pub fn node(started: &Started) -> NodeSpec {
    let user_data = String::from_utf8_lossy(&started.user_data);
    let provider = format!("aws:///{}/{}", started.zone, started.instance_id);
    let mut spec = NodeSpec::new(&started.private_dns_name)
        .provider_id(&provider)
        .label("node.kubernetes.io/instance-type", &started.instance_type)
        .label("topology.kubernetes.io/zone", &started.zone);
    for pair in flag(&user_data, "--node-labels=").split(',') {
        if let Some((key, value)) = pair.split_once('=') {
            spec = spec.label(key, value);
        }
    }
    for taint in flag(&user_data, "--register-with-taints=").split(',') {
        if let Some((key, effect)) = taint.rsplit_once(':') {
            let (key, value) = key.split_once('=').unwrap_or((key, ""));
            spec = spec.taint(key, value, effect);
        }
    }
    spec
}

/// The value of a kubelet flag: up to the quote or the space that ends it.
fn flag<'a>(user_data: &'a str, name: &str) -> &'a str {
    let rest = user_data.split_once(name).map_or("", |(_, rest)| rest);
    let end = rest.find(|char: char| char == '"' || char.is_whitespace());
    &rest[..end.unwrap_or(rest.len())]
}
