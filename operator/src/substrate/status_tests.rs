use super::*;
use halo_crds::condition::find;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const NOW: i64 = 1_700_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn step(phase: Phase) -> Step {
    Step {
        phase,
        waking_since: (phase == Phase::Waking).then(|| at(NOW)),
        overdue: false,
        look_again: None,
    }
}

/// A case: what is different from a substrate of one pod in a phase without any trouble.
struct Case {
    phase: Phase,
    change: fn(&mut Facts<'_>),
    /// Ready, Awake, NodesReady, PodsReady, Blocked: status and reason.
    says: [(&'static str, &'static str); 5],
    why: &'static str,
}

fn drafted(phase: Phase, change: impl FnOnce(&mut Facts<'_>)) -> HaloSubstrateStatus {
    let (before, gate, step) = (HaloSubstrateStatus::default(), Gate::default(), step(phase));
    let replicas = u32::from(runs(phase));
    let ready = u32::from(phase == Phase::Awake);
    let mut facts = Facts {
        before: &before,
        generation: Some(3),
        step: &step,
        busy: runs(phase),
        idle_since: None,
        level: Level {
            replicas,
            surplus_since: None,
        },
        pods: Pods { left: ready, ready },
        scheduled: false,
        trouble: None,
        refused: None,
        nodes: Nodes {
            wanted: replicas,
            ready,
            launched: true,
        },
        slots: &[],
        attempts: 0,
        block: None,
        gate: &gate,
        invalid: None,
        api: None,
        paused: false,
        deleting: false,
        spent: Spent::default(),
        now: at(NOW),
    };
    change(&mut facts);
    draft(&facts)
}

/// Leaks a little: the cases are few and the facts borrow.
fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn block(reason: &str, message: &str, next: Option<i64>) -> &'static PoolBlock {
    leak(PoolBlock {
        reason: reason.to_owned(),
        message: message.to_owned(),
        next_attempt: next.map(at),
    })
}

fn text(reason: &str, message: &str) -> &'static (String, String) {
    leak((reason.to_owned(), message.to_owned()))
}

fn slot(state: NodeState) -> NodeSlot {
    NodeSlot {
        slot: 0,
        attempt: 1,
        generation: 1,
        template: String::new(),
        state,
        since: Time(at(NOW)),
        instance_type: "r7iz.4xlarge".to_owned(),
        zone: "us-east-2a".to_owned(),
        instance: None,
        volume: None,
        node: None,
        volume_since: None,
        running_since: None,
    }
}

const CAPACITY: &str =
    "waiting for capacity: r7iz.4xlarge in us-east-2a (InsufficientInstanceCapacity)";

const OK: (&str, &str) = ("True", "Ready");
const FREE: (&str, &str) = ("False", "NotBlocked");

#[test]
fn conditions_and_why() {
    let cases = [
        Case {
            phase: Phase::Asleep,
            change: |_| {},
            says: [("True", "Asleep"), ("False", "Asleep"), OK, OK, FREE],
            why: "no demand",
        },
        Case {
            phase: Phase::Waking,
            change: |f| f.slots = leak([slot(NodeState::Launching)]),
            says: [
                ("False", "Waking"),
                ("False", "Waking"),
                ("False", "NodesPending"),
                ("False", "PodsPending"),
                FREE,
            ],
            why: "launching r7iz.4xlarge in us-east-2a",
        },
        Case {
            phase: Phase::Waking,
            change: |f| {
                f.block = Some(block("InsufficientCapacity", CAPACITY, Some(NOW + 190)));
            },
            says: [
                ("False", "InsufficientCapacity"),
                ("False", "Waking"),
                ("False", "InsufficientCapacity"),
                ("False", "PodsPending"),
                ("True", "InsufficientCapacity"),
            ],
            why: "waiting for capacity: r7iz.4xlarge in us-east-2a (InsufficientInstanceCapacity), next try 22:16:30",
        },
        Case {
            phase: Phase::Waking,
            change: |f| {
                f.nodes.ready = 1;
                f.scheduled = true;
            },
            says: [
                ("False", "Waking"),
                ("False", "Waking"),
                OK,
                ("False", "PodsPending"),
                FREE,
            ],
            why: "the pod starts and loads the model",
        },
        Case {
            phase: Phase::Waking,
            change: |f| {
                f.step = leak(Step {
                    overdue: true,
                    ..step(Phase::Waking)
                });
                f.slots = leak([slot(NodeState::Pending)]);
            },
            says: [
                ("False", "WakeDeadlineExceeded"),
                ("False", "WakeDeadlineExceeded"),
                ("False", "NodesPending"),
                ("False", "PodsPending"),
                FREE,
            ],
            why: "wake deadline exceeded: r7iz.4xlarge in us-east-2a boots",
        },
        Case {
            phase: Phase::Waking,
            change: |f| {
                f.nodes.ready = 1;
                f.refused = Some(text(
                    "FailedCreate",
                    "pods \"x\" is forbidden: exceeded quota: halo",
                ));
            },
            says: [
                ("False", "QuotaExceeded"),
                ("False", "Waking"),
                OK,
                ("False", "QuotaExceeded"),
                FREE,
            ],
            why: "pods \"x\" is forbidden: exceeded quota: halo",
        },
        Case {
            phase: Phase::Waking,
            change: |f| {
                f.nodes.ready = 1;
                f.refused = Some(text("FailedCreate", "violates PodSecurity"));
            },
            says: [
                ("False", "PodsRefused"),
                ("False", "Waking"),
                OK,
                ("False", "PodsRefused"),
                FREE,
            ],
            why: "violates PodSecurity",
        },
        Case {
            phase: Phase::Waking,
            change: |f| f.trouble = Some(text("Unschedulable", "0/3 nodes are available")),
            says: [
                ("False", "Waking"),
                ("False", "Waking"),
                ("False", "NodesPending"),
                ("False", "PodsPending"),
                FREE,
            ],
            why: "the pod waits for its node",
        },
        Case {
            phase: Phase::Waking,
            change: |f| {
                f.nodes.ready = 1;
                f.trouble = Some(text("Unschedulable", "0/3 nodes are available"));
            },
            says: [
                ("False", "Unschedulable"),
                ("False", "Waking"),
                OK,
                ("False", "Unschedulable"),
                FREE,
            ],
            why: "0/3 nodes are available",
        },
        Case {
            phase: Phase::Waking,
            change: |f| {
                f.nodes.ready = 1;
                f.trouble = Some(text("ErrImagePull", "some words that change"));
            },
            says: [
                ("False", "PodFailing"),
                ("False", "Waking"),
                OK,
                ("False", "PodFailing"),
                FREE,
            ],
            why: "ImagePullBackOff: the image cannot be pulled: check pod.image and the registry's access",
        },
        Case {
            phase: Phase::Waking,
            change: |f| {
                f.nodes = Nodes {
                    wanted: 1,
                    ready: 0,
                    launched: false,
                }
            },
            says: [
                ("False", "Waking"),
                ("False", "Waking"),
                ("False", "NoMatchingNodes"),
                ("False", "PodsPending"),
                FREE,
            ],
            why: "0 of 1 pods are ready",
        },
        Case {
            phase: Phase::Awake,
            change: |_| {},
            says: [("True", "Awake"), ("True", "Awake"), OK, OK, FREE],
            why: "in use",
        },
        Case {
            phase: Phase::Awake,
            change: |f| {
                // It cannot grow; what answers is ready all the same.
                (f.level.replicas, f.nodes.wanted) = (2, 2);
                f.block = Some(block("QuotaReached", "VcpuLimitExceeded", None));
            },
            says: [
                ("True", "Awake"),
                ("True", "Awake"),
                ("False", "QuotaReached"),
                ("False", "PodsPending"),
                ("True", "QuotaReached"),
            ],
            why: "VcpuLimitExceeded",
        },
        Case {
            phase: Phase::Draining,
            change: |f| f.slots = leak([slot(NodeState::Terminating)]),
            says: [("True", "Draining"), ("False", "Draining"), OK, OK, FREE],
            why: "nodes end",
        },
        Case {
            phase: Phase::Asleep,
            change: |f| {
                f.gate = leak(Gate {
                    closed: Some((
                        reasons::TENANT_MISSING,
                        "there is no HaloTenant acme".to_owned(),
                    )),
                    ..Gate::default()
                });
            },
            says: [
                ("False", "TenantMissing"),
                ("False", "Asleep"),
                OK,
                OK,
                ("True", "TenantMissing"),
            ],
            why: "there is no HaloTenant acme",
        },
        Case {
            phase: Phase::Awake,
            change: |f| f.paused = true,
            says: [("False", "Paused"), ("True", "Awake"), OK, OK, FREE],
            why: "paused",
        },
        Case {
            phase: Phase::Draining,
            change: |f| {
                f.deleting = true;
                f.pods.left = 1;
                f.block = Some(block("CloudUnreachable", "no answer", Some(NOW)));
            },
            says: [
                ("False", "Deleting"),
                ("False", "Draining"),
                ("False", "CloudUnreachable"),
                ("True", "Draining"),
                ("True", "CloudUnreachable"),
            ],
            why: "no answer, next try 22:13:20",
        },
        Case {
            phase: Phase::Asleep,
            change: |f| {
                f.api = Some(text(
                    "ApiServerForbidden",
                    "patch Deployment halo-acme/qwen: forbidden",
                ))
            },
            says: [
                ("False", "ApiServerRefused"),
                ("False", "Asleep"),
                OK,
                OK,
                ("True", "ApiServerRefused"),
            ],
            why: "the API server refused: ApiServerForbidden: patch Deployment halo-acme/qwen: forbidden",
        },
        Case {
            phase: Phase::Asleep,
            change: |f| f.invalid = Some("say where pods run"),
            says: [
                ("False", "Invalid"),
                ("False", "Asleep"),
                OK,
                OK,
                ("True", "Invalid"),
            ],
            why: "say where pods run",
        },
    ];
    for (number, case) in cases.into_iter().enumerate() {
        let status = drafted(case.phase, case.change);
        let kinds = [
            kinds::READY,
            kinds::AWAKE,
            kinds::NODES_READY,
            kinds::PODS_READY,
            kinds::BLOCKED,
        ];
        for (kind, says) in kinds.into_iter().zip(case.says) {
            let condition = find(&status.conditions, kind).unwrap();
            let said = (condition.status.as_str(), condition.reason.as_str());
            assert_eq!(said, says, "{kind} of case {number}: {}", condition.message);
            assert_eq!(condition.observed_generation, Some(3));
        }
        assert_eq!(status.why.as_deref(), Some(case.why), "case {number}");
    }
}

#[test]
fn time_alone_changes_nothing() {
    for phase in [Phase::Asleep, Phase::Waking, Phase::Awake, Phase::Draining] {
        let first = drafted(phase, |_| {});
        let second = drafted(phase, |f| {
            f.before = leak(first.clone());
            f.now = at(NOW + 500);
        });
        assert_eq!(first, second);
    }
}

#[test]
fn the_next_attempt_is_reported() {
    let status = drafted(Phase::Waking, |f| {
        f.block = Some(block("Throttled", "RequestLimitExceeded", Some(NOW + 5)));
    });
    assert_eq!(status.next_attempt, Some(Time(at(NOW + 5))));
    assert_eq!(drafted(Phase::Waking, |_| {}).next_attempt, None);
}

#[test]
fn long_words_are_cut_and_lines_joined() {
    assert_eq!(shorten("short", 10), "short");
    assert_eq!(shorten("exactly ten", 11), "exactly ten");
    assert_eq!(shorten("a\nb\tc", 10), "a b c");
    let cut = shorten(&"ä".repeat(500), 100);
    assert_eq!(cut.chars().count(), 100);
    assert!(cut.ends_with('…'));
}
