use super::*;
use crate::nodes::plan::PodPlace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn slot(state: NodeState, since: i64) -> NodeSlot {
    NodeSlot {
        slot: 0,
        attempt: 4,
        generation: 1,
        template: "t".to_owned(),
        state,
        since: Time(at(since)),
        instance_type: "r7iz.4xlarge".to_owned(),
        zone: "us-east-2a".to_owned(),
        instance: (state != NodeState::Launching).then(|| "i-1".to_owned()),
        volume: None,
        node: (state == NodeState::Ready).then(|| "node-1".to_owned()),
        volume_since: None,
        running_since: None,
    }
}

fn status(phase: Phase, slots: Vec<NodeSlot>) -> HaloSubstrateStatus {
    HaloSubstrateStatus {
        phase: Some(phase),
        nodes: slots,
        waking_since: (phase == Phase::Waking).then(|| Time(at(100))),
        ..HaloSubstrateStatus::default()
    }
}

fn condition(kind: &str, status: &str, reason: &str) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: "why".to_owned(),
        observed_generation: None,
        last_transition_time: Time(at(0)),
    }
}

fn reasons_of(before: &HaloSubstrateStatus, after: &HaloSubstrateStatus) -> Vec<(bool, String)> {
    events(before, after)
        .into_iter()
        .map(|tale| (tale.warning, tale.reason))
        .collect()
}

#[test]
fn phases_and_launches_are_told_once() {
    let (asleep, waking) = (
        status(Phase::Asleep, vec![]),
        status(Phase::Waking, vec![slot(NodeState::Launching, 100)]),
    );
    assert_eq!(reasons_of(&asleep, &waking), [(false, "Waking".to_owned())]);
    assert_eq!(reasons_of(&waking, &waking), []);
    let pending = status(Phase::Waking, vec![slot(NodeState::Pending, 101)]);
    assert_eq!(
        reasons_of(&waking, &pending),
        [(false, "Launched".to_owned())]
    );
    assert_eq!(reasons_of(&pending, &pending), []);
    assert_eq!(reasons_of(&HaloSubstrateStatus::default(), &asleep), []);
}

#[test]
fn trouble_is_told_when_its_reason_changes() {
    let with = |kind: &str, truth: &str, reason: &str| HaloSubstrateStatus {
        conditions: vec![condition(kind, truth, reason)],
        ..status(Phase::Waking, vec![])
    };
    let calm = with(kinds::BLOCKED, "False", "NotBlocked");
    let blocked = with(kinds::BLOCKED, "True", "InsufficientCapacity");
    assert_eq!(
        reasons_of(&calm, &blocked),
        [(true, "InsufficientCapacity".to_owned())]
    );
    assert_eq!(reasons_of(&blocked, &blocked), []);
    assert_eq!(reasons_of(&blocked, &calm), []);
    let quota = with(kinds::PODS_READY, "False", reasons::QUOTA_EXCEEDED);
    let pending = with(kinds::PODS_READY, "False", reasons::PODS_PENDING);
    assert_eq!(
        reasons_of(&calm, &quota),
        [(true, "QuotaExceeded".to_owned())]
    );
    assert_eq!(reasons_of(&quota, &pending), []);
    let late = with(kinds::AWAKE, "False", reasons::WAKE_DEADLINE);
    assert_eq!(
        reasons_of(&pending, &late),
        [(true, "WakeDeadlineExceeded".to_owned())]
    );
}

#[test]
fn each_stage_of_a_wake_is_measured_once() {
    let demand = Reading {
        in_flight: 1,
        since: Some(at(98)),
        ..Reading::default()
    };
    let pod = Arc::new(PodView {
        place: PodPlace {
            name: "qwen-1".to_owned(),
            node: Some("node-1".to_owned()),
            ready: true,
            ending: false,
        },
        over: false,
        uid: "1".to_owned(),
        substrate: "qwen".to_owned(),
        trouble: None,
        ready_since: Some(at(190)),
        scheduled_since: Some(at(141)),
        started_at: Some(at(150)),
    });
    let way = [
        status(Phase::Asleep, vec![]),
        status(Phase::Waking, vec![slot(NodeState::Launching, 100)]),
        status(Phase::Waking, vec![slot(NodeState::Pending, 101)]),
        status(Phase::Waking, vec![slot(NodeState::Registered, 130)]),
        status(Phase::Waking, vec![slot(NodeState::Ready, 140)]),
        status(Phase::Awake, vec![slot(NodeState::Ready, 140)]),
    ];
    let mut measured = Vec::new();
    for (pair, now) in way.windows(2).zip([100, 101, 130, 140, 190]) {
        let pods = [pod.clone()];
        measured.extend(stages(&pair[0], &pair[1], &demand, &pods, at(now)));
        // Nothing is measured again while nothing changes.
        assert_eq!(stages(&pair[1], &pair[1], &demand, &pods, at(now)), []);
    }
    assert_eq!(
        measured,
        [
            (WakeStage::Decision, 2.0),
            (WakeStage::Launch, 1.0),
            (WakeStage::Registered, 29.0),
            (WakeStage::Ready, 10.0),
            (WakeStage::Pod, 10.0),
            (WakeStage::Loaded, 40.0),
        ]
    );
    let jump = stages(&way[2], &way[4], &demand, &[], at(140));
    assert_eq!(
        jump,
        [(WakeStage::Registered, 39.0), (WakeStage::Ready, 0.0)]
    );
}

#[test]
fn losses_are_warnings() {
    let tales = of_notes(&[
        (reasons::INSTANCE_LOST, "gone".to_owned()),
        ("Drifted", "old".to_owned()),
    ]);
    assert_eq!((tales[0].warning, tales[1].warning), (true, false));
}
