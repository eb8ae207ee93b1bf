//! The phone at its sockets: a local WebSocket for the sensor, TLS to the gateway, and the machine between them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::accept_hdr_async_with_config;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::edge::clock::ClockError;
use crate::tier1::classifier::Classifier;
use crate::tier1::client::{ClientError, Gateway};
use crate::tier1::machine::{Config, Event};
use crate::tier1::phone::{Parts, Phone};
use crate::tier1::report::Report;
use crate::tier1::transcribe::Transcriber;
use crate::tier1::wire::{CLOSE_LIMIT, Input, talk};

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
    /// By how many seconds the phone's clock is before the machine's.
    pub clock_offset: i64,
}

/// What the phone tells while it runs.
pub enum Said<'a> {
    /// It listens for the sensor here.
    Listening(SocketAddr),
    /// The machine reports.
    Report(&'a Report),
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
    let (mut phone, mut incoming) = Phone::new(Parts {
        config: options.config,
        gateway: options.gateway,
        transcriber: options.transcriber,
        prompt: options.prompt,
        classifier: options.classifier,
        session_out: options.session_out,
        clock_offset: options.clock_offset,
    })?;
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
        let wake = phone.wake();
        tokio::select! {
            () = &mut end => break Ok(()),
            input = incoming.recv() => if let Some(input) = input {
                phone.input(input, &mut say)?;
            },
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    sensors += 1;
                    phone.sensor_task = Some(accept(phone.inputs.clone(), sensors, socket));
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

fn accept(inputs: UnboundedSender<Input>, number: u64, socket: TcpStream) -> JoinHandle<()> {
    tokio::spawn(async move {
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
    })
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
