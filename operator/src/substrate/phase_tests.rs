use super::*;
use proptest::prelude::*;

const NOW: i64 = 1_000_000;
const IDLE: Duration = Duration::from_secs(60);
const WAKE: Duration = Duration::from_secs(300);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Nothing is asked, since long ago; nothing runs.
fn calm(phase: Phase) -> Situation {
    Situation {
        phase,
        busy: false,
        idle_since: Some(at(NOW - 1000)),
        may_wake: true,
        paused: false,
        deleting: false,
        pods: Pods::default(),
        nodes_left: false,
        waking_since: (phase == Phase::Waking).then(|| at(NOW - 10)),
        idle_after: IDLE,
        wake_deadline: WAKE,
        now: at(NOW),
    }
}

fn busy(s: &mut Situation) {
    (s.busy, s.idle_since) = (true, None);
}

fn ready(s: &mut Situation) {
    s.pods = Pods { left: 1, ready: 1 };
    s.nodes_left = true;
}

fn starting(s: &mut Situation) {
    s.pods = Pods { left: 1, ready: 0 };
    s.nodes_left = true;
}

type Event = (&'static str, fn(&mut Situation));

/// Every event, and the phase that follows from Asleep, Waking, Awake and Draining.
const TABLE: &[(Event, [Phase; 4])] = {
    use Phase::{Asleep, Awake, Draining, Waking};
    &[
        (
            ("silence, nothing left", |_| {}),
            [Asleep, Asleep, Asleep, Asleep],
        ),
        (
            ("silence, a pod answers", ready),
            [Draining, Draining, Draining, Draining],
        ),
        (
            ("silence, a pod starts", starting),
            [Draining, Draining, Draining, Draining],
        ),
        (
            ("silence, a node is left", |s| s.nodes_left = true),
            [Draining, Draining, Draining, Draining],
        ),
        (
            ("silence, not yet long enough", |s| {
                s.idle_since = Some(at(NOW - 59));
                ready(s);
            }),
            [Draining, Awake, Awake, Draining],
        ),
        (
            ("silence, not yet long enough, the pod is lost", |s| {
                s.idle_since = Some(at(NOW - 59))
            }),
            [Asleep, Waking, Waking, Asleep],
        ),
        (("demand", busy), [Waking, Waking, Waking, Waking]),
        (
            ("demand, a pod starts", |s| {
                busy(s);
                starting(s);
            }),
            [Waking, Waking, Waking, Waking],
        ),
        (
            ("demand, a pod answers", |s| {
                busy(s);
                ready(s);
            }),
            [Awake, Awake, Awake, Awake],
        ),
        (
            ("demand that may not wake", |s| {
                busy(s);
                s.may_wake = false;
            }),
            [Asleep, Waking, Waking, Asleep],
        ),
        (
            ("demand that may not wake, a pod answers", |s| {
                busy(s);
                ready(s);
                s.may_wake = false;
            }),
            [Draining, Awake, Awake, Draining],
        ),
        (
            ("paused, demand", |s| {
                busy(s);
                s.paused = true;
            }),
            [Asleep, Waking, Awake, Draining],
        ),
        (
            ("paused, silence, a pod answers", |s| {
                ready(s);
                s.paused = true;
            }),
            [Asleep, Waking, Awake, Draining],
        ),
        (
            ("deleted with demand, a pod answers", |s| {
                busy(s);
                ready(s);
                s.deleting = true;
            }),
            [Draining, Draining, Draining, Draining],
        ),
        (
            ("deleted while paused, nothing left", |s| {
                busy(s);
                (s.paused, s.deleting) = (true, true);
            }),
            [Asleep, Asleep, Asleep, Asleep],
        ),
    ]
};

#[test]
fn every_phase_and_event() {
    for ((name, event), expected) in TABLE {
        let phases = [Phase::Asleep, Phase::Waking, Phase::Awake, Phase::Draining];
        for (phase, expected) in phases.into_iter().zip(expected) {
            let mut situation = calm(phase);
            event(&mut situation);
            assert_eq!(step(&situation).phase, *expected, "{phase} and {name}");
        }
    }
}

#[test]
fn a_wake_remembers_its_beginning_and_its_deadline() {
    let mut s = calm(Phase::Asleep);
    busy(&mut s);
    let first = step(&s);
    assert_eq!(first.waking_since, Some(at(NOW)));
    assert_eq!((first.overdue, first.look_again), (false, Some(WAKE)));
    (s.phase, s.waking_since) = (first.phase, first.waking_since);
    s.now = at(NOW + 300);
    let late = step(&s);
    assert_eq!(late.waking_since, Some(at(NOW)));
    assert_eq!(
        (late.overdue, late.look_again, late.phase),
        (true, None, Phase::Waking)
    );
    ready(&mut s);
    assert_eq!(step(&s).waking_since, None);
}

#[test]
fn a_pod_that_is_lost_begins_another_wake() {
    let mut s = calm(Phase::Awake);
    busy(&mut s);
    assert_eq!(step(&s).waking_since, Some(at(NOW)));
}

#[test]
fn it_looks_again_when_silence_is_over() {
    let mut s = calm(Phase::Awake);
    ready(&mut s);
    s.idle_since = Some(at(NOW - 45));
    assert_eq!(step(&s).look_again, Some(Duration::from_secs(15)));
    busy(&mut s);
    assert_eq!(step(&s).look_again, None);
}

#[test]
fn silence_is_counted_from_the_last_that_is_known() {
    let reading = |in_flight, last: Option<i64>| Reading {
        in_flight,
        last_active: last.map(at),
        ..Reading::default()
    };
    for (recorded, demand, expected) in [
        (None, reading(0, None), Some(NOW)),
        (None, reading(0, Some(5)), Some(5)),
        (Some(7), reading(0, None), Some(7)),
        (Some(7), reading(0, Some(5)), Some(7)),
        (Some(7), reading(0, Some(9)), Some(9)),
        (Some(7), reading(1, Some(9)), None),
    ] {
        assert_eq!(
            idle_since(recorded.map(at), &demand, at(NOW)),
            expected.map(at),
            "{recorded:?} {demand:?}"
        );
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Ask,
    Silence,
    PodStarts,
    PodAnswers,
    PodEnds,
    NodeComes,
    NodeGoes,
    Wait(u16),
    Tenant(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        Just(Happening::Ask),
        Just(Happening::Silence),
        Just(Happening::PodStarts),
        Just(Happening::PodAnswers),
        Just(Happening::PodEnds),
        Just(Happening::NodeComes),
        Just(Happening::NodeGoes),
        (0u16..200).prop_map(Happening::Wait),
        any::<bool>().prop_map(Happening::Tenant),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_happens(happenings in proptest::collection::vec(happening(), 1..60)) {
        let mut s = calm(Phase::Asleep);
        let mut silent_since = Some(s.now);
        s.idle_since = silent_since;
        for happening in happenings {
            match happening {
                Happening::Ask => (s.busy, silent_since) = (true, None),
                Happening::Silence => {
                    s.busy = false;
                    silent_since = silent_since.or(Some(s.now));
                }
                Happening::PodStarts if runs(s.phase) => s.pods.left = 1,
                Happening::PodAnswers if runs(s.phase) && s.pods.left > 0 => s.pods.ready = 1,
                Happening::PodEnds => s.pods = Pods::default(),
                Happening::NodeComes if runs(s.phase) => s.nodes_left = true,
                Happening::NodeGoes => s.nodes_left = false,
                Happening::Wait(seconds) => s.now += Duration::from_secs(seconds.into()),
                Happening::Tenant(ready) => s.may_wake = ready,
                Happening::PodStarts | Happening::PodAnswers | Happening::NodeComes => {}
            }
            let demand = Reading { in_flight: s.busy.into(), ..Reading::default() };
            s.idle_since = idle_since(s.idle_since, &demand, s.now);
            let before = s.phase;
            let next = step(&s);
            (s.phase, s.waking_since) = (next.phase, next.waking_since);
            // Nothing flaps: the same situation stays where it is.
            let again = step(&s);
            prop_assert_eq!(&again, &next);
            // No pods are wanted without demand for longer than idleAfter.
            if runs(s.phase) {
                prop_assert!(s.busy || silent_since.is_some_and(|since| elapsed(since, s.now) < IDLE));
            }
            // Demand that may wake is always heard.
            prop_assert!(!(s.busy && s.may_wake) || runs(s.phase));
            // Only demand wakes, and only with a tenant.
            if runs(s.phase) && !runs(before) {
                prop_assert!(s.busy && s.may_wake);
            }
            // Asleep costs nothing; awake answers.
            prop_assert!(s.phase != Phase::Asleep || (s.pods.left == 0 && !s.nodes_left));
            prop_assert_eq!(s.phase == Phase::Awake, runs(s.phase) && s.pods.ready > 0);
            prop_assert_eq!(next.waking_since.is_some(), s.phase == Phase::Waking);
            // It knows when to look again unless only an event can change something.
            prop_assert!(!runs(s.phase) || s.busy || next.look_again.is_some());
        }
    }
}
