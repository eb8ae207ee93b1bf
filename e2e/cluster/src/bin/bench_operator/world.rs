//! The control plane, the cloud, and who may do what.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use halo_aws_emulator::{CallRecord, Config, Emulator, ParameterKind, Timings};
use halo_crds::HaloSubstrate;
use halo_e2e_cluster::{ControlPlane, Options, Request};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;

use super::Arguments;
use super::board::Board;
use super::objects::{self, Key};
use super::proc;

/// The cluster's name: a tag of everything in the cloud.
pub const CLUSTER: &str = "bench";

/// The operator's namespace.
const SYSTEM: &str = "halo-system";

/// Requests that the bench has under way at once when it applies many objects.
const APPLIERS: usize = 16;

/// What the operator may do when it is deployed.
const RIGHTS: &str = include_str!("../../../../../operator/rbac.yaml");

/// The root secret: 64 characters, of no other use.
const ROOT: &str = "6f1d0c5b9a3e48d7c2b1a09f8e7d6c5b4a3928170f1e2d3c4b5a69788796a5b4";

/// A control plane without controllers, a cloud whose instances never become nodes, and a watch of what the operator says.
pub struct World {
    /// What was asked for on the command line.
    pub options: Arguments,
    /// An administrator's client.
    pub client: Client,
    /// What tenants and substrates say.
    pub board: Board,
    /// The cloud.
    pub emulator: Emulator,
    /// The API server's process.
    pub api_server: u32,
    /// etcd's process.
    pub etcd: u32,
    /// The control plane; dropped last.
    pub plane: ControlPlane,
}

impl World {
    /// Starts everything but the operator.
    ///
    /// # Errors
    /// A part does not start.
    pub async fn start(options: Arguments) -> Result<Self> {
        let plane = ControlPlane::start(Options {
            crds: halo_crds::all(),
            ..Options::default()
        })
        .await?;
        let client = plane.client_named("halo-bench").await?;
        let emulator = Emulator::start(cloud())?;
        emulator.put_parameter(objects::ROOT_PARAMETER, ROOT, ParameterKind::SecureString);
        let folder = plane.kubeconfig_path();
        let folder = folder.parent().context("the kubeconfig has no folder")?;
        let etcd = proc::find("etcd", &format!("--data-dir={}", folder.display()))?;
        let port = plane.url();
        let port = port.rsplit(':').next().unwrap_or_default();
        let api_server = proc::find("kube-apiserver", &format!("--secure-port={port}"))?;
        let world = Self {
            options,
            board: Board::start(&client),
            client,
            emulator,
            api_server,
            etcd,
            plane,
        };
        let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {SYSTEM}}}\n");
        world.kubectl(&["apply", "-f", "-"], &namespace).await?;
        world.kubectl(&["apply", "-f", "-"], RIGHTS).await?;
        Ok(world)
    }

    /// Where logs are.
    pub fn folder(&self) -> &Path {
        self.plane.logs()
    }

    async fn kubectl(&self, arguments: &[&str], input: &str) -> Result<()> {
        let output = self.plane.kubectl_with(arguments, input).await?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {arguments:?}: {errors}");
        Ok(())
    }

    /// A kubeconfig for a user that may do what a deployed operator may. Each operator is a user of its own, so that the audit log
    /// tells them apart.
    ///
    /// # Errors
    /// The rights cannot be given.
    pub async fn operator_kubeconfig(&self, user: &str) -> Result<PathBuf> {
        let to = format!("--user={user}");
        let all = ["create", "clusterrolebinding", user];
        let role = ["--clusterrole=halo-operator", &to];
        self.kubectl(&[&all[..], &role].concat(), "").await?;
        let own = ["create", "rolebinding", user, "--namespace", SYSTEM];
        let role = ["--role=halo-operator", &to];
        self.kubectl(&[&own[..], &role].concat(), "").await?;
        Ok(self.plane.kubeconfig_as(user, &[])?)
    }

    /// Applies an object.
    ///
    /// # Errors
    /// The API server refuses it.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let params = PatchParams::apply("halo-bench").force();
        let applied = self
            .api_of(object)
            .patch(name, &params, &Patch::Apply(object))
            .await;
        applied.with_context(|| format!("cannot apply {} {name}", object["kind"]))?;
        Ok(())
    }

    /// Applies each group of objects in its order, many groups at once.
    ///
    /// # Errors
    /// The API server refuses one.
    pub async fn apply_groups(&self, groups: impl IntoIterator<Item = Vec<Value>>) -> Result<()> {
        let groups = stream::iter(groups).map(|group| async move {
            for object in &group {
                self.apply(object).await?;
            }
            anyhow::Ok(())
        });
        groups.buffer_unordered(APPLIERS).try_collect().await
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// The API server refuses it.
    pub async fn delete(&self, object: &Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let api = self.api_of(object);
        api.delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    fn api_of(&self, object: &Value) -> Api<DynamicObject> {
        let version = object["apiVersion"].as_str().unwrap_or_default();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = object["kind"].as_str().unwrap_or_default();
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// Substrates of a namespace.
    pub fn substrates(&self, key: &Key) -> Api<HaloSubstrate> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// Writes a gateway's demand; returns when it was sent, when the answer was there, and the resource version that it made.
    ///
    /// # Errors
    /// The API server refuses it.
    pub async fn demand(&self, key: &Key, in_flight: u32) -> Result<Demanded> {
        let params = PatchParams::apply("halo-gateway/gateway-0").force();
        let patch = Patch::Apply(objects::demand(in_flight));
        let api = self.substrates(key);
        let sent = Instant::now();
        let written = api.patch_status(&key.name, &params, &patch).await?;
        Ok(Demanded {
            sent,
            answered: Instant::now(),
            version: written.metadata.resource_version.unwrap_or_default(),
        })
    }

    /// Takes the demand of all of these away and waits until they sleep again, with nothing left in the cloud.
    ///
    /// # Errors
    /// They do not.
    pub async fn put_to_sleep(&self, keys: &[Key], within: Duration) -> Result<()> {
        let writes = stream::iter(keys).map(|key| self.demand(key, 0));
        let writes: Vec<_> = writes.buffer_unordered(APPLIERS).try_collect().await?;
        let what = format!("{} substrates are asleep again", writes.len());
        self.board
            .until(&what, within, |state| state.are_asleep(keys).then_some(()))
            .await?;
        let left = self.emulator.living().len();
        ensure!(
            left == 0,
            "{left} instances are left, and nobody needs them"
        );
        Ok(())
    }

    /// The launches of a substrate among calls: those that were no dry run.
    pub fn launches_of<'a>(calls: &'a [CallRecord], key: &Key) -> Vec<&'a CallRecord> {
        let tag = key.tag();
        let launches = calls
            .iter()
            .filter(|call| call.action == "RunInstances" && !call.is_dry_run());
        launches
            .filter(|call| call.parameters.values().any(|value| *value == tag))
            .collect()
    }

    /// Waits until each of these substrates was launched for since the calls were cleared.
    ///
    /// # Errors
    /// One is not.
    pub async fn launched(&self, keys: &[Key], within: Duration) -> Result<()> {
        let all = |view: &halo_aws_emulator::View<'_>| {
            keys.iter()
                .all(|key| !Self::launches_of(view.calls, key).is_empty())
        };
        self.emulator.wait_until(within, all).await?;
        Ok(())
    }

    /// What a user asked of the API server since a mark.
    ///
    /// # Errors
    /// The audit log cannot be read.
    pub fn requests(&self, since: halo_e2e_cluster::Mark, user: &str) -> Result<Vec<Request>> {
        let mut requests = self.plane.requests_since(since)?;
        requests.retain(|request| request.user == user);
        Ok(requests)
    }
}

/// A demand that was written.
#[derive(Debug, Clone)]
pub struct Demanded {
    /// When it was sent.
    pub sent: Instant,
    /// When the API server had answered.
    pub answered: Instant,
    /// The resource version that it made.
    pub version: String,
}

/// An emulator with short delays, so that much fits into little time, and no limits of its own.
fn cloud() -> Config {
    let mut config = Config::default();
    config.rules.timings = Timings {
        visible_after_ms: 100,
        pending_ms: 200,
        stopping_ms: 100,
        shutting_down_ms: 100,
        ..Timings::default()
    };
    config
}
