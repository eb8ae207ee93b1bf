//! Why a call of the API server failed.

use std::time::Duration;

use kube::core::Status;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API server refused.
    #[error("{action} {object}: {message}", message = .status.message)]
    Refused {
        /// Verb and kind.
        action: &'static str,
        /// Namespace and name.
        object: String,
        /// Its answer.
        status: Box<Status>,
    },
    /// Nothing answered in time; whether it was done is unknown.
    #[error("{action} {object}: the API server did not answer within {after:?}")]
    Timeout {
        /// Verb and kind.
        action: &'static str,
        /// Namespace and name.
        object: String,
        /// The deadline.
        after: Duration,
    },
    /// The connection failed, or the answer was not one; whether it was done is unknown.
    #[error("{action} {object}: no usable answer from the API server")]
    Transport {
        /// Verb and kind.
        action: &'static str,
        /// Namespace and name.
        object: String,
        /// What failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The object cannot be written as JSON, or has no name.
    #[error("{action} {object}: {why}")]
    Malformed {
        /// Verb and kind.
        action: &'static str,
        /// Namespace and name.
        object: String,
        /// Why.
        why: String,
    },
    /// This process does not lead any more; nothing was sent.
    #[error("{action} {object}: not the leader")]
    NotLeader {
        /// Verb and kind.
        action: &'static str,
        /// Namespace and name.
        object: String,
    },
}

impl WriteError {
    /// A stable PascalCase name, for reasons, labels and events.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Refused { status, .. } => match (status.code, status.reason.as_str()) {
                (409, "AlreadyExists") => "AlreadyExists",
                (409, _) => "Conflict",
                (404, _) => "NotFound",
                (403, _) if status.message.contains("exceeded quota") => "QuotaExceeded",
                (403, _) if status.message.contains("being terminated") => "NamespaceTerminating",
                (403 | 401, _) => "ApiServerForbidden",
                (422 | 400, _) => "ApiServerInvalid",
                (429, _) => "ApiServerBusy",
                _ => "ApiServerFailed",
            },
            Self::Timeout { .. } | Self::Transport { .. } => "ApiServerUnreachable",
            Self::Malformed { .. } => "Malformed",
            Self::NotLeader { .. } => "NotLeader",
        }
    }

    /// The API server's answer, if there was one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Refused { status, .. } => Some(status),
            _ => None,
        }
    }

    /// Another wrote in between: read again, then decide again.
    pub fn is_conflict(&self) -> bool {
        self.name() == "Conflict"
    }

    /// There is no such object.
    pub fn is_not_found(&self) -> bool {
        self.name() == "NotFound"
    }

    /// An object of the name is there already.
    pub fn is_already_exists(&self) -> bool {
        self.name() == "AlreadyExists"
    }

    /// RBAC or an admission plugin denies it.
    pub fn is_forbidden(&self) -> bool {
        self.status().is_some_and(|status| status.code == 403)
    }

    /// The API server does not take the object as it is.
    pub fn is_invalid(&self) -> bool {
        self.name() == "ApiServerInvalid"
    }

    /// Whether it was done is unknown.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Transport { .. })
    }
}
