//! Bounds on what one tenant or one address may cause. Pure: the time is passed in, in milliseconds of any steady clock.

use std::collections::HashMap;
use std::net::IpAddr;

use halo_receipts::ids::TenantId;

const MINUTE_MS: u64 = 60_000;

/// Requests of each tenant within the last minute, as a bucket that refills steadily.
#[derive(Debug, Default)]
pub struct RequestRates {
    /// What is left, in requests times [`MINUTE_MS`], and when it was last refilled.
    buckets: HashMap<TenantId, (u64, u64)>,
}

impl RequestRates {
    /// Takes one request from the tenant's bucket. Otherwise says after how many milliseconds there will be one.
    pub fn take(&mut self, tenant: &TenantId, per_minute: u32, now_ms: u64) -> Result<(), u32> {
        let full = u64::from(per_minute) * MINUTE_MS;
        let (left, since) = self.buckets.entry(tenant.clone()).or_insert((full, now_ms));
        let refill = now_ms
            .saturating_sub(*since)
            .saturating_mul(u64::from(per_minute));
        *left = left.saturating_add(refill).min(full);
        *since = now_ms;
        match left.checked_sub(MINUTE_MS) {
            Some(rest) => {
                *left = rest;
                Ok(())
            }
            None => {
                let missing = MINUTE_MS - *left;
                let wait = missing.div_ceil(u64::from(per_minute.max(1)));
                Err(u32::try_from(wait).unwrap_or(u32::MAX))
            }
        }
    }
}

/// Addresses that caused many failures are not served for a while.
#[derive(Debug)]
pub struct Penalties {
    failures: HashMap<IpAddr, (u32, u64)>,
    most: u32,
    window_ms: u64,
    capacity: usize,
}

impl Penalties {
    /// Bars an address after `most` failures within `window_ms`, until as much time has passed since its first one.
    /// With `most` 0 nobody is barred. At most `capacity` addresses are remembered.
    pub fn new(most: u32, window_ms: u64, capacity: usize) -> Self {
        Self {
            failures: HashMap::new(),
            most,
            window_ms,
            capacity,
        }
    }

    /// Counts a failure of an address.
    pub fn failed(&mut self, address: IpAddr, now_ms: u64) {
        if self.most == 0 {
            return;
        }
        if self.failures.len() >= self.capacity && !self.failures.contains_key(&address) {
            let window = self.window_ms;
            let current = |since: u64| now_ms.saturating_sub(since) < window;
            self.failures.retain(|_, (_, since)| current(*since));
            if self.failures.len() >= self.capacity {
                return;
            }
        }
        let (count, since) = self.failures.entry(address).or_insert((0, now_ms));
        if now_ms.saturating_sub(*since) >= self.window_ms {
            (*count, *since) = (0, now_ms);
        }
        *count = count.saturating_add(1);
    }

    /// Whether an address is to be turned away.
    pub fn is_barred(&self, address: IpAddr, now_ms: u64) -> bool {
        let Some((count, since)) = self.failures.get(&address) else {
            return false;
        };
        self.most != 0 && *count >= self.most && now_ms.saturating_sub(*since) < self.window_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(id: &str) -> TenantId {
        id.parse().unwrap()
    }

    #[test]
    fn a_tenant_gets_its_requests_per_minute_and_no_other_pays_for_it() {
        let mut rates = RequestRates::default();
        for _ in 0..6 {
            assert_eq!(rates.take(&tenant("acme"), 6, 1_000), Ok(()));
        }
        assert_eq!(rates.take(&tenant("acme"), 6, 1_000), Err(10_000));
        assert_eq!(rates.take(&tenant("other"), 6, 1_000), Ok(()));
        assert_eq!(rates.take(&tenant("acme"), 6, 10_999), Err(1));
        assert_eq!(rates.take(&tenant("acme"), 6, 11_000), Ok(()));
        assert_eq!(rates.take(&tenant("acme"), 6, 11_000), Err(10_000));
        // A clock that stands still or goes back refills nothing and breaks nothing.
        assert!(rates.take(&tenant("acme"), 6, 0).is_err());
        // A long pause fills the bucket, and not more.
        for _ in 0..6 {
            assert_eq!(rates.take(&tenant("acme"), 6, u64::MAX), Ok(()));
        }
        assert!(rates.take(&tenant("acme"), 6, u64::MAX).is_err());
        assert_eq!(rates.take(&tenant("none"), 0, 5), Err(60_000));
    }

    #[test]
    fn failures_bar_one_address_for_a_while() {
        let (bad, good): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut penalties = Penalties::new(3, 1_000, 2);
        for now in [0, 10, 20] {
            assert!(!penalties.is_barred(bad, now));
            penalties.failed(bad, now);
        }
        assert!(penalties.is_barred(bad, 20));
        assert!(penalties.is_barred(bad, 999));
        assert!(!penalties.is_barred(good, 20));
        assert!(!penalties.is_barred(bad, 1_000));
        penalties.failed(bad, 1_000);
        assert!(!penalties.is_barred(bad, 1_000));
        // Full of current entries: a third address is served rather than another forgotten.
        penalties.failed(good, 1_000);
        let third = [10, 0, 0, 3].into();
        for _ in 0..5 {
            penalties.failed(third, 1_000);
        }
        assert!(!penalties.is_barred(third, 1_000));
        let mut off = Penalties::new(0, 1_000, 2);
        off.failed(bad, 0);
        assert!(!off.is_barred(bad, 0));
    }
}
