//! What an instance is: nothing, a call into this process, or a process group of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::world::{Effect, Started, Stopped};

use super::leftovers;

/// An instance came to `running` or left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceEvent {
    /// It runs.
    Started(Box<Started>),
    /// It stops or ends.
    Stopped(Stopped),
}

/// What an instance is.
#[derive(Clone, Default)]
pub enum Boot {
    /// An entry in a table.
    #[default]
    Nothing,
    /// A program, started anew at each boot in a process group of its own and ended with the instance.
    ///
    /// Its environment has `INSTANCE_ID`, `INSTANCE_TYPE`, `ZONE`, `PRIVATE_IP`, `PRIVATE_DNS_NAME`, `USER_DATA` (a file),
    /// `TAGS` (a JSON object) and `ATTEMPT` (which boot, from 1); it runs in a folder of its own. What it prints goes to
    /// `boot-ATTEMPT.log` there.
    Command {
        /// Program and arguments.
        argv: Vec<OsString>,
        /// Where instances have their folders. It belongs to one emulator at a time: what a killed one left running there is
        /// ended by the next.
        folder: PathBuf,
        /// How long it has between SIGTERM and SIGKILL.
        grace: Duration,
    },
    /// A function of this process. It is called in the order of events, on the emulator's thread: it must not block.
    Call(Arc<dyn Fn(InstanceEvent) + Send + Sync>),
}

impl Boot {
    /// Events go to a channel.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<InstanceEvent>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let call = move |event| {
            // Nobody listens any more.
            let _ = sender.send(event);
        };
        (Self::Call(Arc::new(call)), receiver)
    }
}

impl std::fmt::Debug for Boot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("Nothing"),
            Self::Command { argv, .. } => write!(f, "Command({argv:?})"),
            Self::Call(_) => f.write_str("Call"),
        }
    }
}

/// How everything ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Not yet.
    No,
    /// SIGTERM first.
    Graceful,
    /// SIGKILL.
    Now,
}

/// Carries out effects until their sender is gone or the ending begins; then ends what it started.
pub async fn run(
    boot: Boot,
    mut effects: mpsc::UnboundedReceiver<Effect>,
    mut ending: watch::Receiver<Ending>,
) {
    let mut machines: BTreeMap<String, mpsc::UnboundedSender<Option<Box<Started>>>> =
        BTreeMap::new();
    let mut tasks = JoinSet::new();
    if let Boot::Command { folder, .. } = &boot {
        leftovers::end(folder);
    }
    loop {
        let effect = tokio::select! {
            effect = effects.recv() => effect,
            _ = ending.wait_for(|ending| *ending != Ending::No) => None,
        };
        let Some(effect) = effect else { break };
        match &boot {
            Boot::Nothing => {}
            Boot::Call(call) => call(match effect {
                Effect::Boot(started) => InstanceEvent::Started(started),
                Effect::Halt(stopped) => InstanceEvent::Stopped(stopped),
            }),
            Boot::Command {
                argv,
                folder,
                grace,
            } => {
                let (id, order, last) = match effect {
                    Effect::Boot(started) => (started.instance_id.clone(), Some(started), false),
                    Effect::Halt(stopped) => (stopped.instance_id, None, stopped.terminated),
                };
                let orders = machines.entry(id.clone()).or_insert_with(|| {
                    let (sender, receiver) = mpsc::unbounded_channel();
                    let machine = Machine {
                        argv: argv.clone(),
                        folder: folder.join(&id),
                        grace: *grace,
                        ending: ending.clone(),
                        running: None,
                    };
                    tasks.spawn(machine.run(receiver));
                    sender
                });
                // The machine lives as long as its sender.
                let _ = orders.send(order);
                if last {
                    machines.remove(&id);
                }
            }
        }
        while tasks.try_join_next().is_some() {}
    }
    drop(machines);
    while tasks.join_next().await.is_some() {}
}

/// One instance's process, one boot after another.
struct Machine {
    argv: Vec<OsString>,
    folder: PathBuf,
    grace: Duration,
    ending: watch::Receiver<Ending>,
    running: Option<Group>,
}

impl Machine {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Option<Box<Started>>>) {
        loop {
            let order = match &mut self.running {
                None => orders.recv().await,
                Some(group) => tokio::select! {
                    order = orders.recv() => order,
                    status = group.child.wait() => {
                        tracing::warn!(folder = %self.folder.display(), ?status, "the boot hook ended by itself");
                        // What it left behind goes with it.
                        group.signal(Signal::KILL);
                        self.running = None;
                        leftovers::forget(&self.folder);
                        continue;
                    }
                },
            };
            if let Some(group) = self.running.take() {
                group.end(self.grace, self.ending.clone()).await;
                leftovers::forget(&self.folder);
            }
            match order {
                None => return,
                Some(None) => {}
                Some(Some(started)) => match self.start(&started).await {
                    Ok(group) => self.running = Some(group),
                    Err(error) => {
                        tracing::error!(instance = started.instance_id, %error, "the boot hook did not start");
                    }
                },
            }
        }
    }

    async fn start(&self, started: &Started) -> std::io::Result<Group> {
        tokio::fs::create_dir_all(&self.folder).await?;
        let user_data = self.folder.join("user-data");
        tokio::fs::write(&user_data, &started.user_data).await?;
        let log = self.folder.join(format!("boot-{}.log", started.boot));
        let (out, err) = log_file(&log)?;
        let Some((program, arguments)) = self.argv.split_first() else {
            return Err(std::io::Error::other("the boot hook names no program"));
        };
        let child = Command::new(program)
            .args(arguments)
            .current_dir(&self.folder)
            .env("INSTANCE_ID", &started.instance_id)
            .env("INSTANCE_TYPE", &started.instance_type)
            .env("ZONE", &started.zone)
            .env("PRIVATE_IP", &started.private_ip)
            .env("PRIVATE_DNS_NAME", &started.private_dns_name)
            .env("USER_DATA", &user_data)
            .env("TAGS", serde_json::to_string(&started.tags)?)
            .env("ATTEMPT", started.boot.to_string())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| std::io::Error::other("the boot hook has no process id"))?;
        let group = Group { child, pid };
        leftovers::note(&self.folder, pid)?;
        tracing::info!(
            instance = started.instance_id,
            boot = started.boot,
            pid = pid.as_raw_nonzero(),
            "booted"
        );
        Ok(group)
    }
}

fn log_file(path: &Path) -> std::io::Result<(std::fs::File, std::fs::File)> {
    let file = std::fs::File::create(path)?;
    let twin = file.try_clone()?;
    Ok((file, twin))
}

/// A child and the process group that it leads.
struct Group {
    child: Child,
    pid: Pid,
}

impl Group {
    fn signal(&self, signal: Signal) {
        // A group that is empty already is what was wanted.
        let _ = kill_process_group(self.pid, signal);
    }

    /// SIGTERM, a while, SIGKILL; the whole group, also what a leader that ended in time left behind.
    async fn end(mut self, grace: Duration, mut ending: watch::Receiver<Ending>) {
        self.signal(Signal::TERM);
        tokio::select! {
            _ = self.child.wait() => {}
            () = tokio::time::sleep(grace) => {}
            _ = ending.wait_for(|ending| *ending == Ending::Now) => {}
        }
        self.signal(Signal::KILL);
        let _ = self.child.wait().await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
