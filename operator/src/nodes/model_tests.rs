//! Random pools in an unkind cloud: whatever happens, nothing is launched twice, nothing is left over, and it comes to rest.

use halo_cloud::InstanceState;
use halo_crds::pool::{IdlePolicy, VolumeDeletionPolicy};
use serde_json::json;

use super::model::{Dice, World};
use super::model_operator::Operator;
use super::testing::{Scene, TEMPLATE};

const SEEDS: u64 = 1500;

fn random_scene(dice: &mut Dice) -> Scene {
    let mut scene = Scene::new(0);
    scene.spec.max_nodes = 1 + dice.below(3) as u32;
    if dice.once_in(2) {
        scene.spec.idle_policy = IdlePolicy::Stop;
    }
    if dice.once_in(2) {
        let volume = json!({"sizeGib": 100});
        scene.spec.data_volume = Some(serde_json::from_value(volume).unwrap());
    }
    scene
}

fn rest(operator: &mut Operator, world: &mut World, seed: u64, what: &str) {
    let max = operator.scene.spec.max_nodes;
    for _ in 0..3000 {
        let wanted = if operator.scene.deleting {
            0
        } else {
            operator.scene.wanted
        };
        world.pass(2, wanted as usize);
        let plan = operator.reconcile(world, None);
        world.check(max, seed);
        // A node that has registered becomes ready, and its pod follows, without the operator.
        let there = (operator.ready(), world.pods.len()) == (wanted as usize, wanted as usize);
        if there && operator.is_settled(&plan) {
            // Nothing happens in a second pass either.
            let again = operator.reconcile(world, None);
            assert!(
                operator.is_settled(&again),
                "seed {seed}, {what}: {again:?}"
            );
            return;
        }
    }
    panic!(
        "seed {seed}, {what}: no rest: {:#?}",
        operator.reconcile(world, None)
    );
}

#[test]
fn pools_come_to_rest_and_leave_nothing() {
    for seed in 0..SEEDS {
        let mut dice = Dice::new(seed + 77);
        let mut world = World::new(seed + 1);
        let mut operator = Operator::new(random_scene(&mut dice));
        let max = operator.scene.spec.max_nodes;
        for _ in 0..100 {
            if dice.once_in(4) {
                operator.scene.wanted = dice.below(u64::from(max) + 1) as u32;
            }
            if dice.once_in(25) {
                operator.scene.template = format!("{TEMPLATE}{}", dice.below(3));
            }
            let wanted = operator.scene.wanted as usize;
            let longest = if dice.once_in(4) { 30 } else { 4 };
            world.pass(1 + dice.below(longest) as i64, wanted);
            let crash = dice.once_in(3).then(|| dice.below(6));
            operator.reconcile(&mut world, crash);
            world.check(max, seed);
        }

        world.be_kind();
        rest(&mut operator, &mut world, seed, "after the storm");
        let wanted = operator.scene.wanted as usize;
        assert_eq!(operator.ready(), wanted, "seed {seed}");
        assert_eq!(world.pods.len(), wanted, "seed {seed}");
        let runs = |i: &&halo_cloud::Instance| i.state == InstanceState::Running;
        assert_eq!(world.live().filter(runs).count(), wanted, "seed {seed}");

        operator.scene.wanted = 0;
        rest(&mut operator, &mut world, seed, "asleep");
        assert_eq!(world.live().filter(runs).count(), 0, "seed {seed}");
        if operator.scene.spec.idle_policy == IdlePolicy::Terminate {
            assert_eq!(world.live().count(), 0, "seed {seed}");
        }
        assert!(world.nodes.is_empty(), "seed {seed}: {:?}", world.nodes);

        operator.scene.deleting = true;
        let retains = seed % 3 == 0;
        if let Some(volume) = operator.scene.spec.data_volume.as_mut().filter(|_| retains) {
            volume.deletion_policy = VolumeDeletionPolicy::Retain;
        }
        let volumes = world.volumes().len();
        rest(&mut operator, &mut world, seed, "deleted");
        assert!(operator.reconcile(&mut world, None).empty, "seed {seed}");
        assert_eq!(world.live().count(), 0, "seed {seed}");
        let left = if retains { volumes } else { 0 };
        assert_eq!(world.volumes().len(), left, "seed {seed}");
    }
}
