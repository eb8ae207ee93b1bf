//! Why a call was refused, in AWS's codes and statuses.

use std::borrow::Cow;

/// A refused call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} ({status}): {message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// Such as `InsufficientInstanceCapacity`.
    pub code: Cow<'static, str>,
    /// For people.
    pub message: String,
}

impl ApiError {
    /// The caller's fault: status 400.
    pub fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::with(400, code, message)
    }

    /// Any status.
    pub fn with(
        status: u16,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
        }
    }

    /// `InvalidParameterValue`.
    pub fn value(message: impl Into<String>) -> Self {
        Self::bad("InvalidParameterValue", message)
    }

    /// `MissingParameter`.
    pub fn missing(name: &str) -> Self {
        Self::bad(
            "MissingParameter",
            format!("The request must contain the parameter {name}"),
        )
    }

    /// `DryRunOperation`: it would have succeeded.
    pub fn dry_run() -> Self {
        Self::with(
            412,
            "DryRunOperation",
            "Request would have succeeded, but DryRun flag is set.",
        )
    }
}
