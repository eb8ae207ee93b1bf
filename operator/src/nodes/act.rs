//! Does what a plan says, to the cloud and to nodes.

use halo_cloud::{CloudError, Failure, InstanceId};
use halo_crds::status::NodeSlot;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::launch::{LaunchError, Template};
use super::plan::{NodeAction, Outcome};
use crate::context::Context;
use crate::effect::Effect;
use crate::runtime::apply::{Evicted, WriteError};

/// The annotation of pods that kubelet runs from files; they cannot be evicted.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Does one action. `slots` is the record as it was written before.
pub async fn act(
    ctx: &Context,
    template: &Template,
    slots: &[NodeSlot],
    action: &NodeAction,
) -> Outcome {
    let slot = |number: &u32| slots.iter().find(|slot| slot.slot == *number);
    let outcome = match action {
        NodeAction::Launch { slot: number } => match slot(number) {
            Some(slot) => launch(ctx, template, slot).await,
            None => Ok(Outcome::Done),
        },
        NodeAction::FindByToken { slot: number } => match slot(number) {
            Some(slot) => find(ctx, template, slot).await,
            None => Ok(Outcome::Done),
        },
        NodeAction::Start { instance, .. } => {
            let call = ctx.cloud.start(instance);
            done(cloud(ctx, "StartInstances", &instance.0, call).await)
        }
        NodeAction::Stop { instance, .. } => {
            let call = ctx.cloud.stop(instance);
            done(cloud(ctx, "StopInstances", &instance.0, call).await)
        }
        NodeAction::Terminate { instance } => {
            let call = ctx.cloud.terminate(instance);
            done(cloud(ctx, "TerminateInstances", &instance.0, call).await)
        }
        NodeAction::CreateVolume { slot: number } => match slot(number) {
            Some(slot) => create_volume(ctx, template, slot).await,
            None => Ok(Outcome::Done),
        },
        NodeAction::AttachVolume {
            volume, instance, ..
        } => {
            let device = template.data_device().unwrap_or_default();
            let call = ctx.cloud.attach_volume(volume, instance, device);
            done(cloud(ctx, "AttachVolume", &volume.0, call).await)
        }
        NodeAction::DeleteVolume { volume } => {
            let call = ctx.cloud.delete_volume(volume);
            done(cloud(ctx, "DeleteVolume", &volume.0, call).await)
        }
        NodeAction::Drain { node, .. } => return drain(ctx, node).await,
        NodeAction::Uncordon { node } => return api(ctx.writer.cordon(node, false).await),
        NodeAction::DeleteNode { node } => return forget_node(ctx, template, node).await,
    };
    if changes_the_cloud(action) {
        ctx.fleet.look();
    }
    outcome.unwrap_or_else(Outcome::Failed)
}

fn changes_the_cloud(action: &NodeAction) -> bool {
    !matches!(
        action,
        NodeAction::FindByToken { .. }
            | NodeAction::Drain { .. }
            | NodeAction::Uncordon { .. }
            | NodeAction::DeleteNode { .. }
    )
}

/// A call of the cloud, seen by the witness.
async fn cloud<T>(
    ctx: &Context,
    action: &'static str,
    object: &str,
    call: impl Future<Output = Result<T, CloudError>>,
) -> Result<T, CloudError> {
    let effect = Effect::new(action, object);
    ctx.witness.before(&effect).await;
    let answer = call.await;
    ctx.witness.after(&effect, answer.is_ok()).await;
    match &answer {
        Ok(_) => tracing::info!(action, object, "done"),
        Err(error) => tracing::warn!(action, object, %error, "refused"),
    }
    answer
}

fn done(answer: Result<(), CloudError>) -> Result<Outcome, CloudError> {
    answer.map(|()| Outcome::Done)
}

fn api(answer: Result<(), WriteError>) -> Outcome {
    match answer {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Refused {
            message: error.to_string(),
        },
    }
}

/// What cannot be asked for is refused as the cloud would refuse it.
pub(super) fn invalid(action: &'static str, error: &LaunchError) -> CloudError {
    CloudError {
        action,
        failure: Failure::Invalid,
        code: "InvalidSpec".to_owned(),
        message: error.to_string(),
    }
}

/// `namespace/name slot n`, for logs and witnesses.
fn place(template: &Template, slot: &NodeSlot) -> String {
    let identity = template.identity();
    format!(
        "{}/{} slot {} attempt {}",
        identity.namespace, identity.name, slot.slot, slot.attempt
    )
}

async fn launch(
    ctx: &Context,
    template: &Template,
    slot: &NodeSlot,
) -> Result<Outcome, CloudError> {
    let image = ctx.cloud.resolve_image(template.image()).await?;
    let request = template.launch(slot, &image);
    let request = request.map_err(|error| invalid("RunInstances", &error))?;
    let call = ctx.cloud.launch(&request);
    let instance = cloud(ctx, "RunInstances", &place(template, slot), call).await?;
    Ok(Outcome::Launched(instance))
}

async fn find(ctx: &Context, template: &Template, slot: &NodeSlot) -> Result<Outcome, CloudError> {
    let token = template.client_token(slot);
    let found = ctx.cloud.instance_by_token(&token).await?;
    Ok(found.map_or(Outcome::NotFound, Outcome::Launched))
}

async fn create_volume(
    ctx: &Context,
    template: &Template,
    slot: &NodeSlot,
) -> Result<Outcome, CloudError> {
    let request = template.volume(slot);
    let request = request.map_err(|error| invalid("CreateVolume", &error))?;
    let call = ctx.cloud.create_volume(&request);
    let volume = cloud(ctx, "CreateVolume", &place(template, slot), call).await?;
    Ok(Outcome::Volume(volume))
}

/// Cordons a node and evicts what may be evicted; done once nothing is left but what daemons own.
async fn drain(ctx: &Context, node: &str) -> Outcome {
    let drained = async {
        ctx.writer.cordon(node, true).await?;
        let pods = ctx.writer.pods_on(node).await?;
        let mut left = Vec::new();
        for pod in pods.iter().filter(|pod| holds_a_drain(pod)) {
            let meta = &pod.metadata;
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            let name = meta.name.as_deref().unwrap_or_default();
            if meta.deletion_timestamp.is_some() {
                left.push(format!("{namespace}/{name} is ending"));
                continue;
            }
            match ctx.writer.evict(namespace, name).await? {
                Evicted::Done => left.push(format!("{namespace}/{name} is ending")),
                Evicted::Refused(why) => left.push(format!("{namespace}/{name}: {why}")),
            }
        }
        Ok::<_, WriteError>(left)
    };
    match drained.await {
        Ok(left) if left.is_empty() => Outcome::Done,
        Ok(left) => Outcome::StillDraining {
            message: left.join("; "),
        },
        Err(error) => Outcome::Refused {
            message: error.to_string(),
        },
    }
}

/// Removes the Node object of an instance that is gone, and before it the substrate's pods there: nothing is left that could end them,
/// and the cluster itself would keep them for a minute before it makes others.
async fn forget_node(ctx: &Context, template: &Template, node: &str) -> Outcome {
    let identity = template.identity();
    let forgotten = async {
        for pod in ctx.caches.pods_of(&identity.namespace, &identity.name) {
            if pod.place.node.as_deref() == Some(node) {
                let name = &pod.place.name;
                ctx.writer.remove_pod(&identity.namespace, name).await?;
            }
        }
        ctx.writer.delete::<Node>("", node, None).await
    };
    api(forgotten.await)
}

/// Whether a node is not drained while this pod is on it: not for pods of daemons, of files, and those that have ended.
fn holds_a_drain(pod: &Pod) -> bool {
    let meta = &pod.metadata;
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    let of_daemon = owners
        .iter()
        .any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true));
    let annotations = meta.annotations.as_ref();
    let mirror = annotations.is_some_and(|all| all.contains_key(MIRROR));
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let over = matches!(phase, Some("Succeeded" | "Failed"));
    !(of_daemon || mirror || over)
}

/// Ends an instance that belongs to nothing.
pub(super) async fn end_orphan(ctx: &Context, instance: &InstanceId) -> Result<(), CloudError> {
    let call = ctx.cloud.terminate(instance);
    cloud(ctx, "TerminateInstances", &instance.0, call).await
}

/// Deletes a volume that belongs to nothing.
pub(super) async fn delete_orphan(
    ctx: &Context,
    volume: &halo_cloud::VolumeId,
) -> Result<(), CloudError> {
    let call = ctx.cloud.delete_volume(volume);
    cloud(ctx, "DeleteVolume", &volume.0, call).await
}

#[cfg(test)]
#[path = "act_tests.rs"]
mod tests;
