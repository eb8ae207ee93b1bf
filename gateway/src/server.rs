//! Ports: an accept loop of its own for devices (TLS, timeouts, bounds), a plain one for health and metrics, and the
//! shutdown of both.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::certificate::{Certificate, Change};
use crate::gateway::{Gateway, GatewayError};
use crate::http::{Peer, Place, router};

/// The head of a request has at most this many bytes and headers; the longest that a device sends has about 500.
const HEAD_BYTES: usize = 8 * 1024;
const HEADERS: usize = 32;
/// When accepting fails, for example because no file descriptor is left, trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often the certificate's files are looked at.
const CERTIFICATE_CHECKED: Duration = Duration::from_secs(15);
/// How long interrupted work may take to close its answers, beyond what a pod may take.
const INTERRUPT_GRACE: Duration = Duration::from_secs(3);

/// Ready to serve TLS 1.2 and 1.3 with a certificate.
pub fn tls(certificate: Arc<Certificate>) -> Result<TlsAcceptor, GatewayError> {
    let wrong = |error: rustls::Error| GatewayError::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    // HTTP/2 is not offered: sockets are upgraded from HTTP/1.1, and its attacks stay outside.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A device that comes back resumes its TLS session, which costs a tenth of a full handshake.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(wrong)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Looks at the certificate's files again and again, until the gateway shuts down.
pub async fn renew(certificate: Arc<Certificate>, drain: CancellationToken) {
    let mut said = String::new();
    loop {
        tokio::select! {
            () = sleep(CERTIFICATE_CHECKED) => {}
            () = drain.cancelled() => return,
        }
        let looked = Arc::clone(&certificate);
        match tokio::task::spawn_blocking(move || looked.refresh()).await {
            Ok(Ok(Change::Same)) => {}
            Ok(Ok(Change::Changed)) => {
                said.clear();
                tracing::info!("a renewed certificate is served");
            }
            Ok(Err(error)) => {
                let error = error.to_string();
                if said != error {
                    tracing::error!(%error, "the certificate of before is served");
                    said = error;
                }
            }
            Err(error) => tracing::error!(%error, "the certificate could not be looked at"),
        }
    }
}

/// Takes a port.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, GatewayError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| GatewayError::Listen {
        address: address.to_string(),
        error,
    })
}

/// What every socket of the device port shares.
struct Port {
    gateway: Arc<Gateway>,
    service: TowerToHyperService<Router>,
    tls: Option<TlsAcceptor>,
    handshakes: Semaphore,
    /// Ends connections that have no request under way.
    closing: CancellationToken,
}

/// Serves devices until the gateway shuts down. Device connections and answers outlive this; [`drain`] waits for them.
pub async fn serve_devices(gateway: Arc<Gateway>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    let sockets = Arc::new(Semaphore::new(gateway.limits.sockets));
    let port = Arc::new(Port {
        service: TowerToHyperService::new(router(Arc::clone(&gateway))),
        handshakes: Semaphore::new(gateway.limits.handshakes),
        closing: gateway.drain.child_token(),
        tls,
        gateway,
    });
    let gateway = &port.gateway;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = gateway.drain.cancelled() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a socket was not accepted");
                gateway.metrics.turned_away("accept");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if gateway
            .penalties()
            .is_barred(address.ip(), gateway.steady_ms())
        {
            gateway.metrics.turned_away("barred");
            continue;
        }
        let Ok(permit) = Arc::clone(&sockets).try_acquire_owned() else {
            gateway.metrics.turned_away("full");
            continue;
        };
        let port = Arc::clone(&port);
        gateway.tasks.spawn(async move {
            // Held for the life of the socket, upgraded or not.
            let permit = Arc::new(permit);
            port.gateway.metrics.sockets.inc();
            port.serve(stream, address.ip(), Arc::clone(&permit)).await;
            port.gateway.metrics.sockets.dec();
        });
    }
}

impl Port {
    async fn serve(&self, stream: TcpStream, peer: IpAddr, permit: Arc<OwnedSemaphorePermit>) {
        // Frames are small and each is its own message: none waits for the next.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let Some(acceptor) = &self.tls else {
            return self.serve_http(stream, peer, permit).await;
        };
        let limit = Duration::from_millis(self.gateway.limits.handshake_ms);
        let handshake = async {
            let _turn = self.handshakes.acquire().await;
            acceptor.accept(stream).await
        };
        match timeout(limit, handshake).await {
            // Boxed once: a future that holds the stream by value would keep a copy in every state.
            Ok(Ok(stream)) => self.serve_http(Box::new(stream), peer, permit).await,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a TLS handshake failed");
                self.gateway.metrics.turned_away("tls");
                self.gateway
                    .penalties()
                    .failed(peer, self.gateway.steady_ms());
            }
            Err(_) => {
                self.gateway.metrics.turned_away("tls_timeout");
                self.gateway
                    .penalties()
                    .failed(peer, self.gateway.steady_ms());
            }
        }
    }

    async fn serve_http(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: IpAddr,
        permit: Arc<OwnedSemaphorePermit>,
    ) {
        let place = Place(permit);
        let service = hyper::service::service_fn(|mut request: hyper::Request<_>| {
            request.extensions_mut().insert(Peer(peer));
            request.extensions_mut().insert(place.clone());
            self.service.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(self.gateway.limits.request_ms))
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection ended with an error");
        }
    }
}

/// Serves `/healthz`, `/readyz` and `/metrics` until `stop`.
pub async fn serve_admin(gateway: Arc<Gateway>, listener: TcpListener, stop: CancellationToken) {
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(gateway);
    let service = TowerToHyperService::new(routes);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let service = service.clone();
        let stop = stop.clone();
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .max_buf_size(HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // A probe that goes away is no news.
                _ = connection => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

/// Ready: not shutting down, and the ledger can be written.
async fn ready(State(gateway): State<Arc<Gateway>>) -> Response {
    let no = |reason: String| (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response();
    if gateway.drain.is_cancelled() {
        return no("draining".to_owned());
    }
    if !gateway.directory.is_synced() {
        return no("tenants and their substrates are not known yet".to_owned());
    }
    let limit = Duration::from_millis(gateway.limits.ledger_ms);
    match timeout(limit, gateway.ledger.check()).await {
        Ok(Ok(())) => "ready\n".into_response(),
        Ok(Err(error)) => no(error.to_string()),
        Err(_) => no("the ledger does not answer".to_owned()),
    }
}

async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    gateway.hall.measure();
    match gateway.metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Shuts down: nothing new is begun, idle connections are closed at a measured pace, answers may finish for a while and
/// are interrupted after it. Returns when all are closed, or what is left has had its time; says whether all were.
pub async fn drain(gateway: &Gateway) -> bool {
    gateway.metrics.draining.set(1);
    gateway.drain.cancel();
    gateway.tasks.close();
    let finish = Duration::from_millis(gateway.limits.drain_ms);
    if timeout(finish, gateway.tasks.wait()).await.is_ok() {
        return true;
    }
    tracing::warn!(
        answers = gateway.answers.len(),
        "interrupting what is still under way"
    );
    gateway.interrupt.cancel();
    let close = Duration::from_millis(gateway.limits.pod_close_ms) + INTERRUPT_GRACE;
    timeout(close, gateway.tasks.wait()).await.is_ok()
}
