//! What the schema cannot check: whether a tenant's spec makes sense, and whether another tenant was first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use halo_crds::tenant::ContainerLimits;
use halo_crds::{HaloTenant, reasons};
use halo_receipts::ids::TenantId;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::cidr::{BadCidr, Cidr};

/// Addresses of the node itself: the instance metadata service and its kin. No pod may reach them.
pub const NODE_LOCAL: [&str; 2] = ["169.254.0.0/16", "fd00:ec2::/32"];

/// The longest value of a label.
const LABEL_MAX: usize = 63;

/// Why a tenant is not served. Nothing of it is changed until that is put right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An id that is none.
    #[error("{0:?} is no tenant id: use lower-case letters, digits and inner hyphens, at most 63")]
    TenantId(String),
    /// A name that no label can carry.
    #[error(
        "the name of a HaloTenant has at most {LABEL_MAX} characters, as every object of the tenant carries it in a label"
    )]
    LongName,
    /// A namespace that is not the tenant's alone.
    #[error(
        "the namespace {0} is not the tenant's alone: set spec.namespace to another one in a new HaloTenant"
    )]
    SharedNamespace(String),
    /// A block of addresses that is none.
    #[error("spec.isolation.allowedEgress[{index}].cidr: {error}")]
    Cidr {
        /// Which of them, from 0.
        index: usize,
        /// Why.
        error: BadCidr,
    },
    /// A block of addresses that no pod may reach.
    #[error(
        "spec.isolation.allowedEgress[{index}].cidr: {cidr} is the node's own metadata service, which no pod may reach"
    )]
    NodeLocal {
        /// Which of them, from 0.
        index: usize,
        /// The block.
        cidr: String,
    },
    /// Another tenant was first.
    #[error(
        "the HaloTenant {winner} already has the {what}; it is the older one. Delete this HaloTenant, or that one"
    )]
    Conflict {
        /// The other tenant.
        winner: String,
        /// What both ask for.
        what: String,
    },
}

impl Error {
    /// A stable PascalCase name.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => reasons::TENANT_CONFLICT,
            Self::TenantId(_)
            | Self::LongName
            | Self::SharedNamespace(_)
            | Self::Cidr { .. }
            | Self::NodeLocal { .. } => reasons::INVALID,
        }
    }
}

/// A destination that pods may connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The addresses.
    pub cidr: Cidr,
    /// Addresses among them that are left out.
    pub except: Vec<Cidr>,
    /// TCP ports; all if empty.
    pub ports: Vec<u16>,
}

/// A spec that makes sense.
#[derive(Debug, Clone, PartialEq)]
pub struct Valid {
    /// The HaloTenant's name: the value of the tenant's label.
    pub name: String,
    /// The tenant's id in keys.
    pub id: TenantId,
    /// Its namespace.
    pub namespace: String,
    /// Which root secret is asked for.
    pub generation: u32,
    /// How long the generation before is still published.
    pub overlap: Duration,
    /// The parameter that holds the root secret.
    pub root_parameter: String,
    /// Hard limits of the namespace; none if empty.
    pub quota: BTreeMap<String, Quantity>,
    /// Limits of containers.
    pub limits: Option<ContainerLimits>,
    /// Where pods may connect to.
    pub egress: Vec<Destination>,
}

/// Checks a tenant among all tenants. `reserved` are namespaces that no tenant may have.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn validate(
    tenant: &HaloTenant,
    tenants: &[Arc<HaloTenant>],
    reserved: &[&str],
) -> Result<Valid, Error> {
    let name = tenant.metadata.name.clone().unwrap_or_default();
    if name.len() > LABEL_MAX {
        return Err(Error::LongName);
    }
    let id = tenant.tenant_id();
    let id: TenantId = id.parse().map_err(|_| Error::TenantId(id.to_owned()))?;
    let namespace = tenant.namespace_name();
    let system = namespace.starts_with("kube-") || namespace == "default";
    if system || reserved.contains(&namespace.as_str()) {
        return Err(Error::SharedNamespace(namespace));
    }
    if let Some(error) = conflict(tenant, tenants) {
        return Err(error);
    }
    let isolation = &tenant.spec.isolation;
    let egress = isolation.allowed_egress.iter().enumerate();
    let egress = egress.map(|(index, egress)| destination(index, &egress.cidr, &egress.ports));
    Ok(Valid {
        egress: egress.collect::<Result<_, _>>()?,
        name,
        id,
        namespace,
        generation: tenant.spec.keys.generation,
        overlap: tenant.spec.keys.overlap.get(),
        root_parameter: tenant.spec.keys.root_parameter.clone(),
        quota: isolation.quota.clone(),
        limits: isolation.limit_range.clone(),
    })
}

/// Blocks that every wider destination leaves out.
pub fn node_local() -> Vec<Cidr> {
    NODE_LOCAL.iter().flat_map(|text| text.parse()).collect()
}

fn destination(index: usize, cidr: &str, ports: &[u16]) -> Result<Destination, Error> {
    let cidr: Cidr = cidr.parse().map_err(|error| Error::Cidr { index, error })?;
    let local = node_local();
    if local.iter().any(|block| block.contains(cidr)) {
        let cidr = cidr.to_string();
        return Err(Error::NodeLocal { index, cidr });
    }
    Ok(Destination {
        cidr,
        except: local
            .into_iter()
            .filter(|block| cidr.contains(*block))
            .collect(),
        ports: ports.to_vec(),
    })
}

/// The older of two tenants wins what both ask for; of two that are equally old, the one whose name comes first.
fn conflict(tenant: &HaloTenant, tenants: &[Arc<HaloTenant>]) -> Option<Error> {
    let own = age(tenant);
    let rival = |other: &&Arc<HaloTenant>| {
        other.metadata.name != tenant.metadata.name
            && age(other) < own
            && (other.tenant_id() == tenant.tenant_id()
                || other.namespace_name() == tenant.namespace_name())
    };
    let winner = tenants
        .iter()
        .filter(rival)
        .min_by_key(|other| age(other))?;
    let what = if winner.tenant_id() == tenant.tenant_id() {
        format!("tenant id {}", tenant.tenant_id())
    } else {
        format!("namespace {}", tenant.namespace_name())
    };
    Some(Error::Conflict {
        winner: winner.metadata.name.clone().unwrap_or_default(),
        what,
    })
}

fn age(tenant: &HaloTenant) -> (Timestamp, &str) {
    let meta = &tenant.metadata;
    let created = meta.creation_timestamp.as_ref();
    (
        created.map_or(Timestamp::MAX, |created| created.0),
        meta.name.as_deref().unwrap_or_default(),
    )
}
