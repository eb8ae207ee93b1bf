//! Where AWS credentials come from, and whose they are. Pure.

use super::outcome::Check;

/// Where a program in this environment finds its credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A role of the service account, by a token that STS exchanges (IRSA).
    WebIdentity,
    /// The agent on the node (EKS Pod Identity).
    Container,
    /// Keys in the environment.
    Environment,
    /// A profile, or the instance's metadata service.
    Elsewhere,
}

impl Source {
    /// From the environment variables that say so, in the order in which the SDKs look.
    pub fn find(variable: impl Fn(&str) -> Option<String>) -> Self {
        let has = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        if has("AWS_ACCESS_KEY_ID") {
            Self::Environment
        } else if has("AWS_WEB_IDENTITY_TOKEN_FILE") {
            Self::WebIdentity
        } else if has("AWS_CONTAINER_CREDENTIALS_FULL_URI")
            || has("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        {
            Self::Container
        } else {
            Self::Elsewhere
        }
    }

    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::WebIdentity => "a role of the service account (IRSA)",
            Self::Container => "the node's agent (EKS Pod Identity)",
            Self::Environment => "keys in the environment",
            Self::Elsewhere => "a profile or the metadata service",
        }
    }
}

const CREDENTIALS: &str = "docs/aws-vpc.md#credentials";
const METADATA: &str = "docs/aws-vpc.md#the-metadata-service";

/// Whether credentials were found.
pub fn found(source: Source, result: &Result<(), String>) -> Check {
    let says = "AWS credentials are found";
    let why = match result {
        Ok(()) => return Check::ok(says, format!("from {}", source.words())),
        Err(why) => why,
    };
    let hint = match source {
        Source::WebIdentity => {
            "STS must be reachable (see the network above), and the role's trust policy must name the cluster's OIDC provider and this \
             service account"
        }
        Source::Container => {
            "the EKS Pod Identity agent must run on this node, a NetworkPolicy must let 169.254.170.23 port 80 out, and the node must \
             reach the eks-auth endpoint"
        }
        Source::Environment => {
            "AWS_SECRET_ACCESS_KEY, and for keys that expire AWS_SESSION_TOKEN, must be there too"
        }
        Source::Elsewhere => {
            "give the service account a role: the annotation eks.amazonaws.com/role-arn (IRSA) or an EKS Pod Identity association; pods \
             that ran before do not have it, restart them"
        }
    };
    Check::fail(says, why.clone()).hint(hint, CREDENTIALS)
}

/// Whose the credentials are, from the answer of STS.
pub fn whose(arn: &str, account: &str, in_cluster: bool) -> Check {
    let says = "AWS knows who this is";
    let session = arn.rsplit('/').next().unwrap_or_default();
    let check_detail = format!("{arn} in account {account}");
    if in_cluster && arn.contains(":assumed-role/") && session.starts_with("i-") {
        return Check::warn(says, check_detail).hint(
            "these are the credentials of the node: every pod on it can have them. Give the service account a role of its own and set the \
             metadata service's hop limit to 1",
            METADATA,
        );
    }
    Check::ok(says, check_detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::outcome::Status;

    #[test]
    fn sources() {
        let table: &[(&[&str], Source)] = &[
            (&[], Source::Elsewhere),
            (
                &["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"],
                Source::Environment,
            ),
            (
                &[
                    "AWS_WEB_IDENTITY_TOKEN_FILE",
                    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                ],
                Source::WebIdentity,
            ),
            (&["AWS_CONTAINER_CREDENTIALS_FULL_URI"], Source::Container),
            (
                &["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"],
                Source::Container,
            ),
        ];
        for (set, source) in table {
            let found = Source::find(|name| set.contains(&name).then(|| "x".to_owned()));
            assert_eq!(found, *source, "{set:?}");
        }
        assert_eq!(Source::find(|_| Some(String::new())), Source::Elsewhere);
    }

    #[test]
    fn what_a_missing_credential_points_to() {
        for (source, hint) in [
            (Source::WebIdentity, "trust policy"),
            (Source::Container, "eks-auth"),
            (Source::Environment, "AWS_SESSION_TOKEN"),
            (Source::Elsewhere, "eks.amazonaws.com/role-arn"),
        ] {
            let good = found(source, &Ok(()));
            assert_eq!(good.result, Status::Ok);
            assert!(good.detail.contains(source.words()));
            let bad = found(source, &Err("no".to_owned()));
            assert_eq!((bad.result, bad.detail.as_str()), (Status::Fail, "no"));
            assert!(bad.hint.contains(hint), "{}", bad.hint);
        }
    }

    #[test]
    fn the_role_of_a_node_is_not_that_of_a_pod() {
        let node = "arn:aws:sts::111122223333:assumed-role/nodes/i-0123456789abcdef0";
        let role = "arn:aws:sts::111122223333:assumed-role/halo-operator/1234";
        for (arn, in_cluster, status) in [
            (node, true, Status::Warn),
            (node, false, Status::Ok),
            (role, true, Status::Ok),
            ("arn:aws:iam::111122223333:user/i-am", true, Status::Ok),
        ] {
            assert_eq!(
                whose(arn, "111122223333", in_cluster).result,
                status,
                "{arn} {in_cluster}"
            );
        }
    }
}
