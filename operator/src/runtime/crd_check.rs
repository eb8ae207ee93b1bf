//! Whether the cluster knows both kinds as this operator does.

use std::time::Duration;

use halo_crds::{SCHEMA_REVISION, SCHEMA_REVISION_ANNOTATION};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client, ResourceExt as _};

/// What mends it.
pub const COMMAND: &str = "halo-operator crds | kubectl apply --server-side -f -";

/// Why the cluster's definitions do not do.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// There is none, or it is older than this operator.
    #[error(
        "{why}; this operator needs revision {SCHEMA_REVISION} of both kinds: run\n  {COMMAND}"
    )]
    Outdated {
        /// Which, and how old.
        why: String,
    },
    /// It could not be asked.
    #[error("the CustomResourceDefinition {name} cannot be read")]
    Unreadable {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// Nothing answered.
    #[error("the API server did not answer within {0:?}")]
    Timeout(Duration),
}

/// What is wrong with a definition; `None` if nothing is.
fn judge(name: &str, definition: Option<&ObjectMeta>) -> Option<String> {
    let Some(meta) = definition else {
        return Some(format!("the CustomResourceDefinition {name} is missing"));
    };
    let revision = meta
        .annotations
        .as_ref()
        .and_then(|all| all.get(SCHEMA_REVISION_ANNOTATION));
    let Some(revision) = revision else {
        return Some(format!(
            "the CustomResourceDefinition {name} carries no revision"
        ));
    };
    match revision.parse::<u32>() {
        Ok(number) if number >= SCHEMA_REVISION => None,
        _ => Some(format!(
            "the CustomResourceDefinition {name} is of revision {revision}"
        )),
    }
}

/// Checks both definitions.
///
/// # Errors
/// See [`CrdError`].
pub async fn check(client: Client, deadline: Duration) -> Result<(), CrdError> {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    for definition in halo_crds::all() {
        let name = definition.name_any();
        let answer = tokio::time::timeout(deadline, api.get_metadata_opt(&name)).await;
        let found = match answer {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                return Err(CrdError::Unreadable {
                    name,
                    source: Box::new(error),
                });
            }
            Err(_) => return Err(CrdError::Timeout(deadline)),
        };
        if let Some(why) = judge(&name, found.as_ref().map(|found| &found.metadata)) {
            return Err(CrdError::Outdated { why });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_definition_is_refused() {
        let with = |revision: Option<&str>| ObjectMeta {
            annotations: revision.map(|revision| {
                [(SCHEMA_REVISION_ANNOTATION.to_owned(), revision.to_owned())].into()
            }),
            ..ObjectMeta::default()
        };
        let now = SCHEMA_REVISION.to_string();
        let later = (SCHEMA_REVISION + 1).to_string();
        for (revision, fits) in [
            (Some(now.as_str()), true),
            (Some(later.as_str()), true),
            (Some("0"), false),
            (Some("new"), false),
            (None, false),
        ] {
            let wrong = judge("halotenants.halo.howdify.io", Some(&with(revision)));
            assert_eq!(wrong.is_none(), fits, "{revision:?}: {wrong:?}");
        }
        assert!(judge("x", None).unwrap().contains("missing"));
        let error = CrdError::Outdated {
            why: "x".to_owned(),
        };
        assert!(error.to_string().contains(COMMAND));
    }
}
