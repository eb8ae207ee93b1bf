//! Threads that make answers: a bounded number at a time, the others in one line, first come, first served.
//!
//! A thread makes one step, hands it over, and makes the next one only when there is room for it: whoever takes the
//! steps sets the pace. Dropping the [`Ticket`] ends the answer within one step.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::engine::Engine;
use crate::generate::{GenerateError, Generator, StepOutput};
use crate::metrics::Metrics;
use crate::session::Job;
use crate::tokenizer::Tokenizer;

/// Steps that may lie between a thread and whoever takes them.
const STEPS_AHEAD: usize = 4;

/// What a thread reports of a job, in this order: places in the queue, the start, steps, or a failure.
#[derive(Debug)]
pub enum Report {
    /// The job waits.
    Queued {
        /// Jobs that have to end or start before it: 1 for the next in line.
        position: u32,
        /// Estimated time until it starts, in milliseconds; 0 if unknown.
        eta_ms: u32,
    },
    /// Computing begins.
    Started,
    /// A token.
    Step(StepOutput),
    /// The engine failed; nothing follows.
    Failed(String),
}

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull {
    /// When there may be room again, in milliseconds.
    pub retry_after_ms: u32,
}

struct Queued {
    job: Job,
    since: Instant,
    cancelled: Arc<AtomicBool>,
    reports: mpsc::Sender<Report>,
}

struct Queue {
    waiting: VecDeque<Queued>,
    active: usize,
    stopped: bool,
    /// A moving average of how long an answer takes; `None` before the first one ends.
    mean: Option<Duration>,
}

struct Shared {
    engine: Arc<dyn Engine>,
    tokenizer: Arc<Tokenizer>,
    metrics: Metrics,
    max_active: usize,
    queue_max: usize,
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// The threads and their queue.
pub struct Workers {
    shared: Arc<Shared>,
}

/// A job that was taken. Dropping it cancels the job.
pub struct Ticket {
    /// What becomes of the job. It ends when nothing more follows.
    pub reports: mpsc::Receiver<Report>,
    cancelled: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Workers {
    /// Starts `max_active` threads (at least one); `queue_max` more jobs may wait.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn start(
        engine: Arc<dyn Engine>,
        tokenizer: Arc<Tokenizer>,
        max_active: usize,
        queue_max: usize,
        metrics: Metrics,
    ) -> std::io::Result<Self> {
        let max_active = max_active.max(1);
        let shared = Arc::new(Shared {
            engine,
            tokenizer,
            metrics,
            max_active,
            queue_max,
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                active: 0,
                stopped: false,
                mean: None,
            }),
            wake: Condvar::new(),
        });
        let workers = Self {
            shared: Arc::clone(&shared),
        };
        for number in 0..max_active {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("answer-{number}"))
                .spawn(move || shared.work())?;
        }
        Ok(workers)
    }

    /// Puts a job in the line.
    ///
    /// # Errors
    /// When the line is full.
    pub fn submit(&self, job: Job) -> Result<Ticket, QueueFull> {
        let (sender, reports) = mpsc::channel(STEPS_AHEAD);
        let cancelled = Arc::new(AtomicBool::new(false));
        let mut queue = self.shared.lock();
        let free = self.shared.max_active.saturating_sub(queue.active);
        if queue.stopped || queue.waiting.len() >= self.shared.queue_max + free {
            let wait = self.shared.estimate(&queue, queue.waiting.len());
            return Err(QueueFull {
                retry_after_ms: wait.clamp(1_000, 60_000),
            });
        }
        queue.waiting.push_back(Queued {
            job,
            since: Instant::now(),
            cancelled: Arc::clone(&cancelled),
            reports: sender,
        });
        let last = queue.waiting.len() - 1;
        self.shared.tell_positions(&queue, last);
        drop(queue);
        self.shared.wake.notify_one();
        Ok(Ticket {
            reports,
            cancelled,
            shared: Arc::clone(&self.shared),
        })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.wake.notify_all();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        let mut queue = self.shared.lock();
        let before = queue.waiting.len();
        let place = queue
            .waiting
            .iter()
            .position(|queued| Arc::ptr_eq(&queued.cancelled, &self.cancelled));
        if let Some(place) = place {
            queue.waiting.remove(place);
        }
        if queue.waiting.len() < before {
            self.shared.tell_positions(&queue, 0);
        }
    }
}

impl Shared {
    /// The queue holds plain data that is whole after every statement, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds until a job with `ahead` waiting jobs before it starts; 0 if unknown.
    fn estimate(&self, queue: &Queue, ahead: usize) -> u32 {
        let turns = (ahead + queue.active) / self.max_active;
        let wait = queue.mean.unwrap_or_default().as_millis() * turns as u128;
        u32::try_from(wait).unwrap_or(u32::MAX)
    }

    /// Tells the waiting jobs from place `from` on where they stand. One that a thread will take at once is told nothing.
    fn tell_positions(&self, queue: &Queue, from: usize) {
        self.metrics.queue_depth.set(queue.waiting.len() as i64);
        let free = self.max_active.saturating_sub(queue.active);
        for (place, queued) in queue.waiting.iter().enumerate().skip(from.max(free)) {
            let report = Report::Queued {
                position: u32::try_from(place - free + 1).unwrap_or(u32::MAX),
                eta_ms: self.estimate(queue, place - free),
            };
            // If an earlier notice still lies there, this one may be missed; the next change brings another.
            let _ = queued.reports.try_send(report);
        }
    }

    /// One thread: takes jobs until the workers are dropped.
    fn work(&self) {
        while let Some(job) = self.next() {
            let begin = Instant::now();
            self.metrics.active.inc();
            let reports = job.reports.clone();
            // A panic in the engine ends this answer and not the thread.
            if catch_unwind(AssertUnwindSafe(|| self.answer(job))).is_err() {
                let _ = reports.blocking_send(Report::Failed("the engine panicked".to_owned()));
            }
            self.metrics.active.dec();
            let mut queue = self.lock();
            queue.active -= 1;
            let took = begin.elapsed();
            queue.mean = Some(queue.mean.map_or(took, |mean| (mean * 7 + took) / 8));
        }
    }

    fn next(&self) -> Option<Queued> {
        let mut queue = self.lock();
        loop {
            if queue.stopped {
                return None;
            }
            if let Some(job) = queue.waiting.pop_front() {
                queue.active += 1;
                self.tell_positions(&queue, 0);
                return Some(job);
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn answer(&self, queued: Queued) {
        let Queued {
            job,
            since,
            cancelled,
            reports,
        } = queued;
        let is_cancelled = || cancelled.load(Ordering::Relaxed);
        if is_cancelled() || reports.blocking_send(Report::Started).is_err() {
            return;
        }
        let queued = since.elapsed().as_secs_f64();
        self.metrics.queue_seconds.observe(queued);
        if let Err(error) = self.steps(&job, since, &is_cancelled, &reports) {
            let _ = reports.blocking_send(Report::Failed(error.to_string()));
        }
    }

    fn steps(
        &self,
        job: &Job,
        since: Instant,
        is_cancelled: &dyn Fn() -> bool,
        reports: &mpsc::Sender<Report>,
    ) -> Result<(), GenerateError> {
        let tokenizer = Arc::clone(&self.tokenizer);
        let mut generator = Generator::new(&*self.engine, tokenizer, &job.tokens, &job.params)?;
        let mut last: Option<Instant> = None;
        loop {
            let Some(step) = generator.step(is_cancelled)? else {
                return Ok(());
            };
            let now = Instant::now();
            match last.replace(now) {
                None => {
                    self.metrics.prompt_tokens.inc_by(job.tokens.len() as u64);
                    let waited = now.duration_since(since);
                    self.metrics
                        .time_to_first_token
                        .observe(waited.as_secs_f64());
                }
                Some(last) => {
                    let between = now.duration_since(last);
                    self.metrics.inter_token.observe(between.as_secs_f64());
                }
            }
            self.metrics.step(&step);
            let finished = step.finished.is_some();
            if reports.blocking_send(Report::Step(step)).is_err() || finished {
                return Ok(());
            }
        }
    }
}
