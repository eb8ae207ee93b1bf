//! Choosing the next token from logits.

use serde::{Deserialize, Serialize};

/// How the next token is chosen: integers only, so that a request means the same on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Temperature in thousandths; 0 takes the highest logit (the other fields then say nothing).
    pub temperature_milli: u32,
    /// Only the `top_k` highest logits stay in play; 0 for all.
    pub top_k: u32,
    /// Of those, the fewest whose probabilities sum to this many thousandths; 1000 for all.
    pub top_p_milli: u32,
    /// Seed of the draws.
    pub seed: u64,
}
