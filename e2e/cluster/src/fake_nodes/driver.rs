//! The task behind [`super::FakeNodes`]: watches pods, keeps nodes, sends one request at a time for each of them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    pin::pin,
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    Holds, Step,
    node::{self, NodeSpec},
    pod::{self, Next},
};

/// A kubelet renews its lease this often.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The pause after a request that failed, as while the API server is stopped.
const RETRY: Duration = Duration::from_millis(200);

/// Where kubelets have their leases.
const LEASES: &str = "kube-node-lease";

pub(super) enum Command {
    Boot(NodeSpec),
    Stop(String),
}

/// A node that was booted.
struct Machine {
    spec: NodeSpec,
    address: String,
    up: bool,
    registered: bool,
    /// What was said last.
    ready: Option<bool>,
    beat: bool,
}

/// What a request was for, and how it ended.
enum Done {
    /// The pod as it is now; none if it is gone.
    Pod(String, Result<Option<Box<Pod>>, kube::Error>),
    Registered(String, Result<(), kube::Error>),
    Status(String, bool, Result<(), kube::Error>),
    Beat(String),
}

pub(super) struct Driver {
    client: Client,
    /// Whether a controller takes the not-ready taint from nodes.
    controllers: bool,
    commands: mpsc::UnboundedReceiver<Command>,
    holds: watch::Receiver<Holds>,
    pods: HashMap<String, Pod>,
    /// The uids that a list that is being received has brought.
    listed: HashSet<String>,
    machines: BTreeMap<String, Machine>,
    /// Uids of pods and names of nodes that a request is under way for.
    busy: HashSet<String>,
    requests: JoinSet<Done>,
    addresses: u32,
}

impl Driver {
    pub(super) fn new(
        client: Client,
        controllers: bool,
        commands: mpsc::UnboundedReceiver<Command>,
        holds: watch::Receiver<Holds>,
    ) -> Self {
        Self {
            client,
            controllers,
            commands,
            holds,
            pods: HashMap::new(),
            listed: HashSet::new(),
            machines: BTreeMap::new(),
            busy: HashSet::new(),
            requests: JoinSet::new(),
            addresses: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let api: Api<Pod> = Api::all(self.client.clone());
        let events = watcher(api, watcher::Config::default()).default_backoff();
        self.follow(pin!(events)).await;
    }

    async fn follow(
        &mut self,
        mut events: impl Stream<Item = watcher::Result<watcher::Event<Pod>>> + Unpin,
    ) {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                changed = self.holds.changed() => if changed.is_err() { return },
                event = events.next() => match event {
                    Some(Ok(event)) => self.see(event),
                    // The watcher starts over by itself.
                    Some(Err(_)) => {}
                    None => return,
                },
                Some(done) = self.requests.join_next() => if let Ok(done) = done { self.finish(done) },
                _ = heartbeat.tick() => {
                    for machine in self.machines.values_mut() {
                        machine.beat = true;
                    }
                }
            }
            self.step_nodes();
            self.step_pods();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Boot(spec) => {
                self.addresses += 1;
                let machine = Machine {
                    address: address(172, self.addresses),
                    up: true,
                    registered: false,
                    ready: None,
                    beat: true,
                    spec,
                };
                self.machines.insert(machine.spec.name.clone(), machine);
            }
            Command::Stop(name) => {
                if let Some(machine) = self.machines.get_mut(&name) {
                    machine.up = false;
                }
            }
        }
    }

    fn see(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(pod) => {
                self.listed.extend(pod.metadata.uid.clone());
                self.keep(pod);
            }
            watcher::Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.pods.retain(|uid, _| listed.contains(uid));
            }
            watcher::Event::Apply(pod) => self.keep(pod),
            watcher::Event::Delete(pod) => {
                self.pods.remove(&pod.metadata.uid.unwrap_or_default());
            }
        }
    }

    /// The answer to a patch is often newer than the next event, so what is older is left out.
    fn keep(&mut self, mut pod: Pod) {
        pod.metadata.managed_fields = None;
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        match self.pods.get(&uid) {
            Some(known) if version(known) > version(&pod) => {}
            _ => {
                self.pods.insert(uid, pod);
            }
        }
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Pod(uid, result) => {
                self.busy.remove(&uid);
                match result {
                    Ok(Some(pod)) => self.keep(*pod),
                    Ok(None) => drop(self.pods.remove(&uid)),
                    Err(_) => {}
                }
            }
            Done::Registered(name, result) => {
                self.busy.remove(&name);
                if let Some(machine) = self.machines.get_mut(&name) {
                    machine.registered = result.is_ok();
                }
            }
            Done::Status(name, ready, result) => {
                self.busy.remove(&name);
                if let Some(machine) = self.machines.get_mut(&name) {
                    machine.ready = result.is_ok().then_some(ready);
                }
            }
            Done::Beat(name) => {
                self.busy.remove(&name);
            }
        }
    }

    fn step_nodes(&mut self) {
        let holds = self.holds.borrow().clone();
        for (name, machine) in &mut self.machines {
            if !machine.up || self.busy.contains(name) {
                continue;
            }
            let client = self.client.clone();
            let spec = machine.spec.clone();
            let name = name.clone();
            let ready = !holds.has(Step::NodeReady, &name);
            if !machine.registered {
                if !holds.has(Step::Registration, &name) {
                    self.busy.insert(name.clone());
                    self.requests.spawn(async move {
                        Done::Registered(name, or_pause(register(client, &spec)).await)
                    });
                }
            } else if machine.ready != Some(ready) {
                let status = spec.status(ready, &machine.address, Timestamp::now());
                let clear_taint = ready && !self.controllers;
                self.busy.insert(name.clone());
                self.requests.spawn(async move {
                    let said = say_status(client, &name, &status, clear_taint);
                    let result = or_pause(said).await;
                    Done::Status(name, ready, result)
                });
            } else if machine.beat {
                machine.beat = false;
                self.busy.insert(name.clone());
                self.requests.spawn(async move {
                    // The next beat makes up for one that failed.
                    let _ = beat(client, &name).await;
                    Done::Beat(name)
                });
            }
        }
    }

    fn step_pods(&mut self) {
        let holds = self.holds.borrow().clone();
        for (uid, pod) in &self.pods {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let machine = node.and_then(|node| self.machines.get(node));
            let Some(machine) = machine.filter(|machine| machine.up && machine.registered) else {
                continue;
            };
            if self.busy.contains(uid) {
                continue;
            }
            let api: Api<Pod> = Api::namespaced(
                self.client.clone(),
                pod.metadata.namespace.as_deref().unwrap_or_default(),
            );
            let name = pod.metadata.name.clone().unwrap_or_default();
            let uid = uid.clone();
            match pod::next(pod, &holds) {
                Next::Nothing => {}
                Next::Run { ready } => {
                    self.addresses += 1;
                    let pod_address = address(10, self.addresses);
                    let now = Timestamp::now();
                    let patch = pod::running(pod, ready, &pod_address, &machine.address, now);
                    self.busy.insert(uid.clone());
                    self.requests.spawn(async move {
                        let result = or_pause(patch_pod(&api, &name, &patch)).await;
                        Done::Pod(uid, result)
                    });
                }
                Next::End => {
                    self.busy.insert(uid.clone());
                    self.requests.spawn(async move {
                        let result = or_pause(end_pod(&api, &name, &uid)).await;
                        Done::Pod(uid, result)
                    });
                }
            }
        }
    }
}

/// Resource versions of one kind count upwards.
fn version(pod: &Pod) -> u64 {
    let version = pod.metadata.resource_version.as_deref().unwrap_or_default();
    version.parse().unwrap_or_default()
}

/// An address in 172.16.0.0/12 or 10.16.0.0/12; each of a test's first million is another.
fn address(first: u8, number: u32) -> String {
    let [_, b, c, d] = (number & 0x000f_ffff).to_be_bytes();
    format!("{first}.{}.{c}.{d}", 16 + b)
}

async fn or_pause<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    let result = request.await;
    if result.is_err() {
        tokio::time::sleep(RETRY).await;
    }
    result
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// A pod that is gone, or another one of the same name (409: the uid differs), needs nothing more.
fn unless_gone(result: Result<Pod, kube::Error>) -> Result<Option<Box<Pod>>, kube::Error> {
    match result {
        Ok(pod) => Ok(Some(Box::new(pod))),
        Err(error) if is_code(&error, 404) || is_code(&error, 409) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn patch_pod(
    api: &Api<Pod>,
    name: &str,
    patch: &Value,
) -> Result<Option<Box<Pod>>, kube::Error> {
    unless_gone(
        api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
            .await,
    )
}

async fn end_pod(api: &Api<Pod>, name: &str, uid: &str) -> Result<Option<Box<Pod>>, kube::Error> {
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(name, &parameters).await {
        // Left: a pod with finalizers. Right: it is gone.
        Ok(answer) => Ok(answer.left().map(Box::new)),
        Err(error) => unless_gone(Err(error)),
    }
}

/// Creates the Node object, or, as a kubelet that starts again, puts the labels of the one that is there right.
async fn register(client: Client, spec: &NodeSpec) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(client);
    let node: Node = serde_json::from_value(spec.object()).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &node).await {
        Err(error) if is_code(&error, 409) => {
            let labels = json!({"metadata": {"labels": spec.all_labels()}});
            api.patch(&spec.name, &PatchParams::default(), &Patch::Merge(labels))
                .await?;
        }
        created => drop(created?),
    }
    Ok(())
}

async fn say_status(
    client: Client,
    name: &str,
    status: &Value,
    clear_taint: bool,
) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(client);
    let patch = PatchParams::default();
    let node = api
        .patch_status(name, &patch, &Patch::Strategic(status))
        .await?;
    if clear_taint && let Some(taints) = node::taints_of_a_ready_node(&node) {
        // The version keeps a taint that someone else adds meanwhile.
        let version = node.metadata.resource_version;
        let change = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
        api.patch(name, &patch, &Patch::Merge(change)).await?;
    }
    Ok(())
}

async fn beat(client: Client, name: &str) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(client, LEASES);
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": 40,
            "renewTime": format!("{:.6}", Timestamp::now()),
        },
    });
    let apply = PatchParams::apply("kubelet").force();
    api.patch(name, &apply, &Patch::Apply(lease))
        .await
        .map(drop)
}
