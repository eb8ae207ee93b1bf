//! What EC2 and the API server refuse or do not answer.

use halo_aws_emulator::Fault;
use halo_aws_emulator::faults::When;
use halo_crds::status::Phase;
use serde_json::json;

use crate::support::objects::{self, with};
use crate::support::{World, assert_words};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_lost_launch_once() {
    let world = World::start().await;
    let operator = world.operator().await;
    world
        .tenant_with_substrate("acme", objects::substrate("acme", "demo"))
        .await;
    // What it may do was asked by dry runs, which are not to be met.
    world
        .cloud_is("the question is answered", |view| {
            let mut calls = view.calls.iter();
            calls.any(|call| call.action == "RunInstances" && call.decided_at_us.is_some())
        })
        .await;
    // So many that the client's own repetitions are used up.
    let lost = Fault::cut("RunInstances", When::After).times(Some(12));
    world.emulator.add_fault(lost);
    world
        .gateway("gateway-0")
        .asks("halo-acme", "demo", 1)
        .await;
    world.phase("halo-acme", "demo", Phase::Awake).await;
    assert!(world.asked_for("RunInstances") > 1);
    assert_eq!(world.launches(), 1);
    world.assert_no_double_launch();
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pool_names_and_does_not_exist_is_named() {
    let world = World::start().await;
    let _operator = world.operator().await;
    let substrate = objects::substrate("acme", "demo");
    let right = substrate["spec"]["nodePool"]["ec2"].clone();
    let image = with(
        substrate.clone(),
        json!({"spec": {"nodePool": {"ec2": {"image": {"ssmParameter": "/aws/service/no/such/image"}}}}}),
    );
    world.tenant_with_substrate("acme", image).await;
    world
        .gateway("gateway-0")
        .asks("halo-acme", "demo", 1)
        .await;
    let subnet = json!([{"zone": "us-east-2a", "id": "subnet-0123456789abcdef0"}]);
    let steps = [
        (json!(null), "/aws/service/no/such/image"),
        (
            json!({"image": right["image"], "subnets": subnet}),
            "InvalidSubnetID.NotFound",
        ),
        (
            json!({"subnets": right["subnets"], "securityGroups": ["sg-0123456789abcdef0"]}),
            "InvalidGroup.NotFound",
        ),
    ];
    for (change, words) in steps {
        if !change.is_null() {
            let change = json!({"spec": {"nodePool": {"ec2": change}}});
            world.patch(&substrate, change).await;
        }
        let found = world
            .substrate_is("halo-acme", "demo", |s| {
                let conditions = &s.status.as_ref().unwrap().conditions;
                let blocked = halo_crds::condition::find(conditions, "Blocked");
                blocked.is_some_and(|blocked| {
                    blocked.status == "True" && blocked.message.contains(words)
                })
            })
            .await;
        let conditions = found.status.unwrap().conditions;
        let blocked = halo_crds::condition::find(&conditions, "Blocked").unwrap();
        assert_eq!(blocked.reason, "InvalidRequest", "{}", blocked.message);
        assert_words(blocked, &["put spec.nodePool.ec2 right"]);
        world.event_saying("demo", "InvalidRequest", words).await;
        assert_eq!(world.launches(), 0);
    }
    let groups =
        json!({"spec": {"nodePool": {"ec2": {"securityGroups": right["securityGroups"]}}}});
    world.patch(&substrate, groups).await;
    world.phase("halo-acme", "demo", Phase::Awake).await;
    assert_eq!(world.launches(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_away_for_a_while_costs_nothing_else() {
    let world = World::start().await;
    let operator = world.operator().await;
    world
        .tenant_with_substrate("acme", objects::substrate("acme", "demo"))
        .await;
    let held = world.machines.hold_registration();
    world
        .gateway("gateway-0")
        .asks("halo-acme", "demo", 1)
        .await;
    world
        .cloud_is("an instance", |view| view.state.living().count() == 1)
        .await;
    world.plane.stop_api_server();
    drop(held);
    world.plane.start_api_server().await.unwrap();
    world.phase("halo-acme", "demo", Phase::Awake).await;
    assert_eq!(world.launches(), 1);
    assert!(operator.is_leading());
}
