//! Who may open a session: every refusal, and that a refusal leaves nothing behind.

use std::collections::HashSet;
use std::sync::Arc;

use halo_gateway::directory::Tenant;
use halo_gateway::opening::{Attempt, Nonces, Refused, check};
use halo_receipts::ids::TenantId;
use halo_receipts::keyring::KeyRing;
use halo_receipts::keys::{RootSecret, TenantKeys as _};
use halo_receipts::opening::{Nonce, OpenRequest, SESSIONS_PATH, signature};
use halo_receipts::payload::ContentPolicy;
use halo_receipts::time::Timestamp;

use crate::author::{keys, store, tenant};

const NOW: u64 = 1_900_000_000;

fn policy() -> Tenant {
    Tenant {
        content: ContentPolicy::Sealed,
        min_device_generation: 2,
        revoked: HashSet::from(["lost-phone".parse().unwrap()]),
        requests_per_minute: 60,
        held_requests: 4,
        ..Tenant::default()
    }
}

fn request(nonce: u8) -> OpenRequest {
    OpenRequest {
        tenant_id: tenant(),
        device_id: "phone-1".parse().unwrap(),
        device_generation: 2,
        timestamp: at(NOW),
        nonce: Nonce([nonce; 16]),
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000).unwrap()
}

fn known(id: &TenantId) -> Option<Arc<Tenant>> {
    (*id == tenant()).then(|| Arc::new(policy()))
}

/// Signs as the device would and asks.
fn ask(request: &OpenRequest, now: u64, nonces: &mut Nonces) -> Result<OpenRequest, Refused> {
    let body = serde_json::to_vec(request).unwrap();
    let keys = keys();
    let key = keys
        .device_key(
            &request.tenant_id,
            &request.device_id,
            request.device_generation,
        )
        .unwrap();
    let header = signature(&key, "POST", SESSIONS_PATH, &body);
    let attempt = Attempt {
        path: SESSIONS_PATH,
        body: &body,
        signature: Some(header.as_bytes()),
    };
    check(&attempt, at(now), known, &store(), nonces)
}

#[test]
fn every_refusal_and_nothing_remembered_of_it() {
    let mut nonces = Nonces::new(10);
    let changed = |change: fn(&mut OpenRequest)| {
        let mut request = request(1);
        change(&mut request);
        request
    };
    let table = [
        (
            changed(|r| r.tenant_id = "nobody".parse().unwrap()),
            NOW,
            Refused::Tenant,
        ),
        (
            changed(|r| r.device_id = "lost-phone".parse().unwrap()),
            NOW,
            Refused::Revoked,
        ),
        (
            changed(|r| r.device_generation = 1),
            NOW,
            Refused::Generation,
        ),
        (request(1), NOW + 121, Refused::Clock),
        (request(1), NOW + 300, Refused::Clock),
        (request(1), NOW - 121, Refused::Clock),
        (request(1), NOW - 300, Refused::Clock),
    ];
    for (request, now, reason) in table {
        assert_eq!(ask(&request, now, &mut nonces), Err(reason));
    }
    assert!(nonces.is_empty());
    // What was refused only for its time is accepted at the right one, up to the edges.
    assert!(ask(&request(1), NOW + 120, &mut nonces).is_ok());
    assert!(ask(&request(2), NOW - 120, &mut nonces).is_ok());
}

#[test]
fn wrong_signatures_and_bodies() {
    let mut nonces = Nonces::new(10);
    let keys = keys();
    let body = serde_json::to_vec(&request(1)).unwrap();
    let tenant = tenant();
    let device = "phone-1".parse().unwrap();
    let key = keys.device_key(&tenant, &device, 2).unwrap();
    let older = keys.device_key(&tenant, &device, 1).unwrap();
    let good = signature(&key, "POST", SESSIONS_PATH, &body);
    let spaced = [b" ", body.as_slice()].concat();
    let table: [(&str, &[u8], Option<String>, Refused); 8] = [
        (SESSIONS_PATH, &body, None, Refused::Malformed),
        (
            SESSIONS_PATH,
            &body,
            Some(String::new()),
            Refused::Signature,
        ),
        (
            SESSIONS_PATH,
            &body,
            Some(good.to_uppercase()),
            Refused::Signature,
        ),
        (
            SESSIONS_PATH,
            &body,
            Some(signature(&older, "POST", SESSIONS_PATH, &body)),
            Refused::Signature,
        ),
        (
            SESSIONS_PATH,
            &body,
            Some(signature(&key, "GET", SESSIONS_PATH, &body)),
            Refused::Signature,
        ),
        (
            "/v1/halo/sessions?x",
            &body,
            Some(good.clone()),
            Refused::Signature,
        ),
        (
            SESSIONS_PATH,
            &spaced,
            Some(good.clone()),
            Refused::Signature,
        ),
        (SESSIONS_PATH, b"{}", Some(good.clone()), Refused::Malformed),
    ];
    for (path, body, header, reason) in table {
        let attempt = Attempt {
            path,
            body,
            signature: header.as_deref().map(str::as_bytes),
        };
        let refused = check(&attempt, at(NOW), known, &store(), &mut nonces);
        assert_eq!(refused, Err(reason));
    }
    assert!(nonces.is_empty());
}

#[test]
fn a_nonce_works_once_for_as_long_as_its_timestamp_is_good() {
    let mut nonces = Nonces::new(10);
    assert!(ask(&request(1), NOW, &mut nonces).is_ok());
    for now in [NOW, NOW + 60, NOW + 120] {
        assert_eq!(ask(&request(1), now, &mut nonces), Err(Refused::Replay));
    }
    // After that the clock refuses it, and it need not be remembered any more.
    assert_eq!(
        ask(&request(1), NOW + 121, &mut nonces),
        Err(Refused::Clock)
    );
    assert!(nonces.is_empty());
    // Another device may use the same nonce.
    let mut other = request(1);
    other.device_id = "phone-2".parse().unwrap();
    assert!(ask(&request(1), NOW, &mut nonces).is_ok());
    assert!(ask(&other, NOW, &mut nonces).is_ok());
}

#[test]
fn a_flood_of_openings_forgets_nothing() {
    let mut nonces = Nonces::new(2);
    assert!(ask(&request(1), NOW, &mut nonces).is_ok());
    assert!(ask(&request(2), NOW, &mut nonces).is_ok());
    assert_eq!(ask(&request(3), NOW, &mut nonces), Err(Refused::Flooded));
    assert_eq!(ask(&request(1), NOW, &mut nonces), Err(Refused::Replay));
    let mut later = request(3);
    later.timestamp = at(NOW + 200);
    assert!(ask(&later, NOW + 200, &mut nonces).is_ok());
    assert_eq!(nonces.len(), 1);
}

/// A device that was enrolled under a root before the current one opens sessions for as long as that root's keys are published, and no
/// longer; the current root's keys are no use under another.
#[test]
fn a_credential_of_any_root_that_is_held_opens() {
    let tenant = tenant();
    let roots = [[1; 32], [2; 32], [3; 32]].map(|bytes| RootSecret::new(bytes.to_vec()).unwrap());
    let [first, second, never] = &roots;
    let month = "2030-03".parse().unwrap();
    let ring = |roots: &[(u32, &RootSecret)]| {
        Arc::new(KeyRing::derive(&tenant, roots, &[month], true).unwrap())
    };
    let both = ring(&[(1, first), (2, second)]);
    let later = ring(&[(2, second)]);
    let open = |ring: &Arc<KeyRing>, root: &RootSecret, generation, nonce| {
        let request = request(nonce);
        let body = serde_json::to_vec(&request).unwrap();
        let enroll = root.enroll_key(&tenant, generation);
        let key = enroll.device_key(&request.device_id, request.device_generation);
        let header = signature(&key, "POST", SESSIONS_PATH, &body);
        let attempt = Attempt {
            path: SESSIONS_PATH,
            body: &body,
            signature: Some(header.as_bytes()),
        };
        check(&attempt, at(NOW), known, ring, &mut Nonces::new(10)).map(|_| ())
    };
    assert_eq!(open(&both, first, 1, 1), Ok(()));
    assert_eq!(open(&both, second, 2, 1), Ok(()));
    assert_eq!(open(&both, never, 1, 1), Err(Refused::Signature));
    assert_eq!(open(&both, first, 2, 1), Err(Refused::Signature));
    assert_eq!(open(&later, first, 1, 1), Err(Refused::Signature));
    // What stands in for keys that are not held is known to everybody, and opens nothing.
    let request = request(1);
    let body = serde_json::to_vec(&request).unwrap();
    let stand_in = halo_receipts::keys::EnrollKey::from_bytes([0; 32]);
    let key = stand_in.device_key(&request.device_id, request.device_generation);
    let header = signature(&key, "POST", SESSIONS_PATH, &body);
    let attempt = Attempt {
        path: SESSIONS_PATH,
        body: &body,
        signature: Some(header.as_bytes()),
    };
    let refused = check(&attempt, at(NOW), known, &both, &mut Nonces::new(10));
    assert_eq!(refused, Err(Refused::Signature));
}
