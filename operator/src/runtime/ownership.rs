//! Who decides what of an object, read from managedFields before they are dropped.
//!
//! Server-side apply takes a field back that another took, but an object that nobody applies again stays as the other left it. So what
//! is asked here is: did somebody else touch what the operator decides?

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::Value;

use super::managers::Manager;

/// Parts of the control plane: what they set besides the status is theirs, such as a claim's volume name.
const CONTROL_PLANE: [&str; 7] = [
    "kube-controller-manager",
    "kube-scheduler",
    "kube-apiserver",
    "kubelet",
    "cloud-controller-manager",
    "aws-cloud-controller-manager",
    "kube-proxy",
];

/// Labels and annotations that decide something: Pod Security, and the operator's own.
const GUARDED: [&str; 3] = [
    "f:pod-security.kubernetes.io/",
    "f:halo.howdify.io/",
    "f:app.kubernetes.io/managed-by",
];

/// Whether an entry is of the object itself and not of its status.
fn of_object(entry: &ManagedFieldsEntry) -> bool {
    entry.subresource.as_deref() != Some("status")
}

/// Whether an entry is the operator's own.
fn ours(entry: &ManagedFieldsEntry) -> bool {
    entry
        .manager
        .as_deref()
        .is_some_and(|manager| manager.starts_with(Manager::PREFIX))
}

/// Whether an entry is somebody else's and holds something that the operator decides.
fn foreign(entry: &ManagedFieldsEntry) -> bool {
    let manager = entry.manager.as_deref().unwrap_or_default();
    if ours(entry) || CONTROL_PLANE.contains(&manager) {
        return false;
    }
    let Some(Value::Object(fields)) = entry.fields_v1.as_ref().map(|fields| &fields.0) else {
        return false;
    };
    fields.iter().any(|(name, below)| match name.as_str() {
        "f:metadata" => decides_metadata(below),
        "f:status" | "f:apiVersion" | "f:kind" | "." => false,
        _ => true,
    })
}

/// Whether owned metadata holds something that the operator decides.
fn decides_metadata(fields: &Value) -> bool {
    if fields.get("f:ownerReferences").is_some() {
        return true;
    }
    ["f:labels", "f:annotations"]
        .into_iter()
        .filter_map(|part| fields.get(part)?.as_object())
        .flat_map(|part| part.keys())
        .any(|key| GUARDED.iter().any(|guarded| key.starts_with(guarded)))
}

/// Whether somebody else holds what the operator decides.
pub fn changed_by_others(managed: &[ManagedFieldsEntry]) -> bool {
    managed
        .iter()
        .any(|entry| of_object(entry) && foreign(entry))
}

/// A fingerprint of who holds what. It stays the same while nobody but the control plane touches the object, and over writes of the
/// operator that change no field; it changes when another takes, adds or removes a field that the operator decides.
pub fn fingerprint(managed: &[ManagedFieldsEntry]) -> u64 {
    let mut hash = DefaultHasher::new();
    for entry in managed.iter().filter(|entry| of_object(entry)) {
        if !ours(entry) && !foreign(entry) {
            continue;
        }
        entry.manager.hash(&mut hash);
        entry.operation.hash(&mut hash);
        if !ours(entry) {
            entry.time.as_ref().map(|time| time.0).hash(&mut hash);
        }
        let fields = entry.fields_v1.as_ref().map(|fields| fields.0.to_string());
        fields.hash(&mut hash);
    }
    hash.finish()
}

/// Fields outside metadata and status that somebody else holds and the operator does not, by path: what server-side apply leaves
/// standing although it does not belong there, such as a further key of a Secret. Fields inside lists are left out.
pub fn strangers(managed: &[ManagedFieldsEntry]) -> Vec<Vec<String>> {
    let (mut own, mut other) = (BTreeSet::new(), BTreeSet::new());
    for entry in managed.iter().filter(|entry| of_object(entry)) {
        let Some(fields) = entry.fields_v1.as_ref() else {
            continue;
        };
        if ours(entry) {
            paths(&fields.0, &mut Vec::new(), &mut own);
        } else if foreign(entry) {
            paths(&fields.0, &mut Vec::new(), &mut other);
        }
    }
    let held = |path: &Vec<String>| own.iter().any(|mine| mine.starts_with(path));
    other
        .into_iter()
        .filter(|path| !matches!(path[0].as_str(), "metadata" | "status"))
        .filter(|path| !held(path))
        .collect()
}

/// Collects the paths of leaves; a list is left out with everything below it.
fn paths(fields: &Value, at: &mut Vec<String>, into: &mut BTreeSet<Vec<String>>) {
    let Some(fields) = fields.as_object() else {
        return;
    };
    let mut leaf = !at.is_empty();
    for (name, below) in fields {
        if name == "." {
            continue;
        }
        leaf = false;
        if let Some(name) = name.strip_prefix("f:") {
            at.push(name.to_owned());
            paths(below, at, into);
            at.pop();
        }
    }
    if leaf {
        into.insert(at.clone());
    }
}

/// The merge patch that removes these paths.
pub fn removal(paths: &[Vec<String>]) -> Value {
    let mut patch = Value::Object(serde_json::Map::new());
    for path in paths {
        let mut at = &mut patch;
        for (depth, name) in path.iter().enumerate() {
            let Value::Object(fields) = at else {
                break;
            };
            let last = depth + 1 == path.len();
            at = fields.entry(name.clone()).or_insert_with(|| {
                if last {
                    Value::Null
                } else {
                    Value::Object(serde_json::Map::new())
                }
            });
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entries(value: Value) -> Vec<ManagedFieldsEntry> {
        serde_json::from_value(value).unwrap()
    }

    fn own_secret() -> Value {
        json!({
            "manager": "halo-operator/keys", "operation": "Apply", "apiVersion": "v1", "time": "2026-11-21T10:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {"f:keyring.json": {}},
                "f:metadata": {"f:annotations": {"f:halo.howdify.io/spec-hash": {}}, "f:labels": {"f:app.kubernetes.io/managed-by": {}}},
                "f:type": {}},
        })
    }

    fn other(manager: &str, operation: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "v1", "time": "2026-11-21T11:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    #[test]
    fn tells_meddling_from_the_control_plane() {
        let label =
            |key: &str| json!({"f:metadata": {"f:labels": {".": {}, format!("f:{key}"): {}}}});
        for (says, entry, changed) in [
            (
                "a value edited",
                other(
                    "kubectl-edit",
                    "Update",
                    json!({"f:data": {"f:keyring.json": {}}}),
                ),
                true,
            ),
            (
                "a key added",
                other(
                    "kubectl-patch",
                    "Update",
                    json!({"f:data": {"f:extra": {}}}),
                ),
                true,
            ),
            (
                "a label of no matter",
                other("kubectl-label", "Update", label("team")),
                false,
            ),
            (
                "Pod Security lifted",
                other(
                    "kubectl-label",
                    "Update",
                    label("pod-security.kubernetes.io/enforce"),
                ),
                true,
            ),
            (
                "our annotation changed",
                other(
                    "kubectl-annotate",
                    "Update",
                    json!({"f:metadata": {"f:annotations": {"f:halo.howdify.io/spec-hash": {}}}}),
                ),
                true,
            ),
            (
                "owner references changed",
                other(
                    "Mozilla",
                    "Update",
                    json!({"f:metadata": {"f:ownerReferences": {}}}),
                ),
                true,
            ),
            (
                "a claim bound",
                other(
                    "kube-controller-manager",
                    "Update",
                    json!({"f:spec": {"f:volumeName": {}}}),
                ),
                false,
            ),
            (
                "another of our managers",
                other(
                    "halo-operator/substrate",
                    "Apply",
                    json!({"f:spec": {"f:replicas": {}}}),
                ),
                false,
            ),
        ] {
            let managed = entries(json!([own_secret(), entry]));
            assert_eq!(changed_by_others(&managed), changed, "{says}");
        }
        assert!(!changed_by_others(&entries(json!([own_secret()]))));
        let mut status = other(
            "someone",
            "Update",
            json!({"f:spec": {"f:x": {}}, "f:status": {"f:phase": {}}}),
        );
        status["subresource"] = json!("status");
        assert!(!changed_by_others(&entries(json!([status]))));
        let mut scale = other("kubectl", "Update", json!({"f:spec": {"f:replicas": {}}}));
        scale["subresource"] = json!("scale");
        assert!(changed_by_others(&entries(json!([scale]))));
    }

    #[test]
    fn a_fingerprint_changes_with_what_we_decide_only() {
        let base = entries(json!([own_secret()]));
        let with = |entry: Value| fingerprint(&entries(json!([own_secret(), entry])));
        let same = fingerprint(&base);
        assert_eq!(
            with(other(
                "kubectl-label",
                "Update",
                json!({"f:metadata": {"f:labels": {"f:team": {}}}})
            )),
            same
        );
        assert_eq!(
            with(other(
                "kube-controller-manager",
                "Update",
                json!({"f:spec": {"f:volumeName": {}}})
            )),
            same
        );
        let mut later = own_secret();
        later["time"] = json!("2026-11-21T12:00:00Z");
        assert_eq!(fingerprint(&entries(json!([later]))), same);
        let mut lost = own_secret();
        lost["fieldsV1"]["f:data"] = json!({});
        assert_ne!(fingerprint(&entries(json!([lost]))), same);
        let taken = other(
            "kubectl-edit",
            "Update",
            json!({"f:data": {"f:keyring.json": {}}}),
        );
        let mut again = taken.clone();
        again["time"] = json!("2026-11-21T12:00:00Z");
        assert_ne!(with(taken.clone()), same);
        assert_ne!(with(taken), with(again));
    }

    #[test]
    fn strangers_are_what_apply_leaves_standing() {
        let managed = entries(json!([
            own_secret(),
            other(
                "kubectl-patch",
                "Update",
                json!({"f:data": {".": {}, "f:extra": {}, "f:keyring.json": {}}, "f:immutable": {},
                    "f:metadata": {"f:annotations": {"f:halo.howdify.io/spec-hash": {}}},
                    "f:list": {"k:{\"name\":\"a\"}": {"f:value": {}}}})
            ),
        ]));
        let found = strangers(&managed);
        assert_eq!(
            found,
            [
                vec!["data".to_owned(), "extra".to_owned()],
                vec!["immutable".to_owned()]
            ]
        );
        assert_eq!(
            removal(&found),
            json!({"data": {"extra": null}, "immutable": null})
        );
    }
}
