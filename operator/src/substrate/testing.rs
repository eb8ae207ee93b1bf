//! Objects for tests.

use halo_crds::{HaloSubstrate, HaloTenant};
use serde_json::json;

/// A substrate on EC2 with weights on a data volume.
pub(crate) fn ec2() -> HaloSubstrate {
    serde_json::from_value(json!({
        "apiVersion": "halo.howdify.io/v1alpha1",
        "kind": "HaloSubstrate",
        "metadata": {
            "name": "qwen", "namespace": "halo-acme", "uid": "7c0e3f4a-0000-4000-8000-000000000001", "generation": 3,
            "resourceVersion": "17",
        },
        "spec": {
            "tenant": "acme",
            "model": {"name": "Qwen/Qwen3-30B-A3B", "node": {"path": "/mnt/halo/models/qwen3"}},
            "engine": {"threads": 14, "memory": "96Gi", "quantisation": "Q8_0", "context": 32768},
            "nodePool": {"ec2": {
                "subnets": [
                    {"zone": "us-east-2a", "id": "subnet-0123456789abcdef0"},
                    {"zone": "us-east-2b", "id": "subnet-0123456789abcdef1"},
                ],
                "image": {"id": "ami-0123456789abcdef0"},
                "securityGroups": ["sg-0123456789abcdef0"],
                "instanceProfile": "halo-node",
                "dataVolume": {"sizeGib": 100},
                "maxNodes": 3,
                "prices": {"r7iz.4xlarge": "1.488"},
            }},
            "scaling": {"max": 3, "idleAfter": "1m", "wakeDeadline": "5m", "sessionsPerPod": 8},
        },
    }))
    .unwrap()
}

/// A substrate on nodes that are there, with weights in its image.
pub(crate) fn existing() -> HaloSubstrate {
    let mut substrate = ec2();
    substrate.spec.node_pool = serde_json::from_value(json!({
        "existing": {"nodeSelector": {"disk": "fast"}, "toleratedTaints": ["dedicated"]},
    }))
    .unwrap();
    substrate.spec.model = serde_json::from_value(json!({
        "name": "tiny", "image": {"path": "/models/tiny"},
    }))
    .unwrap();
    substrate
}

/// The tenant of both, ready.
pub(crate) fn tenant() -> HaloTenant {
    let condition = |kind: &str| {
        json!({
            "type": kind, "status": "True", "reason": "Ready", "message": "",
            "lastTransitionTime": "2026-11-01T00:00:00Z",
        })
    };
    serde_json::from_value(json!({
        "apiVersion": "halo.howdify.io/v1alpha1",
        "kind": "HaloTenant",
        "metadata": {"name": "acme", "uid": "7c0e3f4a-0000-4000-8000-000000000002", "generation": 1},
        "spec": {"keys": {"rootParameter": "/halo/root"}},
        "status": {"conditions": [condition("Ready"), condition("KeysReady")]},
    }))
    .unwrap()
}

/// An operator's settings.
pub(crate) fn settings() -> crate::settings::Settings {
    crate::settings::Settings {
        cluster: "halo".to_owned(),
        join: crate::settings::ClusterJoin {
            endpoint: "https://cluster.example".to_owned(),
            certificate_authority: "Q0E=".to_owned(),
            service_cidr: "10.100.0.0/16".to_owned(),
        },
        region: "us-east-2".to_owned(),
        namespace: "halo-system".to_owned(),
        identity: "operator-0".to_owned(),
        substrate_image: "registry.example/halo-substrate:1".to_owned(),
        substrate_pods: crate::settings::PodDefaults::default(),
        metrics_namespaces: Vec::new(),
        gateway_pod_labels: std::collections::BTreeMap::new(),
        gateway_namespace: "halo-system".to_owned(),
        concurrency: 8,
        prices: std::collections::BTreeMap::new(),
        lease: crate::settings::LeaseSettings::default(),
        pace: crate::settings::Pace::default(),
    }
}
