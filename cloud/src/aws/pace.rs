//! How fast calls are made: a token bucket that slows down when the cloud asks for it.

use std::time::Duration;

use tokio::time::Instant;

/// A budget of calls: so many at once, so many a second after that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Calls that may be made at once.
    pub burst: f64,
    /// Calls a second that come after them.
    pub per_second: f64,
}

/// A slowed bucket never gets slower than this part of its pace.
const SLOWEST: f64 = 1.0 / 16.0;
/// Each success gives back this part of the pace.
const RECOVERY: f64 = 0.05;
/// Calls that were sent together are throttled together: that slows the bucket once.
const ONE_CUT: Duration = Duration::from_millis(500);

/// A token bucket. It may go into debt: who comes later waits longer, in the order in which they came.
#[derive(Debug)]
pub(super) struct Bucket {
    pace: Pace,
    rate: f64,
    tokens: f64,
    at: Instant,
    cut_at: Option<Instant>,
}

impl Bucket {
    pub(super) fn new(pace: Pace, now: Instant) -> Self {
        // A pace of nothing or of not-a-number would never let a call through.
        let sane = |value: f64, least: f64| {
            if value.is_finite() {
                value.max(least)
            } else {
                least
            }
        };
        let pace = Pace {
            burst: sane(pace.burst, 1.0),
            per_second: sane(pace.per_second, 0.01),
        };
        Self {
            pace,
            rate: pace.per_second,
            tokens: pace.burst,
            at: now,
            cut_at: None,
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate).min(self.pace.burst);
        self.at = self.at.max(now);
    }

    /// Takes one token and says how long to wait before the call; nothing is taken if that is longer than `patience`.
    pub(super) fn take(&mut self, now: Instant, patience: Duration) -> Option<Duration> {
        self.refill(now);
        let missing = 1.0 - self.tokens;
        let wait = if missing <= 0.0 {
            Duration::ZERO
        } else {
            Duration::try_from_secs_f64(missing / self.rate).unwrap_or(Duration::MAX)
        };
        if wait > patience {
            return None;
        }
        self.tokens -= 1.0;
        Some(wait)
    }

    /// The cloud asked for fewer calls: half the rate, and no burst.
    pub(super) fn throttled(&mut self, now: Instant) {
        self.refill(now);
        let again = self
            .cut_at
            .is_some_and(|at| now.saturating_duration_since(at) < ONE_CUT);
        if !again {
            self.rate = (self.rate / 2.0).max(self.pace.per_second * SLOWEST);
            self.cut_at = Some(now);
        }
        self.tokens = self.tokens.min(0.0);
    }

    /// A call was let through.
    pub(super) fn succeeded(&mut self, now: Instant) {
        self.refill(now);
        self.rate = (self.rate + self.pace.per_second * RECOVERY).min(self.pace.per_second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        burst: 2.0,
        per_second: 10.0,
    };
    const LONG: Duration = Duration::from_secs(60);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_burst_then_one_by_one() {
        let start = Instant::now();
        let mut bucket = Bucket::new(PACE, start);
        let waits: Vec<_> = (0..5).map(|_| bucket.take(start, LONG)).collect();
        let expected = [0, 0, 100, 200, 300].map(|n| Some(ms(n)));
        assert_eq!(waits, expected);
        // After the debt is paid and the bucket is full again, no more than the burst.
        let later = start + ms(10_000);
        assert_eq!(bucket.take(later, LONG), Some(ms(0)));
        assert_eq!(bucket.take(later, LONG), Some(ms(0)));
        assert_eq!(bucket.take(later, LONG), Some(ms(100)));
    }

    #[test]
    fn who_would_wait_too_long_takes_nothing() {
        let start = Instant::now();
        let mut bucket = Bucket::new(PACE, start);
        for _ in 0..2 {
            bucket.take(start, LONG);
        }
        assert_eq!(bucket.take(start, ms(50)), None);
        assert_eq!(bucket.take(start, ms(100)), Some(ms(100)));
    }

    #[test]
    fn throttled_halves_once_and_recovers() {
        let start = Instant::now();
        let mut bucket = Bucket::new(PACE, start);
        bucket.throttled(start);
        bucket.throttled(start + ms(10));
        assert_eq!(bucket.rate, 5.0);
        // No burst is left.
        assert!(
            bucket
                .take(start + ms(10), LONG)
                .is_some_and(|wait| wait >= ms(150))
        );
        bucket.throttled(start + ms(600));
        assert_eq!(bucket.rate, 2.5);
        for n in 0..20 {
            bucket.throttled(start + ms(2_000 + n * 1_000));
        }
        assert_eq!(bucket.rate, 10.0 / 16.0);
        for _ in 0..40 {
            bucket.succeeded(start + ms(30_000));
        }
        assert_eq!(bucket.rate, 10.0);
    }

    #[test]
    fn a_senseless_pace_still_moves() {
        let start = Instant::now();
        for bad in [f64::NAN, 0.0, -1.0, f64::INFINITY] {
            let mut bucket = Bucket::new(
                Pace {
                    burst: bad,
                    per_second: bad,
                },
                start,
            );
            assert_eq!(bucket.take(start, LONG), Some(Duration::ZERO), "{bad}");
            assert!(
                bucket.take(start, Duration::from_secs(101)).is_some(),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing() {
        let start = Instant::now();
        let mut bucket = Bucket::new(PACE, start + ms(1_000));
        bucket.take(start + ms(1_000), LONG);
        bucket.take(start + ms(1_000), LONG);
        assert_eq!(bucket.take(start, LONG), Some(ms(100)));
        assert_eq!(bucket.take(start + ms(1_000), LONG), Some(ms(200)));
    }
}
