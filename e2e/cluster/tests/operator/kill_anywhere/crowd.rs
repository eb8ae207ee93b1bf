//! Many tenants in one world, an operator that leaves each at a point of its own, and what has to be true of them in the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use halo_aws_emulator::{Instance, InstanceState, Timings, Volume, VolumeState};
use halo_crds::status::{NodeState, Phase};
use halo_crds::{FINALIZER, HaloSubstrate, TENANT_LABEL, condition};
use halo_e2e_cluster::eventually;
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::support::lanes::{Lanes, Point};
use crate::support::objects::{self, with};
use crate::support::{DEADLINE, Launch, Process, Setup, World, a_while};

/// Longer than any `idleAfter` of these tests.
pub const LONG: Duration = Duration::from_secs(3600);

/// The name of every substrate here; there is one a tenant.
pub const NAME: &str = "demo";

/// So long nobody leads after a crash, by the operators' clock: longer than what is new may be missing from a listing.
const AWAY: Duration = Duration::from_secs(4);

/// The tag that data volumes have and root volumes do not.
pub const ZONE_TAG: &str = "halo.howdify.io/zone";

/// What becomes of an idle instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    Terminate,
    Stop,
}

/// A substrate with a volume of its own that goes when it goes.
pub fn substrate(tenant: &str, idle: Idle) -> Value {
    with(
        objects::substrate(tenant, NAME),
        json!({"spec": {
            "model": {"image": null, "node": {"path": "/mnt/halo/demo"}},
            "nodePool": {"ec2": {
                "idlePolicy": format!("{idle:?}"),
                "dataVolume": {"sizeGib": 20, "deletionPolicy": "Delete"},
            }},
        }}),
    )
}

pub fn namespace(tenant: &str) -> String {
    format!("halo-{tenant}")
}

/// Tenants, and where the operator is to stop for each.
pub type Points = BTreeMap<String, Point>;

/// On which sides of an effect there are points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sides {
    Both,
    After,
}

/// Points at each of these effects, each with a tenant.
pub fn points(effects: &[&'static str], sides: Sides) -> Points {
    let mut points = Points::new();
    for (k, action) in effects.iter().enumerate() {
        let times = effects.iter().take(k).filter(|one| *one == action).count();
        points.insert(format!("t-{k}-after"), Point::After(action, times));
        if sides == Sides::Both {
            points.insert(format!("t-{k}-before"), Point::Before(action, times));
        }
    }
    points
}

/// Many tenants in one world.
pub struct Crowd {
    pub world: World,
    pub idle: Idle,
    /// How often each tenant's substrate was woken by a new instance.
    launches: BTreeMap<String, usize>,
    /// How long the cloud may not show what it was asked.
    late: Duration,
}

impl Crowd {
    pub async fn start(idle: Idle, change: impl FnOnce(&mut Timings)) -> Self {
        let mut setup = Setup::default();
        let timings = &mut setup.cloud.rules.timings;
        change(timings);
        let late = Duration::from_millis(timings.visible_after_ms + timings.stale_ms);
        Self {
            world: World::with(setup).await,
            idle,
            launches: BTreeMap::new(),
            late,
        }
    }

    /// The operator crashes, and nobody leads for a while.
    async fn crash(&self, operator: Process) {
        operator.crash();
        // The operators' clock is about to leap, and the cloud's does not: it has to show first what a grace time is given for.
        eventually(DEADLINE, || async {
            let last = self
                .world
                .emulator
                .look(|view| view.calls.last().map(|call| call.received));
            match last.map(|received| received.elapsed()) {
                Some(since) if since <= self.late => {
                    tokio::time::sleep(self.late - since).await;
                    Err(format!("the cloud was asked {since:?} ago"))
                }
                _ => Ok(()),
            }
        })
        .await;
        self.world.clock.forward(AWAY);
    }

    /// An operator that stops at these points, with workers enough for the others.
    pub async fn operator(&self, points: Points) -> (Process, Arc<Lanes>) {
        let lanes = Lanes::new(&self.world, points);
        let launch = Launch {
            seer: Some(lanes.clone()),
            change: Some(Box::new(|settings| settings.concurrency = 200)),
            ..Launch::default()
        };
        let operator = self.world.launch(launch).await.unwrap();
        assert!(operator.leads().await, "the operator ended before it led");
        (operator, lanes)
    }

    /// Waits until all substrates of these tenants are so.
    #[track_caller]
    pub fn all<'a>(
        &'a self,
        tenants: &'a [String],
        is: impl Fn(&HaloSubstrate) -> bool + 'a,
    ) -> impl Future<Output = ()> + 'a {
        let is = Arc::new(is);
        eventually(DEADLINE, move || {
            let is = is.clone();
            async move {
                // All at once are many, and most looks are in vain.
                tokio::time::sleep(Duration::from_millis(150)).await;
                let api: kube::Api<HaloSubstrate> = kube::Api::all(self.world.client.clone());
                let all = api.list(&ListParams::default()).await;
                let all = all.map_err(|error| error.to_string())?;
                let of = |tenant: &String| all.iter().find(|one| one.spec.tenant == *tenant);
                let mut missing = tenants
                    .iter()
                    .filter(|tenant| !of(tenant).is_some_and(&*is));
                let Some(first) = missing.next() else {
                    return Ok(());
                };
                let status = of(first).map(|one| serde_json::to_string(&one.status));
                Err(format!("{first} and {} more: {status:?}", missing.count()))
            }
        })
    }

    pub async fn make(&self, tenants: &[String]) {
        let all: Vec<Value> = tenants.iter().map(|name| objects::tenant(name)).collect();
        self.world.apply(&all).await;
        for tenant in tenants {
            self.world
                .tenant_says(tenant, "Ready", "True", "Ready")
                .await;
        }
        let all: Vec<Value> = tenants
            .iter()
            .map(|name| substrate(name, self.idle))
            .collect();
        self.world.apply(&all).await;
    }

    pub async fn ask(&self, tenants: &[String]) {
        let gateway = self.world.gateway("gateway-0");
        for tenant in tenants {
            gateway.asks(&namespace(tenant), NAME, 1).await;
        }
    }

    pub async fn fall_silent(&self, tenants: &[String]) {
        let gateway = self.world.gateway("gateway-0");
        for tenant in tenants {
            gateway.is_idle_for(&namespace(tenant), NAME, LONG).await;
        }
    }

    pub async fn delete(&self, tenants: &[String]) {
        for tenant in tenants {
            self.world.delete(&objects::tenant(tenant)).await;
        }
    }

    /// Waits for every tenant to come to its point. Which writes of a status there are depends on what is seen when, so that some are
    /// never come to: then `is` holds, which is where all end. What is done to the cloud is always come to, though it may be later than
    /// that: a pod can be ready before a late cloud shows that its volume may be attached.
    async fn run_into(
        &self,
        what: &str,
        points: &Points,
        lanes: &Lanes,
        is: impl AsyncFn(&str) -> bool,
    ) {
        let mut reached = 0;
        for (tenant, point) in points {
            let always_comes = match point {
                Point::Before(action, 0) | Point::After(action, 0) => !action.contains(' '),
                _ => false,
            };
            let stopped = eventually(DEADLINE, || async {
                if lanes.is_stopped(tenant) {
                    return Ok(true);
                }
                if !always_comes && is(tenant).await {
                    return Ok(false);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(format!(
                    "{what} {tenant} {point:?}: {:#?}",
                    lanes.lines(tenant)
                ))
            });
            reached += usize::from(stopped.await);
        }
        assert!(
            reached * 2 >= points.len(),
            "{what}: {reached} of {}",
            points.len()
        );
    }

    /// The instances that a tenant ever had.
    pub fn instances(&self, tenant: &str) -> Vec<Instance> {
        self.world.emulator.look(|view| {
            let all = view.state.instances.values();
            let own = all.filter(|one| one.tags.get(TENANT_LABEL).is_some_and(|of| of == tenant));
            own.cloned().collect()
        })
    }

    /// The volumes of a tenant, but those that end with their instance.
    pub fn data_volumes(&self, tenant: &str) -> Vec<Volume> {
        self.world.emulator.look(|view| {
            let all = view.state.volumes.values();
            let own = all.filter(|one| {
                one.tags.contains_key(ZONE_TAG)
                    && one.tags.get(TENANT_LABEL).is_some_and(|of| of == tenant)
            });
            own.cloned().collect()
        })
    }

    /// Waits until the cloud has something of each.
    pub async fn cloud_has(&self, tenants: &[String], what: &str, has: impl Fn(&String) -> bool) {
        eventually(DEADLINE, || async {
            match tenants.iter().find(|tenant| !has(tenant)) {
                None => Ok(()),
                Some(tenant) => Err(format!("{tenant} has not {what}")),
            }
        })
        .await;
    }

    /// Counts one more launch for each, or none if an instance stopped and starts again.
    pub fn woken(&mut self, tenants: &[String]) {
        for tenant in tenants {
            let launches = self.launches.entry(tenant.clone()).or_default();
            if self.idle == Idle::Terminate || *launches == 0 {
                *launches += 1;
            }
        }
    }

    /// A tenant's one data volume, once its living instance holds it.
    ///
    /// A pod is ready here before its weights are there: its substrate is awake while their volume is still made and attached.
    ///
    /// # Errors
    /// The volumes that there are.
    pub fn attached_volume(&self, tenant: &str) -> Result<Volume, String> {
        let instances = self.instances(tenant);
        let living = instances.iter().find(|one| !one.state.is_ending());
        let volumes = self.data_volumes(tenant);
        assert!(volumes.len() <= 1, "{tenant}: {volumes:#?}");
        let holder = volumes.first().and_then(|one| one.attachment.as_ref());
        match (holder, living) {
            (Some(on), Some(living)) if on.instance == living.id => Ok(volumes[0].clone()),
            _ => Err(format!("{tenant}: {volumes:#?}")),
        }
    }

    /// Each is awake, by exactly the launches that there were reasons for.
    pub async fn assert_awake(&self, tenants: &[String]) {
        self.all(tenants, is_awake).await;
        self.world.assert_no_double_launch();
        let nodes = self.world.pool_nodes().await;
        for tenant in tenants {
            let instances = self.instances(tenant);
            assert_eq!(
                Some(&instances.len()),
                self.launches.get(tenant),
                "{tenant}: {instances:#?}"
            );
            let living: Vec<_> = instances
                .iter()
                .filter(|one| !one.state.is_ending())
                .collect();
            assert_eq!(living.len(), 1, "{tenant}: {living:#?}");
            assert_eq!(living[0].state, InstanceState::Running, "{tenant}");
            let volume = eventually(DEADLINE, || async { self.attached_volume(tenant) }).await;
            let own = nodes
                .iter()
                .filter(|one| one.labels().get(TENANT_LABEL) == Some(tenant));
            let own: Vec<String> = own.map(|one| one.name_any()).collect();
            assert_eq!(own.len(), 1, "{tenant}: {own:?}");
            let found = self
                .world
                .substrates(&namespace(tenant))
                .get(NAME)
                .await
                .unwrap();
            let status = found.status.unwrap();
            assert_eq!(status.nodes.len(), 1, "{tenant}: {:#?}", status.nodes);
            let slot = &status.nodes[0];
            assert_eq!(slot.state, NodeState::Ready, "{tenant}: {slot:?}");
            assert_eq!(slot.instance.as_ref(), Some(&living[0].id), "{tenant}");
            assert_eq!(slot.volume.as_ref(), Some(&volume.id), "{tenant}");
            assert_eq!(slot.node.as_ref(), own.first(), "{tenant}");
        }
    }

    /// Each is asleep: what it had has ended or stopped, and its volume is kept.
    pub async fn assert_asleep(&self, tenants: &[String]) {
        self.all(tenants, is_asleep).await;
        let nothing_runs = |one: &&Instance| {
            one.state == InstanceState::Terminated || one.state == InstanceState::Stopped
        };
        for tenant in tenants {
            eventually(DEADLINE, || async {
                let instances = self.instances(tenant);
                match instances.iter().all(|one| nothing_runs(&one)) {
                    true => Ok(()),
                    false => Err(format!("{tenant}: {instances:#?}")),
                }
            })
            .await;
            let instances = self.instances(tenant);
            assert_eq!(
                instances.len(),
                self.launches.get(tenant).copied().unwrap_or_default(),
                "{tenant}"
            );
            let living = instances.iter().filter(|one| !one.state.is_ending());
            let kept = usize::from(self.idle == Idle::Stop && !instances.is_empty());
            assert_eq!(living.count(), kept, "{tenant}: {instances:#?}");
            let volumes = self.data_volumes(tenant);
            assert_eq!(
                volumes.len(),
                usize::from(!instances.is_empty()),
                "{tenant}: {volumes:#?}"
            );
        }
        eventually(DEADLINE, || async {
            let nodes = self.world.pool_nodes().await;
            let of = |tenant: Option<&String>| tenant.is_some_and(|one| tenants.contains(one));
            let left = nodes
                .iter()
                .filter(|one| of(one.labels().get(TENANT_LABEL)));
            let left: Vec<String> = left.map(|one| one.name_any()).collect();
            match left.is_empty() {
                true => Ok(()),
                false => Err(format!("nodes: {left:?}")),
            }
        })
        .await;
        if self.idle == Idle::Terminate {
            let all = |tenant: &String| self.data_volumes(tenant);
            let mut volumes = tenants.iter().flat_map(all);
            assert!(volumes.all(|one| one.state == VolumeState::Available));
        }
    }

    /// Nothing is left of any of them.
    pub async fn assert_gone(&self, tenants: &[String]) {
        for tenant in tenants {
            self.world.nothing_left(tenant).await;
            let instances = self.instances(tenant);
            assert_eq!(
                instances.len(),
                self.launches.get(tenant).copied().unwrap_or_default(),
                "{tenant}"
            );
            assert!(self.data_volumes(tenant).is_empty(), "{tenant}");
        }
    }

    /// The actions of a tenant in a run that nothing disturbs, once nothing more follows.
    pub async fn effects(&self, tenant: &str, lanes: &Lanes) -> Vec<&'static str> {
        loop {
            let before = lanes.count();
            a_while().await;
            if lanes.count() == before {
                break;
            }
        }
        let seen = lanes.seen(tenant).into_iter();
        seen.map(|seen| seen.effect.action).collect()
    }

    /// Wakes all; an operator that crashes at these points, and one that goes on.
    pub async fn wake(&mut self, tenants: &[String], points: Points) {
        let (operator, lanes) = self.operator(points.clone()).await;
        self.ask(tenants).await;
        let is = async |tenant: &str| self.now(tenant).await.is_some_and(|one| is_awake(&one));
        self.run_into("a wake", &points, &lanes, is).await;
        self.crash(operator).await;
        let (operator, _) = self.operator(Points::new()).await;
        self.woken(tenants);
        self.assert_awake(tenants).await;
        operator.crash();
    }

    /// Lets all fall asleep, as [`Crowd::wake`] wakes them.
    pub async fn sleep(&mut self, tenants: &[String], points: Points) {
        let (operator, lanes) = self.operator(points.clone()).await;
        self.fall_silent(tenants).await;
        let is = async |tenant: &str| self.now(tenant).await.is_some_and(|one| is_asleep(&one));
        self.run_into("a sleep", &points, &lanes, is).await;
        self.crash(operator).await;
        let (operator, _) = self.operator(Points::new()).await;
        self.assert_asleep(tenants).await;
        operator.crash();
    }

    /// Deletes all, as [`Crowd::wake`] wakes them.
    pub async fn end(&mut self, tenants: &[String], points: Points) {
        let (operator, lanes) = self.operator(points.clone()).await;
        self.delete(tenants).await;
        let is = async |tenant: &str| {
            let found = self.world.tenants().get_opt(tenant).await;
            found.is_ok_and(|found| found.is_none())
        };
        self.run_into("a deletion", &points, &lanes, is).await;
        self.crash(operator).await;
        let (operator, _) = self.operator(Points::new()).await;
        self.assert_gone(tenants).await;
        operator.crash();
    }

    /// A tenant's substrate as it is now.
    pub async fn now(&self, tenant: &str) -> Option<HaloSubstrate> {
        let api = self.world.substrates(&namespace(tenant));
        api.get_opt(NAME).await.ok().flatten()
    }
}

pub fn says(substrate: &HaloSubstrate, wanted: &[(&str, &str, &str)]) -> bool {
    let Some(status) = &substrate.status else {
        return false;
    };
    wanted.iter().all(|(kind, value, reason)| {
        condition::find(&status.conditions, kind)
            .is_some_and(|found| found.status == *value && found.reason == *reason)
    })
}

pub fn phase(substrate: &HaloSubstrate) -> Option<Phase> {
    substrate.status.as_ref()?.phase
}

pub fn is_awake(substrate: &HaloSubstrate) -> bool {
    let wanted = [
        ("Ready", "True", "Awake"),
        ("Awake", "True", "Awake"),
        ("Blocked", "False", "NotBlocked"),
    ];
    let held = substrate.finalizers().iter().any(|one| one == FINALIZER);
    held && phase(substrate) == Some(Phase::Awake)
        && says(substrate, &wanted)
        && substrate.status.as_ref().is_some_and(|status| {
            status
                .nodes
                .iter()
                .all(|slot| slot.state == NodeState::Ready)
        })
}

/// Whether a slot's volume is recorded to be this one.
pub fn has_volume(substrate: &HaloSubstrate, volume: &str) -> bool {
    let slots = substrate.status.iter().flat_map(|status| &status.nodes);
    slots
        .into_iter()
        .any(|slot| slot.volume.as_deref() == Some(volume))
}

pub fn is_asleep(substrate: &HaloSubstrate) -> bool {
    let wanted = [
        ("Ready", "True", "Asleep"),
        ("Blocked", "False", "NotBlocked"),
    ];
    phase(substrate) == Some(Phase::Asleep) && says(substrate, &wanted)
}
