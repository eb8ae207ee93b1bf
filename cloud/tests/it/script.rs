//! A server that says what a test tells it, and what it takes to talk to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use halo_cloud::aws::{
    AwsCloud, AwsSecrets, AwsSession, AwsSettings, CallObserver, Pace, Paces, Timing,
};
use halo_cloud::{LaunchRequest, MetadataOptions, RootVolume, Tags, Tenancy};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Such as `POST / HTTP/1.1`.
    pub line: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// The body as a form; empty if it is not one.
    pub form: BTreeMap<String, String>,
}

impl Seen {
    pub fn get(&self, name: &str) -> &str {
        self.form.get(name).map(String::as_str).unwrap_or_default()
    }

    pub fn action(&self) -> &str {
        self.get("Action")
    }

    /// `InstanceId.1`, `InstanceId.2`, ...
    pub fn list(&self, name: &str) -> Vec<String> {
        (1..)
            .map_while(|n| self.form.get(&format!("{name}.{n}")).cloned())
            .collect()
    }
}

/// What the server does with a request.
pub enum Reply {
    /// An HTTP answer.
    Http(u16, String),
    /// These bytes, then the end of the connection.
    Raw(Vec<u8>),
    /// The end of the connection.
    Close,
    /// Nothing, ever.
    Hang,
}

impl Reply {
    pub fn ok(body: impl Into<String>) -> Self {
        Self::Http(200, body.into())
    }

    /// An EC2 error.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::Http(
            status,
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>r-1</RequestID></Response>"
            ),
        )
    }

    /// What Start-, Stop-, TerminateInstances, AttachVolume and DeleteVolume say when they did it.
    pub fn done(seen: &Seen) -> Self {
        let action = seen.action();
        Self::ok(format!(
            "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r-1</requestId></{action}Response>"
        ))
    }
}

/// A server with a script: the number of the request, from 0, and the request itself, into a reply.
pub struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn new(script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(script);
        let task = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                // The connections end with the server.
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(serve(stream, Arc::clone(&seen), Arc::clone(&script)));
                }
            }
        });
        Self { url, seen, task }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn actions(&self) -> Vec<String> {
        self.seen()
            .iter()
            .map(|seen| seen.action().to_owned())
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    seen: Arc<Mutex<Vec<Seen>>>,
    script: Arc<impl Fn(usize, &Seen) -> Reply>,
) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let request = read_request(&mut stream, &mut buffer).await?;
        let n = {
            let mut seen = seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        match script(n, &request) {
            Reply::Http(status, body) => {
                let answer = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: text/xml\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.ok()?;
            }
            Reply::Raw(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                return None;
            }
            Reply::Close => return None,
            Reply::Hang => std::future::pending().await,
        }
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<Seen> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
            let headers: BTreeMap<_, _> = head
                .lines()
                .skip(1)
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let length = headers
                .get("content-length")
                .map_or(0, |length| length.parse::<usize>().unwrap());
            if buffer.len() >= end + 4 + length {
                let body = buffer[end + 4..end + 4 + length].to_vec();
                buffer.drain(..end + 4 + length);
                let form = decode(&body);
                return Some(Seen {
                    line: head.lines().next().unwrap_or_default().to_owned(),
                    headers,
                    body,
                    form,
                });
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// Percent-decodes a form.
fn decode(body: &[u8]) -> BTreeMap<String, String> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let unescape = |part: &str| {
        let mut bytes = Vec::new();
        let mut rest = part.bytes();
        while let Some(byte) = rest.next() {
            match byte {
                b'%' => {
                    let hex = [rest.next().unwrap(), rest.next().unwrap()];
                    bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
                }
                _ => bytes.push(byte),
            }
        }
        String::from_utf8(bytes).unwrap()
    };
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (unescape(name), unescape(value)))
        .collect()
}

/// Remembers what it is told.
#[derive(Default)]
pub struct Watch {
    pub calls: Mutex<Vec<(&'static str, String)>>,
    pub batches: Mutex<Vec<(&'static str, usize)>>,
    pub delays: Mutex<Vec<Duration>>,
}

impl CallObserver for Watch {
    fn observed(&self, action: &'static str, code: &str, _elapsed: Duration) {
        self.calls.lock().unwrap().push((action, code.to_owned()));
    }

    fn batched(&self, action: &'static str, size: usize) {
        self.batches.lock().unwrap().push((action, size));
    }

    fn delayed(&self, _action: &'static str, wait: Duration) {
        self.delays.lock().unwrap().push(wait);
    }
}

impl Watch {
    /// The codes of all calls so far.
    pub fn codes(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        calls.iter().map(|(_, code)| code.clone()).collect()
    }
}

pub const SECRET_KEY: &str = "wJalrXUtnFEMIxK7MDENGxbPxRfiCYEXAMPLEKEY";

pub fn credentials() -> aws_credential_types::Credentials {
    let token = Some("session-token-of-the-test".to_owned());
    aws_credential_types::Credentials::new("AKIDEXAMPLE", SECRET_KEY, token, None, "test")
}

/// As fast as tests like it.
pub fn settings(url: &str) -> AwsSettings {
    let fast = Pace {
        burst: 1_000.0,
        per_second: 10_000.0,
    };
    AwsSettings {
        ec2_endpoint: Some(url.to_owned()),
        ssm_endpoint: Some(url.to_owned()),
        paces: Paces {
            describe: fast,
            run: fast,
            mutate: fast,
            parameter: fast,
        },
        timing: Timing {
            backoff: Duration::from_millis(2),
            ..Timing::default()
        },
        ..AwsSettings::new("us-east-2", "test")
    }
}

/// The clients, and what they are watched by.
pub struct Clients {
    pub cloud: Arc<AwsCloud>,
    pub secrets: AwsSecrets,
    pub watch: Arc<Watch>,
}

pub fn clients(settings: AwsSettings) -> Clients {
    let watch = Arc::new(Watch::default());
    let session = AwsSession::with_credentials(settings, credentials(), watch.clone()).unwrap();
    Clients {
        cloud: Arc::new(AwsCloud::new(&session)),
        secrets: AwsSecrets::new(&session),
        watch,
    }
}

pub fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

pub fn launch(token: &str) -> LaunchRequest {
    LaunchRequest {
        client_token: token.to_owned(),
        image_id: "ami-0123456789abcdef0".to_owned(),
        instance_type: "r7iz.4xlarge".to_owned(),
        subnet_id: "subnet-0123456789abcdef0".to_owned(),
        tenancy: Tenancy::Default,
        security_groups: vec!["sg-0123456789abcdef0".to_owned()],
        instance_profile: Some("halo-node".to_owned()),
        root_volume: RootVolume {
            device: "/dev/xvda".to_owned(),
            size_gib: 80,
            kms_key: None,
        },
        metadata: MetadataOptions { hop_limit: 1 },
        user_data: "#!/bin/sh\necho the-user-data\n".to_owned(),
        tags: tags(&[("halo.howdify.io/cluster", "test")]),
    }
}

/// One instance of an answer.
pub fn instance(id: &str, state: &str, pairs: &[(&str, &str)]) -> String {
    let tags: String = pairs
        .iter()
        .map(|(key, value)| format!("<item><key>{key}</key><value>{value}</value></item>"))
        .collect();
    format!(
        "<item><instanceId>{id}</instanceId><instanceState><name>{state}</name></instanceState><instanceType>r7iz.4xlarge</instanceType>\
         <placement><availabilityZone>us-east-2a</availabilityZone></placement><clientToken>t-1</clientToken>\
         <launchTime>2026-11-21T12:00:00.000Z</launchTime><tagSet>{tags}</tagSet></item>"
    )
}

/// A RunInstances answer.
pub fn launched(items: &str) -> Reply {
    Reply::ok(format!(
        "<RunInstancesResponse><instancesSet>{items}</instancesSet></RunInstancesResponse>"
    ))
}

/// A DescribeInstances answer.
pub fn described(items: &str, next: &str) -> Reply {
    Reply::ok(format!(
        "<DescribeInstancesResponse><reservationSet><item><instancesSet>{items}</instancesSet></item></reservationSet><nextToken>{next}</nextToken></DescribeInstancesResponse>"
    ))
}

/// A DescribeVolumes answer with one volume.
pub fn volume(id: &str, status: &str, instance: Option<&str>) -> Reply {
    let attached = instance
        .map(|id| format!("<item><instanceId>{id}</instanceId><status>attached</status></item>"))
        .unwrap_or_default();
    Reply::ok(format!(
        "<DescribeVolumesResponse><volumeSet><item><volumeId>{id}</volumeId><availabilityZone>us-east-2a</availabilityZone><status>{status}</status>\
         <createTime>2026-11-21T12:00:00.000Z</createTime><attachmentSet>{attached}</attachmentSet></item></volumeSet></DescribeVolumesResponse>"
    ))
}
