//! keys.json: the hierarchy from a root down to the keys that sign, seal and pair.

use halo_receipts::hex;
use halo_receipts::ids::{DeviceId, Epoch, SessionId, TenantId, Tier};
use halo_receipts::keys::{PairingKey, RootSecret};
use halo_receipts::time::KeyMonth;
use serde_json::{Value, json};

use super::{Made, ROOT, ensure, random};

pub fn make() -> Made {
    let root = RootSecret::new(ROOT.to_vec())?;
    let mut sessions = Vec::new();
    for (tenant, epoch, note) in [
        (
            "acme-west",
            1_767_225_599,
            "the last second of December 2025",
        ),
        (
            "acme-west",
            1_767_225_600,
            "the first second of January 2026",
        ),
        ("acme-west", 1_835_395_200, "29 February 2028"),
        ("a", 0, "the smallest epoch; the shortest tenant"),
        ("acme", 1_767_225_600, "a tenant that begins like another"),
        (
            "a23456789-123456789-123456789-123456789-123456789-123456789-123",
            u32::MAX,
            "the largest epoch, in February 2106; the longest tenant",
        ),
    ] {
        sessions.push(session(&root, &tenant.parse()?, Epoch(epoch), note)?);
    }
    let mut devices = Vec::new();
    for (tenant, generation, device, device_generation) in [
        ("acme-west", 1, "phone-7", 1),
        ("acme-west", 1, "phone-7", 2),
        ("acme-west", 2, "phone-7", 1),
        ("acme-west", 1, "phone-", 71),
        ("pharmacy", 1, "Glasses.A_1", u32::MAX),
    ] {
        let device: DeviceId = device.parse()?;
        let enroll = root.enroll_key(&tenant.parse()?, generation);
        devices.push(json!({
            "tenant_id": tenant,
            "root_generation": generation,
            "enroll_key": *enroll.to_hex(),
            "device_id": device.as_str(),
            "device_generation": device_generation,
            "device_key": *enroll.device_key(&device, device_generation).to_hex(),
        }));
    }
    let pairing = PairingKey::from_bytes([0x5a; 32]);
    let paired = SessionId::from_random(random("session"));
    let resets: Vec<Value> = [1_767_225_599, 1_767_225_700]
        .map(|epoch| {
            json!({
                "pairing_key": *pairing.to_hex(),
                "session_id": paired.to_string(),
                "session_epoch": epoch,
                "reset_key": *pairing.reset_key(&paired, Epoch(epoch)).to_hex(),
            })
        })
        .into();
    Ok(json!({
        "about": "HKDF-SHA256 from one root secret down to every key. spec.md, section 3.",
        "root_secret": hex::encode(ROOT),
        "key_check_value": root.check_value().to_string(),
        "sessions": sessions,
        "devices": devices,
        "pairing": resets,
        "refused": refused()?,
    }))
}

fn session(root: &RootSecret, tenant: &TenantId, epoch: Epoch, note: &str) -> Made {
    let id = SessionId::from_random(random(&format!("{tenant} {epoch}")));
    let month = KeyMonth::of(epoch);
    let tenant_key = root.tenant_key(tenant, month);
    let session_key = tenant_key.session_key(&id, epoch);
    let tier_keys = Tier::ALL.map(|tier| session_key.tier_key(tier));
    Ok(json!({
        "note": note,
        "tenant_id": tenant.as_str(),
        "epoch_month": month.to_string(),
        "tenant_key": *tenant_key.to_hex(),
        "session_id": id.to_string(),
        "session_epoch": epoch.0,
        "session_key": *session_key.to_hex(),
        "tier_keys": tier_keys.each_ref().map(|key| key.to_hex().to_string()),
        "payload_keys": tier_keys.each_ref().map(|key| key.payload_key().to_hex().to_string()),
    }))
}

/// Inputs that no key is derived from.
fn refused() -> Made {
    ensure(RootSecret::new(ROOT[..31].to_vec()).is_err(), || {
        "a root of 31 bytes was taken".into()
    })?;
    let (long_tenant, long_device) = ("a".repeat(64), "a".repeat(65));
    let tenants = [
        &*long_tenant,
        "",
        "-a",
        "a-",
        "Acme",
        "a_b",
        "a.b",
        "a b",
        "\u{e4}cme",
    ];
    let devices = [&*long_device, "", "a b", "a/b", "phone:7", "\u{e4}"];
    let sessions = [
        "6BA7B810-9DAD-41D1-80B4-00C04FD430C8",
        "6ba7b8109dad41d180b400c04fd430c8",
        "{6ba7b810-9dad-41d1-80b4-00c04fd430c8}",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        "6ba7b810-9dad-41d1-c0b4-00c04fd430c8",
        "00000000-0000-0000-0000-000000000000",
    ];
    let taken = tenants.iter().any(|text| text.parse::<TenantId>().is_ok())
        || devices.iter().any(|text| text.parse::<DeviceId>().is_ok())
        || sessions
            .iter()
            .any(|text| text.parse::<SessionId>().is_ok());
    ensure(!taken, || "a name that should be refused was taken".into())?;
    Ok(json!({
        "root_secrets": [hex::encode(&ROOT[..31]), ""],
        "tenant_ids": tenants,
        "device_ids": devices,
        "session_ids": sessions,
    }))
}
