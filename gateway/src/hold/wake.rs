//! What wakes take, as one gateway sees them for one tenant, and how long one that is under way may still take.

use std::collections::VecDeque;

use crate::directory::Stage;

/// How many of the last measurements count.
const KEPT: usize = 32;
/// This part of the requests is to be served within the time that it was told.
const QUANTILE: (usize, usize) = (3, 4);

/// The last measurements of one thing, in milliseconds.
#[derive(Debug, Default)]
struct Samples(VecDeque<u64>);

impl Samples {
    fn push(&mut self, ms: u64) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(ms);
    }

    /// What remains after `elapsed`, as those that took longer tell. Where none did, it is late by an unknown time: a quarter of
    /// what has passed. `None` without measurements.
    fn remaining(&self, elapsed: u64) -> Option<u64> {
        if self.0.is_empty() {
            return None;
        }
        let mut longer: Vec<u64> = self
            .0
            .iter()
            .filter(|ms| **ms > elapsed)
            .map(|ms| ms - elapsed)
            .collect();
        longer.sort_unstable();
        let (part, whole) = QUANTILE;
        let at = (longer.len() * part / whole).min(longer.len().saturating_sub(1));
        Some(longer.get(at).copied().unwrap_or(elapsed / 4).max(1))
    }
}

fn rank(stage: Stage) -> usize {
    match stage {
        Stage::Asleep => 0,
        Stage::Starting => 1,
        Stage::Loading => 2,
        Stage::Ready => 3,
    }
}

/// The label of a stage.
pub fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Asleep => "asleep",
        Stage::Starting => "starting",
        Stage::Loading => "loading",
        Stage::Ready => "ready",
    }
}

/// A wake under way.
#[derive(Debug)]
struct Wake {
    stage: Stage,
    since_ms: u64,
    /// When each stage was seen to begin; not the one that the wake was found in, unless that is the first.
    entered: [Option<u64>; 3],
}

/// The wakes of one tenant's substrate.
#[derive(Debug, Default)]
pub struct Wakes {
    /// From the beginning of each stage until a pod was ready.
    to_ready: [Samples; 3],
    /// From a link until the first token.
    first_token: Samples,
    /// From a link until the end.
    answer: Samples,
    current: Option<Wake>,
    /// When a pod was ready after a wake, until the first request got its link.
    ready_since_ms: Option<u64>,
}

impl Wakes {
    /// Takes what the directory says. `waited` is whether somebody waits, which is what begins a wake. Says which stage is over and
    /// how long it took.
    pub fn observe(&mut self, stage: Stage, waited: bool, now_ms: u64) -> Option<(Stage, u64)> {
        let Some(wake) = &mut self.current else {
            if waited && stage != Stage::Ready {
                self.begin(stage, now_ms);
            }
            return None;
        };
        if wake.stage == stage {
            return None;
        }
        let (old, since) = (wake.stage, wake.since_ms);
        let whole = rank(old) < 3 && wake.entered.get(rank(old)).is_some_and(Option::is_some);
        let over = whole.then(|| (old, now_ms.saturating_sub(since)));
        if rank(stage) < rank(old) {
            // It did not come to an end; another one begins.
            self.current = None;
            if waited {
                self.begin(stage, now_ms);
            }
            return None;
        }
        (wake.stage, wake.since_ms) = (stage, now_ms);
        if stage == Stage::Ready {
            for (samples, entered) in self.to_ready.iter_mut().zip(wake.entered) {
                if let Some(entered) = entered {
                    samples.push(now_ms.saturating_sub(entered));
                }
            }
            self.current = None;
            self.ready_since_ms = Some(now_ms);
        } else if let Some(entered) = wake.entered.get_mut(rank(stage)) {
            *entered = Some(now_ms);
        }
        over
    }

    fn begin(&mut self, stage: Stage, now_ms: u64) {
        let mut entered = [None; 3];
        // Any other stage may have begun long before somebody waited for it.
        if stage == Stage::Asleep {
            entered[0] = Some(now_ms);
        }
        self.ready_since_ms = None;
        self.current = Some(Wake {
            stage,
            since_ms: now_ms,
            entered,
        });
    }

    /// A request got its link: how long after the pod was ready, for the first one after a wake.
    pub fn linked(&mut self, now_ms: u64) -> Option<u64> {
        let since = self.ready_since_ms.take()?;
        Some(now_ms.saturating_sub(since))
    }

    /// An answer's first token came so long after its link.
    pub fn first_token(&mut self, ms: u64) {
        self.first_token.push(ms);
    }

    /// An answer ended so long after its link.
    pub fn answered(&mut self, ms: u64) {
        self.answer.push(ms);
    }

    /// How long a request with `before` others before it still waits for its first token while `at_once` are answered at once, in
    /// milliseconds; 0 if that is not known.
    pub fn eta_ms(&self, before: usize, at_once: usize, now_ms: u64) -> u32 {
        let wake = match &self.current {
            None => Some(0),
            Some(wake) => {
                let samples = self.to_ready.get(rank(wake.stage));
                samples.and_then(|samples| samples.remaining(now_ms.saturating_sub(wake.since_ms)))
            }
        };
        let first = self.first_token.remaining(0);
        let turns = u64::try_from(before / at_once.max(1)).unwrap_or(u64::MAX);
        let queue = match turns {
            0 => Some(0),
            turns => self
                .answer
                .remaining(0)
                .map(|answer| answer.saturating_mul(turns)),
        };
        let (Some(wake), Some(queue)) = (wake, queue) else {
            return 0;
        };
        if wake == 0 && queue == 0 && first.is_none() {
            return 0;
        }
        let total = wake
            .saturating_add(queue)
            .saturating_add(first.unwrap_or(0));
        u32::try_from(total).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn woken(wakes: &mut Wakes, at: u64, starting: u64, loading: u64, ready: u64) {
        assert_eq!(wakes.observe(Stage::Asleep, true, at), None);
        assert_eq!(wakes.observe(Stage::Asleep, true, at + 1), None);
        let stages = [
            (Stage::Starting, starting, Stage::Asleep),
            (Stage::Loading, loading, Stage::Starting),
            (Stage::Ready, ready, Stage::Loading),
        ];
        let mut now = at;
        for (stage, after, over) in stages {
            now += after;
            assert_eq!(wakes.observe(stage, true, now), Some((over, after)));
        }
        assert_eq!(wakes.linked(now + 7), Some(7));
        assert_eq!(wakes.linked(now + 8), None);
    }

    #[test]
    fn what_is_left_comes_from_earlier_wakes() {
        let mut wakes = Wakes::default();
        wakes.observe(Stage::Asleep, true, 0);
        assert_eq!(wakes.eta_ms(0, 1, 5), 0, "nothing is known");
        let mut wakes = Wakes::default();
        woken(&mut wakes, 1_000, 100, 4_000, 900);
        woken(&mut wakes, 50_000, 100, 6_000, 900);
        assert_eq!(wakes.eta_ms(0, 1, 60_000), 0);
        wakes.observe(Stage::Asleep, true, 100_000);
        assert_eq!(wakes.eta_ms(0, 1, 100_000), 7_000);
        assert_eq!(wakes.eta_ms(0, 1, 101_000), 6_000);
        // Only the longer one is left to compare with, then none is.
        assert_eq!(wakes.eta_ms(0, 1, 106_000), 1_000);
        assert_eq!(wakes.eta_ms(0, 1, 120_000), 5_000);
        wakes.observe(Stage::Loading, true, 120_000);
        assert_eq!(wakes.eta_ms(0, 1, 120_400), 500);
        wakes.first_token(40);
        assert_eq!(wakes.eta_ms(0, 1, 120_400), 540);
        assert_eq!(
            wakes.eta_ms(5, 2, 120_400),
            0,
            "how long answers take is not known"
        );
        wakes.answered(1_000);
        assert_eq!(wakes.eta_ms(5, 2, 120_400), 2_540);
    }

    #[test]
    fn what_was_not_seen_from_its_beginning_is_not_counted() {
        let mut wakes = Wakes::default();
        assert_eq!(wakes.observe(Stage::Loading, false, 0), None);
        assert_eq!(wakes.observe(Stage::Loading, true, 10), None);
        assert_eq!(wakes.observe(Stage::Ready, true, 500), None);
        assert_eq!(wakes.linked(510), Some(10));
        wakes.observe(Stage::Loading, true, 1_000);
        assert_eq!(wakes.eta_ms(0, 1, 1_000), 0);
        // A wake that falls back is not one either.
        assert_eq!(wakes.observe(Stage::Asleep, true, 2_000), None);
        assert_eq!(
            wakes.observe(Stage::Starting, true, 2_100),
            Some((Stage::Asleep, 100))
        );
        assert_eq!(wakes.observe(Stage::Asleep, false, 2_200), None);
        assert_eq!(wakes.eta_ms(0, 1, 2_200), 0);
        assert_eq!(wakes.linked(2_300), None);
    }

    #[test]
    fn only_the_last_measurements_count() {
        let mut samples = Samples::default();
        assert_eq!(samples.remaining(0), None);
        for ms in 0..1_000 {
            samples.push(ms);
        }
        assert_eq!(samples.0.len(), KEPT);
        assert!(samples.remaining(0).is_some_and(|ms| ms >= 968));
        assert_eq!(samples.remaining(4_000), Some(1_000));
    }
}
