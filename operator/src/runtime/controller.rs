//! Workers that take keys from a queue and reconcile them. A panic costs one reconcile.

use std::any::Any;
use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::metrics::{Metrics, ReconcileResult};
use super::queue::Queue;

/// Names an object.
pub trait Key: Clone + Eq + Hash + Send + Sync + 'static {
    /// Its namespace; empty if it has none.
    fn namespace(&self) -> &str;
    /// Its name.
    fn name(&self) -> &str;
}

impl Key for String {
    fn namespace(&self) -> &str {
        ""
    }

    fn name(&self) -> &str {
        self
    }
}

impl Key for (String, String) {
    fn namespace(&self) -> &str {
        &self.0
    }

    fn name(&self) -> &str {
        &self.1
    }
}

/// A reconcile that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// A stable PascalCase name: the event's reason.
    pub category: &'static str,
    /// What failed, with its causes.
    pub message: String,
    /// Whether it is no failure a person should hear of: somebody else wrote first, or this process does not lead any more.
    pub quiet: bool,
}

/// An error and its causes, in one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// What one controller works with.
pub struct Controller<K: Key> {
    /// Its name: the label of its figures.
    pub name: &'static str,
    /// Its keys.
    pub queue: Queue<K>,
    /// Reconciles at once.
    pub workers: usize,
    /// Figures.
    pub metrics: Arc<Metrics>,
}

impl<K: Key> Controller<K> {
    /// Reconciles until the queue is shut down; what has begun is finished. Dropping the future ends all reconciles at once.
    ///
    /// `failed` is told of every failure that a person should hear of.
    pub async fn run<F, A>(self, reconcile: F, failed: impl Fn(&K, &Failed) + Send + Sync + 'static)
    where
        F: Fn(K) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Option<Duration>, Failed>> + Send + 'static,
    {
        self.metrics.controller(self.name, self.workers);
        let workers = self.workers.max(1);
        let shared = Arc::new((self, reconcile, failed));
        let mut running = JoinSet::new();
        for _ in 0..workers {
            let shared = shared.clone();
            running.spawn(async move {
                let (controller, reconcile, failed) = &*shared;
                while let Some(taken) = controller.queue.get().await {
                    controller.one(taken.key(), reconcile, failed).await;
                }
            });
        }
        while running.join_next().await.is_some() {}
    }

    async fn one<F, A>(&self, key: &K, reconcile: &F, failed: &impl Fn(&K, &Failed))
    where
        F: Fn(K) -> A,
        A: Future<Output = Result<Option<Duration>, Failed>>,
    {
        let id = getrandom::u64().unwrap_or_default();
        let span = tracing::info_span!(
            target: "halo::trace", "reconcile", controller = self.name, namespace = key.namespace(), name = key.name(),
            id = %format_args!("{id:016x}")
        );
        let working = self.metrics.working(self.name);
        let begun = Instant::now();
        // The closure is inside as well: making the future may panic.
        let guarded = AssertUnwindSafe(async { reconcile(key.clone()).await }).catch_unwind();
        let outcome = guarded.instrument(span.clone()).await;
        let _entered = span.enter();
        drop(working);
        let took = begun.elapsed();
        let result = match outcome {
            Ok(Ok(Some(after))) => {
                self.queue.forget(key);
                self.queue.add_after(key.clone(), after);
                ReconcileResult::RequeueAfter
            }
            Ok(Ok(None)) => {
                self.queue.forget(key);
                ReconcileResult::Success
            }
            Ok(Err(error)) => {
                let wait = self.queue.add_rate_limited(key.clone());
                if error.quiet {
                    tracing::debug!(
                        category = error.category,
                        error = error.message,
                        ?wait,
                        "again"
                    );
                } else {
                    tracing::warn!(
                        category = error.category,
                        error = error.message,
                        ?wait,
                        "failed"
                    );
                    failed(key, &error);
                }
                ReconcileResult::Error
            }
            Err(panic) => {
                let wait = self.queue.add_rate_limited(key.clone());
                let message = panic_message(&*panic);
                tracing::error!(message, ?wait, "a reconcile panicked");
                let error = Failed {
                    category: "Panicked",
                    message: "the operator failed by a fault of its own; its log says where"
                        .to_owned(),
                    quiet: false,
                };
                failed(key, &error);
                ReconcileResult::Panic
            }
        };
        self.metrics.reconciled(self.name, result, took);
        tracing::debug!(?result, ?took, "reconciled");
    }
}

/// What a panic said.
fn panic_message(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "no message"
    }
}

/// A name for logs.
pub fn display<K: Key>(key: &K) -> impl Display {
    if key.namespace().is_empty() {
        key.name().to_owned()
    } else {
        format!("{}/{}", key.namespace(), key.name())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::queue::Backoff;
    use super::*;
    use tokio::sync::mpsc;

    fn controller(workers: usize) -> Controller<String> {
        let metrics = Arc::new(Metrics::new().unwrap());
        let backoff = Backoff {
            first: Duration::from_secs(1),
            most: Duration::from_secs(60),
        };
        Controller {
            name: "test",
            queue: Queue::new(backoff, metrics.queue("test")),
            workers,
            metrics,
        }
    }

    fn error() -> Failed {
        Failed {
            category: "Broken",
            message: "it is broken".to_owned(),
            quiet: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_and_a_panic_cost_one_reconcile_each() {
        let controller = controller(2);
        let (queue, metrics) = (controller.queue.clone(), controller.metrics.clone());
        let (send, mut done) = mpsc::unbounded_channel();
        let (tell, mut told) = mpsc::unbounded_channel();
        let tries = Arc::new(AtomicUsize::new(0));
        let running = tokio::spawn(controller.run(
            move |key: String| {
                let (tries, send) = (tries.clone(), send.clone());
                async move {
                    match (key.as_str(), tries.fetch_add(1, Ordering::SeqCst)) {
                        ("bad", 0) => Err(error()),
                        ("bad", 1) => std::panic::panic_any("by purpose"),
                        _ => {
                            send.send((key, tokio::time::Instant::now())).unwrap();
                            Ok(None)
                        }
                    }
                }
            },
            move |key: &String, failed: &Failed| {
                tell.send((key.clone(), failed.category)).unwrap();
            },
        ));
        let begun = tokio::time::Instant::now();
        queue.add("bad".to_owned());
        let (key, at) = done.recv().await.unwrap();
        assert_eq!(key, "bad");
        // One second and two seconds, each with its jitter.
        let waited = at.duration_since(begun).as_secs_f64();
        assert!((2.4..=3.6).contains(&waited), "{waited}");
        queue.add("good".to_owned());
        assert_eq!(done.recv().await.unwrap().0, "good");
        assert_eq!(told.recv().await.unwrap(), ("bad".to_owned(), "Broken"));
        assert_eq!(told.recv().await.unwrap(), ("bad".to_owned(), "Panicked"));
        assert_eq!(queue.failures(&"bad".to_owned()), 0);
        queue.shutdown();
        running.await.unwrap();
        let text = metrics.text().unwrap();
        for line in [
            r#"controller_runtime_reconcile_panics_total{controller="test"} 1"#,
            r#"controller_runtime_reconcile_errors_total{controller="test"} 2"#,
            r#"controller_runtime_reconcile_total{controller="test",result="error"} 2"#,
            r#"controller_runtime_reconcile_total{controller="test",result="success"} 2"#,
            r#"controller_runtime_active_workers{controller="test"} 0"#,
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_comes_back_when_it_asked_to() {
        let controller = controller(1);
        let queue = controller.queue.clone();
        let (send, mut done) = mpsc::unbounded_channel();
        let running = tokio::spawn(controller.run(
            move |_| {
                send.send(tokio::time::Instant::now()).unwrap();
                async { Ok(Some(Duration::from_secs(7))) }
            },
            |_: &String, _: &Failed| {},
        ));
        queue.add("a".to_owned());
        let first = done.recv().await.unwrap();
        let second = done.recv().await.unwrap();
        assert_eq!(second.duration_since(first), Duration::from_secs(7));
        running.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_begun_is_finished_at_shutdown_and_no_more() {
        let controller = controller(1);
        let queue = controller.queue.clone();
        let (send, mut begun) = mpsc::unbounded_channel();
        let finished = Arc::new(AtomicUsize::new(0));
        let count = finished.clone();
        let running = tokio::spawn(controller.run(
            move |key: String| {
                send.send(key).unwrap();
                let count = count.clone();
                async move {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    count.fetch_add(1, Ordering::SeqCst);
                    Ok(None)
                }
            },
            |_: &String, _: &Failed| {},
        ));
        queue.add("a".to_owned());
        queue.add("b".to_owned());
        assert_eq!(begun.recv().await.unwrap(), "a");
        queue.shutdown();
        running.await.unwrap();
        assert_eq!(finished.load(Ordering::SeqCst), 1);
        assert_eq!(begun.recv().await, None);
    }

    #[test]
    fn causes_are_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("inner")]
        struct Inner;
        assert_eq!(causes(&Outer(Inner)), "outer: inner");
        assert_eq!(causes(&Inner), "inner");
    }
}
