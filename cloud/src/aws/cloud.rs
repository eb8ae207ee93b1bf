//! EC2 behind [`Cloud`].

use std::sync::Arc;

use async_trait::async_trait;

use super::action::Action;
use super::answers;
use super::batch::Batch;
use super::codes;
use super::ec2::{self, UnderWay};
use super::fresh::Fresh;
use super::images::Images;
use super::permissions;
use super::requests;
use super::session::AwsSession;
use crate::{
    Cloud, CloudError, Failure, Image, Instance, InstanceId, LaunchRequest, NewVolume, Tags,
    Volume, VolumeId, VolumeState,
};

/// Instances and volumes of EC2. One of these serves a whole process.
pub struct AwsCloud {
    session: AwsSession,
    starting: Batch,
    stopping: Batch,
    ending: Batch,
    instance_lists: UnderWay<Tags, Arc<Vec<Instance>>>,
    volume_lists: UnderWay<Tags, Arc<Vec<Volume>>>,
    images: Images,
    fresh: Fresh,
}

impl AwsCloud {
    /// The cloud of a session. Nothing is sent yet.
    pub fn new(session: &AwsSession) -> Self {
        let window = session.timing().batch;
        Self {
            session: session.clone(),
            // Someone waits for a node that starts.
            starting: Batch::new(session, Action::StartInstances, window / 4),
            stopping: Batch::new(session, Action::StopInstances, window),
            ending: Batch::new(session, Action::TerminateInstances, window),
            instance_lists: UnderWay::new(),
            volume_lists: UnderWay::new(),
            images: Images::default(),
            fresh: Fresh::default(),
        }
    }

    async fn find_instances(
        &self,
        filters: &[(String, String)],
    ) -> Result<Vec<Instance>, CloudError> {
        let form = |page: Option<&str>| requests::describe_instances(filters, page);
        let parse = answers::described_instances;
        ec2::pages(&self.session, Action::DescribeInstances, form, parse).await
    }

    async fn find_volumes(&self, filters: &[(String, String)]) -> Result<Vec<Volume>, CloudError> {
        let form = |page: Option<&str>| requests::describe_volumes(filters, page);
        let parse = answers::described_volumes;
        ec2::pages(&self.session, Action::DescribeVolumes, form, parse).await
    }

    /// Whether a volume is attached to this instance.
    async fn is_attached(
        &self,
        volume: &VolumeId,
        instance: &InstanceId,
    ) -> Result<bool, CloudError> {
        let filters = [("volume-id".to_owned(), volume.0.clone())];
        let there = VolumeState::InUse(instance.clone());
        let found = self.find_volumes(&filters).await?;
        Ok(found.iter().any(|v| v.id == *volume && v.state == there))
    }
}

#[async_trait]
impl Cloud for AwsCloud {
    async fn launch(&self, request: &LaunchRequest) -> Result<Instance, CloudError> {
        let action = Action::RunInstances;
        let form = requests::run_instances(request);
        let launched = ec2::call(&self.session, action, form, answers::launched_instances).await?;
        let instance = launched
            .into_iter()
            .next()
            .ok_or_else(|| codes::malformed(action, "no instance was launched"))?;
        if instance.state.is_ending() {
            // Some endpoints answer with the ended instance instead of an error.
            return Err(CloudError {
                action: action.name(),
                failure: Failure::TokenSpent,
                code: "IdempotentInstanceTerminated".to_owned(),
                message: format!("the client token launched {}, which has ended", instance.id),
            });
        }
        self.fresh.made(&instance.id.0);
        Ok(instance)
    }

    async fn instances(&self, tags: &Tags) -> Result<Vec<Instance>, CloudError> {
        let list = || async {
            let mut found = self.find_instances(&requests::tag_filters(tags)).await?;
            // Who is told of an instance may end it: an endpoint that ignores a filter must not make it someone else's.
            found.retain(|instance| carries(&instance.tags, tags));
            Ok(Arc::new(found))
        };
        let found = self.instance_lists.join(tags.clone(), list).await?;
        Ok(Arc::unwrap_or_clone(found))
    }

    async fn instance_by_token(&self, token: &str) -> Result<Option<Instance>, CloudError> {
        let filters = [("client-token".to_owned(), token.to_owned())];
        let mut found = self.find_instances(&filters).await?;
        found.retain(|instance| instance.client_token == token);
        // A token that EC2 has forgotten can have been used again: the one that lives counts.
        found.sort_by_key(|instance| instance.state.is_ending());
        Ok(found.into_iter().next())
    }

    async fn start(&self, instance: &InstanceId) -> Result<(), CloudError> {
        let result = self.starting.add(&instance.0).await;
        self.fresh.judge(&instance.0, result)
    }

    async fn stop(&self, instance: &InstanceId) -> Result<(), CloudError> {
        let result = self.stopping.add(&instance.0).await;
        self.fresh.judge(&instance.0, result)
    }

    async fn terminate(&self, instance: &InstanceId) -> Result<(), CloudError> {
        let result = self.ending.add(&instance.0).await;
        gone_is_fine(self.fresh.judge(&instance.0, result))
    }

    async fn create_volume(&self, request: &NewVolume) -> Result<Volume, CloudError> {
        let form = requests::create_volume(request);
        let mut volume = ec2::call(
            &self.session,
            Action::CreateVolume,
            form,
            answers::created_volume,
        )
        .await?;
        if volume.tags.is_empty() {
            // The answer to a creation may leave out what was just said.
            volume.tags.clone_from(&request.tags);
        }
        self.fresh.made(&volume.id.0);
        Ok(volume)
    }

    async fn volumes(&self, tags: &Tags) -> Result<Vec<Volume>, CloudError> {
        let list = || async {
            let mut found = self.find_volumes(&requests::tag_filters(tags)).await?;
            found.retain(|volume| carries(&volume.tags, tags));
            Ok(Arc::new(found))
        };
        let found = self.volume_lists.join(tags.clone(), list).await?;
        Ok(Arc::unwrap_or_clone(found))
    }

    async fn attach_volume(
        &self,
        volume: &VolumeId,
        instance: &InstanceId,
        device: &str,
    ) -> Result<(), CloudError> {
        let action = Action::AttachVolume;
        let form = requests::attach_volume(&volume.0, &instance.0, device);
        match ec2::done(&self.session, action, form).await {
            Err(error)
                if error.code == "VolumeInUse" && self.is_attached(volume, instance).await? =>
            {
                Ok(())
            }
            // Either of the two can be what is not known yet.
            result => self
                .fresh
                .judge(&volume.0, self.fresh.judge(&instance.0, result)),
        }
    }

    async fn delete_volume(&self, volume: &VolumeId) -> Result<(), CloudError> {
        let form = requests::delete_volume(&volume.0);
        let result = ec2::done(&self.session, Action::DeleteVolume, form).await;
        gone_is_fine(self.fresh.judge(&volume.0, result))
    }

    async fn resolve_image(&self, image: &Image) -> Result<String, CloudError> {
        match image {
            Image::Id(id) => Ok(id.clone()),
            Image::Parameter(name) => self.images.resolve(&self.session, name).await,
        }
    }

    async fn missing_permissions(
        &self,
        request: &LaunchRequest,
        instance: Option<&InstanceId>,
    ) -> Result<Vec<String>, CloudError> {
        permissions::missing(&self.session, request, instance).await
    }
}

/// Whether all these tags are among those.
fn carries(tags: &Tags, all: &Tags) -> bool {
    all.iter().all(|(key, value)| tags.get(key) == Some(value))
}

fn gone_is_fine(result: Result<(), CloudError>) -> Result<(), CloudError> {
    match result {
        Err(error) if error.failure == Failure::NotFound => Ok(()),
        result => result,
    }
}
