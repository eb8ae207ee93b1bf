//! What it means when AWS answers a harmless call, from what it says. Pure.

use super::outcome::Check;

/// A call that changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Who one is.
    Identity,
    /// The root secret's parameter.
    RootParameter,
    /// A dry run of DescribeInstances.
    Instances,
    /// One item that is not there.
    GetItem,
    /// The items of a session that is not there.
    Query,
    /// A put whose condition cannot be met: it asks for the permission and writes nothing.
    PutItem,
}

impl Ask {
    /// The action as IAM policies name it.
    pub const fn action(self) -> &'static str {
        match self {
            Self::Identity => "sts:GetCallerIdentity",
            Self::RootParameter => "ssm:GetParameter",
            Self::Instances => "ec2:DescribeInstances",
            Self::GetItem => "dynamodb:GetItem",
            Self::Query => "dynamodb:Query",
            Self::PutItem => "dynamodb:PutItem",
        }
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was done.
    Done,
    /// AWS says no.
    Refused {
        /// The HTTP status.
        status: u16,
        /// AWS's error code, without its namespace.
        code: String,
        /// AWS's words.
        message: String,
    },
    /// Something answered that is not AWS.
    Strange {
        /// The HTTP status.
        status: u16,
        /// How its body begins.
        body: String,
    },
    /// Nothing came back.
    Nothing(String),
}

const PERMISSIONS: &str = "docs/install.md#iam-roles";
const POLICIES: &str = "docs/aws-vpc.md#endpoint-policies";
const ROOT: &str = "docs/install.md#the-root-secret";
const TABLE: &str = "docs/install.md#the-ledgers-table";
const IDENTITY: &str = "docs/aws-vpc.md#credentials";
const PROXIES: &str = "docs/aws-vpc.md#tls-in-between";

/// Judges the answer to a call. `on` is what it was about, such as a parameter or a table; `who` the identity that asked, if it is known.
pub fn judge(ask: Ask, on: &str, who: Option<&str>, answer: &Answer) -> Check {
    let action = ask.action();
    let says = match on {
        "" => format!("{action} is permitted"),
        on => format!("{action} on {on} is permitted"),
    };
    let (status, code, message) = match answer {
        Answer::Done => return Check::ok(says, ""),
        Answer::Nothing(why) => {
            return Check::unknown(says, format!("no answer: {why}")).hint(
                "ask again; if it stays so, something in between cuts the connection",
                PROXIES,
            );
        }
        Answer::Strange { status, body } => {
            return Check::fail(
                says,
                format!("status {status}, which is no answer of AWS: {body}"),
            )
            .hint(
                "a proxy or another server answers in the place of AWS",
                PROXIES,
            );
        }
        Answer::Refused {
            status,
            code,
            message,
        } => (*status, code.as_str(), message.as_str()),
    };
    let detail = if message.is_empty() {
        code.to_owned()
    } else {
        format!("{code}: {message}")
    };
    match (ask, code) {
        (Ask::Instances, "DryRunOperation") | (Ask::PutItem, "ConditionalCheckFailedException") => Check::ok(says, ""),
        (Ask::RootParameter, "ParameterNotFound") => Check::fail(says, format!("there is no parameter {on}"))
            .hint(
                format!(
                    "aws ssm put-parameter --name {on} --type SecureString --value \"$(openssl rand -base64 48)\""
                ),
                ROOT,
            ),
        (Ask::GetItem | Ask::Query | Ask::PutItem, "ResourceNotFoundException") => {
            Check::fail(says, format!("there is no table {on} in this region and account"))
                .hint(format!("halo ledger create --ledger dynamodb:{on}@REGION"), TABLE)
        }
        _ if is_credentials(code) => Check::fail(says, detail).hint(
            "the credentials themselves are refused: expired, of another partition, or the clock of this node is wrong",
            IDENTITY,
        ),
        _ if is_denied(code, status) => denied(ask, on, who, &detail, says),
        _ if is_later(code, status) => {
            Check::unknown(says, detail).hint("AWS is busy or failed by itself: ask again", "")
        }
        _ => Check::unknown(says, detail),
    }
}

fn denied(ask: Ask, on: &str, who: Option<&str>, detail: &str, says: String) -> Check {
    let check = Check::fail(says, detail);
    let action = ask.action();
    if detail.contains("VPC endpoint policy") {
        return check.hint(
            format!("the policy of the VPC endpoint does not let {action} through: add it there"),
            POLICIES,
        );
    }
    for (words, what) in [
        (
            "service control policy",
            "a service control policy of the organization",
        ),
        (
            "resource control policy",
            "a resource control policy of the organization",
        ),
        (
            "permissions boundary",
            "the permissions boundary of the role",
        ),
        ("explicit deny", "a statement with \"Effect\": \"Deny\""),
    ] {
        if detail.contains(words) {
            return check.hint(
                format!("{what} forbids {action}: that is where to change it"),
                PERMISSIONS,
            );
        }
    }
    // The parameter's key denies in SSM's name.
    let action = if detail.contains("kms:Decrypt") {
        "kms:Decrypt"
    } else {
        action
    };
    let to = who.map_or_else(
        || "the role of this service account".to_owned(),
        ToOwned::to_owned,
    );
    let on = match (action, on) {
        ("kms:Decrypt", _) => " on the key of the parameter".to_owned(),
        (_, "") => String::new(),
        (_, on) => format!(" on {on}"),
    };
    check.hint(format!("allow {action}{on} to {to}"), PERMISSIONS)
}

fn is_denied(code: &str, status: u16) -> bool {
    let known = [
        "AccessDenied",
        "AccessDeniedException",
        "UnauthorizedOperation",
        "NotAuthorized",
        "OptInRequired",
    ];
    known.contains(&code) || (code.is_empty() && matches!(status, 401 | 403))
}

fn is_credentials(code: &str) -> bool {
    [
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    ]
    .contains(&code)
}

fn is_later(code: &str, status: u16) -> bool {
    status >= 500
        || status == 429
        || code.contains("Throttl")
        || matches!(
            code,
            "RequestLimitExceeded" | "ProvisionedThroughputExceededException"
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::outcome::Status;

    fn refused(status: u16, code: &str, message: &str) -> Answer {
        Answer::Refused {
            status,
            code: code.to_owned(),
            message: message.to_owned(),
        }
    }

    #[test]
    fn what_each_answer_means() {
        use Ask::{GetItem, Identity, Instances, PutItem, Query, RootParameter};
        let who = Some("arn:aws:sts::111122223333:assumed-role/halo/x");
        let because =
            |why| format!("User: x is not authorized to perform: ssm:GetParameter because {why}");
        // Ask, what about, answer; status, what the detail and the hint say, where it leads.
        let table: Vec<(Ask, &str, Answer, Status, &str, &str, &str)> = vec![
            (Identity, "", Answer::Done, Status::Ok, "", "", ""),
            (
                Instances,
                "",
                refused(412, "DryRunOperation", "would have succeeded"),
                Status::Ok,
                "",
                "",
                "",
            ),
            (
                PutItem,
                "t",
                refused(400, "ConditionalCheckFailedException", ""),
                Status::Ok,
                "",
                "",
                "",
            ),
            (
                GetItem,
                "t",
                refused(400, "ConditionalCheckFailedException", ""),
                Status::Unknown,
                "Conditional",
                "",
                "",
            ),
            (
                RootParameter,
                "/halo/root",
                refused(400, "ParameterNotFound", ""),
                Status::Fail,
                "no parameter /halo/root",
                "--name /halo/root --type SecureString",
                ROOT,
            ),
            (
                Query,
                "t",
                refused(400, "ResourceNotFoundException", ""),
                Status::Fail,
                "no table t",
                "halo ledger create",
                TABLE,
            ),
            (
                RootParameter,
                "/r",
                refused(
                    400,
                    "AccessDeniedException",
                    &because("no identity-based policy allows it"),
                ),
                Status::Fail,
                "AccessDeniedException",
                "allow ssm:GetParameter on /r to arn:aws:sts::111122223333:assumed-role/halo/x",
                PERMISSIONS,
            ),
            (
                RootParameter,
                "/r",
                refused(
                    400,
                    "AccessDeniedException",
                    &because("no VPC endpoint policy allows the ssm:GetParameter action"),
                ),
                Status::Fail,
                "",
                "policy of the VPC endpoint",
                POLICIES,
            ),
            (
                RootParameter,
                "/r",
                refused(
                    400,
                    "AccessDeniedException",
                    &because("no service control policy allows it"),
                ),
                Status::Fail,
                "",
                "service control policy of the organization",
                PERMISSIONS,
            ),
            (
                RootParameter,
                "/r",
                refused(
                    400,
                    "AccessDeniedException",
                    "with an explicit deny in an identity-based policy",
                ),
                Status::Fail,
                "",
                "\"Deny\"",
                PERMISSIONS,
            ),
            (
                RootParameter,
                "/r",
                refused(
                    400,
                    "AccessDeniedException",
                    "The ciphertext refers to a key; User x may not kms:Decrypt",
                ),
                Status::Fail,
                "",
                "allow kms:Decrypt on the key of the parameter",
                PERMISSIONS,
            ),
            (
                Instances,
                "",
                refused(403, "UnauthorizedOperation", "You are not authorized"),
                Status::Fail,
                "",
                "allow ec2:DescribeInstances to",
                PERMISSIONS,
            ),
            (
                Instances,
                "",
                refused(403, "", ""),
                Status::Fail,
                "",
                "allow ec2:DescribeInstances",
                PERMISSIONS,
            ),
            (
                Instances,
                "",
                refused(401, "AuthFailure", "x"),
                Status::Fail,
                "AuthFailure",
                "clock",
                IDENTITY,
            ),
            (
                Identity,
                "",
                refused(403, "ExpiredToken", "x"),
                Status::Fail,
                "",
                "credentials themselves",
                IDENTITY,
            ),
            (
                Identity,
                "",
                refused(400, "Throttling", "Rate exceeded"),
                Status::Unknown,
                "Rate exceeded",
                "ask again",
                "",
            ),
            (
                Instances,
                "",
                refused(503, "Unavailable", ""),
                Status::Unknown,
                "Unavailable",
                "ask again",
                "",
            ),
            (
                GetItem,
                "t",
                refused(400, "ValidationException", "key"),
                Status::Unknown,
                "ValidationException: key",
                "",
                "",
            ),
            (
                GetItem,
                "t",
                Answer::Strange {
                    status: 200,
                    body: "<html>".into(),
                },
                Status::Fail,
                "status 200, which is no answer of AWS: <html>",
                "a proxy",
                PROXIES,
            ),
            (
                GetItem,
                "t",
                Answer::Nothing("cut".into()),
                Status::Unknown,
                "no answer: cut",
                "ask again",
                PROXIES,
            ),
        ];
        for (ask, on, answer, status, detail, hint, anchor) in table {
            let check = judge(ask, on, who, &answer);
            assert_eq!(check.result, status, "{answer:?}");
            assert!(
                check.detail.contains(detail),
                "{answer:?}: {}",
                check.detail
            );
            assert!(check.hint.contains(hint), "{answer:?}: {}", check.hint);
            assert_eq!(
                check.hint.is_empty(),
                hint.is_empty(),
                "{answer:?}: {}",
                check.hint
            );
            assert_eq!(check.anchor, anchor, "{answer:?}");
            assert!(check.description.starts_with(ask.action()));
        }
        let nobody = judge(
            RootParameter,
            "/r",
            None,
            &refused(400, "AccessDeniedException", ""),
        );
        assert!(nobody.hint.contains("the role of this service account"));
    }
}
