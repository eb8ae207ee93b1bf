//! Data volumes: made once for each slot and zone, attached when the instance runs, kept across sleeps.

use halo_cloud::{InstanceId, InstanceState, Volume, VolumeId, VolumeState};
use halo_crds::pool::VolumeDeletionPolicy;
use halo_crds::status::NodeState;

use super::plan::{NodeAction, Pool};
use super::slots::stamp;
use super::tags;
use super::work::Work;

/// The volumes of a slot in a zone.
pub fn of_slot<'a>(
    pool: &Pool<'a>,
    slot: u32,
    zone: &str,
) -> impl Iterator<Item = &'a Volume> + use<'a> {
    let zone = zone.to_owned();
    pool.volumes
        .iter()
        .filter(move |v| v.zone == zone && tags::number(&v.tags, tags::SLOT) == Some(slot))
}

/// Plans what is done for volumes.
pub fn drive(work: &mut Work<'_>) {
    if work.pool.deleting {
        delete_all(work);
        return;
    }
    delete_failed(work);
    if work.pool.spec.data_volume.is_some() {
        for index in 0..work.plan.slots.len() {
            drive_slot(work, index);
        }
    }
}

fn drive_slot(work: &mut Work<'_>, index: usize) {
    let slot = work.plan.slots[index].clone();
    let Some(instance) = slot.instance.clone().map(InstanceId) else {
        return;
    };
    if !matches!(
        slot.state,
        NodeState::Pending | NodeState::Registered | NodeState::Ready
    ) {
        return;
    }
    let usable: Vec<&Volume> = of_slot(work.pool, slot.slot, &slot.zone)
        .filter(|v| !matches!(v.state, VolumeState::Deleting | VolumeState::Error))
        .collect();
    let attached = |v: &&&Volume| v.state == VolumeState::InUse(instance.clone());
    let recorded = |v: &&&Volume| Some(&v.id.0) == slot.volume.as_ref();
    let chosen = usable
        .iter()
        .find(attached)
        .or_else(|| usable.iter().find(recorded))
        .or_else(|| usable.iter().min_by_key(|v| (v.created_at, &v.id)));
    let Some(volume) = chosen else {
        let made = slot.volume_since.as_ref().unwrap_or(&slot.since);
        if slot.volume.is_some() && !work.listing_is_past_grace(made.0) {
            // It was made a moment ago; the listing will show it.
            work.moving = true;
        } else if let Some(until) = work.waits_until() {
            work.block_on_wait(until);
        } else {
            let slot = slot.slot;
            work.plan.actions.push(NodeAction::CreateVolume { slot });
        }
        return;
    };
    if slot.volume.as_ref() != Some(&volume.id.0) {
        let recorded = &mut work.plan.slots[index];
        recorded.volume = Some(volume.id.0.clone());
        recorded.volume_since = Some(stamp(work.pool.now));
    }
    let runs = |i: &halo_cloud::Instance| i.state == InstanceState::Running;
    match &volume.state {
        VolumeState::InUse(holder) if *holder == instance => {}
        VolumeState::Available if work.listed(Some(&instance.0)).is_some_and(runs) => {
            work.plan.actions.push(NodeAction::AttachVolume {
                slot: slot.slot,
                volume: VolumeId(volume.id.0.clone()),
                instance,
            });
        }
        // Being made, still with the instance before, or waiting for this one to run.
        _ => work.moving = true,
    }
}

/// A volume that the cloud failed to make holds nothing.
fn delete_failed(work: &mut Work<'_>) {
    for volume in work.pool.volumes {
        if volume.state == VolumeState::Error {
            let volume = volume.id.clone();
            work.end(NodeAction::DeleteVolume { volume });
        }
    }
}

fn delete_all(work: &mut Work<'_>) {
    let policy = work.pool.spec.data_volume.as_ref();
    let policy = policy.map(|volume| volume.deletion_policy);
    for volume in work.pool.volumes {
        let goes = match policy {
            Some(policy) => policy == VolumeDeletionPolicy::Delete,
            None => tags::may_delete(&volume.tags),
        };
        match volume.state {
            _ if !goes => {}
            VolumeState::Deleting => {}
            VolumeState::Available | VolumeState::Error => {
                let volume = volume.id.clone();
                work.end(NodeAction::DeleteVolume { volume });
            }
            VolumeState::Creating | VolumeState::InUse(_) => work.moving = true,
        }
    }
}
