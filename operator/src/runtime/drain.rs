//! What a node that drains, or is gone, needs of the API server.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::apply::{Call, WriteError, Writer};
use super::kinds::Verb;
use super::managers::Manager;

/// What came of an eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evicted {
    /// The pod is ending or gone.
    Done,
    /// A disruption budget keeps it, in the API server's words.
    Refused(String),
}

impl Writer {
    /// Evicts a pod; disruption budgets are respected, nothing is repeated. One that is gone is a success.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn evict(&self, namespace: &str, pod: &str) -> Result<Evicted, WriteError> {
        let call = Call::new::<Pod>(Verb::Evict, namespace, pod);
        let api: Api<Pod> = Api::namespaced(self.clients.once.clone(), namespace);
        match self
            .call(&call, api.evict(pod, &EvictParams::default()))
            .await
        {
            Ok(_) => Ok(Evicted::Done),
            Err(error) if error.is_not_found() => Ok(Evicted::Done),
            Err(WriteError::Refused { status, .. }) if status.code == 429 => {
                Ok(Evicted::Refused(status.message))
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a pod whose machine is gone, without waiting for it to end. One that is gone is a success.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn remove_pod(&self, namespace: &str, pod: &str) -> Result<(), WriteError> {
        let call = Call::new::<Pod>(Verb::Delete, namespace, pod);
        let api: Api<Pod> = Api::namespaced(self.clients.patient.clone(), namespace);
        let params = DeleteParams::background().grace_period(0);
        match self.call(&call, api.delete(pod, &params)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Cordons a node, or lets it take pods again; without a call when the cache shows that it is so. One that is gone is a success.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn cordon(&self, node: &str, cordoned: bool) -> Result<(), WriteError> {
        let known = self.caches.node(node);
        if known.is_some_and(|known| known.view.unschedulable == cordoned) {
            return Ok(());
        }
        let call = Call::new::<Node>(Verb::Patch, "", node);
        let api: Api<Node> = Api::all(self.clients.patient.clone());
        let params = PatchParams {
            field_manager: Some(Manager::Nodes.name().to_owned()),
            ..PatchParams::default()
        };
        let unschedulable = if cordoned { json!(true) } else { Value::Null };
        let patch = Patch::Merge(json!({"spec": {"unschedulable": unschedulable}}));
        match self.call(&call, api.patch(node, &params, &patch)).await {
            Ok(node) => {
                self.caches.wrote(&node);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The pods that are on a node, of any owner, as the API server has them now.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn pods_on(&self, node: &str) -> Result<Vec<Pod>, WriteError> {
        let call = Call::new::<Pod>(Verb::List, "", node);
        let api: Api<Pod> = Api::all(self.clients.patient.clone());
        let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let list = self.call(&call, api.list(&params)).await?;
        Ok(list.items)
    }
}
