//! Why a cloud did not do what it was asked, sorted by what one can do about it.

/// A call that failed: what the cloud was asked, its own code and words, and the sort of failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action}: {failure}: {code}: {message}")]
pub struct CloudError {
    /// The API action, such as `RunInstances`.
    pub action: &'static str,
    /// What sort of failure it is.
    pub failure: Failure,
    /// The cloud's error code, such as `InsufficientInstanceCapacity`; a name of our own if nothing answered.
    pub code: String,
    /// The cloud's words, in one line and without secrets.
    pub message: String,
}

/// What sort of failure a call met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Failure {
    /// No capacity for this type in this zone now; another type or zone may have some.
    #[error("no capacity")]
    Capacity,
    /// An account limit (instances, vCPUs, volumes); a person has to ask for more.
    #[error("an account limit is reached")]
    Quota,
    /// The cloud asks for fewer calls.
    #[error("throttled")]
    Throttled,
    /// An IAM policy denies it; the code or the message names the action.
    #[error("not permitted")]
    Unauthorized,
    /// The request names something that does not exist or cannot be, such as an image, a subnet or a type.
    #[error("the request is not valid")]
    Invalid,
    /// The client token was used with other parameters: an earlier request with it did something else.
    #[error("the client token belongs to another request")]
    TokenMismatch,
    /// The client token launched an instance that has ended.
    #[error("the client token's instance has ended")]
    TokenSpent,
    /// The named instance or volume does not exist.
    #[error("not found")]
    NotFound,
    /// The instance or volume is in a state that does not allow it now; later it may be.
    #[error("not possible in this state")]
    State,
    /// No credentials could be found or they have expired.
    #[error("no usable credentials")]
    Credentials,
    /// Nothing answered in time, or the answer was not one; whether it was done is unknown.
    #[error("no answer")]
    Unreachable,
    /// The cloud failed by itself; whether it was done is unknown.
    #[error("the cloud failed")]
    Server,
}

impl Failure {
    /// A stable PascalCase name, for reasons, labels and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Capacity => "InsufficientCapacity",
            Self::Quota => "QuotaReached",
            Self::Throttled => "Throttled",
            Self::Unauthorized => "NotPermitted",
            Self::Invalid => "InvalidRequest",
            Self::TokenMismatch => "TokenMismatch",
            Self::TokenSpent => "TokenSpent",
            Self::NotFound => "NotFound",
            Self::State => "WrongState",
            Self::Credentials => "NoCredentials",
            Self::Unreachable => "CloudUnreachable",
            Self::Server => "CloudFailed",
        }
    }
}
