//! Endpoints that fail in every way that loopback can fail.

use std::time::Duration;

use halo_cli::check::dial::Dialer;
use halo_cli::check::endpoint::{Endpoint, Service};
use halo_cli::check::outcome::Status;
use halo_cli::check::reach::{Dns, Reached, Setting, Tcp, Tls, judge};
use rustls::RootCertStore;

use crate::servers::{self, Authority};

/// Short, for servers that never answer; what answers does so at once.
const LIMIT: Duration = Duration::from_millis(700);

fn endpoint(url: &str) -> Endpoint {
    let told = |name: &str| (name == "AWS_ENDPOINT_URL_SSM").then(|| url.to_owned());
    Endpoint::find(Service::Ssm, "us-east-2", told).unwrap()
}

fn trusting(authority: &Authority) -> Dialer {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    Dialer::with_roots(roots, LIMIT)
}

async fn reach(dialer: &Dialer, url: &str) -> Reached {
    dialer.try_endpoint(&endpoint(url)).await
}

#[tokio::test]
async fn tls_that_holds_and_tls_that_does_not() {
    let (authority, other) = (Authority::new(), Authority::new());
    let quiet: servers::Handler = std::sync::Arc::new(|_| (200, "text/plain", String::new()));
    let start = |tls| servers::http(Some(tls), quiet.clone()).port();
    let good = start(authority.server("localhost", |_| {}));
    let wrong_name = start(authority.server("ec2.us-east-2.amazonaws.com", |_| {}));
    let untrusted = start(other.server("localhost", |_| {}));
    let expired = start(authority.server("localhost", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    }));
    let dialer = trusting(&authority);
    let tls = async |port: u16| {
        reach(&dialer, &format!("https://localhost:{port}"))
            .await
            .tls
            .unwrap()
    };
    assert_eq!(tls(good).await, Tls::Fine);
    assert_eq!(
        tls(wrong_name).await,
        Tls::WrongName(vec!["ec2.us-east-2.amazonaws.com".to_owned()])
    );
    assert_eq!(tls(untrusted).await, Tls::UnknownIssuer);
    assert!(matches!(tls(expired).await, Tls::WrongTime(why) if why.contains("expired")));
    assert!(matches!(tls(servers::hangs_up().port()).await, Tls::Cut(_)));
    assert!(matches!(tls(servers::no_tls().port()).await, Tls::Other(_)));
    let (_kept, silent) = servers::silent();
    assert!(matches!(tls(silent.port()).await, Tls::Cut(why) if why.contains("nothing within")));

    let nobody = Dialer::with_roots(RootCertStore::empty(), LIMIT);
    let found = reach(&nobody, &format!("https://localhost:{good}")).await;
    assert_eq!(found.tls, Some(Tls::UnknownIssuer));
}

#[tokio::test]
async fn ports_and_names() {
    let dialer = trusting(&Authority::new());
    let closed = servers::closed();
    let found = reach(&dialer, &format!("https://{closed}")).await;
    assert_eq!(found.tcp, [(closed.ip(), Tcp::Refused)]);
    assert_eq!(found.tls, None);
    let (_kept, open) = servers::silent();
    let found = reach(&dialer, &format!("http://{open}")).await;
    assert_eq!(
        (found.tcp, found.tls),
        (vec![(open.ip(), Tcp::Connected)], Some(Tls::NotSpoken))
    );
    // RFC 6761: nobody resolves it. A resolver that does not answer at all is told apart.
    let found = reach(&dialer, "https://ssm.invalid").await;
    assert!(
        matches!(found.dns, Dns::NoSuchName | Dns::NoAnswer(_)),
        "{found:?}"
    );
    let check = judge(&endpoint("https://ssm.invalid"), &found, Setting::default());
    assert_eq!(check.result, Status::Fail);
}

/// A port whose queue of connections is full answers no further one, as behind a security group.
#[tokio::test]
async fn a_port_that_never_answers() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let dialer = trusting(&Authority::new());
    let url = format!("https://{address}");
    let mut waiting = Vec::new();
    let mut found = None;
    for _ in 0..16 {
        let one = reach(&dialer, &url).await;
        if matches!(one.tcp[..], [(_, Tcp::TimedOut)]) {
            found = Some(one);
            break;
        }
        waiting.push(tokio::net::TcpStream::connect(address).await);
    }
    let check = judge(&endpoint(&url), &found.unwrap(), Setting::default());
    assert_eq!(check.result, Status::Fail);
    assert!(check.hint.contains("security group"), "{check:?}");
}
