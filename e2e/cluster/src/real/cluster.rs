//! The cluster: the control plane, kube-proxy, and the first node.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{cgroups, nest::Nest, network};
use crate::{
    access, control_plane::ControlPlane, error::Error, options::Options, supervise::Process,
};

/// Where the API server and everything else beside the cluster is reached, by nodes and pods as well.
pub const CLUSTER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 88, 255, 1);

/// The node that is there from the start.
const FIRST: &str = "node0";

/// How long the first node may take to be ready.
const READY: Duration = Duration::from_secs(120);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// The folders with the images that machines hold from the start.
pub(super) const IMAGES: &str = "images";
pub(super) const INSTANCE_IMAGES: &str = "instance-images";

/// What every machine of a run knows, in a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Joined {
    /// The run: the parent of its cgroups.
    pub(super) run: String,
    /// The run's files.
    pub(super) folder: PathBuf,
    /// The run's logs.
    pub(super) logs: PathBuf,
    /// The folder with the authority's certificate and key.
    pub(super) authority: PathBuf,
    /// The API server's URL as nodes see it.
    pub(super) endpoint: String,
    /// The kubelet.
    pub(super) kubelet: PathBuf,
    /// Who answers pods' questions for names.
    pub(super) name_server: Ipv4Addr,
}

impl Joined {
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read(path).map_err(Error::io(format!("read {}", path.display())))?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// What a cluster consists of.
#[derive(Debug, Clone, Default)]
pub struct RealOptions {
    /// The control plane; its address is set by this.
    pub plane: Options,
    /// Image archives (OCI tars) that the cluster's own nodes hold from the start.
    pub images: Vec<PathBuf>,
    /// Those that instances hold from the start, as if they were part of their machine image.
    pub instance_images: Vec<PathBuf>,
}

/// A cluster with real nodes. Its processes end with the [`Nest`] that they are in.
pub struct RealCluster {
    // Dropped in this order.
    _first: Process,
    _proxy: Process,
    plane: ControlPlane,
    joined: PathBuf,
}

impl RealCluster {
    /// Starts a cluster and waits until its first node is ready: about ten seconds.
    ///
    /// # Errors
    /// What failed, with the end of the log of the program that failed.
    pub async fn start(nest: &Nest, options: RealOptions) -> Result<Self, Error> {
        network::set_up(CLUSTER_ADDRESS).map_err(Error::io("set up the network"))?;
        cgroups::make(nest.run()).map_err(Error::io(format!("make {}", nest.run())))?;
        copy(&options.images, &nest.folder().join(IMAGES))?;
        copy(
            &options.instance_images,
            &nest.folder().join(INSTANCE_IMAGES),
        )?;
        let plane = ControlPlane::start(Options {
            address: Some(CLUSTER_ADDRESS),
            folder: Some(nest.folder().to_owned()),
            logs: Some(nest.logs().to_owned()),
            ..options.plane
        })
        .await?;
        let endpoint = plane.nodes_url();
        let joined = Joined {
            run: nest.run().to_owned(),
            folder: nest.folder().to_owned(),
            logs: nest.logs().to_owned(),
            authority: plane.folder.clone(),
            endpoint,
            kubelet: plane.assets().program("kubelet")?,
            name_server: CLUSTER_ADDRESS,
        };
        let path = nest.folder().join("joined.json");
        fs::write(&path, serde_json::to_vec(&joined)?)
            .map_err(Error::io(format!("write {}", path.display())))?;
        let first = start_first(nest, &path)?;
        let proxy = start_proxy(nest, &plane)?;
        let mut cluster = Self {
            _first: first,
            _proxy: proxy,
            plane,
            joined: path,
        };
        cluster.wait_for_first().await?;
        Ok(cluster)
    }

    /// The control plane.
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// The file that [`super::run_node`] takes.
    pub fn joined(&self) -> &Path {
        &self.joined
    }

    /// The API server's URL as nodes and pods see it.
    pub fn endpoint(&self) -> String {
        self.plane.nodes_url()
    }

    /// The authority's certificate, as PEM.
    pub fn authority(&self) -> &str {
        self.plane.authority().certificate()
    }

    async fn wait_for_first(&mut self) -> Result<(), Error> {
        let client: Client = self.plane.harness().await?;
        let nodes: Api<Node> = Api::all(client);
        let started = Instant::now();
        loop {
            let node = nodes.get_opt(FIRST).await?;
            if node.as_ref().is_some_and(is_ready) {
                return Ok(());
            }
            self._first.check()?;
            self._proxy.check()?;
            self.plane.check()?;
            if started.elapsed() > READY {
                return Err(Error::NotReady {
                    program: FIRST.to_owned(),
                    after: READY,
                    last: node.map_or("no Node object".to_owned(), |node| {
                        format!("{:?}", node.status.and_then(|status| status.conditions))
                    }),
                    log: self._first.log_tail(),
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn copy(files: &[PathBuf], folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(Error::io(format!("create {}", folder.display())))?;
    for file in files {
        let name = file.file_name().unwrap_or_default();
        fs::copy(file, folder.join(name)).map_err(Error::io(format!("copy {}", file.display())))?;
    }
    Ok(())
}

/// Whether a node says that it is ready.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| &status.conditions);
    conditions
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn start_first(nest: &Nest, joined: &Path) -> Result<Process, Error> {
    let program = std::env::current_exe().map_err(Error::io("find this program"))?;
    let joined = joined.display().to_string();
    let arguments = ["node", "--joined", &joined, "--name", FIRST];
    let log = nest.logs().join("node0.log");
    Process::start(FIRST, &program, &arguments, &log)
}

fn start_proxy(nest: &Nest, plane: &ControlPlane) -> Result<Process, Error> {
    let kubeconfig = nest.folder().join("kube-proxy.kubeconfig");
    access::write(
        &kubeconfig,
        &plane.kubeconfig("system:kube-proxy", &[access::MASTERS])?,
    )?;
    let config = nest.folder().join("kube-proxy.json");
    let text = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": kubeconfig},
        "clusterCIDR": "10.88.0.0/16",
        "iptables": {"minSyncPeriod": "100ms"},
        // A network namespace may not set these.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    });
    fs::write(&config, text.to_string())
        .map_err(Error::io(format!("write {}", config.display())))?;
    let program = plane.assets().program("kube-proxy")?;
    let arguments = [
        format!("--config={}", config.display()),
        format!("--hostname-override={FIRST}"),
    ];
    let log = nest.logs().join("kube-proxy.log");
    Process::start("kube-proxy", &program, &arguments, &log)
}
