//! How many pods demand asks for.

use std::time::Duration;

use jiff::Timestamp;

use super::demand::elapsed;

/// What is remembered between two looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Level {
    /// Pods that should run.
    pub replicas: u32,
    /// Since when fewer would do.
    pub surplus_since: Option<Timestamp>,
}

/// What demand is divided by, and how fast it may shrink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Requests that one pod answers at once.
    pub sessions_per_pod: u32,
    /// The most pods.
    pub max: u32,
    /// How long fewer pods must do before there are fewer.
    pub shrink_after: Duration,
}

/// The pods for `in_flight` requests of a substrate that runs, and after how long time alone changes them.
///
/// More demand brings pods at once; less takes them away after a while, as each costs a wake to get back.
pub fn next(
    before: Level,
    in_flight: u64,
    rule: &Rule,
    now: Timestamp,
) -> (Level, Option<Duration>) {
    let max = rule.max.max(1);
    let asked = in_flight.div_ceil(u64::from(rule.sessions_per_pod.max(1)));
    let asked = u32::try_from(asked).unwrap_or(max).clamp(1, max);
    // A spec that allows fewer counts at once.
    let had = before.replicas.min(max);
    if asked >= had {
        let level = Level {
            replicas: asked,
            surplus_since: None,
        };
        return (level, None);
    }
    let since = before.surplus_since.unwrap_or(now);
    let waited = elapsed(since, now);
    if waited >= rule.shrink_after {
        let level = Level {
            replicas: asked,
            surplus_since: None,
        };
        (level, None)
    } else {
        let level = Level {
            replicas: had,
            surplus_since: Some(since),
        };
        (level, Some(rule.shrink_after - waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULE: Rule = Rule {
        sessions_per_pod: 8,
        max: 3,
        shrink_after: Duration::from_secs(60),
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn level(replicas: u32, since: Option<i64>) -> Level {
        Level {
            replicas,
            surplus_since: since.map(at),
        }
    }

    #[test]
    fn a_table() {
        for (before, in_flight, now, after, again) in [
            (level(0, None), 0, 0, level(1, None), None),
            (level(0, None), 1, 0, level(1, None), None),
            (level(1, None), 8, 0, level(1, None), None),
            (level(1, None), 9, 0, level(2, None), None),
            (level(1, None), 1000, 0, level(3, None), None),
            (level(1, None), u64::MAX, 0, level(3, None), None),
            // Fewer would do: not at once.
            (level(3, None), 9, 100, level(3, Some(100)), Some(60)),
            (level(3, Some(100)), 9, 159, level(3, Some(100)), Some(1)),
            (level(3, Some(100)), 9, 160, level(2, None), None),
            (level(3, Some(100)), 17, 159, level(3, None), None),
            // The maximum was lowered.
            (level(9, None), 100, 100, level(3, None), None),
            (level(9, None), 1, 100, level(3, Some(100)), Some(60)),
        ] {
            let again = again.map(Duration::from_secs);
            assert_eq!(
                next(before, in_flight, &RULE, at(now)),
                (after, again),
                "{before:?} {in_flight} {now}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn it_stays_in_bounds_and_a_second_look_changes_nothing(
            had in 0u32..200, since in proptest::option::of(0i64..200), in_flight in 0u64..5000,
            per_pod in 0u32..50, max in 0u32..120, now in 0i64..400,
        ) {
            let rule = Rule { sessions_per_pod: per_pod, max, shrink_after: Duration::from_secs(60) };
            let (first, _) = next(level(had, since), in_flight, &rule, at(now));
            prop_assert!((1..=max.max(1)).contains(&first.replicas));
            let enough = u64::from(first.replicas) * u64::from(per_pod.max(1)) >= in_flight;
            prop_assert!(enough || first.replicas == max.max(1));
            let (second, _) = next(first, in_flight, &rule, at(now));
            prop_assert_eq!(first, second);
        }
    }
}
