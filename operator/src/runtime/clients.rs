//! Connections to the API server, and the kinds that are written over them.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::api::Api;
use kube::core::ClusterResourceScope;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The operator's connections to the API server.
#[derive(Clone)]
pub struct Clients {
    /// Repeats calls that the server asks to repeat.
    pub patient: Client,
    /// Repeats nothing: for evictions, which a disruption budget refuses for minutes, for the lease, and for what is made once.
    pub once: Client,
}

impl Clients {
    /// Both of one configuration.
    ///
    /// # Errors
    /// TLS or the credentials cannot be set up.
    pub fn new(config: &kube::Config) -> Result<Self, Box<kube::Error>> {
        let mut patient = config.clone();
        patient.default_retry = true;
        let mut once = config.clone();
        once.default_retry = false;
        // Watches use it as well; a list on a connection that died would otherwise wait for ever.
        once.read_timeout = once.read_timeout.or(Some(Duration::from_secs(300)));
        Ok(Self {
            patient: Client::try_from(patient).map_err(Box::new)?,
            once: Client::try_from(once).map_err(Box::new)?,
        })
    }
}

/// Kinds that can be written: with or without a namespace.
pub trait Object:
    Resource<DynamicType = (), Scope: Place<Self>>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = (), Scope: Place<K>>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// Where objects of a kind live.
pub trait Place<K> {
    /// The API of the kind; the namespace counts only for kinds that have one.
    fn api(client: Client, namespace: &str) -> Api<K>;
}

impl<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>> Place<K>
    for NamespaceResourceScope
{
    fn api(client: Client, namespace: &str) -> Api<K> {
        Api::namespaced(client, namespace)
    }
}

impl<K: Resource<DynamicType = (), Scope = ClusterResourceScope>> Place<K>
    for ClusterResourceScope
{
    fn api(client: Client, _: &str) -> Api<K> {
        Api::all(client)
    }
}
