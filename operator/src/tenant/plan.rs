//! What a tenant's children should be. Pure: world, roots and time in, objects out.

use std::sync::Arc;

use halo_crds::condition::Truth;
use halo_crds::status::PublishedKeys;
use halo_crds::{TENANT_LABEL, reasons};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LimitRange, Namespace, ResourceQuota, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::dereference::{Roots, World};
use super::isolation::{self, ORIGIN_CREATED, ORIGIN_LABEL, names};
use super::keys::{Failure, Reading};
use super::months::{self, Calendar};
use super::secrets::{
    self, CHECK_VALUE_LABEL, GENERATION_LABEL, KeySecret, PREVIOUS_CHECK_VALUE_LABEL,
};
use super::validate::Valid;
use crate::runtime::kinds::ChildKind;
use crate::runtime::records::ChildRecord;
use crate::settings::Settings;

/// An object as it should be; nothing is done about it yet.
pub struct Prepared<T>(T);

impl<T> Prepared<T> {
    /// The object.
    pub fn object(&self) -> &T {
        &self.0
    }
}

/// Why something is not as asked: what stands in a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A stable name.
    pub reason: String,
    /// What happened and what to do, for a person. The same while nothing changes.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// What is to be done for a tenant.
pub struct Plan {
    /// Its namespace.
    pub namespace: NamespacePlan,
    /// What keeps its pods apart; nothing while there is no namespace for it.
    pub isolation: Option<IsolationPlan>,
    /// Its keys.
    pub keys: KeysPlan,
}

/// What is to be done for the namespace.
pub enum NamespacePlan {
    /// It is not there, or not labelled at all: make it.
    Create(Prepared<Namespace>),
    /// It is the tenant's.
    Keep(Prepared<Namespace>),
    /// It cannot be used.
    Refuse(Refusal),
}

/// What keeps pods apart.
pub struct IsolationPlan {
    /// All network policies.
    pub policies: Vec<Prepared<NetworkPolicy>>,
    /// The quota, if there should be one.
    pub quota: Option<Prepared<ResourceQuota>>,
    /// The limits, if there should be any.
    pub limits: Option<Prepared<LimitRange>>,
    /// The service account.
    pub account: Prepared<ServiceAccount>,
    /// Children that are there and should not be: kind and name.
    pub removals: Vec<(ChildKind, &'static str)>,
}

/// What is to be done for the keys.
pub enum KeysPlan {
    /// They are published.
    Publish(Box<Publication>),
    /// What is published stays as it is.
    Hold(Hold),
}

/// Keys that are to be published.
pub struct Publication {
    /// For the tenant's pods, in the tenant's namespace.
    pub pods: Prepared<KeySecret>,
    /// For gateways, in the operator's namespace.
    pub gateways: Prepared<KeySecret>,
    /// What the status says of them.
    pub keys: PublishedKeys,
    /// Why the root could not be read again, if it could not.
    pub stale: Option<Failure>,
    /// Whether these very keys were published before: a Secret that differs was changed by someone.
    pub same_as_before: bool,
}

/// Why keys are left as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Whether what the spec asks for is published.
    pub truth: Truth,
    /// Why.
    pub why: Refusal,
}

impl Hold {
    fn no(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            truth: Truth::False,
            why: Refusal::new(reason, message),
        }
    }
}

/// What should be, for a tenant that is valid and not paused.
pub fn plan(
    world: &World,
    valid: &Valid,
    roots: &Roots,
    settings: &Settings,
    now: Timestamp,
) -> Plan {
    let namespace = namespace(world.namespace.as_deref(), valid);
    let usable = !matches!(namespace, NamespacePlan::Refuse(_));
    let keys = if usable {
        keys(world, valid, roots, settings, now)
    } else {
        let message = format!("keys wait for the namespace {}", valid.namespace);
        KeysPlan::Hold(Hold::no(reasons::NAMESPACE_PENDING, message))
    };
    Plan {
        namespace,
        isolation: usable.then(|| isolation(world, valid, settings)),
        keys,
    }
}

/// What to tell whoever wants a namespace adopted that is not labelled for the tenant.
pub fn foreign(namespace: &str, tenant: &str, owner: Option<&str>) -> Refusal {
    let whose = match owner {
        Some(owner) => format!("carries the label of another tenant, {owner}"),
        None => format!("exists and does not carry the label {TENANT_LABEL}"),
    };
    Refusal::new(
        reasons::NAMESPACE_FOREIGN,
        format!(
            "the namespace {namespace} {whose}; to give it to this tenant: kubectl label namespace {namespace} --overwrite {TENANT_LABEL}={tenant}"
        ),
    )
}

/// Whether a namespace with these labels was made by the operator, and not only adopted.
pub fn was_created(record: &ChildRecord) -> bool {
    record.labels.get(ORIGIN_LABEL).map(String::as_str) == Some(ORIGIN_CREATED)
}

fn namespace(record: Option<&ChildRecord>, valid: &Valid) -> NamespacePlan {
    let Some(record) = record else {
        return NamespacePlan::Create(Prepared(isolation::namespace(valid, true)));
    };
    let owner = record.labels.get(TENANT_LABEL).map(String::as_str);
    if owner != Some(&valid.name) {
        return NamespacePlan::Refuse(foreign(&valid.namespace, &valid.name, owner));
    }
    if record.deleting {
        return NamespacePlan::Refuse(Refusal::new(
            reasons::NAMESPACE_TERMINATING,
            format!(
                "the namespace {} is being deleted; it is made again once it is gone (what holds it: kubectl get namespace {} -o yaml)",
                valid.namespace, valid.namespace
            ),
        ));
    }
    NamespacePlan::Keep(Prepared(isolation::namespace(valid, was_created(record))))
}

fn isolation(world: &World, valid: &Valid, settings: &Settings) -> IsolationPlan {
    let policies: Vec<_> = isolation::policies(valid, settings)
        .into_iter()
        .map(Prepared)
        .collect();
    let quota = isolation::quota(valid).map(Prepared);
    let limits = isolation::limits(valid).map(Prepared);
    let optional = [
        (ChildKind::ResourceQuota, names::QUOTA, quota.is_some()),
        (ChildKind::LimitRange, names::LIMITS, limits.is_some()),
        (
            ChildKind::NetworkPolicy,
            names::ALLOWED,
            !valid.egress.is_empty(),
        ),
    ];
    let removals = optional
        .into_iter()
        .filter(|(kind, name, wanted)| !wanted && world.children.contains_key(&(*kind, *name)))
        .map(|(kind, name, _)| (kind, name));
    IsolationPlan {
        removals: removals.collect(),
        account: Prepared(isolation::account(valid)),
        policies,
        quota,
        limits,
    }
}

/// What is published: as the status says, or, if that was lost, as the labels of the gateways' Secret say.
pub fn published(world: &World) -> Option<PublishedKeys> {
    let status = world.tenant.status.as_ref();
    if let Some(keys) = status.and_then(|status| status.keys.clone()) {
        return Some(keys);
    }
    let labels = &world.gateway_secret.as_ref()?.labels;
    Some(PublishedKeys {
        generation: labels.get(GENERATION_LABEL)?.parse().ok()?,
        check_value: labels.get(CHECK_VALUE_LABEL)?.clone(),
        ..PublishedKeys::default()
    })
}

fn keys(
    world: &World,
    valid: &Valid,
    roots: &Roots,
    settings: &Settings,
    now: Timestamp,
) -> KeysPlan {
    let before = published(world);
    let calendar = Calendar::at(now, settings.pace.publish_ahead);
    let unreadable = |reading: &Reading, generation| {
        KeysPlan::Hold(unreadable(before.as_ref(), valid, reading, generation, now))
    };
    let Some(root) = &roots.current.root else {
        return unreadable(&roots.current, valid.generation);
    };
    let check_value = root.check_value().to_string();
    let changed = |generation, found: &str, published: &str| {
        KeysPlan::Hold(Hold::no(
            reasons::ROOT_CHANGED,
            format!(
                "version {generation} of the parameter {} now holds another root (check value {found}) than the one whose keys are \
                 published (check value {published}); the published keys stay. Put the earlier root back as that version, or raise \
                 spec.keys.generation to the version of the new one",
                valid.root_parameter
            ),
        ))
    };
    if let Some(before) = before
        .as_ref()
        .filter(|before| before.generation == valid.generation)
        && before.check_value != check_value
    {
        return changed(valid.generation, &check_value, &before.check_value);
    }
    let overlap = months::previous(before.as_ref(), valid.generation, valid.overlap, now);
    let mut secrets = Vec::new();
    if let Some((generation, _)) = overlap {
        let reading = roots
            .previous
            .as_ref()
            .filter(|(read, _)| *read == generation);
        let Some((_, reading)) = reading else {
            // The roots were asked for a moment before a boundary.
            return KeysPlan::Hold(Hold::no(reasons::PENDING, "the keys are being published"));
        };
        let Some(root) = &reading.root else {
            return unreadable(reading, generation);
        };
        let found = root.check_value().to_string();
        if let Some(known) = check_value_before(world, before.as_ref(), generation)
            && known != found
        {
            return changed(generation, &found, &known);
        }
        secrets.push((generation, Arc::clone(root)));
    }
    secrets.push((valid.generation, Arc::clone(root)));
    let secrets: Vec<_> = secrets.iter().map(|(n, root)| (*n, &**root)).collect();
    let keys = PublishedKeys {
        generation: valid.generation,
        check_value,
        months: calendar.months.iter().map(ToString::to_string).collect(),
        previous_generation: overlap.map(|(generation, _)| generation),
        previous_until: overlap.map(|(_, until)| Time(until)),
    };
    match secrets::secrets(valid, &settings.namespace, &secrets, &calendar.months) {
        Ok([pods, gateways]) => KeysPlan::Publish(Box::new(Publication {
            pods: Prepared(pods),
            gateways: Prepared(gateways),
            same_as_before: before.as_ref() == Some(&keys),
            keys,
            stale: roots.current.failure.clone(),
        })),
        Err(error) => KeysPlan::Hold(Hold::no(reasons::INVALID, error.to_string())),
    }
}

/// The check value that the root of the generation before had when its keys were first published.
fn check_value_before(
    world: &World,
    published: Option<&PublishedKeys>,
    generation: u32,
) -> Option<String> {
    match published.filter(|published| published.generation == generation) {
        Some(published) => Some(published.check_value.clone()),
        None => {
            let labels = &world.gateway_secret.as_ref()?.labels;
            labels.get(PREVIOUS_CHECK_VALUE_LABEL).cloned()
        }
    }
}

/// What is said when the root of `generation` cannot be read. What is published stays.
fn unreadable(
    published: Option<&PublishedKeys>,
    valid: &Valid,
    reading: &Reading,
    generation: u32,
    now: Timestamp,
) -> Hold {
    let Some(Failure { error, since }) = &reading.failure else {
        return Hold::no(reasons::PENDING, "the root secret is being read");
    };
    let this_month = Calendar::at(now, std::time::Duration::ZERO).months;
    let in_use = |published: &&PublishedKeys| {
        published.generation == valid.generation
            && this_month
                .last()
                .is_some_and(|month| published.months.contains(&month.to_string()))
    };
    let since = months::whole_seconds(*since);
    match published {
        Some(published) if in_use(&published) => Hold {
            truth: Truth::True,
            why: stale(&Failure {
                error: error.clone(),
                since,
            }),
        },
        Some(published) => Hold::no(
            error.name(),
            format!(
                "the root of generation {generation} cannot be read since {since}: {error}. What is published stays: generation {}",
                published.generation
            ),
        ),
        None => Hold::no(
            error.name(),
            format!("the root of generation {generation} cannot be read since {since}: {error}"),
        ),
    }
}

/// What is said when keys are published and the root cannot be read again.
pub fn stale(failure: &Failure) -> Refusal {
    let since = months::whole_seconds(failure.since);
    Refusal::new(
        reasons::KEYS_STALE,
        format!(
            "keys are published; since {since} the root secret cannot be read: {}",
            failure.error
        ),
    )
}
