//! SSM parameters: secrets and images.

use std::time::Duration;

use halo_cloud::{Cloud as _, Failure, Image, SecretError, Secrets as _};
use serde_json::{Value, json};

use crate::script::{Reply, Seen, Server, clients, settings};

fn selector(seen: &Seen) -> (String, bool) {
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    (
        body["Name"].as_str().unwrap().to_owned(),
        body["WithDecryption"].as_bool().unwrap(),
    )
}

fn parameter(kind: &str, value: &str, version: u32) -> Reply {
    let parameter = json!({ "ARN": "arn:aws:ssm:us-east-2:1:parameter/x", "DataType": "text", "LastModifiedDate": 1.795e9,
        "Name": "/x", "Type": kind, "Value": value, "Version": version });
    Reply::ok(json!({ "Parameter": parameter }).to_string())
}

#[tokio::test]
async fn the_exact_bytes_of_a_version() {
    let server = Server::new(|_, seen| match selector(seen).0.as_str() {
        "/halo/root" => parameter("SecureString", " new\n", 3),
        "/halo/root:2" => parameter("SecureString", "\u{feff}old \"ü\"\t ", 2),
        // A service that sends another version than was asked for.
        _ => parameter("SecureString", "new", 3),
    })
    .await;
    let secrets = clients(settings(&server.url)).secrets;
    let latest = secrets.parameter("/halo/root", None).await.ok().unwrap();
    assert_eq!(
        (latest.value.as_slice(), latest.version),
        (&b" new\n"[..], 3)
    );
    let second = secrets.parameter("/halo/root", Some(2)).await.ok().unwrap();
    assert_eq!(
        (second.value.as_slice(), second.version),
        ("\u{feff}old \"ü\"\t ".as_bytes(), 2)
    );
    let wrong = secrets
        .parameter("/halo/root", Some(1))
        .await
        .err()
        .unwrap();
    assert_eq!(wrong.name(), "SecretsUnavailable");

    let seen = &server.seen()[0];
    assert_eq!(selector(seen), ("/halo/root".to_owned(), true));
    assert_eq!(seen.headers["x-amz-target"], "AmazonSSM.GetParameter");
    assert_eq!(seen.headers["content-type"], "application/x-amz-json-1.1");
    assert!(seen.headers["authorization"].contains("/us-east-2/ssm/aws4_request"));
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let server = Server::new(|_, seen| {
        let refuse = |kind: &str, message: &str| {
            Reply::Http(
                400,
                json!({ "__type": kind, "message": message }).to_string(),
            )
        };
        match selector(seen).0.as_str() {
            "/open" => parameter("String", "readable by all", 1),
            "/none" => refuse("ParameterNotFound", ""),
            "/old:9" => refuse("ParameterVersionNotFound", ""),
            "/denied" => refuse(
                "AccessDeniedException",
                "User: x is not authorized to perform: ssm:GetParameter on resource: y",
            ),
            "/key" => refuse(
                "AccessDeniedException",
                "User: x is not authorized to perform: kms:Decrypt on resource: y",
            ),
            "/disabled" => refuse("InvalidKeyId", "arn:aws:kms:us-east-2:1:key/x is disabled."),
            _ => refuse("ThrottlingException", "Rate exceeded"),
        }
    })
    .await;
    let secrets = clients(settings(&server.url)).secrets;
    let ask = async |name: &str, version| secrets.parameter(name, version).await.err().unwrap();
    assert_eq!(
        ask("/open", None).await,
        SecretError::NotSecure("/open".to_owned())
    );
    assert_eq!(
        ask("/none", None).await,
        SecretError::Missing("/none".to_owned())
    );
    assert_eq!(
        ask("/old", Some(9)).await,
        SecretError::MissingVersion {
            name: "/old".to_owned(),
            version: 9
        }
    );
    for (name, reason) in [
        ("/denied", "RootParameterDenied"),
        ("/key", "RootKeyDenied"),
        ("/disabled", "RootKeyDenied"),
        ("/throttled", "SecretsUnavailable"),
    ] {
        assert_eq!(ask(name, None).await.name(), reason, "{name}");
    }
    assert!(!format!("{:?}", ask("/open", None).await).contains("readable"));
}

#[tokio::test]
async fn images_are_remembered() {
    let server = Server::new(|n, _| match n {
        0 => parameter("String", "ami-0123456789abcdef0\n", 1),
        _ => parameter("String", "ami-1", 2),
    })
    .await;
    let cloud = clients(settings(&server.url)).cloud;
    let image = Image::Parameter("/aws/service/eks/image_id".to_owned());
    for _ in 0..3 {
        assert_eq!(
            cloud.resolve_image(&image).await.as_deref(),
            Ok("ami-0123456789abcdef0")
        );
    }
    assert_eq!(server.seen().len(), 1);
    // Not decrypted: a public parameter needs no key.
    assert_eq!(
        selector(&server.seen()[0]),
        ("/aws/service/eks/image_id".to_owned(), false)
    );
    assert_eq!(
        cloud
            .resolve_image(&Image::Id("ami-9".to_owned()))
            .await
            .as_deref(),
        Ok("ami-9")
    );
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_remembered_image_outlives_an_outage() {
    let server = Server::new(|n, _| match n {
        0 => parameter("String", "ami-1", 1),
        1..5 => Reply::Http(500, "{}".to_owned()),
        5 => parameter("String", "not an image", 1),
        _ => Reply::Http(400, json!({ "__type": "ParameterNotFound" }).to_string()),
    })
    .await;
    let mut settings = settings(&server.url);
    settings.timing.image_age = Duration::ZERO;
    let cloud = clients(settings).cloud;
    let image = Image::Parameter("/image".to_owned());
    let ask = async || {
        cloud
            .resolve_image(&image)
            .await
            .map_err(|error| (error.failure, error.code))
    };
    assert_eq!(ask().await.as_deref(), Ok("ami-1"));
    assert_eq!(ask().await.as_deref(), Ok("ami-1"));
    assert_eq!(server.seen().len(), 5);
    assert_eq!(
        ask().await,
        Err((Failure::Invalid, "NotAnImage".to_owned()))
    );
    assert_eq!(
        ask().await,
        Err((Failure::Invalid, "ParameterNotFound".to_owned()))
    );
}
