//! OTLP's JSON: <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>. Ids are lower-case hexadecimal, 64-bit numbers are
//! strings.

use std::time::{Duration, SystemTime};

use serde_json::{Value as Json, json};

use super::TraceOptions;
use super::span::{Span, Value};

/// `SPAN_KIND_INTERNAL`.
const INTERNAL: u8 = 1;

/// Who sends.
#[derive(Debug, Clone)]
pub(super) struct Resource(Json);

impl Resource {
    pub(super) fn new(options: &TraceOptions) -> Self {
        let mut attributes = vec![
            text("service.name", &options.service),
            text("service.version", &options.version),
        ];
        if let Some(instance) = &options.instance {
            attributes.push(text("service.instance.id", instance));
        }
        Self(json!({ "attributes": attributes }))
    }
}

fn text(key: &str, value: &str) -> Json {
    json!({"key": key, "value": {"stringValue": value}})
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn nanoseconds(time: Duration) -> String {
    time.as_nanos().to_string()
}

fn span(span: &Span) -> Json {
    let start = span
        .start
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let attributes: Vec<_> = span
        .attributes
        .iter()
        .map(|(name, value)| match value {
            Value::Text(value) => text(&format!("halo.{name}"), value),
            Value::Number(value) => {
                json!({"key": format!("halo.{name}"), "value": {"intValue": value.to_string()}})
            }
        })
        .collect();
    let mut json = json!({
        "traceId": hex(&span.trace),
        "spanId": hex(&span.id),
        "name": span.name,
        "kind": INTERNAL,
        "startTimeUnixNano": nanoseconds(start),
        "endTimeUnixNano": nanoseconds(start + span.took),
        "attributes": attributes,
    });
    if let Some(parent) = &span.parent {
        json["parentSpanId"] = hex(parent).into();
    }
    if let Some((trace, id)) = &span.link {
        json["links"] = json!([{"traceId": hex(trace), "spanId": hex(id)}]);
    }
    json
}

/// The body of one request.
pub(super) fn body(resource: &Resource, spans: &[Span]) -> Vec<u8> {
    let spans: Vec<_> = spans.iter().map(span).collect();
    json!({"resourceSpans": [{
        "resource": resource.0,
        "scopeSpans": [{"scope": {"name": super::TARGET}, "spans": spans}],
    }]})
    .to_string()
    .into_bytes()
}
