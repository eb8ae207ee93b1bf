//! Credentials, fetched once and again before they end.

use std::time::{Duration, SystemTime};

use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::words;

/// Credentials are fetched anew this long before they end.
const EARLY: Duration = Duration::from_secs(5 * 60);
/// This close to their end they are not used any more.
const TOO_LATE: Duration = Duration::from_secs(15);
/// Credentials without an end, such as a profile's, are read again after this time.
const REREAD: Duration = Duration::from_secs(15 * 60);
/// After a failure nothing is fetched for this long: a missing metadata service takes seconds to fail each time.
const AFTER_FAILURE: Duration = Duration::from_secs(3);
/// No fetch takes longer.
const FETCH: Duration = Duration::from_secs(10);

/// No credentials could be had, and why.
#[derive(Debug, Clone)]
pub(super) struct NoKeys {
    pub(super) message: String,
}

/// Where credentials come from and the ones in use. No `Debug`.
pub(super) struct Keys {
    region: String,
    /// Held by the one caller that fetches.
    provider: Mutex<Option<SharedCredentialsProvider>>,
    state: std::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Current>,
    failed: Option<(Instant, NoKeys)>,
}

struct Current {
    credentials: Credentials,
    fetched: Instant,
}

/// What a look at the state says.
enum Known {
    Good(Credentials),
    Stale(Credentials),
    Failed(NoKeys),
    Nothing,
}

/// What may be done with credentials of this age and end.
#[derive(Debug, PartialEq, Eq)]
enum Freshness {
    Good,
    /// They still work, but new ones should be fetched.
    Stale,
    Ended,
}

fn freshness(expiry: Option<SystemTime>, now: SystemTime, age: Duration) -> Freshness {
    match expiry {
        None if age < REREAD => Freshness::Good,
        None => Freshness::Stale,
        Some(expiry) => match expiry.duration_since(now) {
            Ok(left) if left > EARLY => Freshness::Good,
            Ok(left) if left > TOO_LATE => Freshness::Stale,
            _ => Freshness::Ended,
        },
    }
}

impl Keys {
    /// The default chain, or credentials of one's own.
    pub(super) fn new(region: &str, provider: Option<SharedCredentialsProvider>) -> Self {
        Self {
            region: region.to_owned(),
            provider: Mutex::new(provider),
            state: std::sync::Mutex::default(),
        }
    }

    /// Credentials to sign with now. One caller fetches; the others wait for it only if they have none that still work.
    pub(super) async fn get(&self) -> Result<Credentials, NoKeys> {
        let (mut provider, stale) = match self.known() {
            Known::Good(credentials) => return Ok(credentials),
            Known::Failed(why) => return Err(why),
            Known::Stale(credentials) => match self.provider.try_lock() {
                Ok(provider) => (provider, Some(credentials)),
                Err(_) => return Ok(credentials),
            },
            Known::Nothing => {
                let provider = self.provider.lock().await;
                // Whoever held the lock has fetched them meanwhile, or has failed.
                match self.known() {
                    Known::Good(credentials) | Known::Stale(credentials) => return Ok(credentials),
                    Known::Failed(why) => return Err(why),
                    Known::Nothing => (provider, None),
                }
            }
        };
        let source = match &*provider {
            Some(source) => source.clone(),
            None => {
                let chain = DefaultCredentialsChain::builder()
                    .region(Region::new(self.region.clone()))
                    .build()
                    .await;
                provider
                    .insert(SharedCredentialsProvider::new(chain))
                    .clone()
            }
        };
        let fetched = match tokio::time::timeout(FETCH, source.provide_credentials()).await {
            Ok(Ok(credentials)) => Ok(credentials),
            Ok(Err(error)) => Err(chain_of(&error)),
            Err(_) => Err("they were not there in time".to_owned()),
        };
        let mut state = self.state();
        match fetched {
            Ok(credentials) => {
                tracing::debug!(expiry = ?credentials.expiry(), "AWS credentials fetched");
                state.failed = None;
                state.current = Some(Current {
                    credentials: credentials.clone(),
                    fetched: Instant::now(),
                });
                Ok(credentials)
            }
            Err(message) => {
                let why = NoKeys { message };
                tracing::warn!(reason = why.message, "AWS credentials cannot be fetched");
                state.failed = Some((Instant::now(), why.clone()));
                stale.ok_or(why)
            }
        }
    }

    /// The cloud refused these: they are not used again.
    pub(super) fn forget(&self, refused: &Credentials) {
        let mut state = self.state();
        if state
            .current
            .as_ref()
            .is_some_and(|current| current.credentials == *refused)
        {
            state.current = None;
        }
    }

    fn known(&self) -> Known {
        let state = self.state();
        let now = Instant::now();
        let stale = match &state.current {
            None => None,
            Some(current) => {
                let age = now.saturating_duration_since(current.fetched);
                match freshness(current.credentials.expiry(), SystemTime::now(), age) {
                    Freshness::Good => return Known::Good(current.credentials.clone()),
                    Freshness::Stale => Some(current.credentials.clone()),
                    Freshness::Ended => None,
                }
            }
        };
        let failed = state
            .failed
            .as_ref()
            .filter(|(at, _)| now.saturating_duration_since(*at) < AFTER_FAILURE);
        match (stale, failed) {
            // So soon after a failure they are as good as it gets.
            (Some(credentials), Some(_)) => Known::Good(credentials),
            (Some(credentials), None) => Known::Stale(credentials),
            (None, Some((_, why))) => Known::Failed(why.clone()),
            (None, None) => Known::Nothing,
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while it holds this lock, and what it guards is whole at any time.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// An error and its causes in one line.
pub(super) fn chain_of(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    words::one_line(&line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_credential_types::provider::{error::CredentialsError, future};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn freshness_table() {
        let now = SystemTime::now();
        let at = |seconds: u64| Some(now + Duration::from_secs(seconds));
        let young = Duration::ZERO;
        for (expiry, age, expected) in [
            (None, young, Freshness::Good),
            (None, REREAD, Freshness::Stale),
            (at(3_600), REREAD, Freshness::Good),
            (at(300), young, Freshness::Stale),
            (at(16), young, Freshness::Stale),
            (at(15), young, Freshness::Ended),
            (Some(now - EARLY), young, Freshness::Ended),
        ] {
            assert_eq!(freshness(expiry, now, age), expected, "{expiry:?} {age:?}");
        }
    }

    /// Hands out credentials named by how often it was asked; each lives as long as it says; a life of 0 is a failure.
    #[derive(Debug, Clone, Default)]
    struct Source {
        asked: Arc<AtomicU64>,
        life: Arc<AtomicU64>,
    }

    impl ProvideCredentials for Source {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let n = self.asked.fetch_add(1, Ordering::SeqCst);
            let life = self.life.load(Ordering::SeqCst);
            future::ProvideCredentials::ready(if life == 0 {
                Err(CredentialsError::not_loaded("none here"))
            } else {
                let expiry = SystemTime::now() + Duration::from_secs(life);
                Ok(Credentials::new(
                    format!("AK{n}"),
                    "s",
                    None,
                    Some(expiry),
                    "test",
                ))
            })
        }
    }

    impl Source {
        fn asked(&self) -> u64 {
            self.asked.load(Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn fetched_once_and_again_when_they_end() {
        let source = Source::default();
        let keys = Keys::new(
            "us-east-2",
            Some(SharedCredentialsProvider::new(source.clone())),
        );
        // None: an error that says why, and no second try at once.
        for _ in 0..3 {
            let why = keys.get().await.err().unwrap();
            assert!(why.message.contains("none here"), "{}", why.message);
        }
        assert_eq!(source.asked(), 1);
        tokio::time::advance(AFTER_FAILURE).await;

        source.life.store(3_600, Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(keys.get().await.unwrap().access_key_id(), "AK1");
        }
        // Refused by the cloud: fetched anew, once.
        let refused = keys.get().await.unwrap();
        source.life.store(60, Ordering::SeqCst);
        keys.forget(&refused);
        keys.forget(&refused);
        assert_eq!(keys.get().await.unwrap().access_key_id(), "AK2");
        // They end soon, so each use looks for new ones; if there are none they still serve.
        assert_eq!(keys.get().await.unwrap().access_key_id(), "AK3");
        source.life.store(0, Ordering::SeqCst);
        assert_eq!(keys.get().await.unwrap().access_key_id(), "AK3");
        assert_eq!(keys.get().await.unwrap().access_key_id(), "AK3");
        assert_eq!(source.asked(), 5);
    }

    /// Hands out credentials that end soon, once; whoever asks again waits for ever.
    #[derive(Debug, Default)]
    struct Slow {
        asked: AtomicU64,
    }

    impl ProvideCredentials for Slow {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            if self.asked.fetch_add(1, Ordering::SeqCst) > 0 {
                return future::ProvideCredentials::new(std::future::pending());
            }
            let expiry = SystemTime::now() + Duration::from_secs(60);
            let credentials = Credentials::new("AK", "s", None, Some(expiry), "test");
            future::ProvideCredentials::ready(Ok(credentials))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_source_holds_up_one_caller_only() {
        let provider = SharedCredentialsProvider::new(Slow::default());
        let keys = Arc::new(Keys::new("us-east-2", Some(provider)));
        assert_eq!(keys.get().await.unwrap().access_key_id(), "AK");
        let slow = tokio::spawn({
            let keys = Arc::clone(&keys);
            async move {
                keys.get()
                    .await
                    .map(|found| found.access_key_id().to_owned())
            }
        });
        tokio::task::yield_now().await;
        // While that one waits, the old ones serve; no time passes.
        let began = Instant::now();
        assert_eq!(keys.get().await.unwrap().access_key_id(), "AK");
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(!slow.is_finished());
        // In the end it makes do with them too.
        assert_eq!(slow.await.unwrap().unwrap(), "AK");
        assert_eq!(began.elapsed(), FETCH);
    }
}
