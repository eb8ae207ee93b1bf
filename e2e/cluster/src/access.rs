//! Identities: certificates, tokens and kubeconfigs for whoever talks to the API server.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{error::Error, pki::Pair};

/// The harness's own requests, which the audit log leaves out.
pub(crate) const HARNESS: &str = "halo-harness";
/// The controller manager.
pub(crate) const CONTROLLERS: &str = "system:kube-controller-manager";
/// The scheduler.
pub(crate) const SCHEDULER: &str = "system:kube-scheduler";
/// The fake nodes.
pub(crate) const NODES: &str = "halo-fake-nodes";
/// Who a test is if it does not say otherwise.
pub(crate) const ADMIN: &str = "admin";
/// May do everything.
pub(crate) const MASTERS: &str = "system:masters";

/// What a client proves its identity with.
pub(crate) enum Proof {
    Certificate(Pair),
    Token(String),
}

/// A kubeconfig that holds all it needs, as JSON, which is YAML.
pub(crate) fn kubeconfig(server: &str, authority: &str, proof: &Proof) -> Value {
    let user = match proof {
        Proof::Certificate(pair) => json!({
            "client-certificate-data": BASE64.encode(&pair.certificate),
            "client-key-data": BASE64.encode(&pair.key),
        }),
        Proof::Token(token) => json!({ "token": token }),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {
            "server": server, "certificate-authority-data": BASE64.encode(authority),
        }}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    })
}

/// Writes a kubeconfig file.
pub(crate) fn write(path: &Path, kubeconfig: &Value) -> Result<(), Error> {
    fs::write(path, kubeconfig.to_string()).map_err(Error::io(format!("write {}", path.display())))
}

/// The client configuration. Requests that fail are not repeated behind the test's back.
pub(crate) async fn config(kubeconfig: &Value) -> Result<Config, Error> {
    let kubeconfig = Kubeconfig::from_yaml(&kubeconfig.to_string())?;
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(config)
}

/// A client that belongs to the current tokio runtime.
pub(crate) async fn client(kubeconfig: &Value) -> Result<Client, Error> {
    Ok(Client::try_from(config(kubeconfig).await?)?)
}
