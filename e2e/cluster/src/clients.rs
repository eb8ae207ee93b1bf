//! Talking to a control plane: clients, kubeconfigs, kubectl, and the record of who asked for what.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use http::{HeaderValue, header::USER_AGENT};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, Client, Config, api::PostParams};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::{
    access::{self, Proof},
    audit::{self, Mark, Request},
    control_plane::ControlPlane,
    error::Error,
    metrics::{self, RequestKind},
};

impl ControlPlane {
    /// The kubeconfig file of an administrator.
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// The configuration of an administrator's client. Like all of them it repeats no failed request (`default_retry` is off).
    ///
    /// # Errors
    /// The certificate could not be made.
    pub async fn config(&self) -> Result<Config, Error> {
        self.config_as(access::ADMIN, &[access::MASTERS]).await
    }

    /// An administrator's client for the current tokio runtime.
    ///
    /// # Errors
    /// The certificate could not be made.
    pub async fn client(&self) -> Result<Client, Error> {
        Ok(Client::try_from(self.config().await?)?)
    }

    /// An administrator's client with this User-Agent, so that [`Self::requests_by`] can tell its requests from others.
    ///
    /// # Errors
    /// The certificate could not be made, or the name is no header value.
    pub async fn client_named(&self, user_agent: &str) -> Result<Client, Error> {
        let mut config = self.config().await?;
        let value = HeaderValue::from_str(user_agent)
            .map_err(|error| Error::Kube(kube::Error::HttpError(error.into())))?;
        config.headers.push((USER_AGENT, value));
        Ok(Client::try_from(config)?)
    }

    /// The configuration of a client that is this user, by a client certificate. RBAC decides what it may do. At most two groups.
    ///
    /// # Errors
    /// The certificate could not be made.
    pub async fn config_as(&self, user: &str, groups: &[&str]) -> Result<Config, Error> {
        access::config(&self.kubeconfig(user, groups)?).await
    }

    /// A client that is this user, for the current tokio runtime. At most two groups.
    ///
    /// # Errors
    /// The certificate could not be made.
    pub async fn client_as(&self, user: &str, groups: &[&str]) -> Result<Client, Error> {
        Ok(Client::try_from(self.config_as(user, groups).await?)?)
    }

    /// A kubeconfig file for this user, for programs that take one. At most two groups.
    ///
    /// # Errors
    /// The certificate or the file could not be made.
    pub fn kubeconfig_as(&self, user: &str, groups: &[&str]) -> Result<PathBuf, Error> {
        self.write_kubeconfig(&self.kubeconfig(user, groups)?)
    }

    /// The configuration of a client that is this service account, by a token of one hour from the API server. The account must exist.
    ///
    /// # Errors
    /// The account does not exist, or the API server does not answer.
    pub async fn service_account_config(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Config, Error> {
        access::config(&self.service_account(namespace, name).await?).await
    }

    /// A client that is this service account, for the current tokio runtime. The account must exist.
    ///
    /// # Errors
    /// The account does not exist, or the API server does not answer.
    pub async fn service_account_client(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Client, Error> {
        Ok(Client::try_from(
            self.service_account_config(namespace, name).await?,
        )?)
    }

    /// A kubeconfig file for this service account, for programs that take one. The account must exist.
    ///
    /// # Errors
    /// The account does not exist, the API server does not answer, or the file could not be written.
    pub async fn service_account_kubeconfig(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<PathBuf, Error> {
        self.write_kubeconfig(&self.service_account(namespace, name).await?)
    }

    /// Runs kubectl as the administrator.
    ///
    /// # Errors
    /// It could not be started; how it ended is in the output.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<Output, Error> {
        self.kubectl_with(arguments, "").await
    }

    /// Runs kubectl as the administrator, with this text as its input: `kubectl_with(&["apply", "-f", "-"], yaml)`.
    ///
    /// # Errors
    /// It could not be started; how it ended is in the output.
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<Output, Error> {
        let mut kubectl = tokio::process::Command::new(self.assets().program("kubectl")?)
            .arg("--kubeconfig")
            .arg(self.kubeconfig_path())
            .arg("--cache-dir")
            .arg(self.folder.join("kubectl"))
            .args(arguments)
            // No settings of the user's own.
            .env("KUBERC", "off")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::io("start kubectl"))?;
        if let Some(mut pipe) = kubectl.stdin.take() {
            // A kubectl that does not read its input closes it; its own message says more than this error would.
            let _ = pipe.write_all(input.as_bytes()).await;
        }
        kubectl
            .wait_with_output()
            .await
            .map_err(Error::io("wait for kubectl"))
    }

    /// The API server's own counts since it started, `apiserver_request_total`. It has no label for who asked:
    /// for that, see [`Self::requests_by`].
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn request_counts(&self) -> Result<BTreeMap<RequestKind, u64>, Error> {
        let request = http::Request::get("/metrics")
            .body(Vec::new())
            .map_err(|error| Error::Kube(kube::Error::HttpError(error)))?;
        let page = self.harness().await?.request_text(request).await?;
        Ok(metrics::request_counts(&page))
    }

    /// This moment, for [`Self::requests_since`].
    ///
    /// # Errors
    /// [`Error::NoAudit`].
    pub fn mark(&self) -> Result<Mark, Error> {
        Ok(audit::mark(&self.audit_log()?))
    }

    /// Every request that was received since `mark`, in order, but those of the harness, the fake nodes, the controllers and the
    /// scheduler. A request is in the list before its client has the answer.
    ///
    /// # Errors
    /// [`Error::NoAudit`], or the log cannot be read.
    pub fn requests_since(&self, mark: Mark) -> Result<Vec<Request>, Error> {
        audit::read(&self.audit_log()?, mark)
    }

    /// Every request whose User-Agent begins with `user_agent`.
    ///
    /// # Errors
    /// [`Error::NoAudit`], or the log cannot be read.
    pub fn requests_by(&self, user_agent: &str) -> Result<Vec<Request>, Error> {
        let mut requests = self.requests_since(Mark(0))?;
        requests.retain(|request| request.user_agent.starts_with(user_agent));
        Ok(requests)
    }

    /// Every request of this user, such as `system:serviceaccount:halo-system:halo-operator`.
    ///
    /// # Errors
    /// [`Error::NoAudit`], or the log cannot be read.
    pub fn requests_of(&self, user: &str) -> Result<Vec<Request>, Error> {
        let mut requests = self.requests_since(Mark(0))?;
        requests.retain(|request| request.user == user);
        Ok(requests)
    }

    async fn service_account(&self, namespace: &str, name: &str) -> Result<Value, Error> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.harness().await?, namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(3600),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await?;
        let token = answer.status.map(|status| status.token).unwrap_or_default();
        let authority = self.authority().certificate();
        Ok(access::kubeconfig(
            &self.url(),
            authority,
            &Proof::Token(token),
        ))
    }

    fn write_kubeconfig(&self, kubeconfig: &Value) -> Result<PathBuf, Error> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path: &Path = &self.folder;
        let path = path.join(format!("user-{number}.kubeconfig"));
        access::write(&path, kubeconfig)?;
        Ok(path)
    }
}
