//! The program on a published keyring, which changes while it runs; and models that are not the ones that were asked for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use halo_ledger::{Ledger as _, SqliteLedger};
use halo_receipts::keyring::KeyRing;
use halo_receipts::keys::RootSecret;
use halo_receipts::time::KeyMonth;

use super::device::{Device, EPOCH, tenant};
use super::program::{Program, demo_model, status};
use super::server::{connect, soon};

fn ring(months: &[KeyMonth]) -> KeyRing {
    let root = RootSecret::new((0..32).collect()).unwrap();
    KeyRing::derive(&tenant(), &[(1, &root)], months, false).unwrap()
}

/// Replaces the file as Kubernetes does: whole, at once.
fn publish(file: &Path, content: &[u8]) {
    let draft = file.with_extension("new");
    std::fs::write(&draft, content).unwrap();
    std::fs::rename(draft, file).unwrap();
}

fn keys_flags(folder: &Path) -> (PathBuf, Vec<String>) {
    let file = folder.join("keyring.json");
    let flags = vec!["--keys".to_owned(), file.display().to_string()];
    (file, flags)
}

#[tokio::test]
async fn a_keyring_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (file, flags) = keys_flags(folder.path());
    let other: KeyMonth = "2020-01".parse().unwrap();
    publish(&file, &ring(&[other]).encode());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut program = Program::with(folder.path(), &demo_model(), &flags);
    let address = program.line()["addr"].as_str().unwrap().to_owned();
    assert_eq!(program.line()["event"], "loaded");
    let ready = async || {
        while status(&address, "/readyz") != "200" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(ready()).await;
    let ledger = SqliteLedger::open(folder.path().join("ledger.db")).unwrap();
    let device = Device::new(81);
    ledger
        .open_session(&device.header(), &device.epoch_claim())
        .await
        .unwrap();
    let socket = address.parse().unwrap();
    // The month of the session is not published yet.
    assert!(connect(socket, &device, 0).await.is_err());
    publish(&file, &ring(&[other, KeyMonth::of(EPOCH)]).encode());
    soon(async {
        while connect(socket, &device, 0).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // A broken one changes nothing; a whole one that comes after it does.
    publish(&file, b"{\"current\":1}");
    assert!(connect(socket, &device, 1).await.is_ok());
    publish(&file, &ring(&[other]).encode());
    soon(async {
        while connect(socket, &device, 2).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    program.terminate();
    assert_eq!(program.end().await.code(), Some(0));
}

#[tokio::test]
async fn another_tenants_keyring_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (file, flags) = keys_flags(folder.path());
    let root = RootSecret::new(vec![1; 32]).unwrap();
    let foreign = KeyRing::derive(&"other".parse().unwrap(), &[(1, &root)], &[], false);
    publish(&file, &foreign.unwrap().encode());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut program = Program::with(folder.path(), &demo_model(), &flags);
    let error = program.line();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("of the tenant other"), "{message}");
    assert_eq!(program.end().await.code(), Some(1));
}

#[tokio::test]
async fn a_model_with_another_digest_does_not_become_ready() {
    let digest = {
        let folder = tempfile::tempdir().unwrap();
        let mut program = Program::start(folder.path(), &demo_model());
        assert_eq!(program.line()["event"], "listening");
        let loaded = program.line();
        format!("sha256:{}", loaded["weights_sha256"].as_str().unwrap())
    };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let root = ["--demo-root", root.to_str().unwrap()];
    let run = |more: [&str; 2]| Program::with(folder.path(), &demo_model(), &[root, more].concat());
    let mut program = run(["--model-digest", &digest]);
    assert_eq!(program.line()["event"], "listening");
    assert_eq!(program.line()["event"], "loaded");
    drop(program);

    let wrong = format!("sha256:{}", "00".repeat(32));
    let mut program = run(["--model-digest", &wrong]);
    assert_eq!(program.line()["event"], "listening");
    let error = program.line();
    assert_eq!(error["event"], "error");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains(&digest) && message.contains(&wrong),
        "{message}"
    );
    assert_eq!(program.end().await.code(), Some(1));

    let mut program = run(["--quantisation", "Q8_0"]);
    assert_eq!(program.line()["event"], "listening");
    let error = program.line();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("no GGUF file"), "{message}");
    assert_eq!(program.end().await.code(), Some(1));
}
