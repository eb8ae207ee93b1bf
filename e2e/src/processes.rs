//! The programs under the demo: started from the folder of this one, watched through the JSON lines on their standard
//! output, and ended when the handle is dropped.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long a program may take to stop after SIGTERM before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Why a step of the demo did not hold.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program is not where it should be.
    #[error("{0} is missing; build it with `cargo build --bins` in the profile of this program")]
    Missing(PathBuf),
    /// It could not be started or read.
    #[error("{program}: {error}")]
    Io {
        /// The program.
        program: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// It ended before it said what was waited for.
    #[error("{program} ended ({status}) before it reported '{event}'; its log is {log}")]
    Ended {
        /// The program.
        program: String,
        /// Its exit status.
        status: ExitStatus,
        /// What was waited for.
        event: String,
        /// Where its standard error went.
        log: PathBuf,
    },
    /// It ended badly.
    #[error("{program} ended ({status}): {message}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status.
        status: ExitStatus,
        /// The last line of its log.
        message: String,
    },
    /// It said nothing for too long.
    #[error("{program} did not report '{event}' within {seconds} s; its log is {log}")]
    Late {
        /// The program.
        program: String,
        /// What was waited for.
        event: String,
        /// How long it was waited for.
        seconds: u64,
        /// Where its standard error went.
        log: PathBuf,
    },
    /// It reported an error instead.
    #[error("{program} reported: {message}")]
    Reported {
        /// The program.
        program: String,
        /// What it said.
        message: String,
    },
}

/// Where the programs are and where their logs go.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The folder of the programs.
    pub folder: PathBuf,
    /// The folder of the logs.
    pub logs: PathBuf,
}

impl Programs {
    fn command(&self, program: &str) -> Result<Command, ProcessError> {
        let path = self.folder.join(program);
        if !path.is_file() {
            return Err(ProcessError::Missing(path));
        }
        let mut command = Command::new(path);
        command.stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    /// Starts a program that goes on running; its standard error goes to `logs/LABEL.log`.
    pub fn start<A: AsRef<OsStr>>(
        &self,
        program: &str,
        label: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Running, ProcessError> {
        let io = |error| ProcessError::Io {
            program: label.to_owned(),
            error,
        };
        let log = self.logs.join(format!("{label}.log"));
        let errors = File::create(&log).map_err(io)?;
        let mut child = self
            .command(program)?
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(io)?;
        let stdout = child.stdout.take().ok_or_else(|| {
            io(std::io::Error::other(
                "the standard output could not be read",
            ))
        })?;
        // Read at once: a program whose output nobody reads stops when the pipe is full.
        let (sender, lines) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Running {
            label: label.to_owned(),
            log,
            child,
            lines,
        })
    }

    /// Runs a program to its end and returns what it printed.
    pub async fn run<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Output, ProcessError> {
        let output = self.command(program)?.args(arguments).output().await;
        output.map_err(|error| ProcessError::Io {
            program: program.to_owned(),
            error,
        })
    }
}

/// A program under way.
pub struct Running {
    label: String,
    log: PathBuf,
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Running {
    /// The next JSON line; `None` at the end of the output. Lines that are no JSON objects are passed over.
    async fn next(&mut self) -> Option<Value> {
        loop {
            let line = self.lines.recv().await?;
            match serde_json::from_str::<Value>(&line) {
                Ok(value) if value.is_object() => return Some(value),
                _ => {}
            }
        }
    }

    /// Waits until the program ends badly; never returns while it runs, or once it has ended well.
    pub async fn failed(&mut self) -> ProcessError {
        match self.child.wait().await {
            Ok(status) if status.success() => std::future::pending().await,
            Ok(status) => ProcessError::Failed {
                program: self.label.clone(),
                status,
                message: last_line(&self.log),
            },
            Err(error) => ProcessError::Io {
                program: self.label.clone(),
                error,
            },
        }
    }

    /// Waits until the program reports `event`, and shows every event on the way to `see`. An `error` event, the end of
    /// the program and a silence longer than `limit` end the wait.
    pub async fn wait_for(
        &mut self,
        event: &str,
        limit: Duration,
        mut see: impl FnMut(&Value),
    ) -> Result<Value, ProcessError> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let next = tokio::time::timeout_at(deadline, self.next()).await;
            let Ok(next) = next else {
                return Err(ProcessError::Late {
                    program: self.label.clone(),
                    event: event.to_owned(),
                    seconds: limit.as_secs(),
                    log: self.log.clone(),
                });
            };
            let Some(value) = next else {
                let status = self.wait().await?;
                return Err(ProcessError::Ended {
                    program: self.label.clone(),
                    status,
                    event: event.to_owned(),
                    log: self.log.clone(),
                });
            };
            see(&value);
            match value["event"].as_str() {
                Some(name) if name == event => return Ok(value),
                Some("error") => {
                    return Err(ProcessError::Reported {
                        program: self.label.clone(),
                        message: value["message"].as_str().unwrap_or("an error").to_owned(),
                    });
                }
                _ => {}
            }
        }
    }

    /// Waits for the program's end.
    pub async fn wait(&mut self) -> Result<ExitStatus, ProcessError> {
        self.child.wait().await.map_err(|error| ProcessError::Io {
            program: self.label.clone(),
            error,
        })
    }

    /// Asks the program to end, and kills it if it does not within ten seconds.
    pub async fn stop(mut self) -> Result<(), ProcessError> {
        if let Some(id) = self.child.id() {
            // The standard library can only kill; `kill` is a program on every system this runs on.
            let asked = Command::new("kill")
                .args(["-TERM", &id.to_string()])
                .status();
            if asked.await.is_ok() && timeout(STOP_LIMIT, self.child.wait()).await.is_ok() {
                return Ok(());
            }
        }
        self.child.kill().await.map_err(|error| ProcessError::Io {
            program: self.label.clone(),
            error,
        })
    }
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or("its log is empty").to_owned()
}

/// However the demo ends, nothing that it started goes on: the program is killed, and is gone on return.
impl Drop for Running {
    fn drop(&mut self) {
        if self.child.start_kill().is_err() {
            return;
        }
        // A killed process ends at once; the bound is for one that the system holds in a call.
        let deadline = std::time::Instant::now() + STOP_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
