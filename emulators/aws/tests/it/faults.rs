//! Which calls faults meet, and that schedules are read.

use std::collections::BTreeMap;

use halo_aws_emulator::faults::{Faults, Schedule, usual_status};
use halo_aws_emulator::{Fault, FaultAction, When};

fn parameters(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn a_fault_meets_the_calls_it_counts() {
    let mut faults = Faults::new(vec![
        Fault::cut("RunInstances", When::After)
            .after(2)
            .times(Some(2)),
    ]);
    let none = parameters(&[]);
    let met: Vec<bool> = (0..6)
        .map(|_| faults.meet("RunInstances", &none).is_some())
        .collect();
    assert_eq!(met, [false, false, true, true, false, false]);
    assert!(faults.waiting().is_empty());
}

#[test]
fn other_calls_do_not_count() {
    let mut faults = Faults::new(vec![
        Fault::error("Describe*", "InternalError")
            .after(1)
            .with("VolumeId.1", "a"),
    ]);
    let (a, b) = (
        parameters(&[("VolumeId.1", "a")]),
        parameters(&[("VolumeId.1", "b")]),
    );
    assert_eq!(faults.meet("RunInstances", &a), None);
    assert_eq!(faults.meet("DescribeVolumes", &b), None);
    assert_eq!(faults.meet("DescribeVolumes", &a), None);
    assert_eq!(faults.meet("DescribeVolumes", &b), None);
    assert!(faults.meet("DescribeTags", &a).is_some());
    assert_eq!(faults.meet("DescribeTags", &a), None);
}

#[test]
fn the_first_ripe_fault_meets_and_all_count() {
    let mut faults = Faults::new(vec![
        Fault::error("*", "A").times(None),
        Fault::error("*", "B").after(1),
    ]);
    let none = parameters(&[]);
    let code = |act: Option<FaultAction>| match act {
        Some(FaultAction::Error { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(faults.meet("X", &none)), "A");
    assert_eq!(code(faults.meet("X", &none)), "A");
    // The second is ripe since the call before; it waits behind the first.
    assert_eq!(faults.waiting().len(), 2);
    faults.clear();
    assert_eq!(faults.meet("X", &none), None);
}

#[test]
fn a_schedule_file_is_read() {
    let text = r#"{"faults": [
        {"action": "RunInstances", "after": 1, "do": {"kind": "error", "code": "InsufficientInstanceCapacity"}},
        {"action": "DescribeInstances", "times": null, "do": {"kind": "delay", "ms": 20}},
        {"action": "TerminateInstances", "do": {"kind": "cut", "when": "after"}},
        {"action": "*", "with": {"Name": "/halo/root"}, "do": {"kind": "hang", "ms": 5, "when": "before"}},
        {"action": "StartInstances", "do": {"kind": "garbage"}}
    ]}"#;
    let schedule: Schedule = serde_json::from_str(text).unwrap();
    assert_eq!(schedule.faults.len(), 5);
    assert_eq!(schedule.faults[0].times, Some(1));
    assert_eq!(schedule.faults[1].times, None);
    assert_eq!(
        schedule.faults[2].act,
        FaultAction::Cut { when: When::After }
    );
    let written = serde_json::to_string(&schedule).unwrap();
    assert_eq!(
        serde_json::from_str::<Schedule>(&written).unwrap(),
        schedule
    );
    for bad in [
        r#"{"faults": [{"action": "X"}]}"#,
        r#"{"faults": [{"action": "X", "do": {"kind": "explode"}}]}"#,
        r#"{"faults": [{"action": "X", "afterwards": 1, "do": {"kind": "cut"}}]}"#,
        r#"{"faults": [{"action": "X", "do": {"kind": "cut", "ms": 1}}]}"#,
    ] {
        serde_json::from_str::<Schedule>(bad).unwrap_err();
    }
}

#[test]
fn statuses_are_those_of_aws() {
    for (code, status) in [
        ("RequestLimitExceeded", 503),
        ("InsufficientInstanceCapacity", 500),
        ("UnauthorizedOperation", 403),
        ("AuthFailure", 401),
        ("InvalidParameterValue", 400),
    ] {
        assert_eq!(usual_status(code), status, "{code}");
    }
}
