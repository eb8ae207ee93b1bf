//! The only door for writes to the API server.
//!
//! Every call has a deadline of its own, passes the witness, is counted, and goes out only while this process leads. What would change
//! nothing is not sent.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Resource;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::caches::Caches;
pub use super::clients::{Clients, Object, Place};
pub use super::drain::Evicted;
use super::intent::{intent_of, spec_hash, status_intent};
use super::kinds::{ChildKind, Verb, action};
use super::managers::Manager;
use super::metrics::Metrics;
use super::ownership;
use super::records::SPEC_HASH;
pub use super::write_error::WriteError;
use crate::effect::{Effect, Witness};

/// What came of an apply.
#[derive(Debug, Clone)]
pub enum Applied<K> {
    /// The object is as it should be; no call was made.
    Unchanged,
    /// The API server's answer.
    Written(Box<K>),
}

impl<K> Applied<K> {
    /// Whether a call was made.
    pub fn was_written(&self) -> bool {
        matches!(self, Self::Written(_))
    }
}

/// The only door for writes to the API server. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    pub(super) clients: Clients,
    pub(super) caches: Arc<Caches>,
    witness: Arc<dyn Witness>,
    metrics: Arc<Metrics>,
    leading: watch::Receiver<bool>,
    deadline: Duration,
}

/// What a call is about.
pub(super) struct Call {
    verb: Verb,
    action: &'static str,
    object: String,
}

impl Call {
    pub(super) fn new<K: Resource<DynamicType = ()>>(
        verb: Verb,
        namespace: &str,
        name: &str,
    ) -> Self {
        let object = if namespace.is_empty() {
            name.to_owned()
        } else {
            format!("{namespace}/{name}")
        };
        Self {
            verb,
            action: action(verb, &K::kind(&())),
            object,
        }
    }

    fn of<K: Resource<DynamicType = ()>>(verb: Verb, object: &K) -> Result<Self, WriteError> {
        let (namespace, name) = place(object);
        let call = Self::new::<K>(verb, namespace, name);
        if name.is_empty() {
            return Err(call.malformed("it has no name"));
        }
        Ok(call)
    }

    fn malformed(&self, why: impl Into<String>) -> WriteError {
        WriteError::Malformed {
            action: self.action,
            object: self.object.clone(),
            why: why.into(),
        }
    }
}

/// Namespace (empty if none) and name.
fn place<K: Resource<DynamicType = ()>>(object: &K) -> (&str, &str) {
    let meta = object.meta();
    (
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

/// Children whose stray fields are removed. Those of a Deployment or a Service may be another controller's, with whom one would quarrel.
const STRICT: [ChildKind; 4] = [
    ChildKind::Secret,
    ChildKind::ResourceQuota,
    ChildKind::LimitRange,
    ChildKind::NetworkPolicy,
];

impl Writer {
    /// A door. `leading` says whether this process may write now; `deadline` is for one call.
    pub fn new(
        clients: Clients,
        caches: Arc<Caches>,
        witness: Arc<dyn Witness>,
        metrics: Arc<Metrics>,
        leading: watch::Receiver<bool>,
        deadline: Duration,
    ) -> Self {
        Self {
            clients,
            caches,
            witness,
            metrics,
            leading,
            deadline,
        }
    }

    /// Applies a child with its spec hash, by force; without a call when the cache shows that it is there as it should be.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn apply<K: Object>(
        &self,
        object: &K,
        manager: Manager,
    ) -> Result<Applied<K>, WriteError> {
        let call = Call::of(Verb::Patch, object)?;
        let (namespace, name) = place(object);
        let mut intent = intent_of(object).map_err(|why| call.malformed(why))?;
        let hash = spec_hash(&intent, manager);
        let kind = ChildKind::named(&K::kind(&()));
        let known = kind.and_then(|kind| self.caches.child(kind, namespace, name));
        if known.is_some_and(|known| {
            known.spec_hash.as_ref() == Some(&hash) && !known.changed_by_others && !known.deleting
        }) {
            return Ok(Applied::Unchanged);
        }
        intent["metadata"]["annotations"][SPEC_HASH] = Value::String(hash);
        let api = <K::Scope as Place<K>>::api(self.clients.patient.clone(), namespace);
        let params = PatchParams::apply(manager.name()).force();
        let patch = Patch::Apply(&intent);
        let written: K = self.call(&call, api.patch(name, &params, &patch)).await?;
        let strangers = if kind.is_some_and(|kind| STRICT.contains(&kind)) {
            ownership::strangers(written.meta().managed_fields.as_deref().unwrap_or_default())
        } else {
            Vec::new()
        };
        let written = if strangers.is_empty() {
            written
        } else {
            let params = PatchParams {
                field_manager: Some(manager.name().to_owned()),
                ..PatchParams::default()
            };
            let patch = Patch::Merge(ownership::removal(&strangers));
            self.call(&call, api.patch(name, &params, &patch)).await?
        };
        self.caches.wrote(&written);
        Ok(Applied::Written(Box::new(written)))
    }

    /// Makes an object that must not be there yet; it is not repeated. A child gets its spec hash as with [`Writer::apply`].
    ///
    /// # Errors
    /// See [`WriteError`]; [`WriteError::is_already_exists`].
    pub async fn create<K: Object>(&self, object: &K, manager: Manager) -> Result<K, WriteError> {
        let call = Call::of(Verb::Create, object)?;
        let (namespace, _) = place(object);
        let hash = {
            let intent = intent_of(object).map_err(|why| call.malformed(why))?;
            spec_hash(&intent, manager)
        };
        let mut object = object.clone();
        if ChildKind::named(&K::kind(&())).is_some() {
            let annotations = object.meta_mut().annotations.get_or_insert_default();
            annotations.insert(SPEC_HASH.to_owned(), hash);
        }
        let api = <K::Scope as Place<K>>::api(self.clients.once.clone(), namespace);
        let params = PostParams {
            dry_run: false,
            field_manager: Some(manager.name().to_owned()),
        };
        let made = self.call(&call, api.create(&params, &object)).await?;
        self.caches.wrote(&made);
        Ok(made)
    }

    /// Applies the status of an object, by force and whole: a field that is not in `status` any more is removed if it was this
    /// manager's. With a resource version the write fails as a conflict if anybody wrote since.
    ///
    /// # Errors
    /// See [`WriteError`]; [`WriteError::is_conflict`].
    pub async fn apply_status<K: Object>(
        &self,
        object: &K,
        status: &impl Serialize,
        manager: Manager,
        resource_version: Option<&str>,
    ) -> Result<K, WriteError> {
        let call = Call::of(Verb::PatchStatus, object)?;
        let (namespace, name) = place(object);
        let written: K = self
            .patch_status(&call, namespace, name, status, manager, resource_version)
            .await?;
        self.caches.wrote(&written);
        Ok(written)
    }

    /// As [`Writer::apply_status`] for an object that does not parse; what the API server answers is not read.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub(super) async fn apply_status_unread<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        status: &impl Serialize,
        manager: Manager,
    ) -> Result<(), WriteError> {
        let call = Call::new::<K>(Verb::PatchStatus, namespace, name);
        let api = <K::Scope as Place<K>>::api(self.clients.patient.clone(), namespace);
        let intent =
            status_intent::<K>(namespace, name, status, None).map_err(|why| call.malformed(why))?;
        let params = PatchParams::apply(manager.name()).force();
        let mut request = kube::core::Request::new(api.resource_url())
            .patch_subresource("status", name, &params, &Patch::Apply(&intent))
            .map_err(|error| call.malformed(error.to_string()))?;
        request.extensions_mut().insert("patch_status");
        let client = self.clients.patient.clone();
        self.call(&call, async move {
            client.request::<Value>(request).await.map(drop)
        })
        .await
    }

    async fn patch_status<K: Object>(
        &self,
        call: &Call,
        namespace: &str,
        name: &str,
        status: &impl Serialize,
        manager: Manager,
        resource_version: Option<&str>,
    ) -> Result<K, WriteError> {
        let api = <K::Scope as Place<K>>::api(self.clients.patient.clone(), namespace);
        let intent = status_intent::<K>(namespace, name, status, resource_version)
            .map_err(|why| call.malformed(why))?;
        let params = PatchParams::apply(manager.name()).force();
        let patch = Patch::Apply(&intent);
        self.call(call, api.patch_status(name, &params, &patch))
            .await
    }

    /// Deletes an object, in the background; one that is gone, or of another uid, is a success.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn delete<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) -> Result<(), WriteError> {
        let call = Call::new::<K>(Verb::Delete, namespace, name);
        let api = <K::Scope as Place<K>>::api(self.clients.patient.clone(), namespace);
        let mut params = DeleteParams::background();
        if let Some(uid) = uid {
            params = params.preconditions(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            });
        }
        match self.call(&call, api.delete(name, &params)).await {
            Ok(answer) => {
                if let (Some(status), Some(uid)) = (answer.right(), uid)
                    && status.is_success()
                {
                    self.caches
                        .deleted(&K::kind(&()), Some(namespace), name, uid);
                }
                Ok(())
            }
            Err(error) if error.is_not_found() || (uid.is_some() && error.is_conflict()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Adds a finalizer, if the object is still the version that was read. Returns the object as it then is.
    ///
    /// # Errors
    /// See [`WriteError`]; [`WriteError::is_conflict`] and [`WriteError::is_invalid`] mean that it changed: read it again.
    pub async fn add_finalizer<K: Object>(
        &self,
        object: &K,
        finalizer: &str,
    ) -> Result<K, WriteError> {
        let present = object.meta().finalizers.clone().unwrap_or_default();
        if present.iter().any(|one| one == finalizer) {
            return Ok(object.clone());
        }
        let mut wanted = present;
        wanted.push(finalizer.to_owned());
        self.set_finalizers(object, &wanted).await
    }

    /// Removes a finalizer, if the object is still the version that was read; one that is gone is a success.
    ///
    /// # Errors
    /// See [`WriteError`]; [`WriteError::is_conflict`] and [`WriteError::is_invalid`] mean that it changed: read it again.
    pub async fn remove_finalizer<K: Object>(
        &self,
        object: &K,
        finalizer: &str,
    ) -> Result<(), WriteError> {
        let present = object.meta().finalizers.clone().unwrap_or_default();
        if !present.iter().any(|one| one == finalizer) {
            return Ok(());
        }
        let wanted: Vec<String> = present.into_iter().filter(|one| one != finalizer).collect();
        match self.set_finalizers(object, &wanted).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sets the finalizers if uid and resource version are those that were read: a list is replaced whole, so nobody else's may be
    /// lost on the way.
    async fn set_finalizers<K: Object>(
        &self,
        object: &K,
        finalizers: &[String],
    ) -> Result<K, WriteError> {
        let call = Call::of(Verb::Patch, object)?;
        let (namespace, name) = place(object);
        let meta = object.meta();
        let api = <K::Scope as Place<K>>::api(self.clients.patient.clone(), namespace);
        let params = PatchParams {
            field_manager: Some(Manager::Finalizer.name().to_owned()),
            ..PatchParams::default()
        };
        // The API server checks both against what it holds, and answers with a conflict.
        let patch = Patch::Merge(json!({"metadata": {
            "uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": finalizers,
        }}));
        let written: K = self.call(&call, api.patch(name, &params, &patch)).await?;
        if written.meta().deletion_timestamp.is_none() || !finalizers.is_empty() {
            self.caches.wrote(&written);
        }
        Ok(written)
    }

    /// An object as the API server has it now, past the caches.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn get<K: Object>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<K>, WriteError> {
        let call = Call::new::<K>(Verb::Get, namespace, name);
        let api = <K::Scope as Place<K>>::api(self.clients.patient.clone(), namespace);
        self.call(&call, api.get_opt(name)).await
    }

    /// Every object of a kind as the API server has it now, by pages; managedFields are dropped.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn list_metadata<K: Object>(
        &self,
    ) -> Result<Vec<kube::core::PartialObjectMeta<K>>, WriteError> {
        let call = Call::new::<K>(Verb::List, "", "all");
        let api: Api<K> = Api::all(self.clients.patient.clone());
        let mut params = ListParams::default().limit(500);
        let mut all = Vec::new();
        loop {
            let page = self.call(&call, api.list_metadata(&params)).await?;
            all.extend(page.items.into_iter().map(|mut item| {
                item.metadata.managed_fields = None;
                item
            }));
            match page.metadata.continue_ {
                Some(more) if !more.is_empty() => params = params.continue_token(&more),
                _ => return Ok(all),
            }
        }
    }

    /// Makes a call: gate, witness, deadline, count.
    pub(super) async fn call<T>(
        &self,
        call: &Call,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, WriteError> {
        let Call {
            verb,
            action,
            object,
        } = call;
        let effect = verb.changes().then(|| Effect::new(action, object));
        if let Some(effect) = &effect {
            if !*self.leading.borrow() {
                return Err(WriteError::NotLeader {
                    action,
                    object: object.clone(),
                });
            }
            self.witness.before(effect).await;
        }
        let begun = Instant::now();
        let answer = tokio::time::timeout(self.deadline, request).await;
        let (code, result) = match answer {
            Ok(Ok(value)) => (200, Ok(value)),
            Ok(Err(kube::Error::Api(status))) => (
                status.code,
                Err(WriteError::Refused {
                    action,
                    object: object.clone(),
                    status,
                }),
            ),
            Ok(Err(source)) => (
                0,
                Err(WriteError::Transport {
                    action,
                    object: object.clone(),
                    source: Box::new(source),
                }),
            ),
            Err(_) => (
                0,
                Err(WriteError::Timeout {
                    action,
                    object: object.clone(),
                    after: self.deadline,
                }),
            ),
        };
        self.metrics
            .api_request(verb.method(), code, begun.elapsed());
        if let Some(effect) = &effect {
            self.witness.after(effect, result.is_ok()).await;
        }
        result
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
