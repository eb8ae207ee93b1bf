//! Credentials and root certificates come from a process's environment, so each case is a process of its own: this test binary,
//! told to run only [`child`].

use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};

use halo_cloud::aws::{AwsCloud, AwsSession, AwsSettings, NoObserver};
use halo_cloud::{Cloud as _, Tags};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::TcpListener;

use crate::script::{self, Reply, Seen, Server, described};

/// What the other tests run in a process of its own: one list of instances with what the environment says.
#[tokio::test]
#[ignore = "run by the other tests of this module, with their environment"]
async fn child() {
    let settings = AwsSettings {
        ec2_endpoint: Some(std::env::var("TEST_EC2_URL").unwrap()),
        ssm_endpoint: Some("http://127.0.0.1:1".to_owned()),
        ..AwsSettings::new("us-east-2", "test")
    };
    let session = AwsSession::new(settings, Arc::new(NoObserver)).unwrap();
    let error = AwsCloud::new(&session).instances(&Tags::new()).await.err();
    assert_eq!(error.map(|error| error.to_string()), None);
}

/// Runs [`child`] with this environment and no other.
async fn run(home: &Path, url: &str, environment: &[(&str, &str)]) -> Output {
    tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "chain::child", "--nocapture"])
        .env_clear()
        .env("HOME", home)
        .env("TEST_EC2_URL", url)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(environment.iter().copied())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

fn shown(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs [`child`] against a server that is EC2 as well as where credentials come from.
async fn signed_with(
    script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    environment: impl Fn(&str, &Path) -> Vec<(String, String)>,
) -> Vec<Seen> {
    let home = tempfile::tempdir().unwrap();
    let server = Server::new(move |_, seen| match seen.action() {
        "DescribeInstances" => described("", ""),
        _ => script(seen),
    })
    .await;
    let environment = environment(&server.url, home.path());
    let environment: Vec<_> = environment
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    let output = run(home.path(), &server.url, &environment).await;
    assert!(
        output.status.success(),
        "{}\n{:?}",
        shown(&output),
        server.seen()
    );
    server.seen()
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn signer(seen: &Seen) -> &str {
    let (_, key) = seen.headers["authorization"]
        .split_once("Credential=")
        .unwrap();
    key.split('/').next().unwrap()
}

#[tokio::test]
async fn from_the_environment() {
    let seen = signed_with(
        |_| Reply::Close,
        |_, _| {
            env(&[
                ("AWS_ACCESS_KEY_ID", "AKIDENV"),
                ("AWS_SECRET_ACCESS_KEY", "secret"),
                ("AWS_SESSION_TOKEN", "token"),
            ])
        },
    )
    .await;
    assert_eq!(seen.len(), 1);
    assert_eq!(signer(&seen[0]), "AKIDENV");
    assert_eq!(seen[0].headers["x-amz-security-token"], "token");
    assert!(seen[0].headers["user-agent"].starts_with("halo/"));
}

#[tokio::test]
async fn from_pod_identity() {
    let seen = signed_with(
        |seen| {
            assert!(seen.line.starts_with("GET /v1/credentials"), "{}", seen.line);
            Reply::ok(r#"{"AccessKeyId":"AKIDPOD","SecretAccessKey":"secret","Token":"token","Expiration":"2099-01-01T00:00:00Z"}"#)
        },
        |url, home| {
            let token = home.join("token");
            std::fs::write(&token, "pod-token").unwrap();
            env(&[
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{url}/v1/credentials")),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().unwrap()),
            ])
        },
    )
    .await;
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].headers["authorization"], "pod-token");
    assert_eq!(signer(&seen[1]), "AKIDPOD");
}

#[tokio::test]
async fn from_a_web_identity() {
    let seen = signed_with(
        |_| {
            Reply::ok(
                r#"<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>
                <Credentials><AccessKeyId>AKIDWEB</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken>
                <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"#,
            )
        },
        |url, home| {
            let token = home.join("token");
            std::fs::write(&token, "web-token").unwrap();
            env(&[
                ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/halo"),
                ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
                ("AWS_ENDPOINT_URL_STS", url),
            ])
        },
    )
    .await;
    assert_eq!(seen[0].action(), "AssumeRoleWithWebIdentity");
    assert_eq!(seen[0].get("WebIdentityToken"), "web-token");
    assert_eq!(signer(&seen[1]), "AKIDWEB");
}

#[tokio::test]
async fn from_the_metadata_service() {
    let seen = signed_with(
        |seen| match seen.line.split(' ').nth(1).unwrap_or_default() {
            "/latest/api/token" => Reply::Raw(b"HTTP/1.1 200 OK\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600\r\ncontent-length: 5\r\nconnection: close\r\n\r\ntoken".to_vec()),
            path if path.ends_with("/halo-role") => Reply::ok(
                r#"{"Code":"Success","LastUpdated":"2026-01-01T00:00:00Z","Type":"AWS-HMAC","AccessKeyId":"AKIDIMDS","SecretAccessKey":"secret","Token":"token","Expiration":"2099-01-01T00:00:00Z"}"#,
            ),
            _ => Reply::ok("halo-role"),
        },
        |url, _| env(&[("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)]),
    )
    .await;
    assert_eq!(signer(seen.last().unwrap()), "AKIDIMDS");
}

#[tokio::test]
async fn from_nowhere() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::new(|_, _| described("", "")).await;
    let output = run(home.path(), &server.url, &[]).await;
    assert!(!output.status.success());
    assert!(
        shown(&output).contains("no usable credentials: NoCredentials"),
        "{}",
        shown(&output)
    );
    assert!(server.seen().is_empty());
}

/// A server whose certificate is from an authority that only its file knows.
#[tokio::test]
async fn tls_is_for_those_who_are_trusted() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![certificate.der().clone()], key.into())
    .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut servers = tokio::task::JoinSet::new();
    servers.spawn({
        let seen = Arc::clone(&seen);
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                script::serve(
                    stream,
                    Arc::clone(&seen),
                    Arc::new(|_, _: &Seen| described("", "")),
                )
                .await;
            }
        }
    });
    let home = tempfile::tempdir().unwrap();
    let ours = home.path().join("ours.pem");
    std::fs::write(&ours, authority.pem()).unwrap();
    let other = CertifiedIssuer::self_signed(
        CertificateParams::new(Vec::new()).unwrap(),
        KeyPair::generate().unwrap(),
    )
    .unwrap();
    let theirs = home.path().join("theirs.pem");
    std::fs::write(&theirs, other.pem()).unwrap();
    let keys = [
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let with = async |url: String, roots: &Path| {
        let environment = [&keys[..], &[("SSL_CERT_FILE", roots.to_str().unwrap())]].concat();
        run(home.path(), &url, &environment).await
    };

    let output = with(format!("https://localhost:{port}"), &ours).await;
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(seen.lock().unwrap().len(), 1);

    // Another authority, or another name.
    for (url, roots) in [
        (format!("https://localhost:{port}"), &theirs),
        (format!("https://127.0.0.1:{port}"), &ours),
    ] {
        let output = with(url, roots).await;
        assert!(!output.status.success());
        assert!(
            shown(&output).contains("invalid peer certificate"),
            "{}",
            shown(&output)
        );
    }
    assert_eq!(seen.lock().unwrap().len(), 1);
}
