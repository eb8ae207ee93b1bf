//! The account.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The account: region, cluster, endpoints, ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Aws {
    /// The region, such as `us-east-2`. Required.
    pub region: String,
    /// The cluster, as nodes that join it must know it.
    pub cluster: Cluster,
    /// Nothing leaves the VPC: each endpoint must be named or answered by private DNS, and the networks of the endpoints must be told
    /// (`networkPolicy.awsCIDRs`).
    #[serde(rename = "isolatedVPC")]
    pub isolated_vpc: bool,
    /// Where AWS answers, instead of the region's public endpoints.
    pub endpoints: Endpoints,
    /// The DynamoDB table that holds the receipts.
    pub ledger: Ledger,
}

/// The cluster, as nodes that join it must know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cluster {
    /// The name of the EKS cluster, which is also the tag of all that the operator makes in AWS. Required.
    pub name: String,
    /// The URL of the API server for nodes: `aws eks describe-cluster --query cluster.endpoint`. Required for pools of EC2 nodes.
    pub endpoint: String,
    /// The cluster's certificate authority, PEM in base64 on one line: `--query cluster.certificateAuthority.data`. Required for pools of
    /// EC2 nodes.
    pub certificate_authority: String,
    /// The network of Services, such as `10.100.0.0/16`: `--query cluster.kubernetesNetworkConfig.serviceIpv4Cidr`. Required for pools of
    /// EC2 nodes.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: String,
}

/// Where AWS answers, instead of the region's public endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Endpoints {
    /// The VPC endpoints have private DNS names, so that the public names lead to them. An isolated VPC needs this or the URLs.
    #[serde(rename = "privateDNS")]
    pub private_dns: bool,
    /// The URL of EC2.
    pub ec2: String,
    /// The URL of SSM, which holds the root secret.
    pub ssm: String,
    /// The URL of DynamoDB, for gateways and substrates.
    pub dynamodb: String,
    /// The URL of STS, which gives credentials to service accounts (IRSA).
    pub sts: String,
}

/// The DynamoDB table that holds the receipts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ledger {
    /// The table's name. `halo ledger create` makes it. A HaloTenant names the table of its substrates (`spec.ledger`); it must be this
    /// one.
    pub table: String,
    /// The table's region. Empty: `aws.region`.
    pub region: String,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            table: "howdify-receipts".to_owned(),
            region: String::new(),
        }
    }
}
