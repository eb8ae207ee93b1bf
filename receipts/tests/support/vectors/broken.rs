//! broken.json: changes of the golden session and of the keys beside it, with the verdict that each gets.

use halo_receipts::bundle::Bundle;
use halo_receipts::evidence::{StoredReceipt, Stream};
use halo_receipts::hex;
use halo_receipts::ids::Tier;
use halo_receipts::keys::{RootKeys, RootSecret, SessionKey};
use halo_receipts::payload::{AnswerStatus, Answerer, Decision};
use halo_receipts::receipt::Receipt;
use halo_receipts::verdict::{NoKeys, SessionKeys};
use serde_json::{Value, json};

use super::golden::{self, Builder, FIRST_EPOCH, SECOND_EPOCH};
use super::session::{bundle, judged};
use super::{Made, ensure};

pub fn make() -> Made {
    let golden = golden::golden();
    let mut cases = Cases {
        bundle: bundle(&golden)?,
        golden,
        out: Vec::new(),
    };
    cases.bytes()?;
    cases.places()?;
    cases.records()?;
    cases.copies()?;
    cases.ends()?;
    cases.other_sessions()?;
    cases.keys()?;
    Ok(json!({
        "about": "Changes (RFC 6902) of the bundle in session.json, and the verdict over what comes out. A verifier must find every code; after a failure it may find consequences too. spec.md, section 13.",
        "cases": cases.out,
    }))
}

struct Cases {
    golden: Builder,
    bundle: Value,
    out: Vec<Value>,
}

fn op(op: &str, path: impl Into<String>, value: Value) -> Value {
    match op {
        "remove" => json!({"op": op, "path": path.into()}),
        _ => json!({"op": op, "path": path.into(), "value": value}),
    }
}

impl Cases {
    /// A case under the root's keys.
    fn case(&mut self, name: &str, patch: Vec<Value>, exit_code: u8, code: &str) -> Made<()> {
        let keys = json!({"root": hex::encode(&golden::root_bytes())});
        self.with_keys(name, patch, keys, exit_code, code)
    }

    fn with_keys(
        &mut self,
        name: &str,
        patch: Vec<Value>,
        keys: Value,
        exit_code: u8,
        code: &str,
    ) -> Made<()> {
        let bundle = Bundle::parse(&serde_json::to_vec(&patched(&self.bundle, &patch)?)?)?;
        let (session, evidence) = (self.golden.session_id, &bundle.evidence);
        let verdict = if let Some(root) = keys["root"].as_str() {
            let root = hex::decode_vec(root.as_bytes()).ok_or("a root in hex")?;
            let keys = RootKeys::new(RootSecret::new(root)?, 1, false);
            judged(session, evidence, &keys)
        } else if let Some(map) = keys["session_keys"].as_object() {
            let mut keys = SessionKeys::new();
            for (epoch, key) in map {
                let key = SessionKey::from_hex(key.as_str().unwrap_or_default())?;
                keys.insert(halo_receipts::ids::Epoch(epoch.parse()?), key);
            }
            judged(session, evidence, &keys)
        } else {
            judged(session, evidence, &NoKeys)
        };
        let codes = verdict["codes"].as_array().ok_or("codes")?;
        let named = code.is_empty() && codes.is_empty()
            || codes.iter().any(|found| found.as_str() == Some(code));
        ensure(named && verdict["exit_code"] == exit_code, || {
            format!("'{name}' should give {exit_code} and {code:?}, and gives {verdict}")
        })?;
        self.out
            .push(json!({"name": name, "patch": patch, "keys": keys, "verdict": verdict}));
        Ok(())
    }

    /// The path of a stored receipt in the bundle.
    fn path(&self, stream: Stream, number: u32) -> Made<String> {
        for (block, row) in self.golden.evidence.blocks.iter().enumerate() {
            let count = row.content.as_ref().map_or(0, Vec::len) as u32;
            if row.stream == stream && (row.first..row.first + count).contains(&number) {
                return Ok(format!("/blocks/{block}/receipts/{}", number - row.first));
            }
        }
        Err("no such receipt".into())
    }

    fn stored(&self, stream: Stream, number: u32) -> Made<StoredReceipt> {
        let mut all = self.golden.evidence.receipts(stream);
        let found = all.find(|(at, _)| *at == number);
        Ok(found.ok_or("no such receipt")?.1.clone())
    }

    /// A change of text in a stored receipt or its payload.
    fn edit(&self, stream: Stream, number: u32, part: &str, from: &str, to: &str) -> Made<Value> {
        let stored = self.stored(stream, number)?;
        let bytes = match part {
            "receipt" => stored.bytes,
            _ => stored.payload.ok_or("no payload")?,
        };
        let text = String::from_utf8(bytes)?;
        let changed = text.replacen(from, to, 1);
        ensure(changed != text, || {
            format!("{from:?} does not stand in {text}")
        })?;
        let path = format!("{}/{part}", self.path(stream, number)?);
        Ok(op("replace", path, changed.into()))
    }

    fn bytes(&mut self) -> Made<()> {
        use Stream::{Device, Substrate};
        let hmac = "receipt.hmac.mismatch";
        let patch = self.edit(
            Substrate,
            3,
            "receipt",
            "halo_token_emit",
            "halo_token_emiu",
        )?;
        self.case("a byte of a token's kind", vec![patch], 1, hmac)?;
        let patch = self.edit(
            Substrate,
            3,
            "receipt",
            "\"timestamp_utc\":\"2026-",
            "\"timestamp_utc\":\"2027-",
        )?;
        self.case("a byte of a token's time", vec![patch], 1, hmac)?;
        let receipt = Receipt::parse(&self.stored(Substrate, 3)?.bytes)?;
        let tag = hex::encode(&receipt.hmac_signature);
        let other = format!(
            "{}{}",
            if tag.starts_with('0') { "1" } else { "0" },
            &tag[1..]
        );
        let patch = self.edit(Substrate, 3, "receipt", &tag, &other)?;
        self.case("a digit of a signature", vec![patch], 1, hmac)?;
        let patch = self.edit(Device, 0, "receipt", "\"tier\":0", "\"tier\":1")?;
        self.case("a capture as the phone's", vec![patch], 1, hmac)?;
        let (first, second) = (FIRST_EPOCH.to_string(), SECOND_EPOCH.to_string());
        let patch = self.edit(Device, 1, "receipt", &first, &second)?;
        self.case("a receipt in another epoch", vec![patch], 1, hmac)?;
        let patch = self.edit(Substrate, 1, "payload", "\"step\":0", "\"step\":1")?;
        self.case(
            "a byte of a payload",
            vec![patch],
            1,
            "payload.hash.mismatch",
        )?;
        let path = format!("{}/payload", self.path(Substrate, 1)?);
        let patch = op("replace", path, Value::Null);
        self.case(
            "a payload that is gone",
            vec![patch],
            1,
            "payload.hash.mismatch",
        )?;
        let path = format!("{}/payload", self.path(Device, 0)?);
        let patch = op("replace", path, "{}".into());
        self.case(
            "a payload beside a capture",
            vec![patch],
            1,
            "payload.hash.mismatch",
        )?;
        let patch = self.edit(Device, 2, "receipt", "\"}", "\"}\n")?;
        self.case("a line feed after a receipt", vec![patch], 1, hmac)?;
        let patch = self.edit(Device, 2, "receipt", ",\"receipt_id\"", ", \"receipt_id\"")?;
        self.case(
            "a space in a receipt",
            vec![patch],
            1,
            "receipt.hmac.mismatch",
        )?;
        let path = format!("{}/receipt", self.path(Device, 2)?);
        let patch = op("replace", path, json!({"hex": "ff00"}));
        self.case(
            "bytes that are no text",
            vec![patch],
            1,
            "receipt.hmac.mismatch",
        )
    }

    fn places(&mut self) -> Made<()> {
        use Stream::{Device, Substrate};
        let remove = |path: &str| {
            vec![
                op("remove", path, Value::Null),
                op("remove", path.replace("receipts", "ids"), Value::Null),
            ]
        };
        // The last receipt of a block of three, so that the next block keeps its number.
        let path = self.path(Substrate, 2)?;
        self.case(
            "a receipt deleted inside an answer",
            remove(&path),
            1,
            "stream.gap",
        )?;
        let path = self.path(Device, 0)?;
        let patch = op("remove", &path[.."/blocks/0".len()], Value::Null);
        self.case("the first receipt deleted", vec![patch], 1, "stream.gap")?;
        let row = |stored: &StoredReceipt| -> Made { self.row(stored) };
        let (a, b) = (
            row(&self.stored(Device, 0)?)?,
            row(&self.stored(Device, 1)?)?,
        );
        let swap = vec![
            op("replace", self.path(Device, 0)?, b),
            op("replace", self.path(Device, 1)?, a),
        ];
        self.case(
            "two captures in each other's place",
            swap,
            1,
            "block.ids.mismatch",
        )?;
        let last = self.golden.evidence.next_number(Device) - 1;
        let again = self.row(&self.stored(Device, last)?)?;
        let id = Receipt::parse(&self.stored(Device, last)?.bytes)?
            .body
            .receipt_id;
        let end = self.path(Device, last)?.replace("/receipts/0", "");
        let patch = vec![
            op("add", format!("{end}/receipts/1"), again),
            op("add", format!("{end}/ids/1"), json!(id)),
        ];
        self.case("the last receipt twice", patch, 1, "receipt.duplicate")?;
        let blocks = self.bundle["blocks"].as_array().map_or(0, Vec::len);
        let copy = self.bundle["blocks"][blocks - 1].clone();
        let patch = op("add", format!("/blocks/{blocks}"), copy);
        self.case("a block twice", vec![patch], 1, "chain.fork")?;
        let block = self.path(Substrate, 3)?.replace("/receipts/0", "");
        let patch = vec![
            op("remove", format!("{block}/receipts"), Value::Null),
            op(
                "add",
                format!("{block}/damaged"),
                "the checksum differs".into(),
            ),
        ];
        self.case("a block that cannot be read", patch, 1, "block.damaged")
    }

    fn row(&self, stored: &StoredReceipt) -> Made {
        let payload = stored.payload.clone().map(String::from_utf8).transpose()?;
        Ok(json!({"receipt": String::from_utf8(stored.bytes.clone())?, "payload": payload}))
    }

    fn records(&mut self) -> Made<()> {
        let null = Value::Null;
        let patch = op("replace", "/header", null.clone());
        self.case("no header", vec![patch], 1, "header.missing")?;
        let body = self.bundle["header"]["body"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let patch = op(
            "replace",
            "/header/body",
            body.replacen("phone-17", "phone-18", 1).into(),
        );
        self.case(
            "a byte of the header",
            vec![patch],
            1,
            "header.mac.mismatch",
        )?;
        let patch = op("replace", "/header/body", format!("{body} ").into());
        self.case("a space after the header", vec![patch], 1, "header.form")?;
        let body = self.bundle["claims"][0]["body"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let patch = op(
            "replace",
            "/claims/0/body",
            body.replacen("gateway-a", "gateway-b", 1).into(),
        );
        self.case("a byte of a claim", vec![patch], 1, "claim.mac.mismatch")?;
        let mac = self.bundle["claims"][0]["mac"].clone();
        let patch = op("replace", "/header/mac", mac);
        self.case(
            "a claim's MAC on the header",
            vec![patch],
            1,
            "header.mac.mismatch",
        )?;
        let claim = self.bundle["claims"][1].clone();
        let patch = op("add", "/claims/2", claim);
        self.case("a claim twice", vec![patch], 1, "claim.duplicate")?;
        let patch = op("remove", "/claims/0", null);
        self.case(
            "the claim of an epoch deleted",
            vec![patch],
            1,
            "epoch.unclaimed",
        )
    }

    fn copies(&mut self) -> Made<()> {
        let fields = self.bundle["attributes"][2]["fields"].as_array();
        let at = fields.and_then(|fields| fields.iter().position(|field| field[0] == "tenant_id"));
        let path = format!(
            "/attributes/2/fields/{}/1",
            at.ok_or("no copy of the tenant")?
        );
        let patch = op("replace", path, "acme-east".into());
        let code = "receipt.attribute.mismatch:tenant_id";
        self.case(
            "a searchable copy that says something else",
            vec![patch],
            1,
            code,
        )?;
        let id = self.bundle["blocks"][1]["ids"][0].clone();
        let patch = op("replace", "/blocks/0/ids/0", id);
        self.case(
            "another id beside a block",
            vec![patch],
            1,
            "block.ids.mismatch",
        )?;
        let patch = op("replace", "/attributes", json!([]));
        self.case("no searchable copies", vec![patch], 0, "")
    }

    /// Sessions whose end is cut off.
    fn ends(&mut self) -> Made<()> {
        let evidence = &self.golden.evidence;
        let last = evidence.next_number(Stream::Device) - 1;
        let end = self.path(Stream::Device, last)?.replace("/receipts/0", "");
        let copies = evidence.attributes.len() - 1;
        let patch = vec![
            op("remove", end, Value::Null),
            op("remove", format!("/attributes/{copies}"), Value::Null),
        ];
        self.case("the last seal cut off", patch, 3, "seal.missing")?;
        // Everything of the second epoch: blocks from the back, so that paths stay right.
        let second = |stored: &StoredReceipt| {
            Receipt::parse(&stored.bytes).is_ok_and(|r| r.body.session_epoch == SECOND_EPOCH)
        };
        let evidence = &self.golden.evidence;
        let later = |at: &usize| {
            let content = evidence.blocks[*at].content.as_deref().unwrap_or_default();
            content.iter().any(second)
        };
        let blocks = (0..evidence.blocks.len()).rev().filter(later);
        let mut patch: Vec<_> = blocks
            .map(|at| op("remove", format!("/blocks/{at}"), Value::Null))
            .collect();
        let removed = evidence
            .receipts(Stream::Device)
            .filter(|(_, stored)| second(stored));
        let first = evidence.attributes.len() - removed.count();
        for at in (first..evidence.attributes.len()).rev() {
            patch.push(op("remove", format!("/attributes/{at}"), Value::Null));
        }
        self.case(
            "all receipts of the last epoch cut off",
            patch.clone(),
            3,
            "epoch.unsealed",
        )?;
        let text = SECOND_EPOCH.to_string();
        for at in (0..evidence_claims(&self.bundle)).rev() {
            let body = self.bundle["claims"][at]["body"]
                .as_str()
                .unwrap_or_default();
            if body.contains(&text) {
                patch.push(op("remove", format!("/claims/{at}"), Value::Null));
            }
        }
        let name = "the last epoch cut off with its claims: nothing inside the ledger shows that, only an anchor does";
        self.case(name, patch, 0, "")?;
        let patch = vec![
            op("replace", "/blocks", json!([])),
            op("replace", "/attributes", json!([])),
        ];
        self.case("no receipts at all", patch, 4, "session.notFound")
    }

    /// Sessions that another builder wrote, or that a holder of the keys forged.
    fn other_sessions(&mut self) -> Made<()> {
        let other = golden::session(2, golden::ANSWERS[0], golden::ANSWERS[1]);
        let stored = other
            .evidence
            .receipts(Stream::Device)
            .next()
            .ok_or("no receipt")?
            .1;
        let patch = op("replace", self.path(Stream::Device, 0)?, self.row(stored)?);
        self.case(
            "a receipt of another session",
            vec![patch],
            1,
            "receipt.hmac.mismatch",
        )?;
        let patch = op("replace", "/header", bundle(&other)?["header"].clone());
        self.case(
            "the header of another session",
            vec![patch],
            1,
            "header.mac.mismatch",
        )?;

        let mut builder = Builder::open(1);
        builder.capture(b"a question");
        self.whole("a session that still runs", &builder, 3, "seal.missing")?;
        let (routing, request) = builder.route(Decision::Escalate, "How many?");
        builder.steps(&routing, &["Three"], 64);
        self.whole("an answer under way", &builder, 3, "chain.leaf.unsealed")?;

        let mut builder = Builder::open(1);
        builder.capture(b"a question");
        let (routing, request_2) = builder.route(Decision::Escalate, "How many?");
        let response = builder.answer(
            &routing,
            request_2,
            &["Three"],
            64,
            AnswerStatus::Interrupted,
        );
        builder.seal(
            &response,
            AnswerStatus::Interrupted,
            Answerer::Substrate,
            "Three",
        );
        self.whole("an answer that broke off", &builder, 3, "seal.interrupted")?;
        ensure(request == request_2, || "two builders differ".into())?;

        let mut builder = Builder::open(1);
        builder.record_break(FIRST_EPOCH);
        builder.capture(b"a question");
        builder.answer_locally("What time is it?", "Ten.");
        self.whole("a break before anything was captured", &builder, 0, "")?;

        let mut builder = Builder::open(1);
        builder.capture(b"a question");
        let seal = builder.evidence.receipts(Stream::Device).count();
        builder.answer_locally("What time is it?", "Ten.");
        let hidden = builder.evidence.blocks.remove(seal);
        builder.evidence.attributes.remove(seal);
        for block in &mut builder.evidence.blocks[seal..] {
            block.first -= 1;
        }
        for copy in &mut builder.evidence.attributes[seal..] {
            copy.position.1 -= 1;
        }
        ensure(hidden.stream == Stream::Device, || "the wrong block".into())?;
        let name = "a receipt deleted and the numbers closed up";
        self.whole(name, &builder, 1, "receipt.parent.missing")
    }

    fn whole(&mut self, name: &str, builder: &Builder, exit_code: u8, code: &str) -> Made<()> {
        let bundle = bundle(builder)?;
        let patch = ["header", "claims", "blocks", "attributes"]
            .map(|part| op("replace", format!("/{part}"), bundle[part].clone()));
        self.case(name, patch.into(), exit_code, code)
    }

    fn keys(&mut self) -> Made<()> {
        let stranger: Vec<u8> = (1..49).collect();
        let keys = json!({"root": hex::encode(&stranger)});
        self.with_keys("another root", vec![], keys, 5, "root.checkValue.mismatch")?;
        let all = self.bundle["session_keys"].clone();
        self.with_keys(
            "the keys of both epochs",
            vec![],
            json!({"session_keys": all}),
            0,
            "",
        )?;
        let first = FIRST_EPOCH.to_string();
        let one = json!({"session_keys": {&first: all[&first]}});
        self.with_keys("the key of one epoch", vec![], one, 5, "key.unavailable")?;
        let (a, b) = (FIRST_EPOCH.to_string(), SECOND_EPOCH.to_string());
        let swapped = json!({"session_keys": {&a: all[&b], &b: all[&a]}});
        self.with_keys(
            "the keys of two epochs in each other's place",
            vec![],
            swapped,
            5,
            "key.mismatch",
        )?;
        self.with_keys("no keys", vec![], Value::Null, 0, "")?;
        let patch = self.edit(Stream::Device, 1, "receipt", "acme-west", "acme-east")?;
        self.with_keys(
            "no keys, and a byte of a tenant",
            vec![patch],
            Value::Null,
            1,
            "receipt.parentHash.mismatch",
        )?;
        let key = self.golden.session_key(FIRST_EPOCH).tier_key(Tier::Sensor);
        let wrong = json!({"session_keys": {&a: *key.to_hex(), &b: all[&b]}});
        self.with_keys(
            "a tier's key in the place of a session's",
            vec![],
            wrong,
            5,
            "key.mismatch",
        )
    }
}

fn evidence_claims(bundle: &Value) -> usize {
    bundle["claims"].as_array().map_or(0, Vec::len)
}

/// The document after the changes.
fn patched(document: &Value, patch: &[Value]) -> Made {
    let mut document = document.clone();
    for change in patch {
        let path = change["path"].as_str().ok_or("a path")?;
        let (parent, last) = path.rsplit_once('/').ok_or("a path")?;
        let at = document
            .pointer_mut(parent)
            .ok_or_else(|| format!("no {parent}"))?;
        let value = change["value"].clone();
        match (change["op"].as_str(), at) {
            (Some("add"), Value::Array(list)) => list.insert(last.parse()?, value),
            (Some("remove"), Value::Array(list)) => {
                list.remove(last.parse()?);
            }
            (Some("remove"), Value::Object(members)) => {
                members.remove(last);
            }
            (Some("replace"), Value::Array(list)) => list[last.parse::<usize>()?] = value,
            (Some("add" | "replace"), Value::Object(members)) => {
                members.insert(last.to_owned(), value);
            }
            _ => return Err(format!("cannot change {path}").into()),
        }
    }
    Ok(document)
}
