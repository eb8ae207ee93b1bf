//! `halo-operator` as a process of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::page;
use super::world::{CLUSTER, World};

/// How long an operator may take to be ready, or to lead.
const DEADLINE: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// A running operator. It is killed when this is dropped.
pub struct Operator {
    child: Child,
    pid: u32,
    /// Its user at the API server, which no other process has.
    pub user: String,
    http: SocketAddr,
    log: PathBuf,
}

impl Operator {
    /// Starts one and waits until its caches are full.
    ///
    /// # Errors
    /// It does not start, or ends; the error has the end of its log.
    pub async fn start(world: &World, number: usize) -> Result<Self> {
        let user = format!("bench-operator-{number}");
        let kubeconfig = world.operator_kubeconfig(&user).await?;
        let log = world.folder().join(format!("operator-{number}.log"));
        let output = File::create(&log).context("cannot create the operator's log")?;
        let url = world.emulator.url();
        let mut child = Command::new(&world.options.operator)
            .args(["--log-format", "json", "run", "--cluster", CLUSTER])
            .args([
                "--region",
                "us-east-2",
                "--substrate-image",
                "halo/substrate:bench",
            ])
            .args(["--ec2-endpoint", &url, "--ssm-endpoint", &url])
            .args(["--cluster-endpoint", &world.plane.url()])
            .args([
                "--cluster-ca",
                "Y2VydGlmaWNhdGU=",
                "--service-cidr",
                "10.96.0.0/16",
            ])
            .args(["--price", "r7iz.4xlarge=1.488,r8i.8xlarge=2.223"])
            .args(["--launch-burst", "1000", "--launch-rate", "500"])
            .args(["--http", "127.0.0.1:0", "--identity", &user])
            .args(&world.options.operator_flags)
            .env("KUBECONFIG", kubeconfig)
            .env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", world.options.operator.display()))?;
        let pid = child.id().context("the operator ended at once")?;
        let http = address(&mut child, &log).await?;
        let mut operator = Self {
            child,
            pid,
            user,
            http,
            log,
        };
        operator.ready().await?;
        Ok(operator)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its figures.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn figures(&self) -> Result<String> {
        page::get(self.http, "/metrics").await
    }

    /// Waits until it leads.
    ///
    /// # Errors
    /// It does not in time, or ends.
    pub async fn leads(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            let figures = self.figures().await?;
            if page::sum(&figures, "leader_election_master_status", &[]) > 0.0 {
                return Ok(());
            }
            self.still(started, "does not lead").await?;
        }
    }

    /// Ends it with SIGKILL: nothing is finished and nothing is given back.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("cannot kill the operator")
    }

    async fn ready(&mut self) -> Result<()> {
        let started = Instant::now();
        while page::get(self.http, "/readyz").await.is_err() {
            self.still(started, "is not ready").await?;
        }
        Ok(())
    }

    /// A pause, unless the operator has ended or the time is over.
    async fn still(&mut self, started: Instant, what: &str) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the operator ended ({status}):\n{}", tail(&self.log));
        }
        if started.elapsed() > DEADLINE {
            bail!(
                "the operator {what} after {DEADLINE:?}:\n{}",
                tail(&self.log)
            );
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}

/// Where it serves its pages, which it says in its log.
async fn address(child: &mut Child, log: &Path) -> Result<SocketAddr> {
    let started = Instant::now();
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        if let Some(address) = text.lines().find_map(said_address) {
            return Ok(address);
        }
        if let Some(status) = child.try_wait()? {
            bail!("the operator ended at its start ({status}):\n{}", tail(log));
        }
        if started.elapsed() > DEADLINE {
            bail!("the operator did not start:\n{}", tail(log));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn said_address(line: &str) -> Option<SocketAddr> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    line["fields"]["http"].as_str()?.parse().ok()
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_the_address() {
        let line = r#"{"level":"INFO","fields":{"message":"started","http":"127.0.0.1:4711"},"target":"x"}"#;
        assert_eq!(said_address(line), Some(([127, 0, 0, 1], 4711).into()));
        assert_eq!(said_address("error: x"), None);
        assert_eq!(said_address(r#"{"fields":{"message":"started"}}"#), None);
    }
}
