use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use halo_crds::status::NodeState;
use serde_json::json;

use super::*;
use crate::nodes::testing::{UID, slot, spec};
use crate::settings::{ClusterJoin, LeaseSettings, Pace, PodDefaults};

fn settings() -> Settings {
    Settings {
        cluster: "prod".to_owned(),
        join: ClusterJoin {
            endpoint: "https://api.example".to_owned(),
            certificate_authority: "Q0E=".to_owned(),
            service_cidr: "10.100.0.0/16".to_owned(),
        },
        region: "us-east-2".to_owned(),
        namespace: "halo".to_owned(),
        identity: "me".to_owned(),
        substrate_image: "image".to_owned(),
        substrate_pods: PodDefaults::default(),
        metrics_namespaces: Vec::new(),
        gateway_pod_labels: Tags::new(),
        gateway_namespace: "halo".to_owned(),
        concurrency: 1,
        prices: std::collections::BTreeMap::new(),
        lease: LeaseSettings::default(),
        pace: Pace::default(),
    }
}

fn identity() -> Identity {
    Identity {
        uid: UID.to_owned(),
        namespace: "acme".to_owned(),
        name: "qwen".to_owned(),
        tenant: "acme".to_owned(),
    }
}

fn template(spec: &Ec2Pool) -> Template {
    Template::new(&identity(), spec, &settings()).unwrap()
}

fn with_volume(snapshot: bool) -> Ec2Pool {
    let mut spec = spec();
    let mut volume = json!({"sizeGib": 100, "mountPath": "/mnt/halo", "device": "/dev/xvdb"});
    if snapshot {
        volume["snapshot"] = json!("snap-00000001");
    }
    spec.data_volume = Some(serde_json::from_value(volume).unwrap());
    spec
}

#[test]
fn a_token_is_the_same_for_the_same_record_and_another_for_any_other() {
    let base = slot(0, NodeState::Launching);
    let changes: [fn(&mut NodeSlot); 5] = [
        |s| s.slot += 1,
        |s| s.attempt += 1,
        |s| s.generation += 1,
        |s| s.instance_type.push('x'),
        |s| s.zone.push('x'),
    ];
    let mut all = BTreeSet::from([client_token(UID, &base), client_token("other", &base)]);
    for change in changes {
        let mut other = base.clone();
        change(&mut other);
        all.insert(client_token(UID, &other));
    }
    assert_eq!(all.len(), 7);
    assert!(all.iter().all(|t| t.is_ascii() && t.len() <= 64));
    // What a crash may change in the record does not change the token.
    let mut later = base.clone();
    later.template.clear();
    later.since = crate::nodes::slots::stamp(crate::nodes::testing::at(9));
    assert_eq!(client_token(UID, &later), client_token(UID, &base));

    let volume = volume_token(UID, &base);
    later.attempt += 1;
    assert_eq!(volume_token(UID, &later), volume);
    later.volume = Some("vol-lost".to_owned());
    assert_ne!(volume_token(UID, &later), volume);
    // Where one part ends and the next begins counts.
    assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
}

#[test]
fn a_request_carries_what_the_spec_says_and_the_tags_that_find_it() {
    let mut spec = with_volume(false);
    spec.tags = Tags::from([("team".to_owned(), "ml".to_owned())]);
    let template = template(&spec);
    let record = slot(2, NodeState::Launching);
    let request = template.launch(&record, "ami-1").unwrap();
    assert_eq!(request.metadata.hop_limit, 1);
    assert_eq!(request.subnet_id, "subnet-0000000a");
    assert_eq!(request.tenancy, Tenancy::Default);
    assert_eq!(request.root_volume.device, "/dev/xvda");
    assert_eq!(request.client_token, client_token(UID, &record));
    for (key, value) in [
        ("halo.howdify.io/cluster", "prod"),
        ("halo.howdify.io/substrate-uid", UID),
        ("halo.howdify.io/substrate", "acme.qwen"),
        ("halo.howdify.io/slot", "2"),
        ("halo.howdify.io/attempt", "3"),
        ("kubernetes.io/cluster/prod", "owned"),
        ("team", "ml"),
        ("Name", "halo acme/qwen 2"),
    ] {
        assert_eq!(request.tags.get(key).map(String::as_str), Some(value));
    }
    let mut elsewhere = record.clone();
    elsewhere.zone = "zz".to_owned();
    assert_eq!(
        template.launch(&elsewhere, "ami-1"),
        Err(LaunchError::NoSubnet("zz".to_owned()))
    );
    let volume = template.volume(&record).unwrap();
    assert_eq!((volume.size_gib, &*volume.zone), (100, "za"));
    assert!(tags::may_delete(&volume.tags));
    assert!(volume.client_token.len() <= 64);
}

#[test]
fn the_hash_changes_with_what_an_instance_is_launched_with_and_nothing_else() {
    let base = template(&spec()).hash().to_owned();
    let changes: [fn(&mut Ec2Pool); 7] = [
        |s| s.image.id = Some("ami-00000002".to_owned()),
        |s| s.tenancy = PoolTenancy::Dedicated,
        |s| s.security_groups.push("sg-00000002".to_owned()),
        |s| s.instance_profile.push('x'),
        |s| s.root_volume.size_gib += 1,
        |s| s.user_data.template = Some("#!/bin/sh".to_owned()),
        |s| drop(s.tags.insert("a".to_owned(), "b".to_owned())),
    ];
    for (index, change) in changes.iter().enumerate() {
        let mut spec = spec();
        change(&mut spec);
        assert_ne!(template(&spec).hash(), base, "change {index}");
    }
    let mut spec = spec();
    spec.max_nodes += 1;
    spec.instance_types.reverse();
    assert_eq!(template(&spec).hash(), base);
}

#[test]
fn a_template_is_filled_in() {
    let render = |text: &str, spec: &Ec2Pool| {
        let mut spec = spec.clone();
        spec.user_data.template = Some(text.to_owned());
        user_data::render(&identity(), &spec, &settings())
    };
    let text = "{{clusterName}} {{ apiServerEndpoint }} {{certificateAuthority}} {{serviceCidr}} {{dataDevice}} {{dataMountPath}} }}";
    assert_eq!(
        render(text, &with_volume(false)).unwrap(),
        "prod https://api.example Q0E= 10.100.0.0/16 /dev/xvdb /mnt/halo }}"
    );
    assert_eq!(
        render("{{nodeLabels}} {{nodeTaints}}", &spec()).unwrap(),
        format!(
            "halo.howdify.io/pool={UID},halo.howdify.io/substrate=qwen,halo.howdify.io/tenant=acme halo.howdify.io/pool={UID}:NoSchedule"
        )
    );
    for (text, expected) in [
        (
            "{{nope}}",
            UserDataError::UnknownPlaceholder("nope".to_owned()),
        ),
        ("a {{b", UserDataError::Unclosed("b".to_owned())),
        (
            "{{dataDevice}}",
            UserDataError::NoDataVolume("dataDevice".to_owned()),
        ),
    ] {
        assert_eq!(render(text, &spec()), Err(expected));
    }
    let long = "x".repeat(user_data::MAX_BYTES + 1);
    assert_eq!(
        render(&long, &spec()),
        Err(UserDataError::TooLong(user_data::MAX_BYTES + 1))
    );
    let mut untold = settings();
    untold.join.endpoint.clear();
    assert_eq!(
        user_data::render(&identity(), &spec(), &untold),
        Err(UserDataError::NoJoin("API server endpoint"))
    );
}

#[test]
fn the_preset_is_a_node_config() {
    let text = template(&with_volume(false)).user_data;
    for line in [
        "MIME-Version: 1.0",
        "Content-Type: application/node.eks.aws",
        "apiVersion: node.eks.aws/v1alpha1",
        "kind: NodeConfig",
        "    name: \"prod\"",
        "    apiServerEndpoint: \"https://api.example\"",
        "    certificateAuthority: \"Q0E=\"",
        "    cidr: \"10.100.0.0/16\"",
        &format!("      - \"--register-with-taints=halo.howdify.io/pool={UID}:NoSchedule\""),
        "TARGET='/mnt/halo'",
        "--HALO--",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(!template(&spec()).user_data.contains("x-shellscript"));
    assert!(!template(&with_volume(true)).user_data.contains("mkfs"));
    assert!(text.contains("mkfs.ext4"));
}

#[test]
fn the_script_of_the_data_volume_is_a_shell_script() {
    for snapshot in [false, true] {
        let text = template(&with_volume(snapshot)).user_data;
        let script = text.split("us-ascii\"\n\n").nth(1).unwrap();
        let script = script.split("--HALO--").next().unwrap();
        let inner = script.split("<<'SCRIPT'\n").nth(1).unwrap();
        let inner = inner.split("\nSCRIPT\n").next().unwrap();
        for part in [script, inner] {
            let mut shell = Command::new("bash")
                .arg("-n")
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = shell.stdin.take().unwrap();
            stdin.write_all(part.as_bytes()).unwrap();
            drop(stdin);
            assert!(shell.wait().unwrap().success(), "{part}");
        }
    }
}
