//! Root secrets: read from the parameter store, held in memory only, shared by all tenants that name the same one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use halo_cloud::{SecretError, Secrets};
use halo_crds::reasons;
use halo_receipts::keys::{KeyError, ROOT_SECRET_MIN, RootSecret};
use jiff::{SignedDuration, Timestamp};

use crate::clock::Clock;
use crate::settings::Pace;

/// Why there is no root secret. Never says what its value is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// The parameter cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The value is too short to be a secret.
    #[error(
        "version {generation} of the parameter {parameter} has {length} bytes, and a root secret has at least {ROOT_SECRET_MIN}: \
         store a longer one and raise spec.keys.generation to its version"
    )]
    TooShort {
        /// The parameter's name.
        parameter: String,
        /// Its version.
        generation: u32,
        /// How many bytes the value has.
        length: usize,
    },
}

impl RootError {
    /// A stable PascalCase name, for reasons, labels and events.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Secret(error) => error.name(),
            Self::TooShort { .. } => reasons::ROOT_TOO_SHORT,
        }
    }
}

/// Since when a root secret cannot be read, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub error: RootError,
    /// Since when; the first failure after a success.
    pub since: Timestamp,
}

/// What is known of one root secret.
pub struct Reading {
    /// The secret as it was last read; `None` before the first success.
    pub root: Option<Arc<RootSecret>>,
    /// Why the last read failed; `None` if it succeeded.
    pub failure: Option<Failure>,
    /// When the next read is due. Asking earlier gives the same answer without a call.
    pub next: Timestamp,
}

/// The root secrets of all tenants. There is no default root.
///
/// One version of one parameter is read by one call, however many tenants ask at once, and read again on a jittered clock; a
/// failure is remembered for a time that doubles with each further one.
pub struct RootStore {
    secrets: Arc<dyn Secrets>,
    clock: Arc<dyn Clock>,
    pace: Pace,
    entries: Mutex<HashMap<(String, u32), Arc<Entry>>>,
}

/// One version of one parameter. Whoever holds the lock reads it; the others wait and take what was read.
type Entry = tokio::sync::Mutex<State>;

#[derive(Default)]
struct State {
    root: Option<Arc<RootSecret>>,
    failure: Option<Failure>,
    failures: u32,
    next: Option<Timestamp>,
}

impl State {
    fn reading(&self, next: Timestamp) -> Reading {
        Reading {
            root: self.root.clone(),
            failure: self.failure.clone(),
            next,
        }
    }
}

impl RootStore {
    /// A store that has read nothing yet.
    pub fn new(secrets: Arc<dyn Secrets>, clock: Arc<dyn Clock>, pace: Pace) -> Self {
        Self {
            secrets,
            clock,
            pace,
            entries: Mutex::default(),
        }
    }

    /// The root secret in this version of a parameter: from memory while it is fresh, else from the parameter store.
    pub async fn read(&self, parameter: &str, generation: u32) -> Reading {
        let entry = self.entry(parameter, generation);
        let mut state = entry.lock().await;
        let now = self.clock.now();
        if let Some(next) = state.next.filter(|next| now < *next) {
            return state.reading(next);
        }
        let call = self.secrets.parameter(parameter, Some(generation));
        let outcome = match tokio::time::timeout(self.pace.api_timeout, call).await {
            Ok(answer) => answer.map_err(RootError::from),
            Err(_) => Err(RootError::Secret(SecretError::Unavailable {
                code: "Timeout".to_owned(),
                message: format!("no answer within {:?}", self.pace.api_timeout),
            })),
        };
        let outcome = outcome.and_then(|mut value| {
            if value.version != generation {
                return Err(RootError::Secret(SecretError::MissingVersion {
                    name: parameter.to_owned(),
                    version: generation,
                }));
            }
            RootSecret::new(std::mem::take(&mut *value.value)).map_err(|error| {
                RootError::TooShort {
                    parameter: parameter.to_owned(),
                    generation,
                    length: match error {
                        KeyError::ShortRoot(length) => length,
                        KeyError::NotHex | KeyError::Unsealed => 0,
                    },
                }
            })
        });
        let now = self.clock.now();
        let wait = match outcome {
            Ok(root) => {
                state.root = Some(Arc::new(root));
                state.failure = None;
                state.failures = 0;
                self.pace.root_refresh
            }
            Err(error) => {
                tracing::warn!(parameter, generation, reason = error.name(), %error, "the root secret cannot be read");
                let since = state.failure.as_ref().map_or(now, |failure| failure.since);
                state.failure = Some(Failure { error, since });
                let wait = retry_after(&self.pace, state.failures);
                state.failures = state.failures.saturating_add(1);
                wait
            }
        };
        let next = after(now, jittered(wait, random()));
        state.next = Some(next);
        state.reading(next)
    }

    /// Forgets, and so wipes, every root that none of `used` names.
    pub fn keep_only(&self, used: impl Fn(&str, u32) -> bool) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|(parameter, generation), _| used(parameter, *generation));
    }

    fn entry(&self, parameter: &str, generation: u32) -> Arc<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries
            .entry((parameter.to_owned(), generation))
            .or_default();
        Arc::clone(entry)
    }
}

/// How long nobody asks again after a failure that `failures` others came before.
fn retry_after(pace: &Pace, failures: u32) -> Duration {
    let factor = 1u32 << failures.min(20);
    pace.retry.saturating_mul(factor).min(pace.retry_max)
}

/// `wait`, a tenth shorter or longer by a random number from 0 to 255.
fn jittered(wait: Duration, random: u8) -> Duration {
    let share = 0.9 + 0.2 * f64::from(random) / 255.0;
    wait.mul_f64(share)
}

fn random() -> u8 {
    let mut byte = [128];
    // Without random numbers there is no jitter, and nothing else is lost.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}
