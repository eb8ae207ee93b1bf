//! Connections as the phone's loop sees them: what happens on each, and what is written to it.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::tier1::machine::Event;

/// How long a peer may take to read what was sent before a connection is closed.
pub(super) const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// What happens outside of the machine. Each connection has a number, so that nothing of an old one is mistaken.
pub(super) enum Input {
    Sensor(u64, Wire),
    Gateway(u64, Wire),
    Machine(Event),
}

/// What happens on a connection.
pub(super) enum Wire {
    Connected(UnboundedSender<Out>),
    Message(Vec<u8>),
    Lost(String),
}

/// What to write to a connection.
pub(super) enum Out {
    Message(Vec<u8>),
    /// Everything was said.
    Close,
}

/// A connection as the loop sees it.
pub(super) struct Peer {
    pub(super) number: u64,
    pub(super) out: UnboundedSender<Out>,
}

/// Carries messages between a socket and the loop until one of them ends. With `ping`, a peer that is silent for three
/// times as long is given up.
pub(super) async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: WebSocketStream<S>,
    inputs: UnboundedSender<Input>,
    to_input: impl Fn(Wire) -> Input,
    ping: Option<Duration>,
) {
    let (out, mut outgoing): (_, UnboundedReceiver<Out>) = mpsc::unbounded_channel();
    if inputs.send(to_input(Wire::Connected(out))).is_err() {
        return;
    }
    let period = ping.unwrap_or(Duration::from_secs(3600));
    let mut pings = interval_at(Instant::now() + period, period);
    let mut heard = Instant::now();
    let cause = loop {
        tokio::select! {
            message = socket.next() => {
                heard = Instant::now();
                match message {
                    Some(Ok(Message::Binary(bytes))) => {
                        if inputs.send(to_input(Wire::Message(bytes.to_vec()))).is_err() {
                            return;
                        }
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(close))) => {
                        break close.map_or("closed".to_owned(), |close| format!("closed with {}: {}", close.code, close.reason));
                    }
                    Some(Ok(_)) => break "a message that is no frame".to_owned(),
                    Some(Err(error)) => break error.to_string(),
                    None => break "the connection ended".to_owned(),
                }
            }
            next = outgoing.recv() => {
                let mut next = next;
                // Dropped without a word: somebody else took this peer's place.
                let mut closing = next.is_none().then_some(CloseCode::Away);
                // What waits is written together.
                while let Some(out) = next {
                    match out {
                        Out::Message(message) => if let Err(error) = socket.feed(Message::binary(message)).await {
                            let _ = inputs.send(to_input(Wire::Lost(error.to_string())));
                            return;
                        },
                        Out::Close => closing = Some(CloseCode::Normal),
                    }
                    next = outgoing.try_recv().ok();
                }
                if let Some(code) = closing {
                    let _ = timeout(CLOSE_LIMIT, good_bye(&mut socket, code)).await;
                    return;
                }
                if let Err(error) = socket.flush().await {
                    break error.to_string();
                }
            }
            _ = pings.tick(), if ping.is_some() => {
                if heard.elapsed() > 3 * period {
                    break "nothing was heard of the peer any more".to_owned();
                }
                if let Err(error) = socket.send(Message::Ping(Default::default())).await {
                    break error.to_string();
                }
            }
        }
    };
    let _ = inputs.send(to_input(Wire::Lost(cause)));
}

/// Closes and waits for the peer's answer.
async fn good_bye<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    code: CloseCode,
) {
    let close = CloseFrame {
        code,
        reason: "done".into(),
    };
    if socket.close(Some(close)).await.is_ok() {
        while let Some(Ok(_)) = socket.next().await {}
    }
}
