//! Opening files: those that are no ledger, those that are too new, and one that many open at once.

use std::path::Path;

use halo_ledger::conformance::Sample;
use halo_ledger::sqlite::SCHEMA_VERSION;
use halo_ledger::{
    Ledger as _, LedgerError, LedgerUrl, OpenOptions, SessionQuery, SqliteLedger, open,
    open_read_only,
};
use halo_receipts::evidence::{ClaimKind, Stream};
use rusqlite::Connection;

fn read_only(path: &Path) -> LedgerError {
    SqliteLedger::open_read_only(path).err().unwrap()
}

#[tokio::test]
async fn a_missing_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let error = read_only(&path);
    assert_eq!(error, LedgerError::Missing(path.display().to_string()));
    assert!(!path.exists(), "reading created a file");
    // Writing creates a file, but no folder: a mistyped path is to be told.
    let path = folder.path().join("missing").join("ledger.db");
    let error = SqliteLedger::open(&path).err().unwrap().to_string();
    assert!(
        error.contains(&*path.display().to_string()) && error.contains("folder"),
        "{error}"
    );
}

#[tokio::test]
async fn files_that_are_no_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty");
    std::fs::write(&path, "").unwrap();
    assert!(read_only(&path).to_string().contains("is empty"));
    // An empty file becomes a ledger when it is opened for writing.
    drop(SqliteLedger::open(&path).unwrap());
    assert!(SqliteLedger::open_read_only(&path).is_ok());

    let path = folder.path().join("notes.txt");
    let text = "no database ".repeat(1000);
    std::fs::write(&path, &text).unwrap();
    for error in [read_only(&path), SqliteLedger::open(&path).err().unwrap()] {
        assert!(error.to_string().contains("no SQLite file"), "{error}");
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        text,
        "a foreign file was changed"
    );

    let path = folder.path().join("other.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE t (a); PRAGMA user_version = 1")
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    for error in [read_only(&path), SqliteLedger::open(&path).err().unwrap()] {
        assert!(error.to_string().contains("another program"), "{error}");
    }
    assert_eq!(
        std::fs::read(&path).unwrap(),
        before,
        "a foreign file was changed"
    );

    assert!(matches!(
        SqliteLedger::open(":memory:"),
        Err(LedgerError::Url(_))
    ));
}

#[tokio::test]
async fn a_newer_schema() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    drop(SqliteLedger::open(&path).unwrap());
    let found = SCHEMA_VERSION + 1;
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", found)
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    let newer = LedgerError::Newer {
        path: path.display().to_string(),
        found,
        known: SCHEMA_VERSION,
    };
    assert_eq!(read_only(&path), newer);
    assert_eq!(SqliteLedger::open(&path).err(), Some(newer.clone()));
    assert!(newer.to_string().contains("use a newer program"));
    assert_eq!(
        std::fs::read(&path).unwrap(),
        before,
        "a newer file was changed"
    );
}

/// An auditor is handed one file.
#[tokio::test]
async fn a_closed_ledger_is_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let sample = Sample::new(1, 3).unwrap();
    let url = format!("sqlite:{}", path.display()).parse().unwrap();
    let ledger = open(&url, OpenOptions::default()).await.unwrap();
    ledger
        .open_session(&sample.header().unwrap(), &sample.first_claim().unwrap())
        .await
        .unwrap();
    assert!(ledger.snapshot(&sample.session).await.unwrap().is_some());
    drop(ledger);
    let copy = folder.path().join("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    let copied = SqliteLedger::open_read_only(&copy).unwrap();
    assert!(copied.snapshot(&sample.session).await.unwrap().is_some());
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .collect();
    assert!(
        left.iter()
            .all(|file| file.path() != path.with_extension("db-wal")),
        "{left:?}"
    );
}

#[tokio::test]
async fn a_reader_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let url: LedgerUrl = format!("sqlite:{}", folder.path().join("ledger.db").display())
        .parse()
        .unwrap();
    let sample = Sample::new(1, 3).unwrap();
    let writer = open(&url, OpenOptions::default()).await.unwrap();
    writer
        .open_session(&sample.header().unwrap(), &sample.first_claim().unwrap())
        .await
        .unwrap();
    let reader = open_read_only(&url).await.unwrap();
    let other = Sample::new(2, 3).unwrap();
    let refused = [
        reader.check().await,
        reader
            .open_session(&other.header().unwrap(), &other.first_claim().unwrap())
            .await,
        reader
            .claim(&sample.claim(ClaimKind::Connection, 0, 0).unwrap())
            .await,
        reader
            .append(&sample.session, &sample.block(Stream::Device, 0, 1))
            .await
            .map(|_| ()),
    ];
    for refused in refused {
        assert!(
            matches!(refused, Err(LedgerError::ReadOnly(_))),
            "{refused:?}"
        );
    }
    assert_eq!(
        reader
            .sessions(&SessionQuery::default())
            .await
            .unwrap()
            .len(),
        1
    );
    // The reader stays useful after the writer has closed the file.
    writer
        .append(&sample.session, &sample.block(Stream::Device, 0, 2))
        .await
        .unwrap();
    drop(writer);
    assert_eq!(
        reader
            .session(&sample.session)
            .await
            .unwrap()
            .unwrap()
            .next_device,
        2
    );
}

#[test]
fn many_create_one_ledger() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..40 {
        let path = folder.path().join(format!("ledger-{round}"));
        std::thread::scope(|scope| {
            let open = || SqliteLedger::open(&path).map(drop);
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(open)).collect();
            for thread in threads {
                assert_eq!(thread.join().unwrap(), Ok(()));
            }
        });
        assert!(SqliteLedger::open_read_only(&path).is_ok());
    }
}

#[tokio::test]
async fn what_auditors_find_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let ledger = SqliteLedger::open(&path).unwrap();
    let sample = Sample::new(1, 40).unwrap();
    crate::write(&ledger, &sample).await;
    let db = Connection::open(&path).unwrap();
    let pragma = |name: &str| {
        db.pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .unwrap()
    };
    assert_eq!(
        pragma("application_id"),
        i64::from(u32::from_be_bytes(*b"HALO"))
    );
    assert_eq!(pragma("user_version"), 1);
    let mode: String = db
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "wal");
    let strict: i64 = db
        .query_row(
            "SELECT count(*) FROM pragma_table_list WHERE schema = 'main' AND strict",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(strict, 4);
    // The questions of an audit, in SQL.
    let id = sample.session.to_string();
    let count: i64 = db
        .query_row(
            "SELECT sum(count) FROM block WHERE session_id = ?1",
            [&id],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(count, 3 + 81);
    let kinds: Vec<(String, String, i64)> = db
        .prepare("SELECT tier, receipt_kind, number FROM receipt WHERE tenant_id = 'acme' ORDER BY timestamp_utc")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let expected = [
        ("0", "halo_sensor_capture", 0),
        ("1", "halo_tier_routing", 1),
        ("2", "halo_tier_response", 80),
        ("1", "halo_tier_response", 2),
    ];
    assert_eq!(
        kinds,
        expected.map(|(tier, kind, number)| (tier.into(), kind.into(), number))
    );
}
