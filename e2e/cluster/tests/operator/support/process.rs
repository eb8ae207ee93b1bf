//! Operators as processes: each has a runtime of its own, so that a crash ends everything that it does.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use halo_cloud::aws::{AwsCloud, AwsSecrets, AwsSession, AwsSettings, Pace, Paces, Timing};
use halo_operator::context::Context;
use halo_operator::effect::Witness;
use halo_operator::runtime::metrics::Metrics;
use halo_operator::runtime::operator::{Ended, Handle, Operator, Parts, StartError};
use halo_operator::settings::Settings;
use tokio::runtime::Runtime;

use super::{OPERATOR, Recorder, World};

/// Changes what an operator is told.
pub type Change = Box<dyn FnOnce(&mut Settings) + Send>;

/// What one operator is started with.
#[derive(Default)]
pub struct Launch {
    /// Its name among replicas; `operator-0` unless given. One that starts again under the name of one that crashed leads at once.
    pub identity: Option<String>,
    /// Sees every effect.
    pub witness: Option<Recorder>,
    /// Changes what it is told.
    pub change: Option<Change>,
    /// Who it is at the API server, instead of the operator's service account.
    pub user: Option<String>,
    /// Sees every effect instead of `witness`.
    pub seer: Option<Arc<dyn Witness>>,
    /// Where it reaches the API server, instead of at the API server itself.
    pub through: Option<SocketAddr>,
}

impl Launch {
    /// Under this name.
    pub fn named(identity: &str) -> Self {
        Self {
            identity: Some(identity.to_owned()),
            ..Self::default()
        }
    }

    /// Seen by this witness.
    pub fn seen_by(witness: Recorder) -> Self {
        Self {
            witness: Some(witness),
            ..Self::default()
        }
    }

    /// With settings of its own.
    pub fn told(change: impl FnOnce(&mut Settings) + Send + 'static) -> Self {
        Self {
            change: Some(Box::new(change)),
            ..Self::default()
        }
    }
}

/// An operator that runs. Dropping it is a crash.
pub struct Process {
    /// What it did.
    pub witness: Arc<Recorder>,
    handle: Option<Handle>,
    runtime: Option<Runtime>,
}

impl Process {
    pub(super) async fn start(world: &World, launch: Launch) -> Result<Self, StartError> {
        let user = launch.user.as_deref().unwrap_or(OPERATOR);
        let groups = [
            "system:serviceaccounts",
            "system:serviceaccounts:halo-system",
        ];
        let mut kube = world.plane.config_as(user, &groups).await.unwrap();
        if let Some(address) = launch.through {
            kube.cluster_url = format!("https://{address}").parse().unwrap();
        }
        let mut settings = world.settings.clone();
        if let Some(identity) = launch.identity {
            settings.identity = identity;
        }
        if let Some(change) = launch.change {
            change(&mut settings);
        }
        let witness = Arc::new(launch.witness.unwrap_or_else(Recorder::new));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(&settings.identity)
            .enable_all()
            .build()
            .unwrap();
        let seer = launch.seer.unwrap_or_else(|| witness.clone());
        let (url, clock) = (world.emulator.url(), world.clock.clone());
        let start = runtime.spawn(async move {
            let metrics = Arc::new(Metrics::new().unwrap());
            let session = AwsSession::with_credentials(
                aws(&settings, &url),
                Credentials::new("AKIDEXAMPLE", "secret", None, None, "test"),
                metrics.clone(),
            );
            let session = session.unwrap();
            Operator::start(Parts {
                kube,
                settings,
                http: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                cloud: Arc::new(AwsCloud::new(&session)),
                secrets: Arc::new(AwsSecrets::new(&session)),
                clock,
                witness: seer,
                metrics,
            })
            .await
        });
        let mut process = Self {
            witness,
            handle: None,
            runtime: Some(runtime),
        };
        process.handle = Some(start.await.unwrap()?);
        Ok(process)
    }

    fn handle(&self) -> &Handle {
        self.handle.as_ref().unwrap()
    }

    /// Where its pages are.
    pub fn http(&self) -> SocketAddr {
        self.handle().http()
    }

    /// What its reconciles work with.
    pub fn context(&self) -> &Arc<Context> {
        self.handle().context()
    }

    /// Whether it leads.
    pub fn is_leading(&self) -> bool {
        self.handle().is_leading()
    }

    /// Waits until it leads; false if it ended before.
    pub async fn leads(&self) -> bool {
        self.handle().leads().await
    }

    /// Its page of figures.
    pub async fn figures(&self) -> String {
        get(self.http(), "/metrics").await
    }

    /// Ends it in an orderly way: what it began is finished and the lease is given back.
    pub async fn stop(mut self) -> Ended {
        let handle = self.handle.take().unwrap();
        handle.shutdown();
        handle.join().await
    }

    /// Waits until it ends by itself.
    pub async fn ended(mut self) -> Ended {
        self.handle.take().unwrap().join().await
    }

    /// Ends it at once, wherever it is: nothing is finished and nothing is given back.
    pub fn crash(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.handle.take();
        if let Some(runtime) = self.runtime.take() {
            // What runs ends at its next await, and nothing waits for it.
            runtime.shutdown_background();
        }
    }
}

/// Short waits, and as many calls as it likes.
fn aws(settings: &Settings, url: &str) -> AwsSettings {
    let pace = Pace {
        burst: 1000.0,
        per_second: 500.0,
    };
    AwsSettings {
        ec2_endpoint: Some(url.to_owned()),
        ssm_endpoint: Some(url.to_owned()),
        paces: Paces {
            describe: pace,
            run: pace,
            mutate: pace,
            parameter: pace,
        },
        timing: Timing {
            attempt: Duration::from_secs(2),
            call: Duration::from_millis(500),
            batch: Duration::from_millis(10),
            backoff: Duration::from_millis(20),
            ..Timing::default()
        },
        ..AwsSettings::new(&settings.region, &settings.cluster)
    }
}

/// A page, by HTTP/1.0 and by hand.
pub async fn get(address: SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
