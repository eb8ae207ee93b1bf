//! Everything that a pass over a tenant looks at, from the caches and the root store. Nothing here calls the API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use halo_crds::HaloTenant;
use jiff::Timestamp;

use super::isolation::names;
use super::keys::Reading;
use super::validate::Valid;
use super::{months, plan, secrets};
use crate::context::Context;
use crate::runtime::caches::OwnerKind;
use crate::runtime::kinds::ChildKind;
use crate::runtime::records::ChildRecord;

/// Children in the tenant's namespace, besides the Secret.
const CHILDREN: [(ChildKind, &str); 8] = [
    (ChildKind::NetworkPolicy, names::DENY),
    (ChildKind::NetworkPolicy, names::GATEWAY),
    (ChildKind::NetworkPolicy, names::DNS),
    (ChildKind::NetworkPolicy, names::LEDGER),
    (ChildKind::NetworkPolicy, names::ALLOWED),
    (ChildKind::ResourceQuota, names::QUOTA),
    (ChildKind::LimitRange, names::LIMITS),
    (ChildKind::ServiceAccount, names::ACCOUNT),
];

/// What a pass looks at.
pub struct World {
    /// The tenant.
    pub tenant: Arc<HaloTenant>,
    /// All tenants, this one among them.
    pub tenants: Vec<Arc<HaloTenant>>,
    /// The tenant's namespace, if it carries any tenant's label.
    pub namespace: Option<Arc<ChildRecord>>,
    /// The children in the tenant's namespace that are there, besides the Secret.
    pub children: BTreeMap<(ChildKind, &'static str), Arc<ChildRecord>>,
    /// The Secret in the tenant's namespace, if it is there.
    pub pod_secret: Option<Arc<ChildRecord>>,
    /// The Secret in the operator's namespace, if it is there.
    pub gateway_secret: Option<Arc<ChildRecord>>,
    /// The tenant's substrates, by namespace and name, and whether each is being deleted.
    pub substrates: BTreeMap<(String, String), bool>,
}

/// The root secrets of a pass.
pub struct Roots {
    /// That of the generation that the spec asks for.
    pub current: Reading,
    /// That of the generation before, if its keys are to be published too.
    pub previous: Option<(u32, Reading)>,
}

impl Roots {
    /// When the next of them is read again.
    pub fn next(&self) -> Timestamp {
        let previous = self.previous.as_ref().map(|(_, reading)| reading.next);
        previous.map_or(self.current.next, |next| next.min(self.current.next))
    }
}

/// What the caches know of the tenant `name`; `None` if there is no such tenant.
pub fn world(ctx: &Context, name: &str) -> Option<World> {
    let caches = &ctx.caches;
    let tenant = caches.tenant(name)?;
    let namespace = tenant.namespace_name();
    let gateway_secret = secrets::gateway_secret(tenant.tenant_id());
    let substrates = caches.substrates_of(name);
    let substrates = substrates.iter().map(|substrate| {
        let meta = &substrate.metadata;
        let key = (
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        );
        (key, meta.deletion_timestamp.is_some())
    });
    // One in the tenant's namespace that does not parse names no tenant, and is in the way of the namespace's end all the same.
    let unreadable = caches.all_invalid().into_iter();
    let unreadable = unreadable
        .filter(|(kind, place, _)| *kind == OwnerKind::Substrate && *place == namespace)
        .map(|(_, place, name)| ((place, name), false));
    let children = CHILDREN.into_iter().filter_map(|(kind, name)| {
        let record = caches.child(kind, &namespace, name)?;
        Some(((kind, name), record))
    });
    Some(World {
        tenants: caches.tenants(),
        children: children.collect(),
        pod_secret: caches.child(ChildKind::Secret, &namespace, secrets::POD_SECRET),
        gateway_secret: caches.child(ChildKind::Secret, &ctx.settings.namespace, &gateway_secret),
        namespace: caches.namespace(&namespace),
        substrates: unreadable.chain(substrates).collect(),
        tenant,
    })
}

/// The root secrets that a pass needs, from memory or, when they are due, from the parameter store.
pub async fn roots(ctx: &Context, world: &World, valid: &Valid, now: Timestamp) -> Roots {
    let parameter = &valid.root_parameter;
    let published = plan::published(world);
    let overlap = months::previous(published.as_ref(), valid.generation, valid.overlap, now);
    let previous = match overlap {
        Some((generation, _)) => Some((generation, ctx.roots.read(parameter, generation).await)),
        None => None,
    };
    Roots {
        current: ctx.roots.read(parameter, valid.generation).await,
        previous,
    }
}
