use serde_json::json;

use super::*;

#[test]
fn what_holds_a_drain() {
    let owned = |kind: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "u", "controller": true}]);
    let cases = [
        (json!({"metadata": {"name": "a"}}), true),
        (
            json!({"metadata": {"name": "a", "ownerReferences": owned("ReplicaSet")}, "status": {"phase": "Running"}}),
            true,
        ),
        (
            json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            true,
        ),
        (
            json!({"metadata": {"name": "a", "ownerReferences": owned("DaemonSet")}}),
            false,
        ),
        (
            json!({"metadata": {"name": "a", "annotations": {MIRROR: "x"}}}),
            false,
        ),
        (
            json!({"metadata": {"name": "a"}, "status": {"phase": "Succeeded"}}),
            false,
        ),
        (
            json!({"metadata": {"name": "a"}, "status": {"phase": "Failed"}}),
            false,
        ),
    ];
    for (pod, holds) in cases {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(holds_a_drain(&pod), holds, "{:?}", pod.metadata);
    }
}
