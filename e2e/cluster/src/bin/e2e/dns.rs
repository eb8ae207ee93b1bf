//! Names of Services, for pods and for this machine's own programs in the run's network.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use tokio::net::UdpSocket;

/// The suffix of the names that are answered.
const DOMAIN: &str = ".svc.cluster.local";

/// The bytes of a header.
const HEADER: usize = 12;

/// No error, or no such name.
const FOUND: u8 = 0;
const NO_NAME: u8 = 3;

/// A question: a name in lower case without the final dot, and the type of record.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    name: String,
    kind: u16,
    /// Where the question ends in the message.
    end: usize,
}

/// Answers until the socket breaks.
///
/// # Errors
/// The address cannot be listened to.
pub async fn serve(address: SocketAddr, client: Client) -> Result<()> {
    let socket = UdpSocket::bind(address).await;
    let socket = socket.with_context(|| format!("cannot answer for names at {address}"))?;
    let mut message = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut message).await?;
        let query = &message[..length];
        let Some(question) = question(query) else {
            continue;
        };
        let found = match service(&question.name) {
            Some((namespace, name)) => {
                let services: Api<Service> = Api::namespaced(client.clone(), namespace);
                let service = services.get_opt(name).await.ok().flatten();
                service
                    .and_then(|service| service.spec?.cluster_ip?.parse().ok())
                    .map(|address: Ipv4Addr| address)
            }
            None => None,
        };
        // Who asked may be gone.
        let _ = socket.send_to(&answer(query, &question, found), from).await;
    }
}

/// Namespace and name of a Service.
fn service(name: &str) -> Option<(&str, &str)> {
    let (service, namespace) = name.strip_suffix(DOMAIN)?.split_once('.')?;
    (!namespace.contains('.')).then_some((namespace, service))
}

/// The one question of a query.
fn question(query: &[u8]) -> Option<Question> {
    let count = u16::from_be_bytes([*query.get(4)?, *query.get(5)?]);
    let is_query = query.get(2)? & 0xf8 == 0;
    if count != 1 || !is_query {
        return None;
    }
    let mut at = HEADER;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        match length {
            0 => break,
            1..=63 => {
                let label = query.get(at..at + length)?;
                labels.push(std::str::from_utf8(label).ok()?.to_ascii_lowercase());
                at += length;
            }
            // A pointer: none comes before the first name.
            _ => return None,
        }
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    query.get(at + 3)?;
    Some(Question {
        name: labels.join("."),
        kind,
        end: at + 4,
    })
}

/// The answer: an address for a question of type A, nothing for other types of a name that is there.
fn answer(query: &[u8], question: &Question, found: Option<Ipv4Addr>) -> Vec<u8> {
    let address = found.filter(|_| question.kind == 1);
    let code = if found.is_some() { FOUND } else { NO_NAME };
    let mut out = query[..question.end].to_vec();
    // An answer with authority; recursion as it was asked for.
    out[2] = 0x84 | (query[2] & 1);
    out[3] = 0x80 | code;
    out[6..HEADER].fill(0);
    if let Some(address) = address {
        out[7] = 1;
        out.extend([0xc0, 12, 0, 1, 0, 1]);
        // Seconds that it may be kept.
        out.extend(1u32.to_be_bytes());
        out.extend([0, 4]);
        out.extend(address.octets());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut query = vec![7, 8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.as_bytes());
        }
        query.push(0);
        query.extend(kind.to_be_bytes());
        query.extend([0, 1]);
        query
    }

    #[test]
    fn a_question_is_answered() {
        let query = query("Gateway.halo.svc.cluster.local", 1);
        let asked = question(&query).unwrap();
        assert_eq!(service(&asked.name), Some(("halo", "gateway")));
        let answer = answer(&query, &asked, Some(Ipv4Addr::new(10, 96, 0, 7)));
        assert_eq!(&answer[..2], &[7, 8]);
        assert_eq!(answer[3] & 15, FOUND);
        assert_eq!(answer[7], 1);
        assert_eq!(&answer[answer.len() - 4..], &[10, 96, 0, 7]);
    }

    #[test]
    fn a_name_without_an_address_of_that_kind_is_no_missing_name() {
        let query = query("a.b.svc.cluster.local", 28);
        let asked = question(&query).unwrap();
        let there = answer(&query, &asked, Some(Ipv4Addr::LOCALHOST));
        assert_eq!((there[3] & 15, there[7]), (FOUND, 0));
        let missing = answer(&query, &asked, None);
        assert_eq!((missing[3] & 15, missing[7]), (NO_NAME, 0));
    }

    #[test]
    fn only_names_of_services_are_looked_up() {
        for name in [
            "example.org",
            "a.svc.cluster.local",
            "p.a.b.svc.cluster.local",
        ] {
            assert_eq!(service(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_no_query_is_passed_over() {
        let good = query("a.b", 1);
        for length in 0..good.len() {
            assert_eq!(question(&good[..length]), None, "{length}");
        }
        let mut reply = good.clone();
        reply[2] |= 0x80;
        assert_eq!(question(&reply), None);
        let mut pointer = good;
        pointer[HEADER] = 0xc0;
        assert_eq!(question(&pointer), None);
    }
}
