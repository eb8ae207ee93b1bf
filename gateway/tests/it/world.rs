//! A running gateway on ports of its own, with a SQLite ledger in a folder of its own.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use halo_gateway::certificate::Certificate;
use halo_gateway::config::Limits;
use halo_gateway::directory::{Directory, PodAddress, StaticDirectory, Tenant};
use halo_gateway::gateway::{Gateway, Parts};
use halo_gateway::metrics::Metrics;
use halo_gateway::server;
use halo_ledger::{Ledger, SqliteLedger};
use halo_receipts::payload::ContentPolicy;
use halo_telemetry::registry::Maker;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::author::{store, tenant};
use crate::pod::Pod;

/// A gateway, its ledger, and the pod that its tenant's questions go to.
pub struct World {
    pub gateway: Arc<Gateway>,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub certificate: CertificateDer<'static>,
    pub ledger: Arc<dyn Ledger>,
    _folder: tempfile::TempDir,
}

/// Limits that let a test see a bound without waiting for it.
pub fn quick() -> Limits {
    Limits {
        pod_close_ms: 300,
        hold_ms: 400,
        resume_ms: 10_000,
        drain_ms: 200,
        penalty_failures: 0,
        ..Limits::default()
    }
}

impl World {
    /// A gateway whose tenant has no substrate.
    pub async fn alone() -> Self {
        Self::with(None, quick(), ContentPolicy::Sealed).await
    }

    pub async fn with(pod: Option<SocketAddr>, limits: Limits, content: ContentPolicy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = SqliteLedger::open(folder.path().join("ledger.db")).unwrap();
        Self::on(Arc::new(ledger), folder, pod, limits, content).await
    }

    pub async fn on(
        ledger: Arc<dyn Ledger>,
        folder: tempfile::TempDir,
        pod: Option<SocketAddr>,
        limits: Limits,
        content: ContentPolicy,
    ) -> Self {
        let mut directory = StaticDirectory::default();
        let policy = Tenant {
            content,
            min_device_generation: 1,
            revoked: HashSet::from(["lost-phone".parse().unwrap()]),
            requests_per_minute: 100,
            held_requests: 1,
            ..Tenant::default()
        };
        let pod = pod.map(|address| PodAddress(address.to_string()));
        directory.insert(tenant(), policy, pod);
        Self::of(ledger, folder, Arc::new(directory), limits).await
    }

    /// A gateway with any directory.
    pub async fn of(
        ledger: Arc<dyn Ledger>,
        folder: tempfile::TempDir,
        directory: Arc<dyn Directory>,
        limits: Limits,
    ) -> Self {
        let gateway = Gateway::new(Parts {
            name: "gateway-under-test".to_owned(),
            ledger: Arc::clone(&ledger),
            keys: Arc::new(store()),
            directory,
            limits,
            metrics: Metrics::new(&Maker::new()).unwrap(),
        })
        .unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let tls = server::tls(Certificate::fixed(vec![certificate.clone()], key).unwrap()).unwrap();
        let devices = listener().await;
        let admin = listener().await;
        let (address, admin_address) = (devices.local_addr().unwrap(), admin.local_addr().unwrap());
        tokio::spawn(server::serve_devices(
            Arc::clone(&gateway),
            devices,
            Some(tls),
        ));
        tokio::spawn(server::serve_admin(
            Arc::clone(&gateway),
            admin,
            CancellationToken::new(),
        ));
        Self {
            gateway,
            address,
            admin: admin_address,
            certificate,
            ledger,
            _folder: folder,
        }
    }

    /// A metric's value; the name with its labels as the exposition writes it. 0 if it is not there yet.
    pub fn metric(&self, name: &str) -> f64 {
        let text = String::from_utf8(self.gateway.metrics.render().unwrap()).unwrap();
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// Waits for a condition; fails after ten seconds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what} did not happen");
}

pub async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// A gateway and a pod that share a ledger.
pub async fn with_pod(manner: crate::pod::Manner, permits: usize) -> (World, Pod) {
    with_pod_and(manner, permits, quick(), ContentPolicy::Sealed).await
}

/// The same with other limits and another policy.
pub async fn with_pod_and(
    manner: crate::pod::Manner,
    permits: usize,
    limits: Limits,
    content: ContentPolicy,
) -> (World, Pod) {
    let port = listener().await;
    let world = World::with(Some(port.local_addr().unwrap()), limits, content).await;
    let pod = Pod::start(port, manner, Arc::clone(&world.ledger), content, permits);
    (world, pod)
}
