//! The accept loop, and the task that makes things true when they are due.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::hook::Ending;
use super::http;
use super::shared::Shared;

/// Serves until the ending begins; then connections are dropped.
pub async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    mut ending: watch::Receiver<Ending>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ending.wait_for(|ending| *ending != Ending::No) => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: give some time to free one.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Small answers, each in one write.
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| http::answer(Arc::clone(&shared), request));
            // Ends with an error when a fault cuts it or the caller goes away.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Moves the world on when something is due, so that boots and stops happen without a call.
pub async fn tick(shared: Arc<Shared>) {
    let mut changes = shared.changes();
    loop {
        changes.borrow_and_update();
        let due = shared.look(|world, _, _| world.next_due());
        let now = shared.clock.now();
        let wait = due.map(|due| Duration::from_micros(due.saturating_sub(now)));
        let sleep = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = sleep => {
                if let Err(error) = shared.step(|world, _, _, step| world.advance(step)) {
                    tracing::error!(%error, "the state is not stored");
                }
            }
        }
    }
}
