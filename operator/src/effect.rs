//! Everything that the operator does to the world passes here, once before it is done and once after.
//!
//! In production the witness counts and logs. A test's witness stops the operator between two effects, as a crash would.

use async_trait::async_trait;

/// One thing done to the API server or the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Effect {
    /// What is done: a verb and a kind for the API server (`patch Deployment`), an action for the cloud (`RunInstances`).
    pub action: &'static str,
    /// To what: `namespace/name`, a name, or an instance's id or slot.
    pub object: String,
}

impl Effect {
    /// An effect.
    pub fn new(action: &'static str, object: impl Into<String>) -> Self {
        Self {
            action,
            object: object.into(),
        }
    }
}

/// Sees every effect.
#[async_trait]
pub trait Witness: Send + Sync {
    /// It is about to be done.
    async fn before(&self, effect: &Effect);
    /// It was done, or failed.
    async fn after(&self, effect: &Effect, succeeded: bool);
}

/// Writes each effect to the log.
pub struct Log;

#[async_trait]
impl Witness for Log {
    async fn before(&self, _: &Effect) {}

    async fn after(&self, effect: &Effect, succeeded: bool) {
        tracing::debug!(action = effect.action, object = %effect.object, succeeded, "effect");
    }
}
