//! The two programs' edges over real sockets: the sensor at the phone's WebSocket, the phone at a fake gateway behind TLS.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use halo_emulators::tier0::machine::Capture;
use halo_emulators::tier0::run::{self, RunError};
use halo_emulators::tier0::{sample, sound, wav};
use halo_emulators::tier1::classifier::Rules;
use halo_emulators::tier1::client::Gateway;
use halo_emulators::tier1::serve::{self, Options, Said, ServeError};
use halo_emulators::tier1::transcribe::Fixed;
use halo_receipts::keys::PairingKey;
use halo_receipts::messages::Gesture;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use crate::fake::FakeGateway;
use crate::world::config;

/// Nothing here takes long; a test that hangs is one that failed.
pub const LIMIT: Duration = Duration::from_secs(60);

type Shared = Arc<Mutex<FakeGateway>>;

/// What the wearer sees.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What came of a conversation.
struct Told {
    /// The phone's reports.
    reports: Vec<Value>,
    served: Result<(), ServeError>,
    played: Vec<i16>,
    shown: String,
}

/// The fake gateway at a TLS port of this machine.
pub struct Server {
    pub fake: Shared,
    pub url: String,
    pub ca: PathBuf,
    folder: TempDir,
}

pub fn now() -> halo_receipts::time::Timestamp {
    halo_emulators::edge::clock::Clock::start().unwrap().now()
}

impl Server {
    pub async fn start(fake: FakeGateway) -> Self {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, certified.cert.pem()).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(
            certified.signing_key.serialize_der(),
        ));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "https://localhost:{}",
            listener.local_addr().unwrap().port()
        );
        let fake = Arc::new(Mutex::new(fake));
        let shared = Arc::clone(&fake);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    if let Ok(socket) = acceptor.accept(socket).await {
                        talk(socket, shared).await;
                    }
                });
            }
        });
        Self {
            fake,
            url,
            ca,
            folder,
        }
    }

    /// Runs phone and sensor until both are done.
    async fn converse(&self, captures: Vec<Capture>, tamper_frame: Option<u32>) -> Told {
        let phone = Options {
            config: config(&self.fake.lock().unwrap()),
            gateway: Gateway::new(&self.url, &self.ca).unwrap(),
            listen: "127.0.0.1:0".parse().unwrap(),
            transcriber: Box::new(Fixed("What is sovereign inference?".to_owned())),
            prompt: None,
            classifier: Arc::new(Rules),
            once: true,
            session_out: Some(self.folder.path().join("session_id")),
            clock_offset: 0,
        };
        let screen = Screen::default();
        let audio_out = self.folder.path().join("played.wav");
        let (address, listening) = oneshot::channel();
        let mut address = Some(address);
        let mut reports = Vec::new();
        let say = |said: Said<'_>| match said {
            Said::Listening(found) => address.take().unwrap().send(found).unwrap(),
            Said::Report(report) => reports.push(serde_json::to_value(report).unwrap()),
        };
        let sensor = async {
            let address = listening.await.unwrap();
            let options = run::Options {
                connect: format!("ws://{address}"),
                pairing: PairingKey::from_bytes([3; 32]),
                captures,
                tamper_frame,
                battery: 100,
                audio_out: Some(audio_out.clone()),
                state: Some(self.folder.path().join("sensor")),
                give_up: LIMIT,
                clock_offset: 0,
                json: false,
                out: Box::new(screen.clone()),
            };
            run::run(options).await
        };
        let both = async { tokio::join!(serve::serve(phone, say, std::future::pending()), sensor) };
        let (served, sensed) = tokio::time::timeout(LIMIT, both).await.expect("it ends");
        sensed.unwrap();
        let played =
            wav::read(&std::fs::read(&audio_out).unwrap()).map_or(Vec::new(), |wav| wav.samples);
        let shown = String::from_utf8(screen.0.lock().unwrap().clone()).unwrap();
        Told {
            reports,
            served,
            played,
            shown,
        }
    }
}

/// Serves one connection: a POST, or a WebSocket.
async fn talk(mut socket: TlsStream<TcpStream>, fake: Shared) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let split = head.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    let mut body = head.split_off(split);
    let head = String::from_utf8(head).unwrap();
    let field = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
    };
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let signature = field("halo-signature").unwrap();
    fake.lock().unwrap().now = now();
    if head.starts_with("POST") {
        let length: usize = field("content-length").unwrap().parse().unwrap();
        while body.len() < length {
            socket.read_buf(&mut body).await.unwrap();
        }
        let (status, answer) = fake.lock().unwrap().post(&path, &signature, &body);
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        socket
            .write_all(&[head.as_bytes(), &answer].concat())
            .await
            .unwrap();
        let _ = socket.shutdown().await;
        return;
    }
    assert!(fake.lock().unwrap().connect(&path, &signature), "{path}");
    let accept = derive_accept_key(field("sec-websocket-key").unwrap().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n"
    );
    socket.write_all(answer.as_bytes()).await.unwrap();
    let mut socket = WebSocketStream::from_raw_socket(socket, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(bytes) = message else {
            continue;
        };
        let (frames, cut) = {
            let mut fake = fake.lock().unwrap();
            fake.now = now();
            let cutting = fake.faults.cut_after.is_some();
            let frames = fake.message(&bytes);
            (frames, cutting && fake.faults.cut_after.is_none())
        };
        for frame in frames {
            if socket.send(Message::binary(frame)).await.is_err() {
                return;
            }
        }
        if cut {
            // The machine dies in the middle of the answer, or says that it is about to.
            let code = fake.lock().unwrap().faults.close_with;
            if let Some(code) = code {
                let close = CloseFrame {
                    code: code.into(),
                    reason: "draining".into(),
                };
                let _ = socket.close(Some(close)).await;
            }
            return;
        }
    }
}

fn names(reports: &[Value]) -> Vec<&str> {
    reports
        .iter()
        .map(|report| report["event"].as_str().unwrap())
        .collect()
}

fn find<'a>(reports: &'a [Value], name: &str) -> &'a Value {
    reports
        .iter()
        .find(|report| report["event"] == name)
        .unwrap_or_else(|| panic!("no {name} in {reports:?}"))
}

fn spoken() -> Vec<Capture> {
    let recording = wav::read(&sample::speech()).unwrap();
    let found = sound::captures(&recording, &sound::VoiceDetection::default());
    found.into_iter().map(Capture::Audio).collect()
}

#[tokio::test]
async fn a_spoken_question_from_wav_to_seal() {
    let server = Server::start(FakeGateway::new(now())).await;
    let Told {
        reports,
        served,
        played,
        shown,
    } = server.converse(spoken(), None).await;
    served.unwrap();
    assert_eq!(shown, "Your model and keys stay yours.\n");
    assert_eq!(played.len(), 1920, "the tone at the end of the answer");
    let fake = server.fake.lock().unwrap();
    let (kinds, sealed) = fake.audit(&fake.order[0]);
    assert_eq!(kinds, ["capture", "capture", "escalate", "sealed"]);
    assert!(sealed);
    let session = find(&reports, "session_opened")["session_id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        std::fs::read_to_string(server.folder.path().join("session_id")).unwrap(),
        format!("{session}\n")
    );
    assert_eq!(
        find(&reports, "answer")["text"],
        "Your model and keys stay yours."
    );
    assert_eq!(names(&reports).last(), Some(&"sealed"));
}

#[tokio::test]
async fn a_frame_that_is_tampered_with_in_flight() {
    let server = Server::start(FakeGateway::new(now())).await;
    let Told {
        reports,
        served,
        shown,
        ..
    } = server
        .converse(vec![Capture::Image(sample::picture())], Some(20))
        .await;
    served.unwrap();
    let expected = "
SECURITY ALERT - CHAIN BROKEN

READY TO RE-LINK
Your model and keys stay yours.
";
    assert_eq!(shown, expected);
    let epoch = find(&reports, "relinked")["session_epoch"].to_string();
    let remembered = std::fs::read_to_string(server.folder.path().join("sensor")).unwrap();
    assert_eq!(remembered.trim(), epoch);
    assert_eq!(find(&reports, "chain_broken")["first_bad"], 19);
    assert_eq!(find(&reports, "chain_broken")["reason"], "hmac");
    let fake = server.fake.lock().unwrap();
    let (kinds, sealed) = fake.audit(&fake.order[0]);
    assert_eq!(
        kinds,
        ["verification_failed", "capture", "escalate", "sealed"]
    );
    assert!(sealed);
    let order = [
        "session_opened",
        "chain_broken",
        "epoch_opened",
        "relinked",
        "capture_verified",
        "routed",
    ];
    assert_eq!(&names(&reports)[..6], order);
}

#[tokio::test]
async fn a_gateway_that_dies_in_the_middle_of_an_answer() {
    let mut fake = FakeGateway::new(now());
    fake.faults.cut_after = Some(3);
    let server = Server::start(fake).await;
    let Told {
        reports,
        served,
        shown,
        ..
    } = server
        .converse(vec![Capture::Gesture(Gesture::Tap)], None)
        .await;
    served.unwrap();
    assert_eq!(
        shown,
        "Your model and keys stay yours.
"
    );
    assert!(names(&reports).contains(&"retry"), "{reports:?}");
    assert_eq!(
        find(&reports, "answer")["text"],
        "Your model and keys stay yours."
    );
    let fake = server.fake.lock().unwrap();
    assert!(fake.audit(&fake.order[0]).1);
}

/// A phone that runs until `until` reports come, without a sensor.
async fn alone(
    gateway: Gateway,
    config_of: &FakeGateway,
    until: &'static str,
) -> (Vec<Value>, Result<(), ServeError>) {
    let options = Options {
        config: config(config_of),
        gateway,
        listen: "127.0.0.1:0".parse().unwrap(),
        transcriber: Box::new(Fixed(String::new())),
        prompt: None,
        classifier: Arc::new(Rules),
        once: false,
        session_out: None,
        clock_offset: 0,
    };
    let (found, end) = oneshot::channel();
    let mut found = Some(found);
    let mut reports = Vec::new();
    let say = |said: Said<'_>| {
        if let Said::Report(report) = said {
            let report = serde_json::to_value(report).unwrap();
            if report["event"] == until
                && let Some(found) = found.take()
            {
                found.send(()).unwrap();
            }
            reports.push(report);
        }
    };
    // A sender that is dropped ends nothing: the phone has to end by itself then.
    let end = async {
        if end.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let served = tokio::time::timeout(LIMIT, serve::serve(options, say, end))
        .await
        .expect("it ends");
    (reports, served)
}

#[tokio::test]
async fn a_gateway_that_nobody_vouches_for_is_not_talked_to() {
    let server = Server::start(FakeGateway::new(now())).await;
    let other = Server::start(FakeGateway::new(now())).await;
    let gateway = Gateway::new(&server.url, &other.ca).unwrap();
    let (reports, served) = alone(gateway, &FakeGateway::new(now()), "retry").await;
    served.unwrap();
    assert!(
        find(&reports, "retry")["cause"]
            .as_str()
            .unwrap()
            .contains("certificate"),
        "{reports:?}"
    );
    assert!(server.fake.lock().unwrap().order.is_empty());
}

#[tokio::test]
async fn a_refused_device_is_told_what_to_look_at() {
    let server = Server::start(FakeGateway::new(now())).await;
    let gateway = Gateway::new(&server.url, &server.ca).unwrap();
    // The same answer for a wrong key, a revoked device and a clock that is five minutes off.
    let mut stranger = FakeGateway::new(now());
    stranger.root(9);
    let (reports, served) = alone(gateway, &stranger, "never").await;
    let Err(ServeError::Stopped(message)) = served else {
        panic!("it went on")
    };
    assert!(
        message.contains("HTTP 401") && message.contains("clock"),
        "{message}"
    );
    assert_eq!(find(&reports, "error")["code"], "session_refused");
}

/// Whoever knocks at the phone's port: a page in a browser is turned away, and noise changes nothing.
#[tokio::test]
async fn strangers_at_the_sensors_port() {
    let server = Server::start(FakeGateway::new(now())).await;
    let gateway = Gateway::new(&server.url, &server.ca).unwrap();
    let options = Options {
        config: config(&server.fake.lock().unwrap()),
        gateway,
        listen: "127.0.0.1:0".parse().unwrap(),
        transcriber: Box::new(Fixed(String::new())),
        prompt: None,
        classifier: Arc::new(Rules),
        once: false,
        session_out: None,
        clock_offset: 0,
    };
    let (address, listening) = oneshot::channel();
    let mut address = Some(address);
    let say = |said: Said<'_>| {
        if let Said::Listening(found) = said {
            address.take().unwrap().send(found).unwrap();
        }
    };
    let strangers = async {
        let address = listening.await.unwrap();
        let request = |origin: &str| {
            format!(
                "GET / HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n{origin}sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
        };
        for (origin, status) in [("origin: http://evil.example\r\n", "403"), ("", "101")] {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(request(origin).as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            while !answer.contains(&b'\n') {
                socket.read_buf(&mut answer).await.unwrap();
            }
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
        }
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket
            .write_all(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            .await
            .unwrap();
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
    };
    tokio::select! {
        _ = serve::serve(options, say, std::future::pending()) => panic!("the phone ended"),
        () = strangers => {}
    }
}

#[tokio::test]
async fn a_sensor_without_a_phone_gives_up() {
    // A port that was free a moment ago.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let options = run::Options {
        connect: format!("ws://{address}"),
        pairing: PairingKey::from_bytes([3; 32]),
        captures: Vec::new(),
        tamper_frame: None,
        battery: 100,
        audio_out: None,
        state: None,
        give_up: Duration::ZERO,
        clock_offset: 0,
        json: true,
        out: Box::new(Screen::default()),
    };
    let Err(RunError::Unreachable { url, .. }) = run::run(options).await else {
        panic!("reached")
    };
    assert!(url.contains("ws://127.0.0.1"));
}
