//! Secret parameters.

use zeroize::Zeroizing;

/// One version of a secret parameter. Wiped on drop; has no `Debug`.
pub struct Parameter {
    /// The exact bytes of the value.
    pub value: Zeroizing<Vec<u8>>,
    /// Which version it is, from 1.
    pub version: u32,
}

/// Why a parameter could not be read. Never says what its value is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There is no parameter of this name.
    #[error("the parameter {0} does not exist; create it as a SecureString of at least 32 bytes")]
    Missing(String),
    /// The parameter exists, this version of it does not.
    #[error("the parameter {name} has no version {version}")]
    MissingVersion {
        /// The parameter's name.
        name: String,
        /// The version that was asked for.
        version: u32,
    },
    /// The parameter is not a SecureString, so its value lies open.
    #[error("the parameter {0} is not a SecureString; store it again as one, with a new value")]
    NotSecure(String),
    /// An IAM policy denies reading it.
    #[error(
        "reading the parameter {name} is not permitted: allow ssm:GetParameter on it ({message})"
    )]
    Denied {
        /// The parameter's name.
        name: String,
        /// The cloud's words.
        message: String,
    },
    /// The KMS key that it is encrypted with cannot be used.
    #[error(
        "the KMS key of the parameter {name} denies decryption: allow kms:Decrypt on it ({message})"
    )]
    KeyDenied {
        /// The parameter's name.
        name: String,
        /// The cloud's words.
        message: String,
    },
    /// The service asks for fewer calls, fails or does not answer.
    #[error("the parameter store does not answer ({code}: {message})")]
    Unavailable {
        /// The service's error code, or a name of our own if nothing answered.
        code: String,
        /// The service's words.
        message: String,
    },
}

impl SecretError {
    /// A stable PascalCase name, for reasons, labels and events.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Missing(_) => "RootParameterMissing",
            Self::MissingVersion { .. } => "RootGenerationMissing",
            Self::NotSecure(_) => "RootParameterNotSecure",
            Self::Denied { .. } => "RootParameterDenied",
            Self::KeyDenied { .. } => "RootKeyDenied",
            Self::Unavailable { .. } => "SecretsUnavailable",
        }
    }
}
