//! Whatever is called in whatever order, some things hold.

use std::collections::{BTreeMap, BTreeSet};

use halo_aws_emulator::world::{Effect, Step};
use halo_aws_emulator::{CapacityRule, InstanceState, State, VolumeState};
use proptest::prelude::*;

use crate::account::Account;

#[derive(Debug, Clone)]
enum Deed {
    Launch { token: u8, dedicated: bool },
    Call { action: &'static str, which: u8 },
    Attach { volume: u8, instance: u8 },
    Fail { which: u8 },
    Pass { ms: u16 },
}

fn deed() -> impl Strategy<Value = Deed> {
    let actions = vec![
        "StartInstances",
        "StopInstances",
        "TerminateInstances",
        "CreateVolume",
        "DetachVolume",
        "DeleteVolume",
    ];
    prop_oneof![
        (0u8..6, any::<bool>()).prop_map(|(token, dedicated)| Deed::Launch { token, dedicated }),
        (prop::sample::select(actions), any::<u8>())
            .prop_map(|(action, which)| Deed::Call { action, which }),
        (any::<u8>(), any::<u8>()).prop_map(|(volume, instance)| Deed::Attach { volume, instance }),
        any::<u8>().prop_map(|which| Deed::Fail { which }),
        (0u16..700).prop_map(|ms| Deed::Pass { ms }),
    ]
}

fn pick(ids: impl ExactSizeIterator<Item = String>, which: u8) -> Option<String> {
    let count = ids.len();
    ids.into_iter().nth(usize::from(which) % count.max(1))
}

fn perform(account: &mut Account, deed: &Deed) {
    let state = &account.world.state;
    let instance = |which| pick(state.instances.keys().cloned(), which);
    let volume = |which| pick(state.volumes.keys().cloned(), which);
    // Refusals are as welcome as answers.
    match deed {
        Deed::Launch { token, dedicated } => {
            let token = token.to_string();
            let tenancy = if *dedicated { "dedicated" } else { "default" };
            let _ = account.launch(&[("ClientToken", &token), ("Placement.Tenancy", tenancy)]);
        }
        Deed::Call { action, which } if action.ends_with("Instances") => {
            if let Some(id) = instance(*which) {
                let _ = account.call(action, &[("InstanceId.1", &id)]);
            }
        }
        Deed::Call { action, which } if *action == "CreateVolume" => {
            let token = (which % 8).to_string();
            let pairs = [
                ("AvailabilityZone", "us-east-2a"),
                ("Size", "9"),
                ("ClientToken", &token),
            ];
            let _ = account.call(action, &pairs);
        }
        Deed::Call { action, which } => {
            if let Some(id) = volume(*which) {
                let _ = account.call(action, &[("VolumeId", &id)]);
            }
        }
        Deed::Attach {
            volume: v,
            instance: i,
        } => {
            if let (Some(volume), Some(instance)) = (volume(*v), instance(*i)) {
                let pairs = [
                    ("VolumeId", volume.as_str()),
                    ("InstanceId", &instance),
                    ("Device", "/dev/sdf"),
                ];
                let _ = account.call("AttachVolume", &pairs);
            }
        }
        Deed::Fail { which } => {
            if let Some(id) = instance(*which) {
                let mut step = Step::at(account.now, &mut account.random);
                account.world.terminate_out_of_band(
                    &id,
                    Some(("Server.InternalError", "failed")),
                    &mut step,
                );
                account.effects.append(&mut step.effects);
            }
        }
        Deed::Pass { ms } => account.pass(u64::from(*ms)),
    }
}

fn check(account: &Account) -> Result<(), TestCaseError> {
    let state = &account.world.state;
    let mut tokens = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for instance in state.instances.values() {
        prop_assert!(
            tokens.insert(&instance.client_token),
            "a token launched twice"
        );
        if let Some(ip) = instance.private_ip {
            prop_assert!(addresses.insert(ip), "{ip} is given out twice");
        }
        prop_assert_eq!(
            instance.private_ip.is_none(),
            instance.state == InstanceState::Terminated
        );
    }
    let hardware = state
        .instances
        .values()
        .filter(|instance| instance.uses_capacity());
    prop_assert!(hardware.count() <= 3, "more instances than capacity");
    for volume in state.volumes.values() {
        prop_assert_eq!(
            volume.attachment.is_some(),
            volume.state == VolumeState::InUse
        );
        if let Some(on) = &volume.attachment {
            prop_assert!(state.instances[&on.instance].state != InstanceState::Terminated);
        }
    }
    let mut running: BTreeMap<&str, bool> = BTreeMap::new();
    for effect in &account.effects {
        let (id, runs) = match effect {
            Effect::Boot(started) => (started.instance_id.as_str(), true),
            Effect::Halt(stopped) => (stopped.instance_id.as_str(), false),
        };
        prop_assert_eq!(
            running.insert(id, runs).unwrap_or(false),
            !runs,
            "boots and halts alternate"
        );
    }
    for instance in state.instances.values() {
        let runs = running.get(instance.id.as_str()).copied().unwrap_or(false);
        prop_assert_eq!(runs, instance.state == InstanceState::Running);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_always_holds(deeds in prop::collection::vec(deed(), 1..60)) {
        let mut account = Account::new();
        account.world.set_capacity(CapacityRule { slots: Some(3), ..CapacityRule::default() });
        for deed in &deeds {
            let before = account.world.revision();
            let state = account.world.state.clone();
            perform(&mut account, deed);
            check(&account)?;
            if account.world.revision() == before {
                prop_assert_eq!(&account.world.state, &state, "a change that nobody is told of");
            }
        }
        let text = serde_json::to_string(&account.world.state).unwrap();
        let read: State = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&read, &account.world.state);
        // Left alone, everything comes to rest.
        account.pass(60_000);
        let moving = |state| matches!(state, InstanceState::Pending | InstanceState::Stopping | InstanceState::ShuttingDown);
        prop_assert!(!account.world.state.instances.values().any(|instance| moving(instance.state)));
        prop_assert!(account.world.next_due().is_none_or(|due| due > account.now));
    }
}
