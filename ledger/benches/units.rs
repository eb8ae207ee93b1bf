//! What a reply costs in DynamoDB: write units for each receipt, as DynamoDB Local counts them in ConsumedCapacity, beside the
//! floor: what the bytes that nothing else says would cost alone, each block in whole units. These are the MACs, the ids, the sealed
//! texts, and the experts, of which there are as many bits as it takes to tell one choice from all others of as many.
//!
//! `cargo bench -p halo-ledger --bench units`. It needs a Java runtime, and Maven the first time.

#![allow(clippy::unwrap_used, reason = "a bench fails as a test does")]

use std::time::Instant;

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use halo_dynamodb_local::DynamoDbLocal;
use halo_ledger::conformance::Sample;
use halo_ledger::dynamodb::{DynamoLedger, Options, create_table_on};
use halo_ledger::{Ledger as _, LedgerMetrics};
use halo_receipts::evidence::{Block, ClaimKind, Stream};
use halo_receipts::experts::ExpertSet;
use halo_receipts::payload::{ExpertLoad, from_canonical};
use halo_telemetry::registry::Maker;

/// The most write units that a receipt of a reply may cost.
const LIMIT: f64 = 0.2;
/// On-demand price of a million write units in us-east-2, in dollars, since November 2024.
const PRICE: f64 = 0.625;

/// The bytes that a write unit pays for.
const UNIT: f64 = 1024.0;
/// A MAC and an id.
const SIGNED: f64 = 48.0;

/// The bytes of a block that follow from nothing else in it.
fn incompressible(block: &Block, experts: usize) -> f64 {
    let receipts = block.receipts.iter();
    let payloads = receipts.filter_map(|stored| stored.payload.as_deref());
    let payloads = payloads.map(|payload| {
        let load: Option<ExpertLoad> = from_canonical(payload).ok();
        let chosen = load.map_or(0.0, |load| choices(&load.experts, experts));
        chosen + sealed(payload)
    });
    SIGNED * block.receipts.len() as f64 + payloads.sum::<f64>()
}

/// The bytes of a payload's sealed text.
fn sealed(payload: &[u8]) -> f64 {
    let text = std::str::from_utf8(payload).unwrap();
    let sealed = text.split_once("\"sealed\":\"").map(|(_, rest)| rest);
    let digits = sealed.and_then(|rest| rest.find('"')).unwrap_or(0);
    (digits * 3 / 4) as f64
}

/// The bytes that tell one choice of experts from all others of as many.
fn choices(experts: &ExpertSet, all: usize) -> f64 {
    let bits = |layer| {
        let chosen = experts.layer(layer).count();
        let ways = (0..chosen).map(|at| ((all - at) as f64 / (at + 1) as f64).log2());
        ways.sum::<f64>()
    };
    (0..experts.layers()).map(bits).sum::<f64>() / 8.0
}

/// The write units that were counted so far.
fn units(maker: &Maker) -> f64 {
    let families = maker.registry().gather();
    let family = families
        .iter()
        .find(|family| family.name() == "halo_ledger_units_total");
    let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
    let puts = metrics.iter().filter(|metric| {
        metric
            .get_label()
            .iter()
            .any(|label| label.value() == "put")
    });
    puts.map(|metric| metric.get_counter().get_value()).sum()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let local = DynamoDbLocal::start(&halo_dynamodb_local::Options::default()).unwrap();
    let environment = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("us-east-2"))
        .endpoint_url(local.url())
        .credentials_provider(Credentials::new("local", "local", None, None, "bench"))
        .load()
        .await;
    create_table_on(&environment, "bench").await.unwrap();
    let maker = Maker::new();
    let options = Options {
        metrics: Some(LedgerMetrics::new(&maker).unwrap()),
        ..Options::default()
    };
    let ledger = DynamoLedger::open_on(&environment, "bench", options)
        .await
        .unwrap();
    println!("write units of a reply, blocks of 64; at most {LIMIT} for each receipt");
    println!(
        "{:<26} {:>6} {:>8} {:>7} {:>11} {:>6} {:>14} {:>12} {:>14}",
        "model",
        "tokens",
        "receipts",
        "units",
        "per receipt",
        "floor",
        "with opening",
        "$/M receipts",
        "receipts/s"
    );
    let mut seed = 0;
    for (name, layers, experts) in [
        ("4 layers of 32 experts", 4, 32),
        ("48 layers of 128 experts", 48, 128),
    ] {
        for tokens in [32, 1000] {
            seed += 1;
            let sample = Sample::from_model(seed, tokens, layers, experts).unwrap();
            let before = units(&maker);
            let (header, epoch) = (sample.header().unwrap(), sample.first_claim().unwrap());
            ledger.open_session(&header, &epoch).await.unwrap();
            for kind in [ClaimKind::Connection, ClaimKind::SubstrateLink] {
                ledger
                    .claim(&sample.claim(kind, 0, 0).unwrap())
                    .await
                    .unwrap();
            }
            let opened = units(&maker);
            // As gateway and pod write them: the question, what the model does, the seal.
            let question = [sample.block(Stream::Device, 0, 2)];
            let seal = [sample.block(Stream::Device, 2, 1)];
            let blocks = sample.blocks(Stream::Substrate, 64);
            let begun = Instant::now();
            let (mut receipts, mut floor) = (0, 0.0);
            for block in question.iter().chain(&blocks).chain(&seal) {
                receipts += block.receipts.len();
                floor += (incompressible(block, experts) / UNIT).ceil();
                append(&ledger, &sample, block).await;
            }
            let rate = receipts as f64 / begun.elapsed().as_secs_f64();
            let (reply, whole) = (units(&maker) - opened, units(&maker) - before);
            let each = reply / receipts as f64;
            let verdict = if each <= LIMIT {
                ""
            } else {
                "  OVER THE LIMIT"
            };
            println!(
                "{name:<26} {tokens:>6} {receipts:>8} {reply:>7.0} {each:>11.3} {:>6.3} {:>14.3} {:>12.4} {rate:>14.0}{verdict}",
                floor / receipts as f64,
                whole / receipts as f64,
                each * PRICE,
            );
        }
    }
}

async fn append(ledger: &DynamoLedger, sample: &Sample, block: &Block) {
    ledger.append(&sample.session, block).await.unwrap();
}
