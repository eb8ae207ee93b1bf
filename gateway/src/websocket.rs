//! The device's WebSocket: its handshake, what is refused before a socket exists, and a guard that sees fragments.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderValue, Method, Version};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::substrate::small_buffers;

/// A device's WebSocket.
pub type DeviceSocket = WebSocketStream<FrameGuard<TokioIo<Upgraded>>>;

/// Why a request is no upgrade that is taken, as a stable name for metrics.
pub fn check_upgrade(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
) -> Result<HeaderValue, &'static str> {
    if method != Method::GET || version != Version::HTTP_11 {
        return Err("not_http_1_1_get");
    }
    // What stands behind the head of an upgrade is where requests are smuggled.
    let length = headers.get(CONTENT_LENGTH);
    if headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length != "0") {
        return Err("body");
    }
    let names = |name: HeaderName, wanted: &str| {
        let lines = headers.get_all(name);
        let mut words = lines
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','));
        words.any(|word| word.trim().eq_ignore_ascii_case(wanted))
    };
    if !names(CONNECTION, "upgrade") || !names(UPGRADE, "websocket") {
        return Err("not_an_upgrade");
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err("websocket_version");
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        // 16 bytes in base64 (RFC 6455 section 4.1).
        (Some(key), None) if key.len() == 24 => {
            HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| "websocket_key")
        }
        _ => Err("websocket_key"),
    }
}

/// The headers of the answer that makes a socket. No extension is ever taken, compression least of all.
pub fn accept_headers(accept: HeaderValue) -> [(HeaderName, HeaderValue); 3] {
    [
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, accept),
    ]
}

/// The socket on an upgraded connection. Unmasked frames, frames over 256 bytes and reserved bits are refused by the
/// library, fragments by the guard.
pub async fn device_socket(upgraded: Upgraded) -> DeviceSocket {
    let guard = FrameGuard::new(TokioIo::new(upgraded));
    WebSocketStream::from_raw_socket(guard, Role::Server, Some(small_buffers())).await
}

/// Lets the bytes of unfragmented WebSocket frames through, and fails at the first fragment: one frame is one message.
pub struct FrameGuard<S> {
    inner: S,
    scan: Scan,
}

/// Where in the stream of frames the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scan {
    First,
    Second,
    /// The bytes of an extended length that are missing, and what has come of it.
    Length(u8, u64, bool),
    /// The bytes of mask and payload that are missing.
    Rest(u64),
    Fragment,
}

impl Scan {
    fn run(mut self, mut bytes: &[u8]) -> Self {
        const FIN: u8 = 0x80;
        const MASKED: u8 = 0x80;
        let rest =
            |masked: bool, payload: u64| match payload.saturating_add(if masked { 4 } else { 0 }) {
                0 => Scan::First,
                rest => Scan::Rest(rest),
            };
        while let Some((&byte, tail)) = bytes.split_first() {
            self = match self {
                // A frame that does not finish its message, or one that continues another.
                Scan::First if byte & FIN == 0 || byte & 0x0f == 0 => Scan::Fragment,
                Scan::First => Scan::Second,
                Scan::Second => match (byte & MASKED != 0, byte & 0x7f) {
                    (masked, 126) => Scan::Length(2, 0, masked),
                    (masked, 127) => Scan::Length(8, 0, masked),
                    (masked, length) => rest(masked, u64::from(length)),
                },
                Scan::Length(missing, value, masked) => {
                    let value = value << 8 | u64::from(byte);
                    match missing {
                        1 => rest(masked, value),
                        _ => Scan::Length(missing - 1, value, masked),
                    }
                }
                Scan::Rest(missing) => {
                    let taken = missing.min(bytes.len() as u64);
                    bytes = bytes.get(taken as usize..).unwrap_or_default();
                    self = match missing - taken {
                        0 => Scan::First,
                        missing => Scan::Rest(missing),
                    };
                    continue;
                }
                Scan::Fragment => return self,
            };
            bytes = tail;
        }
        self
    }
}

impl<S> FrameGuard<S> {
    fn new(inner: S) -> Self {
        Self {
            inner,
            scan: Scan::First,
        }
    }

    /// Whether a fragment was seen.
    pub fn saw_fragment(&self) -> bool {
        self.scan == Scan::Fragment
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let read = buf.filled().get(before..).unwrap_or_default();
        self.scan = self.scan.run(read);
        if self.saw_fragment() {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "a fragment");
            return Poll::Ready(Err(error));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        headers.insert(SEC_WEBSOCKET_KEY, key);
        headers
    }

    #[test]
    fn the_example_of_rfc_6455_and_what_is_refused() {
        let accept = check_upgrade(&Method::GET, Version::HTTP_11, &headers());
        assert_eq!(accept.unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(check_upgrade(&Method::POST, Version::HTTP_11, &headers()).is_err());
        assert!(check_upgrade(&Method::GET, Version::HTTP_10, &headers()).is_err());
        let table = [
            (CONTENT_LENGTH, Some("5"), "body"),
            (TRANSFER_ENCODING, Some("chunked"), "body"),
            (CONNECTION, None, "not_an_upgrade"),
            (UPGRADE, Some("h2c"), "not_an_upgrade"),
            (SEC_WEBSOCKET_VERSION, Some("8"), "websocket_version"),
            (SEC_WEBSOCKET_KEY, Some("short"), "websocket_key"),
            (SEC_WEBSOCKET_KEY, None, "websocket_key"),
        ];
        for (name, value, reason) in table {
            let mut changed = headers();
            changed.remove(&name);
            if let Some(value) = value {
                changed.insert(name, HeaderValue::from_static(value));
            }
            let refused = check_upgrade(&Method::GET, Version::HTTP_11, &changed);
            assert_eq!(refused, Err(reason));
        }
        let mut empty = headers();
        empty.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        assert!(check_upgrade(&Method::GET, Version::HTTP_11, &empty).is_ok());
    }

    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match payload {
            0..126 => frame.push(0x80 | payload as u8),
            126..65536 => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(payload as u64).to_be_bytes());
            }
        }
        // Payload bytes that would be a fragment's first byte if the guard lost its place.
        frame.extend(std::iter::repeat_n(0, 4 + payload));
        frame
    }

    proptest! {
        #[test]
        fn fragments_are_seen_wherever_the_stream_is_cut(
            sizes in proptest::collection::vec(prop_oneof![0usize..300, 65_530usize..65_545], 0..6),
            cut in 1usize..500,
            fragment in prop_oneof![Just(0x02u8), Just(0x00), Just(0x80), Just(0x01)],
        ) {
            let good: Vec<u8> = sizes.iter().flat_map(|&size| frame(0x82, size)).collect();
            let scan = good.chunks(cut).fold(Scan::First, Scan::run);
            prop_assert_eq!(scan, Scan::First);
            let bad = [good, frame(fragment, 5)].concat();
            let scan = bad.chunks(cut).fold(Scan::First, Scan::run);
            prop_assert_eq!(scan, Scan::Fragment);
        }
    }
}
