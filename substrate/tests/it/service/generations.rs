//! A pod on a keyring while its root and its month change: who comes too early is told to come again, and nobody is sent away.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use halo_ledger::Ledger as _;
use halo_receipts::ids::Epoch;
use halo_receipts::keyring::KeyRing;
use halo_receipts::keys::{KeyStore as _, RootKeys, RootSecret};
use halo_receipts::time::KeyMonth;
use halo_substrate::keys::{FileKeys, PodKeys};

use super::device::{Device, EPOCH, PROMPT, tenant};
use super::engine::{Gate, Scripted};
use super::server::Server;

/// The last second of the month of [`EPOCH`], and the first of the next one.
const MONTH_END: Epoch = Epoch(1_790_812_799);
const NEXT_MONTH: Epoch = Epoch(1_790_812_800);

fn root(generation: u32) -> RootSecret {
    RootSecret::new(vec![u8::try_from(generation).unwrap(); 32]).unwrap()
}

fn device(seed: u8, generation: u32) -> Device {
    Device::keyed(seed, RootKeys::new(root(generation), generation, false))
}

fn publish(file: &Path, generations: &[u32], months: &[Epoch]) {
    let roots: Vec<_> = generations
        .iter()
        .map(|&generation| (generation, root(generation)))
        .collect();
    let roots: Vec<_> = roots.iter().map(|(number, root)| (*number, root)).collect();
    let months: Vec<_> = months.iter().map(|&epoch| KeyMonth::of(epoch)).collect();
    let ring = KeyRing::derive(&tenant(), &roots, &months, false).unwrap();
    let draft = file.with_extension("new");
    std::fs::write(&draft, ring.encode()).unwrap();
    std::fs::rename(draft, file).unwrap();
}

/// A pod whose keyring holds generation 1 in the month of [`EPOCH`]; nobody looks at the file without a reason.
async fn pod() -> (Server, PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keyring.json");
    publish(&file, &[1], &[EPOCH]);
    let keys = FileKeys::open(&file, &tenant()).unwrap();
    let server = Server::with_keys(PodKeys::File(Arc::new(keys))).await;
    server.scripted(Scripted::saying("yes", Gate::open()), 2, 4);
    (server, file, folder)
}

/// A question and its whole answer, over a link of its own.
async fn asks(server: &Server, device: &mut Device, link: u32) {
    let mut connection = server.connect(device, link).await.unwrap();
    let ask = device.ask(PROMPT, 8);
    server.record(device, &ask.stored).await;
    connection.send(&ask.document()).await;
    let (tokens, end) = connection.answer().await;
    assert!(!tokens.is_empty());
    assert_eq!(end.receipts.len(), 1, "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_both_roots_are_answered_while_both_are_published() {
    let (server, file, _folder) = pod().await;
    let (mut old, mut new) = (device(1, 1), device(2, 2));
    server.open(&old).await;
    server.open(&new).await;
    asks(&server, &mut old, 0).await;

    // The gateway has the new root already, the pod has not: it says that it will, and takes no number.
    for _ in 0..3 {
        assert_eq!(server.connect(&new, 0).await.err(), Some(503));
    }
    publish(&file, &[1, 2], &[EPOCH]);
    // The first one that needs the file makes the pod look at it.
    asks(&server, &mut new, 0).await;
    asks(&server, &mut old, 1).await;
    let metrics = server.get("/metrics").await.1;
    for line in [
        "halo_substrate_refusals_total{reason=\"keys\"} 3",
        "halo_substrate_keys_generation 2",
        "halo_substrate_keys_end_timestamp_seconds 1790812800",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }

    // A link that stands goes on when its root goes; a new one does not.
    let mut standing = server.connect(&old, 2).await.unwrap();
    publish(&file, &[2], &[EPOCH]);
    asks(&server, &mut new, 1).await;
    server.pod.keys.look().await;
    assert_eq!(server.connect(&old, 3).await.err(), Some(503));
    let ask = old.ask(PROMPT, 8);
    server.record(&old, &ask.stored).await;
    standing.send(&ask.document()).await;
    assert_eq!(standing.answer().await.1.receipts.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_begins_while_sessions_go_on() {
    let (server, file, _folder) = pod().await;
    let mut device = device(3, 1);
    server.open(&device).await;
    asks(&server, &mut device, 0).await;
    assert_eq!(KeyMonth::of(MONTH_END), KeyMonth::of(EPOCH));
    for (epoch, month) in [(MONTH_END, EPOCH), (NEXT_MONTH, NEXT_MONTH)] {
        server.ledger.claim(&device.claim_of(epoch)).await.unwrap();
        device.epoch = epoch;
        device.clock = u64::from(epoch.0) * 1_000_000;
        if month != EPOCH {
            assert_eq!(server.connect(&device, 0).await.err(), Some(503));
            publish(&file, &[1], &[EPOCH, NEXT_MONTH]);
        }
        asks(&server, &mut device, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_with_no_key_of_the_tenant_is_still_refused() {
    let (server, _file, _folder) = pod().await;
    let held = device(4, 1);
    server.open(&held).await;
    // Signed with a root that nobody published, for a session whose keys are here.
    let forger = Device::keyed(4, RootKeys::new(root(9), 1, false));
    assert_eq!(server.connect(&forger, 0).await.err(), Some(401));
    // For a session that is not there.
    assert_eq!(server.connect(&device(5, 9), 0).await.err(), Some(401));
    // The same generation with another secret is another root.
    let other = Device::keyed(6, RootKeys::new(root(8), 1, false));
    server.open(&other).await;
    assert_eq!(server.connect(&other, 0).await.err(), Some(503));
    assert!(server.connect(&held, 0).await.is_ok());
    // Nobody makes the pod read more headers at once than it allows.
    let all = server.pod.unsigned.available_permits() as u32;
    let taken = server.pod.unsigned.acquire_many(all).await.unwrap();
    assert_eq!(server.connect(&forger, 1).await.err(), Some(503));
    drop(taken);
    assert_eq!(server.connect(&forger, 1).await.err(), Some(401));
    assert_eq!(server.pod.keys.held(&tenant()).len(), 1);
    assert_eq!(server.ledger.snapshots.load(Ordering::SeqCst), 0);
}
