//! Which keys are published when, and when they are left as they are.

use halo_cloud::SecretError;
use halo_crds::condition::Truth;
use halo_crds::reasons;
use halo_receipts::ids::{Epoch, SessionId, TenantId};
use halo_receipts::keys::TenantKeys as _;
use jiff::Timestamp;
use serde_json::json;

use super::super::dereference::World;
use super::super::keys::RootError;
use super::super::plan::{Hold, KeysPlan, Plan, Publication};
use super::super::secrets::{CHECK_VALUE_LABEL, GENERATION_LABEL, PREVIOUS_CHECK_VALUE_LABEL};
use super::worlds::*;

fn hold(plan: Plan) -> Hold {
    match plan.keys {
        KeysPlan::Hold(hold) => hold,
        KeysPlan::Publish(_) => panic!("published"),
    }
}

fn check(seed: u8) -> String {
    root(seed).check_value().to_string()
}

/// A world whose tenant asks for `generation`, has its namespace, and has `keys` published.
fn publishing(generation: u32, keys: Option<serde_json::Value>) -> World {
    let spec = json!({"keys": {"rootParameter": "/halo/root", "generation": generation, "overlap": "24h"}});
    let status = keys.map(|keys| json!({"keys": keys}));
    let mut world = world(tenant(spec, status));
    world.namespace = Some(created());
    world
}

fn published(generation: u32, seed: u8, months: &[&str]) -> serde_json::Value {
    json!({"generation": generation, "checkValue": check(seed), "months": months})
}

const NOW_MONTHS: [&str; 2] = ["2026-10", "2026-11"];

#[test]
fn a_new_tenant_gets_two_secrets_with_the_same_keys() {
    let world = world(tenant(json!({}), None));
    let publication = publication(planned(&world, &roots(held(7), None), now()));
    let Publication {
        pods,
        gateways,
        keys,
        stale,
        same_as_before,
    } = publication;
    assert!(stale.is_none() && !same_as_before);
    assert_eq!(keys.months, NOW_MONTHS);
    assert_eq!((keys.generation, keys.check_value), (1, check(7)));
    assert_eq!(
        (keys.previous_generation, keys.previous_until),
        (None, None)
    );
    assert_eq!(pods.object().key(), ("halo-acme", "halo-keys"));
    assert_eq!(gateways.object().key(), ("halo-system", "halo-keys-acme"));

    let tenant: TenantId = "acme".parse().unwrap();
    let (pods, gateways) = (ring(pods.object()), ring(gateways.object()));
    let device = "glasses".parse().unwrap();
    assert!(pods.device_key(&tenant, &device, 1).is_none());
    assert!(gateways.device_key(&tenant, &device, 1).is_some());
    let session = SessionId::from_random([1; 16]);
    let epoch = Epoch(u32::try_from(now().as_second()).unwrap());
    let wanted = root(7)
        .tenant_key(&tenant, "2026-11".parse().unwrap())
        .session_key(&session, epoch);
    for ring in [pods, gateways] {
        let key = ring.session_key(&tenant, &session, epoch).unwrap();
        assert_eq!(key.expose(), wanted.expose());
        assert_eq!(ring.root().check_value.to_string(), check(7));
    }
}

#[test]
fn secrets_are_labelled_and_opaque() {
    let world = publishing(1, None);
    let publication = publication(planned(&world, &roots(held(7), None), now()));
    for secret in [publication.pods.object(), publication.gateways.object()] {
        let secret = secret.expose();
        let labels = secret.metadata.labels.as_ref().unwrap();
        assert_eq!(labels["halo.howdify.io/tenant"], "acme");
        assert_eq!(labels["app.kubernetes.io/managed-by"], "halo-operator");
        assert_eq!(labels[GENERATION_LABEL], "1");
        assert_eq!(labels[CHECK_VALUE_LABEL], check(7));
        assert_eq!(secret.type_.as_deref(), Some("Opaque"));
        assert_eq!(secret.immutable, Some(false));
    }
}

#[test]
fn months_follow_the_time_over_the_turn_of_the_year() {
    for (now, months) in [
        ("2026-12-28T23:59:59Z", &["2026-11", "2026-12"][..]),
        ("2026-12-29T00:00:00Z", &["2026-11", "2026-12", "2027-01"]),
        ("2027-01-01T00:00:00Z", &["2026-12", "2027-01"]),
    ] {
        let world = publishing(1, Some(published(1, 7, &["2026-11", "2026-12"])));
        let publication = publication(planned(&world, &roots(held(7), None), time(now)));
        assert_eq!(publication.keys.months, months, "{now}");
        let ring = ring(publication.pods.object());
        let held: Vec<String> = ring.months().map(|month| month.to_string()).collect();
        assert_eq!(held, months, "{now}");
        assert_eq!(
            publication.same_as_before,
            months.len() == 2 && now < "2027"
        );
    }
}

#[test]
fn two_generations_are_published_while_they_overlap() {
    let before = published(1, 7, &NOW_MONTHS);
    let both = || roots(held(8), Some((1, held(7))));
    let generations = |publication: &Publication| {
        let ring = ring(publication.gateways.object());
        let all: Vec<_> = ring
            .generations()
            .map(|(n, value)| (n, value.to_string()))
            .collect();
        (ring.root().generation, all)
    };
    let first = publication(planned(&publishing(2, Some(before)), &both(), now()));
    assert_eq!(generations(&first), (2, vec![(1, check(7)), (2, check(8))]));
    assert_eq!(
        (first.keys.generation, first.keys.check_value.clone()),
        (2, check(8))
    );
    assert_eq!(first.keys.previous_generation, Some(1));
    let until = first.keys.previous_until.clone().unwrap().0;
    assert_eq!(until, time("2026-11-22T12:00:00Z"));
    let labels = first
        .pods
        .object()
        .expose()
        .metadata
        .labels
        .as_ref()
        .unwrap();
    assert_eq!(labels[PREVIOUS_CHECK_VALUE_LABEL], check(7));

    // A later pass changes nothing, the end of the overlap drops the generation before.
    let recorded = serde_json::to_value(&first.keys).unwrap();
    let world = publishing(2, Some(recorded));
    let later = publication(planned(&world, &both(), now() + HOUR));
    assert!(later.same_as_before);
    assert_eq!(later.keys, first.keys);
    let after = publication(planned(&world, &roots(held(8), None), until));
    assert_eq!(generations(&after), (2, vec![(2, check(8))]));
    assert_eq!(after.keys.previous_generation, None);
    assert!(!after.same_as_before);
}

#[test]
fn another_root_under_the_same_generation_replaces_nothing() {
    // By the status, and by the Secret's label when the status was lost.
    let by_status = publishing(1, Some(published(1, 7, &NOW_MONTHS)));
    let mut by_label = publishing(1, None);
    by_label.gateway_secret = Some(record(
        &[(GENERATION_LABEL, "1"), (CHECK_VALUE_LABEL, &check(7))],
        false,
    ));
    for world in [by_status, by_label] {
        let hold = hold(planned(&world, &roots(held(9), None), now()));
        assert_eq!(hold.truth, Truth::False);
        assert_eq!(hold.why.reason, reasons::ROOT_CHANGED);
        for part in [
            check(7),
            check(9),
            "version 1".to_owned(),
            "/halo/root".to_owned(),
        ] {
            assert!(
                hold.why.message.contains(&part),
                "{part}: {}",
                hold.why.message
            );
        }
    }
    // The generation before: by the status while it changes, by the label afterwards.
    let changing = publishing(2, Some(published(1, 7, &NOW_MONTHS)));
    let mut keys = published(2, 8, &NOW_MONTHS);
    keys["previousGeneration"] = json!(1);
    keys["previousUntil"] = json!("2026-11-22T00:00:00Z");
    let mut changed = publishing(2, Some(keys));
    changed.gateway_secret = Some(record(&[(PREVIOUS_CHECK_VALUE_LABEL, &check(7))], false));
    for world in [changing, changed] {
        let hold = hold(planned(&world, &roots(held(8), Some((1, held(9)))), now()));
        assert_eq!(hold.why.reason, reasons::ROOT_CHANGED);
        assert!(hold.why.message.contains(&check(7)) && hold.why.message.contains(&check(9)));
    }
}

fn every_failure() -> Vec<(RootError, &'static str, &'static str)> {
    let name = || "/halo/root".to_owned();
    let message = || "no".to_owned();
    vec![
        (
            SecretError::Missing(name()).into(),
            "RootParameterMissing",
            "create it as a SecureString",
        ),
        (
            SecretError::MissingVersion {
                name: name(),
                version: 3,
            }
            .into(),
            "RootGenerationMissing",
            "no version 3",
        ),
        (
            SecretError::NotSecure(name()).into(),
            "RootParameterNotSecure",
            "not a SecureString",
        ),
        (
            SecretError::Denied {
                name: name(),
                message: message(),
            }
            .into(),
            "RootParameterDenied",
            "allow ssm:GetParameter",
        ),
        (
            SecretError::KeyDenied {
                name: name(),
                message: message(),
            }
            .into(),
            "RootKeyDenied",
            "allow kms:Decrypt",
        ),
        (down().into(), "SecretsUnavailable", "InternalServerError"),
        (
            RootError::TooShort {
                parameter: name(),
                generation: 1,
                length: 31,
            },
            reasons::ROOT_TOO_SHORT,
            "31 bytes",
        ),
    ]
}

#[test]
fn each_failure_is_named_and_nothing_is_published_without_a_root() {
    for (error, reason, said) in every_failure() {
        let nothing = hold(planned(
            &publishing(1, None),
            &roots(failed(error.clone()), None),
            now(),
        ));
        assert_eq!(
            (nothing.truth, nothing.why.reason.as_str()),
            (Truth::False, reason)
        );
        assert!(
            nothing.why.message.contains(said),
            "{}",
            nothing.why.message
        );
        assert!(nothing.why.message.contains("since 2026-11-21T11:00:00Z"));

        // Keys of this generation are in use: they stay.
        let in_use = publishing(1, Some(published(1, 7, &NOW_MONTHS)));
        let stale = hold(planned(&in_use, &roots(failed(error.clone()), None), now()));
        assert_eq!(
            (stale.truth, stale.why.reason.as_str()),
            (Truth::True, reasons::KEYS_STALE)
        );
        assert!(
            stale.why.message.contains(said)
                && stale.why.message.contains("since 2026-11-21T11:00:00Z")
        );

        // Published, but not for this month, or of another generation than the spec asks for.
        let past = publishing(1, Some(published(1, 7, &["2026-09", "2026-10"])));
        let other = publishing(2, Some(published(1, 7, &NOW_MONTHS)));
        for (world, roots) in [
            (past, roots(failed(error.clone()), None)),
            (other, roots(failed(error.clone()), Some((1, held(7))))),
        ] {
            let hold = hold(planned(&world, &roots, now()));
            assert_eq!(
                (hold.truth, hold.why.reason.as_str()),
                (Truth::False, reason)
            );
            assert!(hold.why.message.contains("stays"), "{}", hold.why.message);
        }

        // The new root is there, the one before is not: nobody is cut off.
        let changing = publishing(2, Some(published(1, 7, &NOW_MONTHS)));
        let hold = hold(planned(
            &changing,
            &roots(held(8), Some((1, failed(error)))),
            now(),
        ));
        assert_eq!(
            (hold.truth, hold.why.reason.as_str()),
            (Truth::False, reason)
        );
        assert!(
            hold.why.message.contains("generation 1"),
            "{}",
            hold.why.message
        );
    }
}

#[test]
fn a_root_in_memory_goes_on_deriving_while_it_cannot_be_read_again() {
    let world = publishing(1, Some(published(1, 7, &NOW_MONTHS)));
    let mut reading = held(7);
    reading.failure = failed(down()).failure;
    let later: Timestamp = time("2026-11-28T00:00:00Z");
    let publication = publication(planned(&world, &roots(reading, None), later));
    assert_eq!(publication.keys.months, ["2026-10", "2026-11", "2026-12"]);
    assert!(publication.stale.is_some());
}

#[test]
fn keys_wait_for_a_namespace_that_cannot_be_used() {
    let mut world = publishing(1, None);
    world.namespace = Some(record(&[("halo.howdify.io/tenant", "other")], false));
    let hold = hold(planned(&world, &roots(held(7), None), now()));
    assert_eq!(hold.why.reason, reasons::NAMESPACE_PENDING);
}
