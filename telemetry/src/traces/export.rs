//! The edge to the collector: a thread of its own takes spans from the queue and posts them.
//!
//! A thread, because it must outlive the program's runtime to send what is left, and must not slow it.

use std::sync::mpsc as done;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::aws_lc_rs;
use tokio::sync::{mpsc, oneshot};

use super::otlp::{Resource, body};
use super::span::Span;
use super::{FLUSH, StartError, count};

/// Spans in one request.
const BATCH: usize = 512;
/// How long a span waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// How long a collector may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Waits before a batch is tried again; then it is dropped.
const AGAIN: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(8),
];

/// Sends what is left when it is dropped.
#[must_use = "traces end when it is dropped"]
pub struct Guard(Option<Running>);

struct Running {
    stop: oneshot::Sender<()>,
    ended: done::Receiver<()>,
}

impl Guard {
    pub(super) fn off() -> Self {
        Self(None)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            let _ = running.stop.send(());
            // An error is the thread's end, too.
            let _ = running.ended.recv_timeout(FLUSH);
        }
    }
}

/// A collector.
struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    resource: Resource,
}

/// What became of a request.
enum Posted {
    Taken,
    /// It will never be taken.
    Refused,
    /// Perhaps later.
    Away,
}

impl Collector {
    async fn post(&self, body: Bytes) -> Posted {
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body));
        let Ok(request) = request else {
            return Posted::Refused;
        };
        match tokio::time::timeout(ANSWER, self.client.request(request)).await {
            Ok(Ok(answer)) if answer.status().is_success() => Posted::Taken,
            Ok(Ok(answer)) => match answer.status() {
                StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT => Posted::Away,
                _ => Posted::Refused,
            },
            Ok(Err(_)) | Err(_) => Posted::Away,
        }
    }

    /// Posts a batch; `again` are the waits between attempts.
    async fn send(&self, spans: &[Span], again: &[Duration]) {
        let body = Bytes::from(body(&self.resource, spans));
        let mut waits = again.iter();
        let outcome = loop {
            match self.post(body.clone()).await {
                Posted::Taken => break "sent",
                Posted::Refused => break "refused",
                Posted::Away => match waits.next() {
                    Some(wait) => tokio::time::sleep(*wait).await,
                    None => break "dropped",
                },
            }
        };
        count(outcome, spans.len());
    }

    /// Sends until the program ends, then what is left.
    async fn run(self, mut queue: mpsc::Receiver<Span>, mut stop: oneshot::Receiver<()>) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => break,
                taken = queue.recv_many(&mut batch, BATCH) => if taken == 0 { break },
            }
            let linger = tokio::time::sleep(LINGER);
            tokio::pin!(linger);
            let mut stopped = false;
            while batch.len() < BATCH && !stopped {
                let room = BATCH - batch.len();
                tokio::select! {
                    _ = &mut stop => stopped = true,
                    () = &mut linger => break,
                    taken = queue.recv_many(&mut batch, room) => if taken == 0 { break },
                }
            }
            if stopped {
                break;
            }
            tokio::select! {
                () = self.send(&batch, &AGAIN) => batch.clear(),
                // It is posted once more below; a collector takes a span that it has already for the same.
                _ = &mut stop => break,
            }
        }
        queue.close();
        loop {
            if !batch.is_empty() {
                self.send(&batch, &[]).await;
                batch.clear();
            }
            if queue.recv_many(&mut batch, BATCH).await == 0 {
                return;
            }
        }
    }
}

/// The URL of traces at a collector.
fn traces_of(endpoint: &Uri) -> Uri {
    let path = endpoint.path().trim_end_matches('/');
    let mut parts = endpoint.clone().into_parts();
    parts.path_and_query = format!("{path}/v1/traces").parse().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| endpoint.clone())
}

/// Starts the thread. The queue takes `room` spans.
pub(super) fn start(
    endpoint: &Uri,
    resource: Resource,
    room: usize,
) -> Result<(mpsc::Sender<Span>, Guard), StartError> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(ANSWER));
    let https = hyper_rustls::HttpsConnectorBuilder::new();
    let https = match endpoint.scheme_str() {
        Some("https") => https
            .with_provider_and_native_roots(aws_lc_rs::default_provider())
            .map_err(StartError::Roots)?,
        // Nothing is checked, so no authority is read.
        _ => {
            let roots = rustls::RootCertStore::empty();
            let config =
                rustls::ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
                    .with_safe_default_protocol_versions()
                    .map_err(|error| StartError::Roots(std::io::Error::other(error)))?
                    .with_root_certificates(roots)
                    .with_no_client_auth();
            https.with_tls_config(config)
        }
    };
    let connector = https.https_or_http().enable_http1().wrap_connector(http);
    let collector = Collector {
        client: Client::builder(TokioExecutor::new()).build(connector),
        uri: traces_of(endpoint),
        resource,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Thread)?;
    let (queue, spans) = mpsc::channel(room);
    let (stop, stopped) = oneshot::channel();
    let (end, ended) = done::channel::<()>();
    std::thread::Builder::new()
        .name("traces".to_owned())
        .spawn(move || {
            runtime.block_on(collector.run(spans, stopped));
            drop(end);
        })
        .map_err(StartError::Thread)?;
    Ok((queue, Guard(Some(Running { stop, ended }))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn traces_have_a_path_of_their_own() {
        for (endpoint, traces) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            (
                "https://one.example/otlp/",
                "https://one.example/otlp/v1/traces",
            ),
        ] {
            assert_eq!(traces_of(&endpoint.parse().unwrap()), traces);
        }
    }
}
