//! Events on objects: what happened, once, for the person who asks `kubectl describe`.
//!
//! They are made here and not by kube's recorder: that one takes two events of one reason for one and keeps the first note, so that the
//! second, with another cause, would never be seen.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::mpsc;

use super::controller::causes;
use super::metrics::Metrics;
use crate::clock::Clock;

/// The name under which the operator reports events.
const CONTROLLER: &str = "halo-operator";
/// The same event on the same object is not sent again for this long.
const QUIET: Duration = Duration::from_secs(300);
/// Events that wait to be sent.
const WAITING: usize = 1000;
/// Events that may be sent at once, and how many a second after that.
const BURST: f64 = 50.0;
const PER_SECOND: f64 = 10.0;
/// The longest note that the API server takes is 1 KiB.
const NOTE: usize = 1000;

/// What is to be said.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    about: ObjectReference,
    warning: bool,
    reason: String,
    note: String,
}

/// Sends events in the background; a caller never waits. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    send: mpsc::Sender<Told>,
    metrics: Arc<Metrics>,
}

/// What sends them; runs until every [`Events`] is gone.
pub struct Sending {
    told: mpsc::Receiver<Told>,
    client: Client,
    identity: String,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    deadline: Duration,
}

impl Events {
    /// Events of the replica `identity`, and what sends them, each within `deadline`.
    pub fn new(
        client: Client,
        identity: &str,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        deadline: Duration,
    ) -> (Self, Sending) {
        let (send, told) = mpsc::channel(WAITING);
        let sending = Sending {
            told,
            client,
            identity: identity.to_owned(),
            clock,
            metrics: metrics.clone(),
            deadline,
        };
        (Self { send, metrics }, sending)
    }

    /// Something happened as it should.
    pub fn normal(&self, about: &ObjectReference, reason: &str, note: impl Into<String>) {
        self.tell(about, false, reason, note.into());
    }

    /// Something happened that a person should know of.
    pub fn warning(&self, about: &ObjectReference, reason: &str, note: impl Into<String>) {
        self.tell(about, true, reason, note.into());
    }

    fn tell(&self, about: &ObjectReference, warning: bool, reason: &str, note: String) {
        let told = Told {
            about: about.clone(),
            warning,
            reason: reason.to_owned(),
            note: shorten(note),
        };
        if self.send.try_send(told).is_err() {
            self.metrics.event("dropped");
        }
    }
}

/// A note that the API server takes.
fn shorten(mut note: String) -> String {
    if note.len() > NOTE {
        let end = (0..=NOTE)
            .rev()
            .find(|at| note.is_char_boundary(*at))
            .unwrap_or(0);
        note.truncate(end);
        note.push_str("...");
    }
    note
}

/// Which events are sent: not the same again too soon, and not too many.
struct Sieve {
    tokens: f64,
    refilled: Instant,
    sent: HashMap<(String, String, String), Instant>,
}

/// What becomes of an event.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Send,
    Repeated,
    TooMany,
}

impl Sieve {
    fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            refilled: now,
            sent: HashMap::new(),
        }
    }

    fn judge(&mut self, told: &Told, now: Instant) -> Fate {
        self.sent
            .retain(|_, at| now.saturating_duration_since(*at) < QUIET);
        let about = told.about.uid.clone().unwrap_or_else(|| {
            let part = |part: &Option<String>| part.clone().unwrap_or_default();
            format!("{}/{}", part(&told.about.namespace), part(&told.about.name))
        });
        let key = (about, told.reason.clone(), told.note.clone());
        if self.sent.contains_key(&key) {
            return Fate::Repeated;
        }
        let since = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + since * PER_SECOND).min(BURST);
        self.refilled = now;
        if self.tokens < 1.0 {
            return Fate::TooMany;
        }
        self.tokens -= 1.0;
        self.sent.insert(key, now);
        Fate::Send
    }
}

impl Sending {
    /// Sends until every [`Events`] is gone.
    pub async fn run(mut self) {
        let mut sieve = Sieve::new(Instant::now());
        while let Some(told) = self.told.recv().await {
            let result = match sieve.judge(&told, Instant::now()) {
                Fate::Send => self.publish(&told).await,
                Fate::Repeated => "repeated",
                Fate::TooMany => "limited",
            };
            self.metrics.event(result);
        }
    }

    async fn publish(&self, told: &Told) -> &'static str {
        let event = event(told, &self.identity, self.clock.now());
        // Events of what has no namespace live there, where kubectl looks for them.
        let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let begun = Instant::now();
        let params = PostParams::default();
        let sent = tokio::time::timeout(self.deadline, api.create(&params, &event)).await;
        let (code, result) = match sent {
            Ok(Ok(_)) => (201, "sent"),
            Ok(Err(error)) => {
                tracing::warn!(error = %causes(&error), reason = told.reason, "an event was not taken");
                match error {
                    kube::Error::Api(status) => (status.code, "failed"),
                    _ => (0, "failed"),
                }
            }
            Err(_) => (0, "failed"),
        };
        self.metrics.api_request("POST", code, begun.elapsed());
        result
    }
}

/// An event as the API server takes it.
fn event(told: &Told, identity: &str, now: jiff::Timestamp) -> Event {
    let about = &told.about;
    let name = about.name.as_deref().unwrap_or(CONTROLLER);
    let namespace = about.namespace.as_deref().unwrap_or("default");
    // The moment makes the name unique; names have a limit.
    let name: String = name.chars().take(200).collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        action: Some("Reconcile".to_owned()),
        reason: Some(told.reason.clone()),
        note: Some(told.note.clone()).filter(|note| !note.is_empty()),
        type_: Some(if told.warning { "Warning" } else { "Normal" }.to_owned()),
        regarding: Some(about.clone()),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(identity.chars().take(128).collect()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(uid: &str, note: &str) -> Told {
        Told {
            about: ObjectReference {
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            },
            warning: true,
            reason: "Because".to_owned(),
            note: note.to_owned(),
        }
    }

    #[test]
    fn the_same_is_said_once_in_a_while() {
        let start = Instant::now();
        let mut sieve = Sieve::new(start);
        let mut at = |seconds, told: &Told| sieve.judge(told, start + Duration::from_secs(seconds));
        assert_eq!(at(0, &told("a", "x")), Fate::Send);
        assert_eq!(at(1, &told("a", "x")), Fate::Repeated);
        assert_eq!(at(1, &told("a", "y")), Fate::Send);
        assert_eq!(at(1, &told("b", "x")), Fate::Send);
        assert_eq!(at(301, &told("a", "x")), Fate::Send);
    }

    #[test]
    fn a_flood_is_thinned() {
        let start = Instant::now();
        let mut sieve = Sieve::new(start);
        let fates: Vec<_> = (0..100)
            .map(|n| sieve.judge(&told("a", &n.to_string()), start))
            .collect();
        assert_eq!(fates.iter().filter(|fate| **fate == Fate::Send).count(), 50);
        let later = start + Duration::from_secs(1);
        assert_eq!(sieve.judge(&told("a", "later"), later), Fate::Send);
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let cut = shorten("ä".repeat(900));
        assert!(cut.len() <= NOTE + 3 && cut.ends_with("ä..."), "{cut}");
        assert_eq!(shorten("short".to_owned()), "short");
    }

    #[test]
    fn an_event_says_who_what_and_when() {
        let mut said = told("a", "why");
        said.about.name = Some("x".repeat(253));
        let now = jiff::Timestamp::from_second(1).unwrap();
        let made = event(&said, "pod-0", now);
        assert_eq!(made.metadata.namespace.as_deref(), Some("default"));
        assert!(made.metadata.name.is_some_and(|name| name.len() <= 253));
        assert_eq!(made.type_.as_deref(), Some("Warning"));
        assert_eq!(made.reporting_instance.as_deref(), Some("pod-0"));
        said.about.namespace = Some("ns".to_owned());
        said.note.clear();
        let made = event(&said, "pod-0", now);
        assert_eq!(made.metadata.namespace.as_deref(), Some("ns"));
        assert_eq!(made.note, None);
    }
}
