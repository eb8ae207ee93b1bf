use super::*;
use crate::cluster::objects::parse;
use halo_receipts::payload::ContentPolicy;
use serde_json::{Value, json};

const NOW: Duration = Duration::from_secs(5);

fn read(kind: Kind, object: &Value) -> Parsed {
    parse(kind, &object.to_string(), ContentPolicy::Sealed)
}

fn tenant(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {},
    })
}

fn substrate(namespace: &str, name: &str, tenant: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": namespace, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"tenant": tenant, "scaling": {"idleAfter": "60s", "wakeDeadline": "300s"}},
    })
}

fn slice(namespace: &str, name: &str, substrate: &str, pods: &[(&str, bool)]) -> Value {
    let endpoint = |(address, ready): &(&str, bool)| json!({"addresses": [address], "conditions": {"ready": ready}});
    json!({
        "metadata": {
            "name": name, "namespace": namespace, "resourceVersion": "1",
            "labels": {"halo.howdify.io/substrate": substrate},
        },
        "addressType": "IPv4",
        "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "stream", "port": 8090}],
    })
}

/// An index in which every kind was listed: these objects.
fn index(tenants: &[Value], substrates: &[Value], slices: &[Value]) -> Index {
    let mut index = Index::new(Duration::from_secs(120));
    index.replace(Kind::Secret, Vec::new(), NOW);
    for (kind, objects) in [
        (Kind::Tenant, tenants),
        (Kind::Substrate, substrates),
        (Kind::Slice, slices),
    ] {
        let all = objects.iter().map(|object| read(kind, object)).collect();
        index.replace(kind, all, NOW);
    }
    index
}

fn place(index: &Index, tenant: &str) -> Option<Place> {
    let view = index.view();
    let served = view.tenant(&tenant.parse().unwrap())?;
    served.substrate.clone()
}

fn pods(index: &Index, tenant: &str) -> Vec<String> {
    let place = place(index, tenant).unwrap();
    place
        .substrate
        .pods
        .iter()
        .map(|pod| pod.0.clone())
        .collect()
}

fn stage_of(index: &Index, tenant: &str) -> Stage {
    place(index, tenant).unwrap().substrate.stage
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[field] = value;
    object
}

#[test]
fn nothing_is_known_before_every_kind_was_listed() {
    let mut index = Index::new(Duration::ZERO);
    for kind in Kind::ALL {
        assert!(!index.view().synced);
        index.replace(kind, Vec::new(), NOW);
    }
    assert!(index.view().synced);
}

#[test]
fn a_tenant_has_its_substrate_and_that_its_pods() {
    let index = index(
        &[tenant("acme"), tenant("other")],
        &[substrate("halo-acme", "qwen", "acme")],
        &[
            slice("halo-acme", "qwen-a", "qwen", &[("10.0.0.9", true)]),
            slice(
                "halo-acme",
                "qwen-b",
                "qwen",
                &[("10.0.0.8", true), ("10.0.0.7", false)],
            ),
            slice("halo-acme", "more", "another", &[("10.0.0.1", true)]),
        ],
    );
    assert_eq!(pods(&index, "acme"), ["10.0.0.8:8090", "10.0.0.9:8090"]);
    let acme = place(&index, "acme").unwrap();
    assert_eq!(acme.substrate.stage, Stage::Ready);
    assert_eq!(acme.substrate.wake_deadline, Some(Duration::from_secs(300)));
    assert_eq!(acme.idle_after, Duration::from_secs(60));
    assert!(index.view().tenant(&"other".parse().unwrap()).is_some());
    assert!(place(&index, "other").is_none());
}

#[test]
fn no_namespace_takes_the_devices_of_another() {
    let index = index(
        &[tenant("acme"), tenant("evil")],
        // One that names a tenant of another namespace, and slices that carry another's label.
        &[
            substrate("halo-evil", "qwen", "acme"),
            substrate("halo-acme", "own", "acme"),
        ],
        &[slice("halo-evil", "s", "own", &[("10.6.6.6", true)])],
    );
    let acme = place(&index, "acme").unwrap();
    assert_eq!(acme.key.to_string(), "halo-acme/own");
    assert!(acme.substrate.pods.is_empty());
    assert!(place(&index, "evil").is_none());
}

#[test]
fn of_several_substrates_the_oldest_that_stays_serves() {
    let old = |name| {
        with(
            substrate("halo-acme", name, "acme"),
            "/metadata/creationTimestamp",
            json!("2025-01-01T00:00:00Z"),
        )
    };
    let young = substrate("halo-acme", "a", "acme");
    let deleting = with(
        old("b"),
        "/metadata/deletionTimestamp",
        json!("2026-01-01T00:00:00Z"),
    );
    for (substrates, expected) in [
        (vec![young.clone(), old("z")], "z"),
        (vec![young.clone(), old("z"), old("c")], "c"),
        (vec![young.clone(), deleting.clone()], "a"),
    ] {
        let index = index(&[tenant("acme")], &substrates, &[]);
        assert_eq!(place(&index, "acme").unwrap().key.name, expected);
    }
    assert!(place(&index(&[tenant("acme")], &[deleting], &[]), "acme").is_none());
}

#[test]
fn of_two_tenants_with_one_id_the_oldest_counts_and_a_deleted_one_is_not_served() {
    let named = |name: &str, created: &str| {
        let tenant = with(tenant(name), "/spec/tenantId", json!("acme"));
        with(tenant, "/metadata/creationTimestamp", json!(created))
    };
    let first = with(
        named("z", "2025-01-01T00:00:00Z"),
        "/spec/limits",
        json!({"requestsPerMinute": 7}),
    );
    let second = named("a", "2026-01-01T00:00:00Z");
    let index = index(
        &[second.clone(), first.clone()],
        &[
            substrate("halo-acme", "one", "a"),
            substrate("halo-acme", "two", "z"),
        ],
        &[],
    );
    let view = index.view();
    let served = view.tenant(&"acme".parse().unwrap()).unwrap();
    assert_eq!(served.tenant.requests_per_minute, 7);
    assert_eq!(served.substrate.as_ref().unwrap().key.name, "two");

    let gone = with(
        first,
        "/metadata/deletionTimestamp",
        json!("2026-01-01T00:00:00Z"),
    );
    let index = super::tests::index(&[gone], &[], &[]);
    assert!(index.view().tenant(&"acme".parse().unwrap()).is_none());
}

#[test]
fn the_stage_is_what_pods_say_and_else_what_the_operator_says() {
    let table = [
        (&[][..], "Asleep", Stage::Asleep),
        (&[], "Draining", Stage::Asleep),
        (&[], "Waking", Stage::Starting),
        (&[], "Awake", Stage::Starting),
        (&[("10.0.0.7", false)], "Waking", Stage::Loading),
        (&[("10.0.0.7", false)], "Asleep", Stage::Loading),
        (
            &[("10.0.0.7", false), ("10.0.0.8", true)],
            "Waking",
            Stage::Ready,
        ),
    ];
    for (endpoints, phase, expected) in table {
        let object = with(
            substrate("halo-acme", "qwen", "acme"),
            "/status",
            json!({"phase": phase}),
        );
        let slices = [slice("halo-acme", "s", "qwen", endpoints)];
        let index = index(&[tenant("acme")], &[object], &slices);
        assert_eq!(stage_of(&index, "acme"), expected, "{endpoints:?} {phase}");
    }
}

#[test]
fn only_what_changes_something_makes_another_view() {
    let mut index = index(
        &[tenant("acme")],
        &[substrate("halo-acme", "qwen", "acme")],
        &[slice("halo-acme", "s", "qwen", &[("10.0.0.7", false)])],
    );
    let before = index.view();
    // What others write to the status all day.
    let noisy = with(
        substrate("halo-acme", "qwen", "acme"),
        "/status",
        json!({"phase": "Asleep", "demand": [{"gateway": "g", "lastActive": "2026-11-21T15:00:00Z"}]}),
    );
    assert!(index.put(read(Kind::Substrate, &noisy), NOW).view.is_none());
    assert!(
        index
            .put(read(Kind::Tenant, &tenant("acme")), NOW)
            .view
            .is_none()
    );
    assert!(Arc::ptr_eq(&before, &index.view()));
    let key = place(&index, "acme").unwrap().key;
    assert_eq!(index.demand(&key)[0].gateway, "g");
    assert_eq!(index.demand_of("g").len(), 1);
    assert!(index.demand_of("h").is_empty());
    // A pod becomes ready, and is gone.
    let ready = slice("halo-acme", "s", "qwen", &[("10.0.0.7", true)]);
    assert!(index.put(read(Kind::Slice, &ready), NOW).view.is_some());
    assert_eq!(stage_of(&index, "acme"), Stage::Ready);
    let key = read(Kind::Slice, &ready).key;
    assert!(index.remove(Kind::Slice, &key).view.is_some());
    assert!(index.remove(Kind::Slice, &key).view.is_none());
    assert_eq!(stage_of(&index, "acme"), Stage::Asleep);
    // What a reader holds never changes.
    let then = before.tenant(&"acme".parse().unwrap()).unwrap();
    assert_eq!(
        then.substrate.as_ref().unwrap().substrate.stage,
        Stage::Loading
    );
}

#[test]
fn a_list_takes_the_place_of_what_was_known() {
    let mut index = index(
        &[tenant("acme"), tenant("other")],
        &[substrate("halo-acme", "qwen", "acme")],
        &[],
    );
    let revoked = with(
        tenant("other"),
        "/spec/devices",
        json!({"revoked": ["phone"]}),
    );
    let outcome = index.replace(Kind::Tenant, vec![read(Kind::Tenant, &revoked)], NOW);
    let view = outcome.view.unwrap();
    assert!(view.tenant(&"acme".parse().unwrap()).is_none());
    let other = view.tenant(&"other".parse().unwrap()).unwrap();
    assert!(other.tenant.revoked.contains(&"phone".parse().unwrap()));
}

#[test]
fn what_cannot_be_read_leaves_what_was_known_and_everything_else() {
    let revoking = with(
        tenant("acme"),
        "/spec/devices",
        json!({"revoked": ["phone"]}),
    );
    let mut index = index(&[revoking, tenant("other")], &[], &[]);
    let bad = with(tenant("acme"), "/spec", json!("text"));
    let outcome = index.put(read(Kind::Tenant, &bad), NOW);
    assert!(outcome.view.is_none());
    assert_eq!(outcome.unusable[0].0.name, "acme");
    // Listed as well: it is there, and cannot be read.
    let all = vec![read(Kind::Tenant, &bad), read(Kind::Tenant, &tenant("new"))];
    let outcome = index.replace(Kind::Tenant, all, NOW);
    assert_eq!(outcome.unusable.len(), 1);
    let view = outcome.view.unwrap();
    let acme = view.tenant(&"acme".parse().unwrap()).unwrap();
    assert!(acme.tenant.revoked.contains(&"phone".parse().unwrap()));
    assert!(view.tenant(&"new".parse().unwrap()).is_some());
    assert!(view.tenant(&"other".parse().unwrap()).is_none());
}

#[test]
fn a_substrate_that_is_deleted_takes_what_is_known_of_its_demand_along() {
    let object = with(
        substrate("halo-acme", "qwen", "acme"),
        "/status",
        json!({"demand": [{"gateway": "g", "lastActive": "2026-11-21T15:00:00Z"}]}),
    );
    let mut index = index(&[tenant("acme")], &[object], &[]);
    let key = place(&index, "acme").unwrap().key;
    assert!(index.remove(Kind::Substrate, &key).view.is_some());
    assert!(place(&index, "acme").is_none());
    assert!(index.demand(&key).is_empty());
}
