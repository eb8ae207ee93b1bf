//! An operator that ends at any point of its work: the next one, with an empty memory, goes on from what is recorded.
//!
//! One undisturbed run shows the effects of a wake, a sleep and a deletion. Then every one of them has two tenants, one that is left
//! just before it and one just after it, when the operator crashes.

mod crowd;

use std::collections::BTreeSet;

use halo_aws_emulator::{Fault, Timings, faults::When};
use halo_e2e_cluster::eventually;

use self::crowd::{Crowd, Idle, Points, Sides, has_volume, is_asleep, is_awake, points};
use crate::support::DEADLINE;
use crate::support::lanes::Point;

/// Every point of a wake, of a sleep and of a deletion.
async fn everywhere(idle: Idle, sides: Sides, change: impl FnOnce(&mut Timings)) {
    let mut crowd = Crowd::start(idle, change).await;

    // What there is to be disturbed. The wake that counts is the first where instances end, and the second where they stop.
    let first = vec!["undisturbed".to_owned()];
    let (operator, _) = crowd.operator(Points::new()).await;
    crowd.make(&first).await;
    crowd.all(&first, is_asleep).await;
    operator.crash();
    let mut wakes = Vec::new();
    let mut sleeps = Vec::new();
    for round in 0..2 {
        let (operator, lanes) = crowd.operator(Points::new()).await;
        crowd.ask(&first).await;
        crowd.woken(&first);
        crowd.assert_awake(&first).await;
        if (round == 1) == (idle == Idle::Stop) {
            wakes = crowd.effects("undisturbed", &lanes).await;
        }
        operator.crash();
        if round == 0 {
            let (operator, lanes) = crowd.operator(Points::new()).await;
            crowd.fall_silent(&first).await;
            crowd.assert_asleep(&first).await;
            sleeps = crowd.effects("undisturbed", &lanes).await;
            operator.crash();
        }
    }
    let (operator, lanes) = crowd.operator(Points::new()).await;
    crowd.delete(&first).await;
    crowd.assert_gone(&first).await;
    let ends = crowd.effects("undisturbed", &lanes).await;
    let (launch, end) = match idle {
        Idle::Terminate => ("RunInstances", "TerminateInstances"),
        Idle::Stop => ("StartInstances", "StopInstances"),
    };
    assert!(wakes.contains(&launch), "{wakes:?}");
    assert!(sleeps.contains(&end), "{sleeps:?}");
    assert!(ends.contains(&"TerminateInstances"), "{ends:?}");

    // A tenant for each point; those of the longest of the three serve for all.
    let (wakes, sleeps, ends) = (
        points(&wakes, sides),
        points(&sleeps, sides),
        points(&ends, sides),
    );
    let longest = [&wakes, &sleeps, &ends]
        .into_iter()
        .max_by_key(|all| all.len());
    let tenants: Vec<String> = longest
        .into_iter()
        .flat_map(|all| all.keys().cloned())
        .collect();
    crowd.make(&tenants).await;
    crowd.all(&tenants, is_asleep).await;
    operator.crash();
    match idle {
        Idle::Terminate => {
            crowd.wake(&tenants, wakes).await;
            crowd.sleep(&tenants, sleeps).await;
            crowd.wake(&tenants, Points::new()).await;
        }
        Idle::Stop => {
            crowd.wake(&tenants, Points::new()).await;
            crowd.sleep(&tenants, sleeps).await;
            crowd.wake(&tenants, wakes).await;
        }
    }
    crowd.end(&tenants, ends).await;
    crowd.world.assert_no_double_launch();
    assert!(crowd.world.living().is_empty());
    assert!(crowd.world.pool_nodes().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_instances_end() {
    everywhere(Idle::Terminate, Sides::Both, |timings| {
        *timings = Timings::instant()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_instances_stop() {
    everywhere(Idle::Stop, Sides::After, |timings| {
        *timings = Timings::instant()
    })
    .await;
}

/// New instances are invisible for a while and Describe shows the state of a while ago: what is not listed is not therefore absent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_cloud_is_late() {
    everywhere(Idle::Terminate, Sides::After, |timings| {
        *timings = Timings {
            visible_after_ms: 700,
            stale_ms: 400,
            pending_ms: 100,
            stopping_ms: 100,
            shutting_down_ms: 100,
            volume_ms: 100,
            ..Timings::default()
        }
    })
    .await;
}

/// Every process does one thing and dies; its successors bring a substrate through a wake, a sleep and a deletion.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_effect_a_life() {
    let mut crowd = Crowd::start(Idle::Terminate, |timings| *timings = Timings::instant()).await;
    let one = vec!["mayfly".to_owned()];
    let (operator, _) = crowd.operator(Points::new()).await;
    crowd.make(&one).await;
    crowd.all(&one, is_asleep).await;
    operator.crash();

    let mut lives = BTreeSet::new();
    crowd.ask(&one).await;
    crowd.woken(&one);
    // After the last of them nobody is left to bring anything about.
    let awake = async || {
        let Ok(volume) = crowd.attached_volume("mayfly") else {
            return false;
        };
        let found = crowd.now("mayfly").await;
        found.is_some_and(|found| is_awake(&found) && has_volume(&found, &volume.id))
    };
    live_and_die(&crowd, &mut lives, awake).await;
    assert!(
        lives.iter().any(|line| line.starts_with("RunInstances")),
        "{lives:#?}"
    );
    crowd.assert_awake(&one).await;
    crowd.fall_silent(&one).await;
    let asleep = async || {
        let found = crowd.now("mayfly").await;
        found.is_some_and(|found| is_asleep(&found))
    };
    live_and_die(&crowd, &mut lives, asleep).await;
    assert!(
        lives
            .iter()
            .any(|line| line.starts_with("TerminateInstances")),
        "{lives:#?}"
    );
    crowd.assert_asleep(&one).await;
    crowd.delete(&one).await;
    let gone = async || {
        let found = crowd.world.tenants().get_opt("mayfly").await;
        found.is_ok_and(|found| found.is_none())
    };
    live_and_die(&crowd, &mut lives, gone).await;
    assert!(
        lives.iter().any(|line| line.starts_with("DeleteVolume")),
        "{lives:#?}"
    );
    crowd.assert_gone(&one).await;
}

/// Operators that die after their first effect, one after the other, until it is so.
async fn live_and_die(crowd: &Crowd, lives: &mut BTreeSet<String>, is: impl AsyncFn() -> bool) {
    for _ in 0..200 {
        let points = Points::from([("mayfly".to_owned(), Point::AfterOne)]);
        let (operator, lanes) = crowd.operator(points).await;
        let died = eventually(DEADLINE, || async {
            if lanes.is_stopped("mayfly") {
                return Ok(true);
            }
            match is().await {
                true => Ok(false),
                false => Err("neither an effect nor an end"),
            }
        });
        let died = died.await;
        lives.extend(lanes.lines("mayfly"));
        operator.crash();
        if !died {
            return;
        }
    }
    panic!("it gets nowhere: {lives:#?}");
}

/// EC2 does what it is asked and the answer never arrives; then the operator that asked is gone as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_lost() {
    let mut crowd = Crowd::start(Idle::Terminate, |_| {}).await;
    let names = |prefix: &str| -> Vec<String> { (0..4).map(|n| format!("{prefix}-{n}")).collect() };
    let (once, never) = (names("once"), names("never"));
    let (operator, _) = crowd.operator(Points::new()).await;
    crowd.make(&once).await;
    crowd.all(&once, is_asleep).await;

    // The first answer of each is lost; the same operator asks again.
    for action in ["RunInstances", "CreateVolume"] {
        crowd
            .world
            .emulator
            .add_fault(Fault::cut(action, When::After).times(Some(4)));
    }
    crowd.ask(&once).await;
    crowd.woken(&once);
    crowd.assert_awake(&once).await;
    assert!(
        crowd.world.emulator.faults().is_empty(),
        "{:?}",
        crowd.world.emulator.faults()
    );

    // No answer ever arrives, and whoever asked crashes. Its successor finds what was made.
    crowd.make(&never).await;
    crowd.all(&never, is_asleep).await;
    for action in ["RunInstances", "CreateVolume"] {
        let fault = Fault::cut(action, When::After).times(None);
        crowd.world.emulator.add_fault(fault);
    }
    crowd.ask(&never).await;
    let launched = |tenant: &String| !crowd.instances(tenant).is_empty();
    crowd.cloud_has(&never, "an instance", launched).await;
    operator.crash();
    let (operator, _) = crowd.operator(Points::new()).await;
    let stored = |tenant: &String| !crowd.data_volumes(tenant).is_empty();
    crowd.cloud_has(&never, "a volume", stored).await;
    operator.crash();
    crowd.world.emulator.clear_faults();
    let (operator, _) = crowd.operator(Points::new()).await;
    crowd.woken(&never);
    crowd.assert_awake(&never).await;
    crowd.assert_awake(&once).await;

    let all = [once, never].concat();
    crowd.delete(&all).await;
    crowd.assert_gone(&all).await;
    operator.stop().await;
}
