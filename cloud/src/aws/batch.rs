//! Instances that are to start, stop or end, collected for a moment into one call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::action::Action;
use super::ec2;
use super::requests;
use super::session::AwsSession;
use crate::{CloudError, Failure};

/// EC2 takes a thousand ids; fewer keep a failed call cheap.
const MOST: usize = 200;
/// After so many failed calls, what is left of a batch fails together: a permission that is missing is missing for all.
const MOST_FAILED: usize = 16;

type Outcome = Result<(), CloudError>;
type Waiting = BTreeMap<String, Vec<oneshot::Sender<Outcome>>>;

/// Collects ids for one action.
pub(super) struct Batch {
    session: AwsSession,
    action: Action,
    window: Duration,
    waiting: Arc<Mutex<Waiting>>,
}

impl Batch {
    pub(super) fn new(session: &AwsSession, action: Action, window: Duration) -> Self {
        Self {
            session: session.clone(),
            action,
            window,
            waiting: Arc::default(),
        }
    }

    /// Does it to this instance, along with those that others ask for in the same moment. Once asked for it is done, also if the
    /// caller goes away.
    pub(super) async fn add(&self, id: &str) -> Outcome {
        let (tell, told) = oneshot::channel();
        let first = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let first = waiting.is_empty();
            waiting.entry(id.to_owned()).or_default().push(tell);
            first
        };
        if first {
            let (session, action, window) = (self.session.clone(), self.action, self.window);
            let waiting = Arc::clone(&self.waiting);
            tokio::spawn(async move {
                tokio::time::sleep(window).await;
                let batch =
                    std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
                send(&session, action, batch).await;
            });
        }
        told.await.unwrap_or_else(|_| {
            Err(CloudError {
                action: self.action.name(),
                failure: Failure::Unreachable,
                code: "Ended".to_owned(),
                message: "this process ends".to_owned(),
            })
        })
    }
}

/// Calls with as many ids as fit; what one bad id spoils for all is tried again without it.
async fn send(session: &AwsSession, action: Action, mut batch: Waiting) {
    let ids: Vec<String> = batch.keys().cloned().collect();
    let mut left: Vec<Vec<String>> = ids.chunks(MOST).rev().map(<[String]>::to_vec).collect();
    let mut failed = 0;
    while let Some(ids) = left.pop() {
        session.observer().batched(action.name(), ids.len());
        let form = requests::of_instances(action, &ids);
        let result = ec2::done(session, action, form).await;
        failed += usize::from(result.is_err());
        let (done, again) = settle(ids, &result, failed < MOST_FAILED);
        for id in done {
            for tell in batch.remove(&id).unwrap_or_default() {
                // A caller that went away needs no answer.
                let _ = tell.send(result.clone());
            }
        }
        left.extend(again.into_iter().rev());
    }
}

/// Which ids a result is for, and which are to be tried again in what groups. "Not found" is never said of an id that it may not be
/// true for: who asked takes the instance for gone.
fn settle(ids: Vec<String>, result: &Outcome, patient: bool) -> (Vec<String>, Vec<Vec<String>>) {
    let error = match result {
        Err(error) if ids.len() > 1 && is_of_one(error.failure) => error,
        _ => return (ids, Vec::new()),
    };
    if !patient && error.failure != Failure::NotFound {
        return (ids, Vec::new());
    }
    if error.failure == Failure::NotFound {
        // "The instance IDs 'i-1, i-2' do not exist": those are settled, the rest is not.
        let named: BTreeSet<&str> = error
            .message
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
            .collect();
        let (bad, rest): (Vec<_>, Vec<_>) = ids
            .iter()
            .cloned()
            .partition(|id| named.contains(id.as_str()));
        if !bad.is_empty() {
            let again = if rest.is_empty() {
                Vec::new()
            } else {
                vec![rest]
            };
            return (bad, again);
        }
    }
    let half = ids.len() / 2;
    let (left, right) = ids.split_at(half);
    (Vec::new(), vec![left.to_vec(), right.to_vec()])
}

/// Whether one id among several can be what failed.
fn is_of_one(failure: Failure) -> bool {
    matches!(
        failure,
        Failure::NotFound
            | Failure::Invalid
            | Failure::State
            | Failure::Unauthorized
            | Failure::Capacity
            | Failure::Quota
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn failed(failure: Failure, message: &str) -> Outcome {
        Err(CloudError {
            action: "StopInstances",
            failure,
            code: "X".to_owned(),
            message: message.to_owned(),
        })
    }

    #[test]
    fn table() {
        let all = ids(&["i-1", "i-12", "i-3"]);
        let whole = (all.clone(), vec![]);
        let halves = (vec![], vec![ids(&["i-1"]), ids(&["i-12", "i-3"])]);
        assert_eq!(settle(all.clone(), &Ok(()), true), whole);
        for of_all in [
            Failure::Throttled,
            Failure::Server,
            Failure::Unreachable,
            Failure::Credentials,
        ] {
            assert_eq!(
                settle(all.clone(), &failed(of_all, ""), true),
                whole,
                "{of_all:?}"
            );
        }
        for of_one in [
            Failure::State,
            Failure::Invalid,
            Failure::NotFound,
            Failure::Unauthorized,
            Failure::Capacity,
        ] {
            assert_eq!(
                settle(all.clone(), &failed(of_one, "i-1"), true).0.len(),
                usize::from(of_one == Failure::NotFound),
                "{of_one:?}"
            );
            assert_eq!(
                settle(all.clone(), &failed(of_one, ""), true),
                halves,
                "{of_one:?}"
            );
            let one = ids(&["i-1"]);
            assert_eq!(
                settle(one.clone(), &failed(of_one, ""), true),
                (one, vec![]),
                "{of_one:?}"
            );
        }
        // Out of patience: the rest fails together, unless that would call something gone.
        assert_eq!(
            settle(all.clone(), &failed(Failure::Unauthorized, ""), false),
            whole
        );
        assert_eq!(
            settle(all.clone(), &failed(Failure::NotFound, ""), false),
            halves
        );
        let named = |message| settle(all.clone(), &failed(Failure::NotFound, message), true);
        assert_eq!(
            named("The instance ID 'i-12' does not exist"),
            (ids(&["i-12"]), vec![ids(&["i-1", "i-3"])])
        );
        assert_eq!(
            named("The instance IDs 'i-1, i-12, i-3' do not exist"),
            whole
        );
        assert_eq!(named("i-123 does not exist"), halves);
    }
}
