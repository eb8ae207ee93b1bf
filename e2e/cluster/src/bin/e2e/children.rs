//! The programs of a run: their JSON lines are read, their logs kept, and they end with their handles.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

/// Where programs are, where they log, and what every one of them finds in its environment.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The folder with them.
    pub folder: PathBuf,
    /// Where what they write on standard error goes.
    pub logs: PathBuf,
    /// Added to their environment.
    pub environment: BTreeMap<String, String>,
}

impl Programs {
    /// A program's path.
    ///
    /// # Errors
    /// It is not there.
    pub fn path(&self, program: &str) -> Result<PathBuf> {
        let path = self.folder.join(program);
        if !path.is_file() {
            bail!(
                "{} is missing; `make e2e` builds it, or: cargo build --workspace --bins",
                path.display()
            );
        }
        Ok(path)
    }

    fn command<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Command> {
        let mut command = Command::new(self.path(program)?);
        command
            .args(arguments)
            .envs(&self.environment)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Ok(command)
    }

    /// Starts a program that goes on; what it logs goes to `LABEL.log`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start<A: AsRef<OsStr>>(
        &self,
        program: &str,
        label: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Running> {
        let log = self.logs.join(format!("{label}.log"));
        let errors = File::options().create(true).append(true).open(&log);
        let mut child = self
            .command(program, arguments)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.with_context(|| log.display().to_string())?)
            .spawn()
            .with_context(|| format!("{program} does not start"))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let input = child.stdin.take();
        // Read at once: a program whose output nobody reads stops when the pipe is full.
        let (sender, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(value @ Value::Object(_)) = serde_json::from_str(&line)
                    && sender.send(value).is_err()
                {
                    return;
                }
            }
        });
        Ok(Running {
            label: label.to_owned(),
            log,
            child,
            input,
            events,
        })
    }

    /// Runs a program to its end and returns its exit code, what it printed and what it logged.
    ///
    /// # Errors
    /// It does not start.
    pub async fn run<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Ended> {
        let output = self.command(program, arguments)?.output().await;
        let output = output.with_context(|| format!("{program} does not start"))?;
        Ok(Ended {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a program to its end and returns what it printed.
    ///
    /// # Errors
    /// It does not start, or does not end well.
    pub async fn output<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let ended = self.run(program, arguments).await?;
        if ended.code != Some(0) {
            bail!(
                "{program} ended with {:?}: {}",
                ended.code,
                ended.err.trim()
            );
        }
        Ok(ended.out)
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it logged.
    pub err: String,
}

/// A program under way. It is killed when this is dropped.
pub struct Running {
    label: String,
    log: PathBuf,
    child: Child,
    input: Option<ChildStdin>,
    events: mpsc::UnboundedReceiver<Value>,
}

impl Running {
    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// It does not read any more.
    pub async fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("no standard input")?;
        let written = input.write_all(format!("{line}\n").as_bytes()).await;
        written.with_context(|| format!("{} does not read {line}", self.label))
    }

    /// Its next event; none once it has ended.
    pub async fn next(&mut self) -> Option<Value> {
        self.events.recv().await
    }

    /// Waits for an event of this name and shows all on the way to `see`.
    ///
    /// # Errors
    /// The program reports an error, ends, or takes longer than `limit`.
    pub async fn wait_for(
        &mut self,
        event: &str,
        limit: Duration,
        mut see: impl FnMut(&Value),
    ) -> Result<Value> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let next = tokio::time::timeout_at(deadline, self.events.recv()).await;
            let Ok(next) = next else {
                bail!(
                    "{} did not report {event} within {limit:?}; {}",
                    self.label,
                    self.tail()
                );
            };
            let Some(value) = next else {
                let status = self.child.wait().await?;
                bail!(
                    "{} ended ({status}) before it reported {event}; {}",
                    self.label,
                    self.tail()
                );
            };
            see(&value);
            match value["event"].as_str() {
                Some(name) if name == event => return Ok(value),
                Some("error") => bail!("{} reported: {value}", self.label),
                _ => {}
            }
        }
    }

    /// Waits until it has ended well.
    ///
    /// # Errors
    /// It ends otherwise, or takes longer than `limit`.
    pub async fn finish(mut self, limit: Duration) -> Result<()> {
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(std::process::ExitStatus::success) => Ok(()),
            Ok(status) => bail!("{} ended ({:?}); {}", self.label, status, self.tail()),
            Err(_) => bail!(
                "{} did not end within {limit:?}; {}",
                self.label,
                self.tail()
            ),
        }
    }

    fn tail(&self) -> String {
        format!("its log, {}, ends: {}", self.log.display(), tail(&self.log))
    }
}

/// The last lines of a file.
pub fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
