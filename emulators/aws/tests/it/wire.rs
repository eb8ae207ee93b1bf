//! Reading what is on the wire with another parser than the emulator's writer, and speaking plain HTTP.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use quick_xml::Reader;
use quick_xml::events::Event;

/// An XML document as paths and texts, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaves(pub Vec<(String, String)>);

impl Leaves {
    /// Every element without children.
    pub fn read(xml: &str) -> Self {
        let mut reader = Reader::from_str(xml);
        let mut path: Vec<String> = Vec::new();
        let mut leaves = Vec::new();
        let (mut text, mut leaf) = (String::new(), false);
        let name = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        loop {
            match reader.read_event().unwrap() {
                Event::Start(start) => {
                    path.push(name(start.name().as_ref()));
                    text.clear();
                    leaf = true;
                }
                Event::Empty(empty) => {
                    path.push(name(empty.name().as_ref()));
                    leaves.push((path.join("/"), String::new()));
                    path.pop();
                    leaf = false;
                }
                Event::Text(part) => text.push_str(&name(&part)),
                Event::GeneralRef(reference) => {
                    text.push_str(match &*name(&reference) {
                        "amp" => "&",
                        "lt" => "<",
                        "gt" => ">",
                        "quot" => "\"",
                        "apos" => "'",
                        "#13" => "\r",
                        other => panic!("an unknown reference: {other}"),
                    });
                }
                Event::End(_) => {
                    if leaf {
                        leaves.push((path.join("/"), std::mem::take(&mut text)));
                    }
                    leaf = false;
                    path.pop();
                }
                Event::Eof => return Self(leaves),
                Event::Decl(_) => {}
                other => panic!("not expected: {other:?}"),
            }
        }
    }

    /// The texts of all elements of this name, or whose path ends so.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let ending = format!("/{name}");
        let found = self
            .0
            .iter()
            .filter(|(path, _)| format!("/{path}").ends_with(&ending));
        found.map(|(_, text)| text.as_str()).collect()
    }

    /// The text of the first.
    pub fn one(&self, name: &str) -> String {
        let found = self.all(name);
        (*found
            .first()
            .unwrap_or_else(|| panic!("no {name} in {self:?}")))
        .to_owned()
    }
}

/// A header that looks signed, for a service.
pub fn authorization(service: &str) -> String {
    format!(
        "Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261121/us-east-2/{service}/aws4_request, \
         SignedHeaders=host;x-amz-date, Signature={}\r\nX-Amz-Date: 20261121T120000Z\r\n",
        "0a".repeat(32)
    )
}

/// One request on a connection of its own; status and body, or nothing if the connection ended without an answer.
pub fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    if answer.is_empty() {
        return None;
    }
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some((status, body.to_owned()))
}

/// An EC2 action, signed in form.
pub fn ec2(address: SocketAddr, action: &str, pairs: &[(&str, &str)]) -> Option<(u16, String)> {
    let mut all = vec![("Action", action), ("Version", "2016-11-15")];
    all.extend_from_slice(pairs);
    let body = halo_aws_emulator::form::Form::of(all).encode();
    let headers = format!(
        "{}Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n",
        authorization("ec2")
    );
    exchange(address, "POST", "/", &headers, &body)
}

/// An SSM action, signed in form.
pub fn ssm(address: SocketAddr, action: &str, body: &serde_json::Value) -> Option<(u16, String)> {
    let headers = format!(
        "{}Content-Type: application/x-amz-json-1.1\r\nX-Amz-Target: AmazonSSM.{action}\r\n",
        authorization("ssm")
    );
    exchange(address, "POST", "/", &headers, &body.to_string())
}
