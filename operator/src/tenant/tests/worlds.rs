//! Worlds, roots and settings to plan on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use halo_cloud::SecretError;
use halo_crds::{HaloTenant, TENANT_LABEL};
use halo_receipts::keyring::{FILE_NAME, KeyRing};
use halo_receipts::keys::RootSecret;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::dereference::{Roots, World};
use super::super::isolation::{ORIGIN_CREATED, ORIGIN_LABEL};
use super::super::keys::{Failure, Reading, RootError};
use super::super::plan::{self, KeysPlan, Plan, Publication};
use super::super::secrets::KeySecret;
use super::super::validate::{self, Valid};
use crate::runtime::records::ChildRecord;
use crate::settings::{ClusterJoin, LeaseSettings, Pace, PodDefaults, Settings};

pub fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A time at which two months are published: 2026-10 and 2026-11.
pub fn now() -> Timestamp {
    time("2026-11-21T12:00:00Z")
}

pub fn settings() -> Settings {
    Settings {
        cluster: "test".to_owned(),
        join: ClusterJoin::default(),
        region: "us-east-2".to_owned(),
        namespace: "halo-system".to_owned(),
        identity: "operator-0".to_owned(),
        substrate_image: "halo/substrate:1".to_owned(),
        substrate_pods: PodDefaults::default(),
        metrics_namespaces: Vec::new(),
        gateway_pod_labels: BTreeMap::from([("app".to_owned(), "halo-gateway".to_owned())]),
        gateway_namespace: "halo-system".to_owned(),
        concurrency: 4,
        prices: BTreeMap::new(),
        lease: LeaseSettings::default(),
        pace: Pace::default(),
    }
}

/// The tenant `acme` with this spec besides its keys, and this status.
pub fn tenant(more: Value, status: Option<Value>) -> HaloTenant {
    let mut spec = json!({"keys": {"rootParameter": "/halo/root"}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let mut object = json!({
        "apiVersion": "halo.howdify.io/v1alpha1", "kind": "HaloTenant",
        "metadata": {"name": "acme", "uid": "u", "generation": 2, "creationTimestamp": "2026-11-01T00:00:00Z"},
        "spec": spec,
    });
    if let Some(status) = status {
        object["status"] = status;
    }
    serde_json::from_value(object).unwrap()
}

/// A world with this tenant alone and nothing else.
pub fn world(tenant: HaloTenant) -> World {
    let tenant = Arc::new(tenant);
    World {
        tenants: vec![Arc::clone(&tenant)],
        namespace: None,
        children: BTreeMap::new(),
        pod_secret: None,
        gateway_secret: None,
        substrates: BTreeMap::new(),
        tenant,
    }
}

pub fn record(labels: &[(&str, &str)], deleting: bool) -> Arc<ChildRecord> {
    let mut record = ChildRecord::default();
    let labels = labels.iter();
    record.labels = labels
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    record.deleting = deleting;
    Arc::new(record)
}

/// The namespace as the operator made it.
pub fn created() -> Arc<ChildRecord> {
    record(
        &[(TENANT_LABEL, "acme"), (ORIGIN_LABEL, ORIGIN_CREATED)],
        false,
    )
}

/// The namespace as somebody labelled it.
pub fn adopted() -> Arc<ChildRecord> {
    record(&[(TENANT_LABEL, "acme")], false)
}

pub fn root(seed: u8) -> Arc<RootSecret> {
    Arc::new(RootSecret::new(vec![seed; 32]).unwrap())
}

/// A root that was read.
pub fn held(seed: u8) -> Reading {
    Reading {
        root: Some(root(seed)),
        failure: None,
        next: time("2026-11-21T13:00:00Z"),
    }
}

/// A root that could not be read.
pub fn failed(error: impl Into<RootError>) -> Reading {
    Reading {
        root: None,
        failure: Some(Failure {
            error: error.into(),
            since: time("2026-11-21T11:00:00.25Z"),
        }),
        next: time("2026-11-21T12:00:30Z"),
    }
}

pub fn down() -> SecretError {
    SecretError::Unavailable {
        code: "InternalServerError".to_owned(),
        message: "try again".to_owned(),
    }
}

pub fn roots(current: Reading, previous: Option<(u32, Reading)>) -> Roots {
    Roots { current, previous }
}

pub fn valid(world: &World) -> Valid {
    validate::validate(&world.tenant, &world.tenants, &["halo-system"]).unwrap()
}

pub fn planned(world: &World, roots: &Roots, now: Timestamp) -> Plan {
    plan::plan(world, &valid(world), roots, &settings(), now)
}

pub fn publication(plan: Plan) -> Publication {
    match plan.keys {
        KeysPlan::Publish(publication) => *publication,
        KeysPlan::Hold(hold) => panic!("held: {hold:?}"),
    }
}

pub fn ring(secret: &KeySecret) -> KeyRing {
    let data = secret.expose().data.as_ref().unwrap();
    assert_eq!(data.len(), 1);
    KeyRing::decode(&data[FILE_NAME].0).unwrap()
}

pub const HOUR: Duration = Duration::from_secs(3600);
