//! What the gateways ask for, read with the distrust that their clocks and their ends deserve.

use std::time::Duration;

use halo_crds::status::Demand;
use jiff::Timestamp;

/// The least time after which a gateway that claims requests and was not active counts as dead.
const DEAD_AFTER: Duration = Duration::from_secs(600);

/// What all gateways ask for together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Requests that live gateways hold or have answered.
    pub in_flight: u64,
    /// When a gateway was last active, never after now; `None` if none says.
    pub last_active: Option<Timestamp>,
    /// Since when the longest waiting request waits, never after now; `None` if there is none.
    pub since: Option<Timestamp>,
    /// After how long a gateway that is active now would count as dead.
    pub dead_in: Option<Duration>,
}

impl Reading {
    /// Whether anything is asked.
    pub fn is_busy(&self) -> bool {
        self.in_flight > 0
    }
}

/// Reads all entries. A gateway's clock may be ahead: a time after `now` is no activity that is known of, unless requests are in
/// flight. An entry that claims requests and was last active longer ago than `idle_after` and ten minutes is a dead gateway's.
pub fn read(entries: &[Demand], idle_after: Duration, now: Timestamp) -> Reading {
    let dead_after = idle_after.max(DEAD_AFTER);
    let mut reading = Reading::default();
    for entry in entries {
        let active = entry.last_active.0;
        let claims = entry.in_flight > 0 || entry.since.is_some();
        let quiet = elapsed(active, now);
        if claims && quiet < dead_after {
            let count = u64::try_from(entry.in_flight).unwrap_or_default().max(1);
            reading.in_flight = reading.in_flight.saturating_add(count);
            let since = entry
                .since
                .as_ref()
                .map_or(active, |since| since.0)
                .min(now);
            reading.since = Some(reading.since.map_or(since, |other| other.min(since)));
            let dead_in = dead_after - quiet;
            reading.dead_in = Some(reading.dead_in.map_or(dead_in, |other| other.min(dead_in)));
        }
        if active <= now {
            reading.last_active = Some(
                reading
                    .last_active
                    .map_or(active, |other| other.max(active)),
            );
        }
    }
    reading
}

/// How long ago `then` was; nothing if it is yet to come.
pub fn elapsed(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    const NOW: i64 = 1_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn entry(gateway: &str, in_flight: i64, since: Option<i64>, last_active: i64) -> Demand {
        Demand {
            gateway: gateway.to_owned(),
            in_flight,
            since: since.map(|second| Time(at(second))),
            last_active: Time(at(last_active)),
        }
    }

    fn reading(entries: &[Demand]) -> Reading {
        read(entries, Duration::from_secs(60), at(NOW))
    }

    #[test]
    fn nothing_is_asked_where_nobody_asks() {
        assert_eq!(reading(&[]), Reading::default());
        let idle = reading(&[entry("a", 0, None, NOW - 5)]);
        assert!(!idle.is_busy());
        assert_eq!(idle.last_active, Some(at(NOW - 5)));
    }

    #[test]
    fn gateways_add_up_and_the_longest_wait_counts() {
        let both = reading(&[
            entry("a", 3, Some(NOW - 9), NOW - 1),
            entry("b", 4, Some(NOW - 20), NOW),
            entry("c", 0, None, NOW - 400),
        ]);
        assert_eq!(both.in_flight, 7);
        assert_eq!(both.since, Some(at(NOW - 20)));
        assert_eq!(both.last_active, Some(at(NOW)));
        assert_eq!(both.dead_in, Some(Duration::from_secs(599)));
    }

    #[test]
    fn a_since_without_a_number_is_one_request() {
        assert_eq!(reading(&[entry("a", 0, Some(NOW - 3), NOW)]).in_flight, 1);
        assert_eq!(reading(&[entry("a", -4, Some(NOW - 3), NOW)]).in_flight, 1);
        assert_eq!(reading(&[entry("a", -4, None, NOW)]).in_flight, 0);
    }

    #[test]
    fn a_gateway_that_is_silent_for_long_is_dead() {
        let dead = reading(&[entry("a", 5, Some(NOW - 9000), NOW - 600)]);
        assert!(!dead.is_busy());
        assert_eq!(dead.last_active, Some(at(NOW - 600)));
        assert!(reading(&[entry("a", 5, Some(NOW - 9000), NOW - 599)]).is_busy());
    }

    #[test]
    fn a_clock_that_is_ahead_is_no_activity_but_its_requests_count() {
        let ahead = reading(&[entry("a", 1, Some(NOW + 50), NOW + 60)]);
        assert_eq!((ahead.in_flight, ahead.since), (1, Some(at(NOW))));
        assert_eq!(ahead.last_active, None);
    }
}
