//! The configuration file (TOML), read strictly: an unknown key is an error that names it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use halo_ledger::LedgerUrl;
use halo_receipts::ids::{DeviceId, TenantId};
use halo_receipts::payload::ContentPolicy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::Settings;
use crate::cluster::demand::Pace;
use crate::cluster::error::ClusterError;
use crate::directory::{PodAddress, StaticDirectory, Tenant};

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not what it must be.
    #[error("{path} is not a configuration: {error}")]
    Form {
        /// The file.
        path: PathBuf,
        /// Where and why.
        error: Box<toml::de::Error>,
    },
    /// No tenant.
    #[error(
        "the configuration names no tenant; add a [[tenants]] table, or a [cluster] table in a cluster"
    )]
    NoTenant,
    /// Tenants from two places.
    #[error(
        "tenants come from [[tenants]] tables or from the [cluster], not from both; remove one of them"
    )]
    TwoSources,
    /// A name that no field manager or claim takes.
    #[error("name must have 1 to 253 characters")]
    Name,
    /// A tenant twice.
    #[error("tenant {0} is configured twice")]
    TenantTwice(TenantId),
    /// An address that is not `ws://host:port`.
    #[error("tenant {0}: a substrate is written as ws://host:port")]
    Substrate(TenantId),
    /// Device traffic carries keys, so it needs TLS.
    #[error(
        "there is no [tls] table; keys are only sent over TLS, or set insecure_plaintext = true behind a TLS terminator"
    )]
    NoTls,
    /// The ledger's name is not one.
    #[error(transparent)]
    Ledger(#[from] halo_ledger::LedgerError),
    /// A limit of zero that would serve nobody.
    #[error("limits.{0} must not be 0")]
    Zero(&'static str),
}

/// A configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where devices connect.
    pub listen: SocketAddr,
    /// Where `/healthz`, `/readyz` and `/metrics` are served, in plain text.
    pub admin_listen: SocketAddr,
    /// The gateway's name in the claims and the demand that it writes, unlike that of every other gateway; the environment's POD_NAME
    /// or, without that, `gateway` if it is not given.
    pub name: Option<String>,
    /// The ledger: `sqlite:PATH` or `dynamodb:TABLE@REGION`.
    pub ledger: String,
    /// Where blocks wait while DynamoDB is away: a file, or a folder on a local disk.
    pub ledger_spill: Option<PathBuf>,
    /// The certificate and its key.
    pub tls: Option<TlsFiles>,
    /// Serve devices without TLS, because something in front terminates it.
    #[serde(default)]
    pub insecure_plaintext: bool,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
    /// Who is served, where no cluster says so.
    #[serde(default)]
    pub tenants: Vec<TenantEntry>,
    /// Tenants, keys and substrates come from the cluster that the gateway runs in.
    pub cluster: Option<ClusterTable>,
}

/// A gateway in a cluster: who is served under which keys is said by HaloTenants and the Secrets that the operator publishes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterTable {
    /// The namespace with the Secrets, the gateway's own; the environment's POD_NAMESPACE if it is not given.
    pub namespace: Option<String>,
    /// What is kept of private content in new sessions of all tenants: `sealed` or `omit`.
    #[schemars(with = "ContentName")]
    pub content: ContentPolicy,
    /// For which new sessions stay under a root that is being replaced, in milliseconds, so that pods have the next one by then: a
    /// kubelet brings a changed Secret within about 90 seconds.
    pub keys_settle_ms: u64,
}

impl Default for ClusterTable {
    fn default() -> Self {
        Self {
            namespace: None,
            content: ContentPolicy::default(),
            keys_settle_ms: 120_000,
        }
    }
}

impl ClusterTable {
    /// What the gateway of this name is told. `pod_namespace` is the pod's, if it runs in one.
    ///
    /// # Errors
    /// Neither says what the namespace is.
    pub fn settings(
        &self,
        name: &str,
        pod_namespace: Option<&str>,
    ) -> Result<Settings, ClusterError> {
        let namespace = self.namespace.as_deref().or(pod_namespace);
        let namespace = namespace.filter(|namespace| !namespace.is_empty());
        Ok(Settings {
            namespace: namespace.ok_or(ClusterError::Namespace)?.to_owned(),
            name: name.to_owned(),
            content: self.content,
            keys_settle: Duration::from_millis(self.keys_settle_ms),
            pace: Pace::default(),
        })
    }
}

/// How the schema writes what is kept of private content.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase", inline)]
#[expect(dead_code, reason = "only its schema counts")]
enum ContentName {
    Sealed,
    Omit,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The certificate and those that it was signed by.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantEntry {
    /// Its id.
    #[schemars(with = "String")]
    pub id: TenantId,
    /// What is kept of private content: `sealed` or `omit`.
    #[serde(default)]
    #[schemars(with = "ContentName")]
    pub content: ContentPolicy,
    /// The oldest generation of device keys that is accepted.
    #[serde(default)]
    pub min_device_generation: u32,
    /// Devices that are not accepted any more.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub revoked_devices: Vec<DeviceId>,
    /// Where its pod listens: `ws://host:port`. None: every question is refused, recording works.
    pub substrate: Option<String>,
    /// Requests in any minute.
    #[serde(default = "default_requests_per_minute")]
    pub requests_per_minute: u32,
    /// Requests that may wait for a pod at once.
    #[serde(default = "default_held_requests")]
    pub held_requests: usize,
    /// Seconds that a request may wait for a pod; `limits.hold_ms` if it is not given.
    pub held_seconds: Option<u32>,
    /// Requests that may be with a substrate at once.
    #[serde(default = "default_concurrent_escalations")]
    pub concurrent_escalations: usize,
    /// Devices that may be connected at once.
    #[serde(default = "default_devices")]
    pub devices: usize,
}

fn default_requests_per_minute() -> u32 {
    Tenant::default().requests_per_minute
}

fn default_held_requests() -> usize {
    Tenant::default().held_requests
}

fn default_concurrent_escalations() -> usize {
    Tenant::default().concurrent_escalations
}

fn default_devices() -> usize {
    Tenant::default().devices
}

/// Bounds. Times in milliseconds unless the name says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Sockets that are served at once.
    pub sockets: usize,
    /// TLS handshakes at once: they cost a hundred times what a frame costs.
    pub handshakes: usize,
    /// For a TLS handshake.
    pub handshake_ms: u64,
    /// For the headers of a request, and for its body.
    pub request_ms: u64,
    /// For a connection's first sign of life: a valid frame, or the pong to the first ping.
    pub first_frame_ms: u64,
    /// Between pings, and how long a pong may take.
    pub ping_ms: u64,
    /// For one frame to leave: a device that does not read for so long is cut off.
    pub send_ms: u64,
    /// Refused messages after which a connection is closed.
    pub refused_messages: u32,
    /// Failures of one address after which it is not served; 0 serves it always, for a gateway behind a proxy that
    /// hides addresses.
    pub penalty_failures: u32,
    /// For how long, in seconds.
    pub penalty_seconds: u64,
    /// The most tokens of one answer; what is kept of an answer for a device that reconnects is bounded by it.
    pub answer_tokens: u32,
    /// For the ledger to do what it is asked.
    pub ledger_ms: u64,
    /// For a pod to accept a connection.
    pub connect_ms: u64,
    /// For which a request is held until its pod is there.
    pub hold_ms: u64,
    /// Bytes of one tenant's requests that are held at once.
    pub hold_bytes: usize,
    /// Between the notices of a held request.
    pub notice_ms: u64,
    /// For which an answer goes on without its device.
    pub resume_ms: u64,
    /// For a pod whose link is gone to close its answer, before the gateway closes it.
    pub pod_close_ms: u64,
    /// For which a pod may be silent, pongs included.
    pub pod_silence_ms: u64,
    /// For requests to finish at a shutdown.
    pub drain_ms: u64,
    /// Connections that are closed each second of a shutdown.
    pub drain_closes_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sockets: 20_000,
            handshakes: 64,
            handshake_ms: 5_000,
            request_ms: 5_000,
            first_frame_ms: 10_000,
            ping_ms: 20_000,
            send_ms: 10_000,
            refused_messages: 16,
            penalty_failures: 50,
            penalty_seconds: 60,
            answer_tokens: 16_384,
            ledger_ms: 10_000,
            connect_ms: 1_000,
            hold_ms: 120_000,
            hold_bytes: 2 * 1024 * 1024,
            notice_ms: 5_000,
            resume_ms: 30_000,
            pod_close_ms: 2_000,
            pod_silence_ms: 45_000,
            drain_ms: 30_000,
            drain_closes_per_second: 200,
        }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
            path: path.to_owned(),
            error,
        })?;
        let config: Self = toml::from_str(&text).map_err(|error| ConfigError::Form {
            path: path.to_owned(),
            error: Box::new(error),
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.tls.is_none() && !self.insecure_plaintext {
            return Err(ConfigError::NoTls);
        }
        let limits = &self.limits;
        let needed = [
            ("sockets", limits.sockets as u64),
            ("handshakes", limits.handshakes as u64),
            ("handshake_ms", limits.handshake_ms),
            ("request_ms", limits.request_ms),
            ("first_frame_ms", limits.first_frame_ms),
            ("ping_ms", limits.ping_ms),
            ("send_ms", limits.send_ms),
            ("refused_messages", limits.refused_messages.into()),
            ("answer_tokens", limits.answer_tokens.into()),
            ("ledger_ms", limits.ledger_ms),
            ("connect_ms", limits.connect_ms),
            ("notice_ms", limits.notice_ms),
            ("pod_silence_ms", limits.pod_silence_ms),
        ];
        if let Some((name, _)) = needed.into_iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::Zero(name));
        }
        self.ledger_url()?;
        if self
            .name
            .as_ref()
            .is_some_and(|name| name.is_empty() || name.len() > 253)
        {
            return Err(ConfigError::Name);
        }
        match &self.cluster {
            Some(_) if !self.tenants.is_empty() => Err(ConfigError::TwoSources),
            Some(_) => Ok(()),
            None => self.directory().map(|_| ()),
        }
    }

    /// The gateway's name; `pod` is the pod's, if it runs in one.
    pub fn gateway_name(&self, pod: Option<&str>) -> String {
        let own = self.name.as_deref().or(pod.filter(|pod| !pod.is_empty()));
        own.unwrap_or("gateway").to_owned()
    }

    /// The ledger's name.
    pub fn ledger_url(&self) -> Result<LedgerUrl, ConfigError> {
        Ok(self.ledger.parse()?)
    }

    /// The tenants and their substrates.
    pub fn directory(&self) -> Result<StaticDirectory, ConfigError> {
        if self.tenants.is_empty() {
            return Err(ConfigError::NoTenant);
        }
        let mut directory = StaticDirectory::default();
        for entry in &self.tenants {
            let substrate = entry.substrate.as_deref().map(|url| {
                pod_address(url).ok_or_else(|| ConfigError::Substrate(entry.id.clone()))
            });
            let tenant = Tenant {
                content: entry.content,
                min_device_generation: entry.min_device_generation,
                revoked: entry
                    .revoked_devices
                    .iter()
                    .cloned()
                    .collect::<HashSet<_>>(),
                requests_per_minute: entry.requests_per_minute,
                held_requests: entry.held_requests,
                held_seconds: entry.held_seconds,
                concurrent_escalations: entry.concurrent_escalations,
                devices: entry.devices,
            };
            if !directory.insert(entry.id.clone(), tenant, substrate.transpose()?) {
                return Err(ConfigError::TenantTwice(entry.id.clone()));
            }
        }
        Ok(directory)
    }
}

/// `ws://host:port`, with nothing behind it.
fn pod_address(url: &str) -> Option<PodAddress> {
    let uri: http::Uri = url.parse().ok()?;
    let authority = uri.authority()?;
    let plain = uri.scheme_str() == Some("ws")
        && uri.path() == "/"
        && uri.query().is_none()
        && authority.port_u16().is_some()
        && !authority.as_str().contains('@');
    plain.then(|| PodAddress(authority.as_str().to_owned()))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
