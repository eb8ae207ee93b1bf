//! Whatever is asked and whatever fails, it ends where it should, and there a second pass changes nothing.

use std::time::Duration;

use halo_cloud::{Instance, InstanceState};
use halo_crds::pool::IdlePolicy;
use halo_crds::status::Phase;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

use super::testing;
use super::world::{Fault, World, at};

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => Just(Fault::Capacity),
        1 => Just(Fault::Throttled),
        1 => Just(Fault::LostAnswer),
        1 => Just(Fault::LostRequest),
        1 => Just(Fault::Crash),
    ]
}

#[derive(Debug, Clone, Copy)]
enum Deed {
    Ask(i64),
    Wait(i64),
    EndAnInstance,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        (0i64..30).prop_map(Deed::Ask),
        (0i64..90).prop_map(Deed::Wait),
        Just(Deed::EndAnInstance),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn it_ends_where_it_should(
        stop in any::<bool>(),
        faults in proptest::collection::vec(fault(), 0..6),
        deeds in proptest::collection::vec(deed(), 0..8),
        last in 1i64..30,
    ) {
        let policy = if stop { IdlePolicy::Stop } else { IdlePolicy::Terminate };
        let mut world = World::new(policy, faults);
        for deed in deeds {
            match deed {
                Deed::Ask(count) => world.ask(count),
                Deed::Wait(seconds) => world.run(seconds)?,
                Deed::EndAnInstance => {
                    let first = world.instances.values().find(|(one, _)| one.state == InstanceState::Running);
                    if let Some(id) = first.map(|(one, _)| one.id.clone()) {
                        world.turn(&id, InstanceState::ShuttingDown);
                    }
                }
            }
        }
        // Demand that stays is answered, by as many pods as it needs.
        world.ask(last);
        world.run(1200)?;
        prop_assert_eq!(world.phase(), Phase::Awake);
        let needed = usize::try_from(last).unwrap().div_ceil(8).min(3);
        let ready = world.pods.iter().filter(|(pod, _)| pod.place.ready).count();
        prop_assert_eq!((ready, world.live()), (needed, needed));
        prop_assert!(world.is_steady(), "{:#?}", world.substrate.status);
        // Silence puts it to sleep, and nothing costs.
        world.ask(0);
        world.run(600)?;
        prop_assert_eq!(world.phase(), Phase::Asleep, "{:#?}", world.substrate.status);
        prop_assert_eq!((world.pods.len(), world.live()), (0, 0));
        prop_assert!(world.is_steady(), "{:#?}", world.substrate.status);
        // Deleted, it leaves nothing.
        world.substrate.metadata.deletion_timestamp = Some(Time(at(world.now)));
        world.run(300)?;
        prop_assert!(world.released, "{:#?}", world.substrate.status);
        let ended = |(one, _): &(Instance, i64)| one.state == InstanceState::Terminated;
        prop_assert!(world.instances.values().all(ended));
        prop_assert!(world.volumes.is_empty(), "{:?}", world.volumes);
    }
}

#[test]
fn a_wake_launches_once_however_often_the_operator_ends() {
    let mut world = World::new(IdlePolicy::Terminate, vec![Fault::Crash; 5]);
    world.ask(1);
    for _ in 0..30 {
        world.pass();
        world.tick();
    }
    assert_eq!(world.instances.len(), 1);
    assert_eq!(world.phase(), Phase::Awake);
    assert!(Duration::from_secs(30) < testing::settings().pace.orphan_grace);
}
