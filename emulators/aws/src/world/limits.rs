//! Token buckets.

use crate::rules::{RateLimit, action_matches};

use super::state::Moment;

/// One bucket for each rate limit.
#[derive(Debug, Default)]
pub struct Buckets(Vec<Bucket>);

#[derive(Debug)]
struct Bucket {
    limit: RateLimit,
    tokens: f64,
    filled_at: Option<Moment>,
}

impl Buckets {
    /// Full buckets.
    pub fn new(limits: &[RateLimit]) -> Self {
        Self(
            limits
                .iter()
                .map(|limit| Bucket {
                    tokens: limit.burst,
                    limit: limit.clone(),
                    filled_at: None,
                })
                .collect(),
        )
    }

    /// Takes one token from every bucket that counts this action; none is taken if one of them is empty.
    pub fn take(&mut self, action: &str, now: Moment) -> bool {
        let mut counted: Vec<&mut Bucket> = self
            .0
            .iter_mut()
            .filter(|bucket| {
                let mut patterns = bucket.limit.actions.iter();
                patterns.any(|pattern| action_matches(pattern, action))
            })
            .collect();
        for bucket in &mut counted {
            let passed = now.saturating_sub(bucket.filled_at.unwrap_or(now));
            // Exact to the microsecond for a century.
            let flowed = passed as f64 / 1e6 * bucket.limit.per_second;
            bucket.tokens = (bucket.tokens + flowed).min(bucket.limit.burst);
            bucket.filled_at = Some(now);
        }
        let allowed = counted.iter().all(|bucket| bucket.tokens >= 1.0);
        if allowed {
            for bucket in counted {
                bucket.tokens -= 1.0;
            }
        }
        allowed
    }
}
