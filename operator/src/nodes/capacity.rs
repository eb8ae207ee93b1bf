//! What the cloud lately refused: types without capacity, and how long each pool waits after failed launches.
//!
//! All of it is in memory only. What is forgotten in a restart is learnt again by one more refused call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::plan::PoolBlock;
use crate::settings::Pace;

/// How many zones of one type, or types in one zone, must lack capacity before the whole type or zone counts as without.
/// Two refusals say more about the region than about a rack.
const WIDEN_AT: usize = 2;

/// One thing learnt from the cloud about a pool.
#[derive(Debug, Clone, PartialEq)]
pub enum Lesson {
    /// No capacity for this type in this zone.
    NoCapacity {
        /// The instance type.
        instance_type: String,
        /// The zone.
        zone: String,
    },
    /// An instance of this type in this zone ended before it became a node, or did not register in time: others are preferred for a
    /// while, and the pool waits.
    NoNode {
        /// The instance type.
        instance_type: String,
        /// The zone.
        zone: String,
        /// What a person should know.
        block: PoolBlock,
    },
    /// No type has capacity in any zone, in these words: they stand until a launch succeeds.
    NoneAnywhere(PoolBlock),
    /// The cloud refused to launch, start or make something for another reason, or did not answer: the pool waits.
    Refused(PoolBlock),
    /// The cloud refused to stop, end or delete something: that waits, launches do not.
    EndRefused(PoolBlock),
    /// An instance was launched or started.
    Launched,
    /// A node became ready: the pool's waits begin anew.
    Ready,
    /// No node is wanted or there any more: what stood in the way of the last wake does not stand in the way of the next one.
    Unwanted,
}

/// What is remembered of one pool.
#[derive(Debug, Clone, Default)]
struct PoolMemory {
    generation: i64,
    failures: u32,
    not_before: Option<Timestamp>,
    block: Option<PoolBlock>,
    end_failures: u32,
    ends_not_before: Option<Timestamp>,
    end_block: Option<PoolBlock>,
    shunned: BTreeMap<(String, String), Timestamp>,
}

#[derive(Default)]
struct Memory {
    /// Until when a type is not tried in a zone.
    without: BTreeMap<(String, String), Timestamp>,
    pools: BTreeMap<String, PoolMemory>,
}

/// Called with the type and the zone of each capacity error.
pub type OnNoCapacity = Box<dyn Fn(&str, &str) + Send + Sync>;

/// What the cloud lately refused, for all pools.
pub struct CapacityMemory {
    pace: Pace,
    on_no_capacity: OnNoCapacity,
    memory: Mutex<Memory>,
}

/// What one pool's plan knows of refusals; it does not change under the plan.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CapacityView {
    /// Until when a type in a zone is not tried.
    without: BTreeMap<(String, String), Timestamp>,
    /// Types and zones that this pool prefers to avoid.
    shunned: BTreeSet<(String, String)>,
    /// Launches wait until then.
    pub not_before: Option<Timestamp>,
    /// Why they wait, or waited before what is asked again now.
    pub block: Option<PoolBlock>,
    /// Stops, ends and deletions wait until then.
    pub ends_not_before: Option<Timestamp>,
    /// Why those wait.
    pub end_block: Option<PoolBlock>,
}

impl CapacityView {
    /// Until when this type is not tried in this zone; `None` if it may be tried.
    pub fn without_until(&self, instance_type: &str, zone: &str) -> Option<Timestamp> {
        let own = |(t, z): &(String, String)| t == instance_type && z == zone;
        let of_type = |(t, _): &(String, String)| t == instance_type;
        let of_zone = |(_, z): &(String, String)| z == zone;
        let until = |matches: &dyn Fn(&(String, String)) -> bool, at_least: usize| {
            let mut ends: Vec<Timestamp> = self
                .without
                .iter()
                .filter(|(key, _)| matches(key))
                .map(|(_, until)| *until)
                .collect();
            ends.sort_unstable_by(|a, b| b.cmp(a));
            // The wide block ends when too few narrow ones are left.
            ends.get(at_least - 1).copied()
        };
        [
            until(&own, 1),
            until(&of_type, WIDEN_AT),
            until(&of_zone, WIDEN_AT),
        ]
        .into_iter()
        .flatten()
        .max()
    }

    /// Whether this pool had better try another type or zone first.
    pub fn is_shunned(&self, instance_type: &str, zone: &str) -> bool {
        self.shunned
            .contains(&(instance_type.to_owned(), zone.to_owned()))
    }
}

impl CapacityMemory {
    /// An empty memory.
    pub fn new(pace: &Pace, on_no_capacity: OnNoCapacity) -> Self {
        Self {
            pace: pace.clone(),
            on_no_capacity,
            memory: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a pool's plan should know at `now`. Waits that another generation of the spec earned do not count: it may have been put
    /// right.
    pub fn view(&self, uid: &str, generation: i64, now: Timestamp) -> CapacityView {
        let mut memory = self.lock();
        memory.without.retain(|_, until| *until > now);
        let mut view = CapacityView {
            without: memory.without.clone(),
            ..CapacityView::default()
        };
        if let Some(pool) = memory.pools.get_mut(uid) {
            pool.shunned.retain(|_, until| *until > now);
            view.shunned = pool.shunned.keys().cloned().collect();
            if pool.generation == generation {
                view.not_before = pool.not_before.filter(|until| *until > now);
                view.block.clone_from(&pool.block);
            }
            if pool.ends_not_before.is_some_and(|t| t > now) {
                view.ends_not_before = pool.ends_not_before;
                view.end_block.clone_from(&pool.end_block);
            }
        }
        view
    }

    /// Remembers what was learnt about a pool. `jitter` is random, 0 to 1: waits are lengthened by up to a quarter, so that pools that
    /// failed together do not try again together.
    pub fn learn(
        &self,
        uid: &str,
        generation: i64,
        lessons: &[Lesson],
        now: Timestamp,
        jitter: f64,
    ) {
        for lesson in lessons {
            if let Lesson::NoCapacity {
                instance_type,
                zone,
            } = lesson
            {
                (self.on_no_capacity)(instance_type, zone);
            }
            self.lock()
                .learn(&self.pace, uid, generation, lesson, now, jitter);
        }
    }

    /// Forgets a pool that is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().pools.remove(uid);
    }
}

impl Memory {
    fn learn(
        &mut self,
        pace: &Pace,
        uid: &str,
        generation: i64,
        lesson: &Lesson,
        now: Timestamp,
        jitter: f64,
    ) {
        let later = |wait: Duration| now.checked_add(wait).unwrap_or(Timestamp::MAX);
        let pool = self.pools.entry(uid.to_owned()).or_default();
        if pool.generation != generation {
            pool.generation = generation;
            pool.failures = 0;
            pool.not_before = None;
            pool.block = None;
        }
        match lesson {
            Lesson::NoCapacity {
                instance_type,
                zone,
            } => {
                self.without.insert(
                    (instance_type.clone(), zone.clone()),
                    later(pace.capacity_memory),
                );
            }
            Lesson::NoNode {
                instance_type,
                zone,
                block,
            } => {
                pool.shunned.insert(
                    (instance_type.clone(), zone.clone()),
                    later(pace.capacity_memory),
                );
                pool.wait(block, wait_after(pool.failures, pace, jitter), now);
            }
            Lesson::NoneAnywhere(block) => pool.block = Some(block.clone()),
            Lesson::Unwanted => pool.block = None,
            Lesson::Refused(block) => {
                pool.wait(block, wait_after(pool.failures, pace, jitter), now);
            }
            Lesson::EndRefused(block) => {
                let until = later(wait_after(pool.end_failures, pace, jitter));
                pool.end_failures = pool.end_failures.saturating_add(1);
                pool.ends_not_before = Some(until);
                pool.end_block = Some(PoolBlock {
                    next_attempt: Some(until),
                    ..block.clone()
                });
            }
            Lesson::Launched => {
                pool.not_before = None;
                pool.block = None;
            }
            Lesson::Ready => {
                pool.failures = 0;
                pool.end_failures = 0;
                pool.not_before = None;
                pool.block = None;
                pool.shunned.clear();
            }
        }
    }
}

impl PoolMemory {
    fn wait(&mut self, block: &PoolBlock, wait: Duration, now: Timestamp) {
        let until = now.checked_add(wait).unwrap_or(Timestamp::MAX);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(until);
        self.block = Some(PoolBlock {
            next_attempt: Some(until),
            ..block.clone()
        });
    }
}

/// How long a pool waits that has failed `failures` times before: doubled each time up to the longest, and up to a quarter more by
/// `jitter` (0 to 1).
pub fn wait_after(failures: u32, pace: &Pace, jitter: f64) -> Duration {
    let doubled = pace
        .launch_backoff
        .saturating_mul(2u32.saturating_pow(failures.min(20)))
        .min(pace.launch_backoff_max);
    let jitter = if jitter.is_finite() {
        jitter.clamp(0.0, 1.0)
    } else {
        0.0
    };
    doubled + doubled.mul_f64(jitter / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn memory() -> CapacityMemory {
        CapacityMemory::new(&Pace::default(), Box::new(|_, _| {}))
    }

    fn none(instance_type: &str, zone: &str) -> Lesson {
        Lesson::NoCapacity {
            instance_type: instance_type.to_owned(),
            zone: zone.to_owned(),
        }
    }

    fn block(reason: &str) -> PoolBlock {
        PoolBlock {
            reason: reason.to_owned(),
            message: "m".to_owned(),
            next_attempt: None,
        }
    }

    #[test]
    fn one_refusal_blocks_one_type_in_one_zone_for_three_minutes() {
        let memory = memory();
        memory.learn("u", 1, &[none("t1", "a")], at(0), 0.0);
        let view = memory.view("other", 1, at(179));
        assert_eq!(view.without_until("t1", "a"), Some(at(180)));
        assert_eq!(view.without_until("t1", "b"), None);
        assert_eq!(view.without_until("t2", "a"), None);
        assert_eq!(memory.view("u", 1, at(180)).without_until("t1", "a"), None);
    }

    #[test]
    fn two_zones_of_a_type_block_the_type_and_two_types_of_a_zone_the_zone() {
        let memory = memory();
        memory.learn("u", 1, &[none("t1", "a")], at(0), 0.0);
        memory.learn("u", 1, &[none("t1", "b")], at(60), 0.0);
        let view = memory.view("u", 1, at(61));
        // As soon as the earlier of both is forgotten, one refusal is left, and the type is tried elsewhere.
        assert_eq!(view.without_until("t1", "c"), Some(at(180)));
        assert_eq!(view.without_until("t2", "a"), None);

        memory.learn("u", 1, &[none("t2", "a")], at(70), 0.0);
        let view = memory.view("u", 1, at(71));
        assert_eq!(view.without_until("t3", "a"), Some(at(180)));
        assert_eq!(view.without_until("t3", "b"), None);
    }

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_after_a_ready_node() {
        let pace = Pace::default();
        let waits: Vec<u64> = (0..8)
            .map(|n| wait_after(n, &pace, 0.0).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(wait_after(0, &pace, 1.0), Duration::from_millis(1250));
        assert_eq!(wait_after(u32::MAX, &pace, f64::NAN).as_secs(), 60);

        let memory = memory();
        for (failure, wait) in [(0, 1), (100, 2), (200, 4)] {
            memory.learn(
                "u",
                1,
                &[Lesson::Refused(block("QuotaReached"))],
                at(failure),
                0.0,
            );
            let view = memory.view("u", 1, at(failure));
            assert_eq!(view.not_before, Some(at(failure + wait)));
            assert_eq!(
                view.block.and_then(|b| b.next_attempt),
                Some(at(failure + wait))
            );
        }
        memory.learn("u", 1, &[Lesson::Ready], at(300), 0.0);
        memory.learn(
            "u",
            1,
            &[Lesson::Refused(block("QuotaReached"))],
            at(400),
            0.0,
        );
        assert_eq!(memory.view("u", 1, at(400)).not_before, Some(at(401)));
    }

    #[test]
    fn a_launch_ends_the_wait_but_not_the_count_and_a_new_spec_ends_both() {
        let memory = memory();
        let refused = [Lesson::Refused(block("InvalidRequest"))];
        memory.learn("u", 1, &refused, at(0), 0.0);
        memory.learn("u", 1, &refused, at(10), 0.0);
        assert!(memory.view("u", 1, at(10)).not_before.is_some());
        assert_eq!(memory.view("u", 2, at(10)).not_before, None);
        memory.learn("u", 1, &[Lesson::Launched], at(11), 0.0);
        assert_eq!(memory.view("u", 1, at(11)), CapacityView::default());
        memory.learn("u", 1, &refused, at(20), 0.0);
        assert_eq!(memory.view("u", 1, at(20)).not_before, Some(at(24)));
        memory.learn("u", 2, &refused, at(30), 0.0);
        assert_eq!(memory.view("u", 2, at(30)).not_before, Some(at(31)));
    }

    #[test]
    fn a_type_that_made_no_node_is_shunned_by_its_pool_only() {
        let memory = memory();
        let lesson = Lesson::NoNode {
            instance_type: "t1".to_owned(),
            zone: "a".to_owned(),
            block: block("RegistrationDeadlineExceeded"),
        };
        memory.learn("u", 1, &[lesson], at(0), 0.0);
        assert!(memory.view("u", 1, at(1)).is_shunned("t1", "a"));
        assert!(!memory.view("v", 1, at(1)).is_shunned("t1", "a"));
        assert!(!memory.view("u", 1, at(180)).is_shunned("t1", "a"));
    }

    #[test]
    fn refused_ends_do_not_hold_launches_up() {
        let memory = memory();
        memory.learn(
            "u",
            1,
            &[Lesson::EndRefused(block("NotPermitted"))],
            at(0),
            0.0,
        );
        let view = memory.view("u", 1, at(0));
        assert_eq!((view.not_before, view.ends_not_before), (None, Some(at(1))));
        memory.forget("u");
        assert_eq!(memory.view("u", 1, at(0)), CapacityView::default());
    }

    #[test]
    fn each_capacity_error_is_counted() {
        let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let memory = CapacityMemory::new(
            &Pace::default(),
            Box::new(move |t, z| sink.lock().unwrap().push(format!("{t}/{z}"))),
        );
        memory.learn("u", 1, &[none("t1", "a"), none("t1", "b")], at(0), 0.0);
        assert_eq!(*seen.lock().unwrap(), ["t1/a", "t1/b"]);
    }
}
