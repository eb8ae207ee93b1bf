//! The same program on a ledger in DynamoDB, of which somebody changes items.

use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use halo_dynamodb_local::{DynamoDbLocal, Options};
use halo_ledger::block;
use halo_ledger::dynamodb::{self, DynamoLedger, create_table_on};
use tempfile::TempDir;

use super::golden::{self, SECOND_EPOCH};

fn local() -> &'static DynamoDbLocal {
    static LOCAL: OnceLock<DynamoDbLocal> = OnceLock::new();
    LOCAL.get_or_init(|| {
        DynamoDbLocal::start(&Options::default()).unwrap_or_else(|error| panic!("{error}"))
    })
}

/// A table with the golden session, and whoever may change it.
struct Place {
    dir: TempDir,
    table: String,
    session: String,
    client: Client,
}

impl Place {
    async fn new() -> Self {
        static TABLES: AtomicU32 = AtomicU32::new(0);
        let number = TABLES.fetch_add(1, Ordering::Relaxed);
        let table = format!("howdify-receipts-{number}");
        let environment = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new("us-east-2"))
            .endpoint_url(local().url())
            .credentials_provider(Credentials::new("local", "local", None, None, "test"))
            .load()
            .await;
        create_table_on(&environment, &table).await.unwrap();
        let options = dynamodb::Options::default();
        let ledger = DynamoLedger::open_on(&environment, &table, options)
            .await
            .unwrap();
        let builder = golden::golden();
        super::store(&ledger, &builder).await;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("root"), golden::root_bytes()).unwrap();
        Self {
            dir,
            table,
            session: builder.session_id.to_string(),
            client: Client::new(&environment),
        }
    }

    /// As an auditor runs it, with what the environment says of AWS.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_halo-verify"))
            .args(arguments)
            .args(["--ledger", &format!("dynamodb:{}@us-east-2", self.table)])
            .current_dir(self.dir.path())
            .envs(local().environment())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    fn verify(&self) -> (Option<i32>, String, String) {
        self.run(&[&self.session, "--root", "root"])
    }

    fn key(&self, sk: &str) -> [(String, AttributeValue); 2] {
        let pk = format!("S#{}", self.session);
        [("pk", pk.as_str()), ("sk", sk)]
            .map(|(name, text)| (name.to_owned(), AttributeValue::S(text.to_owned())))
    }

    async fn item(&self, sk: &str) -> std::collections::HashMap<String, AttributeValue> {
        let get = self.client.get_item().table_name(&self.table);
        let got = get.set_key(Some(self.key(sk).into())).send().await.unwrap();
        got.item.unwrap()
    }

    /// Writes over an item, as whoever has the right to put can.
    async fn change(&self, sk: &str, name: &str, value: AttributeValue) {
        let mut item = self.item(sk).await;
        assert!(
            item.insert(name.to_owned(), value.clone()) != Some(value),
            "{sk} {name}"
        );
        let put = self.client.put_item().table_name(&self.table);
        put.set_item(Some(item)).send().await.unwrap();
    }

    async fn delete(&self, sk: &str) {
        self.item(sk).await;
        let delete = self.client.delete_item().table_name(&self.table);
        delete
            .set_key(Some(self.key(sk).into()))
            .send()
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_session_in_dynamodb_passes() {
    let place = Place::new().await;
    let (code, out, err) = place.verify();
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(
        out.contains("\nPASS - 29 receipts verified, chain intact\n"),
        "{out}"
    );
    let (code, out, err) = place.run(&["--tenant", "acme-west", "--list"]);
    assert_eq!((code, out.lines().count()), (Some(0), 1), "{out}{err}");
    assert!(out.contains("29 receipts"), "{out}");
    let (code, _, err) = place.run(&["00000000-0000-4000-8000-000000000000", "--root", "root"]);
    assert_eq!(code, Some(4), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_in_an_item_is_found() {
    // The searchable copy of a receipt.
    let place = Place::new().await;
    let mut copies = place.item("B#d#0000000000").await["receipts"]
        .as_l()
        .unwrap()
        .clone();
    let AttributeValue::M(copy) = &mut copies[0] else {
        panic!("{copies:?}")
    };
    let kind = AttributeValue::S("halo_token_emit".to_owned());
    copy.insert("receipt_kind".to_owned(), kind);
    place
        .change("B#d#0000000000", "receipts", AttributeValue::L(copies))
        .await;
    found(&place, "[receipt.attribute.mismatch:receipt_kind]");

    // A block without its last byte.
    let place = Place::new().await;
    let mut content = place.item("B#d#0000000000").await["content"]
        .as_b()
        .unwrap()
        .clone()
        .into_inner();
    content.pop();
    place
        .change(
            "B#d#0000000000",
            "content",
            AttributeValue::B(Blob::new(content)),
        )
        .await;
    found(&place, "[block.damaged]");

    // A block that is gone, and a claim.
    let place = Place::new().await;
    place.delete("B#s#0000000003").await;
    found(&place, "[stream.gap]");
    let place = Place::new().await;
    let claim = place.item("E#0000000001").await;
    assert_eq!(
        claim["epoch"].as_s().unwrap(),
        &format!("{:010}", SECOND_EPOCH.0)
    );
    place.delete("E#0000000001").await;
    found(&place, "[epoch.unclaimed]");
}

fn found(place: &Place, words: &str) -> String {
    let (code, out, err) = place.verify();
    assert_eq!(code, Some(1), "{words}: {out}{err}");
    assert!(out.contains(words), "{words}: {out}");
    out
}

/// One byte of one receipt in a block that is whole again: receipt, field, offset, old and new are named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_of_a_receipt_is_named() {
    let place = Place::new().await;
    let sk = "B#s#0000000003";
    let item = place.item(sk).await;
    let bytes = |name: &str| item[name].as_b().unwrap().clone().into_inner();
    let (ids, content) = (bytes("ids"), bytes("content"));
    let mut receipts = block::decode(&content, &ids).unwrap();
    let old = receipts[0].bytes[30];
    let new = if old == b'0' { b'1' } else { b'0' };
    receipts[0].bytes[30] = new;
    let content = block::encode(&receipts, &ids).unwrap();
    place
        .change(sk, "content", AttributeValue::B(Blob::new(content)))
        .await;
    let out = found(&place, "HMAC FAIL at receipt");
    let named = format!(
        "field event_payload_hash, byte offset 30, old 0x{old:02x} '{}', new 0x{new:02x} '{}'",
        char::from(old),
        char::from(new)
    );
    assert!(out.contains(&named), "{out}");
    assert!(!out.contains("PASS"), "{out}");
}

/// An id beside a block: alone it is damage of that block; with a block that was written again for it, the one receipt is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_beside_a_block_is_named() {
    let place = Place::new().await;
    let sk = "B#s#0000000003";
    let item = place.item(sk).await;
    let bytes = |name: &str| item[name].as_b().unwrap().clone().into_inner();
    let (right, content) = (bytes("ids"), bytes("content"));
    let receipts = block::decode(&content, &right).unwrap();
    let mut ids = right;
    ids[16] ^= 1;
    let beside = AttributeValue::B(Blob::new(ids.clone()));
    place.change(sk, "ids", beside).await;
    let out = found(&place, "[block.damaged]");
    let named = "the block is damaged: the ids beside it are not those that it was written with";
    assert!(out.contains(named), "{out}");

    let content = block::encode(&receipts, &ids).unwrap();
    place
        .change(sk, "content", AttributeValue::B(Blob::new(content)))
        .await;
    let out = found(&place, "[block.ids.mismatch]");
    assert!(!out.contains("[block.damaged]"), "{out}");
    assert_eq!(out.matches("[block.ids.mismatch]").count(), 1, "{out}");
}

#[test]
fn a_table_that_is_not_there_is_exit_code_two() {
    let output = Command::new(env!("CARGO_BIN_EXE_halo-verify"))
        .args(["00000000-0000-4000-8000-000000000000", "--no-keys"])
        .args(["--ledger", "dynamodb:nothing-here@us-east-2"])
        .envs(local().environment())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("halo ledger create"), "{said}");
}
