//! From what changed to the objects that have to be looked at.

use halo_crds::{HaloSubstrate, HaloTenant, POOL_LABEL, TENANT_LABEL, condition, reasons};
use kube::ResourceExt as _;

use super::caches::{Caches, NodeInfo, Touched};
use super::kinds::ChildKind;
use super::queue::Queue;

/// Namespace and name of a HaloSubstrate.
pub type SubstrateKey = (String, String);

/// An object that has to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// A HaloTenant.
    Tenant(String),
    /// A HaloSubstrate.
    Substrate(SubstrateKey),
}

/// Both queues.
#[derive(Clone)]
pub struct Queues {
    /// Of HaloTenants.
    pub tenants: Queue<String>,
    /// Of HaloSubstrates.
    pub substrates: Queue<SubstrateKey>,
}

impl Queues {
    /// Adds all of them.
    pub fn add(&self, looks: impl IntoIterator<Item = Look>) {
        for look in looks {
            match look {
                Look::Tenant(name) => self.tenants.add(name),
                Look::Substrate(key) => self.substrates.add(key),
            }
        }
    }
}

fn look_at(substrate: &HaloSubstrate) -> Look {
    Look::Substrate((
        substrate.namespace().unwrap_or_default(),
        substrate.name_any(),
    ))
}

/// The substrates of a tenant.
pub fn substrates_of(caches: &Caches, tenant: &str) -> Vec<Look> {
    let substrates = caches.substrates_of(tenant);
    substrates.iter().map(|one| look_at(one)).collect()
}

/// What has to be looked at because of a change.
pub fn looks(caches: &Caches, touched: &Touched) -> Vec<Look> {
    match touched {
        Touched::Tenant(name) => {
            let mut looks = vec![Look::Tenant(name.clone())];
            looks.extend(substrates_of(caches, name));
            if caches.tenant(name).is_none() {
                // Its name and namespace are free now.
                let waiting = caches.tenants();
                let waiting = waiting.iter().filter(|tenant| is_in_conflict(tenant));
                looks.extend(waiting.map(|tenant| Look::Tenant(tenant.name_any())));
            }
            looks
        }
        Touched::Substrate(namespace, name) => {
            let mut looks = vec![Look::Substrate((namespace.clone(), name.clone()))];
            // A tenant that is being deleted waits for its substrates.
            let tenant = match caches.substrate(namespace, name) {
                Some(substrate) => Some(substrate.spec.tenant.clone()),
                None => caches
                    .namespace(namespace)
                    .and_then(|namespace| namespace.labels.get(TENANT_LABEL).cloned()),
            };
            let deleting = tenant
                .and_then(|tenant| caches.tenant(&tenant))
                .filter(|tenant| tenant.metadata.deletion_timestamp.is_some());
            looks.extend(deleting.map(|tenant| Look::Tenant(tenant.name_any())));
            looks
        }
        Touched::Child {
            kind,
            namespace,
            name,
            tenant,
            substrate,
        } => match (tenant, substrate) {
            (tenant, Some(substrate)) => {
                let namespace = if namespace.is_empty() {
                    tenant
                        .as_ref()
                        .and_then(|tenant| caches.tenant(tenant))
                        .map(|tenant| tenant.namespace_name())
                } else {
                    Some(namespace.clone())
                };
                namespace
                    .map(|namespace| Look::Substrate((namespace, substrate.clone())))
                    .into_iter()
                    .collect()
            }
            (Some(tenant), None) => vec![Look::Tenant(tenant.clone())],
            (None, None) if *kind == ChildKind::Namespace => {
                // It lost its label: its tenant is the one that names it.
                let tenants = caches.tenants();
                let owner = tenants
                    .iter()
                    .filter(|tenant| tenant.namespace_name() == *name);
                owner
                    .map(|tenant| Look::Tenant(tenant.name_any()))
                    .collect()
            }
            (None, None) => Vec::new(),
        },
        Touched::Pod {
            namespace,
            substrate,
        } => vec![Look::Substrate((namespace.clone(), substrate.clone()))],
        Touched::Node { before, after } => {
            let states: Vec<&NodeInfo> = before.iter().chain(after).map(|node| &**node).collect();
            let substrates = caches.substrates();
            let concerned = substrates
                .iter()
                .filter(|substrate| states.iter().any(|node| concerns(substrate, node)));
            concerned.map(|substrate| look_at(substrate)).collect()
        }
    }
}

fn is_in_conflict(tenant: &HaloTenant) -> bool {
    tenant.status.as_ref().is_some_and(|status| {
        condition::find(&status.conditions, reasons::kinds::READY)
            .is_some_and(|ready| ready.reason == reasons::TENANT_CONFLICT)
    })
}

/// Whether a node is one of a substrate's pool.
fn concerns(substrate: &HaloSubstrate, node: &NodeInfo) -> bool {
    let labelled = node.labels.get(POOL_LABEL);
    if labelled.is_some() && labelled == substrate.metadata.uid.as_ref() {
        return true;
    }
    if let Some(existing) = &substrate.spec.node_pool.existing {
        return existing
            .node_selector
            .iter()
            .all(|(key, value)| node.labels.get(key) == Some(value));
    }
    let slots = substrate.status.iter().flat_map(|status| &status.nodes);
    let mut slots = slots.filter(|slot| slot.instance.is_some());
    slots.any(|slot| slot.instance.as_ref() == node.view.instance.as_ref().map(|id| &id.0))
}
