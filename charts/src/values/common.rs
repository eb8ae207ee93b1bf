//! Values that both components share, and small types.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An object of Kubernetes that is passed on as it is; the API server checks it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Free(pub Map<String, Value>);

/// A number, or a percentage such as `25%`. Empty: not set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Count {
    /// So many.
    Number(u32),
    /// So many of a hundred, or nothing.
    Text(#[schemars(regex(pattern = r"^([0-9]+%)?$"))] String),
}

impl Default for Count {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

/// A quantity of Kubernetes, such as `100m` or `256Mi`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Amount {
    /// A number without a unit.
    Number(f64),
    /// A number with a unit.
    Text(String),
}

/// What holds for every image and object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Global {
    /// The registry of every image, such as `registry.example.com/mirror`, for clusters that reach one registry only. It takes the place of
    /// each image's own `registry`.
    pub image_registry: String,
    /// Names of Secrets with credentials for the registry. Those of the substrates' images must also be in each tenant's namespace.
    pub image_pull_secrets: Vec<String>,
    /// Labels of every object and pod.
    pub labels: BTreeMap<String, String>,
    /// Annotations of every object.
    pub annotations: BTreeMap<String, String>,
}

/// When a node pulls an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// At each start of a container, if the registry has another one.
    Always,
    /// If the node does not have it.
    #[default]
    IfNotPresent,
    /// Never: the node must have it.
    Never,
}

/// Which image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Image {
    /// The registry, such as `registry.example.com`. Empty: what the nodes' runtime takes by itself.
    pub registry: String,
    /// The name in the registry.
    pub repository: String,
    /// The tag. Empty: the chart's appVersion.
    pub tag: String,
    /// The digest, `sha256:` and 64 hexadecimal digits. It wins over the tag.
    pub digest: String,
    /// When nodes pull it.
    pub pull_policy: PullPolicy,
}

impl Image {
    /// The image of this name, at the chart's version.
    pub fn named(repository: &str) -> Self {
        Self {
            registry: String::new(),
            repository: repository.to_owned(),
            tag: String::new(),
            digest: String::new(),
            pull_policy: PullPolicy::IfNotPresent,
        }
    }
}

impl Default for Image {
    fn default() -> Self {
        Self::named("")
    }
}

/// Network policies of operator and gateway: nothing in or out but what is listed. Tenants' own policies are the operator's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NetworkPolicies {
    /// Whether there are policies.
    pub enabled: bool,
    /// Networks that devices connect from.
    #[serde(rename = "deviceCIDRs")]
    pub device_cidrs: Vec<String>,
    /// Networks that the API server answers in, on ports 443 and 6443.
    #[serde(rename = "apiServerCIDRs")]
    pub api_server_cidrs: Vec<String>,
    /// Networks that the AWS endpoints answer in, on port 443. In an isolated VPC: those of the interface endpoints' subnets, and the
    /// prefix list of a gateway endpoint for DynamoDB.
    #[serde(rename = "awsCIDRs")]
    pub aws_cidrs: Vec<String>,
    /// Further ingress rules of the gateway, as Kubernetes writes them.
    pub extra_gateway_ingress: Vec<Free>,
    /// Further egress rules of the gateway, as Kubernetes writes them.
    pub extra_gateway_egress: Vec<Free>,
    /// Further egress rules of the operator, as Kubernetes writes them.
    pub extra_operator_egress: Vec<Free>,
}

impl Default for NetworkPolicies {
    fn default() -> Self {
        let anywhere = || vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
        Self {
            enabled: true,
            device_cidrs: anywhere(),
            api_server_cidrs: anywhere(),
            aws_cidrs: anywhere(),
            extra_gateway_ingress: Vec::new(),
            extra_gateway_egress: Vec::new(),
            extra_operator_egress: Vec::new(),
        }
    }
}

/// `helm test`: opens a session through the gateway and verifies its receipts in the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tests {
    /// The id of the tenant that the test's device belongs to. Empty: there is no test.
    pub tenant: String,
    /// The image of the command `halo`.
    pub image: Image,
    /// The gateway's URL, which its certificate must name. Empty: its Service inside the cluster.
    pub gateway: String,
    /// Where the certificate is that signed the gateway's.
    pub ca: CaKey,
    /// What is asked, which wakes the tenant's substrate. Empty: a session is opened and recorded, and nothing wakes.
    pub question: String,
    /// How long all of it may take, a wake included.
    pub timeout: String,
    /// The service account of the test's pod, which must be able to read the ledger. Empty: the gateway's.
    pub service_account_name: String,
    /// Further environment variables of the test's pod, as Kubernetes writes them.
    pub extra_env: Vec<k8s_openapi::api::core::v1::EnvVar>,
    /// Further flags of `halo session-test`.
    pub extra_args: Vec<String>,
}

impl Default for Tests {
    fn default() -> Self {
        Self {
            tenant: String::new(),
            image: Image::named("halo/cli"),
            gateway: String::new(),
            ca: CaKey::default(),
            question: String::new(),
            timeout: "15m".to_owned(),
            service_account_name: String::new(),
            extra_env: Vec::new(),
            extra_args: Vec::new(),
        }
    }
}

/// Where the certificate is that signed the gateway's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CaKey {
    /// The Secret. Empty: the gateway's own.
    pub secret_name: String,
    /// The key in it: `ca.crt` as cert-manager writes it, `tls.crt` if the certificate signs itself. Empty: the roots that everybody
    /// trusts.
    pub key: String,
}

impl Default for CaKey {
    fn default() -> Self {
        Self {
            secret_name: String::new(),
            key: "ca.crt".to_owned(),
        }
    }
}
