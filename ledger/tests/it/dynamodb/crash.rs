//! `kill -9` while DynamoDB is away: what was acknowledged from the spill gets into the ledger.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use halo_ledger::conformance::{Sample, assert_whole};
use halo_ledger::dynamodb::{DynamoLedger, Options};
use halo_ledger::{Appended, Ledger as _};
use halo_receipts::evidence::Stream;

use super::proxy::{Mode, Proxy};
use super::{ask, environment, hasty, table};

/// Set for the process that is killed: the endpoint, the table and the spill.
const CHILD: &str = "HALO_LEDGER_SPILL_CHILD";
const SESSIONS: u64 = 4;

fn sample(seed: u64) -> Sample {
    Sample::new(seed, 400).unwrap()
}

/// The process that is killed: opens sessions and appends without an end, and says what was acknowledged. As a test of its own
/// it does nothing.
#[test]
fn spilling_process() {
    let Ok(child) = std::env::var(CHILD) else {
        return;
    };
    let [url, table, spill] = child.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{child}")
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let options = Options {
            spill: Some(spill.into()),
            ..hasty()
        };
        let ledger = DynamoLedger::open_on(&environment(url).await, table, options)
            .await
            .unwrap();
        let acknowledge = |line: String| std::io::stdout().write_all(line.as_bytes()).unwrap();
        for seed in 0..SESSIONS {
            ask(&ledger, &sample(seed)).await;
        }
        acknowledge("ack opened 0 0\n".to_owned());
        let samples: Vec<_> = (0..SESSIONS).map(sample).collect();
        for first in (0..800).step_by(4) {
            for (seed, sample) in samples.iter().enumerate() {
                let block = sample.block(Stream::Substrate, first, 4);
                let appended = ledger.append(&sample.session, &block).await.unwrap();
                let how = match appended {
                    Appended::Spilled => "spilled",
                    _ => "written",
                };
                acknowledge(format!("ack {how} {seed} {}\n", first + 4));
            }
        }
    });
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_a_kill() {
    for lines in [1, 9, 40] {
        let (proxy, table) = (Proxy::start().await, table().await);
        let folder = tempfile::tempdir().unwrap();
        let spill = folder.path().join("spill.db");
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "dynamodb::crash::spilling_process",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(
                CHILD,
                format!("{} {table} {}", proxy.url(), spill.display()),
            )
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut child = Killed(child);
        let output = child.0.stdout.take().unwrap();
        let mut told = [0usize; SESSIONS as usize];
        let (mut written, mut spilled) = (0, 0);
        for line in BufReader::new(output).lines() {
            let line = line.unwrap();
            let Some((_, words)) = line.split_once("ack ") else {
                continue;
            };
            let [how, seed, next] = words.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            match how {
                "opened" => {}
                "written" => written += 1,
                _ => spilled += 1,
            }
            if how != "opened" {
                told[seed.parse::<usize>().unwrap()] = next.parse().unwrap();
            }
            if written == 6 {
                proxy.set(Mode::Cut);
            }
            if spilled == lines {
                child.0.kill().unwrap();
            }
        }
        assert!(
            spilled >= lines && written >= 6,
            "{written} written, {spilled} spilled"
        );
        drop(child);

        // Started again while the ledger is still away, and after it has come back.
        let options = || Options {
            spill: Some(spill.clone()),
            ..hasty()
        };
        let environment = environment(&proxy.url()).await;
        let ledger = DynamoLedger::open_on(&environment, &table, options())
            .await
            .unwrap();
        proxy.set(Mode::Pass);
        ledger.settle().await.unwrap();
        for (seed, told) in told.into_iter().enumerate() {
            let sample = sample(seed as u64);
            let evidence = ledger.snapshot(&sample.session).await.unwrap().unwrap();
            let [_, next] = assert_whole(&evidence).unwrap();
            assert!(next as usize >= told, "session {seed}: {next} of {told}");
            let found = evidence
                .receipts(Stream::Substrate)
                .map(|(_, stored)| stored);
            assert!(
                found.eq(&sample.substrate_receipts[..next as usize]),
                "session {seed}"
            );
        }
    }
}
