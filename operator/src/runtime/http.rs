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
