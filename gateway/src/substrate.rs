//! The edge to a pod: dials it, and sends and takes frames. Nothing that a device wrote goes into the request but the
//! ids of its verified session.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use halo_receipts::frame::FRAME_MAX;
use halo_receipts::ids::{Epoch, SessionId, TenantId};
use halo_receipts::keys::TierKey;
use halo_receipts::opening::{self, SIGNATURE_HEADER};
use http::{HeaderValue, StatusCode};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::directory::PodAddress;

/// Buffers as small as the frames are; nothing longer than a frame is taken.
pub fn small_buffers() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(1024)
        .write_buffer_size(0)
        .max_write_buffer_size(16 * 1024)
        .max_message_size(Some(256))
        .max_frame_size(Some(256))
}

/// Why a pod was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nothing listens there, or it does not answer in time.
    #[error("the pod does not accept a connection: {0}")]
    Unreachable(String),
    /// It listens, and does not take this link.
    #[error("the pod answered {0}")]
    Rejected(StatusCode),
}

/// Which link is to be opened.
pub struct LinkName<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// The session.
    pub session: SessionId,
    /// The epoch.
    pub epoch: Epoch,
    /// The number of the link within the epoch.
    pub link: u32,
}

/// What a pod's socket brought.
#[derive(Debug)]
pub enum FromPod {
    /// A frame.
    Frame(Bytes),
    /// A sign of life.
    Alive,
    /// The end of the connection, or something that is no frame.
    Over(String),
}

/// A connection to a pod.
pub struct PodSocket {
    socket: WebSocketStream<TcpStream>,
    send: Duration,
}

impl PodSocket {
    /// Opens a link: an upgrade signed under TIER_KEY\[2\].
    pub async fn dial(
        address: &PodAddress,
        name: &LinkName<'_>,
        key: &TierKey,
        connect: Duration,
        send: Duration,
    ) -> Result<Self, DialError> {
        let unreachable = |error: String| DialError::Unreachable(error);
        let path = opening::substrate_path(name.tenant, &name.session, name.epoch, name.link);
        let request = format!("ws://{address}{path}").into_client_request();
        let mut request = request.map_err(|error| unreachable(error.to_string()))?;
        let signature = opening::signature(key, "GET", &path, b"");
        let signature = HeaderValue::from_str(&signature);
        let signature = signature.map_err(|error| unreachable(error.to_string()))?;
        request.headers_mut().insert(SIGNATURE_HEADER, signature);
        let stream = timeout(connect, TcpStream::connect(&address.0)).await;
        let stream = stream
            .map_err(|_| unreachable("no connection in time".to_owned()))?
            .map_err(|error| unreachable(error.to_string()))?;
        // Small frames must not wait for each other.
        stream
            .set_nodelay(true)
            .map_err(|error| unreachable(error.to_string()))?;
        let handshake =
            tokio_tungstenite::client_async_with_config(request, stream, Some(small_buffers()));
        // The pod reads its ledger before it answers, which may take longer than a connect.
        match timeout(connect.saturating_mul(10), handshake).await {
            Ok(Ok((socket, _))) => Ok(Self { socket, send }),
            Ok(Err(Error::Http(response))) => Err(DialError::Rejected(response.status())),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable("no answer in time".to_owned())),
        }
    }

    /// Sends a frame; `false` if it did not leave in time.
    pub async fn send(&mut self, frame: Vec<u8>) -> bool {
        let sent = timeout(self.send, self.socket.send(Message::Binary(frame.into()))).await;
        matches!(sent, Ok(Ok(())))
    }

    /// Asks for a sign of life; `false` if that did not leave in time.
    pub async fn ping(&mut self) -> bool {
        let sent = timeout(self.send, self.socket.send(Message::Ping(Bytes::new()))).await;
        matches!(sent, Ok(Ok(())))
    }

    /// What comes next. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> FromPod {
        match self.socket.next().await {
            Some(Ok(Message::Binary(frame))) if frame.len() <= FRAME_MAX => FromPod::Frame(frame),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => FromPod::Alive,
            Some(Ok(Message::Close(frame))) => FromPod::Over(match frame {
                Some(frame) => format!("the pod closed with {}: {}", frame.code, frame.reason),
                None => "the pod closed".to_owned(),
            }),
            Some(Ok(_)) => FromPod::Over("the pod sent what is no frame".to_owned()),
            Some(Err(error)) => FromPod::Over(error.to_string()),
            None => FromPod::Over("the pod is gone".to_owned()),
        }
    }

    /// Closes the link, which cancels what runs on it.
    pub async fn close(mut self) {
        // A pod that does not take the close frame in time sees the connection break.
        let _ = timeout(self.send, self.socket.close(None)).await;
    }
}
