//! What is read of objects of the API server: the few fields that a gateway needs, each object by itself, so that one that cannot be
//! read is no matter for the others. Pure.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use halo_crds::Period;
use halo_crds::status::Phase;
use halo_crds::substrate::Scaling;
use halo_crds::tenant::{DevicePolicy, TenantLimits};
use halo_receipts::ids::TenantId;
use halo_receipts::keyring::KeyRing;
use halo_receipts::payload::ContentPolicy;
use jiff::Timestamp;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::endpoints::Slice;
use crate::directory::Tenant;

/// What the names of the Secrets with keyrings begin with; the tenant's id follows.
pub const SECRET_PREFIX: &str = "halo-keys-";

/// Kinds that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Secrets with keyrings, in the gateway's own namespace.
    Secret,
    /// HaloTenants.
    Tenant,
    /// HaloSubstrates.
    Substrate,
    /// EndpointSlices of substrates' Services.
    Slice,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Secret, Self::Tenant, Self::Substrate, Self::Slice];

    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::Tenant => "HaloTenant",
            Self::Substrate => "HaloSubstrate",
            Self::Slice => "EndpointSlice",
        }
    }
}

/// Namespace (empty if it has none) and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace; empty for what has none.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// Why an object is not used. Never holds what stands in a Secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Its JSON has another form.
    #[error("it does not have its form (line {line}, column {column})")]
    Form {
        /// Line of its JSON, from 1.
        line: usize,
        /// Column of its JSON, from 1.
        column: usize,
    },
    /// It names something that no program of HALO accepts.
    #[error("its {0} is not one")]
    Field(&'static str),
    /// The keyring in it was refused.
    #[error(transparent)]
    KeyRing(#[from] halo_receipts::keyring::KeyRingError),
    /// Its name and the tenant of its keyring differ.
    #[error("it holds the keys of another tenant, {0}")]
    OtherTenant(TenantId),
}

/// What is kept of a HaloTenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantObject {
    /// The id in keys and receipts.
    pub id: TenantId,
    /// The tenant's namespace, where its substrates are.
    pub namespace: String,
    /// When it was created, as the API writes it: sorts as time does.
    pub created: String,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// What it allows.
    pub tenant: Arc<Tenant>,
}

/// What is kept of a HaloSubstrate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubstrateObject {
    /// The name of its HaloTenant.
    pub tenant: String,
    /// When it was created.
    pub created: String,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Where it is between asleep and awake.
    pub phase: Phase,
    /// How long a wake may take.
    pub wake_deadline: Duration,
    /// How long nothing is asked before it sleeps.
    pub idle_after: Duration,
}

/// One gateway's entry in a substrate's `status.demand`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DemandEntry {
    /// The gateway.
    pub gateway: String,
    /// When it was last active.
    pub last_active: Timestamp,
}

/// What an object says.
#[derive(Clone)]
pub enum Object {
    /// A Secret's keyring.
    Keys(Arc<KeyRing>),
    /// A HaloTenant.
    Tenant(TenantObject),
    /// A HaloSubstrate, and what gateways have for it.
    Substrate(SubstrateObject, Vec<DemandEntry>),
    /// An EndpointSlice of a substrate's Service.
    Slice(Slice),
}

/// An object as it was read.
pub struct Parsed {
    /// Which.
    pub key: Key,
    /// Its resource version.
    pub version: String,
    /// What it says, or why it is not used.
    pub object: Result<Object, Unusable>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: String,
    namespace: String,
    resource_version: String,
    creation_timestamp: String,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
    labels: Labels,
}

#[derive(Deserialize, Default)]
struct Labels {
    // `halo_crds::SUBSTRATE_LABEL`, which an attribute cannot name.
    #[serde(rename = "halo.howdify.io/substrate", default)]
    substrate: String,
}

#[derive(Deserialize)]
struct MetaOnly {
    #[serde(default)]
    metadata: Meta,
}

#[derive(Deserialize)]
struct RawSecret<'a> {
    #[serde(borrow, default)]
    data: RawData<'a>,
}

#[derive(Deserialize, Default)]
struct RawData<'a> {
    // Borrowed, so that no copy of keys is left behind; base64 needs no escapes.
    #[serde(rename = "keyring.json", borrow, default)]
    keyring: Option<&'a str>,
}

#[derive(Deserialize)]
struct RawTenant {
    spec: RawTenantSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTenantSpec {
    tenant_id: Option<String>,
    namespace: Option<String>,
    #[serde(default)]
    devices: RawDevices,
    #[serde(default)]
    limits: RawLimits,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawDevices {
    minimum_generation: Option<u32>,
    revoked: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawLimits {
    devices: Option<u32>,
    requests_per_minute: Option<u32>,
    concurrent_escalations: Option<u32>,
    held_requests: Option<u32>,
    held_seconds: Option<u32>,
}

#[derive(Deserialize)]
struct RawSubstrate {
    spec: RawSubstrateSpec,
    #[serde(default)]
    status: RawStatus,
}

#[derive(Deserialize)]
struct RawSubstrateSpec {
    tenant: String,
    #[serde(default)]
    scaling: RawScaling,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawScaling {
    idle_after: Option<Period>,
    wake_deadline: Option<Period>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawStatus {
    // As text: a phase of a later version is one that is not known here, and no reason not to read the rest.
    phase: Option<String>,
    demand: Vec<serde_json::Value>,
}

/// Reads an object of a kind. `content` is what is kept of private content in new sessions of its tenant.
pub fn parse(kind: Kind, json: &str, content: ContentPolicy) -> Parsed {
    let meta = serde_json::from_str::<MetaOnly>(json).map(|only| only.metadata);
    let meta = meta.unwrap_or_default();
    let object = match kind {
        Kind::Secret => keys(json, &meta),
        Kind::Tenant => tenant(json, &meta, content),
        Kind::Substrate => substrate(json, &meta),
        Kind::Slice => from_json(json)
            .map(|raw| Object::Slice(Slice::read(raw, meta.labels.substrate.clone()))),
    };
    Parsed {
        key: Key {
            namespace: meta.namespace,
            name: meta.name,
        },
        version: meta.resource_version,
        object,
    }
}

/// The parser's own words could quote a value.
fn from_json<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Unusable> {
    serde_json::from_str(json).map_err(|error| Unusable::Form {
        line: error.line(),
        column: error.column(),
    })
}

fn keys(json: &str, meta: &Meta) -> Result<Object, Unusable> {
    let raw: RawSecret<'_> = from_json(json)?;
    let text = raw.data.keyring.ok_or(Unusable::Field("data"))?;
    // Room for all of it at once: a vector that grows would leave copies behind.
    let mut document = Zeroizing::new(Vec::with_capacity(text.len()));
    BASE64
        .decode_vec(text, &mut document)
        .map_err(|_| Unusable::Field("data"))?;
    let ring = KeyRing::decode(&document)?;
    if meta.name.strip_prefix(SECRET_PREFIX) != Some(ring.tenant().as_str()) {
        return Err(Unusable::OtherTenant(ring.tenant().clone()));
    }
    Ok(Object::Keys(Arc::new(ring)))
}

fn tenant(json: &str, meta: &Meta, content: ContentPolicy) -> Result<Object, Unusable> {
    let RawTenant { spec } = from_json(json)?;
    let id = spec.tenant_id.unwrap_or_else(|| meta.name.clone());
    let id: TenantId = id.parse().map_err(|_| Unusable::Field("tenant id"))?;
    let (default, devices) = (TenantLimits::default(), DevicePolicy::default());
    let limits = spec.limits;
    let count = |given: Option<u32>, default: u32| {
        usize::try_from(given.unwrap_or(default)).unwrap_or(usize::MAX)
    };
    let minimum = spec.devices.minimum_generation;
    let tenant = Tenant {
        content,
        min_device_generation: minimum.unwrap_or(devices.minimum_generation),
        // What is no device id is no device's.
        revoked: spec
            .devices
            .revoked
            .iter()
            .filter_map(|id| id.parse().ok())
            .collect::<HashSet<_>>(),
        requests_per_minute: limits
            .requests_per_minute
            .unwrap_or(default.requests_per_minute),
        held_requests: count(limits.held_requests, default.held_requests),
        held_seconds: Some(limits.held_seconds.unwrap_or(default.held_seconds)),
        concurrent_escalations: count(
            limits.concurrent_escalations,
            default.concurrent_escalations,
        ),
        devices: count(limits.devices, default.devices),
    };
    Ok(Object::Tenant(TenantObject {
        namespace: spec.namespace.unwrap_or_else(|| format!("halo-{id}")),
        id,
        created: meta.creation_timestamp.clone(),
        deleting: meta.deletion_timestamp.is_some(),
        tenant: Arc::new(tenant),
    }))
}

fn substrate(json: &str, meta: &Meta) -> Result<Object, Unusable> {
    let RawSubstrate { spec, status } = from_json(json)?;
    let default = Scaling::default();
    let scaling = spec.scaling;
    let object = SubstrateObject {
        tenant: spec.tenant,
        created: meta.creation_timestamp.clone(),
        deleting: meta.deletion_timestamp.is_some(),
        phase: status.phase.and_then(known).unwrap_or_default(),
        wake_deadline: scaling.wake_deadline.unwrap_or(default.wake_deadline).get(),
        idle_after: scaling.idle_after.unwrap_or(default.idle_after).get(),
    };
    let demand = status.demand.into_iter();
    let demand = demand.filter_map(|raw| serde_json::from_value(raw).ok());
    Ok(Object::Substrate(object, demand.collect()))
}

fn known(phase: String) -> Option<Phase> {
    serde_json::from_value(serde_json::Value::String(phase)).ok()
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
