//! Wycheproof and the vectors of the RFCs, through the types that the crate itself uses.

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use halo_receipts::hex::decode_vec;
use halo_receipts::keys::SigningKey;
use halo_receipts::merkle::MerkleTree;
use halo_receipts::payload::to_canonical;
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use wycheproof::TestResult;

fn published() -> Value {
    serde_json::from_str(include_str!("../../vectors/rfc.json")).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    decode_vec(value.as_str().unwrap().as_bytes()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    let list = value.as_array().unwrap();
    assert!(!list.is_empty());
    list
}

#[test]
fn wycheproof_hkdf() {
    let set = wycheproof::hkdf::TestSet::load(wycheproof::hkdf::TestName::HkdfSha256).unwrap();
    let mut checked = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let mut okm = vec![0; test.size];
        let expanded =
            Hkdf::<Sha256>::new(Some(&test.salt[..]), &test.ikm[..]).expand(&test.info, &mut okm);
        let holds = expanded.is_ok() && okm == test.okm[..];
        assert_eq!(
            holds,
            test.result == TestResult::Valid,
            "case {}",
            test.tc_id
        );
        checked += 1;
    }
    assert!(checked >= 80, "{checked} cases");
}

#[test]
fn wycheproof_hmac() {
    let set = wycheproof::mac::TestSet::load(wycheproof::mac::TestName::HmacSha256).unwrap();
    let (mut checked, mut through_our_key) = (0, 0);
    for group in &set.test_groups {
        for test in &group.tests {
            let mac = || {
                let mut mac = Hmac::<Sha256>::new_from_slice(&test.key).unwrap();
                mac.update(&test.msg);
                mac
            };
            let valid = test.result == TestResult::Valid;
            let verified = mac().verify_truncated_left(&test.tag).is_ok();
            assert_eq!(verified, valid, "case {}", test.tc_id);
            checked += 1;
            let (Ok(key), Ok(tag)) = (
                <[u8; 32]>::try_from(&test.key[..]),
                <[u8; 32]>::try_from(&test.tag[..]),
            ) else {
                continue;
            };
            let key = SigningKey::from_bytes(key);
            assert_eq!(key.verify(&[&test.msg], &tag), valid, "case {}", test.tc_id);
            if valid {
                let (front, back) = test.msg.split_at(test.msg.len() / 2);
                assert_eq!(key.sign(&[front, back]), tag, "case {}", test.tc_id);
            }
            through_our_key += 1;
        }
    }
    assert!(checked >= 170, "{checked} cases");
    assert!(through_our_key >= 50, "{through_our_key} cases");
}

#[test]
fn rfc_5869() {
    for case in list(&published()["rfc5869"]) {
        let (prk, hkdf) =
            Hkdf::<Sha256>::extract(Some(&bytes(&case["salt"])), &bytes(&case["ikm"]));
        assert_eq!(prk[..], bytes(&case["prk"]), "{}", case["name"]);
        let mut okm = vec![0; case["length"].as_u64().unwrap() as usize];
        hkdf.expand(&bytes(&case["info"]), &mut okm).unwrap();
        assert_eq!(okm, bytes(&case["okm"]), "{}", case["name"]);
    }
}

#[test]
fn rfc_4231() {
    for case in list(&published()["rfc4231"]) {
        let mut mac = Hmac::<Sha256>::new_from_slice(&bytes(&case["key"])).unwrap();
        mac.update(&bytes(&case["data"]));
        assert_eq!(
            mac.finalize().into_bytes()[..],
            bytes(&case["tag"]),
            "{}",
            case["name"]
        );
    }
}

#[test]
fn rfc_8439() {
    for case in list(&published()["rfc8439"]) {
        let key: [u8; 32] = bytes(&case["key"]).try_into().unwrap();
        let nonce: [u8; 12] = bytes(&case["nonce"]).try_into().unwrap();
        let (msg, aad) = (&*bytes(&case["plaintext"]), &*bytes(&case["aad"]));
        let sealed = ChaCha20Poly1305::new(&Key::from(key))
            .encrypt(&Nonce::from(nonce), Payload { msg, aad })
            .unwrap();
        assert_eq!(sealed, bytes(&case["sealed"]), "{}", case["name"]);
    }
}

#[test]
fn rfc_8785_objects() {
    for case in list(&published()["rfc8785"]["objects"]) {
        let value: Value = serde_json::from_str(case["input"].as_str().unwrap()).unwrap();
        let written = to_canonical(&value).unwrap();
        if !case["output_utf8"].is_null() {
            assert_eq!(written, bytes(&case["output_utf8"]), "{}", case["name"]);
        }
        if !case["values_in_order"].is_null() {
            let text = String::from_utf8(written).unwrap();
            let places: Vec<_> = list(&case["values_in_order"])
                .iter()
                .map(|value| text.find(&value.to_string()).unwrap())
                .collect();
            assert!(places.is_sorted(), "{}: {text}", case["name"]);
        }
    }
}

#[test]
fn rfc_8785_numbers() {
    let published = published();
    for case in list(&published["rfc8785"]["numbers"]) {
        let bits = u64::from_str_radix(case[0].as_str().unwrap(), 16).unwrap();
        let written = serde_json_canonicalizer::to_string(&f64::from_bits(bits)).unwrap();
        assert_eq!(written, case[1].as_str().unwrap());
    }
    for case in list(&published["rfc8785"]["numbers_refused"]) {
        let bits = u64::from_str_radix(case.as_str().unwrap(), 16).unwrap();
        assert!(serde_json_canonicalizer::to_string(&f64::from_bits(bits)).is_err());
    }
}

#[test]
fn rfc_6962() {
    let published = published();
    let trees = &published["rfc6962"];
    let mut tree = MerkleTree::new();
    let (first, roots) = list(&trees["roots"]).split_first().unwrap();
    assert_eq!(tree.root().to_string(), first.as_str().unwrap());
    let leaves = list(&trees["leaves"]);
    assert_eq!(leaves.len(), roots.len());
    for (leaf, root) in leaves.iter().zip(roots) {
        tree.push_data(&bytes(leaf));
        assert_eq!(tree.root().to_string(), root.as_str().unwrap());
    }
}
