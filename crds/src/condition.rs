//! Conditions: set so that a transition time changes only with the status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The statuses of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told.
    Unknown,
}

impl Truth {
    /// As conditions spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// What is to be said under one condition type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The condition's type, a constant of [`crate::reasons`].
    pub kind: &'static str,
    /// Whether it holds.
    pub truth: Truth,
    /// Why, a constant of [`crate::reasons`] or a stable name of another room.
    pub reason: String,
    /// Why, for a person. Must not change while nothing changes.
    pub message: String,
}

impl Verdict {
    /// A verdict.
    pub fn new(
        kind: &'static str,
        truth: impl Into<Truth>,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            truth: truth.into(),
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// The conditions that say `verdicts`, in their order, with the transition times of `before` where the status is the same.
pub fn fold(
    before: &[Condition],
    verdicts: impl IntoIterator<Item = Verdict>,
    generation: Option<i64>,
    now: &Time,
) -> Vec<Condition> {
    let fold_one = |verdict: Verdict| {
        let status = verdict.truth.as_str();
        let since = before
            .iter()
            .find(|old| old.type_ == verdict.kind && old.status == status)
            .map_or(now, |old| &old.last_transition_time);
        Condition {
            type_: verdict.kind.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason,
            message: verdict.message,
            observed_generation: generation,
            last_transition_time: since.clone(),
        }
    };
    verdicts.into_iter().map(fold_one).collect()
}

/// The condition of one type.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether the condition of one type is True.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn a_transition_time_changes_with_the_status_only() {
        let first = fold(
            &[],
            [Verdict::new("Ready", false, "A", "a")],
            Some(1),
            &at(1),
        );
        let same = fold(
            &first,
            [Verdict::new("Ready", false, "B", "b")],
            Some(2),
            &at(2),
        );
        assert_eq!(same[0].last_transition_time, at(1));
        assert_eq!(
            (same[0].reason.as_str(), same[0].observed_generation),
            ("B", Some(2))
        );
        let other = fold(
            &same,
            [Verdict::new("Ready", true, "C", "c")],
            Some(2),
            &at(3),
        );
        assert_eq!(other[0].last_transition_time, at(3));
    }
}
