//! What no schema checks.

use std::sync::Arc;

use halo_crds::{HaloTenant, reasons};
use serde_json::json;

use super::super::validate::{Error, validate};
use super::worlds::*;

fn checked(
    tenant: HaloTenant,
    others: &[HaloTenant],
) -> Result<super::super::validate::Valid, Error> {
    let all: Vec<_> = others
        .iter()
        .cloned()
        .chain([tenant.clone()])
        .map(Arc::new)
        .collect();
    validate(&tenant, &all, &["halo-system", "gateways"])
}

fn named(name: &str, created: &str, spec: serde_json::Value) -> HaloTenant {
    let mut tenant = tenant(spec, None);
    tenant.metadata.name = Some(name.to_owned());
    tenant.metadata.creation_timestamp = Some(serde_json::from_value(json!(created)).unwrap());
    tenant
}

#[test]
fn what_makes_no_sense_is_refused_with_what_to_write() {
    let long = named(
        &"a".repeat(64),
        "2026-11-01T00:00:00Z",
        json!({"tenantId": "acme"}),
    );
    let egress = |cidr: &str| {
        tenant(
            json!({"isolation": {"allowedEgress": [{"cidr": "10.0.0.0/8"}, {"cidr": cidr}]}}),
            None,
        )
    };
    for (tenant, category, said) in [
        (
            tenant(json!({"tenantId": "Acme"}), None),
            reasons::INVALID,
            "lower-case",
        ),
        (long, reasons::INVALID, "at most 63 characters"),
        (
            tenant(json!({"namespace": "halo-system"}), None),
            reasons::INVALID,
            "halo-system is not the tenant's alone",
        ),
        (
            tenant(json!({"namespace": "gateways"}), None),
            reasons::INVALID,
            "not the tenant's alone",
        ),
        (
            tenant(json!({"namespace": "kube-system"}), None),
            reasons::INVALID,
            "not the tenant's alone",
        ),
        (
            egress("300.1.1.1/8"),
            reasons::INVALID,
            "allowedEgress[1].cidr",
        ),
        (egress("10.0.0.0/33"), reasons::INVALID, "10.0.12.0/24"),
        (
            egress("169.254.169.254/32"),
            reasons::INVALID,
            "metadata service",
        ),
        (
            egress("fd00:ec2::254/128"),
            reasons::INVALID,
            "metadata service",
        ),
    ] {
        let error = checked(tenant, &[]).unwrap_err();
        assert_eq!(error.category(), category);
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn wide_destinations_leave_the_node_out() {
    let spec = json!({"isolation": {"allowedEgress": [
        {"cidr": "128.0.0.0/1", "ports": [5432]}, {"cidr": "10.0.0.0/8"}, {"cidr": "fd00::/8"},
    ]}});
    let valid = checked(tenant(spec, None), &[]).unwrap();
    let except: Vec<Vec<String>> = valid
        .egress
        .iter()
        .map(|egress| egress.except.iter().map(ToString::to_string).collect())
        .collect();
    assert_eq!(
        except,
        [vec!["169.254.0.0/16"], vec![], vec!["fd00:ec2::/32"]]
    );
}

#[test]
fn the_older_tenant_keeps_what_two_ask_for() {
    let (early, late) = ("2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z");
    let own_namespace = |name| json!({"tenantId": "same", "namespace": name});
    for (own, other, winner) in [
        // The same id, the same namespace; by age, then by name.
        (
            named("b", late, own_namespace("b")),
            named("a", early, own_namespace("a")),
            Some("tenant id same"),
        ),
        (
            named("b", early, own_namespace("b")),
            named("a", late, own_namespace("a")),
            None,
        ),
        (
            named("b", early, own_namespace("b")),
            named("a", early, own_namespace("a")),
            Some("tenant id same"),
        ),
        (
            named("a", early, own_namespace("a")),
            named("b", early, own_namespace("b")),
            None,
        ),
        (
            named("b", late, json!({"namespace": "n"})),
            named("a", early, json!({"namespace": "n"})),
            Some("namespace n"),
        ),
        (
            named("b", late, json!({"namespace": "halo-a"})),
            named("a", early, json!({})),
            Some("namespace halo-a"),
        ),
        (
            named("b", late, json!({})),
            named("a", early, json!({})),
            None,
        ),
    ] {
        let outcome = checked(own, &[other]);
        match winner {
            None => assert!(outcome.is_ok()),
            Some(what) => {
                let error = outcome.unwrap_err();
                assert_eq!(error.category(), reasons::TENANT_CONFLICT);
                let text = error.to_string();
                assert!(
                    text.contains(what) && text.contains("HaloTenant a"),
                    "{text}"
                );
            }
        }
    }
}

#[test]
fn a_tenant_is_no_rival_of_itself() {
    assert!(checked(tenant(json!({}), None), &[]).is_ok());
    let world = world(tenant(json!({}), None));
    assert_eq!(valid(&world).namespace, "halo-acme");
}
