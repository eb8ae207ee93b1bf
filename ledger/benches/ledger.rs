//! How fast receipts become durable, beside what the disk allows, and how fast a session is read.
//!
//! `cargo bench -p halo-ledger`. Rates are receipts per second; the disk is the one under the target folder.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench fails as a test does, and criterion's macros write no docs"
)]

use std::fs::File;
use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use halo_ledger::conformance::Sample;
use halo_ledger::{Ledger, SqliteLedger, block};
use halo_receipts::evidence::{Block, Stream};
use halo_receipts::receipt::Receipt;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Answers that are written at once.
const SESSIONS: u64 = 32;
/// Blocks of 64 receipts in each answer.
const BLOCKS: u32 = 16;

fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap()
}

/// Answers of a model with `layers` layers of `experts` experts.
fn samples(layers: usize, experts: usize) -> Vec<Arc<(Sample, Vec<Block>)>> {
    let sample = |seed| {
        let sample = Sample::from_model(seed, BLOCKS * 32, layers, experts).unwrap();
        let mut blocks = sample.blocks(Stream::Substrate, 64);
        blocks.truncate(BLOCKS as usize);
        Arc::new((sample, blocks))
    };
    (0..SESSIONS).map(sample).collect()
}

fn open(
    folder: &Path,
    runtime: &Runtime,
    samples: &[Arc<(Sample, Vec<Block>)>],
) -> Arc<SqliteLedger> {
    let ledger = Arc::new(SqliteLedger::open(folder.join("ledger.db")).unwrap());
    for sample in samples {
        let (header, epoch) = (sample.0.header().unwrap(), sample.0.first_claim().unwrap());
        runtime
            .block_on(ledger.open_session(&header, &epoch))
            .unwrap();
    }
    ledger
}

/// Writes all blocks of all samples, each sample's in order, the samples side by side.
async fn write(ledger: &Arc<SqliteLedger>, samples: &[Arc<(Sample, Vec<Block>)>]) {
    let mut writers = JoinSet::new();
    for sample in samples {
        let (ledger, sample) = (Arc::clone(ledger), Arc::clone(sample));
        writers.spawn(async move {
            for block in &sample.1 {
                ledger.append(&sample.0.session, block).await.unwrap();
            }
        });
    }
    writers.join_all().await;
}

/// The bound: the same encoded blocks at the end of a plain file, one fdatasync for as many as there are writers.
fn raw(encoded: &[Vec<u8>]) -> Duration {
    let folder = folder();
    let mut file = File::create(folder.path().join("raw")).unwrap();
    let start = Instant::now();
    for batch in encoded.chunks(SESSIONS as usize) {
        file.write_all(&batch.concat()).unwrap();
        file.sync_data().unwrap();
    }
    start.elapsed()
}

/// The ids beside a block.
fn ids(block: &Block) -> Vec<u8> {
    let receipts = block.receipts.iter();
    let id = |bytes: &[u8]| Receipt::parse(bytes).unwrap().body.receipt_id;
    let ids: Vec<_> = receipts.map(|stored| id(&stored.bytes)).collect();
    block::ids(&ids)
}

fn appending(c: &mut Criterion) {
    let runtime = runtime();
    for (name, layers, experts) in [
        ("4 layers of 32 experts", 4, 32),
        ("48 layers of 128 experts", 48, 128),
    ] {
        let samples = samples(layers, experts);
        let blocks: Vec<_> = samples.iter().flat_map(|sample| &sample.1).collect();
        let encoded: Vec<_> = blocks
            .iter()
            .map(|block| block::encode(&block.receipts, &ids(block)).unwrap())
            .collect();
        let receipts = blocks.iter().map(|block| block.receipts.len() as u64).sum();
        let body: usize = blocks
            .iter()
            .map(|block| block::body_len(&block.receipts))
            .sum();
        let stored: usize = encoded.iter().map(Vec::len).sum();
        eprintln!(
            "{name}: {} bytes a receipt with its payload, {} stored",
            body / receipts as usize,
            stored / receipts as usize
        );
        let mut group = c.benchmark_group(format!("durable receipts, {name}"));
        group
            .throughput(Throughput::Elements(receipts))
            .sample_size(10);
        group.bench_function("raw file and fdatasync", |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| raw(&encoded)).sum());
        });
        group.bench_function("ledger", |b| {
            b.iter_custom(|rounds| {
                let round = |_| {
                    let folder = folder();
                    let ledger = open(folder.path(), &runtime, &samples);
                    let start = Instant::now();
                    runtime.block_on(write(&ledger, &samples));
                    start.elapsed()
                };
                (0..rounds).map(round).sum()
            });
        });
        group.finish();
        let beside = ids(blocks[0]);
        let mut group = c.benchmark_group(format!("one block, {name}"));
        group.throughput(Throughput::Elements(64));
        group.bench_function("encode", |b| {
            b.iter(|| block::encode(&blocks[0].receipts, &beside).unwrap())
        });
        group.bench_function("decode", |b| {
            b.iter(|| block::decode(&encoded[0], &beside).unwrap())
        });
        group.finish();
    }
}

fn one_writer(c: &mut Criterion) {
    let runtime = runtime();
    let samples = &samples(48, 128)[..1];
    let receipts = u64::from(BLOCKS) * 64;
    let mut group = c.benchmark_group("durable receipts, one answer alone");
    group
        .throughput(Throughput::Elements(receipts))
        .sample_size(10);
    group.bench_function("ledger", |b| {
        b.iter_custom(|rounds| {
            let round = |_| {
                let folder = folder();
                let ledger = open(folder.path(), &runtime, samples);
                let start = Instant::now();
                runtime.block_on(write(&ledger, samples));
                start.elapsed()
            };
            (0..rounds).map(round).sum()
        });
    });
    group.finish();
}

fn reading(c: &mut Criterion) {
    let runtime = runtime();
    let samples = samples(48, 128);
    let folder = folder();
    let ledger = open(folder.path(), &runtime, &samples);
    runtime.block_on(write(&ledger, &samples));
    let mut group = c.benchmark_group("reading");
    group.throughput(Throughput::Elements(u64::from(BLOCKS) * 64));
    group.bench_function("snapshot", |b| {
        b.iter(|| {
            runtime
                .block_on(ledger.snapshot(black_box(&samples[7].0.session)))
                .unwrap()
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("where a session stands", |b| {
        b.iter(|| {
            runtime
                .block_on(ledger.session(black_box(&samples[7].0.session)))
                .unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, appending, one_writer, reading);
criterion_main!(benches);
