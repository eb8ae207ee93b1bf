//! The DynamoDB ledger against DynamoDB Local, directly and through a proxy that fails on demand.

mod backend;
mod crash;
mod faults;
mod large;
mod listed;
mod proxy;
mod spill;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use halo_dynamodb_local::DynamoDbLocal;
use halo_ledger::conformance::Sample;
use halo_ledger::dynamodb::{DynamoLedger, Options, create_table_on};
use halo_ledger::{Appended, Ledger as _, LedgerMetrics};
use halo_receipts::evidence::Stream;
use halo_telemetry::registry::Maker;

/// The emulator that all tests share; each has tables of its own.
fn local() -> &'static DynamoDbLocal {
    static LOCAL: OnceLock<DynamoDbLocal> = OnceLock::new();
    LOCAL.get_or_init(|| {
        DynamoDbLocal::start(&halo_dynamodb_local::Options::default())
            .unwrap_or_else(|error| panic!("{error}"))
    })
}

/// An endpoint, with the only credentials that are needed there.
async fn environment(url: &str) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("us-east-2"))
        .endpoint_url(url)
        .credentials_provider(Credentials::new("local", "local", None, None, "test"))
        .load()
        .await
}

async fn direct() -> SdkConfig {
    environment(&local().url()).await
}

/// A new table.
async fn table() -> String {
    static TABLES: AtomicU32 = AtomicU32::new(0);
    let name = format!("receipts-{}", TABLES.fetch_add(1, Ordering::Relaxed));
    let report = create_table_on(&direct().await, &name).await.unwrap();
    assert!(report.created, "{name}");
    name
}

/// Options of a test that makes the ledger fail: it gives up soon, but not because the machine is busy.
fn hasty() -> Options {
    Options {
        patience: Duration::from_secs(4),
        spill_after: Duration::from_secs(1),
        attempt: Duration::from_millis(500),
        ..Options::default()
    }
}

/// Options with metrics, and where these are read.
fn counted(options: Options) -> (Options, Maker) {
    let maker = Maker::new();
    let metrics = Some(LedgerMetrics::new(&maker).unwrap());
    (Options { metrics, ..options }, maker)
}

/// A metric's value, by its name and labels as the exposition spells them; 0 if it is not there.
fn metric(maker: &Maker, name: &str) -> f64 {
    let text = String::from_utf8(maker.render().unwrap()).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

async fn open(table: &str, options: Options) -> DynamoLedger {
    DynamoLedger::open_on(&direct().await, table, options)
        .await
        .unwrap()
}

async fn begin(ledger: &DynamoLedger, sample: &Sample) {
    let (header, epoch) = (sample.header().unwrap(), sample.first_claim().unwrap());
    ledger.open_session(&header, &epoch).await.unwrap();
}

/// Opens a session and writes its question, the parent of all that a model does.
async fn ask(ledger: &DynamoLedger, sample: &Sample) {
    begin(ledger, sample).await;
    let question = sample.block(Stream::Device, 0, 2);
    let appended = ledger.append(&sample.session, &question).await.unwrap();
    assert_ne!(appended, Appended::AlreadyThere);
    // DynamoDB may have taken its time.
    ledger.settle().await.unwrap();
}

/// Waits for a condition that somebody else brings about.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
