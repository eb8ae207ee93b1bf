//! What a check found, and what all of them together mean.

use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, and somebody should look at it.
    Warn,
    /// It does not work.
    Fail,
    /// It could not be told.
    Unknown,
    /// Not asked, because it is not used or something before it failed.
    Skipped,
}

/// One line: what was asked, what came of it, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What should be true.
    pub description: String,
    /// Whether it is.
    pub result: Status,
    /// What was seen.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What to do; empty if nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// The page and heading of the documentation that says more.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub anchor: &'static str,
}

impl Check {
    fn new(description: impl Into<String>, result: Status, detail: impl Into<String>) -> Self {
        Self {
            description: description.into(),
            result,
            detail: detail.into(),
            hint: String::new(),
            anchor: "",
        }
    }

    /// It is as it should be.
    pub fn ok(description: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(description, Status::Ok, detail)
    }

    /// It works, but.
    pub fn warn(description: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(description, Status::Warn, detail)
    }

    /// It does not work.
    pub fn fail(description: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(description, Status::Fail, detail)
    }

    /// It could not be told.
    pub fn unknown(description: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(description, Status::Unknown, detail)
    }

    /// It was not asked.
    pub fn skipped(description: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(description, Status::Skipped, detail)
    }

    /// Says what to do, and where to read more.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>, anchor: &'static str) -> Self {
        self.hint = hint.into();
        self.anchor = anchor;
        self
    }
}

/// Checks that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Category {
    /// Its name, as `--only` takes it.
    pub category_name: &'static str,
    /// Its checks in the order in which they were made.
    pub checks: Vec<Check>,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The categories in their order.
    pub categories: Vec<Category>,
}

impl Report {
    fn count(&self, status: Status) -> usize {
        let checks = self.categories.iter().flat_map(|category| &category.checks);
        checks.filter(|check| check.result == status).count()
    }

    /// 1 if a check failed, 3 if one could not be told, 0 otherwise. A warning is no failure.
    pub fn exit_code(&self) -> u8 {
        if self.count(Status::Fail) > 0 {
            1
        } else if self.count(Status::Unknown) > 0 {
            3
        } else {
            0
        }
    }

    /// The last line for a person.
    pub fn summary(&self) -> String {
        let counted = |status, one: &str, more: &str| match self.count(status) {
            0 => None,
            1 => Some(format!("1 {one}")),
            n => Some(format!("{n} {more}")),
        };
        let parts = [
            counted(Status::Fail, "check failed", "checks failed"),
            counted(Status::Unknown, "could not be told", "could not be told"),
            counted(Status::Warn, "warning", "warnings"),
        ];
        let said = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let verdict = match self.exit_code() {
            0 => "Status check results are √",
            1 => "Status check results are ×",
            _ => "Status check results are ?",
        };
        if said.is_empty() {
            verdict.to_owned()
        } else {
            format!("{verdict} ({said})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_decides() {
        let report = |results: &[Status]| Report {
            categories: vec![Category {
                category_name: "x",
                checks: results.iter().map(|r| Check::new("d", *r, "")).collect(),
            }],
        };
        use Status::{Fail, Ok, Skipped, Unknown, Warn};
        for (results, code, summary) in [
            (&[][..], 0, "√"),
            (&[Ok, Warn, Skipped], 0, "√ (1 warning)"),
            (&[Ok, Unknown], 3, "? (1 could not be told)"),
            (
                &[Unknown, Fail, Fail, Warn, Warn],
                1,
                "× (2 checks failed, 1 could not be told, 2 warnings)",
            ),
        ] {
            assert_eq!(report(results).exit_code(), code, "{results:?}");
            assert_eq!(
                report(results).summary(),
                format!("Status check results are {summary}")
            );
        }
    }
}
