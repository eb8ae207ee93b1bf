//! Errors as people see them.

use halo_cloud::aws::{AwsSession, AwsSettings, NoObserver, SetupError};
use halo_cloud::{Cloud as _, Failure, InstanceId, VolumeId};
use std::sync::Arc;

use crate::script::{Reply, Server, clients, instance, launch, launched, settings};

#[tokio::test]
async fn a_denied_launch_says_what_to_allow_and_nothing_else() {
    let blob = "4OkQ7Zzx".repeat(100);
    let message = format!(
        "You are not authorized to perform this operation. User: arn:aws:sts::111122223333:assumed-role/halo/s is not authorized to perform: \
         ec2:RunInstances on resource: arn:aws:ec2:us-east-2:111122223333:instance/*\nbecause no identity-based policy allows it. \
         Encoded authorization failure message: {blob}"
    );
    let server =
        Server::new(move |_, _| Reply::error(403, "UnauthorizedOperation", &message)).await;
    let error = clients(settings(&server.url))
        .cloud
        .launch(&launch("t-1"))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with(
            "RunInstances: not permitted: UnauthorizedOperation: You are not authorized"
        ),
        "{text}"
    );
    assert!(
        text.ends_with("because no identity-based policy allows it."),
        "{text}"
    );
    assert!(!text.contains('\n') && !text.contains("4OkQ7"), "{text}");
}

#[tokio::test]
async fn not_found_depends_on_what_was_asked() {
    let server = Server::new(|_, seen| match seen.action() {
        "AttachVolume" | "DeleteVolume" => Reply::error(
            400,
            "InvalidVolume.NotFound",
            "The volume 'vol-1' does not exist.",
        ),
        "RunInstances" => Reply::error(
            400,
            "InvalidSubnetID.NotFound",
            "The subnet ID 'subnet-1' does not exist",
        ),
        _ => Reply::error(
            400,
            "InvalidInstanceID.NotFound",
            "The instance ID 'i-1' does not exist",
        ),
    })
    .await;
    let cloud = clients(settings(&server.url)).cloud;
    let (instance, volume) = (InstanceId("i-1".to_owned()), VolumeId("vol-1".to_owned()));
    let failure =
        |result: Result<(), halo_cloud::CloudError>| result.err().map(|error| error.failure);
    assert_eq!(
        failure(cloud.start(&instance).await),
        Some(Failure::NotFound)
    );
    assert_eq!(
        failure(cloud.stop(&instance).await),
        Some(Failure::NotFound)
    );
    // What is to end and is not there has ended.
    assert_eq!(failure(cloud.terminate(&instance).await), None);
    assert_eq!(failure(cloud.delete_volume(&volume).await), None);
    assert_eq!(
        failure(cloud.attach_volume(&volume, &instance, "/dev/sdf").await),
        Some(Failure::NotFound)
    );
    assert_eq!(
        failure(cloud.launch(&launch("t-1")).await.map(drop)),
        Some(Failure::Invalid)
    );
}

#[tokio::test]
async fn a_spent_token_may_come_as_an_ended_instance() {
    for state in ["terminated", "shutting-down"] {
        let server = Server::new(move |_, _| launched(&instance("i-1", state, &[]))).await;
        let error = clients(settings(&server.url))
            .cloud
            .launch(&launch("t-1"))
            .await
            .unwrap_err();
        assert_eq!(error.failure, Failure::TokenSpent, "{state}");
        assert!(error.message.contains("i-1"), "{}", error.message);
    }
}

#[tokio::test]
async fn settings_are_checked_before_anything_is_sent() {
    let new = |settings| AwsSession::new(settings, Arc::new(NoObserver)).map(drop);
    let bad = new(AwsSettings::new("US EAST", "test"));
    assert!(matches!(bad, Err(SetupError::Region(_))), "{bad:?}");
    let told = |endpoint: &str| AwsSettings {
        ssm_endpoint: Some(endpoint.to_owned()),
        ..settings("http://127.0.0.1:1")
    };
    let bad = new(told("ssm.example"));
    assert!(matches!(bad, Err(SetupError::Endpoint(_))), "{bad:?}");
    assert!(new(told("http://127.0.0.1:1/path")).is_ok());
}
