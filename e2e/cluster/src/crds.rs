//! Installing custom resource definitions.

use std::time::{Duration, Instant};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};

use crate::{control_plane::ControlPlane, error::Error};

/// How long the API server may take to serve a new kind.
const DEADLINE: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Installs HALO's own definitions and waits until they are served.
///
/// # Errors
/// A definition is refused or never established.
pub async fn install_crds(plane: &ControlPlane) -> Result<(), Error> {
    install(plane.harness().await?, halo_crds::all()).await
}

/// Applies definitions and waits until each is established: its names are accepted and its objects are served.
///
/// # Errors
/// A definition is refused or never established.
pub async fn install(
    client: Client,
    definitions: Vec<CustomResourceDefinition>,
) -> Result<(), Error> {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    let apply = PatchParams::apply("halo-e2e-cluster").force();
    let mut waiting = Vec::new();
    for definition in definitions {
        let name = definition.name_any();
        api.patch(&name, &apply, &Patch::Apply(&definition))
            .await
            .map_err(|error| Error::Crd {
                name: name.clone(),
                why: error.to_string(),
            })?;
        waiting.push(name);
    }
    let started = Instant::now();
    for name in waiting {
        loop {
            let conditions = api
                .get(&name)
                .await?
                .status
                .and_then(|status| status.conditions)
                .unwrap_or_default();
            let is = |kind: &str| {
                conditions
                    .iter()
                    .any(|found| found.type_ == kind && found.status == "True")
            };
            if is("Established") {
                break;
            }
            if is("NonStructuralSchema") || started.elapsed() > DEADLINE {
                let why = format!("not established: {conditions:?}");
                return Err(Error::Crd { name, why });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}
