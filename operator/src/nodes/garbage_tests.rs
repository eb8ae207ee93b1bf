use halo_cloud::InstanceState;

use super::*;
use crate::nodes::testing::{at, instance, volume};

fn view(instances: &[InstanceState], volumes: &[VolumeState]) -> (String, FleetView) {
    let instances = (0..).zip(instances);
    let volumes = (0..).zip(volumes);
    let view = FleetView {
        instances: instances.map(|(n, s)| instance(n, *s)).collect(),
        volumes: volumes.map(|(n, s)| volume(n, "za", s.clone())).collect(),
        listed_at: None,
    };
    ("uid".to_owned(), view)
}

#[test]
fn what_belongs_to_nothing_goes_in_the_second_round_after_the_grace_time() {
    let pace = Pace::default();
    let held = [view(
        &[InstanceState::Running, InstanceState::Terminated],
        &[
            VolumeState::Available,
            VolumeState::InUse(InstanceId("i-0".to_owned())),
        ],
    )];
    let mut rounds = Rounds::default();
    let mut look = |listed: i64, now: i64, exists: bool| {
        rounds.orphans(&held, at(listed), |_| exists, &pace, at(now))
    };
    assert_eq!(look(100, 100, false), []);
    // The same listing is no second look.
    assert_eq!(look(100, 101, false), []);
    let found = look(102, 102, false);
    let found: Vec<Orphan> = found.into_iter().map(|(_, orphan)| orphan).collect();
    assert_eq!(
        found,
        [
            Orphan::Instance(InstanceId("i-0".to_owned())),
            Orphan::Volume(VolumeId("vol-0za".to_owned())),
        ]
    );
    // A uid that is known again is no suspect any more.
    assert_eq!(look(104, 104, true), []);
    assert_eq!(look(106, 106, false), []);
    assert_eq!(look(108, 108, false).len(), 2);
}

#[test]
fn the_young_and_the_retained_are_left_alone() {
    let pace = Pace::default();
    let mut held = [view(&[InstanceState::Running], &[VolumeState::Available])];
    let volume = &mut held[0].1.volumes[0];
    volume
        .tags
        .insert(tags::DELETION_POLICY.to_owned(), "Retain".to_owned());
    let mut rounds = Rounds::default();
    for (listed, expected) in [(10, 0), (59, 0), (60, 1)] {
        let now = at(listed);
        let found = rounds.orphans(&held, now, |_| false, &pace, now);
        assert_eq!(found.len(), expected, "{listed}");
    }
    held[0].1.instances.clear();
    assert!(!holds_garbage(&held[0].1));
    held[0].1.volumes[0].tags.remove(tags::DELETION_POLICY);
    assert!(!holds_garbage(&held[0].1));
}
