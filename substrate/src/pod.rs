//! What all connections of one pod share: the tenant, its keys, the ledger, the model once it is loaded, and whether
//! the pod is on its way out.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use halo_ledger::Ledger;
use halo_receipts::ids::{SessionId, TenantId};
use halo_receipts::time::Timestamp;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::engine::EngineError;
use crate::keys::PodKeys;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::session::Served;
use crate::template::{ChatTemplate, Message};
use crate::tokenizer::Tokenizer;
use crate::worker::Workers;

/// How long the ledger's answer to "can you be written" is believed, if it is yes and if it is no: a look may cost a write.
const CHECK_KEPT: Duration = Duration::from_secs(5);
const CHECK_AGAIN: Duration = Duration::from_secs(1);
/// How long the ledger may take for that answer.
const CHECK_LIMIT: Duration = Duration::from_secs(2);
/// Links at once whose header is read although no key here signed them.
const UNSIGNED_MAX: usize = 4;

/// Where the pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It takes requests.
    Running,
    /// It finishes what it has.
    Draining,
    /// It breaks off what it has.
    Interrupting,
}

/// What a prompt becomes before it is tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptForm {
    /// It is fed as it is.
    Raw,
    /// It is the one message of a conversation, in the model's chat template, or raw if the model has none.
    Chat {
        /// Whether a reasoning model may think aloud before it answers.
        thinking: bool,
    },
}

/// Turns what a person asked into the tokens that the model is fed.
pub struct Prompter {
    tokenizer: Arc<Tokenizer>,
    /// The template, and what it is told about thinking; none: the prompt is fed as it is.
    template: Option<(ChatTemplate, bool)>,
}

impl Prompter {
    /// The way from a prompt to the tokens of this model.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        template: Option<ChatTemplate>,
        form: PromptForm,
    ) -> Self {
        let template = match form {
            PromptForm::Raw => None,
            PromptForm::Chat { thinking } => template.map(|template| (template, thinking)),
        };
        Self {
            tokenizer,
            template,
        }
    }

    /// The tokens of a prompt.
    ///
    /// # Errors
    /// What the template or the tokenizer refuses.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>, EngineError> {
        match &self.template {
            None => self.tokenizer.encode(prompt, true),
            Some((template, thinking)) => {
                let text = template.render(&[Message::user(prompt)], Some(*thinking))?;
                self.tokenizer.encode(&text, false)
            }
        }
    }
}

/// A loaded model, ready to answer.
pub struct Ready {
    /// What receipts and limits say of it.
    pub served: Arc<Served>,
    /// Prompt to tokens.
    pub prompter: Arc<Prompter>,
    /// The threads that compute.
    pub workers: Workers,
}

impl Ready {
    /// Starts the threads for a model.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn start(
        model: Model,
        served: Served,
        form: PromptForm,
        limits: Limits,
        metrics: Metrics,
    ) -> std::io::Result<Self> {
        metrics.kernels(&model.engine.kernels());
        let prompter = Prompter::new(Arc::clone(&model.tokenizer), model.template, form);
        let workers = Workers::start(
            model.engine,
            model.tokenizer,
            limits.max_active,
            limits.queue_max,
            metrics,
        )?;
        Ok(Self {
            served: Arc::new(served),
            prompter: Arc::new(prompter),
            workers,
        })
    }
}

/// How much a pod takes on.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Answers computed at once.
    pub max_active: usize,
    /// Requests that may wait besides.
    pub queue_max: usize,
}

/// One pod.
pub struct Pod {
    /// The one tenant.
    pub tenant: TenantId,
    /// Its keys, under every root that is held.
    pub keys: PodKeys,
    /// Where receipts go.
    pub ledger: Arc<dyn Ledger>,
    /// What is counted.
    pub metrics: Metrics,
    /// How the pod names itself in claims.
    pub name: String,
    /// Open links; waited for when the pod drains.
    pub links: TaskTracker,
    /// Taken while the header of a link is read that no key here signed.
    pub unsigned: Semaphore,
    ready: OnceLock<Arc<Ready>>,
    phase: watch::Sender<Phase>,
    /// The sessions in which an answer is under way.
    busy: Mutex<HashSet<SessionId>>,
    checked: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

impl Pod {
    /// A pod whose model is still to come.
    pub fn new(
        tenant: TenantId,
        keys: PodKeys,
        ledger: Arc<dyn Ledger>,
        metrics: Metrics,
        name: String,
    ) -> Self {
        Self {
            tenant,
            keys,
            ledger,
            metrics,
            name,
            links: TaskTracker::new(),
            unsigned: Semaphore::new(UNSIGNED_MAX),
            ready: OnceLock::new(),
            phase: watch::Sender::new(Phase::Running),
            busy: Mutex::new(HashSet::new()),
            checked: tokio::sync::Mutex::new(None),
        }
    }

    /// The model is there: requests are taken from now on. The first model stays.
    pub fn set_ready(&self, ready: Ready) {
        if self.ready.set(Arc::new(ready)).is_ok() {
            self.metrics.ready.set(1);
        }
    }

    /// The model, if it is loaded.
    pub fn ready(&self) -> Option<Arc<Ready>> {
        self.ready.get().map(Arc::clone)
    }

    /// Where the pod is in its life.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Tells when the phase changes.
    pub fn watch_phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Goes on to a later phase; never back.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        });
        if phase > Phase::Running {
            self.metrics.ready.set(0);
        }
    }

    /// Takes the session for one answer; `None` while another one is under way in it.
    pub fn reserve(self: &Arc<Self>, session: SessionId) -> Option<Reservation> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.insert(session).then(|| Reservation {
            pod: Arc::clone(self),
            session,
        })
    }

    /// Whether the ledger can be written; an answer is kept for a moment, so that asking often costs nothing.
    pub async fn ledger_answers(&self) -> bool {
        let mut checked = self.checked.lock().await;
        if let Some((at, answer)) = *checked
            && at.elapsed() < if answer { CHECK_KEPT } else { CHECK_AGAIN }
        {
            return answer;
        }
        let answer = match tokio::time::timeout(CHECK_LIMIT, self.ledger.check()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the ledger does not answer");
                false
            }
            Err(_) => {
                tracing::warn!("the ledger does not answer in time");
                false
            }
        };
        *checked = Some((Instant::now(), answer));
        answer
    }
}

/// A session in which an answer is under way. Dropping it gives the session free.
pub struct Reservation {
    pod: Arc<Pod>,
    session: SessionId,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut busy = self.pod.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.session);
    }
}

/// By how many seconds this program's clock is shifted, for tests.
static CLOCK_OFFSET: AtomicI64 = AtomicI64::new(0);

/// Shifts the clock of [`now`] by so many seconds, for tests of what happens at another time.
pub fn shift_clock(seconds: i64) {
    CLOCK_OFFSET.store(seconds, Ordering::Relaxed);
}

/// The wall clock. A clock before 1970 reads as 1970.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let micros = i64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(i64::MAX);
    let offset = CLOCK_OFFSET
        .load(Ordering::Relaxed)
        .saturating_mul(1_000_000);
    let micros = u64::try_from(micros.saturating_add(offset)).unwrap_or(0);
    Timestamp::from_micros(micros).unwrap_or(Timestamp::LAST)
}
