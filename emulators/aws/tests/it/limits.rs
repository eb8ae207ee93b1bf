//! Permissions, quotas and budgets of calls.

use halo_aws_emulator::{Limits, RateLimit, Rules};
use serde_json::json;

use crate::account::Account;

#[test]
fn a_denied_action_is_named() {
    for (denied, changes) in [
        ("ec2:RunInstances", &[][..]),
        ("ec2:*", &[]),
        ("*", &[]),
        ("iam:PassRole", &[("IamInstanceProfile.Name", "node")]),
        (
            "ec2:CreateTags",
            &[
                ("TagSpecification.1.ResourceType", "instance"),
                ("TagSpecification.1.Tag.1.Key", "a"),
            ],
        ),
    ] {
        let mut account = Account::new();
        account.world.set_denied(vec![denied.to_owned()]);
        assert_eq!(
            account.launch(changes).unwrap_err(),
            "UnauthorizedOperation",
            "{denied}"
        );
        // A dry run says the same.
        let mut dry = changes.to_vec();
        dry.push(("DryRun", "true"));
        assert_eq!(
            account.launch(&dry).unwrap_err(),
            "UnauthorizedOperation",
            "{denied}"
        );
        account.world.set_denied(Vec::new());
        account.launched(changes);
    }
    let mut account = Account::new();
    account
        .world
        .set_denied(vec!["iam:PassRole".to_owned(), "ec2:CreateTags".to_owned()]);
    account.launched(&[]);
}

#[test]
fn quotas_count_what_runs() {
    for (limits, code) in [
        (
            Limits {
                instances: Some(2),
                ..Limits::default()
            },
            "InstanceLimitExceeded",
        ),
        (
            Limits {
                vcpus: Some(32),
                ..Limits::default()
            },
            "VcpuLimitExceeded",
        ),
    ] {
        let mut account = Account::under(Rules {
            limits,
            ..Rules::default()
        });
        let first = account.running(&[]);
        account.running(&[]);
        assert_eq!(account.launch(&[]).unwrap_err(), code);
        account
            .call("StopInstances", &[("InstanceId.1", &first)])
            .unwrap();
        account.pass(1_000);
        account.running(&[]);
        let start = account.call("StartInstances", &[("InstanceId.1", &first)]);
        assert_eq!(start.unwrap_err(), code);
    }
    let mut account = Account::under(Rules {
        limits: Limits {
            volumes: Some(1),
            ..Limits::default()
        },
        ..Rules::default()
    });
    account.volume(&[]);
    let more = account.call(
        "CreateVolume",
        &[("AvailabilityZone", "us-east-2a"), ("Size", "1")],
    );
    assert_eq!(more.unwrap_err(), "VolumeLimitExceeded");
}

#[test]
fn a_budget_of_calls_runs_out_and_flows_back() {
    let mut account = Account::under(Rules {
        rate_limits: vec![RateLimit {
            actions: vec!["Describe*".to_owned(), "GetParameter".to_owned()],
            burst: 2.0,
            per_second: 10.0,
        }],
        ..Rules::default()
    });
    account.call("DescribeInstances", &[]).unwrap();
    account.call("DescribeSubnets", &[]).unwrap();
    let none = account.call("DescribeVolumes", &[]);
    assert_eq!(none.unwrap_err(), "RequestLimitExceeded");
    let none = account.ssm("GetParameter", json!({ "Name": "/a" }));
    assert_eq!(none.unwrap_err(), "ThrottlingException");
    // Another action has no limit.
    account.launched(&[]);
    account.pass(99);
    account.call("DescribeVolumes", &[]).unwrap_err();
    account.pass(1);
    account.call("DescribeVolumes", &[]).unwrap();
    account.call("DescribeVolumes", &[]).unwrap_err();
    account.pass(60_000);
    for _ in 0..2 {
        account.call("DescribeVolumes", &[]).unwrap();
    }
    account.call("DescribeVolumes", &[]).unwrap_err();
}

#[test]
fn actions_and_versions_that_do_not_exist() {
    let mut account = Account::new();
    assert_eq!(account.call("CreateVpc", &[]).unwrap_err(), "InvalidAction");
    let form = halo_aws_emulator::form::Form::of([
        ("Action", "DescribeSubnets"),
        ("Version", "2006-10-01"),
    ]);
    let mut random = account.random.clone();
    let mut step = halo_aws_emulator::world::Step::at(account.now, &mut random);
    let refused = account.world.ec2("DescribeSubnets", &form, &mut step);
    assert_eq!(refused.unwrap_err().code, "NoSuchVersion");
}
