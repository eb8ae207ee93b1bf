//! The custom resources on a real API server, which all these tests share: each works in its own names, or by dry run.

mod accepted;
mod demand;
mod kubectl;
mod rules;
mod updates;

use std::fmt::Debug;

use halo_crds::{HaloSubstrate, HaloTenant};
use halo_e2e_cluster::{ControlPlane, Options};
use kube::{
    Api, Client,
    api::{DynamicObject, PostParams},
    core::{ApiResource, Resource, Status},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// The control plane of these tests. It ends with the process.
async fn plane() -> &'static ControlPlane {
    static PLANE: OnceCell<ControlPlane> = OnceCell::const_new();
    PLANE
        .get_or_init(|| async {
            let options = Options {
                crds: halo_crds::all(),
                ..Options::default()
            };
            ControlPlane::start(options).await.unwrap()
        })
        .await
}

/// Which of the two kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tenant,
    Substrate,
}

impl Kind {
    fn api(self, client: &Client) -> Api<DynamicObject> {
        match self {
            Self::Tenant => Api::all_with(client.clone(), &resource::<HaloTenant>()),
            Self::Substrate => {
                Api::namespaced_with(client.clone(), "default", &resource::<HaloSubstrate>())
            }
        }
    }

    /// The smallest object that is right.
    fn least(self, name: &str) -> Value {
        match self {
            Self::Tenant => json!({
                "apiVersion": "halo.howdify.io/v1alpha1",
                "kind": "HaloTenant",
                "metadata": {"name": name},
                "spec": {"keys": {"rootParameter": "/halo/root"}},
            }),
            Self::Substrate => json!({
                "apiVersion": "halo.howdify.io/v1alpha1",
                "kind": "HaloSubstrate",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {
                    "tenant": "acme",
                    "model": {"name": "m", "image": {"path": "/m"}},
                    "nodePool": {"ec2": {
                        "subnets": [{"zone": "us-east-2a", "id": "subnet-0a1b2c3d4e5f60001"}],
                        "image": {"id": "ami-0a1b2c3d4e5f60001"},
                        "securityGroups": ["sg-0a1b2c3d4e5f60001"],
                        "instanceProfile": "halo-node",
                    }},
                },
            }),
        }
    }

    /// An object that says everything.
    fn most(self, name: &str) -> Value {
        let mut object = self.least(name);
        let more = match self {
            Self::Tenant => json!({"spec": {
                "tenantId": "acme-pharmacy",
                "namespace": "acme",
                "keys": {"rootParameter": "/halo/root", "generation": 3, "overlap": "36h"},
                "devices": {"minimumGeneration": 2, "revoked": ["watch-1", "watch-2"]},
                "limits": {"devices": 5, "requestsPerMinute": 6, "concurrentEscalations": 7, "heldRequests": 8, "heldSeconds": 9},
                "isolation": {
                    "quota": {"limits.cpu": "64", "limits.memory": "256Gi", "pods": 10},
                    "limitRange": {"default": {"cpu": "1"}, "max": {"cpu": "64", "memory": "256Gi"}},
                    "allowedEgress": [{"cidr": "10.0.12.0/24", "ports": [443]}, {"cidr": "fd00::/64"}],
                },
                "ledger": {"table": "receipts", "region": "us-east-2"},
                "paused": true,
            }}),
            Self::Substrate => json!({"spec": {
                "model": {"image": null, "node": {"path": "/mnt/halo/m"}, "digest": format!("sha256:{:064x}", 1)},
                "engine": {"quantisation": "Q8_0", "threads": 16, "memory": "128Gi", "context": 4096},
                "nodePool": {"ec2": {
                    "instanceTypes": ["r7iz.4xlarge", "u7i-6tb.112xlarge"],
                    "tenancy": "dedicated",
                    "image": {"rootDevice": "/dev/sda1"},
                    "rootVolume": {"sizeGib": 50, "kmsKey": "alias/halo"},
                    "dataVolume": {
                        "sizeGib": 80, "snapshot": "snap-0a1b2c3d4e5f60001", "iops": 4000, "throughput": 500, "kmsKey": "alias/halo",
                        "device": "/dev/xvdc", "mountPath": "/mnt/weights", "deletionPolicy": "Retain",
                    },
                    "userData": {"preset": "EksAl2023"},
                    "idlePolicy": "Stop",
                    "tags": {"team": "ml"},
                    "maxNodes": 4,
                    "registrationDeadline": "5m",
                    "prices": {"r7iz.4xlarge": "1.488"},
                }},
                "scaling": {"max": 3, "idleAfter": "1h30m", "wakeDeadline": "20m", "sessionsPerPod": 4},
                "pod": {
                    "image": "halo/substrate:1", "imagePullPolicy": "Never", "labels": {"team": "ml"}, "annotations": {"a": "b"},
                    "serviceAccountAnnotations": {"role": "r"}, "env": {"RUST_LOG": "debug"}, "extraArgs": ["--verbose"],
                    "priorityClassName": "high", "drain": "1m30s",
                },
                "paused": true,
            }}),
        };
        merge(&mut object, &more);
        object
    }

    /// What the crate's own type makes of an object.
    fn parse(self, object: &Value) -> Result<Value, String> {
        fn through<T: serde::de::DeserializeOwned + serde::Serialize>(
            object: &Value,
        ) -> Result<Value, String> {
            let parsed: T =
                serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
            serde_json::to_value(parsed).map_err(|error| error.to_string())
        }
        match self {
            Self::Tenant => through::<HaloTenant>(object),
            Self::Substrate => through::<HaloSubstrate>(object),
        }
    }
}

fn resource<T: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<T>(&())
}

/// JSON merge patch (RFC 7396): objects are merged, null removes, all else replaces.
fn merge(object: &mut Value, change: &Value) {
    let (Some(fields), Some(changes)) = (object.as_object_mut(), change.as_object()) else {
        *object = change.clone();
        return;
    };
    for (key, value) in changes {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// Asks the API server for an object without storing it: defaults, rules and all. The answer is the object as it would be stored.
async fn try_create(client: &Client, kind: Kind, object: &Value) -> kube::Result<Value> {
    let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let answer = kind.api(client).create(&dry_run, &object).await?;
    Ok(serde_json::to_value(answer).unwrap())
}

/// What the API server adds for the whole object when a missing field keeps it from looking at the rules.
const NOT_CHECKED: &str = "some validation rules were not checked";

/// The fields and messages of a refusal. List indices are left out of the fields: `spec.subnets[].zone`.
fn causes<T: Debug>(what: &str, answer: kube::Result<T>) -> Vec<(String, String)> {
    let status: Box<Status> = match answer {
        Err(kube::Error::Api(status)) if status.code == 422 => status,
        other => panic!("{what}: not refused as invalid but {other:?}"),
    };
    let causes = status
        .details
        .clone()
        .map(|details| details.causes)
        .unwrap_or_default();
    assert!(!causes.is_empty(), "{what}: {status:?}");
    causes
        .into_iter()
        .filter(|cause| !cause.message.contains(NOT_CHECKED))
        .map(|cause| (without_indices(&cause.field), cause.message))
        .collect()
}

fn without_indices(field: &str) -> String {
    let mut out = String::new();
    let mut index = false;
    for c in field.chars() {
        match c {
            '[' => {
                index = true;
                out.push_str("[]");
            }
            ']' => index = false,
            _ if index => {}
            _ => out.push(c),
        }
    }
    // The API server's name for the whole object.
    if out == "<nil>" { String::new() } else { out }
}
