//! A witness that remembers every effect and can stop an operator at one of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use halo_operator::effect::{Effect, Witness};
use tokio::sync::watch;

/// Where an operator stops for good. Effects count from 0, by when they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// Before this effect: it is not done.
    Before(usize),
    /// After this effect: it is done, and the operator does not learn what came of it.
    After(usize),
}

/// One effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What was done, and to what.
    pub effect: Effect,
    /// Whether it succeeded; none while it is under way.
    pub outcome: Option<bool>,
}

/// Remembers effects. One operator has one.
pub struct Recorder {
    state: Mutex<State>,
    halted: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    halt: Option<Halt>,
    halted: bool,
}

impl Recorder {
    /// Stops nothing.
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
            halted: watch::Sender::new(false),
        }
    }

    /// Stops the operator there: from then on no effect begins.
    pub fn halting(halt: Halt) -> Self {
        let recorder = Self::new();
        recorder.lock().halt = Some(halt);
        recorder
    }

    /// Every effect so far, by when it began.
    pub fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// Effects so far as `action object` lines.
    pub fn lines(&self) -> Vec<String> {
        let line = |seen: &Seen| format!("{} {}", seen.effect.action, seen.effect.object);
        self.lock().seen.iter().map(line).collect()
    }

    /// How often an action was begun.
    pub fn count(&self, action: &str) -> usize {
        let state = self.lock();
        let of_action = state
            .seen
            .iter()
            .filter(|seen| seen.effect.action == action);
        of_action.count()
    }

    /// Whether the operator was stopped.
    pub fn is_halted(&self) -> bool {
        *self.halted.borrow()
    }

    /// Waits until the operator is stopped.
    pub async fn halted(&self) {
        let mut halted = self.halted.subscribe();
        // The sender lives as long as this borrow.
        let _ = halted.wait_for(|halted| *halted).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn stop(&self) {
        self.halted.send_replace(true);
        std::future::pending().await
    }
}

#[async_trait]
impl Witness for Recorder {
    async fn before(&self, effect: &Effect) {
        let stops = {
            let mut state = self.lock();
            state.halted |= state.halt == Some(Halt::Before(state.seen.len()));
            if !state.halted {
                state.seen.push(Seen {
                    effect: effect.clone(),
                    outcome: None,
                });
            }
            state.halted
        };
        if stops {
            self.stop().await;
        }
    }

    async fn after(&self, effect: &Effect, succeeded: bool) {
        let stops = {
            let mut state = self.lock();
            let under_way = |seen: &Seen| seen.outcome.is_none() && seen.effect == *effect;
            let index = state.seen.iter().position(under_way);
            if let Some(index) = index {
                state.seen[index].outcome = Some(succeeded);
                state.halted |= state.halt == Some(Halt::After(index));
            }
            state.halted
        };
        if stops {
            self.stop().await;
        }
    }
}
