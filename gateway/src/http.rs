//! The device's HTTP: opening sessions and epochs, and the upgrade to a stream. Every refusal of an unknown caller is a
//! 401 without a word.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use halo_ledger::{LedgerError, SessionState};
use halo_receipts::evidence::{Claim, ClaimKind, Header, Record as _, SignedRecord};
use halo_receipts::ids::{Epoch, SessionId, Tier};
use halo_receipts::opening::{
    self, DeviceTierKeys, OpenAnswer, OpenRequest, SIGNATURE_HEADER, STREAM_PATH,
};
use halo_receipts::payload::{ContentPolicy, V1};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ORIGIN, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::bundle::Terms;
use crate::device;
use crate::gateway::Gateway;
use crate::keyring::Keyring;
use crate::opening::{Attempt, check};
use crate::seats::Seat;
use crate::session::Session;
use crate::system::{self, SystemError};
use crate::websocket::{accept_headers, check_upgrade, device_socket};

/// A body to open a session is about 200 bytes.
const BODY_MAX: usize = 4 * 1024;
/// How often a new epoch is tried when another gateway claims one at the same moment.
const EPOCH_TRIES: u32 = 4;

/// The address that a request came from.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// A socket's place among those that may be open at once; an upgraded connection keeps it.
#[derive(Clone)]
pub(crate) struct Place(pub(crate) Arc<OwnedSemaphorePermit>);

/// The routes of the device port.
pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route(opening::SESSIONS_PATH, post(open_session))
        .route("/v1/halo/sessions/{session_id}/epochs", post(open_epoch))
        .route(STREAM_PATH, get(stream))
        .layer(middleware::from_fn(refuse_browsers))
        .with_state(gateway)
}

/// A browser is never a device (protocol section 8).
async fn refuse_browsers(request: Request, next: Next) -> Response {
    if request.headers().contains_key(ORIGIN) {
        return StatusCode::FORBIDDEN.into_response();
    }
    next.run(request).await
}

/// Why a request was not served.
enum Denied {
    /// The caller is not known, for a reason that is not told.
    Unknown(&'static str),
    /// The epoch has its connection already.
    Taken,
    /// As many devices of the tenant are connected as may be.
    Full,
    /// The ledger or the system does not serve now.
    Unavailable(String),
    /// The gateway shuts down.
    Draining,
}

impl From<SystemError> for Denied {
    fn from(error: SystemError) -> Self {
        Denied::Unavailable(error.to_string())
    }
}

impl From<LedgerError> for Denied {
    fn from(error: LedgerError) -> Self {
        Denied::Unavailable(error.to_string())
    }
}

impl From<halo_receipts::payload::PayloadError> for Denied {
    fn from(error: halo_receipts::payload::PayloadError) -> Self {
        Denied::Unavailable(error.to_string())
    }
}

impl Denied {
    fn reason(&self) -> &'static str {
        match self {
            Denied::Unknown(reason) => reason,
            Denied::Taken => "taken",
            Denied::Full => "devices",
            Denied::Unavailable(_) => "unavailable",
            Denied::Draining => "draining",
        }
    }

    fn answer(&self, gateway: &Gateway, peer: IpAddr) -> Response {
        match self {
            Denied::Unknown(reason) => {
                tracing::debug!(%peer, reason, "a request was refused");
                gateway.penalties().failed(peer, gateway.steady_ms());
                StatusCode::UNAUTHORIZED.into_response()
            }
            Denied::Taken => StatusCode::CONFLICT.into_response(),
            Denied::Unavailable(error) => {
                tracing::warn!(error, "a request could not be served");
                later()
            }
            Denied::Full | Denied::Draining => later(),
        }
    }
}

fn later() -> Response {
    let retry = [(RETRY_AFTER, HeaderValue::from_static("1"))];
    (StatusCode::SERVICE_UNAVAILABLE, retry).into_response()
}

fn peer(request: &Request) -> IpAddr {
    let peer = request.extensions().get::<Peer>();
    peer.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0)
}

/// The signature header, if there is exactly one.
fn signature(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(SIGNATURE_HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        _ => None,
    }
}

async fn ledger<T>(
    gateway: &Gateway,
    work: impl Future<Output = Result<T, LedgerError>>,
) -> Result<T, LedgerError> {
    let limit = Duration::from_millis(gateway.limits.ledger_ms);
    let late = || LedgerError::Storage("no answer in time".to_owned());
    timeout(limit, work).await.unwrap_or_else(|_| Err(late()))
}

async fn open_session(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let peer = peer(&request);
    let opened = match admit_opening(&gateway, request).await {
        Ok(open) => new_session(&gateway, open).await,
        Err(denied) => Err(denied),
    };
    answer_opening(&gateway, peer, "session", opened)
}

async fn open_epoch(
    State(gateway): State<Arc<Gateway>>,
    Path(session): Path<String>,
    request: Request,
) -> Response {
    let peer = peer(&request);
    let opened = match (admit_opening(&gateway, request).await, session.parse()) {
        (Ok(open), Ok(session)) => new_epoch(&gateway, session, open).await,
        (Err(denied), _) => Err(denied),
        (_, Err(_)) => Err(Denied::Unknown("malformed")),
    };
    answer_opening(&gateway, peer, "epoch", opened)
}

fn answer_opening(
    gateway: &Gateway,
    peer: IpAddr,
    kind: &str,
    opened: Result<OpenAnswer, Denied>,
) -> Response {
    let body = match opened {
        Ok(answer) => serde_json::to_vec(&answer).map_err(|e| Denied::Unavailable(e.to_string())),
        Err(denied) => Err(denied),
    };
    match body {
        Ok(body) => {
            gateway.metrics.sessions.with_label_values(&[kind]).inc();
            let headers = [
                (CONTENT_TYPE, HeaderValue::from_static("application/json")),
                // The body holds keys.
                (CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ];
            (StatusCode::CREATED, headers, body).into_response()
        }
        Err(denied) => {
            gateway.metrics.opening_refused(denied.reason());
            denied.answer(gateway, peer)
        }
    }
}

/// Whether it can be told at all who is served.
fn accepts(gateway: &Gateway) -> Result<(), Denied> {
    if gateway.drain.is_cancelled() {
        return Err(Denied::Draining);
    }
    if !gateway.directory.is_synced() {
        return Err(Denied::Unavailable("tenants are not known yet".to_owned()));
    }
    Ok(())
}

/// Reads the body and checks who asks.
async fn admit_opening(gateway: &Gateway, request: Request) -> Result<OpenRequest, Denied> {
    accepts(gateway)?;
    let (head, body) = request.into_parts();
    let limit = Duration::from_millis(gateway.limits.request_ms);
    let body = timeout(limit, axum::body::to_bytes(body, BODY_MAX)).await;
    let Ok(Ok(body)) = body else {
        return Err(Denied::Unknown("body"));
    };
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    let attempt = Attempt {
        path,
        body: &body,
        signature: signature(&head.headers),
    };
    let now = system::now()?;
    let directory = &gateway.directory;
    let checked = check(
        &attempt,
        now,
        |tenant| directory.tenant(tenant),
        gateway.keys.as_ref(),
        &mut gateway.nonces(),
    );
    checked.map_err(|refused| Denied::Unknown(refused.name()))
}

async fn new_session(gateway: &Gateway, open: OpenRequest) -> Result<OpenAnswer, Denied> {
    let now = system::now()?;
    let session = SessionId::from_random(system::random()?);
    let no_epoch = || Denied::Unavailable("the clock is after the last epoch".to_owned());
    let epoch = Epoch::next(None, now.seconds()).ok_or_else(no_epoch)?;
    let tenant = gateway.directory.tenant(&open.tenant_id);
    let content = tenant.ok_or(Denied::Unknown("tenant"))?.content;
    let keys = gateway.keys.current(&open.tenant_id);
    let keys = keys.ok_or_else(|| Denied::Unavailable("no keys of the tenant".to_owned()))?;
    let root = keys.root();
    let header = Header {
        v: V1,
        session_id: session,
        session_epoch: epoch,
        tenant_id: open.tenant_id.clone(),
        device_id: open.device_id,
        root_generation: root.generation,
        key_check_value: root.check_value,
        demo_root: root.demo,
        content,
        opened_at: now,
    };
    let mut ring = Keyring::new(keys, open.tenant_id, session);
    let key = ring.tier_key(epoch, Tier::Orchestrator);
    let key = key.ok_or_else(|| Denied::Unavailable("no key of this month".to_owned()))?;
    let header = header.sign(&key)?;
    let claim = claim(gateway, &mut ring, ClaimKind::Epoch, epoch)?;
    ledger(gateway, gateway.ledger.open_session(&header, &claim)).await?;
    answer(&mut ring, epoch, content)
}

async fn new_epoch(
    gateway: &Gateway,
    session: SessionId,
    open: OpenRequest,
) -> Result<OpenAnswer, Denied> {
    for _ in 0..EPOCH_TRIES {
        let state = ledger(gateway, gateway.ledger.session(&session)).await?;
        let state = state.ok_or(Denied::Unknown("session"))?;
        let (header, mut ring) = known_session(gateway, session, &state)?;
        if header.tenant_id != open.tenant_id || header.device_id != open.device_id {
            return Err(Denied::Unknown("foreign_session"));
        }
        let next = Epoch::next(Some(state.last_epoch), system::now()?.seconds());
        let epoch = next.ok_or_else(|| Denied::Unavailable("no epoch is left".to_owned()))?;
        let claim = claim(gateway, &mut ring, ClaimKind::Epoch, epoch)?;
        match ledger(gateway, gateway.ledger.claim(&claim)).await {
            Ok(()) => return answer(&mut ring, epoch, header.content),
            Err(LedgerError::Taken) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Denied::Unavailable(
        "other gateways claim this session's epochs".to_owned(),
    ))
}

/// The header of a session that was opened under a root whose keys are held here.
fn known_session(
    gateway: &Gateway,
    session: SessionId,
    state: &SessionState,
) -> Result<(Header, Keyring), Denied> {
    let header: Header = state
        .header
        .parse()
        .map_err(|_| Denied::Unknown("header"))?;
    let (tenant, generation) = (&header.tenant_id, header.root_generation);
    let keys = gateway
        .keys
        .under(tenant, generation, &header.key_check_value);
    let keys = keys.ok_or(Denied::Unknown("keys"))?;
    let mut ring = Keyring::new(keys, tenant.clone(), session);
    let key = ring.tier_key(header.session_epoch, Tier::Orchestrator);
    let key = key.ok_or(Denied::Unknown("keys"))?;
    if header.session_id != session || !state.header.verify::<Header>(&key) {
        return Err(Denied::Unknown("header"));
    }
    Ok((header, ring))
}

fn claim(
    gateway: &Gateway,
    ring: &mut Keyring,
    kind: ClaimKind,
    epoch: Epoch,
) -> Result<SignedRecord, Denied> {
    let claim = Claim {
        v: V1,
        kind,
        session_id: ring.session(),
        session_epoch: epoch,
        link: 0,
        claimed_by: gateway.name.clone(),
        claimed_at: system::now()?,
    };
    let key = ring.tier_key(epoch, Tier::Orchestrator);
    let key = key.ok_or_else(|| Denied::Unavailable("no key of this month".to_owned()))?;
    Ok(claim.sign(&key)?)
}

fn answer(ring: &mut Keyring, epoch: Epoch, content: ContentPolicy) -> Result<OpenAnswer, Denied> {
    let missing = || Denied::Unavailable("no key of this month".to_owned());
    let mut hex = |tier| {
        let key = ring.tier_key(epoch, tier).ok_or_else(missing)?;
        Ok::<_, Denied>(key.to_hex().as_str().to_owned())
    };
    let tier_keys = DeviceTierKeys {
        sensor: hex(Tier::Sensor)?,
        orchestrator: hex(Tier::Orchestrator)?,
    };
    let root = ring.root();
    Ok(OpenAnswer {
        session_id: ring.session(),
        session_epoch: epoch,
        root_generation: root.generation,
        demo_root: root.demo,
        content,
        tier_keys,
        stream: opening::stream_path(&ring.session(), epoch),
    })
}

async fn stream(State(gateway): State<Arc<Gateway>>, mut request: Request) -> Response {
    let peer = peer(&request);
    let accept = check_upgrade(request.method(), request.version(), request.headers());
    let accept = match accept {
        Ok(accept) => accept,
        Err(reason) => {
            gateway.metrics.upgrade_refused(reason);
            return StatusCode::BAD_REQUEST.into_response();
        }
    };
    let path = request
        .uri()
        .path_and_query()
        .map_or("", |path| path.as_str())
        .to_owned();
    let signature = signature(request.headers()).map(<[u8]>::to_vec);
    let (session, seat) = match admit_stream(&gateway, &path, signature.as_deref()).await {
        Ok(admitted) => admitted,
        Err(denied) => {
            gateway.metrics.upgrade_refused(denied.reason());
            return denied.answer(&gateway, peer);
        }
    };
    let place = request
        .extensions()
        .get::<Place>()
        .map(|place| Arc::clone(&place.0));
    let upgrade = hyper::upgrade::on(&mut request);
    let task = {
        let gateway = Arc::clone(&gateway);
        async move {
            match upgrade.await {
                Ok(upgraded) => {
                    let socket = device_socket(upgraded).await;
                    // A task of its own: this one's room is given back.
                    let tasks = gateway.tasks.clone();
                    let places = (place, seat);
                    tasks.spawn(device::serve(gateway, socket, session, peer, places));
                }
                Err(error) => tracing::debug!(%peer, %error, "an upgrade broke off"),
            }
        }
    };
    gateway.tasks.spawn(task);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().extend(accept_headers(accept));
    response
}

/// Everything that is checked before a socket exists: the session, its device, the signature under the key of the epoch,
/// that it is the last epoch, and at the end that nobody else has its one connection.
async fn admit_stream(
    gateway: &Gateway,
    path: &str,
    signature: Option<&[u8]>,
) -> Result<(Session, Seat), Denied> {
    accepts(gateway)?;
    let (session, epoch) = parse_stream(path).ok_or(Denied::Unknown("path"))?;
    let header = signature.ok_or(Denied::Unknown("signature"))?;
    let state = ledger(gateway, gateway.ledger.session(&session)).await?;
    let state = state.ok_or(Denied::Unknown("session"))?;
    let (known, mut ring) = known_session(gateway, session, &state)?;
    let key = ring
        .tier_key(epoch, Tier::Orchestrator)
        .ok_or(Denied::Unknown("keys"))?;
    if !opening::signature_is_valid(&key, "GET", path, b"", header) {
        return Err(Denied::Unknown("signature"));
    }
    let tenant = gateway.directory.tenant(&known.tenant_id);
    let tenant = tenant.ok_or(Denied::Unknown("tenant"))?;
    if tenant.revoked.contains(&known.device_id) {
        return Err(Denied::Unknown("revoked"));
    }
    if epoch != state.last_epoch {
        return Err(Denied::Unknown("epoch"));
    }
    // Before the claim: an epoch whose connection was claimed and turned away would be lost.
    let seat = gateway
        .seats
        .take(&known.tenant_id, session, tenant.devices);
    let seat = seat.ok_or(Denied::Full)?;
    let claim = claim(gateway, &mut ring, ClaimKind::Connection, epoch)?;
    match ledger(gateway, gateway.ledger.claim(&claim)).await {
        Ok(()) => {}
        Err(LedgerError::Taken) => return Err(Denied::Taken),
        Err(error) => return Err(error.into()),
    }
    let terms = Terms {
        epoch,
        content: known.content,
        max_tokens: gateway.limits.answer_tokens,
    };
    let refusals = gateway.limits.refused_messages;
    let session = Session::new(known.device_id, terms, ring, key, refusals);
    Ok((session, seat))
}

/// The one spelling of a stream's path and query.
fn parse_stream(path: &str) -> Option<(SessionId, Epoch)> {
    let query = path.strip_prefix(STREAM_PATH)?.strip_prefix("?session=")?;
    let (session, epoch) = query.split_once("&epoch=")?;
    let (session, epoch) = (session.parse().ok()?, Epoch(epoch.parse().ok()?));
    (opening::stream_path(&session, epoch) == path).then_some((session, epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_path_has_one_spelling() {
        let session = SessionId::from_random([0xab; 16]);
        let path = opening::stream_path(&session, Epoch(5));
        assert_eq!(parse_stream(&path), Some((session, Epoch(5))));
        let upper = path.replace(&session.to_string(), &session.to_string().to_uppercase());
        for bad in [
            format!("{path}&x=1"),
            path.replace("epoch=5", "epoch=05"),
            path.replace("epoch=5", "epoch=+5"),
            path.replace("epoch=5", "epoch=4294967296"),
            upper,
            STREAM_PATH.to_owned(),
        ] {
            assert_eq!(parse_stream(&bad), None, "{bad}");
        }
    }
}
