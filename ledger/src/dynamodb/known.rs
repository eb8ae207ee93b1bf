//! What this program has seen of sessions and what can never change again, so that most appends are one request.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use halo_receipts::evidence::Stream;
use halo_receipts::ids::SessionId;

/// How many sessions are remembered in each of the two generations: 64 bytes each.
const SESSIONS: usize = 32_768;

/// Facts about a session that is there. Nothing in a ledger is ever changed, so a fact stays one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// For each stream the highest number that is known to be 0 or to stand right behind a block: a block may begin there, if
    /// none does yet.
    pub starts: [u32; 2],
    /// The highest epoch that is known to be claimed.
    pub epoch: Option<u32>,
}

#[derive(Default)]
struct Generations {
    young: HashMap<SessionId, Facts>,
    old: HashMap<SessionId, Facts>,
}

impl Generations {
    fn facts(&mut self, session: &SessionId) -> Option<&mut Facts> {
        if let Some(facts) = self.old.remove(session) {
            self.young.insert(*session, facts);
        }
        self.young.get_mut(session)
    }
}

/// Facts of the sessions that were used last; the memory is bounded.
#[derive(Default)]
pub struct Known(Mutex<Generations>);

impl Known {
    /// What is known of a session; `None`: not even that it exists.
    pub fn of(&self, session: &SessionId) -> Option<Facts> {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.facts(session).copied()
    }

    fn learn(&self, session: &SessionId, learn: impl FnOnce(&mut Facts)) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if generations.facts(session).is_none() && generations.young.len() >= SESSIONS {
            generations.old = std::mem::take(&mut generations.young);
        }
        learn(generations.young.entry(*session).or_default());
    }

    /// The session exists.
    pub fn exists(&self, session: &SessionId) {
        self.learn(session, |_| {});
    }

    /// A block of the stream ends before `number`.
    pub fn ends(&self, session: &SessionId, stream: Stream, number: u32) {
        self.learn(session, |facts| {
            let start = &mut facts.starts[stream as usize];
            *start = number.max(*start);
        });
    }

    /// The epoch is claimed.
    pub fn claimed(&self, session: &SessionId, epoch: u32) {
        self.learn(session, |facts| facts.epoch = facts.epoch.max(Some(epoch)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(number: usize) -> SessionId {
        let mut random = [0; 16];
        random[..8].copy_from_slice(&number.to_be_bytes());
        SessionId::from_random(random)
    }

    #[test]
    fn facts_only_grow() {
        let known = Known::default();
        let id = session(1);
        assert_eq!(known.of(&id), None);
        known.exists(&id);
        assert_eq!(known.of(&id), Some(Facts::default()));
        known.ends(&id, Stream::Substrate, 64);
        known.ends(&id, Stream::Substrate, 10);
        known.claimed(&id, 7);
        known.claimed(&id, 3);
        let expected = Facts {
            starts: [0, 64],
            epoch: Some(7),
        };
        assert_eq!(known.of(&id), Some(expected));
    }

    #[test]
    fn memory_is_bounded_and_keeps_what_is_used() {
        let known = Known::default();
        known.ends(&session(0), Stream::Device, 9);
        for number in 1..3 * SESSIONS {
            known.exists(&session(number));
            if number % 1000 == 0 {
                assert!(known.of(&session(0)).is_some(), "{number}");
            }
        }
        let generations = known.0.lock().unwrap();
        assert!(generations.young.len() + generations.old.len() <= 2 * SESSIONS + 1);
    }
}
