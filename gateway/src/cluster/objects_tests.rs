use super::*;
use halo_receipts::keyring::FILE_NAME;
use halo_receipts::keys::RootSecret;
use serde_json::{Value, json};

fn read(kind: Kind, object: &Value) -> Parsed {
    parse(kind, &object.to_string(), ContentPolicy::Omit)
}

fn tenant_of(object: &Value) -> TenantObject {
    match read(Kind::Tenant, object).object {
        Ok(Object::Tenant(tenant)) => tenant,
        Ok(_) => panic!("another kind"),
        Err(error) => panic!("{error}"),
    }
}

fn error(kind: Kind, object: &Value) -> String {
    match read(kind, object).object {
        Ok(_) => panic!("it was read: {object}"),
        Err(error) => error.to_string(),
    }
}

fn meta(name: &str) -> Value {
    json!({
        "name": name, "namespace": "n", "resourceVersion": "7", "creationTimestamp": "2026-11-21T15:00:00Z",
        "labels": {"halo.howdify.io/substrate": "qwen", "other": "label"},
        "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}],
    })
}

fn secret(name: &str, tenant: &str) -> Value {
    let root = RootSecret::new(vec![7; 32]).unwrap();
    let months = ["2026-11".parse().unwrap()];
    let ring = KeyRing::derive(&tenant.parse().unwrap(), &[(1, &root)], &months, true).unwrap();
    let data = BASE64.encode(ring.encode().as_slice());
    json!({"metadata": meta(name), "data": {FILE_NAME: data, "other": "AAAA"}, "type": "Opaque"})
}

#[test]
fn a_tenant_says_what_is_allowed() {
    let full = tenant_of(&json!({
        "metadata": meta("acme"),
        "spec": {
            "tenantId": "acme-pharmacy", "namespace": "pharmacy", "keys": {"rootParameter": "/r", "new": 1},
            "devices": {"minimumGeneration": 3, "revoked": ["lost-phone", "not an id"]},
            "limits": {
                "devices": 5, "requestsPerMinute": 6, "concurrentEscalations": 7, "heldRequests": 0, "heldSeconds": 9, "later": true,
            },
        },
        "status": {"conditions": "anything"},
    }));
    assert_eq!(full.id.as_str(), "acme-pharmacy");
    assert_eq!(full.namespace, "pharmacy");
    assert!(!full.deleting);
    let tenant = &full.tenant;
    assert_eq!(tenant.content, ContentPolicy::Omit);
    assert_eq!(tenant.min_device_generation, 3);
    assert_eq!(tenant.revoked.len(), 1);
    assert!(tenant.revoked.contains(&"lost-phone".parse().unwrap()));
    assert_eq!(
        (
            tenant.devices,
            tenant.requests_per_minute,
            tenant.concurrent_escalations
        ),
        (5, 6, 7)
    );
    assert_eq!((tenant.held_requests, tenant.held_seconds), (0, Some(9)));
}

#[test]
fn what_a_tenant_does_not_say_is_as_its_schema_has_it() {
    let plain =
        tenant_of(&json!({"metadata": meta("acme"), "spec": {"keys": {"rootParameter": "/r"}}}));
    assert_eq!(
        (plain.id.as_str(), plain.namespace.as_str()),
        ("acme", "halo-acme")
    );
    let (tenant, limits) = (&plain.tenant, TenantLimits::default());
    assert_eq!(tenant.min_device_generation, 1);
    assert_eq!(tenant.requests_per_minute, limits.requests_per_minute);
    assert_eq!(
        tenant.held_requests,
        usize::try_from(limits.held_requests).unwrap()
    );
    assert_eq!(tenant.held_seconds, Some(limits.held_seconds));
    let deleted = json!({"metadata": {"name": "acme", "deletionTimestamp": "2026-11-21T15:00:00Z"}, "spec": {}});
    assert!(tenant_of(&deleted).deleting);
}

#[test]
fn a_secret_holds_the_keys_of_the_tenant_that_it_is_named_after() {
    let parsed = read(Kind::Secret, &secret("halo-keys-acme", "acme"));
    assert_eq!(parsed.key.to_string(), "n/halo-keys-acme");
    assert_eq!(parsed.version, "7");
    assert!(matches!(parsed.object, Ok(Object::Keys(ring)) if ring.tenant().as_str() == "acme"));
    let other = error(Kind::Secret, &secret("halo-keys-acme", "evil"));
    assert!(other.contains("another tenant, evil"), "{other}");
    assert!(error(Kind::Secret, &secret("acme", "acme")).contains("another tenant"));
}

#[test]
fn a_secret_that_is_refused_says_nothing_of_what_it_holds() {
    let good = secret("halo-keys-acme", "acme");
    let text = good["data"][FILE_NAME].as_str().unwrap();
    let cut = &text[..text.len() - 8];
    for (data, word) in [
        (json!({}), "data"),
        (json!({FILE_NAME: 5}), "form"),
        (json!({FILE_NAME: "%%"}), "data"),
        (json!({FILE_NAME: BASE64.encode("{}")}), "JSON"),
        (json!({FILE_NAME: cut}), ""),
    ] {
        let mut bad = good.clone();
        bad["data"] = data;
        let error = error(Kind::Secret, &bad);
        assert!(error.contains(word), "{error}");
        assert!(!error.contains(cut), "{error}");
    }
}

#[test]
fn a_substrate_says_where_it_is_and_who_asks() {
    let object = json!({
        "metadata": meta("qwen"),
        "spec": {"tenant": "acme", "scaling": {"idleAfter": "90s", "wakeDeadline": "10m", "max": 3}, "model": {}},
        "status": {
            "phase": "Waking", "why": "x",
            "demand": [
                {"gateway": "g-0", "inFlight": 2, "lastActive": "2026-11-21T15:00:00Z"},
                {"gateway": 5},
            ],
        },
    });
    let Ok(Object::Substrate(substrate, demand)) = read(Kind::Substrate, &object).object else {
        panic!("it was not read");
    };
    assert_eq!(
        (substrate.tenant.as_str(), substrate.phase),
        ("acme", Phase::Waking)
    );
    assert_eq!(substrate.idle_after, Duration::from_secs(90));
    assert_eq!(substrate.wake_deadline, Duration::from_secs(600));
    assert_eq!(demand.len(), 1);
    assert_eq!(demand[0].gateway, "g-0");

    let plain = json!({"metadata": meta("qwen"), "spec": {"tenant": "acme"}, "status": {"phase": "Hibernating"}});
    let Ok(Object::Substrate(substrate, _)) = read(Kind::Substrate, &plain).object else {
        panic!("it was not read");
    };
    assert_eq!(substrate.phase, Phase::Asleep);
    assert_eq!(substrate.idle_after, Scaling::default().idle_after.get());
}

#[test]
fn a_slice_is_of_the_substrate_in_its_label() {
    let object = json!({"metadata": meta("qwen-x7k2p"), "endpoints": [], "ports": []});
    let Ok(Object::Slice(slice)) = read(Kind::Slice, &object).object else {
        panic!("it was not read");
    };
    assert_eq!(slice.substrate, "qwen");
    assert_eq!(halo_crds::SUBSTRATE_LABEL, "halo.howdify.io/substrate");
}

#[test]
fn an_object_of_another_form_is_refused_and_still_has_its_name() {
    for (kind, object) in [
        (Kind::Tenant, json!({"metadata": meta("x"), "spec": "text"})),
        (Kind::Tenant, json!({"metadata": meta("x")})),
        (
            Kind::Tenant,
            json!({"metadata": meta("x"), "spec": {"limits": {"devices": "many"}}}),
        ),
        (
            Kind::Tenant,
            json!({"metadata": meta("Not.An.Id"), "spec": {}}),
        ),
        (
            Kind::Substrate,
            json!({"metadata": meta("x"), "spec": {"scaling": {"idleAfter": "soon"}}}),
        ),
        (Kind::Slice, json!({"metadata": meta("x"), "endpoints": 5})),
        (Kind::Secret, json!({"metadata": meta("x"), "data": [1]})),
    ] {
        let parsed = read(kind, &object);
        assert!(parsed.object.is_err(), "{object}");
        assert_eq!(parsed.version, "7", "{object}");
        assert!(!parsed.key.name.is_empty());
    }
    let nameless = parse(Kind::Tenant, "[]", ContentPolicy::Omit);
    assert!(nameless.key.name.is_empty() && nameless.object.is_err());
}
