//! What is reported: why, since when, and never a key.

use halo_crds::condition::{Truth, find};
use halo_crds::reasons::{self, kinds};
use halo_crds::status::PublishedKeys;
use halo_crds::{HaloTenant, HaloTenantStatus};
use halo_receipts::ids::TenantId;
use serde_json::json;

use super::super::apply::{Applied, AppliedIsolation, AppliedKeys, KeysOutcome, Outcome};
use super::super::keys::Failure;
use super::super::plan::{Hold, Refusal};
use super::super::status::{News, Observed, news, status};
use super::worlds::*;

fn good() -> Outcome {
    Outcome {
        namespace: Ok(Applied::for_test()),
        isolation: Ok(AppliedIsolation {
            policies: vec![Applied::for_test(), Applied::for_test()],
            quota: Some(Applied::for_test()),
            limits: None,
            account: Applied::for_test(),
        }),
        keys: Ok(KeysOutcome::Published(Box::new(AppliedKeys {
            pods: Applied::for_test(),
            gateways: Applied::for_test(),
            keys: PublishedKeys {
                generation: 1,
                check_value: "0011223344556677".to_owned(),
                months: vec!["2026-10".to_owned(), "2026-11".to_owned()],
                ..PublishedKeys::default()
            },
            stale: None,
        }))),
        error: None,
    }
}

fn no(reason: &str) -> Refusal {
    Refusal::new(reason, format!("because of {reason}"))
}

fn observed(tenant: &HaloTenant, outcome: &Outcome, at: &str) -> HaloTenantStatus {
    let valid = valid(&world(tenant.clone()));
    status(tenant, &Observed::Applied(&valid, outcome), time(at))
}

const NOON: &str = "2026-11-21T12:00:00Z";
const ONE: &str = "2026-11-21T13:00:00Z";

#[test]
fn all_is_well() {
    let tenant = tenant(json!({}), None);
    let status = observed(&tenant, &good(), NOON);
    let kinds = [
        kinds::READY,
        kinds::NAMESPACE_READY,
        kinds::ISOLATION_READY,
        kinds::KEYS_READY,
    ];
    let found: Vec<&str> = status.conditions.iter().map(|c| c.type_.as_str()).collect();
    assert_eq!(found, kinds);
    for condition in &status.conditions {
        assert_eq!(condition.status, "True");
        assert_eq!(condition.observed_generation, Some(2));
        assert_eq!(condition.last_transition_time.0, time(NOON));
    }
    assert_eq!(status.why.as_deref(), Some("ready"));
    assert_eq!(status.namespace.as_deref(), Some("halo-acme"));
    assert_eq!(status.observed_generation, Some(2));
    assert_eq!(status.keys.unwrap().months.len(), 2);
}

#[test]
fn a_second_pass_reports_the_same_also_after_a_round_trip() {
    let mut tenant = tenant(json!({}), None);
    let first = observed(&tenant, &good(), NOON);
    tenant.status = Some(serde_json::from_value(serde_json::to_value(&first).unwrap()).unwrap());
    assert_eq!(observed(&tenant, &good(), ONE), first);
    assert_eq!(news(tenant.status.as_ref(), &first), []);
}

#[test]
fn the_first_part_that_fails_says_why() {
    for (part, reason) in [
        (kinds::NAMESPACE_READY, reasons::NAMESPACE_FOREIGN),
        (kinds::ISOLATION_READY, reasons::API_SERVER),
        (kinds::KEYS_READY, "RootParameterDenied"),
    ] {
        let mut outcome = good();
        match part {
            kinds::NAMESPACE_READY => outcome.namespace = Err(no(reason)),
            kinds::ISOLATION_READY => outcome.isolation = Err(no(reason)),
            _ => {
                outcome.keys = Ok(KeysOutcome::Held(Hold {
                    truth: Truth::False,
                    why: no(reason),
                }));
            }
        }
        let keys = json!({"generation": 1, "checkValue": "00", "months": []});
        let tenant = tenant(
            json!({}),
            Some(json!({"keys": keys, "namespace": "halo-acme"})),
        );
        let status = observed(&tenant, &outcome, NOON);
        for kind in [kinds::READY, part] {
            let condition = find(&status.conditions, kind).unwrap();
            assert_eq!(
                (condition.status.as_str(), condition.reason.as_str()),
                ("False", reason)
            );
        }
        assert_eq!(status.why, Some(format!("because of {reason}")));
        // What was published stays on record while nothing else is published.
        assert_eq!(status.keys.as_ref().unwrap().generation, 1);
        assert_eq!(status.namespace.as_deref(), Some("halo-acme"));
        let told = news(None, &status);
        let warnings: Vec<&News> = told.iter().filter(|news| news.warning).collect();
        assert_eq!(warnings.len(), 1, "{told:?}");
        assert_eq!(warnings[0].reason, reason);
    }
}

#[test]
fn stale_keys_are_ready_and_say_since_when() {
    let mut outcome = good();
    let failure = failed(down()).failure.unwrap();
    let Ok(KeysOutcome::Published(keys)) = &mut outcome.keys else {
        panic!("published");
    };
    keys.stale = Some(Failure {
        error: failure.error,
        since: failure.since,
    });
    let status = observed(&tenant(json!({}), None), &outcome, NOON);
    let condition = find(&status.conditions, kinds::KEYS_READY).unwrap();
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_str()),
        ("True", reasons::KEYS_STALE)
    );
    assert!(
        condition.message.contains("since 2026-11-21T11:00:00Z"),
        "{}",
        condition.message
    );
    assert!(halo_crds::condition::is_true(
        &status.conditions,
        kinds::READY
    ));
    assert!(
        status
            .why
            .as_ref()
            .unwrap()
            .starts_with("keys are published; since")
    );
    let told = news(None, &status);
    assert!(
        told.iter()
            .any(|news| news.warning && news.reason == reasons::KEYS_STALE)
    );
}

#[test]
fn what_is_left_alone_keeps_what_was_found() {
    let mut tenant = tenant(json!({"paused": true}), None);
    tenant.status = Some(observed(&tenant, &good(), NOON));
    tenant.metadata.generation = Some(3);
    for reason in [
        reasons::PAUSED,
        reasons::INVALID,
        reasons::TENANT_CONFLICT,
        reasons::SUBSTRATES_REMAIN,
        reasons::DELETING,
    ] {
        let left = status(&tenant, &Observed::Left(no(reason)), time(ONE));
        assert_eq!(left.observed_generation, Some(3));
        let ready = find(&left.conditions, kinds::READY).unwrap();
        assert_eq!(
            (ready.status.as_str(), ready.reason.as_str()),
            ("False", reason)
        );
        assert_eq!(ready.last_transition_time.0, time(ONE));
        let keys = find(&left.conditions, kinds::KEYS_READY).unwrap();
        assert_eq!(
            (keys.status.as_str(), keys.last_transition_time.0),
            ("True", time(NOON))
        );
        assert_eq!(keys.observed_generation, Some(2));
        assert!(left.keys.is_some());
        let told = news(tenant.status.as_ref(), &left);
        assert_eq!(told.len(), 1);
        assert_eq!(
            told[0].warning,
            ![reasons::PAUSED, reasons::DELETING].contains(&reason)
        );
    }
}

#[test]
fn a_long_reason_is_cut_between_words() {
    let tenant = tenant(json!({}), None);
    let long = Refusal::new(reasons::INVALID, "word ".repeat(60));
    let why = status(&tenant, &Observed::Left(long), time(NOON))
        .why
        .unwrap();
    assert!(why.len() < 130 && why.ends_with("word ..."), "{why}");
}

#[test]
fn nothing_that_is_reported_carries_a_key() {
    let world = world(tenant(json!({}), None));
    let publication = publication(planned(&world, &roots(held(7), None), now()));
    let mut outcome = good();
    let Ok(KeysOutcome::Published(applied)) = &mut outcome.keys else {
        panic!("published");
    };
    applied.keys = publication.keys;
    let status = observed(&world.tenant, &outcome, NOON);
    let said = format!(
        "{}{:?}{:?}",
        serde_json::to_string(&status).unwrap(),
        status,
        news(None, &status)
    );
    let tenant: TenantId = "acme".parse().unwrap();
    let (root, month) = (root(7), "2026-11".parse().unwrap());
    let keys = [
        root.tenant_key(&tenant, month).to_hex(),
        root.enroll_key(&tenant, 1).to_hex(),
    ];
    let secrets = [publication.pods.object(), publication.gateways.object()];
    let documents: Vec<String> = secrets
        .iter()
        .map(|secret| String::from_utf8(ring(secret).encode().to_vec()).unwrap())
        .collect();
    for key in &keys {
        assert!(
            documents[1].contains(key.as_str()),
            "the keys to look for are those that are published"
        );
        assert!(!said.contains(key.as_str()));
        assert!(!said.contains(&key[..16]));
    }
    assert!(!documents[0].contains(keys[1].as_str()));
    assert!(!said.contains("07070707"));
}
