//! A session test against a gateway in this process, whose keys are a published keyring as in a cluster.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use halo_cli::session::{self, Options, SessionError};
use halo_gateway::certificate::Certificate;
use halo_gateway::config::Limits;
use halo_gateway::directory::{StaticDirectory, Tenant};
use halo_gateway::gateway::{Gateway, Parts};
use halo_gateway::metrics::Metrics;
use halo_gateway::server;
use halo_ledger::{LedgerUrl, OpenOptions};
use halo_receipts::ids::{Epoch, TenantId};
use halo_receipts::keyring::KeyRing;
use halo_receipts::keys::RootSecret;
use halo_receipts::time::KeyMonth;
use halo_telemetry::registry::Maker;
use rustls::pki_types::PrivateKeyDer;

use crate::program::halo;

/// A gateway whose tenant has no substrate, its files, and how a test reaches it.
struct World {
    folder: tempfile::TempDir,
    url: String,
    ledger: LedgerUrl,
    tenant: TenantId,
}

/// The keys of this month and of those beside it, in case it ends now.
fn ring(tenant: &TenantId, secret: u8) -> KeyRing {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let now = u32::try_from(now.as_secs()).unwrap();
    let week = 7 * 24 * 60 * 60;
    let mut months = vec![
        KeyMonth::of(Epoch(now - week)),
        KeyMonth::of(Epoch(now)),
        KeyMonth::of(Epoch(now + week)),
    ];
    months.dedup();
    let root = RootSecret::new(vec![secret; 32]).unwrap();
    KeyRing::derive(tenant, &[(2, &root)], &months, true).unwrap()
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tenant: TenantId = "acme".parse().unwrap();
        let path = |name: &str| folder.path().join(name);
        let ledger: LedgerUrl = format!("sqlite:{}", path("ledger.db").display())
            .parse()
            .unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(path("ca.pem"), made.cert.pem()).unwrap();
        std::fs::write(path("keyring.json"), ring(&tenant, 7).encode().as_slice()).unwrap();
        let mut directory = StaticDirectory::default();
        directory.insert(tenant.clone(), Tenant::default(), None);
        let gateway = Gateway::new(Parts {
            name: "gateway-under-test".to_owned(),
            ledger: halo_ledger::open(&ledger, OpenOptions::default())
                .await
                .unwrap(),
            keys: Arc::new(Arc::new(ring(&tenant, 7))),
            directory: Arc::new(directory),
            limits: Limits {
                hold_ms: 300,
                ..Limits::default()
            },
            metrics: Metrics::new(&Maker::new()).unwrap(),
        });
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let tls =
            server::tls(Certificate::fixed(vec![made.cert.der().clone()], key).unwrap()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "https://localhost:{}",
            listener.local_addr().unwrap().port()
        );
        tokio::spawn(server::serve_devices(gateway.unwrap(), listener, Some(tls)));
        Self {
            folder,
            url,
            ledger,
            tenant,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn options(&self) -> Options {
        Options {
            gateway: self.url.clone(),
            ca: self.path("ca.pem"),
            keyring: self.path("keyring.json"),
            ledger: self.ledger.clone(),
            question: None,
            device: "session-test".parse().unwrap(),
            device_generation: 1,
            max_tokens: 8,
            timeout: Duration::from_secs(60),
            clock_offset: 0,
            attempts: 1,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_recorded_and_verified() {
    let world = World::new().await;
    let told = Mutex::new(Vec::new());
    let outcome = session::run(&world.options(), |stage, _| {
        told.lock().unwrap().push(stage)
    })
    .await
    .unwrap();
    assert!(outcome.pass, "{outcome:?}");
    assert_eq!((outcome.verdict_code, outcome.answer.is_none()), (0, true));
    assert!(
        outcome.receipts > 0 && outcome.verdict.starts_with("PASS - "),
        "{outcome:?}"
    );
    let stages: Vec<&str> = outcome.stages.iter().map(|stage| stage.name).collect();
    assert_eq!(stages, *told.lock().unwrap());
    for stage in [
        "session opened",
        "capture verified",
        "recorded",
        "sealed",
        "verified",
    ] {
        assert!(stages.contains(&stage), "{stage}: {stages:?}");
    }
    assert!(outcome.stages.is_sorted_by_key(|stage| stage.ms));
    let mut out = Vec::new();
    outcome.write(&mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.starts_with(&format!("session {} of tenant acme\n", outcome.session_id)),
        "{text}"
    );
    assert!(text.ends_with(&outcome.verdict), "{text}");
    // The same device comes again.
    assert!(
        session::run(&world.options(), |_, _| {})
            .await
            .unwrap()
            .pass
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_nobody_answers_fails() {
    let world = World::new().await;
    let options = Options {
        question: Some("What is sovereign inference?".to_owned()),
        ..world.options()
    };
    let outcome = session::run(&options, |_, _| {}).await.unwrap();
    assert!(!outcome.pass, "{outcome:?}");
    assert!(
        outcome.why.starts_with("the substrate did not answer"),
        "{outcome:?}"
    );
    // That it was asked and not answered is on record, and verifies.
    assert_eq!(outcome.verdict_code, 0, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_files_that_do_not_fit() {
    let world = World::new().await;
    std::fs::write(
        world.path("other.json"),
        ring(&world.tenant, 8).encode().as_slice(),
    )
    .unwrap();
    let other = Options {
        keyring: world.path("other.json"),
        timeout: Duration::from_secs(3),
        ..world.options()
    };
    let error = session::run(&other, |_, _| {}).await.unwrap_err();
    assert!(
        matches!(error, SessionError::Phone(_) | SessionError::Late { .. }),
        "{error}"
    );
    assert_eq!(error.exit_code(), 1);

    let missing = Options {
        keyring: world.path("nothing"),
        ..world.options()
    };
    assert_eq!(
        session::run(&missing, |_, _| {})
            .await
            .unwrap_err()
            .exit_code(),
        2
    );
    let elsewhere: LedgerUrl = format!("sqlite:{}", world.path("nothing.db").display())
        .parse()
        .unwrap();
    let error = session::run(
        &Options {
            ledger: elsewhere,
            ..world.options()
        },
        |_, _| {},
    )
    .await
    .unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_a_program() {
    let world = World::new().await;
    let ledger = world.ledger.to_string();
    let (ca, keyring) = (world.path("ca.pem"), world.path("keyring.json"));
    let arguments = [
        "session-test",
        "--gateway",
        &world.url,
        "--ca",
        ca.to_str().unwrap(),
        "--keyring",
        keyring.to_str().unwrap(),
        "--ledger",
        &ledger,
    ];
    let ran = tokio::task::block_in_place(|| halo(&[&arguments[..], &["--json"]].concat(), &[]));
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let outcome: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&outcome["pass"], &outcome["tenant_id"]),
        (&true.into(), &"acme".into())
    );
    let ran = tokio::task::block_in_place(|| {
        halo(
            &[&arguments[..], &["--question", "Who?", "--attempts", "1"]].concat(),
            &[],
        )
    });
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
    assert!(
        ran.out.contains("FAIL - the substrate did not answer"),
        "{}",
        ran.out
    );

    let late = format!("https://{}", crate::servers::closed());
    let mut nobody = arguments;
    nobody[2] = &late;
    let ran =
        tokio::task::block_in_place(|| halo(&[&nobody[..], &["--timeout", "1s"]].concat(), &[]));
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
    assert!(
        ran.out.contains("opening the session") && ran.out.contains("cannot be reached"),
        "{}",
        ran.out
    );
}
