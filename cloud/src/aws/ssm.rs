//! SSM GetParameter: JSON 1.1.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::action::Action;
use super::codes;
use super::json;
use super::session::AwsSession;
use super::wire::Answer;
use super::words;
use crate::CloudError;

/// A parameter as it was found. No `Debug`: it may be a secret.
pub(super) struct Found {
    pub(super) secure: bool,
    pub(super) version: u32,
    pub(super) value: Zeroizing<Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope<'a> {
    #[serde(borrow)]
    parameter: Fields<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Fields<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    version: u32,
    /// Left as it stands, so that the library makes no copy of it.
    #[serde(borrow)]
    value: &'a RawValue,
}

#[derive(Deserialize)]
struct Refusal<'a> {
    #[serde(borrow, rename = "__type", default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default, alias = "Message")]
    message: Cow<'a, str>,
}

/// Reads a parameter by `name` or `name:version`.
pub(super) async fn get_parameter(
    session: &AwsSession,
    selector: &str,
    decrypt: bool,
) -> Result<Found, CloudError> {
    let body = serde_json::json!({ "Name": selector, "WithDecryption": decrypt });
    session
        .call(Action::GetParameter, Bytes::from(body.to_string()), read)
        .await
}

fn read(answer: &Answer) -> Result<Found, CloudError> {
    if !answer.is_success() {
        return Err(refused(answer));
    }
    // The library's words could quote the answer, so they are not passed on.
    let malformed = |why| codes::malformed(Action::GetParameter, why);
    let envelope: Envelope<'_> = serde_json::from_slice(&answer.body)
        .map_err(|_| malformed("the answer is not a parameter"))?;
    let fields = envelope.parameter;
    let value = json::string(fields.value.get())
        .ok_or_else(|| malformed("the parameter's value is not a string"))?;
    Ok(Found {
        secure: fields.r#type == "SecureString",
        version: fields.version,
        value,
    })
}

fn refused(answer: &Answer) -> CloudError {
    let refusal: Option<Refusal<'_>> = serde_json::from_slice(&answer.body).ok();
    let (kind, message) = refusal.map_or((Cow::default(), Cow::default()), |r| (r.kind, r.message));
    let kind = match &answer.error_type {
        Some(header) if kind.is_empty() => header.as_str(),
        _ => &kind,
    };
    // "com.amazonaws.ssm#ParameterNotFound" or "ParameterNotFound:http://..."
    let kind = kind.rsplit_once('#').map_or(kind, |(_, name)| name);
    let kind = kind.split_once(':').map_or(kind, |(name, _)| name);
    let mut code = words::code(kind);
    let failure = codes::failure(&code, answer.status, Action::GetParameter.subject());
    if code.is_empty() {
        code = format!("Http{}", answer.status);
    }
    CloudError {
        action: Action::GetParameter.name(),
        failure,
        code,
        message: words::one_line(&message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Failure;

    fn answer(status: u16, error_type: Option<&str>, body: &str) -> Answer {
        Answer {
            status,
            error_type: error_type.map(str::to_owned),
            body: Zeroizing::new(body.as_bytes().to_vec()),
        }
    }

    #[test]
    fn a_parameter() {
        let body = r#"{"Parameter":{"ARN":"arn:aws:ssm:us-east-2:1:parameter/halo/root","DataType":"text","LastModifiedDate":1.795262405E9,
            "Name":"/halo/root","Selector":":3","Type":"SecureString","Value":" a\u00fc\"\n ","Version":3}}"#;
        let found = read(&answer(200, None, body)).ok().unwrap();
        assert!(found.secure);
        assert_eq!(found.version, 3);
        assert_eq!(found.value.as_slice(), " aü\"\n ".as_bytes());
        let open = body.replace("SecureString", "String");
        assert!(!read(&answer(200, None, &open)).ok().unwrap().secure);
    }

    #[test]
    fn what_is_not_a_parameter() {
        for bad in [
            "",
            "{}",
            "<xml/>",
            r#"{"Parameter":{}}"#,
            r#"{"Parameter":{"Type":"SecureString","Value":"topsecret","Version":-1}}"#,
            r#"{"Parameter":{"Type":"SecureString","Value":7,"Version":1}}"#,
            r#"{"Parameter":{"Type":"SecureString","Value":"\ud800topsecret","Version":1}}"#,
            r#"{"Parameter":{"Type":"SecureString","Value":"topsecret","Version":1}"#,
        ] {
            let error = read(&answer(200, None, bad)).err().unwrap();
            assert_eq!(
                (error.failure, error.code.as_str()),
                (Failure::Unreachable, codes::MALFORMED),
                "{bad}"
            );
            assert!(!error.message.contains("topsecret"), "{error}");
        }
    }

    #[test]
    fn refusals() {
        for (status, header, body, failure, code, message) in [
            (
                400,
                None,
                r#"{"__type":"ParameterNotFound"}"#,
                Failure::Invalid,
                "ParameterNotFound",
                "",
            ),
            (
                400,
                None,
                r#"{"__type":"com.amazonaws.ssm#ThrottlingException","message":"Rate exceeded"}"#,
                Failure::Throttled,
                "ThrottlingException",
                "Rate exceeded",
            ),
            (
                400,
                Some("AccessDeniedException:http://internal/"),
                r#"{"Message":"no"}"#,
                Failure::Unauthorized,
                "AccessDeniedException",
                "no",
            ),
            (
                400,
                None,
                r#"{"__type":"ExpiredTokenException","message":"old"}"#,
                Failure::Credentials,
                "ExpiredTokenException",
                "old",
            ),
            (500, None, "oops", Failure::Server, "Http500", ""),
            (404, None, "", Failure::Invalid, "Http404", ""),
        ] {
            let error = refused(&answer(status, header, body));
            assert_eq!(
                (error.failure, error.code.as_str(), error.message.as_str()),
                (failure, code, message),
                "{body}"
            );
        }
    }
}
