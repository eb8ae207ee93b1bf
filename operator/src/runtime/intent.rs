//! What is sent to the API server when an object or a status is applied.

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::clients::Object;
use super::managers::Manager;
use super::records::hex;

/// The hash of what is applied, for the annotation [`super::records::SPEC_HASH`].
pub(super) fn spec_hash(intent: &Value, manager: Manager) -> String {
    let mut hash = Sha256::new();
    hash.update(manager.name());
    // serde_json keeps the keys of a map in order, so that equal intents have equal text.
    hash.update(intent.to_string());
    hex(&hash.finalize()[..16])
}

/// An object as server-side apply takes it: with its type, without what only the server sets.
pub(super) fn intent_of<K: Object>(object: &K) -> Result<Value, String> {
    let mut intent = serde_json::to_value(object).map_err(|error| error.to_string())?;
    let Value::Object(fields) = &mut intent else {
        return Err("it is no object".to_owned());
    };
    fields.insert("apiVersion".to_owned(), json!(K::api_version(&())));
    fields.insert("kind".to_owned(), json!(K::kind(&())));
    fields.remove("status");
    if let Some(Value::Object(meta)) = fields.get_mut("metadata") {
        for server in [
            "managedFields",
            "resourceVersion",
            "uid",
            "generation",
            "creationTimestamp",
        ] {
            meta.remove(server);
        }
    }
    Ok(intent)
}

/// A status as server-side apply takes it.
pub(super) fn status_intent<K: Object>(
    namespace: &str,
    name: &str,
    status: &impl Serialize,
    resource_version: Option<&str>,
) -> Result<Value, String> {
    let status = serde_json::to_value(status).map_err(|error| error.to_string())?;
    let mut metadata = json!({"name": name});
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    if let Some(version) = resource_version {
        metadata["resourceVersion"] = json!(version);
    }
    Ok(json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": metadata, "status": status,
    }))
}
