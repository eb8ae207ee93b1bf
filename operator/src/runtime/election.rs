//! The lease at the API server: read, taken, renewed and given back.
//!
//! Its client repeats nothing and each call has a deadline. A leader that cannot renew stops at two thirds of the term, whatever a call
//! that is under way may still bring.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lease::{Candidate, Decision, Record};
use super::managers::Manager;
use super::metrics::Metrics;
use crate::clock::Clock;
use crate::settings::{LeaseSettings, Settings};

/// How an election ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was asked to end; the lease is given back if it was held.
    Released,
    /// This process led and does not any more, for this reason.
    Lost(String),
}

/// A candidate for the lease.
pub struct Election {
    api: Api<Lease>,
    settings: LeaseSettings,
    namespace: String,
    candidate: Candidate,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    leading: watch::Sender<bool>,
    call: Duration,
    /// The lease as it was last read or written.
    known: Option<Lease>,
    /// When another's lease lapses, or a failure is tried again, if that is before the next look.
    sooner: Option<Instant>,
}

/// Why a try brought nothing.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error("{0}")]
    Api(#[source] Box<kube::Error>),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl TryError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(error) if matches!(&**error, kube::Error::Api(status) if status.code == 409))
    }

    fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(error) if matches!(&**error, kube::Error::Api(status) if status.code == 404))
    }

    fn code(&self) -> u16 {
        match self {
            Self::Api(error) => match &**error {
                kube::Error::Api(status) => status.code,
                _ => 0,
            },
            Self::Timeout(_) => 0,
        }
    }
}

impl Election {
    /// The candidate that `settings` name. `client` must repeat nothing. `leading` tells the rest of the process.
    pub fn new(
        client: Client,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        leading: watch::Sender<bool>,
    ) -> Self {
        let lease = settings.lease.clone();
        metrics.leading(&lease.name, false);
        // A call that takes longer leaves no time for another before the term's two thirds are over.
        let call = settings.pace.api_timeout.min(lease.duration / 4);
        Self {
            api: Api::namespaced(client, &settings.namespace),
            namespace: settings.namespace.clone(),
            candidate: Candidate::new(&settings.identity, lease.duration),
            call: call.max(Duration::from_millis(100)),
            settings: lease,
            clock,
            metrics,
            leading,
            known: None,
            sooner: None,
        }
    }

    /// Runs until `stop`, or until this process has led and does not any more.
    pub async fn run(mut self, stop: CancellationToken) -> End {
        loop {
            let until = self.candidate.leads_until();
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => None,
                () = sleep_until(until) => {
                    Some(Err("the lease could not be renewed in time".to_owned()))
                }
                outcome = self.step() => Some(outcome),
            };
            match outcome {
                None => {
                    self.release().await;
                    return End::Released;
                }
                Some(Err(why)) => return self.end(why),
                Some(Ok(())) => {}
            }
            let until = self.candidate.leads_until();
            let next = Instant::now() + self.settings.renew_every;
            let next = self.sooner.take().map_or(next, |sooner| next.min(sooner));
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.release().await;
                    return End::Released;
                }
                () = sleep_until(until) => {
                    return self.end("the lease could not be renewed in time".to_owned());
                }
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    fn end(&mut self, why: String) -> End {
        self.candidate.lost();
        self.tell(false);
        End::Lost(why)
    }

    fn tell(&self, leads: bool) {
        self.metrics.leading(&self.settings.name, leads);
        self.leading.send_if_modified(|leading| {
            let changed = *leading != leads;
            *leading = leads;
            changed
        });
    }

    /// One look and what follows. `Err` if this process led and another does now.
    async fn step(&mut self) -> Result<(), String> {
        let led = self.candidate.leads_until().is_some();
        match self.attempt().await {
            Ok(Some(asked)) => {
                self.candidate.granted(asked);
                if !led {
                    tracing::info!(
                        lease = self.settings.name,
                        me = self.candidate.me(),
                        "leading"
                    );
                }
                self.tell(true);
                Ok(())
            }
            Ok(None) if led => Err("another process holds the lease".to_owned()),
            Ok(None) => Ok(()),
            Err(error) => {
                // What is known may be out of date.
                self.known = None;
                self.sooner = Some(Instant::now() + self.settings.renew_every / 3);
                tracing::warn!(lease = self.settings.name, %error, "the lease cannot be read or written");
                Ok(())
            }
        }
    }

    /// Tries to have or keep the lease. When the call that granted it began; `None` if another holds it.
    async fn attempt(&mut self) -> Result<Option<Instant>, TryError> {
        let mine = self
            .known
            .as_ref()
            .is_some_and(|lease| record_of(lease).holder == self.candidate.me());
        if !mine || self.candidate.leads_until().is_none() {
            self.known = self.read().await?;
        }
        let record = self.known.as_ref().map(record_of);
        let asked = Instant::now();
        let written = match self.candidate.look(record.as_ref(), asked) {
            Decision::Wait(lapses) => {
                self.sooner = Some(lapses);
                return Ok(None);
            }
            Decision::Create => self.write(None, true).await,
            Decision::Take => {
                let known = self.known.clone();
                self.write(known, true).await
            }
            Decision::Renew => {
                let known = self.known.clone();
                self.write(known, false).await
            }
        };
        match written {
            Ok(lease) => {
                self.known = Some(lease);
                Ok(Some(asked))
            }
            Err(error) if error.is_conflict() || error.is_not_found() => {
                // Somebody wrote in between; who, shows now.
                self.known = self.read().await?;
                let record = self.known.as_ref().map(record_of);
                let now = Instant::now();
                match self.candidate.look(record.as_ref(), now) {
                    Decision::Wait(_) => Ok(None),
                    Decision::Renew => {
                        let known = self.known.clone();
                        let lease = self.write(known, false).await?;
                        self.known = Some(lease);
                        Ok(Some(now))
                    }
                    Decision::Create | Decision::Take => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn read(&self) -> Result<Option<Lease>, TryError> {
        self.timed("GET", self.api.get_opt(&self.settings.name))
            .await
    }

    async fn write(&self, before: Option<Lease>, takes: bool) -> Result<Lease, TryError> {
        let now = MicroTime(self.clock.now());
        let old = before
            .as_ref()
            .and_then(|lease| lease.spec.clone())
            .unwrap_or_default();
        let transitions = old.lease_transitions.unwrap_or_default();
        let spec = LeaseSpec {
            holder_identity: Some(self.candidate.me().to_owned()),
            lease_duration_seconds: Some(seconds(self.settings.duration)),
            renew_time: Some(now.clone()),
            acquire_time: if takes {
                Some(now)
            } else {
                old.acquire_time.clone()
            },
            lease_transitions: Some(if takes && before.is_some() {
                transitions.saturating_add(1)
            } else {
                transitions
            }),
            ..old
        };
        self.put(before, spec).await
    }

    async fn put(&self, before: Option<Lease>, spec: LeaseSpec) -> Result<Lease, TryError> {
        let params = PostParams {
            dry_run: false,
            field_manager: Some(Manager::Lease.name().to_owned()),
        };
        match before {
            // With its resource version, so that the server refuses it if anybody wrote since.
            Some(mut lease) => {
                lease.spec = Some(spec);
                lease.metadata.managed_fields = None;
                let put = self.api.replace(&self.settings.name, &params, &lease);
                self.timed("PUT", put).await
            }
            None => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.settings.name.clone()),
                        namespace: Some(self.namespace.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(spec),
                };
                self.timed("POST", self.api.create(&params, &lease)).await
            }
        }
    }

    /// Gives the lease back, so that another need not wait for its term.
    async fn release(&mut self) {
        let led = self.candidate.leads_until().is_some();
        self.candidate.lost();
        self.tell(false);
        let known = self.known.take();
        if !led {
            return;
        }
        let given = match self.give_back(known).await {
            // A renewal was on its way when the end was asked for.
            Err(error) if error.is_conflict() => match self.read().await {
                Ok(lease) => self.give_back(lease).await,
                Err(error) => Err(error),
            },
            given => given,
        };
        if let Err(error) = given {
            tracing::warn!(%error, "the lease could not be given back; it lapses by itself");
        }
    }

    /// Writes that nobody holds the lease, if it is this candidate's.
    async fn give_back(&self, lease: Option<Lease>) -> Result<(), TryError> {
        let mine = |lease: &Lease| record_of(lease).holder == self.candidate.me();
        let Some(lease) = lease.filter(mine) else {
            return Ok(());
        };
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(self.clock.now())),
            ..lease.spec.clone().unwrap_or_default()
        };
        self.put(Some(lease), spec).await.map(drop)
    }

    async fn timed<T>(
        &self,
        method: &str,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, TryError> {
        let begun = std::time::Instant::now();
        let result = match tokio::time::timeout(self.call, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(TryError::Api(Box::new(error))),
            Err(_) => Err(TryError::Timeout(self.call)),
        };
        let code = result.as_ref().err().map_or(200, TryError::code);
        self.metrics.api_request(method, code, begun.elapsed());
        result
    }
}

/// Sleeps until then, or for ever.
async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// A term in whole seconds, as a lease says it; never shorter than it is.
fn seconds(term: Duration) -> i32 {
    let whole = term.as_secs() + u64::from(term.subsec_nanos() > 0);
    i32::try_from(whole.max(1)).unwrap_or(i32::MAX)
}

fn record_of(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let term = spec.lease_duration_seconds.unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        term: Duration::from_secs(u64::try_from(term).unwrap_or_default()),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or_default(),
    }
}

#[cfg(test)]
#[path = "election_tests.rs"]
mod tests;
