//! The charts, installed with helm as a person would.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use halo_e2e_cluster::real::RealCluster;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::aws::CREDENTIALS;

/// The release's namespace.
pub const NAMESPACE: &str = "halo-system";

/// The ledger's table.
pub const TABLE: &str = "howdify-receipts";

/// The Secret with the gateway's certificate.
const TLS: &str = "halo-gateway-tls";

/// How long a rollout may take.
const ROLLOUT: &str = "180s";

/// Helm, with the cluster's kubeconfig.
pub struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Helm {
    /// The helm at `program`.
    pub fn new(program: PathBuf, cluster: &RealCluster, home: PathBuf) -> Self {
        Self {
            program,
            kubeconfig: cluster.plane().kubeconfig_path(),
            home,
        }
    }

    /// Runs it and returns what it printed.
    ///
    /// # Errors
    /// It fails.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.program)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            // No settings of the user's own.
            .env("HELM_CACHE_HOME", &self.home)
            .env("HELM_CONFIG_HOME", &self.home)
            .env("HELM_DATA_HOME", &self.home)
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("{} does not start", self.program.display()))?;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let err = String::from_utf8_lossy(&output.stderr);
            bail!("helm {}: {}{}", arguments.join(" "), err.trim(), out.trim());
        }
        Ok(out)
    }
}

/// Where everything outside the cluster is.
#[derive(Debug, Clone)]
pub struct Outside {
    /// EC2 and SSM.
    pub aws: String,
    /// DynamoDB.
    pub dynamodb: String,
}

/// The values of a release for this machine.
pub fn values(cluster: &RealCluster, outside: &Outside, tag: &str, test_tenant: &str) -> Value {
    let image = |name: &str| json!({"registry": "", "repository": format!("halo/{name}"), "tag": tag, "pullPolicy": "Never"});
    let credentials: Vec<Value> = CREDENTIALS
        .iter()
        .filter(|(name, _)| *name != "AWS_REGION")
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    let substrate_env: serde_json::Map<String, Value> = CREDENTIALS
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    // Two cores for all of it.
    let small =
        json!({"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}});
    json!({
        "aws": {
            "region": "us-east-2",
            "cluster": {
                "name": "e2e",
                "endpoint": cluster.endpoint(),
                "certificateAuthority": BASE64.encode(cluster.authority()),
                "serviceCIDR": "10.96.0.0/16",
            },
            "endpoints": {"ec2": outside.aws, "ssm": outside.aws, "dynamodb": outside.dynamodb},
            "ledger": {"table": TABLE},
        },
        "operator": {
            "image": image("operator"),
            "resources": small,
            "extraEnv": credentials,
            "prices": {"r7iz.4xlarge": 1.488, "r8i.8xlarge": 2.223},
            "substrate": {"image": image("substrate-demo"), "env": substrate_env},
        },
        "gateway": {
            "image": image("gateway"),
            "resources": small,
            "extraEnv": credentials,
            "tls": {"secretName": TLS},
            // What waits for other machines to learn of a change need not wait long here.
            "minReadySeconds": 1,
            "preStopSeconds": 2,
            "config": {"cluster": {"keys_settle_ms": 15_000}},
        },
        "tests": {
            "tenant": test_tenant,
            "image": image("cli"),
            "extraEnv": credentials,
        },
        "monitoring": {"namespaces": ["monitoring"]},
    })
}

/// Makes the certificate for the gateway, its Secret, and the file with the authority that devices trust.
///
/// # Errors
/// The API server refuses the Secret.
pub async fn certificate(client: &Client, ca: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = params.self_signed(&key)?;
    fs::write(ca, authority.pem())?;
    let issuer = Issuer::new(params, key);
    let names = ["", ".svc", ".svc.cluster.local"]
        .map(|suffix| format!("halo-gateway.{NAMESPACE}{suffix}"));
    let own = KeyPair::generate()?;
    let certificate = CertificateParams::new(names)?.signed_by(&own, &issuer)?;
    let secret: Secret = serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": TLS, "namespace": NAMESPACE},
        "type": "kubernetes.io/tls",
        "stringData": {
            "tls.crt": format!("{}{}", certificate.pem(), authority.pem()),
            "tls.key": own.serialize_pem(),
            "ca.crt": authority.pem(),
        },
    }))?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    secrets.create(&Default::default(), &secret).await?;
    Ok(())
}

/// Installs both charts of the checkout and waits for their rollout.
///
/// # Errors
/// Helm fails, or a Deployment does not become available.
pub async fn install(
    helm: &Helm,
    cluster: &RealCluster,
    charts: &Path,
    values: &Path,
) -> Result<()> {
    let path = |name: &str| charts.join(name).display().to_string();
    helm.run(&[
        "install",
        "halo-crds",
        &path("halo-crds"),
        "--namespace",
        NAMESPACE,
    ])
    .await?;
    let values = values.display().to_string();
    helm.run(&[
        "install",
        "halo",
        &path("halo"),
        "--namespace",
        NAMESPACE,
        "--values",
        &values,
    ])
    .await?;
    rolled_out(cluster, "halo-operator").await?;
    rolled_out(cluster, "halo-gateway").await
}

/// Waits for a Deployment's rollout.
///
/// # Errors
/// It takes too long; the error says what the pods say.
pub async fn rolled_out(cluster: &RealCluster, deployment: &str) -> Result<()> {
    let name = format!("deployment/{deployment}");
    let timeout = format!("--timeout={ROLLOUT}");
    let arguments = [
        "rollout",
        "status",
        &name,
        "--namespace",
        NAMESPACE,
        &timeout,
    ];
    let output = cluster.plane().kubectl(&arguments).await?;
    if output.status.success() {
        return Ok(());
    }
    let pods = kubectl(cluster, &["describe", "pods", "--namespace", NAMESPACE]).await?;
    let tail: Vec<&str> = pods.lines().rev().take(60).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    bail!(
        "{deployment} did not roll out: {}\n{}",
        String::from_utf8_lossy(&output.stderr).trim(),
        tail.join("\n")
    )
}

/// Runs kubectl and returns what it printed.
///
/// # Errors
/// It fails.
pub async fn kubectl(cluster: &RealCluster, arguments: &[&str]) -> Result<String> {
    kubectl_with(cluster, arguments, "").await
}

/// The same with input.
///
/// # Errors
/// It fails.
pub async fn kubectl_with(
    cluster: &RealCluster,
    arguments: &[&str],
    input: &str,
) -> Result<String> {
    let limit = Duration::from_secs(300);
    let run = cluster.plane().kubectl_with(arguments, input);
    let output = tokio::time::timeout(limit, run)
        .await
        .with_context(|| format!("kubectl {} did not end", arguments.join(" ")))??;
    ensure!(
        output.status.success(),
        "kubectl {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
