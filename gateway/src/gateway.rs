//! What every part of a running gateway shares.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use halo_ledger::Ledger;
use halo_receipts::ids::SessionId;
use halo_receipts::keys::KeyStore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answers::Answers;
use crate::config::Limits;
use crate::directory::Directory;
use crate::hold::hall::{Hall, HallLimits};
use crate::limits::{Penalties, RequestRates};
use crate::metrics::Metrics;
use crate::opening::Nonces;
use crate::seats::Seats;

/// How many nonces of openings are remembered: more than a gateway can open within four minutes.
const NONCES: usize = 1 << 20;
/// How many addresses with failures are remembered.
const PENALTY_ADDRESSES: usize = 1 << 16;

/// Why a gateway does not run.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The cluster cannot be worked with.
    #[error(transparent)]
    Cluster(#[from] crate::cluster::error::ClusterError),
    /// The ledger does not open.
    #[error(transparent)]
    Ledger(#[from] halo_ledger::LedgerError),
    /// A counter could not be registered.
    #[error("the metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A port cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        error: std::io::Error,
    },
    /// The certificate or its key is not usable.
    #[error("the TLS certificate or key cannot be used: {0}")]
    Tls(String),
}

/// What a gateway is made of.
pub struct Parts {
    /// The gateway's name in the claims that it writes.
    pub name: String,
    /// Where receipts live.
    pub ledger: Arc<dyn Ledger>,
    /// Where keys come from.
    pub keys: Arc<dyn KeyStore>,
    /// Tenants and their substrates.
    pub directory: Arc<dyn Directory>,
    /// Bounds.
    pub limits: Limits,
    /// Counters.
    pub metrics: Metrics,
}

/// What every part of a running gateway shares.
pub struct Gateway {
    /// The gateway's name in the claims that it writes.
    pub name: String,
    /// Where receipts live.
    pub ledger: Arc<dyn Ledger>,
    /// Where keys come from.
    pub keys: Arc<dyn KeyStore>,
    /// Tenants and their substrates.
    pub directory: Arc<dyn Directory>,
    /// Bounds.
    pub limits: Limits,
    /// Counters.
    pub metrics: Metrics,
    /// Answers under way.
    pub answers: Answers,
    /// Requests that wait for a pod or have one.
    pub hall: Arc<Hall>,
    /// Set when the gateway shuts down: nothing new is begun.
    pub drain: CancellationToken,
    /// Set when the time to finish is over: what is under way is interrupted.
    pub interrupt: CancellationToken,
    /// Device connections and answers.
    pub tasks: TaskTracker,
    /// Connected devices, by tenant.
    pub seats: Arc<Seats>,
    rates: Mutex<RequestRates>,
    penalties: Mutex<Penalties>,
    nonces: Mutex<Nonces>,
    connections: Mutex<std::collections::HashMap<SessionId, (u64, CancellationToken)>>,
    next_connection: AtomicU64,
    closes: AtomicU64,
    started: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gateway {
    /// A gateway that listens nowhere yet.
    pub fn new(parts: Parts) -> Result<Arc<Self>, GatewayError> {
        let penalties = Penalties::new(
            parts.limits.penalty_failures,
            parts.limits.penalty_seconds.saturating_mul(1000),
            PENALTY_ADDRESSES,
        );
        let synced = i64::from(parts.directory.is_synced());
        parts.metrics.directory_synced.set(synced);
        let hall = Hall::new(
            Arc::clone(&parts.directory),
            parts.metrics.clone(),
            HallLimits {
                age_ms: parts.limits.hold_ms,
                bytes: parts.limits.hold_bytes,
                notice_ms: parts.limits.notice_ms,
            },
        );
        Ok(Arc::new(Self {
            name: parts.name,
            ledger: parts.ledger,
            keys: parts.keys,
            directory: parts.directory,
            limits: parts.limits,
            metrics: parts.metrics,
            answers: Answers::default(),
            hall,
            drain: CancellationToken::new(),
            interrupt: CancellationToken::new(),
            tasks: TaskTracker::new(),
            seats: Arc::default(),
            rates: Mutex::default(),
            penalties: Mutex::new(penalties),
            nonces: Mutex::new(Nonces::new(NONCES)),
            connections: Mutex::default(),
            next_connection: AtomicU64::new(0),
            closes: AtomicU64::new(0),
            started: Instant::now(),
        }))
    }

    /// Milliseconds since the gateway started.
    pub fn steady_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The tenants' requests per minute.
    pub fn rates(&self) -> MutexGuard<'_, RequestRates> {
        lock(&self.rates)
    }

    /// The addresses with failures.
    pub fn penalties(&self) -> MutexGuard<'_, Penalties> {
        lock(&self.penalties)
    }

    /// The nonces of openings.
    pub fn nonces(&self) -> MutexGuard<'_, Nonces> {
        lock(&self.nonces)
    }

    /// Enters a device connection. An older one of the same session, which its device has given up, is told to end.
    pub fn connect(&self, session: SessionId) -> (u64, CancellationToken) {
        let number = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let entry = (number, CancellationToken::new());
        if let Some((_, older)) = lock(&self.connections).insert(session, entry.clone()) {
            older.cancel();
        }
        self.metrics.connections.inc();
        entry
    }

    /// Forgets a device connection.
    pub fn disconnect(&self, session: &SessionId, number: u64) {
        let mut connections = lock(&self.connections);
        if connections
            .get(session)
            .is_some_and(|(current, _)| *current == number)
        {
            connections.remove(session);
        }
        self.metrics.connections.dec();
    }

    /// How long a connection waits before it closes for a shutdown, so that not all devices come back at once.
    pub fn close_delay(&self) -> Duration {
        let turn = self.closes.fetch_add(1, Ordering::Relaxed);
        let per_second = u64::from(self.limits.drain_closes_per_second.max(1));
        Duration::from_millis(turn.saturating_mul(1000) / per_second)
    }
}
