//! Faults: which call fails, how, and whether its effect is done before it does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::rules::action_matches;

/// A fault that waits for its call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The action, such as `RunInstances`; `Describe*` and `*` match by prefix.
    pub action: String,
    /// Only calls with these parameters, such as `"InstanceType": "r7iz.4xlarge"`.
    #[serde(default)]
    pub with: BTreeMap<String, String>,
    /// How many such calls pass before the fault begins, counted from when it is set.
    #[serde(default)]
    pub after: u64,
    /// How many calls it meets; `null` is all.
    #[serde(default = "once")]
    pub times: Option<u64>,
    /// What happens to the call.
    #[serde(rename = "do")]
    pub act: FaultAction,
}

fn once() -> Option<u64> {
    Some(1)
}

/// What a fault does to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultAction {
    /// Answers an error.
    Error {
        /// Such as `InsufficientInstanceCapacity`.
        code: String,
        /// For people.
        #[serde(default)]
        message: String,
        /// HTTP status; without one, the usual one of the code.
        #[serde(default)]
        status: Option<u16>,
        /// Whether the effect is done first.
        #[serde(default)]
        when: When,
    },
    /// Ends the connection without an answer.
    Cut {
        /// Whether the effect is done first.
        #[serde(default)]
        when: When,
    },
    /// Says nothing for a while, then ends the connection.
    Hang {
        /// How long.
        ms: u64,
        /// Whether the effect is done first.
        #[serde(default)]
        when: When,
    },
    /// Answers late.
    Delay {
        /// How late.
        ms: u64,
        /// Whether the effect is done at once or only at the end.
        #[serde(default)]
        when: When,
    },
    /// Answers status 500 with a body that is no XML and no JSON, as a proxy in between would.
    Garbage {
        /// Whether the effect is done first.
        #[serde(default)]
        when: When,
    },
}

/// Whether a fault comes before or after the effect of its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// The call is not done.
    #[default]
    Before,
    /// The call is done.
    After,
}

impl Fault {
    /// The next call of this action meets this fault, once.
    pub fn next(action: &str, act: FaultAction) -> Self {
        Self {
            action: action.to_owned(),
            with: BTreeMap::new(),
            after: 0,
            times: Some(1),
            act,
        }
    }

    /// An error instead of the next call of this action.
    pub fn error(action: &str, code: &str) -> Self {
        Self::next(
            action,
            FaultAction::Error {
                code: code.to_owned(),
                message: format!("{code}, as a fault asked for"),
                status: None,
                when: When::Before,
            },
        )
    }

    /// The connection of the next call of this action ends without an answer.
    pub fn cut(action: &str, when: When) -> Self {
        Self::next(action, FaultAction::Cut { when })
    }

    /// So many calls pass first.
    pub fn after(mut self, calls: u64) -> Self {
        self.after = calls;
        self
    }

    /// So many calls are met; `None` is all of them.
    pub fn times(mut self, times: Option<u64>) -> Self {
        self.times = times;
        self
    }

    /// Only calls with this parameter.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.with.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// A file of faults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// In order; the first that fits a call meets it.
    pub faults: Vec<Fault>,
}

/// Faults that wait, in order.
#[derive(Debug, Clone, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// These faults.
    pub fn new(faults: Vec<Fault>) -> Self {
        Self(faults)
    }

    /// One more.
    pub fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// None any more.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Those that still wait or go on.
    pub fn waiting(&self) -> &[Fault] {
        &self.0
    }

    /// What happens to this call. Every fault that fits counts it; the first that is ripe meets it.
    pub fn meet(
        &mut self,
        action: &str,
        parameters: &BTreeMap<String, String>,
    ) -> Option<FaultAction> {
        let mut met = None;
        for fault in &mut self.0 {
            let fits = action_matches(&fault.action, action)
                && fault
                    .with
                    .iter()
                    .all(|(name, value)| parameters.get(name) == Some(value));
            if !fits {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
            } else if met.is_none() {
                if let Some(times) = &mut fault.times {
                    if *times == 0 {
                        continue;
                    }
                    *times -= 1;
                }
                met = Some(fault.act.clone());
            }
        }
        self.0.retain(|fault| fault.times != Some(0));
        met
    }
}

/// The HTTP status that AWS gives an error code.
pub fn usual_status(code: &str) -> u16 {
    match code {
        "RequestLimitExceeded" | "Unavailable" | "ServiceUnavailable" => 503,
        "InsufficientInstanceCapacity"
        | "InternalError"
        | "InternalFailure"
        | "InternalServerError" => 500,
        "UnauthorizedOperation" | "MissingAuthenticationToken" => 403,
        "AuthFailure" => 401,
        "DryRunOperation" => 412,
        _ => 400,
    }
}
