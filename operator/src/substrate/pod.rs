//! The pod: whole cores, keys and weights read-only, nothing writable but /tmp and the receipts that wait for their ledger.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, HTTPGetAction,
    KeyToPath, Lifecycle, LifecycleHandler, LocalObjectReference, PodAffinityTerm, PodAntiAffinity,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
    SecretVolumeSource, SecurityContext, SleepAction, Toleration, TopologySpreadConstraint, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;

use halo_crds::POOL_LABEL;

use super::validate::{Place, Valid};
use super::weights::{self, Mounted};
use super::workload::{Labels, PORT, Plan, seconds, service_account_name};

/// The Secret with the tenant's keys.
pub const KEYS_SECRET: &str = "halo-keys";

/// Where the keys are mounted, and the file in it.
const KEYS_FOLDER: &str = "/var/run/halo/keys";
const KEYS_FILE: &str = "keyring.json";

/// Where receipts wait while the ledger cannot be reached, and how many fit. They outlive the program, not the pod.
const SPILL_FOLDER: &str = "/var/lib/halo/spill";
const SPILL_FILE: &str = "receipts.db";
const SPILL_SIZE: &str = "2Gi";

/// Nobody's user and group.
const NOBODY: i64 = 65532;

/// How long a pod goes on before it is told to end, so that gateways learn of it first.
const UNLIST_SECONDS: i64 = 2;

/// What a pod needs besides its drain: to unlist, to seal what it broke off, to bring what waits in its spill to the ledger, to end.
const GRACE_SECONDS: u64 = 55;

/// The template of the pods.
pub fn template(plan: &Plan<'_>, labels: &Labels, mounted: &Mounted) -> PodTemplateSpec {
    let valid = plan.substrate;
    let overrides = &valid.spec.pod;
    let mut pod_labels = overrides.labels.clone();
    pod_labels.extend(labels.all());
    let drain = overrides.drain.get().as_secs();
    let spread = LabelSelector {
        match_labels: Some(labels.selector()),
        match_expressions: None,
    };
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(pod_labels),
            annotations: (!overrides.annotations.is_empty()).then(|| overrides.annotations.clone()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            affinity: Some(Affinity {
                pod_anti_affinity: Some(PodAntiAffinity {
                    required_during_scheduling_ignored_during_execution: Some(vec![
                        PodAffinityTerm {
                            label_selector: Some(spread.clone()),
                            topology_key: "kubernetes.io/hostname".to_owned(),
                            ..PodAffinityTerm::default()
                        },
                    ]),
                    ..PodAntiAffinity::default()
                }),
                ..Affinity::default()
            }),
            automount_service_account_token: Some(false),
            containers: vec![container(plan, mounted)],
            enable_service_links: Some(false),
            image_pull_secrets: pull_secrets(plan),
            node_selector: Some(weights::nodes(valid)),
            priority_class_name: overrides.priority_class_name.clone(),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(NOBODY),
                run_as_group: Some(NOBODY),
                // Lets the pod's user read the keys, which nobody else may.
                fs_group: Some(NOBODY),
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                seccomp_profile: Some(seccomp()),
                ..PodSecurityContext::default()
            }),
            service_account_name: Some(service_account_name(valid.name)),
            termination_grace_period_seconds: Some(
                i64::try_from(drain.saturating_add(GRACE_SECONDS)).unwrap_or(i64::MAX),
            ),
            tolerations: Some(tolerations(valid)),
            topology_spread_constraints: Some(vec![TopologySpreadConstraint {
                label_selector: Some(spread),
                max_skew: 1,
                topology_key: "topology.kubernetes.io/zone".to_owned(),
                when_unsatisfiable: "ScheduleAnyway".to_owned(),
                ..TopologySpreadConstraint::default()
            }]),
            volumes: Some(volumes(mounted)),
            ..PodSpec::default()
        }),
    }
}

fn pull_secrets(plan: &Plan<'_>) -> Option<Vec<LocalObjectReference>> {
    let names = plan.defaults.image_pull_secrets.iter().cloned();
    let secrets: Vec<_> = names.map(|name| LocalObjectReference { name }).collect();
    (!secrets.is_empty()).then_some(secrets)
}

/// The variables of all substrates, and over them those of this one.
fn environment(plan: &Plan<'_>) -> Option<Vec<EnvVar>> {
    let mut variables = plan.defaults.env.clone();
    variables.extend(plan.substrate.spec.pod.env.clone());
    let env: Vec<_> = variables
        .into_iter()
        .map(|(name, value)| EnvVar {
            name,
            value: Some(value),
            value_from: None,
        })
        .collect();
    (!env.is_empty()).then_some(env)
}

fn seccomp() -> SeccompProfile {
    SeccompProfile {
        type_: "RuntimeDefault".to_owned(),
        localhost_profile: None,
    }
}

fn tolerations(valid: &Valid<'_>) -> Vec<Toleration> {
    match valid.place {
        Place::Ec2(_) => vec![Toleration {
            key: Some(POOL_LABEL.to_owned()),
            operator: Some("Equal".to_owned()),
            value: Some(valid.uid.to_owned()),
            ..Toleration::default()
        }],
        Place::Existing(pool) => pool
            .tolerated_taints
            .iter()
            .map(|key| Toleration {
                key: Some(key.clone()),
                operator: Some("Exists".to_owned()),
                ..Toleration::default()
            })
            .collect(),
    }
}

fn volumes(mounted: &Mounted) -> Vec<Volume> {
    let keys = Volume {
        name: "keys".to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(KEYS_SECRET.to_owned()),
            default_mode: Some(0o440),
            items: Some(vec![KeyToPath {
                key: KEYS_FILE.to_owned(),
                path: KEYS_FILE.to_owned(),
                mode: None,
            }]),
            optional: Some(false),
        }),
        ..Volume::default()
    };
    let empty = |name: &str, size: &str| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: None,
            size_limit: Some(Quantity(size.to_owned())),
        }),
        ..Volume::default()
    };
    let (tmp, spill) = (empty("tmp", "1Gi"), empty("spill", SPILL_SIZE));
    let weights = mounted.volume.as_ref().map(|(volume, _)| volume.clone());
    [keys, tmp, spill].into_iter().chain(weights).collect()
}

fn container(plan: &Plan<'_>, mounted: &Mounted) -> Container {
    let valid = plan.substrate;
    let (overrides, engine) = (&valid.spec.pod, &valid.spec.engine);
    // Limits that equal requests, and whole cores: the static CPU manager then gives the pod cores of its own.
    let resources = BTreeMap::from([
        ("cpu".to_owned(), Quantity(engine.threads.to_string())),
        ("memory".to_owned(), engine.memory.clone()),
    ]);
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    };
    let weights = mounted.volume.as_ref().map(|(_, mount)| mount.clone());
    let mounts = [
        mount("keys", KEYS_FOLDER, true),
        mount("tmp", "/tmp", false),
        mount("spill", SPILL_FOLDER, false),
    ];
    Container {
        name: "substrate".to_owned(),
        image: Some(
            overrides
                .image
                .clone()
                .unwrap_or_else(|| plan.image.to_owned()),
        ),
        image_pull_policy: overrides
            .image_pull_policy
            .clone()
            .or_else(|| plan.defaults.image_pull_policy.clone()),
        args: Some(arguments(plan, &mounted.path)),
        env: environment(plan),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction {
                    seconds: UNLIST_SECONDS,
                }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        ports: Some(vec![ContainerPort {
            // Metrics are served here too.
            name: Some("stream".to_owned()),
            container_port: PORT,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        // It listens at once and loads its model then: the startup probe waits for the process, readiness for the model. There is no
        // liveness probe: every core computes, and a pod that is slow to say so must not be ended amid its answers.
        startup_probe: Some(probe("/healthz", 120)),
        readiness_probe: Some(probe("/readyz", 3)),
        resources: Some(ResourceRequirements {
            requests: Some(resources.clone()),
            limits: Some(resources),
            claims: None,
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                add: None,
                drop: Some(vec!["ALL".to_owned()]),
            }),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            seccomp_profile: Some(seccomp()),
            ..SecurityContext::default()
        }),
        // The last lines of the log say why it ended.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts.into_iter().chain(weights).collect()),
        ..Container::default()
    }
}

fn probe(path: &str, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(PORT),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(1),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn arguments(plan: &Plan<'_>, model: &str) -> Vec<String> {
    let valid = plan.substrate;
    let (spec, tenant) = (valid.spec, plan.tenant);
    let mut arguments: Vec<String> = Vec::new();
    let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    flag("model", model.to_owned());
    flag("model-name", spec.model.name.clone());
    if let Some(digest) = &spec.model.digest {
        flag("model-digest", digest.clone());
    }
    if let Some(quantisation) = &spec.engine.quantisation {
        flag("quantisation", quantisation.clone());
    }
    flag("listen", format!("0.0.0.0:{PORT}"));
    flag("tenant", tenant.id.clone());
    flag(
        "ledger",
        format!("dynamodb:{}@{}", tenant.table, tenant.region),
    );
    flag("ledger-spill", format!("{SPILL_FOLDER}/{SPILL_FILE}"));
    flag("keys", format!("{KEYS_FOLDER}/{KEYS_FILE}"));
    flag("threads", spec.engine.threads.to_string());
    if let Some(context) = spec.engine.context {
        flag("max-context", context.to_string());
    }
    flag("max-active", spec.scaling.sessions_per_pod.to_string());
    flag(
        "drain-seconds",
        seconds(spec.pod.drain.get().as_secs()).to_string(),
    );
    flag("log-format", "json".to_owned());
    arguments.extend(spec.pod.extra_args.iter().cloned());
    arguments
}
