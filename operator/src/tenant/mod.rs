//! HaloTenant: a namespace of its own, keys derived from a root secret, and what keeps its pods apart.
//!
//! `dereference -> validate -> plan -> apply -> status`: [`dereference`], [`apply`] and [`cleanup`] touch the world; [`validate`],
//! [`plan`] and [`status`] are pure.

pub mod apply;
pub mod cidr;
pub mod cleanup;
pub mod dereference;
pub mod isolation;
pub mod keys;
pub mod months;
pub mod plan;
pub mod secrets;
pub mod status;
pub mod validate;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use halo_crds::reasons::{self, kinds};
use jiff::Timestamp;
use kube::Resource as _;

use self::apply::KeysOutcome;
use self::dereference::{Roots, World};
use self::plan::Refusal;
use self::status::Observed;
use crate::context::Context;
use crate::runtime::apply::WriteError;
use crate::runtime::managers::Manager;

/// How long a tenant that waits for something is left alone, if no watch tells of a change before.
const WAIT: Duration = Duration::from_secs(15);

/// Why a pass over a tenant failed. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The finalizer cannot be set.
    #[error("cannot set the finalizer: {0}")]
    Finalizer(#[source] WriteError),
    /// Something is not as planned.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// A deleted tenant could not be ended.
    #[error("cannot end the tenant: {0}")]
    Cleanup(#[source] cleanup::Error),
    /// The status cannot be written.
    #[error("cannot write the status: {0}")]
    Status(#[source] WriteError),
}

impl Error {
    /// A stable PascalCase name: the reason of Events and the label of metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Finalizer(error) | Self::Status(error) => error.name(),
            Self::Apply(error) => error.category(),
            Self::Cleanup(error) => error.category(),
        }
    }
}

/// One pass over the tenant `name`; the answer is when to look again if nothing happens before.
///
/// # Errors
/// The API server refused or failed; what could be done was done, and the status says what could not.
pub async fn reconcile(ctx: Arc<Context>, name: String) -> Result<Option<Duration>, Error> {
    let Some(mut world) = dereference::world(&ctx, &name) else {
        forget_roots(&ctx);
        ctx.metrics.keys(&name, None);
        return Ok(None);
    };
    // As the API server keeps times, so that a status that was read back is the one that was written.
    let now = months::whole_seconds(ctx.clock.now());
    let deleting = world.tenant.metadata.deletion_timestamp.is_some();
    if world.tenant.spec.paused {
        let message = if deleting {
            "spec.paused is set: nothing is changed, and the deletion waits until it is not"
        } else {
            "spec.paused is set: nothing is changed, and what runs goes on"
        };
        let paused = Refusal::new(reasons::PAUSED, message);
        report(&ctx, &world, &Observed::Left(paused), now).await?;
        return Ok(None);
    }
    if deleting {
        return end(&ctx, &world, now).await;
    }
    let reserved = [&ctx.settings.namespace, &ctx.settings.gateway_namespace].map(String::as_str);
    let valid = match validate::validate(&world.tenant, &world.tenants, &reserved) {
        Ok(valid) => valid,
        Err(error) => {
            let refusal = Refusal::new(error.category(), error.to_string());
            report(&ctx, &world, &Observed::Left(refusal), now).await?;
            let conflict = error.category() == reasons::TENANT_CONFLICT;
            return Ok(conflict.then_some(WAIT));
        }
    };
    let finalized = ctx
        .writer
        .add_finalizer(&*world.tenant, halo_crds::FINALIZER)
        .await
        .map_err(Error::Finalizer)?;
    world.tenant = Arc::new(finalized);
    let roots = dereference::roots(&ctx, &world, &valid, now).await;
    let plan = plan::plan(&world, &valid, &roots, &ctx.settings, now);
    let outcome = apply::apply(&ctx, &world, &valid, plan).await;
    report(&ctx, &world, &Observed::Applied(&valid, &outcome), now).await?;
    let again = look_again(&ctx, &roots, &outcome, now);
    match outcome.error {
        Some(error) => Err(error.into()),
        None => Ok(Some(again)),
    }
}

async fn end(ctx: &Context, world: &World, now: Timestamp) -> Result<Option<Duration>, Error> {
    let finalizers = world.tenant.metadata.finalizers.iter().flatten();
    if !finalizers
        .into_iter()
        .any(|one| one == halo_crds::FINALIZER)
    {
        return Ok(None);
    }
    let outcome = cleanup::end(ctx, world).await;
    let waits = match &outcome {
        Ok(None) => return Ok(None),
        Ok(Some(waits)) => waits.clone(),
        Err(error) => Refusal::new(reasons::DELETING, format!("being deleted: {error}")),
    };
    report(ctx, world, &Observed::Left(waits), now).await?;
    outcome.map(|_| Some(WAIT)).map_err(Error::Cleanup)
}

/// Writes the status if it is another than the cached one, and tells what is new.
async fn report(
    ctx: &Context,
    world: &World,
    observed: &Observed<'_>,
    now: Timestamp,
) -> Result<(), Error> {
    let tenant = &world.tenant;
    let status = status::status(tenant, observed, now);
    let keys = halo_crds::condition::find(&status.conditions, kinds::KEYS_READY);
    let name = tenant.metadata.name.as_deref().unwrap_or_default();
    ctx.metrics.keys(name, keys.map(|keys| &*keys.reason));
    if tenant.status.as_ref() == Some(&status) {
        return Ok(());
    }
    ctx.writer
        .apply_status(&**tenant, &status, Manager::TenantStatus, None)
        .await
        .map_err(Error::Status)?;
    let about = tenant.object_ref(&());
    for news in status::news(tenant.status.as_ref(), &status) {
        if news.warning {
            ctx.events.warning(&about, &news.reason, news.note);
        } else {
            ctx.events.normal(&about, &news.reason, news.note);
        }
    }
    Ok(())
}

/// When to look again: other months, the end of an overlap, the next read of the root, or what is waited for.
fn look_again(ctx: &Context, roots: &Roots, outcome: &apply::Outcome, now: Timestamp) -> Duration {
    if outcome.namespace.is_err() {
        return WAIT;
    }
    let months = months::Calendar::at(now, ctx.settings.pace.publish_ahead).until;
    let overlap = match &outcome.keys {
        Ok(KeysOutcome::Published(applied)) => applied.keys.previous_until.as_ref(),
        Ok(KeysOutcome::Held(_)) | Err(_) => None,
    };
    let next = roots
        .next()
        .min(months)
        .min(overlap.map_or(Timestamp::MAX, |until| until.0));
    // A little after it, so that what is waited for has come.
    let wait = Duration::try_from(next.duration_since(now)).unwrap_or_default();
    wait.saturating_add(Duration::from_millis(100))
}

/// Wipes roots that no tenant names any more.
fn forget_roots(ctx: &Context) {
    let tenants = ctx.caches.tenants();
    ctx.roots.keep_only(|parameter, generation| {
        tenants.iter().any(|tenant| {
            let policy = &tenant.spec.keys;
            let keys = tenant
                .status
                .as_ref()
                .and_then(|status| status.keys.as_ref());
            let published = keys.is_some_and(|keys| {
                keys.generation == generation || keys.previous_generation == Some(generation)
            });
            policy.root_parameter == parameter && (policy.generation == generation || published)
        })
    });
}
