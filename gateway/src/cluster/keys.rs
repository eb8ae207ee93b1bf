//! Which of a tenant's keys new sessions are opened under, while its root is being replaced. Pure: the time is passed in.

use std::sync::Arc;
use std::time::Duration;

use halo_receipts::ids::TenantId;
use halo_receipts::keyring::KeyRing;
use halo_receipts::keys::{KeyStore as _, TenantKeys};

/// A tenant's keyring, and since when its current generation is known here.
#[derive(Clone)]
pub struct Held {
    ring: Arc<KeyRing>,
    /// The generation that new sessions are opened under until the current one has settled.
    before: Option<u32>,
    /// When the current generation has settled, in the gateway's steady time.
    settled: Duration,
}

impl Held {
    /// What follows from a keyring that is seen at `now`. A generation that comes beside another one is not used for new sessions
    /// before `settle` is over, so that pods have it by then: their Secret reaches them later than this gateway's.
    pub fn next(known: Option<&Self>, ring: Arc<KeyRing>, now: Duration, settle: Duration) -> Self {
        let current = ring.root().generation;
        if let Some(known) = known
            && known.ring.root().generation == current
        {
            return Self {
                ring,
                ..known.clone()
            };
        }
        let used = known.map(|known| known.generation(now));
        let others = ring.generations().map(|(generation, _)| generation);
        let others: Vec<u32> = others.filter(|other| *other != current).collect();
        let before = used
            .filter(|used| others.contains(used))
            .or_else(|| others.iter().max().copied());
        Self {
            ring,
            before,
            settled: now.saturating_add(settle),
        }
    }

    /// The generation that new sessions are opened under at `now`.
    fn generation(&self, now: Duration) -> u32 {
        match self.before {
            Some(before) if now < self.settled && self.holds(before) => before,
            _ => self.ring.root().generation,
        }
    }

    fn holds(&self, generation: u32) -> bool {
        self.ring.generations().any(|(held, _)| held == generation)
    }

    /// The keys that new sessions are opened under at `now`.
    pub fn current(&self, now: Duration) -> Option<Arc<dyn TenantKeys>> {
        self.ring.generation(self.generation(now))
    }

    /// All keys, those of the current root first.
    pub fn held(&self) -> Vec<Arc<dyn TenantKeys>> {
        self.ring.held(self.ring.tenant())
    }

    /// Whose they are.
    pub fn tenant(&self) -> &TenantId {
        self.ring.tenant()
    }

    /// Whether it is the same keyring, known since the same time.
    pub fn is_this(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.ring, &other.ring)
    }

    /// Whether it is the same document as another's.
    pub fn is_same(&self, other: &KeyRing) -> bool {
        // Compared as documents, which are wiped; keys themselves cannot be compared.
        *self.ring.encode() == *other.encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halo_receipts::keys::RootSecret;

    const SETTLE: Duration = Duration::from_secs(120);

    fn ring(generations: &[u32]) -> Arc<KeyRing> {
        let root = |generation: u32| {
            let byte = u8::try_from(generation).unwrap();
            RootSecret::new(vec![byte; 32]).unwrap()
        };
        let roots: Vec<(u32, RootSecret)> = generations.iter().map(|g| (*g, root(*g))).collect();
        let roots: Vec<(u32, &RootSecret)> = roots.iter().map(|(g, root)| (*g, root)).collect();
        let months = ["2026-11".parse().unwrap()];
        Arc::new(KeyRing::derive(&"acme".parse().unwrap(), &roots, &months, true).unwrap())
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn see(known: Option<&Held>, generations: &[u32], now: u64) -> Held {
        Held::next(known, ring(generations), at(now), SETTLE)
    }

    fn current(held: &Held, now: u64) -> u32 {
        held.current(at(now)).unwrap().root().generation
    }

    #[test]
    fn a_root_alone_is_used_at_once() {
        let first = see(None, &[3], 0);
        assert_eq!(current(&first, 0), 3);
        // The one before is gone: there is nothing to wait with.
        let alone = see(Some(&first), &[4], 10);
        assert_eq!(current(&alone, 10), 4);
    }

    #[test]
    fn a_root_beside_another_is_used_when_pods_have_it() {
        let first = see(None, &[1], 0);
        let both = see(Some(&first), &[1, 2], 1000);
        assert_eq!((current(&both, 1000), current(&both, 1119)), (1, 1));
        assert_eq!(current(&both, 1120), 2);
        // Seen again meanwhile, for example with another month: the wait does not begin again.
        let again = see(Some(&both), &[1, 2], 1100);
        assert_eq!((current(&again, 1119), current(&again, 1120)), (1, 2));
        // All are held from the beginning, the current root's first.
        let held: Vec<u32> = both
            .held()
            .iter()
            .map(|keys| keys.root().generation)
            .collect();
        assert_eq!(held, [2, 1]);
    }

    #[test]
    fn the_wait_ends_with_the_root_before() {
        let both = see(Some(&see(None, &[1], 0)), &[1, 2], 1000);
        let later = see(Some(&both), &[2], 1010);
        assert_eq!(current(&later, 1010), 2);
        // A third one while the second has not settled: the first is what everybody has.
        let third = see(Some(&both), &[1, 2, 3], 1010);
        assert_eq!((current(&third, 1129), current(&third, 1130)), (1, 3));
        let third = see(Some(&both), &[2, 3], 1010);
        assert_eq!((current(&third, 1010), current(&third, 1130)), (2, 3));
    }

    #[test]
    fn a_gateway_that_starts_in_between_waits_as_well() {
        let both = see(None, &[1, 2], 5);
        assert_eq!((current(&both, 124), current(&both, 125)), (1, 2));
    }

    #[test]
    fn the_same_document_is_known() {
        let held = see(None, &[1], 0);
        assert!(held.is_same(&ring(&[1])) && !held.is_same(&ring(&[1, 2])));
    }
}
