//! A device: opens sessions over TLS, holds a stream, asks and seals.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd, EscalateRequest, Notice};
use halo_receipts::fragment::{END_MAX, REQUEST_MAX, Reassembler, split};
use halo_receipts::frame::FrameType;
use halo_receipts::ids::{SessionId, Tier};
use halo_receipts::keys::{TenantKeys as _, TierKey};
use halo_receipts::link::{End, Link};
use halo_receipts::messages::{Token, TokenOrNotice};
use halo_receipts::opening::{
    Nonce, OpenAnswer, OpenRequest, SESSIONS_PATH, SIGNATURE_HEADER, epochs_path, signature,
};
use halo_receipts::payload::AnswerStatus;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::author::{Author, keys, tenant};
use crate::world::World;

/// Longer than any bound of the gateway that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn tls(world: &World) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(world.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(world.address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector
        .connect("localhost".try_into().unwrap(), stream)
        .await
        .unwrap()
}

/// Writes raw bytes and reads until the server closes or has sent a whole head and body.
pub async fn exchange(world: &World, request: &[u8]) -> String {
    let mut stream = tls(world).await;
    // The server may close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(read @ 1..)) = timeout(PATIENCE, stream.read(&mut buffer)).await {
        answer.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(answer).unwrap()
}

/// The head and body of a `POST`.
pub fn post(path: &str, body: &[u8], headers: &str) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub fn open_request() -> OpenRequest {
    OpenRequest {
        tenant_id: tenant(),
        device_id: "phone-1".parse().unwrap(),
        device_generation: 1,
        timestamp: halo_gateway::system::now().unwrap(),
        nonce: Nonce(halo_gateway::system::random().unwrap()),
    }
}

/// Signs with the device's key and asks.
pub async fn open(world: &World, path: &str, request: &OpenRequest, headers: &str) -> String {
    let body = serde_json::to_vec(request).unwrap();
    let key = keys().device_key(
        &request.tenant_id,
        &request.device_id,
        request.device_generation,
    );
    let signature = signature(&key.unwrap(), "POST", path, &body);
    let headers = format!("{SIGNATURE_HEADER}: {signature}\r\n{headers}");
    exchange(world, &post(path, &body, &headers)).await
}

fn opened(answer: &str) -> OpenAnswer {
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// A device with a stream.
pub struct Device {
    pub author: Author,
    pub socket: WebSocketStream<TlsStream<TcpStream>>,
    pub link: Link,
    pub stream: String,
    incoming: Reassembler,
}

/// What a device was sent.
#[derive(Debug)]
pub enum Heard {
    Token(Token),
    Notice(Notice),
    End(EscalateEnd),
    Closed(Option<CloseCode>),
}

pub async fn upgrade(
    world: &World,
    path: &str,
    key: &TierKey,
    headers: &[(&'static str, &str)],
) -> Result<WebSocketStream<TlsStream<TcpStream>>, u16> {
    let mut request = format!("wss://localhost{path}")
        .into_client_request()
        .unwrap();
    let signature = signature(key, "GET", path, b"");
    request
        .headers_mut()
        .insert(SIGNATURE_HEADER, signature.parse().unwrap());
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match tokio_tungstenite::client_async(request, tls(world).await).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

impl Device {
    /// A new session and its stream.
    pub async fn new(world: &World) -> Self {
        let answer = opened(&open(world, SESSIONS_PATH, &open_request(), "").await);
        Self::connect(world, answer).await
    }

    /// A new session without its stream.
    pub async fn opens(world: &World) -> OpenAnswer {
        opened(&open(world, SESSIONS_PATH, &open_request(), "").await)
    }

    /// A new epoch of a session without its stream.
    pub async fn opens_again(world: &World, before: &Author) -> OpenAnswer {
        opened(&open(world, &epochs_path(&before.session), &open_request(), "").await)
    }

    /// A new epoch of a session and its stream; the chain so far comes from the old connection.
    pub async fn again(world: &World, before: Author) -> Self {
        let path = epochs_path(&before.session);
        let answer = opened(&open(world, &path, &open_request(), "").await);
        assert!(answer.session_epoch > before.epoch);
        let mut device = Self::connect(world, answer).await;
        device.author.d = before.d;
        device.author.s = before.s;
        device.author.captures = before.captures;
        device
    }

    async fn connect(world: &World, answer: OpenAnswer) -> Self {
        let mut author = Author::new(answer.session_id, answer.session_epoch);
        author.content = answer.content;
        assert!(answer.demo_root);
        let key = TierKey::from_hex(&answer.tier_keys.orchestrator).unwrap();
        assert_eq!(key.expose(), author.key(Tier::Orchestrator).expose());
        let socket = upgrade(world, &answer.stream, &key, &[]).await.unwrap();
        let link = Link::new(End::OrchestratorToGateway, answer.session_id, Arc::new(key));
        Self {
            author,
            socket,
            link,
            stream: answer.stream.clone(),
            incoming: Reassembler::new(END_MAX),
        }
    }

    pub fn session(&self) -> SessionId {
        self.author.session
    }

    pub async fn send(&mut self, request: &EscalateRequest) {
        for payload in split(&request.to_json().unwrap(), REQUEST_MAX).unwrap() {
            let frame = self
                .link
                .send(FrameType::EscalateRequest, &payload)
                .unwrap();
            self.raw(frame).await;
        }
    }

    pub async fn raw(&mut self, message: Vec<u8>) {
        self.socket
            .send(Message::Binary(message.into()))
            .await
            .unwrap();
    }

    /// What comes next, pings aside.
    pub async fn hear(&mut self) -> Heard {
        loop {
            let message = timeout(PATIENCE, self.socket.next())
                .await
                .expect("something comes");
            let frame = match message {
                Some(Ok(Message::Binary(frame))) => frame,
                Some(Ok(Message::Close(frame))) => {
                    return Heard::Closed(frame.map(|frame| frame.code));
                }
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return Heard::Closed(None),
            };
            let frame = self.link.receive(&frame).unwrap();
            if frame.typ == FrameType::Backpressure {
                continue;
            }
            if frame.typ == FrameType::EscalateToken {
                return match TokenOrNotice::decode(frame.payload).unwrap() {
                    TokenOrNotice::Token(token) => Heard::Token(token),
                    TokenOrNotice::Notice(notice) => Heard::Notice(notice),
                };
            }
            if let Some(document) = self.incoming.push(frame.payload).unwrap() {
                return Heard::End(EscalateEnd::parse(&document).unwrap());
            }
        }
    }

    /// The next token; notices are passed over.
    pub async fn token(&mut self) -> Token {
        loop {
            match self.hear().await {
                Heard::Token(token) => return token,
                Heard::Notice(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The tokens until the end, and the end.
    pub async fn answer(&mut self) -> (Vec<Token>, EscalateEnd) {
        let mut tokens = Vec::new();
        loop {
            match self.hear().await {
                Heard::Token(token) => tokens.push(token),
                Heard::Notice(_) => {}
                Heard::End(end) => return (tokens, end),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The code with which the gateway closes.
    pub async fn closed(&mut self) -> Option<CloseCode> {
        loop {
            if let Heard::Closed(code) = self.hear().await {
                return code;
            }
        }
    }
}

impl Device {
    /// A question as the device writes it: a capture, the decision to escalate, the prompt.
    pub fn question(&mut self, number: u8) -> EscalateRequest {
        let prompt = format!("Question {number}?");
        let request = crate::author::request_id(number);
        let capture = self.author.capture();
        let routing = self.author.routing(request, &prompt);
        crate::author::infer(request, &[&capture, &routing], &prompt)
    }

    /// Enters what tier 2 wrote, as tokens and end tell it, and seals the session.
    pub fn seal(&mut self, tokens: &[Token], end: &EscalateEnd) -> EscalateRequest {
        for token in tokens {
            self.author.s.extend([token.expert_load, token.token_emit]);
        }
        let response = &end.receipts[0];
        self.author.s.push(response.hash());
        let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
        let status = match end.status {
            EndStatus::Ok => AnswerStatus::Ok,
            _ => AnswerStatus::Interrupted,
        };
        let seal = self.author.seal(response.as_parent(), status, &text);
        crate::author::record(end.request_id, &[&seal])
    }

    /// Seals and hears that the seal is in the ledger, which the gateway allows for the right one only.
    pub async fn seals(&mut self, tokens: &[Token], end: &EscalateEnd) {
        let seal = self.seal(tokens, end);
        self.send(&seal).await;
        let (_, end) = self.answer().await;
        assert_eq!((end.status, end.code), (EndStatus::Recorded, EndCode::Ok));
    }
}

pub fn text(tokens: &[Token]) -> String {
    tokens.iter().map(|token| token.text.as_str()).collect()
}

pub fn steps(tokens: &[Token]) -> Vec<u32> {
    tokens.iter().map(|token| token.step).collect()
}
