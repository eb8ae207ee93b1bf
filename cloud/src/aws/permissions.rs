//! Whether this process may do what a pool needs, asked with `DryRun`.
//!
//! EC2 answers `DryRunOperation` to what it would have done and `UnauthorizedOperation` to what it would have refused. Actions on
//! instances are asked about one of our own: a policy that permits them for tagged ones refuses them for one that does not exist.

use futures_util::future::try_join_all;

use super::action::Action;
use super::ec2;
use super::form::Form;
use super::requests;
use super::session::AwsSession;
use super::words;
use crate::{CloudError, Failure, InstanceId, LaunchRequest, NewVolume};

/// Ids of the right form that are never given out.
const NO_INSTANCE: &str = "i-00000000000000000";
const NO_VOLUME: &str = "vol-00000000000000000";

/// The IAM actions that are denied, sorted.
pub(super) async fn missing(
    session: &AwsSession,
    request: &LaunchRequest,
    instance: Option<&InstanceId>,
) -> Result<Vec<String>, CloudError> {
    let questions = questions(request, instance, session.region());
    let answers = questions
        .into_iter()
        .map(|(action, form)| async move { ask(session, action, form).await });
    let mut missing: Vec<String> = try_join_all(answers).await?.into_iter().flatten().collect();
    missing.sort();
    missing.dedup();
    Ok(missing)
}

/// What is asked. Lists are asked for real, about nothing.
fn questions(
    request: &LaunchRequest,
    instance: Option<&InstanceId>,
    region: &str,
) -> Vec<(Action, Form)> {
    let volume = NewVolume {
        client_token: request.client_token.clone(),
        zone: format!("{region}a"),
        size_gib: 1,
        snapshot: None,
        iops: None,
        throughput: None,
        kms_key: request.root_volume.kms_key.clone(),
        tags: request.tags.clone(),
    };
    let no_such = |name: &str, id: &str| [(name.to_owned(), id.to_owned())];
    let of_instance = instance.into_iter().flat_map(|instance| {
        let ends = [
            Action::StartInstances,
            Action::StopInstances,
            Action::TerminateInstances,
        ];
        ends.map(|action| {
            let form = requests::of_instances(action, std::slice::from_ref(&instance.0));
            (action, requests::dry(form))
        })
    });
    let without = [
        // With its tags: whether ec2:CreateTags is permitted with it is asked as well.
        (
            Action::RunInstances,
            requests::dry(requests::run_instances(request)),
        ),
        (
            Action::CreateVolume,
            requests::dry(requests::create_volume(&volume)),
        ),
        (
            Action::DescribeInstances,
            requests::describe_instances(&no_such("instance-id", NO_INSTANCE), None),
        ),
        (
            Action::DescribeVolumes,
            requests::describe_volumes(&no_such("volume-id", NO_VOLUME), None),
        ),
    ];
    without.into_iter().chain(of_instance).collect()
}

async fn ask(
    session: &AwsSession,
    action: Action,
    form: Form,
) -> Result<Option<String>, CloudError> {
    match ec2::call(session, action, form, |_| Ok(())).await {
        Ok(()) => Ok(None),
        Err(error) => verdict(action, error),
    }
}

/// What a failure says: the action that is denied, nothing that matters here, or that it is not known.
fn verdict(action: Action, error: CloudError) -> Result<Option<String>, CloudError> {
    if error.code == "DryRunOperation" {
        return Ok(None);
    }
    match error.failure {
        Failure::Unauthorized if error.code == "AuthFailure" => Err(error),
        // RunInstances can fail for want of iam:PassRole or ec2:CreateTags; the message says so.
        Failure::Unauthorized => Ok(Some(
            words::denied_action(&error.message)
                .unwrap_or(action.permission())
                .to_owned(),
        )),
        Failure::Throttled | Failure::Credentials | Failure::Unreachable | Failure::Server => {
            Err(error)
        }
        Failure::Capacity
        | Failure::Quota
        | Failure::Invalid
        | Failure::TokenMismatch
        | Failure::TokenSpent
        | Failure::NotFound
        | Failure::State => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::codes;
    use super::*;

    #[test]
    fn verdicts() {
        let say = |action: Action, code: &str, status, message: &str| {
            let error = CloudError {
                action: action.name(),
                failure: codes::failure(code, status, action.subject()),
                code: code.to_owned(),
                message: message.to_owned(),
            };
            verdict(action, error).map_err(|error| error.code)
        };
        let missing = |name: &str| Ok(Some(name.to_owned()));
        let run = Action::RunInstances;
        let stop = Action::StopInstances;
        assert_eq!(say(run, "DryRunOperation", 412, ""), Ok(None));
        assert_eq!(
            say(run, "UnauthorizedOperation", 403, "no"),
            missing("ec2:RunInstances")
        );
        assert_eq!(
            say(
                run,
                "UnauthorizedOperation",
                403,
                "x is not authorized to perform: iam:PassRole on resource: y"
            ),
            missing("iam:PassRole")
        );
        assert_eq!(say(stop, "InvalidInstanceID.NotFound", 400, ""), Ok(None));
        assert_eq!(
            say(stop, "UnauthorizedOperation", 403, ""),
            missing("ec2:StopInstances")
        );
        assert_eq!(say(run, "InvalidAMIID.NotFound", 400, ""), Ok(None));
        assert_eq!(say(run, "InsufficientInstanceCapacity", 500, ""), Ok(None));
        for unknown in [
            "AuthFailure",
            "RequestLimitExceeded",
            "ExpiredToken",
            "InternalError",
        ] {
            assert_eq!(
                say(run, unknown, 400, ""),
                Err(unknown.to_owned()),
                "{unknown}"
            );
        }
    }
}
