//! What HALO asks of a cloud: instances that start and end, volumes that keep weights, and one secret parameter.
//!
//! [`Cloud`] and [`Secrets`] are what the operator knows; AWS stands behind them. Every call is safe to repeat: a launch and a new
//! volume carry a client token, and ending what has ended is a success.

pub mod aws;
pub mod error;
pub mod instance;
pub mod secret;
pub mod volume;

use async_trait::async_trait;

pub use error::{CloudError, Failure};
pub use instance::{
    Image, Instance, InstanceId, InstanceState, LaunchRequest, MetadataOptions, RootVolume, Tags,
    Tenancy,
};
pub use secret::{Parameter, SecretError};
pub use volume::{NewVolume, Volume, VolumeId, VolumeState};

/// Instances and volumes.
///
/// Calls are rate limited and, where the cloud allows it, batched inside the implementation: callers may call freely.
#[async_trait]
pub trait Cloud: Send + Sync {
    /// Launches one instance, or returns the one that this client token launched before.
    async fn launch(&self, request: &LaunchRequest) -> Result<Instance, CloudError>;

    /// Every instance that carries all these tags and is not yet forgotten by the cloud, terminated ones included.
    /// Eventually consistent: an instance may be missing for a while after its launch.
    async fn instances(&self, tags: &Tags) -> Result<Vec<Instance>, CloudError>;

    /// The instance that a client token launched, if the cloud shows it already.
    async fn instance_by_token(&self, token: &str) -> Result<Option<Instance>, CloudError>;

    /// Starts a stopped instance; one that runs already is a success.
    async fn start(&self, instance: &InstanceId) -> Result<(), CloudError>;

    /// Stops a running instance; one that is stopped already is a success.
    async fn stop(&self, instance: &InstanceId) -> Result<(), CloudError>;

    /// Ends an instance; one that is gone is a success. One that was launched a moment ago and is not shown yet is
    /// [`Failure::State`]: ask again.
    async fn terminate(&self, instance: &InstanceId) -> Result<(), CloudError>;

    /// Makes an encrypted gp3 volume, or returns the one that this client token made before.
    async fn create_volume(&self, request: &NewVolume) -> Result<Volume, CloudError>;

    /// Every volume that carries all these tags.
    async fn volumes(&self, tags: &Tags) -> Result<Vec<Volume>, CloudError>;

    /// Attaches a volume to a running instance; one that is attached there already is a success.
    async fn attach_volume(
        &self,
        volume: &VolumeId,
        instance: &InstanceId,
        device: &str,
    ) -> Result<(), CloudError>;

    /// Deletes a volume that is attached to nothing; one that is gone is a success. One that was made a moment ago and is not
    /// shown yet is [`Failure::State`]: ask again.
    async fn delete_volume(&self, volume: &VolumeId) -> Result<(), CloudError>;

    /// The image id that an image names: itself, or what a public parameter says today. Answers are remembered for a day.
    async fn resolve_image(&self, image: &Image) -> Result<String, CloudError>;

    /// Asks, without doing it, whether this process may do what a pool needs; the names of the IAM actions that are denied. What may be
    /// done to instances is asked about `instance` only: a policy may permit it for those with a tag.
    async fn missing_permissions(
        &self,
        request: &LaunchRequest,
        instance: Option<&InstanceId>,
    ) -> Result<Vec<String>, CloudError>;
}

/// Secret parameters.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The exact bytes of one version of a secret parameter, decrypted, never trimmed; without a version the latest.
    async fn parameter(&self, name: &str, version: Option<u32>) -> Result<Parameter, SecretError>;
}
