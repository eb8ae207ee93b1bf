//! The demo as a person runs it: every program, its log, what it leaves behind, and that it leaves nothing running.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// A program that was built beside the demo's own.
pub fn program(name: &str) -> Command {
    let path = Path::new(env!("CARGO_BIN_EXE_halo-demo")).with_file_name(name);
    assert!(
        path.is_file(),
        "{} is missing; run `cargo build --workspace --bins` first",
        path.display()
    );
    Command::new(path)
}

fn demo(data: &Path, more: &[&str]) -> Output {
    let mut command = program("halo-demo");
    command
        .current_dir(root())
        .arg("--data")
        .arg(data)
        .args(more);
    command.output().unwrap()
}

/// The processes whose command line names `data`.
fn running(data: &Path) -> Vec<String> {
    let data = data.display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines
        .filter(|line| line.contains(&data) && line.contains("halo-"))
        .collect()
}

#[test]
fn a_whole_conversation_and_its_tamper_tests_hold() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("demo");
    let output = demo(&data, &[]);
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{log}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for line in [
        "=== HALO end-to-end demo at ",
        "session_id = ",
        "[0/5] derive HKDF keys",
        "TIER_KEY[0..2] derived (32B each)",
        "[1/5] TIER 0: sensor capture, audio",
        "[2/5] TIER 1: routing decision, escalate",
        "[3/5] TIER 2: load ",
        "decoded: 'Sovereign inference means",
        "CLEAN PATH RESULT: PASS - ",
        " receipts verified, chain intact",
        "TAMPERED PATH RESULT: CORRECTLY DETECTED",
        "HMAC FAIL at receipt ",
        "(tier 2, kind halo_tier_response)",
        "PAYLOAD HASH FAIL at receipt ",
        "SECURITY ALERT - CHAIN BROKEN",
        "READY TO RE-LINK",
    ] {
        assert!(log.contains(line), "the log lacks '{line}':\n{log}");
    }
    for file in ["ledger.db", "root", "session_id", "bundle.json"] {
        assert!(data.join(file).is_file(), "{file} was not left behind");
    }
    assert_eq!(running(&data), Vec::<String>::new(), "something still runs");
    the_bundle_passes_offline(&data);
}

/// The bundle alone, with the session key that a root holder exports, is enough for an auditor.
fn the_bundle_passes_offline(data: &Path) {
    let session = std::fs::read_to_string(data.join("session_id")).unwrap();
    let verify = |more: &[&str]| {
        let mut command = program("halo-verify");
        command
            .current_dir(data)
            .args([session.trim(), "--json"])
            .args(more);
        let output = command.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            report["exit_code"].as_i64(),
            output.status.code().map(i64::from)
        );
        report
    };
    let key_out = [
        "--ledger",
        "sqlite:ledger.db",
        "--demo-root",
        "root",
        "--key-out",
        "session.key",
    ];
    assert_eq!(verify(&key_out)["exit_code"], 0);
    assert_eq!(
        verify(&["--bundle", "bundle.json", "--key", "session.key"])["exit_code"],
        0
    );
    assert_eq!(
        verify(&["--bundle", "bundle.json", "--no-keys"])["exit_code"],
        0
    );
    // Another root is not tampering.
    std::fs::write(data.join("other-root"), [9; 32]).unwrap();
    assert_eq!(
        verify(&["--bundle", "bundle.json", "--root", "other-root"])["exit_code"],
        5
    );
}

#[test]
fn a_question_that_the_phone_answers_is_sealed_too() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("demo");
    let output = demo(&data, &["--prompt", "What time is it?"]);
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{log}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(log.contains("TIER 1: routing decision, local"), "{log}");
    assert!(log.contains("CORRECTLY DETECTED"), "{log}");
    // What is left is whole without the files of the programs that wrote it.
    assert!(!data.join("ledger.db-wal").exists());
}

#[test]
fn a_capture_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("demo");
    let capture = folder.path().join("noise.wav");
    std::fs::write(&capture, "noise").unwrap();
    let output = demo(&data, &["--capture", capture.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("not a wav"), "{errors}");
    assert_eq!(running(&data), Vec::<String>::new(), "something still runs");
}

#[test]
fn a_model_that_cannot_be_read_ends_the_demo_and_everything_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("demo");
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("config.json"), "{").unwrap();
    std::fs::copy(
        root().join("substrate/demo-model/model/tokenizer.json"),
        model.join("tokenizer.json"),
    )
    .unwrap();
    let output = demo(&data, &["--model", model.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("config.json"),
        "the error does not name the file: {errors}"
    );
    assert_eq!(running(&data), Vec::<String>::new(), "something still runs");
}
