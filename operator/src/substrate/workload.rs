//! The objects that a substrate is made of. Pure: the same input makes the same bytes.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource as _;
use kube::api::ObjectMeta;

use halo_crds::{HaloSubstrate, SUBSTRATE_LABEL, TENANT_LABEL};

use super::pod;
use super::validate::Valid;
use super::weights::{self, Storage};
use crate::runtime::records::MANAGED_BY;
use crate::settings::PodDefaults;

/// The port of a pod, and of its Service.
pub const PORT: i32 = 8090;

/// What pods need to know of their tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantFacts {
    /// Its id in keys and receipts.
    pub id: String,
    /// The DynamoDB table of its receipts.
    pub table: String,
    /// The table's region.
    pub region: String,
}

/// What the builder looks at.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The substrate.
    pub substrate: &'a Valid<'a>,
    /// Its tenant.
    pub tenant: &'a TenantFacts,
    /// The image of pods whose substrate names none.
    pub image: &'a str,
    /// What all pods get besides.
    pub defaults: &'a PodDefaults,
    /// Pods that should run; 0 to sleep.
    pub replicas: u32,
}

/// Children as they should be. Applied in the order of the fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// Who pods are; without a token.
    pub service_account: ServiceAccount,
    /// How gateways find pods.
    pub service: Service,
    /// What keeps others from evicting pods that answer.
    pub budget: PodDisruptionBudget,
    /// Volume and claim of weights on nodes.
    pub storage: Option<Storage>,
    /// The pods.
    pub deployment: Deployment,
}

/// Labels and owner of a substrate's children.
#[derive(Debug, Clone, PartialEq)]
pub struct Labels {
    name: String,
    namespace: String,
    tenant: String,
    owner: OwnerReference,
}

impl Labels {
    /// Those of a substrate.
    pub fn of(valid: &Valid<'_>) -> Self {
        Self {
            name: valid.name.to_owned(),
            namespace: valid.namespace.to_owned(),
            tenant: valid.spec.tenant.clone(),
            owner: OwnerReference {
                api_version: HaloSubstrate::api_version(&()).into_owned(),
                kind: HaloSubstrate::kind(&()).into_owned(),
                name: valid.name.to_owned(),
                uid: valid.uid.to_owned(),
                controller: Some(true),
                block_owner_deletion: None,
            },
        }
    }

    /// What selects the pods. Never changes: a Deployment's selector cannot.
    pub fn selector(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(SUBSTRATE_LABEL.to_owned(), self.name.clone())])
    }

    /// Labels of every child.
    pub fn all(&self) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        labels.insert(TENANT_LABEL.to_owned(), self.tenant.clone());
        labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
        labels.insert(
            "app.kubernetes.io/name".to_owned(),
            "halo-substrate".to_owned(),
        );
        labels
    }

    /// Metadata of a child that ends with the substrate.
    pub fn owned(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.all()),
            owner_references: Some(vec![self.owner.clone()]),
            ..ObjectMeta::default()
        }
    }
}

/// The name of the pods' service account. Not the substrate's own name, which could be `default`.
pub fn service_account_name(substrate: &str) -> String {
    format!("{substrate}-pod")
}

/// Builds the children.
pub fn build(plan: &Plan<'_>) -> Prepared {
    let valid = plan.substrate;
    let labels = Labels::of(valid);
    let mounted = weights::mounted(valid, &labels);
    let template = pod::template(plan, &labels, &mounted);
    Prepared {
        service_account: service_account(valid, &labels),
        service: service(valid, &labels),
        budget: budget(valid, &labels, plan.replicas),
        storage: mounted.storage,
        deployment: Deployment {
            metadata: labels.owned(valid.name.to_owned()),
            spec: Some(DeploymentSpec {
                replicas: Some(i32::try_from(plan.replicas).unwrap_or(i32::MAX)),
                selector: selector(&labels),
                min_ready_seconds: Some(0),
                revision_history_limit: Some(2),
                // A wake brings nodes first; the Deployment's own clock should not run out before the wake's.
                progress_deadline_seconds: Some(seconds(
                    valid.spec.scaling.wake_deadline.get().as_secs().max(600),
                )),
                // Each pod has a node to itself, so a new one finds room only where an old one has gone.
                strategy: Some(DeploymentStrategy {
                    type_: Some("RollingUpdate".to_owned()),
                    rolling_update: Some(RollingUpdateDeployment {
                        max_surge: Some(IntOrString::Int(0)),
                        max_unavailable: Some(IntOrString::Int(1)),
                    }),
                }),
                template,
                ..DeploymentSpec::default()
            }),
            status: None,
        },
    }
}

/// Seconds as the API takes them.
pub(super) fn seconds(seconds: u64) -> i32 {
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

fn selector(labels: &Labels) -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels.selector()),
        match_expressions: None,
    }
}

fn service_account(valid: &Valid<'_>, labels: &Labels) -> ServiceAccount {
    let mut metadata = labels.owned(service_account_name(valid.name));
    let annotations = &valid.spec.pod.service_account_annotations;
    metadata.annotations = (!annotations.is_empty()).then(|| annotations.clone());
    ServiceAccount {
        metadata,
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

fn service(valid: &Valid<'_>, labels: &Labels) -> Service {
    Service {
        metadata: labels.owned(valid.name.to_owned()),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some("None".to_owned()),
            // A pod that has not loaded its model cannot answer.
            publish_not_ready_addresses: Some(false),
            selector: Some(labels.selector()),
            ports: Some(vec![ServicePort {
                name: Some("stream".to_owned()),
                port: PORT,
                target_port: Some(IntOrString::Int(PORT)),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Who drains a node asks this budget. The only pod of a substrate that is in use may not be evicted, of several one at a time; once
/// the substrate sleeps or is on its way there, all may. The operator itself ends pods through the Deployment, which asks no budget.
fn budget(valid: &Valid<'_>, labels: &Labels, replicas: u32) -> PodDisruptionBudget {
    let max_unavailable = match replicas {
        0 => IntOrString::String("100%".to_owned()),
        1 => IntOrString::Int(0),
        _ => IntOrString::Int(1),
    };
    PodDisruptionBudget {
        metadata: labels.owned(valid.name.to_owned()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(max_unavailable),
            selector: Some(selector(labels)),
            // A pod that does not answer is worth no protection.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

#[cfg(test)]
#[path = "workload_tests.rs"]
mod tests;
