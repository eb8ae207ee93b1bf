use super::*;
use crate::substrate::testing;
use crate::substrate::validate::validate;
use k8s_openapi::api::core::v1::{Container, PodSpec};

fn facts() -> TenantFacts {
    TenantFacts {
        id: "acme".to_owned(),
        table: "howdify-receipts".to_owned(),
        region: "us-east-2".to_owned(),
    }
}

fn built(substrate: &HaloSubstrate, replicas: u32) -> Prepared {
    built_with(substrate, replicas, &PodDefaults::default())
}

fn built_with(substrate: &HaloSubstrate, replicas: u32, defaults: &PodDefaults) -> Prepared {
    let valid = validate(substrate).unwrap();
    build(&Plan {
        substrate: &valid,
        tenant: &facts(),
        image: "registry.example/halo-substrate:1",
        defaults,
        replicas,
    })
}

fn pod_of(prepared: &Prepared) -> PodSpec {
    let spec = prepared.deployment.spec.as_ref().unwrap();
    spec.template.spec.clone().unwrap()
}

fn container_of(prepared: &Prepared) -> Container {
    pod_of(prepared).containers.remove(0)
}

#[test]
fn the_pod_is_what_pod_security_restricted_takes() {
    for substrate in [testing::ec2(), testing::existing()] {
        let prepared = built(&substrate, 1);
        let pod = pod_of(&prepared);
        let security = pod.security_context.unwrap();
        assert_eq!(security.run_as_non_root, Some(true));
        assert_eq!(security.run_as_user, Some(65532));
        assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert_eq!(
            (pod.host_network, pod.host_pid, pod.host_ipc),
            (None, None, None)
        );
        for volume in pod.volumes.unwrap() {
            let allowed = volume.secret.is_some()
                || volume.empty_dir.is_some()
                || volume.persistent_volume_claim.is_some();
            assert!(allowed && volume.host_path.is_none(), "{}", volume.name);
        }
        let container = container_of(&prepared).security_context.unwrap();
        assert_eq!(container.allow_privilege_escalation, Some(false));
        assert_eq!(container.read_only_root_filesystem, Some(true));
        assert_eq!(
            container.capabilities.unwrap().drop,
            Some(vec!["ALL".to_owned()])
        );
    }
}

#[test]
fn the_pod_has_whole_cores_of_its_own() {
    let resources = container_of(&built(&testing::ec2(), 1)).resources.unwrap();
    assert_eq!(resources.requests, resources.limits);
    let limits = resources.limits.unwrap();
    assert_eq!(
        (limits["cpu"].0.as_str(), limits["memory"].0.as_str()),
        ("14", "96Gi")
    );
    assert_eq!(limits.len(), 2);
}

#[test]
fn arguments_of_the_program() {
    let arguments = container_of(&built(&testing::ec2(), 1))
        .args
        .unwrap()
        .join(" ");
    assert_eq!(
        arguments,
        "--model /var/lib/halo/weights/models/qwen3 --model-name Qwen/Qwen3-30B-A3B --quantisation Q8_0 --listen 0.0.0.0:8090 \
         --tenant acme --ledger dynamodb:howdify-receipts@us-east-2 \
         --ledger-spill /var/lib/halo/spill/receipts.db --keys /var/run/halo/keys/keyring.json --threads 14 \
         --max-context 32768 --max-active 8 --drain-seconds 120 --log-format json"
    );
    let mut substrate = testing::existing();
    let digest = format!("sha256:{}", "0a".repeat(32));
    substrate.spec.model.digest = Some(digest.clone());
    substrate.spec.engine.quantisation = None;
    substrate.spec.pod.extra_args = vec!["--max-queued".to_owned(), "4".to_owned()];
    let arguments = container_of(&built(&substrate, 1)).args.unwrap().join(" ");
    let begin = format!("--model /models/tiny --model-name tiny --model-digest {digest} --listen");
    assert!(arguments.starts_with(&begin), "{arguments}");
    assert!(
        arguments.ends_with("--log-format json --max-queued 4"),
        "{arguments}"
    );
}

#[test]
fn pods_go_to_their_pool_one_to_a_node() {
    let uid = testing::ec2().metadata.uid.unwrap();
    let pod = pod_of(&built(&testing::ec2(), 2));
    assert_eq!(pod.node_selector.unwrap()[halo_crds::POOL_LABEL], uid);
    let toleration = &pod.tolerations.unwrap()[0];
    assert_eq!(toleration.key.as_deref(), Some(halo_crds::POOL_LABEL));
    assert_eq!(toleration.value, Some(uid));
    let anti = pod.affinity.unwrap().pod_anti_affinity.unwrap();
    let term = &anti
        .required_during_scheduling_ignored_during_execution
        .unwrap()[0];
    assert_eq!(term.topology_key, "kubernetes.io/hostname");

    let pod = pod_of(&built(&testing::existing(), 2));
    assert_eq!(pod.node_selector.unwrap()["disk"], "fast");
    let toleration = &pod.tolerations.unwrap()[0];
    assert_eq!(toleration.key.as_deref(), Some("dedicated"));
    assert_eq!(toleration.operator.as_deref(), Some("Exists"));
}

#[test]
fn a_pod_is_ready_with_its_model_and_has_time_to_end() {
    let prepared = built(&testing::ec2(), 1);
    let container = container_of(&prepared);
    let path = |probe: k8s_openapi::api::core::v1::Probe| probe.http_get.unwrap().path.unwrap();
    assert_eq!(path(container.startup_probe.unwrap()), "/healthz");
    assert_eq!(path(container.readiness_probe.unwrap()), "/readyz");
    assert_eq!(container.liveness_probe, None);
    assert_eq!(
        pod_of(&prepared).termination_grace_period_seconds,
        Some(175)
    );
}

#[test]
fn the_only_pod_in_use_may_not_be_evicted() {
    let allowed = |replicas| {
        let spec = built(&testing::ec2(), replicas).budget.spec.unwrap();
        spec.max_unavailable.unwrap()
    };
    assert_eq!(allowed(0), IntOrString::String("100%".to_owned()));
    assert_eq!(allowed(1), IntOrString::Int(0));
    assert_eq!(allowed(3), IntOrString::Int(1));
}

#[test]
fn children_are_labelled_and_owned() {
    let prepared = built(&testing::ec2(), 0);
    let claim = &prepared.storage.as_ref().unwrap().claim;
    for meta in [
        &prepared.service_account.metadata,
        &prepared.service.metadata,
        &prepared.budget.metadata,
        &prepared.deployment.metadata,
        &claim.metadata,
    ] {
        let labels = meta.labels.as_ref().unwrap();
        assert_eq!(labels[SUBSTRATE_LABEL], "qwen");
        assert_eq!(labels[TENANT_LABEL], "acme");
        assert_eq!(labels["app.kubernetes.io/managed-by"], "halo-operator");
        let owner = &meta.owner_references.as_ref().unwrap()[0];
        assert_eq!(owner.uid, testing::ec2().metadata.uid.unwrap());
        assert_eq!(
            (owner.kind.as_str(), owner.controller),
            ("HaloSubstrate", Some(true))
        );
        assert_eq!(meta.namespace.as_deref(), Some("halo-acme"));
    }
    assert_eq!(prepared.deployment.spec.unwrap().replicas, Some(0));
    let service = prepared.service.spec.unwrap();
    assert_eq!(service.cluster_ip.as_deref(), Some("None"));
    assert_eq!(service.publish_not_ready_addresses, Some(false));
}

#[test]
fn sleep_changes_nothing_of_the_pods() {
    let (asleep, awake) = (built(&testing::ec2(), 0), built(&testing::ec2(), 2));
    let template = |prepared: &Prepared| prepared.deployment.spec.clone().unwrap().template;
    assert_eq!(template(&asleep), template(&awake));
}

#[test]
fn all_pods_get_what_the_operator_was_told_and_a_substrate_may_say_otherwise() {
    let defaults = PodDefaults {
        env: [("A", "all"), ("B", "all")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        image_pull_policy: Some("Never".to_owned()),
        image_pull_secrets: vec!["registry".to_owned()],
    };
    let environment = |prepared: &Prepared| -> Vec<(String, String)> {
        let env = container_of(prepared).env.unwrap_or_default();
        env.into_iter()
            .map(|variable| (variable.name, variable.value.unwrap()))
            .collect()
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut substrate = testing::ec2();
    let prepared = built_with(&substrate, 1, &defaults);
    assert_eq!(environment(&prepared), [pair("A", "all"), pair("B", "all")]);
    let pulls = |prepared: &Prepared| container_of(prepared).image_pull_policy;
    assert_eq!(pulls(&prepared).as_deref(), Some("Never"));
    assert_eq!(
        pod_of(&prepared).image_pull_secrets.unwrap()[0].name,
        "registry"
    );

    let own = [("B", "own"), ("C", "own")];
    substrate.spec.pod.env = own
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    substrate.spec.pod.image_pull_policy = Some("Always".to_owned());
    let prepared = built_with(&substrate, 1, &defaults);
    assert_eq!(
        environment(&prepared),
        [pair("A", "all"), pair("B", "own"), pair("C", "own")]
    );
    assert_eq!(pulls(&prepared).as_deref(), Some("Always"));

    let prepared = built(&testing::ec2(), 1);
    assert_eq!(environment(&prepared), []);
    assert_eq!(pulls(&prepared), None);
    assert_eq!(pod_of(&prepared).image_pull_secrets, None);
}

#[test]
fn receipts_that_wait_for_the_ledger_have_a_bounded_place() {
    let prepared = built(&testing::ec2(), 1);
    let volumes = pod_of(&prepared).volumes.unwrap();
    let spill = volumes.iter().find(|volume| volume.name == "spill");
    let limit = spill.unwrap().empty_dir.clone().unwrap().size_limit;
    assert_eq!(limit.unwrap().0, "2Gi");
    let container = container_of(&prepared);
    let mounts = container.volume_mounts.unwrap();
    let mount = mounts.iter().find(|mount| mount.name == "spill").unwrap();
    assert_eq!(mount.read_only, Some(false));
    let arguments = container.args.unwrap();
    let flag = arguments.iter().position(|arg| arg == "--ledger-spill");
    assert!(arguments[flag.unwrap() + 1].starts_with(&mount.mount_path));
}
