//! Opening: a signature covers all of a request and nothing else opens with it.

use halo_receipts::ids::{DeviceId, TenantId};
use halo_receipts::keys::SigningKey;
use halo_receipts::opening::{Nonce, OpenRequest, signature, signature_is_valid};
use halo_receipts::time::Timestamp;
use proptest::prelude::*;

prop_compose! {
    fn request()(
        tenant in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
        device in "[A-Za-z0-9._-]{1,64}",
        device_generation in any::<u32>(),
        micros in 0u64..253_402_300_800_000_000,
        nonce in any::<[u8; 16]>(),
    ) -> OpenRequest {
        OpenRequest {
            tenant_id: tenant.parse::<TenantId>().unwrap(),
            device_id: device.parse::<DeviceId>().unwrap(),
            device_generation,
            timestamp: Timestamp::from_micros(micros).unwrap(),
            nonce: Nonce(nonce),
        }
    }
}

proptest! {
    #[test]
    fn bodies_read_back(request in request()) {
        let json = serde_json::to_vec(&request).unwrap();
        prop_assert_eq!(serde_json::from_slice::<OpenRequest>(&json).unwrap(), request);
    }

    #[test]
    fn any_body_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(serde_json::from_slice::<OpenRequest>(&bytes).is_err());
    }

    #[test]
    fn only_the_signed_request_verifies(
        key in any::<[u8; 32]>(),
        method in "[A-Z]{3,6}",
        path in "/[a-z0-9/?=&-]{0,40}",
        body in proptest::collection::vec(any::<u8>(), 0..100),
        at in any::<prop::sample::Index>(),
        mask in 1u8..,
    ) {
        let key = SigningKey::from_bytes(key);
        let header = signature(&key, &method, &path, &body);
        let valid = |method: &str, path: &str, body: &[u8], header: &[u8]| signature_is_valid(&key, method, path, body, header);
        prop_assert!(valid(&method, &path, &body, header.as_bytes()));
        // Moving a byte from one part to the next is another request.
        let (short, last) = method.split_at(method.len() - 1);
        let (shifted, longer) = (format!("{last}{path}"), format!("{path}x"));
        let more = [&body[..], b"x"].concat();
        prop_assert!(!valid(short, &shifted, &body, header.as_bytes()));
        prop_assert!(!valid(&method, &longer, &body, header.as_bytes()));
        prop_assert!(!valid(&method, &path, &more, header.as_bytes()));
        let mut changed = header.clone().into_bytes();
        let at = at.index(changed.len());
        changed[at] ^= mask;
        prop_assert!(!valid(&method, &path, &body, &changed));
    }

    #[test]
    fn any_header_is_refused_without_a_panic(header in proptest::collection::vec(any::<u8>(), 0..80)) {
        prop_assert!(!signature_is_valid(&SigningKey::from_bytes([1; 32]), "GET", "/", b"", &header));
    }
}
