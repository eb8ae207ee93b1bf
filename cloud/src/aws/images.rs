//! Image ids that public parameters name, remembered for a day.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::action::Action;
use super::session::AwsSession;
use super::ssm;
use crate::{CloudError, Failure};

/// No more are remembered: each substrate names one, and most name the same.
const MOST: usize = 1_000;

#[derive(Default)]
pub(super) struct Images {
    known: Mutex<HashMap<String, (String, Instant)>>,
}

impl Images {
    /// The image id that a parameter says. While SSM does not answer, what it said last still holds.
    pub(super) async fn resolve(
        &self,
        session: &AwsSession,
        parameter: &str,
    ) -> Result<String, CloudError> {
        let age = session.timing().image_age;
        let known = self.known(parameter);
        if let Some((id, at)) = &known
            && at.elapsed() < age
        {
            return Ok(id.clone());
        }
        match ask(session, parameter).await {
            Ok(id) => {
                self.remember(parameter, &id, age);
                Ok(id)
            }
            Err(error) => match known {
                Some((id, _)) if is_passing(error.failure) => {
                    tracing::warn!(parameter, image = id, %error, "an image's parameter cannot be read; the last answer is used");
                    Ok(id)
                }
                _ => Err(error),
            },
        }
    }

    fn known(&self, parameter: &str) -> Option<(String, Instant)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(parameter).cloned()
    }

    fn remember(&self, parameter: &str, id: &str, age: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.retain(|_, (_, at)| at.elapsed() < age);
        }
        if known.len() < MOST {
            known.insert(parameter.to_owned(), (id.to_owned(), Instant::now()));
        }
    }
}

async fn ask(session: &AwsSession, parameter: &str) -> Result<String, CloudError> {
    let found = ssm::get_parameter(session, parameter, false).await;
    let found = found.map_err(|error| naming(parameter, error))?;
    std::str::from_utf8(&found.value)
        .ok()
        .map(str::trim)
        .filter(|id| is_image(id))
        .map(str::to_owned)
        .ok_or_else(|| CloudError {
            action: Action::GetParameter.name(),
            failure: Failure::Invalid,
            code: "NotAnImage".to_owned(),
            message: format!(
                "the parameter {parameter} is not an image id such as ami-0123456789abcdef0"
            ),
        })
}

/// A failure that says which parameter it is about; SSM's own words for one that does not exist are empty.
fn naming(parameter: &str, mut error: CloudError) -> CloudError {
    if !is_passing(error.failure) && !error.message.contains(parameter) {
        let words = std::mem::take(&mut error.message);
        error.message = match words.is_empty() {
            true => format!("the parameter {parameter}"),
            false => format!("the parameter {parameter}: {words}"),
        };
    }
    error
}

fn is_image(id: &str) -> bool {
    id.strip_prefix("ami-")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Whether a failure says nothing about the parameter.
fn is_passing(failure: Failure) -> bool {
    matches!(
        failure,
        Failure::Throttled | Failure::Unreachable | Failure::Server | Failure::Credentials
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_ids() {
        for good in ["ami-0123456789abcdef0", "ami-1a2b3c4d"] {
            assert!(is_image(good), "{good}");
        }
        for bad in [
            "",
            "ami-",
            "ami-a b",
            "{\"image_id\":\"ami-1\"}",
            "i-1",
            "AMI-1",
        ] {
            assert!(!is_image(bad), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let images = Images::default();
        let age = Duration::from_secs(10);
        for n in 0..MOST + 10 {
            images.remember(&n.to_string(), "ami-1", age);
        }
        assert_eq!(images.known.lock().unwrap().len(), MOST);
        assert!(images.known("5").is_some() && images.known("1005").is_none());
        tokio::time::advance(age).await;
        images.remember("1005", "ami-2", age);
        assert_eq!(images.known.lock().unwrap().len(), 1);
    }
}
