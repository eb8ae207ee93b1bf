//! Whether a cluster is one that HALO runs on, and whether it does. Pure.

use halo_crds::SCHEMA_REVISION;

use super::outcome::Check;

/// Why something could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRead {
    /// RBAC forbids it.
    Denied(String),
    /// The API server did not answer, or with an error.
    Failed(String),
}

/// What is known of a Deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deployment {
    /// How many pods there should be.
    pub desired: i32,
    /// How many are ready for long enough.
    pub available: i32,
    /// How many are of the newest template.
    pub updated: i32,
    /// Its rollout took too long.
    pub stuck: bool,
}

/// The oldest API server that is supported.
pub const OLDEST: (u32, u32) = (1, 33);

const INSTALL: &str = "docs/install.md#the-charts";
const NEEDED: &str = "docs/install.md#what-you-need";

/// The way to make the definitions, or to make them new.
const DEFINITIONS: &str =
    "helm upgrade --install halo-crds, or: halo crds | kubectl apply --server-side -f -";

/// Whether the API server answers, and is new enough. `version` is its major and minor number as it writes them.
pub fn api(version: &Result<(String, String), NotRead>) -> Vec<Check> {
    let answers = "the API server answers";
    let (major, minor) = match version {
        Ok(version) => version,
        Err(NotRead::Denied(why)) => {
            return vec![Check::ok(answers, format!("with a refusal: {why}"))];
        }
        Err(NotRead::Failed(why)) => {
            return vec![Check::fail(answers, why.clone()).hint(
                "is this the right context, and is it reachable from here?",
                NEEDED,
            )];
        }
    };
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    };
    let says = format!(
        "the API server is of version {}.{} or newer",
        OLDEST.0, OLDEST.1
    );
    let found = format!("{major}.{minor}");
    let new = match (number(major), number(minor)) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => Check::ok(says, found),
        (Some(_), Some(_)) => Check::fail(says, found).hint("upgrade the cluster", NEEDED),
        _ => Check::unknown(says, format!("it calls itself {found:?}")),
    };
    vec![Check::ok(answers, ""), new]
}

/// A definition: its revision's annotation, if the definition is there.
pub fn definition(name: &str, found: &Result<Option<Option<String>>, NotRead>, pre: bool) -> Check {
    let says = format!("{name} is defined, not older than this program");
    let wrong = |detail: String| Check::fail(says.clone(), detail).hint(DEFINITIONS, INSTALL);
    match found {
        Err(NotRead::Denied(why)) => Check::unknown(says, why.clone()).hint(
            "ask as somebody who may get customresourcedefinitions",
            INSTALL,
        ),
        Err(NotRead::Failed(why)) => Check::unknown(says, why.clone()),
        Ok(None) if pre => Check::ok(format!("{name} can be defined"), "it is not there yet"),
        Ok(None) => wrong("it is missing".to_owned()),
        Ok(Some(None)) => wrong("it carries no revision, so somebody else made it".to_owned()),
        Ok(Some(Some(revision))) => match revision.parse::<u32>() {
            Ok(number) if number >= SCHEMA_REVISION => {
                Check::ok(says, format!("revision {number}"))
            }
            _ => wrong(format!(
                "revision {revision}, and this program is of revision {SCHEMA_REVISION}"
            )),
        },
    }
}

/// A Deployment of the chart.
pub fn deployment(
    namespace: &str,
    name: &str,
    found: &Result<Option<Deployment>, NotRead>,
) -> Check {
    let says = format!("{namespace}/{name} is available");
    let look = || format!("kubectl --namespace {namespace} describe deployment {name}");
    let found = match found {
        Err(NotRead::Denied(why)) => {
            return Check::unknown(says, why.clone())
                .hint("ask as somebody who may get deployments", INSTALL);
        }
        Err(NotRead::Failed(why)) => return Check::unknown(says, why.clone()),
        Ok(None) => {
            return Check::fail(says, "there is no such Deployment").hint(
                "install the chart, or name its namespace with --namespace",
                INSTALL,
            );
        }
        Ok(Some(found)) => found,
    };
    let Deployment {
        desired,
        available,
        updated,
        stuck,
    } = *found;
    let counted = format!("{available} of {desired} replicas");
    if desired == 0 {
        Check::warn(says, "it is scaled to 0 replicas").hint("scale it up again", INSTALL)
    } else if available == 0 {
        Check::fail(says, counted).hint(look(), INSTALL)
    } else if stuck || available < desired {
        Check::warn(says, counted).hint(look(), INSTALL)
    } else if updated < desired {
        Check::warn(
            says,
            format!("{updated} of {desired} replicas are of the newest template"),
        )
        .hint("a rollout goes on", "")
    } else {
        Check::ok(says, counted)
    }
}

/// Whether whoever asks may make what the charts make.
pub fn may(verb: &str, what: &str, allowed: &Result<bool, NotRead>) -> Check {
    let says = format!("you may {verb} {what}");
    match allowed {
        Ok(true) => Check::ok(says, ""),
        Ok(false) => Check::fail(says, "RBAC does not allow it").hint(
            "install as somebody who may, such as with the ClusterRole cluster-admin",
            NEEDED,
        ),
        Err(NotRead::Denied(why) | NotRead::Failed(why)) => Check::unknown(says, why.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::outcome::Status;

    fn failed<T>() -> Result<T, NotRead> {
        Err(NotRead::Failed("no answer".to_owned()))
    }

    fn denied<T>() -> Result<T, NotRead> {
        Err(NotRead::Denied("forbidden".to_owned()))
    }

    #[test]
    fn versions() {
        let of = |major: &str, minor: &str| {
            let checks = api(&Ok((major.to_owned(), minor.to_owned())));
            checks.last().unwrap().result
        };
        assert_eq!(of("1", "33"), Status::Ok);
        assert_eq!(of("1", "34+"), Status::Ok);
        assert_eq!(of("2", "0"), Status::Ok);
        assert_eq!(of("1", "32+"), Status::Fail);
        assert_eq!(of("1", "x"), Status::Unknown);
        assert_eq!(api(&failed())[0].result, Status::Fail);
        assert_eq!(api(&denied())[0].result, Status::Ok);
    }

    #[test]
    fn definitions() {
        let revision = |number: u32| Ok(Some(Some(number.to_string())));
        let old = SCHEMA_REVISION - 1;
        for (found, pre, status) in [
            (revision(SCHEMA_REVISION), false, Status::Ok),
            (revision(SCHEMA_REVISION + 1), false, Status::Ok),
            (revision(old), false, Status::Fail),
            (revision(old), true, Status::Fail),
            (Ok(Some(None)), false, Status::Fail),
            (Ok(Some(Some("new".to_owned()))), false, Status::Fail),
            (Ok(None), false, Status::Fail),
            (Ok(None), true, Status::Ok),
            (denied(), false, Status::Unknown),
            (failed(), false, Status::Unknown),
        ] {
            let check = definition("halotenants.halo.howdify.io", &found, pre);
            assert_eq!(check.result, status, "{found:?} {pre}");
            assert_eq!(
                check.hint.contains("halo crds"),
                status == Status::Fail,
                "{found:?}"
            );
        }
    }

    #[test]
    fn deployments() {
        let with = |desired, available, updated, stuck| {
            Ok(Some(Deployment {
                desired,
                available,
                updated,
                stuck,
            }))
        };
        for (found, status, detail) in [
            (with(2, 2, 2, false), Status::Ok, "2 of 2 replicas"),
            (with(2, 1, 2, false), Status::Warn, "1 of 2"),
            (with(2, 2, 1, false), Status::Warn, "newest template"),
            (with(2, 2, 2, true), Status::Warn, "2 of 2"),
            (with(2, 0, 2, false), Status::Fail, "0 of 2"),
            (with(0, 0, 0, false), Status::Warn, "scaled to 0"),
            (Ok(None), Status::Fail, "no such"),
            (denied(), Status::Unknown, "forbidden"),
            (failed(), Status::Unknown, "no answer"),
        ] {
            let check = deployment("halo-system", "halo-gateway", &found);
            assert_eq!(check.result, status, "{found:?}");
            assert!(check.detail.contains(detail), "{found:?}: {}", check.detail);
        }
    }

    #[test]
    fn permissions() {
        assert_eq!(may("create", "namespaces", &Ok(true)).result, Status::Ok);
        assert_eq!(may("create", "namespaces", &Ok(false)).result, Status::Fail);
        assert_eq!(
            may("create", "namespaces", &failed()).result,
            Status::Unknown
        );
    }
}
