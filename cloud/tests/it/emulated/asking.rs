//! Signatures, permissions, parameters.

use halo_aws_emulator::{Config, Credentials, Emulator, Fault, ParameterKind};
use halo_cloud::{Cloud as _, Failure, Image, InstanceId, SecretError, Secrets as _, Tags};

use super::{launch, start};
use crate::script;

#[tokio::test]
async fn only_the_right_key_signs() {
    let mut config = Config::instant();
    config.credentials = Some(Credentials {
        id: "AKIDEXAMPLE".to_owned(),
        secret: "another secret".to_owned(),
    });
    let emulator = Emulator::start(config).unwrap();
    let clients = script::clients(script::settings(&emulator.url()));
    let error = clients.cloud.instances(&Tags::new()).await.unwrap_err();
    assert!(
        matches!(error.failure, Failure::Unauthorized | Failure::Credentials),
        "{error}"
    );
    let error = clients
        .secrets
        .parameter("/halo/root", None)
        .await
        .err()
        .unwrap();
    assert!(
        matches!(
            error,
            SecretError::Unavailable { .. } | SecretError::Denied { .. }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn permissions_are_asked_for_without_doing_anything() {
    let (emulator, clients) = start(Config::instant());
    let own = clients.cloud.launch(&launch("own")).await.unwrap().id;
    let asked_of = async |instance: Option<&InstanceId>| {
        let cloud = &clients.cloud;
        cloud.missing_permissions(&launch("t-1"), instance).await
    };
    let missing = async || asked_of(Some(&own)).await;
    assert_eq!(missing().await, Ok(vec![]));
    for one in [
        "ec2:RunInstances",
        "ec2:StartInstances",
        "ec2:StopInstances",
        "ec2:TerminateInstances",
        "ec2:CreateVolume",
        "ec2:DescribeInstances",
        "ec2:DescribeVolumes",
        "iam:PassRole",
    ] {
        emulator.deny([one]);
        assert_eq!(missing().await, Ok(vec![one.to_owned()]));
    }
    emulator.deny(["ec2:*"]);
    assert_eq!(missing().await.unwrap().len(), 7);
    // Without an instance nothing is said of what is done to instances.
    emulator.deny(["ec2:StopInstances", "ec2:TerminateInstances"]);
    assert_eq!(asked_of(None).await, Ok(vec![]));
    let state = emulator.state();
    assert!(state.instances.len() == 1 && state.volumes.len() <= 1);
    // A probe does not use up the token of the launch that follows.
    emulator.deny(Vec::<String>::new());
    assert_eq!(missing().await, Ok(vec![]));
    assert!(clients.cloud.launch(&launch("t-1")).await.is_ok());
}

#[tokio::test]
async fn a_denied_launch_says_so() {
    let (emulator, clients) = start(Config::instant());
    emulator.deny(["ec2:RunInstances"]);
    let error = clients.cloud.launch(&launch("t-1")).await.unwrap_err();
    assert_eq!(
        (error.failure, error.code.as_str()),
        (Failure::Unauthorized, "UnauthorizedOperation")
    );
    assert!(
        error.message.contains("ec2:RunInstances"),
        "{}",
        error.message
    );
    assert!(error.message.len() < 450, "{}", error.message);
}

#[tokio::test]
async fn versions_of_a_secret() {
    let (emulator, clients) = start(Config::instant());
    let ask = async |version| {
        let found = clients.secrets.parameter("/halo/root", version).await;
        found.map(|found| (found.value.to_vec(), found.version))
    };
    assert_eq!(
        ask(None).await,
        Err(SecretError::Missing("/halo/root".to_owned()))
    );
    let values = [
        " first \"value\"\n",
        "second, of more than thirty-two bytes \u{1F511}",
    ];
    for (value, version) in values.into_iter().zip(1..) {
        let put = emulator.put_parameter("/halo/root", value, ParameterKind::SecureString);
        assert_eq!(put, version);
    }
    for (value, version) in values.into_iter().zip(1..) {
        assert_eq!(
            ask(Some(version)).await,
            Ok((value.as_bytes().to_vec(), version))
        );
    }
    assert_eq!(ask(None).await, Ok((values[1].as_bytes().to_vec(), 2)));
    assert_eq!(
        ask(Some(3)).await,
        Err(SecretError::MissingVersion {
            name: "/halo/root".to_owned(),
            version: 3
        })
    );
    for (denied, reason) in [
        ("ssm:GetParameter", "RootParameterDenied"),
        ("kms:Decrypt", "RootKeyDenied"),
    ] {
        emulator.deny([denied]);
        let error = ask(None).await.unwrap_err();
        assert_eq!(error.name(), reason);
        assert!(error.to_string().contains(denied), "{error}");
    }
    emulator.deny(Vec::<String>::new());
    emulator.put_parameter("/halo/open", "value", ParameterKind::String);
    let open = clients.secrets.parameter("/halo/open", None).await.err();
    assert_eq!(open, Some(SecretError::NotSecure("/halo/open".to_owned())));

    emulator.add_fault(Fault::error("GetParameter", "ThrottlingException").times(Some(2)));
    assert!(ask(None).await.is_ok());
    emulator.add_fault(Fault::error("GetParameter", "InternalServerError").times(None));
    let error = ask(None).await.unwrap_err();
    assert_eq!(error.name(), "SecretsUnavailable");
    emulator.clear_faults();
    emulator.remove_parameter("/halo/root");
    assert_eq!(
        ask(None).await,
        Err(SecretError::Missing("/halo/root".to_owned()))
    );
}

#[tokio::test]
async fn images_by_parameter() {
    let (emulator, clients) = start(Config::instant());
    let path = "/aws/service/eks/optimized-ami/1.33/amazon-linux-2023/x86_64/standard/recommended";
    let image = Image::Parameter(format!("{path}/image_id"));
    for _ in 0..3 {
        assert_eq!(
            clients.cloud.resolve_image(&image).await.as_deref(),
            Ok(super::IMAGE)
        );
    }
    assert_eq!(emulator.calls_of("GetParameter").len(), 1);
    // The same without its last part is a document.
    let error = clients
        .cloud
        .resolve_image(&Image::Parameter(path.to_owned()))
        .await
        .unwrap_err();
    assert_eq!(
        (error.failure, error.code.as_str()),
        (Failure::Invalid, "NotAnImage")
    );
    let error = clients
        .cloud
        .resolve_image(&Image::Parameter("/none".to_owned()))
        .await
        .unwrap_err();
    assert_eq!(
        (error.failure, error.code.as_str()),
        (Failure::Invalid, "ParameterNotFound")
    );
}
