//! HTTP: one request out, one whole answer in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use zeroize::Zeroizing;

use super::keys::chain_of;
use super::settings::{SetupError, Timing};

/// No answer may be larger. A page of 500 instances is about 3 MB.
const LARGEST: usize = 32 * 1024 * 1024;
/// Connections are closed when unused for this long; servers close theirs after 20 seconds or more.
const IDLE: Duration = Duration::from_secs(15);

/// What came back. Its body may be a secret: wiped on drop, no `Debug`.
pub(super) struct Answer {
    pub(super) status: u16,
    /// The `x-amzn-errortype` header of JSON services.
    pub(super) error_type: Option<String>,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Answer {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Nothing came back, or not all of it.
#[derive(Debug)]
pub(super) struct NoAnswer {
    /// A name of our own.
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// An HTTP client with its connections.
pub(super) struct Wire {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    attempt: Duration,
}

impl Wire {
    /// A client; with `tls` it needs the system's root certificates.
    pub(super) fn new(timing: &Timing, tls: bool) -> Result<Self, SetupError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(SetupError::Tls)?;
        let config = if tls {
            config.with_native_roots().map_err(SetupError::Roots)?
        } else {
            config.with_root_certificates(rustls::RootCertStore::empty())
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(timing.connect));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config.with_no_client_auth())
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Self {
            client,
            attempt: timing.attempt,
        })
    }

    /// Sends a request and reads the whole answer, in bounded time and space.
    pub(super) async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, NoAnswer> {
        match tokio::time::timeout(self.attempt, self.send(request)).await {
            Ok(result) => result,
            Err(_) => Err(NoAnswer {
                code: "Timeout",
                message: format!("no whole answer within {} ms", self.attempt.as_millis()),
            }),
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, NoAnswer> {
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| NoAnswer {
                code: if error.is_connect() {
                    "ConnectFailed"
                } else {
                    "ConnectionLost"
                },
                message: chain_of(&error),
            })?;
        let (head, mut body) = response.into_parts();
        let announced = head
            .headers
            .get(http::header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .unwrap_or(4096);
        let mut whole = Zeroizing::new(Vec::with_capacity(LARGEST.min(announced)));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| NoAnswer {
                code: "ConnectionLost",
                message: chain_of(&error),
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let size = whole.len() + data.len();
            if size > LARGEST {
                return Err(NoAnswer {
                    code: "AnswerTooLarge",
                    message: format!("the answer is larger than {LARGEST} bytes"),
                });
            }
            if size > whole.capacity() {
                // Growing in place would leave the old bytes behind unwiped.
                let mut larger = Zeroizing::new(Vec::with_capacity(size.max(whole.len() * 2)));
                larger.extend_from_slice(&whole);
                whole = larger;
            }
            whole.extend_from_slice(&data);
        }
        let error_type = head
            .headers
            .get("x-amzn-errortype")
            .and_then(|value| Some(value.to_str().ok()?.to_owned()));
        Ok(Answer {
            status: head.status.as_u16(),
            error_type,
            body: whole,
        })
    }
}
