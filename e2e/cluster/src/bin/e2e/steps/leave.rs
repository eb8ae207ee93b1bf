//! Step 7: tenants are deleted and the charts uninstalled. Nothing stays: no namespace, volume, instance, finalizer or cluster role.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, Secret};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::install::{self, NAMESPACE};
use crate::report::Step;
use crate::world::{World, eventually};

/// How long deletion may take.
const LIMIT: Duration = Duration::from_secs(240);

pub async fn run(world: &World, step: &mut Step) -> Result<()> {
    // One tenant is awake when it goes.
    let tenant = &world.tenants[0];
    let device = world.device(tenant, "last").await?;
    let asked = device
        .ask(&world.programs, &world.door, "What is left?", 8, LIMIT)
        .await?;
    world.passes(&asked.session).await?;
    let ids: Vec<&str> = world
        .tenants
        .iter()
        .map(|tenant| tenant.id.as_str())
        .collect();
    let mut arguments = vec!["delete", "halotenant", "--wait=true", "--timeout=240s"];
    arguments.extend(&ids);
    install::kubectl(&world.cluster, &arguments).await?;
    step.held("both tenants deleted, one of them awake: their finalizers are done");
    eventually(LIMIT, "the cloud is empty", || async {
        let (instances, volumes) = (world.aws.instances().await?, world.aws.volumes().await?);
        ensure!(
            instances.is_empty() && volumes.is_empty(),
            "instances {instances:?}, volumes {volumes:?}"
        );
        Ok(())
    })
    .await?;
    step.held("no instance and no volume");
    let namespaces: Vec<&str> = world
        .tenants
        .iter()
        .map(|tenant| tenant.namespace.as_str())
        .collect();
    // The example brings its namespace, which the operator adopted: it is given back without keys and pods, and is its owner's to delete.
    for namespace in &namespaces {
        let secrets: Api<Secret> = Api::namespaced(world.client.clone(), namespace);
        let secrets = secrets.list(&ListParams::default()).await?.items;
        let pods = world.pods(namespace).await?;
        ensure!(
            secrets.is_empty() && pods.is_empty(),
            "{namespace} still has {} secrets and {} pods",
            secrets.len(),
            pods.len()
        );
    }
    let mut arguments = vec!["delete", "namespace", "--wait=true", "--timeout=120s"];
    arguments.extend(&namespaces);
    install::kubectl(&world.cluster, &arguments).await?;
    eventually(LIMIT, "no trace of tenants", || async {
        let left = names::<Namespace>(world, |name| namespaces.contains(&name)).await?;
        ensure!(left.is_empty(), "namespaces {left:?}");
        let left = every_name::<PersistentVolume>(world).await?;
        ensure!(left.is_empty(), "volumes {left:?}");
        let left = names::<Node>(world, |name| name != "node0").await?;
        ensure!(left.is_empty(), "nodes {left:?}");
        Ok(())
    })
    .await?;
    step.held("their namespaces came back without keys and pods, and go; no volume, no node");
    // Receipts outlive their tenant.
    world.passes(&asked.session).await?;
    step.held("their receipts stay and verify");

    world
        .helm
        .run(&["uninstall", "halo", "--namespace", NAMESPACE, "--wait"])
        .await?;
    world
        .helm
        .run(&["uninstall", "halo-crds", "--namespace", NAMESPACE])
        .await?;
    let ours = |name: &str| name.contains("halo");
    let definitions = names::<CustomResourceDefinition>(world, ours).await?;
    ensure!(
        definitions.len() == 2,
        "helm keeps the definitions, so that no tenant is lost by mistake; there are {definitions:?}"
    );
    let mut arguments = vec![
        "delete",
        "customresourcedefinition",
        "--wait=true",
        "--timeout=120s",
    ];
    arguments.extend(definitions.iter().map(String::as_str));
    install::kubectl(&world.cluster, &arguments).await?;
    let arguments = [
        "delete",
        "namespace",
        NAMESPACE,
        "--wait=true",
        "--timeout=120s",
    ];
    install::kubectl(&world.cluster, &arguments).await?;
    eventually(LIMIT, "nothing of HALO is left", || async {
        let mut left = names::<ClusterRole>(world, ours).await?;
        left.extend(names::<ClusterRoleBinding>(world, ours).await?);
        left.extend(names::<CustomResourceDefinition>(world, ours).await?);
        left.extend(names::<Namespace>(world, ours).await?);
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    step.held("helm uninstall: no cluster role, binding, definition or namespace");
    Ok(())
}

/// Names of the objects of a kind that are of interest.
async fn names<K>(world: &World, of_interest: impl Fn(&str) -> bool) -> Result<Vec<String>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(world.client.clone());
    let items = api.list(&ListParams::default()).await?.items;
    let found = items.iter().map(ResourceExt::name_any);
    Ok(found.filter(|name| of_interest(name)).collect())
}

async fn every_name<K>(world: &World) -> Result<Vec<String>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    names::<K>(world, |_| true).await
}
