//! The line of held requests: whatever happens, nobody is lost, overtaken or sent to a pod that is not there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use halo_gateway::directory::PodAddress;
use halo_gateway::hold::line::{Back, Bounds, Full, Line, PAUSE_MIN_MS, Ticket};
use halo_receipts::ids::SessionId;
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds {
    count: 4,
    bytes: 1_000,
    at_once: 3,
    age_ms: 10_000,
};

fn session(number: u8) -> SessionId {
    SessionId::from_random([number; 16])
}

fn address(number: u8) -> PodAddress {
    PodAddress(format!("10.0.0.{number}:9000"))
}

#[test]
fn a_line_is_bounded_by_count_and_bytes_and_lets_through_what_needs_no_place() {
    let mut line = Line::new(BOUNDS);
    for number in 0..4 {
        assert_eq!(line.enter(Ticket(number), session(1), 100, 0), Ok(()));
    }
    assert_eq!(line.enter(Ticket(4), session(1), 1, 0), Err(Full));
    line.leave(Ticket(2), 0);
    assert_eq!(line.enter(Ticket(5), session(1), 701, 0), Err(Full));
    assert_eq!(line.enter(Ticket(6), session(1), 700, 0), Ok(()));
    assert_eq!((line.position(Ticket(6)), line.bytes()), (3, 1_000));
    assert_eq!((line.counts(), line.next(0)), ((4, 0), None));
    // A pod that has not taken anything yet is tried by one, then by as many as may be out.
    line.set_pods(&[address(1)]);
    assert_eq!(line.next(0), Some((Ticket(0), address(1))));
    assert_eq!(line.next(0), None);
    line.linked(Ticket(0), 0);
    assert_eq!(line.next(0), Some((Ticket(1), address(1))));
    assert_eq!(line.next(0), Some((Ticket(3), address(1))));
    assert_eq!((line.next(0), line.counts()), (None, (3, 1)));
    for ticket in [0, 1, 3, 6] {
        line.leave(Ticket(ticket), 0);
    }
    assert!(line.is_empty() && line.bytes() == 0);
    // Nobody may wait here, but nobody needs to.
    line.set_bounds(Bounds { count: 0, ..BOUNDS });
    for number in 10..13 {
        assert_eq!(line.enter(Ticket(number), session(1), 5_000, 0), Ok(()));
        assert!(line.next(0).is_some());
    }
    assert_eq!(line.enter(Ticket(13), session(1), 1, 0), Err(Full));
}

#[test]
fn a_pod_that_takes_nothing_is_tried_again_soon_and_not_all_the_time() {
    let mut line = Line::new(BOUNDS);
    line.set_pods(&[address(1)]);
    line.enter(Ticket(1), session(1), 1, 0).unwrap();
    line.enter(Ticket(2), session(2), 1, 0).unwrap();
    let (mut now, mut pauses) = (0, Vec::new());
    for _ in 0..6 {
        assert_eq!(line.next(now), Some((Ticket(1), address(1))));
        assert_eq!(line.next(now), None, "one tries for all");
        line.back(Ticket(1), Back::Refused, now);
        let due = line.due_ms().unwrap();
        assert_eq!((line.next(now), line.next(due - 1)), (None, None));
        pauses.push(due - now);
        now = due;
    }
    assert_eq!(pauses, [20, 40, 80, 160, 250, 250]);
    assert_eq!(line.next(now), Some((Ticket(1), address(1))));
    line.linked(Ticket(1), now);
    assert_eq!(line.next(now), Some((Ticket(2), address(1))));
    // Full: tried again when one of its answers ends, before the pause is over.
    line.back(Ticket(2), Back::Refused, now);
    assert_eq!(line.next(now), None);
    line.leave(Ticket(1), now);
    assert_eq!(line.next(now), Some((Ticket(2), address(1))));
}

#[test]
fn late_requests_are_taken_out_and_a_lost_one_begins_anew() {
    let mut line = Line::new(BOUNDS);
    line.set_pods(&[address(1)]);
    line.enter(Ticket(1), session(1), 1, 0).unwrap();
    line.enter(Ticket(2), session(2), 1, 500).unwrap();
    line.next(0).unwrap();
    line.linked(Ticket(1), 0);
    assert_eq!(line.due_ms(), Some(500), "the second may go");
    line.set_pods(&[]);
    assert_eq!(line.due_ms(), Some(10_500));
    line.lost(Ticket(1), 9_000);
    assert_eq!(line.counts(), (1, 0));
    line.back(Ticket(1), Back::Lost, 9_000);
    assert_eq!((line.position(Ticket(1)), line.position(Ticket(2))), (0, 1));
    assert_eq!(line.expired(10_499), []);
    assert_eq!(line.expired(10_500), [Ticket(2)]);
    assert_eq!(line.expired(19_000), [Ticket(1)]);
    assert_eq!(line.due_ms(), None);
}

#[test]
fn a_session_whose_pod_is_busy_with_it_lets_others_pass() {
    let mut line = Line::new(BOUNDS);
    line.set_pods(&[address(1)]);
    line.enter(Ticket(1), session(1), 1, 0).unwrap();
    line.enter(Ticket(2), session(2), 1, 0).unwrap();
    line.next(0).unwrap();
    line.linked(Ticket(1), 0);
    line.back(Ticket(1), Back::SessionBusy, 0);
    assert_eq!(line.next(0), Some((Ticket(2), address(1))));
    assert_eq!((line.next(0), line.due_ms()), (None, Some(PAUSE_MIN_MS)));
    assert_eq!(line.next(PAUSE_MIN_MS), Some((Ticket(1), address(1))));
}

#[test]
fn many_pods_are_loaded_evenly() {
    let pods: Vec<PodAddress> = (0..16).map(address).collect();
    let mut line = Line::new(Bounds {
        at_once: 1_000,
        ..BOUNDS
    });
    line.set_pods(&pods);
    let mut load = HashMap::new();
    for number in 0..320 {
        line.enter(Ticket(number), session(1), 1, 0).unwrap();
        // Sessions are many: none has a pod yet.
        let (ticket, pod) = line.next(0).unwrap();
        *load.entry(pod).or_insert(0) += 1;
        line.linked(ticket, 0);
        line.set_pods(&[]);
        line.set_pods(&pods);
    }
    assert!(
        load.len() == 16 && load.values().all(|load| (10..=30).contains(load)),
        "{load:?}"
    );
}

#[derive(Debug, Clone)]
enum Step {
    Enter(u8, usize),
    Dispatch,
    Linked(usize),
    Lost(usize),
    Back(usize, Back),
    Leave(usize),
    Pods(BTreeSet<u8>),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let back = prop_oneof![Just(Back::Refused), Just(Back::Lost)];
    prop_oneof![
        4 => (0u8..4, 1usize..400).prop_map(|(session, bytes)| Step::Enter(session, bytes)),
        4 => Just(Step::Dispatch),
        3 => any::<usize>().prop_map(Step::Linked),
        1 => any::<usize>().prop_map(Step::Lost),
        2 => (any::<usize>(), back).prop_map(|(at, back)| Step::Back(at, back)),
        2 => any::<usize>().prop_map(Step::Leave),
        2 => proptest::collection::btree_set(0u8..12, 0..11).prop_map(Step::Pods),
        2 => (0u64..400).prop_map(Step::Pass),
    ]
}

/// What a line should hold.
#[derive(Default)]
struct Model {
    waiting: BTreeMap<Ticket, (usize, u64)>,
    /// Those that were dispatched, with their bytes and when they began to wait.
    out: BTreeMap<Ticket, (usize, u64)>,
    /// Of those, the ones whose pod is gone.
    lost: BTreeSet<Ticket>,
    pods: BTreeSet<u8>,
}

impl Model {
    fn pick(&self, at: usize) -> Option<Ticket> {
        let count = self.out.len().max(1);
        self.out.keys().nth(at % count).copied()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn nobody_is_lost_or_overtaken(steps in proptest::collection::vec(step(), 1..120)) {
        let mut line = Line::new(BOUNDS);
        let mut model = Model::default();
        let (mut now, mut tickets) = (0, 0);
        for step in steps {
            match step {
                Step::Enter(number, bytes) => {
                    let ticket = Ticket(tickets);
                    tickets += 1;
                    let held: usize = model.waiting.values().map(|(bytes, _)| bytes).sum();
                    match line.enter(ticket, session(number), bytes, now) {
                        Ok(()) => { model.waiting.insert(ticket, (bytes, now)); }
                        Err(Full) => {
                            let tried = model.out.len() - model.lost.len();
                            prop_assert!(model.waiting.len() + tried >= BOUNDS.count || held + bytes > BOUNDS.bytes);
                        }
                    }
                }
                Step::Dispatch => {
                    if let Some((ticket, pod)) = line.next(now) {
                        let oldest = model.waiting.first_key_value().map(|(ticket, _)| *ticket);
                        prop_assert_eq!(Some(ticket), oldest);
                        prop_assert!(model.pods.iter().any(|number| address(*number) == pod));
                        let request = model.waiting.remove(&ticket).unwrap();
                        model.out.insert(ticket, request);
                        prop_assert!(model.out.len() - model.lost.len() <= BOUNDS.at_once);
                    }
                }
                Step::Linked(at) => {
                    if let Some(ticket) = model.pick(at) { line.linked(ticket, now); }
                }
                Step::Lost(at) => {
                    if let Some(ticket) = model.pick(at) {
                        line.lost(ticket, now);
                        model.lost.insert(ticket);
                    }
                }
                Step::Back(at, why) => {
                    if let Some(ticket) = model.pick(at) {
                        line.back(ticket, why, now);
                        let (bytes, since) = model.out.remove(&ticket).unwrap();
                        model.lost.remove(&ticket);
                        let since = if why == Back::Lost { now } else { since };
                        model.waiting.insert(ticket, (bytes, since));
                    }
                }
                Step::Leave(at) => {
                    let waiting = model.waiting.keys().nth(at % model.waiting.len().max(1)).copied();
                    let ticket = if at % 2 == 0 { model.pick(at) } else { waiting };
                    if let Some(ticket) = ticket {
                        line.leave(ticket, now);
                        model.out.remove(&ticket);
                        model.lost.remove(&ticket);
                        model.waiting.remove(&ticket);
                    }
                }
                Step::Pods(pods) => {
                    let listed: Vec<PodAddress> = pods.iter().copied().map(address).collect();
                    line.set_pods(&listed);
                    model.pods = pods;
                }
                Step::Pass(ms) => now += ms,
            }
            let late: Vec<Ticket> = line.expired(now);
            for ticket in &late {
                let (_, since) = model.waiting.remove(ticket).unwrap();
                prop_assert!(now - since >= BOUNDS.age_ms);
            }
            prop_assert_eq!(line.bytes(), model.waiting.values().map(|(bytes, _)| *bytes).sum::<usize>());
            let (waiting, answering) = line.counts();
            prop_assert_eq!(waiting + answering, model.waiting.len() + model.out.len() - model.lost.len());
            prop_assert_eq!(line.oldest_ms(), model.waiting.values().map(|(_, since)| *since).min());
            for (before, ticket) in model.waiting.keys().enumerate() {
                prop_assert_eq!(line.position(*ticket), before);
            }
        }
        // With a pod that takes whatever comes, all that wait are served in their order, and time alone is enough for it.
        for ticket in model.out.keys() {
            line.leave(*ticket, now);
        }
        line.set_pods(&[address(99)]);
        let mut order = Vec::new();
        while let Some(due) = line.due_ms() {
            now = now.max(due);
            let late = line.expired(now);
            order.extend(&late);
            let next = line.next(now);
            prop_assert!(next.is_some() || !late.is_empty(), "nothing is due at {}", due);
            if let Some((ticket, _)) = next {
                line.linked(ticket, now);
                line.leave(ticket, now);
                order.push(ticket);
            }
        }
        prop_assert!(line.is_empty());
        let all: Vec<Ticket> = model.waiting.keys().copied().collect();
        order.sort();
        prop_assert_eq!(order, all);
    }
}
