//! The pod's HTTP side: probes, metrics, and the door of `/v1/halo/stream`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use halo_ledger::LedgerError;
use halo_receipts::evidence::{Claim, ClaimKind, Header, Record as _};
use halo_receipts::ids::{Epoch, SessionId, TenantId, Tier};
use halo_receipts::keys::{KeyStore as _, TenantKeys, TierKey};
use halo_receipts::opening::{SIGNATURE_HEADER, STREAM_PATH, signature_is_valid};
use halo_receipts::payload::V1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::bundle::{BundleError, LinkId, check_header};
use crate::pod::{Phase, Pod, now};
use crate::stream::{self, Admitted, Ids};

/// How long a client may take to send its headers.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// The most headers of a request.
const HEADERS_MAX: usize = 32;
/// The most bytes of a request's head.
const HEAD_MAX: usize = 8 * 1024;
/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;
/// Links at once; more are refused.
const LINKS_MAX: usize = 2048;
/// Longer than any frame, short enough that nothing is reserved for a lie.
const MESSAGE_MAX: usize = 256;

/// The four parts of a link's address, each exactly once and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkQuery {
    tenant: TenantId,
    session: SessionId,
    epoch: Epoch,
    link: u32,
}

/// Why a connection is refused, by the word that is counted and answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// A browser asks.
    Origin,
    /// The address is not a link's.
    Address,
    /// Another version than HTTP/1.1, or a body: no upgrade has one, and a second reader might see another request in it.
    Form,
    /// Not signed by the tenant's gateway for this address.
    Signature,
    /// Not a WebSocket.
    Upgrade,
    /// The model is not loaded.
    Loading,
    /// The pod shuts down.
    Draining,
    /// Too many links.
    Links,
    /// The session is unknown, or its header is not what it must be.
    Session,
    /// Another epoch is the session's last.
    Epoch,
    /// The link's number was used before; the next one may be free.
    Taken,
    /// The ledger does not answer.
    Ledger,
    /// The keys of the session's root or month are not here yet.
    Keys,
    /// The operating system gives no random bytes.
    Random,
}

impl Refusal {
    fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Refusal::Origin => (StatusCode::FORBIDDEN, "origin"),
            Refusal::Address => (StatusCode::BAD_REQUEST, "address"),
            Refusal::Form => (StatusCode::BAD_REQUEST, "form"),
            Refusal::Signature => (StatusCode::UNAUTHORIZED, "signature"),
            Refusal::Upgrade => (StatusCode::UPGRADE_REQUIRED, "upgrade"),
            Refusal::Loading => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
            Refusal::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            Refusal::Links => (StatusCode::SERVICE_UNAVAILABLE, "links"),
            Refusal::Session => (StatusCode::NOT_FOUND, "session"),
            Refusal::Epoch => (StatusCode::NOT_FOUND, "epoch"),
            Refusal::Taken => (StatusCode::CONFLICT, "taken"),
            Refusal::Ledger => (StatusCode::SERVICE_UNAVAILABLE, "ledger"),
            Refusal::Keys => (StatusCode::SERVICE_UNAVAILABLE, "keys"),
            Refusal::Random => (StatusCode::SERVICE_UNAVAILABLE, "random"),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, word) = self.parts();
        let mut response = (status, format!("{{\"error\":\"{word}\"}}")).into_response();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The pod's routes.
pub fn router(pod: Arc<Pod>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route(STREAM_PATH, get(open_link))
        .with_state(pod)
}

async fn readyz(State(pod): State<Arc<Pod>>) -> Response {
    let answer = |text: &'static str| (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    if pod.phase() > Phase::Running {
        answer("draining\n")
    } else if pod.ready().is_none() {
        answer("loading\n")
    } else if !pod.ledger_answers().await {
        answer("the ledger does not answer\n")
    } else {
        "ready\n".into_response()
    }
}

async fn metrics(State(pod): State<Arc<Pod>>) -> Response {
    match pod.metrics.render(&pod) {
        Ok(text) => {
            let plain = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, plain)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn open_link(
    State(pod): State<Arc<Pod>>,
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get(header::CONTENT_LENGTH)
            .is_some_and(|length| length != "0");
    let admitted = match version == Version::HTTP_11 && !has_body {
        true => admit(&pod, &method, &uri, &headers, upgrade).await,
        false => Err(Refusal::Form),
    };
    match admitted {
        Ok(response) => response,
        Err(refusal) => {
            let (_, word) = refusal.parts();
            pod.metrics.refused(word);
            tracing::warn!(reason = word, "a link is refused");
            refusal.into_response()
        }
    }
}

/// Checks a link's address and signature, claims its number, and only then opens the socket.
async fn admit(
    pod: &Arc<Pod>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    if headers.contains_key(header::ORIGIN) {
        return Err(Refusal::Origin);
    }
    let query: axum::extract::Query<LinkQuery> =
        axum::extract::Query::try_from_uri(uri).map_err(|_| Refusal::Address)?;
    let LinkQuery {
        tenant,
        session,
        epoch,
        link,
    } = query.0;
    let id = LinkId {
        tenant_id: tenant,
        session_id: session,
        session_epoch: epoch,
    };
    let keys = signing_keys(pod, method, uri, headers, &id).await?;
    let upgrade = upgrade.map_err(|_| Refusal::Upgrade)?;
    if pod.phase() > Phase::Running {
        return Err(Refusal::Draining);
    }
    let ready = pod.ready().ok_or(Refusal::Loading)?;
    if pod.links.len() >= LINKS_MAX {
        return Err(Refusal::Links);
    }
    let ids = Ids::new().map_err(|_| Refusal::Random)?;
    claim_link(pod, &*keys, &id, link).await?;
    let (open, pod) = (pod.links.token(), Arc::clone(pod));
    let admitted = Admitted {
        id,
        keys,
        ready,
        ids,
    };
    let response = upgrade
        .read_buffer_size(1024)
        .write_buffer_size(0)
        .max_write_buffer_size(16 * 1024)
        .max_message_size(MESSAGE_MAX)
        .max_frame_size(MESSAGE_MAX)
        .on_upgrade(move |socket| async move {
            stream::serve(pod, admitted, socket).await;
            drop(open);
        });
    Ok(response)
}

/// The keys under which the upgrade is signed. Nothing is read before that is known but, for a signature that no key here made, the
/// session's header: it may be signed under keys that are still on their way to this pod.
async fn signing_keys(
    pod: &Pod,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    id: &LinkId,
) -> Result<Arc<dyn TenantKeys>, Refusal> {
    let signature = headers
        .get(SIGNATURE_HEADER)
        .map_or(&b""[..], HeaderValue::as_bytes);
    let once = headers.get_all(SIGNATURE_HEADER).iter().count() == 1;
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    let signed = |keys: &Arc<dyn TenantKeys>| {
        tier_key(pod, &**keys, id, Tier::Substrate)
            .is_some_and(|key| signature_is_valid(&key, method.as_str(), path, b"", signature))
    };
    // Computed for the pod's own tenant whatever the address says: another one fails like a wrong signature.
    let find = || pod.keys.held(&pod.tenant).into_iter().find(signed);
    let found = find();
    if !once || id.tenant_id != pod.tenant {
        return Err(Refusal::Signature);
    }
    match found {
        Some(keys) => Ok(keys),
        None if pod.keys.may_grow() => {
            pod.keys.look().await;
            match find() {
                Some(keys) => Ok(keys),
                None => Err(unsigned(pod, id).await),
            }
        }
        None => Err(Refusal::Signature),
    }
}

/// Why no key here made a link's signature: the keys of its session are not here, or nobody with such keys signed it.
async fn unsigned(pod: &Pod, id: &LinkId) -> Refusal {
    // Whoever can reach the pod can make it come here, so it is done for few at a time.
    let Ok(_permit) = pod.unsigned.try_acquire() else {
        return Refusal::Keys;
    };
    let header: Option<Header> = match pod.ledger.session(&id.session_id).await {
        Ok(state) => state.and_then(|state| state.header.parse().ok()),
        Err(_) => return Refusal::Ledger,
    };
    let Some(header) = header.filter(|header| header.tenant_id == pod.tenant) else {
        return Refusal::Signature;
    };
    let (generation, check_value) = (header.root_generation, header.key_check_value);
    let held = pod.keys.under(&pod.tenant, generation, &check_value);
    match held.and_then(|keys| tier_key(pod, &*keys, id, Tier::Substrate)) {
        Some(_) => Refusal::Signature,
        None => {
            tracing::warn!(session = %id.session_id, epoch = %id.session_epoch, generation, "the session's keys are not here yet");
            Refusal::Keys
        }
    }
}

fn tier_key(pod: &Pod, keys: &dyn TenantKeys, id: &LinkId, tier: Tier) -> Option<TierKey> {
    let session_key = keys.session_key(&pod.tenant, &id.session_id, id.session_epoch)?;
    Some(session_key.tier_key(tier))
}

/// Takes the link's number in the ledger, if the session is this tenant's and the epoch its last one.
async fn claim_link(
    pod: &Pod,
    keys: &dyn TenantKeys,
    id: &LinkId,
    link: u32,
) -> Result<(), Refusal> {
    let unavailable = |error: LedgerError| {
        tracing::error!(session = %id.session_id, %error, "the ledger does not answer");
        Refusal::Ledger
    };
    let state = pod
        .ledger
        .session(&id.session_id)
        .await
        .map_err(unavailable)?;
    let state = state.ok_or(Refusal::Session)?;
    check_header(id, keys, &state.header).map_err(|error| match error {
        BundleError::Keys(_) => Refusal::Keys,
        _ => Refusal::Session,
    })?;
    if state.last_epoch != id.session_epoch {
        return Err(Refusal::Epoch);
    }
    let claim = Claim {
        v: V1,
        kind: ClaimKind::SubstrateLink,
        session_id: id.session_id,
        session_epoch: id.session_epoch,
        link,
        claimed_by: pod.name.clone(),
        claimed_at: now(),
    };
    let key = tier_key(pod, keys, id, Tier::Orchestrator).ok_or(Refusal::Keys)?;
    let record = claim.sign(&key).map_err(|_| Refusal::Session)?;
    match pod.ledger.claim(&record).await {
        Ok(()) => Ok(()),
        Err(LedgerError::Taken) => Err(Refusal::Taken),
        Err(LedgerError::UnknownSession) => Err(Refusal::Session),
        Err(error) => Err(unavailable(error)),
    }
}

/// Accepts connections until `stop`; HTTP/1.1 only, with limits on the time and size of a request's head.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Such as too many open files: the next attempt may find room.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let stop = stop.clone();
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_LIMIT)
                .max_headers(HEADERS_MAX)
                .max_buf_size(HEAD_MAX)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            tokio::select! {
                served = connection => {
                    if let Err(error) = served {
                        tracing::debug!(%error, "a connection ended badly");
                    }
                }
                () = stop.cancelled() => {}
            }
            drop(permit);
        });
    }
}
