//! What the plan says, situation by situation.

use std::time::Duration;

use halo_cloud::{InstanceId, InstanceState as Cloud, VolumeId, VolumeState};
use halo_crds::pool::{IdlePolicy, VolumeDeletionPolicy};
use halo_crds::reasons;
use halo_crds::status::NodeState as State;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::capacity::{CapacityMemory, CapacityView, Lesson};
use super::plan::{NodeAction as Do, PoolBlock};
use super::testing::{READY, Scene, UID, at, id, instance, node, slot, states, volume};
use crate::settings::Pace;

fn without(places: &[(&str, &str)]) -> CapacityView {
    let scene = Scene::new(0);
    let memory = CapacityMemory::new(&scene.pace, Box::new(|_, _| {}));
    for (instance_type, zone) in places {
        let lesson = Lesson::NoCapacity {
            instance_type: (*instance_type).to_owned(),
            zone: (*zone).to_owned(),
        };
        memory.learn(UID, 1, &[lesson], at(0), 0.0);
    }
    memory.view(UID, 1, at(10))
}

#[test]
fn nothing_is_decided_before_the_first_listing() {
    let mut scene = Scene::new(1);
    scene.listed_at = None;
    let plan = scene.plan();
    assert!(plan.actions.is_empty() && plan.slots.is_empty() && !plan.empty);
    assert!(plan.moving && plan.look_again.is_some());
}

#[test]
fn a_launch_is_recorded_with_all_that_its_token_says() {
    let mut scene = Scene::new(2);
    scene.attempts = 7;
    let plan = scene.plan();
    assert_eq!(plan.attempts, 9);
    assert_eq!(
        plan.actions,
        [Do::Launch { slot: 0 }, Do::Launch { slot: 1 }]
    );
    let first = &plan.slots[0];
    assert_eq!((first.attempt, first.generation), (8, 1));
    assert_eq!((&*first.instance_type, &*first.zone), ("big", "za"));
    assert_eq!((first.state, first.since.0), (State::Launching, at(10)));

    // An answer that was lost: the same is asked again. When it was asked last is recorded, as until long after it the launch may show.
    scene.slots = plan.slots.clone();
    scene.attempts = plan.attempts;
    scene.now = at(500);
    scene.listed_at = Some(at(500));
    let again = scene.plan();
    assert_eq!(again.actions, plan.actions);
    for (slot, mut before) in again.slots.into_iter().zip(plan.slots) {
        before.since = Time(at(500));
        assert_eq!(slot, before);
    }
    assert_eq!(again.attempts, 9);
}

#[test]
fn types_and_zones_are_tried_in_order_around_those_without_capacity() {
    type Place = (&'static str, &'static str);
    let cases: [(&[Place], Option<Place>); 5] = [
        (&[], Some(("big", "za"))),
        (&[("big", "za")], Some(("big", "zb"))),
        (&[("big", "za"), ("big", "zb")], Some(("small", "za"))),
        (&[("big", "za"), ("small", "za")], Some(("big", "zb"))),
        (
            &[
                ("big", "za"),
                ("big", "zb"),
                ("small", "za"),
                ("small", "zb"),
            ],
            None,
        ),
    ];
    for (places, expected) in cases {
        let mut scene = Scene::new(1);
        scene.capacity = without(places);
        let plan = scene.plan();
        let tried = plan.slots.first();
        let tried = tried.map(|s| (s.instance_type.as_str(), s.zone.as_str()));
        assert_eq!(tried, expected, "{places:?}");
        assert_eq!(plan.blocked.is_some(), expected.is_none());
        if let Some(block) = plan.blocked {
            assert_eq!(block.reason, "InsufficientCapacity");
            assert_eq!(block.next_attempt, Some(at(180)));
            assert!(block.message.contains("big, small in za, zb"));
            assert_eq!(plan.look_again, Some(Duration::from_millis(170_005)));
        }
    }
}

#[test]
fn the_zone_of_the_data_volume_comes_before_the_preferred_type() {
    let mut scene = Scene::new(1);
    scene.volumes = vec![volume(0, "zb", VolumeState::Available)];
    let first = |scene: &Scene| {
        let plan = scene.plan();
        (
            plan.slots[0].instance_type.clone(),
            plan.slots[0].zone.clone(),
        )
    };
    assert_eq!(first(&scene), ("big".to_owned(), "zb".to_owned()));
    scene.capacity = without(&[("big", "zb")]);
    assert_eq!(first(&scene), ("small".to_owned(), "zb".to_owned()));
    scene.volumes[0].state = VolumeState::Deleting;
    assert_eq!(first(&scene), ("big".to_owned(), "za".to_owned()));
}

#[test]
fn a_cloud_without_capacity_stands_in_the_way_until_it_gives_an_instance() {
    let memory = CapacityMemory::new(&Pace::default(), Box::new(|_, _| {}));
    let mut scene = Scene::new(1);
    scene.capacity = without(&[
        ("big", "za"),
        ("big", "zb"),
        ("small", "za"),
        ("small", "zb"),
    ]);
    let plan = scene.plan();
    let told = plan.blocked.clone();
    assert!(told.is_some());
    memory.learn(UID, 1, &plan.lessons, at(10), 0.0);
    // It is asked again, and has not answered.
    scene.now = at(200);
    scene.capacity = memory.view(UID, 1, scene.now);
    let plan = scene.plan();
    assert_eq!(plan.actions, [Do::Launch { slot: 0 }]);
    assert_eq!(plan.blocked, told);
    memory.learn(UID, 1, &[Lesson::Launched], at(200), 0.0);
    scene.capacity = memory.view(UID, 1, scene.now);
    assert_eq!(scene.plan().blocked, None);
}

#[test]
fn what_stood_in_the_way_of_one_wake_does_not_stand_in_the_way_of_the_next() {
    let memory = CapacityMemory::new(&Pace::default(), Box::new(|_, _| {}));
    let block = PoolBlock {
        reason: "InsufficientCapacity".to_owned(),
        message: "none".to_owned(),
        next_attempt: None,
    };
    memory.learn(UID, 1, &[Lesson::NoneAnywhere(block)], at(0), 0.0);
    let mut scene = Scene::new(0);
    scene.capacity = memory.view(UID, 1, scene.now);
    let plan = scene.plan();
    assert_eq!(plan.lessons, [Lesson::Unwanted]);
    memory.learn(UID, 1, &plan.lessons, scene.now, 0.0);
    scene.capacity = memory.view(UID, 1, scene.now);
    assert_eq!(scene.plan().lessons, []);
    scene.wanted = 1;
    assert_eq!(scene.plan().blocked, None);
}

#[test]
fn a_pool_that_waits_says_why_and_until_when() {
    let mut scene = Scene::new(1);
    scene.not_before = Some(at(30));
    scene.capacity.block = Some(PoolBlock {
        reason: "QuotaReached".to_owned(),
        message: "RunInstances: VcpuLimitExceeded".to_owned(),
        next_attempt: None,
    });
    let plan = scene.plan();
    assert!(plan.slots.is_empty() && plan.actions.is_empty());
    let block = plan.blocked.unwrap();
    assert_eq!(block.reason, "QuotaReached");
    assert_eq!(block.next_attempt, Some(at(30)));
    assert_eq!(plan.look_again, Some(Duration::from_millis(20_005)));
    scene.now = at(30);
    assert_eq!(scene.plan().actions, [Do::Launch { slot: 0 }]);
}

#[test]
fn an_instance_becomes_a_node_step_by_step() {
    let cases = [
        (State::Pending, None, State::Pending),
        (State::Pending, Some(false), State::Registered),
        (State::Pending, Some(true), State::Ready),
        (State::Registered, Some(true), State::Ready),
        (State::Ready, Some(false), State::Registered),
        // The Node object was deleted: the deadline begins anew.
        (State::Ready, None, State::Pending),
    ];
    for (before, ready, after) in cases {
        let scene = Scene::new(1).with(&[(before, Cloud::Running, ready)]);
        let plan = scene.plan();
        assert_eq!(plan.slots[0].state, after, "{before:?} {ready:?}");
        assert!(plan.actions.is_empty(), "{:?}", plan.actions);
        let learnt = plan.lessons == [Lesson::Ready];
        assert_eq!(learnt, after == State::Ready && before != after);
        let name = ready.map(|_| "node-0".to_owned());
        assert_eq!(plan.slots[0].node, name);
    }
}

#[test]
fn a_ready_pool_plans_nothing() {
    let scene = Scene::new(2).with(&[READY, READY]);
    let plan = scene.plan();
    assert_eq!(plan.slots, scene.slots);
    assert!(plan.actions.is_empty() && plan.notes.is_empty() && plan.lessons.is_empty());
    assert_eq!(
        (plan.look_again, plan.moving, plan.empty),
        (None, false, false)
    );
}

#[test]
fn an_instance_that_does_not_register_in_time_is_ended_and_its_place_shunned() {
    let mut scene = Scene::new(1).with(&[(State::Pending, Cloud::Running, None)]);
    scene.now = at(119);
    assert_eq!(states(&scene), [State::Pending]);
    scene.now = at(120);
    let plan = scene.plan();
    assert_eq!(plan.slots[0].state, State::Terminating);
    assert_eq!(plan.actions, [Do::Terminate { instance: id(0) }]);
    assert_eq!(plan.notes[0].0, reasons::REGISTRATION_DEADLINE);
    assert!(matches!(&plan.lessons[..], [Lesson::NoNode { zone, .. }] if zone == "za"));

    // Once it is gone the next attempt goes elsewhere.
    let memory = CapacityMemory::new(&scene.pace, Box::new(|_, _| {}));
    memory.learn(UID, 1, &plan.lessons, at(120), 0.0);
    scene.slots = plan.slots;
    scene.instances[0].state = Cloud::Terminated;
    scene.now = at(130);
    scene.capacity = memory.view(UID, 1, at(130));
    let next = scene.plan();
    assert_eq!(next.slots[0].zone, "zb");
    assert_eq!(next.slots[0].attempt, 2);
    assert_eq!(next.actions, [Do::Launch { slot: 0 }]);
}

#[test]
fn an_instance_that_ends_or_stops_by_itself_is_noted_and_replaced() {
    for (cloud, after, action) in [
        (Cloud::ShuttingDown, State::Terminating, None),
        (Cloud::Stopping, State::Stopping, None),
    ] {
        let scene = Scene::new(1).with(&[(State::Ready, cloud, Some(true))]);
        let plan = scene.plan();
        assert_eq!(plan.slots[0].state, after);
        assert_eq!(plan.notes[0].0, reasons::INSTANCE_LOST);
        assert_eq!(plan.actions.first(), action.as_ref());
    }
    // Its Node goes first, then the slot is launched again.
    let mut scene = Scene::new(1).with(&[(State::Ready, Cloud::Terminated, Some(true))]);
    scene.slots[0].running_since = Some(Time(at(-90)));
    let plan = scene.plan();
    assert_eq!(plan.used, [("big".to_owned(), 100)]);
    let node = "node-0".to_owned();
    assert_eq!(plan.actions, [Do::DeleteNode { node }]);
    scene.slots = plan.slots;
    scene.nodes.clear();
    let plan = scene.plan();
    assert_eq!(plan.actions, [Do::Launch { slot: 0 }]);
    assert!(plan.used.is_empty() && plan.notes.is_empty());
}

#[test]
fn an_instance_is_missing_only_after_the_grace_time() {
    let mut scene = Scene::new(1).with(&[(State::Pending, Cloud::Running, None)]);
    scene.instances.clear();
    for (listed, expected) in [(59, State::Pending), (60, State::Terminating)] {
        scene.listed_at = Some(at(listed));
        scene.now = at(listed + 1);
        assert_eq!(states(&scene), [expected], "{listed}");
    }
}

#[test]
fn a_launch_that_cannot_be_repeated_is_asked_for() {
    let mut scene = Scene::new(1);
    scene.slots = vec![slot(0, State::Launching)];
    scene.template = "another".to_owned();
    assert_eq!(scene.plan().actions, [Do::FindByToken { slot: 0 }]);
    scene.template = scene.slots[0].template.clone();
    scene.wanted = 0;
    assert_eq!(scene.plan().actions, [Do::FindByToken { slot: 0 }]);
    // The listing shows it before.
    scene.instances = vec![instance(0, Cloud::Pending)];
    let plan = scene.plan();
    assert_eq!(plan.slots[0].instance.as_deref(), Some("i-0"));
    assert_eq!(plan.actions, [Do::Terminate { instance: id(0) }]);
}

#[test]
fn instances_that_no_slot_knows() {
    // Attempt 1 of slot 0 is what the first launch of this pool makes.
    let mut scene = Scene::new(1);
    scene.slots = vec![slot(0, State::Launching)];
    scene.attempts = 1;
    scene.instances = vec![instance(0, Cloud::Running)];
    let plan = scene.plan();
    assert_eq!(plan.slots[0].state, State::Pending);
    assert!(plan.slots[0].running_since.is_some() && plan.actions.is_empty());

    // Another attempt's ends after the grace time; nothing is launched beside it above the pool's size.
    scene.slots[0].attempt = 5;
    scene.attempts = 5;
    assert_eq!(scene.plan().actions, [Do::Launch { slot: 0 }]);
    scene.now = at(60);
    let terminate = Do::Terminate { instance: id(0) };
    assert_eq!(
        scene.plan().actions,
        [terminate.clone(), Do::Launch { slot: 0 }]
    );
    scene.slots.clear();
    scene.spec.max_nodes = 1;
    scene.instances[0].tags.remove(super::tags::ATTEMPT);
    assert_eq!(scene.plan().actions, [terminate]);

    // A record that was lost is made again from the tags, and its attempt is not used twice.
    scene = Scene::new(1);
    scene.instances = vec![instance(0, Cloud::Running), instance(1, Cloud::Terminated)];
    let plan = scene.plan();
    assert_eq!(plan.attempts, 2);
    assert_eq!(plan.slots[0].instance.as_deref(), Some("i-0"));
    assert_eq!(plan.slots[0].template, scene.template);
    assert!(plan.actions.is_empty());
}

#[test]
fn volumes_are_made_once_and_attached_when_the_instance_runs() {
    let data = json!({"sizeGib": 10});
    let mut scene = Scene::new(1).with(&[(State::Pending, Cloud::Pending, None)]);
    scene.spec.data_volume = Some(serde_json::from_value(data).unwrap());
    assert_eq!(scene.plan().actions, [Do::CreateVolume { slot: 0 }]);
    // It is made, and the listing does not show it yet.
    scene.slots[0].volume = Some("vol-0za".to_owned());
    assert!(scene.plan().actions.is_empty());
    scene.volumes = vec![
        volume(0, "zb", VolumeState::Available),
        volume(1, "za", VolumeState::Available),
        volume(0, "za", VolumeState::Available),
    ];
    assert!(scene.plan().actions.is_empty());
    scene.instances[0].state = Cloud::Running;
    let attach = Do::AttachVolume {
        slot: 0,
        volume: VolumeId("vol-0za".to_owned()),
        instance: id(0),
    };
    assert_eq!(scene.plan().actions, [attach]);
    scene.volumes[2].state = VolumeState::InUse(InstanceId("i-before".to_owned()));
    assert!(scene.plan().actions.is_empty());
    scene.volumes[2].state = VolumeState::InUse(id(0));
    assert!(scene.plan().actions.is_empty());
    // It was made long after its instance: a listing from soon after may not show it yet.
    scene.volumes.pop();
    scene.listed_at = Some(at(60));
    scene.slots[0].volume_since = Some(super::slots::stamp(at(30)));
    assert!(scene.plan().actions.is_empty());
    // One that vanished is made again, under another token.
    scene.slots[0].volume_since = Some(super::slots::stamp(at(0)));
    let plan = scene.plan();
    assert_eq!(plan.actions, [Do::CreateVolume { slot: 0 }]);
    assert_eq!(plan.slots[0].volume.as_deref(), Some("vol-0za"));
}

#[test]
fn a_deletion_takes_everything_but_what_is_to_be_kept() {
    let delete = |name: &str| Do::DeleteVolume {
        volume: VolumeId(name.to_owned()),
    };
    let mut scene = Scene::new(3).with(&[(State::Stopped, Cloud::Stopped, None)]);
    scene.deleting = true;
    scene.spec.idle_policy = IdlePolicy::Stop;
    scene.volumes = vec![
        volume(0, "za", VolumeState::InUse(id(0))),
        volume(0, "zb", VolumeState::Available),
    ];
    let plan = scene.plan();
    assert_eq!(
        plan.actions,
        [Do::Terminate { instance: id(0) }, delete("vol-0zb")]
    );
    assert!(!plan.empty);

    scene.slots.clear();
    scene.instances[0].state = Cloud::Terminated;
    scene.volumes.truncate(1);
    assert!(!scene.plan().empty);
    scene.volumes[0].state = VolumeState::Available;
    assert_eq!(scene.plan().actions, [delete("vol-0za")]);
    // Without a volume in the spec its own tag counts; with one, the spec.
    scene.volumes[0].tags.remove(super::tags::DELETION_POLICY);
    assert!(scene.plan().empty);
    let data = json!({"sizeGib": 10});
    scene.spec.data_volume = Some(serde_json::from_value(data).unwrap());
    assert!(!scene.plan().empty);
    scene.spec.data_volume.as_mut().unwrap().deletion_policy = VolumeDeletionPolicy::Retain;
    assert!(scene.plan().empty);
    scene.listed_at = None;
    assert!(!scene.plan().empty);
}

#[test]
fn nodes_of_instances_that_are_gone_are_removed() {
    let mut scene = Scene::new(0);
    scene.instances = vec![instance(1, Cloud::Terminated)];
    scene.nodes = vec![node(1, true), node(2, false), node(3, true)];
    let names = |scene: &Scene| -> Vec<String> {
        let actions = scene.plan().actions.into_iter();
        actions
            .map(|action| match action {
                Do::DeleteNode { node } => node,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    // A node that answers may be an instance that the listing does not show yet.
    assert_eq!(names(&scene), ["node-1", "node-2"]);
    scene.wanted = 1;
    scene.slots = vec![slot(0, State::Launching)];
    assert_eq!(scene.plan().actions, [Do::Launch { slot: 0 }]);
}

#[test]
fn ends_that_are_refused_wait_and_say_so() {
    let mut scene = Scene::new(0).with(&[(State::Terminating, Cloud::Running, None)]);
    scene.capacity.ends_not_before = Some(at(20));
    scene.capacity.end_block = Some(PoolBlock {
        reason: "NotPermitted".to_owned(),
        message: "TerminateInstances".to_owned(),
        next_attempt: Some(at(20)),
    });
    let plan = scene.plan();
    assert!(plan.actions.is_empty());
    assert_eq!(plan.blocked.unwrap().reason, "NotPermitted");
}
