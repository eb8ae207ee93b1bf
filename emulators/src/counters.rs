//! What was refused, counted by reason.

use std::collections::BTreeMap;

/// The only state that a refused message changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusals(BTreeMap<&'static str, u64>);

impl Refusals {
    /// Counts one refusal.
    pub(crate) fn count(&mut self, reason: &'static str) {
        *self.0.entry(reason).or_insert(0) += 1;
    }

    /// How often `reason` was given.
    pub fn of(&self, reason: &str) -> u64 {
        self.0.get(reason).copied().unwrap_or(0)
    }

    /// How much was refused in all.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The reasons that were given, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(reason, count)| (*reason, *count))
    }
}
