//! receipts.json: a receipt of every kind with its payload, the records of a session, spellings that are refused, and
//! Merkle roots.

use halo_receipts::evidence::{Claim, ClaimKind, Header, Record, SignedRecord};
use halo_receipts::experts::ExpertSet;
use halo_receipts::hex;
use halo_receipts::ids::{Epoch, Hash, RequestId, Tier};
use halo_receipts::keys::RootSecret;
use halo_receipts::merkle;
use halo_receipts::payload::{
    AnswerContent, AnswerStatus, Answerer, BlockRoot, BreakFound, ContentPolicy, Decision,
    ExpertLoad, ModelIdentity, OrchestratorResponse, Private, Routing, RoutingContent,
    SubstrateResponse, SubstrateSeal, TokenContent, TokenEmit, V1, to_canonical,
};
use halo_receipts::receipt::{Parent, Receipt, ReceiptKind};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Made, ROOT, Session, ensure, random};

pub fn make() -> Made {
    let session = Session::new()?;
    Ok(json!({
        "about": "Receipts, payloads and records as they are stored. spec.md, sections 8 to 11.",
        "session_id": session.id.to_string(),
        "session_epoch": session.epoch.0,
        "tenant_id": session.tenant.as_str(),
        "session_key": *session.key.to_hex(),
        "receipts": Writer::new(&session).all()?,
        "records": records(&session)?,
        "receipts_refused": receipts_refused(&session)?,
        "payloads_refused": payloads_refused()?,
        "expert_sets": expert_sets()?,
        "merkle": merkle_roots(),
    }))
}

/// Writes receipts one after the other.
struct Writer<'a> {
    session: &'a Session,
    out: Vec<Value>,
    micros: u64,
}

/// What a payload keeps to itself, and how.
struct Content {
    plaintext: Vec<u8>,
    policy: ContentPolicy,
}

impl Content {
    fn new(content: &impl Serialize, policy: ContentPolicy) -> Made<Self> {
        let plaintext = to_canonical(content)?;
        Ok(Self { plaintext, policy })
    }
}

impl<'a> Writer<'a> {
    fn new(session: &'a Session) -> Self {
        let (out, micros) = (Vec::new(), 0);
        Self {
            session,
            out,
            micros,
        }
    }

    /// Private content for the receipt that `label` names.
    fn private(&self, label: &str, tier: Tier, content: &Content) -> Made<Private> {
        let key = self.session.tier_key(tier).payload_key();
        let id = halo_receipts::ids::ReceiptId::from_random(random(label));
        let value: Value = serde_json::from_slice(&content.plaintext)?;
        Ok(Private::new(&value, content.policy, &key, &id)?)
    }

    fn add(
        &mut self,
        label: &str,
        tier: Tier,
        kind: ReceiptKind,
        payload: Result<Vec<u8>, &[u8]>,
        parent: Option<&Receipt>,
        content: Option<&Content>,
    ) -> Made<Receipt> {
        let hash = match &payload {
            Ok(payload) => Hash::of(payload),
            Err(capture) => Hash::of(capture),
        };
        self.micros += 1_500;
        let parent = parent.map(Receipt::as_parent);
        let receipt = self
            .session
            .receipt(label, tier, kind, hash, parent, self.micros)?;
        let mut vector = json!({
            "name": label,
            "tier": tier.number(),
            "receipt_kind": kind.name(),
            "canonical_body": String::from_utf8(receipt.body.canonical())?,
            "hmac_signature": hex::encode(&receipt.hmac_signature),
            "full": String::from_utf8(receipt.to_bytes())?,
            "hash": receipt.hash().to_string(),
        });
        match payload {
            Ok(payload) => vector["payload"] = String::from_utf8(payload)?.into(),
            Err(capture) => {
                vector["payload"] = Value::Null;
                vector["capture"] = hex::encode(capture).into();
            }
        }
        if let Some(content) = content {
            vector["private"] = json!({
                "policy": content.policy,
                "plaintext": String::from_utf8(content.plaintext.clone())?,
            });
        }
        self.out.push(vector);
        Ok(receipt)
    }

    fn all(mut self) -> Made<Vec<Value>> {
        let (zero, one) = (Tier::Sensor, Tier::Orchestrator);
        let capture = self.add(
            "capture",
            zero,
            ReceiptKind::SensorCapture,
            Err(b"sound"),
            None,
            None,
        )?;
        let second = self.add(
            "capture 2",
            zero,
            ReceiptKind::SensorCapture,
            Err(b"more sound"),
            Some(&capture),
            None,
        )?;
        let mut routed = None;
        for policy in [ContentPolicy::Omit, ContentPolicy::Sealed] {
            let label = format!("routing, escalated, {policy:?}").to_lowercase();
            let content = Content::new(
                &RoutingContent::new("Wie viele Kartons \u{2014} Regal 7?"),
                policy,
            )?;
            let mut routing = Routing::new(Decision::Escalate, "asks about stock", "rules/1");
            routing.request_id = Some(self.session.request);
            let routing = routing.with_private(self.private(&label, one, &content)?);
            let payload = Ok(to_canonical(&routing)?);
            routed = Some(self.add(
                &label,
                one,
                ReceiptKind::TierRouting,
                payload,
                Some(&second),
                Some(&content),
            )?);
        }
        let routing = routed.ok_or("no routing receipt")?;
        let substrate = self.substrate(&routing)?;
        self.orchestrator(&substrate)?;
        self.local(&second)?;
        self.breaks(&second)?;
        Ok(self.out)
    }

    /// Two steps of Tier 2 and its seal.
    fn substrate(&mut self, routing: &Receipt) -> Made<Receipt> {
        let two = Tier::Substrate;
        let (mut parent, mut hashes, mut ids) = (routing.clone(), Vec::new(), Vec::new());
        let mut last = None;
        for step in 0..2u32 {
            let mut experts = ExpertSet::new(3, 12);
            for layer in 0..3 {
                experts.insert(layer, (layer + step as usize) % 12);
                experts.insert(layer, 11);
            }
            let mut loaded = ExpertSet::new(3, 12);
            loaded.insert(1, 11);
            let load = ExpertLoad {
                v: V1,
                step,
                experts,
                loaded: (step == 0).then_some(loaded),
                model: (step == 0).then(|| ModelIdentity {
                    name: "halo-demo".to_owned(),
                    weights_sha256: Hash::of(b"weights"),
                    build_sha256: Hash::of(b"build"),
                }),
            };
            let label = format!("expert_load {step}");
            let payload = Ok(to_canonical(&load)?);
            let load = self.add(
                &label,
                two,
                ReceiptKind::ExpertLoad,
                payload,
                Some(&parent),
                None,
            )?;
            let label = format!("token_emit {step}");
            let content = TokenContent {
                token_id: 17 + step,
                text: ["Zw\u{f6}lf", " Kartons."][step as usize].to_owned(),
            };
            let content = Content::new(&content, ContentPolicy::Sealed)?;
            let token = TokenEmit::new(step, self.private(&label, two, &content)?);
            let payload = Ok(to_canonical(&token)?);
            let token = self.add(
                &label,
                two,
                ReceiptKind::TokenEmit,
                payload,
                Some(&load),
                Some(&content),
            )?;
            hashes.extend([load.hash(), token.hash()]);
            ids.extend([load.body.receipt_id, token.body.receipt_id]);
            (parent, last) = (load, Some(token));
        }
        let last = last.ok_or("no token")?;
        let label = "substrate response";
        let content = Content::new(
            &AnswerContent {
                output_sha256: Hash::of("Zw\u{f6}lf Kartons.".as_bytes()),
                output: None,
            },
            ContentPolicy::Sealed,
        )?;
        let root = merkle::root(&hashes);
        let seal = SubstrateSeal {
            request_id: self.session.request,
            status: AnswerStatus::Ok,
            finish: "stop".to_owned(),
            model: "halo-demo".to_owned(),
            prompt_tokens: 9,
            completion_tokens: 2,
            first: 0,
            ids: ids.first().copied().zip(ids.last().copied()),
            receipts: 4,
            root,
            blocks: vec![BlockRoot {
                first: 0,
                count: 4,
                root,
            }],
        };
        let response = SubstrateResponse::new(seal, self.private(label, two, &content)?);
        let payload = Ok(to_canonical(&response)?);
        self.add(
            label,
            two,
            ReceiptKind::TierResponse,
            payload,
            Some(&last),
            Some(&content),
        )
    }

    fn orchestrator(&mut self, substrate: &Receipt) -> Made<()> {
        let output = "Zw\u{f6}lf Kartons.";
        let root = merkle::root(&[Hash::of(b"d"), Hash::of(b"s")]);
        self.response(
            "orchestrator response",
            Answerer::Substrate,
            output,
            [3, 5],
            root,
            substrate,
        )
    }

    fn response(
        &mut self,
        label: &str,
        by: Answerer,
        output: &str,
        [device, substrate]: [u32; 2],
        root: Hash,
        parent: &Receipt,
    ) -> Made<()> {
        let one = Tier::Orchestrator;
        let content = AnswerContent {
            output_sha256: Hash::of(output.as_bytes()),
            output: Some(output.to_owned()),
        };
        let content = Content::new(&content, ContentPolicy::Sealed)?;
        let private = self.private(label, one, &content)?;
        let status = AnswerStatus::Ok;
        let response = OrchestratorResponse::new(status, by, device, substrate, root, private);
        let payload = Ok(to_canonical(&response)?);
        let kind = ReceiptKind::TierResponse;
        self.add(label, one, kind, payload, Some(parent), Some(&content))?;
        Ok(())
    }

    /// A question that the phone answers by itself.
    fn local(&mut self, capture: &Receipt) -> Made<()> {
        let label = "routing, local";
        let one = Tier::Orchestrator;
        let content = Content::new(
            &RoutingContent::new("Wie sp\u{e4}t ist es?"),
            ContentPolicy::Sealed,
        )?;
        let mut routing = Routing::new(Decision::Local, "asks for the time", "rules/1");
        routing.request_id = Some(RequestId::from_random(random("local request")));
        let routing = routing.with_private(self.private(label, one, &content)?);
        let payload = Ok(to_canonical(&routing)?);
        let kind = ReceiptKind::TierRouting;
        let routing = self.add(label, one, kind, payload, Some(capture), Some(&content))?;
        let hashes = [capture.hash(), routing.hash()];
        let root = merkle::root(&hashes);
        self.response(
            "orchestrator response, local",
            Answerer::Local,
            "Es ist zehn.",
            [2, 0],
            root,
            &routing,
        )
    }

    /// A break after good receipts, and one before any.
    fn breaks(&mut self, capture: &Receipt) -> Made<()> {
        for (label, parent) in [
            ("routing, verification failed", Some(capture)),
            ("routing, verification failed, first of the session", None),
        ] {
            let mut routing = Routing::new(
                Decision::VerificationFailed,
                "the chain broke: hmac",
                "rules/1",
            );
            routing.break_found = Some(BreakFound {
                epoch: Epoch(self.session.epoch.0 - 10),
                first_bad: 41,
                reason: "hmac".to_owned(),
                expected: Hash::of(b"expected"),
                computed: Hash::of(b"computed"),
            });
            let payload = Ok(to_canonical(&routing)?);
            let kind = ReceiptKind::TierRouting;
            self.add(label, Tier::Orchestrator, kind, payload, parent, None)?;
        }
        Ok(())
    }
}

fn records(session: &Session) -> Made<Vec<Value>> {
    let key = session.tier_key(Tier::Orchestrator);
    let header = Header {
        v: V1,
        session_id: session.id,
        session_epoch: session.epoch,
        tenant_id: session.tenant.clone(),
        device_id: "phone-7".parse()?,
        root_generation: 1,
        key_check_value: RootSecret::new(ROOT.to_vec())?.check_value(),
        demo_root: true,
        content: ContentPolicy::Sealed,
        opened_at: session.time(0)?,
    };
    let record = |name: &str, record: SignedRecord| -> Made {
        Ok(json!({
            "name": name,
            "key": *key.to_hex(),
            "body": String::from_utf8(record.body)?,
            "mac": hex::encode(&record.mac),
        }))
    };
    let claim = |kind, link, by: &str| -> Made<SignedRecord> {
        Ok(Claim {
            v: V1,
            kind,
            session_id: session.id,
            session_epoch: session.epoch,
            link,
            claimed_by: by.to_owned(),
            claimed_at: session.time(1)?,
        }
        .sign(&key)?)
    };
    Ok(vec![
        record("header", header.sign(&key)?)?,
        record("claim", claim(ClaimKind::Epoch, 0, "gateway-a")?)?,
        record("claim", claim(ClaimKind::Connection, 0, "gateway-b")?)?,
        record("claim", claim(ClaimKind::SubstrateLink, 0, "pod-0")?)?,
        record("claim", claim(ClaimKind::SubstrateLink, 1, "pod-0")?)?,
    ])
}

/// Spellings of one receipt that are no receipt, with the offset of the first byte that does not fit.
fn receipts_refused(session: &Session) -> Made<Vec<Value>> {
    let hash = Hash([0xab; 32]);
    let kind = ReceiptKind::SensorCapture;
    let parent = Parent {
        id: halo_receipts::ids::ReceiptId::from_random(random("parent")),
        hash,
    };
    let receipt = session.receipt("refused", Tier::Sensor, kind, hash, Some(parent), 0)?;
    let good = String::from_utf8(receipt.to_bytes())?;
    Receipt::parse(good.as_bytes())?;
    let mut out = Vec::new();
    for (note, from, to) in [
        ("white space before", "{", " {"),
        ("a line feed after", "\"}", "\"}\n"),
        ("a space after a colon", "\"tier\":0", "\"tier\": 0"),
        ("a float", "\"tier\":0", "\"tier\":0.0"),
        ("tier 3", "\"tier\":0", "\"tier\":3"),
        ("a repeated field", "\"tier\":0", "\"tier\":0,\"tier\":0"),
        ("an unknown field", "\"tier\":0", "\"extra\":0,\"tier\":0"),
        ("a missing field", "\"tier\":0,", ""),
        (
            "a leading zero",
            "\"session_epoch\":1",
            "\"session_epoch\":01",
        ),
        (
            "an epoch over 32 bits",
            "\"session_epoch\":1767225599",
            "\"session_epoch\":4294967296",
        ),
        (
            "an exponent",
            "\"session_epoch\":1767225599",
            "\"session_epoch\":1e9",
        ),
        ("upper-case digits", "abab", "ABAB"),
        ("an escaped letter", "acme", "ac\\u006de"),
        ("a tenant that is none", "acme-west", "acme-"),
        ("an unknown kind", "halo_sensor_capture", "halo_sensor"),
        ("five digits of fraction", ".000000Z", ".00000Z"),
        (
            "a parent's hash without its id",
            &format!("\"{}\"", parent.id),
            "null",
        ),
        ("30 February", "2025-12-31", "2025-02-30"),
    ] {
        let text = good.replacen(from, to, 1);
        let refused = Receipt::parse(text.as_bytes()).err();
        ensure(text != good, || {
            format!("the case '{note}' changes nothing")
        })?;
        let refused = refused.ok_or_else(|| format!("a receipt with {note} was taken"))?;
        out.push(json!({"note": note, "text": text, "at": refused.at}));
    }
    Ok(out)
}

/// Payloads that their kind does not have, though they are canonical JSON.
fn payloads_refused() -> Made<Vec<Value>> {
    use halo_receipts::payload::from_canonical;
    let token = r#"{"sealed":"AAAA","step":0,"v":1}"#;
    from_canonical::<TokenEmit>(token.as_bytes())?;
    let mut out = Vec::new();
    let digits = "0".repeat(64);
    for (note, text) in [
        (
            "another version",
            r#"{"sealed":"AAAA","step":0,"v":2}"#.to_owned(),
        ),
        ("no version", r#"{"sealed":"AAAA","step":0}"#.to_owned()),
        (
            "an unknown field",
            r#"{"a":0,"sealed":"AAAA","step":0,"v":1}"#.to_owned(),
        ),
        (
            "a repeated field",
            r#"{"sealed":"AAAA","step":0,"step":0,"v":1}"#.to_owned(),
        ),
        (
            "another order",
            r#"{"step":0,"sealed":"AAAA","v":1}"#.to_owned(),
        ),
        (
            "white space",
            r#"{"sealed":"AAAA","step":0, "v":1}"#.to_owned(),
        ),
        (
            "a float",
            r#"{"sealed":"AAAA","step":0.0,"v":1}"#.to_owned(),
        ),
        (
            "a negative step",
            r#"{"sealed":"AAAA","step":-1,"v":1}"#.to_owned(),
        ),
        (
            "null content",
            r#"{"sealed":null,"step":0,"v":1}"#.to_owned(),
        ),
        ("no content", r#"{"step":0,"v":1}"#.to_owned()),
        (
            "two contents",
            format!(r#"{{"commitment":"{digits}","sealed":"AAAA","step":0,"v":1}}"#),
        ),
    ] {
        ensure(
            from_canonical::<TokenEmit>(text.as_bytes()).is_err(),
            || format!("a payload with {note} was taken"),
        )?;
        out.push(
            json!({"receipt_kind": "halo_token_emit", "tier": 2, "note": note, "payload": text}),
        );
    }
    Ok(out)
}

fn expert_sets() -> Made<Vec<Value>> {
    let mut out = Vec::new();
    for (layers, experts, members) in [
        (1, 8, vec![(0, 0)]),
        (2, 12, vec![(0, 0), (0, 11), (1, 7), (1, 8)]),
        (1, 128, vec![(0, 1), (0, 63), (0, 64), (0, 127)]),
        (2, 5, vec![]),
    ] {
        let mut set = ExpertSet::new(layers, experts);
        for &(layer, expert) in &members {
            ensure(set.insert(layer, expert), || {
                "an expert that is not there".into()
            })?;
        }
        out.push(json!({
            "layers": layers, "experts": experts, "bitmaps": serde_json::to_value(&set)?,
            "members": members.iter().map(|&(layer, expert)| [layer, expert]).collect::<Vec<_>>(),
        }));
    }
    Ok(out)
}

/// The roots over the first `n` leaves, where the data of leaf `i` is SHA-256 of `i` as four bytes.
fn merkle_roots() -> Vec<Value> {
    let sizes = [0u32, 1, 2, 3, 4, 5, 6, 7, 8, 9, 63, 64, 65, 1000];
    sizes
        .map(|size| {
            let leaves: Vec<Hash> = (0..size).map(|i| Hash::of(&i.to_be_bytes())).collect();
            json!({"leaves": size, "root": merkle::root(&leaves).to_string()})
        })
        .into()
}
