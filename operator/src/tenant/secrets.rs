//! The Secrets that carry a tenant's keyrings. Pure; the keys in them are wiped when they are dropped.

use std::collections::BTreeMap;

use halo_receipts::keyring::{FILE_NAME, KeyRing, KeyRingError};
use halo_receipts::keys::{KeyCheckValue, RootSecret, TenantKeys as _};
use halo_receipts::time::KeyMonth;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use zeroize::Zeroize as _;

use super::isolation;
use super::validate::Valid;

/// The name of the Secret in a tenant's namespace; its pods mount it.
pub const POD_SECRET: &str = "halo-keys";

/// The label of a Secret that says the current generation of its keys.
pub const GENERATION_LABEL: &str = "halo.howdify.io/root-generation";
/// The label that says the check value of the current root.
pub const CHECK_VALUE_LABEL: &str = "halo.howdify.io/root-check-value";
/// The label that says the check value of the root before.
pub const PREVIOUS_CHECK_VALUE_LABEL: &str = "halo.howdify.io/previous-root-check-value";

/// The name of the Secret in the operator's namespace; gateways read it.
pub fn gateway_secret(tenant_id: &str) -> String {
    format!("{POD_SECRET}-{tenant_id}")
}

/// A Secret with keys. Its data is wiped when it is dropped. It has no `Debug` and no `Clone`.
pub struct KeySecret(Secret);

impl KeySecret {
    /// The object for the API server, keys included.
    pub fn expose(&self) -> &Secret {
        &self.0
    }

    /// Its namespace and name.
    pub fn key(&self) -> (&str, &str) {
        let meta = &self.0.metadata;
        (
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        )
    }
}

impl Drop for KeySecret {
    fn drop(&mut self) {
        for ByteString(value) in self.0.data.iter_mut().flat_map(BTreeMap::values_mut) {
            value.zeroize();
        }
    }
}

/// Both Secrets of a tenant: the pods' without, the gateways' with ENROLL_KEYs. `roots` are the generation before, if it is
/// published, and the current one.
///
/// # Errors
/// More generations than a keyring holds, or none.
pub fn secrets(
    valid: &Valid,
    own_namespace: &str,
    roots: &[(u32, &RootSecret)],
    months: &[KeyMonth],
) -> Result<[KeySecret; 2], KeyRingError> {
    let pods = KeyRing::derive(&valid.id, roots, months, false)?;
    let gateways = KeyRing::derive(&valid.id, roots, months, true)?;
    let gateway_name = gateway_secret(valid.id.as_str());
    Ok([
        secret(valid, &valid.namespace, POD_SECRET.to_owned(), &pods),
        secret(valid, own_namespace, gateway_name, &gateways),
    ])
}

fn secret(valid: &Valid, namespace: &str, name: String, ring: &KeyRing) -> KeySecret {
    let current = ring.root();
    let mut labels = isolation::labels(valid);
    let mut label = |key: &str, value: String| labels.insert(key.to_owned(), value);
    label(GENERATION_LABEL, current.generation.to_string());
    label(CHECK_VALUE_LABEL, current.check_value.to_string());
    let before: Option<(u32, KeyCheckValue)> = ring
        .generations()
        .find(|(generation, _)| *generation != current.generation);
    if let Some((_, check_value)) = before {
        label(PREVIOUS_CHECK_VALUE_LABEL, check_value.to_string());
    }
    let mut document = ring.encode();
    KeySecret(Secret {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(
            FILE_NAME.to_owned(),
            ByteString(std::mem::take(&mut *document)),
        )])),
        immutable: Some(false),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    })
}
