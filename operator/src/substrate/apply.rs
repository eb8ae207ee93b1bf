//! Makes children as they were prepared, and ends those that should go. Nothing is called for a child that is as it should be.

use halo_crds::HaloSubstrate;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::plan::Child;
use super::weights::Storage;
use super::workload::Prepared;
use crate::runtime::apply::{WriteError, Writer};
use crate::runtime::kinds::ChildKind;
use crate::runtime::managers::Manager;

/// Why a child is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It was not made or changed.
    #[error(transparent)]
    Write(WriteError),
    /// It was not deleted.
    #[error(transparent)]
    Delete(WriteError),
}

impl ApplyError {
    /// A stable PascalCase name.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Write(_) => "ChildNotApplied",
            Self::Delete(_) => "ChildNotDeleted",
        }
    }

    /// The API server's stable name and its words, for a condition.
    pub fn refusal(&self) -> (String, String) {
        let (Self::Write(error) | Self::Delete(error)) = self;
        (error.name().to_owned(), error.to_string())
    }
}

/// Applies every child, in an order in which none waits for a later one.
pub async fn children(writer: &Writer, prepared: &Prepared) -> Result<(), ApplyError> {
    // Without `..`: a child that is prepared and not applied does not compile.
    let Prepared {
        service_account,
        service,
        budget,
        storage,
        deployment,
    } = prepared;
    let by = Manager::Substrate;
    let done = async {
        writer.apply(service_account, by).await?;
        writer.apply(service, by).await?;
        writer.apply(budget, by).await?;
        if let Some(Storage { volume, claim }) = storage {
            writer.apply(volume, by).await?;
            writer.apply(claim, by).await?;
        }
        writer.apply(deployment, by).await?;
        Ok(())
    };
    done.await.map_err(ApplyError::Write)
}

/// Deletes children. One that was made anew meanwhile, with another uid, stays.
pub async fn removals(
    writer: &Writer,
    substrate: &HaloSubstrate,
    removals: &[Child],
) -> Result<(), ApplyError> {
    let namespace = substrate.metadata.namespace.as_deref().unwrap_or_default();
    for child in removals {
        let (name, uid) = (child.name.as_str(), Some(child.uid.as_str()));
        let done = match child.kind {
            ChildKind::Deployment => writer.delete::<Deployment>(namespace, name, uid).await,
            ChildKind::PodDisruptionBudget => {
                writer
                    .delete::<PodDisruptionBudget>(namespace, name, uid)
                    .await
            }
            ChildKind::PersistentVolumeClaim => {
                writer
                    .delete::<PersistentVolumeClaim>(namespace, name, uid)
                    .await
            }
            ChildKind::PersistentVolume => writer.delete::<PersistentVolume>("", name, uid).await,
            // Ends with its owner.
            _ => Ok(()),
        };
        done.map_err(ApplyError::Delete)?;
    }
    Ok(())
}
