//! A proxy on loopback between a ledger and DynamoDB Local, which fails as the network and the service do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aws_config::SdkConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// It is answered.
    Pass,
    /// Its connection is cut before anything is done.
    Cut,
    /// The same if it would write.
    CutPuts,
    /// It is done, and the answer is lost.
    LoseAnswer,
    /// It is neither done nor answered.
    Hang,
    /// It is refused with this error.
    Refuse(&'static str),
}

struct State {
    mode: Mode,
    /// After so many more requests the mode is [`Mode::Pass`].
    left: Option<u32>,
    /// Requests by operation that were done.
    done: BTreeMap<String, u32>,
}

pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            mode: Mode::Pass,
            left: None,
            done: BTreeMap::new(),
        }));
        let upstream = super::local().address();
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&shared);
                // A cut connection is no failure here.
                tokio::spawn(async move {
                    let _ = serve(client, upstream, &state).await;
                });
            }
        });
        Self {
            address,
            state,
            accepting,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub async fn environment(&self) -> SdkConfig {
        super::environment(&self.url()).await
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        let mut state = self.state.lock().unwrap();
        (state.mode, state.left) = (mode, None);
    }

    /// For the next requests.
    pub fn next(&self, count: u32, mode: Mode) {
        let mut state = self.state.lock().unwrap();
        (state.mode, state.left) = (mode, Some(count));
    }

    /// What was done, by operation.
    pub fn done(&self) -> BTreeMap<String, u32> {
        self.state.lock().unwrap().done.clone()
    }
}

async fn serve(
    mut client: TcpStream,
    upstream: SocketAddr,
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    let body = loop {
        if let Some(at) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&request[..body]).into_owned();
    let field = |name: &str| {
        let line = head.lines().find(|line| {
            let (field, _) = line.split_once(':').unwrap_or_default();
            field.eq_ignore_ascii_case(name)
        });
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
    };
    let length: usize = field("content-length").map_or(0, |length| length.parse().unwrap());
    while request.len() < body + length {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let operation = field("x-amz-target").unwrap_or_default();
    let operation = operation.rsplit('.').next().unwrap_or_default().to_owned();
    let mode = {
        let mut state = state.lock().unwrap();
        if state.left == Some(0) {
            (state.mode, state.left) = (Mode::Pass, None);
        }
        state.left = state.left.map(|left| left - 1);
        let mode = match state.mode {
            Mode::CutPuts if operation == "PutItem" => Mode::Cut,
            Mode::CutPuts => Mode::Pass,
            mode => mode,
        };
        if matches!(mode, Mode::Pass | Mode::LoseAnswer) {
            *state.done.entry(operation).or_default() += 1;
        }
        mode
    };
    match mode {
        Mode::Cut | Mode::CutPuts => Ok(()),
        Mode::Hang => std::future::pending().await,
        Mode::Refuse(error) => {
            let body = format!(
                "{{\"__type\":\"com.amazonaws.dynamodb.v20120810#{error}\",\"message\":\"by the test\"}}"
            );
            let answer = format!(
                "HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-amz-json-1.0\r\nConnection: close\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            client.write_all(answer.as_bytes()).await
        }
        Mode::Pass | Mode::LoseAnswer => {
            let line = head.find("\r\n").unwrap() + 2;
            let mut server = TcpStream::connect(upstream).await?;
            server.write_all(&request[..line]).await?;
            server.write_all(b"Connection: close\r\n").await?;
            server.write_all(&request[line..]).await?;
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).await?;
            if mode == Mode::Pass {
                client.write_all(&answer).await?;
            }
            Ok(())
        }
    }
}
