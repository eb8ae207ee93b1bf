//! What the gateway adds: to a token on its way from a warm pod, to a wake once a pod is ready, and in memory for a connection that is
//! idle. The limit of this machine stands beside each figure, measured in the same run.
//!
//! `cargo bench -p halo-gateway --bench gateway [-- tokens|wake|memory]`; without a name all three.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    missing_docs,
    reason = "a bench fails as a test does, prints what it measures, and uses a part of what the tests share"
)]

#[path = "../tests/it/author.rs"]
mod author;
#[path = "../tests/it/device.rs"]
mod device;
#[path = "../tests/it/pod.rs"]
mod pod;
#[path = "../tests/it/shifting.rs"]
mod shifting;
#[path = "../tests/it/world.rs"]
mod world;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use halo_gateway::config::Limits;
use halo_gateway::directory::{PodAddress, Stage};
use halo_gateway::substrate::small_buffers;
use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd, EscalateRequest};
use halo_receipts::fragment::{END_MAX, REQUEST_MAX, Reassembler, split};
use halo_receipts::frame::FrameType;
use halo_receipts::ids::{Epoch, Hash, SessionId, Tier};
use halo_receipts::keys::TierKey;
use halo_receipts::link::{End, Link};
use halo_receipts::messages::{Token, TokenOrNotice};
use halo_receipts::opening::{OpenAnswer, SESSIONS_PATH, SIGNATURE_HEADER, signature};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use crate::author::Author;
use crate::device::{Device, Heard};
use crate::shifting::{patient, policy, shifting};
use crate::world::{World, listener};

/// Answers at once, tokens a second of each, and for how long.
const STREAMS: u32 = 8;
const RATE: u32 = 125;
const SECONDS: u32 = 8;
/// How often a pod becomes ready.
const ROUNDS: u8 = 200;
/// Connections that are idle.
const IDLE: usize = 2_000;

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if runs("tokens") {
        runtime.block_on(tokens());
    }
    if runs("wake") {
        runtime.block_on(wake());
    }
    if runs("memory") {
        runtime.block_on(memory());
    }
}

/// The median, the 99th of a hundred and the longest of some times.
fn quantiles(mut times: Vec<Duration>) -> (Duration, Duration, Duration) {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    (at(50), at(99), at(100))
}

fn row(what: &str, (p50, p99, max): (Duration, Duration, Duration)) {
    println!("  {what:<44} p50 {p50:>9.1?}  p99 {p99:>9.1?}  max {max:>9.1?}");
}

/// A pod that streams at a measured pace. Each token's text is the time at which it was sent, in nanoseconds since `start`.
#[derive(Clone)]
struct Pace {
    start: Instant,
    /// Told when a request is whole; it is refused at once if it is only wanted for that.
    asked: Option<mpsc::UnboundedSender<Instant>>,
}

impl Pace {
    fn listen(self, listener: TcpListener) {
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                tokio::spawn(self.clone().serve(stream));
            }
        });
    }

    async fn serve(self, stream: TcpStream) {
        let mut path = String::new();
        #[expect(clippy::result_large_err, reason = "the library's own callback type")]
        let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            path = request.uri().path_and_query().unwrap().to_string();
            Ok(response)
        };
        let config = Some(small_buffers());
        let accepted = tokio_tungstenite::accept_hdr_async_with_config(stream, look, config).await;
        let Ok(mut socket) = accepted else { return };
        let value = |name: &str| {
            let pairs = path
                .split(['?', '&'])
                .filter_map(|pair| pair.split_once('='));
            let mut found = pairs.filter(|(key, _)| *key == name);
            found.next().unwrap().1.to_owned()
        };
        let session: SessionId = value("session").parse().unwrap();
        let author = Author::new(session, Epoch(value("epoch").parse().unwrap()));
        let mut link = Link::new(
            End::Substrate,
            session,
            Arc::new(author.key(Tier::Substrate)),
        );
        let mut incoming = Reassembler::new(REQUEST_MAX);
        let request = loop {
            match socket.next().await {
                Some(Ok(Message::Binary(frame))) => {
                    let frame = link.receive(&frame).unwrap();
                    if let Some(document) = incoming.push(frame.payload).unwrap() {
                        break EscalateRequest::parse(&document).unwrap();
                    }
                }
                Some(Ok(_)) => {}
                _ => return,
            }
        };
        let mut end =
            EscalateEnd::bare(request.request_id, EndStatus::Failed, EndCode::EngineFailed);
        if let Some(asked) = &self.asked {
            asked.send(Instant::now()).unwrap();
            end = EscalateEnd::bare(
                request.request_id,
                EndStatus::Refused,
                EndCode::ContextExceeded,
            );
        } else {
            let mut pace = interval(Duration::from_secs(1) / RATE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for step in 0..request.max_tokens {
                pace.tick().await;
                let token = Token {
                    step,
                    token_id: 1,
                    expert_load: Hash([1; 32]),
                    token_emit: Hash([2; 32]),
                    text: self.start.elapsed().as_nanos().to_string(),
                };
                let frame = link
                    .send(FrameType::EscalateToken, &token.encode().unwrap())
                    .unwrap();
                if socket.send(Message::Binary(frame.into())).await.is_err() {
                    return;
                }
            }
        }
        for payload in split(&end.to_json().unwrap(), END_MAX).unwrap() {
            let frame = link.send(FrameType::EscalateEnd, &payload).unwrap();
            let _ = socket.send(Message::Binary(frame.into())).await;
        }
        while let Some(Ok(_)) = socket.next().await {}
    }
}

fn late(start: Instant, token: &Token) -> Duration {
    let sent: u64 = token.text.parse().unwrap();
    start.elapsed().saturating_sub(Duration::from_nanos(sent))
}

/// Asks the stand-in as the gateway does, with nothing in between.
async fn direct(start: Instant, address: PodAddress, number: u8) -> Vec<Duration> {
    let session = SessionId::from_random([number; 16]);
    let mut author = Author::new(session, Epoch(1_900_000_000));
    let (capture, request) = (author.capture(), author::request_id(number));
    let routing = author.routing(request, "?");
    let mut question = author::infer(request, &[&capture, &routing], "?");
    question.max_tokens = RATE * SECONDS;
    let key = Arc::new(author.key(Tier::Substrate));
    let path = halo_receipts::opening::substrate_path(&author.tenant, &session, author.epoch, 0);
    let stream = TcpStream::connect(&address.0).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let url = format!("ws://{address}{path}");
    let dialled = tokio_tungstenite::client_async_with_config(url, stream, Some(small_buffers()));
    let (mut socket, _) = dialled.await.unwrap();
    let mut link = Link::new(End::GatewayToSubstrate, session, key);
    for payload in split(&question.to_json().unwrap(), REQUEST_MAX).unwrap() {
        let frame = link.send(FrameType::EscalateRequest, &payload).unwrap();
        socket.send(Message::Binary(frame.into())).await.unwrap();
    }
    let mut times = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(frame) = message else {
            continue;
        };
        let frame = link.receive(&frame).unwrap();
        if frame.typ != FrameType::EscalateToken {
            break;
        }
        if let TokenOrNotice::Token(token) = TokenOrNotice::decode(frame.payload).unwrap() {
            times.push(late(start, &token));
        }
    }
    times
}

async fn relayed(start: Instant, world: Arc<World>, number: u8) -> Vec<Duration> {
    let mut device = Device::new(&world).await;
    let mut question = device.question(number);
    question.max_tokens = RATE * SECONDS;
    device.send(&question).await;
    let mut times = Vec::new();
    loop {
        match device.hear().await {
            Heard::Token(token) => times.push(late(start, &token)),
            Heard::Notice(_) => {}
            _ => return times,
        }
    }
}

/// What a frame's worth of bytes takes over plain TCP at the same pace.
async fn loopback(start: Instant) -> Vec<Duration> {
    let port = listener().await;
    let address = port.local_addr().unwrap();
    let mut sender = TcpStream::connect(address).await.unwrap();
    let (mut receiver, _) = port.accept().await.unwrap();
    sender.set_nodelay(true).unwrap();
    tokio::spawn(async move {
        let mut pace = interval(Duration::from_secs(1) / RATE);
        for _ in 0..RATE * SECONDS {
            pace.tick().await;
            let mut frame = [0; 240];
            let sent = u64::try_from(start.elapsed().as_nanos()).unwrap();
            frame[..8].copy_from_slice(&sent.to_be_bytes());
            sender.write_all(&frame).await.unwrap();
        }
    });
    let (mut times, mut frame) = (Vec::new(), [0; 240]);
    while receiver.read_exact(&mut frame).await.is_ok() {
        let sent = u64::from_be_bytes(frame[..8].try_into().unwrap());
        times.push(start.elapsed().saturating_sub(Duration::from_nanos(sent)));
    }
    times
}

async fn all(mut tasks: JoinSet<Vec<Duration>>) -> Vec<Duration> {
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done.unwrap());
    }
    assert_eq!(times.len(), (STREAMS * RATE * SECONDS) as usize);
    times
}

async fn tokens() {
    println!(
        "a token's way from a warm pod, {STREAMS} answers, {} frames/s, {SECONDS} s each",
        STREAMS * RATE
    );
    let start = Instant::now();
    let port = listener().await;
    let address = PodAddress(port.local_addr().unwrap().to_string());
    Pace { start, asked: None }.listen(port);
    let limits = Limits {
        pod_close_ms: 1,
        ..patient()
    };
    let (world, directory) = shifting(policy(), limits).await;
    directory.pods(&[&address]);
    let world = Arc::new(world);
    let (mut plain, mut near, mut far) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    (0..STREAMS).for_each(|_| drop(plain.spawn(loopback(start))));
    let plain = quantiles(all(plain).await);
    (1..=STREAMS as u8).for_each(|number| drop(near.spawn(direct(start, address.clone(), number))));
    let near = quantiles(all(near).await);
    (1..=STREAMS as u8)
        .for_each(|number| drop(far.spawn(relayed(start, Arc::clone(&world), number))));
    let far = quantiles(all(far).await);
    row("240 bytes over plain TCP (the limit here)", plain);
    row("the pod dialled directly", near);
    row("through the gateway, over TLS", far);
    let added = far.1.saturating_sub(near.1);
    println!("  the gateway adds at p99: {added:.1?} (target: at most 1 ms)\n");
}

async fn wake() {
    println!("from the moment that a pod is listed until it has the held request, {ROUNDS} rounds");
    let port = listener().await;
    let address = PodAddress(port.local_addr().unwrap().to_string());
    let (send, mut asked) = mpsc::unbounded_channel();
    let pace = Pace {
        start: Instant::now(),
        asked: Some(send),
    };
    pace.listen(port);
    let (world, directory) = shifting(policy(), patient()).await;
    let mut device = Device::new(&world).await;
    let mut times = Vec::new();
    for number in 1..=ROUNDS {
        directory.stage(Stage::Loading);
        let question = device.question(number);
        device.send(&question).await;
        while directory.demand_now().waiting == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let ready = Instant::now();
        directory.pods(&[&address]);
        times.push(asked.recv().await.unwrap() - ready);
        assert_eq!(device.answer().await.1.code, EndCode::ContextExceeded);
    }
    let mut dials = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let stream = TcpStream::connect(&address.0).await.unwrap();
        let url = format!(
            "ws://{address}/?session={}&epoch=1",
            SessionId::from_random([1; 16])
        );
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        dials.push(begun.elapsed());
        drop(socket);
    }
    row(
        "a connection and an upgrade (the limit here)",
        quantiles(dials),
    );
    let times = quantiles(times);
    row("pod listed -> the pod has the request", times);
    println!("  at p99: {:.1?} (target: at most 50 ms)\n", times.1);
}

/// A gateway in a process of its own, which ends with this value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    fn rss(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim()
            .trim_end_matches(" kB")
            .parse::<usize>()
            .unwrap()
            * 1024
    }
}

/// Opens a session and its stream, and leaves it at that.
async fn idle(world: Arc<World>) -> TlsStream<TcpStream> {
    let answer = device::open(&world, SESSIONS_PATH, &device::open_request(), "").await;
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let answer: OpenAnswer = serde_json::from_str(body).unwrap();
    let key = TierKey::from_hex(&answer.tier_keys.orchestrator).unwrap();
    let signature = signature(&key, "GET", &answer.stream, b"");
    let request = format!(
        "GET {} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{SIGNATURE_HEADER}: {signature}\r\n\r\n",
        answer.stream
    );
    let mut stream = device::tls(&world).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    stream
}

async fn memory() {
    println!(
        "memory of a connection over TLS that is idle, {IDLE} of them, in a gateway of its own"
    );
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(at("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(at("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(at("root"), [7; 32]).unwrap();
    let config = format!(
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nledger = \"sqlite:{0}/ledger.db\"\n\
         [tls]\ncertificate = \"{0}/cert.pem\"\nkey = \"{0}/key.pem\"\n\
         [limits]\nfirst_frame_ms = 3600000\nping_ms = 3600000\npenalty_failures = 0\n[[tenants]]\nid = \"acme\"\n",
        folder.path().display()
    );
    std::fs::write(at("gateway.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_halo-gateway"));
    command.arg("serve").arg("--config").arg(at("gateway.toml"));
    command
        .arg("--demo-root")
        .arg(at("root"))
        .env("RUST_LOG", "error");
    let mut server = Server(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    let mut world = World::alone().await;
    world.address = told["addr"].as_str().unwrap().parse().unwrap();
    world.certificate = made.cert.der().clone();
    let world = Arc::new(world);
    let mut open = Vec::new();
    // What is allocated once is not a connection's.
    for _ in 0..50 {
        open.push(idle(Arc::clone(&world)).await);
    }
    let before = server.rss();
    let mut tasks = JoinSet::new();
    while open.len() + tasks.len() < IDLE + 50 {
        tasks.spawn(idle(Arc::clone(&world)));
        if tasks.len() >= 16 {
            open.push(tasks.join_next().await.unwrap().unwrap());
        }
    }
    while let Some(stream) = tasks.join_next().await {
        open.push(stream.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = server.rss();
    let each = after.saturating_sub(before) / IDLE;
    println!(
        "  before {} MB, after {} MB: {:.1} KB a connection (target: at most 16 KB)",
        before >> 20,
        after >> 20,
        each as f64 / 1024.0
    );
    drop(open);
}
