//! What runs while this process leads: both controllers, the look at the cloud, and the collection of what it has left over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use halo_crds::{HaloSubstrate, HaloTenant, reasons};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Resource as _;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::apply::{Object, WriteError};
use super::caches::{InvalidObject, OwnerKind};
use super::controller::{Controller, Failed, Key, causes};
use super::managers::Manager;
use super::operator::named;
use super::route::{self, Queues, SubstrateKey};
use crate::context::Context;
use crate::nodes::garbage;
use crate::{substrate, tenant};

/// Starts what runs while this process leads.
pub(super) fn start(
    context: &Arc<Context>,
    queues: &Queues,
    mut changes: mpsc::UnboundedReceiver<String>,
    workers: &mut JoinSet<&'static str>,
    helpers: &mut JoinSet<&'static str>,
) {
    let count = context.settings.concurrency;
    let reported: Arc<Reported> = Arc::default();
    let tenants = Controller {
        name: "tenant",
        queue: queues.tenants.clone(),
        workers: count,
        metrics: context.metrics.clone(),
    };
    let (ctx, all, told) = (context.clone(), queues.clone(), reported.clone());
    let reconcile =
        move |name: String| reconcile_tenant(ctx.clone(), all.clone(), told.clone(), name);
    let ctx = context.clone();
    let on_failure = move |name: &String, failed: &Failed| {
        let tenant = ctx.caches.tenant(name);
        tell(&ctx, tenant.map(|tenant| tenant.object_ref(&())), failed);
    };
    workers.spawn(named("tenants", tenants.run(reconcile, on_failure)));

    let substrates = Controller {
        name: "substrate",
        queue: queues.substrates.clone(),
        workers: count,
        metrics: context.metrics.clone(),
    };
    let (ctx, told) = (context.clone(), reported);
    let reconcile = move |key: SubstrateKey| reconcile_substrate(ctx.clone(), told.clone(), key);
    let ctx = context.clone();
    let on_failure = move |key: &SubstrateKey, failed: &Failed| {
        let substrate = ctx.caches.substrate(&key.0, &key.1);
        let about = substrate.map(|substrate| substrate.object_ref(&()));
        tell(&ctx, about, failed);
    };
    workers.spawn(named("substrates", substrates.run(reconcile, on_failure)));

    let stop = CancellationToken::new();
    let fleet = context.fleet.clone();
    let token = stop.clone();
    helpers.spawn(named("fleet", async move { fleet.run(token).await }));
    let ctx = context.clone();
    helpers.spawn(named("garbage", async move {
        garbage::run(&ctx, stop).await;
    }));
    let look_at = {
        let (ctx, queue) = (context.clone(), queues.substrates.clone());
        move |uid: &str| {
            if let Some(substrate) = ctx.caches.substrate_with_uid(uid) {
                let namespace = substrate.metadata.namespace.clone().unwrap_or_default();
                let name = substrate.metadata.name.clone().unwrap_or_default();
                queue.add((namespace, name));
            }
        }
    };
    let (ctx, told) = (context.clone(), look_at.clone());
    helpers.spawn(named("permissions", async move {
        ctx.permissions.run(&ctx, told).await;
    }));
    helpers.spawn(named("fleet changes", async move {
        while let Some(uid) = changes.recv().await {
            look_at(&uid);
        }
    }));
}

fn tell(ctx: &Context, about: Option<ObjectReference>, failed: &Failed) {
    if let Some(about) = about {
        ctx.events
            .warning(&about, failed.category, failed.message.clone());
    }
}

/// Failures that no person has to hear of.
fn failed(category: &'static str, error: &dyn std::error::Error) -> Failed {
    Failed {
        category,
        message: causes(error),
        quiet: matches!(category, "Conflict" | "NotLeader"),
    }
}

async fn reconcile_tenant(
    ctx: Arc<Context>,
    queues: Queues,
    reported: Arc<Reported>,
    name: String,
) -> Result<Option<Duration>, Failed> {
    if let Some(bad) = ctx.caches.invalid(OwnerKind::Tenant, "", &name) {
        let manager = Manager::TenantInvalid;
        return report_invalid::<HaloTenant>(&ctx, &reported, bad, manager).await;
    }
    let before = ctx.caches.tenant(&name);
    let result = tenant::reconcile(ctx.clone(), name.clone()).await;
    // The echo of an own write is no news to the watch, but substrates wait for their tenant.
    let status = |tenant: &Option<Arc<HaloTenant>>| tenant.as_ref().and_then(|t| t.status.clone());
    if status(&before) != status(&ctx.caches.tenant(&name)) {
        queues.add(route::substrates_of(&ctx.caches, &name));
    }
    result.map_err(|error| failed(error.category(), &error))
}

async fn reconcile_substrate(
    ctx: Arc<Context>,
    reported: Arc<Reported>,
    key: SubstrateKey,
) -> Result<Option<Duration>, Failed> {
    if let Some(bad) = ctx
        .caches
        .invalid(OwnerKind::Substrate, key.namespace(), key.name())
    {
        let manager = Manager::SubstrateInvalid;
        return report_invalid::<HaloSubstrate>(&ctx, &reported, bad, manager).await;
    }
    let result = substrate::reconcile(ctx, key).await;
    result.map_err(|error| failed(error.category(), &error))
}

/// Objects that do not parse and what was said of them, by uid.
type Reported = Mutex<HashMap<String, (Option<i64>, String)>>;

/// Says of an object that it does not parse: a condition and an event. The manager is one of its own, so that nothing else of the
/// status is touched.
async fn report_invalid<K: Object>(
    ctx: &Context,
    reported: &Reported,
    bad: InvalidObject,
    manager: Manager,
) -> Result<Option<Duration>, Failed> {
    let said = (bad.generation, bad.message.clone());
    let known = || reported.lock().unwrap_or_else(PoisonError::into_inner);
    if known().get(&bad.uid) == Some(&said) {
        return Ok(None);
    }
    let message = format!(
        "it cannot be read, and what runs is left as it is: {}",
        bad.message
    );
    let condition = Condition {
        type_: reasons::kinds::READY.to_owned(),
        status: "False".to_owned(),
        reason: reasons::INVALID.to_owned(),
        message: message.clone(),
        observed_generation: bad.generation,
        last_transition_time: Time(ctx.clock.now()),
    };
    let status = json!({"conditions": [condition], "why": reasons::INVALID});
    let namespace = bad.reference.namespace.as_deref().unwrap_or_default();
    let name = bad.reference.name.as_deref().unwrap_or_default();
    ctx.events
        .warning(&bad.reference, reasons::INVALID, message);
    ctx.writer
        .apply_status_unread::<K>(namespace, name, &status, manager)
        .await
        .map_err(|error: WriteError| failed(error.name(), &error))?;
    known().insert(bad.uid, said);
    Ok(None)
}
