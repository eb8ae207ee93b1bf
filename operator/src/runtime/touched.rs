//! What a change of a cache touches.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;

use super::kinds::ChildKind;
use super::records::NodeInfo;

/// Which of the two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnerKind {
    /// HaloTenant.
    Tenant,
    /// HaloSubstrate.
    Substrate,
}

/// An object that did not parse.
#[derive(Debug, Clone, PartialEq)]
pub struct InvalidObject {
    /// What does not parse, for a person.
    pub message: String,
    /// Its uid.
    pub uid: String,
    /// Its generation.
    pub generation: Option<i64>,
    /// For events about it.
    pub reference: ObjectReference,
}

/// Something in a cache changed, and these may have to look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// A HaloTenant.
    Tenant(String),
    /// A HaloSubstrate: namespace and name.
    Substrate(String, String),
    /// A child.
    Child {
        /// Its kind.
        kind: ChildKind,
        /// Its namespace; empty if it has none.
        namespace: String,
        /// Its name.
        name: String,
        /// The tenant that its label names.
        tenant: Option<String>,
        /// The substrate that its label names.
        substrate: Option<String>,
    },
    /// A pod of a substrate.
    Pod {
        /// Its namespace.
        namespace: String,
        /// The substrate that its label names.
        substrate: String,
    },
    /// A node, as it was and as it is.
    Node {
        /// Before; empty if it is new.
        before: Option<Arc<NodeInfo>>,
        /// Now; empty if it is gone.
        after: Option<Arc<NodeInfo>>,
    },
}
