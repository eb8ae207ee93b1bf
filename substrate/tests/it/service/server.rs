//! A real server on a real socket and a real ledger file, and the gateway's end of its links.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{SinkExt as _, StreamExt as _};
use halo_ledger::{
    Appended, Ledger, LedgerError, SessionQuery, SessionState, SessionSummary, SqliteLedger,
};
use halo_receipts::documents::{EscalateEnd, Notice};
use halo_receipts::evidence::{Block, Evidence, SignedRecord, StoredReceipt, Stream};
use halo_receipts::fragment::{END_MAX, REQUEST_MAX, Reassembler, split};
use halo_receipts::frame::FrameType;
use halo_receipts::ids::{Hash, SessionId, Tier};
use halo_receipts::keys::OneRoot;
use halo_receipts::link::{End, Link};
use halo_receipts::messages::{Token, TokenOrNotice};
use halo_receipts::opening::{SIGNATURE_HEADER, signature, substrate_path};
use halo_receipts::payload::ModelIdentity;
use halo_substrate::http;
use halo_substrate::keys::PodKeys;
use halo_substrate::metrics::Metrics;
use halo_substrate::model::Model;
use halo_substrate::pod::{Limits, Pod, PromptForm, Ready};
use halo_substrate::session::Served;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite};
use tokio_util::sync::CancellationToken;

use super::device::{Device, PROMPT, root_keys, tenant};
use super::engine::{Scripted, tokenizer};

/// Longer than anything here takes: a test that waits so long hangs.
const LIMIT: Duration = Duration::from_secs(60);

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .expect("nothing happened")
}

/// SQLite, with faults on demand.
pub struct Faulty {
    inner: SqliteLedger,
    /// The errors of the next appends.
    faults: Mutex<Vec<LedgerError>>,
    pub check_fails: AtomicUsize,
    pub appends: AtomicUsize,
    /// Whether appends to stream `s` get through.
    pub flows: watch::Sender<bool>,
    /// Reads of whole sessions.
    pub snapshots: AtomicUsize,
}

impl Faulty {
    pub fn fail(&self, errors: &[LedgerError]) {
        self.faults.lock().unwrap().extend_from_slice(errors);
    }
}

#[async_trait]
impl Ledger for Faulty {
    async fn open_session(
        &self,
        header: &SignedRecord,
        epoch: &SignedRecord,
    ) -> Result<(), LedgerError> {
        self.inner.open_session(header, epoch).await
    }

    async fn claim(&self, claim: &SignedRecord) -> Result<(), LedgerError> {
        self.inner.claim(claim).await
    }

    async fn append(&self, session: &SessionId, block: &Block) -> Result<Appended, LedgerError> {
        if block.stream == Stream::Substrate {
            self.appends.fetch_add(1, Ordering::SeqCst);
            let mut flows = self.flows.subscribe();
            flows.wait_for(|flows| *flows).await.unwrap();
            let fault = self.faults.lock().unwrap().pop();
            if let Some(error) = fault {
                return Err(error);
            }
        }
        self.inner.append(session, block).await
    }

    async fn session(&self, session: &SessionId) -> Result<Option<SessionState>, LedgerError> {
        self.inner.session(session).await
    }

    async fn snapshot(&self, session: &SessionId) -> Result<Option<Evidence>, LedgerError> {
        self.snapshots.fetch_add(1, Ordering::SeqCst);
        self.inner.snapshot(session).await
    }

    async fn sessions(&self, query: &SessionQuery) -> Result<Vec<SessionSummary>, LedgerError> {
        self.inner.sessions(query).await
    }

    async fn check(&self) -> Result<(), LedgerError> {
        if self.check_fails.load(Ordering::SeqCst) > 0 {
            return Err(LedgerError::Storage("broken".into()));
        }
        self.inner.check().await
    }
}

pub struct Server {
    pub address: SocketAddr,
    pub pod: Arc<Pod>,
    pub ledger: Arc<Faulty>,
    folder: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Server {
    /// A pod whose model is still being loaded.
    pub async fn loading() -> Self {
        Self::with_keys(PodKeys::Root(OneRoot::new(root_keys()))).await
    }

    pub async fn with_keys(keys: PodKeys) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Arc::new(Faulty {
            inner: SqliteLedger::open(folder.path().join("ledger.db")).unwrap(),
            faults: Mutex::default(),
            check_fails: AtomicUsize::default(),
            appends: AtomicUsize::default(),
            flows: watch::Sender::new(true),
            snapshots: AtomicUsize::default(),
        });
        let metrics = Metrics::new().unwrap();
        let pod = Arc::new(Pod::new(
            tenant(),
            keys,
            ledger.clone(),
            metrics,
            "pod-0".into(),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(http::serve(
            listener,
            http::router(pod.clone()),
            stop.clone(),
        ));
        Self {
            address,
            pod,
            ledger,
            folder,
            stop,
        }
    }

    pub async fn start_with(model: Model, max_active: usize, queue_max: usize) -> Self {
        let server = Self::loading().await;
        server.load(model, max_active, queue_max);
        server
    }

    fn load(&self, model: Model, max_active: usize, queue_max: usize) {
        let info = model.engine.info();
        let served = Served {
            identity: ModelIdentity {
                name: info.name.clone(),
                weights_sha256: Hash(info.weights_digest),
                build_sha256: Hash([9; 32]),
            },
            context_limit: info.context_limit,
        };
        let limits = Limits {
            max_active,
            queue_max,
        };
        let metrics = self.pod.metrics.clone();
        self.pod.set_ready(
            Ready::start(
                model,
                served,
                PromptForm::Chat { thinking: false },
                limits,
                metrics,
            )
            .unwrap(),
        );
    }

    pub fn scripted(
        &self,
        engine: Scripted,
        max_active: usize,
        queue_max: usize,
    ) -> Arc<AtomicUsize> {
        let calls = engine.calls.clone();
        let tokenizer = tokenizer(self.folder.path());
        let model = Model {
            engine: Arc::new(engine),
            tokenizer,
            template: None,
        };
        self.load(model, max_active, queue_max);
        calls
    }

    /// What a gateway does when a device opens a session.
    pub async fn open(&self, device: &Device) {
        self.ledger
            .open_session(&device.header(), &device.epoch_claim())
            .await
            .unwrap();
    }

    /// What a gateway does before it forwards a request.
    pub async fn record(&self, device: &Device, receipts: &[StoredReceipt]) {
        if receipts.is_empty() {
            return;
        }
        let state = self.ledger.session(&device.session).await.unwrap().unwrap();
        let block = Block {
            stream: Stream::Device,
            first: state.next_device,
            receipts: receipts.to_vec(),
        };
        self.ledger.append(&device.session, &block).await.unwrap();
    }

    pub async fn evidence(&self, device: &Device) -> Evidence {
        self.ledger
            .snapshot(&device.session)
            .await
            .unwrap()
            .unwrap()
    }

    pub async fn connect(&self, device: &Device, link: u32) -> Result<GatewayLink, u16> {
        connect(self.address, device, link).await
    }

    pub async fn connect_to(
        &self,
        device: &Device,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<GatewayLink, u16> {
        dial(self.address, device, path, headers).await
    }

    /// Status and body of a plain GET.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        soon(stream.read_to_string(&mut text)).await.unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        (status, body.to_owned())
    }

    /// A device with an open session, a link, and a recorded question on its way.
    pub async fn asked(&self, seed: u8, max_tokens: u32) -> (Device, GatewayLink) {
        let mut device = Device::new(seed);
        self.open(&device).await;
        let mut link = self.connect(&device, 0).await.unwrap();
        let ask = device.ask(PROMPT, max_tokens);
        self.record(&device, &ask.stored).await;
        link.send(&ask.document()).await;
        (device, link)
    }

    /// The session once no answer is under way in it.
    pub async fn settled(&self, device: &Device) -> Evidence {
        soon(async {
            while self.pod.reserve(device.session).is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        self.evidence(device).await
    }
}

/// Opens a link as a gateway does; otherwise the status that refuses it.
pub async fn connect(address: SocketAddr, device: &Device, link: u32) -> Result<GatewayLink, u16> {
    let path = substrate_path(&device.tenant, &device.session, device.epoch, link);
    let header = signature(&device.key(Tier::Substrate), "GET", &path, b"");
    dial(address, device, &path, &[(SIGNATURE_HEADER, &header)]).await
}

async fn dial(
    address: SocketAddr,
    device: &Device,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<GatewayLink, u16> {
    let mut request = format!("ws://{address}{path}")
        .into_client_request()
        .unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    match soon(connect_async(request)).await {
        Ok((socket, _)) => {
            let key = Arc::new(device.key(Tier::Substrate));
            Ok(GatewayLink {
                socket,
                link: Link::new(End::GatewayToSubstrate, device.session, key),
                ends: Reassembler::new(END_MAX),
            })
        }
        Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

/// What a pod sends.
#[derive(Debug)]
pub enum Incoming {
    Token(Token),
    Notice(Notice),
    End(EscalateEnd),
    /// The connection is closed, with this code if one was given.
    Closed(Option<u16>),
}

pub struct GatewayLink {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    link: Link,
    ends: Reassembler,
}

impl GatewayLink {
    pub async fn send(&mut self, document: &[u8]) {
        for piece in split(document, REQUEST_MAX).unwrap() {
            let frame = self.link.send(FrameType::EscalateRequest, &piece).unwrap();
            self.socket
                .send(Message::Binary(frame.into()))
                .await
                .unwrap();
        }
    }

    pub async fn next(&mut self) -> Incoming {
        loop {
            match soon(self.socket.next()).await {
                Some(Ok(Message::Binary(message))) => {
                    let frame = self.link.receive(&message).unwrap();
                    match frame.typ {
                        FrameType::EscalateToken => {
                            return match TokenOrNotice::decode(frame.payload).unwrap() {
                                TokenOrNotice::Token(token) => Incoming::Token(token),
                                TokenOrNotice::Notice(notice) => Incoming::Notice(notice),
                            };
                        }
                        FrameType::EscalateEnd => {
                            if let Some(end) = self.ends.push(frame.payload).unwrap() {
                                return Incoming::End(EscalateEnd::parse(&end).unwrap());
                            }
                        }
                        other => panic!("{other:?}"),
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    return Incoming::Closed(frame.map(|frame| frame.code.into()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Incoming::Closed(None),
            }
        }
    }

    pub async fn token(&mut self) -> Token {
        match self.next().await {
            Incoming::Token(token) => token,
            other => panic!("{other:?}"),
        }
    }

    pub async fn end(&mut self) -> EscalateEnd {
        match self.next().await {
            Incoming::End(end) => end,
            other => panic!("{other:?}"),
        }
    }

    /// All tokens up to the end, notices left out.
    pub async fn answer(&mut self) -> (Vec<Token>, EscalateEnd) {
        let mut tokens = Vec::new();
        loop {
            match self.next().await {
                Incoming::Token(token) => tokens.push(token),
                Incoming::Notice(_) => {}
                Incoming::End(end) => return (tokens, end),
                closed => panic!("{closed:?}"),
            }
        }
    }
}
