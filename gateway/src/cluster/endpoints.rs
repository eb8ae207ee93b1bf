//! EndpointSlices of a substrate's Service: which pods are ready, and whether one is loading. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use crate::directory::PodAddress;

/// The name of the port that pods take streams on.
const PORT_NAME: &str = "stream";

/// What is kept of one EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice {
    /// The substrate that its Service belongs to, by its label.
    pub substrate: String,
    /// Pods that are ready, by what tells them apart: a pod of a dual-stack cluster stands in two slices.
    pub ready: BTreeMap<String, SocketAddr>,
    /// Whether a pod has an address and is not ready yet.
    pub loading: bool,
}

/// An EndpointSlice as the API writes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawSlice {
    #[serde(default)]
    endpoints: Option<Vec<RawEndpoint>>,
    #[serde(default)]
    ports: Option<Vec<RawPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
    #[serde(default)]
    target_ref: Option<TargetRef>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct TargetRef {
    #[serde(default)]
    uid: String,
}

#[derive(Deserialize)]
struct RawPort {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    port: Option<u16>,
}

impl Slice {
    /// What is kept of a slice of this substrate. Names instead of addresses, which a slice may hold as well, are no pods'.
    pub fn read(raw: RawSlice, substrate: String) -> Self {
        let mut slice = Self {
            substrate,
            ..Self::default()
        };
        let ports = raw.ports.unwrap_or_default();
        let port = ports
            .iter()
            .find(|port| port.name.as_deref() == Some(PORT_NAME));
        let port = port.and_then(|port| port.port);
        for endpoint in raw.endpoints.unwrap_or_default() {
            // All addresses of one endpoint are the same pod; the first one is the one to use.
            let address: Option<IpAddr> = endpoint.addresses.first().and_then(|a| a.parse().ok());
            let Some((address, port)) = address.zip(port) else {
                continue;
            };
            if endpoint.conditions.terminating == Some(true) {
                continue;
            }
            // What is not said counts as ready, as the API defines it.
            if endpoint.conditions.ready == Some(false) {
                slice.loading = true;
                continue;
            }
            let pod = match endpoint.target_ref {
                Some(TargetRef { uid }) if !uid.is_empty() => uid,
                _ => address.to_string(),
            };
            slice.ready.insert(pod, SocketAddr::new(address, port));
        }
        slice
    }
}

/// The ready pods of several slices in a stable order, each once, by IPv4 where it has that.
pub fn pods<'a>(slices: impl Iterator<Item = &'a Slice>) -> Vec<PodAddress> {
    let mut pods: BTreeMap<&str, SocketAddr> = BTreeMap::new();
    for (pod, address) in slices.flat_map(|slice| &slice.ready) {
        // IPv4 addresses sort before all others.
        let known = pods.entry(pod).or_insert(*address);
        *known = (*known).min(*address);
    }
    let mut addresses: Vec<SocketAddr> = pods.into_values().collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
        .into_iter()
        .map(|address| PodAddress(address.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(json: serde_json::Value) -> Slice {
        Slice::read(serde_json::from_value(json).unwrap(), "qwen".to_owned())
    }

    fn endpoint(
        address: &str,
        ready: Option<bool>,
        terminating: Option<bool>,
    ) -> serde_json::Value {
        serde_json::json!({
            "addresses": [address],
            "conditions": {"ready": ready, "serving": true, "terminating": terminating},
            "targetRef": {"kind": "Pod", "uid": format!("uid-of-{}", address.len())},
        })
    }

    fn with(endpoints: &[serde_json::Value]) -> Slice {
        slice(serde_json::json!({
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "metrics", "port": 1}, {"name": "stream", "port": 8090, "protocol": "TCP"}],
        }))
    }

    fn addresses(slices: &[Slice]) -> Vec<String> {
        pods(slices.iter()).into_iter().map(|pod| pod.0).collect()
    }

    #[test]
    fn only_what_is_ready_and_stays_is_a_pod() {
        let table = [
            (Some(true), None, (1, false)),
            (None, None, (1, false)),
            (Some(true), Some(false), (1, false)),
            (Some(false), Some(false), (0, true)),
            (Some(false), Some(true), (0, false)),
            (Some(true), Some(true), (0, false)),
        ];
        for (ready, terminating, expected) in table {
            let slice = with(&[endpoint("10.0.0.7", ready, terminating)]);
            let found = (slice.ready.len(), slice.loading);
            assert_eq!(found, expected, "{ready:?} {terminating:?}");
        }
    }

    #[test]
    fn the_port_is_found_by_its_name() {
        let one = endpoint("10.0.0.7", Some(true), None);
        assert_eq!(
            addresses(&[with(std::slice::from_ref(&one))]),
            ["10.0.0.7:8090"]
        );
        for ports in [
            serde_json::json!(null),
            serde_json::json!([]),
            serde_json::json!([{"name": "metrics", "port": 1}]),
            serde_json::json!([{"name": "stream"}]),
        ] {
            let slice = slice(serde_json::json!({"endpoints": [one], "ports": ports}));
            assert_eq!(slice.ready.len(), 0);
        }
    }

    #[test]
    fn both_families_are_written_so_that_they_can_be_dialled_and_a_pod_counts_once() {
        let four = with(&[endpoint("10.0.0.7", Some(true), None)]);
        let mut six = endpoint("fd00::7", Some(true), None);
        assert_eq!(addresses(&[with(&[six.clone()])]), ["[fd00::7]:8090"]);
        six["targetRef"]["uid"] = serde_json::json!("uid-of-8");
        assert_eq!(addresses(&[with(&[six]), four]), ["10.0.0.7:8090"]);
    }

    #[test]
    fn what_is_no_address_is_no_pod() {
        let odd = slice(serde_json::json!({
            "addressType": "FQDN",
            "endpoints": [{"addresses": ["pod.example.com"]}, {"addresses": []}, {}],
            "ports": [{"name": "stream", "port": 8090}],
        }));
        assert_eq!(
            odd,
            Slice {
                substrate: "qwen".to_owned(),
                ..Slice::default()
            }
        );
        assert_eq!(slice(serde_json::json!({"endpoints": null})).ready.len(), 0);
    }

    #[test]
    fn the_order_is_stable() {
        let one = with(&[endpoint("10.0.0.10", Some(true), None)]);
        let two = with(&[endpoint("10.0.0.9", Some(true), None)]);
        let expected = ["10.0.0.9:8090", "10.0.0.10:8090"];
        assert_eq!(addresses(&[one.clone(), two.clone()]), expected);
        assert_eq!(addresses(&[two, one]), expected);
    }
}
