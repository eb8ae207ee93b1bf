//! `/healthz`, `/readyz` and `/metrics`, on a listener of their own.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

/// What the pages ask.
pub trait Health: Send + Sync + 'static {
    /// Whether every watch has delivered its first list: a leader works, a standby could take over at once.
    fn is_ready(&self) -> bool;
    /// All figures as Prometheus reads them.
    ///
    /// # Errors
    /// They cannot be written as text.
    fn figures(&self) -> prometheus::Result<String>;
}

/// A listener.
///
/// # Errors
/// The address cannot be listened at.
pub async fn listen(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Serves until it is dropped.
///
/// # Errors
/// The listener failed for good.
pub async fn serve(listener: TcpListener, health: Arc<dyn Health>) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health);
    axum::serve(listener, router).await
}

async fn ready(State(health): State<Arc<dyn Health>>) -> Response {
    if health.is_ready() {
        "ok\n".into_response()
    } else {
        let why = "the first lists of the watches are not complete\n";
        (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
    }
}

async fn metrics(State(health): State<Arc<dyn Health>>) -> Response {
    match health.figures() {
        Ok(text) => {
            let kind = (header::CONTENT_TYPE, prometheus::TEXT_FORMAT);
            ([kind], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "figures cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    struct Test(AtomicBool);

    impl Health for Test {
        fn is_ready(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }

        fn figures(&self) -> prometheus::Result<String> {
            Ok("figure 1\n".to_owned())
        }
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn pages_say_how_it_is() {
        let health = Arc::new(Test(AtomicBool::new(false)));
        let (listener, address) = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let serving = tokio::spawn(serve(listener, health.clone()));
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        health.0.store(true, Ordering::SeqCst);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let figures = get(address, "/metrics").await;
        assert!(figures.contains("text/plain; version=0.0.4") && figures.ends_with("figure 1\n"));
        assert!(get(address, "/other").await.starts_with("HTTP/1.1 404"));
        serving.abort();
    }
}
