use super::*;

const IDLE_AFTER: Duration = Duration::from_secs(900);
/// The clock at steady time zero.
const CLOCK: i64 = 1_000_000;

fn at(seconds: u64) -> Now {
    Now {
        steady: Duration::from_secs(seconds),
        clock: clock(seconds),
    }
}

fn clock(seconds: u64) -> Timestamp {
    Timestamp::from_second(CLOCK + i64::try_from(seconds).unwrap()).unwrap()
}

fn has(waiting: usize, answering: usize) -> Demand {
    Demand { waiting, answering }
}

fn busy(in_flight: i64, since: u64, now: u64) -> Next {
    Next::Write(Entry::Busy {
        in_flight,
        since: clock(since),
        last_active: clock(now),
    })
}

fn idle(last: u64) -> Next {
    Next::Write(Entry::Idle {
        last_active: clock(last),
    })
}

const GONE: Next = Next::Write(Entry::Removed);

fn again(seconds: u64) -> Next {
    Next::At(Duration::from_secs(seconds))
}

fn next(desk: &Desk, now: u64) -> Next {
    desk.next(&Pace::default(), IDLE_AFTER, at(now))
}

/// Writes what is due at `now`, which must be `expected`, with this outcome.
fn write_as(desk: &mut Desk, now: u64, expected: Next, written: Written) {
    let due = next(desk, now);
    assert_eq!(due, expected, "at {now} s");
    let Next::Write(entry) = due else {
        panic!("nothing is due at {now} s: {due:?}");
    };
    desk.begin(entry);
    assert_eq!(next(desk, now), Next::Nothing, "one call at a time");
    desk.end(written, &Pace::default(), 255, at(now));
}

fn write(desk: &mut Desk, now: u64, expected: Next) {
    write_as(desk, now, expected, Written::Done);
}

/// A desk with a request since `now`, which has been told.
fn told(now: u64) -> Desk {
    let mut desk = Desk::default();
    desk.set(has(1, 0), true, at(now));
    write(&mut desk, now, busy(1, now, now));
    desk
}

#[test]
fn a_request_is_told_at_once_and_then_at_a_pace() {
    let mut desk = Desk::default();
    assert_eq!(next(&desk, 0), Next::Nothing);
    assert!(desk.is_clear());
    desk.set(has(1, 0), true, at(100));
    write(&mut desk, 100, busy(1, 100, 100));
    // A burst, and the first answers.
    desk.set(has(200, 0), true, at(100));
    desk.set(has(150, 50), true, at(110));
    assert_eq!(next(&desk, 110), again(130));
    write(&mut desk, 130, busy(200, 100, 130));
    assert_eq!(next(&desk, 131), again(160));
}

#[test]
fn a_conversation_with_pauses_writes_no_more_than_one_without() {
    let mut desk = told(0);
    for second in 0..29 {
        desk.set(has(0, usize::from(second % 10 == 0)), false, at(second));
        assert!(matches!(next(&desk, second), Next::At(_)), "at {second} s");
    }
    desk.set(has(0, 1), true, at(30));
    write(&mut desk, 30, busy(1, 30, 30));
}

#[test]
fn idleness_counts_from_the_last_request_and_the_entry_goes_after_it() {
    let mut desk = told(0);
    desk.set(has(0, 0), false, at(7));
    assert_eq!(next(&desk, 7), again(37));
    write(&mut desk, 37, idle(7));
    assert_eq!(next(&desk, 38), again(97));
    write(&mut desk, 97, GONE);
    assert!(desk.is_clear());
    assert_eq!(next(&desk, 10_000), Next::Nothing);
}

#[test]
fn a_substrate_that_sleeps_soon_is_told_sooner() {
    let mut desk = told(0);
    desk.set(has(0, 0), false, at(7));
    let soon = Duration::from_secs(10);
    assert_eq!(desk.next(&Pace::default(), soon, at(11)), again(12));
    assert_eq!(desk.next(&Pace::default(), soon, at(12)), idle(7));
}

#[test]
fn a_request_after_an_idle_entry_is_told_at_once() {
    let mut desk = told(0);
    desk.set(has(0, 0), false, at(1));
    write(&mut desk, 31, idle(1));
    desk.set(has(1, 0), true, at(32));
    write(&mut desk, 32, busy(1, 32, 32));
    desk.set(has(0, 0), false, at(33));
    write(&mut desk, 63, idle(33));
    write(&mut desk, 123, GONE);
    desk.set(has(1, 0), true, at(124));
    write(&mut desk, 124, busy(1, 124, 124));
}

#[test]
fn what_came_and_went_between_two_looks_counts_as_activity_and_wakes_nothing() {
    let mut desk = Desk::default();
    desk.set(has(0, 0), true, at(5));
    write(&mut desk, 6, idle(5));
    // Again, while the idle entry stands.
    desk.set(has(0, 0), true, at(20));
    write(&mut desk, 20, idle(20));
    assert_eq!(next(&desk, 21), again(80));
    // And while a write is under way.
    let Next::Write(entry) = next(&desk, 80) else {
        panic!("the entry is to go");
    };
    desk.begin(entry);
    desk.set(has(0, 0), true, at(80));
    desk.end(Written::Done, &Pace::default(), 0, at(81));
    write(&mut desk, 81, idle(80));
}

#[test]
fn failures_are_tried_again_with_growing_pauses() {
    let mut desk = Desk::default();
    desk.set(has(1, 0), true, at(0));
    let mut now = Duration::ZERO;
    for pause in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
        let moment = |steady| Now {
            steady,
            clock: clock(0),
        };
        let due = desk.next(&Pace::default(), IDLE_AFTER, moment(now));
        let Next::Write(entry) = due else {
            panic!("{due:?} at {now:?}");
        };
        desk.begin(entry);
        desk.end(Written::Failed(None), &Pace::default(), 255, moment(now));
        let due = now + Duration::from_millis(pause);
        let wait = desk.next(&Pace::default(), IDLE_AFTER, moment(now));
        assert_eq!(wait, Next::At(due));
        now = due;
    }
    // Gateways that failed together come back apart.
    let mut desk = Desk::default();
    desk.set(has(1, 0), true, at(0));
    desk.begin(Entry::Removed);
    desk.end(Written::Failed(None), &Pace::default(), 0, at(0));
    assert_eq!(next(&desk, 0), Next::At(Duration::from_millis(50)));
}

#[test]
fn the_api_server_may_ask_for_more_time_but_not_for_ever() {
    for (asked, expected) in [(2, 2), (3600, 10)] {
        let mut desk = Desk::default();
        desk.set(has(1, 0), true, at(0));
        let asked = Some(Duration::from_secs(asked));
        write_as(&mut desk, 0, busy(1, 0, 0), Written::Failed(asked));
        assert_eq!(next(&desk, 0), again(expected));
    }
}

#[test]
fn what_may_have_been_written_is_taken_back() {
    let mut desk = Desk::default();
    desk.set(has(1, 0), true, at(0));
    write_as(&mut desk, 0, busy(1, 0, 0), Written::Failed(None));
    // The request was cancelled meanwhile; whether the entry stands is not known.
    desk.set(has(0, 0), false, at(1));
    assert!(!desk.is_clear());
    write(&mut desk, 31, idle(1));
    write_as(&mut desk, 91, GONE, Written::Failed(None));
    write(&mut desk, 92, GONE);
    assert!(desk.is_clear());
}

#[test]
fn an_idle_entry_that_failed_is_written_again() {
    let mut desk = told(0);
    desk.set(has(0, 0), false, at(1));
    write_as(&mut desk, 31, idle(1), Written::Failed(None));
    write(&mut desk, 32, idle(1));
    assert_eq!(next(&desk, 32), again(92));
}

#[test]
fn a_substrate_that_is_gone_is_not_asked_for_at_every_turn() {
    let mut desk = told(0);
    write_as(&mut desk, 30, busy(1, 0, 30), Written::Gone);
    assert_eq!(next(&desk, 30), again(40));
    desk.set(has(0, 0), false, at(35));
    assert!(desk.is_clear());
}

#[test]
fn a_gateway_that_ends_takes_its_entry_away_at_once() {
    let mut desk = told(0);
    desk.leave();
    write(&mut desk, 1, GONE);
    assert!(desk.is_clear());
    let mut nothing = Desk::default();
    nothing.set(has(1, 0), true, at(0));
    nothing.leave();
    assert!(nothing.is_clear());
}

#[test]
fn what_an_earlier_process_of_this_name_left_is_tidied_up() {
    let mut desk = Desk::inherited(clock(0));
    assert!(!desk.is_clear());
    assert_eq!(next(&desk, 0), again(30));
    write(&mut desk, 30, idle(0));
    write(&mut desk, 90, GONE);
    // With requests of its own it is this one's entry from now on.
    let mut desk = Desk::inherited(clock(0));
    desk.set(has(2, 0), true, at(5));
    write(&mut desk, 5, busy(2, 5, 5));
}

#[test]
fn entries_of_gateways_that_are_gone_are_found() {
    let entry = |gateway: &str, silent: i64| DemandEntry {
        gateway: gateway.to_owned(),
        last_active: Timestamp::from_second(CLOCK - silent).unwrap(),
    };
    let now = clock(0);
    let few = [
        entry("own", 100_000),
        entry("dead", 4500),
        entry("quiet", 4499),
        entry("ahead", -50),
    ];
    assert_eq!(garbage(&few, "own", IDLE_AFTER, now), ["dead"]);
    let hour = Duration::from_secs(3600);
    assert_eq!(garbage(&few, "own", hour, now), [""; 0]);
    assert_eq!(
        garbage(&few[1..], "own", Duration::ZERO, now),
        ["dead", "quiet"]
    );
    // Where it becomes crowded they go as soon as the operator counts them as dead.
    let crowd: Vec<DemandEntry> = (0..40).map(|n| entry(&format!("g-{n}"), 880 + n)).collect();
    assert_eq!(garbage(&crowd, "own", IDLE_AFTER, now).len(), 20);
}
