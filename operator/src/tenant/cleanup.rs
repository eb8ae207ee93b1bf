//! The end of a tenant: its substrates, its Secrets, its namespace if the operator made it, and then its finalizer.
//!
//! Nothing here needs a root secret, and what is gone already is no error: a tenant can end while the parameter store is down and
//! after its namespace is gone.

use halo_crds::{HaloSubstrate, HaloTenant, TENANT_LABEL, reasons};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::apply::remove;
use super::dereference::World;
use super::isolation::names;
use super::plan::{Refusal, was_created};
use super::secrets;
use crate::context::Context;
use crate::runtime::apply::WriteError;
use crate::runtime::kinds::ChildKind;
use crate::runtime::managers::Manager;
use crate::runtime::records::ChildRecord;

/// The most substrates that are named in a message.
const NAMED: usize = 10;

/// Why a tenant could not be ended. It is tried again.
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

/// What is to be done next for a tenant that is being deleted.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Its substrates end first: these are still to be deleted, and all that remain are waited for.
    Substrates {
        /// To be deleted, by namespace and name.
        delete: Vec<(String, String)>,
        /// What is said while they remain.
        waits: Refusal,
    },
    /// Its Secrets end, and then its namespace.
    Rest {
        /// What becomes of the namespace.
        namespace: NamespaceEnd,
    },
}

/// What becomes of a namespace.
#[derive(Debug, PartialEq, Eq)]
pub enum NamespaceEnd {
    /// It is not there, not this tenant's, or on its way out.
    Leave,
    /// The operator made it, and deletes it with all that is in it.
    Delete,
    /// It was adopted: it stays, without what the operator put into it.
    Release,
}

/// What is to be done next. Pure.
pub fn plan(world: &World) -> Step {
    if !world.substrates.is_empty() {
        let going = world.substrates.iter();
        let delete = going.filter(|(_, deleting)| !**deleting);
        let mut named: Vec<String> = world
            .substrates
            .keys()
            .map(|(namespace, name)| format!("{namespace}/{name}"))
            .collect();
        let more = named.len().saturating_sub(NAMED);
        named.truncate(NAMED);
        let and_more = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let message = format!(
            "being deleted; waits for its substrates to end: {}{and_more}",
            named.join(", ")
        );
        return Step::Substrates {
            delete: delete.map(|(key, _)| key.clone()).collect(),
            waits: Refusal::new(reasons::SUBSTRATES_REMAIN, message),
        };
    }
    let namespace = match world.namespace.as_deref() {
        Some(record) if owned(world, record) && !record.deleting => {
            if was_created(record) {
                NamespaceEnd::Delete
            } else {
                NamespaceEnd::Release
            }
        }
        _ => NamespaceEnd::Leave,
    };
    Step::Rest { namespace }
}

/// Whether a child is this tenant's and not that of another with the same id.
fn owned(world: &World, record: &ChildRecord) -> bool {
    record.labels.get(TENANT_LABEL) == world.tenant.metadata.name.as_ref()
}

/// Does what is next; `Some` while something is waited for, `None` once the finalizer is gone.
///
/// # Errors
/// The API server refused or failed.
pub async fn end(ctx: &Context, world: &World) -> Result<Option<Refusal>, Error> {
    let namespace_end = match plan(world) {
        Step::Substrates { delete, waits } => {
            for (namespace, name) in &delete {
                ctx.writer
                    .delete::<HaloSubstrate>(namespace, name, None)
                    .await?;
            }
            return Ok(Some(waits));
        }
        Step::Rest { namespace } => namespace,
    };
    let namespace = world.tenant.namespace_name();
    let gateway_secret = secrets::gateway_secret(world.tenant.tenant_id());
    let own = ctx.settings.namespace.as_str();
    for (place, name, record) in [
        (own, gateway_secret.as_str(), &world.gateway_secret),
        (namespace.as_str(), secrets::POD_SECRET, &world.pod_secret),
    ] {
        if let Some(record) = record.as_deref().filter(|record| owned(world, record)) {
            remove(ctx, ChildKind::Secret, place, name, record).await?;
        }
    }
    match namespace_end {
        NamespaceEnd::Leave => {}
        NamespaceEnd::Delete => {
            let uid = world.namespace.as_ref().map(|record| record.uid.as_str());
            ctx.writer.delete::<Namespace>("", &namespace, uid).await?;
        }
        NamespaceEnd::Release => release(ctx, world, &namespace).await?,
    }
    ctx.writer
        .remove_finalizer::<HaloTenant>(&world.tenant, halo_crds::FINALIZER)
        .await?;
    Ok(None)
}

/// Takes out of an adopted namespace what the operator put there.
async fn release(ctx: &Context, world: &World, namespace: &str) -> Result<(), WriteError> {
    for ((kind, name), record) in &world.children {
        if owned(world, record) {
            remove(ctx, *kind, namespace, name, record).await?;
        }
    }
    // Applied with nothing in them, the operator's own fields go: the labels it set, and the setting of the service account.
    let bare = |name: &str, namespace: Option<&str>| ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(ToOwned::to_owned),
        ..ObjectMeta::default()
    };
    let account = (ChildKind::ServiceAccount, names::ACCOUNT);
    if world.children.contains_key(&account) {
        let account = ServiceAccount {
            metadata: bare(names::ACCOUNT, Some(namespace)),
            ..ServiceAccount::default()
        };
        ctx.writer.apply(&account, Manager::Tenant).await?;
    }
    let bare = Namespace {
        metadata: bare(namespace, None),
        ..Namespace::default()
    };
    ctx.writer.apply(&bare, Manager::Tenant).await?;
    Ok(())
}
