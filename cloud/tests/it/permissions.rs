//! What this process may do, asked without doing it.

use halo_cloud::{Cloud as _, Failure, InstanceId};

use crate::script::{Reply, Server, clients, described, launch, settings, volume};

#[tokio::test]
async fn missing_actions_are_named() {
    let server = Server::new(|_, seen| match seen.action() {
        "RunInstances" => Reply::error(
            403,
            "UnauthorizedOperation",
            "User: x is not authorized to perform: iam:PassRole on resource: y",
        ),
        "TerminateInstances" => Reply::error(403, "UnauthorizedOperation", "no"),
        "StopInstances" => Reply::error(
            400,
            "InvalidInstanceID.NotFound",
            "The instance ID does not exist",
        ),
        "DescribeInstances" => described("", ""),
        "DescribeVolumes" => volume("vol-1", "available", None),
        _ => Reply::error(
            412,
            "DryRunOperation",
            "Request would have succeeded, but DryRun flag is set.",
        ),
    })
    .await;
    let clients = clients(settings(&server.url));
    let own = InstanceId("i-0123456789abcdef0".to_owned());
    let missing = clients
        .cloud
        .missing_permissions(&launch("t-1"), Some(&own))
        .await
        .unwrap();
    assert_eq!(missing, ["ec2:TerminateInstances", "iam:PassRole"]);
    let mut asked = server.actions();
    asked.sort();
    assert_eq!(
        asked,
        [
            "CreateVolume",
            "DescribeInstances",
            "DescribeVolumes",
            "RunInstances",
            "StartInstances",
            "StopInstances",
            "TerminateInstances",
        ]
    );
    for seen in server.seen() {
        let is_list = seen.action().starts_with("Describe");
        assert_eq!(
            seen.get("DryRun"),
            if is_list { "" } else { "true" },
            "{}",
            seen.action()
        );
    }
}

#[tokio::test]
async fn not_knowing_is_not_permission() {
    let server = Server::new(|_, _| {
        Reply::error(
            401,
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
        )
    })
    .await;
    let error = clients(settings(&server.url))
        .cloud
        .missing_permissions(&launch("t-1"), None)
        .await
        .unwrap_err();
    assert_eq!(
        (error.failure, error.code.as_str()),
        (Failure::Unauthorized, "AuthFailure")
    );
}
