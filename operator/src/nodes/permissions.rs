//! Whether the operator may do what a pool needs, asked before it is needed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use halo_cloud::Failure;
use halo_crds::status::{NodeSlot, NodeState};
use jiff::Timestamp;

use super::act::invalid;
use super::launch::Template;
use super::plan::PoolBlock;
use super::slots::{after, stamp};
use crate::context::Context;

/// Which IAM actions pools lack, asked once for each generation of a spec, and again after a while if some were denied.
#[derive(Default)]
pub struct Permissions {
    known: Mutex<BTreeMap<String, Known>>,
}

struct Known {
    generation: i64,
    asked_at: Timestamp,
    missing: Vec<String>,
}

impl Permissions {
    /// What a pool may not do, as a block whose message names the IAM actions; `None` if it may do everything or if that cannot be told.
    pub async fn check(
        &self,
        ctx: &Context,
        template: &Template,
        generation: i64,
    ) -> Option<PoolBlock> {
        let uid = &template.identity().uid;
        let now = ctx.clock.now();
        let again_at = |asked: Timestamp| after(asked, ctx.settings.pace.launch_backoff_max);
        let known = {
            let all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(uid)
                .filter(|known| known.generation == generation)
                .filter(|known| known.missing.is_empty() || now < again_at(known.asked_at))
                .map(|known| (known.missing.clone(), known.asked_at))
        };
        let (missing, asked_at) = match known {
            Some(known) => known,
            None => {
                let missing = ask(ctx, template, generation, now).await?;
                let known = Known {
                    generation,
                    asked_at: now,
                    missing: missing.clone(),
                };
                let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                all.insert(uid.clone(), known);
                (missing, now)
            }
        };
        (!missing.is_empty()).then(|| PoolBlock {
            reason: Failure::Unauthorized.name().to_owned(),
            message: format!(
                "UnauthorizedOperation: IAM denies {}: let the operator's role do it",
                missing.join(", ")
            ),
            next_attempt: Some(again_at(asked_at)),
        })
    }

    /// Forgets a pool that is gone.
    pub fn forget(&self, uid: &str) {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(uid);
    }
}

/// The IAM actions that a pool lacks; `None` if that cannot be told now, which a launch will tell.
async fn ask(
    ctx: &Context,
    template: &Template,
    generation: i64,
    now: Timestamp,
) -> Option<Vec<String>> {
    let (instance_type, zone) = template.first_place();
    let slot = NodeSlot {
        slot: 0,
        attempt: 0,
        generation,
        template: template.hash().to_owned(),
        state: NodeState::Launching,
        since: stamp(now),
        instance_type,
        zone,
        instance: None,
        volume: None,
        node: None,
        running_since: None,
    };
    let asked = async {
        let image = ctx.cloud.resolve_image(template.image()).await?;
        let request = template.probe(&slot, &image);
        let request = request.map_err(|error| invalid("RunInstances", &error))?;
        ctx.cloud.missing_permissions(&request).await
    };
    match asked.await {
        Ok(missing) => Some(missing),
        Err(error) => {
            tracing::debug!(%error, "permissions cannot be asked for");
            None
        }
    }
}
