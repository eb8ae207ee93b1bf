//! Launches: once, and only what was meant.

use futures_util::future::join_all;
use halo_aws_emulator::{
    CapacityRule, Config, Fault, FaultAction, Limits, RateLimit, SpentToken, When,
};
use halo_cloud::{Cloud as _, Failure, InstanceState, Tenancy};

use super::{IMAGE, launch, start, until, what};

#[tokio::test]
async fn what_was_asked_for_is_what_there_is() {
    let (emulator, clients) = start(Config::instant());
    let mut request = launch("t-1");
    request.tenancy = Tenancy::Dedicated;
    request.root_volume.kms_key = Some("arn:aws:kms:us-east-2:123456789012:key/k".to_owned());
    let launched = clients.cloud.launch(&request).await.unwrap();
    assert_eq!(launched.zone, "us-east-2a");
    assert_eq!(launched.instance_type, "r7iz.4xlarge");
    assert_eq!(launched.client_token, "t-1");
    assert_eq!(launched.tags, request.tags);
    assert!(launched.launched_at > 1_700_000_000);
    assert!(!launched.private_dns_name.is_empty());

    let there = emulator.instance(&launched.id.0).unwrap();
    assert_eq!(
        (there.image.as_str(), there.tenancy.as_str()),
        (IMAGE, "dedicated")
    );
    assert_eq!(there.security_groups, request.security_groups);
    assert_eq!(there.profile.as_deref(), Some("halo-node"));
    assert_eq!(
        (there.metadata.tokens.as_str(), there.metadata.hop_limit),
        ("required", 1)
    );
    assert_eq!(there.user_data, "IyEvYmluL3NoCmVjaG8gdGhlLXVzZXItZGF0YQo=");
    let root = emulator.state().volumes.into_values().next().unwrap();
    assert_eq!(
        (root.kind.as_str(), root.size, root.encrypted),
        ("gp3", 80, true)
    );
    assert_eq!(root.kms_key, request.root_volume.kms_key);
    assert_eq!(root.tags, request.tags);
    assert!(
        root.attachment
            .is_some_and(|on| on.delete_on_termination && on.device == "/dev/xvda")
    );
}

#[tokio::test]
async fn a_token_launches_once() {
    let (emulator, clients) = start(Config::instant());
    let request = launch("t-1");
    let at_once = join_all((0..5).map(|_| clients.cloud.launch(&request))).await;
    let again = clients.cloud.launch(&request).await.unwrap();
    for one in at_once {
        assert_eq!(one.unwrap().id, again.id);
    }
    assert_eq!(emulator.living().len(), 1);
    // Another token is another instance.
    assert_ne!(
        clients.cloud.launch(&launch("t-2")).await.unwrap().id,
        again.id
    );
    assert_eq!(emulator.living().len(), 2);

    let mut other = launch("t-1");
    other.instance_type = "r8i.8xlarge".to_owned();
    let mismatch = Some((
        Failure::TokenMismatch,
        "IdempotentParameterMismatch".to_owned(),
    ));
    assert_eq!(what(clients.cloud.launch(&other).await), mismatch);
    let mut other = launch("t-1");
    other.tags.insert("more".to_owned(), "1".to_owned());
    assert_eq!(what(clients.cloud.launch(&other).await), mismatch);
    assert_eq!(emulator.living().len(), 2);
}

#[tokio::test]
async fn a_launch_whose_answer_is_lost_is_not_launched_twice() {
    let (emulator, clients) = start(Config::instant());
    for (n, act) in [
        FaultAction::Cut { when: When::After },
        FaultAction::Cut { when: When::Before },
        FaultAction::Garbage { when: When::After },
        FaultAction::Error {
            code: "InternalError".to_owned(),
            message: String::new(),
            status: None,
            when: When::After,
        },
    ]
    .into_iter()
    .enumerate()
    {
        emulator.add_fault(Fault::next("RunInstances", act));
        let launched = clients
            .cloud
            .launch(&launch(&format!("t-{n}")))
            .await
            .unwrap();
        assert_eq!(emulator.living().len(), n + 1);
        assert!(emulator.instance(&launched.id.0).is_some());
        assert!(emulator.faults().is_empty());
    }
}

#[tokio::test]
async fn a_spent_token_launches_nothing() {
    for spent in [SpentToken::Refuse, SpentToken::OldInstance] {
        let mut config = Config::instant();
        config.rules.spent_token = spent;
        let (emulator, clients) = start(config);
        let launched = clients.cloud.launch(&launch("t-1")).await.unwrap();
        clients.cloud.terminate(&launched.id).await.unwrap();
        assert!(emulator.living().is_empty());
        let error = clients.cloud.launch(&launch("t-1")).await.unwrap_err();
        assert_eq!(
            (error.failure, error.code.as_str()),
            (Failure::TokenSpent, "IdempotentInstanceTerminated"),
            "{spent:?}"
        );
        assert!(emulator.living().is_empty());
        let found = clients
            .cloud
            .instance_by_token("t-1")
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (found.id, found.state),
            (launched.id, InstanceState::Terminated)
        );
    }
}

#[tokio::test]
async fn no_capacity_here_may_be_capacity_there() {
    let (emulator, clients) = start(Config::instant());
    emulator.set_capacity(CapacityRule::of("r7iz.4xlarge", "us-east-2a").slots(0));
    let none = Some((Failure::Capacity, "InsufficientInstanceCapacity".to_owned()));
    assert_eq!(what(clients.cloud.launch(&launch("t-1")).await), none);
    assert_eq!(emulator.calls_of("RunInstances").len(), 1);
    let mut there = launch("t-2");
    there.subnet_id = "subnet-0000000000000000b".to_owned();
    assert_eq!(
        clients.cloud.launch(&there).await.unwrap().zone,
        "us-east-2b"
    );
    // A type that this zone does not offer.
    let mut never = launch("t-3");
    never.instance_type = "m7g.large".to_owned();
    never.subnet_id = "subnet-0000000000000000c".to_owned();
    never.image_id = "ami-00000000000233001".to_owned();
    assert_eq!(
        what(clients.cloud.launch(&never).await),
        Some((Failure::Capacity, "Unsupported".to_owned()))
    );
    assert_eq!(emulator.living().len(), 1);
}

#[tokio::test]
async fn limits_and_mistakes_are_named() {
    let (emulator, clients) = start(Config::instant());
    emulator.set_limits(Limits {
        instances: Some(0),
        ..Limits::default()
    });
    assert_eq!(
        what(clients.cloud.launch(&launch("t-1")).await),
        Some((Failure::Quota, "InstanceLimitExceeded".to_owned()))
    );
    emulator.set_limits(Limits {
        vcpus: Some(8),
        ..Limits::default()
    });
    assert_eq!(
        what(clients.cloud.launch(&launch("t-2")).await),
        Some((Failure::Quota, "VcpuLimitExceeded".to_owned()))
    );
    emulator.set_limits(Limits::default());
    let wrong = |change: fn(&mut halo_cloud::LaunchRequest)| {
        let mut request = launch("t-3");
        change(&mut request);
        request
    };
    for request in [
        wrong(|r| r.image_id = "ami-00000000000999999".to_owned()),
        wrong(|r| r.subnet_id = "subnet-00000000000999999".to_owned()),
        wrong(|r| r.security_groups = vec!["sg-00000000000999999".to_owned()]),
        wrong(|r| r.instance_type = "r99.nano".to_owned()),
        wrong(|r| r.root_volume.size_gib = 1),
    ] {
        let error = clients.cloud.launch(&request).await.unwrap_err();
        assert_eq!(error.failure, Failure::Invalid, "{error}");
    }
    assert!(emulator.state().instances.is_empty());
}

#[tokio::test]
async fn throttling_delays_but_loses_nothing() {
    let mut config = Config::instant();
    config.rules.rate_limits = vec![RateLimit {
        actions: vec!["RunInstances".to_owned()],
        burst: 3.0,
        per_second: 50.0,
    }];
    let (emulator, clients) = start(config);
    let requests: Vec<_> = (0..12).map(|n| launch(&format!("t-{n}"))).collect();
    // Whoever is told to come back later does so, as the operator would.
    let ids = join_all(requests.iter().map(|request| {
        until(&request.client_token, || async {
            match clients.cloud.launch(request).await {
                Ok(instance) => Some(instance.id),
                Err(error) => {
                    assert_eq!(error.failure, Failure::Throttled, "{error}");
                    None
                }
            }
        })
    }))
    .await;
    let ids: std::collections::BTreeSet<_> = ids.into_iter().collect();
    assert_eq!(ids.len(), 12);
    assert_eq!(emulator.living().len(), 12);
    assert!(
        clients
            .watch
            .codes()
            .contains(&"RequestLimitExceeded".to_owned())
    );
}
