//! Describe calls: filters, pages, tags, the catalogue.

use halo_aws_emulator::{Limits, Rules};

use crate::account::Account;

fn filter<'a>(name: &'a str, value: &'a str) -> [(&'a str, &'a str); 2] {
    [("Filter.1.Name", name), ("Filter.1.Value.1", value)]
}

const TAGS: [(&str, &str); 3] = [
    ("TagSpecification.1.ResourceType", "instance"),
    ("TagSpecification.1.Tag.1.Key", "halo.howdify.io/cluster"),
    ("TagSpecification.1.Tag.1.Value", "east"),
];

#[test]
fn instances_are_found_by_what_they_are() {
    let mut account = Account::new();
    let mut launch = TAGS.to_vec();
    launch.extend([("ClientToken", "one"), ("Placement.Tenancy", "dedicated")]);
    let id = account.running(&launch);
    account.running(&[("InstanceType", "m7i.large")]);
    for (name, value) in [
        ("tag:halo.howdify.io/cluster", "east"),
        ("tag:halo.howdify.io/cluster", "e*t"),
        ("tag-key", "halo.howdify.io/cluster"),
        ("client-token", "one"),
        ("tenancy", "dedicated"),
        ("instance-type", "r7iz.*"),
        ("instance-id", &id),
        ("private-ip-address", "10.0.16.4"),
    ] {
        let found = account
            .call("DescribeInstances", &filter(name, value))
            .unwrap();
        assert_eq!(found.all("instanceId"), [id.as_str()], "{name} {value}");
    }
    for (name, value) in [
        ("tag:halo.howdify.io/cluster", "west"),
        ("tag:other", "*"),
        ("instance-state-name", "stopped"),
        ("availability-zone", "us-east-2b"),
    ] {
        let found = account
            .call("DescribeInstances", &filter(name, value))
            .unwrap();
        assert!(found.all("instanceId").is_empty(), "{name} {value}");
    }
    let mut two = filter("instance-type", "m7i.large").to_vec();
    two.extend([
        ("Filter.1.Value.2", "r7iz.4xlarge"),
        ("Filter.2.Name", "instance-state-code"),
        ("Filter.2.Value.1", "16"),
    ]);
    let found = account.call("DescribeInstances", &two).unwrap();
    assert_eq!(found.all("instanceId").len(), 2);
}

#[test]
fn an_unknown_filter_is_refused_also_by_an_empty_account() {
    let mut account = Account::new();
    for action in [
        "DescribeInstances",
        "DescribeInstanceStatus",
        "DescribeInstanceTypes",
        "DescribeInstanceTypeOfferings",
        "DescribeSubnets",
        "DescribeSecurityGroups",
        "DescribeImages",
        "DescribeVolumes",
        "DescribeTags",
    ] {
        let refused = account.call(action, &filter("colour", "blue"));
        assert_eq!(refused.unwrap_err(), "InvalidParameterValue", "{action}");
        let dry = account.call(action, &[("DryRun", "true")]);
        assert_eq!(dry.unwrap_err(), "DryRunOperation", "{action}");
        account.call(action, &[]).unwrap();
    }
    let empty = account.call("DescribeInstances", &[("Filter.1.Name", "vpc-id")]);
    assert_eq!(empty.unwrap_err(), "InvalidParameterValue");
}

#[test]
fn pages_hold_everything_once() {
    for (largest, asked) in [(None, Some("5")), (Some(2), None), (Some(2), Some("5"))] {
        let mut account = Account::under(Rules {
            limits: Limits {
                page: largest,
                ..Limits::default()
            },
            ..Rules::default()
        });
        let mut launched: Vec<String> = (0..7).map(|_| account.running(&[])).collect();
        launched.sort();
        let (mut found, mut token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let mut pairs = vec![("NextToken", token.as_str())];
            pairs.extend(asked.map(|asked| ("MaxResults", asked)));
            let page = account.call("DescribeInstances", &pairs).unwrap();
            let ids = page.all("instanceId");
            assert!(ids.len() <= largest.unwrap_or(5));
            found.extend(ids.iter().map(|id| (*id).to_owned()));
            pages += 1;
            match page.all("nextToken").first() {
                Some(next) => token = (*next).to_owned(),
                None => break,
            }
        }
        assert_eq!(pages, if largest.is_some() { 4 } else { 2 });
        found.sort();
        assert_eq!(found, launched);
    }
}

#[test]
fn pages_are_asked_for_properly() {
    let mut account = Account::new();
    let id = account.running(&[]);
    for (pairs, code) in [
        (&[("MaxResults", "4")][..], "InvalidParameterValue"),
        (&[("MaxResults", "1001")], "InvalidParameterValue"),
        (
            &[("MaxResults", "5"), ("InstanceId.1", &id)],
            "InvalidParameterCombination",
        ),
        (&[("NextToken", "nonsense")], "InvalidNextToken"),
    ] {
        assert_eq!(
            account.call("DescribeInstances", pairs).unwrap_err(),
            code,
            "{pairs:?}"
        );
    }
}

#[test]
fn statuses_are_of_what_runs_unless_all_are_asked_for() {
    let mut account = Account::new();
    let running = account.running(&[]);
    let pending = account.launched(&[]);
    account.pass(400);
    let some = account.call("DescribeInstanceStatus", &[]).unwrap();
    assert_eq!(some.all("instanceId"), [running.as_str()]);
    assert_eq!(some.one("instanceStatus/status"), "ok");
    let all = account
        .call("DescribeInstanceStatus", &[("IncludeAllInstances", "true")])
        .unwrap();
    let mut ids = [running.as_str(), &pending];
    ids.sort_unstable();
    assert_eq!(all.all("instanceId"), ids);
}

#[test]
fn the_catalogue_says_what_is_offered_where() {
    let mut account = Account::new();
    let types = account
        .call(
            "DescribeInstanceTypes",
            &[
                ("InstanceType.1", "r7iz.4xlarge"),
                ("InstanceType.2", "r8i.8xlarge"),
            ],
        )
        .unwrap();
    assert_eq!(types.all("defaultVCpus"), ["16", "32"]);
    assert_eq!(types.all("sizeInMiB"), ["131072", "262144"]);
    let unknown = account.call("DescribeInstanceTypes", &[("InstanceType.1", "z9.mega")]);
    assert_eq!(unknown.unwrap_err(), "InvalidInstanceType");
    let mut offered = filter("instance-type", "m7g.large").to_vec();
    offered.push(("LocationType", "availability-zone"));
    let offered = account
        .call("DescribeInstanceTypeOfferings", &offered)
        .unwrap();
    assert_eq!(offered.all("location"), ["us-east-2a", "us-east-2b"]);
    let subnets = account
        .call(
            "DescribeSubnets",
            &filter("vpc-id", "vpc-00000000000000001"),
        )
        .unwrap();
    assert_eq!(
        subnets.all("subnetId"),
        [
            "subnet-0000000000000000a",
            "subnet-0000000000000000b",
            "subnet-0000000000000000c"
        ]
    );
    let groups = account
        .call(
            "DescribeSecurityGroups",
            &filter("group-name", "halo-nodes"),
        )
        .unwrap();
    assert_eq!(groups.all("groupId"), ["sg-00000000000000001"]);
    let images = account
        .call("DescribeImages", &[("ImageId.1", "ami-00000000000133001")])
        .unwrap();
    assert_eq!(images.one("rootDeviceName"), "/dev/xvda");
    let unknown = account.call("DescribeImages", &[("ImageId.1", "ami-0123456789abcdef0")]);
    assert_eq!(unknown.unwrap_err(), "InvalidAMIID.NotFound");
}

#[test]
fn every_id_of_the_default_catalogue_is_well_formed_and_every_image_can_be_launched() {
    let account = Account::new();
    let catalogue = account.world.rules.catalogue.clone();
    let ids = catalogue
        .images
        .iter()
        .flat_map(|image| [&image.id, &image.snapshot])
        .chain(
            catalogue
                .subnets
                .iter()
                .flat_map(|subnet| [&subnet.id, &subnet.vpc]),
        )
        .chain(catalogue.security_groups.iter().map(|group| &group.id))
        .chain(catalogue.snapshots.iter().map(|snapshot| &snapshot.id));
    for id in ids {
        let (_, hex) = id.split_once('-').unwrap();
        assert_eq!(hex.len(), 17, "{id}");
        assert!(hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    }
    for image in &catalogue.images {
        let arm = image.architecture == "arm64";
        let kind = if arm { "m7g.large" } else { "m7i.large" };
        Account::new().launched(&[("ImageId", &image.id), ("InstanceType", kind)]);
    }
}

#[test]
fn tags_are_added_and_described() {
    let mut account = Account::new();
    let id = account.running(&TAGS);
    let add = [
        ("ResourceId.1", id.as_str()),
        ("ResourceId.2", "subnet-0000000000000000a"),
        ("Tag.1.Key", "later"),
        ("Tag.1.Value", "yes"),
    ];
    account.call("CreateTags", &add).unwrap();
    let own = account
        .call("DescribeTags", &filter("resource-id", &id))
        .unwrap();
    assert_eq!(
        own.all("tagSet/item/key"),
        ["halo.howdify.io/cluster", "later"]
    );
    let later = account
        .call("DescribeTags", &filter("tag:later", "yes"))
        .unwrap();
    assert_eq!(later.all("resourceType"), ["instance", "subnet"]);
    let subnet = account
        .call("DescribeSubnets", &filter("tag:later", "yes"))
        .unwrap();
    assert_eq!(subnet.one("tagSet/item/value"), "yes");
    for (pairs, code) in [
        (&[("ResourceId.1", id.as_str())][..], "MissingParameter"),
        (&[("Tag.1.Key", "a")], "MissingParameter"),
        (
            &[("ResourceId.1", &id), ("Tag.1.Key", "aws:a")],
            "InvalidParameterValue",
        ),
        (
            &[("ResourceId.1", "i-0123456789abcdef0"), ("Tag.1.Key", "a")],
            "InvalidInstanceID.NotFound",
        ),
        (
            &[("ResourceId.1", "thing"), ("Tag.1.Key", "a")],
            "InvalidID",
        ),
    ] {
        assert_eq!(
            account.call("CreateTags", pairs).unwrap_err(),
            code,
            "{pairs:?}"
        );
    }
    let keys: Vec<String> = (1..=49).map(|number| format!("Tag.{number}.Key")).collect();
    let mut many: Vec<(&str, &str)> = vec![("ResourceId.1", &id)];
    many.extend(keys.iter().map(|name| (name.as_str(), name.as_str())));
    assert_eq!(
        account.call("CreateTags", &many).unwrap_err(),
        "TagLimitExceeded"
    );
}

#[test]
fn describe_may_lag_behind_a_change() {
    let mut rules = Rules::default();
    rules.timings.stale_ms = 200;
    let mut account = Account::under(rules);
    let id = account.running(&[]);
    let named = [("InstanceId.1", id.as_str())];
    let shown = |account: &mut Account| {
        let described = account.call("DescribeInstances", &named).unwrap();
        let running = account
            .call(
                "DescribeInstances",
                &filter("instance-state-name", "running"),
            )
            .unwrap();
        (
            described.one("instanceState/name"),
            running.all("instanceId").len(),
        )
    };
    let stopped = account.call("StopInstances", &named).unwrap();
    assert_eq!(stopped.one("currentState/name"), "stopping");
    assert_eq!(shown(&mut account), ("running".to_owned(), 1));
    // The change itself is done: a start is refused.
    assert_eq!(
        account.call("StartInstances", &named).unwrap_err(),
        "IncorrectInstanceState"
    );
    account.pass(200);
    assert_eq!(shown(&mut account), ("stopping".to_owned(), 0));
    account.pass(300);
    assert_eq!(account.state_of(&id), "stopped");
    assert_eq!(shown(&mut account).0, "stopping");
    account.pass(200);
    assert_eq!(shown(&mut account).0, "stopped");
}
