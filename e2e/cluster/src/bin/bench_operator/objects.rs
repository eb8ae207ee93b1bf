//! The objects that are applied, and the demand of a gateway.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// The parameter with the root secret in it.
pub const ROOT_PARAMETER: &str = "/halo/root";

/// Every tenant's substrate has this name.
pub const SUBSTRATE: &str = "model";

const VERSION: &str = "halo.howdify.io/v1alpha1";

/// Namespace and name of a HaloSubstrate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// The substrate of one tenant.
    pub fn of(tenant: &str) -> Self {
        Self {
            namespace: namespace_of(tenant),
            name: SUBSTRATE.to_owned(),
        }
    }

    /// As instances carry it in their tag.
    pub fn tag(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }
}

/// The name of one of many tenants.
pub fn tenant_name(number: usize) -> String {
    format!("t{number:04}")
}

fn namespace_of(tenant: &str) -> String {
    format!("halo-{tenant}")
}

/// A tenant's namespace, labelled, so that tenant and substrate can be applied together.
pub fn namespace(tenant: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace_of(tenant), "labels": {"halo.howdify.io/tenant": tenant}},
    })
}

/// A tenant with a quota.
pub fn tenant(name: &str) -> Value {
    json!({
        "apiVersion": VERSION,
        "kind": "HaloTenant",
        "metadata": {"name": name},
        "spec": {
            "keys": {"rootParameter": ROOT_PARAMETER},
            "isolation": {"quota": {"limits.cpu": "64", "limits.memory": "256Gi"}},
        },
    })
}

/// A tenant's substrate: a model in the image, nodes of two types in two zones.
pub fn substrate(tenant: &str) -> Value {
    json!({
        "apiVersion": VERSION,
        "kind": "HaloSubstrate",
        "metadata": {"name": SUBSTRATE, "namespace": namespace_of(tenant)},
        "spec": {
            "tenant": tenant,
            "model": {"name": "demo-model", "image": {"path": "/models/demo"}},
            "engine": {"threads": 14, "memory": "96Gi"},
            "scaling": {"idleAfter": "10s"},
            "nodePool": {"ec2": {
                "instanceTypes": ["r7iz.4xlarge", "r8i.8xlarge"],
                "tenancy": "dedicated",
                "subnets": [
                    {"zone": "us-east-2a", "id": "subnet-0000000000000000a"},
                    {"zone": "us-east-2b", "id": "subnet-0000000000000000b"},
                ],
                "image": {"ssmParameter": "/aws/service/eks/optimized-ami/1.35/amazon-linux-2023/x86_64/standard/recommended/image_id"},
                "securityGroups": ["sg-00000000000000001"],
                "instanceProfile": "halo-node",
            }},
        },
    })
}

/// What a gateway writes on the status: so many requests, or none since long ago.
pub fn demand(in_flight: u32) -> Value {
    let now = Timestamp::now();
    let entry = match in_flight {
        0 => json!({
            "gateway": "gateway-0", "inFlight": 0,
            "lastActive": now.checked_sub(SignedDuration::from_hours(1)).unwrap_or(now),
        }),
        _ => {
            json!({"gateway": "gateway-0", "inFlight": in_flight, "since": now, "lastActive": now})
        }
    };
    json!({"apiVersion": VERSION, "kind": "HaloSubstrate", "status": {"demand": [entry]}})
}
