//! Asks the API server, and sorts what comes back.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};
use rustls::pki_types::UnixTime;
use tokio::time::timeout;

use super::cluster::{self, NotRead};
use super::outcome::{Category, Check};
use super::{Options, certificate};

/// The Deployments of the chart; the second one carries the gateway's certificate.
const DEPLOYMENTS: [&str; 2] = ["halo-operator", "halo-gateway"];

/// What the charts make, for `--pre`: group and resource.
const MADE: [(&str, &str); 7] = [
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("", "namespaces"),
    ("", "serviceaccounts"),
    ("apps", "deployments"),
    ("networking.k8s.io", "networkpolicies"),
];

/// A client for the cluster that the flags, the environment or the pod name.
///
/// # Errors
/// There is no cluster to be found, in words.
pub async fn connect(options: &Options) -> Result<Client, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let told = options.kubeconfig.is_some() || options.context.is_some();
    let mut config = if told {
        let kubeconfig = match &options.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        }
        .map_err(|error| text(&error))?;
        let chosen = KubeConfigOptions {
            context: options.context.clone(),
            ..KubeConfigOptions::default()
        };
        Config::from_custom_kubeconfig(kubeconfig, &chosen)
            .await
            .map_err(|error| text(&error))?
    } else {
        Config::infer().await.map_err(|error| text(&error))?
    };
    // Whoever waits in front of a terminal wants to know soon, and asks again.
    config.connect_timeout = Some(options.timeout);
    config.default_retry = false;
    Client::try_from(config).map_err(|error| text(&error))
}

/// Awaits an answer of the API server, no longer than may be.
async fn ask<T>(
    limit: Duration,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, NotRead> {
    match timeout(limit * 2, call).await {
        Err(_) => Err(NotRead::Failed(format!("no answer within {:?}", limit * 2))),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => {
            Err(NotRead::Denied(status.message.clone()))
        }
        Ok(Err(error)) => Err(NotRead::Failed(chain(&error))),
    }
}

/// An error with what caused it: a client's own words say little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

/// The API server: it answers, and is new enough. Also whether it answers at all.
pub async fn api(client: &Client, options: &Options) -> (Category, bool) {
    let version = ask(options.timeout, client.apiserver_version()).await;
    let version = version.map(|info| (info.major, info.minor));
    let answers = !matches!(version, Err(NotRead::Failed(_)));
    (
        Category {
            category_name: "kubernetes-api",
            checks: cluster::api(&version),
        },
        answers,
    )
}

/// The definitions of both kinds.
pub async fn definitions(client: &Client, options: &Options) -> Category {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut checks = Vec::new();
    for wanted in halo_crds::all() {
        let name = wanted.name_any();
        let found = ask(options.timeout, api.get_metadata_opt(&name)).await;
        let revision = found.map(|found| {
            found.map(|found| {
                let annotations = found.metadata.annotations.unwrap_or_default();
                annotations
                    .get(halo_crds::SCHEMA_REVISION_ANNOTATION)
                    .cloned()
            })
        });
        checks.push(cluster::definition(&name, &revision, options.pre));
    }
    Category {
        category_name: "halo-definitions",
        checks,
    }
}

/// Whether the charts could be installed by whoever asks.
pub async fn permissions(client: &Client, options: &Options) -> Category {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut checks = Vec::new();
    for (group, resource) in MADE {
        let namespaced = !matches!(group, "apiextensions.k8s.io" | "rbac.authorization.k8s.io")
            && resource != "namespaces";
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    verb: Some("create".to_owned()),
                    namespace: namespaced.then(|| options.namespace.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let answer = ask(options.timeout, api.create(&PostParams::default(), &review)).await;
        let allowed = answer.map(|review| review.status.is_some_and(|status| status.allowed));
        checks.push(cluster::may("create", resource, &allowed));
    }
    Category {
        category_name: "kubernetes-permissions",
        checks,
    }
}

/// The Deployments of the chart, and the certificate that devices see.
pub async fn control_plane(client: &Client, options: &Options) -> Category {
    let api: Api<Deployment> = Api::namespaced(client.clone(), &options.namespace);
    let mut checks = Vec::new();
    let mut gateway = None;
    for name in DEPLOYMENTS {
        let found = ask(options.timeout, api.get_opt(name)).await;
        let facts = found
            .as_ref()
            .map_err(Clone::clone)
            .map(|found| found.as_ref().map(facts));
        checks.push(cluster::deployment(&options.namespace, name, &facts));
        gateway = found.ok().flatten();
    }
    if let Some(gateway) = gateway {
        checks.push(gateways_certificate(client, options, &gateway).await);
    }
    Category {
        category_name: "halo-control-plane",
        checks,
    }
}

fn facts(deployment: &Deployment) -> cluster::Deployment {
    let spec = deployment.spec.as_ref();
    let status = deployment.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    // Counts of a generation before the newest one say nothing of it.
    let seen = status.observed_generation >= deployment.metadata.generation;
    cluster::Deployment {
        desired: spec.and_then(|spec| spec.replicas).unwrap_or(1),
        available: status.available_replicas.unwrap_or(0),
        updated: status.updated_replicas.filter(|_| seen).unwrap_or(0),
        stuck: conditions
            .iter()
            .any(|one| one.type_ == "Progressing" && one.status == "False"),
    }
}

/// The certificate in the first Secret that the gateway mounts and that has one.
async fn gateways_certificate(client: &Client, options: &Options, gateway: &Deployment) -> Check {
    let says = "the gateway's certificate is valid";
    let pod = gateway
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    let volumes = pod
        .and_then(|pod| pod.volumes.as_deref())
        .unwrap_or_default();
    let names = volumes
        .iter()
        .filter_map(|volume| volume.secret.as_ref()?.secret_name.as_deref());
    let api: Api<Secret> = Api::namespaced(client.clone(), &options.namespace);
    let mut missing = Vec::new();
    for name in names {
        match ask(options.timeout, api.get_opt(name)).await {
            Ok(Some(secret)) => {
                if let Some(chain) = secret.data.as_ref().and_then(|data| data.get("tls.crt")) {
                    return certificate::judge(
                        format!("{says} (Secret {name})"),
                        &chain.0,
                        UnixTime::now(),
                    );
                }
            }
            Ok(None) => missing.push(name.to_owned()),
            Err(NotRead::Denied(why)) => {
                return Check::unknown(says, why).hint(
                    "ask as somebody who may get secrets in that namespace",
                    "docs/install.md#the-gateways-certificate",
                );
            }
            Err(NotRead::Failed(why)) => return Check::unknown(says, why),
        }
    }
    if missing.is_empty() {
        return Check::warn(
            says,
            "the gateway mounts no certificate, so it serves without TLS",
        )
        .hint(
            "what devices say can be read between it and whatever terminates TLS in front of it",
            "docs/install.md#the-gateways-certificate",
        );
    }
    Check::fail(says, format!("there is no Secret {}", missing.join(", "))).hint(
        "make it, or have cert-manager make it",
        "docs/install.md#the-gateways-certificate",
    )
}
