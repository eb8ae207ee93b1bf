//! What an instance is told by its user data: nodeadm's NodeConfig, as a node of EKS reads it.

use std::{io, path::Path};

/// How a node joins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Join {
    /// URL of the API server.
    pub(super) endpoint: String,
    /// The authority's certificate, PEM in base64.
    pub(super) authority: String,
    /// The kubelet's `--node-labels`.
    pub(super) labels: String,
    /// The kubelet's `--register-with-taints`.
    pub(super) taints: String,
}

impl Join {
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        Self::parse(&text).ok_or_else(|| {
            io::Error::other("the user data holds no NodeConfig that says how to join")
        })
    }

    /// The fields are looked for by name, line by line: the operator writes each on a line of its own, as a JSON string.
    fn parse(text: &str) -> Option<Self> {
        text.contains("kind: NodeConfig").then_some(())?;
        let mut join = Self::default();
        for line in text.lines() {
            let line = line.trim();
            let value = |name: &str| {
                let rest = line.strip_prefix(name)?.strip_prefix(':')?;
                serde_json::from_str::<String>(rest.trim()).ok()
            };
            if let Some(endpoint) = value("apiServerEndpoint") {
                join.endpoint = endpoint;
            } else if let Some(authority) = value("certificateAuthority") {
                join.authority = authority;
            } else if let Some(flag) = line
                .strip_prefix("- ")
                .and_then(|text| serde_json::from_str::<String>(text).ok())
            {
                match flag.split_once('=') {
                    Some(("--node-labels", labels)) => join.labels = labels.to_owned(),
                    Some(("--register-with-taints", taints)) => join.taints = taints.to_owned(),
                    _ => {}
                }
            }
        }
        (!join.endpoint.is_empty() && !join.authority.is_empty()).then_some(join)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_config_is_read() {
        let text = "MIME-Version: 1.0\n\n--HALO\nContent-Type: application/node.eks.aws\n\n\
            apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\nspec:\n  cluster:\n    name: \"c\"\n    \
            apiServerEndpoint: \"https://10.0.0.1:6443\"\n    certificateAuthority: \"YQ==\"\n    cidr: \"10.96.0.0/16\"\n  \
            kubelet:\n    flags:\n      - \"--node-labels=a=b,c=d\"\n      - \"--register-with-taints=x=y:NoSchedule\"\n";
        let join = Join::parse(text).unwrap();
        assert_eq!(join.endpoint, "https://10.0.0.1:6443");
        assert_eq!(join.authority, "YQ==");
        assert_eq!(join.labels, "a=b,c=d");
        assert_eq!(join.taints, "x=y:NoSchedule");
    }

    #[test]
    fn what_does_not_say_how_to_join_is_refused() {
        for text in [
            "",
            "#!/bin/sh\n",
            "kind: NodeConfig\n",
            "apiServerEndpoint: \"x\"\n",
        ] {
            assert_eq!(Join::parse(text), None, "{text:?}");
        }
    }
}
