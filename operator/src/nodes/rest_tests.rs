//! How slots drain, stop, sleep and wake.

use halo_cloud::InstanceState as Cloud;
use halo_crds::pool::IdlePolicy;
use halo_crds::status::NodeState as State;

use super::plan::NodeAction as Do;
use super::testing::{READY, Scene, at, id, pod_on, states};

#[test]
fn what_is_not_wanted_goes_in_order() {
    // (slots, pods that stay, wanted) -> (states, what is done)
    let not_ready = (State::Registered, Cloud::Running, Some(false));
    let starting = (State::Pending, Cloud::Running, None);
    let mut scene = Scene::new(1).with(&[READY, not_ready, starting]);
    let plan = scene.plan();
    assert_eq!(
        plan.slots.iter().map(|s| s.state).collect::<Vec<_>>(),
        [State::Ready, State::Draining, State::Terminating]
    );
    let (slot, node) = (1, "node-1".to_owned());
    let drain = Do::Drain { slot, node };
    assert_eq!(plan.actions, [drain, Do::Terminate { instance: id(2) }]);

    scene = Scene::new(1).with(&[READY, READY, READY]);
    scene.pods = vec![pod_on(2, false), pod_on(1, true)];
    assert_eq!(
        states(&scene),
        [State::Draining, State::Draining, State::Ready]
    );
    // No node is drained under a pod that stays: which pods end is not decided here.
    scene.pods = [0, 1, 2].map(|n| pod_on(n, false)).to_vec();
    assert_eq!(states(&scene), [State::Ready; 3]);
    scene.wanted = 0;
    assert_eq!(states(&scene), [State::Draining; 3]);
}

#[test]
fn a_drain_ends_by_its_deadline() {
    let mut scene = Scene::new(0).with(&[(State::Draining, Cloud::Running, Some(true))]);
    for (now, policy, expected) in [
        (599, IdlePolicy::Stop, State::Draining),
        (600, IdlePolicy::Stop, State::Stopping),
        (600, IdlePolicy::Terminate, State::Terminating),
    ] {
        scene.now = at(now);
        scene.spec.idle_policy = policy;
        let plan = scene.plan();
        assert_eq!(plan.slots[0].state, expected);
        assert_eq!(plan.notes.len(), usize::from(now == 600));
    }
}

#[test]
fn demand_that_comes_back_keeps_a_draining_node() {
    let scene = Scene::new(1).with(&[(State::Draining, Cloud::Running, Some(true))]);
    let plan = scene.plan();
    let node = "node-0".to_owned();
    assert_eq!(plan.actions, [Do::Uncordon { node }]);
    // It is ready again only when the API server has said so.
    assert_eq!(plan.slots[0].state, State::Draining);
}

#[test]
fn sleep_and_wake_of_a_pool_that_stops() {
    // What is recorded, what the cloud shows, whether its node is there, wanted -> what is recorded then, and done.
    let stop = Do::Stop {
        slot: 0,
        instance: id(0),
    };
    let start = Do::Start {
        slot: 0,
        instance: id(0),
    };
    let gone = Do::DeleteNode {
        node: "node-0".to_owned(),
    };
    let cases = [
        (
            State::Stopping,
            Cloud::Running,
            Some(true),
            0,
            State::Stopping,
            Some(stop),
        ),
        (
            State::Stopping,
            Cloud::Stopping,
            Some(true),
            0,
            State::Stopping,
            None,
        ),
        (
            State::Stopping,
            Cloud::Stopping,
            Some(true),
            1,
            State::Stopping,
            None,
        ),
        (
            State::Stopping,
            Cloud::Stopped,
            Some(false),
            0,
            State::Stopped,
            Some(gone.clone()),
        ),
        // The old Node would pass for the new one.
        (
            State::Stopping,
            Cloud::Stopped,
            Some(true),
            1,
            State::Stopped,
            Some(gone),
        ),
        (
            State::Stopped,
            Cloud::Stopped,
            None,
            0,
            State::Stopped,
            None,
        ),
        (
            State::Stopped,
            Cloud::Stopped,
            None,
            1,
            State::Starting,
            Some(start.clone()),
        ),
        (
            State::Starting,
            Cloud::Stopped,
            None,
            1,
            State::Starting,
            Some(start),
        ),
        (
            State::Starting,
            Cloud::Pending,
            None,
            1,
            State::Pending,
            None,
        ),
        (
            State::Stopped,
            Cloud::Terminated,
            None,
            1,
            State::Launching,
            Some(Do::Launch { slot: 0 }),
        ),
    ];
    for (before, cloud, ready, wanted, after, action) in cases {
        let mut scene = Scene::new(wanted).with(&[(before, cloud, ready)]);
        scene.spec.idle_policy = IdlePolicy::Stop;
        scene.slots[0].running_since = None;
        let plan = scene.plan();
        let what = format!("{before:?} {cloud:?} {ready:?} {wanted}");
        assert_eq!(plan.slots[0].state, after, "{what}");
        assert_eq!(plan.actions, Vec::from_iter(action), "{what}");
    }
}

#[test]
fn a_stopped_instance_that_is_out_of_date_ends() {
    let stopped = || {
        let mut scene = Scene::new(1).with(&[(State::Stopped, Cloud::Stopped, None)]);
        scene.spec.idle_policy = IdlePolicy::Stop;
        scene
    };
    let changes: [fn(&mut Scene); 6] = [
        |s| s.template = "another".to_owned(),
        |s| s.spec.instance_types.retain(|t| t != "big"),
        |s| s.spec.subnets.retain(|n| n.zone != "za"),
        |s| s.spec.idle_policy = IdlePolicy::Terminate,
        |s| s.spec.max_nodes = 0,
        |s| s.deleting = true,
    ];
    for change in changes {
        let mut scene = stopped();
        change(&mut scene);
        let plan = scene.plan();
        assert_eq!(plan.slots[0].state, State::Terminating);
        assert_eq!(plan.actions, [Do::Terminate { instance: id(0) }]);
    }
    // One that runs is left alone.
    let mut scene = Scene::new(1).with(&[READY]);
    scene.template = "another".to_owned();
    assert!(scene.plan().actions.is_empty());
}
