use super::*;
use crate::substrate::testing;
use halo_crds::condition;
use halo_crds::reasons::kinds;
use halo_crds::status::Phase;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const NOW: i64 = 1_700_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn observed(substrate: HaloSubstrate) -> Observed {
    Observed {
        substrate: Arc::new(substrate),
        tenant: Some(Arc::new(testing::tenant())),
        deployment: None,
        children: Vec::new(),
        pods: Vec::new(),
        nodes: Vec::new(),
        fleet: FleetView {
            listed_at: Some(at(NOW)),
            ..FleetView::default()
        },
        capacity: CapacityView::default(),
        template: "t".to_owned(),
        unlaunchable: None,
        refusal: None,
        now: at(NOW),
    }
}

fn asked(mut substrate: HaloSubstrate, in_flight: i64) -> HaloSubstrate {
    let status = substrate.status.get_or_insert_default();
    status.demand = vec![halo_crds::status::Demand {
        gateway: "g".to_owned(),
        in_flight,
        since: (in_flight > 0).then(|| Time(at(NOW - 1))),
        last_active: Time(at(NOW)),
    }];
    substrate
}

fn child(kind: ChildKind, name: &str) -> Child {
    Child {
        kind,
        name: name.to_owned(),
        uid: "u".to_owned(),
        deleting: false,
    }
}

fn deleted(mut substrate: HaloSubstrate) -> HaloSubstrate {
    substrate.metadata.deletion_timestamp = Some(Time(at(NOW)));
    substrate
}

fn planned(observed: &Observed) -> Plan {
    plan(observed, &testing::settings())
}

fn replicas(plan: &Plan) -> Option<i32> {
    let children = plan.children.as_ref()?;
    children
        .deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
}

#[test]
fn a_new_object_sleeps_with_its_children_in_place() {
    for substrate in [testing::ec2(), testing::existing()] {
        let plan = planned(&observed(substrate));
        assert_eq!(plan.status.phase, Some(Phase::Asleep));
        assert_eq!(replicas(&plan), Some(0));
        assert!(!plan.acts() && plan.removals.is_empty() && !plan.release);
    }
}

#[test]
fn demand_launches_in_the_same_pass() {
    let plan = planned(&observed(asked(testing::ec2(), 9)));
    assert_eq!(plan.status.phase, Some(Phase::Waking));
    assert_eq!(plan.status.replicas, 2);
    assert_eq!(plan.status.nodes.len(), 2);
    assert!(plan.acts());
    assert_eq!(replicas(&plan), Some(2));
}

#[test]
fn without_its_tenant_nothing_wakes_and_nothing_can_be_built() {
    let mut orphan = observed(asked(testing::ec2(), 1));
    orphan.tenant = None;
    let plan = planned(&orphan);
    assert_eq!(plan.status.phase, Some(Phase::Asleep));
    assert!(!plan.acts() && plan.children.is_none());
    // What sleeps without a tenant has no Deployment: it cannot be scaled down by a template that cannot be built.
    orphan.children = vec![child(ChildKind::Deployment, "qwen")];
    assert_eq!(planned(&orphan).removals, orphan.children);
    // What runs goes on.
    let mut awake = testing::ec2();
    awake.status.get_or_insert_default().phase = Some(Phase::Awake);
    awake.status.get_or_insert_default().idle_since = Some(Time(at(NOW - 5)));
    orphan.substrate = Arc::new(awake);
    assert_eq!(planned(&orphan).removals, []);
}

#[test]
fn paused_leaves_everything() {
    let mut substrate = asked(testing::ec2(), 5);
    substrate.spec.paused = true;
    let paused = observed(substrate);
    let plan = planned(&paused);
    assert!(plan.children.is_none() && plan.pool.is_none() && plan.removals.is_empty());
    assert_eq!(plan.look_again, None);
    assert_eq!(plan.status.phase, Some(Phase::Asleep));
    let mut tenant = testing::tenant();
    tenant.spec.paused = true;
    let mut by_tenant = observed(asked(testing::ec2(), 5));
    by_tenant.tenant = Some(Arc::new(tenant));
    assert!(planned(&by_tenant).pool.is_none());
}

#[test]
fn deletion_lets_go_when_nothing_is_left() {
    let uid = testing::ec2().metadata.uid.unwrap();
    let volume = format!("halo-{uid}-0badcafe");
    let mut going = observed(deleted(testing::ec2()));
    going.tenant = None;
    going.children = vec![
        child(ChildKind::Deployment, "qwen"),
        child(ChildKind::PersistentVolume, &volume),
    ];
    let plan = planned(&going);
    assert_eq!(plan.removals, going.children);
    assert!(!plan.release, "a volume is left that no owner ends");
    going.children[1].deleting = true;
    assert!(planned(&going).release);
    // Before the cloud was looked at nobody knows what is left.
    going.fleet.listed_at = None;
    assert!(!planned(&going).release);
    // Nothing but the API server has to answer where there is no cloud.
    let mut existing = observed(deleted(testing::existing()));
    existing.fleet.listed_at = None;
    assert!(planned(&existing).release);
}

#[test]
fn weights_that_moved_leave_no_volume_behind() {
    let uid = testing::ec2().metadata.uid.unwrap();
    let mut moved = observed(testing::ec2());
    let wanted = planned(&moved).children.unwrap().storage.unwrap();
    let wanted = wanted.volume.metadata.name.unwrap();
    let old = format!("halo-{uid}-00000000");
    moved.children = vec![
        child(ChildKind::PersistentVolume, &wanted),
        child(ChildKind::PersistentVolume, &old),
        child(ChildKind::PersistentVolumeClaim, "qwen-weights-00000000"),
    ];
    assert_eq!(planned(&moved).removals, moved.children[1..]);
}

#[test]
fn a_spec_that_launches_nothing_says_so_and_can_still_sleep() {
    let mut broken = observed(asked(testing::ec2(), 1));
    broken.unlaunchable = Some("no placeholder {{x}}".to_owned());
    let plan = planned(&broken);
    assert!(!plan.acts());
    let blocked = condition::find(&plan.status.conditions, kinds::BLOCKED).unwrap();
    assert_eq!(
        (blocked.status.as_str(), blocked.reason.as_str()),
        ("True", "Invalid")
    );
    assert!(plan.pool.is_some(), "what has to end may end");
}

#[test]
fn nodes_stay_while_pods_end_but_not_for_ever() {
    let mut substrate = testing::ec2();
    let status = substrate.status.get_or_insert_default();
    status.phase = Some(Phase::Draining);
    status.idle_since = Some(Time(at(NOW - 100)));
    let mut draining = observed(substrate);
    draining.nodes = vec![NodeView {
        name: "n".to_owned(),
        instance: None,
        ready: true,
        unschedulable: false,
        deleting: false,
    }];
    draining.pods = vec![Arc::new(PodView {
        place: PodPlace {
            name: "p".to_owned(),
            node: Some("n".to_owned()),
            ready: false,
            ending: true,
        },
        over: false,
        uid: "p".to_owned(),
        substrate: "qwen".to_owned(),
        trouble: None,
        ready_since: None,
        scheduled_since: None,
        started_at: None,
    })];
    let wanted = |o: &Observed| planned(o).decision.wanted;
    assert_eq!(wanted(&draining), 1);
    // One that was evicted holds no node, and is none that must go before the substrate sleeps.
    let mut evicted = draining.clone();
    let mut pod = (*evicted.pods[0]).clone();
    (pod.place.ending, pod.over) = (false, true);
    evicted.pods = vec![Arc::new(pod)];
    assert_eq!(wanted(&evicted), 0);
    assert_eq!(planned(&evicted).status.phase, Some(Phase::Asleep));
    // Beside one that is alive it is no second pod, and asks for no second node.
    let mut awake = evicted.clone();
    let mut substrate = (*awake.substrate).clone();
    substrate.status.get_or_insert_default().phase = Some(Phase::Awake);
    awake.substrate = Arc::new(substrate);
    let mut alive = (*draining.pods[0]).clone();
    (alive.place.ending, alive.place.ready) = (false, true);
    awake.pods.push(Arc::new(alive));
    assert_eq!(wanted(&awake), 1);
    // On a node that does not answer nothing ends.
    let mut dead = draining.clone();
    dead.nodes[0].ready = false;
    assert_eq!(wanted(&dead), 0);
    // The drain of two minutes and a minute more are over.
    let mut late = draining.clone();
    let mut substrate = (*late.substrate).clone();
    let before = planned(&draining).status;
    substrate.status = Some(before);
    late.substrate = Arc::new(substrate);
    late.now = at(NOW + 179);
    assert_eq!(wanted(&late), 1);
    late.now = at(NOW + 180);
    assert_eq!(wanted(&late), 0);
}
