//! Names, connections and TLS: tried, and what came of it sorted. No judgement here.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::endpoint::Endpoint;
use super::reach::{Dns, Reached, Tcp, Tls};

/// At most so many addresses of a name are tried; a VPC endpoint has one in each zone.
const ADDRESSES: usize = 8;

/// A connection that requests can be sent on.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// How connections are made.
#[derive(Clone)]
pub struct Dialer {
    /// The TLS configuration, or why there is none.
    tls: Result<Arc<ClientConfig>, String>,
    limit: Duration,
}

impl Dialer {
    /// Trusts what the system trusts (`SSL_CERT_FILE` or the usual places). Each step of a connection may take `limit`.
    pub fn with_system_roots(limit: Duration) -> Self {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let why = found
                .errors
                .first()
                .map_or_else(|| "the system has none".to_owned(), ToString::to_string);
            return Self {
                tls: Err(why),
                limit,
            };
        }
        Self::with_roots(roots, limit)
    }

    /// Trusts these roots alone.
    pub fn with_roots(roots: RootCertStore, limit: Duration) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map(|builder| builder.with_root_certificates(roots).with_no_client_auth());
        Self {
            tls: config.map(Arc::new).map_err(|error| error.to_string()),
            limit,
        }
    }

    /// How long a step may take.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Tries an endpoint: its name, all its addresses, and TLS with the first that accepts.
    pub async fn try_endpoint(&self, endpoint: &Endpoint) -> Reached {
        let dns = self.resolve(endpoint.host(), endpoint.port()).await;
        let Dns::Addresses(addresses) = &dns else {
            return Reached {
                dns,
                tcp: Vec::new(),
                tls: None,
            };
        };
        let port = endpoint.port();
        let tried = join_all(addresses.iter().map(|address| self.connect(*address, port))).await;
        let mut tls = None;
        let mut tcp = Vec::with_capacity(tried.len());
        for (address, result) in addresses.iter().zip(tried) {
            match result {
                Ok(socket) => {
                    tcp.push((*address, Tcp::Connected));
                    if tls.is_none() {
                        tls = Some(match endpoint.is_tls() {
                            true => self
                                .handshake(socket, endpoint.host())
                                .await
                                .err()
                                .unwrap_or(Tls::Fine),
                            false => Tls::NotSpoken,
                        });
                    }
                }
                Err(why) => tcp.push((*address, why)),
            }
        }
        // What failed comes first: it is what is told if nothing accepted.
        tcp.sort_by_key(|(_, tcp)| *tcp == Tcp::Connected);
        Reached { dns, tcp, tls }
    }

    /// A connection to the first address that accepts, with TLS if the endpoint speaks it.
    ///
    /// # Errors
    /// In words: this endpoint was tried before, and judged then.
    pub async fn open(&self, endpoint: &Endpoint) -> Result<Box<dyn Stream>, String> {
        let Dns::Addresses(addresses) = self.resolve(endpoint.host(), endpoint.port()).await else {
            return Err("its name is not known any more".to_owned());
        };
        let mut last = "no address".to_owned();
        for address in addresses {
            match self.connect(address, endpoint.port()).await {
                Ok(socket) if endpoint.is_tls() => {
                    let stream = self.handshake(socket, endpoint.host()).await;
                    return stream.map_err(|tls| format!("TLS: {tls:?}"));
                }
                Ok(socket) => return Ok(Box::new(socket)),
                Err(why) => last = format!("{address}: {why:?}"),
            }
        }
        Err(last)
    }

    async fn resolve(&self, host: &str, port: u16) -> Dns {
        match timeout(self.limit, tokio::net::lookup_host((host, port))).await {
            Err(_) => Dns::NoAnswer(format!("nothing within {:?}", self.limit)),
            Ok(Err(error)) => unresolved(&error),
            Ok(Ok(found)) => {
                let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
                addresses.dedup();
                addresses.truncate(ADDRESSES);
                match addresses.is_empty() {
                    true => Dns::NoSuchName,
                    false => Dns::Addresses(addresses),
                }
            }
        }
    }

    async fn connect(&self, address: IpAddr, port: u16) -> Result<TcpStream, Tcp> {
        match timeout(self.limit, TcpStream::connect((address, port))).await {
            Err(_) => Err(Tcp::TimedOut),
            Ok(Ok(socket)) => Ok(socket),
            Ok(Err(error)) => Err(match error.kind() {
                io::ErrorKind::ConnectionRefused => Tcp::Refused,
                io::ErrorKind::TimedOut => Tcp::TimedOut,
                _ => Tcp::NoRoute(error.to_string()),
            }),
        }
    }

    async fn handshake(&self, socket: TcpStream, host: &str) -> Result<Box<dyn Stream>, Tls> {
        let config = self.tls.clone().map_err(Tls::NoRoots)?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Tls::Other(format!("{host} can be in no certificate")))?;
        match timeout(self.limit, TlsConnector::from(config).connect(name, socket)).await {
            Err(_) => Err(Tls::Cut(format!("nothing within {:?}", self.limit))),
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(tls_failure(&error)),
        }
    }
}

/// The resolver tells its failures apart in words alone. These are glibc's for EAI_NONAME, EAI_NODATA and what musl says.
fn unresolved(error: &io::Error) -> Dns {
    let text = error.to_string();
    let unknown = [
        "Name or service not known",
        "No address associated with hostname",
        "Name does not resolve",
    ];
    if unknown.iter().any(|known| text.contains(known)) {
        Dns::NoSuchName
    } else {
        Dns::NoAnswer(text)
    }
}

fn tls_failure(error: &io::Error) -> Tls {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(certificate)) => match certificate {
            CertificateError::NotValidForName => Tls::WrongName(Vec::new()),
            CertificateError::NotValidForNameContext { presented, .. } => {
                Tls::WrongName(presented.iter().map(|name| bare(name)).collect())
            }
            // An authority of a trusted name and another key is another one.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Tls::UnknownIssuer,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => {
                Tls::WrongTime(certificate.to_string())
            }
            other => Tls::Other(other.to_string()),
        },
        Some(other) => Tls::Other(other.to_string()),
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Tls::Cut(error.to_string()),
            _ => Tls::Other(error.to_string()),
        },
    }
}

/// A name as rustls prints it, `DnsName("x")`, without what is around it.
pub(super) fn bare(name: &str) -> String {
    match name
        .split_once('"')
        .and_then(|(_, rest)| rest.split_once('"'))
    {
        Some((inner, _)) => inner.to_owned(),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_resolver() {
        for (text, unknown) in [
            (
                "failed to lookup address information: Name or service not known",
                true,
            ),
            (
                "failed to lookup address information: No address associated with hostname",
                true,
            ),
            (
                "failed to lookup address information: Temporary failure in name resolution",
                false,
            ),
        ] {
            let dns = unresolved(&io::Error::other(text));
            assert_eq!(dns == Dns::NoSuchName, unknown, "{text}");
        }
    }

    #[test]
    fn names_in_certificates() {
        assert_eq!(
            bare(r#"DnsName("ec2.us-east-2.amazonaws.com")"#),
            "ec2.us-east-2.amazonaws.com"
        );
        assert_eq!(
            bare("ec2.us-east-2.amazonaws.com"),
            "ec2.us-east-2.amazonaws.com"
        );
    }
}
