//! What a person reads when a wake or a sleep does not go on: the condition, its reason and message, the Event; and that it recovers.

use std::time::Duration;

use halo_crds::status::{NodeState, Phase};
use halo_e2e_cluster::eventually;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use crate::support::objects::{self, TYPES, with};
use crate::support::{DEADLINE, World, assert_words};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_named() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world.emulator.deny(["ec2:RunInstances", "ec2:CreateTags"]);
    world
        .tenant_with_substrate("acme", objects::substrate("acme", "demo"))
        .await;
    // Before it is needed.
    let blocked = world
        .substrate_says("halo-acme", "demo", "Blocked", "True", "NotPermitted")
        .await;
    let words = [
        "UnauthorizedOperation",
        "ec2:CreateTags",
        "ec2:RunInstances",
    ];
    assert_words(&blocked, &words);
    world
        .gateway("gateway-0")
        .asks("halo-acme", "demo", 1)
        .await;
    let waking = world
        .substrate_is("halo-acme", "demo", |s| {
            s.status.as_ref().unwrap().next_attempt.is_some()
        })
        .await;
    let conditions = waking.status.unwrap().conditions;
    let blocked = halo_crds::condition::find(&conditions, "Blocked").unwrap();
    assert_words(blocked, &words);
    assert_words(blocked, &["next try"]);
    world
        .event_saying("demo", "NotPermitted", "ec2:RunInstances")
        .await;
    world
        .substrate_says("halo-acme", "demo", "Ready", "False", "NotPermitted")
        .await;
    // Asked again and refused again, it says the same since the same time.
    let since = |conditions: &[Condition]| {
        let blocked = halo_crds::condition::find(conditions, "Blocked").unwrap();
        assert_eq!(blocked.status, "True");
        blocked.last_transition_time.clone()
    };
    let before = since(&conditions);
    let asked = world.asked_for("RunInstances");
    eventually(DEADLINE, || async {
        let found = world.substrates("halo-acme").get("demo").await.unwrap();
        assert_eq!(since(&found.status.unwrap().conditions), before);
        match world.asked_for("RunInstances") {
            again if again >= asked + 2 => Ok(()),
            again => Err(format!("asked {again} times")),
        }
    })
    .await;
    let table = world.kubectl(&["get", "hs", "-n", "halo-acme"]).await;
    assert!(table.contains("IAM denies"), "{table}");
    world.emulator.deny(Vec::<String>::new());
    world.phase("halo-acme", "demo", Phase::Awake).await;

    // One that is missed at the end.
    world.emulator.deny(["ec2:TerminateInstances"]);
    world
        .gateway("gateway-0")
        .is_idle_for("halo-acme", "demo", Duration::from_secs(3600))
        .await;
    world
        .substrate_is("halo-acme", "demo", |s| {
            let conditions = &s.status.as_ref().unwrap().conditions;
            let blocked = halo_crds::condition::find(conditions, "Blocked");
            blocked.is_some_and(|blocked| {
                blocked.reason == "NotPermitted"
                    && blocked.message.contains("ec2:TerminateInstances")
            })
        })
        .await;
    world.emulator.deny(Vec::<String>::new());
    world.phase("halo-acme", "demo", Phase::Asleep).await;
    assert_eq!(world.launches(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_that_is_used_up_and_a_pod_that_fits_nowhere() {
    let world = World::start().await;
    let _operator = world.operator().await;
    let small = with(
        objects::tenant("acme"),
        json!({"spec": {"isolation": {"quota": {"limits.cpu": "2"}}}}),
    );
    world.apply(std::slice::from_ref(&small)).await;
    world.tenant_says("acme", "Ready", "True", "Ready").await;
    // The API server counts by what the quota's controller has said.
    let quota: kube::Api<k8s_openapi::api::core::v1::ResourceQuota> =
        kube::Api::namespaced(world.client.clone(), "halo-acme");
    eventually(DEADLINE, || async {
        let quota = quota.get("halo-quota").await;
        let status = quota.map_err(|error| error.to_string())?.status;
        let hard = status.as_ref().and_then(|status| status.hard.as_ref());
        match hard.is_some_and(|hard| hard.contains_key("limits.cpu")) {
            true => Ok(()),
            false => Err(format!("{status:?}")),
        }
    })
    .await;
    world.apply(&[objects::substrate("acme", "demo")]).await;
    world
        .gateway("gateway-0")
        .asks("halo-acme", "demo", 1)
        .await;
    let pods = world
        .substrate_says("halo-acme", "demo", "PodsReady", "False", "QuotaExceeded")
        .await;
    assert_words(&pods, &["exceeded quota: halo-quota", "limits.cpu=4"]);
    world.event("demo", "QuotaExceeded").await;
    let ready = world
        .substrate_says("halo-acme", "demo", "Ready", "False", "QuotaExceeded")
        .await;
    assert_words(&ready, &["exceeded quota"]);
    world
        .patch(
            &small,
            json!({"spec": {"isolation": {"quota": {"limits.cpu": "64"}}}}),
        )
        .await;

    // More cores than the instance has.
    world
        .patch(
            &objects::substrate("acme", "demo"),
            json!({"spec": {"engine": {"threads": 40}}}),
        )
        .await;
    world
        .substrate_is("halo-acme", "demo", |s| {
            let conditions = &s.status.as_ref().unwrap().conditions;
            halo_crds::condition::find(conditions, "PodsReady").is_some_and(|pods| {
                pods.reason == "Unschedulable" && pods.message.contains("Insufficient cpu")
            })
        })
        .await;
    world.event("demo", "Unschedulable").await;
    world
        .patch(
            &objects::substrate("acme", "demo"),
            json!({"spec": {"engine": {"threads": 4}}}),
        )
        .await;
    world.phase("halo-acme", "demo", Phase::Awake).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_never_registers_is_given_up_for_another() {
    let world = World::start().await;
    let _operator = world.operator().await;
    let substrate = with(
        objects::substrate("acme", "demo"),
        json!({"spec": {"nodePool": {"ec2": {"registrationDeadline": "10s"}}}}),
    );
    world.tenant_with_substrate("acme", substrate).await;
    let gateway = world.gateway("gateway-0");
    let held = world.machines.hold_registration();
    gateway.asks("halo-acme", "demo", 1).await;
    let pending = world
        .substrate_is("halo-acme", "demo", |s| {
            let nodes = &s.status.as_ref().unwrap().nodes;
            nodes
                .first()
                .is_some_and(|slot| slot.state == NodeState::Pending)
        })
        .await;
    let first = pending.status.unwrap().nodes[0].clone();
    let table = world.kubectl(&["get", "hs", "-n", "halo-acme"]).await;
    assert!(
        table.contains("r7iz.4xlarge in us-east-2a boots"),
        "{table}"
    );

    world.clock.forward(Duration::from_secs(11));
    gateway.asks("halo-acme", "demo", 2).await;
    let event = world.event("demo", "RegistrationDeadlineExceeded").await;
    let note = event.note.unwrap();
    let instance = first.instance.clone().unwrap();
    for part in [
        instance.as_str(),
        "10s",
        "console output",
        "another is tried",
    ] {
        assert!(note.contains(part), "{part:?} is not in {note:?}");
    }
    // Another launch, somewhere else; the first instance ends.
    let second = world
        .substrate_is("halo-acme", "demo", |s| {
            let nodes = &s.status.as_ref().unwrap().nodes;
            nodes
                .first()
                .is_some_and(|slot| slot.attempt == 2 && slot.instance.is_some())
        })
        .await;
    let second = second.status.unwrap().nodes[0].clone();
    assert_ne!(
        (&second.instance_type, &second.zone),
        (&first.instance_type, &first.zone)
    );
    assert!(TYPES.contains(&second.instance_type.as_str()));
    drop(held);
    world.phase("halo-acme", "demo", Phase::Awake).await;
    world
        .cloud_is("one instance", |view| view.state.living().count() == 1)
        .await;
    world.assert_no_double_launch();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_somebody_ends_is_replaced() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world
        .tenant_with_substrate("acme", objects::substrate("acme", "demo"))
        .await;
    world
        .gateway("gateway-0")
        .asks("halo-acme", "demo", 1)
        .await;
    world.phase("halo-acme", "demo", Phase::Awake).await;
    let lost = world.living()[0].id.clone();
    let reason = (
        "Server.ScheduledStop",
        "Stopped due to scheduled retirement",
    );
    assert!(world.emulator.terminate(&lost, Some(reason)));
    let event = world.event("demo", "InstanceLost").await;
    let note = event.note.unwrap();
    assert!(
        note.contains(&lost) && note.contains("outside of the operator"),
        "{note}"
    );
    assert!(note.contains("scheduled retirement"), "{note}");
    let again = world
        .substrate_is("halo-acme", "demo", |s| {
            let status = s.status.as_ref().unwrap();
            let slot = status.nodes.first();
            slot.is_some_and(|slot| slot.state == NodeState::Ready && slot.attempt == 2)
        })
        .await;
    assert_ne!(
        again.status.unwrap().nodes[0].instance.as_ref(),
        Some(&lost)
    );
    // Its pod runs on the new node.
    let node = world.machines.node_of(&world.living()[0].id).unwrap();
    eventually(DEADLINE, || async {
        let pods = world.pods("halo-acme", "demo").await;
        let there = |pod: &k8s_openapi::api::core::v1::Pod| {
            let spec = pod.spec.as_ref().unwrap();
            let conditions = pod.status.as_ref().and_then(|one| one.conditions.as_ref());
            let ready = conditions
                .into_iter()
                .flatten()
                .any(|c| c.type_ == "Ready" && c.status == "True");
            spec.node_name.as_ref() == Some(&node) && ready
        };
        match pods.iter().any(there) {
            true => Ok(()),
            false => Err(format!(
                "{:?}",
                pods.iter().map(|pod| &pod.status).collect::<Vec<_>>()
            )),
        }
    })
    .await;
    assert_eq!(world.pool_nodes().await.len(), 1);
    world.assert_no_double_launch();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_that_takes_too_long_is_told_and_goes_on() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world
        .tenant_with_substrate(
            "acme",
            // Shorter than the time after which a gateway that says nothing counts as dead.
            with(
                objects::substrate("acme", "demo"),
                json!({"spec": {"scaling": {"wakeDeadline": "5m"}}}),
            ),
        )
        .await;
    let gateway = world.gateway("gateway-0");
    let held = world.machines.hold_pods("halo-acme/demo");
    gateway.asks("halo-acme", "demo", 1).await;
    world
        .substrate_is("halo-acme", "demo", |s| {
            let nodes = &s.status.as_ref().unwrap().nodes;
            nodes
                .first()
                .is_some_and(|slot| slot.state == NodeState::Ready)
        })
        .await;
    world.clock.forward(Duration::from_secs(6 * 60));
    gateway.asks("halo-acme", "demo", 2).await;
    let said = world
        .substrate_says(
            "halo-acme",
            "demo",
            "Awake",
            "False",
            "WakeDeadlineExceeded",
        )
        .await;
    assert_words(&said, &["scaling.wakeDeadline"]);
    world.event("demo", "WakeDeadlineExceeded").await;
    let table = world.kubectl(&["get", "hs", "-n", "halo-acme"]).await;
    assert!(table.contains("wake deadline exceeded"), "{table}");
    drop(held);
    world.phase("halo-acme", "demo", Phase::Awake).await;
    let ready: Value = serde_json::to_value(
        world
            .substrate_says("halo-acme", "demo", "Ready", "True", "Awake")
            .await,
    )
    .unwrap();
    assert_eq!(ready["message"], "it answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_others_are_respected_when_a_node_drains() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world
        .tenant_with_substrate("acme", objects::substrate("acme", "demo"))
        .await;
    let gateway = world.gateway("gateway-0");
    gateway.asks("halo-acme", "demo", 1).await;
    world.phase("halo-acme", "demo", Phase::Awake).await;
    let node = world.machines.node_of(&world.living()[0].id).unwrap();
    // Somebody put a pod there, and a budget around it.
    let labels = json!({"app": "guest"});
    let guest = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "guest", "namespace": "default", "labels": labels},
        "spec": {"nodeName": node, "tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "image": "none"}]},
    });
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "guest", "namespace": "default"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": labels}},
    });
    world.apply(&[guest.clone(), budget.clone()]).await;
    eventually(DEADLINE, || async {
        let found = world.api_of(&budget).get("guest").await.unwrap();
        match found.data["status"]["currentHealthy"].as_i64() {
            Some(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    gateway
        .is_idle_for("halo-acme", "demo", Duration::from_secs(3600))
        .await;
    let blocked = world
        .substrate_says("halo-acme", "demo", "Blocked", "True", "DrainBlocked")
        .await;
    assert_words(&blocked, &[&node, "default/guest", "disruption budget"]);
    world.event("demo", "DrainBlocked").await;
    assert_eq!(world.living().len(), 1);
    world.delete(&budget).await;
    world.phase("halo-acme", "demo", Phase::Asleep).await;
    world.gone(&guest).await;
    assert!(world.living().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_somebody_stops_is_started_again() {
    let world = World::start().await;
    let _operator = world.operator().await;
    let substrate = with(
        objects::substrate("acme", "demo"),
        json!({"spec": {"nodePool": {"ec2": {"idlePolicy": "Stop"}}}}),
    );
    world.tenant_with_substrate("acme", substrate).await;
    world
        .gateway("gateway-0")
        .asks("halo-acme", "demo", 1)
        .await;
    world.phase("halo-acme", "demo", Phase::Awake).await;
    let instance = world.living()[0].id.clone();
    assert!(world.emulator.stop_instance(&instance));
    let event = world.event("demo", "InstanceLost").await;
    let note = event.note.unwrap();
    assert!(note.contains("stopped outside of the operator"), "{note}");
    world
        .cloud_is("it is started", |view| {
            view.state.instances[&instance].boots == 2
        })
        .await;
    world.phase("halo-acme", "demo", Phase::Awake).await;
    assert_eq!(world.launches(), 1);
}
