//! Spans on their way to a collector on loopback.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use halo_telemetry::metrics::traces::COMPONENT;
use halo_telemetry::registry::Maker;
use halo_telemetry::traces::{self, Guard, TraceLayer, TraceOptions};
use serde_json::{Value, json};
use tracing_subscriber::layer::SubscriberExt as _;

const REQUEST: &str = "df89ef38-9115-49f0-8e2e-cfd0c192e18b";
const SESSION: &str = "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f0";
const PROMPT: &str = "What is sovereign inference, in one sentence?";
/// Longer than any of these tests needs on a machine under load.
const PATIENCE: Duration = Duration::from_secs(30);

/// A collector; it answers each request with the next of `statuses`, and with the last of them from then on.
struct Collector {
    url: String,
    taken: mpsc::Receiver<(String, Value)>,
}

impl Collector {
    fn new(statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (send, taken) = mpsc::channel();
        // Ends with the process, when nobody can connect any more.
        std::thread::spawn(move || {
            let mut answers = statuses.iter().copied().cycle().take(statuses.len());
            let last = *statuses.last().unwrap();
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                while let Some(request) = read(&mut stream) {
                    let status = answers.next().unwrap_or(last);
                    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                    stream.get_mut().write_all(answer.as_bytes()).unwrap();
                    if send.send(request).is_err() {
                        return;
                    }
                }
            }
        });
        Self { url, taken }
    }

    fn next(&self) -> (String, Value) {
        self.taken.recv_timeout(PATIENCE).unwrap()
    }
}

/// The path and the body of one request; `None` when the other side is done.
fn read(stream: &mut BufReader<TcpStream>) -> Option<(String, Value)> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|size| *size > 0)?;
    let path = line.split(' ').nth(1).unwrap().to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).unwrap();
        let header = header.trim().to_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    Some((path, serde_json::from_slice(&body).unwrap()))
}

fn start(url: Option<&str>) -> (Option<TraceLayer>, Guard) {
    traces::start(TraceOptions {
        endpoint: url.map(|url| url.parse().unwrap()),
        service: "halo-test".to_owned(),
        version: "1.2.3".to_owned(),
        instance: Some("halo-test-0".to_owned()),
    })
    .unwrap()
}

fn spans(body: &Value) -> Vec<Value> {
    body["resourceSpans"][0]["scopeSpans"][0]["spans"]
        .as_array()
        .unwrap()
        .clone()
}

fn attributes(span: &Value) -> Vec<(String, Value)> {
    let pairs = span["attributes"].as_array().unwrap().iter();
    pairs
        .map(|pair| {
            (
                pair["key"].as_str().unwrap().to_owned(),
                pair["value"].clone(),
            )
        })
        .collect()
}

#[test]
fn a_request_is_a_trace_and_its_prompt_stays() {
    let collector = Collector::new(&[200]);
    let (layer, guard) = start(Some(&collector.url));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        let connection =
            tracing::info_span!(target: "halo::trace", "connection", session = SESSION);
        let _connection = connection.enter();
        let answer = tracing::info_span!(
            target: "halo::trace",
            "answer",
            request = %REQUEST,
            receipt = tracing::field::Empty,
            prompt = PROMPT,
            text = %PROMPT,
            status = PROMPT,
            tenant = "acme-pharmacy",
            tokens = 45_u64,
        );
        answer.in_scope(|| {
            // A text in the place of an id.
            drop(tracing::info_span!(target: "halo::trace", "hold", session = PROMPT, stage = "waking"));
            drop(tracing::info_span!("elsewhere", request = REQUEST));
            tracing::info!(target: "halo::trace", prompt = PROMPT, "{PROMPT}");
        });
        answer.record("receipt", SESSION);
    });
    drop(guard);
    let (path, body) = collector.next();
    assert_eq!(path, "/v1/traces");
    assert!(!body.to_string().contains("sovereign"), "{body:#}");
    let resource = &body["resourceSpans"][0]["resource"]["attributes"];
    assert_eq!(
        resource[0],
        json!({"key": "service.name", "value": {"stringValue": "halo-test"}})
    );
    assert_eq!(resource.as_array().unwrap().len(), 3);

    let spans = spans(&body);
    let named = |name: &str| spans.iter().find(|span| span["name"] == name).unwrap();
    assert_eq!(spans.len(), 3, "{body:#}");
    let (hold, answer, connection) = (named("hold"), named("answer"), named("connection"));
    let trace = REQUEST.replace('-', "");
    assert_eq!(answer["traceId"], trace.as_str());
    assert_eq!(hold["traceId"], trace.as_str(), "inside the answer");
    assert_eq!(hold["parentSpanId"], answer["spanId"]);
    assert!(answer.get("parentSpanId").is_none(), "of another trace");
    assert_eq!(answer["links"][0]["spanId"], connection["spanId"]);
    assert_eq!(answer["links"][0]["traceId"], connection["traceId"]);
    assert_ne!(connection["traceId"], answer["traceId"]);
    let text = |text: &str| json!({"stringValue": text});
    assert_eq!(
        attributes(answer),
        [
            ("halo.request".to_owned(), text(REQUEST)),
            ("halo.tenant".to_owned(), text("acme-pharmacy")),
            ("halo.tokens".to_owned(), json!({"intValue": "45"})),
            ("halo.receipt".to_owned(), text(SESSION)),
        ]
    );
    assert_eq!(
        attributes(hold),
        [("halo.stage".to_owned(), text("waking"))]
    );
    let time = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<u128>().unwrap();
    assert!(time(answer, "startTimeUnixNano") > 1_600_000_000_000_000_000);
    assert!(time(answer, "endTimeUnixNano") >= time(answer, "startTimeUnixNano"));
}

#[test]
fn without_an_endpoint_there_is_nothing() {
    let (layer, guard) = start(None);
    assert!(layer.is_none());
    drop(guard);
}

#[test]
fn a_collector_that_is_busy_is_asked_again() {
    let collector = Collector::new(&[503, 200]);
    let (layer, guard) = start(Some(&collector.url));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        drop(tracing::info_span!(target: "halo::trace", "answer", request = REQUEST));
    });
    let (first, again) = (collector.next(), collector.next());
    assert_eq!(first, again);
    drop(guard);
}

#[test]
fn a_collector_that_does_not_answer_costs_spans_and_nothing_else() {
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let (layer, guard) = start(Some(&url));
    let maker = Maker::new();
    traces::metrics(&maker).unwrap();
    assert!(maker.missing(&COMPONENT).is_empty());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        // Four times what the queue and a batch take.
        for _ in 0..20_000 {
            drop(tracing::info_span!(target: "halo::trace", "answer", request = REQUEST));
        }
    });
    let text = String::from_utf8(maker.render().unwrap()).unwrap();
    let dropped: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("halo_traces_spans_total{outcome=\"dropped\"} "))
        .unwrap()
        .parse()
        .unwrap();
    assert!(dropped > 10_000, "{text}");
    drop(guard);
}
