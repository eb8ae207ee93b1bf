//! What the cloud has of substrates that no longer exist: instances end, volumes go unless they are to be kept.
//!
//! The cloud is listed before the cluster, so that what was made in between is not taken for a leak. A substrate's uid must be unknown
//! in two rounds, and what it left must be older than the grace time. The API server is asked only if the caches do not know a uid, so
//! that a steady cluster costs nothing.

use std::collections::BTreeSet;

use halo_cloud::{InstanceId, Volume, VolumeId, VolumeState};
use halo_crds::HaloSubstrate;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::act::{delete_orphan, end_orphan};
use super::fleet::FleetView;
use super::slots::after;
use super::tags;
use crate::context::Context;
use crate::settings::Pace;

/// One thing that belongs to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Orphan {
    /// An instance that has not ended.
    Instance(InstanceId),
    /// A volume that is attached to nothing and may be deleted.
    Volume(VolumeId),
}

/// What has been seen in earlier rounds.
#[derive(Debug, Default)]
pub struct Rounds {
    suspects: BTreeSet<String>,
    listed_at: Option<Timestamp>,
}

impl Rounds {
    /// What belongs to nothing, by a listing of the cloud and the uids that the API server listed after it. A listing that was seen
    /// before is no second round.
    pub fn orphans(
        &mut self,
        holdings: &[(String, FleetView)],
        listed_at: Timestamp,
        exists: impl Fn(&str) -> bool,
        pace: &Pace,
        now: Timestamp,
    ) -> Vec<(String, Orphan)> {
        if self.listed_at == Some(listed_at) {
            return Vec::new();
        }
        self.listed_at = Some(listed_at);
        let unknown: Vec<&(String, FleetView)> = holdings
            .iter()
            .filter(|(uid, view)| holds_garbage(view) && !exists(uid))
            .collect();
        let mut found = Vec::new();
        for (uid, view) in &unknown {
            if self.suspects.contains(uid) {
                let orphans = orphans_of(view, pace, now).into_iter();
                found.extend(orphans.map(|orphan| (uid.clone(), orphan)));
            }
        }
        self.suspects = unknown.into_iter().map(|(uid, _)| uid.clone()).collect();
        found
    }
}

fn orphans_of(view: &FleetView, pace: &Pace, now: Timestamp) -> Vec<Orphan> {
    let is_old = |second: u64| {
        let made = i64::try_from(second).ok();
        let made = made.and_then(|second| Timestamp::from_second(second).ok());
        made.is_some_and(|made| now >= after(made, pace.orphan_grace))
    };
    let instances = view.instances.iter();
    let instances = instances
        .filter(|i| !i.state.is_ending() && is_old(i.launched_at))
        .map(|i| Orphan::Instance(i.id.clone()));
    let volumes = view.volumes.iter();
    let volumes = volumes
        .filter(|v| may_go(v) && is_old(v.created_at))
        .map(|v| Orphan::Volume(v.id.clone()));
    instances.chain(volumes).collect()
}

/// Whether a volume may be deleted if it belongs to nothing.
fn may_go(volume: &Volume) -> bool {
    matches!(volume.state, VolumeState::Available | VolumeState::Error)
        && tags::may_delete(&volume.tags)
}

/// Whether there is something that would have to go if it belonged to nothing. Volumes that are kept are none.
fn holds_garbage(view: &FleetView) -> bool {
    view.instances.iter().any(|i| !i.state.is_ending()) || view.volumes.iter().any(may_go)
}

/// Collects garbage until it is stopped. Runs while this process leads.
pub async fn run(ctx: &Context, stop: CancellationToken) {
    let mut rounds = Rounds::default();
    loop {
        let pace = &ctx.settings.pace;
        let wait = if rounds.suspects.is_empty() {
            pace.fleet_steady
        } else {
            ctx.fleet.look();
            pace.fleet_busy * 2
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = round(ctx, &mut rounds) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// One round.
pub async fn round(ctx: &Context, rounds: &mut Rounds) {
    if !ctx.caches.is_synced() {
        return;
    }
    let Some(listed_at) = ctx.fleet.listed_at() else {
        return;
    };
    let holdings = ctx.fleet.holdings();
    let unknown = |(uid, view): &(String, FleetView)| {
        holds_garbage(view) && !ctx.caches.substrate_exists(uid)
    };
    if !holdings.iter().any(unknown) {
        rounds.suspects.clear();
        return;
    }
    // The caches may be behind; the API server itself has the last word.
    let live: BTreeSet<String> = match ctx.writer.list_metadata::<HaloSubstrate>().await {
        Ok(all) => all.into_iter().filter_map(|o| o.metadata.uid).collect(),
        Err(error) => {
            tracing::warn!(%error, "garbage is not collected: the substrates cannot be listed");
            return;
        }
    };
    let now = ctx.clock.now();
    let pace = &ctx.settings.pace;
    for (uid, orphan) in rounds.orphans(&holdings, listed_at, |uid| live.contains(uid), pace, now) {
        tracing::warn!(%uid, ?orphan, "belongs to no HaloSubstrate: it goes");
        let (kind, ended) = match &orphan {
            Orphan::Instance(instance) => ("instance", end_orphan(ctx, instance).await),
            Orphan::Volume(volume) => ("volume", delete_orphan(ctx, volume).await),
        };
        match ended {
            Ok(()) => ctx.metrics.orphan(kind),
            Err(error) => tracing::warn!(%uid, ?orphan, %error, "it cannot be ended now"),
        }
    }
}

#[cfg(test)]
#[path = "garbage_tests.rs"]
mod tests;
