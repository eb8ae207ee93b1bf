//! HaloSubstrate: it sleeps until there is demand, wakes with pods and nodes, and sleeps again.
//!
//! `dereference -> validate -> plan -> apply -> status`: [`dereference`] reads caches, [`apply`] and [`act`] touch the world, and all
//! between is pure: [`demand`], [`gate`], [`phase`], [`replicas`], [`workload`], [`plan`], [`status`], [`tell`].

pub mod act;
pub mod apply;
pub mod demand;
pub mod dereference;
pub mod gate;
pub mod need;
pub mod phase;
pub mod plan;
pub mod pod;
pub mod replicas;
pub mod status;
pub mod tell;
pub mod usage;
pub mod validate;
pub mod weights;
pub mod workload;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod world;
#[cfg(test)]
mod world_tests;
#[cfg(test)]
mod world_time;

use std::sync::Arc;
use std::time::Duration;

use halo_crds::{FINALIZER, HaloSubstrate};
use kube::Resource as _;

use self::apply::ApplyError;
use self::plan::{Observed, Plan, Record};
use crate::context::Context;
use crate::runtime::apply::WriteError;
use crate::runtime::managers::Manager;

/// How often one reconcile begins again when somebody else wrote in between.
const ROUNDS: usize = 4;

/// Why a reconcile of a HaloSubstrate failed. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object could not be read past the caches.
    #[error("cannot read the object: {0}")]
    Read(#[source] WriteError),
    /// The finalizer could not be set or removed.
    #[error("cannot change the finalizer: {0}")]
    Finalizer(#[source] WriteError),
    /// A child is not as it should be.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The status could not be written.
    #[error("cannot write the status: {0}")]
    Status(#[source] WriteError),
}

impl Error {
    /// A stable PascalCase name: Event reason and metrics label.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Read(error) | Self::Finalizer(error) | Self::Status(error) => error.name(),
            Self::Apply(ApplyError::Write(error) | ApplyError::Delete(error)) => error.name(),
        }
    }

    /// Whether somebody else wrote first: the object has to be read and thought about again.
    fn is_overtaken(&self) -> bool {
        match self {
            // One that is gone shows when it is read.
            Self::Status(error) => error.is_conflict() || error.is_not_found(),
            Self::Finalizer(error) => error.is_conflict() || error.is_invalid(),
            Self::Read(_) | Self::Apply(_) => false,
        }
    }
}

/// Where the object of a pass comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A cache, which may be behind.
    Cache,
    /// The API server, just now.
    Live,
}

/// Brings one HaloSubstrate, `(namespace, name)`, nearer to its spec; when to look again if nothing happens before.
///
/// # Errors
/// See [`Error`].
pub async fn reconcile(
    ctx: Arc<Context>,
    (namespace, name): (String, String),
) -> Result<Option<Duration>, Error> {
    let Some(mut substrate) = ctx.caches.substrate(&namespace, &name) else {
        ctx.metrics.gone(&namespace, &name);
        return Ok(None);
    };
    let mut source = Source::Cache;
    for _ in 1..ROUNDS {
        match pass(&ctx, substrate, source).await {
            Ok(Pass::Done(look_again)) => return Ok(look_again),
            Ok(Pass::ReadFirst) => {}
            Err(error) if error.is_overtaken() => {
                tracing::debug!(%error, "somebody else wrote first");
            }
            Err(error) => return Err(error),
        }
        let live = ctx.writer.get::<HaloSubstrate>(&namespace, &name).await;
        match live.map_err(Error::Read)? {
            Some(live) => (substrate, source) = (Arc::new(live), Source::Live),
            None => return Ok(None),
        }
    }
    // Whoever writes so often will call us again.
    Ok(Some(Duration::ZERO))
}

/// How a pass ended.
enum Pass {
    /// Done; when to look again.
    Done(Option<Duration>),
    /// A node is to be touched with nothing to record before: by what the API server has, not by what a cache had.
    ReadFirst,
}

async fn pass(ctx: &Context, substrate: Arc<HaloSubstrate>, source: Source) -> Result<Pass, Error> {
    let meta = &substrate.metadata;
    let held = meta.finalizers.iter().flatten().any(|one| one == FINALIZER);
    let deleting = meta.deletion_timestamp.is_some();
    if deleting && !held {
        return Ok(Pass::Done(None));
    }
    // Before anything is made that only the operator can end.
    let (substrate, source) = match !deleting && !held {
        true => {
            let held = ctx.writer.add_finalizer(&*substrate, FINALIZER).await;
            (Arc::new(held.map_err(Error::Finalizer)?), Source::Live)
        }
        false => (substrate, source),
    };
    let mut observed = dereference::observe(ctx, substrate);
    let plan = plan::plan(&observed, &ctx.settings);
    // A record that comes first is refused unless the cache had the object's last version, which is as good as reading it.
    if source == Source::Cache && plan.acts() && !plan.moves(&observed) {
        return Ok(Pass::ReadFirst);
    }
    follow(ctx, &mut observed, &plan).await.map(Pass::Done)
}

/// Does what was planned.
async fn follow(
    ctx: &Context,
    observed: &mut Observed,
    plan: &Plan,
) -> Result<Option<Duration>, Error> {
    let uid = observed.substrate.metadata.uid.clone().unwrap_or_default();
    if let Some(pool) = &plan.pool {
        ctx.fleet.busy(&uid, pool.moving);
    }
    if plan.release {
        apply::removals(&ctx.writer, &observed.substrate, &plan.removals).await?;
        return release(ctx, observed, &uid).await;
    }
    let mut again = false;
    let mut refused = None;
    if plan.acts() {
        // The record first: whatever happens after, the next pass knows what was begun.
        if plan.moves(observed) {
            record(ctx, observed, plan, plan.status.clone()).await?;
        }
        learn_from(ctx, observed, plan, &uid);
        let (settled, children) = futures_util::future::join(
            act::all(ctx, observed, plan),
            children(ctx, observed, plan),
        )
        .await;
        refused = children.err();
        observed.refusal = refused.as_ref().map(ApplyError::refusal);
        again = settled.again;
        settle(ctx, observed, plan, &settled).await?;
    } else {
        if let Err(error) = children(ctx, observed, plan).await {
            observed.refusal = Some(error.refusal());
            refused = Some(error);
        }
        let planned = plan.record(observed);
        let block = act::named(ctx, observed, planned.block);
        let planned = Record {
            block: block.as_ref(),
            ..planned
        };
        let status = plan::report(observed, &plan.decision, &planned, &ctx.settings);
        record(ctx, observed, plan, status).await?;
        learn_from(ctx, observed, plan, &uid);
    }
    match refused {
        Some(error) => Err(error.into()),
        None if again => Ok(Some(Duration::ZERO)),
        None => Ok(plan.look_again),
    }
}

async fn children(ctx: &Context, observed: &Observed, plan: &Plan) -> Result<(), ApplyError> {
    if let Some(prepared) = &plan.children {
        apply::children(&ctx.writer, prepared).await?;
    }
    apply::removals(&ctx.writer, &observed.substrate, &plan.removals).await
}

/// Writes what came of the actions. Gateways write meanwhile; the slots are ours alone, so that a conflict is only read over.
async fn settle(
    ctx: &Context,
    observed: &mut Observed,
    plan: &Plan,
    settled: &act::Settled,
) -> Result<(), Error> {
    let planned = plan.record(observed);
    let recorded = planned.slots.to_vec();
    for _ in 0..ROUNDS {
        let slots = Record {
            slots: &settled.slots,
            attempts: plan.record(observed).attempts,
            block: settled.block.as_ref(),
            used: &[],
        };
        let status = plan::report(observed, &plan.decision, &slots, &ctx.settings);
        match record(ctx, observed, plan, status).await {
            Err(error) if error.is_overtaken() => {}
            done => {
                tell_notes(ctx, observed, &settled.notes);
                return done;
            }
        }
        let meta = &observed.substrate.metadata;
        let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
        let live = ctx
            .writer
            .get::<HaloSubstrate>(namespace.unwrap_or_default(), name.unwrap_or_default())
            .await
            .map_err(Error::Read)?;
        match live {
            Some(live) if plan::before(&live).nodes == recorded => {
                observed.substrate = Arc::new(live);
            }
            // Gone, or another leader's: what was launched shows by its tags and its token.
            Some(_) | None => return Ok(()),
        }
    }
    Ok(())
}

/// Writes a status if it says something else than before, and tells of what changed.
async fn record(
    ctx: &Context,
    observed: &mut Observed,
    plan: &Plan,
    status: halo_crds::HaloSubstrateStatus,
) -> Result<(), Error> {
    let before = plan::before(&observed.substrate);
    let meta = &observed.substrate.metadata;
    if let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) {
        ctx.metrics.phase(namespace, name, status.phase);
        let running = status
            .nodes
            .iter()
            .filter(|node| node.running_since.is_some());
        let tenant = &observed.substrate.spec.tenant;
        ctx.metrics.nodes(namespace, name, tenant, running.count());
    }
    if status == before {
        return Ok(());
    }
    // The gateways' part is theirs.
    let own = halo_crds::HaloSubstrateStatus {
        demand: Vec::new(),
        ..status
    };
    let version = meta.resource_version.as_deref();
    let written = ctx
        .writer
        .apply_status(
            &*observed.substrate,
            &own,
            Manager::SubstrateStatus,
            version,
        )
        .await
        .map_err(Error::Status)?;
    observed.substrate = Arc::new(written);
    for tale in tell::events(&before, &own) {
        tell(ctx, observed, &tale);
    }
    let now = ctx.clock.now();
    let demand = &plan.decision.demand;
    for (stage, seconds) in tell::stages(&before, &own, demand, &observed.pods, now) {
        ctx.metrics.wake_stage(stage, seconds);
    }
    let (seconds, usd) = usage::growth(before.usage.as_ref(), own.usage.as_ref());
    ctx.metrics
        .used(&observed.substrate.spec.tenant, seconds, usd);
    Ok(())
}

/// Passes on what the plan saw, once it is recorded.
fn learn_from(ctx: &Context, observed: &Observed, plan: &Plan, uid: &str) {
    if let Some(pool) = &plan.pool {
        let generation = observed.substrate.metadata.generation.unwrap_or_default();
        let now = ctx.clock.now();
        ctx.capacity
            .learn(uid, generation, &pool.lessons, now, act::jitter());
        tell_notes(ctx, observed, &pool.notes);
    }
}

fn tell_notes(ctx: &Context, observed: &Observed, notes: &[(&'static str, String)]) {
    for tale in tell::of_notes(notes) {
        tell(ctx, observed, &tale);
    }
}

fn tell(ctx: &Context, observed: &Observed, tale: &tell::Tale) {
    let about = observed.substrate.object_ref(&());
    match tale.warning {
        true => ctx.events.warning(&about, &tale.reason, tale.note.clone()),
        false => ctx.events.normal(&about, &tale.reason, tale.note.clone()),
    }
}

/// Lets the object go: nothing is left that only the operator can end.
async fn release(ctx: &Context, observed: &Observed, uid: &str) -> Result<Option<Duration>, Error> {
    ctx.writer
        .remove_finalizer(&*observed.substrate, FINALIZER)
        .await
        .map_err(Error::Finalizer)?;
    ctx.capacity.forget(uid);
    ctx.permissions.forget(uid);
    ctx.fleet.busy(uid, false);
    let meta = &observed.substrate.metadata;
    if let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) {
        ctx.metrics.gone(namespace, name);
    }
    Ok(None)
}
