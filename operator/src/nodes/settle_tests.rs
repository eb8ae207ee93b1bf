//! What each outcome makes of the record.

use halo_cloud::{Failure, InstanceId, InstanceState, VolumeState};
use halo_crds::pool::IdlePolicy;
use halo_crds::reasons;
use halo_crds::status::{NodeSlot, NodeState as State};

use super::capacity::Lesson;
use super::plan::{NodeAction as Do, Outcome};
use super::settle::{Settled, Settling, settle};
use super::testing::{at, error, instance, slot, volume};
use crate::settings::Pace;

const LAUNCH: Do = Do::Launch { slot: 0 };
const FIND: Do = Do::FindByToken { slot: 0 };

fn after(
    second: i64,
    before: NodeSlot,
    action: &Do,
    outcome: &Outcome,
) -> (Vec<NodeSlot>, Settled) {
    let mut slots = vec![before];
    let pace = Pace::default();
    let settling = Settling {
        idle_policy: IdlePolicy::Stop,
        deleting: false,
        pace: &pace,
        now: at(second),
    };
    let settled = settle(&mut slots, action, outcome, &settling);
    (slots, settled)
}

fn start() -> Do {
    Do::Start {
        slot: 0,
        instance: InstanceId("i-0".to_owned()),
    }
}

#[test]
fn a_launch_that_answers() {
    for action in [LAUNCH, FIND] {
        for (cloud, state, again) in [
            (InstanceState::Pending, State::Pending, false),
            (InstanceState::Terminated, State::Terminating, true),
        ] {
            let mut launched = instance(0, cloud);
            launched.zone = "zb".to_owned();
            let outcome = Outcome::Launched(launched);
            let (slots, settled) = after(3, slot(0, State::Launching), &action, &outcome);
            assert_eq!(slots[0].state, state);
            assert_eq!(slots[0].zone, "zb");
            assert_eq!(slots[0].instance.as_deref(), Some("i-0"));
            assert_eq!(slots[0].running_since.is_some(), !again);
            assert_eq!(settled.again, again);
            assert_eq!(settled.lessons, [Lesson::Launched]);
        }
    }
    // An answer that comes when the slot has gone on changes nothing.
    let outcome = Outcome::Launched(instance(7, InstanceState::Pending));
    let (slots, settled) = after(3, slot(0, State::Ready), &LAUNCH, &outcome);
    assert_eq!(slots, [slot(0, State::Ready)]);
    assert_eq!(settled, Settled::default());
}

#[test]
fn a_launch_that_fails() {
    // Whether the record stays, whether it is planned again at once, and whether the pool waits.
    let cases = [
        (Failure::Capacity, false, true, false),
        (Failure::TokenSpent, false, true, false),
        (Failure::Quota, true, false, true),
        (Failure::Unauthorized, true, false, true),
        (Failure::Invalid, true, false, true),
        (Failure::Credentials, true, false, true),
        (Failure::Throttled, true, false, true),
        (Failure::Unreachable, true, false, true),
        (Failure::Server, true, false, true),
        (Failure::NotFound, true, false, true),
        (Failure::State, true, false, true),
    ];
    for (failure, stays, again, waits) in cases {
        let outcome = Outcome::Failed(error(failure));
        let before = slot(0, State::Launching);
        let (slots, settled) = after(3, before.clone(), &LAUNCH, &outcome);
        let expected = if stays { vec![before] } else { Vec::new() };
        assert_eq!(slots, expected, "{failure:?}");
        assert_eq!(settled.again, again, "{failure:?}");
        let learnt_to_wait = matches!(&settled.lessons[..], [Lesson::Refused(_)]);
        assert_eq!(learnt_to_wait, waits, "{failure:?}");
        assert_eq!(settled.blocked.is_some(), waits, "{failure:?}");
        if let Some(block) = settled.blocked {
            assert_eq!(block.reason, failure.name());
            assert!(
                block
                    .message
                    .starts_with("RunInstances: SomeCode: some words")
            );
        }
        let no_capacity = Lesson::NoCapacity {
            instance_type: "big".to_owned(),
            zone: "za".to_owned(),
        };
        let learnt = settled.lessons == [no_capacity];
        assert_eq!(learnt, failure == Failure::Capacity);
    }
}

#[test]
fn a_token_that_belongs_to_another_request_is_looked_for() {
    let outcome = Outcome::Failed(error(Failure::TokenMismatch));
    let (slots, settled) = after(30, slot(0, State::Launching), &LAUNCH, &outcome);
    assert_eq!((slots[0].template.as_str(), slots[0].since.0), ("", at(30)));
    assert!(settled.again);
    let mismatched = slots[0].clone();
    // What was launched may not show yet; only after the grace time it is sure that nothing was.
    let (slots, _) = after(89, mismatched.clone(), &FIND, &Outcome::NotFound);
    assert_eq!(slots.as_slice(), std::slice::from_ref(&mismatched));
    let (slots, settled) = after(90, mismatched, &FIND, &Outcome::NotFound);
    assert!(slots.is_empty() && settled.again);
}

#[test]
fn a_start_that_fails() {
    let cases = [
        (Failure::Capacity, State::Terminating, 1),
        (Failure::NotFound, State::Terminating, 0),
        (Failure::State, State::Starting, 0),
        (Failure::Quota, State::Starting, 1),
        (Failure::Unreachable, State::Starting, 1),
    ];
    for (failure, state, lessons) in cases {
        let outcome = Outcome::Failed(error(failure));
        let (slots, settled) = after(3, slot(0, State::Starting), &start(), &outcome);
        assert_eq!(slots[0].state, state, "{failure:?}");
        assert_eq!(settled.lessons.len(), lessons, "{failure:?}");
    }
}

#[test]
fn ends_that_fail_hold_up_ends_only() {
    let instance = InstanceId("i-0".to_owned());
    let stop = Do::Stop {
        slot: 0,
        instance: instance.clone(),
    };
    for action in [stop, Do::Terminate { instance }, FIND] {
        let before = slot(0, State::Terminating);
        let refused = Outcome::Failed(error(Failure::Unauthorized));
        let (slots, settled) = after(3, before.clone(), &action, &refused);
        assert_eq!(slots.as_slice(), std::slice::from_ref(&before));
        assert!(matches!(&settled.lessons[..], [Lesson::EndRefused(_)]));
        let gone = Outcome::Failed(error(Failure::NotFound));
        assert_eq!(after(3, before, &action, &gone).1, Settled::default());
    }
}

#[test]
fn volumes_and_nodes() {
    let made = Outcome::Volume(volume(0, "za", VolumeState::Creating));
    let create = Do::CreateVolume { slot: 0 };
    let (slots, _) = after(3, slot(0, State::Pending), &create, &made);
    assert_eq!(slots[0].volume.as_deref(), Some("vol-0za"));
    assert!(slots[0].volume_since.is_some());
    let elsewhere = Outcome::Volume(volume(0, "zb", VolumeState::Creating));
    let (slots, _) = after(3, slot(0, State::Pending), &create, &elsewhere);
    assert_eq!(slots[0].volume, None);

    let mut draining = slot(0, State::Draining);
    draining.node = Some("node-0".to_owned());
    let drain = Do::Drain {
        slot: 0,
        node: "node-0".to_owned(),
    };
    let (slots, settled) = after(3, draining.clone(), &drain, &Outcome::Done);
    assert_eq!((slots[0].state, settled.again), (State::Stopping, true));
    let message = "Cannot evict pod as it would violate the pod's disruption budget.".to_owned();
    let still = Outcome::StillDraining { message };
    let (slots, settled) = after(3, draining.clone(), &drain, &still);
    assert_eq!(slots.as_slice(), std::slice::from_ref(&draining));
    let block = settled.blocked.unwrap();
    assert_eq!(block.reason, reasons::DRAIN_BLOCKED);
    assert!(block.message.contains("disruption budget"));

    let node = "node-0".to_owned();
    let (slots, _) = after(3, draining, &Do::Uncordon { node }, &Outcome::Done);
    assert_eq!(slots[0].state, State::Ready);
}
