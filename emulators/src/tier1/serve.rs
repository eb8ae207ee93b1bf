//! The phone at its sockets: a local WebSocket for the sensor, TLS to the gateway, and the machine between them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use crate::edge::clock::{self, Clock, ClockError};
use crate::tier1::classifier::Classifier;
use crate::tier1::classify::{Heard, Understanding};
use crate::tier1::client::{ClientError, Gateway};
use crate::tier1::machine::{Action, Config, Event, Media, Orchestrator};
use crate::tier1::report::Report;
use crate::tier1::transcribe::Transcriber;

/// The gateway is pinged this often, and given up after three times as long without a word.
const PING: Duration = Duration::from_secs(15);
/// How long a peer may take to read what was sent before a connection is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Why the phone stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The gateway refused for good.
    #[error("{0}")]
    Stopped(String),
    /// The gateway's address, certificates, or the classifier's address.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No time or randomness.
    #[error(transparent)]
    Clock(#[from] ClockError),
}

/// How the phone serves.
pub struct Options {
    /// Who it is.
    pub config: Config,
    /// Where the gateway is.
    pub gateway: Gateway,
    /// Where the sensor connects.
    pub listen: SocketAddr,
    /// Where words come from.
    pub transcriber: Box<dyn Transcriber>,
    /// What is asked when a capture holds no words.
    pub prompt: Option<String>,
    /// Who decides.
    pub classifier: Arc<dyn Classifier>,
    /// Stop once a session is sealed and nothing is under way.
    pub once: bool,
    /// Where the session's id goes.
    pub session_out: Option<PathBuf>,
}

/// What the phone tells while it runs.
pub enum Said<'a> {
    /// It listens for the sensor here.
    Listening(SocketAddr),
    /// The machine reports.
    Report(&'a Report),
}

/// What happens outside of the machine. Each connection has a number, so that nothing of an old one is mistaken.
enum Input {
    Sensor(u64, Wire),
    Gateway(u64, Wire),
    Machine(Event),
}

/// What happens on a connection.
enum Wire {
    Connected(UnboundedSender<Out>),
    Message(Vec<u8>),
    Lost(String),
}

/// What to write to a connection.
enum Out {
    Message(Vec<u8>),
    /// Everything was said.
    Close,
}

/// A connection as the loop sees it.
struct Peer {
    number: u64,
    out: UnboundedSender<Out>,
}

struct Phone {
    machine: Orchestrator,
    clock: Clock,
    gateway: Gateway,
    transcriber: Box<dyn Transcriber>,
    prompt: Option<String>,
    classifier: Arc<dyn Classifier>,
    inputs: UnboundedSender<Input>,
    sensor: Option<Peer>,
    sensor_task: Option<JoinHandle<()>>,
    gateway_number: u64,
    gateway_out: Option<UnboundedSender<Out>>,
    gateway_task: Option<JoinHandle<()>>,
    session_out: Option<PathBuf>,
    /// A session was sealed since the start.
    sealed: bool,
    /// What the machine said last of what went wrong.
    last_error: String,
    stopped: Option<String>,
}

/// Serves until it is done (`once`), the gateway refuses for good, or `end` completes.
pub async fn serve(
    options: Options,
    mut say: impl FnMut(Said<'_>),
    end: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let address = options.listen;
    let listen = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    say(Said::Listening(listener.local_addr().map_err(listen)?));
    let (inputs, mut incoming) = mpsc::unbounded_channel();
    let mut phone = Phone {
        machine: Orchestrator::new(options.config),
        clock: Clock::start()?,
        gateway: options.gateway,
        transcriber: options.transcriber,
        prompt: options.prompt,
        classifier: options.classifier,
        inputs,
        sensor: None,
        sensor_task: None,
        gateway_number: 0,
        gateway_out: None,
        gateway_task: None,
        session_out: options.session_out,
        sealed: false,
        last_error: String::new(),
        stopped: None,
    };
    phone.step(Event::Start, &mut say)?;
    tokio::pin!(end);
    let mut sensors = 0;
    let outcome = loop {
        if let Some(message) = phone.stopped.take() {
            break Err(ServeError::Stopped(message));
        }
        if options.once && phone.sealed && phone.machine.is_settled() {
            break Ok(());
        }
        let wake = phone
            .machine
            .next_wake()
            .map(|time| phone.clock.until(time));
        tokio::select! {
            () = &mut end => break Ok(()),
            input = incoming.recv() => if let Some(input) = input {
                phone.input(input, &mut say)?;
            },
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    sensors += 1;
                    phone.accept(sensors, socket);
                }
                Err(error) => {
                    tracing::warn!(%error, "a sensor could not be accepted");
                    sleep(Duration::from_millis(50)).await;
                }
            },
            () = sleep(wake.unwrap_or_default()), if wake.is_some() => phone.step(Event::Tick, &mut say)?,
        }
    };
    phone.close().await;
    outcome
}

impl Phone {
    fn accept(&mut self, number: u64, socket: TcpStream) {
        let inputs = self.inputs.clone();
        let task = tokio::spawn(async move {
            let _ = socket.set_nodelay(true);
            let config = WebSocketConfig::default()
                .max_message_size(Some(256))
                .max_frame_size(Some(256));
            let upgrade = accept_hdr_async_with_config(socket, no_browser, Some(config));
            match timeout(CLOSE_LIMIT, upgrade).await {
                Ok(Ok(socket)) => {
                    let to_input = move |wire| Input::Sensor(number, wire);
                    talk(socket, inputs, to_input, None).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "somebody who is no sensor knocked"),
                Err(_) => tracing::debug!("a sensor took too long to connect"),
            }
        });
        self.sensor_task = Some(task);
    }

    fn input(&mut self, input: Input, say: &mut impl FnMut(Said<'_>)) -> Result<(), ServeError> {
        match input {
            Input::Machine(event) => self.step(event, say),
            Input::Sensor(number, Wire::Connected(out)) => {
                // A sensor that comes back takes the place of the connection that it left.
                if self.sensor.take().is_some() {
                    self.step(Event::SensorLost, say)?;
                }
                self.sensor = Some(Peer { number, out });
                self.step(Event::SensorConnected, say)
            }
            Input::Sensor(number, wire) => {
                if self
                    .sensor
                    .as_ref()
                    .is_none_or(|peer| peer.number != number)
                {
                    return Ok(());
                }
                match wire {
                    Wire::Message(message) => self.step(Event::SensorMessage(message), say),
                    Wire::Lost(_) | Wire::Connected(_) => {
                        self.sensor = None;
                        self.step(Event::SensorLost, say)
                    }
                }
            }
            Input::Gateway(number, _) if number != self.gateway_number => Ok(()),
            Input::Gateway(_, Wire::Connected(out)) => {
                self.gateway_out = Some(out);
                self.step(Event::GatewayConnected, say)
            }
            Input::Gateway(_, Wire::Message(message)) => {
                self.step(Event::GatewayMessage(message), say)
            }
            Input::Gateway(_, Wire::Lost(cause)) => {
                self.forget_gateway();
                self.step(Event::GatewayLost { cause }, say)
            }
        }
    }

    /// Nothing of the current connection is listened to any more.
    fn forget_gateway(&mut self) {
        self.gateway_number += 1;
        // Its task says good-bye by itself once nobody can give it anything to write.
        self.gateway_out = None;
    }

    fn step(&mut self, event: Event, say: &mut impl FnMut(Said<'_>)) -> Result<(), ServeError> {
        let actions = self
            .machine
            .handle(event, self.clock.now(), clock::random()?);
        for action in actions {
            match action {
                // A peer that is gone is noticed by its own task.
                Action::SendSensor(message) => {
                    if let Some(peer) = &self.sensor {
                        let _ = peer.out.send(Out::Message(message));
                    }
                }
                Action::SendGateway(message) => {
                    if let Some(out) = &self.gateway_out {
                        let _ = out.send(Out::Message(message));
                    }
                }
                Action::Post {
                    path,
                    signature,
                    body,
                } => self.post(path, signature, body),
                Action::Connect { path, signature } => self.connect(path, signature),
                Action::CloseGateway => self.forget_gateway(),
                Action::Understand {
                    utterance,
                    media,
                    typed,
                } => self.understand(utterance, &media, typed),
                Action::Report(report) => self.report(&report, say)?,
                Action::Stop => {
                    self.stopped = Some(self.last_error.clone());
                }
            }
        }
        Ok(())
    }

    fn report(
        &mut self,
        report: &Report,
        say: &mut impl FnMut(Said<'_>),
    ) -> Result<(), ServeError> {
        match report {
            Report::SessionOpened { session_id, .. } => {
                if let Some(path) = &self.session_out {
                    let written = std::fs::write(path, format!("{session_id}\n"));
                    written.map_err(|source| ServeError::File {
                        path: path.clone(),
                        source,
                    })?;
                }
            }
            Report::Sealed { .. } => self.sealed = true,
            Report::Error { message, .. } => {
                tracing::error!("{message}");
                self.last_error.clone_from(message);
            }
            _ => {}
        }
        say(Said::Report(report));
        Ok(())
    }

    fn post(&self, path: String, signature: String, body: Vec<u8>) {
        let (gateway, inputs) = (self.gateway.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let event = match gateway.post(&path, &signature, body).await {
                Ok((status, body)) => Event::Posted { status, body },
                Err(error) => Event::PostFailed {
                    cause: error.to_string(),
                },
            };
            let _ = inputs.send(Input::Machine(event));
        });
    }

    fn connect(&mut self, path: String, signature: String) {
        self.gateway_number += 1;
        let number = self.gateway_number;
        let (gateway, inputs) = (self.gateway.clone(), self.inputs.clone());
        let task = tokio::spawn(async move {
            let to_input = move |wire| Input::Gateway(number, wire);
            match gateway.stream(&path, &signature).await {
                Ok(socket) => talk(socket, inputs, to_input, Some(PING)).await,
                Err(error) => {
                    let _ = inputs.send(to_input(Wire::Lost(error.to_string())));
                }
            }
        });
        self.gateway_task = Some(task);
    }

    fn understand(&mut self, utterance: u64, media: &[Media], typed: Option<String>) {
        let mut heard = Heard {
            segments: self.transcriber_words(media, typed.is_some()),
            typed: typed.is_some(),
            ..Heard::default()
        };
        heard.segments.extend(typed);
        for capture in media {
            match capture.kind {
                halo_receipts::messages::CaptureKind::Image => heard.images += 1,
                halo_receipts::messages::CaptureKind::Gesture => heard.gestures += 1,
                halo_receipts::messages::CaptureKind::Audio => {}
            }
        }
        if heard.segments.is_empty() {
            heard.segments.extend(self.prompt.clone());
            heard.typed = true;
        }
        let (classifier, inputs) = (Arc::clone(&self.classifier), self.inputs.clone());
        tokio::spawn(async move {
            let understanding: Understanding = classifier.classify(&heard).await;
            let _ = inputs.send(Input::Machine(Event::Understood {
                utterance,
                understanding,
            }));
        });
    }

    fn transcriber_words(&mut self, media: &[Media], typed: bool) -> Vec<String> {
        if typed {
            Vec::new()
        } else {
            self.transcriber.transcribe(media)
        }
    }

    /// Lets both peers read what was sent, then closes.
    async fn close(mut self) {
        self.gateway_out = None;
        if let Some(peer) = self.sensor.take() {
            let _ = peer.out.send(Out::Close);
            if let Some(task) = self.sensor_task.take()
                && timeout(CLOSE_LIMIT, task).await.is_err()
            {
                tracing::warn!("the sensor did not read to the end");
            }
        }
        if let Some(task) = self.gateway_task.take() {
            let _ = timeout(CLOSE_LIMIT, task).await;
        }
    }
}

/// A page in a browser is never a sensor.
#[allow(clippy::result_large_err)] // The callback's type is the library's.
fn no_browser(request: &Request, response: Response) -> Result<Response, ErrorResponse> {
    if request.headers().contains_key("origin") {
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = http::StatusCode::FORBIDDEN;
        return Err(refusal);
    }
    Ok(response)
}

/// Carries messages between a socket and the loop until one of them ends. With `ping`, a peer that is silent for three
/// times as long is given up.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
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
