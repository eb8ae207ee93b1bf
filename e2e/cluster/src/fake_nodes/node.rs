//! What a fake node tells about itself.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use serde_json::{Value, json};

/// The taint that the API server gives to a new node, and the node lifecycle controller takes from a Ready one.
pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// A node to boot.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// The name of the node, also its hostname label.
    pub name: String,
    /// The cloud's id of the machine, such as `aws:///eu-central-1a/i-0123`; empty for none.
    pub provider_id: String,
    /// Labels beside those that every node has (hostname, architecture, operating system).
    pub labels: BTreeMap<String, String>,
    /// Taints with which it registers.
    pub taints: Vec<Taint>,
    /// Allocatable processors, as a Kubernetes quantity.
    pub cpu: String,
    /// Allocatable memory, as a Kubernetes quantity.
    pub memory: String,
    /// How many pods it takes.
    pub pods: u32,
}

impl NodeSpec {
    /// A node of 16 processors and 128 GiB (r7iz.4xlarge), without provider id, further labels and taints.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            provider_id: String::new(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            cpu: "16".to_owned(),
            memory: "128Gi".to_owned(),
            pods: 110,
        }
    }

    /// With this provider id.
    #[must_use]
    pub fn provider_id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.provider_id);
        self
    }

    /// With this label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With this taint; the effect is NoSchedule, PreferNoSchedule or NoExecute.
    #[must_use]
    pub fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        self.taints.push(Taint {
            key: key.to_owned(),
            value: (!value.is_empty()).then(|| value.to_owned()),
            effect: effect.to_owned(),
            time_added: None,
        });
        self
    }

    /// The labels as they are registered.
    pub(super) fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        for (key, value) in [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/arch", "amd64"),
            ("kubernetes.io/os", "linux"),
        ] {
            labels
                .entry(key.to_owned())
                .or_insert_with(|| value.to_owned());
        }
        labels
    }

    /// The object as it is registered.
    pub(super) fn object(&self) -> Value {
        let mut node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": self.all_labels()},
            "spec": {"taints": self.taints},
        });
        if !self.provider_id.is_empty() {
            node["spec"]["providerID"] = json!(self.provider_id);
        }
        node
    }

    /// The status of a node that is Ready, or is not.
    pub(super) fn status(&self, ready: bool, address: &str, now: Timestamp) -> Value {
        let capacity = json!({
            "cpu": self.cpu,
            "memory": self.memory,
            "ephemeral-storage": "100Gi",
            "pods": self.pods.to_string(),
        });
        let condition = |kind: &str, status: bool, reason: &str| {
            json!({
                "type": kind,
                "status": if status { "True" } else { "False" },
                "reason": reason,
                "message": "said by a fake node",
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            })
        };
        json!({"status": {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [
                {"type": "InternalIP", "address": address},
                {"type": "Hostname", "address": self.name},
            ],
            "nodeInfo": {
                "architecture": "amd64",
                "operatingSystem": "linux",
                "osImage": "none",
                "kernelVersion": "none",
                "containerRuntimeVersion": "fake://1",
                "kubeletVersion": crate::KUBERNETES_VERSION,
                "kubeProxyVersion": "",
                "machineID": self.name,
                "systemUUID": self.name,
                "bootID": now.to_string(),
            },
            "conditions": [
                condition("MemoryPressure", false, "KubeletHasSufficientMemory"),
                condition("DiskPressure", false, "KubeletHasNoDiskPressure"),
                condition("PIDPressure", false, "KubeletHasSufficientPID"),
                condition("Ready", ready, if ready { "KubeletReady" } else { "KubeletNotReady" }),
            ],
        }})
    }
}

/// The node's taints without the one for nodes that are not ready; none if it does not carry that.
pub(super) fn taints_of_a_ready_node(node: &Node) -> Option<Vec<Taint>> {
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    let rest: Vec<Taint> = taints
        .iter()
        .filter(|taint| taint.key != NOT_READY)
        .cloned()
        .collect();
    (rest.len() < taints.len()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_registers_with_what_it_was_given() {
        let spec = NodeSpec::new("n")
            .provider_id("aws:///a/i-1")
            .label("kubernetes.io/arch", "arm64")
            .label("pool", "p")
            .taint("dedicated", "halo", "NoSchedule");
        let node: Node = serde_json::from_value(spec.object()).unwrap();
        let labels = node.metadata.labels.unwrap();
        assert_eq!(labels["kubernetes.io/arch"], "arm64");
        assert_eq!(labels["kubernetes.io/hostname"], "n");
        assert_eq!(labels["pool"], "p");
        let node_spec = node.spec.unwrap();
        assert_eq!(node_spec.provider_id.as_deref(), Some("aws:///a/i-1"));
        assert_eq!(node_spec.taints.unwrap()[0].key, "dedicated");
        assert!(
            NodeSpec::new("n").object()["spec"]
                .get("providerID")
                .is_none()
        );
    }

    #[test]
    fn only_the_not_ready_taint_goes() {
        let node = |keys: &[&str]| -> Node {
            let taints: Vec<_> = keys
                .iter()
                .map(|key| json!({"key": key, "effect": "NoSchedule"}))
                .collect();
            serde_json::from_value(json!({"spec": {"taints": taints}})).unwrap()
        };
        assert_eq!(taints_of_a_ready_node(&node(&["a"])), None);
        let rest = taints_of_a_ready_node(&node(&["a", NOT_READY])).unwrap();
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].key, "a");
    }
}
