//! opening.json: the requests that open sessions, epochs and sockets, with their signatures.

use halo_receipts::hex;
use halo_receipts::ids::{DeviceId, Hash, Tier};
use halo_receipts::keys::{DeviceKey, RootSecret};
use halo_receipts::opening::{
    Nonce, OpenRequest, SESSIONS_PATH, epochs_path, signature, signature_is_valid, stream_path,
    substrate_path,
};
use serde_json::{Value, json};

use super::{Made, ROOT, Session, ensure, random};

pub fn make() -> Made {
    let session = Session::new()?;
    let device_id: DeviceId = "phone-7".parse()?;
    let device = RootSecret::new(ROOT.to_vec())?
        .enroll_key(&session.tenant, 1)
        .device_key(&device_id, 1);
    let body = |nonce: &str, micros| -> Made<String> {
        Ok(serde_json::to_string(&OpenRequest {
            tenant_id: session.tenant.clone(),
            device_id: device_id.clone(),
            device_generation: 1,
            timestamp: session.time(micros)?,
            nonce: Nonce(random(nonce)),
        })?)
    };
    let epochs = epochs_path(&session.id);
    let stream = stream_path(&session.id, session.epoch);
    let substrate = substrate_path(&session.tenant, &session.id, session.epoch, 0);
    let tier = |tier| session.tier_key(tier);
    let requests = vec![
        request(
            "open a session",
            "DEVICE_KEY",
            &device,
            "POST",
            SESSIONS_PATH,
            &body("a", 0)?,
        ),
        request(
            "open an epoch",
            "DEVICE_KEY",
            &device,
            "POST",
            &epochs,
            &body("b", 77)?,
        ),
        request(
            "the device's WebSocket",
            "TIER_KEY[1]",
            &tier(Tier::Orchestrator),
            "GET",
            &stream,
            "",
        ),
        request(
            "a gateway's WebSocket to a pod",
            "TIER_KEY[2]",
            &tier(Tier::Substrate),
            "GET",
            &substrate,
            "",
        ),
    ];
    Ok(json!({
        "about": "The Halo-Signature header. spec.md, section 4.",
        "device_key": *device.to_hex(),
        "requests": requests,
        "refused": refused(&device, &body("a", 0)?)?,
        "bodies_refused": bodies_refused(&body("a", 0)?)?,
    }))
}

fn request(note: &str, name: &str, key: &DeviceKey, method: &str, path: &str, body: &str) -> Value {
    json!({
        "note": note,
        "key_name": name,
        "key": *key.to_hex(),
        "method": method,
        "path": path,
        "body": body,
        "body_sha256": Hash::of(body.as_bytes()).to_string(),
        "signed": format!("{method}\n{path}\n{}", Hash::of(body.as_bytes())),
        "halo_signature": signature(key, method, path, body.as_bytes()),
    })
}

/// Headers that do not belong to the request beside them.
fn refused(key: &DeviceKey, body: &str) -> Made {
    let good = signature(key, "POST", SESSIONS_PATH, body.as_bytes());
    let with_query = format!("{SESSIONS_PATH}?a=1");
    let changed_body = body.replace("phone-7", "phone-8");
    let wrong_key = DeviceKey::from_bytes([7; 32]);
    let cases = [
        ("another method", "PUT", SESSIONS_PATH, body, good.clone()),
        ("another path", "POST", &with_query, body, good.clone()),
        (
            "another body",
            "POST",
            SESSIONS_PATH,
            &changed_body,
            good.clone(),
        ),
        (
            "another key",
            "POST",
            SESSIONS_PATH,
            body,
            signature(&wrong_key, "POST", SESSIONS_PATH, body.as_bytes()),
        ),
        (
            "upper-case digits",
            "POST",
            SESSIONS_PATH,
            body,
            good.to_uppercase(),
        ),
        (
            "another version",
            "POST",
            SESSIONS_PATH,
            body,
            good.replacen("v1", "v2", 1),
        ),
        (
            "one digit short",
            "POST",
            SESSIONS_PATH,
            body,
            good[..good.len() - 1].to_owned(),
        ),
        (
            "a space before",
            "POST",
            SESSIONS_PATH,
            body,
            format!(" {good}"),
        ),
        ("no digits", "POST", SESSIONS_PATH, body, "v1=".to_owned()),
    ];
    let mut out = Vec::new();
    for (note, method, path, body, header) in cases {
        ensure(
            !signature_is_valid(key, method, path, body.as_bytes(), header.as_bytes()),
            || format!("a signature with {note} was taken"),
        )?;
        out.push(json!({
            "note": note,
            "key": *key.to_hex(),
            "method": method,
            "path": path,
            "body": body,
            "halo_signature": header,
        }));
    }
    Ok(out.into())
}

/// Bodies that are refused before their signature is looked at.
fn bodies_refused(good: &str) -> Made {
    ensure(serde_json::from_str::<OpenRequest>(good).is_ok(), || {
        "the good body was refused".into()
    })?;
    let mut out = Vec::new();
    for (note, from, to) in [
        ("an unknown field", "{", "{\"extra\":1,"),
        ("a repeated field", "{", "{\"device_generation\":1,"),
        ("a missing field", "\"device_generation\":1,", ""),
        (
            "a float",
            "\"device_generation\":1",
            "\"device_generation\":1.0",
        ),
        (
            "a number in quotes",
            "\"device_generation\":1",
            "\"device_generation\":\"1\"",
        ),
        (
            "a negative number",
            "\"device_generation\":1",
            "\"device_generation\":-1",
        ),
        ("a tenant that is none", "acme-west", "Acme"),
        ("a time without its fraction", ".000000Z", "Z"),
        ("a time in another zone", ".000000Z", ".000000+00:00"),
        ("a short nonce", &hex::encode(&random("a"))[..2], ""),
    ] {
        let text = good.replacen(from, to, 1);
        ensure(
            text != good && serde_json::from_str::<OpenRequest>(&text).is_err(),
            || format!("a body with {note} was taken"),
        )?;
        out.push(json!({"note": note, "body": text}));
    }
    Ok(out.into())
}
