//! What a keyring holds, gives and refuses.

use super::*;
use crate::keys::RootKeys;

/// The root of section 3's example.
const EXAMPLE: &[u8] = b"halo test vectors: everybody knows this root.\n";

fn root(bytes: &[u8]) -> RootSecret {
    RootSecret::new(bytes.to_vec()).unwrap()
}

fn months(texts: &[&str]) -> Vec<KeyMonth> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn ring(with_enroll: bool) -> KeyRing {
    let (first, second) = (root(&[7; 32]), root(EXAMPLE));
    KeyRing::derive(
        &"acme-west".parse().unwrap(),
        &[(2, &second), (1, &first)],
        &months(&["2025-12", "2026-01"]),
        with_enroll,
    )
    .unwrap()
}

#[test]
fn the_document_carries_the_keys_of_the_example() {
    let text = String::from_utf8(ring(false).encode().to_vec()).unwrap();
    assert!(text.starts_with("{\"current\":2,\"roots\":[{\"check_value\":\""));
    let current = "{\"check_value\":\"e8179607e4a32b24\",\"generation\":2,\"tenant_keys\":{\"2025-12\":\
                   \"1d107f608f3f5892fa837c5ded07b7e6fbd59610185c157173e19d06d4727fc8\",\"2026-01\":\"";
    assert!(text.contains(current), "{text}");
    assert!(text.ends_with("\"}}],\"tenant_id\":\"acme-west\",\"v\":1}"));
    assert!(!text.contains("enroll_key"));
}

#[test]
fn a_ring_gives_what_its_root_gives_and_nothing_else() {
    let ring = KeyRing::decode(&ring(true).encode()).unwrap();
    let whole = RootKeys::new(root(EXAMPLE), 2, false);
    assert_eq!(ring.root(), whole.root());
    let tenant: TenantId = "acme-west".parse().unwrap();
    let session = SessionId::from_random([5; 16]);
    let key = |keys: &dyn TenantKeys, tenant: &TenantId, epoch| {
        let key = keys.session_key(tenant, &session, Epoch(epoch));
        key.map(|key| *key.expose())
    };
    let december = 1_767_225_599;
    for epoch in [december, december + 1] {
        assert!(key(&ring, &tenant, epoch).is_some());
        assert_eq!(key(&ring, &tenant, epoch), key(&whole, &tenant, epoch));
    }
    assert_eq!(key(&ring, &tenant, december + 32 * 86_400), None);
    assert_eq!(key(&ring, &"acme".parse().unwrap(), december), None);
    let device = "glasses-1".parse().unwrap();
    let device_key = |keys: &dyn TenantKeys, tenant: &TenantId| {
        let key = keys.device_key(tenant, &device, 3);
        key.map(|key| *key.expose())
    };
    assert!(device_key(&ring, &tenant).is_some());
    assert_eq!(device_key(&ring, &tenant), device_key(&whole, &tenant));
    assert_eq!(device_key(&ring, &"acme".parse().unwrap()), None);
}

#[test]
fn a_pods_ring_has_no_device_keys() {
    let ring = KeyRing::decode(&ring(false).encode()).unwrap();
    let (tenant, device) = ("acme-west".parse().unwrap(), "d".parse().unwrap());
    assert!(ring.device_key(&tenant, &device, 1).is_none());
}

#[test]
fn the_generation_before_is_there_when_it_is_asked_for() {
    let ring = ring(true);
    let before = RootKeys::new(root(&[7; 32]), 1, false);
    let (tenant, session) = (
        "acme-west".parse().unwrap(),
        SessionId::from_random([5; 16]),
    );
    let epoch = Epoch(1_767_225_599);
    assert_eq!(
        ring.session_key_under(1, &tenant, &session, epoch)
            .unwrap()
            .expose(),
        before
            .session_key(&tenant, &session, epoch)
            .unwrap()
            .expose()
    );
    let device = "d".parse().unwrap();
    assert_eq!(
        ring.device_key_under(1, &tenant, &device, 1)
            .unwrap()
            .expose(),
        before.device_key(&tenant, &device, 1).unwrap().expose()
    );
    assert!(
        ring.session_key_under(3, &tenant, &session, epoch)
            .is_none()
    );
    let generations: Vec<u32> = ring.generations().map(|(number, _)| number).collect();
    assert_eq!(generations, [1, 2]);
    assert_eq!(
        ring.months().collect::<Vec<_>>(),
        months(&["2025-12", "2026-01"])
    );
}

#[test]
fn generations_are_from_1_each_once_and_not_too_many() {
    let tenant = "acme".parse().unwrap();
    let secret = root(&[1; 32]);
    let derive = |generations: &[u32]| {
        let roots: Vec<_> = generations.iter().map(|n| (*n, &secret)).collect();
        KeyRing::derive(&tenant, &roots, &[], false).err()
    };
    for bad in [
        &[][..],
        &[0],
        &[0, 1],
        &[1, 1],
        &[1, 2, 3, 4, 5, 6, 7, 8, 9],
    ] {
        assert_eq!(derive(bad), Some(KeyRingError::Generations), "{bad:?}");
    }
    assert_eq!(derive(&[1, 2, 3, 4, 5, 6, 7, 8]), None);
}

#[test]
fn other_documents_are_refused_without_a_byte_of_them() {
    let text = String::from_utf8(ring(true).encode().to_vec()).unwrap();
    let key = "1d107f608f3f5892fa837c5ded07b7e6fbd59610185c157173e19d06d4727fc8";
    let upper = key.to_uppercase();
    let escaped = key.replacen('1', "\\u0031", 1);
    let (head, tail) = text.split_once("},{").unwrap();
    let first_root = head.split_once('[').unwrap().1;
    let swapped = format!(
        "{{\"current\":2,\"roots\":[{{{}}},{first_root}}}],{}",
        tail.split_once("}}],").unwrap().0.to_owned() + "}",
        tail.split_once("}}],").unwrap().1
    );
    let cases = [
        ("", "Malformed"),
        ("[]", "Malformed"),
        (&text[..text.len() - 1], "Malformed"),
        (&text.replacen('{', "{\"x\":1,", 1), "Malformed"),
        (&text.replacen(",\"v\":1", "", 1), "Malformed"),
        (&text.replacen("\"v\":1", "\"v\":1,\"v\":1", 1), "Malformed"),
        (&text.replacen("\"v\":1", "\"v\":2", 1), "Version"),
        (
            &text.replacen("\"current\":2", "\"current\":3", 1),
            "Generations",
        ),
        (
            &text.replacen("\"current\":2", "\"current\":-2", 1),
            "Malformed",
        ),
        (
            &text.replacen("\"generation\":2", "\"generation\":1", 1),
            "Generations",
        ),
        (
            &text.replacen("\"generation\":1", "\"generation\":2", 1),
            "NotCanonical",
        ),
        (&text.replacen("acme-west", "Acme", 1), "Field"),
        (&text.replacen("2025-12", "2025-13", 1), "Field"),
        (&text.replacen("2026-01", "2025-12", 1), "NotCanonical"),
        (&text.replacen(key, &upper, 1), "Field"),
        (&text.replacen(key, &key[1..], 1), "Field"),
        (&text.replacen(key, &escaped, 1), "Malformed"),
        (
            &text.replacen("e8179607e4a32b24", "e8179607e4a32b2", 1),
            "Field",
        ),
        (
            &text.replacen("\"enroll_key\":\"", "\"enroll_key\":\"0", 1),
            "Field",
        ),
        (&text.replacen(',', ", ", 1), "NotCanonical"),
        (&format!("{text}\n"), "NotCanonical"),
        (&swapped, "NotCanonical"),
    ];
    for (bad, kind) in cases {
        assert_ne!(bad, text, "{kind}: the case changes nothing");
        let error = KeyRing::decode(bad.as_bytes()).err().unwrap();
        assert!(
            format!("{error:?}").starts_with(kind),
            "{error:?} for {bad}"
        );
        for words in [error.to_string(), format!("{error:?}")] {
            assert!(
                !words.contains(&key[..8]) && !words.contains("2025"),
                "{words}"
            );
        }
    }
    let long = vec![b' '; MAX_BYTES + 1];
    assert_eq!(
        KeyRing::decode(&long).err(),
        Some(KeyRingError::Long(MAX_BYTES + 1))
    );
}

#[test]
fn what_was_read_is_wiped() {
    let mut bytes = ring(true).encode().to_vec();
    assert!(KeyRing::decode_and_wipe(&mut bytes).is_ok());
    assert!(bytes.is_empty());
}

#[test]
fn as_a_store_a_ring_gives_every_generation_the_current_one_first() {
    let (store, tenant) = (Arc::new(ring(true)), "acme-west".parse().unwrap());
    let other: TenantId = "acme-east".parse().unwrap();
    let (session, device) = (SessionId::from_random([5; 16]), "phone".parse().unwrap());
    let generations: Vec<u32> = store
        .held(&tenant)
        .iter()
        .map(|keys| keys.root().generation)
        .collect();
    assert_eq!(generations, [2, 1]);
    assert_eq!(store.current(&tenant).unwrap().root(), store.root());
    assert!(store.current(&other).is_none() && store.held(&other).is_empty());
    let epoch = Epoch(1_767_225_600);
    for (generation, check_value) in store.generations() {
        let keys = store.under(&tenant, generation, &check_value).unwrap();
        let given = keys.session_key(&tenant, &session, epoch).unwrap();
        let wanted = store.session_key_under(generation, &tenant, &session, epoch);
        assert_eq!(given.expose(), wanted.unwrap().expose());
        let given = keys.device_key(&tenant, &device, 3).unwrap();
        let wanted = store.device_key_under(generation, &tenant, &device, 3);
        assert_eq!(given.expose(), wanted.unwrap().expose());
        assert!(keys.session_key(&other, &session, epoch).is_none());
    }
    // The same number with another root's check value is another root.
    let (_, of_two) = store.generations().last().unwrap();
    assert!(store.under(&tenant, 1, &of_two).is_none());
}
