//! Waiting for a condition.

use std::{
    fmt::Display,
    panic::Location,
    time::{Duration, Instant},
};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Calls `look` until it returns `Ok`, and returns that. An `Err` says what is still missing.
///
/// # Panics
/// After `deadline`, naming the caller and what was missing at the last look.
#[track_caller]
pub fn eventually<T, E, F, Fut>(deadline: Duration, mut look: F) -> impl Future<Output = T>
where
    E: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let caller = Location::caller();
    async move {
        let started = Instant::now();
        let mut last = String::from("the first look did not end");
        loop {
            let left = deadline.saturating_sub(started.elapsed());
            if let Ok(found) = tokio::time::timeout(left, look()).await {
                match found {
                    Ok(value) => return value,
                    Err(missing) => last = missing.to_string(),
                }
            }
            if started.elapsed() >= deadline {
                panic!("{caller}: not so after {deadline:?}; the last look: {last}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_what_the_last_look_found() {
        let mut looks = 0;
        let found = eventually(Duration::from_secs(10), || {
            looks += 1;
            let looks = looks;
            async move {
                if looks == 3 {
                    Ok(looks)
                } else {
                    Err("too early")
                }
            }
        })
        .await;
        assert_eq!(found, 3);
    }

    #[tokio::test]
    async fn says_what_was_missing() {
        let task = tokio::spawn(eventually(Duration::from_millis(50), || async {
            Err::<(), _>("two pods are Pending")
        }));
        let panic = task.await.unwrap_err().into_panic();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains("two pods are Pending"), "{message}");
        assert!(message.contains("eventually.rs"), "{message}");
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_cut_off() {
        let task = tokio::spawn(eventually(
            Duration::from_millis(50),
            std::future::pending::<Result<(), String>>,
        ));
        assert!(task.await.unwrap_err().is_panic());
    }
}
