//! Changing things as a person would, and waiting for what follows.

use std::collections::BTreeSet;
use std::time::Duration;

use halo_aws_emulator::{Instance, InstanceState, Volume};
use halo_crds::status::Phase;
use halo_crds::{HaloSubstrate, HaloTenant, POOL_LABEL, SUBSTRATE_LABEL, TENANT_LABEL, condition};
use halo_e2e_cluster::eventually;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt as _};
use serde_json::Value;

use super::{DEADLINE, World, objects};

impl World {
    // Changing things.

    /// Runs kubectl, which must succeed; returns what it prints.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        self.kubectl_with(arguments, "").await
    }

    /// Runs kubectl with an input, which must succeed; returns what it prints.
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> String {
        let output = self.plane.kubectl_with(arguments, input).await.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Applies objects, as a person would with `kubectl apply --server-side`.
    pub async fn apply(&self, objects: &[Value]) {
        for object in objects {
            let params = PatchParams::apply("person").force();
            let name = object["metadata"]["name"].as_str().unwrap();
            self.api_of(object)
                .patch(name, &params, &Patch::Apply(object))
                .await
                .unwrap();
        }
    }

    /// Lays a merge patch over an object.
    pub async fn patch(&self, object: &Value, change: Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        self.api_of(object)
            .patch(name, &PatchParams::default(), &Patch::Merge(change))
            .await
            .unwrap();
    }

    /// Deletes an object; one that is gone already is no error.
    pub async fn delete(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let api = self.api_of(object);
        match api.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other.unwrap()),
        }
    }

    /// The API of an object's kind in its namespace.
    pub fn api_of(&self, object: &Value) -> Api<DynamicObject> {
        let version = object["apiVersion"].as_str().unwrap();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = object["kind"].as_str().unwrap();
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// A tenant that is ready, and its substrate asleep: both of [`objects`], of these names.
    pub async fn tenant_with_substrate(&self, tenant: &str, substrate: Value) {
        self.apply(&[objects::tenant(tenant)]).await;
        self.tenant_says(tenant, "Ready", "True", "Ready").await;
        let name = substrate["metadata"]["name"].as_str().unwrap().to_owned();
        self.apply(&[substrate]).await;
        self.phase(&format!("halo-{tenant}"), &name, Phase::Asleep)
            .await;
    }

    // Waiting.

    /// HaloTenants.
    pub fn tenants(&self) -> Api<HaloTenant> {
        Api::all(self.client.clone())
    }

    /// HaloSubstrates of a namespace.
    pub fn substrates(&self, namespace: &str) -> Api<HaloSubstrate> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Waits until a substrate is so, and returns it.
    #[track_caller]
    pub fn substrate_is(
        &self,
        namespace: &str,
        name: &str,
        is: impl Fn(&HaloSubstrate) -> bool,
    ) -> impl Future<Output = HaloSubstrate> {
        let (api, name) = (self.substrates(namespace), name.to_owned());
        let is = std::sync::Arc::new(is);
        eventually(DEADLINE, move || {
            let (api, name, is) = (api.clone(), name.clone(), is.clone());
            async move {
                let found = api.get(&name).await.map_err(|error| error.to_string())?;
                if is(&found) {
                    return Ok(found);
                }
                let status = serde_json::to_string(&found.status);
                Err(format!("{name}: {}", status.unwrap_or_default()))
            }
        })
    }

    /// Waits until a substrate is in a phase, and returns it.
    #[track_caller]
    pub fn phase(
        &self,
        namespace: &str,
        name: &str,
        phase: Phase,
    ) -> impl Future<Output = HaloSubstrate> {
        self.substrate_is(namespace, name, move |substrate| {
            let status = substrate.status.as_ref();
            status.and_then(|status| status.phase) == Some(phase)
        })
    }

    /// Waits until a condition of a substrate has this status and reason, and returns it.
    #[track_caller]
    pub fn substrate_says(
        &self,
        namespace: &str,
        name: &str,
        kind: &'static str,
        status: &'static str,
        reason: &'static str,
    ) -> impl Future<Output = Condition> {
        let of = move |substrate: &HaloSubstrate| {
            let of = substrate.status.as_ref();
            let found = of.and_then(|of| condition::find(&of.conditions, kind));
            found.cloned()
        };
        let substrate = self.substrate_is(namespace, name, move |substrate| {
            of(substrate).is_some_and(|found| found.status == status && found.reason == reason)
        });
        async move { of(&substrate.await).unwrap() }
    }

    /// Waits until a tenant is so, and returns it.
    #[track_caller]
    pub fn tenant_is(
        &self,
        name: &str,
        is: impl Fn(&HaloTenant) -> bool,
    ) -> impl Future<Output = HaloTenant> {
        let (api, name) = (self.tenants(), name.to_owned());
        let is = std::sync::Arc::new(is);
        eventually(DEADLINE, move || {
            let (api, name, is) = (api.clone(), name.clone(), is.clone());
            async move {
                let found = api.get(&name).await.map_err(|error| error.to_string())?;
                if is(&found) {
                    return Ok(found);
                }
                let status = serde_json::to_string(&found.status);
                Err(format!("{name}: {}", status.unwrap_or_default()))
            }
        })
    }

    /// Waits until a condition of a tenant has this status and reason, and returns it.
    #[track_caller]
    pub fn tenant_says(
        &self,
        name: &str,
        kind: &'static str,
        status: &'static str,
        reason: &'static str,
    ) -> impl Future<Output = Condition> {
        let of = move |tenant: &HaloTenant| {
            let of = tenant.status.as_ref();
            let found = of.and_then(|of| condition::find(&of.conditions, kind));
            found.cloned()
        };
        let tenant = self.tenant_is(name, move |tenant| {
            of(tenant).is_some_and(|found| found.status == status && found.reason == reason)
        });
        async move { of(&tenant.await).unwrap() }
    }

    /// Waits for an Event of this reason about an object of this name, and returns it.
    #[track_caller]
    pub fn event(&self, object: &str, reason: &str) -> impl Future<Output = Event> {
        self.event_saying(object, reason, "")
    }

    /// As [`World::event`], with this in its note.
    #[track_caller]
    pub fn event_saying(
        &self,
        object: &str,
        reason: &str,
        words: &str,
    ) -> impl Future<Output = Event> {
        let api: Api<Event> = Api::all(self.client.clone());
        let (object, reason, words) = (object.to_owned(), reason.to_owned(), words.to_owned());
        eventually(DEADLINE, move || {
            let (api, object, reason, words) =
                (api.clone(), object.clone(), reason.clone(), words.clone());
            async move {
                let all = api.list(&ListParams::default()).await;
                let all = all.map_err(|error| error.to_string())?;
                let about = |event: &Event| {
                    let about = event.regarding.as_ref();
                    about.and_then(|about| about.name.as_deref()) == Some(&object)
                };
                let is = |event: &&Event| {
                    let note = event.note.as_deref().unwrap_or_default();
                    about(event)
                        && event.reason.as_deref() == Some(&reason)
                        && note.contains(&words)
                };
                if let Some(found) = all.items.iter().find(is) {
                    return Ok(found.clone());
                }
                let seen: Vec<String> = all
                    .iter()
                    .filter(|event| about(event))
                    .map(|event| format!("{:?}: {:?}", event.reason, event.note))
                    .collect();
                Err(format!(
                    "no event {reason} {words:?} of {object}: {seen:#?}"
                ))
            }
        })
    }

    /// Waits until an object is gone.
    #[track_caller]
    pub fn gone(&self, object: &Value) -> impl Future<Output = ()> {
        let api = self.api_of(object);
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        eventually(DEADLINE, move || {
            let (api, name) = (api.clone(), name.clone());
            async move {
                let found = api.get_opt(&name).await;
                match found.map_err(|error| error.to_string())? {
                    None => Ok(()),
                    Some(found) => Err(format!(
                        "{name} is still there: {:?} {}",
                        found.metadata.finalizers, found.data["status"]
                    )),
                }
            }
        })
    }

    /// The pods of a substrate.
    pub async fn pods(&self, namespace: &str, substrate: &str) -> Vec<Pod> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let params = ListParams::default().labels(&format!("{SUBSTRATE_LABEL}={substrate}"));
        api.list(&params).await.unwrap().items
    }

    /// Nodes of any pool that an operator launches.
    pub async fn pool_nodes(&self) -> Vec<Node> {
        let api: Api<Node> = Api::all(self.client.clone());
        let params = ListParams::default().labels(POOL_LABEL);
        api.list(&params).await.unwrap().items
    }

    // The cloud.

    /// Instances that have neither ended nor are about to.
    pub fn living(&self) -> Vec<Instance> {
        self.emulator.living()
    }

    /// All volumes.
    pub fn volumes(&self) -> Vec<Volume> {
        self.emulator.state().volumes.into_values().collect()
    }

    /// Waits until the cloud is so.
    pub async fn cloud_is(&self, what: &str, is: impl FnMut(&halo_aws_emulator::View<'_>) -> bool) {
        let waited = self.emulator.wait_until(DEADLINE, is).await;
        waited.unwrap_or_else(|error| panic!("{what}: {error}"));
    }

    /// How often an action was asked for, dry runs left out.
    pub fn asked_for(&self, action: &str) -> usize {
        let calls = self.emulator.calls_of(action);
        calls.iter().filter(|call| !call.is_dry_run()).count()
    }

    /// How many instances were ever launched. Ended ones are remembered by the emulator for an hour.
    pub fn launches(&self) -> usize {
        self.emulator.look(|view| view.state.instances.len())
    }

    /// No two launches had one client token, and no slot of a substrate has two instances that live.
    pub fn assert_no_double_launch(&self) {
        let state = self.emulator.state();
        let mut tokens = BTreeSet::new();
        let mut slots = BTreeSet::new();
        for instance in state.instances.values() {
            let token = (&instance.client_token, &instance.zone);
            assert!(tokens.insert(token), "{} twice", instance.client_token);
            let tag = |key: &str| {
                instance
                    .tags
                    .get(&format!("halo.howdify.io/{key}"))
                    .cloned()
            };
            let slot = (tag("substrate-uid"), tag("slot"));
            let ended = matches!(
                instance.state,
                InstanceState::Terminated | InstanceState::ShuttingDown
            );
            if slot.0.is_some() && !ended {
                assert!(slots.insert(slot.clone()), "{slot:?} has two instances");
            }
        }
    }

    // The end.

    /// Waits until nothing is left of a tenant, in the cluster and in the cloud, but volumes that are to be kept.
    #[track_caller]
    pub fn nothing_left(&self, tenant: &str) -> impl Future<Output = ()> {
        let (client, emulator) = (self.client.clone(), self.emulator.clone());
        let tenant = tenant.to_owned();
        eventually(DEADLINE, move || {
            let (client, emulator, tenant) = (client.clone(), emulator.clone(), tenant.clone());
            async move {
                let left = left_of(&client, &emulator, &tenant).await;
                match left.map_err(|error| error.to_string())? {
                    left if left.is_empty() => Ok(()),
                    left => Err(format!("left: {left:#?}")),
                }
            }
        })
    }
}

/// What is left of a tenant.
async fn left_of(
    client: &kube::Client,
    emulator: &halo_aws_emulator::Emulator,
    tenant: &str,
) -> kube::Result<Vec<String>> {
    let mut left = Vec::new();
    let labelled = ListParams::default().labels(&format!("{TENANT_LABEL}={tenant}"));
    let all = ListParams::default();
    let tenants: Api<HaloTenant> = Api::all(client.clone());
    if tenants.get_opt(tenant).await?.is_some() {
        left.push(format!("HaloTenant {tenant}"));
    }
    let substrates: Api<HaloSubstrate> = Api::all(client.clone());
    for substrate in substrates.list(&all).await? {
        if substrate.spec.tenant == tenant {
            left.push(format!("HaloSubstrate {}", substrate.name_any()));
        }
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let names = namespaces.list(&labelled).await?;
    left.extend(
        names
            .iter()
            .map(|one| format!("Namespace {} {:?}", one.name_any(), one.status)),
    );
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = nodes.list(&labelled).await?;
    left.extend(nodes.iter().map(|one| format!("Node {}", one.name_any())));
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volumes = volumes.list(&labelled).await?;
    left.extend(
        volumes
            .iter()
            .map(|one| format!("PersistentVolume {}", one.name_any())),
    );
    let secrets: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(client.clone(), super::SYSTEM);
    let secrets = secrets.list(&labelled).await?;
    left.extend(
        secrets
            .iter()
            .map(|one| format!("Secret {}", one.name_any())),
    );
    let state = emulator.state();
    let own = |tags: &halo_aws_emulator::world::state::Tags| {
        tags.get(TENANT_LABEL).is_some_and(|of| of == tenant)
    };
    for instance in state.instances.values().filter(|one| own(&one.tags)) {
        if instance.state != InstanceState::Terminated {
            left.push(format!(
                "instance {} {}",
                instance.id,
                instance.state.name()
            ));
        }
    }
    for volume in state.volumes.values().filter(|one| own(&one.tags)) {
        let policy = volume.tags.get("halo.howdify.io/deletion-policy");
        if policy.is_none_or(|policy| policy != "Retain") {
            left.push(format!("volume {}", volume.id));
        }
    }
    Ok(left)
}

/// A condition's words, for assertions that say what was there.
#[track_caller]
pub fn assert_words(condition: &Condition, words: &[&str]) {
    for word in words {
        assert!(
            condition.message.contains(word),
            "{word:?} is not in: {}",
            condition.message
        );
    }
}

/// So long nothing may happen. For what cannot be waited for, as nothing tells of it.
pub async fn a_while() {
    tokio::time::sleep(Duration::from_millis(600)).await;
}
