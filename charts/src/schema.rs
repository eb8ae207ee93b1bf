//! The JSON Schema of the values.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::values::Values;

/// The types of Kubernetes, by their names in the schema.
pub const KUBERNETES: &str = "io.k8s.";

/// The schema of the values of the chart `halo`. Unknown keys are refused, also in objects of Kubernetes.
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = Value::from(generator.into_root_schema_for::<Values>());
    if let Some(definitions) = schema.get_mut("$defs").and_then(Value::as_object_mut) {
        for (name, definition) in definitions {
            if name.starts_with(KUBERNETES) {
                strip(definition);
            }
        }
    }
    tidy(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), json!("Values of the chart halo"));
    }
    schema
}

/// Removes what `kubectl explain` says better and at length.
fn strip(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            // A property may have the name, too; it is an object then.
            object.retain(|key, value| key != "description" || !value.is_string());
            object.values_mut().for_each(strip);
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

/// Closes every object, and leaves out what says nothing to Helm: formats of numbers, and defaults, which values.yaml shows.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("$schema") || is_schema(object) {
                object.remove("default");
                object.remove("format");
                if let Some(Value::String(text)) = object.get_mut("description") {
                    *text = one_line(text);
                }
                if object.get("properties").is_some_and(Value::is_object) {
                    object.entry("additionalProperties").or_insert(json!(false));
                }
            }
            object.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Whether this is a schema and not a map of properties, one of which may be called `default` or `type`.
fn is_schema(object: &Map<String, Value>) -> bool {
    ["type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"]
        .into_iter()
        .any(|key| {
            object
                .get(key)
                .is_some_and(|value| key == "const" || !value.is_object())
        })
}

/// Doc comments are broken into lines; descriptions are not.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(path: &str, schema: &Value) {
        match schema {
            Value::Object(object) => {
                if object.get("properties").is_some_and(Value::is_object) {
                    assert_eq!(object["additionalProperties"], json!(false), "{path}");
                }
                for (key, value) in object {
                    closed(&format!("{path}/{key}"), value);
                }
            }
            Value::Array(list) => list.iter().for_each(|value| closed(path, value)),
            _ => {}
        }
    }

    #[test]
    fn every_object_is_closed() {
        let schema = schema();
        closed("", &schema);
        assert_eq!(schema["additionalProperties"], json!(false));
        let toleration = &schema["$defs"]["io.k8s.api.core.v1.Toleration"];
        assert_eq!(toleration["additionalProperties"], json!(false));
        assert!(toleration["properties"]["key"]["description"].is_null());
    }

    #[test]
    fn a_property_may_be_called_like_a_word_of_the_schema() {
        let service = &schema()["$defs"]["Service"]["properties"];
        assert!(service["type"].is_object());
        assert_eq!(service["port"]["type"], "integer");
    }
}
