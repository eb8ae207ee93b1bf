//! session.json: the golden session as a bundle, with its verdict and its private content.

use std::collections::BTreeSet;

use halo_receipts::bundle::Bundle;
use halo_receipts::chain::Event;
use halo_receipts::evidence::{Evidence, Stream};
use halo_receipts::hex;
use halo_receipts::ids::SessionId;
use halo_receipts::payload::{Private, to_canonical};
use halo_receipts::receipt::Receipt;
use halo_receipts::verdict::{Code, Options, SessionKeys, Verdict, VerifyKeys, verify};
use serde_json::{Value, json};

use super::golden::{self, Builder, FIRST_EPOCH, SECOND_EPOCH};
use super::{Made, ensure};

pub fn make() -> Made {
    let builder = golden::golden();
    let verdict = judged(builder.session_id, &builder.evidence, &builder.keys);
    ensure(verdict["exit_code"] == 0, || {
        format!("the golden session gives {verdict}")
    })?;
    Ok(json!({
        "about": "One session of two epochs, as a ledger holds it: a halo-bundle/1 (spec.md, section 14), what a verifier with its root says of it, and what its private content says.",
        "root_secret": hex::encode(&golden::root_bytes()),
        "session_id": builder.session_id.to_string(),
        "tenant_id": builder.tenant_id.as_str(),
        "bundle": bundle(&builder)?,
        "verdict": verdict,
        "conversation": conversation(&builder)?,
    }))
}

/// The bundle of a session, with its keys.
pub fn bundle(builder: &Builder) -> Made {
    let mut keys = SessionKeys::new();
    for epoch in [FIRST_EPOCH, SECOND_EPOCH] {
        keys.insert(epoch, builder.session_key(epoch));
    }
    let bundle = Bundle {
        session_id: builder.session_id,
        evidence: builder.evidence.clone(),
        keys,
    };
    Ok(serde_json::from_slice(&bundle.to_json()?)?)
}

/// What a verifier says, as far as another one must say the same.
pub fn judged(session: SessionId, evidence: &Evidence, keys: &dyn VerifyKeys) -> Value {
    summary(&verify(session, evidence, keys, &Options::default()))
}

fn summary(verdict: &Verdict) -> Value {
    let codes: BTreeSet<String> = verdict
        .findings
        .iter()
        .map(|finding| match finding.code {
            Code::Attribute => finding.code_text(),
            code => code.to_string(),
        })
        .collect();
    json!({
        "integrity": verdict.integrity,
        "completeness": verdict.completeness,
        "anchoring": verdict.anchoring,
        "keys": verdict.keys,
        "exit_code": verdict.exit_code,
        "codes": codes,
    })
}

/// The plaintext of every sealed payload, in the order of the streams.
fn conversation(builder: &Builder) -> Made<Vec<Value>> {
    let mut out = Vec::new();
    for stream in Stream::ALL {
        for (number, stored) in builder.evidence.receipts(stream) {
            let receipt = Receipt::parse(&stored.bytes)?;
            let private = match Event::read(&receipt.body, stored.payload.as_deref())? {
                Event::Routing(payload) => payload.private(),
                Event::TokenEmit(payload) => payload.private(),
                Event::SubstrateResponse(payload) => payload.private(),
                Event::OrchestratorResponse(payload) => payload.private(),
                Event::Capture | Event::ExpertLoad(_) => None,
            };
            let Some(private) = private else { continue };
            out.push(json!({
                "stream": stream,
                "number": number,
                "content": plaintext(builder, &receipt, &private)?,
            }));
        }
    }
    Ok(out)
}

fn plaintext(builder: &Builder, receipt: &Receipt, private: &Private) -> Made<String> {
    let body = &receipt.body;
    let key = builder.session_key(body.session_epoch).tier_key(body.tier);
    let content: Value = private.open(&key.payload_key(), &body.receipt_id)?;
    Ok(String::from_utf8(to_canonical(&content)?)?)
}
