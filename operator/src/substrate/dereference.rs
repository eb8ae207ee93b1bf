//! Reads what a plan looks at, from caches only: no call is made.

use std::sync::Arc;

use halo_crds::pool::{Ec2Pool, UserData};
use halo_crds::{HaloSubstrate, POOL_LABEL, SUBSTRATE_LABEL};

use super::plan::{Child, Observed, owns_volume};
use crate::context::Context;
use crate::nodes::capacity::CapacityView;
use crate::nodes::fleet::FleetView;
use crate::nodes::launch::{Identity, Template};
use crate::nodes::plan::NodeView;
use crate::runtime::kinds::ChildKind;
use crate::settings::Settings;

/// Everything that is known of a substrate now.
pub fn observe(ctx: &Context, substrate: Arc<HaloSubstrate>) -> Observed {
    let meta = &substrate.metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let uid = meta.uid.as_deref().unwrap_or_default();
    let now = ctx.clock.now();
    let spec = &substrate.spec;
    let (fleet, capacity, launch) = match &spec.node_pool.ec2 {
        Some(pool) => (
            ctx.fleet.view(uid),
            ctx.capacity
                .view(uid, meta.generation.unwrap_or_default(), now),
            template(&substrate, pool, &ctx.settings),
        ),
        None => (
            FleetView::default(),
            CapacityView::default(),
            Launch::default(),
        ),
    };
    let hash = launch.template.as_ref().map(Template::hash);
    Observed {
        tenant: ctx.caches.tenant(&spec.tenant),
        deployment: ctx.caches.deployment(namespace, name),
        children: children(ctx, namespace, name, uid),
        pods: ctx.caches.pods_of(namespace, name),
        nodes: nodes(ctx, &substrate, &fleet),
        fleet,
        capacity,
        template: hash.unwrap_or_default().to_owned(),
        unlaunchable: launch.problem,
        refusal: None,
        now,
        substrate,
    }
}

/// What instances are launched with.
#[derive(Default)]
pub struct Launch {
    /// The template; if the spec makes none, one that serves to end what there is.
    pub template: Option<Template>,
    /// Why the spec makes none.
    pub problem: Option<String>,
}

/// What instances of a substrate are launched with.
pub fn template(substrate: &HaloSubstrate, pool: &Ec2Pool, settings: &Settings) -> Launch {
    let meta = &substrate.metadata;
    let identity = Identity {
        uid: meta.uid.clone().unwrap_or_default(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        tenant: substrate.spec.tenant.clone(),
    };
    match Template::new(&identity, pool, settings) {
        Ok(template) => Launch {
            template: Some(template),
            problem: None,
        },
        Err(error) => {
            let mut plain = pool.clone();
            // No instance ever gets it.
            plain.user_data = UserData {
                preset: None,
                template: Some("#".to_owned()),
            };
            Launch {
                template: Template::new(&identity, &plain, settings).ok(),
                problem: Some(error.to_string()),
            }
        }
    }
}

/// Nodes of the instances, or with the pool's label; of an existing pool those that pods may be scheduled to.
fn nodes(ctx: &Context, substrate: &HaloSubstrate, fleet: &FleetView) -> Vec<NodeView> {
    let uid = substrate.metadata.uid.as_deref().unwrap_or_default();
    let existing = substrate.spec.node_pool.existing.as_ref();
    let mut nodes: Vec<NodeView> = ctx
        .caches
        .nodes()
        .into_iter()
        .filter(|node| match existing {
            Some(pool) => {
                let has = |(key, value): (&String, &String)| node.labels.get(key) == Some(value);
                !node.view.unschedulable && pool.node_selector.iter().all(has)
            }
            None => {
                let ours = |id| fleet.instances.iter().any(|instance| &instance.id == id);
                node.labels.get(POOL_LABEL).is_some_and(|pool| pool == uid)
                    || node.view.instance.as_ref().is_some_and(ours)
            }
        })
        .map(|node| node.view.clone())
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

/// The children that a plan may want to delete.
fn children(ctx: &Context, namespace: &str, name: &str, uid: &str) -> Vec<Child> {
    let caches = &ctx.caches;
    let labelled = |kind: ChildKind, namespace: &str| {
        caches.children_with(kind, namespace, SUBSTRATE_LABEL, name)
    };
    let volumes = labelled(ChildKind::PersistentVolume, "")
        .into_iter()
        // The label names a substrate of any namespace, the name one for good.
        .filter(|volume| owns_volume(uid, volume))
        .map(|volume| (ChildKind::PersistentVolume, "", volume));
    let claims = labelled(ChildKind::PersistentVolumeClaim, namespace)
        .into_iter()
        .map(|claim| (ChildKind::PersistentVolumeClaim, namespace, claim));
    [ChildKind::Deployment, ChildKind::PodDisruptionBudget]
        .into_iter()
        .map(|kind| (kind, namespace, name.to_owned()))
        .chain(claims)
        .chain(volumes)
        .filter_map(|(kind, namespace, name)| {
            let record = caches.child(kind, namespace, &name)?;
            Some(Child {
                kind,
                uid: record.uid.clone(),
                deleting: record.deleting,
                name,
            })
        })
        .collect()
}
