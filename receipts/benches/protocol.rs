//! What a frame and a receipt cost on one core: `cargo bench -p halo-receipts --bench protocol`.
//!
//! Criterion measures; at the end a table says each figure beside its target and beside the limit that the core's own
//! SHA-256 sets, so that a slow machine is told from slow code.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use halo_receipts::evidence::{Claim, ClaimKind, Record as _};
use halo_receipts::frame::{self, Frame, FrameType};
use halo_receipts::ids::{Epoch, Hash, ReceiptId, SessionId, TenantId, Tier};
use halo_receipts::keys::{RootSecret, TierKey};
use halo_receipts::link::{End, Link};
use halo_receipts::payload::{ContentPolicy, Private, TokenContent, TokenEmit, V1, to_canonical};
use halo_receipts::receipt::{Parent, Receipt, ReceiptKind, Unsigned};
use halo_receipts::time::{KeyMonth, Timestamp};
use sha2::{Digest as _, Sha256};

/// One line of the table: a name, what it costs, what it may cost, and how many SHA-256 blocks it cannot do without.
struct Figure {
    name: &'static str,
    nanos: f64,
    target: Option<f64>,
    blocks: f64,
}

fn session() -> SessionId {
    SessionId::from_random([0x5e; 16])
}

fn unsigned(id: [u8; 16], micros: u64) -> Unsigned {
    Unsigned {
        event_payload_hash: Hash([7; 32]),
        parent: Some(Parent {
            id: ReceiptId::from_random([1; 16]),
            hash: Hash([8; 32]),
        }),
        receipt_id: ReceiptId::from_random(id),
        receipt_kind: ReceiptKind::TokenEmit,
        session_epoch: Epoch(1_790_000_000),
        session_id: session(),
        tenant_id: "acme-west".parse().unwrap(),
        tier: Tier::Substrate,
        timestamp_utc: Timestamp::from_micros(micros).unwrap(),
    }
}

/// The cost of one call in nanoseconds: the fastest tenth of many rounds of about half a millisecond, so that what other
/// programs take from the core in between is not counted as this code's.
fn nanos(mut run: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let mut calls = 0u32;
    while begun.elapsed() < Duration::from_millis(20) {
        run();
        calls += 1;
    }
    let calls = calls.div_ceil(40);
    let mut rounds: Vec<f64> = (0..400)
        .map(|_| {
            let begun = Instant::now();
            for _ in 0..calls {
                run();
            }
            begun.elapsed().as_nanos() as f64 / f64::from(calls)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 10]
}

/// Measures with criterion, for its history and its report, and once more for the table.
fn measure(
    criterion: &mut Criterion,
    figures: &mut Vec<Figure>,
    (name, target, blocks): (&'static str, Option<f64>, f64),
    mut run: impl FnMut(),
) {
    criterion.bench_function(name, |bencher| bencher.iter(&mut run));
    figures.push(Figure {
        name,
        nanos: nanos(run),
        target,
        blocks,
    });
}

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(700))
        .sample_size(20)
        .configure_from_args();
    let mut figures = Vec::new();
    keys(&mut criterion, &mut figures);
    frames(&mut criterion, &mut figures);
    receipts(&mut criterion, &mut figures);

    let megabyte = vec![0x5a; 1 << 20];
    let mut group = criterion.benchmark_group("sha256");
    group.throughput(Throughput::Bytes(1 << 20));
    group.bench_function("1 MiB", |bencher| {
        bencher.iter(|| Sha256::digest(black_box(&megabyte)))
    });
    group.finish();
    let bulk = nanos(|| {
        black_box(Sha256::digest(black_box(&megabyte)));
    });
    criterion.final_summary();
    table(&figures, bulk / f64::from(1 << 14));
}

fn keys(criterion: &mut Criterion, figures: &mut Vec<Figure>) {
    let root = RootSecret::new(vec![1; 48]).unwrap();
    let tenant: TenantId = "acme-west".parse().unwrap();
    let epoch = Epoch(1_790_000_000);
    let key = root.tenant_key(&tenant, KeyMonth::of(epoch));
    let session = session();
    // SESSION_KEY and three TIER_KEYs: four HKDFs of two HMACs each, with the blocks of keys, salts and infos.
    measure(criterion, figures, ("keys of an epoch", None, 36.0), || {
        let key = black_box(&key).session_key(&session, epoch);
        black_box(Tier::ALL.map(|tier| key.tier_key(tier)));
    });
}

fn frames(criterion: &mut Criterion, figures: &mut Vec<Figure>) {
    let key = TierKey::from_bytes([5; 32]);
    let bytes = frame::encode(&key, &session(), FrameType::AudioChunk, 0, &[9; 198]).unwrap();
    // 208 bytes after the key's own block: four blocks inside, one outside.
    let spec = ("verify a frame of 240 bytes", Some(250.0), 5.0);
    measure(criterion, figures, spec, || {
        let frame = Frame::parse(black_box(&bytes)).unwrap();
        assert!(frame.verify(black_box(&key)));
    });
    let shared = Arc::new(TierKey::from_bytes([5; 32]));
    let spec = ("receive a frame on a link", None, 5.0);
    measure(criterion, figures, spec, || {
        let mut link = Link::new(End::OrchestratorToSensor, session(), Arc::clone(&shared));
        assert!(link.receive(black_box(&bytes)).is_ok());
    });
    measure(
        criterion,
        figures,
        ("write a frame of 240 bytes", None, 5.0),
        || {
            let frame = frame::encode(
                &key,
                &session(),
                FrameType::AudioChunk,
                0,
                black_box(&[9; 198]),
            );
            black_box(frame.unwrap());
        },
    );
}

fn receipts(criterion: &mut Criterion, figures: &mut Vec<Figure>) {
    let key = TierKey::from_bytes([5; 32]);
    let mut drawn = 0u64;
    // What a writer does for each receipt once its payload's hash is there: an id from random bytes, the time, the
    // canonical body (8 blocks) and its MAC (1), the full receipt and the hash that its child needs (9 or 10).
    let spec = ("sign a receipt, with id, time and hash", Some(1000.0), 19.0);
    measure(criterion, figures, spec, || {
        drawn += 1;
        let mut random = [0x77; 16];
        random[..8].copy_from_slice(&drawn.to_be_bytes());
        let receipt = unsigned(random, 1_790_000_000_000_000 + drawn).sign(black_box(&key));
        let bytes = receipt.to_bytes();
        black_box((Hash::of(&bytes), bytes));
    });
    let receipt = unsigned([3; 16], 1_790_000_000_000_000).sign(&key);
    let bytes = receipt.to_bytes();
    measure(
        criterion,
        figures,
        ("parse a stored receipt", None, 0.0),
        || {
            black_box(Receipt::parse(black_box(&bytes)).unwrap());
        },
    );
    let payload_key = key.payload_key();
    let id = receipt.body.receipt_id;
    measure(
        criterion,
        figures,
        ("seal a token and write its payload", None, 0.0),
        || {
            let content = TokenContent {
                token_id: 17,
                text: " pallets".to_owned(),
            };
            let private = Private::new(&content, ContentPolicy::Sealed, &payload_key, &id).unwrap();
            black_box(to_canonical(&TokenEmit::new(3, private)).unwrap());
        },
    );
    let claim = Claim {
        v: V1,
        kind: ClaimKind::Epoch,
        session_id: session(),
        session_epoch: Epoch(1_790_000_000),
        link: 0,
        claimed_by: "gateway-a".to_owned(),
        claimed_at: Timestamp::from_micros(1).unwrap(),
    };
    measure(criterion, figures, ("sign a claim", None, 5.0), || {
        black_box(claim.sign(black_box(&key)).unwrap());
    });
}

/// Prints the figures. `block` is what one block of 64 bytes costs this core within a long SHA-256, in nanoseconds.
fn table(figures: &[Figure], block: f64) {
    println!();
    println!(
        "{:<40} | {:>9} | {:>9} | {:>9}",
        "figure", "measured", "target", "limit"
    );
    println!("{:-<40}-|-{:->9}-|-{:->9}-|-{:->9}", "", "", "", "");
    let cell = |nanos: f64| format!("{nanos:.0} ns");
    for figure in figures {
        let target = figure.target.map_or(String::new(), cell);
        let limit = match figure.blocks {
            0.0 => String::new(),
            blocks => cell(blocks * block),
        };
        let late = figure.target.is_some_and(|target| figure.nanos > target);
        let mark = if late { "  above its target" } else { "" };
        println!(
            "{:<40} | {:>9} | {target:>9} | {limit:>9}{mark}",
            figure.name,
            cell(figure.nanos)
        );
    }
    println!();
    let rate = 64.0 / block;
    println!(
        "SHA-256 on this core: {rate:.2} GB/s, {block:.1} ns a block. The limit of a figure is the blocks that it cannot"
    );
    println!(
        "do without, at that rate. Targets are for a core with SHA extensions (about 2 GB/s)."
    );
}
