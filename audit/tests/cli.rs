//! The program as an auditor runs it, on a real ledger.
// The helpers beside the tests are tests too.
#![allow(clippy::panic, clippy::unwrap_used)]

#[path = "cli/dynamodb.rs"]
mod dynamodb;
#[path = "../../receipts/tests/support/golden.rs"]
mod golden;
#[path = "cli/roots.rs"]
mod roots;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use golden::{Builder, FIRST_EPOCH, SECOND_EPOCH};
use halo_ledger::{Ledger, SqliteLedger};
use halo_receipts::bundle::Bundle;
use halo_receipts::evidence::{Block, Claim, ClaimKind};
use halo_receipts::verdict::SessionKeys;
use tempfile::TempDir;

/// A folder with a ledger, the root and a bundle of the golden session.
struct Place {
    dir: TempDir,
    session: String,
}

impl Place {
    fn new(builders: &[&Builder]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("root"), golden::root_bytes()).unwrap();
        std::fs::write(dir.path().join("other-root"), [7u8; 40]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let ledger = SqliteLedger::open(dir.path().join("ledger.db")).unwrap();
            for builder in builders {
                store(&ledger, builder).await;
            }
        });
        let session = builders[0].session_id.to_string();
        Self { dir, session }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let program = env!("CARGO_BIN_EXE_halo-verify");
        let output = Command::new(program)
            .args(arguments)
            .current_dir(self.dir.path())
            .env_remove("HALO_LEDGER")
            .output()
            .unwrap();
        let Output {
            status,
            stdout,
            stderr,
        } = output;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    }

    /// Verifies the first session in the ledger under its root, with more flags.
    fn verify(&self, more: &[&str]) -> (Option<i32>, String, String) {
        let session = self.session.clone();
        let mut arguments = vec![session.as_str(), "--ledger", "sqlite:ledger.db"];
        arguments.extend_from_slice(more);
        self.run(&arguments)
    }
}

/// Writes a session into a ledger as gateway and pod would.
async fn store(ledger: &dyn Ledger, builder: &Builder) {
    let evidence = &builder.evidence;
    let first = |signed: &&halo_receipts::evidence::SignedRecord| {
        let claim: Claim = signed.parse().unwrap();
        claim.kind == ClaimKind::Epoch && claim.session_epoch == FIRST_EPOCH
    };
    let epoch = evidence.claims.iter().find(first).unwrap();
    ledger
        .open_session(evidence.header.as_ref().unwrap(), epoch)
        .await
        .unwrap();
    for claim in evidence.claims.iter().filter(|claim| *claim != epoch) {
        ledger.claim(claim).await.unwrap();
    }
    for block in &evidence.blocks {
        let block = Block {
            stream: block.stream,
            first: block.first,
            receipts: block.content.clone().unwrap(),
        };
        ledger.append(&builder.session_id, &block).await.unwrap();
    }
}

fn write_bundle(path: &Path, builder: &Builder) {
    let bundle = Bundle {
        session_id: builder.session_id,
        evidence: builder.evidence.clone(),
        keys: SessionKeys::new(),
    };
    std::fs::write(path, bundle.to_json().unwrap().as_slice()).unwrap();
}

#[test]
fn a_clean_session_passes_in_the_words_of_the_field() {
    let place = Place::new(&[&golden::golden()]);
    let (code, out, _) = place.verify(&["--root", "root", "--stats"]);
    assert_eq!(code, Some(0), "{out}");
    assert!(
        out.contains("\nPASS - 29 receipts verified, chain intact\n"),
        "{out}"
    );
    assert!(
        out.contains("integrity: ok   completeness: sealed   anchoring: none   keys: ok"),
        "{out}"
    );
    assert!(out.contains("break recorded in receipt"), "{out}");
    assert!(out.contains("receipts/s"), "{out}");
    assert!(
        !out.contains('\x1b'),
        "no colours where there is no terminal"
    );
}

#[test]
fn json_has_a_version_and_the_exit_code() {
    let place = Place::new(&[&golden::golden()]);
    let (code, out, _) = place.verify(&["--root", "root", "--json", "--replay", "--stats"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, Some(0));
    assert_eq!(
        (json["format"].as_str(), json["exit_code"].as_u64()),
        (Some("halo-verdict/1"), Some(0))
    );
    let replay = json["replay"].as_array().unwrap();
    assert!(
        replay
            .iter()
            .any(|entry| entry["said"]["text"] == "Three pallets in aisle seven.")
    );
    assert!(json["stats"]["verify_us"].is_u64());
}

#[test]
fn the_replay_tells_the_conversation_to_whoever_has_the_key() {
    let place = Place::new(&[&golden::golden()]);
    let (code, out, _) = place.verify(&["--root", "root", "--replay"]);
    assert_eq!(code, Some(0));
    for words in [
        "\"How many pallets of saline are left?\"",
        "halo-demo, 6 tokens, ok (stop): \"Three pallets in aisle seven.\"",
        "\"It is one minute past midnight.\"",
        "chain broken in epoch",
        "\"Yes.\"",
    ] {
        assert!(out.contains(words), "{words} in {out}");
    }
    let (code, out, _) = place.verify(&["--no-keys", "--replay"]);
    assert_eq!(code, Some(0), "{out}");
    assert!(
        !out.contains("pallets") && out.contains("the key is not at hand"),
        "{out}"
    );
}

#[test]
fn wrong_or_missing_keys_are_unverifiable() {
    let place = Place::new(&[&golden::golden()]);
    let (code, out, _) = place.verify(&["--root", "other-root"]);
    assert_eq!(code, Some(5), "{out}");
    assert!(
        out.contains("UNVERIFIABLE") && out.contains("[root.checkValue.mismatch]"),
        "{out}"
    );
    assert!(out.contains("integrity: ok"), "{out}");
    let (code, out, _) = place.verify(&["--no-keys"]);
    assert_eq!(code, Some(0));
    assert!(
        out.contains("NO SIGNATURE WAS CHECKED") && !out.contains("PASS -"),
        "{out}"
    );
}

#[test]
fn an_auditor_is_given_one_session() {
    let (golden, other) = (golden::golden(), golden::session(2, &["x"], &["y"]));
    let place = Place::new(&[&golden, &other]);
    let (code, _, err) = place.verify(&["--root", "root", "--key-out", "session.key"]);
    assert_eq!(code, Some(0), "{err}");
    let (code, out, _) = place.verify(&["--key", "session.key"]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("keys: ok (session keys)"), "{out}");
    let id = other.session_id.to_string();
    let (code, out, _) = place.run(&[&id, "--ledger", "sqlite:ledger.db", "--key", "session.key"]);
    assert_eq!(code, Some(5), "{out}");
    // A key file is never written over, and only its owner can read it.
    let (code, _, err) = place.verify(&["--root", "root", "--key-out", "session.key"]);
    assert_eq!(code, Some(2), "{err}");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(place.path("session.key"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_bundle_verifies_without_the_ledger() {
    let place = Place::new(&[&golden::golden()]);
    let (code, _, err) = place.verify(&["--root", "root", "--bundle-out", "bundle.json"]);
    assert_eq!(code, Some(0), "{err}");
    std::fs::remove_file(place.path("ledger.db")).unwrap();
    let (code, out, _) = place.run(&["--bundle", "bundle.json", "--root", "root"]);
    assert_eq!(code, Some(0), "{out}");
    assert!(
        out.contains("PASS - 29 receipts verified, chain intact"),
        "{out}"
    );
    // Without a key in it, it is as good as no key; and it never carries one unasked.
    let (code, _, err) = place.run(&["--bundle", "bundle.json"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("--no-keys"), "{err}");
    let (code, _, _) = place.run(&[
        "--bundle",
        "bundle.json",
        "--root",
        "root",
        "--bundle-out",
        "keyed.json",
        "--bundle-keys",
    ]);
    assert_eq!(code, Some(0));
    let (code, out, _) = place.run(&[&place.session, "--bundle", "keyed.json"]);
    assert_eq!(code, Some(0), "{out}");
    let other = "00000000-0000-4000-8000-000000000000";
    let (code, _, err) = place.run(&[other, "--bundle", "keyed.json", "--no-keys"]);
    assert_eq!(code, Some(2), "{err}");
}

#[test]
fn tampering_is_named_in_the_words_of_the_field() {
    let mut golden = golden::golden();
    let block = golden.evidence.blocks.last_mut().unwrap();
    let id = block.ids[0];
    let stored = &mut block.content.as_mut().unwrap()[0];
    let (old, payload_old) = (stored.bytes[30], stored.payload.as_ref().unwrap()[40]);
    stored.bytes[30] = if old == b'0' { b'1' } else { b'0' };
    let new = stored.bytes[30];
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("bundle.json");
    let root = dir.path().join("root");
    std::fs::write(&root, golden::root_bytes()).unwrap();
    write_bundle(&bundle, &golden);
    let verify = || {
        let output = Command::new(env!("CARGO_BIN_EXE_halo-verify"))
            .arg("--bundle")
            .arg(&bundle)
            .arg("--root")
            .arg(&root)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, out) = verify();
    assert_eq!(code, Some(1));
    let headline = format!("HMAC FAIL at receipt {id} (tier 2, kind halo_tier_response)\n");
    let byte = format!(
        "    field event_payload_hash, byte offset 30, old 0x{old:02x} '{}', new 0x{new:02x} '{}'; shown by structure\n",
        char::from(old),
        char::from(new)
    );
    assert!(out.contains(&(headline + &byte)), "{out}");
    assert!(!out.contains("PASS"), "{out}");

    let stored = &mut golden
        .evidence
        .blocks
        .last_mut()
        .unwrap()
        .content
        .as_mut()
        .unwrap()[0];
    stored.bytes[30] = old;
    stored.payload.as_mut().unwrap()[40] ^= 1;
    write_bundle(&bundle, &golden);
    let (code, out) = verify();
    assert_eq!(code, Some(1));
    let headline = format!("PAYLOAD HASH FAIL at receipt {id} (tier 2, kind halo_tier_response)\n");
    assert!(out.contains(&headline), "{out}");
    assert!(
        out.contains(&format!("byte offset 40, old 0x{payload_old:02x}")),
        "{out}"
    );
}

/// Opens the ledger's file as someone does who wants to change what it refuses to change.
fn broken_open(place: &Place) -> rusqlite::Connection {
    let db = rusqlite::Connection::open(place.path("ledger.db")).unwrap();
    let names: Vec<String> = {
        let mut triggers = db
            .prepare("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            .unwrap();
        let names = triggers.query_map([], |row| row.get(0)).unwrap();
        names.map(Result::unwrap).collect()
    };
    assert!(!names.is_empty());
    for name in names {
        db.execute_batch(&format!("DROP TRIGGER \"{name}\""))
            .unwrap();
    }
    db
}

#[test]
fn what_is_changed_in_the_ledgers_file_is_found() {
    for (change, code) in [
        (
            "UPDATE receipt SET receipt_kind = 'halo_token_emit' WHERE stream = 'd' AND number = 0",
            "receipt.attribute.mismatch:receipt_kind",
        ),
        (
            "DELETE FROM block WHERE stream = 's' AND first = 3",
            "stream.gap",
        ),
        (
            "UPDATE block SET content = substr(content, 1, length(content) - 1) WHERE stream = 'd' AND first = 0",
            "block.damaged",
        ),
        (
            "DELETE FROM claim WHERE kind = 'epoch' AND epoch = 1769904100",
            "epoch.unclaimed",
        ),
    ] {
        let place = Place::new(&[&golden::golden()]);
        assert_eq!(
            broken_open(&place).execute(change, []).unwrap(),
            1,
            "{change}"
        );
        let (exit, out, err) = place.verify(&["--root", "root"]);
        assert_eq!(exit, Some(1), "{change}: {out}{err}");
        assert!(out.contains(&format!("[{code}]")), "{change}: {out}");
    }
}

#[test]
fn open_sessions_and_unknown_ones() {
    let mut open = Builder::open(7);
    open.capture(b"capture");
    let place = Place::new(&[&open]);
    let (code, out, _) = place.verify(&["--root", "root"]);
    assert_eq!(code, Some(3), "{out}");
    assert!(
        out.contains("INCOMPLETE") && out.contains("completeness: open"),
        "{out}"
    );
    let unknown = "00000000-0000-4000-8000-000000000000";
    let (code, out, _) = place.run(&[unknown, "--ledger", "sqlite:ledger.db", "--root", "root"]);
    assert_eq!(code, Some(4), "{out}");
    assert!(out.contains("NOT FOUND"), "{out}");
}

#[test]
fn a_watch_ends_when_the_session_is_sealed() {
    let golden = golden::golden();
    let place = Place::new(&[&golden]);
    let (code, out, _) = place.verify(&["--root", "root", "--watch", "--jsonl"]);
    assert_eq!(code, Some(0));
    assert_eq!(out.lines().count(), 1, "{out}");
}

#[test]
fn many_sessions_at_once() {
    let (a, b) = (golden::golden(), golden::session(2, &["x"], &["y"]));
    let mut open = Builder::open(7);
    open.capture(b"capture");
    open.rekey(SECOND_EPOCH);
    let place = Place::new(&[&a, &b, &open]);
    let all = ["--ledger", "sqlite:ledger.db", "--tenant", "acme-west"];
    let (code, out, _) = place.run(&[&all[..], &["--root", "root"]].concat());
    assert_eq!(code, Some(3), "{out}");
    assert!(out.contains("2 of 3 sessions passed"), "{out}");
    let (code, out, _) = place.run(&[&all[..], &["--root", "root", "--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, json["exit_code"].as_u64()), (Some(3), Some(3)));
    assert_eq!(json["sessions"].as_array().unwrap().len(), 3);
    let (code, out, _) = place.run(&[&all[..2], &["--list", "--since", "2026-01-31"]].concat());
    assert_eq!((code, out.lines().count()), (Some(0), 3), "{out}");
    let (code, out, _) = place.run(&[&all[..2], &["--list", "--since", "2027-01-31"]].concat());
    assert_eq!((code, out.as_str()), (Some(4), ""));
}

#[test]
fn usage_and_files_are_exit_code_two() {
    let place = Place::new(&[&golden::golden()]);
    std::fs::write(place.path("short"), b"short").unwrap();
    std::fs::write(place.path("bad.key"), b"nonsense").unwrap();
    for (more, expected) in [
        (&[][..], "--no-keys"),
        (&["--root", "missing"], "cannot read"),
        (&["--root", "short"], "at least 32"),
        (&["--key", "bad.key"], "line 1"),
        (&["--root", "root", "--no-keys"], "cannot be used with"),
        (&["--no-keys", "--key-out", "x"], "needs a root"),
        (
            &["--root", "root", "--tenant", "acme-west"],
            "cannot be used with",
        ),
    ] {
        let (code, out, err) = place.verify(more);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{more:?}");
        assert!(err.contains(expected), "{more:?}: {err}");
    }
    let session = place.session.clone();
    for arguments in [
        &[session.as_str(), "--root", "root"][..],
        &[&session, "--ledger", "sqlite:missing.db", "--root", "root"],
        &["--ledger", "sqlite:ledger.db", "--root", "root"],
        &[
            "not-a-session",
            "--ledger",
            "sqlite:ledger.db",
            "--root",
            "root",
        ],
    ] {
        assert_eq!(place.run(arguments).0, Some(2), "{arguments:?}");
    }
}

#[test]
fn codes_are_explained() {
    let place = Place::new(&[&golden::golden()]);
    let (code, out, _) = place.run(&["--explain", "receipt.attribute.mismatch:tier"]);
    assert_eq!(code, Some(0));
    assert!(
        out.starts_with("receipt.attribute.mismatch (failure)\n"),
        "{out}"
    );
    let (code, _, err) = place.run(&["--explain", "nonsense"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("receipt.hmac.mismatch"), "{err}");
}
