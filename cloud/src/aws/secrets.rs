//! SSM behind [`Secrets`].

use async_trait::async_trait;

use super::codes;
use super::session::AwsSession;
use super::ssm;
use super::words;
use crate::{CloudError, Failure, Parameter, SecretError, Secrets};

/// Secret parameters of SSM.
pub struct AwsSecrets {
    session: AwsSession,
}

impl AwsSecrets {
    /// The parameters of a session. Nothing is sent yet.
    pub fn new(session: &AwsSession) -> Self {
        Self {
            session: session.clone(),
        }
    }
}

#[async_trait]
impl Secrets for AwsSecrets {
    async fn parameter(&self, name: &str, version: Option<u32>) -> Result<Parameter, SecretError> {
        let selector = match version {
            Some(version) => format!("{name}:{version}"),
            None => name.to_owned(),
        };
        let found = ssm::get_parameter(&self.session, &selector, true)
            .await
            .map_err(|error| refusal(name, version, error))?;
        if !found.secure {
            return Err(SecretError::NotSecure(name.to_owned()));
        }
        if version.is_some_and(|asked| asked != found.version) {
            return Err(SecretError::Unavailable {
                code: codes::MALFORMED.to_owned(),
                message: format!("version {} was sent instead", found.version),
            });
        }
        Ok(Parameter {
            value: found.value,
            version: found.version,
        })
    }
}

/// What a failed call says about the parameter.
fn refusal(name: &str, version: Option<u32>, error: CloudError) -> SecretError {
    let name = name.to_owned();
    let CloudError {
        failure,
        code,
        message,
        ..
    } = error;
    match (code.as_str(), version) {
        ("ParameterNotFound", _) => SecretError::Missing(name),
        ("ParameterVersionNotFound", Some(version)) => {
            SecretError::MissingVersion { name, version }
        }
        ("ParameterVersionNotFound", None) => SecretError::Missing(name),
        ("InvalidKeyId", _) => SecretError::KeyDenied { name, message },
        (code, _) if code.starts_with("KMS") => SecretError::KeyDenied { name, message },
        _ if failure == Failure::Unauthorized => {
            if is_about_the_key(&message) {
                SecretError::KeyDenied { name, message }
            } else {
                SecretError::Denied { name, message }
            }
        }
        _ => SecretError::Unavailable { code, message },
    }
}

/// SSM says AccessDeniedException for both; only its words tell which.
fn is_about_the_key(message: &str) -> bool {
    match words::denied_action(message) {
        Some(action) => action.starts_with("kms:"),
        None => {
            let message = message.to_ascii_lowercase();
            ["ciphertext", "kms key", "master key", "kms:decrypt"]
                .iter()
                .any(|about| message.contains(about))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals() {
        let say = |code: &str, status, version, message: &str| {
            let error = CloudError {
                action: "GetParameter",
                failure: codes::failure(code, status, super::super::action::Subject::Nothing),
                code: code.to_owned(),
                message: message.to_owned(),
            };
            refusal("/halo/root", version, error).name()
        };
        let user = "User: arn:aws:sts::1:assumed-role/halo/x is not authorized to perform: ";
        for (code, status, version, message, name) in [
            ("ParameterNotFound", 400, None, "", "RootParameterMissing"),
            (
                "ParameterNotFound",
                400,
                Some(2),
                "",
                "RootParameterMissing",
            ),
            (
                "ParameterVersionNotFound",
                400,
                Some(2),
                "",
                "RootGenerationMissing",
            ),
            (
                "AccessDeniedException",
                400,
                None,
                &format!(
                    "{user}ssm:GetParameter on resource: arn:aws:ssm:us-east-2:1:parameter/kms key"
                ),
                "RootParameterDenied",
            ),
            (
                "AccessDeniedException",
                400,
                None,
                &format!("{user}kms:Decrypt on resource: arn"),
                "RootKeyDenied",
            ),
            (
                "AccessDeniedException",
                400,
                None,
                "The ciphertext refers to a customer master key that does not exist",
                "RootKeyDenied",
            ),
            (
                "AccessDeniedException",
                400,
                None,
                "",
                "RootParameterDenied",
            ),
            (
                "InvalidKeyId",
                400,
                None,
                "key is disabled",
                "RootKeyDenied",
            ),
            ("KMSInvalidStateException", 400, None, "", "RootKeyDenied"),
            ("ThrottlingException", 400, None, "", "SecretsUnavailable"),
            ("InternalServerError", 500, None, "", "SecretsUnavailable"),
            ("ExpiredTokenException", 400, None, "", "SecretsUnavailable"),
            ("ValidationException", 400, None, "", "SecretsUnavailable"),
        ] {
            assert_eq!(
                say(code, status, version, message),
                name,
                "{code} {message}"
            );
        }
    }
}
