//! The record of every call that was received.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use crate::form::Form;

/// The most calls that are remembered; then the older half is forgotten.
const MOST: usize = 200_000;

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallRecord {
    /// From 1, in the order of arrival.
    pub sequence: u64,
    /// `ec2` or `ssm`.
    pub service: &'static str,
    /// Such as `RunInstances`.
    pub action: String,
    /// When its last byte was read, in microseconds since this emulator started.
    pub at_us: u64,
    /// The same moment on this process's clock.
    #[serde(skip)]
    pub received: Instant,
    /// Its parameters; secret or long ones by their size only.
    pub parameters: BTreeMap<String, String>,
    /// What came of it.
    pub outcome: Outcome,
    /// When that was known, in microseconds since this emulator started.
    pub decided_at_us: Option<u64>,
}

impl CallRecord {
    /// Whether it asked for a dry run.
    pub fn is_dry_run(&self) -> bool {
        self.parameters
            .get("DryRun")
            .is_some_and(|value| value == "true")
    }

    /// A parameter; empty if it was not given.
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// Not decided yet.
    Waiting,
    /// Done, and answered so.
    Done,
    /// Not done, and answered so.
    Refused {
        /// The error code.
        code: String,
        /// The HTTP status.
        status: u16,
    },
    /// A fault took the answer away.
    Lost {
        /// Whether the call was done.
        done: bool,
        /// Which fault.
        fault: &'static str,
    },
}

/// All calls, oldest first.
#[derive(Debug, Default)]
pub struct Calls {
    records: Vec<CallRecord>,
    next: u64,
}

impl Calls {
    /// Enters a call; returns its sequence number.
    pub fn enter(
        &mut self,
        service: &'static str,
        action: &str,
        parameters: BTreeMap<String, String>,
        at_us: u64,
    ) -> u64 {
        if self.records.len() >= MOST {
            self.records.drain(..MOST / 2);
        }
        self.next += 1;
        self.records.push(CallRecord {
            sequence: self.next,
            service,
            action: action.to_owned(),
            at_us,
            received: Instant::now(),
            parameters,
            outcome: Outcome::Waiting,
            decided_at_us: None,
        });
        self.next
    }

    /// Enters what came of a call.
    pub fn decide(&mut self, sequence: u64, outcome: Outcome, at_us: u64) {
        let found = self
            .records
            .binary_search_by_key(&sequence, |record| record.sequence);
        if let Ok(index) = found
            && let Some(record) = self.records.get_mut(index)
        {
            record.outcome = outcome;
            record.decided_at_us = Some(at_us);
        }
    }

    /// All that are remembered.
    pub fn records(&self) -> &[CallRecord] {
        &self.records
    }

    /// Forgets all; numbers go on.
    pub fn clear(&mut self) {
        self.records.clear();
    }
}

/// The parameters of an EC2 call that may be shown.
pub fn of_form(form: &Form) -> BTreeMap<String, String> {
    let pairs = form.pairs().iter();
    pairs
        .filter(|(name, _)| !matches!(name.as_str(), "Action" | "Version"))
        .map(|(name, value)| match name.as_str() {
            "UserData" => (name.clone(), sized(value)),
            _ => (name.clone(), value.clone()),
        })
        .collect()
}

/// The parameters of an SSM call that may be shown.
pub fn of_json(body: &Value) -> BTreeMap<String, String> {
    let fields = body.as_object().into_iter().flatten();
    fields
        .map(|(name, value)| {
            let shown = match (name.as_str(), value) {
                ("Value", Value::String(value)) => sized(value),
                ("Value", _) => "<a value>".to_owned(),
                (_, Value::String(value)) => value.clone(),
                (_, other) => other.to_string(),
            };
            (name.clone(), shown)
        })
        .collect()
}

fn sized(value: &str) -> String {
    format!("<{} bytes>", value.len())
}
