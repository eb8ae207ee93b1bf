//! What was made a moment ago. EC2 may say for a while that it does not exist, which then does not mean that it is gone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::{CloudError, Failure};

/// EC2 shows what it made within seconds, on bad days within minutes.
const FRESH: Duration = Duration::from_secs(5 * 60);

/// Ids of what this process made, while they are fresh.
#[derive(Default)]
pub(super) struct Fresh {
    made: Mutex<HashMap<String, Instant>>,
}

impl Fresh {
    /// The cloud said that it made this.
    pub(super) fn made(&self, id: &str) {
        let now = Instant::now();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|_, at| now.saturating_duration_since(*at) < FRESH);
        made.insert(id.to_owned(), now);
    }

    /// A result about this id: if it is fresh, "not found" is "not yet".
    pub(super) fn judge<T>(
        &self,
        id: &str,
        result: Result<T, CloudError>,
    ) -> Result<T, CloudError> {
        result.map_err(|error| match error.failure {
            Failure::NotFound if self.is_fresh(id) => CloudError {
                failure: Failure::State,
                message: format!("{id} was made a moment ago and is not known everywhere yet"),
                ..error
            },
            _ => error,
        })
    }

    fn is_fresh(&self, id: &str) -> bool {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.get(id).is_some_and(|at| at.elapsed() < FRESH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_found() -> Result<(), CloudError> {
        Err(CloudError {
            action: "TerminateInstances",
            failure: Failure::NotFound,
            code: "InvalidInstanceID.NotFound".to_owned(),
            message: "no".to_owned(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn not_found_is_not_yet_for_a_while() {
        let fresh = Fresh::default();
        fresh.made("i-1");
        let failure = |id| fresh.judge(id, not_found()).map_err(|error| error.failure);
        assert_eq!(failure("i-1"), Err(Failure::State));
        assert_eq!(failure("i-2"), Err(Failure::NotFound));
        assert_eq!(fresh.judge("i-1", Ok(7)), Ok(7));
        tokio::time::advance(FRESH).await;
        assert_eq!(failure("i-1"), Err(Failure::NotFound));
        fresh.made("i-3");
        assert_eq!(fresh.made.lock().unwrap().len(), 1);
    }
}
