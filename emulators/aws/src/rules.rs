//! How unkind the world is: delays, limits, budgets of calls.

use serde::{Deserialize, Serialize};

use crate::catalogue::Catalogue;

/// Everything that does not change by API calls.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Types, zones, subnets, images.
    pub catalogue: Catalogue,
    /// How long things take.
    pub timings: Timings,
    /// Account limits and page sizes.
    pub limits: Limits,
    /// Budgets of calls; none by default.
    pub rate_limits: Vec<RateLimit>,
    /// What `RunInstances` says to the client token of an instance that has ended.
    pub spent_token: SpentToken,
}

/// How long things take, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timings {
    /// From a launch or a new volume until other calls know it.
    pub visible_after_ms: u64,
    /// For how long Describe calls go on showing an instance's state before the last change.
    pub stale_ms: u64,
    /// From `pending` to `running`.
    pub pending_ms: u64,
    /// From `stopping` to `stopped`.
    pub stopping_ms: u64,
    /// From `shutting-down` to `terminated`.
    pub shutting_down_ms: u64,
    /// How long a terminated instance is still described.
    pub terminated_visible_ms: u64,
    /// From `creating` to `available`, from `attaching` to `attached`, from `detaching` to detached, from `deleting` to gone.
    pub volume_ms: u64,
}

impl Default for Timings {
    /// Quick enough for a test, slow enough to be met.
    fn default() -> Self {
        Self {
            visible_after_ms: 300,
            stale_ms: 0,
            pending_ms: 500,
            stopping_ms: 500,
            shutting_down_ms: 500,
            terminated_visible_ms: 3_600_000,
            volume_ms: 200,
        }
    }
}

impl Timings {
    /// No delays: what is asked for is true at the next call.
    pub fn instant() -> Self {
        Self {
            visible_after_ms: 0,
            stale_ms: 0,
            pending_ms: 0,
            stopping_ms: 0,
            shutting_down_ms: 0,
            terminated_visible_ms: 3_600_000,
            volume_ms: 0,
        }
    }
}

/// Account limits and page sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The most instances that are not terminated or stopped: `InstanceLimitExceeded`.
    pub instances: Option<u32>,
    /// The most vCPUs of such instances: `VcpuLimitExceeded`.
    pub vcpus: Option<u32>,
    /// The most volumes: `VolumeLimitExceeded`.
    pub volumes: Option<u32>,
    /// The largest page of a Describe call, also where the caller named no size.
    pub page: Option<usize>,
}

/// A token bucket that these actions share: `RequestLimitExceeded`, or `ThrottlingException` from SSM, when it is empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Action names; `Describe*` and `*` match by prefix.
    pub actions: Vec<String>,
    /// The size of the bucket, which begins full, in calls.
    pub burst: f64,
    /// Calls a second that flow back.
    pub per_second: f64,
}

/// What `RunInstances` says to the client token of an instance that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpentToken {
    /// `IdempotentInstanceTerminated`.
    #[default]
    Refuse,
    /// The old, terminated instance, for as long as it is described; then `IdempotentInstanceTerminated`.
    OldInstance,
}

/// Whether an action's name matches a pattern: the name itself, `Prefix*` or `*`.
pub fn action_matches(pattern: &str, action: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => action.starts_with(prefix),
        None => pattern == action,
    }
}
