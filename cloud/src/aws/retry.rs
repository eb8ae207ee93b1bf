//! Whether and when a failed attempt is repeated. Every call that is made here is safe to repeat: reads change nothing, a launch and
//! a new volume carry a client token, and starting, stopping, ending, attaching and deleting twice is the same as once.

use std::time::Duration;

use super::action::Class;
use crate::Failure;

/// The longest wait between attempts.
const LONGEST: Duration = Duration::from_secs(5);

/// How long to wait before the next attempt, if there should be one. `attempt` counts those made, from 1; `random` is in 0..1.
pub(super) fn pause(
    class: Class,
    failure: Failure,
    attempt: u32,
    first: Duration,
    random: f64,
) -> Option<Duration> {
    let (attempts, first) = match (failure, class) {
        (Failure::Unreachable | Failure::Server, Class::Describe | Class::Parameter) => (4, first),
        (Failure::Unreachable | Failure::Server, Class::Run | Class::Mutate) => (3, first),
        // Nothing was done; the bucket is slower now and makes the attempt wait as well.
        (Failure::Throttled, _) => (4, first * 4),
        // The credentials had ended; the next attempt fetches new ones.
        (Failure::Credentials, _) => (2, Duration::ZERO),
        _ => (1, Duration::ZERO),
    };
    if attempt >= attempts {
        return None;
    }
    let doubled = first
        .saturating_mul(2u32.saturating_pow(attempt.saturating_sub(1)))
        .min(LONGEST);
    // Between half of it and all of it, so that those who failed together do not come back together.
    Some(doubled.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0))
}

/// A random number in 0..1.
pub(super) fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness the waits are equal, which is no reason to fail.
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repeated() {
        let first = Duration::from_millis(100);
        let waits = |class, failure| -> Vec<u64> {
            (1..10)
                .map_while(|attempt| pause(class, failure, attempt, first, 1.0))
                .map(|wait| u64::try_from(wait.as_millis()).unwrap())
                .collect()
        };
        use Failure as F;
        for class in [Class::Describe, Class::Parameter] {
            assert_eq!(waits(class, F::Unreachable), [100, 200, 400]);
            assert_eq!(waits(class, F::Server), [100, 200, 400]);
        }
        for class in [Class::Run, Class::Mutate] {
            assert_eq!(waits(class, F::Unreachable), [100, 200]);
            assert_eq!(waits(class, F::Server), [100, 200]);
        }
        for class in [Class::Describe, Class::Run, Class::Mutate, Class::Parameter] {
            assert_eq!(waits(class, F::Throttled), [400, 800, 1600]);
            assert_eq!(waits(class, F::Credentials), [0]);
            for never in [
                F::Capacity,
                F::Quota,
                F::Unauthorized,
                F::Invalid,
                F::TokenMismatch,
                F::TokenSpent,
                F::NotFound,
                F::State,
            ] {
                assert!(waits(class, never).is_empty(), "{never:?}");
            }
        }
    }

    #[test]
    fn waits_are_bounded_and_spread() {
        let wait = |first, random| pause(Class::Describe, Failure::Server, 3, first, random);
        assert_eq!(wait(Duration::MAX, 1.0), Some(LONGEST));
        assert_eq!(
            wait(Duration::from_millis(100), 0.0),
            Some(Duration::from_millis(200))
        );
        for _ in 0..100 {
            assert!((0.0..=1.0).contains(&random()));
        }
    }
}
