//! SESSION_RESET, for frames.json.

use halo_receipts::hex;
use halo_receipts::ids::{Epoch, Hash, ReceiptId, Tier};
use halo_receipts::keys::PairingKey;
use halo_receipts::messages::MessageError;
use halo_receipts::receipt::Parent;
use halo_receipts::reset::{SensorContext, SessionReset};
use serde_json::json;

use super::{Made, Session, ensure, random};

/// One SESSION_RESET without and one with a sensor's context, and some that a sensor refuses.
pub fn make(session: &Session) -> Made {
    let pairing = PairingKey::from_bytes([0x5a; 32]);
    let stranger = PairingKey::from_bytes([0x5b; 32]);
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&random("nonce")[..12]);
    let reset = SessionReset {
        session_id: session.id,
        session_epoch: session.epoch,
        tier_key: session.tier_key(Tier::Sensor),
    };
    let good = reset.frame(&pairing, nonce)?;
    let parent = Parent {
        id: ReceiptId::from_random(random("parent")),
        hash: Hash::of(b"parent"),
    };
    let mut with_context = Vec::new();
    for parent in [None, Some(parent)] {
        let context = SensorContext {
            tenant_id: session.tenant.clone(),
            parent,
        };
        let frame = reset.frame_with(&pairing, nonce, &context)?;
        let (_, read) = SessionReset::open_with(&frame, &pairing, None)?;
        ensure(read.as_ref() == Some(&context), || {
            "the context got lost".into()
        })?;
        with_context.push(json!({
            "frame": hex::encode(&frame),
            "tenant_id": session.tenant.as_str(),
            "parent_receipt_id": parent.map(|parent| parent.id),
            "parent_receipt_hash": parent.map(|parent| parent.hash),
        }));
    }
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let before = Some(session.epoch.0 - 1);
    let cases = [
        (
            "another pairing key",
            reset.frame(&stranger, nonce)?,
            before,
            "not_authentic",
        ),
        ("a bit of the tag", changed(2), before, "not_authentic"),
        ("sequence number 1", changed(9), before, "not_authentic"),
        ("a bit of the epoch", changed(29), before, "not_authentic"),
        (
            "a bit of the sealed key",
            changed(60),
            before,
            "not_authentic",
        ),
        ("a bit of the HMAC", changed(121), before, "not_authentic"),
        ("one byte short", good[..121].to_vec(), before, "length"),
        (
            "the epoch of the last reset again",
            good.clone(),
            Some(session.epoch.0),
            "replay",
        ),
        (
            "an epoch before the last reset",
            good.clone(),
            Some(session.epoch.0 + 9),
            "replay",
        ),
    ];
    let mut refused = Vec::new();
    for (note, bytes, last, error) in cases {
        let outcome = SessionReset::open_with(&bytes, &pairing, last.map(Epoch)).err();
        let expected = match error {
            "replay" => Some(MessageError::Replay),
            "length" => Some(MessageError::Length),
            _ => Some(MessageError::NotAuthentic),
        };
        ensure(outcome == expected, || {
            format!("a reset with {note} gives {outcome:?}")
        })?;
        refused.push(json!({
            "note": note, "frame": hex::encode(&bytes), "last_epoch": last, "error": error,
        }));
    }
    Ok(json!({
        "pairing_key": *pairing.to_hex(),
        "last_epoch": before,
        "session_id": session.id.to_string(),
        "session_epoch": session.epoch.0,
        "nonce": hex::encode(&nonce),
        "tier_key_0": *reset.tier_key.to_hex(),
        "reset_key": *pairing.reset_key(&session.id, session.epoch).to_hex(),
        "frame": hex::encode(&good),
        "with_context": with_context,
        "refused": refused,
    }))
}
