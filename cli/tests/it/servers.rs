//! Servers for tests. They live on threads of their own, and end with the test's process.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request as a handler sees it.
pub struct Asked {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }
}

/// Status, content type and body.
pub type Reply = (u16, &'static str, String);

pub type Handler = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An HTTP server, with TLS if it is told how.
pub fn http(tls: Option<Arc<ServerConfig>>, handler: Handler) -> SocketAddr {
    let (listener, address) = listener();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let (tls, handler) = (tls.clone(), Arc::clone(&handler));
            thread::spawn(move || {
                // A client that hangs up in the middle is what some tests are about.
                let _ = match tls {
                    Some(tls) => {
                        let connection = ServerConnection::new(tls).unwrap();
                        talk(&mut StreamOwned::new(connection, socket), &handler)
                    }
                    None => talk(&mut { socket }, &handler),
                };
            });
        }
    });
    address
}

fn talk(
    stream: &mut (impl std::io::Read + std::io::Write),
    handler: &Handler,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk)? {
                0 => return Ok(()),
                read => buffer.extend_from_slice(&chunk[..read]),
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
        let mut lines = text.lines();
        let mut first = lines.next().unwrap_or_default().split(' ');
        let (method, path) = (
            first.next().unwrap_or_default(),
            first.next().unwrap_or_default(),
        );
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
        while buffer.len() < head + 4 + length {
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk)? {
                0 => return Ok(()),
                read => buffer.extend_from_slice(&chunk[..read]),
            }
        }
        let body = String::from_utf8_lossy(&buffer[head + 4..head + 4 + length]).into_owned();
        let asked = Asked {
            method: method.to_owned(),
            path: path.to_owned(),
            headers,
            body,
        };
        buffer.drain(..head + 4 + length);
        let (status, kind, body) = handler(&asked);
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
        stream.flush()?;
    }
}

/// A port whose connections are accepted by the system, and on which nobody says anything.
pub fn silent() -> (TcpListener, SocketAddr) {
    listener()
}

/// A port that nobody listens on.
pub fn closed() -> SocketAddr {
    listener().1
}

/// A server that hangs up at once.
pub fn hangs_up() -> SocketAddr {
    let (listener, address) = listener();
    thread::spawn(move || {
        for socket in listener.incoming() {
            drop(socket);
        }
    });
    address
}

/// A server that answers every byte with something that is no TLS.
pub fn no_tls() -> SocketAddr {
    let (listener, address) = listener();
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut some = [0; 64];
            let _ = socket.read(&mut some);
            let _ = socket.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
            // The client reads before it hangs up.
            let _ = socket.set_nodelay(true);
            drain(&mut socket);
        }
    });
    address
}

fn drain(socket: &mut TcpStream) {
    let mut some = [0; 64];
    while matches!(socket.read(&mut some), Ok(1..)) {}
}

/// An authority of the test's own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    pub der: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for this name, as PEM.
    pub fn leaf(&self, name: &str) -> String {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params
            .signed_by(&KeyPair::generate().unwrap(), &self.issuer)
            .unwrap()
            .pem()
    }

    /// A server's TLS, with a certificate for this name.
    pub fn server(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key);
        Arc::new(config.unwrap())
    }
}
