//! `kill -9` at random moments: what was acknowledged is there, and nothing looks tampered with.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use halo_ledger::conformance::{Sample, assert_whole};
use halo_ledger::{Ledger, SqliteLedger};
use halo_receipts::evidence::{Block, ClaimKind, Evidence, Stream};

const ROUNDS: u64 = 200;
/// Sessions that a process writes at once.
const SESSIONS: u64 = 3;
const STEPS: u32 = 40;
/// Set for the process that is killed: the ledger's path, and the number of its first session.
const CHILD: &str = "HALO_LEDGER_CRASH_CHILD";
/// Repeats a failed run.
const SEED: &str = "HALO_LEDGER_CRASH_SEED";

/// A small generator (splitmix64), so that a printed seed repeats a run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

/// Stream `d` before `s`, but for the closing receipt; blocks of 1 to 8.
fn plan(sample: &Sample, random: &mut Random) -> Vec<Block> {
    let mut blocks = vec![sample.block(Stream::Device, 0, 2)];
    let mut first = 0;
    while first < sample.substrate_receipts.len() {
        let count = 1 + random.below(8) as usize;
        blocks.push(sample.block(Stream::Substrate, first, count));
        first += count;
    }
    blocks.push(sample.block(Stream::Device, 2, 1));
    blocks
}

/// The process that is killed: writes, and says what was acknowledged. As a test of its own it does nothing.
#[test]
fn writer_process() {
    let Ok(child) = std::env::var(CHILD) else {
        return;
    };
    let (first, path) = child.split_once(' ').unwrap();
    let first: u64 = first.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let ledger = Arc::new(SqliteLedger::open(path).unwrap());
    let writing = (first..first + SESSIONS).map(|seed| {
        let ledger = Arc::clone(&ledger);
        runtime.spawn(async move {
            // Straight to the pipe: a line that was acknowledged must not wait in a buffer.
            let acknowledge = |line: String| std::io::stdout().write_all(line.as_bytes()).unwrap();
            let sample = Sample::new(seed, STEPS).unwrap();
            ledger
                .open_session(&sample.header().unwrap(), &sample.first_claim().unwrap())
                .await
                .unwrap();
            acknowledge(format!("ack {seed} open 0\n"));
            ledger
                .claim(&sample.claim(ClaimKind::Connection, 0, 0).unwrap())
                .await
                .unwrap();
            acknowledge(format!("ack {seed} claim 0\n"));
            for block in plan(&sample, &mut Random(seed)) {
                ledger.append(&sample.session, &block).await.unwrap();
                let next = block.first as usize + block.receipts.len();
                acknowledge(format!("ack {seed} {} {next}\n", block.stream));
            }
        })
    });
    for writing in writing.collect::<Vec<_>>() {
        runtime.block_on(writing).unwrap();
    }
}

/// What a session's writer was told is durable.
#[derive(Debug, Clone, Default, PartialEq)]
struct Acknowledged {
    open: bool,
    claim: bool,
    next: [u32; 2],
}

/// Runs the writer until it has acknowledged `lines` things, kills it, and reads what else it had said by then.
fn run_and_kill(path: &Path, first: u64, lines: u64) -> HashMap<u64, Acknowledged> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "crash::writer_process",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CHILD, format!("{first} {}", path.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut told: HashMap<u64, Acknowledged> = HashMap::new();
    let mut count = 0;
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    loop {
        if count == lines {
            child.kill().unwrap();
        }
        line.clear();
        if output.read_line(&mut line).unwrap() == 0 {
            break;
        }
        // The test harness of the child has its own lines; the first acknowledgement stands behind one of them.
        let Some((_, words)) = line.trim_end().split_once("ack ") else {
            continue;
        };
        count += 1;
        let [seed, what, next] = words.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let told = told.entry(seed.parse().unwrap()).or_default();
        match what {
            "open" => told.open = true,
            "claim" => told.claim = true,
            "d" => told.next[0] = next.parse().unwrap(),
            _ => told.next[1] = next.parse().unwrap(),
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    told
}

/// What is found is what was written, at least as far as it was acknowledged.
fn check(seed: u64, found: Option<&Evidence>, told: &Acknowledged) {
    let Some(evidence) = found else {
        assert_eq!(*told, Acknowledged::default(), "session {seed} is lost");
        return;
    };
    let next = assert_whole(evidence).unwrap_or_else(|error| panic!("session {seed}: {error}"));
    let sample = Sample::new(seed, STEPS).unwrap();
    assert_eq!(evidence.header, Some(sample.header().unwrap()));
    assert_eq!(evidence.claims[0], sample.first_claim().unwrap());
    assert!(
        evidence.claims.len() > usize::from(told.claim),
        "session {seed}: its claim is lost"
    );
    assert!(
        next[0] >= told.next[0] && next[1] >= told.next[1],
        "session {seed}: {next:?}, told {told:?}"
    );
    for (stream, written) in [
        (Stream::Device, &sample.device_receipts),
        (Stream::Substrate, &sample.substrate_receipts),
    ] {
        let whole = evidence
            .receipts(stream)
            .zip(written)
            .all(|((_, found), written)| found == written);
        assert!(
            whole,
            "session {seed}: stream {stream} is not what was written"
        );
    }
    // A block and the copies of its receipts' fields are written together.
    let answered = u32::from(next[1] as usize == sample.substrate_receipts.len());
    assert_eq!(evidence.attributes.len() as u32, next[0] + answered);
}

#[test]
fn killed_writers_lose_nothing_that_was_acknowledged() {
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    println!("repeat with {SEED}={seed}");
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut told = HashMap::new();
    for round in 0..ROUNDS {
        // In every second round a reader has the file open while the writer dies, so that the shared index of the log
        // outlives it; in the others it is rebuilt from the log.
        let beside = (round % 2 == 1).then(|| SqliteLedger::open_read_only(&path).unwrap());
        // Mostly early, sometimes when it is nearly done.
        let lines = match random.below(4) {
            0 => random.below(70),
            _ => random.below(16),
        };
        let first = round * SESSIONS;
        let round_told = run_and_kill(&path, first, lines);
        let ledger = SqliteLedger::open(&path).unwrap();
        for seed in first..first + SESSIONS {
            let session = Sample::new(seed, 0).unwrap().session;
            let told_here = round_told.get(&seed).cloned().unwrap_or_default();
            let found = runtime.block_on(ledger.snapshot(&session)).unwrap();
            check(seed, found.as_ref(), &told_here);
            if let Some(beside) = &beside {
                let same = runtime.block_on(beside.snapshot(&session)).unwrap() == found;
                assert!(same, "session {seed}: two readers see two things");
            }
            told.insert(seed, (session, told_here, found));
        }
    }
    // Nothing of an earlier round was lost in a later one. There may be more of it: a block of which the writer was not told
    // yet may stand whole in the log, and be found when the log is read again.
    let ledger = SqliteLedger::open_read_only(&path).unwrap();
    for (seed, (session, told, before)) in told {
        let found = runtime.block_on(ledger.snapshot(&session)).unwrap();
        check(seed, found.as_ref(), &told);
        let Some(before) = before else { continue };
        let kept = found.is_some_and(|found| {
            before
                .claims
                .iter()
                .all(|claim| found.claims.contains(claim))
                && before
                    .blocks
                    .iter()
                    .all(|block| found.blocks.contains(block))
                && before
                    .attributes
                    .iter()
                    .all(|attributes| found.attributes.contains(attributes))
        });
        assert!(kept, "session {seed}: what was there went away");
    }
}
