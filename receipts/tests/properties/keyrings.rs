//! Keyrings: what is written reads back, and nothing that is changed passes as something else.

use halo_receipts::ids::{Epoch, SessionId, TenantId};
use halo_receipts::keyring::KeyRing;
use halo_receipts::keys::{RootSecret, TenantKeys as _};
use halo_receipts::time::KeyMonth;
use proptest::prelude::*;

proptest! {
    #[test]
    fn written_rings_read_back(
        secrets in prop::collection::btree_map(1u32.., prop::collection::vec(any::<u8>(), 32..48), 1..=3),
        epochs in prop::collection::vec(any::<u32>(), 0..5),
        tenant in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        with_enroll: bool,
    ) {
        let secrets: Vec<(u32, RootSecret)> =
            secrets.into_iter().map(|(n, bytes)| (n, RootSecret::new(bytes).unwrap())).collect();
        let roots: Vec<_> = secrets.iter().map(|(n, root)| (*n, root)).collect();
        let months: Vec<_> = epochs.iter().map(|epoch| KeyMonth::of(Epoch(*epoch))).collect();
        let tenant: TenantId = tenant.parse().unwrap();
        let ring = KeyRing::derive(&tenant, &roots, &months, with_enroll).unwrap();
        let text = ring.encode();
        // The canonicalizer of RFC 8785 agrees with the spelling.
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        prop_assert_eq!(&serde_json_canonicalizer::to_vec(&value).unwrap(), &*text);
        let again = KeyRing::decode(&text).unwrap();
        prop_assert_eq!(&*again.encode(), &*text);
        prop_assert_eq!(again.root().generation, roots.last().unwrap().0);
        for (generation, root) in &roots {
            for epoch in &epochs {
                let session = SessionId::from_random([9; 16]);
                let held = again.session_key_under(*generation, &tenant, &session, Epoch(*epoch)).unwrap();
                let wanted = root.tenant_key(&tenant, KeyMonth::of(Epoch(*epoch))).session_key(&session, Epoch(*epoch));
                prop_assert_eq!(held.expose(), wanted.expose());
            }
        }
    }

    #[test]
    fn no_bytes_panic_and_no_change_passes_unseen(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        at: prop::sample::Index,
        byte: u8,
    ) {
        let _ = KeyRing::decode(&bytes);
        let root = RootSecret::new(vec![7; 32]).unwrap();
        let months = ["2025-12".parse().unwrap(), "2026-01".parse().unwrap()];
        let ring = KeyRing::derive(&"acme".parse().unwrap(), &[(1, &root)], &months, true).unwrap();
        let text = ring.encode();
        let mut changed = text.to_vec();
        let at = at.index(text.len());
        changed[at] = byte;
        if let Ok(ring) = KeyRing::decode(&changed) {
            prop_assert_eq!(&*ring.encode(), &changed);
        }
    }
}
