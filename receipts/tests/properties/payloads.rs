//! Payloads and records: canonical, strict, private content readable by one key for one receipt.

use halo_receipts::chain::Event;
use halo_receipts::evidence::{Claim, ClaimKind, Header, Record as _, SignedRecord};
use halo_receipts::experts::ExpertSet;
use halo_receipts::ids::{Epoch, Hash, ReceiptId, SessionId};
use halo_receipts::keys::TierKey;
use halo_receipts::payload::{
    AnswerContent, AnswerStatus, Answerer, ContentPolicy, Decision, ExpertLoad,
    OrchestratorResponse, PayloadError, Private, Routing, RoutingContent, SubstrateResponse,
    TokenContent, TokenEmit, V1, from_canonical, to_canonical,
};
use halo_receipts::time::Timestamp;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::golden::{self, Builder};

fn id(byte: u8) -> ReceiptId {
    ReceiptId::from_random([byte; 16])
}

/// Spellings of a canonical document that say the same, or nearly: all of them must be refused.
fn other_spellings(json: &str) -> Vec<String> {
    let value: Value = serde_json::from_str(json).unwrap();
    let members = value.as_object().unwrap();
    let (key, first) = members.iter().next().unwrap();
    let mut out = vec![
        format!(" {json}"),
        format!("{json}\n"),
        json.replacen(':', ": ", 1),
        json.replacen(',', " ,", 1),
        // A field twice, with the same value: before the others and after them.
        json.replacen('{', &format!("{{\"{key}\":{first},"), 1),
        format!("{},\"{key}\":{first}}}", &json[..json.len() - 1]),
        // Fields that nobody knows, at both ends of the order.
        json.replacen('{', "{\"A\":0,", 1),
        format!("{},\"~\":0}}", &json[..json.len() - 1]),
        json.replacen(
            &format!("\"{key}\""),
            &format!("\"\\u{:04x}{}\"", key.as_bytes()[0], &key[1..]),
            1,
        ),
    ];
    for (key, value) in members {
        let field = format!("\"{key}\":{value}");
        let without = json.replacen(&format!("{field},"), "", 1);
        out.push(if without == json {
            json.replacen(&format!(",{field}"), "", 1)
        } else {
            without
        });
        if let Some(number) = value.as_u64() {
            for spelling in [
                format!("{number}.0"),
                format!("{number}e0"),
                format!("\"{number}\""),
                format!("-{number}"),
                format!("0{number}"),
                "4294967296".to_owned(),
                "null".to_owned(),
            ] {
                out.push(json.replacen(&field, &format!("\"{key}\":{spelling}"), 1));
            }
        }
        // The one kind of field that may be null.
        if value.is_string() && !key.ends_with("_receipt_id") {
            for spelling in ["null", "0", "[]", "{}"] {
                out.push(json.replacen(&field, &format!("\"{key}\":{spelling}"), 1));
            }
        }
    }
    out.retain(|other| other != json);
    out
}

fn strict<T: Serialize + for<'de> Deserialize<'de>>(json: &[u8]) {
    assert!(from_canonical::<T>(json).is_ok());
    let text = std::str::from_utf8(json).unwrap();
    let spellings = other_spellings(text);
    assert!(spellings.len() > 8);
    for other in spellings {
        assert!(from_canonical::<T>(other.as_bytes()).is_err(), "{other}");
    }
}

/// Every payload and record of the golden session.
#[test]
fn documents_have_one_spelling() {
    let builder = golden::golden();
    let mut kinds = std::collections::HashSet::new();
    for (_, _, stored) in builder.evidence.in_causal_order() {
        let Some(payload) = &stored.payload else {
            continue;
        };
        let receipt = halo_receipts::receipt::Receipt::parse(&stored.bytes).unwrap();
        match Event::read(&receipt.body, Some(payload)).unwrap() {
            Event::Routing(routing) => {
                // `request_id`, `break_found` and the content may be left out, so leaving them out is no other spelling.
                assert!(routing.private().is_some() != routing.break_found.is_some());
                let required = Routing::new(routing.decision, &routing.reason, &routing.classifier);
                strict::<Routing>(&to_canonical(&required).unwrap());
                kinds.insert("routing");
            }
            Event::ExpertLoad(load) => {
                let required = ExpertLoad {
                    loaded: None,
                    model: None,
                    ..load
                };
                strict::<ExpertLoad>(&to_canonical(&required).unwrap());
                kinds.insert("load");
            }
            Event::TokenEmit(_) => {
                strict::<TokenEmit>(payload);
                kinds.insert("token");
            }
            Event::SubstrateResponse(_) => {
                strict::<SubstrateResponse>(payload);
                kinds.insert("substrate");
            }
            Event::OrchestratorResponse(_) => {
                strict::<OrchestratorResponse>(payload);
                kinds.insert("orchestrator");
            }
            Event::Capture => unreachable!(),
        }
    }
    assert_eq!(kinds.len(), 5);
    strict::<Header>(&builder.evidence.header.unwrap().body);
    strict::<Claim>(&builder.evidence.claims[0].body);
}

#[test]
fn a_payload_has_one_private_content_or_the_other() {
    let content = TokenContent {
        token_id: 7,
        text: "twelve".to_owned(),
    };
    let key = TierKey::from_bytes([1; 32]).payload_key();
    let private = |policy| Private::new(&content, policy, &key, &id(1)).unwrap();
    let token = |policy| to_canonical(&TokenEmit::new(3, private(policy))).unwrap();
    let (sealed, committed) = (token(ContentPolicy::Sealed), token(ContentPolicy::Omit));
    let read = |json: &[u8]| from_canonical::<TokenEmit>(json);
    assert!(matches!(
        read(&sealed).unwrap().private(),
        Some(Private::Sealed(_))
    ));
    assert!(matches!(
        read(&committed).unwrap().private(),
        Some(Private::Commitment(_))
    ));
    let mut both: Value = serde_json::from_slice(&sealed).unwrap();
    let other: Value = serde_json::from_slice(&committed).unwrap();
    both["commitment"] = other["commitment"].clone();
    assert!(read(&to_canonical(&both).unwrap()).is_err());
    both.as_object_mut().unwrap().remove("commitment");
    assert_eq!(to_canonical(&both).unwrap(), sealed);
    both.as_object_mut().unwrap().remove("sealed");
    assert!(read(&to_canonical(&both).unwrap()).is_err());
    // A decision that records a break has none.
    let none = to_canonical(&Routing::new(
        Decision::VerificationFailed,
        "hmac",
        "rules/1",
    ))
    .unwrap();
    assert_eq!(from_canonical::<Routing>(&none).unwrap().private(), None);
}

#[test]
fn a_receipt_and_its_payload_belong_together() {
    let mut builder = Builder::open(1);
    let capture = builder.capture(b"a question");
    let (routing, _) = builder.route(Decision::Escalate, "how many?");
    let stored = |number| {
        builder
            .evidence
            .receipts(halo_receipts::evidence::Stream::Device)
            .nth(number)
            .unwrap()
            .1
            .clone()
    };
    assert_eq!(Event::read(&capture.body, None).unwrap(), Event::Capture);
    assert!(Event::read(&capture.body, Some(b"a question")).is_err());
    let payload = stored(1).payload.unwrap();
    assert!(Event::read(&routing.body, Some(&payload)).is_ok());
    assert!(Event::read(&routing.body, None).is_err());
    for at in 0..payload.len() {
        let mut changed = payload.clone();
        changed[at] ^= 1;
        assert!(
            Event::read(&routing.body, Some(&changed)).is_err(),
            "byte {at}"
        );
    }
}

proptest! {
    #[test]
    fn private_content_opens_for_its_key_and_receipt_alone(
        prompt in "\\PC{0,60}",
        key in any::<[u8; 32]>(),
        receipt in any::<[u8; 16]>(),
        at in any::<prop::sample::Index>(),
        mask in 1u8..,
    ) {
        let content = RoutingContent::new(&prompt);
        let key = TierKey::from_bytes(key).payload_key();
        let receipt = ReceiptId::from_random(receipt);
        let sealed = Private::new(&content, ContentPolicy::Sealed, &key, &receipt).unwrap();
        prop_assert_eq!(&sealed.open::<RoutingContent>(&key, &receipt).unwrap(), &content);
        prop_assert!(sealed.open::<AnswerContent>(&key, &receipt).is_err());
        let other = TierKey::from_bytes([9; 32]).payload_key();
        prop_assert!(sealed.open::<RoutingContent>(&other, &receipt).is_err());
        let mut neighbour = *receipt.as_bytes();
        neighbour[15] ^= 1;
        let neighbour = ReceiptId::from_bytes(neighbour).unwrap();
        prop_assert!(sealed.open::<RoutingContent>(&key, &neighbour).is_err());
        let Private::Sealed(text) = sealed else { unreachable!() };
        prop_assert!(!text.contains('='));
        let mut bytes = text.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = (bytes[at] ^ mask) & 0x7f;
        let changed = String::from_utf8(bytes).unwrap();
        if changed != text {
            prop_assert!(Private::Sealed(changed).open::<RoutingContent>(&key, &receipt).is_err());
        }
        for padded in [format!("{text}="), format!("{text}A"), format!(" {text}")] {
            prop_assert!(Private::Sealed(padded).open::<RoutingContent>(&key, &receipt).is_err());
        }
        let committed = Private::new(&content, ContentPolicy::Omit, &key, &receipt).unwrap();
        prop_assert!(matches!(committed.open::<RoutingContent>(&key, &receipt), Err(PayloadError::Omitted)));
        let again = Private::new(&content, ContentPolicy::Omit, &key, &neighbour).unwrap();
        prop_assert_eq!(&committed, &again);
        let other = Private::new(&RoutingContent::new(&format!("{prompt}.")), ContentPolicy::Omit, &key, &receipt).unwrap();
        prop_assert_ne!(&committed, &other);
    }

    #[test]
    fn expert_sets_read_back(
        layers in 1usize..6,
        experts in 1usize..70,
        picks in proptest::collection::vec((0usize..6, 0usize..70), 0..40),
    ) {
        let mut set = ExpertSet::new(layers, experts);
        let mut expected = std::collections::BTreeSet::new();
        for (layer, expert) in picks {
            let there = layer < layers && expert < experts;
            prop_assert_eq!(set.insert(layer, expert), there && expected.insert((layer, expert)));
        }
        prop_assert_eq!((set.count(), set.is_empty()), (expected.len(), expected.is_empty()));
        let json = to_canonical(&set).unwrap();
        let read: ExpertSet = from_canonical(&json).unwrap();
        let members: std::collections::BTreeSet<_> = (0..read.layers()).flat_map(|l| read.layer(l).map(move |e| (l, e)).collect::<Vec<_>>()).collect();
        prop_assert_eq!(members, expected);
    }

    #[test]
    fn any_bytes_are_no_payload(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        prop_assert!(from_canonical::<Routing>(&bytes).is_err());
        prop_assert!(from_canonical::<SubstrateResponse>(&bytes).is_err());
        let record = SignedRecord { body: bytes, mac: [0; 32] };
        prop_assert!(record.parse::<Header>().is_err());
    }

    #[test]
    fn records_are_signed_for_one_kind_and_key(
        seconds in any::<u32>(),
        link in any::<u32>(),
        by in "\\PC{0,20}",
        at in any::<prop::sample::Index>(),
        mask in 1u8..,
    ) {
        let key = TierKey::from_bytes([3; 32]);
        let claim = Claim {
            v: V1,
            kind: ClaimKind::SubstrateLink,
            session_id: SessionId::from_random([1; 16]),
            session_epoch: Epoch(seconds),
            link,
            claimed_by: by,
            claimed_at: Timestamp::from_micros(u64::from(seconds)).unwrap(),
        };
        let signed = claim.sign(&key).unwrap();
        prop_assert!(signed.verify::<Claim>(&key));
        prop_assert!(!signed.verify::<Header>(&key));
        prop_assert!(!signed.verify::<Claim>(&TierKey::from_bytes([4; 32])));
        prop_assert_eq!(signed.parse::<Claim>().unwrap(), claim);
        prop_assert!(signed.parse::<Header>().is_err());
        let mut changed = signed.clone();
        let at = at.index(changed.body.len());
        changed.body[at] ^= mask;
        prop_assert!(!changed.verify::<Claim>(&key));
    }
}

#[test]
fn seals_say_what_they_were_given() {
    let key = TierKey::from_bytes([1; 32]).payload_key();
    let content = AnswerContent {
        output_sha256: Hash::of(b"Ten."),
        output: Some("Ten.".to_owned()),
    };
    let private = Private::new(&content, ContentPolicy::Sealed, &key, &id(2)).unwrap();
    let seal = OrchestratorResponse::new(
        AnswerStatus::Ok,
        Answerer::Local,
        3,
        5,
        Hash([7; 32]),
        private.clone(),
    );
    assert_eq!(
        (seal.receipts, seal.device_receipts, seal.substrate_receipts),
        (8, 3, 5)
    );
    assert_eq!(seal.private(), Some(private));
}
