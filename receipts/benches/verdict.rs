//! How fast stored receipts verify, and how long the search for one changed byte takes.

#![allow(clippy::unwrap_used)]

#[path = "../tests/support/golden.rs"]
mod golden;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use golden::Builder;
use halo_receipts::evidence::{Evidence, Stream};
use halo_receipts::ids::{Hash, Tier};
use halo_receipts::receipt::{Receipt, split_signature};
use halo_receipts::verdict::{NoKeys, Options, verify};

/// A question and an answer of 500 tokens: about a thousand receipts.
fn long_session() -> Builder {
    let mut builder = Builder::open(1);
    builder.capture(b"capture");
    builder.escalate("prompt", &["token"; 500], 64);
    builder
}

/// Parsing, MAC and hash of one stored receipt after another, as the verdict does it.
fn receipts(c: &mut Criterion) {
    let builder = long_session();
    let keys = Tier::ALL.map(|tier| builder.tier_key(tier));
    let stored: Vec<&[u8]> = Stream::ALL
        .into_iter()
        .flat_map(|stream| builder.evidence.receipts(stream))
        .map(|(_, stored)| stored.bytes.as_slice())
        .collect();
    let mut group = c.benchmark_group("verdict");
    group.throughput(Throughput::Elements(stored.len() as u64));
    group.bench_function("stored receipt: parse, MAC, hash", |b| {
        b.iter(|| {
            for bytes in &stored {
                let receipt = Receipt::parse(bytes).unwrap();
                let (body, _) = split_signature(bytes).unwrap();
                let key = &keys[usize::from(receipt.body.tier.number())];
                assert!(key.verify(&body, &receipt.hmac_signature));
                black_box(Hash::of(bytes));
            }
        });
    });
    let options = Options::default();
    let (session, evidence) = (builder.session_id, &builder.evidence);
    group.bench_function("session, every check", |b| {
        b.iter(|| black_box(verify(session, evidence, &builder.keys, &options).exit_code));
    });
    group.bench_function("session, without keys", |b| {
        b.iter(|| black_box(verify(session, evidence, &NoKeys, &options).exit_code));
    });
    group.finish();
}

fn search(c: &mut Criterion) {
    let builder = golden::golden();
    let damaged = |positions: &[usize]| {
        let mut evidence: Evidence = builder.evidence.clone();
        evidence.attributes.clear();
        for &at in positions {
            evidence.blocks[3].content.as_mut().unwrap()[0].bytes[at] ^= 1;
        }
        evidence
    };
    let length = builder.evidence.blocks[3].content.as_ref().unwrap()[0]
        .bytes
        .len();
    let mut group = c.benchmark_group("attribution");
    group.sample_size(10);
    // Two changed digits of the time cannot be told, so the whole search is made in vain: its worst case.
    for (name, evidence, named) in [
        ("byte named by structure", damaged(&[100]), true),
        ("byte named by search", damaged(&[length - 4]), true),
        ("search in vain", damaged(&[length - 4, length - 6]), false),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let options = Options::default();
                let verdict = verify(builder.session_id, &evidence, &builder.keys, &options);
                assert_eq!(verdict.findings[0].damage.is_some(), named);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, receipts, search);
criterion_main!(benches);
