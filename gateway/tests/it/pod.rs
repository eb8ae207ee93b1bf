//! A substrate pod: a real WebSocket server that checks its gateway, writes real receipts and streams what a test lets it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt as _, StreamExt as _};
use halo_ledger::Ledger;
use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd, EscalateRequest};
use halo_receipts::evidence::{Block, Claim, ClaimKind, Record as _, Stream};
use halo_receipts::fragment::{END_MAX, REQUEST_MAX, Reassembler, split};
use halo_receipts::frame::FrameType;
use halo_receipts::ids::{Epoch, Hash, RequestId, SessionId, Tier};
use halo_receipts::link::{End, Link};
use halo_receipts::messages::Token;
use halo_receipts::opening::{SIGNATURE_HEADER, signature_is_valid, substrate_path};
use halo_receipts::payload::{ContentPolicy, V1, to_raw};
use halo_receipts::time::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_util::sync::CancellationToken;

use crate::author::{Author, Written};

/// The words of every answer.
pub const WORDS: [&str; 5] = ["Bay ", "seven ", "holds ", "forty ", "pallets."];

/// How the pod goes about an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// All of it.
    Whole,
    /// Its process dies after so many tokens, whose receipts are durable.
    Dies(u32),
    /// It signs with another key.
    Impostor,
    /// It does not know the gateway.
    Stranger,
    /// All of an answer of so many long tokens.
    Long(usize),
    /// It sends tokens as fast as the link takes them, and writes nothing.
    Flood,
    /// It refuses every request with this code.
    Refuses(EndCode),
}

/// What a pod was asked and how.
pub struct Pod {
    pub upgrades: Arc<AtomicU32>,
    pub requests: Arc<AtomicU32>,
    pub cancelled: Arc<AtomicU32>,
    /// Each token takes a permit.
    pub tokens: Arc<Semaphore>,
    /// The requests in the order in which they came.
    pub asked: Arc<Mutex<Vec<RequestId>>>,
    /// Whether it says that it has no room.
    pub full: Arc<AtomicBool>,
    /// An epoch that is not its session's last one any more.
    pub left: Arc<AtomicU32>,
    killed: CancellationToken,
}

impl Pod {
    /// Its process ends: nothing is closed, nothing listens any more.
    pub fn kill(&self) {
        self.killed.cancel();
    }
}

#[derive(Clone)]
struct Inside {
    manner: Manner,
    ledger: Arc<dyn Ledger>,
    content: ContentPolicy,
    upgrades: Arc<AtomicU32>,
    requests: Arc<AtomicU32>,
    cancelled: Arc<AtomicU32>,
    tokens: Arc<Semaphore>,
    asked: Arc<Mutex<Vec<RequestId>>>,
    full: Arc<AtomicBool>,
    left: Arc<AtomicU32>,
}

impl Pod {
    /// A pod on a port that was taken before, so that a gateway can be told of it before it listens.
    pub fn start(
        listener: TcpListener,
        manner: Manner,
        ledger: Arc<dyn Ledger>,
        content: ContentPolicy,
        permits: usize,
    ) -> Self {
        let inside = Inside {
            manner,
            ledger,
            content,
            upgrades: Arc::default(),
            requests: Arc::default(),
            cancelled: Arc::default(),
            tokens: Arc::new(Semaphore::new(permits)),
            asked: Arc::default(),
            full: Arc::default(),
            left: Arc::default(),
        };
        let pod = Pod {
            upgrades: Arc::clone(&inside.upgrades),
            requests: Arc::clone(&inside.requests),
            cancelled: Arc::clone(&inside.cancelled),
            tokens: Arc::clone(&inside.tokens),
            asked: Arc::clone(&inside.asked),
            full: Arc::clone(&inside.full),
            left: Arc::clone(&inside.left),
            killed: CancellationToken::new(),
        };
        let killed = pod.killed.clone();
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = killed.cancelled() => return,
                };
                let serve = inside.clone().serve(stream);
                let killed = killed.clone();
                tokio::spawn(async move { killed.run_until_cancelled(serve).await });
            }
        });
        pod
    }
}

/// Reads what [`substrate_path`] writes.
fn parse(path: &str) -> (SessionId, Epoch, u32) {
    let query = path.split_once('?').unwrap().1;
    let value = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut found = pairs.filter(|(key, _)| *key == name);
        found.next().unwrap().1.to_owned()
    };
    let epoch = Epoch(value("epoch").parse().unwrap());
    (
        value("session").parse().unwrap(),
        epoch,
        value("link").parse().unwrap(),
    )
}

impl Inside {
    async fn serve(self, stream: TcpStream) {
        let mut path = String::new();
        let mut header = Vec::new();
        let refuse = match (self.manner, self.full.load(Ordering::SeqCst)) {
            (Manner::Stranger, _) => Some(StatusCode::UNAUTHORIZED),
            (_, true) => Some(StatusCode::SERVICE_UNAVAILABLE),
            (_, false) => None,
        };
        #[expect(clippy::result_large_err, reason = "the library's own callback type")]
        let look = |request: &Request, response: Response| {
            path = request.uri().path_and_query().unwrap().to_string();
            header = request.headers()[SIGNATURE_HEADER].as_bytes().to_vec();
            let (_, epoch, _) = parse(&path);
            let left = epoch.0 == self.left.load(Ordering::SeqCst);
            if let Some(status) = refuse.or(left.then_some(StatusCode::NOT_FOUND)) {
                let mut denied = ErrorResponse::new(None);
                *denied.status_mut() = status;
                return Err(denied);
            }
            Ok(response)
        };
        self.upgrades.fetch_add(1, Ordering::SeqCst);
        let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, look).await else {
            return;
        };
        let (session, epoch, link) = parse(&path);
        let mut author = Author::new(session, epoch);
        author.content = self.content;
        author.counter = u64::from(link + 1) * 1_000_000;
        let key = author.key(Tier::Substrate);
        assert_eq!(path, substrate_path(&author.tenant, &session, epoch, link));
        assert!(signature_is_valid(&key, "GET", &path, b"", &header));
        let claim = Claim {
            v: V1,
            kind: ClaimKind::SubstrateLink,
            session_id: session,
            session_epoch: epoch,
            link,
            claimed_by: "pod".to_owned(),
            claimed_at: Timestamp::from_micros(u64::from(epoch.0) * 1_000_000).unwrap(),
        };
        let claim = claim.sign(&author.key(Tier::Orchestrator)).unwrap();
        self.ledger.claim(&claim).await.unwrap();
        let signer = match self.manner {
            Manner::Impostor => author.key(Tier::Sensor),
            _ => key,
        };
        // The impostor still reads what it is sent.
        let mut receiving = Link::new(
            End::Substrate,
            session,
            Arc::new(author.key(Tier::Substrate)),
        );
        let mut sending = Link::new(End::Substrate, session, Arc::new(signer));
        let mut incoming = Reassembler::new(REQUEST_MAX);
        let document = loop {
            match socket.next().await {
                Some(Ok(Message::Binary(frame))) => {
                    let frame = receiving.receive(&frame).unwrap();
                    if let Some(document) = incoming.push(frame.payload).unwrap() {
                        break document;
                    }
                }
                Some(Ok(_)) => {}
                _ => return,
            }
        };
        let request = EscalateRequest::parse(&document).unwrap();
        self.asked.lock().unwrap().push(request.request_id);
        self.requests.fetch_add(1, Ordering::SeqCst);
        let routing = request.receipts.last().unwrap().as_parent();
        let first = self
            .ledger
            .session(&session)
            .await
            .unwrap()
            .unwrap()
            .next_substrate;
        if self.manner == Manner::Flood {
            return self
                .flood(&mut socket, &mut sending, request.max_tokens)
                .await;
        }
        let long = "x".repeat(Token::TEXT_MAX);
        if let Manner::Refuses(code) = self.manner {
            let refusal = EscalateEnd {
                retry_after_ms: Some(500),
                ..EscalateEnd::bare(request.request_id, EndStatus::Refused, code)
            };
            return Self::end(&mut socket, &mut sending, &refusal).await;
        }
        let texts = match self.manner {
            Manner::Long(count) => vec![long.as_str(); count],
            _ => WORDS.to_vec(),
        };
        let (mut parent, mut members) = (routing, Vec::new());
        for (step, &text) in (0u32..).zip(&texts) {
            if self.manner == Manner::Dies(step) {
                return;
            }
            let permit = tokio::select! {
                permit = self.tokens.acquire() => permit,
                message = socket.next() => {
                    // Anything but a ping ends the answer, as the end of a link does.
                    if matches!(message, Some(Ok(Message::Ping(_)))) {
                        self.tokens.acquire().await
                    } else {
                        self.cancelled.fetch_add(1, Ordering::SeqCst);
                        self.close(&mut author, &request, &members, first, &texts).await;
                        return;
                    }
                }
            };
            permit.unwrap().forget();
            let (written, token) = author.step(step, parent, text);
            parent = written[0].receipt.as_parent();
            self.append(session, first + members.len() as u32, &written)
                .await;
            members.extend(written);
            let payload = token.encode().unwrap();
            let frame = sending.send(FrameType::EscalateToken, &payload).unwrap();
            if socket.send(Message::Binary(frame.into())).await.is_err() {
                return;
            }
        }
        let last = members.last().unwrap().receipt.as_parent();
        let answer = author.answer(request.request_id, last, first, &members, &texts.concat());
        self.append(
            session,
            first + members.len() as u32,
            std::slice::from_ref(&answer),
        )
        .await;
        let end = EscalateEnd {
            receipts: vec![answer.receipt],
            payloads: vec![Some(to_raw(&answer.payload.unwrap()).unwrap())],
            ..EscalateEnd::bare(request.request_id, EndStatus::Ok, EndCode::Ok)
        };
        Self::end(&mut socket, &mut sending, &end).await;
    }

    /// Sends the end, and stays until the gateway closes.
    async fn end(socket: &mut WebSocketStream<TcpStream>, sending: &mut Link, end: &EscalateEnd) {
        for payload in split(&end.to_json().unwrap(), END_MAX).unwrap() {
            let frame = sending.send(FrameType::EscalateEnd, &payload).unwrap();
            let _ = socket.send(Message::Binary(frame.into())).await;
        }
        while let Some(Ok(_)) = socket.next().await {}
    }

    async fn flood(
        &self,
        socket: &mut WebSocketStream<TcpStream>,
        sending: &mut Link,
        max_tokens: u32,
    ) {
        for step in 0..max_tokens {
            let token = Token {
                step,
                token_id: 1,
                expert_load: Hash([1; 32]),
                token_emit: Hash([2; 32]),
                text: "x".repeat(Token::TEXT_MAX),
            };
            let payload = token.encode().unwrap();
            let frame = sending.send(FrameType::EscalateToken, &payload).unwrap();
            if socket.feed(Message::Binary(frame.into())).await.is_err() {
                break;
            }
        }
        let _ = socket.flush().await;
        while let Some(Ok(_)) = socket.next().await {}
        self.cancelled.fetch_add(1, Ordering::SeqCst);
    }

    async fn append(&self, session: SessionId, first: u32, written: &[Written]) {
        let block = Block {
            stream: Stream::Substrate,
            first,
            receipts: written.iter().map(Written::stored).collect(),
        };
        self.ledger.append(&session, &block).await.unwrap();
    }

    /// Closes an answer that was cancelled.
    async fn close(
        &self,
        author: &mut Author,
        request: &EscalateRequest,
        members: &[Written],
        first: u32,
        texts: &[&str],
    ) {
        if self.manner == Manner::Impostor {
            return;
        }
        let routing = request.receipts.last().unwrap().as_parent();
        let last = members
            .last()
            .map_or(routing, |last| last.receipt.as_parent());
        let text = texts[..members.len() / 2].concat();
        author.finish = Some("cancelled");
        let answer = author.answer(request.request_id, last, first, members, &text);
        let at = first + members.len() as u32;
        self.append(author.session, at, std::slice::from_ref(&answer))
            .await;
    }
}
