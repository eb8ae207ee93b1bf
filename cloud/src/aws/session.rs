//! What all calls share, and the one loop that makes a call: pace, credentials, signature, exchange, and again if that helps.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use bytes::Bytes;
use http::HeaderValue;
use tokio::time::Instant;

use super::action::{Action, Class};
use super::keys::{Keys, chain_of};
use super::observe::CallObserver;
use super::pace::Bucket;
use super::retry;
use super::settings::{AwsSettings, Endpoint, SetupError, Timing, check_region};
use super::sign::{self, Unsigned};
use super::wire::{Answer, Wire};
use super::words;
use crate::{CloudError, Failure};

/// A code of our own: the call would have had to wait too long for its turn.
const PACED: &str = "PacedOut";

/// Credentials, connections, the pace of calls and their observer. Cheap to clone; clones share all of it.
#[derive(Clone)]
pub struct AwsSession {
    inner: Arc<Inner>,
}

struct Inner {
    region: String,
    user_agent: HeaderValue,
    ec2: Endpoint,
    ssm: Endpoint,
    timing: Timing,
    wire: Wire,
    keys: Keys,
    describe: Mutex<Bucket>,
    run: Mutex<Bucket>,
    mutate: Mutex<Bucket>,
    parameter: Mutex<Bucket>,
    observer: Arc<dyn CallObserver>,
}

impl AwsSession {
    /// A session whose credentials are found as the SDKs find them: environment, profile, web identity token (IRSA), container
    /// credentials (EKS Pod Identity), metadata service. Nothing is sent yet. Needs a Tokio runtime once it is used.
    ///
    /// # Errors
    /// The region or an endpoint is not one, or TLS cannot be set up.
    pub fn new(settings: AwsSettings, observer: Arc<dyn CallObserver>) -> Result<Self, SetupError> {
        Self::build(settings, None, observer)
    }

    /// A session with credentials of one's own, such as fixed ones for an emulator.
    ///
    /// # Errors
    /// As [`AwsSession::new`].
    pub fn with_credentials(
        settings: AwsSettings,
        credentials: impl ProvideCredentials + 'static,
        observer: Arc<dyn CallObserver>,
    ) -> Result<Self, SetupError> {
        let credentials = SharedCredentialsProvider::new(credentials);
        Self::build(settings, Some(credentials), observer)
    }

    fn build(
        settings: AwsSettings,
        credentials: Option<SharedCredentialsProvider>,
        observer: Arc<dyn CallObserver>,
    ) -> Result<Self, SetupError> {
        check_region(&settings.region)?;
        let endpoint = |service, told: &Option<String>| {
            Endpoint::new(service, &settings.region, told.as_deref())
        };
        let ec2 = endpoint("ec2", &settings.ec2_endpoint)?;
        let ssm = endpoint("ssm", &settings.ssm_endpoint)?;
        for open in [&ec2, &ssm].into_iter().filter(|e| e.is_open()) {
            tracing::warn!(
                service = open.service,
                endpoint = %open.uri,
                "plain HTTP to another machine: secrets can be read on the way"
            );
        }
        let wire = Wire::new(&settings.timing, ec2.is_tls() || ssm.is_tls())?;
        let now = Instant::now();
        let bucket = |pace| Mutex::new(Bucket::new(pace, now));
        Ok(Self {
            inner: Arc::new(Inner {
                user_agent: user_agent(&settings.cluster),
                ec2,
                ssm,
                timing: settings.timing,
                wire,
                keys: Keys::new(&settings.region, credentials),
                describe: bucket(settings.paces.describe),
                run: bucket(settings.paces.run),
                mutate: bucket(settings.paces.mutate),
                parameter: bucket(settings.paces.parameter),
                region: settings.region,
                observer,
            }),
        })
    }

    pub(super) fn region(&self) -> &str {
        &self.inner.region
    }

    pub(super) fn timing(&self) -> &Timing {
        &self.inner.timing
    }

    pub(super) fn observer(&self) -> &dyn CallObserver {
        &*self.inner.observer
    }

    /// Makes a call, again if that is safe and may help. `read` makes a result of an answer of any status.
    pub(super) async fn call<T>(
        &self,
        action: Action,
        body: Bytes,
        read: impl Fn(&Answer) -> Result<T, CloudError>,
    ) -> Result<T, CloudError> {
        let deadline = Instant::now() + self.inner.timing.call;
        let mut attempt = 1;
        loop {
            let error = match self.attempt(action, &body, &read, deadline).await {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            let first = self.inner.timing.backoff;
            let pause = retry::pause(
                action.class(),
                error.failure,
                attempt,
                first,
                retry::random(),
            )
            .filter(|pause| error.code != PACED && Instant::now() + *pause < deadline);
            let Some(pause) = pause else {
                return Err(error);
            };
            tracing::debug!(
                action = action.name(),
                code = error.code,
                attempt,
                ?pause,
                "again"
            );
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    async fn attempt<T>(
        &self,
        action: Action,
        body: &Bytes,
        read: impl Fn(&Answer) -> Result<T, CloudError>,
        deadline: Instant,
    ) -> Result<T, CloudError> {
        let turn = self.turn(action, deadline).await;
        let began = Instant::now();
        let result = match turn {
            Ok(()) => self.once(action, body, read).await,
            Err(error) => Err(error),
        };
        let elapsed = began.elapsed();
        let code = result
            .as_ref()
            .map_or_else(|error| error.code.as_str(), |_| "OK");
        self.inner.observer.observed(action.name(), code, elapsed);
        tracing::debug!(action = action.name(), code, ?elapsed, "AWS call");
        self.learn(action, &result);
        result
    }

    /// Waits for this call's turn in its class.
    async fn turn(&self, action: Action, deadline: Instant) -> Result<(), CloudError> {
        let now = Instant::now();
        let patience = deadline.saturating_duration_since(now);
        let wait = self
            .bucket(action)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(now, patience);
        let Some(wait) = wait else {
            return Err(CloudError {
                action: action.name(),
                failure: Failure::Throttled,
                code: PACED.to_owned(),
                message: "too many calls wait for their turn".to_owned(),
            });
        };
        if !wait.is_zero() {
            self.inner.observer.delayed(action.name(), wait);
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// The pace follows what the cloud said.
    fn learn<T>(&self, action: Action, result: &Result<T, CloudError>) {
        let mut bucket = self
            .bucket(action)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match result {
            Err(error) if error.code == PACED => {}
            Err(error) => match error.failure {
                Failure::Throttled => bucket.throttled(Instant::now()),
                Failure::Unreachable | Failure::Server | Failure::Credentials => {}
                _ => bucket.succeeded(Instant::now()),
            },
            Ok(_) => bucket.succeeded(Instant::now()),
        }
    }

    fn bucket(&self, action: Action) -> &Mutex<Bucket> {
        match action.class() {
            Class::Describe => &self.inner.describe,
            Class::Run => &self.inner.run,
            Class::Mutate => &self.inner.mutate,
            Class::Parameter => &self.inner.parameter,
        }
    }

    async fn once<T>(
        &self,
        action: Action,
        body: &Bytes,
        read: impl Fn(&Answer) -> Result<T, CloudError>,
    ) -> Result<T, CloudError> {
        let failed = |failure, code: &str, message| CloudError {
            action: action.name(),
            failure,
            code: code.to_owned(),
            message,
        };
        let credentials = self
            .inner
            .keys
            .get()
            .await
            .map_err(|why| failed(Failure::Credentials, "NoCredentials", why.message))?;
        let (endpoint, content_type, target) = match action {
            Action::GetParameter => (
                &self.inner.ssm,
                "application/x-amz-json-1.1",
                Some("AmazonSSM.GetParameter"),
            ),
            _ => (
                &self.inner.ec2,
                "application/x-www-form-urlencoded; charset=utf-8",
                None,
            ),
        };
        let unsigned = Unsigned {
            endpoint,
            region: &self.inner.region,
            user_agent: &self.inner.user_agent,
            content_type,
            target,
            body: body.clone(),
        };
        let request = sign::signed(&unsigned, credentials.clone(), SystemTime::now())
            .map_err(|error| failed(Failure::Invalid, "NotSent", chain_of(&error)))?;
        let answer = self.inner.wire.exchange(request).await.map_err(|none| {
            failed(
                Failure::Unreachable,
                none.code,
                words::one_line(&none.message),
            )
        })?;
        let result = read(&answer);
        if result.as_ref().is_err_and(says_bad_keys) {
            self.inner.keys.forget(&credentials);
        }
        result
    }
}

/// Whether an answer refuses the credentials themselves. EC2 says AuthFailure to keys that it does not know.
fn says_bad_keys(error: &CloudError) -> bool {
    error.failure == Failure::Credentials || error.code == "AuthFailure"
}

/// `halo/0.1.0 cluster/prod`, with only what may stand in a header.
fn user_agent(cluster: &str) -> HeaderValue {
    let cluster: String = cluster
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-._".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(64)
        .collect();
    let plain = concat!("halo/", env!("CARGO_PKG_VERSION"));
    HeaderValue::try_from(format!("{plain} cluster/{cluster}"))
        .unwrap_or(HeaderValue::from_static(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_agents() {
        assert_eq!(
            user_agent("prod.eu-1"),
            concat!("halo/", env!("CARGO_PKG_VERSION"), " cluster/prod.eu-1")
        );
        assert_eq!(
            user_agent("a b\r\nx: ü"),
            concat!("halo/", env!("CARGO_PKG_VERSION"), " cluster/a_b__x___")
        );
    }
}
