//! EC2 calls: a form out, an XML tree in.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::action::Action;
use super::answers::{self, AnswerError};
use super::codes;
use super::form::Form;
use super::session::AwsSession;
use super::wire::Answer;
use super::xml::{self, Node};
use crate::CloudError;

/// No list has more pages: 500 each, it would be of half a million.
const MOST_PAGES: usize = 1_000;

/// Makes one EC2 call and reads its answer.
pub(super) async fn call<T>(
    session: &AwsSession,
    action: Action,
    form: Form,
    parse: impl Fn(&Node<'_>) -> Result<T, AnswerError>,
) -> Result<T, CloudError> {
    session
        .call(action, form.into_body(), |answer| {
            read(action, answer, &parse)
        })
        .await
}

/// Makes one EC2 call of which only matters that it was done.
pub(super) async fn done(
    session: &AwsSession,
    action: Action,
    form: Form,
) -> Result<(), CloudError> {
    let expected = format!("{}Response", action.name());
    call(session, action, form, |root| {
        answers::expect(root, &expected)
    })
    .await
}

fn read<T>(
    action: Action,
    answer: &Answer,
    parse: impl Fn(&Node<'_>) -> Result<T, AnswerError>,
) -> Result<T, CloudError> {
    let root = xml::parse(&answer.body);
    if !answer.is_success() {
        return Err(codes::error(action, answer.status, root.ok().as_ref()));
    }
    let root = root.map_err(|error| codes::malformed(action, &error.to_string()))?;
    parse(&root).map_err(|error| codes::malformed(action, &error.to_string()))
}

/// Reads all pages of a list.
pub(super) async fn pages<T>(
    session: &AwsSession,
    action: Action,
    form: impl Fn(Option<&str>) -> Form,
    parse: impl Fn(&Node<'_>) -> Result<Vec<T>, AnswerError>,
) -> Result<Vec<T>, CloudError> {
    let mut all = Vec::new();
    let mut token: Option<String> = None;
    for _ in 0..MOST_PAGES {
        let (mut page, next) = call(session, action, form(token.as_deref()), |root| {
            Ok((parse(root)?, answers::next_page(root).map(str::to_owned)))
        })
        .await?;
        all.append(&mut page);
        match next {
            None => return Ok(all),
            Some(next) if token.as_ref() == Some(&next) => {
                return Err(codes::malformed(action, "a page is followed by itself"));
            }
            next => token = next,
        }
    }
    Err(codes::malformed(action, "the list does not end"))
}

type Calls<K, V> = HashMap<K, Arc<OnceCell<Result<V, CloudError>>>>;

/// Calls that are under way: whoever asks the same meanwhile gets the same answer.
pub(super) struct UnderWay<K, V> {
    calls: Mutex<Calls<K, V>>,
}

impl<K: Clone + Eq + Hash, V: Clone> UnderWay<K, V> {
    pub(super) fn new() -> Self {
        Self {
            calls: Mutex::default(),
        }
    }

    /// The answer of the call that is under way for this key, or of a new one. If the caller that makes it goes away, another of
    /// those that wait makes it anew.
    pub(super) async fn join<F>(&self, key: K, call: impl FnOnce() -> F) -> Result<V, CloudError>
    where
        F: Future<Output = Result<V, CloudError>>,
    {
        let cell = Arc::clone(self.lock().entry(key.clone()).or_default());
        let result = cell.get_or_init(call).await.clone();
        let mut calls = self.lock();
        // It is over: the next one asks anew. A call that began since then stays.
        if calls
            .get(&key)
            .is_some_and(|current| Arc::ptr_eq(current, &cell))
        {
            calls.remove(&key);
        }
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Calls<K, V>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn the_same_question_is_asked_once() {
        let under_way = Arc::new(UnderWay::<&str, u32>::new());
        let asked = Arc::new(AtomicU32::new(0));
        let go = Arc::new(Notify::new());
        let ask = |key| {
            let (under_way, asked, go) = (under_way.clone(), asked.clone(), go.clone());
            tokio::spawn(async move {
                under_way
                    .join(key, || async move {
                        let n = asked.fetch_add(1, Ordering::SeqCst);
                        go.notified().await;
                        Ok(n)
                    })
                    .await
            })
        };
        let first = ask("a");
        tokio::task::yield_now().await;
        let others = [ask("a"), ask("a")];
        tokio::task::yield_now().await;
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        // The one that asked goes away: another asks anew.
        first.abort();
        assert!(first.await.is_err());
        while asked.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        go.notify_one();
        for other in others {
            assert_eq!(other.await.unwrap(), Ok(1));
        }
        // It is over, so the next question is a new one.
        let later = ask("a");
        while asked.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
        go.notify_one();
        assert_eq!(later.await.unwrap(), Ok(2));
        assert!(under_way.lock().is_empty());
    }
}
