//! The sensor at its socket: a local WebSocket to the phone, one frame a message.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use halo_receipts::frame::FrameType;
use halo_receipts::ids::Epoch;
use halo_receipts::keys::PairingKey;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::edge::clock::{self, Clock, ClockError};
use crate::kind_name;
use crate::tier0::machine::{ALERT, Action, Capture, Event, READY, Sensor};
use crate::tier0::{sound, wav};

/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(200);

/// Why the sensor stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The phone does not answer.
    #[error("the phone at {url} cannot be reached: {cause}; is `halo-tier1 serve` running there?")]
    Unreachable {
        /// Where.
        url: String,
        /// What the last try said.
        cause: String,
    },
    /// A file cannot be written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file with the highest epoch holds something else.
    #[error("{0} holds no epoch; remove it only if the glasses were paired anew")]
    State(PathBuf),
    /// Standard output is gone.
    #[error("standard output cannot be written: {0}")]
    Output(#[source] std::io::Error),
    /// No time or randomness.
    #[error(transparent)]
    Clock(#[from] ClockError),
}

/// What the sensor does.
pub struct Options {
    /// The phone, `ws://HOST:PORT`.
    pub connect: String,
    /// What it shares with the phone.
    pub pairing: PairingKey,
    /// What it captures, in order.
    pub captures: Vec<Capture>,
    /// Flip one byte of this frame of a capture in flight, counted from 1, once.
    pub tamper_frame: Option<u32>,
    /// The charge of its battery, in percent.
    pub battery: u8,
    /// Where AUDIO_RENDER goes, as a wav.
    pub audio_out: Option<PathBuf>,
    /// Where the highest epoch is remembered, so that after a restart no earlier SESSION_RESET is taken again.
    pub state: Option<PathBuf>,
    /// For how long the phone may be unreachable before the sensor gives up.
    pub give_up: Duration,
    /// By how many seconds its clock is before the machine's.
    pub clock_offset: i64,
    /// Whether to print JSON lines instead of what a wearer sees.
    pub json: bool,
    /// Where that goes: standard output.
    pub out: Box<dyn Write + Send>,
}

/// Damages one frame on its way, after it was signed: what somebody between glasses and phone could do.
struct Tamper {
    /// Frames of captures until the one that is hit.
    left: Option<u32>,
}

impl Tamper {
    /// Returns the message, changed if its turn has come, and whether it was.
    fn pass(&mut self, mut message: Vec<u8>) -> (Vec<u8>, bool) {
        let data = [
            FrameType::AudioChunk,
            FrameType::ImageChunk,
            FrameType::GestureEvent,
        ];
        let is_data = message
            .get(1)
            .is_some_and(|typ| data.iter().any(|data| *data as u8 == *typ));
        if !is_data {
            return (message, false);
        }
        let turn = self.left == Some(1);
        self.left = self
            .left
            .filter(|_| !turn)
            .map(|left| left.saturating_sub(1));
        if turn {
            let middle = message.len() / 2;
            message[middle] ^= 1;
        }
        (message, turn)
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How a connection ended.
enum Ended {
    /// The phone is done.
    Done,
    /// It broke, or the sensor gave it up.
    Broken,
}

struct Running {
    sensor: Sensor,
    clock: Clock,
    tamper: Tamper,
    json: bool,
    out: Box<dyn Write + Send>,
    state: Option<PathBuf>,
    sound: Vec<u8>,
}

/// Runs until the phone closes the connection as finished.
pub async fn run(options: Options) -> Result<(), RunError> {
    let last_epoch = match &options.state {
        Some(path) => read_state(path)?,
        None => None,
    };
    let mut running = Running {
        sensor: Sensor::new(options.pairing, last_epoch),
        clock: Clock::shifted(options.clock_offset)?,
        tamper: Tamper {
            left: options.tamper_frame,
        },
        json: options.json,
        out: options.out,
        state: options.state,
        sound: Vec::new(),
    };
    // Before there is a connection nothing is sent, so these only fill the queue.
    running.step(Event::Battery(options.battery))?;
    for capture in options.captures {
        running.step(Event::Capture(capture))?;
    }
    let mut reached = Instant::now();
    let outcome = loop {
        let config = WebSocketConfig::default()
            .max_message_size(Some(256))
            .max_frame_size(Some(256));
        match connect_async_with_config(options.connect.as_str(), Some(config), true).await {
            Ok((socket, _)) => {
                let ended = running.connection(socket).await?;
                reached = Instant::now();
                if let Ended::Done = ended {
                    break Ok(());
                }
            }
            Err(error) if reached.elapsed() >= options.give_up => {
                break Err(RunError::Unreachable {
                    url: options.connect,
                    cause: error.to_string(),
                });
            }
            Err(error) => tracing::debug!(%error, "the phone cannot be reached yet"),
        }
        sleep(RETRY).await;
    };
    if let Some(path) = options.audio_out {
        let file = wav::write(sound::RATE, 1, &running.sound);
        std::fs::write(&path, file).map_err(|source| RunError::File { path, source })?;
    }
    outcome
}

/// The epoch that was remembered; none if there is no file yet.
fn read_state(path: &Path) -> Result<Option<Epoch>, RunError> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let epoch = text
                .trim()
                .parse()
                .map_err(|_| RunError::State(path.to_owned()))?;
            Ok(Some(Epoch(epoch)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RunError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

impl Running {
    /// One connection, from its beginning to its end.
    async fn connection(&mut self, mut socket: Socket) -> Result<Ended, RunError> {
        let mut event = Some(Event::Connected);
        loop {
            if let Some(event) = event.take() {
                let (messages, disconnect) = self.step(event)?;
                for message in messages {
                    if socket.feed(Message::binary(message)).await.is_err() {
                        return self.lost();
                    }
                }
                if disconnect || socket.flush().await.is_err() {
                    return self.lost();
                }
            }
            let wake = self.sensor.next_wake().map(|time| self.clock.until(time));
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Binary(bytes))) => event = Some(Event::Message(bytes.to_vec())),
                    Some(Ok(Message::Close(Some(close)))) if close.code == CloseCode::Normal => {
                        // The answer to the close, so that the phone need not wait for it.
                        let _ = socket.flush().await;
                        return Ok(Ended::Done);
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(_)) | None => return self.lost(),
                    Some(Err(SocketError::Capacity(error))) => {
                        tracing::warn!(%error, "the phone sent a message that is no frame");
                        return self.lost();
                    }
                    Some(Err(_)) => return self.lost(),
                },
                () = sleep(wake.unwrap_or_default()), if wake.is_some() => event = Some(Event::Tick),
            }
        }
    }

    fn lost(&mut self) -> Result<Ended, RunError> {
        self.step(Event::Lost)?;
        Ok(Ended::Broken)
    }

    /// Feeds the machine; returns what to send and whether to disconnect. Everything else is shown at once.
    fn step(&mut self, event: Event) -> Result<(Vec<Vec<u8>>, bool), RunError> {
        let (mut messages, mut disconnect) = (Vec::new(), false);
        for action in self
            .sensor
            .handle(event, self.clock.now(), clock::random()?)
        {
            match action {
                Action::Send(message) => {
                    let (message, tampered) = self.tamper.pass(message);
                    if tampered {
                        self.print(
                            "",
                            json!({"event": "tampered", "offset": message.len() / 2}),
                        )?;
                        tracing::warn!("one byte of a frame was flipped in flight, as asked");
                    }
                    messages.push(message);
                }
                Action::Show(text) => {
                    let line = json!({"event": "display", "text": text});
                    self.print(&text, line)?;
                }
                Action::Play(sound) => {
                    self.sound.extend_from_slice(&sound);
                    self.print("", json!({"event": "audio", "bytes": sound.len()}))?;
                }
                Action::Linked {
                    session,
                    epoch,
                    after_alert,
                } => {
                    if let Some(path) = &self.state {
                        let written = std::fs::write(path, format!("{epoch}\n"));
                        written.map_err(|source| RunError::File {
                            path: path.clone(),
                            source,
                        })?;
                    }
                    let event = if after_alert { "relinked" } else { "linked" };
                    let mut line =
                        json!({"event": event, "session_id": session, "session_epoch": epoch});
                    if after_alert {
                        line["text"] = READY.into();
                    }
                    let shown = if after_alert {
                        format!("\n{READY}\n")
                    } else {
                        String::new()
                    };
                    self.print(&shown, line)?;
                }
                Action::Sent {
                    receipt_id,
                    kind,
                    bytes,
                    chunks,
                } => {
                    let line = json!({"event": "sent", "receipt_id": receipt_id, "kind": kind_name(kind), "bytes": bytes, "frames": chunks});
                    self.print("", line)?;
                }
                Action::Accepted { receipt_id } => {
                    self.print("", json!({"event": "accepted", "receipt_id": receipt_id}))?;
                }
                Action::KeyWiped => self.print("", json!({"event": "key_wiped"}))?,
                Action::Alert { first_bad, reason } => {
                    let line = json!({"event": "alert", "text": ALERT, "first_bad": first_bad, "reason": reason.name()});
                    self.print(&format!("\n{ALERT}\n"), line)?;
                }
                Action::Rejected { bytes } => {
                    self.print("", json!({"event": "rejected", "bytes": bytes}))?;
                    tracing::warn!(bytes, "a capture was not taken: it is empty or too long");
                }
                Action::Disconnect => disconnect = true,
            }
        }
        Ok((messages, disconnect))
    }

    /// Writes the line under `--json`, and what the wearer sees without it.
    fn print(&mut self, shown: &str, mut line: serde_json::Value) -> Result<(), RunError> {
        line["at_ms"] = clock::wall_ms().into();
        let out = &mut self.out;
        let written = if self.json {
            writeln!(out, "{line}")
        } else {
            tracing::debug!(%line, "sensor");
            out.write_all(shown.as_bytes())
        };
        written.and_then(|()| out.flush()).map_err(RunError::Output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_frame_of_a_capture_is_hit_and_no_other() {
        let mut tamper = Tamper { left: Some(2) };
        let frames = [
            [1u8, 0x10, 0, 0],
            [1, 0x50, 0, 0],
            [1, 0x11, 0, 0],
            [1, 0x12, 0, 0],
            [1, 0x20, 0, 0],
        ];
        let hit: Vec<bool> = frames
            .iter()
            .map(|frame| tamper.pass(frame.to_vec()).1)
            .collect();
        assert_eq!(hit, [false, false, true, false, false]);
        let mut tamper = Tamper { left: Some(1) };
        assert_eq!(
            tamper.pass(vec![1, 0x10, 0, 0]),
            (vec![1, 0x10, 1, 0], true)
        );
        assert_eq!(
            Tamper { left: None }.pass(vec![1, 0x10]),
            (vec![1, 0x10], false)
        );
    }

    #[test]
    fn the_highest_epoch_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        assert!(matches!(read_state(&path), Ok(None)));
        std::fs::write(&path, "1795255883\n").unwrap();
        assert!(matches!(read_state(&path), Ok(Some(Epoch(1_795_255_883)))));
        std::fs::write(&path, "soon").unwrap();
        assert!(matches!(read_state(&path), Err(RunError::State(_))));
    }
}
