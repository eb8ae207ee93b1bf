//! etcd, the API server and, where asked for, controllers and a scheduler, as child processes on free loopback ports.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, SemaphorePermit},
};

use crate::{
    access::{self, Proof},
    arguments::{api_server_arguments, file_flag, write_credentials},
    assets::Assets,
    audit, crds,
    error::Error,
    options::{Controllers, Options},
    pki::Authority,
    ports,
    supervise::{Cleaner, Process},
};

/// How many control planes one test process runs at once: each takes about 350 MB, 550 MB with controllers and scheduler.
/// The next `ControlPlane::start` waits until one of them is dropped.
pub const AT_ONCE: usize = 3;

static PERMITS: Semaphore = Semaphore::const_new(AT_ONCE);

/// Long, because test machines are busy: a failure is noticed at once, by the program's end, and does not wait for this.
const READY_DEADLINE: Duration = Duration::from_secs(120);

/// Between two looks at whether a program is ready.
const PAUSE: Duration = Duration::from_millis(20);

/// How often another port is tried when someone else took the free one meanwhile.
const PORT_ATTEMPTS: usize = 5;

/// A running control plane. Dropping it, or the end of the test process in any way, ends its programs and removes its files.
///
/// It does not depend on the tokio runtime that started it, so it can be shared by tests; a client does, so each test makes its own.
pub struct ControlPlane {
    // Fields are dropped in this order: who writes to the API server before it, it before etcd, the files at last.
    scheduler: Option<Process>,
    controllers: Option<Process>,
    api_server: Mutex<Option<Process>>,
    etcd: Process,
    _cleaner: Cleaner,
    pub(crate) folder: PathBuf,
    logs: PathBuf,
    assets: Assets,
    authority: Authority,
    address: Ipv4Addr,
    port: u16,
    api_server_arguments: Vec<String>,
    audit: bool,
    _permit: SemaphorePermit<'static>,
}

impl ControlPlane {
    /// Starts a control plane and waits until it is ready: some seconds, plus minutes if its binaries must be built first.
    ///
    /// # Errors
    /// What failed, with the end of the log of the program that failed.
    pub async fn start(options: Options) -> Result<Self, Error> {
        // Acquiring fails only after a close, and nothing closes it.
        let permit = PERMITS.acquire().await.map_err(|_| Error::Stopped)?;
        let assets = tokio::task::spawn_blocking(Assets::find)
            .await
            .map_err(|error| Error::io("find the binaries")(error.into()))??;

        // In memory where that is possible: etcd's data is small, and the disk of a test machine is the slowest part of it.
        let memory = Path::new("/dev/shm");
        let folder = match &options.folder {
            Some(parent) => TempDir::with_prefix_in("control-plane-", parent),
            None if memory.is_dir() => TempDir::with_prefix_in("halo-cluster-", memory),
            None => TempDir::with_prefix("halo-cluster-"),
        }
        .map_err(Error::io("create a temporary folder"))?;
        let own_logs = match &options.logs {
            Some(logs) => {
                fs::create_dir_all(logs)
                    .map_err(Error::io(format!("create {}", logs.display())))?;
                None
            }
            None => Some(
                TempDir::with_prefix("halo-cluster-logs-")
                    .map_err(Error::io("create a temporary folder"))?,
            ),
        };
        let mut remove = vec![folder.path()];
        remove.extend(own_logs.as_ref().map(TempDir::path));
        let cleaner = Cleaner::start(&remove)?;
        // From here on the cleaner removes them, also where this process cannot.
        let logs = match (own_logs, &options.logs) {
            (Some(own), _) => own.keep(),
            (None, Some(given)) => given.clone(),
            (None, None) => folder.path().to_owned(),
        };
        let folder = folder.keep();

        let authority = write_credentials(&folder, options.address)?;
        let (etcd, etcd_port) = start_etcd(&assets, &folder, &logs).await?;
        let mut plane = Self {
            scheduler: None,
            controllers: None,
            api_server: Mutex::new(None),
            etcd,
            _cleaner: cleaner,
            folder,
            logs,
            assets,
            authority,
            address: options.address.unwrap_or(Ipv4Addr::LOCALHOST),
            port: 0,
            api_server_arguments: Vec::new(),
            audit: options.audit,
            _permit: permit,
        };
        plane.start_first_api_server(&options, etcd_port).await?;
        crds::install(plane.harness().await?, options.crds.clone()).await?;
        plane.start_controllers(&options).await?;
        Ok(plane)
    }

    /// The address of the API server.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The address of the API server as real nodes and their pods see it.
    pub(crate) fn nodes_url(&self) -> String {
        format!("https://{}:{}", self.address, self.port)
    }

    /// The folder with the programs' logs and the audit log.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// The binaries that run.
    pub fn assets(&self) -> &Assets {
        &self.assets
    }

    /// Ends the API server at once, as a crash would. etcd, controllers and scheduler go on. Its port stays reserved for it.
    pub fn stop_api_server(&self) {
        drop(self.api_server().take());
    }

    /// Starts the API server again after [`Self::stop_api_server`], on the same port, and waits until it is ready.
    ///
    /// # Errors
    /// What failed, with the end of its log.
    pub async fn start_api_server(&self) -> Result<(), Error> {
        let program = self.assets.program("kube-apiserver")?;
        *self.api_server() = Some(Process::start(
            "kube-apiserver",
            &program,
            &self.api_server_arguments,
            &self.logs.join("kube-apiserver.log"),
        )?);
        self.wait_for_api_server().await
    }

    /// Stops the API server in its tracks: connections stay open and nothing answers, as behind a dead link.
    ///
    /// # Errors
    /// [`Error::Stopped`] if it does not run.
    pub fn freeze_api_server(&self) -> Result<(), Error> {
        self.api_server()
            .as_mut()
            .ok_or(Error::Stopped)?
            .signal("STOP")
    }

    /// Lets the API server go on after [`Self::freeze_api_server`].
    ///
    /// # Errors
    /// [`Error::Stopped`] if it does not run.
    pub fn thaw_api_server(&self) -> Result<(), Error> {
        self.api_server()
            .as_mut()
            .ok_or(Error::Stopped)?
            .signal("CONT")
    }

    /// Fails if a program that should run has ended, with the end of its log.
    ///
    /// # Errors
    /// The first program that ended.
    pub fn check(&mut self) -> Result<(), Error> {
        self.etcd.check()?;
        if let Some(api_server) = self.api_server().as_mut() {
            api_server.check()?;
        }
        let others = [&mut self.controllers, &mut self.scheduler];
        others.into_iter().flatten().try_for_each(Process::check)
    }

    /// Whether a controller manager runs.
    pub(crate) fn has_controllers(&self) -> bool {
        self.controllers.is_some()
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The audit log, if there is one.
    pub(crate) fn audit_log(&self) -> Result<PathBuf, Error> {
        if self.audit {
            Ok(self.logs.join("audit.log"))
        } else {
            Err(Error::NoAudit)
        }
    }

    /// A client for the harness itself.
    pub(crate) async fn harness(&self) -> Result<Client, Error> {
        access::client(&self.kubeconfig(access::HARNESS, &[access::MASTERS])?).await
    }

    pub(crate) fn kubeconfig(
        &self,
        user: &str,
        groups: &[&str],
    ) -> Result<serde_json::Value, Error> {
        let proof = Proof::Certificate(self.authority.client(user, groups)?);
        Ok(access::kubeconfig(
            &self.url(),
            self.authority.certificate(),
            &proof,
        ))
    }

    fn api_server(&self) -> MutexGuard<'_, Option<Process>> {
        self.api_server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn start_first_api_server(
        &mut self,
        options: &Options,
        etcd_port: u16,
    ) -> Result<(), Error> {
        let policy = self.folder.join("audit-policy.yaml");
        fs::write(&policy, audit::policy().to_string())
            .map_err(Error::io(format!("write {}", policy.display())))?;
        let mut attempt = 1;
        loop {
            self.port = ports::free()?;
            self.api_server_arguments = api_server_arguments(
                options,
                &self.folder,
                self.audit_log().ok().as_deref(),
                etcd_port,
                self.port,
            );
            match self.start_api_server().await {
                Err(error) if attempt < PORT_ATTEMPTS && port_was_taken(&error) => attempt += 1,
                ended => {
                    ended?;
                    break;
                }
            }
        }
        let admin = self.kubeconfig(access::ADMIN, &[access::MASTERS])?;
        access::write(&self.folder.join("admin.kubeconfig"), &admin)
    }

    async fn wait_for_api_server(&self) -> Result<(), Error> {
        let client = self.harness().await?;
        let started = Instant::now();
        loop {
            let request = http::Request::get("/readyz").body(Vec::new());
            let request = request.map_err(|error| Error::Kube(kube::Error::HttpError(error)))?;
            let last =
                match tokio::time::timeout(READY_DEADLINE, client.request_text(request)).await {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "/readyz did not answer".to_owned(),
                };
            {
                let mut api_server = self.api_server();
                let api_server = api_server.as_mut().ok_or(Error::Stopped)?;
                api_server.check()?;
                if started.elapsed() > READY_DEADLINE {
                    return Err(Error::NotReady {
                        program: "kube-apiserver".to_owned(),
                        after: READY_DEADLINE,
                        last,
                        log: api_server.log_tail(),
                    });
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn start_controllers(&mut self, options: &Options) -> Result<(), Error> {
        if let Some(which) = options.controllers_flag() {
            let mut arguments = self.client_program(access::CONTROLLERS, options)?;
            arguments.extend([
                which,
                self.file("service-account-private-key-file", "service-account.key"),
                self.file("root-ca-file", "ca.crt"),
                // More than any test sends, so that no controller waits for its own client.
                "--kube-api-qps=1000".to_owned(),
                "--kube-api-burst=2000".to_owned(),
            ]);
            arguments.extend(options.controller_flags.iter().cloned());
            self.controllers = Some(self.start_program("kube-controller-manager", &arguments)?);
        }
        if options.scheduler {
            let arguments = self.client_program(access::SCHEDULER, options)?;
            self.scheduler = Some(self.start_program("kube-scheduler", &arguments)?);
        }
        if options.controllers == Controllers::On {
            self.wait_for_controllers().await?;
        }
        Ok(())
    }

    /// Pods need their namespace's default service account, so the controllers count as ready when they have made the first.
    async fn wait_for_controllers(&mut self) -> Result<(), Error> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.harness().await?, "default");
        let started = Instant::now();
        while accounts.get_opt("default").await?.is_none() {
            self.check()?;
            if started.elapsed() > READY_DEADLINE {
                return Err(Error::NotReady {
                    program: "kube-controller-manager".to_owned(),
                    after: READY_DEADLINE,
                    last: "the namespace default has no service account".to_owned(),
                    log: self
                        .controllers
                        .as_ref()
                        .map(Process::log_tail)
                        .unwrap_or_default(),
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// The flags of a program that is a client of the API server.
    fn client_program(&self, user: &str, options: &Options) -> Result<Vec<String>, Error> {
        let name = format!("{}.kubeconfig", user.replace(':', "-"));
        access::write(
            &self.folder.join(&name),
            &self.kubeconfig(user, &[access::MASTERS])?,
        )?;
        let mut arguments = vec![
            self.file("kubeconfig", &name),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        arguments.extend(options.feature_gate_flag());
        Ok(arguments)
    }

    fn file(&self, flag: &str, name: &str) -> String {
        file_flag(&self.folder, flag, name)
    }

    fn start_program(&self, name: &str, arguments: &[String]) -> Result<Process, Error> {
        let program = self.assets.program(name)?;
        Process::start(
            name,
            &program,
            arguments,
            &self.logs.join(format!("{name}.log")),
        )
    }
}

/// Starts etcd and waits until it listens.
async fn start_etcd(assets: &Assets, folder: &Path, logs: &Path) -> Result<(Process, u16), Error> {
    let program = assets.program("etcd")?;
    let mut attempt = 1;
    loop {
        let port = ports::free()?;
        let url = format!("http://127.0.0.1:{port}");
        let arguments = [
            file_flag(folder, "data-dir", &format!("etcd-{attempt}")),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            // A cluster of one talks to no peer; any port will do.
            "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
            // A crash of the machine loses the test as well.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        let mut etcd = Process::start("etcd", &program, &arguments, &logs.join("etcd.log"))?;
        match wait_for_port(&mut etcd, port).await {
            Err(error) if attempt < PORT_ATTEMPTS && port_was_taken(&error) => attempt += 1,
            ended => return ended.map(|()| (etcd, port)),
        }
    }
}

async fn wait_for_port(process: &mut Process, port: u16) -> Result<(), Error> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let started = Instant::now();
    loop {
        let last = match TcpStream::connect(address).await {
            Ok(_) => return Ok(()),
            Err(error) => error.to_string(),
        };
        process.check()?;
        if started.elapsed() > READY_DEADLINE {
            return Err(Error::NotReady {
                program: "etcd".to_owned(),
                after: READY_DEADLINE,
                last,
                log: process.log_tail(),
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn port_was_taken(error: &Error) -> bool {
    matches!(error, Error::Exited { log, .. } if log.contains("address already in use"))
}
