//! The root store on a parameter store that counts its calls.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use halo_cloud::{Parameter, SecretError, Secrets};
use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use super::super::keys::{RootError, RootStore};
use super::worlds::{down, now};
use crate::clock::Clock;
use crate::settings::Pace;

struct Hand(Mutex<Timestamp>);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

impl Hand {
    fn set(&self, to: Timestamp) {
        *self.0.lock().unwrap() = to;
    }
}

#[derive(Default)]
struct Store {
    values: Mutex<BTreeMap<(String, u32), Vec<u8>>>,
    broken: Mutex<Option<SecretError>>,
    silent: std::sync::atomic::AtomicBool,
    calls: AtomicUsize,
}

#[async_trait]
impl Secrets for Store {
    async fn parameter(&self, name: &str, version: Option<u32>) -> Result<Parameter, SecretError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        // Others that ask at the same time get their turn before the answer is there.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if let Some(error) = self.broken.lock().unwrap().clone() {
            return Err(error);
        }
        let version = version.unwrap();
        let values = self.values.lock().unwrap();
        let value = values.get(&(name.to_owned(), version));
        let value = value.ok_or_else(|| SecretError::Missing(name.to_owned()))?;
        Ok(Parameter {
            value: Zeroizing::new(value.clone()),
            version,
        })
    }
}

struct Bench {
    store: Arc<RootStore>,
    secrets: Arc<Store>,
    clock: Arc<Hand>,
}

impl Bench {
    fn new() -> Self {
        let (secrets, clock) = (
            Arc::new(Store::default()),
            Arc::new(Hand(Mutex::new(now()))),
        );
        let pace = Pace {
            api_timeout: Duration::from_millis(20),
            ..Pace::default()
        };
        let store = Arc::new(RootStore::new(secrets.clone(), clock.clone(), pace));
        Self {
            store,
            secrets,
            clock,
        }
    }

    fn put(&self, version: u32, value: Vec<u8>) {
        let mut values = self.secrets.values.lock().unwrap();
        values.insert(("/halo/root".to_owned(), version), value);
    }

    fn calls(&self) -> usize {
        self.secrets.calls.load(Ordering::SeqCst)
    }

    fn fail(&self, error: Option<SecretError>) {
        *self.secrets.broken.lock().unwrap() = error;
    }

    fn later(&self, seconds: i64) {
        let now = self.clock.now();
        self.clock.set(now + SignedDuration::from_secs(seconds));
    }

    async fn crowd(&self, tenants: usize) -> usize {
        let mut tasks = Vec::new();
        for _ in 0..tenants {
            let store = Arc::clone(&self.store);
            tasks.push(tokio::spawn(async move {
                store.read("/halo/root", 1).await.root.is_some()
            }));
        }
        let mut held = 0;
        for task in tasks {
            held += usize::from(task.await.unwrap());
        }
        held
    }
}

#[tokio::test]
async fn a_thousand_tenants_make_one_call() {
    let bench = Bench::new();
    bench.put(1, vec![7; 32]);
    assert_eq!(bench.crowd(1000).await, 1000);
    assert_eq!(bench.calls(), 1);
    let reading = bench.store.read("/halo/root", 1).await;
    assert_eq!(bench.calls(), 1);
    // A tenth around an hour.
    let wait = reading.next.duration_since(now()).as_secs();
    assert!((3240..=3960).contains(&wait), "{wait}");
    bench.later(3961);
    assert_eq!(bench.crowd(1000).await, 1000);
    assert_eq!(bench.calls(), 2);
    // Another version is another secret.
    bench.put(2, vec![8; 32]);
    assert!(bench.store.read("/halo/root", 2).await.root.is_some());
    assert_eq!(bench.calls(), 3);
}

#[tokio::test]
async fn a_failure_is_one_call_too_and_is_tried_less_and_less() {
    let bench = Bench::new();
    bench.fail(Some(down()));
    assert_eq!(bench.crowd(1000).await, 0);
    assert_eq!(bench.calls(), 1);
    let mut waits = Vec::new();
    for _ in 0..14 {
        let reading = bench.store.read("/halo/root", 1).await;
        let wait = reading.next.duration_since(bench.clock.now());
        waits.push(wait.as_millis());
        assert_eq!(reading.failure.unwrap().since, now());
        bench.clock.set(reading.next);
        let _ = bench.store.read("/halo/root", 1).await;
    }
    assert_eq!(bench.calls(), 15);
    assert!((450..=550).contains(&waits[0]), "{waits:?}");
    for pair in waits.windows(2).take(8) {
        assert!(pair[1] > pair[0], "{waits:?}");
    }
    assert!(waits.iter().all(|wait| *wait <= 330_000), "{waits:?}");
    assert!(*waits.last().unwrap() >= 270_000, "{waits:?}");

    bench.fail(None);
    bench.put(1, vec![7; 32]);
    bench.later(331);
    let reading = bench.store.read("/halo/root", 1).await;
    assert!(reading.root.is_some() && reading.failure.is_none());
}

#[tokio::test]
async fn a_root_stays_while_it_cannot_be_read_again() {
    let bench = Bench::new();
    bench.put(1, vec![7; 32]);
    assert_eq!(bench.crowd(1).await, 1);
    bench.fail(Some(down()));
    bench.later(4000);
    let reading = bench.store.read("/halo/root", 1).await;
    assert!(reading.root.is_some());
    assert_eq!(reading.failure.unwrap().since, bench.clock.now());
}

#[tokio::test]
async fn what_is_no_root_is_named() {
    let bench = Bench::new();
    let error = async |generation| {
        let reading = bench.store.read("/halo/root", generation).await;
        assert!(reading.root.is_none());
        reading.failure.unwrap().error
    };
    assert_eq!(error(1).await.name(), "RootParameterMissing");
    bench.put(2, vec![7; 31]);
    let short = error(2).await;
    assert_eq!(short.name(), "RootTooShort");
    assert!(short.to_string().contains("31 bytes"), "{short}");
    // A line feed at the end counts: nothing is trimmed.
    let mut with_end = vec![7; 31];
    with_end.push(b'\n');
    bench.put(3, with_end);
    assert!(bench.store.read("/halo/root", 3).await.root.is_some());
    bench.secrets.silent.store(true, Ordering::SeqCst);
    let silent = error(4).await;
    assert!(
        matches!(&silent, RootError::Secret(SecretError::Unavailable { code, .. }) if code == "Timeout")
    );
}

#[tokio::test]
async fn roots_that_nobody_names_are_forgotten() {
    let bench = Bench::new();
    bench.put(1, vec![7; 32]);
    bench.put(2, vec![8; 32]);
    for generation in [1, 2] {
        let _ = bench.store.read("/halo/root", generation).await;
    }
    bench.store.keep_only(|_, generation| generation == 2);
    for generation in [1, 2] {
        let _ = bench.store.read("/halo/root", generation).await;
    }
    assert_eq!(bench.calls(), 3);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_says_why_and_never_what() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let bench = Bench::new();
    bench.put(1, b"short-but-very-secret".to_vec());
    bench.put(2, b"long-enough-and-very-secret-indeed!".to_vec());
    for generation in [1, 2, 3] {
        let _ = bench.store.read("/halo/root", generation).await;
    }
    drop(guard);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        text.contains("RootTooShort") && text.contains("RootParameterMissing"),
        "{text}"
    );
    assert!(!text.contains("very-secret"), "{text}");
}
