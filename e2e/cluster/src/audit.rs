//! Which requests the API server received, from its audit log.
//!
//! The log is written in blocking-strict mode and holds the stage RequestReceived, so a request is in it before its client has an
//! answer: counts are exact. The requests of the harness itself and of the control plane's own programs are left out.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use jiff::Timestamp;
use serde::Deserialize;

use crate::{access, error::Error};

/// One request to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asked.
    pub user: String,
    /// The program that asked, by its User-Agent header; empty if it sent none.
    pub user_agent: String,
    /// The Kubernetes verb: get, list, watch, create, update, patch, delete, deletecollection; for a path that is no resource, the method in lower case.
    pub verb: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The resource, in the plural; empty for a path that is no resource.
    pub resource: String,
    /// The subresource, such as status; empty for the object itself.
    pub subresource: String,
    /// The namespace; empty for what has none.
    pub namespace: String,
    /// The object's name; empty for a collection, and for a creation that the API server has not yet answered.
    pub name: String,
    /// The path and query.
    pub uri: String,
    /// The status code; none while the request is not answered. A watch has one as soon as it began.
    pub code: Option<u16>,
    /// When the API server received it.
    pub at: Timestamp,
}

/// A moment in the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub(crate) u64);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(rename = "auditID")]
    audit_id: String,
    stage: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    verb: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: ObjectRef,
    response_status: Option<ResponseStatus>,
    request_received_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    code: Option<u16>,
}

/// The policy file: everything at Metadata level but what the control plane's own programs do.
pub(crate) fn policy() -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "rules": [
            {
                "level": "None",
                "users": [
                    "system:apiserver",
                    access::HARNESS,
                    access::CONTROLLERS,
                    access::SCHEDULER,
                    access::NODES,
                ],
            },
            { "level": "Metadata" },
        ],
    })
}

/// The end of the log.
pub(crate) fn mark(log: &Path) -> Mark {
    Mark(std::fs::metadata(log).map_or(0, |metadata| metadata.len()))
}

/// The requests that were received after `from`, in that order.
pub(crate) fn read(log: &Path, from: Mark) -> Result<Vec<Request>, Error> {
    let what = || format!("read {}", log.display());
    let mut text = Vec::new();
    let mut file = File::open(log).map_err(Error::io(what()))?;
    file.seek(SeekFrom::Start(from.0))
        .map_err(Error::io(what()))?;
    file.read_to_end(&mut text).map_err(Error::io(what()))?;
    parse(&text)
}

/// Each request writes one line a stage: received, started (of a watch), complete. A line that is not ended is still being written.
fn parse(text: &[u8]) -> Result<Vec<Request>, Error> {
    let whole = text
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |end| end + 1);
    let mut requests: Vec<Request> = Vec::new();
    let mut by_id: HashMap<String, usize> = HashMap::new();
    for line in text[..whole]
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let event: Event = serde_json::from_slice(line)?;
        let code = event.response_status.and_then(|status| status.code);
        if event.stage == "RequestReceived" {
            by_id.insert(event.audit_id, requests.len());
            requests.push(Request {
                user: event.user.username,
                user_agent: event.user_agent,
                verb: event.verb,
                group: event.object_ref.api_group,
                resource: event.object_ref.resource,
                subresource: event.object_ref.subresource,
                namespace: event.object_ref.namespace,
                name: event.object_ref.name,
                uri: event.request_uri,
                code,
                at: event.request_received_timestamp,
            });
        } else if let Some(&index) = by_id.get(&event.audit_id) {
            // A later stage of a request from before the mark has no entry: it is not of this time.
            requests[index].code = code.or(requests[index].code);
            if requests[index].name.is_empty() {
                requests[index].name = event.object_ref.name;
            }
        }
    }
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, stage: &str, verb: &str, name: &str, code: Option<u16>) -> String {
        let mut event = serde_json::json!({
            "kind": "Event", "level": "Metadata", "auditID": id, "stage": stage, "requestURI": "/api/v1/x", "verb": verb,
            "user": {"username": "operator", "groups": ["a"]}, "sourceIPs": ["127.0.0.1"], "userAgent": "halo-operator/1",
            "objectRef": {"resource": "pods", "namespace": "n", "name": name, "apiVersion": "v1"},
            "requestReceivedTimestamp": "2026-01-02T03:04:05.000006Z",
        });
        if let Some(code) = code {
            event["responseStatus"] = serde_json::json!({"metadata": {}, "code": code});
        }
        format!("{event}\n")
    }

    #[test]
    fn stages_of_one_request_are_one_request() {
        let log = [
            line("1", "RequestReceived", "create", "", None),
            line("2", "RequestReceived", "watch", "", None),
            line("1", "ResponseComplete", "create", "p", Some(201)),
            line("2", "ResponseStarted", "watch", "", Some(200)),
            line("0", "ResponseComplete", "get", "old", Some(200)),
            line("3", "RequestReceived", "get", "q", None),
        ]
        .concat();
        let requests = parse(log.as_bytes()).unwrap();
        let seen: Vec<_> = requests
            .iter()
            .map(|request| (request.verb.as_str(), request.name.as_str(), request.code))
            .collect();
        assert_eq!(
            seen,
            [
                ("create", "p", Some(201)),
                ("watch", "", Some(200)),
                ("get", "q", None)
            ]
        );
        assert_eq!(requests[0].user, "operator");
        assert_eq!(requests[0].at.to_string(), "2026-01-02T03:04:05.000006Z");
    }

    #[test]
    fn a_line_that_is_being_written_waits() {
        let mut log = line("1", "RequestReceived", "get", "a", None);
        log.push_str("{\"kind\":\"Ev");
        assert_eq!(parse(log.as_bytes()).unwrap().len(), 1);
        assert!(parse(b"{\"kind\"").unwrap().is_empty());
        assert!(parse(b"nonsense\n").is_err());
    }
}
