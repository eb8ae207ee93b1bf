//! Objects of the scenarios, and the emulator's account as the example names it.

use halo_aws_emulator::Catalogue;
use halo_aws_emulator::catalogue::{SecurityGroup, Snapshot, Subnet};
use serde_json::{Value, json};

/// The tenant of `docs/examples/tenant.yaml`.
pub const TENANT: &str = "acme-pharmacy";

/// Its namespace.
pub const NAMESPACE: &str = "halo-acme-pharmacy";

/// Its substrate.
pub const SUBSTRATE: &str = "qwen";

/// Subnets of the emulator's own catalogue, by zone.
pub const SUBNETS: [(&str, &str); 2] = [
    ("us-east-2a", "subnet-0000000000000000a"),
    ("us-east-2b", "subnet-0000000000000000b"),
];

/// Instance types of [`substrate`], in their order.
pub const TYPES: [&str; 2] = ["r7iz.4xlarge", "r8i.8xlarge"];

/// Makes the ids exist that `docs/examples/tenant.yaml` names.
pub fn add_example_ids(catalogue: &mut Catalogue) {
    let vpc = catalogue.subnets[0].vpc.clone();
    for (number, zone) in [(1u8, "us-east-2a"), (2, "us-east-2b")] {
        catalogue.subnets.push(Subnet {
            id: format!("subnet-0a1b2c3d4e5f6000{number}"),
            zone: zone.to_owned(),
            vpc: vpc.clone(),
            network: [10, 0, 112 + number * 16, 0].into(),
            prefix: 20,
            tags: Default::default(),
        });
    }
    catalogue.security_groups.push(SecurityGroup {
        id: "sg-0a1b2c3d4e5f60001".to_owned(),
        name: "example".to_owned(),
        description: "The example's nodes".to_owned(),
        vpc,
        tags: Default::default(),
    });
    catalogue.snapshots.push(Snapshot {
        id: "snap-0a1b2c3d4e5f60001".to_owned(),
        size: 80,
    });
}

/// A tenant with nothing but what it must have; its namespace is `halo-` and the name.
pub fn tenant(name: &str) -> Value {
    json!({
        "apiVersion": "halo.howdify.io/v1alpha1",
        "kind": "HaloTenant",
        "metadata": {"name": name},
        "spec": {"keys": {"rootParameter": super::ROOT_PARAMETER}},
    })
}

/// A substrate of a tenant, in `halo-` and the tenant's name: a model in the image, two types in two zones, terminated when idle.
pub fn substrate(tenant: &str, name: &str) -> Value {
    let subnets: Vec<Value> = SUBNETS
        .iter()
        .map(|(zone, id)| json!({"zone": zone, "id": id}))
        .collect();
    json!({
        "apiVersion": "halo.howdify.io/v1alpha1",
        "kind": "HaloSubstrate",
        "metadata": {"name": name, "namespace": format!("halo-{tenant}")},
        "spec": {
            "tenant": tenant,
            "model": {"name": "demo-model", "image": {"path": "/models/demo"}},
            "engine": {"threads": 4, "memory": "8Gi"},
            "scaling": {"idleAfter": "10s"},
            "pod": {"drain": "1s"},
            "nodePool": {"ec2": {
                "instanceTypes": TYPES,
                "tenancy": "dedicated",
                "subnets": subnets,
                "image": {"ssmParameter": "/aws/service/eks/optimized-ami/1.35/amazon-linux-2023/x86_64/standard/recommended/image_id"},
                "securityGroups": ["sg-00000000000000001"],
                "instanceProfile": "halo-node",
            }},
        },
    })
}

/// A substrate on nodes that are there already, those with the label `role: substrate`.
pub fn on_existing_nodes(tenant: &str, name: &str) -> Value {
    let mut object = substrate(tenant, name);
    object["spec"]["nodePool"] = json!({"existing": {"nodeSelector": {"role": "substrate"}}});
    object
}

/// An object with a JSON merge patch (RFC 7396) laid over it.
pub fn with(mut object: Value, change: Value) -> Value {
    merge(&mut object, change);
    object
}

fn merge(target: &mut Value, change: Value) {
    let Value::Object(change) = change else {
        *target = change;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in change {
        match value {
            Value::Null => {
                target.as_object_mut().unwrap().remove(&key);
            }
            value => merge(&mut target[key], value),
        }
    }
}
