//! Makes the world as planned. What comes out says what is so now; the status is made of nothing else.

use std::marker::PhantomData;

use halo_crds::reasons;
use halo_crds::status::PublishedKeys;
use k8s_openapi::api::core::v1::{LimitRange, Namespace, ResourceQuota, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::{Resource as _, ResourceExt as _};

use super::dereference::World;
use super::keys::Failure;
use super::plan::{
    Hold, IsolationPlan, KeysPlan, NamespacePlan, Plan, Prepared, Publication, Refusal, foreign,
};
use super::secrets::KeySecret;
use super::validate::Valid;
use crate::context::Context;
use crate::runtime::apply::{Object, WriteError};
use crate::runtime::kinds::ChildKind;
use crate::runtime::managers::Manager;
use crate::runtime::records::ChildRecord;

/// Why something is not as planned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Error {
    /// A stable PascalCase name.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Write(error) => error.name(),
        }
    }
}

/// An object that is as it should be: the API server said so, or the caches show it.
pub struct Applied<T>(PhantomData<fn() -> T>);

impl<T> Applied<T> {
    fn new() -> Self {
        Self(PhantomData)
    }

    /// As if it had been applied.
    #[cfg(test)]
    pub(super) fn for_test() -> Self {
        Self::new()
    }
}

/// What keeps pods apart, in place.
pub struct AppliedIsolation {
    /// All network policies.
    pub policies: Vec<Applied<NetworkPolicy>>,
    /// The quota, if there should be one.
    pub quota: Option<Applied<ResourceQuota>>,
    /// The limits, if there should be any.
    pub limits: Option<Applied<LimitRange>>,
    /// The service account.
    pub account: Applied<ServiceAccount>,
}

/// Keys, published.
pub struct AppliedKeys {
    /// For pods.
    pub pods: Applied<KeySecret>,
    /// For gateways.
    pub gateways: Applied<KeySecret>,
    /// What the status says of them.
    pub keys: PublishedKeys,
    /// Why the root could not be read again, if it could not.
    pub stale: Option<Failure>,
}

/// What became of the keys.
pub enum KeysOutcome {
    /// They are published.
    Published(Box<AppliedKeys>),
    /// They were left as they are.
    Held(Hold),
}

/// What is so now.
pub struct Outcome {
    /// The namespace is the tenant's.
    pub namespace: Result<Applied<Namespace>, Refusal>,
    /// Its pods are kept apart.
    pub isolation: Result<AppliedIsolation, Refusal>,
    /// Its keys.
    pub keys: Result<KeysOutcome, Refusal>,
    /// The first failure; the pass is to be repeated.
    pub error: Option<Error>,
}

/// Makes the world as planned. A part that fails does not keep the others from being tried, except that all need the namespace.
pub async fn apply(ctx: &Context, world: &World, valid: &Valid, plan: Plan) -> Outcome {
    let Plan {
        namespace: planned_namespace,
        isolation: planned_isolation,
        keys: planned_keys,
    } = plan;
    let mut first = None;
    let mut failed = |error: Error| {
        let refusal = Refusal::new(reasons::API_SERVER, error.to_string());
        first.get_or_insert(error);
        refusal
    };
    let waits = || {
        let message = format!("waits for the namespace {}", valid.namespace);
        Refusal::new(reasons::NAMESPACE_PENDING, message)
    };
    let namespace = match namespace(ctx, valid, planned_namespace).await {
        Ok(answer) => answer,
        Err(error) => Err(failed(error)),
    };
    let isolation = match planned_isolation.filter(|_| namespace.is_ok()) {
        Some(plan) => isolation(ctx, world, valid, plan)
            .await
            .map_err(&mut failed),
        None => Err(waits()),
    };
    let keys = match planned_keys {
        KeysPlan::Hold(hold) => Ok(KeysOutcome::Held(hold)),
        KeysPlan::Publish(_) if namespace.is_err() => Err(waits()),
        KeysPlan::Publish(publication) => {
            let published = keys(ctx, world, *publication).await;
            published
                .map(|keys| KeysOutcome::Published(Box::new(keys)))
                .map_err(&mut failed)
        }
    };
    Outcome {
        namespace,
        isolation,
        keys,
        error: first,
    }
}

async fn one<K: Object>(ctx: &Context, prepared: &Prepared<K>) -> Result<Applied<K>, Error> {
    ctx.writer.apply(prepared.object(), Manager::Tenant).await?;
    Ok(Applied::new())
}

async fn namespace(
    ctx: &Context,
    valid: &Valid,
    plan: NamespacePlan,
) -> Result<Result<Applied<Namespace>, Refusal>, Error> {
    let prepared = match plan {
        NamespacePlan::Refuse(refusal) => return Ok(Err(refusal)),
        NamespacePlan::Keep(prepared) => return one(ctx, &prepared).await.map(Ok),
        NamespacePlan::Create(prepared) => prepared,
    };
    // Made and not applied: applying would take over a namespace that somebody else has.
    let made = ctx.writer.create(prepared.object(), Manager::Tenant).await;
    let error = match made {
        Ok(_) => return Ok(Ok(Applied::new())),
        Err(error) if error.is_already_exists() => error,
        Err(error) => return Err(error.into()),
    };
    let there: Option<Namespace> = ctx.writer.get("", &valid.namespace).await?;
    let Some(there) = there else {
        // Gone in between.
        return Err(error.into());
    };
    let owner = there.labels().get(halo_crds::TENANT_LABEL);
    if owner == Some(&valid.name) {
        // Labelled a moment ago, and the caches do not show it yet: the next pass adopts it.
        return Err(error.into());
    }
    Ok(Err(foreign(
        &valid.namespace,
        &valid.name,
        owner.map(String::as_str),
    )))
}

async fn isolation(
    ctx: &Context,
    world: &World,
    valid: &Valid,
    plan: IsolationPlan,
) -> Result<AppliedIsolation, Error> {
    let IsolationPlan {
        policies: planned_policies,
        quota,
        limits,
        account,
        removals,
    } = plan;
    let mut policies = Vec::new();
    for policy in &planned_policies {
        policies.push(one(ctx, policy).await?);
    }
    for key in removals {
        if let Some(record) = world.children.get(&key) {
            remove(ctx, key.0, &valid.namespace, key.1, record).await?;
        }
    }
    Ok(AppliedIsolation {
        policies,
        account: one(ctx, &account).await?,
        quota: match &quota {
            Some(quota) => Some(one(ctx, quota).await?),
            None => None,
        },
        limits: match &limits {
            Some(limits) => Some(one(ctx, limits).await?),
            None => None,
        },
    })
}

/// Deletes a child of a tenant, if it is still the one that was looked at.
pub(super) async fn remove(
    ctx: &Context,
    kind: ChildKind,
    namespace: &str,
    name: &str,
    record: &ChildRecord,
) -> Result<(), WriteError> {
    let (writer, uid) = (&ctx.writer, Some(record.uid.as_str()));
    if record.deleting {
        return Ok(());
    }
    match kind {
        ChildKind::NetworkPolicy => writer.delete::<NetworkPolicy>(namespace, name, uid).await,
        ChildKind::ResourceQuota => writer.delete::<ResourceQuota>(namespace, name, uid).await,
        ChildKind::LimitRange => writer.delete::<LimitRange>(namespace, name, uid).await,
        ChildKind::Secret => {
            writer
                .delete::<k8s_openapi::api::core::v1::Secret>(namespace, name, uid)
                .await
        }
        // No other kind is a child that a tenant's spec can take away.
        ChildKind::Namespace
        | ChildKind::ServiceAccount
        | ChildKind::Deployment
        | ChildKind::Service
        | ChildKind::PodDisruptionBudget
        | ChildKind::PersistentVolume
        | ChildKind::PersistentVolumeClaim => Ok(()),
    }
}

async fn keys(
    ctx: &Context,
    world: &World,
    publication: Publication,
) -> Result<AppliedKeys, Error> {
    let Publication {
        pods,
        gateways,
        keys,
        stale,
        same_as_before,
    } = publication;
    let (pod_record, gateway_record) = (&world.pod_secret, &world.gateway_secret);
    Ok(AppliedKeys {
        gateways: secret(
            ctx,
            world,
            &gateways,
            gateway_record.as_deref(),
            same_as_before,
        )
        .await?,
        pods: secret(ctx, world, &pods, pod_record.as_deref(), same_as_before).await?,
        keys,
        stale,
    })
}

/// Puts a Secret in place. Where somebody changed or deleted it, an Event says so.
async fn secret(
    ctx: &Context,
    world: &World,
    prepared: &Prepared<KeySecret>,
    record: Option<&ChildRecord>,
    same_as_before: bool,
) -> Result<Applied<KeySecret>, Error> {
    let wanted = prepared.object().expose();
    let (namespace, name) = prepared.object().key();
    let content = wanted
        .data
        .as_ref()
        .map(|data| ctx.caches.content_hash(data));
    let differs = record.is_none_or(|record| record.content_hash != content);
    let applied = match ctx.writer.apply(wanted, Manager::Keys).await {
        Ok(applied) => applied.was_written(),
        // Somebody made it immutable, or of another type.
        Err(error) if error.is_invalid() && record.is_some() => false,
        Err(error) => return Err(error.into()),
    };
    if let Some(record) = record.filter(|_| differs && !applied) {
        // Changed in a way that applying does not put right.
        remove(ctx, ChildKind::Secret, namespace, name, record).await?;
        ctx.writer.apply(wanted, Manager::Keys).await?;
    }
    if differs && same_as_before {
        let what = if record.is_some() {
            "changed"
        } else {
            "deleted"
        };
        let note = format!("somebody {what} the Secret {namespace}/{name}; it is as it was again");
        let about = world.tenant.object_ref(&());
        ctx.events.warning(&about, reasons::SECRET_RESTORED, note);
    }
    Ok(Applied::new())
}
