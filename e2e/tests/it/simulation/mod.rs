//! All four machines together, without a socket: lost connections, changed bytes, crashed pods and a ledger that is away,
//! in thousands of runs that their seeds repeat.

mod ledger;
mod network;
mod world;

use halo_receipts::evidence::Evidence;
use halo_receipts::ids::SessionId;
use halo_receipts::verdict::{Code, Completeness, Integrity, Options, verify};

use network::Rng;
use world::{Faults, World};

/// How many seeds a test run covers, unless `HALO_SEEDS` says another number.
const SEEDS: u64 = 1500;

/// The seeds of this run. `HALO_SEED` repeats one and prints what happened in it.
fn seeds(most: u64) -> std::ops::Range<u64> {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    match number("HALO_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HALO_SEEDS").unwrap_or(most),
    }
}

fn evidence(world: &World, session: &SessionId) -> Evidence {
    world.ledger.snapshot(session).unwrap()
}

/// Runs one seed and checks what must hold in every run.
fn run(seed: u64, faults: impl FnOnce(&mut Rng) -> Faults) -> World {
    let faults = faults(&mut Rng::new(!seed));
    let mut world = World::new(seed, faults);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.run();
        check(&world);
    }));
    if std::env::var_os("HALO_SEED").is_some() {
        println!("seed {seed} with {faults:?}:\n{}", world.trace.join("\n"));
    }
    if outcome.is_err() {
        let from = world.trace.len().saturating_sub(60);
        panic!(
            "seed {seed} with {faults:?} failed; its last events:\n{}",
            world.trace[from..].join("\n")
        );
    }
    world
}

fn check(world: &World) {
    assert_eq!(world.stopped, None, "the phone gave up");
    assert!(world.is_settled(), "something was never finished");
    assert_eq!(world.accepted, world.captures, "a capture was lost");
    // A changed byte breaks the chain, unless the frame arrived when nobody listened any more; and nothing else does.
    assert!(
        world.broken <= world.tampered,
        "the chain broke without a reason"
    );
    assert_eq!(world.relinked, world.broken, "a break was not recorded");
    for session in world.sessions.iter() {
        let evidence = evidence(world, session);
        let verdict = verify(
            *session,
            &evidence,
            world.verify_keys(),
            &Options::default(),
        );
        let failures: Vec<_> = verdict
            .findings
            .iter()
            .map(|found| (found.headline(), &found.detail))
            .collect();
        assert_eq!(verdict.integrity, Integrity::Ok, "{failures:#?}");
        // A connection that came back and had nothing more to say leaves an epoch that no seal covers; the verifier cannot
        // know that nothing is missing from it.
        let idle = verdict
            .findings
            .iter()
            .any(|finding| finding.code == Code::EpochUnsealed);
        let open = verdict.completeness == Completeness::Open && !idle;
        assert!(
            verdict.receipts.total == 0 || !open,
            "{:#?}",
            verdict.findings
        );
    }
}

#[test]
fn without_faults_every_session_is_sealed() {
    for seed in seeds(200) {
        let world = run(seed, |_| Faults::none());
        for session in &world.sessions {
            let evidence = evidence(&world, session);
            let verdict = verify(
                *session,
                &evidence,
                world.verify_keys(),
                &Options::default(),
            );
            assert_eq!(verdict.completeness, Completeness::Sealed, "seed {seed}");
        }
        assert_eq!(world.alerts, 0);
    }
}

#[test]
fn through_faults_every_chain_stays_whole() {
    let (mut tampered, mut broken) = (0, 0);
    for seed in seeds(SEEDS) {
        let world = run(seed, Faults::drawn);
        tampered += world.tampered;
        broken += world.broken;
    }
    // Most changed bytes meet a phone that listens.
    assert!(
        broken * 10 > tampered * 7,
        "{broken} of {tampered} changed frames were noticed"
    );
}

#[test]
fn a_seed_repeats_its_run() {
    let trace = |seed| run(seed, Faults::drawn).trace;
    assert_eq!(trace(7), trace(7));
}
