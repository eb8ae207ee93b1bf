//! What is reported of a tenant. Pure: what was applied, or why nothing was, in; the status out.

use halo_crds::condition::{Truth, Verdict, fold};
use halo_crds::reasons::{self, kinds};
use halo_crds::{HaloTenant, HaloTenantStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::apply::{AppliedIsolation, AppliedKeys, KeysOutcome, Outcome};
use super::plan::{Refusal, stale};
use super::validate::Valid;

/// The most characters of a message that stand in the `why` column.
const WHY_MAX: usize = 120;

/// What a pass came to.
pub enum Observed<'a> {
    /// The plan was applied, as far as it could be.
    Applied(&'a Valid, &'a Outcome),
    /// Nothing was changed: it is paused, invalid, second to another tenant, or being deleted.
    Left(Refusal),
}

/// The status that says what was observed.
pub fn status(tenant: &HaloTenant, observed: &Observed<'_>, now: Timestamp) -> HaloTenantStatus {
    let before = tenant.status.clone().unwrap_or_default();
    let generation = tenant.metadata.generation;
    let now = Time(now);
    let fold = |verdicts: Vec<Verdict>| fold(&before.conditions, verdicts, generation, &now);
    let mut status = match observed {
        Observed::Applied(valid, outcome) => {
            let parts = [namespace(valid, outcome), isolation(outcome), keys(outcome)];
            let mut verdicts = vec![ready(&parts)];
            verdicts.extend(parts);
            let conditions = fold(verdicts);
            HaloTenantStatus {
                why: Some(why(&conditions)),
                conditions,
                namespace: match outcome.namespace {
                    Ok(_) => Some(valid.namespace.clone()),
                    Err(_) => before.namespace,
                },
                keys: match &outcome.keys {
                    Ok(KeysOutcome::Published(applied)) => Some(applied.keys.clone()),
                    Ok(KeysOutcome::Held(_)) | Err(_) => before.keys,
                },
                observed_generation: None,
            }
        }
        Observed::Left(refusal) => {
            let Refusal { reason, message } = refusal;
            let verdict = Verdict::new(kinds::READY, false, reason, message);
            let mut conditions = fold(vec![verdict]);
            // What was found before still stands as it was found then.
            let found = before.conditions.iter().cloned();
            conditions.extend(found.filter(|condition| condition.type_ != kinds::READY));
            HaloTenantStatus {
                why: Some(shorten(message)),
                conditions,
                ..before
            }
        }
    };
    status.observed_generation = generation;
    status
}

fn namespace(valid: &Valid, outcome: &Outcome) -> Verdict {
    match &outcome.namespace {
        Ok(_) => Verdict::new(
            kinds::NAMESPACE_READY,
            true,
            reasons::NAMESPACE_OWNED,
            format!("the namespace {} is this tenant's", valid.namespace),
        ),
        Err(refusal) => refused(kinds::NAMESPACE_READY, refusal),
    }
}

fn isolation(outcome: &Outcome) -> Verdict {
    match &outcome.isolation {
        Ok(AppliedIsolation {
            policies,
            quota,
            limits,
            account: _,
        }) => {
            let also = |there: bool, what: &'static str| if there { what } else { "" };
            let message = format!(
                "{} network policies{}{} are in place; pods get no service account token unless they ask",
                policies.len(),
                also(quota.is_some(), ", the quota"),
                also(limits.is_some(), ", the limits"),
            );
            Verdict::new(kinds::ISOLATION_READY, true, reasons::ISOLATED, message)
        }
        Err(refusal) => refused(kinds::ISOLATION_READY, refusal),
    }
}

fn keys(outcome: &Outcome) -> Verdict {
    let kind = kinds::KEYS_READY;
    match &outcome.keys {
        Ok(KeysOutcome::Published(applied)) => {
            let AppliedKeys {
                pods: _,
                gateways: _,
                keys,
                stale: failure,
            } = &**applied;
            if let Some(failure) = failure {
                let Refusal { reason, message } = stale(failure);
                return Verdict::new(kind, true, reason, message);
            }
            let message = format!(
                "keys of generation {} are published for {}{}",
                keys.generation,
                keys.months.join(", "),
                match (keys.previous_generation, &keys.previous_until) {
                    (Some(generation), Some(until)) =>
                        format!(", and those of generation {generation} until {}", until.0),
                    _ => String::new(),
                }
            );
            Verdict::new(kind, true, reasons::KEYS_PUBLISHED, message)
        }
        Ok(KeysOutcome::Held(hold)) => {
            let Refusal { reason, message } = &hold.why;
            Verdict::new(kind, hold.truth, reason, message)
        }
        Err(refusal) => refused(kind, refusal),
    }
}

fn refused(kind: &'static str, refusal: &Refusal) -> Verdict {
    Verdict::new(kind, false, &refusal.reason, &refusal.message)
}

/// Ready is what its parts are; the first that is not true says why.
fn ready(parts: &[Verdict]) -> Verdict {
    match parts.iter().find(|part| part.truth != Truth::True) {
        Some(part) => Verdict::new(kinds::READY, part.truth, &part.reason, &part.message),
        None => Verdict::new(
            kinds::READY,
            true,
            reasons::READY,
            "the namespace, its isolation and the keys are as asked",
        ),
    }
}

/// The column WHY: what keeps it from being ready, what is stale, or that all is well.
fn why(conditions: &[Condition]) -> String {
    let trouble = conditions
        .iter()
        .find(|condition| condition.status != "True" || condition.reason == reasons::KEYS_STALE);
    trouble.map_or_else(
        || "ready".to_owned(),
        |condition| shorten(&condition.message),
    )
}

fn shorten(message: &str) -> String {
    if message.chars().count() <= WHY_MAX {
        return message.to_owned();
    }
    let head: String = message.chars().take(WHY_MAX).collect();
    let words = head
        .rsplit_once(' ')
        .map_or(head.as_str(), |(head, _)| head);
    format!("{words} ...")
}

/// A thing to be told once: whether it is a warning, its reason, and what to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// Whether a person should look at it.
    pub warning: bool,
    /// A stable name.
    pub reason: String,
    /// What to say.
    pub note: String,
}

/// What changed between two statuses that a person should be told.
pub fn news(before: Option<&HaloTenantStatus>, after: &HaloTenantStatus) -> Vec<News> {
    let old = before.map_or(&[][..], |status| &status.conditions);
    let changed = after.conditions.iter().filter(|condition| {
        let said = halo_crds::condition::find(old, &condition.type_);
        said.is_none_or(|old| (&old.status, &old.reason) != (&condition.status, &condition.reason))
    });
    let told = changed.filter_map(|condition| {
        let good = condition.status == "True" && condition.reason != reasons::KEYS_STALE;
        let calm = [reasons::PAUSED, reasons::DELETING, reasons::PENDING];
        // That a part is well again shows when the whole is.
        let silent =
            good && condition.type_ != kinds::READY && condition.type_ != kinds::KEYS_READY;
        (!silent).then(|| News {
            warning: !good && !calm.contains(&condition.reason.as_str()),
            reason: condition.reason.clone(),
            note: condition.message.clone(),
        })
    });
    let mut told: Vec<News> = told.collect();
    // Ready repeats the part that it fails for.
    told.dedup();
    let mut seen = Vec::new();
    told.retain(|news| {
        let new = !seen.contains(news);
        seen.push(news.clone());
        new
    });
    told
}
