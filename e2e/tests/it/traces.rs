//! The demo with an OpenTelemetry collector: gateway and pod are in one trace, and no word of the conversation is in any.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::demo::program;

/// The bodies that the collector was sent.
type Bodies = Arc<Mutex<Vec<Value>>>;

fn collect(stream: TcpStream, bodies: &Bodies) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        assert!(line.starts_with("POST /v1/traces HTTP/1.1"), "{line}");
        let mut length = 0;
        while !line.trim().is_empty() {
            line.clear();
            stream.read_line(&mut line)?;
            if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let body = serde_json::from_slice(&body).unwrap();
        bodies.lock().unwrap().push(body);
        stream.get_mut().write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
        )?;
    }
}

/// A collector on loopback, and what it was sent.
fn collector() -> (String, Bodies) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let bodies = Bodies::default();
    let taken = Arc::clone(&bodies);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let taken = Arc::clone(&taken);
            std::thread::spawn(move || collect(stream, &taken));
        }
    });
    (url, bodies)
}

#[test]
fn a_question_is_one_trace_from_gateway_to_pod_without_a_word_of_it() {
    let (url, bodies) = collector();
    let folder = tempfile::tempdir().unwrap();
    let output = program("halo-demo")
        .current_dir(crate::demo::root())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        .arg("--data")
        .arg(folder.path().join("demo"))
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{log}");

    // The programs have ended, and sent what was left before.
    let bodies = bodies.lock().unwrap();
    let mut programs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for body in bodies.iter() {
        let text = body.to_string().to_lowercase();
        for word in ["sovereign", "sentence", "owner"] {
            assert!(!text.contains(word), "{word}: {body:#}");
        }
        for resource in body["resourceSpans"].as_array().unwrap() {
            let service = &resource["resource"]["attributes"][0];
            assert_eq!(service["key"], "service.name");
            let service = service["value"]["stringValue"].as_str().unwrap();
            for span in resource["scopeSpans"][0]["spans"].as_array().unwrap() {
                let trace = span["traceId"].as_str().unwrap().to_owned();
                programs
                    .entry(trace)
                    .or_default()
                    .insert(service.to_owned());
            }
        }
    }
    let both = ["halo-gateway", "halo-substrate"].map(str::to_owned).into();
    assert!(programs.values().any(|seen| *seen == both), "{programs:?}");
}
