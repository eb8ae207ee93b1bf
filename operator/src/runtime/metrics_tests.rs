//! Figures as Prometheus reads them.

use super::*;

#[test]
fn figures_carry_the_names_that_dashboards_know() {
    let metrics = Metrics::new().unwrap();
    metrics.controller("tenant", 4);
    metrics.reconciled("tenant", ReconcileResult::Panic, Duration::from_millis(2));
    metrics.queue("tenant").adds.inc();
    metrics.leading("halo-operator", true);
    metrics.api_request("PATCH", 409, Duration::ZERO);
    metrics.api_request("GET", 0, Duration::ZERO);
    metrics.observed("RunInstances", "RequestLimitExceeded", Duration::ZERO);
    metrics.ice("r7iz.4xlarge", "us-east-2a");
    metrics.wake_stage(WakeStage::Loaded, 12.0);
    metrics.wake_stage(WakeStage::Loaded, f64::NAN);
    metrics.used("acme", 60.0, 0.5);
    let text = metrics.text().unwrap();
    for line in [
        r#"controller_runtime_reconcile_total{controller="tenant",result="error"} 1"#,
        r#"controller_runtime_reconcile_total{controller="tenant",result="success"} 0"#,
        r#"controller_runtime_reconcile_panics_total{controller="tenant"} 1"#,
        r#"controller_runtime_max_concurrent_reconciles{controller="tenant"} 4"#,
        r#"workqueue_adds_total{name="tenant"} 1"#,
        r#"leader_election_master_status{name="halo-operator"} 1"#,
        r#"rest_client_requests_total{code="409",method="PATCH"} 1"#,
        r#"rest_client_requests_total{code="<error>",method="GET"} 1"#,
        r#"halo_operator_cloud_requests_total{action="RunInstances",code="RequestLimitExceeded"} 1"#,
        r#"halo_substrate_ice_total{instance_type="r7iz.4xlarge",zone="us-east-2a"} 1"#,
        r#"halo_substrate_wake_stage_seconds_count{stage="loaded"} 1"#,
        r#"halo_tenant_node_seconds_total{tenant="acme"} 60"#,
        r#"halo_tenant_cost_usd_total{tenant="acme"} 0.5"#,
        r#"halo_substrate_phase{phase="Asleep"} 0"#,
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
}

#[test]
fn a_substrate_is_in_one_phase() {
    let metrics = Metrics::new().unwrap();
    for phase in [
        Some(Phase::Asleep),
        Some(Phase::Waking),
        Some(Phase::Waking),
    ] {
        metrics.phase("ns", "a", phase);
    }
    metrics.phase("ns", "b", Some(Phase::Waking));
    metrics.phase("ns", "b", None);
    let count = |phase| metrics.phases.with_label_values(&[phase]).get();
    assert_eq!((count("Asleep"), count("Waking")), (0, 1));
}

#[test]
fn tenants_beyond_the_count_are_other() {
    let metrics = Metrics::new().unwrap();
    for number in 0..TENANTS + 5 {
        metrics.used(&format!("tenant-{number}"), 1.0, 0.0);
    }
    metrics.used("tenant-0", 1.0, 0.0);
    let of = |tenant| metrics.node_seconds.with_label_values(&[tenant]).get();
    assert_eq!((of("tenant-0"), of(OTHER)), (2.0, 5.0));
}

#[test]
fn nothing_of_the_list_is_missing() {
    let metrics = Metrics::new().unwrap();
    let list = halo_telemetry::metrics::operator::COMPONENT;
    assert_eq!(metrics.maker.missing(&list), Vec::<&str>::new());
}

#[test]
fn nodes_and_keys_are_counted_as_they_change() {
    let metrics = Metrics::new().unwrap();
    metrics.nodes("ns", "a", "acme", 2);
    metrics.nodes("ns", "b", "acme", 1);
    metrics.nodes("ns", "a", "acme", 1);
    let nodes = || metrics.nodes.with_label_values(&["acme"]).get();
    assert_eq!(nodes(), 2);
    metrics.gone("ns", "a");
    metrics.gone("ns", "a");
    assert_eq!(nodes(), 1);
    for reason in [Some("KeysPublished"), Some("KeysStale"), Some("KeysStale")] {
        metrics.keys("acme", reason);
    }
    metrics.keys("other", Some("KeysStale"));
    metrics.keys("other", None);
    let keys = |reason| metrics.keys.with_label_values(&[reason]).get();
    assert_eq!((keys("KeysPublished"), keys("KeysStale")), (0, 1));
}
