//! Error codes into sorts of failure.
//!
//! The code decides, not the HTTP status: EC2 sends InsufficientInstanceCapacity with 500 and RequestLimitExceeded with 503.

use super::action::{Action, Subject};
use super::words;
use super::xml::Node;
use crate::{CloudError, Failure};

/// A code of our own: something answered, but not in the way it should.
pub(super) const MALFORMED: &str = "MalformedAnswer";

/// What sort of failure a code is, for an action that is about this subject.
pub(super) fn failure(code: &str, status: u16, subject: Subject) -> Failure {
    // Old endpoints write "Client.InvalidParameterValue".
    let code = code
        .strip_prefix("Client.")
        .or_else(|| code.strip_prefix("Server."))
        .unwrap_or(code);
    match code {
        "InsufficientInstanceCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientCapacity"
        | "InsufficientCapacityOnHost"
        | "InsufficientVolumeCapacity"
        | "InsufficientFreeAddressesInSubnet"
        | "InsufficientAddressCapacity"
        | "ReservationCapacityExceeded"
        | "UnfulfillableCapacity"
        | "SpotMaxPriceTooLow"
        // The type is not offered in this zone or with this tenancy there.
        | "Unsupported"
        | "UnsupportedHostConfiguration" => Failure::Capacity,

        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "Throttled"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "EC2ThrottledException"
        | "TooManyRequestsException"
        | "SlowDown"
        | "BandwidthLimitExceeded" => Failure::Throttled,

        "MaxSpotInstanceCountExceeded" | "SnapshotCreationPerVolumeRateExceeded" => Failure::Quota,
        // Limits of one resource, not of the account: asking for more would not help.
        "TagLimitExceeded"
        | "AttachmentLimitExceeded"
        | "SecurityGroupsPerInstanceLimitExceeded"
        | "FilterLimitExceeded" => Failure::Invalid,
        quota if quota.ends_with("LimitExceeded") || quota.ends_with("QuotaExceeded") => {
            Failure::Quota
        }

        "UnauthorizedOperation"
        | "AccessDenied"
        | "AccessDeniedException"
        | "AuthFailure"
        | "OptInRequired"
        | "Blocked"
        | "PendingVerification" => Failure::Unauthorized,

        "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException" => Failure::Credentials,

        "IdempotentParameterMismatch" => Failure::TokenMismatch,
        "IdempotentInstanceTerminated" => Failure::TokenSpent,

        "InvalidInstanceID.NotFound" | "InvalidInstanceID" => match subject {
            Subject::Instance | Subject::InstanceAndVolume => Failure::NotFound,
            _ => Failure::Invalid,
        },
        "InvalidVolume.NotFound" => match subject {
            Subject::Volume | Subject::InstanceAndVolume => Failure::NotFound,
            _ => Failure::Invalid,
        },

        "IncorrectInstanceState"
        | "IncorrectState"
        | "InvalidState"
        | "VolumeInUse"
        | "ConcurrentTagAccess"
        | "DependencyViolation"
        // Protection against stopping or ending is switched on.
        | "OperationNotPermitted" => Failure::State,

        "InternalError" | "InternalFailure" | "InternalServerError" | "ServiceUnavailable"
        | "Unavailable" | "RequestTimeout" | "RequestTimeoutException" => Failure::Server,

        _ => match status {
            401 | 403 => Failure::Unauthorized,
            429 => Failure::Throttled,
            500.. => Failure::Server,
            _ => Failure::Invalid,
        },
    }
}

/// The error that an answer of this status says.
pub(super) fn error(action: Action, status: u16, answer: Option<&Node<'_>>) -> CloudError {
    let said = answer
        .and_then(|root| root.find("Error"))
        .map(|error| (error.text_at(&["Code"]), error.text_at(&["Message"])));
    match said {
        Some((code, message)) if !words::code(code).is_empty() => {
            let code = words::code(code);
            CloudError {
                action: action.name(),
                failure: failure(&code, status, action.subject()),
                code,
                message: words::one_line(message),
            }
        }
        _ => CloudError {
            action: action.name(),
            failure: failure("", status, action.subject()),
            code: format!("Http{status}"),
            message: "the answer names no error".to_owned(),
        },
    }
}

/// The error that an answer is not what was asked for. Whether it was done is unknown.
pub(super) fn malformed(action: Action, why: &str) -> CloudError {
    CloudError {
        action: action.name(),
        failure: Failure::Unreachable,
        code: MALFORMED.to_owned(),
        message: words::one_line(why),
    }
}

#[cfg(test)]
mod tests {
    use super::super::xml;
    use super::*;

    #[test]
    fn table() {
        use Failure as F;
        use Subject as S;
        let table: &[(&str, u16, S, F)] = &[
            ("InsufficientInstanceCapacity", 500, S::Nothing, F::Capacity),
            (
                "Server.InsufficientInstanceCapacity",
                500,
                S::Nothing,
                F::Capacity,
            ),
            ("InsufficientHostCapacity", 400, S::Nothing, F::Capacity),
            (
                "InsufficientReservedInstanceCapacity",
                400,
                S::Nothing,
                F::Capacity,
            ),
            (
                "InsufficientFreeAddressesInSubnet",
                400,
                S::Nothing,
                F::Capacity,
            ),
            ("Unsupported", 400, S::Nothing, F::Capacity),
            ("UnsupportedOperation", 400, S::Instance, F::Invalid),
            ("InstanceLimitExceeded", 400, S::Nothing, F::Quota),
            ("VcpuLimitExceeded", 400, S::Nothing, F::Quota),
            ("VolumeLimitExceeded", 400, S::Nothing, F::Quota),
            ("MaxSpotInstanceCountExceeded", 400, S::Nothing, F::Quota),
            ("NetworkInterfaceLimitExceeded", 400, S::Nothing, F::Quota),
            ("TagLimitExceeded", 400, S::Nothing, F::Invalid),
            ("RequestLimitExceeded", 503, S::Nothing, F::Throttled),
            ("Client.RequestLimitExceeded", 503, S::Nothing, F::Throttled),
            ("Throttling", 400, S::Nothing, F::Throttled),
            ("ThrottlingException", 400, S::Nothing, F::Throttled),
            ("", 429, S::Nothing, F::Throttled),
            ("UnauthorizedOperation", 403, S::Nothing, F::Unauthorized),
            ("AccessDenied", 403, S::Nothing, F::Unauthorized),
            ("AuthFailure", 401, S::Nothing, F::Unauthorized),
            ("SomethingNew", 403, S::Nothing, F::Unauthorized),
            ("ExpiredToken", 403, S::Nothing, F::Credentials),
            ("RequestExpired", 400, S::Nothing, F::Credentials),
            ("SignatureDoesNotMatch", 403, S::Nothing, F::Credentials),
            (
                "IdempotentParameterMismatch",
                400,
                S::Nothing,
                F::TokenMismatch,
            ),
            (
                "IdempotentInstanceTerminated",
                400,
                S::Nothing,
                F::TokenSpent,
            ),
            ("InvalidInstanceID.NotFound", 400, S::Instance, F::NotFound),
            (
                "InvalidInstanceID.NotFound",
                400,
                S::InstanceAndVolume,
                F::NotFound,
            ),
            ("InvalidInstanceID.NotFound", 400, S::Nothing, F::Invalid),
            ("InvalidInstanceID.Malformed", 400, S::Instance, F::Invalid),
            ("InvalidVolume.NotFound", 400, S::Volume, F::NotFound),
            ("InvalidVolume.NotFound", 400, S::Instance, F::Invalid),
            ("InvalidAMIID.NotFound", 400, S::Nothing, F::Invalid),
            ("InvalidSubnetID.NotFound", 400, S::Nothing, F::Invalid),
            ("InvalidSnapshot.NotFound", 400, S::Nothing, F::Invalid),
            ("InvalidParameterValue", 400, S::Nothing, F::Invalid),
            ("IncorrectInstanceState", 400, S::Instance, F::State),
            ("IncorrectState", 400, S::Volume, F::State),
            ("VolumeInUse", 400, S::Volume, F::State),
            ("OperationNotPermitted", 400, S::Instance, F::State),
            ("InternalError", 500, S::Nothing, F::Server),
            ("ServiceUnavailable", 503, S::Nothing, F::Server),
            ("Unavailable", 503, S::Nothing, F::Server),
            ("SomethingNew", 500, S::Nothing, F::Server),
            ("SomethingNew", 400, S::Nothing, F::Invalid),
            ("", 301, S::Nothing, F::Invalid),
        ];
        for (code, status, subject, expected) in table {
            assert_eq!(
                failure(code, *status, *subject),
                *expected,
                "{code} {status} {subject:?}"
            );
        }
    }

    #[test]
    fn answers() {
        let text = br#"<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not authorized to perform this operation. User: arn:aws:sts::111122223333:assumed-role/halo/s is not authorized to perform: ec2:RunInstances on resource: arn:aws:ec2:us-east-2:111122223333:instance/* because no identity-based policy allows the ec2:RunInstances action. Encoded authorization failure message: 4OkQ7abcdefghijklmnop</Message></Error></Errors><RequestID>0f1e2d3c-0000-4a4a-9b9b-000000000000</RequestID></Response>"#;
        let root = xml::parse(text).unwrap();
        let said = error(Action::RunInstances, 403, Some(&root));
        assert_eq!(said.failure, Failure::Unauthorized);
        assert_eq!(said.code, "UnauthorizedOperation");
        assert!(
            said.message
                .ends_with("allows the ec2:RunInstances action."),
            "{}",
            said.message
        );
        assert_eq!(
            words::denied_action(&said.message),
            Some("ec2:RunInstances")
        );

        let other = xml::parse(b"<ErrorResponse xmlns=\"x\"><Error><Type>Sender</Type><Code>Throttling</Code><Message>Rate exceeded</Message></Error></ErrorResponse>").unwrap();
        let said = error(Action::DescribeInstances, 400, Some(&other));
        assert_eq!(
            (said.failure, said.message.as_str()),
            (Failure::Throttled, "Rate exceeded")
        );
        assert_eq!(
            said.to_string(),
            "DescribeInstances: throttled: Throttling: Rate exceeded"
        );

        for nothing in [
            &b"<a/>"[..],
            b"<Response><Errors><Error><Code> </Code></Error></Errors></Response>",
        ] {
            let root = xml::parse(nothing).unwrap();
            let said = error(Action::RunInstances, 502, Some(&root));
            assert_eq!(
                (said.failure, said.code.as_str()),
                (Failure::Server, "Http502")
            );
        }
        assert_eq!(
            error(Action::RunInstances, 404, None).failure,
            Failure::Invalid
        );
    }
}
