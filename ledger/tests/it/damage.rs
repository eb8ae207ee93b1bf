//! Rows that nobody may change, and rows that somebody changed: damage is reported, never a reason to fail.

use std::path::Path;

use halo_ledger::conformance::{Sample, assert_whole};
use halo_ledger::{Ledger, LedgerError, SqliteLedger, block};
use halo_receipts::evidence::{Evidence, Stream};
use halo_receipts::receipt::Receipt;
use rusqlite::{Connection, params};

/// A ledger with one sealed session, and its file.
async fn ledger(folder: &Path, sample: &Sample) -> (SqliteLedger, Connection) {
    let path = folder.join("ledger.db");
    let ledger = SqliteLedger::open(&path).unwrap();
    crate::write(&ledger, sample).await;
    (ledger, Connection::open(&path).unwrap())
}

/// What whoever may write the file can do.
fn unguard(db: &Connection) {
    let triggers: Vec<String> = db
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(triggers.len(), 12);
    for trigger in triggers {
        db.execute_batch(&format!("DROP TRIGGER {trigger}"))
            .unwrap();
    }
    db.execute_batch("PRAGMA ignore_check_constraints = on")
        .unwrap();
}

#[tokio::test]
async fn nothing_is_updated_deleted_or_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(1, 40).unwrap();
    let (ledger, db) = ledger(folder.path(), &sample).await;
    let before = ledger.snapshot(&sample.session).await.unwrap();
    for sql in [
        "UPDATE session SET tenant_id = 'other'",
        "UPDATE claim SET link = 1",
        "UPDATE block SET content = x'00'",
        "UPDATE block SET first = first + 1",
        "UPDATE receipt SET tier = '0'",
        "DELETE FROM session",
        "DELETE FROM claim",
        "DELETE FROM block",
        "DELETE FROM block WHERE stream = 's' AND first = 64",
        "DELETE FROM receipt",
        "INSERT OR REPLACE INTO session SELECT * FROM session",
        "INSERT OR REPLACE INTO claim SELECT * FROM claim",
        "INSERT OR REPLACE INTO block SELECT * FROM block",
        "INSERT OR REPLACE INTO receipt SELECT * FROM receipt",
        "REPLACE INTO block SELECT session_id, stream, first, count, ids, x'00' FROM block",
        "INSERT INTO block SELECT session_id, stream, 1000, count, ids, content FROM block WHERE first = 64",
        "INSERT INTO block SELECT session_id, stream, 10, count, ids, content FROM block WHERE first = 64",
        "UPDATE OR REPLACE session SET tenant_id = 'other'",
        "INSERT INTO session SELECT * FROM session WHERE true ON CONFLICT DO UPDATE SET tenant_id = 'other'",
    ] {
        let error = db.execute_batch(sql).expect_err(sql);
        assert!(error.to_string().contains("append-only"), "{sql}: {error}");
    }
    assert_eq!(ledger.snapshot(&sample.session).await.unwrap(), before);
}

#[tokio::test]
async fn damaged_blocks_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(1, 100).unwrap();
    let (ledger, db) = ledger(folder.path(), &sample).await;
    unguard(&db);
    db.execute_batch(
        "UPDATE block SET content = substr(content, 1, length(content) - 1) WHERE stream = 's' AND first = 0;
         UPDATE block SET content = CAST(x'01' || substr(content, 2) AS BLOB) WHERE stream = 's' AND first = 64;
         UPDATE block SET ids = substr(ids, 1, 20) WHERE stream = 's' AND first = 128;",
    )
    .unwrap();
    let evidence = ledger.snapshot(&sample.session).await.unwrap().unwrap();
    let contents: Vec<_> = evidence
        .blocks
        .iter()
        .map(|block| block.content.clone())
        .collect();
    assert_eq!(contents.len(), 5);
    assert_eq!(contents[0], Ok(sample.device_receipts.clone()));
    assert!(contents[1].as_ref().unwrap_err().contains("checksum"));
    assert!(contents[2].as_ref().unwrap_err().contains("version 1"));
    assert!(
        contents[3]
            .as_ref()
            .unwrap_err()
            .contains("the ids beside it")
    );
    assert_eq!(
        evidence.blocks[1].ids.len(),
        64,
        "the index still names what is lost"
    );
    assert_eq!(evidence.blocks[3].ids.len(), 2, "as they stand");
    assert!(assert_whole(&evidence).is_err());

    // A retry that cannot be compared with what is there is neither a success nor a fork.
    let again = ledger
        .append(&sample.session, &sample.block(Stream::Substrate, 10, 5))
        .await;
    let Err(LedgerError::Storage(text)) = again else {
        panic!("{again:?}")
    };
    assert!(
        text.contains("receipt 10 of stream s") && text.contains("damaged"),
        "{text}"
    );
    // Where the stream ends is still known.
    assert_eq!(
        ledger
            .session(&sample.session)
            .await
            .unwrap()
            .unwrap()
            .next_substrate,
        201
    );
}

#[tokio::test]
async fn a_block_with_one_byte_changed_reads_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(1, 5).unwrap();
    let (ledger, db) = ledger(folder.path(), &sample).await;
    let key = params![sample.session.to_string(), "s", 0];
    let (ids, content): (Vec<u8>, Vec<u8>) = db
        .query_row(
            "SELECT ids, content FROM block WHERE session_id = ?1 AND stream = ?2 AND first = ?3",
            key,
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    let mut receipts = block::decode(&content, &ids).unwrap();
    receipts[3].bytes[30] ^= 1;
    unguard(&db);
    db.execute(
        "UPDATE block SET content = ?1 WHERE stream = 's'",
        [block::encode(&receipts, &ids).unwrap()],
    )
    .unwrap();
    let evidence = ledger.snapshot(&sample.session).await.unwrap().unwrap();
    assert_eq!(evidence.blocks[1].content, Ok(receipts));
    assert!(assert_whole(&evidence).is_err());
}

#[tokio::test]
async fn damage_in_any_column_is_returned() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(1, 5).unwrap();
    let (ledger, db) = ledger(folder.path(), &sample).await;
    unguard(&db);
    let snapshot = async || ledger.snapshot(&sample.session).await.unwrap().unwrap();
    let good = snapshot().await;
    let field = |evidence: &Evidence, name: &str| {
        let fields = &evidence.attributes[0].fields;
        fields
            .iter()
            .find(|(field, _)| field == name)
            .unwrap()
            .1
            .clone()
    };
    db.execute_batch(
        "UPDATE receipt SET tier = '7', receipt_kind = CAST(x'ff41' AS TEXT), parent_receipt_id = '', timestamp_utc = 'soon'
         WHERE stream = 'd' AND number = 0",
    )
    .unwrap();
    let evidence = snapshot().await;
    assert_eq!(field(&evidence, "tier").as_deref(), Some("7"));
    assert_eq!(
        field(&evidence, "receipt_kind").as_deref(),
        Some("\u{fffd}A")
    );
    assert_eq!(field(&evidence, "parent_receipt_id").as_deref(), Some(""));
    assert_eq!(field(&evidence, "parent_receipt_hash"), None);
    assert_eq!(field(&evidence, "timestamp_utc").as_deref(), Some("soon"));
    assert_eq!(evidence.blocks, good.blocks);

    db.execute_batch("UPDATE session SET mac = x'0102'; UPDATE claim SET body = x'7b'")
        .unwrap();
    let evidence = snapshot().await;
    assert_eq!(evidence.header.unwrap().mac, [0; 32]);
    assert_eq!(evidence.claims[0].body, b"{");

    // Positions that no writer makes stand behind all others, unread.
    db.execute_batch("UPDATE block SET stream = 'x' WHERE stream = 'd'; UPDATE receipt SET number = -1 WHERE stream = 's'")
        .unwrap();
    let evidence = snapshot().await;
    assert_eq!(evidence.blocks.len(), 2);
    assert_eq!(evidence.blocks[1].first, u32::MAX);
    assert!(evidence.blocks[1].content.is_err());
    assert_eq!(evidence.attributes.len(), 4);

    db.execute_batch("DELETE FROM session; DELETE FROM claim")
        .unwrap();
    let evidence = snapshot().await;
    assert!(evidence.header.is_none() && evidence.claims.is_empty());
    assert_eq!(evidence.blocks.len(), 2);
    assert!(ledger.session(&sample.session).await.unwrap().is_none());
    db.execute_batch("DELETE FROM block; DELETE FROM receipt")
        .unwrap();
    assert!(ledger.snapshot(&sample.session).await.unwrap().is_none());
}

#[tokio::test]
async fn a_damaged_session_is_still_listed() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(1, 5).unwrap();
    let (ledger, db) = ledger(folder.path(), &sample).await;
    unguard(&db);
    let good = ledger.sessions(&Default::default()).await.unwrap();
    db.execute_batch("UPDATE session SET tenant_id = 'NO TENANT', opened_at = '2020'")
        .unwrap();
    assert_eq!(ledger.sessions(&Default::default()).await.unwrap(), good);
    db.execute_batch("UPDATE session SET body = x'00'").unwrap();
    let Err(LedgerError::Storage(text)) = ledger.sessions(&Default::default()).await else {
        panic!()
    };
    assert!(text.contains(&*sample.session.to_string()), "{text}");
    db.execute_batch("DELETE FROM claim").unwrap();
    let Err(LedgerError::Storage(text)) = ledger.session(&sample.session).await else {
        panic!()
    };
    assert!(text.contains("header is damaged"), "{text}");
}

#[tokio::test]
async fn damaged_pages_are_an_error_with_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let sample = Sample::new(1, 200).unwrap();
    let (ledger, db) = ledger(folder.path(), &sample).await;
    drop((ledger, db));
    let mut bytes = std::fs::read(&path).unwrap();
    let receipt = Receipt::parse(&sample.device_receipts[0].bytes).unwrap();
    assert_eq!(receipt.body.session_id, sample.session);
    for byte in &mut bytes[8192..] {
        *byte = !*byte;
    }
    std::fs::write(&path, bytes).unwrap();
    let ledger = SqliteLedger::open_read_only(&path).unwrap();
    let Err(LedgerError::Storage(text)) = ledger.snapshot(&sample.session).await else {
        panic!()
    };
    assert!(
        text.contains(&*path.display().to_string()) && text.contains("keep it as evidence"),
        "{text}"
    );
}
