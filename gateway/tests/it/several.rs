//! Several gateways side by side: any device at any of them, and the claims in their ledger decide.

use std::sync::Arc;

use halo_gateway::bundle::Book;
use halo_gateway::directory::{StaticDirectory, Tenant};
use halo_ledger::SqliteLedger;
use halo_receipts::documents::EndStatus;
use halo_receipts::evidence::Claim;
use halo_receipts::ids::Tier;
use halo_receipts::keys::TierKey;
use halo_receipts::opening::OpenAnswer;
use halo_receipts::payload::ContentPolicy;

use crate::author::{Author, record, request_id, tenant};
use crate::device::{Device, upgrade};
use crate::world::{World, quick, until};

/// Two gateways, each with a connection of its own to one ledger.
async fn two() -> (World, World, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let world = || async {
        let ledger = SqliteLedger::open(folder.path().join("ledger.db")).unwrap();
        let own = tempfile::tempdir().unwrap();
        World::on(Arc::new(ledger), own, None, quick(), ContentPolicy::Sealed).await
    };
    (world().await, world().await, folder)
}

fn key(answer: &OpenAnswer) -> TierKey {
    TierKey::from_hex(&answer.tier_keys.orchestrator).unwrap()
}

#[tokio::test]
async fn a_device_goes_on_at_another_gateway() {
    let (one, two, _folder) = two().await;
    let mut device = Device::new(&one).await;
    let capture = device.author.capture();
    device.send(&record(request_id(1), &[&capture])).await;
    assert_eq!(device.answer().await.1.status, EndStatus::Recorded);

    // The epoch has its one connection, wherever it is asked for.
    let own = device.author.key(Tier::Orchestrator);
    let again = upgrade(&two, &device.stream, &own, &[]).await;
    assert_eq!(again.err(), Some(409));

    // A new epoch at the other gateway goes on in the same chain, and the older one is over everywhere.
    let mut author = Author::new(device.session(), device.author.epoch);
    author.d = device.author.d.clone();
    author.captures = device.author.captures;
    let mut moved = Device::again(&two, author).await;
    for world in [&one, &two] {
        let over = upgrade(world, &device.stream, &own, &[]).await;
        assert_eq!(over.err(), Some(401));
    }
    let capture = moved.author.capture();
    moved.send(&record(request_id(2), &[&capture])).await;
    assert_eq!(moved.answer().await.1.status, EndStatus::Recorded);

    // Both wrote into one chain, which is whole.
    let session = moved.session();
    let evidence = one.ledger.snapshot(&session).await.unwrap().unwrap();
    let book = Book::read(&evidence, session, &moved.author.tenant).unwrap();
    assert_eq!(book.next_device(), 2);
    let mut epochs: Vec<u32> = evidence
        .claims
        .iter()
        .map(|claim| claim.parse::<Claim>().unwrap().session_epoch.0)
        .collect();
    epochs.sort_unstable();
    let (first, second) = (device.author.epoch.0, moved.author.epoch.0);
    assert_eq!(epochs, [first, first, second, second]);
}

#[tokio::test]
async fn what_two_gateways_want_at_once_one_of_them_gets() {
    let (one, two, _folder) = two().await;
    let device = Device::new(&one).await;
    // An epoch each, and the later one counts, at both.
    let (first, second) = tokio::join!(
        Device::opens_again(&one, &device.author),
        Device::opens_again(&two, &device.author)
    );
    assert_ne!(first.session_epoch, second.session_epoch);
    let (older, newer) = match first.session_epoch < second.session_epoch {
        true => (first, second),
        false => (second, first),
    };
    for world in [&one, &two] {
        let refused = upgrade(world, &older.stream, &key(&older), &[]).await;
        assert_eq!(refused.err(), Some(401));
    }
    // And its one connection.
    let own = key(&newer);
    let (left, right) = tokio::join!(
        upgrade(&one, &newer.stream, &own, &[]),
        upgrade(&two, &newer.stream, &own, &[])
    );
    let mut outcomes = [left.err(), right.err()];
    outcomes.sort_unstable();
    assert_eq!(outcomes, [None, Some(409)]);
}

#[tokio::test]
async fn a_tenant_has_so_many_devices_connected_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = SqliteLedger::open(folder.path().join("ledger.db")).unwrap();
    let mut directory = StaticDirectory::default();
    let policy = Tenant {
        devices: 1,
        ..Tenant::default()
    };
    directory.insert(tenant(), policy, None);
    let world = World::of(Arc::new(ledger), folder, Arc::new(directory), quick()).await;
    let device = Device::new(&world).await;
    let other = Device::opens(&world).await;
    let full = upgrade(&world, &other.stream, &key(&other), &[]).await;
    assert_eq!(full.err(), Some(503));
    // The same session again is no second device.
    let author = Author::new(device.session(), device.author.epoch);
    let again = Device::again(&world, author).await;
    drop((device, again));
    until("the place is free", || {
        world.metric("halo_gateway_sockets") == 0.0
            && world.metric("halo_gateway_connections") == 0.0
    })
    .await;
    // What was turned away was not claimed: the epoch is as good as before.
    let now = upgrade(&world, &other.stream, &key(&other), &[]).await;
    assert!(now.is_ok());
}
