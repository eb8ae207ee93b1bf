//! What the schema cannot say by types: a pool and a place of weights, exactly one of each.

use halo_crds::pool::{Ec2Pool, ExistingPool};
use halo_crds::{HaloSubstrate, HaloSubstrateSpec};

/// Why an object cannot be worked with. The API server refuses such objects; one that was stored before its rules may still be there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Metadata that every stored object has is missing.
    #[error("metadata.{0} is missing")]
    Metadata(&'static str),
    /// Not exactly one pool.
    #[error("say where pods run by exactly one of nodePool.ec2 and nodePool.existing")]
    Pool,
    /// Not exactly one place.
    #[error("say where the weights are by exactly one of model.image, model.node and model.claim")]
    Weights,
}

impl Invalid {
    /// A stable PascalCase name.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Metadata(_) => "MetadataMissing",
            Self::Pool => "PoolInvalid",
            Self::Weights => "WeightsInvalid",
        }
    }
}

/// Where pods run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// On instances that are launched for them.
    Ec2(&'a Ec2Pool),
    /// On nodes that are there.
    Existing(&'a ExistingPool),
}

/// Where weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights<'a> {
    /// At a path of the container image.
    Image(&'a str),
    /// At a path of each node.
    Node(&'a str),
    /// At a path of a claim's volume.
    Claim {
        /// The claim.
        name: &'a str,
        /// The path in its volume; empty for all of it.
        path: &'a str,
    },
}

/// A HaloSubstrate that can be worked with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Valid<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// Its generation.
    pub generation: i64,
    /// Its spec.
    pub spec: &'a HaloSubstrateSpec,
    /// Where its pods run.
    pub place: Place<'a>,
    /// Where its weights are.
    pub weights: Weights<'a>,
}

/// Checks an object.
pub fn validate(substrate: &HaloSubstrate) -> Result<Valid<'_>, Invalid> {
    let meta = &substrate.metadata;
    let text = |value: &'_ Option<String>| value.as_deref().is_some_and(|text| !text.is_empty());
    for (field, there) in [
        ("name", text(&meta.name)),
        ("namespace", text(&meta.namespace)),
        ("uid", text(&meta.uid)),
    ] {
        if !there {
            return Err(Invalid::Metadata(field));
        }
    }
    let spec = &substrate.spec;
    let place = match (&spec.node_pool.ec2, &spec.node_pool.existing) {
        (Some(pool), None) => Place::Ec2(pool),
        (None, Some(pool)) => Place::Existing(pool),
        (Some(_), Some(_)) | (None, None) => return Err(Invalid::Pool),
    };
    let model = &spec.model;
    let weights = match (&model.image, &model.node, &model.claim) {
        (Some(image), None, None) => Weights::Image(&image.path),
        (None, Some(node), None) => Weights::Node(&node.path),
        (None, None, Some(claim)) => Weights::Claim {
            name: &claim.claim_name,
            path: &claim.path,
        },
        _ => return Err(Invalid::Weights),
    };
    Ok(Valid {
        name: meta.name.as_deref().unwrap_or_default(),
        namespace: meta.namespace.as_deref().unwrap_or_default(),
        uid: meta.uid.as_deref().unwrap_or_default(),
        generation: meta.generation.unwrap_or_default(),
        spec,
        place,
        weights,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::substrate::testing;
    use halo_crds::substrate::ModelPath;

    #[test]
    fn it_names_the_pool_and_the_weights() {
        let substrate = testing::ec2();
        let valid = validate(&substrate).unwrap();
        assert!(matches!(valid.place, Place::Ec2(_)));
        assert_eq!(valid.weights, Weights::Node("/mnt/halo/models/qwen3"));
        assert_eq!((valid.namespace, valid.name), ("halo-acme", "qwen"));
    }

    #[test]
    fn what_the_rules_refuse_is_refused_here_as_well() {
        let mut both = testing::ec2();
        both.spec.node_pool.existing = testing::existing().spec.node_pool.existing;
        assert_eq!(validate(&both), Err(Invalid::Pool));
        let mut neither = testing::ec2();
        neither.spec.node_pool.ec2 = None;
        assert_eq!(validate(&neither), Err(Invalid::Pool));
        let mut weights = testing::ec2();
        weights.spec.model.image = Some(ModelPath {
            path: "/model".to_owned(),
        });
        assert_eq!(validate(&weights), Err(Invalid::Weights));
        let mut nobody = testing::ec2();
        nobody.metadata.uid = None;
        assert_eq!(validate(&nobody), Err(Invalid::Metadata("uid")));
    }
}
