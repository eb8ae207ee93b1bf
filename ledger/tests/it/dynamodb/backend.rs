//! What a ledger in DynamoDB does while all is well.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, KeySchemaElement, KeyType, ProvisionedThroughput,
    ScalarAttributeType,
};
use halo_ledger::conformance::{self, Backend, Sample};
use halo_ledger::dynamodb::{DynamoLedger, Options, create_table_on};
use halo_ledger::{Appended, Ledger, LedgerError, SessionQuery, SqliteLedger};
use halo_receipts::evidence::{Block, ClaimKind, Stream};
use proptest::prelude::*;
use tokio::sync::Mutex;

use super::proxy::Proxy;
use super::{begin, counted, direct, metric, open, table};

/// A table for each name.
#[derive(Default)]
struct Tables(Mutex<HashMap<String, String>>);

#[async_trait]
impl Backend for Tables {
    async fn open(&self, name: &str) -> Result<Arc<dyn Ledger>, LedgerError> {
        let mut tables = self.0.lock().await;
        if !tables.contains_key(name) {
            tables.insert(name.to_owned(), table().await);
        }
        Ok(Arc::new(open(&tables[name], Options::default()).await))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dynamodb_is_a_ledger() {
    conformance::run(&Tables::default()).await.unwrap();
}

#[tokio::test]
async fn a_table_is_made_once_and_looked_at_afterwards() {
    let environment = direct().await;
    let first = create_table_on(&environment, "made-once").await.unwrap();
    assert!(first.created);
    // DynamoDB Local has no backups; everything else is as it was asked for.
    assert!(
        first
            .differences
            .iter()
            .all(|difference| difference.contains("ContinuousBackups")),
        "{first:?}"
    );
    let second = create_table_on(&environment, "made-once").await.unwrap();
    assert!(!second.created);
    assert_eq!(
        second.differences.len(),
        first.differences.len(),
        "{second:?}"
    );

    let client = aws_sdk_dynamodb::Client::new(&environment);
    let key = KeySchemaElement::builder()
        .attribute_name("id")
        .key_type(KeyType::Hash);
    let id = AttributeDefinition::builder()
        .attribute_name("id")
        .attribute_type(ScalarAttributeType::N);
    let capacity = ProvisionedThroughput::builder()
        .read_capacity_units(1)
        .write_capacity_units(1);
    client
        .create_table()
        .table_name("another-programs")
        .key_schema(key.build().unwrap())
        .attribute_definitions(id.build().unwrap())
        .provisioned_throughput(capacity.build().unwrap())
        .send()
        .await
        .unwrap();
    let report = create_table_on(&environment, "another-programs")
        .await
        .unwrap();
    assert!(!report.created);
    for part in [
        "its key is (id)",
        "id has type N",
        "provisioned",
        "not protected",
        "sessions_by_tenant is missing",
        "sessions_by_time is missing",
    ] {
        let named = report
            .differences
            .iter()
            .any(|difference| difference.contains(part));
        assert!(named, "{part}: {report:?}");
    }
}

#[tokio::test]
async fn a_missing_table_and_a_reader_are_told_so() {
    let environment = direct().await;
    let missing =
        DynamoLedger::open_read_only_on(&environment, "nowhere", Options::default()).await;
    let Some(LedgerError::Missing(text)) = missing.err() else {
        panic!("a missing table opens")
    };
    assert!(
        text.contains("dynamodb:nowhere@us-east-2") && text.contains("halo ledger create"),
        "{text}"
    );
    let absent = open("nowhere", Options::default()).await;
    assert!(matches!(absent.check().await, Err(LedgerError::Missing(_))));

    let name = table().await;
    let writer = open(&name, Options::default()).await;
    let sample = Sample::new(1, 3).unwrap();
    begin(&writer, &sample).await;
    let reader = DynamoLedger::open_read_only_on(&environment, &name, Options::default());
    let reader = reader.await.unwrap();
    let refused = [
        reader.check().await,
        reader
            .claim(&sample.claim(ClaimKind::Connection, 0, 0).unwrap())
            .await,
        reader
            .open_session(&sample.header().unwrap(), &sample.first_claim().unwrap())
            .await,
        reader
            .append(&sample.session, &sample.block(Stream::Device, 0, 1))
            .await
            .map(|_| ()),
    ];
    for refused in refused {
        assert!(
            matches!(refused, Err(LedgerError::ReadOnly(_))),
            "{refused:?}"
        );
    }
    assert!(reader.snapshot(&sample.session).await.unwrap().is_some());
}

/// Every write is one put, an append that goes on needs nothing else, and no other right than three is used.
#[tokio::test]
async fn three_rights_and_one_put_for_each_write() {
    let (proxy, name) = (Proxy::start().await, table().await);
    let (options, maker) = counted(Options::default());
    let ledger = DynamoLedger::open_on(&proxy.environment().await, &name, options)
        .await
        .unwrap();
    let sample = Sample::new(1, 100).unwrap();
    begin(&ledger, &sample).await;
    for block in sample.blocks(Stream::Substrate, 16) {
        let appended = ledger.append(&sample.session, &block).await;
        assert_eq!(appended, Ok(Appended::Written));
    }
    let puts = 1 + sample.blocks(Stream::Substrate, 16).len() as u32;
    let done: Vec<_> = proxy.done().into_iter().collect();
    assert_eq!(done, [("PutItem".to_owned(), puts)]);
    assert!(metric(&maker, "halo_ledger_units_total{operation=\"put\"}") >= f64::from(puts));

    ledger.check().await.unwrap();
    ledger
        .claim(&sample.claim(ClaimKind::Connection, 0, 0).unwrap())
        .await
        .unwrap();
    ledger
        .claim(&sample.claim(ClaimKind::Epoch, 1, 0).unwrap())
        .await
        .unwrap();
    ledger.session(&sample.session).await.unwrap();
    ledger.snapshot(&sample.session).await.unwrap();
    ledger.sessions(&SessionQuery::default()).await.unwrap();
    let used: Vec<_> = proxy.done().into_keys().collect();
    assert_eq!(used, ["GetItem", "PutItem", "Query"]);

    // What stands in the table: strings and bytes, and nothing that the check wrote.
    let client = aws_sdk_dynamodb::Client::new(&direct().await);
    let items = client.scan().table_name(&name).send().await.unwrap();
    assert!(items.last_evaluated_key().is_none());
    assert_eq!(items.count() as u32, puts + 2);
    fn plain(value: &AttributeValue) -> bool {
        match value {
            AttributeValue::S(_) | AttributeValue::B(_) => true,
            AttributeValue::L(list) => list.iter().all(plain),
            AttributeValue::M(map) => map.values().all(plain),
            _ => false,
        }
    }
    for item in items.items() {
        assert!(item.values().all(plain), "{item:?}");
        let claim = item["sk"].as_s().unwrap().starts_with(['C', 'E']);
        assert!(
            claim || item["org_id"] == AttributeValue::S("acme".to_owned()),
            "{item:?}"
        );
    }
}

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Blocks as large as they may be, and a session of several pages.
#[tokio::test]
async fn large_blocks_and_long_sessions() {
    let ledger = open(&table().await, Options::default()).await;
    let sample = Sample::new(1, 5).unwrap();
    begin(&ledger, &sample).await;
    let mut expected = Vec::new();
    for first in 0..8 {
        let mut block = sample.block(Stream::Substrate, first, 1);
        block.receipts[0].payload = Some(noise(first as u64, (384 << 10) - 700));
        assert_eq!(
            ledger.append(&sample.session, &block).await,
            Ok(Appended::Written)
        );
        expected.push(block);
    }
    let evidence = ledger.snapshot(&sample.session).await.unwrap().unwrap();
    let found: Vec<_> = evidence
        .blocks
        .into_iter()
        .map(|block| block.content.unwrap())
        .collect();
    let expected: Vec<_> = expected.into_iter().map(|block| block.receipts).collect();
    assert!(found == expected, "what was read is not what was written");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// The same writes leave the same evidence in both backends, byte for byte.
    #[test]
    fn both_backends_hold_the_same_bytes(
        seed in 1000u64..u64::MAX / 2_000_000,
        steps in 0u32..60,
        cuts in proptest::collection::vec(1usize..=64, 1..6),
        links in 0u32..3,
        omitted in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let seed = seed % 1_000_000;
        let sample = Sample::new(seed, steps).unwrap();
        runtime.block_on(async {
            let sqlite = SqliteLedger::open(folder.path().join("ledger.db")).unwrap();
            let dynamodb = open(&table().await, Options::default()).await;
            let mut blocks: Vec<Block> = Vec::new();
            for stream in Stream::ALL {
                let (mut first, mut cut) = (0, cuts.iter().cycle());
                loop {
                    let mut block = sample.block(stream, first, *cut.next().unwrap());
                    if block.receipts.is_empty() {
                        break;
                    }
                    first += block.receipts.len();
                    let at = omitted.index(block.receipts.len());
                    block.receipts[at].payload = None;
                    blocks.push(block);
                }
            }
            let ledgers: [&dyn Ledger; 2] = [&sqlite, &dynamodb];
            let mut snapshots = Vec::new();
            for ledger in ledgers {
                ledger.open_session(&sample.header().unwrap(), &sample.first_claim().unwrap()).await.unwrap();
                for link in 0..links {
                    ledger.claim(&sample.claim(ClaimKind::SubstrateLink, 0, link).unwrap()).await.unwrap();
                    ledger.claim(&sample.claim(ClaimKind::Epoch, link + 1, 0).unwrap()).await.unwrap();
                }
                for block in &blocks {
                    ledger.append(&sample.session, block).await.unwrap();
                }
                let state = ledger.session(&sample.session).await.unwrap().unwrap();
                let listed = ledger.sessions(&SessionQuery::default()).await.unwrap();
                let evidence = ledger.snapshot(&sample.session).await.unwrap();
                snapshots.push((evidence, listed, state.header, state.last_epoch, state.next_device, state.next_substrate));
            }
            assert!(snapshots[0] == snapshots[1], "{:#?}", snapshots);
        });
    }
}
