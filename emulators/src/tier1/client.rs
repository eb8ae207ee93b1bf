//! The phone as a client: `POST`s and the WebSocket to the gateway over TLS, and `POST`s to a classifier beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use halo_receipts::opening::SIGNATURE_HEADER;

/// How long connecting, a handshake or an answer may take.
const TIME_LIMIT: Duration = Duration::from_secs(15);
/// The longest answer to a `POST`, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// Why something was not reached or understood.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A gateway's address that is none.
    #[error("'{0}' is no gateway; expected https://HOST:PORT")]
    Address(String),
    /// A classifier's address that is none.
    #[error("'{0}' is no classifier; expected `rules` or http://HOST:PORT/PATH")]
    Classifier(String),
    /// The certificates cannot be read.
    #[error("{path}: {cause}; expected PEM certificates that the gateway's is signed by")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// No connection.
    #[error("{address} cannot be reached: {source}")]
    Connect {
        /// Where.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing came in time.
    #[error("no answer within {} s", TIME_LIMIT.as_secs())]
    Late,
    /// The WebSocket was refused.
    #[error("the stream was refused: {0}")]
    Upgrade(String),
    /// An answer that makes no sense.
    #[error("the answer cannot be used: {0}")]
    Answer(String),
}

/// Where the gateway is and whom to trust for it.
#[derive(Clone)]
pub struct Gateway {
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: TlsConnector,
}

/// The gateway's WebSocket.
pub type GatewaySocket = WebSocketStream<Box<TlsStream<TcpStream>>>;

impl Gateway {
    /// From `https://HOST:PORT` and a file of PEM certificates.
    pub fn new(url: &str, ca: &Path) -> Result<Self, ClientError> {
        let address = || ClientError::Address(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| address())?;
        if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") {
            return Err(address());
        }
        let host = uri.host().ok_or_else(address)?.to_owned();
        let bare = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = ServerName::try_from(bare).map_err(|_| address())?;
        Ok(Self {
            port: uri.port_u16().unwrap_or(443),
            host,
            name,
            tls: TlsConnector::from(Arc::new(tls_config(ca)?)),
        })
    }

    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    async fn connect(&self) -> Result<Box<TlsStream<TcpStream>>, ClientError> {
        let address = self.authority();
        let failed = |source| ClientError::Connect {
            address: address.clone(),
            source,
        };
        let connecting = async {
            let socket = TcpStream::connect(&address).await?;
            socket.set_nodelay(true)?;
            self.tls.connect(self.name.clone(), socket).await
        };
        let connected = tokio::time::timeout(TIME_LIMIT, connecting).await;
        connected
            .map_err(|_| ClientError::Late)?
            .map(Box::new)
            .map_err(failed)
    }

    /// `POST`s a signed body; returns status and body of the answer.
    pub async fn post(
        &self,
        path: &str,
        signature: &str,
        body: Vec<u8>,
    ) -> Result<(u16, Vec<u8>), ClientError> {
        let socket = self.connect().await?;
        let request = Request::post(path)
            .header("host", self.authority())
            .header("content-type", "application/json")
            .header(SIGNATURE_HEADER, signature);
        send(socket, request, body).await
    }

    /// Opens the WebSocket at `path`, signed.
    pub async fn stream(&self, path: &str, signature: &str) -> Result<GatewaySocket, ClientError> {
        let refused = |error: String| ClientError::Upgrade(error);
        let socket = self.connect().await?;
        let url = format!("wss://{}{path}", self.authority());
        let mut request = url
            .into_client_request()
            .map_err(|error| refused(error.to_string()))?;
        let value = HeaderValue::from_str(signature).map_err(|error| refused(error.to_string()))?;
        request.headers_mut().insert(SIGNATURE_HEADER, value);
        let config = WebSocketConfig::default()
            .max_message_size(Some(256))
            .max_frame_size(Some(256));
        let upgrading = client_async_with_config(request, socket, Some(config));
        let upgraded = tokio::time::timeout(TIME_LIMIT, upgrading)
            .await
            .map_err(|_| ClientError::Late)?;
        upgraded
            .map(|(socket, _)| socket)
            .map_err(|error| refused(error.to_string()))
    }
}

fn tls_config(ca: &Path) -> Result<ClientConfig, ClientError> {
    let wrong = |cause: String| ClientError::Certificates {
        path: ca.to_owned(),
        cause,
    };
    let mut roots = RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(ca).map_err(|error| wrong(error.to_string()))?
    {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("it holds no certificate".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// `POST`s JSON without TLS, to a classifier.
pub(super) async fn post_plain(uri: &Uri, body: Vec<u8>) -> Result<(u16, Vec<u8>), ClientError> {
    let wrong = || ClientError::Classifier(uri.to_string());
    let authority = uri
        .authority()
        .filter(|_| uri.scheme_str() == Some("http"))
        .ok_or_else(wrong)?;
    let address = format!(
        "{}:{}",
        authority.host(),
        authority.port_u16().unwrap_or(80)
    );
    let socket = TcpStream::connect(&address).await;
    let socket = socket.map_err(|source| ClientError::Connect { address, source })?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        .header("host", authority.as_str())
        .header("content-type", "application/json");
    send(socket, request, body).await
}

/// Checks a classifier's address.
pub fn classifier_uri(text: &str) -> Result<Uri, ClientError> {
    let uri: Option<Uri> = text.parse().ok();
    let good = uri.filter(|uri| uri.scheme_str() == Some("http") && uri.authority().is_some());
    good.ok_or_else(|| ClientError::Classifier(text.to_owned()))
}

/// One request over a connection of its own.
async fn send(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::request::Builder,
    body: Vec<u8>,
) -> Result<(u16, Vec<u8>), ClientError> {
    let answer = |error: String| ClientError::Answer(error);
    let request = request
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| answer(error.to_string()))?;
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|error| answer(error.to_string()))?;
        let talk = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| answer(error.to_string()))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_MAX)
                .collect()
                .await;
            let body = body.map_err(|error| answer(error.to_string()))?;
            Ok((status, body.to_bytes().to_vec()))
        };
        tokio::pin!(connection, talk);
        // The connection has to be driven for as long as the exchange takes.
        tokio::select! {
            done = &mut talk => done,
            ended = &mut connection => match ended {
                // It may end right after the last byte of the answer.
                Ok(()) => talk.await,
                Err(error) => Err(answer(error.to_string())),
            },
        }
    };
    tokio::time::timeout(TIME_LIMIT, exchange)
        .await
        .map_err(|_| ClientError::Late)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(
            &ca,
            rcgen::generate_simple_self_signed(["localhost".to_owned()])
                .unwrap()
                .cert
                .pem(),
        )
        .unwrap();
        for good in [
            "https://localhost:8443",
            "https://localhost:8443/",
            "https://127.0.0.1:1",
            "https://gateway.example",
        ] {
            assert!(Gateway::new(good, &ca).is_ok(), "{good}");
        }
        for bad in [
            "http://localhost:1",
            "localhost:1",
            "https://localhost:1/v1",
            "https://",
            "",
        ] {
            assert!(
                matches!(Gateway::new(bad, &ca), Err(ClientError::Address(_))),
                "{bad}"
            );
        }
        std::fs::write(&ca, "no certificate").unwrap();
        assert!(matches!(
            Gateway::new("https://localhost:1", &ca),
            Err(ClientError::Certificates { .. })
        ));
        assert!(classifier_uri("http://127.0.0.1:9/x").is_ok());
        for bad in ["rule", "https://127.0.0.1:9", "http:///x"] {
            assert!(classifier_uri(bad).is_err(), "{bad}");
        }
    }
}
