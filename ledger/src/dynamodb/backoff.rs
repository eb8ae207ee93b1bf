//! How long to wait before the next attempt: pure but for its randomness.

use std::time::Duration;

/// The first wait is between nothing and this.
const BASE: Duration = Duration::from_millis(25);
/// No wait is longer.
const CAP: Duration = Duration::from_secs(1);

/// Full jitter: anything between nothing and a bound that doubles each time, so that writers that were refused together do not
/// come back together.
pub fn wait(attempt: u32, random: u64) -> Duration {
    let bound = BASE.saturating_mul(1 << attempt.min(16)).min(CAP);
    let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(random % nanos.saturating_add(1))
}

/// A number that nobody foresees; without randomness from the system, the clock's.
pub fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        u64::from(now.subsec_nanos()).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_cap() {
        for (attempt, bound) in [(0, 25), (1, 50), (5, 800), (6, 1000), (60, 1000)] {
            let longest = (0..2000).map(|_| wait(attempt, random())).max();
            let bound = Duration::from_millis(bound);
            assert!(longest <= Some(bound), "{attempt}: {longest:?}");
            assert!(
                longest > Some(bound / 2),
                "{attempt}: {longest:?} is no full jitter"
            );
            let nanos = bound.as_nanos() as u64;
            assert_eq!(wait(attempt, nanos), bound);
            assert_eq!(wait(attempt, nanos + 1), Duration::ZERO);
        }
    }
}
