//! What is repeated, how, and what is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials, error::CredentialsError, future};
use halo_cloud::aws::{AwsCloud, AwsSession, Pace};
use halo_cloud::{Cloud as _, Failure, InstanceState, Tags};

use crate::script::{
    Reply, Server, Watch, clients, described, instance, launch, launched, settings,
};

#[tokio::test]
async fn a_launch_is_repeated_with_its_token() {
    let server = Server::new(|n, _| match n {
        0 => Reply::Close,
        1 => Reply::error(503, "Unavailable", "try again"),
        _ => launched(&instance("i-1", "pending", &[])),
    })
    .await;
    let clients = clients(settings(&server.url));
    let instance = clients.cloud.launch(&launch("t-1")).await.unwrap();
    assert_eq!(
        (instance.id.0.as_str(), instance.state),
        ("i-1", InstanceState::Pending)
    );
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    for again in &seen {
        assert_eq!(again.get("ClientToken"), "t-1");
        assert_eq!(again.body, seen[0].body);
    }
    assert_eq!(
        clients.watch.codes(),
        ["ConnectionLost", "Unavailable", "OK"]
    );
}

#[tokio::test]
async fn a_launch_is_given_up_after_three() {
    let server =
        Server::new(|_, _| Reply::error(500, "InternalError", "An internal error has occurred"))
            .await;
    let clients = clients(settings(&server.url));
    let error = clients.cloud.launch(&launch("t-1")).await.unwrap_err();
    assert_eq!(
        (error.failure, error.code.as_str()),
        (Failure::Server, "InternalError")
    );
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn what_a_repetition_cannot_help_is_asked_once() {
    for (status, code, failure) in [
        (500, "InsufficientInstanceCapacity", Failure::Capacity),
        (400, "Unsupported", Failure::Capacity),
        (400, "VcpuLimitExceeded", Failure::Quota),
        (403, "UnauthorizedOperation", Failure::Unauthorized),
        (400, "IdempotentParameterMismatch", Failure::TokenMismatch),
        (400, "IdempotentInstanceTerminated", Failure::TokenSpent),
        (400, "InvalidAMIID.NotFound", Failure::Invalid),
    ] {
        let server = Server::new(move |_, _| Reply::error(status, code, "no")).await;
        let clients = clients(settings(&server.url));
        let error = clients.cloud.launch(&launch("t-1")).await.unwrap_err();
        assert_eq!((error.failure, error.code.as_str()), (failure, code));
        assert_eq!(error.action, "RunInstances");
        assert_eq!(server.seen().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn reads_are_repeated_more_often() {
    let server = Server::new(|n, _| match n {
        0..3 => Reply::error(500, "InternalError", ""),
        _ => described("", ""),
    })
    .await;
    let clients = clients(settings(&server.url));
    assert_eq!(clients.cloud.instances(&Tags::new()).await, Ok(vec![]));
    assert_eq!(server.seen().len(), 4);

    let down = Server::new(|_, _| Reply::Http(502, "<html>bad gateway</html>".to_owned())).await;
    let error = crate::script::clients(settings(&down.url))
        .cloud
        .instances(&Tags::new())
        .await
        .unwrap_err();
    assert_eq!(
        (error.failure, error.code.as_str()),
        (Failure::Server, "Http502")
    );
    assert_eq!(down.seen().len(), 4);
}

#[tokio::test]
async fn throttled_calls_slow_down_and_go_through() {
    let server = Server::new(|n, _| match n {
        0..2 => Reply::error(503, "RequestLimitExceeded", "Request limit exceeded."),
        _ => launched(&instance("i-1", "pending", &[])),
    })
    .await;
    let mut slow = settings(&server.url);
    slow.paces.run.per_second = 20.0;
    let clients = clients(slow);
    assert!(clients.cloud.launch(&launch("t-1")).await.is_ok());
    assert_eq!(
        clients.watch.codes(),
        ["RequestLimitExceeded", "RequestLimitExceeded", "OK"]
    );
    // The bucket has lost its burst: the attempts after the first waited for their turn as well.
    assert!(!clients.watch.delays.lock().unwrap().is_empty());

    let always = Server::new(|_, _| Reply::error(400, "Throttling", "Rate exceeded")).await;
    let error = crate::script::clients(settings(&always.url))
        .cloud
        .launch(&launch("t-1"))
        .await
        .unwrap_err();
    assert_eq!(error.failure, Failure::Throttled);
    assert_eq!(always.seen().len(), 4);
}

#[tokio::test]
async fn who_would_wait_too_long_is_told_at_once() {
    let server = Server::new(|_, _| described("", "")).await;
    let mut settings = settings(&server.url);
    settings.paces.describe = Pace {
        burst: 1.0,
        per_second: 0.02,
    };
    let clients = clients(settings);
    assert!(clients.cloud.instances(&Tags::new()).await.is_ok());
    let error = clients.cloud.instances(&Tags::new()).await.unwrap_err();
    assert_eq!(
        (error.failure, error.code.as_str()),
        (Failure::Throttled, "PacedOut")
    );
    assert_eq!(server.seen().len(), 1);
    // Other classes have budgets of their own: the server was asked, and said something that is no launch.
    let other = clients.cloud.launch(&launch("t-1")).await.unwrap_err();
    assert_eq!(
        (other.failure, other.code.as_str()),
        (Failure::Unreachable, "MalformedAnswer")
    );
}

#[tokio::test]
async fn silence_ends() {
    let server = Server::new(|n, _| match n {
        0 => Reply::Hang,
        // Part of an answer is no answer either.
        1 => Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n<a>".to_vec()),
        _ => launched(&instance("i-1", "pending", &[])),
    })
    .await;
    let mut settings = settings(&server.url);
    settings.timing.attempt = Duration::from_millis(100);
    let clients = clients(settings);
    assert!(clients.cloud.launch(&launch("t-1")).await.is_ok());
    assert_eq!(clients.watch.codes(), ["Timeout", "ConnectionLost", "OK"]);
}

#[tokio::test]
async fn nobody_listens() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let clients = clients(settings(&url));
    let error = clients.cloud.launch(&launch("t-1")).await.unwrap_err();
    assert_eq!(
        (error.failure, error.code.as_str()),
        (Failure::Unreachable, "ConnectFailed")
    );
    assert!(
        error.message.to_lowercase().contains("refused"),
        "{}",
        error.message
    );
}

/// Hands out credentials until it is told not to; counts how often.
#[derive(Debug, Clone, Default)]
struct Source {
    asked: Arc<AtomicU32>,
    empty: bool,
}

impl ProvideCredentials for Source {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let n = self.asked.fetch_add(1, Ordering::SeqCst);
        let result: provider::Result = if self.empty {
            Err(CredentialsError::not_loaded("there are none"))
        } else {
            let expiry = SystemTime::now() + Duration::from_secs(3_600);
            Ok(Credentials::new(
                format!("AKID{n}"),
                "secret",
                None,
                Some(expiry),
                "test",
            ))
        };
        future::ProvideCredentials::ready(result)
    }
}

#[tokio::test]
async fn expired_credentials_are_fetched_anew() {
    let server = Server::new(|n, _| match n {
        0 => Reply::error(403, "ExpiredToken", "The provided token has expired."),
        _ => described("", ""),
    })
    .await;
    let source = Source::default();
    let session = AwsSession::with_credentials(
        settings(&server.url),
        source.clone(),
        Arc::new(Watch::default()),
    )
    .unwrap();
    let cloud = AwsCloud::new(&session);
    for _ in 0..3 {
        assert!(cloud.instances(&Tags::new()).await.is_ok());
    }
    assert_eq!(source.asked.load(Ordering::SeqCst), 2);
    let keys: Vec<bool> = server
        .seen()
        .iter()
        .map(|seen| seen.headers["authorization"].contains("Credential=AKID1/"))
        .collect();
    assert_eq!(keys, [false, true, true, true]);
}

#[tokio::test]
async fn keys_that_are_not_known_are_not_used_again() {
    let server = Server::new(|_, _| Reply::error(401, "AuthFailure", "not able to validate")).await;
    let source = Source::default();
    let watch = Arc::new(Watch::default());
    let session =
        AwsSession::with_credentials(settings(&server.url), source.clone(), watch).unwrap();
    let cloud = AwsCloud::new(&session);
    for n in 1..4 {
        let error = cloud.instances(&Tags::new()).await.unwrap_err();
        assert_eq!(error.failure, Failure::Unauthorized);
        assert_eq!(source.asked.load(Ordering::SeqCst), n);
    }
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn without_credentials_nothing_is_sent() {
    let server = Server::new(|_, _| Reply::Close).await;
    let source = Source {
        empty: true,
        ..Source::default()
    };
    let watch = Arc::new(Watch::default());
    let session =
        AwsSession::with_credentials(settings(&server.url), source.clone(), watch).unwrap();
    let cloud = AwsCloud::new(&session);
    for _ in 0..3 {
        let error = cloud.launch(&launch("t-1")).await.unwrap_err();
        assert_eq!(
            (error.failure, error.code.as_str()),
            (Failure::Credentials, "NoCredentials")
        );
        assert!(
            error.message.contains("there are none"),
            "{}",
            error.message
        );
    }
    assert!(server.seen().is_empty());
    // A missing source is not asked again and again.
    assert_eq!(source.asked.load(Ordering::SeqCst), 1);
}
