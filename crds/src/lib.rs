//! HaloTenant and HaloSubstrate, the custom resources of HALO, as Rust types.
//!
//! Defaults and rules stand in the schema (CEL), so that the API server refuses a bad object with a sentence that says what to write
//! instead. The operator writes `status`, gateways write `status.demand`.

pub mod condition;
pub mod duration;
pub mod pool;
pub mod reasons;
pub mod status;
pub mod substrate;
pub mod tenant;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

pub use duration::Period;
pub use status::{HaloSubstrateStatus, HaloTenantStatus};
pub use substrate::{HaloSubstrate, HaloSubstrateSpec};
pub use tenant::{HaloTenant, HaloTenantSpec};

/// The API group of both kinds, and the prefix of every label, annotation, tag and finalizer.
pub const GROUP: &str = "halo.howdify.io";

/// The version that is stored and served.
pub const VERSION: &str = "v1alpha1";

/// Which state of the schema this is, counted up by each change: an operator refuses a cluster whose definitions carry a smaller one.
pub const SCHEMA_REVISION: u32 = 1;

/// The annotation of a CustomResourceDefinition that carries [`SCHEMA_REVISION`].
pub const SCHEMA_REVISION_ANNOTATION: &str = "halo.howdify.io/schema-revision";

/// The label that every object of a tenant carries; a namespace must carry it to be adopted. Its value is the HaloTenant's name.
pub const TENANT_LABEL: &str = "halo.howdify.io/tenant";

/// The label that every object of a substrate carries. Its value is the HaloSubstrate's name.
pub const SUBSTRATE_LABEL: &str = "halo.howdify.io/substrate";

/// The label that a node of a substrate's pool carries. Its value is the HaloSubstrate's uid.
pub const POOL_LABEL: &str = "halo.howdify.io/pool";

/// The finalizer of both kinds: instances, volumes and nodes end before their object does.
pub const FINALIZER: &str = "halo.howdify.io/cleanup";

/// Both definitions, ready to be applied.
pub fn all() -> Vec<CustomResourceDefinition> {
    [HaloTenant::crd(), HaloSubstrate::crd()]
        .into_iter()
        .map(|mut definition| {
            let annotations = definition.metadata.annotations.get_or_insert_default();
            annotations.insert(
                SCHEMA_REVISION_ANNOTATION.to_owned(),
                SCHEMA_REVISION.to_string(),
            );
            definition
        })
        .collect()
}

/// A definition as YAML.
pub fn yaml(definition: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(definition)
}

/// The name of the file that holds a definition, such as `halotenants.yaml`.
pub fn file_name(definition: &CustomResourceDefinition) -> String {
    format!("{}.yaml", definition.spec.names.plural)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_definitions_are_those_that_the_types_make() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
        for definition in all() {
            let file = folder.join(file_name(&definition));
            assert_eq!(
                std::fs::read_to_string(&file).unwrap_or_default(),
                yaml(&definition).unwrap(),
                "{} is out of date: cargo run -p halo-crds -- --write crds/yaml",
                file.display()
            );
        }
    }

    #[test]
    fn the_group_of_the_kinds_is_the_constant() {
        for definition in all() {
            assert_eq!(definition.spec.group, GROUP);
            assert_eq!(definition.spec.versions.len(), 1);
            assert_eq!(definition.spec.versions[0].name, VERSION);
        }
    }
}
