//! A nest: process, mount and network namespaces of a run's own. When its first process ends, in whatever way, the kernel ends every
//! other one in it and takes all mounts, bridges, addresses and packet filters along. What is left then are cgroups and files, which
//! [`run_in_nest`] removes: its own afterwards, those of a run that was killed at the next start.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    process::Command,
    signal::unix::{SignalKind, signal},
};

use super::cgroups;
use crate::error::Error;

/// Tells the process inside that it is inside: the run's folder, and its logs' folder.
const FOLDER: &str = "HALO_E2E_FOLDER";
const LOGS: &str = "HALO_E2E_LOGS";

/// The file of the folder that holds the id of the first process.
const FIRST: &str = "first-process";

/// How long the inside has to end by itself once it was asked to.
const GRACE: Duration = Duration::from_secs(30);

/// Reaps what is left behind by others, as the first process of a namespace must.
const INIT: &str = r#""$@"; exit "$?""#;

/// The inside of a nest.
#[derive(Debug, Clone)]
pub struct Nest {
    folder: PathBuf,
    logs: PathBuf,
    run: String,
}

impl Nest {
    /// The nest that this process is in, if it is in one.
    pub fn inside() -> Option<Self> {
        let folder = PathBuf::from(env::var_os(FOLDER)?);
        let run = folder.file_name()?.to_str()?.to_owned();
        let logs = PathBuf::from(env::var_os(LOGS)?);
        Some(Self { folder, logs, run })
    }

    /// The run's folder, in memory where that is possible. It ends with the run.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The run's logs. They stay.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// The run's name: the parent of its cgroups.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// The id of the first process of the nest, as the outside sees it: what `nsenter --target` takes.
    pub fn first_process(&self) -> String {
        fs::read_to_string(self.folder.join(FIRST))
            .map_or_else(|_| "?".to_owned(), |id| id.trim().to_owned())
    }

    /// Returns when the outside asks the inside to end.
    pub async fn asked_to_end() {
        // Nothing is ever written there; what counts is the end.
        let mut nothing = [0; 64];
        let mut input = tokio::io::stdin();
        while matches!(input.read(&mut nothing).await, Ok(1..)) {}
    }
}

/// Runs this program again, with the same arguments, in a nest, and waits for it. SIGINT and SIGTERM ask it to end; a second one ends it.
/// Its logs go to `logs`.
///
/// # Errors
/// What failed.
pub async fn run_in_nest(_claim: &Claim, logs: &Path) -> Result<ExitStatus, Error> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("wait for SIGINT"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("wait for SIGTERM"))?;
    let root = root();
    clean_leftovers(&root)?;
    fs::create_dir_all(logs).map_err(Error::io(format!("create {}", logs.display())))?;
    let run = format!("{}{}", cgroups::PREFIX, std::process::id());
    let folder = root.join(&run);
    fs::create_dir(&folder).map_err(Error::io(format!("create {}", folder.display())))?;

    let program = env::current_exe().map_err(Error::io("find this program"))?;
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    // The kernel kills unshare when this process dies, and with unshare, by --kill-child, the namespace's first process.
    let mut inside = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child=KILL"])
        .args(["--mount-proc", "/bin/sh", "-c", INIT, "init"])
        .arg(program)
        .args(arguments)
        .env(FOLDER, &folder)
        .env(LOGS, logs)
        .stdin(Stdio::piped())
        // A signal from the terminal reaches this process alone.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::io("start setpriv and unshare"))?;
    let pipe = inside.stdin.take();
    if let Some(first) = first_child(inside.id()).await {
        let path = folder.join(FIRST);
        fs::write(&path, first).map_err(Error::io(format!("write {}", path.display())))?;
    }
    let mut status = tokio::select! {
        status = inside.wait() => Some(status),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    if status.is_none() {
        drop(pipe);
        status = tokio::select! {
            status = inside.wait() => Some(status),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
            () = tokio::time::sleep(GRACE) => None,
        };
    }
    let status = match status {
        Some(status) => status,
        None => {
            let _ = inside.start_kill();
            inside.wait().await
        }
    };
    let cleaned = remove(&root, &run);
    let status = status.map_err(Error::io("wait for the run"))?;
    cleaned?;
    Ok(status)
}

/// The one child of a process, once there is one.
async fn first_child(parent: Option<u32>) -> Option<String> {
    let parent = parent?;
    let path = format!("/proc/{parent}/task/{parent}/children");
    for _ in 0..100 {
        let children = fs::read_to_string(&path).ok()?;
        if let Some(child) = children.split_whitespace().next() {
            return Some(child.to_owned());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    None
}

fn root() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        memory.to_owned()
    } else {
        env::temp_dir()
    }
}

/// The right to make a nest, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "an open file is what holds the lock")] File);

/// Claims the machine. One nest at a time: its cores are few, and what is left over can be told from what is in use.
///
/// # Errors
/// [`Error::InUse`] if another process holds the claim.
pub fn claim() -> Result<Claim, Error> {
    let path = env::temp_dir().join("halo-e2e.lock");
    let file = File::create(&path).map_err(Error::io(format!("create {}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(Claim(file)),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(path)),
        Err(TryLockError::Error(error)) => {
            Err(Error::io(format!("lock {}", path.display()))(error))
        }
    }
}

/// What runs left that were killed. Nobody else runs, because the claim is held.
fn clean_leftovers(root: &Path) -> Result<(), Error> {
    let mut runs = cgroups::runs().map_err(Error::io("list cgroups"))?;
    let entries = fs::read_dir(root).map_err(Error::io(format!("list {}", root.display())))?;
    for entry in entries {
        let entry = entry.map_err(Error::io(format!("list {}", root.display())))?;
        if let Ok(name) = entry.file_name().into_string()
            && name.starts_with(cgroups::PREFIX)
        {
            runs.push(name);
        }
    }
    runs.iter().try_for_each(|run| remove(root, run))
}

fn remove(root: &Path, run: &str) -> Result<(), Error> {
    cgroups::remove(run).map_err(Error::io(format!("remove the cgroups of {run}")))?;
    let folder = root.join(run);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", folder.display()))(error))
        }
        _ => Ok(()),
    }
}
