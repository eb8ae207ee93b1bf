//! Everything that a run has: cluster, cloud, ledger, Prometheus, the installed charts, two tenants.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use halo_crds::{HaloSubstrate, HaloTenant};
use halo_dynamodb_local::DynamoDbLocal;
use halo_e2e_cluster::real::nest::Nest;
use halo_e2e_cluster::real::{CLUSTER_ADDRESS, RealCluster, RealOptions};
use halo_e2e_cluster::{Assets, Options};
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::arguments::Arguments;
use crate::aws::{self, Aws};
use crate::children::Programs;
use crate::device::{Device, Door};
use crate::install::{self, Helm, NAMESPACE, Outside, TABLE};
use crate::monitor::Monitor;
use crate::report::Step;
use crate::tenants::Tenant;
use crate::{dns, images};

/// DynamoDB's port.
const DYNAMODB: u16 = 8000;

/// Where the tenants' root secret is.
pub const ROOT: &str = "/halo/root";

/// The tenant beside the one of the example.
const OTHER: &str = "borealis-clinic";

/// How long the cluster may take for what it does by itself.
pub const SOON: Duration = Duration::from_secs(90);

/// Between two looks.
pub const PAUSE: Duration = Duration::from_millis(100);

/// A run.
pub struct World {
    /// The programs of this machine.
    pub programs: Programs,
    /// The run's files.
    pub folder: PathBuf,
    /// The cluster.
    pub cluster: RealCluster,
    /// An administrator's client.
    pub client: Client,
    /// The cloud.
    pub aws: Aws,
    /// DynamoDB; none while it is away.
    pub dynamodb: Option<DynamoDbLocal>,
    /// Prometheus.
    pub monitor: Monitor,
    /// The charts' tool.
    pub helm: Helm,
    /// Both tenants.
    pub tenants: Vec<Tenant>,
    /// Where devices connect.
    pub door: Door,
    /// The folder of the charts.
    pub charts: PathBuf,
    /// The values that the release has.
    pub values: Value,
    /// The root secret's generations, the first at index 0.
    pub roots: Vec<String>,
}

impl World {
    /// Sets everything up.
    ///
    /// # Errors
    /// What failed.
    pub async fn start(nest: &Nest, arguments: &Arguments, step: &mut Step) -> Result<Self> {
        let repository = &arguments.repository;
        let example = repository.join("docs/examples/tenant.yaml");
        let text = fs::read_to_string(&example)
            .with_context(|| format!("{} (run this in the checkout)", example.display()))?;
        let first = Tenant::example(&text)?;
        let second = first.renamed(OTHER)?;
        let tenants = vec![first, second];

        let helm = tokio::task::spawn_blocking(Assets::helm).await??;
        let images = images::archives(&images::folder(arguments)?)?;
        step.held(format!("{} images", images.len()));
        let cluster = RealCluster::start(
            nest,
            RealOptions {
                plane: Options {
                    api_server_flags: vec![
                        "--default-not-ready-toleration-seconds=10".to_owned(),
                        "--default-unreachable-toleration-seconds=10".to_owned(),
                    ],
                    controller_flags: vec![
                        "--node-monitor-period=1s".to_owned(),
                        "--node-monitor-grace-period=20s".to_owned(),
                    ],
                    ..Options::full()
                },
                instance_images: images
                    .iter()
                    .filter(|archive| images::is_substrate(archive))
                    .cloned()
                    .collect(),
                images,
            },
        )
        .await?;
        step.held("a control plane and one Ready node");
        let client = cluster.plane().client_named("halo-e2e-run").await?;
        names(nest, client.clone()).await?;

        let address = |port| SocketAddr::from((CLUSTER_ADDRESS, port));
        let outside = Outside {
            aws: format!("http://{}", address(aws::PORT)),
            dynamodb: format!("http://{}", address(DYNAMODB)),
        };
        let mut programs = Programs {
            folder: std::env::current_exe()?
                .parent()
                .context("this program's folder")?
                .to_owned(),
            logs: nest.logs().to_owned(),
            environment: aws::CREDENTIALS
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        };
        programs.environment.insert(
            "AWS_ENDPOINT_URL_DYNAMODB".to_owned(),
            outside.dynamodb.clone(),
        );
        let pools: Vec<_> = tenants.iter().map(Tenant::pool).collect();
        let aws = Aws::start(
            nest,
            &programs,
            address(aws::PORT),
            cluster.joined(),
            &pools,
        )
        .await?;
        let dynamodb = start_dynamodb(nest.folder().join("dynamodb")).await?;
        let ledger = ledger();
        let created = programs
            .run("halo", ["ledger", "create", "--ledger", &ledger])
            .await?;
        // DynamoDB Local cannot recover a table to a point in time, which the command says.
        ensure!(
            created.out.contains("is made"),
            "halo ledger create: {}{}",
            created.out,
            created.err
        );
        step.held("the cloud, and a DynamoDB with the ledger's table");

        let rules = rule_files(&repository.join("charts/halo/files/rules"))?;
        let monitor = Monitor::start(nest, &programs, client.clone(), &rules).await?;

        let root = random_text()?;
        ensure!(
            aws.put_parameter(ROOT, &root).await? == 1,
            "the root secret's first version"
        );
        let door = Door {
            url: format!("https://halo-gateway.{NAMESPACE}.svc.cluster.local"),
            ca: nest.folder().join("gateway-ca.crt"),
        };
        let helm = Helm::new(helm, &cluster, nest.folder().join("helm"));
        let values = install::values(&cluster, &outside, &arguments.tag, &tenants[0].id);
        let world = Self {
            charts: repository.join("charts"),
            values,
            programs,
            folder: nest.folder().to_owned(),
            cluster,
            client,
            aws,
            dynamodb: Some(dynamodb),
            monitor,
            helm,
            tenants,
            door,
            roots: vec![root],
        };
        world.install(step).await?;
        world.apply_tenants(step).await?;
        Ok(world)
    }

    async fn install(&self, step: &mut Step) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": {
                "name": NAMESPACE,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        }))?;
        namespaces.create(&Default::default(), &namespace).await?;
        install::certificate(&self.client, &self.door.ca).await?;
        let path = self.folder.join("values.json");
        fs::write(&path, self.values.to_string())?;
        install::install(&self.helm, &self.cluster, &self.charts, &path).await?;
        step.held("helm install: operator and gateway rolled out");
        Ok(())
    }

    async fn apply_tenants(&self, step: &mut Step) -> Result<()> {
        let apply = ["apply", "--server-side", "-f", "-"];
        for tenant in &self.tenants {
            let list = tenant.list().to_string();
            install::kubectl_with(&self.cluster, &apply, &list).await?;
        }
        let api: Api<HaloTenant> = Api::all(self.client.clone());
        for tenant in &self.tenants {
            eventually(SOON, &format!("{} is ready", tenant.id), || async {
                let found = serde_json::to_value(api.get(&tenant.id).await?)?;
                ensure!(
                    condition(&found, "Ready") == Some("True"),
                    "{}",
                    found["status"]
                );
                Ok(())
            })
            .await?;
        }
        step.held("docs/examples/tenant.yaml, for two tenants: both are Ready, and asleep");
        Ok(())
    }

    /// The keyring of gateways, for enrolling devices and verifying sessions.
    ///
    /// # Errors
    /// It is not there.
    pub async fn keyring(&self, tenant: &Tenant) -> Result<PathBuf> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
        let secret = secrets.get(&format!("halo-keys-{}", tenant.id)).await?;
        let data = secret.data.unwrap_or_default();
        let keyring = data.get("keyring.json").context("keyring.json")?;
        let path = self.folder.join(format!("keyring-{}.json", tenant.id));
        fs::write(&path, &keyring.0)?;
        Ok(path)
    }

    /// As many devices of each tenant, enrolled: `name-0`, `name-1` and so on.
    ///
    /// # Errors
    /// One cannot be enrolled.
    pub async fn devices(&self, name: &str, each: usize) -> Result<Vec<Device>> {
        let mut devices = Vec::new();
        for tenant in &self.tenants {
            for number in 0..each {
                devices.push(self.device(tenant, &format!("{name}-{number}")).await?);
            }
        }
        Ok(devices)
    }

    /// Enrols a device.
    ///
    /// # Errors
    /// It is refused.
    pub async fn device(&self, tenant: &Tenant, name: &str) -> Result<Device> {
        let keyring = self.keyring(tenant).await?;
        let folder = self.folder.join("devices");
        Device::enrol(&self.programs, &folder, &keyring, &tenant.id, name).await
    }

    /// A tenant's substrate as it is.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn substrate(&self, tenant: &Tenant) -> Result<Value> {
        let api: Api<HaloSubstrate> = Api::namespaced(self.client.clone(), &tenant.namespace);
        Ok(serde_json::to_value(api.get(&tenant.substrate).await?)?)
    }

    /// A tenant's substrate's phase.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn phase(&self, tenant: &Tenant) -> Result<String> {
        let substrate = self.substrate(tenant).await?;
        let phase = substrate["status"]["phase"].as_str();
        Ok(phase.unwrap_or_default().to_owned())
    }

    /// Pods of a namespace.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn pods(&self, namespace: &str) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        Ok(api.list(&ListParams::default()).await?.items)
    }

    /// Waits until every tenant sleeps: no pod, no instance that costs.
    ///
    /// # Errors
    /// It does not in time.
    pub async fn all_asleep(&self, limit: Duration) -> Result<()> {
        eventually(limit, "everything sleeps", || async {
            for tenant in &self.tenants {
                let pods = self.pods(&tenant.namespace).await?;
                ensure!(pods.is_empty(), "{} pods of {}", pods.len(), tenant.id);
                let phase = self.phase(tenant).await?;
                ensure!(phase == "Asleep", "{} is {phase}", tenant.id);
            }
            let instances = self.aws.instances().await?;
            ensure!(instances.is_empty(), "instances: {instances:?}");
            Ok(())
        })
        .await
    }
}

/// The ledger, as programs name it.
pub fn ledger() -> String {
    format!("dynamodb:{TABLE}@us-east-2")
}

/// Starts DynamoDB on its port, with the tables of `data`.
///
/// # Errors
/// It does not start.
pub async fn start_dynamodb(data: PathBuf) -> Result<DynamoDbLocal> {
    fs::create_dir_all(&data)?;
    let options = halo_dynamodb_local::Options {
        address: CLUSTER_ADDRESS.into(),
        port: DYNAMODB,
        data: Some(data),
    };
    let started = tokio::task::spawn_blocking(move || DynamoDbLocal::start(&options));
    Ok(started.await??)
}

/// Looks until it is so.
///
/// # Errors
/// It is not after `limit`; the error says what was missing at the last look.
pub async fn eventually<F, Fut, T>(limit: Duration, what: &str, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let started = Instant::now();
    loop {
        match look().await {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() > limit => {
                bail!("not so after {limit:?}: {what}: {error:#}")
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// The status of a condition of an object.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|found| found["type"] == kind)?;
    found["status"].as_str()
}

/// Has this machine's programs find Services by their names, as pods do. The mount is seen in the nest alone.
async fn names(nest: &Nest, client: Client) -> Result<()> {
    let address = SocketAddr::from((CLUSTER_ADDRESS, 53));
    let mut serving = tokio::spawn(dns::serve(address, client));
    tokio::select! {
        ended = &mut serving => ended??,
        () = tokio::time::sleep(Duration::from_millis(1)) => {}
    }
    let path = nest.folder().join("resolv.conf");
    fs::write(&path, format!("nameserver {CLUSTER_ADDRESS}\n"))?;
    let target = fs::canonicalize("/etc/resolv.conf")?;
    let status = Command::new("mount")
        .arg("--bind")
        .args([&path, &target])
        .status()
        .await?;
    ensure!(
        status.success(),
        "mount over {}: {status}",
        target.display()
    );
    Ok(())
}

fn rule_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            files.push(fs::canonicalize(path)?);
        }
    }
    ensure!(!files.is_empty(), "{} holds no rules", folder.display());
    Ok(files)
}

/// 64 random hexadecimal digits.
///
/// # Errors
/// The system gives no random bytes.
pub fn random_text() -> Result<String> {
    use std::io::Read as _;
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
