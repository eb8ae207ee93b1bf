//! Every rule of the schemas refuses what it should, with its message, and nothing else does.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use serde_json::{Value, json};

use super::{Kind, Kind::Substrate, Kind::Tenant, causes, merge, plane, try_create, updates};

/// A change of the smallest right object that makes it wrong in one point, and the end of the message that says so.
pub(super) struct Bad {
    pub(super) kind: Kind,
    pub(super) change: Value,
    pub(super) message: &'static str,
}

fn bad(kind: Kind, change: Value, message: &'static str) -> Bad {
    Bad {
        kind,
        change,
        message,
    }
}

fn tenant(spec: Value, message: &'static str) -> Bad {
    bad(Tenant, json!({ "spec": spec }), message)
}

fn substrate(spec: Value, message: &'static str) -> Bad {
    bad(Substrate, json!({ "spec": spec }), message)
}

fn ec2(pool: Value, message: &'static str) -> Bad {
    substrate(json!({"nodePool": {"ec2": pool}}), message)
}

fn data_volume(volume: Value, message: &'static str) -> Bad {
    let mut pool = json!({"dataVolume": {"sizeGib": 80}});
    merge(&mut pool["dataVolume"], &volume);
    ec2(pool, message)
}

fn tenant_rules() -> Vec<Bad> {
    let long = "a".repeat(64);
    let too_long_for_a_namespace = "a".repeat(59);
    let id =
        "a tenant id has lower-case letters, digits and inner hyphens only, such as acme-pharmacy";
    let namespace = "a namespace has lower-case letters, digits and inner hyphens only";
    let own = "the namespace belongs to the tenant alone: use another than default and kube-*";
    let overlap = "overlap is between 10m and 720h: shorter would cut off devices before they learn of the change";
    let parameter = "name the parameter by its full path, such as /halo/root";
    let cidr = "cidr is an address and a prefix length, such as 10.0.12.0/24";
    let everything =
        "pods may not reach the metadata service or everything: name the addresses that they need";
    let egress = |to: &str| json!({"isolation": {"allowedEgress": [{"cidr": to}]}});
    vec![
        bad(
            Tenant,
            json!({"metadata": {"name": "acme.pharmacy"}}),
            "the name is also the tenant id: use lower-case letters, digits and hyphens, or set spec.tenantId",
        ),
        bad(
            Tenant,
            json!({"metadata": {"name": long}, "spec": {"namespace": "short"}}),
            "the name is also a label of everything that the tenant has: use at most 63 characters",
        ),
        bad(
            Tenant,
            json!({"metadata": {"name": too_long_for_a_namespace}}),
            "a tenant id longer than 58 characters makes no namespace name: set spec.namespace",
        ),
        tenant(
            json!({"tenantId": too_long_for_a_namespace}),
            "a tenant id longer than 58 characters makes no namespace name: set spec.namespace",
        ),
        tenant(json!({"tenantId": "Acme"}), id),
        tenant(json!({"tenantId": "-acme"}), id),
        tenant(json!({"namespace": "a.b"}), namespace),
        tenant(json!({"namespace": "default"}), own),
        tenant(json!({"namespace": "kube-system"}), own),
        tenant(json!({"keys": {"rootParameter": "halo/root"}}), parameter),
        tenant(json!({"keys": {"rootParameter": "/halo/"}}), parameter),
        tenant(json!({"keys": {"overlap": "9m59s"}}), overlap),
        tenant(json!({"keys": {"overlap": "721h"}}), overlap),
        tenant(egress("10.0.12.0"), cidr),
        tenant(egress("everywhere"), cidr),
        tenant(egress("169.254.169.254/32"), everything),
        tenant(egress("0.0.0.0/0"), everything),
        tenant(egress("::/0"), everything),
        tenant(
            json!({"ledger": {"table": "my table"}}),
            "a table name has letters, digits, underscores, dots and hyphens only",
        ),
        tenant(
            json!({"ledger": {"region": "Ohio"}}),
            "a region looks like us-east-2",
        ),
    ]
}

fn substrate_rules() -> Vec<Bad> {
    let name = "the name also names the Deployment and its Service: use at most 45 lower-case letters, digits and hyphens, beginning with a letter";
    let weights =
        "say where the weights are by exactly one of model.image, model.node and model.claim";
    let path = "the path is absolute and has no .. in it, such as /mnt/halo/models/qwen3-30b-a3b";
    let pool = "say where pods run by exactly one of nodePool.ec2 and nodePool.existing";
    let memory = "memory is a quantity of at least 64Mi, such as 96Gi";
    let existing = json!({"nodeSelector": {"a": "b"}});
    vec![
        bad(
            Substrate,
            json!({"metadata": {"name": "a".repeat(46)}}),
            name,
        ),
        bad(Substrate, json!({"metadata": {"name": "7b"}}), name),
        bad(Substrate, json!({"metadata": {"name": "qwen.7b"}}), name),
        substrate(
            json!({"scaling": {"max": 2}}),
            "each pod has a node of its own: raise nodePool.ec2.maxNodes to at least scaling.max, or lower scaling.max",
        ),
        substrate(
            json!({"model": {"image": null, "node": {"path": "/m"}}}),
            "model.node needs a disk with the weights: set nodePool.ec2.dataVolume, or bring them by nodePool.ec2.userData.template",
        ),
        substrate(
            json!({"model": {"name": "a b"}}),
            "a model name has letters, digits, dots, underscores, slashes and hyphens, such as Qwen/Qwen3-30B-A3B",
        ),
        substrate(json!({"model": {"image": null}}), weights),
        substrate(json!({"model": {"claim": {"claimName": "c"}}}), weights),
        substrate(json!({"model": {"image": {"path": "models/m"}}}), path),
        substrate(json!({"model": {"image": {"path": "/models/../m"}}}), path),
        substrate(
            json!({"model": {"image": null, "node": {"path": "/m/.."}}, "nodePool": {"ec2": {"dataVolume": {"sizeGib": 1}}}}),
            path,
        ),
        substrate(
            json!({"model": {"image": null, "claim": {"claimName": "c", "path": "/m"}}}),
            "the path is relative to the volume and has no .. in it",
        ),
        substrate(
            json!({"model": {"digest": "sha256:abc"}}),
            "a digest is sha256: and 64 lower-case hexadecimal digits",
        ),
        substrate(
            json!({"engine": {"quantisation": "q8_0"}}),
            "name the quantisation as the file does, such as Q8_0, Q4_K_M or BF16",
        ),
        substrate(json!({"engine": {"memory": "lots"}}), memory),
        substrate(json!({"engine": {"memory": "96"}}), memory),
        substrate(json!({"engine": {"memory": 1024}}), memory),
        substrate(
            json!({"scaling": {"idleAfter": "9s"}}),
            "idleAfter is between 10s and 168h",
        ),
        substrate(
            json!({"scaling": {"idleAfter": "169h"}}),
            "idleAfter is between 10s and 168h",
        ),
        substrate(
            json!({"scaling": {"wakeDeadline": "3h"}}),
            "wakeDeadline is between 10s and 2h",
        ),
        substrate(
            json!({"pod": {"drain": "0s"}}),
            "drain is between 1s and 1h",
        ),
        substrate(
            json!({"pod": {"imagePullPolicy": "Sometimes"}}),
            "imagePullPolicy is Always, IfNotPresent or Never",
        ),
        substrate(
            json!({"pod": {"labels": {"app.kubernetes.io/name": "x"}}}),
            "labels under halo.howdify.io/ and app.kubernetes.io/ are the operator's: use another prefix",
        ),
        substrate(json!({"nodePool": {"existing": existing}}), pool),
        substrate(json!({"nodePool": {"ec2": null}}), pool),
    ]
}

fn pool_rules() -> Vec<Bad> {
    let deadline = "registrationDeadline is between 10s and 1h";
    let tags = "tags under aws:, halo.howdify.io/ and kubernetes.io/ are not yours to set: use another prefix";
    let price = "a price is USD an hour as text, such as \"1.488\"";
    let one_image = "name the image by exactly one of image.ssmParameter and image.id";
    let subnet = |zone: &str, id: &str| json!({"subnets": [{"zone": zone, "id": id}]});
    let id = "subnet-0a1b2c3d4e5f60001";
    vec![
        ec2(
            json!({"instanceTypes": ["r7iz"]}),
            "an instance type looks like r7iz.4xlarge",
        ),
        ec2(
            json!({"instanceTypes": ["r7iz.4xlarge", "r7iz.4xlarge"]}),
            "each instance type stands once in the order of preference",
        ),
        ec2(
            json!({"subnets": [{"zone": "us-east-2a", "id": id}, {"zone": "us-east-2a", "id": "subnet-0a1b2c3d"}]}),
            "each zone has one subnet: remove the second",
        ),
        ec2(subnet("us-east-2", id), "a zone looks like us-east-2a"),
        ec2(
            subnet("us-east-2a", "vpc-1"),
            "a subnet id looks like subnet-0123456789abcdef0",
        ),
        ec2(json!({"image": {"ssmParameter": "/p"}}), one_image),
        ec2(json!({"image": {"id": null}}), one_image),
        ec2(
            json!({"image": {"id": null, "ssmParameter": "p"}}),
            "name the parameter by its full path, beginning with a slash",
        ),
        ec2(
            json!({"image": {"id": "ubuntu"}}),
            "an image id looks like ami-0123456789abcdef0",
        ),
        ec2(
            json!({"securityGroups": ["default"]}),
            "a security group id looks like sg-0123456789abcdef0",
        ),
        ec2(
            json!({"instanceProfile": "arn:aws:iam::1:instance-profile/x"}),
            "give the instance profile's name, not its ARN",
        ),
        data_volume(
            json!({"snapshot": "weights"}),
            "a snapshot id looks like snap-0123456789abcdef0",
        ),
        data_volume(
            json!({"mountPath": "mnt"}),
            "the mount path is absolute, such as /mnt/halo",
        ),
        ec2(
            json!({"userData": {"preset": "EksAl2023", "template": "x"}}),
            "give at most one of userData.preset and userData.template",
        ),
        ec2(json!({"tags": {"aws:name": "x"}}), tags),
        ec2(json!({"tags": {"kubernetes.io/cluster/x": "x"}}), tags),
        ec2(json!({"registrationDeadline": "2h"}), deadline),
        ec2(json!({"registrationDeadline": "1s"}), deadline),
        ec2(json!({"prices": {"r7iz.4xlarge": "a dollar"}}), price),
        ec2(json!({"prices": {"r7iz.4xlarge": "-1"}}), price),
    ]
}

/// Bounds that the schema's own keywords set; the API server words these.
fn bounds() -> Vec<Bad> {
    let least = "should be greater than or equal to";
    let most = "should be less than or equal to";
    let amount = "should match '^([0-9]+";
    let period = "should match '^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$'";
    vec![
        tenant(json!({"keys": {"generation": 0}}), least),
        tenant(json!({"keys": {"overlap": "1d"}}), period),
        tenant(json!({"devices": {"minimumGeneration": 0}}), least),
        tenant(
            json!({"devices": {"revoked": ["a", "a"]}}),
            "Duplicate value",
        ),
        tenant(json!({"limits": {"devices": 0}}), least),
        tenant(json!({"limits": {"heldSeconds": 3601}}), most),
        tenant(
            json!({"isolation": {"allowedEgress": [{"cidr": "10.0.0.0/8", "ports": [0]}]}}),
            least,
        ),
        tenant(
            json!({"ledger": {"table": "ab"}}),
            "should be at least 3 chars long",
        ),
        tenant(json!({"keys": null}), "Required value"),
        tenant(
            json!({"isolation": {"quota": {"limits.cpu": "many"}}}),
            amount,
        ),
        tenant(
            json!({"isolation": {"limitRange": {"default": {"cpu": "-1"}}}}),
            amount,
        ),
        tenant(
            json!({"isolation": {"limitRange": {"max": {"memory": "1 Gi"}}}}),
            amount,
        ),
        substrate(json!({"tenant": null}), "Required value"),
        substrate(json!({"engine": {"threads": 0}}), least),
        substrate(json!({"engine": {"context": 255}}), least),
        substrate(json!({"scaling": {"max": 0}}), least),
        substrate(json!({"scaling": {"sessionsPerPod": -1}}), least),
        substrate(json!({"scaling": {"wakeDeadline": "soon"}}), period),
        substrate(json!({"pod": {"drain": "1.5m"}}), period),
        substrate(
            json!({"nodePool": {"ec2": null, "existing": {"nodeSelector": {}}}}),
            "should have at least 1 properties",
        ),
        ec2(
            json!({"tenancy": "host"}),
            "supported values: \"default\", \"dedicated\"",
        ),
        ec2(
            json!({"idlePolicy": "Hibernate"}),
            "supported values: \"Terminate\", \"Stop\"",
        ),
        ec2(json!({"subnets": []}), "should have at least 1 items"),
        ec2(
            json!({"securityGroups": []}),
            "should have at least 1 items",
        ),
        ec2(json!({"rootVolume": {"sizeGib": 7}}), least),
        ec2(json!({"maxNodes": 101}), most),
        data_volume(json!({"iops": 2999}), least),
        data_volume(json!({"throughput": 2001}), most),
        data_volume(
            json!({"deletionPolicy": "Keep"}),
            "supported values: \"Delete\", \"Retain\"",
        ),
    ]
}

/// Sees to it that each object is refused for one field, with the expected message, and returns the fields and messages of all.
async fn refuse(rows: Vec<Bad>) -> BTreeSet<(String, String)> {
    let client = plane().await.client().await.unwrap();
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for row in rows {
        let mut object = row.kind.least("rules");
        merge(&mut object, &row.change);
        let what = row.change.to_string();
        let causes = causes(&what, try_create(&client, row.kind, &object).await);
        let field = &causes[0].0;
        // A text that is no period breaks the pattern and the rule of its field.
        let one_field = causes.iter().all(|cause| cause.0 == *field);
        if one_field && causes.iter().any(|cause| cause.1.contains(row.message)) {
            seen.insert((field.clone(), row.message.to_owned()));
        } else {
            wrong.push((what, row.message, causes));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_bad_object_is_told_what_to_write_instead() {
    let mut rows = tenant_rules();
    rows.extend(substrate_rules());
    rows.extend(pool_rules());
    let mut seen = refuse(rows).await;
    seen.extend(updates::refused().await);

    // No rule is without an object that breaks it.
    let mut rules = BTreeSet::new();
    for definition in halo_crds::all() {
        for version in definition.spec.versions {
            let schema = version.schema.unwrap().open_api_v3_schema.unwrap();
            collect(&schema, "", &mut rules);
        }
    }
    let untested: Vec<_> = rules.difference(&seen).collect();
    assert!(untested.is_empty(), "no bad object for {untested:#?}");
    let unknown: Vec<_> = seen.difference(&rules).collect();
    assert!(
        unknown.is_empty(),
        "not the message of a rule at this field: {unknown:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_hold() {
    refuse(bounds()).await;
}

/// The fields and messages of all rules of a schema.
fn collect(schema: &JSONSchemaProps, field: &str, rules: &mut BTreeSet<(String, String)>) {
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        let message = rule.message.clone().unwrap_or_default();
        assert!(
            !message.is_empty(),
            "{field}: a rule without a message: {}",
            rule.rule
        );
        rules.insert((field.to_owned(), message));
    }
    for (name, property) in schema.properties.iter().flatten() {
        let dot = if field.is_empty() { "" } else { "." };
        collect(property, &format!("{field}{dot}{name}"), rules);
    }
    // Items and map values; a rule that stands there is named by the API server with an index.
    let value = serde_json::to_value(schema).unwrap();
    for part in ["items", "additionalProperties"] {
        if let Ok(inner) = serde_json::from_value::<JSONSchemaProps>(value[part].clone()) {
            collect(&inner, &format!("{field}[]"), rules);
        }
    }
}
