//! An auditor looks while the session is written: never an alarm, and a pass only once it is sealed.

use std::sync::Arc;

use halo_ledger::conformance::{ROOT, Sample};
use halo_ledger::{Ledger as _, SqliteLedger};
use halo_receipts::evidence::{ClaimKind, Stream};
use halo_receipts::keys::{RootKeys, RootSecret};
use halo_receipts::verdict::{Options, verify};
use tokio::sync::Notify;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_under_way_is_never_reported_as_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let sample = Sample::new(1, 300).unwrap();
    let session = sample.session;
    let writer = SqliteLedger::open(&path).unwrap();
    // The seal is not written before the auditor has seen the session without it.
    let seen = Arc::new(Notify::new());
    let looked_at = Arc::clone(&seen);
    let writing = tokio::spawn(async move {
        let (header, claim) = (sample.header().unwrap(), sample.first_claim().unwrap());
        writer.open_session(&header, &claim).await.unwrap();
        for kind in [ClaimKind::Connection, ClaimKind::SubstrateLink] {
            writer
                .claim(&sample.claim(kind, 0, 0).unwrap())
                .await
                .unwrap();
        }
        // Small blocks, so that there is much to see on the way; tier 1's seal comes last.
        let mut device = sample.blocks(Stream::Device, 1);
        let seal = device.pop().unwrap();
        for block in device.iter().chain(&sample.blocks(Stream::Substrate, 3)) {
            writer.append(&session, block).await.unwrap();
        }
        looked_at.notified().await;
        writer.append(&session, &seal).await.unwrap();
    });
    let reader = SqliteLedger::open(&path).unwrap();
    let keys = RootKeys::new(RootSecret::new(ROOT.to_vec()).unwrap(), 1, false);
    let mut codes = Vec::new();
    loop {
        // Asked first: what is read afterwards is then the whole session.
        let written = writing.is_finished();
        let evidence = reader.snapshot(&session).await.unwrap().unwrap_or_default();
        let verdict = verify(session, &evidence, &keys, &Options::default());
        let findings: Vec<_> = verdict.findings.iter().map(|found| &found.detail).collect();
        assert_ne!(verdict.exit_code, 1, "{findings:#?}");
        codes.push(verdict.exit_code);
        if verdict.exit_code == 3 {
            seen.notify_one();
        }
        if written {
            break;
        }
    }
    writing.await.unwrap();
    assert_eq!(codes.pop(), Some(0), "the whole session passes");
    let early: Vec<_> = codes
        .iter()
        .filter(|code| ![0, 3, 4].contains(*code))
        .collect();
    assert!(early.is_empty(), "{early:?}");
}
